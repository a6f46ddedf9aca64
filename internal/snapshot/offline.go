package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/blockio/qemuimg"
	"understudy/internal/blockio/qemunbd"
	"understudy/internal/model"
)

// Offline is the disks of a VM that is off, open for reading. Nothing is written: the image stays as the dead QEMU left it.
type Offline struct {
	Snapshot
	s       *Source
	vm      model.VMRef
	servers map[string]*qemunbd.Server
	leave   func()
}

// Offline opens the images of a VM that was proved off. What a killed QEMU had taken is in them or in the page cache of this
// host: all that the guest was told is durable. Where the image still holds the bitmap of the committed point (QEMU ended in
// good order), the disk is a delta; else it is compared. The caller must Close it.
func (s *Source) Offline(ctx context.Context, req Request) (*Offline, error) {
	leave, err := s.enter(ctx, req.VM)
	if err != nil {
		return nil, err
	}
	o := &Offline{s: s, vm: req.VM, servers: map[string]*qemunbd.Server{}, leave: leave}
	if err := o.open(ctx, req); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *Offline) open(ctx context.Context, req Request) error {
	s := o.s
	facts, dom, refusal, err := s.inspect(ctx, req.VM.UUID)
	switch {
	case err != nil:
		return err
	case dom.State.Active():
		return s.fail(model.Conflict, req.VM, nil, "the VM is %s: its disks are read through its QEMU only", dom.State)
	case refusal != nil:
		return refusal
	}
	if o.DomainXML, err = s.hv.XML(ctx, req.VM.UUID); err != nil {
		return err
	}
	if err := os.MkdirAll(s.offlineDir(), 0o700); err != nil {
		return s.fail(model.Internal, req.VM, err, "making the folder for sockets")
	}
	o.Point, o.TakenAt, o.Consistency = req.Point, s.o.Now().UTC(), model.CrashConsistent
	parent := s.parent(req)
	alone := parent != nil && s.onlyMark(ctx, req)
	for i, d := range facts.Disks {
		disk, err := o.serve(ctx, i, d, req, parent, alone)
		if err != nil {
			return s.fail(model.Unsupported, req.VM, err, "disk %s cannot be read without its VM", d.Target)
		}
		o.Disks = append(o.Disks, disk)
	}
	return nil
}

func (s *Source) offlineDir() string { return filepath.Join(s.o.RunDir, "offline") }

// onlyMark says that the parent's bitmap is the newest: with a later one it holds only part of what was written since.
func (s *Source) onlyMark(ctx context.Context, req Request) bool {
	all, err := s.hv.Checkpoints(ctx, req.VM.UUID)
	return err == nil && len(all) == 1 && all[0].Name == req.Parent.Mark()
}

// serve starts a qemu-nbd, which takes the image's locks: it fails while any QEMU may write to the image.
func (o *Offline) serve(ctx context.Context, i int, d model.Disk, req Request, parent *record, alone bool) (model.SnapshotDisk, error) {
	var tool qemuimg.Tool
	links, err := tool.Chain(ctx, d.Path, d.Format)
	if err != nil {
		return model.SnapshotDisk{}, err
	}
	opts := qemunbd.Options{
		Socket: filepath.Join(o.s.offlineDir(), fmt.Sprintf("%s-%d", o.vm.UUID, i)), ReadOnly: true, Shared: 4,
	}
	for k, l := range links {
		layer := qemunbd.Layer{Path: l.Path, Format: qemunbd.Format(l.Format)}
		if k == 0 {
			opts.Image = layer
		} else {
			opts.Backing = append(opts.Backing, layer)
		}
	}
	d.Size = links[0].Size
	out := model.SnapshotDisk{Disk: d, Mode: model.ModeResync, Reason: "read from the image of the stopped VM", DirtyBytes: d.Size}
	if alone && tracks(parent, d) {
		opts.Bitmap = req.Parent.Mark()
		if server, err := qemunbd.Start(ctx, opts); err == nil {
			o.servers[d.Target] = server
			out.Mode, out.Reason, out.Bitmap = model.ModeDelta, "", opts.Bitmap
			return out, nil
		}
		opts.Bitmap = "" // in use, when QEMU did not end in good order
	}
	server, err := qemunbd.Start(ctx, opts)
	if err == nil {
		o.servers[d.Target] = server
	}
	return out, err
}

// tracks says that the disk's image carried the bitmap of the committed point, and is still the same.
func tracks(parent *record, d model.Disk) bool {
	before, had := parent.disk(d.Target)
	return had && before.Path == d.Path && before.Format == d.Format && before.Size == d.Size && slices.Contains(parent.Tracked, d.Target)
}

// Open connects to one disk.
func (o *Offline) Open(ctx context.Context, target string) (blockio.Source, error) {
	server, ok := o.servers[target]
	if !ok {
		return nil, o.s.fail(model.NotFound, o.vm, nil, "disk %s is not among those that are open", target)
	}
	return server.Connect(ctx)
}

const offlineStop = 5 * time.Second

// Close ends the readers.
func (o *Offline) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), offlineStop)
	defer cancel()
	var errs []error
	for _, server := range o.servers {
		errs = append(errs, server.Stop(ctx))
	}
	o.leave()
	return errors.Join(errs...)
}
