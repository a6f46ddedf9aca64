package hvtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

func delta(t *testing.T, s *suite) {
	vm := s.start(one, "")
	s.write(vm, "vda", 0x11, 0, cluster)
	first := s.capture(vm, mark(1), full("vda"))
	require.Empty(t, first.Exports[0].Bitmap)
	d := s.open(first, "vda")
	require.EqualValues(t, size, d.Size())
	require.EqualValues(t, 0x11, s.byteAt(d, 512))
	socket, err := s.HV.CaptureSocket(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.Equal(t, first.Socket, socket)
	s.end(vm)

	s.write(vm, "vda", 0x22, 2*mib+4096, 4096)
	sizes, err := s.HV.DirtyBytes(s.ctx(), vm.UUID, mark(1))
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"vda": cluster}, sizes)

	second := s.capture(vm, mark(2), since("vda", mark(1)))
	d = s.open(second, "vda")
	require.Equal(t, dirtyAt(2*mib, cluster), s.dirty(d))
	require.EqualValues(t, 0x22, s.byteAt(d, 2*mib+4096))
	require.EqualValues(t, 0, s.byteAt(d, 2*mib))
	s.end(vm)

	list, err := s.HV.Checkpoints(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, mark(1), list[0].Name)
	require.Equal(t, mark(1), list[1].Parent)
	require.Equal(t, []string{"vda"}, list[1].Disks)
	require.WithinDuration(t, time.Now(), list[1].Created, time.Minute)
}

func instant(t *testing.T, s *suite) {
	vm := s.start(two, "")
	s.write(vm, "vda", 0x01, mib, 4096)
	s.write(vm, "vdb", 0x02, mib, 4096)
	c := s.capture(vm, mark(1), full("vda"), full("vdb"))
	s.write(vm, "vda", 0xaa, mib, 4096)
	s.write(vm, "vdb", 0xbb, mib, 4096)
	require.EqualValues(t, 0x01, s.byteAt(s.open(c, "vda"), mib))
	require.EqualValues(t, 0x02, s.byteAt(s.open(c, "vdb"), mib))
	s.end(vm)

	// A disk may go whole beside one that goes by its delta.
	c = s.capture(vm, mark(2), since("vda", mark(1)), full("vdb"))
	require.NotEmpty(t, c.Exports[0].Bitmap)
	require.Empty(t, c.Exports[1].Bitmap)
	require.Equal(t, dirtyAt(mib, cluster), s.dirty(s.open(c, "vda")))
	require.EqualValues(t, 0xbb, s.byteAt(s.open(c, "vdb"), mib))
	s.end(vm)
}

