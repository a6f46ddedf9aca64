// Package notify brings messages about alarms to people: by mail (SMTP) and by webhook (HTTP). It needs no control plane. A
// receiver that is dead costs nobody but its own queue.
package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"understudy/internal/model"
)

// Receiver takes batches of notices.
type Receiver interface {
	// Name tells scheme and host, never more: paths, users and queries may be secrets.
	Name() string
	Send(ctx context.Context, b Batch) error
}

// Source is who tells.
type Source struct {
	Process string // "server" or "agent"
	Host    string
}

// Batch is what is told at once.
type Batch struct {
	Source  Source
	Notices []model.Notice
}

const (
	maxReceivers = 16
	maxURL       = 4096
	maxURLFile   = 64 << 10
)

// forms is the help for whoever gave something else.
const forms = "smtp://USER:PASSWORD@HOST:587/?from=ADDRESS&to=ADDRESS,ADDRESS or https://HOST/PATH"

// Open makes receivers of URLs. What it returns as an error holds nothing of them but scheme and host.
func Open(urls []string) ([]Receiver, error) {
	if len(urls) > maxReceivers {
		return nil, model.Fail(model.InvalidArgument, nil, "%d receivers of notifications, at most %d", len(urls), maxReceivers)
	}
	var out []Receiver
	for i, raw := range urls {
		r, err := open(raw)
		if err != nil {
			return nil, model.Fail(model.InvalidArgument, nil, "receiver %d of notifications: %s", i+1, err.Error()).WithTry(forms)
		}
		out = append(out, r)
	}
	return out, nil
}

func open(raw string) (Receiver, error) {
	if len(raw) > maxURL {
		return nil, fmt.Errorf("its URL is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("it is no URL with a scheme and a host") // the parser's words would repeat it
	}
	switch u.Scheme {
	case "smtp", "smtps":
		return openMail(u)
	case "http", "https":
		return openWebhook(u)
	}
	return nil, fmt.Errorf("no receiver is reached by %s", u.Scheme)
}

// ReadFile reads URLs, one a line; blank lines and those that begin with # are comments. A file that everybody may read is
// refused, because it holds passwords. Without the file there are none.
func ReadFile(path string) ([]string, error) {
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the receivers of notifications cannot be read")
	}
	switch {
	case !info.Mode().IsRegular() || info.Size() > maxURLFile:
		return nil, model.Fail(model.InvalidArgument, nil, "%s is no file of receivers: a regular file of at most %d KiB", path, maxURLFile>>10)
	case info.Mode().Perm()&0o007 != 0:
		return nil, model.Fail(model.InvalidArgument, nil, "everybody may read %s, and it holds the passwords of receivers", path).WithTry("chmod 0600 " + path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the receivers of notifications cannot be read")
	}
	var urls []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			urls = append(urls, line)
		}
	}
	return urls, nil
}

// Config is what a process was given.
type Config struct {
	URLs []string // of flags and the environment
	File string
	Args []string // of the process: no password may stand there
}

// Receivers opens all of them.
func (c Config) Receivers() ([]Receiver, error) {
	for _, raw := range c.URLs {
		u, err := url.Parse(raw)
		if err != nil || u.User == nil {
			continue
		}
		if _, secret := u.User.Password(); secret && onCommandLine(c.Args, raw) {
			return nil, model.Fail(model.InvalidArgument, nil, "the password of %s stands on the command line, where every user of this machine can read it", name(u)).
				WithTry("put the URL into the file of --notify-file, or into the environment")
		}
	}
	var more []string
	if c.File != "" {
		var err error
		if more, err = ReadFile(c.File); err != nil {
			return nil, err
		}
	}
	return Open(append(c.URLs[:len(c.URLs):len(c.URLs)], more...))
}

func onCommandLine(args []string, raw string) bool {
	for _, a := range args {
		if strings.Contains(a, raw) {
			return true
		}
	}
	return false
}

func name(u *url.URL) string { return u.Scheme + "://" + u.Host }

// scrub takes secrets out of an error's text: a server may repeat what it was sent.
func scrub(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range secrets {
		if len(s) > 2 {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return fmt.Errorf("%s", clip(text, 300))
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

// Log is for a process that has no receivers: what it would have told nobody hears.
func logNone(log *slog.Logger) {
	log.Info("no_notifications", "meaning", "alarms are in status, metrics and this log; nobody is sent a message", "try", "--notify-file FILE")
}
