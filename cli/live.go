package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// live is the screen of status --watch: asked for every interval, drawn every second, so that ages tick meanwhile.
type live struct {
	c        *call
	interval time.Duration
	screen   *ui.Screen
	last     answered // the newest that was an answer
	trouble  error    // of the newest question
	waiting  bool
}

type answered struct {
	at  time.Time
	all []contract.DescribeOut
	err error
}

const redraw = time.Second

func watchLive(c *call, interval time.Duration) error {
	ctx, stop := context.WithCancel(c.Context.Context)
	defer stop()
	keys, release := c.keys(ctx)
	defer release()
	l := &live{c: c, interval: interval, screen: ui.NewScreen(c.out, c.size)}
	err := l.run(ctx, keys)
	l.screen.Close()
	if text, drawErr := l.draw(); l.last.all != nil && drawErr == nil {
		fmt.Fprint(c.out, text) // what was seen last stays
	}
	return err
}

func (l *live) run(ctx context.Context, keys <-chan byte) error {
	ticks := time.NewTicker(l.c.redraw)
	defer ticks.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	answers := make(chan answered, 1)
	began := l.c.now()
	ctx, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		if l.waiting { // the question ends with ctx
			<-answers
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return interrupted{"stopped watching"}
		case k, open := <-keys:
			if !open {
				keys = nil
			}
			if k == 'q' || k == 'Q' {
				return nil
			}
			continue
		case <-due.C:
			l.waiting = true
			go func() {
				all, err := asked(ctx, l.c)
				answers <- answered{l.c.now(), all, err}
			}()
			continue
		case a := <-answers:
			l.waiting = false
			if a.err == nil || len(a.all) > 0 {
				l.last = a
			}
			l.trouble = a.err
			silent := l.c.now().Sub(latest(began, l.last.at))
			switch {
			case ctx.Err() != nil:
				return interrupted{"stopped watching"}
			case a.err != nil && len(a.all) == 0 && (model.KindOf(a.err) != model.Unreachable || silent > patience):
				return a.err
			}
			due.Reset(l.interval)
		case <-ticks.C:
		}
		text, err := l.draw()
		if err != nil {
			return err
		}
		if err := l.screen.Draw(text + "\n" + l.foot()); err != nil {
			return err
		}
	}
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// draw judges what was heard last at this moment.
func (l *live) draw() (string, error) {
	if l.last.at.IsZero() {
		return "", nil
	}
	var b bytes.Buffer
	e := *l.c.env
	e.out, e.err = &b, &b
	c := *l.c
	c.env = &e
	err := printStatus(&c, viewsOf(l.last.all, c.now()))
	return b.String(), err
}

func (l *live) foot() string {
	now := l.c.now()
	text := "asking the control plane"
	if !l.last.at.IsZero() {
		text = fmt.Sprintf("updated %s, asked every %s", ui.Ago(l.last.at, now), ui.Duration(l.interval))
	}
	if l.trouble != nil {
		why, _, _ := strings.Cut(l.trouble.Error(), "\n")
		text += "; NO ANSWER NOW: " + why
	}
	return text + "; q or Ctrl-C ends\n"
}
