// Package lease keeps who may run a VM: the control plane's record of generations, and each host's floor below which it
// refuses. Both are fsynced files outside Temporal's database, because that database may lose its last commits in a power
// loss; workflows drive the record by compare-and-set and are never read for a permission.
//
// The protocol is references/single-writer.md, sections 2 to 4. Built here: record, claim, permit, floor. Time-bound
// leases and the guard come on top of these and do not change them.
package lease

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// Records is the control plane's set of records, one file a VM. Exactly one server process may own the folder.
type Records struct {
	dir string
	now func() time.Time
	mu  sync.Mutex // the record is read and replaced under it: compare-and-set
}

// OpenRecords uses dir, which it creates.
func OpenRecords(dir string, now func() time.Time) (*Records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, model.Fail(model.Internal, err, "cannot create the folder of generation records")
	}
	return &Records{dir: dir, now: now}, nil
}

// Read returns the record of a VM; NotFound when there is none.
func (r *Records) Read(_ context.Context, uuid string) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read(uuid)
}

// Begin makes the first record: generation g runs on host. A record that already says so is success, any other Conflict.
func (r *Records) Begin(_ context.Context, vm model.VMRef, g model.Generation, host model.HostID) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, err := r.read(vm.UUID)
	switch {
	case err == nil && old.Permitted == g && old.PermitHost == host && !old.Open():
		return old, nil
	case err == nil:
		return old, model.Fail(model.Conflict, nil, "the record says that generation %d may run on %s", old.Permitted, old.PermitHost).
			WithVM(vm.Name).WithTry("understudy unprotect " + vm.Name + ", then protect it again on that host")
	case model.KindOf(err) != model.NotFound:
		return model.Record{}, err
	}
	return r.write(model.Record{VM: vm, Claimed: g, Target: host, Permitted: g, PermitHost: host})
}

// Claim opens a takeover: from here on nobody is granted anything until Permit. expect is the generation that must be the
// permitted one. The same attempt claiming again is success; another attempt, a lower generation or another permitted
// generation is Conflict with what the record holds. Numbers are never re-used: g must be above every claim so far.
func (r *Records) Claim(_ context.Context, uuid string, g, expect model.Generation, target model.HostID, attempt string) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(uuid)
	if err != nil {
		return rec, err
	}
	if rec.Claimed == g && rec.Attempt == attempt && rec.Target == target {
		return rec, nil
	}
	if g <= rec.Claimed || rec.Permitted != expect {
		return rec, model.Fail(model.Conflict, nil,
			"cannot claim generation %d over %d: the record has generation %d claimed by %q and %d permitted on %s",
			g, expect, rec.Claimed, rec.Attempt, rec.Permitted, rec.PermitHost).WithVM(rec.VM.Name)
	}
	rec.Claimed, rec.Target, rec.Attempt = g, target, attempt
	return r.write(rec)
}

// Permit closes a takeover: generation g may run on host. Without evidence it is allowed only for the host of the last
// permitted generation (recover in place, rollback), because local exclusion is enough there. Evidence counts only for
// the attempt (generation) that asked for it [C19].
func (r *Records) Permit(_ context.Context, uuid string, g model.Generation, host model.HostID, attempt string, ev *model.Evidence) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(uuid)
	if err != nil {
		return rec, err
	}
	if rec.Permitted == g && rec.PermitHost == host {
		return rec, nil
	}
	if rec.Claimed != g || rec.Attempt != attempt || rec.Target != host {
		return rec, model.Fail(model.StaleGeneration, nil, "generation %d on %s is not what is claimed (%d on %s by %q)",
			g, host, rec.Claimed, rec.Target, rec.Attempt).WithVM(rec.VM.Name)
	}
	if host != rec.PermitHost && (ev == nil || ev.Generation != g || ev.Kind == model.EvidenceSameHost) {
		return rec, model.Fail(model.FenceUnconfirmed, nil, "no evidence of this attempt that generation %d on %s is off",
			rec.Permitted, rec.PermitHost).WithVM(rec.VM.Name).WithTry("understudy failover " + rec.VM.Name + " --confirm-primary-down, once the host is off")
	}
	rec.Permitted, rec.PermitHost, rec.Evidence = g, host, ev
	return r.write(rec)
}

// Drop forgets a VM, after unprotect. A missing record is success.
func (r *Records) Drop(_ context.Context, uuid string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, err := r.path(uuid)
	if err != nil {
		return err
	}
	if err := durable.Remove(path); err != nil {
		return model.Fail(model.Internal, err, "cannot remove the generation record").WithVM(uuid)
	}
	return nil
}

func (r *Records) read(uuid string) (model.Record, error) {
	path, err := r.path(uuid)
	if err != nil {
		return model.Record{}, err
	}
	var rec model.Record
	switch err := durable.ReadJSON(path, &rec); {
	case errors.Is(err, fs.ErrNotExist):
		return model.Record{}, model.Fail(model.NotFound, nil, "there is no generation record").WithVM(uuid)
	case err != nil:
		return model.Record{}, model.Fail(model.Internal, err, "cannot read the generation record").WithVM(uuid)
	}
	return rec, nil
}

func (r *Records) write(rec model.Record) (model.Record, error) {
	path, err := r.path(rec.VM.UUID)
	if err != nil {
		return rec, err
	}
	rec.Version++
	rec.UpdatedAt = r.now().UTC()
	if err := durable.WriteJSON(path, rec); err != nil {
		return rec, model.Fail(model.Internal, err, "cannot write the generation record").WithVM(rec.VM.Name)
	}
	return rec, nil
}

func (r *Records) path(uuid string) (string, error) {
	if !model.ValidUUID(uuid) {
		return "", model.Fail(model.InvalidArgument, nil, "%q is not a VM UUID", uuid)
	}
	return filepath.Join(r.dir, uuid+".json"), nil
}