func rawDisk(t *testing.T, s *suite) {
	vm := s.start(with, "")
	s.write(vm, "vdb", 0x33, 0, 4096)
	c := s.capture(vm, mark(1), full("vda"), raw("vdb"))
	require.EqualValues(t, 0x33, s.byteAt(s.open(c, "vdb"), 0))
	s.end(vm)
	list, err := s.HV.Checkpoints(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.Equal(t, []string{"vda"}, list[0].Disks)

	// No checkpoint at all, and one disk of two.
	c = s.capture(vm, "", raw("vdb"))
	require.EqualValues(t, 0x33, s.byteAt(s.open(c, "vdb"), 0))
	s.end(vm)
	require.Equal(t, []string{mark(1)}, s.checkpoints(vm))
}

func failedCapture(t *testing.T, s *suite) {
	vm := s.start(with, "")
	try := func(kind model.Kind, spec hypervisor.CaptureSpec) {
		t.Helper()
		_, err := s.HV.Capture(s.ctx(), vm.UUID, spec)
		s.kind(kind, err)
	}
	nothing := func(checkpoints ...string) {
		t.Helper()
		require.ElementsMatch(t, checkpoints, s.checkpoints(vm))
		s.end(vm)
	}
	try(model.CheckpointLost, s.spec(vm, mark(2), since("vda", mark(1)))) // never was
	nothing()
	try(model.Unsupported, s.spec(vm, mark(2), full("vda"), full("vdb"))) // raw
	nothing()
	try(model.NotFound, s.spec(vm, mark(2), full("vdq")))
	nothing()
	nowhere := s.spec(vm, mark(2), full("vda"))
	nowhere.ScratchDir = "/nonexistent/scratch"
	try(model.Internal, nowhere)
	nothing()
	nowhere = s.spec(vm, mark(2), full("vda"))
	nowhere.Socket = "/nonexistent/socket"
	try(model.Internal, nowhere)
	nothing()

	s.capture(vm, mark(1), full("vda"))
	other := s.spec(vm, mark(2), full("vda"))
	other.Socket += "x"
	try(model.JobConflict, other)
	require.Equal(t, []string{mark(1)}, s.checkpoints(vm))
	socket, err := s.HV.CaptureSocket(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.NotEmpty(t, socket, "the first one goes on")
	nothing(mark(1))
	// And what was tried in vain works now.
	s.capture(vm, mark(2), since("vda", mark(1)))
	s.end(vm)
}

// A capture's caller goes away at any moment of it: either it was taken, or nothing is left when the call returns.
func abandonedCapture(t *testing.T, s *suite) {
	vm := s.start(one, "")
	for k := range 12 {
		ctx, cancel := context.WithTimeout(s.ctx(), time.Duration(k*k)*2*time.Millisecond)
		_, err := s.HV.Capture(ctx, vm.UUID, s.spec(vm, mark(1), full("vda")))
		cancel()
		if err != nil {
			s.kind(model.Unreachable, err)
			socket, err := s.HV.CaptureSocket(s.ctx(), vm.UUID)
			require.NoError(t, err)
			require.Empty(t, socket, "after %d ms", 2*k*k)
			require.Empty(t, s.checkpoints(vm), "after %d ms", 2*k*k)
			continue
		}
		s.end(vm)
		require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(1)))
	}
	s.capture(vm, mark(2), full("vda"))
	s.end(vm)
}

func endTwice(t *testing.T, s *suite) {
	vm := s.start(one, "")
	s.end(vm)
	c := s.capture(vm, mark(1), full("vda"))
	s.open(c, "vda") // a client that is still connected is no obstacle
	s.end(vm)
	s.end(vm)
	s.capture(vm, mark(2), since("vda", mark(1)))
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	s.end(vm)
	require.NoError(t, s.HV.EndCapture(s.ctx(), NewUUID(), s.Dir+"/scratch"))
}

func merge(t *testing.T, s *suite) {
	vm := s.start(one, "")
	s.capture(vm, mark(1), full("vda"))
	s.end(vm)
	s.write(vm, "vda", 0x01, 0, 4096)
	s.capture(vm, mark(2), since("vda", mark(1)))
	s.end(vm)
	s.write(vm, "vda", 0x02, cluster, 4096)
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	require.Equal(t, []string{mark(1)}, s.checkpoints(vm))
	c := s.capture(vm, mark(3), since("vda", mark(1)))
	require.Equal(t, dirtyAt(0, 2*cluster), s.dirty(s.open(c, "vda")))
	s.end(vm)

	// The parent goes, the child stays and becomes the root.
	s.write(vm, "vda", 0x03, 3*mib, 4096)
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(1)))
	list, err := s.HV.Checkpoints(s.ctx(), vm.UUID)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Empty(t, list[0].Parent)
	c = s.capture(vm, mark(4), since("vda", mark(3)))
	require.Equal(t, dirtyAt(3*mib, cluster), s.dirty(s.open(c, "vda")))
	s.end(vm)
}

func leftOut(t *testing.T, s *suite) {
	vm := s.start(two, "")
	s.capture(vm, mark(1), full("vda"), full("vdb"))
	s.end(vm)
	s.write(vm, "vdb", 0x01, 0, 4096)
	s.capture(vm, mark(2), since("vda", mark(1)), raw("vdb"))
	s.end(vm)
	s.write(vm, "vda", 0x02, 0, 4096)
	s.write(vm, "vdb", 0x03, mib, 4096)
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	s.write(vm, "vdb", 0x04, 2*mib, 4096)
	c := s.capture(vm, mark(3), since("vda", mark(1)), since("vdb", mark(1)))
	require.Equal(t, dirtyAt(0, cluster), s.dirty(s.open(c, "vda")))
	var written []blockio.Extent
	for _, off := range []int64{0, mib, 2 * mib} {
		written = append(written, dirtyAt(off, cluster)...)
	}
	require.Equal(t, written, s.dirty(s.open(c, "vdb")))
	s.end(vm)
}

