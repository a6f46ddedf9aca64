package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
	"understudy/internal/snapshot"
)

type dirs struct{ run, state string }

func newDirs(t testing.TB) dirs {
	dir, err := os.MkdirTemp("", "us") // t.TempDir is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dirs{filepath.Join(dir, "r"), filepath.Join(dir, "s")}
}

// agent is a new process of the agent: all it knows is on disk and in libvirt.
func (d dirs) agent(l *libvirtd, imageDirs ...string) *snapshot.Source {
	return snapshot.New(l, snapshot.Options{Host: "host-a", RunDir: d.run, StateDir: d.state, ImageDirs: imageDirs})
}

func take(t testing.TB, s *snapshot.Source, n, parent int) snapshot.Snapshot {
	t.Helper()
	snap, err := s.Take(context.Background(), request(n, parent))
	require.NoError(t, err)
	return snap
}

func request(n, parent int) snapshot.Request {
	r := snapshot.Request{VM: vm, Point: point(n)}
	if parent > 0 {
		r.Parent = point(parent)
	}
	return r
}

func settle(t testing.TB, s *snapshot.Source, n int) {
	t.Helper()
	left, err := s.Settle(context.Background(), vm, point(n))
	require.NoError(t, err)
	require.Empty(t, left)
}

func modes(s snapshot.Snapshot) map[string]model.DiskMode {
	out := map[string]model.DiskMode{}
	for _, d := range s.Disks {
		out[d.Target] = d.Mode
	}
	return out
}

func TestFirstPointIsFullAndTheNextOneADelta(t *testing.T) {
	l, d := newLibvirtd("vda"), newDirs(t)
	s := d.agent(l)
	snap := take(t, s, 1, 0)
	require.Equal(t, model.ModeFull, snap.Disks[0].Mode)
	require.Equal(t, model.CrashConsistent, snap.Consistency)
	settle(t, s, 1)
	l.write("vda", 3, 7)
	snap = take(t, s, 2, 1)
	require.Equal(t, model.ModeDelta, snap.Disks[0].Mode)
	require.Empty(t, snap.Disks[0].Reason)
	require.EqualValues(t, model.ClusterSize, snap.Disks[0].DirtyBytes)
	again, err := d.agent(l).Take(context.Background(), request(2, 1))
	require.NoError(t, err)
	require.Equal(t, snap, again, "another process gives the same open snapshot")
	settle(t, s, 2)
	require.Equal(t, []string{point(2).Mark()}, l.names())
	require.Nil(t, l.job)
}

func TestEachStepDownOfTheLadderIsSaid(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		before func(l *libvirtd, d dirs)
		forced string
		want   map[string]model.DiskMode
		reason string // of vda
	}{
		"QEMU was killed":       {func(l *libvirtd, _ dirs) { l.crash() }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "bitmap of point g1-s1 is lost"},
		"the list was lost":     {func(l *libvirtd, _ dirs) { l.marks = nil }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "libvirt has no checkpoint"},
		"our records were lost": {func(_ *libvirtd, d dirs) { _ = os.RemoveAll(d.state) }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "no record"},
		"a record is damaged": {func(_ *libvirtd, d dirs) {
			_ = os.WriteFile(filepath.Join(d.state, "captures", vm.UUID, "committed.json"), []byte("{"), 0o600)
		}, "", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "no record"},
		"bitmaps are distrusted":    {nil, "host rebooted", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "host rebooted"},
		"a disk grew":               {func(l *libvirtd, _ dirs) { l.dom.Disks[0].Size++ }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "delta"}, "grown from 786432 to 786433"},
		"a disk shrank":             {func(l *libvirtd, _ dirs) { l.dom.Disks[0].Size-- }, "", map[string]model.DiskMode{"vda": "full", "vdb": "delta"}, "shrunk"},
		"an image moved":            {func(l *libvirtd, _ dirs) { l.dom.Disks[0].Path = "/images/new" }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "delta"}, "is now /images/new"},
		"a disk was plugged in":     {func(l *libvirtd, _ dirs) { l.attach("vdc", model.FormatQCOW2) }, "", map[string]model.DiskMode{"vda": "delta", "vdb": "delta", "vdc": "full"}, ""},
		"a disk is raw":             {func(l *libvirtd, _ dirs) { l.dom.Disks[0].Format = model.FormatRaw }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "delta"}, "raw image has no dirty bitmap"},
		"libvirt refuses the delta": {func(l *libvirtd, _ dirs) { l.marks[0].dirty["vda"] = nil }, "", map[string]model.DiskMode{"vda": "resync", "vdb": "resync"}, "is lost"},
	} {
		t.Run(name, func(t *testing.T) {
			l, d := newLibvirtd("vda", "vdb"), newDirs(t)
			s := d.agent(l)
			take(t, s, 1, 0)
			settle(t, s, 1)
			if c.before != nil {
				c.before(l, d)
			}
			r := request(2, 1)
			r.ForceResync = c.forced
			snap, err := s.Take(ctx, r)
			require.NoError(t, err)
			require.Equal(t, c.want, modes(snap))
			if c.reason == "" {
				require.Empty(t, snap.Disks[0].Reason)
			}
			require.Contains(t, snap.Disks[0].Reason, c.reason)
			settle(t, s, 2)
			require.Equal(t, []string{point(2).Mark()}, l.names())
			l.dom.Disks[0].Format = model.FormatQCOW2
		})
	}
}

