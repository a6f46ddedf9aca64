package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// recover reads a replica and finishes or takes back what was left half done. What it finds beyond repair is an error,
// and then it has deleted nothing. A plan of retention is not run here: it may take long, and a failover cannot wait.
func (s *Store) recover(_ context.Context, r *replica) error {
	r.chain, r.points = chain{}, nil
	r.view.Store(nil)
	points, err := readPoints(r.home.points())
	if err != nil {
		return broken(r, err)
	}
	p, err := readBounded(r.home.chain(), maxChain)
	if errors.Is(err, fs.ErrNotExist) && len(points) == 0 && !r.holdsImages() {
		return nil // its founding was cut off
	}
	if err != nil {
		return broken(r, err)
	}
	c, err := decodeChain(p)
	if err != nil {
		return broken(r, fmt.Errorf("%s: %w", chainFile, err))
	}
	if err := sound(r.home, c, points); err != nil {
		return broken(r, err)
	}
	r.chain, r.points = c, points
	if err := s.takeBack(r); err != nil {
		return err
	}
	if err := s.settle(r); err != nil {
		return err
	}
	return s.sweep(r)
}

func broken(r *replica, err error) error {
	return model.Fail(model.ChainBroken, err, "the replica in %s cannot be opened", r.home).
		WithTry("see docs/RECOVERY_POINT_FORMAT.md for how to restore by hand, or remove the replica and protect the VM anew")
}

// holdsImages tells whether there is a layer of any disk.
func (r *replica) holdsImages() bool {
	found, err := filepath.Glob(filepath.Join(string(r.home), disksDir, "*", "*.*"))
	return err != nil || len(found) > 0
}

// readPoints reads all manifests, oldest first, and clears away what an unfinished write left.
func readPoints(dir string) ([]model.Point, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var points []model.Point
	for _, e := range entries {
		m := pointPattern.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		p, err := readBounded(filepath.Join(dir, e.Name()), maxManifest)
		if err != nil {
			return nil, err
		}
		point, err := decodePoint(p)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", e.Name(), err)
		}
		if strconv.FormatUint(uint64(point.Seq), 10) != m[1] {
			return nil, fmt.Errorf("manifest %s is of point %d", e.Name(), point.Seq)
		}
		points = append(points, point)
	}
	slices.SortFunc(points, func(a, b model.Point) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	return points, nil
}

// sound tells whether every listed point has its layers in the chain and on disk.
func sound(h home, c chain, points []model.Point) error {
	for _, p := range points {
		if p.VM.UUID != c.VM.UUID {
			return fmt.Errorf("point %s is of VM %s, not %s", p.PointRef, p.VM.UUID, c.VM.UUID)
		}
		for _, d := range p.Disks {
			img, ok := c.image(h, d.Target, p.Seq)
			if !ok {
				return fmt.Errorf("point %s has no layer of disk %s", p.PointRef, d.Target)
			}
			for _, l := range img.Layers {
				if there, err := exists(l.Path); err != nil || !there {
					return fmt.Errorf("point %s needs %s, which is gone: %w", p.PointRef, l.Path, errors.Join(err, fs.ErrNotExist))
				}
			}
		}
	}
	return nil
}

