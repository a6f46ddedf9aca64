package ui

import (
	"fmt"
	"io"
	"time"
)

// Progress shows what goes on: one redrawn line on a terminal, a line every ten seconds otherwise.
type Progress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	last     time.Time
	drawn    bool
}

const quietPeriod = 10 * time.Second

// NewProgress writes to w.
func NewProgress(w io.Writer, terminal bool, now func() time.Time) *Progress {
	return &Progress{w: w, terminal: terminal, now: now}
}

// Show replaces the line.
func (p *Progress) Show(format string, args ...any) {
	text := plain(fmt.Sprintf(format, args...))
	if p.terminal {
		if len(text) > 118 {
			text = text[:118]
		}
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		p.drawn = true
		return
	}
	if now := p.now(); p.last.IsZero() || now.Sub(p.last) >= quietPeriod {
		p.last = now
		fmt.Fprintln(p.w, text)
	}
}

// Say writes a line that stays.
func (p *Progress) Say(format string, args ...any) {
	p.Done()
	fmt.Fprintln(p.w, plain(fmt.Sprintf(format, args...)))
}

// Done leaves the terminal's line free for what comes next.
func (p *Progress) Done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// Bar draws a share of 1 in width characters.
func Bar(share float64, width int) string {
	full := int(max(0, min(1, share)) * float64(width))
	b := make([]byte, width)
	for i := range b {
		b[i] = '.'
		if i < full {
			b[i] = '#'
		}
	}
	return string(b)
}
