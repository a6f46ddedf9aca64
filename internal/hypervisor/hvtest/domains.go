package hvtest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

func listing(t *testing.T, s *suite) {
	v, err := s.HV.Versions(s.ctx())
	require.NoError(t, err)
	require.NotEmpty(t, v.Libvirt)
	require.NotEmpty(t, v.QEMU)

	gone := filepath.Join(s.Dir, "images", "nothing-is-here")
	more := `<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'><host name='192.0.2.1' port='10809'/></source><target dev='vdc' bus='virtio'/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/nonexistent'/><target dev='vdd' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + gone + `'/><target dev='vde' bus='virtio'/><shareable/></disk>
<disk type='file' device='disk'><driver name='qemu' type='vmdk'/><source file='` + gone + `'/><target dev='vdf' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='` + gone + `'/><target dev='vdg' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + gone + `'/><target dev='vdh' bus='virtio'/><readonly/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>`
	d := s.define(with, more)
	require.Equal(t, hypervisor.ShutOff, d.State)
	require.True(t, d.Persistent)
	require.Len(t, d.Disks, 9)
	want := map[string]string{"vda": "", "vdb": "", "vdc": "network", "vdd": "block device", "vde": "shareable", "vdf": "vmdk",
		"vdg": "cannot be read", "vdh": "", "hdc": ""}
	for _, disk := range d.Disks {
		problem, known := want[disk.Target]
		require.True(t, known, disk.Target)
		if problem == "" {
			require.Empty(t, disk.Problem, disk.Target)
		} else {
			require.Contains(t, disk.Problem, problem, disk.Target)
		}
		require.Equal(t, disk.Target == "vdh" || disk.Target == "hdc", disk.ReadOnly, disk.Target)
	}
	require.Equal(t, model.FormatQCOW2, d.Disks[0].Format)
	require.Equal(t, model.FormatRaw, d.Disks[1].Format)
	require.EqualValues(t, size, d.Disks[0].Size)
	require.EqualValues(t, size, d.Disks[1].Size)

	running := s.start(two, "")
	list, err := s.HV.Domains(s.ctx())
	require.NoError(t, err)
	byUUID := map[string]hypervisor.Domain{}
	for _, d := range list {
		byUUID[d.VM.UUID] = d
	}
	require.Equal(t, d, byUUID[d.VM.UUID])
	r := byUUID[running.UUID]
	require.Equal(t, hypervisor.Running, r.State)
	require.EqualValues(t, size, r.Disks[1].Size)
	byName, err := s.HV.Domain(s.ctx(), running.Name)
	require.NoError(t, err)
	require.Equal(t, running, byName.VM)
	xml, err := s.HV.XML(s.ctx(), running.UUID)
	require.NoError(t, err)
	again, err := s.HV.Define(s.ctx(), xml)
	require.NoError(t, err)
	require.Equal(t, running, again.VM)
	_, err = s.HV.Define(s.ctx(), "<!DOCTYPE domain [<!ENTITY x 'y'>]><domain type='qemu'><name>&x;</name></domain>")
	s.kind(model.InvalidArgument, err)
}