// takeBack undoes a commit that did not reach its manifest: the images go back to the staging area they came from, if
// that is still good, and the layers leave the chain. Files that no point needs are removed.
func (s *Store) takeBack(r *replica) error {
	newest, _ := r.newest()
	keep := r.chain.without(func(seq model.Seq) bool { return seq <= newest.Seq })
	disks, err := os.ReadDir(filepath.Join(string(r.home), disksDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioFailure(err, "listing the disks of %s", r.home)
	}
	for _, e := range disks {
		target := e.Name()
		if !e.IsDir() || !model.ValidTarget(target) {
			continue
		}
		if err := s.takeBackDisk(r, keep, newest.Seq, target); err != nil {
			return err
		}
	}
	if len(keep.layers()) == len(r.chain.layers()) {
		return nil
	}
	return s.writeChain(r, keep)
}

func (s *Store) takeBackDisk(r *replica, keep chain, newest model.Seq, target string) error {
	entries, err := os.ReadDir(r.home.disk(target))
	if err != nil {
		return ioFailure(err, "listing disk %s", target)
	}
	listed := make(map[string]bool)
	for _, l := range keep.Disks[target] {
		listed[l.File] = true
	}
	if len(listed) == 0 && len(entries) == 0 || len(listed) == 0 && len(entries) == 1 && entries[0].Name() == digestsFile {
		return s.dropDisk(r, target)
	}
	for _, e := range entries {
		name := e.Name()
		if listed[name] || !layerPattern.MatchString(name) {
			continue
		}
		if err := s.step("take-back-" + target); err != nil {
			return err
		}
		path := r.home.layer(target, name)
		base := strings.TrimPrefix(strings.TrimSuffix(name, filepath.Ext(name)), "base-")
		if ref, ok := parseRef(base); ok && ref.Seq > newest && s.resumable(r, ref) {
			back := inStaging(r.home.staging(ref), target, string(layerFormat(name)))
			if err := os.Rename(path, back); err != nil {
				return ioFailure(err, "taking back %s", path)
			}
			continue
		}
		if err := os.Remove(path); err != nil {
			return ioFailure(err, "removing %s", path)
		}
	}
	return nil
}

// dropDisk removes the folder of a disk that has no layers.
func (s *Store) dropDisk(r *replica, target string) error {
	if err := s.step("drop-disk"); err != nil {
		return err
	}
	if err := os.RemoveAll(r.home.disk(target)); err != nil {
		return ioFailure(err, "removing the folder of disk %s", target)
	}
	return nil
}

// layers counts all layers, by disk and point.
func (c chain) layers() []layer {
	var all []layer
	for _, l := range c.Disks {
		all = append(all, l...)
	}
	return all
}

// resumable tells whether a staging area is of this boot and builds on the newest point.
func (s *Store) resumable(r *replica, ref model.PointRef) bool {
	spec, err := readSpec(r.home.staging(ref))
	newest, _ := r.newest()
	return err == nil && spec.Boot == s.opts.BootID && spec.PointRef == ref && spec.VM.UUID == r.chain.VM.UUID &&
		ref.Seq > newest.Seq && ref.Generation >= r.chain.Floor && (!builds(spec.StagingSpec) || spec.Parent == newest.Seq)
}

// sweep removes staging areas that cannot be resumed and what unfinished writes left behind.
func (s *Store) sweep(r *replica) error {
	entries, err := os.ReadDir(r.home.stagings())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioFailure(err, "listing the staging areas of %s", r.home)
	}
	for _, e := range entries {
		if ref, ok := parseRef(e.Name()); ok && s.resumable(r, ref) {
			continue
		}
		if err := s.trash(filepath.Join(r.home.stagings(), e.Name())); err != nil {
			return err
		}
	}
	for _, dir := range []string{string(r.home), r.home.points(), r.home.holds()} {
		removeTemporary(dir, ".*.json.*")
	}
	sets, _ := os.ReadDir(r.home.active(""))
	for _, e := range sets {
		if strings.HasPrefix(e.Name(), trashMark) {
			_ = os.RemoveAll(r.home.active(e.Name()))
			continue
		}
		removeTemporary(r.home.active(e.Name()), ".new-*")
	}
	for _, dir := range []string{r.home.points(), filepath.Join(string(r.home), disksDir), r.home.stagings(), r.home.holds(), r.home.active("")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return ioFailure(err, "making the replica's folder %s", r.home)
		}
	}
	return nil
}

func removeTemporary(dir, pattern string) {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	for _, path := range found {
		_ = durable.Remove(path)
	}
}
