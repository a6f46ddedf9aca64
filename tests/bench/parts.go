package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	ready     = regexp.MustCompile(`READY`)
	probeLine = regexp.MustCompile(`PROBE max_us=(\d+)`)
)

const (
	content = 300 << 20 // real files of this machine
	maxFile = 8 << 20
)

// full copies a 4 GiB disk with real files for the first time, in turns with nbdcopy of the same export to a local file.
func (b *bench) full(ctx context.Context) error {
	dir := filepath.Join(b.temp, "files")
	bytes, err := collect(dir)
	if err != nil {
		return err
	}
	b.out.Full.Bytes = bytes
	const vm = "full"
	w, err := b.guest(ctx, vm, "--workload", "idle", "--disk", "4G", "--content", dir)
	if err != nil {
		return err
	}
	defer w.Close()
	for range b.rounds {
		peer, err := b.nbdcopy(ctx, vm)
		if err != nil {
			return err
		}
		p, err := b.protect(ctx, vm)
		if err != nil {
			return err
		}
		b.out.Full.NBDCopy = append(b.out.Full.NBDCopy, peer.Seconds())
		b.out.Full.Whole = append(b.out.Full.Whole, p.VerifiedAt.Sub(p.TakenAt).Seconds())
		took, err := b.replicateTook(ctx, vm)
		if err != nil {
			return err
		}
		b.out.Full.Replicate = append(b.out.Full.Replicate, took)
		_, _, b.out.Full.Sent = p.Sum()
		if err := b.unprotect(ctx, vm); err != nil {
			return err
		}
	}
	return b.remove(ctx, vm)
}

// nbdcopy times the copy alone; opening the export is not counted.
func (b *bench) nbdcopy(ctx context.Context, vm string) (time.Duration, error) {
	open := fmt.Sprintf(`cat >/run/peer.xml <<X
<domainbackup mode='pull'><server transport='unix' socket='/run/peer.sock'/><disks><disk name='vda' backup='yes' type='file' exportname='vda'><scratch file='/run/peer.scratch'/></disk></disks></domainbackup>
X
rm -f /run/peer.sock /var/lib/libvirt/images/peer.raw
virsh -q backup-begin %s /run/peer.xml`, vm)
	if _, err := b.timed(ctx, open); err != nil {
		return 0, err
	}
	took, err := b.timed(ctx, `nbdcopy --flush 'nbd+unix:///vda?socket=/run/peer.sock' /var/lib/libvirt/images/peer.raw`)
	if err != nil {
		return 0, err
	}
	_, err = b.timed(ctx, "virsh -q domjobabort "+vm+"; rm -f /var/lib/libvirt/images/peer.raw")
	return took, err
}

// scatter measures what crosses the wire for scattered 4 KiB writes, against what the 64 KiB bitmap calls dirty.
func (b *bench) scatter(ctx context.Context) error {
	const vm = "scatter"
	w, err := b.guest(ctx, vm, "--workload", "churn", "--disk", "1G", "--rate", "80K", "--working-set", "512M")
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := b.protect(ctx, vm); err != nil {
		return err
	}
	for range b.cycles {
		if err := wait(ctx, 3*time.Second); err != nil {
			return err
		}
		if _, err := b.lab.CLI(ctx, "sync", vm); err != nil {
			return err
		}
		p, err := b.newest(ctx, vm)
		if err != nil {
			return err
		}
		dirty, changed, sent := p.Sum()
		b.out.Scatter.Dirty += dirty
		b.out.Scatter.Changed += changed
		b.out.Scatter.Sent += sent
	}
	if err := b.unprotect(ctx, vm); err != nil {
		return err
	}
	return b.remove(ctx, vm)
}

// cycle measures idle-ish cycles, and after them incremental backups of the same VM with the peer: both keep libvirt
// checkpoints, and neither adopts the other's.
func (b *bench) cycle(ctx context.Context) error {
	const vm = "cycle"
	w, err := b.guest(ctx, vm, "--workload", "db", "--disk", "512M", "--rate", "2")
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := b.protect(ctx, vm); err != nil {
		return err
	}
	for range b.cycles {
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
		began := time.Now()
		if _, err := b.lab.CLI(ctx, "sync", vm); err != nil {
			return err
		}
		b.out.Cycle.Sync = append(b.out.Cycle.Sync, time.Since(began).Seconds())
		p, err := b.newest(ctx, vm)
		if err != nil {
			return err
		}
		dirty, _, _ := p.Sum()
		b.out.Cycle.Dirty = append(b.out.Cycle.Dirty, float64(dirty))
		b.out.Cycle.Ours = append(b.out.Cycle.Ours, p.VerifiedAt.Sub(p.TakenAt).Seconds())
		b.out.Cycle.Call = append(b.out.Cycle.Call, p.Stall/1000)
	}
	if err := b.unprotect(ctx, vm); err != nil {
		return err
	}
	peer := "virtnbdbackup -n -S /run -d " + vm + " -o /var/lib/libvirt/images/peer -l "
	if _, err := b.timed(ctx, peer+"full"); err != nil {
		return err
	}
	for range b.cycles {
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
		took, err := b.timed(ctx, peer+"inc")
		if err != nil {
			return err
		}
		b.out.Cycle.Peer = append(b.out.Cycle.Peer, took.Seconds())
	}
	return b.remove(ctx, vm)
}

