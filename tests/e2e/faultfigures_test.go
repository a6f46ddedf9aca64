package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// figures skips what only measures, unless all faults are run.
func figures(t *testing.T) {
	t.Helper()
	if !*faultsAll {
		t.Skip("measures only: run it with -faults")
	}
}

// qemuSince is when the QEMU of a guest was started on a host, and its pid was written.
func (s *story) qemuSince(host, guest string) time.Time {
	s.t.Helper()
	var at float64
	_, err := fmt.Sscan(s.exec(host, "stat -c %.3Y /run/libvirt/qemu/"+guest+".pid"), &at)
	require.NoError(s.t, err)
	return time.UnixMilli(int64(at * 1000))
}

// load is that of the machine over the last minute.
func load(t *testing.T) (one float64) {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), &one)
	require.NoError(t, err)
	return one
}

// figure keeps one measured figure in build/figures.jsonl and in the log.
func figure(t *testing.T, name string, values map[string]any) {
	t.Helper()
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	values["figure"], values["at"] = name, time.Now().UTC().Truncate(time.Second)
	b, err := json.Marshal(values)
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(root, "build", "figures.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(append(b, '\n'))
	require.NoError(t, err)
	t.Logf("FIGURE %s", b)
}

// A shorter lease makes a takeover that has to outlast it faster: 15 s instead of 22 s.
func TestFiguresOfAShorterLease(t *testing.T) {
	figures(t)
	s := begin(t, "short", 8*time.Minute, "--workload", "db", "--disk", "512M")
	for _, h := range []string{hostA, hostB} {
		s.run("agent-flags", h, "--lease-ttl", "8s", "--lease-renew", "1500ms")
		s.killService(h, "understudy agent")
		s.repair(h, "true")
	}
	defer func() {
		for _, h := range []string{hostA, hostB} {
			s.run("agent-flags", h)
			s.killService(h, "understudy agent")
		}
	}()
	time.Sleep(3 * time.Second)
	require.NoError(t, s.lab.WaitHosts(s.ctx, 2))
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	require.Equal(t, 15.0, s.leased(time.Minute).Lease.WaitS)
	s.fenceFault(hostA)
	crashed := time.Now()
	s.run("crash", hostA)
	s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	loss := s.recovered(hostA, hostB, crashed, 10*time.Second)
	boot := s.waitAcksFrom(hostB).At.Sub(s.qemuSince(hostB, s.name)).Seconds()
	figure(t, "lease rung, TTL 8 s", map[string]any{"wait_s": 15, "rto_s": loss.RTO, "boot_s": boot, "without_boot_s": loss.RTO - boot, "target_s": 20})
	s.run("fence-fault", hostA, "--off")
	s.run("boot", hostA)
}

// waitAcksFrom is the first row that a host acknowledged.
func (s *story) waitAcksFrom(host string) labkit.Ack {
	s.t.Helper()
	for _, a := range s.watch.Acks() {
		if a.Host == host {
			return a
		}
	}
	return s.waitAcks(host, 1)
}

// From the death of a VM whose old copy is known to be off until its successor is started, beside a bare start by libvirt.
func TestFiguresOfAStartWhenTheOldCopyIsKnownToBeOff(t *testing.T) {
	figures(t)
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := begin(t, fmt.Sprintf("bare%d", round), 6*time.Minute, "--workload", "db", "--disk", "512M")
			s.exec(hostA, "virsh destroy "+s.name)
			asked := time.Now()
			s.exec(hostA, "virsh start "+s.name)
			bare := time.Since(asked).Seconds()
			s.waitLine(hostA, asked, `READY`)

			s.protect("--rpo", "10s", "--recover-in-place", "0")
			s.untilSeq(2*time.Minute, 2)
			s.leased(time.Minute)
			killed := time.Now()
			s.exec(hostA, fmt.Sprintf(`kill -9 "$(cat /run/libvirt/qemu/%s.pid)"`, s.name))
			s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
			s.recovered(hostA, hostB, killed, 10*time.Second)
			p := s.until(time.Minute, "the failover's end", func(p labkit.Protection) bool {
				return p.Failover != nil && strings.Contains(string(*p.Failover), `"done"`)
			})
			start := stepOf(p, "start")
			started := start.At.Sub(killed).Seconds()
			figure(t, "start after a known death", map[string]any{
				"bare_start_s": bare, "killed_to_start_s": started, "killed_to_qemu_s": s.qemuSince(hostB, s.name).Sub(killed).Seconds(),
				"killed_to_running_s": started + start.Took, "failover": steps(p, killed), "load": load(t),
			})
		})
	}
}

// A host with several guests dies: they start again by tier, several at once; beside that, one after the other as they booted
// first. GUESTS=20 takes more of them.
func TestFiguresOfManyGuestsOfADeadHost(t *testing.T) {
	figures(t)
	n := 6
	if v := os.Getenv("GUESTS"); v != "" {
		_, err := fmt.Sscan(v, &n)
		require.NoError(t, err)
	}
	tiers := []string{"gold", "silver", "bronze"}
	guests := []string{"--workload", "idle", "--disk", "64M", "--memory", "128"}
	s := begin(t, "many00", 25*time.Minute, guests...)
	watches := map[string]*labkit.Watcher{s.name: s.watch}
	tier := map[string]string{s.name: tiers[0]}
	names := []string{s.name}
	serial := s.waitLine(hostA, time.Time{}, "READY").At.Sub(s.qemuSince(hostA, s.name)).Seconds()
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("many%02d", i)
		w, err := s.lab.Watch(name, hostA, hostB)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, w.Close()) })
		names, watches[name], tier[name] = append(names, name), w, tiers[i*3/n]
		other := &story{t: t, ctx: s.ctx, lab: s.lab, name: name, watch: w}
		t.Cleanup(other.end)
		s.run("guest", append([]string{hostA, name}, guests...)...)
		serial += other.waitLine(hostA, time.Time{}, "READY").At.Sub(s.qemuSince(hostA, name)).Seconds()
	}
	for _, name := range names {
		s.cli("protect", "--standby", hostB, "--wait", "--rpo", "60s", "--tier", tier[name], name)
	}
	for _, name := range names {
		(&story{t: t, ctx: s.ctx, lab: s.lab, name: name}).leased(time.Minute)
	}
	crashed := time.Now()
	s.run("crash", hostA)
	curve, last := map[string][]float64{}, 0.0
	var overtaken int
	var before time.Time
	for _, of := range tiers {
		var first, end time.Time
		for _, name := range names {
			if tier[name] != of {
				continue
			}
			up := (&story{t: t, ctx: s.ctx, lab: s.lab, name: name, watch: watches[name]}).waitLine(hostB, crashed, "READY").At
			started := s.qemuSince(hostB, name)
			if started.Before(before) {
				overtaken++
			}
			if first.IsZero() || started.Before(first) {
				first = started
			}
			if started.After(end) {
				end = started
			}
			seconds := up.Sub(crashed).Seconds()
			curve[of], last = append(curve[of], seconds), max(last, seconds)
		}
		before = first // four start at once, so some of a tier may overtake those of the one above
	}
	figure(t, "guests of a dead host", map[string]any{"guests": n, "ready_s_by_tier": curve, "all_up_s": last, "serial_boots_s": serial, "overtaken": overtaken})
	s.run("boot", hostA)
}
