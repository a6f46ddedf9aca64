// Package hvtest is the suite that every hypervisor.Hypervisor passes, and a libvirtd of one's own to run it against.
package hvtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/nbd"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Setup is a hypervisor under test with what the port cannot do.
type Setup struct {
	HV  hypervisor.Hypervisor
	Dir string // a short path; the folders images, scratch and s in it are the suite's
	// CreateImage makes an empty image.
	CreateImage func(t testing.TB, path string, format model.DiskFormat, size int64)
	// Write is a guest's write to a running domain's disk.
	Write func(t testing.TB, vm model.VMRef, target string, pattern byte, off, length int64)
	// KillQEMU ends a domain's QEMU as kill -9 does.
	KillQEMU func(t testing.TB, vm model.VMRef)
	// Panic is a guest's kernel panic, Watchdog the end of a watchdog's time, of a domain with such devices.
	Panic    func(t testing.TB, vm model.VMRef)
	Watchdog func(t testing.TB, vm model.VMRef, action string)
	// FullDisk gives the path of a raw image on a file system that is full, and WriteIDE is a guest's write to the first sector
	// of its first IDE disk. nil where there is no such thing.
	FullDisk func(t testing.TB, size int64) (path string)
	WriteIDE func(t testing.TB, vm model.VMRef)
	// RestartDaemon is a crash and restart of libvirtd.
	RestartDaemon func(t testing.TB)
	// StopDaemon freezes libvirtd until cont is called; nil when there is nothing to freeze.
	StopDaemon func(t testing.TB) (cont func())
}

const (
	mib     = 1 << 20
	cluster = model.ClusterSize
	size    = 4 * mib
)

// Run runs the suite.
func Run(t *testing.T, s Setup) {
	for _, sub := range []string{"images", "scratch", "s"} {
		require.NoError(t, os.MkdirAll(filepath.Join(s.Dir, sub), 0o700))
	}
	for _, story := range []struct {
		name string
		tell func(t *testing.T, s *suite)
	}{
		{"DomainsAreListedWithTheirDisksAndWhatIsWrongWithThem", listing},
		{"ADeltaHoldsTheWrittenClusterAndNothingElse", delta},
		{"AllDisksShowOneInstantAndLaterWritesDoNotReachIt", instant},
		{"ARawDiskIsExportedWholeAndLeftOutOfTheCheckpoint", rawDisk},
		{"AFailedCaptureLeavesNothing", failedCapture},
		{"ACaptureThatNobodyWaitsForAnyMoreLeavesNothing", abandonedCapture},
		{"EndingACaptureTwiceIsFine", endTwice},
		{"ADeletedCheckpointsChangesAreInItsParents", merge},
		{"ADiskThatALaterCheckpointLeavesOutIsTrackedOn", leftOut},
		{"BitmapsOutliveACleanStop", cleanStop},
		{"AfterAKillOfQEMUBitmapsAreLostAndCanBeCleanedUp", killed},
		{"ACheckpointOfAStoppedDomainIsDeletedWithItsBitmaps", deleteStopped},
		{"LifecycleCallsMayBeRepeated", lifecycle},
		{"WhatIsNotThereIsNotFound", missing},
		{"AFreezeWithoutAGuestAgentFailsAndLeavesNothing", freeze},
		{"CountersGrowWithWrites", counters},
		{"AnEstimateOfDirtyMemoryEndsAndHoldsNobodyUp", memory},
		{"APanicIsToldAndWhatBecameOfTheGuest", panics},
		{"AFullDiskPausesTheGuestAndIsToldAsSuch", fullDisk},
		{"AWatchdogThatFiresIsToldWithItsAction", watchdogs},
		{"EventsAndCallsGoOnAfterLibvirtdRestarts", restart},
		{"AHungLibvirtdHoldsNobodyBeyondTheirContext", hung},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, &suite{Setup: s, T: t}) })
	}
}

// suite is the setup in one story.
type suite struct {
	Setup
	*testing.T
}

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.T.Context(), 2*time.Minute)
	s.T.Cleanup(cancel)
	return ctx
}

func (s *suite) kind(kind model.Kind, err error) {
	s.T.Helper()
	require.Error(s.T, err)
	require.Equal(s.T, kind, model.KindOf(err), err.Error())
}

type drive struct {
	target string
	format model.DiskFormat
}

var (
	one  = []drive{{"vda", model.FormatQCOW2}}
	two  = []drive{{"vda", model.FormatQCOW2}, {"vdb", model.FormatQCOW2}}
	with = []drive{{"vda", model.FormatQCOW2}, {"vdb", model.FormatRaw}}
)

