package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"understudy/internal/model"
)

// sendLimit is what one receiver has for one batch.
const sendLimit = 15 * time.Second

const maxAnswer = 64 << 10

// webhook is a receiver by HTTP.
type webhook struct {
	name    string
	url     string
	plain   bool // the text alone, for services such as ntfy
	auth    string
	secrets []string
	client  *http.Client
}

// openWebhook reads http(s)://[USER:PASSWORD@]HOST/PATH[#text]. The user "bearer" makes the password a bearer token; #text posts
// the message as plain text instead of JSON.
func openWebhook(u *url.URL) (Receiver, error) {
	w := webhook{name: name(u), plain: u.Fragment == "text"}
	if u.Fragment != "" && !w.plain {
		return nil, fmt.Errorf("%s: behind # stands text or nothing", w.name)
	}
	to := *u
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	w.url = to.String()
	if len(to.RequestURI()) > 1 {
		w.secrets = append(w.secrets, w.url, to.RequestURI(), to.Path)
	}
	if password, ok := u.User.Password(); ok {
		user := u.User.Username()
		w.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
		if user == "bearer" {
			w.auth = "Bearer " + password
		}
		w.secrets = append(w.secrets, password, w.auth)
	}
	// A transport of its own: no other connection waits for it, and none is kept that nobody needs for hours.
	w.client = &http.Client{
		Timeout:   sendLimit,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: sendLimit, ResponseHeaderTimeout: sendLimit},
		// A receiver that moved is one to be configured anew: what is sent may hold a token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

func (w webhook) Name() string { return w.name }

// document is the JSON of a webhook; text is what chat services show.
type document struct {
	MessageType   string         `json:"message_type"` // "notification"
	Process       string         `json:"process"`      // server or agent
	Host          string         `json:"host"`         // where that runs
	Version       string         `json:"version"`
	Subject       string         `json:"subject"`
	Text          string         `json:"text"`
	Notifications []notification `json:"notifications"`
}

type notification struct {
	State model.AlarmState `json:"state"`
	Name  string           `json:"name"`
	Key   string           `json:"key"`
	VM    string           `json:"vm"`
	Host  model.HostID     `json:"host"`
	What  string           `json:"what"`
	Why   string           `json:"why"`
	Try   string           `json:"try"`
	Since time.Time        `json:"since"`
	At    time.Time        `json:"at"`
}

func (b Batch) document() document {
	d := document{
		MessageType: "notification", Process: b.Source.Process, Host: b.Source.Host, Version: model.Version(), Subject: b.Subject(), Text: b.Text(),
		Notifications: []notification{},
	}
	for _, n := range b.Notices {
		d.Notifications = append(d.Notifications, notification{
			State: n.State, Name: n.Name, Key: n.Key, VM: n.VM, Host: n.Host, What: n.What, Why: n.Why, Try: n.Try, Since: n.Since.UTC(), At: n.At.UTC(),
		})
	}
	return d
}

func (w webhook) Send(ctx context.Context, b Batch) error {
	body, kind := []byte(b.Text()), "text/plain; charset=utf-8"
	if !w.plain {
		var err error
		if body, err = json.Marshal(b.document()); err != nil {
			return err
		}
		kind = "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return scrub(err, w.secrets...)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", "understudy/"+model.Version())
	if w.plain {
		req.Header.Set("Title", ascii(b.Subject()))
	}
	if w.auth != "" {
		req.Header.Set("Authorization", w.auth)
	}
	res, err := w.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return scrub(err, w.secrets...)
	}
	defer func() { _ = res.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // it only explains a refusal
	if res.StatusCode >= 300 {
		return scrub(fmt.Errorf("it answered %s: %.200q", res.Status, answer), w.secrets...)
	}
	return nil
}

// ascii is for a header.
func ascii(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
