package recoverypoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"understudy/internal/blockio/qemuimg"
	"understudy/internal/decide/retention"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// plan is plan.json: what retention is doing. While the file is there the plan is run from its first operation on; each
// one that was done does nothing.
type plan struct {
	Format int            `json:"format"`
	Ops    []retention.Op `json:"ops"`
}

// decodePlan reads and checks a plan; whatever the bytes are, it gives a plan that names nothing but our layers.
func decodePlan(p []byte) (plan, error) {
	var pl plan
	if len(p) > maxManifest {
		return pl, fmt.Errorf("plan of %d bytes", len(p))
	}
	if err := json.Unmarshal(p, &pl); err != nil {
		return pl, err
	}
	if pl.Format != model.PointFormat {
		return pl, fmt.Errorf("format %d: %w", pl.Format, errFormat)
	}
	for _, op := range pl.Ops {
		file := func(name string) bool { return name == "" || layerPattern.MatchString(name) }
		switch {
		case op.Kind == retention.Delist && op.Target == "":
		case !model.ValidTarget(op.Target):
			return pl, fmt.Errorf("%s of disk %q", op.Kind, op.Target)
		}
		if !file(op.File) || !file(op.Into) {
			return pl, fmt.Errorf("%s of %q into %q", op.Kind, op.File, op.Into)
		}
	}
	return pl, nil
}

// errUrgent ends retention for something that cannot wait.
var errUrgent = errors.New("something more urgent came")

// Prune drops the oldest points until keepLast are left; see PruneTo.
func (s *Store) Prune(ctx context.Context, vm model.VMRef, keepLast int) (dropped []model.Seq, postponed string, err error) {
	return s.PruneTo(ctx, vm, retention.Rules{Last: keepLast})
}

// PruneTo drops the points that no rule keeps, and never the newest two. postponed says why it did nothing, or not all: a
// point is in use or being received, or something more urgent came. What was begun is ended by the next call.
func (s *Store) PruneTo(ctx context.Context, vm model.VMRef, rules retention.Rules) (dropped []model.Seq, postponed string, err error) {
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return nil, "", unlessMissing(err)
	}
	defer r.leave()
	return s.prune(ctx, r, rules)
}

// prune runs with the turn held. Without rules it only ends what was begun.
func (s *Store) prune(ctx context.Context, r *replica, rules retention.Rules) (dropped []model.Seq, postponed string, err error) {
	before := seqs(visible(r.points))
	begun, err := exists(r.home.plan())
	if err != nil {
		return nil, "", ioFailure(err, "looking for a plan in %s", r.home)
	}
	if !begun && (rules.Last == 0 || len(toDrop(r.points, rules)) == 0) {
		return nil, "", nil
	}
	if reason, err := r.inTheWay(); err != nil || reason != "" {
		return nil, reason, err
	}
	held, why, err := r.held()
	if err != nil {
		return nil, "", err
	}
	if begun && held > 0 {
		if free, err := r.planAbove(held); err != nil || !free {
			return nil, why, err
		}
	}
	ctx, done := r.hurried(ctx)
	defer done()
	if begun {
		err = s.runPlan(ctx, r)
	}
	if err == nil && rules.Last > 0 {
		drop := toDrop(r.points, rules)
		all := len(drop)
		drop = slices.DeleteFunc(drop, func(seq model.Seq) bool { return seq <= held })
		if len(drop) < all {
			postponed = why
		}
		err = s.dropPoints(ctx, r, drop)
	}
	for _, seq := range before {
		if !slices.Contains(seqs(r.points), seq) {
			dropped = append(dropped, seq)
		}
	}
	switch {
	case err == nil:
		return dropped, postponed, nil
	case errors.Is(context.Cause(ctx), errUrgent):
		return dropped, errUrgent.Error(), nil
	case errors.Is(err, qemuimg.ErrLocked):
		return dropped, "another process has an image of the chain open", nil
	}
	return dropped, "", ioFailure(err, "dropping old points of %s", r.chain.VM.Name).WithVM(r.chain.VM.Name)
}

