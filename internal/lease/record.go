// Package lease keeps who may run a VM: the control plane's record of generations, and each host's floor below which it
// refuses. Both are fsynced files outside Temporal's database, because that database may lose its last commits in a power
// loss; workflows drive the record by compare-and-set and are never read for a permission.
//
// The protocol is references/single-writer.md. Here are the two grantors (Records of the control plane, State of an agent),
// the holder that renews with them and arms the guard, and the wait of a takeover's target.
package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// Records is the control plane's set of records, one file a VM. Exactly one server process may own the folder.
type Records struct {
	dir string
	now func() time.Time // for people only; no decision rests on it
	id  string
	mu  sync.Mutex // the record is read and replaced under it: compare-and-set
}

// OpenRecords uses dir, which it creates.
func OpenRecords(dir string, now func() time.Time) (*Records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, model.Fail(model.Internal, err, "cannot create the folder of generation records")
	}
	id, err := durableID(dir)
	if err != nil {
		return nil, err
	}
	return &Records{dir: dir, now: now, id: id}, nil
}

// ID of the control plane as a grantor: one whose folder was lost is another one, and in nobody's list.
func (r *Records) ID() string { return r.id }

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
	return r.write(model.Record{VM: vm, Claimed: g, Target: host, Permitted: g, PermitHost: host, Mode: model.ModeSole})
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

// Permission is what Permit writes.
type Permission struct {
	Generation model.Generation
	Host       model.HostID
	Attempt    string
	Evidence   *model.Evidence
	// Mode the generation begins in; empty is sole. Terms are the host's own.
	Mode  model.LeaseMode
	Terms model.LeaseTerms
}

// Permit closes a takeover: the generation may run on the host. Without evidence it is allowed only for the host of the last
// permitted generation (recover in place, rollback), because local exclusion is enough there. Evidence counts only for the
// attempt (generation) that asked for it [C19], and a lease that ran out only where a deadline bound the old holder.
func (r *Records) Permit(_ context.Context, uuid string, p Permission) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(uuid)
	if err != nil {
		return rec, err
	}
	if rec.Permitted == p.Generation && rec.PermitHost == p.Host {
		return rec, nil
	}
	if rec.Claimed != p.Generation || rec.Attempt != p.Attempt || rec.Target != p.Host {
		return rec, model.Fail(model.StaleGeneration, nil, "generation %d on %s is not what is claimed (%d on %s by %q)",
			p.Generation, p.Host, rec.Claimed, rec.Target, rec.Attempt).WithVM(rec.VM.Name)
	}
	if p.Host != rec.PermitHost {
		if why := insufficient(rec, p); why != "" {
			return rec, model.Fail(model.FenceUnconfirmed, nil, "%s", why).
				WithVM(rec.VM.Name).WithTry("understudy failover " + rec.VM.Name + " --confirm-primary-down, once the host is off")
		}
	}
	if p.Mode == "" || p.Terms.GuardLevel < 1 {
		p.Mode = model.ModeSole // nobody would stop it at a deadline
	}
	rec.Permitted, rec.PermitHost, rec.Evidence, rec.Mode, rec.Terms = p.Generation, p.Host, p.Evidence, p.Mode, p.Terms
	return r.write(rec)
}

func insufficient(rec model.Record, p Permission) string {
	ev := p.Evidence
	if ev == nil || ev.Generation != p.Generation || ev.Kind == model.EvidenceSameHost {
		return fmt.Sprintf("no evidence of this attempt that generation %d on %s is off", rec.Permitted, rec.PermitHost)
	}
	if bound := rec.Mode == model.ModeLeased || rec.Mode == model.ModeProbation; ev.Kind == model.EvidenceLeaseExpired && (!bound || rec.Terms.GuardLevel < 1) {
		return fmt.Sprintf("generation %d on %s is bound by no deadline (mode %q), so a lease that ran out proves nothing", rec.Permitted, rec.PermitHost, rec.Mode)
	}
	return ""
}

// SetMode moves the mode of the permitted generation, one way [C16]. To sole it is called before the holder hears of it, to
// leased after the holder acknowledged it [C14]. Repeating it is success.
func (r *Records) SetMode(_ context.Context, uuid string, g model.Generation, host model.HostID, mode model.LeaseMode, terms model.LeaseTerms) (model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(uuid)
	if err != nil {
		return rec, err
	}
	if rec.Mode == "" {
		rec.Mode = model.ModeSole // of a record that is older than modes
	}
	switch {
	case rec.Open() || rec.Permitted != g || rec.PermitHost != host:
		return rec, model.Fail(model.StaleGeneration, nil, "generation %d on %s is not what may run (%d on %s, claimed %d)",
			g, host, rec.Permitted, rec.PermitHost, rec.Claimed).WithVM(rec.VM.Name)
	case mode.Rank() == 0 || mode.Rank() < rec.Mode.Rank():
		return rec, model.Fail(model.Conflict, nil, "the mode of a generation goes from probation to sole to leased, not from %s to %q", rec.Mode, mode).WithVM(rec.VM.Name)
	case mode == model.ModeLeased && terms.Wait() == 0:
		return rec, model.Fail(model.InvalidArgument, nil, "%s has no guard, so it cannot be bound by a lease", host).WithVM(rec.VM.Name)
	case mode == rec.Mode && terms == rec.Terms:
		return rec, nil
	}
	rec.Mode, rec.Terms = mode, terms
	return r.write(rec)
}

// Grant answers a renewal as the control plane's grantor, under the lock of the records: the claim is this grantor's seal
// [C17]. It changes nothing, so it needs no fsync.
func (r *Records) Grant(in RenewIn) RenewOut {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := RenewOut{Grantor: r.id, Answers: make([]Answer, 0, len(in.Asks))}
	for _, a := range in.Asks[:min(len(in.Asks), MaxAsks)] {
		ans := Answer{VM: a.VM, Nonce: a.Nonce}
		switch rec, err := r.read(a.VM); {
		case err != nil:
			ans.Why = "there is no record that can be read"
		case a.Generation > rec.Claimed:
			// The record was lost or rolled back: nothing is granted until a person has looked.
			ans.Floor, ans.Why = rec.Claimed, "the record knows no such generation"
		case rec.Permitted != a.Generation || rec.PermitHost != in.Host:
			ans.Floor, ans.Moved, ans.Why = rec.Claimed, rec.Permitted >= a.Generation, fmt.Sprintf("generation %d is permitted, on %s", rec.Permitted, rec.PermitHost)
		case rec.Open():
			ans.Floor, ans.Why = rec.Claimed, "a takeover is open"
		default:
			ans.Floor, ans.Granted = rec.Claimed, true
		}
		out.Answers = append(out.Answers, ans)
	}
	return out
}

// Keep puts what a protection is beside its record. It changes nobody's permission.
func (r *Records) Keep(_ context.Context, uuid string, standby model.HostID, policy model.Policy) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(uuid)
	if err != nil {
		return err
	}
	rec.Standby, rec.Policy = standby, &policy
	_, err = r.write(rec)
	return err
}

// List gives all records. One that cannot be read is an error: nobody may take it for one that is not there.
func (r *Records) List(_ context.Context) ([]model.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []model.Record
	for _, n := range names {
		id := strings.TrimSuffix(filepath.Base(n), ".json")
		if !model.ValidUUID(id) {
			continue
		}
		rec, err := r.read(id)
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
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