func TestAStrangersMarksAndJobsAreRefusedAndSurvive(t *testing.T) {
	ctx := context.Background()
	l, d := newLibvirtd("vda"), newDirs(t)
	s := d.agent(l)
	l.marks = append(l.marks, &mark{name: "virtnbdbackup.0"})
	_, err := s.Take(ctx, request(1, 0))
	require.Equal(t, model.ForeignCheckpoint, model.KindOf(err))
	require.ErrorContains(t, err, "virtnbdbackup.0")

	l.marks = nil
	l.job = &job{socket: "/run/other.sock"}
	_, err = s.Take(ctx, request(1, 0))
	require.Equal(t, model.JobConflict, model.KindOf(err))
	settle(t, s, 1)
	_, err = s.Abandon(ctx, vm, point(1))
	require.NoError(t, err)
	_, err = s.Retire(ctx, vm)
	require.NoError(t, err)
	require.NotNil(t, l.job, "ending the job would end somebody else's")
}

func TestLateMessagesDoNoHarm(t *testing.T) {
	ctx := context.Background()
	l, d := newLibvirtd("vda"), newDirs(t)
	s := d.agent(l)
	take(t, s, 1, 0)
	settle(t, s, 1)
	_, err := s.Abandon(ctx, vm, point(1))
	require.NoError(t, err)
	require.Equal(t, []string{point(1).Mark()}, l.names(), "a committed point is not abandoned")

	take(t, s, 2, 1)
	settle(t, s, 1)
	_, err = s.Get(ctx, vm, point(2))
	require.NoError(t, err, "the next snapshot stays open")
	_, err = s.Abandon(ctx, vm, point(1))
	require.NoError(t, err)
	settle(t, s, 2)
	settle(t, s, 1)
	require.Equal(t, []string{point(2).Mark()}, l.names(), "the cursor does not go back")
}

