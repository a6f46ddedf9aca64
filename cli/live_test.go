package cli

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// glass is a terminal whose drawings can be read while they are made.
type glass struct {
	mu   sync.Mutex
	text strings.Builder
}

func (g *glass) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(b)
}

func (g *glass) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// ticking is a clock that goes on by a tenth of a second each time it is looked at.
func ticking() func() time.Time {
	var mu sync.Mutex
	now := noon
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(100 * time.Millisecond)
		return now
	}
}

func watching(t *testing.T) (*desk, *glass, chan byte) {
	d, g, keys := sit(t), &glass{}, make(chan byte)
	d.plane.list = []contract.DescribeOut{protected()}
	d.out, d.outTerminal, d.now = g, true, ticking()
	d.keys = func(context.Context) (<-chan byte, func()) { return keys, func() {} }
	return d, g, keys
}

func TestTheLiveScreenTicksBetweenTwoQuestionsAndEndsWithAKey(t *testing.T) {
	d, g, keys := watching(t)
	go func() {
		for strings.Count(g.String(), "\x1b[H") < 20 {
			time.Sleep(time.Millisecond)
		}
		keys <- 'x' // means nothing
		keys <- 'q'
	}()
	require.Equal(t, 0, d.run("status", "--watch", "--interval", "1h"), d.stderr.String())
	ages := map[string]bool{}
	for _, m := range regexp.MustCompile(`updated (\S+ s) ago, asked every 1 h`).FindAllStringSubmatch(g.String(), -1) {
		ages[m[1]] = true
	}
	require.Greater(t, len(ages), 5, "it was asked once, and the age grows")
	require.Greater(t, len(regexp.MustCompile(`(\d+\.\d) s of 30`).FindAllString(g.String(), -1)), 5)
	before, after, left := strings.Cut(g.String(), "\x1b[?1049l")
	require.True(t, left, "the terminal is given back")
	require.True(t, strings.HasPrefix(before, "\x1b[?1049h"))
	require.Contains(t, after, "db1", "what was seen last stays")
	require.NotContains(t, after, "q or Ctrl-C")
}

func TestTheLiveScreenGoesOnWhileTheControlPlaneIsAway(t *testing.T) {
	d, g, _ := watching(t)
	d.plane.list, d.plane.listErr = nil, model.Fail(model.Unreachable, errors.New("refused"), "Temporal does not answer")
	go func() {
		for !strings.Contains(g.String(), "NO ANSWER NOW: Temporal does not answer") {
			time.Sleep(time.Millisecond)
		}
		d.cancel()
	}()
	d.now = func() time.Time { return noon }
	require.Equal(t, 130, d.run("status", "--watch", "--interval", "100ms"))
	require.Contains(t, d.stderr.String(), "stopped watching")
}

func TestWithoutATerminalTheWatchPrintsBlocksAndNoColour(t *testing.T) {
	d, g, _ := watching(t)
	d.outTerminal = false
	go func() {
		for strings.Count(g.String(), "PHASE") < 2 {
			time.Sleep(time.Millisecond)
		}
		d.cancel()
	}()
	require.Equal(t, 130, d.run("status", "--watch", "--interval", "100ms"))
	require.NotContains(t, g.String(), "\x1b")
	require.Contains(t, g.String(), "\n\nVM ")
}

func TestColourIsForTerminalsThatWantIt(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	require.True(t, colours(true))
	require.False(t, colours(false))
	t.Setenv("NO_COLOR", "1")
	require.False(t, colours(true))
	d := sit(t)
	d.colour = true
	late := protected()
	late.State.Phase = model.PhaseFailed
	d.plane.list = []contract.DescribeOut{protected(), late}
	require.Equal(t, 3, d.run("status"))
	require.Regexp(t, "(?m)^\x1b\\[1mVM.*\n^db1 .*\n\x1b\\[31mdb1 .*\x1b\\[0m$", d.stdout.String())
}

// Whoever stops watching learns that the work goes on, and scripts see 130.
func TestCtrlCDuringEachWatchSaysThatTheWorkGoesOn(t *testing.T) {
	for _, x := range []struct {
		args []string
		says string
	}{
		{[]string{"protect", "--standby", "host-b", "--wait", "db1"}, "the copy of db1 goes on"},
		{[]string{"sync", "db1"}, "the point of db1 goes on"},
		{[]string{"failover", "--yes", "db1"}, "the failover of db1 goes on"},
		{[]string{"switchover", "--yes", "db1"}, "the switchover of db1 goes on"},
		{[]string{"test-failover", "db1"}, "the test failover goes on"},
	} {
		t.Run(x.args[0], func(t *testing.T) {
			d, _ := moving(t)
			g := &glass{}
			d.err, d.errTerminal = g, true
			seeding := protected()
			seeding.State.Committed = model.PointRef{}
			seeding.State.InFlight = &contract.InFlight{PointRef: model.PointRef{Generation: 1, Seq: 1}, Stage: "replicate", StartedAt: noon}
			seeding.State.Failover = &contract.FailoverBrief{WorkflowID: takeover, Generation: 2, StartedAt: noon.Add(-time.Second), Planned: x.args[0] == "switchover"}
			d.plane.locate = func(string, model.HostID) (model.DomainFacts, model.HostID, error) {
				return model.DomainFacts{VM: db1}, "host-a", nil
			}
			d.plane.ensure = func(contract.ProtectSpec) (contract.DescribeOut, error) { return seeding, nil }
			d.plane.describe = func() (contract.DescribeOut, error) { return seeding, d.ctx.Err() }
			d.plane.progress = &contract.ReplicateProgress{Disk: "vda", DoneBytes: 1 << 30, TotalBytes: 4 << 30, SentBytes: 1 << 29, Rate: 1 << 28}
			d.plane.hosts = heard("host-a", "host-b")
			d.plane.replicate = func(ctx context.Context) (contract.PointSummary, error) {
				<-ctx.Done()
				return contract.PointSummary{}, ctx.Err()
			}
			go func() {
				for strings.Count(g.String(), "\r\x1b[K") < 3 {
					time.Sleep(time.Millisecond)
				}
				d.cancel()
			}()
			require.Equal(t, 130, d.run(x.args...), g.String())
			require.Contains(t, g.String(), x.says)
			if x.args[0] == "protect" || x.args[0] == "sync" {
				require.Contains(t, g.String(), "25 % of 4.0 GiB, 512.0 MiB sent, 256.0 MiB/s, 12.0 s left")
			}
		})
	}
}

func TestTheLineOfATestAndOfAFailoverSayWhatIsLeft(t *testing.T) {
	d := protected()
	require.Equal(t, "db1: test failover 4, 3.0 s", testingLine(d, 4, 3*time.Second))
	d.State.Tests = []contract.TestResult{{Passed: true, RTO: 12 * time.Second}}
	require.Equal(t, "db1: test failover 4, 3.0 s [#####...............] the last took 12.0 s, 9.0 s left", testingLine(d, 4, 3*time.Second))
	steps := []contract.FailoverStep{{Name: "claim"}, {Name: "seal"}}
	require.Equal(t, "db1: moving, 5.0 s, 2 done, the last was seal, 25.0 s of the RTO left", failingLine("db1", steps, 30*time.Second, 5*time.Second))
	require.Equal(t, "db1: moving, 35.0 s, 5.0 s beyond the RTO", failingLine("db1", nil, 30*time.Second, 35*time.Second))
}
