package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"understudy/internal/blockio"
	"understudy/internal/blockio/file"
	"understudy/internal/blockio/nbd"
	"understudy/internal/blockio/qemuimg"
	"understudy/internal/blockio/qemunbd"
	"understudy/internal/model"
)

const socketMark = "rp-"

// socketPath is a new name for a socket.
func (s *Store) socketPath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket++
	return filepath.Join(s.opts.RunDir, fmt.Sprintf("%s%d-%d.sock", socketMark, os.Getpid(), s.socket))
}

// sweepSockets removes the sockets that agents before this one left behind when they were killed.
func (s *Store) sweepSockets() {
	entries, _ := os.ReadDir(s.opts.RunDir)
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), socketMark)
		if !ok || e.Type() != fs.ModeSocket {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "-")[0])
		if err == nil && pid > 0 && pid != os.Getpid() && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(filepath.Join(s.opts.RunDir, e.Name()))
		}
	}
}

// serve runs a qemu-nbd for an image and connects to it.
func (s *Store) serve(ctx context.Context, img model.Image, readOnly bool) (*qemunbd.Server, *nbd.Client, error) {
	opts := qemunbd.Options{Socket: s.socketPath(), ReadOnly: readOnly, Shared: 2, Binary: s.opts.QemuNBD}
	for i, l := range img.Layers {
		layer := qemunbd.Layer{Path: l.Path, Format: qemunbd.Format(l.Format)}
		if i == 0 {
			opts.Image = layer
		} else {
			opts.Backing = append(opts.Backing, layer)
		}
	}
	server, err := qemunbd.Start(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	client, err := server.Connect(ctx)
	if err == nil && client.Size() != img.Size {
		_ = client.Close()
		err = fmt.Errorf("%s has %d bytes, not %d", opts.Image.Path, client.Size(), img.Size)
	}
	if err != nil {
		return nil, nil, errors.Join(err, server.Stop(ctx))
	}
	return server, client, nil
}

// served is a client whose server ends with it.
type served struct {
	*nbd.Client
	server *qemunbd.Server
}

func (c served) Close() error {
	return errors.Join(c.Client.Close(), c.server.Stop(context.Background()))
}

// OpenImage opens an image of the store for reading, through a process of its own unless it is a raw file alone.
func (s *Store) OpenImage(ctx context.Context, img model.Image) (blockio.Source, error) {
	if len(img.Layers) == 0 {
		return nil, model.Fail(model.InvalidArgument, nil, "disk %s has no layers", img.Target)
	}
	if own := img.Layers[0]; own.Format == model.FormatRaw {
		f, err := file.Open(own.Path, file.Options{ReadOnly: true})
		if err == nil && f.Size() != img.Size {
			_ = f.Close()
			err = fmt.Errorf("%s has %d bytes, not %d", own.Path, f.Size(), img.Size)
		}
		if err != nil {
			return nil, ioFailure(err, "opening disk %s", img.Target)
		}
		return f, nil
	}
	server, client, err := s.serve(ctx, img, true)
	if err != nil {
		return nil, ioFailure(err, "opening disk %s", img.Target)
	}
	return served{client, server}, nil
}

// CheckImage looks for damage in the structure of an image's own layer. A raw file has none.
func (s *Store) CheckImage(ctx context.Context, img model.Image) error {
	if len(img.Layers) == 0 || img.Layers[0].Format == model.FormatRaw {
		return nil
	}
	err := s.img.Check(ctx, img.Layers[0].Path)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qemuimg.ErrDamaged):
		return model.Fail(model.VerifyMismatch, err, "the image of disk %s is damaged", img.Target)
	}
	return ioFailure(err, "checking the image of disk %s", img.Target)
}

// staged reads what a staging area holds. The turn is held.
func (s *Store) staged(r *replica, vm model.VMRef, p model.PointRef) (spec stagingSpec, images []model.Image, err error) {
	dir := r.home.staging(p)
	spec, err = readSpec(dir)
	if err != nil || spec.Boot != s.opts.BootID || spec.PointRef != p {
		return spec, nil, model.Fail(model.StagingLost, err, "nothing is staged for point %s", p).WithVM(vm.Name)
	}
	newest, _ := r.newest()
	if builds(spec.StagingSpec) && newest.Seq != spec.Parent {
		return spec, nil, model.Fail(model.ChainBroken, nil, "point %s was staged on point %d, and the newest here is %s", p, spec.Parent, newest.PointRef).WithVM(vm.Name)
	}
	for _, d := range spec.Disks {
		slot, err := os.ReadFile(inStaging(dir, d.Target, "ack"))
		if err != nil || !decodeAck(slot, d.Size).Finished {
			return spec, nil, model.Fail(model.StagingLost, err, "disk %s of point %s was not received to its end", d.Target, p).WithVM(vm.Name)
		}
		img := r.stagedImage(dir, d, newest.Seq)
		if there, err := exists(img.Layers[0].Path); err != nil || !there {
			return spec, nil, model.Fail(model.StagingLost, err, "the image of disk %s of point %s is gone", d.Target, p).WithVM(vm.Name)
		}
		images = append(images, img)
	}
	return spec, images, nil
}

// Staged gives the seed and the images of a staging area that was received to its end.
func (s *Store) Staged(ctx context.Context, vm model.VMRef, p model.PointRef) (seed uint64, images []model.Image, err error) {
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return 0, nil, nothingStaged(err, vm, p)
	}
	defer r.leave()
	_, images, err = s.staged(r, vm, p)
	return r.chain.Seed, images, err
}

// StagedRuns visits what was written to a staged disk, in increasing order, and tells how much that was and the digest of
// the log. The digests are valid during the call only.
func (s *Store) StagedRuns(ctx context.Context, vm model.VMRef, p model.PointRef, target string, visit func(model.WrittenRun) error) (model.DiskReceipt, error) {
	receipt := model.DiskReceipt{Target: target}
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return receipt, err
	}
	seed, path := r.chain.Seed, inStaging(r.home.staging(p), target, "log")
	spec, _, err := s.staged(r, vm, p)
	r.leave()
	if err != nil {
		return receipt, err
	}
	size := int64(-1)
	for _, d := range spec.Disks {
		if d.Target == target {
			size = d.Size
		}
	}
	if size < 0 {
		return receipt, model.Fail(model.InvalidArgument, nil, "point %s has no disk %q", p, target).WithVM(vm.Name)
	}
	sum, err := readWholeLog(path, seed, size, visit)
	if errors.Is(err, errLog) {
		return receipt, model.Fail(model.VerifyMismatch, err, "the record of what was sent for disk %s", target).WithVM(vm.Name)
	}
	receipt.Blocks, receipt.Bytes, receipt.Log = sum.Blocks, sum.Bytes, sum.Sum
	return receipt, err
}

// readWholeLog reads the log of a finished disk, which ends where its file ends.
func readWholeLog(path string, seed uint64, size int64, visit func(model.WrittenRun) error) (logSummary, error) {
	st, err := os.Stat(path)
	if err != nil {
		return logSummary{}, err
	}
	return readLog(path, seed, size, st.Size(), visit)
}