// xml describes a domain that has nothing to boot from.
func (s *suite) xml(name, uuid string, drives []drive, more string) string {
	var disks strings.Builder
	for _, d := range drives {
		path := filepath.Join(s.Dir, "images", name+"-"+d.target)
		if _, err := os.Stat(path); err != nil {
			s.CreateImage(s.T, path, d.format, size)
		}
		fmt.Fprintf(&disks, "<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>",
			d.format, path, d.target)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s%s<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`,
		name, uuid, disks.String(), more)
}

// define makes a domain that is removed at the end of the story.
func (s *suite) define(drives []drive, more string) hypervisor.Domain {
	s.T.Helper()
	uuid := NewUUID()
	d, err := s.HV.Define(s.ctx(), s.xml("t"+uuid[:8], uuid, drives, more))
	require.NoError(s.T, err)
	s.T.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(s.T, s.HV.Destroy(ctx, uuid))
		require.NoError(s.T, s.HV.Undefine(ctx, uuid))
	})
	return d
}

func (s *suite) start(drives []drive, more string) model.VMRef {
	s.T.Helper()
	d := s.define(drives, more)
	require.NoError(s.T, s.HV.Start(s.ctx(), d.VM.UUID))
	return d.VM
}

// spec asks for a capture of vda, or of all that is given.
func (s *suite) spec(vm model.VMRef, checkpoint string, disks ...hypervisor.CaptureDisk) hypervisor.CaptureSpec {
	return hypervisor.CaptureSpec{
		Checkpoint: checkpoint, Disks: disks,
		Socket:     filepath.Join(s.Dir, "s", vm.Name),
		ScratchDir: filepath.Join(s.Dir, "scratch"),
	}
}

func (s *suite) capture(vm model.VMRef, checkpoint string, disks ...hypervisor.CaptureDisk) hypervisor.Capture {
	s.T.Helper()
	before := time.Now()
	c, err := s.HV.Capture(s.ctx(), vm.UUID, s.spec(vm, checkpoint, disks...))
	require.NoError(s.T, err)
	require.False(s.T, c.TakenAt.Before(before.Add(-time.Millisecond)), "the instant was within the call")
	require.False(s.T, c.TakenAt.After(time.Now()))
	require.Positive(s.T, c.Stall)
	require.Len(s.T, c.Exports, len(disks))
	return c
}

func (s *suite) end(vm model.VMRef) {
	s.T.Helper()
	require.NoError(s.T, s.HV.EndCapture(s.ctx(), vm.UUID, filepath.Join(s.Dir, "scratch")))
	socket, err := s.HV.CaptureSocket(s.ctx(), vm.UUID)
	require.NoError(s.T, err)
	require.Empty(s.T, socket)
	s.noScratch()
}

func (s *suite) noScratch() {
	s.T.Helper()
	left, err := os.ReadDir(filepath.Join(s.Dir, "scratch"))
	require.NoError(s.T, err)
	require.Empty(s.T, left)
}

func (s *suite) write(vm model.VMRef, target string, pattern byte, off, length int64) {
	s.T.Helper()
	s.Write(s.T, vm, target, pattern, off, length)
}

// open connects to a disk of a capture.
func (s *suite) open(c hypervisor.Capture, target string) *nbd.Client {
	s.T.Helper()
	for _, x := range c.Exports {
		if x.Target != target {
			continue
		}
		d, err := nbd.DialUnix(s.ctx(), c.Socket, nbd.Options{Export: x.Name, Bitmap: x.Bitmap})
		require.NoError(s.T, err)
		s.T.Cleanup(func() { d.Close() })
		return d
	}
	require.Fail(s.T, "no export of "+target)
	return nil
}

func (s *suite) dirty(d *nbd.Client) []blockio.Extent {
	s.T.Helper()
	var out []blockio.Extent
	require.NoError(s.T, d.Map(s.ctx(), blockio.DirtyBitmap, 0, d.Size(), func(e blockio.Extent) error {
		if e.Kind == blockio.Dirty {
			out = append(out, e)
		}
		return nil
	}))
	return out
}

func dirtyAt(off, length int64) []blockio.Extent {
	return []blockio.Extent{{Offset: off, Length: length, Kind: blockio.Dirty}}
}

// byteAt reads one byte.
func (s *suite) byteAt(d *nbd.Client, off int64) byte {
	s.T.Helper()
	p := make([]byte, 512)
	require.NoError(s.T, d.ReadAt(s.ctx(), p, off))
	return p[0]
}

func (s *suite) checkpoints(vm model.VMRef) []string {
	s.T.Helper()
	list, err := s.HV.Checkpoints(s.ctx(), vm.UUID)
	require.NoError(s.T, err)
	names := []string{}
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

func (s *suite) state(vm model.VMRef) hypervisor.Domain {
	s.T.Helper()
	d, err := s.HV.Domain(s.ctx(), vm.UUID)
	require.NoError(s.T, err)
	return d
}

// until waits for a state: libvirt tells of some changes before it makes them.
func (s *suite) until(vm model.VMRef, want hypervisor.State) hypervisor.Domain {
	s.T.Helper()
	var d hypervisor.Domain
	require.Eventually(s.T, func() bool { d = s.state(vm); return d.State == want }, time.Minute, 50*time.Millisecond)
	return d
}

func full(target string) hypervisor.CaptureDisk { return hypervisor.CaptureDisk{Target: target} }
func raw(target string) hypervisor.CaptureDisk {
	return hypervisor.CaptureDisk{Target: target, NoBitmap: true}
}
func since(target, checkpoint string) hypervisor.CaptureDisk {
	return hypervisor.CaptureDisk{Target: target, Since: checkpoint}
}

// mark names a checkpoint as ours.
func mark(seq model.Seq) string { return model.PointRef{Generation: 1, Seq: seq}.Mark() }
