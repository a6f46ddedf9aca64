// Package snapshot is stage 1, on the primary: one instant of all disks of a VM, held open for reading, and the marks that
// the next instant is compared with.
//
// What is true is in libvirt: the checkpoints named by model.PointRef.Mark and the backup job whose socket carries the VM's
// UUID. The records on disk only add what libvirt does not keep (sizes, paths, the description handed out). A lost record
// costs a resync, never data, so records are not forced to stable storage: after a power loss the bitmaps are lost as well.
package snapshot

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/blockio/nbd"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Hypervisor is what this stage asks of libvirt.
type Hypervisor interface {
	Domains(ctx context.Context) ([]hypervisor.Domain, error)
	Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error)
	XML(ctx context.Context, uuid string) (string, error)
	Capture(ctx context.Context, uuid string, spec hypervisor.CaptureSpec) (hypervisor.Capture, error)
	EndCapture(ctx context.Context, uuid, scratchDir string) error
	CaptureSocket(ctx context.Context, uuid string) (string, error)
	Checkpoints(ctx context.Context, uuid string) ([]hypervisor.Checkpoint, error)
	DeleteCheckpoint(ctx context.Context, uuid, name string) error
	DirtyBytes(ctx context.Context, uuid, checkpoint string) (map[string]int64, error)
	SetAutostart(ctx context.Context, uuid string, on bool) error
}

// Options of a Source.
type Options struct {
	Host model.HostID
	// RunDir is where sockets go; QEMU must be able to create one there.
	RunDir string
	// StateDir is the agent's: captures/ and scratch/ are ours, replicas/ holds images a VM may run from after a failover.
	StateDir string
	// ImageDirs are the folders that images may be read from; empty allows every folder.
	ImageDirs []string
	// FreezeTimeout bounds the guest agent's answer; 0 is 5 s.
	FreezeTimeout time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// maxSocket is the longest path of a unix socket.
const maxSocket = 107

// Source makes snapshots on one host. Its methods are safe for concurrent use; calls about one VM take turns.
type Source struct {
	hv Hypervisor
	o  Options

	mu    sync.Mutex
	turns map[string]chan struct{} // one a VM ever seen: a lock that a context can end the wait for
}

// New makes a Source. Nothing is touched until the first call.
func New(hv Hypervisor, o Options) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FreezeTimeout <= 0 {
		o.FreezeTimeout = 5 * time.Second
	}
	return &Source{hv: hv, o: o, turns: make(map[string]chan struct{})}
}

// Request asks for a point.
type Request struct {
	VM     model.VMRef
	Point  model.PointRef
	Parent model.PointRef // newest committed point; zero for the first
	Freeze bool
	// ForceResync is the reason not to trust bitmaps; empty trusts them.
	ForceResync string
	// Wanted is asked when it is the snapshot's turn: the VM's protection may have been removed before it. Nil is yes.
	Wanted func() error
}

// Snapshot is an open snapshot.
type Snapshot struct {
	Point       model.PointRef       `json:"point"`
	TakenAt     time.Time            `json:"taken_at"`
	Consistency model.Consistency    `json:"consistency"`
	Disks       []model.SnapshotDisk `json:"disks"`
	DomainXML   string               `json:"domain_xml"`
	Stall       time.Duration        `json:"stall_ns"`
}

// enter waits for the VM's turn. The caller must call the function it returns.
func (s *Source) enter(ctx context.Context, vm model.VMRef) (leave func(), err error) {
	if !model.ValidUUID(vm.UUID) { // it becomes a folder's name
		return nil, model.Fail(model.InvalidArgument, nil, "%q is not the UUID of a VM", vm.UUID).WithHost(s.o.Host)
	}
	s.mu.Lock()
	turn, ok := s.turns[vm.UUID]
	if !ok {
		turn = make(chan struct{}, 1)
		s.turns[vm.UUID] = turn
	}
	s.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Source) fail(kind model.Kind, vm model.VMRef, err error, format string, args ...any) *model.Failure {
	return model.Fail(kind, err, format, args...).WithVM(vm.Name).WithHost(s.o.Host)
}

