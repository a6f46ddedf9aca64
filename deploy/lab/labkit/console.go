package labkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Line is one line of a guest's serial console with the moment it was seen outside the guest.
type Line struct {
	Host string
	Text string
	At   time.Time
}

// Ack is a row that the guest's database committed durably and promised on its console.
type Ack struct {
	Row  int64
	Host string
	At   time.Time // seen outside
}

// Check is what the guest found in its database after a boot.
type Check struct {
	OK   bool
	Rows int64
	Host string
	At   time.Time
	Text string
}

// Watcher follows the console of one guest on all hosts, from outside, like a client who keeps the receipts.
type Watcher struct {
	mu     sync.Mutex
	lines  []Line
	acks   []Ack
	checks []Check
	wake   chan struct{} // closed and replaced at each new line

	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// ConsolePath is where the console of a guest on a host is written, seen from outside.
func (l *Lab) ConsolePath(host, guest string) string {
	return filepath.Join(l.Dir(), host, "console", guest+".log")
}

// Watch follows a guest's console on the given hosts until Close. Lines written before are read too, with the time of
// reading.
func (l *Lab) Watch(guest string, hosts ...string) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{wake: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	tails := map[string]*tail{}
	for _, h := range hosts {
		path := l.ConsolePath(h, guest)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			cancel()
			return nil, errors.Join(err, notify.Close())
		}
		if err := notify.Add(filepath.Dir(path)); err != nil {
			cancel()
			return nil, errors.Join(err, notify.Close())
		}
		tails[path] = &tail{host: h, path: path}
	}
	go w.follow(ctx, notify, tails)
	return w, nil
}

// Close ends the watch.
func (w *Watcher) Close() error {
	w.cancel()
	<-w.done
	return w.err
}

func (w *Watcher) follow(ctx context.Context, notify *fsnotify.Watcher, tails map[string]*tail) {
	defer close(w.done)
	defer notify.Close()
	for _, t := range tails {
		w.take(t)
	}
	// The events tell at once; the ticker covers a queue overflow.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-notify.Events:
			if t := tails[ev.Name]; t != nil {
				w.take(t)
			}
		case <-tick.C:
			for _, t := range tails {
				w.take(t)
			}
		}
	}
}

type tail struct {
	host, path string
	offset     int64
	rest       []byte
}

func (w *Watcher) take(t *tail) {
	texts, err := t.read()
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.err = err
	}
	if len(texts) == 0 {
		return
	}
	for _, s := range texts {
		line := Line{Host: t.host, Text: s, At: now}
		w.lines = append(w.lines, line)
		w.note(line)
	}
	close(w.wake)
	w.wake = make(chan struct{})
}

func (t *tail) read() ([]string, error) {
	f, err := os.Open(t.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if st.Size() < t.offset { // truncated by a new start of the guest
		t.offset, t.rest = 0, nil
	}
	b, err := io.ReadAll(io.NewSectionReader(f, t.offset, 64<<20))
	if err != nil {
		return nil, err
	}
	t.offset += int64(len(b))
	b = append(t.rest, b...)
	var out []string
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			t.rest = append([]byte(nil), b...)
			return out, nil
		}
		out = append(out, strings.TrimRight(string(b[:i]), "\r"))
		b = b[i+1:]
	}
}

var (
	ackLine   = regexp.MustCompile(`(?:^|\s)ACK (\d+) \d+`)
	checkLine = regexp.MustCompile(`DB-CHECK (\w+)(?:.*rows=(\d+))?`)
)

func (w *Watcher) note(l Line) {
	if m := ackLine.FindStringSubmatch(l.Text); m != nil {
		if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			w.acks = append(w.acks, Ack{Row: n, Host: l.Host, At: l.At})
		}
	}
	if m := checkLine.FindStringSubmatch(l.Text); m != nil {
		n, _ := strconv.ParseInt(m[2], 10, 64)
		w.checks = append(w.checks, Check{OK: m[1] == "ok", Rows: n, Host: l.Host, At: l.At, Text: l.Text})
	}
}

// Lines returns all lines of a host so far, oldest first.
func (w *Watcher) Lines(host string) []Line {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Line
	for _, l := range w.lines {
		if l.Host == host {
			out = append(out, l)
		}
	}
	return out
}

// Acks returns all acknowledged rows so far, oldest first.
func (w *Watcher) Acks() []Ack {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Ack(nil), w.acks...)
}

// LastAck returns the newest row acknowledged on a host; ok is false when there is none.
func (w *Watcher) LastAck(host string) (Ack, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.acks) - 1; i >= 0; i-- {
		if w.acks[i].Host == host {
			return w.acks[i], true
		}
	}
	return Ack{}, false
}

// AckOf returns when a row was acknowledged on a host.
func (w *Watcher) AckOf(host string, row int64) (Ack, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.acks) - 1; i >= 0; i-- {
		if w.acks[i].Host == host && w.acks[i].Row == row {
			return w.acks[i], true
		}
	}
	return Ack{}, false
}

// WaitAcks waits until n more rows than now were acknowledged on host and returns the newest.
func (w *Watcher) WaitAcks(ctx context.Context, host string, n int) (Ack, error) {
	seen, want := 0, -1
	return waitFor(ctx, w, fmt.Sprintf("%d more acknowledged rows on %s", n, host), func() (Ack, bool) {
		seen = 0
		var last Ack
		for _, a := range w.acks {
			if a.Host == host {
				seen++
				last = a
			}
		}
		if want < 0 {
			want = seen + n
		}
		return last, seen >= want
	})
}

// WaitCheck waits for a database check on host that was seen after a moment.
func (w *Watcher) WaitCheck(ctx context.Context, host string, after time.Time) (Check, error) {
	return waitFor(ctx, w, "a database check on "+host, func() (Check, bool) {
		for _, c := range w.checks {
			if c.Host == host && c.At.After(after) {
				return c, true
			}
		}
		return Check{}, false
	})
}

// WaitLine waits for a line on host that matches and was seen after a moment.
func (w *Watcher) WaitLine(ctx context.Context, host string, after time.Time, re *regexp.Regexp) (Line, error) {
	return waitFor(ctx, w, fmt.Sprintf("a line like %q on %s", re, host), func() (Line, bool) {
		for _, l := range w.lines {
			if l.Host == host && l.At.After(after) && re.MatchString(l.Text) {
				return l, true
			}
		}
		return Line{}, false
	})
}

// Tail returns the last n lines, for error messages.
func (w *Watcher) Tail(n int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, l := range w.lines[max(0, len(w.lines)-n):] {
		fmt.Fprintf(&b, "%s %s: %s\n", l.At.Format("15:04:05.000"), l.Host, l.Text)
	}
	return b.String()
}

func waitFor[T any](ctx context.Context, w *Watcher, what string, look func() (T, bool)) (T, error) {
	for {
		w.mu.Lock()
		v, ok := look()
		wake := w.wake
		w.mu.Unlock()
		if ok {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return v, fmt.Errorf("no %s: %w; the console's end:\n%s", what, ctx.Err(), w.Tail(15))
		case <-wake:
		}
	}
}
