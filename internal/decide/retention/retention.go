// Package retention plans how old recovery points are dropped without touching the ones that stay. It is pure: it is
// given the chain and gives back a list of operations.
//
// A point's disk is a layer that lies on the layer of the point before it. Dropping a point therefore means to merge the
// layer above it down into its file, and to let that file stand for the point above from then on. Invariants, which hold
// after every single operation and in the middle of one (tests show both):
//
//   - every point that is still listed reads as it did before;
//   - no layer lies on a file that is gone;
//   - each operation done again, or done half and then again, comes to the same.
package retention

import (
	"fmt"
	"slices"

	"understudy/internal/model"
)

// MinKeep is the least number of points that stay: the newest is never merged, because the next delta is being written
// on top of it.
const MinKeep = 2

// Layer is the file that stands for one point of a disk.
type Layer struct {
	Seq  model.Seq
	File string
	Base bool // stands alone, lies on nothing
}

// Disk is a disk's layers, oldest first; each lies on the one before it unless it is a base.
type Disk struct {
	Target string
	Layers []Layer
}

// State is what a plan starts from: the listed points, oldest first, and the chains of all disks.
type State struct {
	Points []model.Seq
	Disks  []Disk
}

// OpKind is what an operation does.
type OpKind string

// The kinds of operations.
const (
	// Delist removes the manifest of point Seq: it is no longer a recovery point.
	Delist OpKind = "delist"
	// Merge writes what File holds into Into, the file below it, and syncs it.
	Merge OpKind = "merge"
	// Rebase makes File lie on Into instead of the file it lay on.
	Rebase OpKind = "rebase"
	// Adopt lets the file Into stand for point Keep, in the place of point Seq's layer, which leaves the chain.
	Adopt OpKind = "adopt"
	// Forget takes point Seq's layer out of the chain.
	Forget OpKind = "forget"
	// Unlink removes File.
	Unlink OpKind = "unlink"
)

// Op is one step of a plan. It is written to disk before the first step is made.
type Op struct {
	Kind   OpKind    `json:"op"`
	Seq    model.Seq `json:"seq,omitempty"`
	Target string    `json:"target,omitempty"`
	File   string    `json:"file,omitempty"`
	Into   string    `json:"into,omitempty"`
	Keep   model.Seq `json:"keep,omitempty"`
}

// KeepLast tells which points go when the newest n stay; n below MinKeep counts as MinKeep.
func KeepLast(points []model.Seq, n int) []model.Seq {
	n = max(n, MinKeep)
	if len(points) <= n {
		return nil
	}
	sorted := slices.Sorted(slices.Values(points))
	return sorted[:len(sorted)-n]
}

// Plan gives the operations that drop the given points, one point after the other. It refuses to drop a point that is
// not listed, or one of the newest that must stay.
func Plan(st State, drop []model.Seq) ([]Op, error) {
	st = st.clone()
	var ops []Op
	for _, seq := range drop {
		i := slices.Index(st.Points, seq)
		if i < 0 {
			return nil, fmt.Errorf("retention: point %d is not listed", seq)
		}
		if i == len(st.Points)-1 {
			return nil, fmt.Errorf("retention: point %d is the newest and stays", seq)
		}
		next := dropOne(st, seq)
		for _, op := range next {
			if err := st.Apply(op); err != nil {
				return nil, err
			}
		}
		ops = append(ops, next...)
	}
	return ops, nil
}

func dropOne(st State, seq model.Seq) []Op {
	ops := []Op{{Kind: Delist, Seq: seq}}
	for _, d := range st.Disks {
		i := d.index(seq)
		if i < 0 {
			continue // the disk came later, or had left already
		}
		own := d.Layers[i]
		if i+1 == len(d.Layers) || d.Layers[i+1].Base { // nothing lies on it
			ops = append(ops,
				Op{Kind: Forget, Target: d.Target, Seq: seq},
				Op{Kind: Unlink, Target: d.Target, File: own.File})
			continue
		}
		child := d.Layers[i+1]
		ops = append(ops, Op{Kind: Merge, Target: d.Target, File: child.File, Into: own.File})
		if i+2 < len(d.Layers) && !d.Layers[i+2].Base {
			ops = append(ops, Op{Kind: Rebase, Target: d.Target, File: d.Layers[i+2].File, Into: own.File})
		}
		ops = append(ops,
			Op{Kind: Adopt, Target: d.Target, Seq: seq, Keep: child.Seq, Into: own.File},
			Op{Kind: Unlink, Target: d.Target, File: child.File})
	}
	return ops
}

// Apply does to the state what an operation does to the store. Done twice it comes to the same.
func (st *State) Apply(op Op) error {
	if op.Kind == Delist {
		st.Points = slices.DeleteFunc(st.Points, func(s model.Seq) bool { return s == op.Seq })
		return nil
	}
	at := slices.IndexFunc(st.Disks, func(d Disk) bool { return d.Target == op.Target })
	if at < 0 {
		return nil
	}
	d := &st.Disks[at]
	switch op.Kind {
	case Adopt:
		child := d.index(op.Keep)
		if child < 0 {
			return fmt.Errorf("retention: point %d is not in the chain of %s", op.Keep, op.Target)
		}
		if i := d.index(op.Seq); i >= 0 {
			d.Layers[child].File, d.Layers[child].Base = op.Into, d.Layers[i].Base
			d.Layers = slices.Delete(d.Layers, i, i+1)
		}
	case Forget:
		if i := d.index(op.Seq); i >= 0 {
			d.Layers = slices.Delete(d.Layers, i, i+1)
		}
	case Delist, Merge, Rebase, Unlink:
	default:
		return fmt.Errorf("retention: unknown operation %q", op.Kind)
	}
	return nil
}

func (d Disk) index(seq model.Seq) int {
	return slices.IndexFunc(d.Layers, func(l Layer) bool { return l.Seq == seq })
}

func (st State) clone() State {
	st.Points = slices.Clone(st.Points)
	st.Disks = slices.Clone(st.Disks)
	for i := range st.Disks {
		st.Disks[i].Layers = slices.Clone(st.Disks[i].Layers)
	}
	return st
}