func lifecycle(t *testing.T, s *suite) {
	ctx := s.ctx()
	d := s.define(one, "")
	uuid := d.VM.UUID
	twice := func(f func() error) {
		t.Helper()
		require.NoError(t, f())
		require.NoError(t, f())
	}
	twice(func() error { _, err := s.HV.Define(ctx, s.xml(d.VM.Name, uuid, one, "")); return err })
	twice(func() error { return s.HV.SetAutostart(ctx, uuid, true) })
	require.True(t, s.state(d.VM).Autostart)
	twice(func() error { return s.HV.SetAutostart(ctx, uuid, false) })
	require.False(t, s.state(d.VM).Autostart)
	s.kind(model.NotRunning, s.HV.Suspend(ctx, uuid))
	s.kind(model.NotRunning, s.HV.Resume(ctx, uuid))

	events := s.watch()
	twice(func() error { return s.HV.Start(ctx, uuid) })
	require.Equal(t, hypervisor.Running, s.state(d.VM).State)
	s.kind(model.Conflict, s.HV.Undefine(ctx, uuid))
	twice(func() error { return s.HV.Suspend(ctx, uuid) })
	require.Equal(t, hypervisor.Paused, s.state(d.VM).State)
	s.capture(d.VM, mark(1), full("vda")) // a paused VM can be captured
	s.end(d.VM)
	twice(func() error { return s.HV.Resume(ctx, uuid) })
	require.Equal(t, hypervisor.Running, s.state(d.VM).State)
	twice(func() error { return s.HV.Destroy(ctx, uuid) })
	require.False(t, s.state(d.VM).State.Active())
	var kinds []model.EventKind
	for range 4 {
		for {
			e := events.next(d.VM)
			if n := len(kinds); n == 0 || kinds[n-1] != e.Kind { // libvirt tells of a start as started and resumed
				if e.Kind != model.EventResumed || n > 0 && kinds[n-1] != model.EventStarted {
					kinds = append(kinds, e.Kind)
					break
				}
			}
		}
	}
	require.Equal(t, []model.EventKind{model.EventStarted, model.EventPaused, model.EventResumed, model.EventStopped}, kinds)

	twice(func() error { return s.HV.Undefine(ctx, uuid) }) // with a checkpoint
	_, err := s.HV.Domain(ctx, uuid)
	s.kind(model.NotFound, err)
	twice(func() error { return s.HV.Destroy(ctx, uuid) })
}

func missing(t *testing.T, s *suite) {
	ctx, uuid := s.ctx(), NewUUID()
	_, err := s.HV.Domain(ctx, "no-such-domain")
	s.kind(model.NotFound, err)
	_, err = s.HV.Domain(ctx, uuid)
	s.kind(model.NotFound, err)
	_, err = s.HV.XML(ctx, uuid)
	s.kind(model.NotFound, err)
	s.kind(model.NotFound, s.HV.Start(ctx, uuid))
	s.kind(model.NotFound, s.HV.SetAutostart(ctx, uuid, true))
	_, err = s.HV.Checkpoints(ctx, uuid)
	s.kind(model.NotFound, err)
	_, err = s.HV.Capture(ctx, uuid, s.spec(model.VMRef{Name: "x", UUID: uuid}, mark(1), full("vda")))
	s.kind(model.NotFound, err)
	require.NoError(t, s.HV.DeleteCheckpoint(ctx, uuid, mark(1)))

	vm := s.start(one, "")
	_, err = s.HV.DirtyBytes(ctx, vm.UUID, mark(1))
	s.kind(model.NotFound, err)
}

func freeze(t *testing.T, s *suite) {
	vm := s.start(one, "")
	spec := s.spec(vm, mark(1), full("vda"))
	spec.Freeze, spec.FreezeTimeout = true, time.Second
	_, err := s.HV.Capture(s.ctx(), vm.UUID, spec)
	s.kind(model.QuiesceFailed, err)
	require.Empty(t, s.checkpoints(vm))
	s.end(vm)
	s.kind(model.Unsupported, s.HV.PingGuest(s.ctx(), vm.UUID, time.Second))
}

func counters(t *testing.T, s *suite) {
	vm := s.start(one, "")
	read := func(only ...string) (hypervisor.Stats, bool) {
		all, err := s.HV.Stats(s.ctx(), hypervisor.StatsQuery{Only: only, CPU: len(only) > 0})
		require.NoError(t, err)
		for _, st := range all {
			if st.UUID == vm.UUID {
				return st, true
			}
		}
		return hypervisor.Stats{}, false
	}
	before, ok := read()
	require.True(t, ok)
	s.write(vm, "vda", 0x01, 0, cluster)
	after, ok := read(vm.UUID, "11111111-2222-3333-4444-999999999999")
	require.True(t, ok)
	require.GreaterOrEqual(t, after.WriteBytes-before.WriteBytes, int64(cluster))
	require.Greater(t, after.WriteReqs, before.WriteReqs)
	require.Positive(t, after.CPUTime)
	require.Zero(t, before.CPUTime, "not asked for")
	require.Equal(t, before.Run, after.Run)
	_, ok = read("11111111-2222-3333-4444-999999999999")
	require.False(t, ok, "only what was asked for")
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	_, ok = read()
	require.False(t, ok, "only running domains have counters")
}