// stall asks a program in the guest how long its writes wait: seconds with a snapshot against seconds without one.
func (b *bench) stall(ctx context.Context) error {
	const vm = "stall"
	dir := filepath.Join(b.temp, "probe")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, "probe"), "./tests/bench/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the probe: %w: %s", err, out)
	}
	w, err := b.guest(ctx, vm, "--workload", "idle", "--disk", "512M", "--content", dir)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := b.lab.Run(ctx, "guest", hostA, vm, "--run", "/data/probe"); err != nil {
		return err
	}
	if _, err := b.protect(ctx, vm); err != nil {
		return err
	}
	began := time.Now()
	var taken []time.Time
	for range 2 * b.cycles {
		if err := wait(ctx, 4*time.Second); err != nil { // seconds without a snapshot are the control
			return err
		}
		if _, err := b.lab.CLI(ctx, "sync", vm); err != nil {
			return err
		}
		p, err := b.newest(ctx, vm)
		if err != nil {
			return err
		}
		taken = append(taken, p.TakenAt)
	}
	for _, l := range w.Lines(hostA) {
		m := probeLine.FindStringSubmatch(l.Text)
		if m == nil || l.At.Before(began) {
			continue
		}
		us, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return err
		}
		// The line is of the second before it; a snapshot's call takes a fraction of one.
		if near(taken, l.At.Add(-1200*time.Millisecond), l.At.Add(300*time.Millisecond)) {
			b.out.Stall.With = append(b.out.Stall.With, us/1000)
		} else {
			b.out.Stall.Without = append(b.out.Stall.Without, us/1000)
		}
	}
	if err := b.unprotect(ctx, vm); err != nil {
		return err
	}
	return b.remove(ctx, vm)
}

// slowdown compares the rows that a database commits a second, as fast as it can, with and without protection at RPO 10 s,
// in turns.
func (b *bench) slowdown(ctx context.Context) error {
	const vm, span = "slow", 40 * time.Second
	w, err := b.guest(ctx, vm, "--workload", "db", "--disk", "512M", "--rate", "100")
	if err != nil {
		return err
	}
	defer w.Close()
	rate := func() (float64, error) {
		from := time.Now()
		if err := wait(ctx, span); err != nil {
			return 0, err
		}
		n := 0
		for _, a := range w.Acks() {
			if a.At.After(from) {
				n++
			}
		}
		return float64(n) / time.Since(from).Seconds(), nil
	}
	for range b.rounds {
		alone, err := rate()
		if err != nil {
			return err
		}
		if _, err := b.lab.CLI(ctx, "protect", "--standby", hostB, "--rpo", "10s", "--failover", "manual", "--wait", vm); err != nil {
			return err
		}
		guarded, err := rate()
		if err != nil {
			return err
		}
		if err := b.unprotect(ctx, vm); err != nil {
			return err
		}
		b.out.Slowdown.Alone = append(b.out.Slowdown.Alone, alone)
		b.out.Slowdown.Protected = append(b.out.Slowdown.Protected, guarded)
	}
	return b.remove(ctx, vm)
}

func near(moments []time.Time, from, to time.Time) bool {
	for _, m := range moments {
		if m.After(from) && m.Before(to) {
			return true
		}
	}
	return false
}

// memory is the highest resident size that the agents ever had, after everything above.
func (b *bench) memory(ctx context.Context) error {
	for _, h := range []string{hostA, hostB} {
		out, err := b.lab.Exec(ctx, h, "sh", "-c", `for p in $(pgrep -f '[u]nderstudy agent'); do grep -H VmHWM /proc/$p/status; done | awk '{print $2}' | sort -n | tail -n1`)
		if err != nil {
			return err
		}
		kib, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		if err != nil {
			return fmt.Errorf("memory of the agent on %s: %w", h, err)
		}
		b.out.Memory = max(b.out.Memory, kib/1024)
	}
	return nil
}

// replicateTook is how long the replicate stage of the last point took.
func (b *bench) replicateTook(ctx context.Context, vm string) (float64, error) {
	p, err := b.lab.Status(ctx, vm)
	if err != nil {
		return 0, err
	}
	if p.LastPoint == nil {
		return 0, fmt.Errorf("%s has no point", vm)
	}
	return p.LastPoint.Replicate / 1000, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// collect copies real files of this machine until there are enough bytes.
func collect(dir string) (int64, error) {
	var total int64
	for _, root := range []string{"/usr/lib", "/usr/bin", "/usr/share"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || total >= content || !d.Type().IsRegular() {
				return nil //nolint:nilerr // what cannot be read is left out
			}
			info, err := d.Info()
			if err != nil || info.Size() == 0 || info.Size() > maxFile {
				return nil //nolint:nilerr // as above
			}
			n, err := copyFile(path, filepath.Join(dir, path))
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
	}
	if total < 250<<20 {
		return total, fmt.Errorf("this machine has only %d bytes of files to copy", total)
	}
	return total, nil
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, nil // unreadable: left out
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return n, err
}