// socketName carries the UUID, so that a job of ours is known after any restart, also with another run folder.
func socketName(uuid string) string { return model.MarkPrefix + uuid + ".sock" }

func (s *Source) socket(uuid string) string { return filepath.Join(s.o.RunDir, socketName(uuid)) }

// ours says whether a backup job's socket is one that this stage made for the VM.
func ours(socket, uuid string) bool { return filepath.Base(socket) == socketName(uuid) }

// Get returns the open snapshot of a point. StagingLost says that it is not open any more: the cycle begins again.
func (s *Source) Get(ctx context.Context, vm model.VMRef, p model.PointRef) (Snapshot, error) {
	rec, err := s.get(ctx, vm, p)
	return rec.Snapshot, err
}

func (s *Source) get(ctx context.Context, vm model.VMRef, p model.PointRef) (record, error) {
	leave, err := s.enter(ctx, vm)
	if err != nil {
		return record{}, err
	}
	defer leave()
	rec, ok := s.readRecord(vm.UUID, openFile)
	if !ok || rec.Snapshot.Point != p {
		return record{}, s.fail(model.StagingLost, vm, nil, "the snapshot of point %s is not open", p)
	}
	socket, err := s.hv.CaptureSocket(ctx, vm.UUID)
	if err != nil {
		return record{}, err
	}
	if socket != rec.Socket {
		dom, err := s.hv.Domain(ctx, vm.UUID)
		if err != nil {
			return record{}, err
		}
		if !dom.State.Active() {
			return record{}, s.fail(model.NotRunning, vm, nil, "the VM stopped (%s) while the snapshot of point %s was open", dom.State, p)
		}
		return record{}, s.fail(model.StagingLost, vm, nil, "the backup job of point %s has ended", p)
	}
	return rec, nil
}

// Open opens one disk of an open snapshot for reading; of a delta it knows the dirty bitmap.
func (s *Source) Open(ctx context.Context, vm model.VMRef, p model.PointRef, target string) (blockio.Source, error) {
	rec, err := s.get(ctx, vm, p)
	if err != nil {
		return nil, err
	}
	for _, d := range rec.Snapshot.Disks {
		if d.Target == target {
			return s.dial(ctx, vm, rec.Socket, d)
		}
	}
	return nil, s.fail(model.NotFound, vm, nil, "disk %s is not part of point %s", target, p)
}

func (s *Source) dial(ctx context.Context, vm model.VMRef, socket string, d model.SnapshotDisk) (blockio.Source, error) {
	c, err := nbd.DialUnix(ctx, socket, nbd.Options{Export: d.Export, Bitmap: d.Bitmap})
	switch {
	case err == nil && c.Size() != d.Size:
		_ = c.Close()
		return nil, s.fail(model.CheckpointLost, vm, nil, "disk %s changed its size from %d to %d bytes while the snapshot was taken", d.Target, d.Size, c.Size())
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case isNoMap(err):
		return nil, s.fail(model.CheckpointLost, vm, err, "QEMU does not serve the bitmap of disk %s", d.Target)
	}
	return nil, s.fail(model.Unreachable, vm, err, "opening disk %s of the snapshot", d.Target)
}

// Dirty says how many bytes were written since the committed point, in whole clusters; -1 when that is not known.
func (s *Source) Dirty(ctx context.Context, vm model.VMRef, committed model.PointRef) (int64, error) {
	if committed.IsZero() {
		return -1, nil
	}
	if !model.ValidUUID(vm.UUID) {
		return -1, s.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	if rec, ok := s.readRecord(vm.UUID, committedFile); ok && rec.Snapshot.Point == committed && !rec.allTracked() {
		return -1, nil
	}
	dirty, err := s.hv.DirtyBytes(ctx, vm.UUID, committed.Mark())
	switch model.KindOf(err) {
	case model.CheckpointLost, model.NotFound, model.NotRunning:
		return -1, nil
	default:
		if err != nil {
			return -1, err
		}
	}
	var sum int64
	for _, n := range dirty {
		sum += n
	}
	return sum, nil
}

// describe names a list in a sentence.
func describe(list []string) string { return strings.Join(list, ", ") }
