package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// pause is the record of a VM that is paused for a switchover, in paused/<uuid>.json. It is written before the order to pause,
// so that a new process of the agent knows which VM to let go on.
type pause struct {
	VM      model.VMRef   `json:"vm"`
	Attempt string        `json:"attempt"`
	At      time.Time     `json:"at"`
	Limit   time.Duration `json:"limit_ns"`
	Writes  int64         `json:"writes"` // requests that the VM had made by then; -1 while that is not known
	// GivenUp says that the pause ends with the copy, not with its going on.
	GivenUp bool `json:"given_up,omitempty"`
}

const (
	statsTries = 10
	pauseTick  = 500 * time.Millisecond
	// unpauseLimit bounds one try: a QEMU that the guard has frozen does not answer.
	unpauseLimit = 5 * time.Second
)

func (r *Restorer) pausedDir() string { return filepath.Join(r.o.StateDir, "paused") }

func (r *Restorer) pauseOf(uuid string) string { return filepath.Join(r.pausedDir(), uuid+".json") }

// Pause stops a running VM for a switchover, for limit at most: WatchPauses lets it go on then. Asked again for the same
// attempt it tells when that was.
func (r *Restorer) Pause(ctx context.Context, vm model.VMRef, attempt string, limit time.Duration) (time.Time, error) {
	if !model.ValidUUID(vm.UUID) || attempt == "" || limit <= 0 {
		return time.Time{}, r.fail(model.InvalidArgument, vm, nil, "a pause of %q for %s", vm.UUID, limit)
	}
	r.pauses.Lock()
	defer r.pauses.Unlock()
	var rec pause
	if err := r.read(r.pauseOf(vm.UUID), &rec); err != nil {
		return time.Time{}, err
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	switch {
	case err != nil:
		return time.Time{}, err
	case !found || !dom.State.Active():
		return time.Time{}, r.fail(model.NotRunning, vm, nil, "the VM is %s: there is nothing to pause", state(dom, found))
	case dom.State == hypervisor.Paused && rec.Attempt == attempt && rec.Writes >= 0 && !rec.GivenUp:
		return rec.At, nil
	case dom.State != hypervisor.Running && rec.Attempt == "":
		return time.Time{}, r.fail(model.Conflict, vm, nil, "the VM is %s, not by us", state(dom, found)).WithTry("virsh resume " + vm.Name)
	}
	rec = pause{VM: vm, Attempt: attempt, At: r.o.Now().UTC(), Limit: limit, Writes: -1}
	if err := r.write(r.pauseOf(vm.UUID), rec); err != nil {
		return time.Time{}, err
	}
	err = r.hv.Suspend(ctx, vm.UUID)
	if err == nil {
		rec.Writes, err = r.writes(ctx, vm)
	}
	if err == nil {
		err = r.write(r.pauseOf(vm.UUID), rec)
	}
	if err != nil { // what cannot be undone now, WatchPauses does
		_ = r.unpause(context.WithoutCancel(ctx), vm)
		return time.Time{}, err
	}
	return rec.At, nil
}

// writes is how many write requests the VM has made. A domain that another call holds is left out of an answer.
func (r *Restorer) writes(ctx context.Context, vm model.VMRef) (int64, error) {
	for try := 1; ; try++ {
		list, err := r.hv.Stats(ctx, hypervisor.StatsQuery{Only: []string{vm.UUID}})
		if err != nil {
			return -1, err
		}
		for _, s := range list {
			if s.UUID == vm.UUID {
				return s.WriteReqs, nil
			}
		}
		if try == statsTries {
			return -1, r.fail(model.Unreachable, vm, nil, "libvirt does not tell what the VM has written")
		}
		if err := r.wait(ctx); err != nil {
			return -1, err
		}
	}
}

// Unpause lets a VM go on that was paused for a switchover. One that was not, or is off by now, is left as it is.
func (r *Restorer) Unpause(ctx context.Context, vm model.VMRef) error {
	if !model.ValidUUID(vm.UUID) {
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	r.pauses.Lock()
	defer r.pauses.Unlock()
	return r.unpause(ctx, vm)
}

func (r *Restorer) unpause(ctx context.Context, vm model.VMRef) error {
	var rec pause
	if err := r.read(r.pauseOf(vm.UUID), &rec); err != nil || rec.Attempt == "" {
		return err
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil {
		return err
	}
	if found && dom.State == hypervisor.Paused {
		if err := r.hv.Resume(ctx, vm.UUID); err != nil {
			return err
		}
	}
	return r.remove(r.pauseOf(vm.UUID))
}

// PausedNow says that the VM is paused for a switchover.
func (r *Restorer) PausedNow(uuid string) bool {
	var rec pause
	return model.ValidUUID(uuid) && r.read(r.pauseOf(uuid), &rec) == nil && rec.Attempt != ""
}

// SurrenderPaused is Surrender of a copy that has been paused since Pause of that attempt, without a write in between. One
// that went on meanwhile is not stopped: what it wrote would be lost.
func (r *Restorer) SurrenderPaused(ctx context.Context, vm model.VMRef, attempt string) error {
	if !model.ValidUUID(vm.UUID) {
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	r.pauses.Lock()
	defer r.pauses.Unlock()
	rec, err := r.stillPaused(ctx, vm, attempt)
	if err != nil {
		return err
	}
	if !rec.GivenUp {
		rec.GivenUp = true
		if err := r.write(r.pauseOf(vm.UUID), rec); err != nil {
			return err
		}
	}
	return r.Surrender(ctx, vm)
}

// MayGiveUp says whether SurrenderPaused would be refused: asked before anything is given up durably.
func (r *Restorer) MayGiveUp(ctx context.Context, vm model.VMRef, attempt string) error {
	if !model.ValidUUID(vm.UUID) {
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	r.pauses.Lock()
	defer r.pauses.Unlock()
	_, err := r.stillPaused(ctx, vm, attempt)
	return err
}

func (r *Restorer) stillPaused(ctx context.Context, vm model.VMRef, attempt string) (pause, error) {
	var rec pause
	if err := r.read(r.pauseOf(vm.UUID), &rec); err != nil || rec.GivenUp && rec.Attempt == attempt {
		return rec, err
	}
	refuse := func(format string, args ...any) (pause, error) {
		return rec, r.fail(model.Conflict, vm, nil, format, args...).WithTry("understudy switchover " + vm.Name)
	}
	if rec.Attempt != attempt {
		return refuse("the VM is not paused for this switchover any more, so it is not stopped")
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil {
		return rec, err
	}
	if !found || dom.State != hypervisor.Paused {
		return refuse("the VM is %s, not paused, so it is not stopped", state(dom, found))
	}
	now, err := r.writes(ctx, vm)
	if err != nil {
		return rec, err
	}
	if now != rec.Writes {
		return refuse("the VM wrote while it was to be paused, so it is not stopped")
	}
	return rec, nil
}

// WatchPauses lets every VM go on whose pause has lasted too long, also one that a process before this one paused. It ends
// with ctx.
func (r *Restorer) WatchPauses(ctx context.Context) {
	tick := time.NewTicker(pauseTick)
	defer tick.Stop()
	seen := map[string]time.Time{} // by this process's clock, which nobody sets back
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		entries, err := os.ReadDir(r.pausedDir())
		if err != nil {
			continue // there never was a pause
		}
		for _, e := range entries {
			uuid, ok := strings.CutSuffix(e.Name(), ".json")
			if ok && model.ValidUUID(uuid) {
				r.endPause(ctx, uuid, seen)
			}
		}
	}
}

func (r *Restorer) endPause(ctx context.Context, uuid string, seen map[string]time.Time) {
	r.pauses.Lock()
	defer r.pauses.Unlock()
	var rec pause
	if r.read(r.pauseOf(uuid), &rec) != nil || rec.Attempt == "" || rec.GivenUp {
		return
	}
	if _, ok := seen[uuid+rec.Attempt]; !ok {
		seen[uuid+rec.Attempt] = time.Now()
	}
	if time.Since(seen[uuid+rec.Attempt]) >= rec.Limit || r.o.Now().Sub(rec.At) >= rec.Limit {
		limit, cancel := context.WithTimeout(ctx, unpauseLimit)
		defer cancel()
		_ = r.unpause(limit, rec.VM) // tried again at the next tick
	}
}
