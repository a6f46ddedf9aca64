package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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
	broken   string   // why it fails, when it does: it is not run, and the table says so
	policy   []string // beside the RPO of ten seconds
	strike   func(f *struck)
	// stays says that the VM must not move, and must not be booted again.
	stays bool
	// beside is how long a copy that nobody permitted may run: until the guard has found and stopped it.
	beside time.Duration
}

// struck is a fault at work.
type struck struct {
	*story
	rng    *rand.Rand
	before labkit.Protection // as status had it just before
	at     time.Time         // of the fault
	rto    float64           // seconds without a row, when it moved
	loss   labkit.Loss
	double int // lives of the guest on two hosts that overlap
	notes  []string
	stood  map[string]span // hosts that stood still, and when
}

// TestFaults strikes a VM that writes with one fault after the other, each on a guest of its own.
func TestFaults(t *testing.T) {
	seed := *faultsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./tests/e2e -run TestFaults -faults -seed %d", seed, seed)
	for i, f := range faults() {
		if !f.short && !*faultsAll {
			continue
		}
		t.Run(f.id+" "+f.name, func(t *testing.T) {
			began := time.Now()
			result := faultResult{ID: f.id, Name: f.name, Broken: f.broken}
			defer func() {
				result.Passed, result.Seconds = !t.Failed(), time.Since(began).Seconds()
				if *faultsAll {
					keep(t, seed, result)
				}
			}()
			if f.broken != "" {
				t.Skip(f.broken)
			}
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
			result.Double = s.double
		})
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
	defer f.oneWriter(of.beside) // the law is looked at whatever else failed
	p := f.until(5*time.Minute, "protection to be whole again", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.LastPoint != nil && p.LastPoint.TakenAt.After(f.at)
	})
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
	var left string
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Second) {
		if left = f.leftovers(); left == "" {
			return
		}
	}
	f.t.Errorf("something is left behind:\n%s", left)
}

// leftovers are what `understudy marks` finds left behind of this VM.
func (f *struck) leftovers() string {
	out, err := f.lab.CLI(f.ctx, "marks")
	if err != nil && exitCode(err) != 3 {
		return err.Error()
	}
	var left []string
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, " leftover ") && (strings.Contains(line, " "+f.name+" ") || strings.Contains(line, f.before.UUID)) {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}

// run is one life of the guest on one host: from what it said first after a boot to the last row it acknowledged.
type run struct {
	host        string
	first, last time.Time
}

// runs are the lives of the guest on all hosts, as its consoles tell them.
func (f *struck) runs() []run {
	var out []run
	for _, host := range []string{hostA, hostB} {
		var now *run
		for _, l := range f.watch.Lines(host) {
			if strings.Contains(l.Text, "DB-CHECK") {
				out = append(out, run{host: host, first: l.At, last: l.At})
				now = &out[len(out)-1]
			}
			if now != nil && strings.Contains(l.Text, "ACK ") {
				now.last = l.At
			}
		}
	}
	return out
}

