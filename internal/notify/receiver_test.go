package notify

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestAMailSaysWhatWhichVMWhyAndTheNextCommand(t *testing.T) {
	p := openPost(t, false, false)
	r := one(t, "smtp://"+p.address+"/?from=understudy@example.org&to=ops@example.org,night@example.org")
	require.NoError(t, r.Send(t.Context(), batch(firing("db1"), firing("db2"))))
	mail := <-p.mails
	for _, want := range []string{
		"Subject: Understudy: db1 is beyond its RPO (and 1 more)", "From: <understudy@example.org>", "Auto-Submitted: auto-generated",
		"vm:    db1", "host:  host-a", "why:   its oldest write that is in no verified point is 42s old, the target is 30s", "try:   understudy status db1",
		"since: 2026-11-25 12:00:00 UTC", "understudy status db2", "understudy agent on host-a",
	} {
		require.Contains(t, strings.ReplaceAll(strings.ReplaceAll(mail, "=\r\n", ""), "\r\n ", " "), want)
	}
	require.Contains(t, p.heard(), "RCPT TO:<night@example.org>")
}

func TestAPasswordIsSentUnderTLSOnly(t *testing.T) {
	const query = "/?from=a@example.org&to=b@example.org"
	bare := openPost(t, false, false)
	require.Error(t, one(t, "smtp://ops:correct-horse@"+bare.address+query).Send(t.Context(), batch(firing("db1"))))
	require.NotContains(t, bare.heard(), "AUTH")
	for _, scheme := range []string{"smtp", "smtps"} {
		p := openPost(t, true, scheme == "smtps")
		require.NoError(t, one(t, scheme+"://ops:correct-horse@"+p.address+query).Send(t.Context(), batch(firing("db1"))))
		<-p.mails
		require.Contains(t, p.heard(), "AUTH PLAIN")
	}
	require.NoError(t, one(t, "smtp://ops:correct-horse@"+bare.address+query+"&tls=none").Send(t.Context(), batch(firing("db1"))), "who asks for it")
	<-bare.mails
}

func TestAWebhookGetsADocumentForMachinesWithATextForPeople(t *testing.T) {
	p := openPage(t, nil)
	end := firing("db1")
	end.State = model.AlarmResolved
	require.NoError(t, one(t, strings.Replace(p.URL, "http://", "http://bearer:tok3n@", 1)+"/hook?x=1").Send(t.Context(), batch(firing("db1"), end)))
	got := p.next(t)
	require.Equal(t, "/hook?x=1", got.path)
	require.Equal(t, "Bearer tok3n", got.header.Get("Authorization"))
	d := got.document(t)
	require.Equal(t, "notification", d.MessageType)
	require.Equal(t, "host-a", d.Host)
	require.Contains(t, d.Text, "understudy status db1")
	require.Len(t, d.Notifications, 2)
	n := d.Notifications[0]
	require.Equal(t, notification{
		State: "firing", Name: "RPOViolated", Key: "agent/rpo/db1", VM: "db1", Host: "host-a", What: "db1 is beyond its RPO", Why: firing("db1").Why,
		Try: "understudy status db1", Since: noon, At: noon,
	}, n)
	require.EqualValues(t, "resolved", d.Notifications[1].State)
}

func TestAPlainWebhookGetsTheTextAlone(t *testing.T) {
	p := openPage(t, nil)
	require.NoError(t, one(t, p.URL+"/topic#text").Send(t.Context(), batch(firing("db1"))))
	got := p.next(t)
	require.Equal(t, "/topic", got.path)
	require.Equal(t, "Understudy: db1 is beyond its RPO", got.header.Get("Title"))
	require.True(t, strings.HasPrefix(got.body, "db1 is beyond its RPO\n"), got.body)
}

func TestARefusalOrARedirectionIsAFailure(t *testing.T) {
	elsewhere := openPage(t, nil)
	for _, answer := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
	} {
		require.Error(t, one(t, openPage(t, answer).URL).Send(t.Context(), batch(firing("db1"))))
	}
	require.Empty(t, elsewhere.got, "a token is not carried elsewhere")
}

