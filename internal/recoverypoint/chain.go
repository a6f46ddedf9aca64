package recoverypoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"understudy/internal/decide/retention"
	"understudy/internal/model"
)

// Bounds of what is decoded from disk.
const (
	maxManifest = 4 << 20
	maxChain    = 1 << 20
	maxLayers   = model.MaxKeep * 2 // of one disk
)

// layer is the file that stands for one point of one disk.
type layer struct {
	Seq  model.Seq `json:"seq"`
	File string    `json:"file"` // in disks/<target>/
	Base bool      `json:"base"` // stands alone; otherwise it lies on the layer before it in the list
	Size int64     `json:"size"` // bytes, virtual
}

// chain is chain.json: what lies on what, and what the replica must never forget.
type chain struct {
	Format int              `json:"format"`
	VM     model.VMRef      `json:"vm"`
	Seed   uint64           `json:"digest_seed"`
	Floor  model.Generation `json:"generation"` // highest generation that was staged or committed
	// Disks lists per target the layers of the points, oldest first. A layer of a point without manifest is of a commit
	// that did not happen.
	Disks map[string][]layer `json:"disks"`
}

var errFormat = errors.New("written by another version of Understudy")

// decodeChain reads and checks chain.json; whatever the bytes are, it gives a sound chain or an error.
func decodeChain(p []byte) (chain, error) {
	var c chain
	if len(p) > maxChain {
		return c, fmt.Errorf("chain of %d bytes", len(p))
	}
	if err := json.Unmarshal(p, &c); err != nil {
		return c, err
	}
	return c, c.check()
}

func (c chain) check() error {
	switch {
	case c.Format != model.PointFormat:
		return fmt.Errorf("format %d: %w", c.Format, errFormat)
	case !model.ValidUUID(c.VM.UUID):
		return fmt.Errorf("bad UUID %q", c.VM.UUID)
	case len(c.Disks) > model.MaxDisks*2:
		return fmt.Errorf("%d disks", len(c.Disks))
	}
	for target, layers := range c.Disks {
		if !model.ValidTarget(target) || len(layers) == 0 || len(layers) > maxLayers {
			return fmt.Errorf("disk %q with %d layers", target, len(layers))
		}
		files := make(map[string]bool, len(layers))
		for i, l := range layers {
			switch {
			case l.Seq == 0 || i > 0 && l.Seq <= layers[i-1].Seq:
				return fmt.Errorf("%s: layers out of order at point %d", target, l.Seq)
			case !layerPattern.MatchString(l.File) || files[l.File]:
				return fmt.Errorf("%s: layer file %q is not ours or named twice", target, l.File)
			case i == 0 && !l.Base || l.Base != (layerFormat(l.File) == model.FormatRaw):
				return fmt.Errorf("%s: point %d lies on nothing", target, l.Seq)
			case l.Size <= 0 || l.Size > model.MaxDiskSize:
				return fmt.Errorf("%s: size %d", target, l.Size)
			}
			files[l.File] = true
		}
	}
	return nil
}

// clone is a deep copy, to be changed and written while the old one stays valid.
func (c chain) clone() chain {
	disks := make(map[string][]layer, len(c.Disks))
	for t, l := range c.Disks {
		disks[t] = slices.Clone(l)
	}
	c.Disks = disks
	return c
}

// at gives the index of a point's layer, or -1.
func (c chain) at(target string, seq model.Seq) int {
	return slices.IndexFunc(c.Disks[target], func(l layer) bool { return l.Seq == seq })
}

// image is a point's disk with all layers below it, nearest first; ok is false when the chain does not have it.
func (c chain) image(h home, target string, seq model.Seq) (model.Image, bool) {
	i := c.at(target, seq)
	if i < 0 {
		return model.Image{}, false
	}
	layers := c.Disks[target]
	img := model.Image{Target: target, Size: layers[i].Size}
	for ; ; i-- {
		img.Layers = append(img.Layers, model.ImageLayer{
			Path: h.layer(target, layers[i].File), Format: layerFormat(layers[i].File),
		})
		if layers[i].Base {
			break
		}
		if img.ParentSize == 0 {
			img.ParentSize = layers[i-1].Size
		}
	}
	return img, true
}

// without removes the layers of points that committed refuses, and disks that have none left.
func (c chain) without(keep func(model.Seq) bool) chain {
	c = c.clone()
	for t, layers := range c.Disks {
		layers = slices.DeleteFunc(layers, func(l layer) bool { return !keep(l.Seq) })
		if c.Disks[t] = layers; len(layers) == 0 {
			delete(c.Disks, t)
		}
	}
	return c
}

// forPlanning is the chain in the words of the planner.
func (c chain) forPlanning(points []model.Point) retention.State {
	var st retention.State
	for _, p := range points {
		st.Points = append(st.Points, p.Seq)
	}
	for target, layers := range c.Disks {
		d := retention.Disk{Target: target}
		for _, l := range layers {
			d.Layers = append(d.Layers, retention.Layer{Seq: l.Seq, File: l.File, Base: l.Base})
		}
		st.Disks = append(st.Disks, d)
	}
	slices.SortFunc(st.Disks, func(a, b retention.Disk) int { return bytes.Compare([]byte(a.Target), []byte(b.Target)) })
	return st
}

// decodePoint reads and checks a manifest; whatever the bytes are, it gives a sound point or an error.
func decodePoint(p []byte) (model.Point, error) {
	var m model.Point
	if len(p) > maxManifest {
		return m, fmt.Errorf("manifest of %d bytes", len(p))
	}
	if err := json.Unmarshal(p, &m); err != nil {
		return m, err
	}
	return m, checkPoint(m)
}

// checkNames checks what a manifest and the spec of a staging area have in common.
func checkNames(vm model.VMRef, p model.PointRef, parent model.Seq, disks int) error {
	switch {
	case !model.ValidUUID(vm.UUID):
		return fmt.Errorf("bad UUID %q", vm.UUID)
	case p.Seq == 0 || p.Generation == 0 || parent >= p.Seq:
		return fmt.Errorf("point %s with parent %d", p, parent)
	case disks == 0 || disks > model.MaxDisks:
		return fmt.Errorf("%d disks", disks)
	}
	return nil
}

func checkPoint(m model.Point) error {
	if m.Format != model.PointFormat {
		return fmt.Errorf("format %d: %w", m.Format, errFormat)
	}
	if err := checkNames(m.VM, m.PointRef, m.Parent, len(m.Disks)); err != nil {
		return err
	}
	seen := make(map[string]bool, len(m.Disks))
	for _, d := range m.Disks {
		if !model.ValidTarget(d.Target) || seen[d.Target] || d.Size <= 0 || d.Size > model.MaxDiskSize {
			return fmt.Errorf("disk %q of %d bytes", d.Target, d.Size)
		}
		seen[d.Target] = true
	}
	return nil
}
