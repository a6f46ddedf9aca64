package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

var (
	faultsAll  = flag.Bool("faults", false, "all faults, not only the short subset")
	faultsSeed = flag.Uint64("seed", 0, "of the moments at which faults strike; 0 takes one from the clock")
)

// fault is one entry of docs/FAULTS.md: what is done to a protected VM that writes, and what must come of it. The checks that
// every fault ends with are in settled.
type fault struct {
	id, name string
	short    bool     // part of make test
	policy   []string // beside the RPO of ten seconds
	strike   func(f *struck)
	// stays says that the VM must not move, and must not be booted again.
	stays bool
}

// struck is a fault at work.
type struck struct {
	*story
	rng    *rand.Rand
	before labkit.Protection // as status had it just before
	at     time.Time         // of the fault
	rto    float64           // seconds without a row, when it moved
	loss   labkit.Loss
	notes  []string
}

// TestFaults strikes a VM that writes with one fault after the other, each on a guest of its own.
func TestFaults(t *testing.T) {
	seed := *faultsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./tests/e2e -run TestFaults -faults -seed %d", seed, seed)
	report := faultReport{Seed: seed, At: time.Now().UTC()}
	for i, f := range faults() {
		if !f.short && !*faultsAll {
			continue
		}
		t.Run(f.id+" "+f.name, func(t *testing.T) {
			began := time.Now()
			result := faultResult{ID: f.id, Name: f.name}
			defer func() {
				result.Passed, result.Seconds = !t.Failed(), time.Since(began).Seconds()
				report.Results = append(report.Results, result)
			}()
			s := &struck{story: begin(t, fmt.Sprintf("f%02d", i), 10*time.Minute, "--workload", "db", "--disk", "512M"), rng: rand.New(rand.NewPCG(seed, uint64(i)))}
			s.protect(append([]string{"--rpo", "10s"}, f.policy...)...)
			s.untilSeq(2*time.Minute, 2)
			if !contains(f.policy, "keep") && !contains(f.policy, "--guard-level") {
				s.leased(time.Minute)
			}
			s.before = s.until(time.Minute, "the state before", func(labkit.Protection) bool { return true })
			s.at = time.Now()
			f.strike(s)
			s.settled(f)
			result.RTO, result.Loss, result.Notes = s.rto, s.loss.RPO, strings.Join(s.notes, "; ")
			result.Double = 0
		})
	}
	if *faultsAll {
		report.write(t)
	}
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// settled are the checks after every fault: one writer at any instant, its generation the highest, a chain without gaps whose
// images are whole, nothing left behind.
func (f *struck) settled(of fault) {
	f.t.Helper()
	f.hostsUp()
	p := f.until(5*time.Minute, "protection to be whole again", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.LastPoint != nil && p.LastPoint.TakenAt.After(f.at)
	})
	f.oneWriter()
	require.Contains(f.t, f.exec(p.Primary, "virsh list --name"), f.name)
	other := hostA
	if p.Primary == hostA {
		other = hostB
	}
	require.NotContains(f.t, f.exec(other, "virsh list --name"), f.name, "a second copy runs")
	require.GreaterOrEqual(f.t, p.Generation, f.before.Generation)
	if of.stays {
		require.Equal(f.t, hostA, p.Primary)
		require.Equal(f.t, 1, strings.Count(f.watch.Tail(100000), "READY"), "the guest was booted again")
	}
	f.chain(p)
	out, err := f.lab.CLI(f.ctx, "marks")
	require.NoError(f.t, err, "something is left behind: %s", out)
}

// oneWriter looks at what the guest acknowledged on which host, on the one clock of the lab: the rows of two hosts never
// interleave.
func (f *struck) oneWriter() {
	f.t.Helper()
	last := map[string]time.Time{}
	current, since := "", time.Time{}
	for _, a := range f.watch.Acks() {
		if a.Host != current {
			if current != "" && a.At.Before(last[current]) {
				f.t.Errorf("two copies wrote: a row on %s at %s, and one on %s at %s", a.Host, a.At, current, last[current])
			}
			if back, was := last[a.Host]; was && back.After(since) {
				f.t.Errorf("two copies wrote: %s acknowledged at %s, while %s ran since %s", a.Host, back, current, since)
			}
			current, since = a.Host, a.At
		}
		last[a.Host] = a.At
	}
}

