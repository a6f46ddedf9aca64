package notify

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// clock is set by a test.
type clock struct{ at atomic.Int64 }

func startClock() *clock { c := &clock{}; c.at.Store(noon.UnixNano()); return c }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

// desk runs one until the end of the test or stop.
func desk(t *testing.T, j *journal, c *clock, file string, urls ...string) (d *Desk, stop func()) {
	to, err := Open(urls)
	require.NoError(t, err)
	d = NewDesk(to, Options{Source: Source{"agent", "host-a"}, File: file, Repeat: 4 * time.Hour, Log: j.log(), Now: c.now})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for _, l := range d.sender.lanes {
		l.first = 10 * time.Millisecond
	}
	go func() { defer close(done); d.Run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	return d, stop
}

func ledger(t *testing.T) string { return filepath.Join(t.TempDir(), "notified.json") }

func TestWhatBeginsTogetherIsOneMessage(t *testing.T) {
	p := openPage(t, nil)
	d, _ := desk(t, &journal{}, startClock(), ledger(t), p.URL)
	var all []model.Alarm
	for i := range 200 {
		all = append(all, exposed(fmt.Sprintf("vm%03d", i)))
	}
	d.Observe("agent/", all)
	doc := p.next(t).document(t)
	require.Len(t, doc.Notifications, 200)
	require.Equal(t, "Understudy: vm000 is beyond its RPO (and 199 more)", doc.Subject)
	require.Contains(t, doc.Text, "… and 100 more: understudy status")
}

func TestADeadReceiverHoldsNobodyUp(t *testing.T) {
	good, file := openPage(t, nil), ledger(t)
	before := runtime.NumGoroutine()
	j := &journal{}
	d, stop := desk(t, j, startClock(), file, "http://"+silent(t)+"/x", "smtp://"+silent(t)+"/?from=a@b.cc&to=d@e.ff", "http://127.0.0.1:1/", good.URL)
	began := time.Now()
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	require.Less(t, time.Since(began), 5*time.Second, "it is only put down")
	require.Len(t, good.next(t).document(t).Notifications, 1)
	require.Eventually(t, func() bool { c := d.Counts(); return c.Delivered == 1 && c.Failed >= 1 }, soon, 10*time.Millisecond)
	began = time.Now()
	stop()
	require.Less(t, time.Since(began), 10*time.Second, "nor does it hold the end up")
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+6 }, soon, 50*time.Millisecond, "nothing is left behind but the test's servers")
}

