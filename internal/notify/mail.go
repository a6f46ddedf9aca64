package notify

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/wneessen/go-mail"
)

// mailer is a receiver by SMTP.
type mailer struct {
	name    string
	host    string
	options []mail.Option
	from    string
	to      []string
	secrets []string
	// implicit TLS, from the first byte
	implicit bool
}

// openMail reads smtp://USER:PASSWORD@HOST:PORT/?from=A&to=B,C&tls=mandatory|opportunistic|none; smtps is TLS from the first byte.
func openMail(u *url.URL) (Receiver, error) {
	q := u.Query()
	m := mailer{name: name(u), host: u.Hostname(), from: q.Get("from")}
	for to := range strings.SplitSeq(q.Get("to"), ",") {
		if to = strings.TrimSpace(to); to != "" {
			m.to = append(m.to, to)
		}
	}
	if m.from == "" || len(m.to) == 0 {
		return nil, fmt.Errorf("%s needs from= and to=", m.name)
	}
	if _, err := m.message(Batch{}); err != nil {
		return nil, fmt.Errorf("%s: an address is none", m.name)
	}
	password, secret := u.User.Password()
	policy, err := tlsPolicy(q.Get("tls"), secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	port := mail.DefaultPortTLS
	if u.Scheme == "smtps" {
		m.implicit, m.options, port = true, append(m.options, mail.WithSSL()), mail.DefaultPortSSL
	} else {
		m.options = append(m.options, mail.WithTLSPolicy(policy))
	}
	if text := u.Port(); text != "" {
		if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("%s has no such port", m.name)
		}
	}
	m.options = append(m.options, mail.WithPort(port), mail.WithTimeout(sendLimit))
	if user := u.User.Username(); user != "" {
		auth := mail.SMTPAuthAutoDiscover
		if policy == mail.NoTLS && u.Scheme == "smtp" {
			auth = mail.SMTPAuthPlainNoEnc // they asked for it by tls=none
		}
		m.options = append(m.options, mail.WithSMTPAuth(auth), mail.WithUsername(user), mail.WithPassword(password))
		m.secrets = []string{password, base64.StdEncoding.EncodeToString([]byte(password)),
			base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))}
	}
	if _, err := mail.NewClient(m.host, m.options...); err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, scrub(err, m.secrets...))
	}
	return m, nil
}

// tlsPolicy: a password is never sent in the clear unless that was asked for.
func tlsPolicy(text string, secret bool) (mail.TLSPolicy, error) {
	switch {
	case text == "mandatory" || text == "" && secret:
		return mail.TLSMandatory, nil
	case text == "opportunistic" || text == "":
		return mail.TLSOpportunistic, nil
	case text == "none":
		return mail.NoTLS, nil
	}
	return 0, fmt.Errorf("tls= is mandatory, opportunistic or none")
}

func (m mailer) Name() string { return m.name }

func (m mailer) message(b Batch) (*mail.Msg, error) {
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := msg.From(m.from); err != nil {
		return nil, err
	}
	if err := msg.To(m.to...); err != nil {
		return nil, err
	}
	msg.Subject(b.Subject())
	msg.SetDate()
	msg.SetMessageID()
	msg.SetGenHeader(mail.Header("Auto-Submitted"), "auto-generated") // no answers by machines on holiday
	msg.SetBodyString(mail.TypeTextPlain, b.Text())
	return msg, nil
}

// Send opens a connection for each batch: they are rare, and a kept one would be dead by the next. The library bounds each part of
// the conversation by its timeout; the end of ctx cuts a connection without implicit TLS at once.
func (m mailer) Send(ctx context.Context, b Batch) error {
	msg, err := m.message(b)
	if err != nil {
		return scrub(err, m.secrets...)
	}
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	options := m.options
	if !m.implicit {
		options = append(options[:len(options):len(options)], mail.WithDialContextFunc(func(dialCtx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(dialCtx, network, address)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = c.Close() })
			}
			return c, err
		}))
	}
	c, err := mail.NewClient(m.host, options...)
	if err != nil {
		return scrub(err, m.secrets...)
	}
	return scrub(c.DialAndSendWithContext(ctx, msg), m.secrets...)
}