func memory(t *testing.T, s *suite) {
	vm := s.start(one, "")
	_, done, err := s.HV.MemoryRate(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.False(t, done, "nobody asked yet")
	require.NoError(t, s.HV.StartMemoryRate(s.ctx(), vm.UUID, 2*time.Second))
	s.kind(model.JobConflict, s.HV.StartMemoryRate(s.ctx(), vm.UUID, time.Second))
	require.Eventually(t, func() bool {
		rate, done, err := s.HV.MemoryRate(s.ctx(), vm.UUID)
		require.NoError(t, err)
		require.GreaterOrEqual(t, rate, int64(0))
		return done
	}, 30*time.Second, 100*time.Millisecond)
	require.NoError(t, s.HV.StartMemoryRate(s.ctx(), vm.UUID, time.Second), "again")
	c := s.capture(vm, mark(1), full("vda"))
	require.EqualValues(t, 0, s.byteAt(s.open(c, "vda"), 0), "a capture does not wait for it")
	s.end(vm)
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	s.kind(model.NotRunning, s.HV.StartMemoryRate(s.ctx(), vm.UUID, time.Second))
	_, _, err = s.HV.MemoryRate(s.ctx(), vm.UUID)
	s.kind(model.NotRunning, err)
	s.kind(model.NotFound, s.HV.StartMemoryRate(s.ctx(), "11111111-2222-3333-4444-999999999999", time.Second))
}

func restart(t *testing.T, s *suite) {
	if s.RestartDaemon == nil {
		t.Skip("this hypervisor has no daemon to restart")
	}
	vm := s.start(one, "")
	events := s.watch()
	c := s.capture(vm, mark(1), full("vda"))
	s.RestartDaemon(t)
	events.reconnected()
	require.Equal(t, hypervisor.Running, s.state(vm).State)
	socket, err := s.HV.CaptureSocket(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.Equal(t, c.Socket, socket, "the capture outlives it")
	require.EqualValues(t, 0, s.byteAt(s.open(c, "vda"), 0))
	s.end(vm)
	s.capture(vm, mark(2), since("vda", mark(1)))
	s.end(vm)
	s.KillQEMU(t, vm)
	require.Equal(t, model.EventCrashed, events.next(vm).Kind)
}

func hung(t *testing.T, s *suite) {
	if s.StopDaemon == nil {
		t.Skip("this hypervisor has no daemon to freeze")
	}
	vm := s.start(one, "")
	cont := s.StopDaemon(t)
	begin := time.Now()
	for _, f := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := s.HV.Domains(ctx); return err },
		func(ctx context.Context) error { _, err := s.HV.Domain(ctx, vm.UUID); return err },
		func(ctx context.Context) error { return s.HV.Destroy(ctx, vm.UUID) },
		func(ctx context.Context) error {
			_, err := s.HV.Capture(ctx, vm.UUID, s.spec(vm, mark(1), full("vda")))
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(s.T.Context(), 300*time.Millisecond)
		s.kind(model.Unreachable, f(ctx))
		cancel()
	}
	require.Less(t, time.Since(begin), 15*time.Second)
	cont()
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	require.Empty(t, s.checkpoints(vm))
}

// watching is a receiver of events.
type watching struct {
	t     *testing.T
	ch    <-chan model.Event
	again chan struct{}
}

// watch begins to receive events and returns when it does.
func (s *suite) watch() *watching {
	s.T.Helper()
	w := &watching{t: s.T, again: make(chan struct{}, 16)}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	w.ch, err = s.HV.Events(ctx, func() { w.again <- struct{}{} })
	require.NoError(s.T, err)
	s.T.Cleanup(func() {
		cancel()
		for range w.ch {
		}
	})
	w.reconnected()
	return w
}

func (w *watching) reconnected() {
	w.t.Helper()
	select {
	case <-w.again:
	case <-time.After(time.Minute):
		require.Fail(w.t, "no connection for events")
	}
}

// next is the next event about a VM.
func (w *watching) next(vm model.VMRef) model.Event {
	w.t.Helper()
	for timeout := time.After(time.Minute); ; {
		select {
		case e, ok := <-w.ch:
			require.True(w.t, ok, "the events ended")
			if e.VM == vm {
				require.WithinDuration(w.t, time.Now(), e.At, time.Minute)
				return e
			}
		case <-timeout:
			require.Fail(w.t, "no event")
		}
	}
}