// oneWriter joins what the guest printed on which host, and what both guards saw run, on the one clock of the lab: the spans of two
// hosts never overlap, and who runs later has the higher generation. It counts those that do.
func (f *struck) oneWriter(beside time.Duration) {
	f.t.Helper()
	var spans []span
	for _, r := range f.runs() {
		spans = append(spans, span{host: r.host, from: r.first, to: r.last, by: "guest"})
	}
	require.NotEmpty(f.t, spans)
	var seen []span
	for _, host := range []string{hostA, hostB} {
		var now time.Time
		if f.runsNow(host) {
			now = time.Now()
		}
		for _, s := range guardSpans(host, f.before.UUID, f.journal(host), now) {
			seen = append(seen, without(s, f.stood[host])...)
		}
	}
	require.NotEmpty(f.t, seen, "the guards saw no copy")
	for _, o := range overlaps(slices.Concat(spans, seen), beside) {
		f.double++
		f.t.Errorf("two copies at one time: %+v, %+v", o[0], o[1])
	}
	slices.SortFunc(seen, func(a, b span) int { return a.from.Compare(b.from) })
	for i := 1; i < len(seen); i++ {
		a, b := seen[i-1], seen[i]
		if a.host != b.host && b.generation <= a.generation && beside == 0 {
			f.t.Errorf("a generation came back: %+v, then %+v", a, b)
		}
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
	f.eventually(time.Minute, "whole images", func() bool { // an image that is merged away meanwhile is looked for again
		_, err := f.lab.Exec(f.ctx, p.Standby, "sh", "-c", `set -e; for i in $(find /var/lib/understudy/replicas/*/disks -name '*.qcow2'); do qemu-img check -q -U "$i"; done`)
		return err == nil
	})
}

// moved waits for the VM on host-b and measures what was lost and how long it was down.
func (f *struck) moved(limit time.Duration) {
	f.t.Helper()
	p := f.until(limit, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	f.t.Logf("failover: %s", steps(p, f.at))
	f.loss = f.recovered(hostA, hostB, f.at, time.Minute)
	f.rto = f.loss.RTO
	// The guest's own boot is what its QEMU needs from its start to its first row.
	out, err := f.lab.Exec(f.ctx, hostB, "stat", "-c", "%.3Y", "/run/libvirt/qemu/"+f.name+".pid")
	var started float64
	if _, bad := fmt.Sscan(out, &started); err == nil && bad == nil {
		for _, a := range f.watch.Acks() {
			if a.Host == hostB {
				boot := float64(a.At.UnixMilli())/1000 - started
				f.note("QEMU started %.1f s after the last row, boot %.1f s", f.rto-boot, boot)
				break
			}
		}
	}
}

// timeline is a failover as status tells it.
type timeline struct {
	StartedAt time.Time      `json:"started_at"`
	Steps     []timelineStep `json:"steps"`
}

type timelineStep struct {
	Name  string    `json:"name"`
	At    time.Time `json:"at"`
	Took  float64   `json:"took_s"`
	Error string    `json:"error"`
}

// stepOf finds a step of the newest failover by name; zero when it has none.
func stepOf(p labkit.Protection, name string) timelineStep {
	var f timeline
	if p.Failover == nil || json.Unmarshal(*p.Failover, &f) != nil {
		return timelineStep{}
	}
	for _, s := range f.Steps {
		if s.Name == name {
			return s
		}
	}
	return timelineStep{}
}

// steps is the timeline of a failover, in seconds since a moment.
func steps(p labkit.Protection, since time.Time) string {
	var f timeline
	if p.Failover == nil || json.Unmarshal(*p.Failover, &f) != nil {
		return "unknown"
	}
	out := fmt.Sprintf("began %.1f", f.StartedAt.Sub(since).Seconds())
	for _, x := range f.Steps {
		out += fmt.Sprintf(", %s %.1f+%.1f%s", x.Name, x.At.Sub(since).Seconds(), x.Took, x.Error)
	}
	return out
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

// state is the letter of the QEMU's main thread; empty when there is none.
func (s *story) state(host string) string {
	out, err := s.lab.Exec(s.ctx, host, "sh", "-c", fmt.Sprintf("p=$(cat /run/libvirt/qemu/%s.pid) && sed 's/.*) //; s/ .*//' /proc/$p/stat", s.name))
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
	Broken  string  `json:"broken,omitempty"`
}

type faultReport struct {
	Seed    uint64        `json:"seed"`
	At      time.Time     `json:"at"`
	Results []faultResult `json:"results"`
}

// keep adds a result to those of the same seed, so that the suite may run in parts or on several labs, and writes the report
// and the table in docs/FAULTS.md between its two marks.
func keep(t *testing.T, seed uint64, result faultResult) {
	t.Helper()
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	path := filepath.Join(root, "build", "faults.json")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	r := faultReport{Seed: seed, At: time.Now().UTC()}
	if b, err := os.ReadFile(path); err == nil {
		var old faultReport
		if json.Unmarshal(b, &old) == nil && old.Seed == seed {
			r = old
		}
	}
	r.Results = slices.DeleteFunc(r.Results, func(x faultResult) bool { return x.ID == result.ID })
	r.Results = append(r.Results, result)
	order := map[string]int{}
	for i, f := range faults() {
		order[f.id] = i
	}
	slices.SortFunc(r.Results, func(a, b faultResult) int { return order[a.ID] - order[b.ID] })
	b, err := json.MarshalIndent(r, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(b, '\n'), 0o644))
	r.table(t, root)
}

func (r faultReport) table(t *testing.T, root string) {
	t.Helper()
	var table strings.Builder
	fmt.Fprintf(&table, "\nSeed %d, %s, 2 cores, guests under software emulation.\n\n| # | fault | result | down, s | lost, s | remarks |\n|---|---|---|---|---|---|\n", r.Seed, r.At.Format("2006-01-02 15:04"))
	for _, x := range r.Results {
		result := "passed"
		if !x.Passed {
			result = "FAILED"
		}
		if x.Broken != "" {
			result, x.Notes = "FAILED, open", x.Broken
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
