// Package replicate is stage 2: it moves the bytes of an open snapshot to the standby. It reads what may have changed,
// drops the 4 KiB blocks whose digest is that of the parent point, elides zeroes, compresses and sends, all at once and
// in bounded memory. What the standby acknowledged is not sent again by a later run of the same capture.
package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/link"
	"understudy/internal/model"
)

// Link opens sessions with the standby; *link.Client is one.
type Link interface {
	Stage(ctx context.Context, spec model.StagingSpec) (*link.Session, error)
}

// Open opens the frozen disk of one target.
type Open func(ctx context.Context, target string) (blockio.Source, error)

// Request says what to replicate.
type Request struct {
	VM            model.VMRef
	Point, Parent model.PointRef
	Capture       string // identifies the frozen snapshot, for resuming
	Disks         []model.SnapshotDisk
	Compression   string // "auto", "off", "fast", "default" or "best"; "" is auto
	MaxBandwidth  int64  // bytes/s on the wire; 0 unbounded
	Lane          *Lane  // of who shares out the link, instead of MaxBandwidth; nil for none
	// Before, in a resync with a host that the VM has left, are the disks as the VM came here with them, by target: what is
	// neither so there nor as it is here now was written there and never replicated. nil does not ask. They stay open.
	Before map[string]blockio.Source
	// Reread makes the standby compare with what its disks hold now, not with what it recorded.
	Reread bool
}

// Progress is where a run is. The bytes done and total are those of the ranges to look at, of one disk.
type Progress struct {
	Disk                             string
	DoneBytes, TotalBytes, SentBytes int64
}

// DiskStats is what was done for one disk.
type DiskStats struct {
	Target       string
	ReadBytes    int64 // from the source
	ChangedBytes int64 // blocks that differed from the parent point, zeroed ones included
	SentBytes    int64 // on the wire, both directions
	// UnreplicatedBytes were written on the standby before the VM came here, and not replicated: see Request.Before.
	UnreplicatedBytes int64
}

// Result of a run.
type Result struct {
	Disks     []DiskStats
	SentBytes int64 // on the wire, both directions
	Took      time.Duration
	Resumed   bool // an earlier run's bytes were kept
}

// disk is one disk under way.
type disk struct {
	model.SnapshotDisk
	index  int
	source blockio.Source
	total  int64 // bytes to look at
}

// Run replicates the disks one after the other. It opens all sources first, and closes them. A connection that is lost is
// not tried again here: the error is LinkDown, and a later Run with the same request resumes. progress may be nil; it is
// called from one goroutine at a time, a few times a second.
func Run(ctx context.Context, open Open, to Link, req Request, progress func(Progress)) (Result, error) {
	begun := time.Now()
	res, err := run(ctx, open, to, req, progress)
	res.Took = time.Since(begun)
	var f *model.Failure
	if errors.As(err, &f) && f.VM == "" {
		f.VM = req.VM.Name
	}
	return res, err
}

func run(ctx context.Context, open Open, to Link, req Request, progress func(Progress)) (res Result, err error) {
	lane := req.Lane
	if lane == nil {
		lane = newLane(req.MaxBandwidth)
	}
	shrink, err := newShrink(req.Compression, lane.perByte)
	if err != nil {
		return res, err
	}
	disks, closeAll, err := openAll(ctx, open, req)
	defer closeAll()
	if err != nil {
		return res, err
	}
	session, err := to.Stage(ctx, spec(req, disks))
	if err != nil {
		return res, err
	}
	defer func() {
		if closeErr := session.Close(); err == nil {
			err = closeErr
		}
		sent, received := session.Wire()
		res.SentBytes = sent + received
	}()
	for _, d := range disks {
		if session.Resume(d.index) > 0 {
			res.Resumed = true
		}
		stats, err := newTransfer(session, d, lane, shrink, req.Before[d.Target], progress).run(ctx)
		res.Disks = append(res.Disks, stats)
		if err != nil {
			return res, err
		}
	}
	return res, nil
}

func openAll(ctx context.Context, open Open, req Request) (disks []*disk, closeAll func(), err error) {
	closeAll = func() {
		for _, d := range disks {
			_ = d.source.Close() // nothing was written to it
		}
	}
	if len(req.Disks) == 0 {
		return nil, closeAll, model.Fail(model.InvalidArgument, nil, "point %s has no disks to replicate", req.Point)
	}
	for i, sd := range req.Disks {
		source, err := open(ctx, sd.Target)
		if err != nil {
			return disks, closeAll, sourceFailure(err, sd.Target, "opening")
		}
		d := &disk{SnapshotDisk: sd, index: i, source: source}
		disks = append(disks, d)
		if source.Size() < sd.Size {
			return disks, closeAll, model.Fail(model.Internal, nil, "disk %s has %d bytes where its snapshot said %d", sd.Target, source.Size(), sd.Size)
		}
		if err := d.measure(ctx); err != nil {
			return disks, closeAll, err
		}
	}
	return disks, closeAll, nil
}

func spec(req Request, disks []*disk) model.StagingSpec {
	s := model.StagingSpec{VM: req.VM, PointRef: req.Point, Parent: req.Parent.Seq, Capture: req.Capture}
	for _, d := range disks {
		sd := model.StagingDisk{Target: d.Target, Size: d.Size, Mode: d.Mode, Reread: req.Reread && d.Mode == model.ModeResync}
		if d.Mode == model.ModeFull {
			sd.Expect = d.total
		}
		s.Disks = append(s.Disks, sd)
	}
	return s
}

// sourceFailure explains an error of the snapshot's disk.
func sourceFailure(err error, target, doing string) error {
	var f *model.Failure
	switch {
	case errors.As(err, &f), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s disk %s: %w", doing, target, err)
	case errors.Is(err, blockio.ErrNoMap):
		return model.Fail(model.CheckpointLost, err, "%s disk %s: its dirty bitmap is not there", doing, target)
	case errors.Is(err, blockio.ErrDisconnected), errors.Is(err, blockio.ErrClosed):
		return model.Fail(model.NotRunning, err, "%s disk %s: the snapshot's block server is gone", doing, target).
			WithTry("understudy status: a new snapshot is taken when the VM runs")
	}
	return model.Fail(model.Internal, err, "%s disk %s", doing, target)
}
