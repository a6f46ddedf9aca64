package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

const (
	hostA = "host-a"
	hostB = "host-b"
)

// story is one guest's life in one test.
type story struct {
	t     *testing.T
	ctx   context.Context
	lab   *labkit.Lab
	name  string
	watch *labkit.Watcher
	// repairs undo what a story did to the lab; they run when the guest is gone, newest first, with a context that lives.
	repairs []func(ctx context.Context)
}

// long leaves a story out of make test, which has to end well within an hour on two cores; make test-e2e runs them all.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes: make test-e2e")
	}
}

// begin boots a guest on host-a and waits until it works. At the end the protection and the guest are removed wherever
// they are, hosts that were crashed are up again, and a leftover fails the test.
func begin(t *testing.T, name string, limit time.Duration, guestFlags ...string) *story {
	t.Helper()
	if why := cannotRun(); why != "" {
		t.Skip(why)
	}
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	s := &story{t: t, ctx: ctx, lab: labkit.Open(root, labName), name: name}
	s.hostsUp()
	s.watch, err = s.lab.Watch(name, hostA, hostB)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.watch.Close()) })
	t.Cleanup(s.end)
	booted := time.Now()
	s.run("guest", append([]string{hostA, name, "--memory", "192"}, guestFlags...)...)
	s.waitLine(hostA, booted, `READY`)
	return s
}

// end leaves the lab as the next story expects it.
func (s *story) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if s.t.Failed() {
		s.t.Logf("console:\n%s", s.watch.Tail(40))
		for _, h := range []string{"control", hostA, hostB} {
			log, _ := s.lab.Run(ctx, "log", h)
			s.t.Logf("log of %s:\n%s", h, log)
		}
	}
	s.ctx = ctx
	s.hostsUp()
	_, err := s.lab.CLI(ctx, "unprotect", "--yes", "--purge", s.name)
	for exitCode(err) == 11 && ctx.Err() == nil { // a failover runs yet
		time.Sleep(time.Second)
		_, err = s.lab.CLI(ctx, "unprotect", "--yes", "--purge", s.name)
	}
	if err != nil && exitCode(err) != 10 {
		s.t.Errorf("unprotect at the end: %v", err)
	}
	for _, h := range []string{hostA, hostB} {
		_, _ = s.lab.Run(ctx, "guest", h, s.name, "--remove")
	}
	for _, repair := range slices.Backward(s.repairs) {
		repair(ctx)
	}
}

// repair runs a command in a lab host at the end of the story.
func (s *story) repair(host string, argv ...string) {
	s.repairs = append(s.repairs, func(ctx context.Context) {
		if _, err := s.lab.Exec(ctx, host, argv...); err != nil {
			s.t.Errorf("repair at the end: %v", err)
		}
	})
}

// fenceFault makes the fence device of a host fail until the end of the story.
func (s *story) fenceFault(host string) {
	s.t.Helper()
	s.run("fence-fault", host, "--on")
	s.repairs = append(s.repairs, func(ctx context.Context) { _, _ = s.lab.Run(ctx, "fence-fault", host, "--off") })
}

func (s *story) hostsUp() {
	s.t.Helper()
	for _, h := range []string{hostA, hostB} {
		s.run("heal", h)
		if out := s.run("power", h); strings.TrimSpace(out) != "on" {
			s.run("boot", h)
		}
	}
	require.NoError(s.t, s.lab.WaitHosts(s.ctx, 2))
}

func (s *story) run(verb string, args ...string) string {
	s.t.Helper()
	out, err := s.lab.Run(s.ctx, append([]string{verb}, args...)...)
	require.NoError(s.t, err)
	return out
}

func (s *story) exec(host, script string) string {
	s.t.Helper()
	out, err := s.lab.Exec(s.ctx, host, "sh", "-c", script)
	require.NoError(s.t, err)
	return out
}

// cli runs understudy and wants exit 0.
func (s *story) cli(args ...string) string {
	s.t.Helper()
	out, err := s.lab.CLI(s.ctx, args...)
	require.NoError(s.t, err)
	return out
}