// chain: the points follow each other without a gap, and qemu-img, which knows nothing of us, finds their images whole.
func (f *struck) chain(p labkit.Protection) {
	f.t.Helper()
	points := f.points()
	require.NotEmpty(f.t, points)
	for i := 1; i < len(points); i++ {
		require.Greater(f.t, points[i].Seq, points[i-1].Seq)
	}
	f.exec(p.Standby, `for i in /var/lib/understudy/replicas/*/disks/*.qcow2; do qemu-img check -q "$i"; done`)
}

// moved waits for the VM on host-b and measures what was lost and how long it was down.
func (f *struck) moved(limit time.Duration) {
	f.t.Helper()
	f.until(limit, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	f.loss = f.recovered(hostA, hostB, f.at, time.Minute)
	f.rto = f.loss.RTO
}

// lostWithin says that no more was lost than status had promised to lose.
func (f *struck) lostWithin(seconds float64) {
	f.t.Helper()
	require.LessOrEqual(f.t, f.loss.RPO, seconds, "more was lost than status said")
}

// writesOn says that the VM wrote on host-a throughout, for so long.
func (f *struck) writesOn(d time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		ack, ok := f.watch.LastAck(hostA)
		require.True(f.t, ok)
		require.Less(f.t, time.Since(ack.At), 8*time.Second, "the VM stands still")
	}
}

// frozen waits until the guard of host-a has stopped the VM.
func (f *struck) frozen(limit time.Duration) {
	f.t.Helper()
	f.eventually(limit, "the guard to freeze the VM", func() bool { return f.state(hostA) == "T" })
}

// state is the letter of the QEMU's main thread.
func (s *story) state(host string) string {
	out, err := s.lab.Exec(s.ctx, host, "sh", "-c", fmt.Sprintf("sed 's/.*) //; s/ .*//' /proc/$(cat /run/libvirt/qemu/%s.pid)/stat", s.name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func (f *struck) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// pause waits a moment that the seed chooses, so that a fault does not always meet the same step.
func (f *struck) pause(upTo time.Duration) { time.Sleep(time.Duration(f.rng.Int64N(int64(upTo)))) }

type faultResult struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Passed  bool    `json:"passed"`
	RTO     float64 `json:"rto_s"`
	Loss    float64 `json:"loss_s"`
	Double  int     `json:"double_runs"`
	Seconds float64 `json:"seconds"`
	Notes   string  `json:"notes,omitempty"`
}

type faultReport struct {
	Seed    uint64        `json:"seed"`
	At      time.Time     `json:"at"`
	Results []faultResult `json:"results"`
}

// write keeps the report, and the table in docs/FAULTS.md between its two marks.
func (r faultReport) write(t *testing.T) {
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	b, err := json.MarshalIndent(r, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "build", "faults.json"), append(b, '\n'), 0o644))
	var table strings.Builder
	fmt.Fprintf(&table, "\nSeed %d, %s, 2 cores, guests under software emulation.\n\n| # | fault | result | down, s | lost, s | remarks |\n|---|---|---|---|---|---|\n", r.Seed, r.At.Format("2006-01-02 15:04"))
	for _, x := range r.Results {
		result := "passed"
		if !x.Passed {
			result = "FAILED"
		}
		down, lost := "–", "–"
		if x.RTO > 0 {
			down, lost = fmt.Sprintf("%.1f", x.RTO), fmt.Sprintf("%.1f", x.Loss)
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s |\n", x.ID, x.Name, result, down, lost, x.Notes)
	}
	const from, to = "<!-- results -->", "<!-- end of results -->"
	path := filepath.Join(root, "docs", "FAULTS.md")
	doc, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, found := strings.Cut(string(doc), from)
	require.True(t, found)
	_, tail, found := strings.Cut(rest, to)
	require.True(t, found)
	require.NoError(t, os.WriteFile(path, []byte(head+from+"\n"+table.String()+"\n"+to+tail), 0o644))
}
