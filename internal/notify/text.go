package notify

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/model"
)

const (
	maxSubject = 150
	maxShown   = 100 // notices in the text of one batch
)

// Subject says the first matter and how many others there are.
func (b Batch) Subject() string {
	if len(b.Notices) == 0 {
		return "Understudy"
	}
	s := "Understudy: " + headline(b.Notices[0])
	if n := len(b.Notices) - 1; n > 0 {
		s = fmt.Sprintf("%s (and %d more)", clip(s, maxSubject-20), n)
	}
	return oneLine(clip(s, maxSubject))
}

// headline: a firing alarm is said as it is, the others with what they are.
func headline(n model.Notice) string {
	if n.State == model.AlarmFiring || n.State == model.AlarmHappened {
		return n.What
	}
	return string(n.State) + ": " + n.What
}

// Text is the message for people: what, which VM and host, why, and the next command.
func (b Batch) Text() string {
	var t strings.Builder
	for i, n := range b.Notices {
		if i == maxShown {
			fmt.Fprintf(&t, "… and %d more: understudy status\n\n", len(b.Notices)-i)
			break
		}
		fmt.Fprintf(&t, "%s\n", oneLine(headline(n)))
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(&t, "  %-6s %s\n", name+":", oneLine(value))
			}
		}
		line("vm", n.VM)
		line("host", string(n.Host))
		if n.State != model.AlarmResolved {
			line("why", n.Why)
			line("try", n.Try)
		}
		line("since", stamp(n.Since))
		if n.State == model.AlarmResolved {
			line("until", stamp(n.At))
		}
		t.WriteString("\n")
	}
	fmt.Fprintf(&t, "-- \nunderstudy %s on %s\n", b.Source.Process, b.Source.Host)
	return t.String()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// oneLine keeps a guest's or server's words from making lines of their own.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}