func TestAVMThatIsOffOrGoneIsSettledAbandonedAndRetired(t *testing.T) {
	ctx := context.Background()
	l, d := newLibvirtd("vda"), newDirs(t)
	s := d.agent(l)
	take(t, s, 1, 0)
	require.False(t, l.dom.Autostart)
	l.job, l.dom.State = nil, hypervisor.ShutOff
	_, err := s.Get(ctx, vm, point(1))
	require.Equal(t, model.NotRunning, model.KindOf(err))
	_, err = s.Take(ctx, request(2, 0))
	require.Equal(t, model.NotRunning, model.KindOf(err))

	l.refuse["DeleteCheckpoint"] = model.Fail(model.Internal, nil, "no")
	left, err := s.Abandon(ctx, vm, point(1))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "checkpoint understudy-g1-s1 of db1: no")
	delete(l.refuse, "DeleteCheckpoint")

	left, err = d.agent(l).Retire(ctx, vm)
	require.NoError(t, err)
	require.Empty(t, left)
	require.True(t, l.dom.Autostart, "autostart is as it was")
	require.Empty(t, l.names())
	marks, err := s.Marks(ctx)
	require.NoError(t, err)
	require.Empty(t, marks)

	l.missing = true
	left, err = s.Retire(ctx, vm)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestImagesOutsideTheAllowedFoldersAreRefused(t *testing.T) {
	ctx := context.Background()
	l, d := newLibvirtd("vda"), newDirs(t)
	base := t.TempDir()
	image := func(path string) string {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		return path
	}
	allowed := filepath.Join(base, "images")
	secret := image(filepath.Join(base, "secret.qcow2"))
	s := d.agent(l, allowed)

	l.dom.Disks[0].Path = image(filepath.Join(allowed, "a.qcow2"))
	_, _, err := s.Admit(ctx, vm.UUID)
	require.NoError(t, err)
	l.dom.Disks[0].Path = image(filepath.Join(d.state, "replicas", vm.UUID, "active", "g2", "vda.qcow2"))
	_, _, err = s.Admit(ctx, vm.UUID)
	require.NoError(t, err, "a VM that failed over runs from the store")

	link := filepath.Join(allowed, "link.qcow2")
	require.NoError(t, os.Symlink(secret, link))
	for _, path := range []string{secret, link, allowed + "/../secret.qcow2", allowed + "-other"} {
		l.dom.Disks[0].Path = path
		_, err = s.Take(ctx, request(1, 0))
		require.Error(t, err, path)
		facts, _, ferr := s.Inspect(ctx, vm.UUID)
		require.NoError(t, ferr)
		require.NotEmpty(t, facts.Problems)
	}
	l.dom.Disks[0].Path = link
	_, err = s.Take(ctx, request(1, 0))
	require.Equal(t, model.Refused, model.KindOf(err))
	require.ErrorContains(t, err, "--image-dir")
	require.ErrorContains(t, err, allowed)

	l.dom.Disks[0].ReadOnly = true
	_, err = s.Take(ctx, request(1, 0))
	require.Equal(t, model.Unsupported, model.KindOf(err), "nothing to replicate")
}

// A protection is removed while a capture is under way, or waits for its turn: whichever comes first, nothing is left.
func TestARetireBesideACaptureLeavesNothing(t *testing.T) {
	for name, captureFirst := range map[string]bool{"the capture has the turn": true, "the removal has the turn": false} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l, d := newLibvirtd("vda"), newDirs(t)
			s := d.agent(l)
			take(t, s, 1, 0)
			settle(t, s, 1)
			r := request(2, 1)
			turn, retired, gone := make(chan struct{}), make(chan error, 1), make(chan struct{})
			r.Wanted = func() error {
				if captureFirst {
					close(turn) // the removal begins, and waits
				}
				select {
				case <-gone:
					return model.Fail(model.StaleGeneration, nil, "its protection was removed")
				default:
					return nil
				}
			}
			retire := func() {
				_, err := s.Retire(ctx, vm)
				close(gone)
				retired <- err
			}
			if captureFirst {
				go func() {
					<-turn
					retire()
				}()
			} else {
				retire()
			}
			_, err := s.Take(ctx, r)
			require.Equal(t, !captureFirst, model.KindOf(err) == model.StaleGeneration)
			require.NoError(t, <-retired)
			require.Nil(t, l.job)
			require.Empty(t, l.names())
			marks, err := s.Marks(ctx)
			require.NoError(t, err)
			require.Empty(t, marks)
			files, err := filepath.Glob(filepath.Join(d.run, "*"))
			require.NoError(t, err)
			require.Empty(t, files, "no socket")
		})
	}
}

// A cycle is Take, Settle, Take, Settle. Whatever call the agent dies in, before or after its effect, a new process that is
// asked the same again, or told to abandon the point first, ends with one checkpoint, no job and a delta that misses nothing.
func TestAnAgentThatDiesInAnyCallLeavesWhatTheNextOneCleans(t *testing.T) {
	ctx := context.Background()
	for _, abandon := range []bool{false, true} {
		for _, late := range []bool{false, true} {
			for at := 1; ; at++ {
				l, d := newLibvirtd("vda"), newDirs(t)
				s := d.agent(l)
				take(t, s, 1, 0)
				settle(t, s, 1)
				l.write("vda", 4, 1)
				l.dieAt, l.dieLate = at, late
				next := 2
				_, err := s.Take(ctx, request(next, 1))
				died := err != nil
				if died {
					s = d.agent(l)
					if abandon {
						_, err := s.Abandon(ctx, vm, point(next))
						require.NoError(t, err)
						next++
					}
					_, err := s.Take(ctx, request(next, 1))
					require.NoError(t, err)
				}
				require.Equal(t, map[int]bool{4: true}, l.job.delta["vda"], "died at %d: %v", at, l.calls)
				if _, err := s.Settle(ctx, vm, point(next)); err != nil {
					died = true
					s = d.agent(l)
					settle(t, s, next)
				}
				require.Equal(t, []string{point(next).Mark()}, l.names(), "died at %d", at)
				require.Nil(t, l.job)
				l.dieAt = 0
				snap := take(t, s, next+1, next)
				require.Equal(t, model.ModeDelta, snap.Disks[0].Mode, "died at %d", at)
				if !died {
					require.Greater(t, at, 8)
					break
				}
			}
		}
	}
}

