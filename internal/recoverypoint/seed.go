package recoverypoint

import (
	"context"
	"errors"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/blockio/qemunbd"
	"understudy/internal/model"
)

// Left is a disk that a VM left on this host.
type Left struct {
	Target string
	Path   string
	Format model.DiskFormat
}

// leftDisk is one with what its headers say.
type leftDisk struct {
	Left
	chain []qemunbd.Layer
	size  int64
}

const seedCapture = "seed"

// Fill stages a point from disks that a VM left on this host, as if they had been received: sparse, with digests, and
// without a byte of them changed. The point is then proved and committed like any other, with model.Point.Seed. It tells the
// bytes of data. Asked again for one that is committed it does nothing.
func (s *Store) Fill(ctx context.Context, vm model.VMRef, p model.PointRef, left []Left, progress func(done, total int64)) (int64, error) {
	spec := model.StagingSpec{VM: vm, PointRef: p, Capture: seedCapture}
	disks := make([]leftDisk, 0, len(left))
	for _, l := range left {
		d, err := s.examine(ctx, l)
		if err != nil {
			return 0, model.Fail(model.Unsupported, err, "the disk %s that was left in %s cannot be read", l.Target, l.Path).WithVM(vm.Name)
		}
		disks = append(disks, d)
		expect, _ := blocksOf(l.Path) // of an overlay less than will come: the writes look again
		spec.Disks = append(spec.Disks, model.StagingDisk{Target: l.Target, Size: d.size, Mode: model.ModeFull, Expect: min(expect, d.size)})
	}
	st, err := s.Stage(ctx, spec)
	if err != nil {
		return 0, err
	}
	var sum, total int64
	for _, d := range disks {
		total += d.size
	}
	acked := st.Acked()
	var done int64
	for _, d := range disks {
		if acked[d.Target] < d.size {
			n, err := s.fill(ctx, st, d, func(at int64) { progress(done+at, total) })
			if err != nil {
				return sum, errors.Join(err, st.Close())
			}
			sum += n
		}
		done += d.size
	}
	return sum, st.Close()
}

func (s *Store) examine(ctx context.Context, l Left) (leftDisk, error) {
	d := leftDisk{Left: l}
	links, err := s.img.Chain(ctx, l.Path, l.Format)
	if err != nil {
		return d, err
	}
	for _, k := range links {
		d.chain = append(d.chain, qemunbd.Layer{Path: k.Path, Format: qemunbd.Format(k.Format)})
	}
	d.size = links[0].Size
	return d, nil
}

// fill copies one disk, from where an earlier run was acknowledged.
func (s *Store) fill(ctx context.Context, st *Staging, d leftDisk, progress func(int64)) (int64, error) {
	img := model.Image{Target: d.Target, Size: d.size}
	for _, l := range d.chain {
		img.Layers = append(img.Layers, model.ImageLayer{Path: l.Path, Format: model.DiskFormat(l.Format)})
	}
	server, client, err := s.serve(ctx, img, true)
	if err != nil {
		return 0, ioFailure(err, "opening the disk that was left in %s", d.Path)
	}
	source := served{client, server}
	f := filler{st: st, disk: d, source: source, from: st.Acked()[d.Target], buf: make([]byte, seedPiece), progress: progress}
	err = f.run(ctx)
	if closeErr := source.Close(); err == nil && closeErr != nil {
		err = ioFailure(closeErr, "closing the disk that was left in %s", d.Path)
	}
	if err != nil {
		return f.sum, err
	}
	return f.sum, st.Finish(ctx, d.Target)
}

const (
	seedPiece = 1 << 20
	seedSpan  = 1 << 30 // of a disk that is mapped at once
)

// filler writes what a source holds into a staging area.
type filler struct {
	st       *Staging
	disk     leftDisk
	source   blockio.Source
	from     int64
	buf      []byte
	sum      int64
	progress func(int64)
}