// toDrop is what the rules drop, and seeds as soon as two points have followed: only the next one builds on them.
func toDrop(points []model.Point, rules retention.Rules) []model.Seq {
	drop := rules.Drop(dated(visible(points)))
	for i, p := range points {
		if p.Seed && i < len(points)-2 {
			drop = append(drop, p.Seq)
		}
	}
	slices.Sort(drop)
	return drop
}

func seqs(points []model.Point) []model.Seq {
	list := make([]model.Seq, len(points))
	for i, p := range points {
		list[i] = p.Seq
	}
	return list
}

func dated(points []model.Point) []retention.Point {
	list := make([]retention.Point, len(points))
	for i, p := range points {
		list[i] = retention.Point{Seq: p.Seq, TakenAt: p.TakenAt}
	}
	return list
}

// hurried is a context that interrupt ends.
func (r *replica) hurried(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.hurryMu.Lock()
	r.hurry = func() { cancel(errUrgent) }
	r.hurryMu.Unlock()
	return ctx, func() {
		r.hurryMu.Lock()
		r.hurry = nil
		r.hurryMu.Unlock()
		cancel(nil)
	}
}

// inTheWay says why retention may touch nothing now; "" when it may.
func (r *replica) inTheWay() (string, error) {
	holds, err := r.readHolds()
	if err != nil {
		return "", err
	}
	sets, err := r.activeSets()
	if err != nil {
		return "", err
	}
	for _, set := range sets {
		if !slices.ContainsFunc(holds, func(h model.Hold) bool { return h.Name == set && !h.Point.IsZero() }) {
			return "the overlays " + set + " lie on a point, nobody knows on which", nil
		}
	}
	for _, h := range holds {
		if h.Point.IsZero() {
			return fmt.Sprintf("a point is held by %s (%s)", h.Name, h.Why), nil
		}
	}
	switch {
	case r.open != nil && r.open.busy():
		return fmt.Sprintf("point %s is being received", r.open.spec.PointRef), nil
	}
	return "", nil
}

// held is the newest point that somebody holds, 0 for none, and who. What was received after it is in files of its own:
// dropping later points touches none of those that it lies on.
func (r *replica) held() (model.Seq, string, error) {
	holds, err := r.readHolds()
	var newest model.Hold
	for _, h := range holds {
		if h.Point.Seq > newest.Point.Seq {
			newest = h
		}
	}
	return newest.Point.Seq, fmt.Sprintf("point %s is held by %s (%s)", newest.Point, newest.Name, newest.Why), err
}

// planAbove tells whether a plan that was begun drops only points after one.
func (r *replica) planAbove(seq model.Seq) (bool, error) {
	p, err := readBounded(r.home.plan(), maxManifest)
	if err != nil {
		return false, err
	}
	pl, err := decodePlan(p)
	if err != nil {
		return false, nil //nolint:nilerr // it is thrown away when nothing is held
	}
	return !slices.ContainsFunc(pl.Ops, func(op retention.Op) bool { return op.Seq != 0 && op.Seq <= seq }), nil
}

func (s *Store) dropPoints(ctx context.Context, r *replica, drop []model.Seq) error {
	if len(drop) == 0 {
		return nil
	}
	ops, err := retention.Plan(r.chain.forPlanning(r.points), drop)
	if err != nil {
		return err
	}
	if err := s.step("plan"); err != nil {
		return err
	}
	if err := durable.WriteJSON(r.home.plan(), plan{Format: model.PointFormat, Ops: ops}); err != nil {
		return err
	}
	return s.runPlan(ctx, r)
}