// refused runs understudy and wants a failure with this exit code; it returns what was said.
func (s *story) refused(code int, args ...string) string {
	s.t.Helper()
	_, err := s.lab.CLI(s.ctx, args...)
	require.Error(s.t, err, "understudy %v", args)
	var exit *labkit.ExitError
	require.ErrorAs(s.t, err, &exit)
	require.Equal(s.t, code, exit.Code, "understudy %v said: %s", args, exit.Stderr)
	return exit.Stderr
}

func exitCode(err error) int {
	var exit *labkit.ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return -1
}

func (s *story) protect(flags ...string) {
	s.t.Helper()
	s.cli(append(append([]string{"protect", "--standby", hostB, "--wait"}, flags...), s.name)...)
}

func (s *story) points() []labkit.Point {
	s.t.Helper()
	p, err := s.lab.Points(s.ctx, s.name)
	require.NoError(s.t, err)
	return p
}

func (s *story) newest() labkit.Point {
	s.t.Helper()
	p := s.points()
	require.NotEmpty(s.t, p)
	return p[len(p)-1]
}

func (s *story) until(limit time.Duration, what string, want func(labkit.Protection) bool) labkit.Protection {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	p, err := s.lab.WaitStatus(ctx, s.name, what, want)
	require.NoError(s.t, err)
	return p
}

func (s *story) untilSeq(limit time.Duration, seq uint64) labkit.Protection {
	s.t.Helper()
	return s.until(limit, fmt.Sprintf("point %d", seq), func(p labkit.Protection) bool {
		return p.LastPoint != nil && p.LastPoint.Seq >= seq
	})
}

func (s *story) waitLine(host string, after time.Time, pattern string) labkit.Line {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	l, err := s.watch.WaitLine(ctx, host, after, regexp.MustCompile(pattern))
	require.NoError(s.t, err)
	return l
}

func (s *story) waitAcks(host string, n int) labkit.Ack {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	a, err := s.watch.WaitAcks(ctx, host, n)
	require.NoError(s.t, err)
	return a
}

// recovered waits for the guest's own check on host and the first row after it, and judges the loss against the RPO.
func (s *story) recovered(from, to string, after time.Time, rpo time.Duration) labkit.Loss {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	check, err := s.watch.WaitCheck(ctx, to, after)
	require.NoError(s.t, err)
	require.True(s.t, check.OK, check.Text)
	first := s.waitAcks(to, 1)
	loss := labkit.Measure(s.watch, from, to, check, first)
	s.t.Logf("loss %.1f s (%d of %d rows), downtime %.1f s", loss.RPO, loss.RowsLost, loss.RowsAcknowledged, loss.RTO)
	require.LessOrEqual(s.t, loss.RPO, rpo.Seconds(), "more was lost than promised")
	return loss
}

// fillDisk writes n bytes that do not compress into the guest's disk, from inside the guest.
func (s *story) fillDisk(host string, n int64) {
	s.t.Helper()
	asked := time.Now()
	s.run("guest", host, s.name, "--fill", fmt.Sprint(n))
	s.waitLine(host, asked, `FILLED`)
}

// stagedBytes is what the standby holds of points that are not committed, by blocks.
func (s *story) stagedBytes() int64 {
	out, err := s.lab.Exec(s.ctx, hostB, "sh", "-c", "du -s -B1 /var/lib/understudy/replicas/*/staging 2>/dev/null | awk '{n+=$1} END {print n+0}'")
	require.NoError(s.t, err)
	var n int64
	_, err = fmt.Sscan(out, &n)
	require.NoError(s.t, err)
	return n
}

// verifyPoint checks the images of a point on host with qemu-img, which knows nothing of us.
func (s *story) verifyPoint(host string, seq uint64) string {
	s.t.Helper()
	return s.exec(host, fmt.Sprintf(`for f in $(find /var/lib/understudy/replicas/*/disks -name '*s%d.qcow2'); do qemu-img check "$f"; done; echo "No errors were found"`, seq))
}
