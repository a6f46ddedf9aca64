package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"understudy/internal/durable"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Abandon gives up on a point: its job ends and its checkpoint goes; libvirt merges the bitmap into the committed point's,
// so that nothing written is forgotten. What could not be removed is named; the next Take removes it too.
func (s *Source) Abandon(ctx context.Context, vm model.VMRef, p model.PointRef) ([]string, error) {
	leave, err := s.enter(ctx, vm)
	if err != nil {
		return nil, err
	}
	defer leave()
	if rec, ok := s.readRecord(vm.UUID, committedFile); ok && rec.Snapshot.Point == p {
		return nil, nil // came late: the point was committed
	}
	rec, open := s.readRecord(vm.UUID, openFile)
	if !open || rec.Snapshot.Point == p {
		if err := s.endOurs(ctx, vm); err != nil {
			return nil, err
		}
		if err := s.dropRecord(vm.UUID, openFile); err != nil {
			return nil, s.fail(model.Internal, vm, err, "removing the record of point %s", p)
		}
	}
	return s.deleteMarks(ctx, vm, func(m model.PointRef) bool { return m == p })
}

// Settle makes the committed point the one that the next delta starts at: its job ends and every older mark of ours goes.
func (s *Source) Settle(ctx context.Context, vm model.VMRef, committed model.PointRef) ([]string, error) {
	leave, err := s.enter(ctx, vm)
	if err != nil {
		return nil, err
	}
	defer leave()
	if rec, ok := s.readRecord(vm.UUID, committedFile); ok && rec.Snapshot.Point.Seq > committed.Seq {
		return nil, nil // came late: a newer point is settled
	}
	keep := func(m model.PointRef) bool { return m == committed }
	rec, open := s.readRecord(vm.UUID, openFile)
	if open && rec.Snapshot.Point.Seq > committed.Seq {
		// Came late, while the next snapshot is open: that one stays.
		next := rec.Snapshot.Point
		keep = func(m model.PointRef) bool { return m == committed || m == next }
	} else {
		if err := s.endOurs(ctx, vm); err != nil {
			return nil, err
		}
		if open && rec.Snapshot.Point == committed {
			err = s.promote(vm.UUID)
		} else {
			err = s.dropRecord(vm.UUID, openFile)
		}
		if err != nil {
			return nil, s.fail(model.Internal, vm, err, "recording that point %s is committed", committed)
		}
	}
	return s.deleteMarks(ctx, vm, func(m model.PointRef) bool { return !keep(m) })
}

// Leave removes what captures left on a host that is the VM's primary no more, also after a power loss in the middle of one:
// the job, the marks, the scratch files and the records. Autostart stays as it is: the VM runs elsewhere.
func (s *Source) Leave(ctx context.Context, vm model.VMRef) ([]string, error) {
	leave, err := s.enter(ctx, vm)
	if err != nil {
		return nil, err
	}
	defer leave()
	left, err := s.unmark(ctx, vm)
	if err != nil {
		return left, err
	}
	for _, name := range []string{openFile, committedFile} {
		if err := s.dropRecord(vm.UUID, name); err != nil {
			left = append(left, fmt.Sprintf("record %s of %s: %v", name, vm.Name, err))
		}
	}
	if err := os.RemoveAll(s.scratch(vm.UUID)); err != nil {
		left = append(left, fmt.Sprintf("folder %s: %v", s.scratch(vm.UUID), err))
	}
	return left, nil
}

// unmark ends our job on a VM and removes every mark of ours.
func (s *Source) unmark(ctx context.Context, vm model.VMRef) ([]string, error) {
	if err := s.endOurs(ctx, vm); err != nil {
		return nil, err
	}
	return s.deleteMarks(ctx, vm, func(model.PointRef) bool { return true })
}

// Retire removes everything of ours from a VM and sets autostart as it was.
func (s *Source) Retire(ctx context.Context, vm model.VMRef) ([]string, error) {
	leave, err := s.enter(ctx, vm)
	if err != nil {
		return nil, err
	}
	defer leave()
	left, err := s.unmark(ctx, vm)
	if err != nil {
		return left, err
	}
	if s.autostartHeld(vm.UUID) {
		switch err := s.hv.SetAutostart(ctx, vm.UUID, true); {
		case err == nil || model.KindOf(err) == model.NotFound:
		case unreachable(err) || ctx.Err() != nil:
			return left, err
		default: // the records stay, so that asking again can put it back
			return append(left, fmt.Sprintf("autostart of %s is off and was on: %v", vm.Name, err)), nil
		}
	}
	if err := os.RemoveAll(s.dir(vm.UUID)); err != nil {
		left = append(left, fmt.Sprintf("folder %s: %v", s.dir(vm.UUID), err))
	}
	if err := os.RemoveAll(s.scratch(vm.UUID)); err != nil {
		left = append(left, fmt.Sprintf("folder %s: %v", s.scratch(vm.UUID), err))
	}
	return left, nil
}