// runPlan does what plan.json says and removes it.
func (s *Store) runPlan(ctx context.Context, r *replica) error {
	p, err := readBounded(r.home.plan(), maxManifest)
	if err != nil {
		return err
	}
	pl, err := decodePlan(p)
	if err != nil { // every operation leaves the chain sound, so the rest of the plan is not needed: make a new one
		return durable.Remove(r.home.plan())
	}
	for _, op := range pl.Ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.step("op-" + string(op.Kind)); err != nil {
			return err
		}
		if err := s.apply(ctx, r, op); err != nil {
			return fmt.Errorf("%s of point %d, disk %s: %w", op.Kind, op.Seq, op.Target, err)
		}
	}
	if err := s.step("plan-done"); err != nil {
		return err
	}
	return durable.Remove(r.home.plan())
}

// apply does one operation, or nothing if it is done.
func (s *Store) apply(ctx context.Context, r *replica, op retention.Op) error {
	layers := r.chain.Disks[op.Target]
	at := func(file string) int {
		return slices.IndexFunc(layers, func(l layer) bool { return l.File == file })
	}
	switch op.Kind {
	case retention.Delist:
		newest, ok := r.newest()
		if !ok || op.Seq >= newest.Seq {
			return nil
		}
		if err := durable.Remove(r.home.point(op.Seq)); err != nil {
			return err
		}
		r.points = slices.DeleteFunc(slices.Clone(r.points), func(p model.Point) bool { return p.Seq == op.Seq })
		r.show()
		return nil
	case retention.Merge:
		i := at(op.File)
		if i < 1 || layers[i].Base || layers[i-1].File != op.Into || r.lists(layers[i-1].Seq) {
			return nil
		}
		if err := s.img.CommitDown(ctx, r.home.layer(op.Target, op.File)); err != nil {
			return err
		}
		return qemuimg.Sync(r.home.layer(op.Target, op.Into))
	case retention.Rebase:
		i := at(op.File)
		if i < 1 || layers[i].Base || at(op.Into) < 0 {
			return nil
		}
		path := r.home.layer(op.Target, op.File)
		if err := s.img.Rebase(ctx, path, backingName(op.Target, op.Into), layerFormat(op.Into)); err != nil {
			return err
		}
		return qemuimg.Sync(path)
	case retention.Adopt:
		return s.adopt(r, op)
	case retention.Forget:
		i := r.chain.at(op.Target, op.Seq)
		if i < 0 || r.lists(op.Seq) {
			return nil
		}
		c := r.chain.clone()
		if c.Disks[op.Target] = slices.Delete(c.Disks[op.Target], i, i+1); len(c.Disks[op.Target]) == 0 {
			delete(c.Disks, op.Target)
		}
		return s.writeChain(r, c)
	case retention.Unlink:
		if at(op.File) >= 0 {
			return nil
		}
		if err := os.Remove(r.home.layer(op.Target, op.File)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if len(layers) == 0 {
			return s.dropDisk(r, op.Target)
		}
		return durable.SyncDir(r.home.disk(op.Target))
	}
	return fmt.Errorf("unknown operation %q", op.Kind)
}

// adopt lets the file a layer was merged into stand for that layer's point.
func (s *Store) adopt(r *replica, op retention.Op) error {
	own, child := r.chain.at(op.Target, op.Seq), r.chain.at(op.Target, op.Keep)
	if own < 0 || child != own+1 || r.lists(op.Seq) || r.chain.Disks[op.Target][own].File != op.Into {
		return nil
	}
	c := r.chain.clone()
	layers := c.Disks[op.Target]
	layers[child].File, layers[child].Base = op.Into, layers[own].Base
	c.Disks[op.Target] = slices.Delete(layers, own, own+1)
	return s.writeChain(r, c)
}

func (r *replica) lists(seq model.Seq) bool { return slices.Contains(seqs(r.points), seq) }

// finishPlan ends in the background what retention had begun before the store was opened.
func (s *Store) finishPlan(r *replica) {
	r.turn <- struct{}{}
	defer r.leave()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed && r.broken == nil && r.chain.Format != 0 {
		_, _, _ = s.prune(context.Background(), r, retention.Rules{}) // the next Prune tells what is wrong
	}
}