func (f *filler) run(ctx context.Context) error {
	digests := make([]model.Digest, seedPiece/model.BlockSize)
	for at := f.from; at < f.disk.size; at += seedSpan {
		extents, err := f.data(ctx, at, min(seedSpan, f.disk.size-at))
		if err != nil {
			return ioFailure(err, "mapping the disk that was left in %s", f.disk.Path)
		}
		for _, e := range extents {
			for e.Length > 0 {
				p := f.buf[:min(e.Length, seedPiece)]
				if err := f.source.ReadAt(ctx, p, e.Offset); err != nil {
					return ioFailure(err, "reading the disk that was left in %s", f.disk.Path)
				}
				if err := f.put(ctx, e.Offset, p, digests); err != nil {
					return err
				}
				e.Offset, e.Length = e.Offset+int64(len(p)), e.Length-int64(len(p))
				f.progress(e.Offset)
			}
		}
		if err := f.st.Ack(ctx, f.disk.Target, min(at+seedSpan, f.disk.size)); err != nil {
			return err
		}
	}
	return nil
}

// data lists what may hold anything but zeroes, in whole blocks.
func (f *filler) data(ctx context.Context, off, length int64) ([]model.Run, error) {
	var runs []model.Run
	err := f.source.Map(ctx, blockio.Allocation, off, length, func(e blockio.Extent) error {
		if e.Kind.ReadsZero() {
			return nil
		}
		from, to := e.Offset&^(model.BlockSize-1), min((e.End()+model.BlockSize-1)&^(model.BlockSize-1), f.disk.size)
		if n := len(runs); n > 0 && runs[n-1].Offset+runs[n-1].Length >= from {
			runs[n-1].Length = to - runs[n-1].Offset
		} else {
			runs = append(runs, model.Run{Offset: from, Length: to - from})
		}
		return nil
	})
	return runs, err
}

// put writes the blocks of p that are not zero.
func (f *filler) put(ctx context.Context, off int64, p []byte, digests []model.Digest) error {
	n := int(digest.Count(int64(len(p))))
	digest.Blocks(f.st.Seed(), p, digests[:n])
	for i := 0; i < n; {
		if digests[i] == (model.Digest{}) {
			i++
			continue
		}
		j := i
		for j < n && digests[j] != (model.Digest{}) {
			j++
		}
		from, to := i*model.BlockSize, min(j*model.BlockSize, len(p))
		if err := f.st.Write(ctx, f.disk.Target, off+int64(from), p[from:to], digests[i:j]); err != nil {
			return err
		}
		f.sum += int64(to - from)
		i = j
	}
	return nil
}

// SeedOf is the seed of a generation that the next point builds on; zero when there is none.
func (s *Store) SeedOf(ctx context.Context, vm model.VMRef, g model.Generation) (model.PointRef, error) {
	v, err := s.look(ctx, vm)
	if err != nil || len(v.points) == 0 {
		return model.PointRef{}, unlessMissing(err)
	}
	if newest := v.points[len(v.points)-1]; newest.Seed && newest.Generation == g {
		return newest.PointRef, nil
	}
	return model.PointRef{}, nil
}

// OpenPoint opens the disks of a point for reading, by target. It stays as it is while a set of overlays lies on it.
func (s *Store) OpenPoint(ctx context.Context, vm model.VMRef, p model.PointRef) (disks map[string]blockio.Source, closing func(), err error) {
	disks = map[string]blockio.Source{}
	closing = func() {
		for _, d := range disks {
			_ = d.Close() // nothing was written
		}
	}
	images, err := s.Images(ctx, vm, p)
	for _, img := range images {
		var d blockio.Source
		if d, err = s.OpenImage(ctx, img); err != nil {
			break
		}
		disks[img.Target] = d
	}
	if err != nil {
		closing()
		return nil, func() {}, err
	}
	return disks, closing, nil
}