func cleanStop(t *testing.T, s *suite) {
	vm := s.start(one, "")
	s.capture(vm, mark(1), full("vda"))
	s.end(vm)
	s.write(vm, "vda", 0x01, mib, 4096)
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	_, err := s.HV.DirtyBytes(s.ctx(), vm.UUID, mark(1))
	s.kind(model.NotRunning, err)
	_, err = s.HV.Capture(s.ctx(), vm.UUID, s.spec(vm, mark(2), since("vda", mark(1))))
	s.kind(model.NotRunning, err)
	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	c := s.capture(vm, mark(2), since("vda", mark(1)))
	require.Equal(t, dirtyAt(mib, cluster), s.dirty(s.open(c, "vda")))
	s.end(vm)
}

func killed(t *testing.T, s *suite) {
	vm := s.start(two, "")
	s.capture(vm, mark(1), full("vda"), full("vdb"))
	s.end(vm)
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID)) // saves the bitmaps of 1
	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	s.capture(vm, mark(2), since("vda", mark(1)), since("vdb", mark(1)))
	s.end(vm)
	events := s.watch()
	s.KillQEMU(t, vm)
	require.Equal(t, model.EventCrashed, events.next(vm).Kind)
	d := s.state(vm)
	require.Equal(t, hypervisor.ShutOff, d.State)
	require.Equal(t, "crashed", d.Reason)
	require.Equal(t, []string{mark(1), mark(2)}, s.checkpoints(vm))

	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	for _, lost := range []string{mark(1), mark(2)} { // one is in use, the other absent
		_, err := s.HV.DirtyBytes(s.ctx(), vm.UUID, lost)
		s.kind(model.CheckpointLost, err)
		_, err = s.HV.Capture(s.ctx(), vm.UUID, s.spec(vm, mark(3), since("vda", lost), full("vdb")))
		s.kind(model.CheckpointLost, err)
	}
	s.noScratch()
	// A full one works at once, and the ruins can be removed while it is open.
	c := s.capture(vm, mark(3), full("vda"), full("vdb"))
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(1)))
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	require.Equal(t, []string{mark(3)}, s.checkpoints(vm))
	require.EqualValues(t, 0, s.byteAt(s.open(c, "vda"), 0))
	s.end(vm)
	s.write(vm, "vdb", 0x01, mib, 4096)
	c = s.capture(vm, mark(4), since("vda", mark(3)), since("vdb", mark(3)))
	require.Empty(t, s.dirty(s.open(c, "vda")))
	require.Equal(t, dirtyAt(mib, cluster), s.dirty(s.open(c, "vdb")))
	s.end(vm)
}

func deleteStopped(t *testing.T, s *suite) {
	vm := s.start(one, "")
	for seq, d := range []hypervisor.CaptureDisk{full("vda"), since("vda", mark(1)), since("vda", mark(2))} {
		s.capture(vm, mark(model.Seq(seq+1)), d)
		s.end(vm)
		s.write(vm, "vda", 0x01, int64(seq)*mib, 4096)
	}
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, mark(2)))
	require.Equal(t, []string{mark(1), mark(3)}, s.checkpoints(vm))
	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	// The name is free again, and the parent still knows everything.
	c := s.capture(vm, mark(2), since("vda", mark(1)))
	require.Len(t, s.dirty(s.open(c, "vda")), 3)
	s.end(vm)

	// In use in the file after a crash, and the VM off.
	require.NoError(t, s.HV.Destroy(s.ctx(), vm.UUID))
	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	s.capture(vm, mark(4), full("vda"))
	events := s.watch()
	s.KillQEMU(t, vm)
	events.next(vm)
	for _, name := range s.checkpoints(vm) {
		require.NoError(t, s.HV.DeleteCheckpoint(s.ctx(), vm.UUID, name))
	}
	require.Empty(t, s.checkpoints(vm))
	require.NoError(t, s.HV.EndCapture(s.ctx(), vm.UUID, s.Dir+"/scratch")) // the dead QEMU's scratch files
	s.noScratch()
	require.NoError(t, s.HV.Start(s.ctx(), vm.UUID))
	s.capture(vm, mark(1), full("vda"))
	s.end(vm)
}