// Law: whatever happens between two points, what the ladder offers brings the standby from its last committed point to the
// frozen instant.
func TestLawNoWriteIsEverMissed(t *testing.T) {
	base := newDirs(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		run++
		d := dirs{base.run, filepath.Join(base.state, fmt.Sprint(run))}
		l := newLibvirtd("vda", "vdb")
		s := d.agent(l)
		standby := map[string][blocks]int{}
		committed, seq, value, settled := 0, 0, 0, true
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "write", "cycle", "cycle", "abandon", "crash", "restart", "raw", "lose", "settle"}).Draw(t, "step") {
			case "write":
				value++
				l.write(rapid.SampledFrom([]string{"vda", "vdb"}).Draw(t, "disk"), rapid.IntRange(0, blocks-1).Draw(t, "block"), value)
			case "crash":
				l.crash()
			case "restart":
				s = d.agent(l)
			case "lose":
				_ = os.RemoveAll(d.state)
			case "raw":
				f := &l.dom.Disks[1].Format
				*f = map[model.DiskFormat]model.DiskFormat{model.FormatRaw: model.FormatQCOW2, model.FormatQCOW2: model.FormatRaw}[*f]
			case "settle":
				if committed > 0 && !settled {
					_, err := s.Settle(ctx, vm, point(committed))
					require.NoError(t, err)
					settled = true
				}
			case "abandon", "cycle":
				seq++
				l.dieAt, l.dieLate = rapid.IntRange(0, 14).Draw(t, "die"), rapid.Bool().Draw(t, "late")
				snap, err := s.Take(ctx, request(seq, committed))
				l.dieAt = 0
				if err != nil {
					require.ErrorIs(t, err, errDied)
					if rapid.Bool().Draw(t, "tidy") {
						_, err = s.Abandon(ctx, vm, point(seq))
						require.NoError(t, err)
					}
					continue
				}
				if rapid.Bool().Draw(t, "commit") {
					for _, disk := range snap.Disks {
						standby[disk.Target] = receive(standby[disk.Target], l.job, disk)
						require.Equal(t, l.job.frozen[disk.Target], standby[disk.Target], "%s of point %d was %s", disk.Target, seq, disk.Mode)
					}
					committed, settled = seq, false
				}
			}
		}
	})
}

func receive(had [blocks]int, j *job, d model.SnapshotDisk) [blocks]int {
	if d.Mode != model.ModeDelta {
		return j.frozen[d.Target]
	}
	for b := range j.delta[d.Target] {
		had[b] = j.frozen[d.Target][b]
	}
	return had
}

func TestAFormerPrimaryKeepsNothingOfACaptureThatItsPowerLossEnded(t *testing.T) {
	l, d := newLibvirtd("vda"), newDirs(t)
	s := d.agent(l)
	take(t, s, 1, 0)
	settle(t, s, 1)
	take(t, s, 2, 1)
	scratch := filepath.Join(d.state, "scratch", vm.UUID, "understudy-scratch")
	require.NoError(t, os.WriteFile(scratch, nil, 0o600))
	l.crash()
	l.missing = true // demoted: its definition is gone
	left, err := d.agent(l).Leave(context.Background(), vm)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoFileExists(t, scratch)
	require.NoFileExists(t, filepath.Join(d.state, "captures", vm.UUID, "open.json"))
	require.FileExists(t, filepath.Join(d.state, "captures", vm.UUID, "autostart.json"), "for the day when it is the primary again")
}