func TestAReceiverThatComesBackHearsTheNewestOfEachMatter(t *testing.T) {
	var up atomic.Bool
	p := openPage(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	c := startClock()
	d, _ := desk(t, &journal{}, c, ledger(t), p.URL)
	d.Observe("agent/", []model.Alarm{exposed("db1"), exposed("db2")})
	p.next(t)
	worse := exposed("db1")
	worse.Level, worse.What = 2, "db1 is beyond twice its RPO"
	d.Observe("agent/", []model.Alarm{worse})
	c.forward(2 * time.Minute)
	d.Observe("agent/", []model.Alarm{worse})
	c.forward(2 * time.Minute)
	d.Observe("agent/", []model.Alarm{worse})
	up.Store(true)
	require.Eventually(t, func() bool { return d.Counts().Delivered == 2 }, 2*soon, 10*time.Millisecond)
	var last document
	for len(p.got) > 0 {
		last = p.next(t).document(t)
	}
	require.Len(t, last.Notifications, 2)
	for _, n := range last.Notifications {
		if n.VM == "db1" {
			require.Equal(t, "db1 is beyond twice its RPO", n.What)
			require.EqualValues(t, "firing", n.State, "its beginning was heard by nobody")
		} else {
			require.EqualValues(t, "resolved", n.State)
		}
	}
	require.NotZero(t, d.Counts().Dropped, "what was replaced is counted")
}

func TestMoreThanAQueueHoldsIsDroppedAndCounted(t *testing.T) {
	s := newSender(Source{}, []Receiver{one(t, "http://127.0.0.1:1/")}, (&journal{}).log(), startClock().now, func(...model.Notice) {})
	for i := range maxWaiting + 50 {
		s.put(firing(fmt.Sprint(i)))
	}
	require.Len(t, s.lanes[0].waiting, maxWaiting)
	require.EqualValues(t, 50, s.counts.Dropped)
	require.Equal(t, "50", s.lanes[0].waiting[0].VM, "the oldest")
}

func TestWhatIsOlderThanADayIsNotSent(t *testing.T) {
	c := startClock()
	s := newSender(Source{}, []Receiver{one(t, "http://127.0.0.1:1/")}, (&journal{}).log(), c.now, func(...model.Notice) {})
	s.put(firing("db1"))
	c.forward(maxAge)
	require.Empty(t, s.lanes[0].take())
	require.EqualValues(t, 1, s.counts.Dropped)
}

func TestARestartedProcessSaysNothingTwice(t *testing.T) {
	p, c, file := openPage(t, nil), startClock(), ledger(t)
	d, stop := desk(t, &journal{}, c, file, p.URL)
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	p.next(t)
	require.Eventually(t, func() bool { return d.Counts().Delivered == 1 }, soon, time.Millisecond)
	stop()
	c.forward(time.Minute)
	d, _ = desk(t, &journal{}, c, file, p.URL)
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	d.Observe("agent/", []model.Alarm{exposed("db1"), exposed("db2")})
	doc := p.next(t).document(t)
	require.Len(t, doc.Notifications, 1)
	require.Equal(t, "db2", doc.Notifications[0].VM)
}

func TestALongLineOfMessagesIsSlowedDown(t *testing.T) {
	p, c := openPage(t, nil), startClock()
	d, _ := desk(t, &journal{}, c, ledger(t), p.URL)
	for i := range batchBurst {
		d.Observe("agent/", []model.Alarm{exposed(fmt.Sprint("a", i))})
		p.next(t)
	}
	began := time.Now()
	for i := range 20 {
		d.Observe("other/", []model.Alarm{{Key: fmt.Sprint("other/", i), What: "x"}})
		time.Sleep(10 * time.Millisecond)
	}
	require.NotEmpty(t, p.next(t).document(t).Notifications)
	require.Greater(t, time.Since(began), batchEvery/4, "six at once, then one each ten seconds")
}

func TestLooksThatFindNothingDoNotUseTheLimitUp(t *testing.T) {
	p := openPage(t, nil)
	d, _ := desk(t, &journal{}, startClock(), ledger(t), p.URL)
	l := d.sender.lanes[0]
	for range 3 * batchBurst {
		d.Observe("agent/", nil)
		require.Empty(t, l.wake)
	}
	require.EqualValues(t, batchBurst, l.limit.Tokens())
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	p.next(t)
	require.InDelta(t, batchBurst-1, l.limit.Tokens(), 0.9)
}

func TestSecretsAreInNoLog(t *testing.T) {
	j := &journal{}
	d, _ := desk(t, j, startClock(), ledger(t), "http://ops:correct-horse@127.0.0.1:1/T0KEN", "smtp://ops:correct-horse@127.0.0.1:1/?from=a@example.org&to=b@example.org")
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	require.Eventually(t, func() bool { return d.Counts().Failed >= 2 }, soon, 10*time.Millisecond)
	require.Contains(t, j.String(), "notification_failed")
	require.NotContains(t, j.String(), "correct-horse")
	require.NotContains(t, j.String(), "T0KEN")
}

func TestATestMessageTellsOfEachReceiver(t *testing.T) {
	p := openPage(t, nil)
	to, err := Open([]string{p.URL, "http://127.0.0.1:1/"})
	require.NoError(t, err)
	tried := Test(t.Context(), to, Source{"notify test", "host-a"}, "root@host-a", noon)
	require.NoError(t, tried[0].Err)
	require.Error(t, tried[1].Err)
	require.Contains(t, p.next(t).document(t).Text, "root@host-a asked for it; nothing is wrong")
}

func TestWithoutReceiversNothingIsTold(t *testing.T) {
	d := NewDesk(nil, Options{Log: (&journal{}).log()})
	d.Observe("agent/", []model.Alarm{exposed("db1")})
	d.Run(t.Context())
	require.Nil(t, d.Facts())
}