// What a guest or a server says stands in one line, and in no header of its own.
func TestForeignWordsMakeNoLinesOfTheirOwn(t *testing.T) {
	p, n := openPost(t, false, false), firing("db1")
	n.What, n.Why = "db1\r\nBcc: victim@example.org", "x\ntry: rm -rf /"
	require.NoError(t, one(t, "smtp://"+p.address+"/?from=a@example.org&to=b@example.org").Send(t.Context(), batch(n)))
	mail := <-p.mails
	require.NotContains(t, mail, "\nBcc:")
	require.NotContains(t, mail, "\ntry: rm")
}

func TestSecretsAreInNoError(t *testing.T) {
	const secret, path = "correct-horse", "T0KEN-in-the-path"
	echo := openPage(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.RequestURI+" "+r.Header.Get("Authorization"), http.StatusForbidden)
	})
	deaf := openPost(t, true, false)
	deaf.refuses = true
	for _, url := range []string{
		"http://127.0.0.1:1/" + path,
		"http://ops:" + secret + "@127.0.0.1:1/" + path,
		strings.Replace(echo.URL, "http://", "http://ops:"+secret+"@", 1) + "/" + path + "?key=" + path,
		strings.Replace(echo.URL, "http://", "http://bearer:"+secret+"@", 1) + "/" + path,
		"smtp://ops:" + secret + "@127.0.0.1:1/?from=a@example.org&to=b@example.org",
		"smtp://ops:" + secret + "@" + deaf.address + "/?from=a@example.org&to=b@example.org",
	} {
		r := one(t, url)
		err := r.Send(t.Context(), batch(firing("db1")))
		require.Error(t, err)
		for _, text := range []string{err.Error(), r.Name()} {
			require.NotContains(t, text, secret)
			require.NotContains(t, text, path)
		}
		t.Log(r.Name(), err)
	}
	for _, url := range []string{
		"ftp://ops:" + secret + "@host/" + path, "smtp://ops:" + secret + "@host/" + path, "http://ops:" + secret + "@ho st/" + path, "http://h/#" + path,
		"smtp://ops:" + secret + "@host:99999/?from=a@example.org&to=b@example.org", "smtp://ops:" + secret + "@host/?from=" + path + "&to=b@example.org",
		"smtp://host/?from=a@example.org&to=b@example.org&tls=" + path, ":" + secret, secret,
	} {
		_, err := Open([]string{url})
		require.Equal(t, model.InvalidArgument, model.KindOf(err), url)
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, err.Error(), path)
	}
}

func TestReceiversAreReadFromAFileThatNotEverybodyMayRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	urls, err := ReadFile(path)
	require.NoError(t, err)
	require.Empty(t, urls)
	require.NoError(t, os.WriteFile(path, []byte("# mail\n\n smtp://h/?from=a@b.c&to=d@e.f \nhttps://h/x\n"), 0o600))
	to, err := Config{URLs: []string{"https://first/"}, File: path}.Receivers()
	require.NoError(t, err)
	require.Len(t, to, 3)
	require.Equal(t, "smtp://h", to[1].Name())
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = ReadFile(path)
	require.ErrorContains(t, err, "chmod 0600")
}

func TestAPasswordOnTheCommandLineIsRefused(t *testing.T) {
	const url = "https://ops:correct-horse@host/"
	for _, args := range [][]string{{"understudy", "agent", "--notify", url}, {"understudy", "agent", "--notify=" + url}} {
		_, err := Config{URLs: []string{url}, Args: args}.Receivers()
		require.ErrorContains(t, err, "--notify-file")
		require.NotContains(t, err.Error(), "correct-horse")
	}
	_, err := Config{URLs: []string{url}, Args: []string{"understudy", "agent"}}.Receivers() // of the environment
	require.NoError(t, err)
}

func FuzzReceiversAreOpenedOrRefused(f *testing.F) {
	for _, s := range []string{"smtp://u:p@h:25/?from=a@b.c&to=d@e.f", "https://bearer:x@h/p?q#text", "smtps://[::1]:465/?to=,,", "http://%zz", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := Open([]string{s})
		if (err == nil) != (len(to) == 1) {
			t.Fatal(to, err)
		}
	})
}