// endOurs ends the job if it is ours. A VM that is off or gone has none, and a job without a socket is somebody else's.
func (s *Source) endOurs(ctx context.Context, vm model.VMRef) error {
	socket, err := s.hv.CaptureSocket(ctx, vm.UUID)
	if err != nil && !absent(err) && model.KindOf(err) != model.JobConflict {
		return err
	}
	return s.endJob(ctx, vm, socket)
}

// endJob ends the job behind a socket of ours and removes its files. A job without our socket is never touched: ending
// "the" job would end a stranger's.
func (s *Source) endJob(ctx context.Context, vm model.VMRef, socket string) error {
	if ours(socket, vm.UUID) {
		if err := s.hv.EndCapture(ctx, vm.UUID, s.scratch(vm.UUID)); err != nil && !absent(err) {
			return err
		}
		if socket != s.socket(vm.UUID) {
			_ = removeFile(socket) // of an agent with another run folder; QEMU has closed it
		}
	}
	if err := s.clearFiles(vm.UUID); err != nil {
		return s.fail(model.Internal, vm, err, "removing what the backup job left")
	}
	return nil
}

// clearFiles removes a dead job's socket and scratch files; the folder stays, it is used each cycle.
func (s *Source) clearFiles(uuid string) error {
	if err := removeFile(s.socket(uuid)); err != nil {
		return err
	}
	files, err := os.ReadDir(s.scratch(uuid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if err := os.RemoveAll(filepath.Join(s.scratch(uuid), f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// deleteMarks deletes our checkpoints that match, parents first, and says what it could not delete and why.
func (s *Source) deleteMarks(ctx context.Context, vm model.VMRef, match func(model.PointRef) bool) ([]string, error) {
	all, err := s.hv.Checkpoints(ctx, vm.UUID)
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, err
	}
	var left []string
	own, _ := split(all)
	for _, c := range own {
		p, _ := model.ParseMark(c.Name)
		if !match(p) {
			continue
		}
		switch err := s.hv.DeleteCheckpoint(ctx, vm.UUID, c.Name); {
		case err == nil:
		case unreachable(err) || ctx.Err() != nil:
			return left, err
		default:
			left = append(left, fmt.Sprintf("checkpoint %s of %s: %v", c.Name, vm.Name, err))
		}
	}
	return left, nil
}

// absent says that there is no domain, or no QEMU, to ask.
func absent(err error) bool {
	k := model.KindOf(err)
	return k == model.NotFound || k == model.NotRunning
}

func (s *Source) rememberAutostart(uuid string) error {
	if err := os.MkdirAll(s.dir(uuid), 0o700); err != nil {
		return err
	}
	if s.autostartHeld(uuid) {
		return nil
	}
	return durable.WriteJSON(s.file(uuid, autostartFile), map[string]any{"autostart": true, "since": s.o.Now().UTC()})
}

func (s *Source) autostartHeld(uuid string) bool {
	_, err := os.Stat(s.file(uuid, autostartFile))
	return err == nil
}

// Marks lists everything of ours on this host: checkpoints, backup jobs, records and scratch folders.
func (s *Source) Marks(ctx context.Context) ([]string, error) {
	domains, err := s.hv.Domains(ctx)
	if err != nil {
		return nil, err
	}
	var marks []string
	for _, d := range domains {
		found, err := s.marksOf(ctx, d)
		if err != nil && !absent(err) {
			return marks, err
		}
		marks = append(marks, found...)
	}
	for _, dir := range []string{"captures", "scratch"} {
		folders, err := filepath.Glob(filepath.Join(s.o.StateDir, dir, "*"))
		if err != nil {
			return marks, err
		}
		for _, f := range folders {
			marks = append(marks, "folder "+f)
		}
	}
	slices.Sort(marks)
	return marks, nil
}

func (s *Source) marksOf(ctx context.Context, d hypervisor.Domain) (marks []string, err error) {
	all, err := s.hv.Checkpoints(ctx, d.VM.UUID)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if strings.HasPrefix(c.Name, model.MarkPrefix) {
			marks = append(marks, fmt.Sprintf("checkpoint %s of %s", c.Name, d.VM))
		}
	}
	if !d.State.Active() {
		return marks, nil
	}
	socket, err := s.hv.CaptureSocket(ctx, d.VM.UUID)
	if model.KindOf(err) == model.JobConflict {
		return marks, nil
	}
	if err == nil && ours(socket, d.VM.UUID) {
		marks = append(marks, fmt.Sprintf("backup job of %s on %s", d.VM, socket))
	}
	return marks, err
}
