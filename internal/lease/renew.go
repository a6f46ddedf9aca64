package lease

import (
	"context"
	"slices"
	"time"

	"understudy/internal/model"
)

// Run renews until ctx ends.
func (h *Holder) Run(ctx context.Context) {
	defer h.calls.Wait()
	for next := h.o.Clock.Now(); ctx.Err() == nil; {
		h.Round(ctx)
		period := h.o.Terms().Renew
		if period <= 0 {
			period = model.LeaseRenew
		}
		next = max(next.Add(period), h.o.Clock.Now()) // no burst after a sleep
		if err := h.o.Clock.Wait(ctx, next); err != nil && ctx.Err() == nil {
			h.o.Log.Error("lease_clock", "error", err)
			return
		}
	}
}

// Round asks every grantor of every VM that is held once, beside each other; one that still owes an answer is not asked
// again. It does not wait for the answers.
func (h *Holder) Round(ctx context.Context) {
	all, err := h.o.State.All()
	if err != nil {
		h.o.Log.Error("lease_state", "error", err)
		return
	}
	batches := map[model.Grantor][]Entry{}
	for _, e := range all {
		if !e.Holds() {
			continue
		}
		for _, g := range e.Grantors {
			if !e.counts(g) {
				continue
			}
			batches[g] = append(batches[g], e)
		}
	}
	for g, entries := range batches {
		for chunk := range slices.Chunk(entries, MaxAsks) {
			h.send(ctx, g, chunk)
		}
	}
}

func (h *Holder) send(ctx context.Context, to model.Grantor, entries []Entry) {
	key := to.Address + "/" + entries[0].VM.UUID
	h.mu.Lock()
	if h.busy[key] {
		h.mu.Unlock()
		return
	}
	h.busy[key] = true
	h.mu.Unlock()
	h.calls.Go(func() {
		defer func() {
			h.mu.Lock()
			delete(h.busy, key)
			h.mu.Unlock()
		}()
		h.exchange(ctx, to, entries)
	})
}

// exchange sends one renewal and takes its answers.
func (h *Holder) exchange(ctx context.Context, to model.Grantor, entries []Entry) {
	in := h.compose(to, entries)
	attempt, cancel := context.WithTimeout(ctx, min(model.LeaseAttempt, h.o.Terms().Renew)) // shortens only: no decision rests on it
	defer cancel()
	out, err := h.o.Renewer.Renew(attempt, to, in)
	if err != nil {
		h.o.Log.Debug("renew_failed", "grantor", to.Address, "error", err)
		h.forgetQuestions(in)
		return
	}
	if out.Grantor != to.ID {
		h.o.Log.Warn("renew_stranger", "grantor", to.Address, "expected", to.ID, "answered", out.Grantor)
		h.forgetQuestions(in)
		return
	}
	changed := map[string]bool{}
	for _, a := range out.Answers {
		if h.receive(to, a) {
			changed[a.VM] = true
		}
	}
	for _, e := range entries {
		if changed[e.VM.UUID] {
			h.act(ctx, e.VM.UUID)
		}
	}
	h.forgetQuestions(in)
}

// compose notes when each question is sent: a grant counts from there [C3].
func (h *Holder) compose(to model.Grantor, entries []Entry) RenewIn {
	in := RenewIn{Host: h.o.Host, Instance: h.o.Instance, BootID: h.o.Clock.BootID()}
	for _, e := range entries {
		l := h.lane(e.VM.UUID)
		h.begin(l, e.Hold)
		h.mu.Lock()
		h.nonce++
		l.asked[h.nonce] = question{to.ID, e.Hold, h.o.Clock.Now()}
		in.Asks = append(in.Asks, Ask{VM: e.VM.UUID, Generation: e.Hold, Nonce: h.nonce})
		h.mu.Unlock()
	}
	return in
}

func (h *Holder) forgetQuestions(in RenewIn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range in.Asks {
		if l := h.lanes[a.VM]; l != nil {
			delete(l.asked, a.Nonce)
		}
	}
}

// receive takes one answer. It counts once, and only to a question of this generation that this grantor was asked.
func (h *Holder) receive(from model.Grantor, a Answer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lanes[a.VM]
	if l == nil {
		return false
	}
	q, asked := l.asked[a.Nonce]
	if !asked || q.grantor != from.ID || q.generation != l.of {
		return false
	}
	delete(l.asked, a.Nonce)
	if !a.Granted {
		l.refused[from.ID] = a
		return true
	}
	delete(l.refused, from.ID)
	l.grants[from.ID] = max(l.grants[from.ID], q.sent)
	return true
}

// act computes the deadline from the grants that count, and tells the guard.
func (h *Holder) act(ctx context.Context, uuid string) {
	l := h.lane(uuid)
	l.op.Lock()
	defer l.op.Unlock()
	e, err := h.o.State.Get(uuid)
	if err != nil || !e.Holds() {
		return
	}
	h.mu.Lock()
	if l.of != e.Hold {
		h.mu.Unlock()
		return
	}
	h.extend(l, e)
	over := h.over(l, e)
	deadline, sent := l.deadline, l.sent
	h.mu.Unlock()
	switch {
	case over != "":
		// Every grantor says no: it does not wait for its deadline.
		h.o.Log.Warn("lease_refused", "vm", e.VM.Name, "generation", uint64(e.Hold), "why", over)
		if h.o.Terms().GuardLevel > 0 {
			if err := h.stop(ctx, l, e); err != nil {
				h.o.Log.Error("lease_stop", "vm", e.VM.Name, "error", err)
			}
		}
	case deadline > sent && h.o.Terms().GuardLevel > 0:
		if err := h.tell(ctx, l, e, e.Mode, deadline); err != nil {
			h.o.Log.Error("lease_arm", "vm", e.VM.Name, "error", err)
		}
	}
}

// extend: any one grantor of the list is enough in modes leased and sole; on probation only the control plane counts.
func (h *Holder) extend(l *lane, e Entry) {
	ttl := e.Terms.TTL
	if ttl <= 0 {
		ttl = h.o.Terms().TTL
	}
	for _, g := range e.Grantors {
		if !e.counts(g) {
			continue
		}
		if sent, granted := l.grants[g.ID]; granted {
			l.deadline = max(l.deadline, sent.Add(ttl))
		}
	}
}

// over says why the VM must stop before its deadline: every grantor that counts refused after its last grant, or, for a copy
// without a deadline, one says that the VM has moved.
func (h *Holder) over(l *lane, e Entry) string {
	counted, refused, why := 0, 0, ""
	for _, g := range e.Grantors {
		if !e.counts(g) {
			continue
		}
		counted++
		if a, no := l.refused[g.ID]; no {
			refused++
			why = a.Why
			if a.Moved && e.Mode == model.ModeSole {
				return a.Why
			}
		}
	}
	if e.Mode == model.ModeSole || counted == 0 || refused < counted {
		return "" // one refusal is not an order to stop
	}
	return why
}

// ask is a renewal of one VM that is waited for. In every mode the first grant of a generation is the control plane's; a
// change to leased takes any of the list.
func (h *Holder) ask(ctx context.Context, l *lane, k Hold) error {
	e := Entry{VM: k.VM, Generation: k.Generation, Hold: k.Generation, Mode: k.Mode, Grantors: k.Grantors, Terms: h.o.Terms()}
	var last error
	why := ""
	for _, g := range k.Grantors {
		if k.Mode != model.ModeLeased && !g.Control() {
			continue
		}
		in := h.compose(g, []Entry{e})
		attempt, cancel := context.WithTimeout(ctx, model.LeaseAttempt)
		out, err := h.o.Renewer.Renew(attempt, g, in)
		cancel()
		if err != nil {
			last = err
			h.forgetQuestions(in)
			continue
		}
		for _, a := range out.Answers {
			if out.Grantor == g.ID && a.VM == k.VM.UUID && h.receive(g, a) && !a.Granted {
				why = a.Why
			}
		}
		h.forgetQuestions(in)
	}
	h.mu.Lock()
	h.extend(l, e)
	deadline := l.deadline
	h.mu.Unlock()
	if deadline > h.o.Clock.Now().Add(time.Second) {
		return nil
	}
	switch {
	case why != "":
		return h.fail(model.StaleGeneration, k.VM, nil, "generation %d is not granted: %s", k.Generation, why).WithTry("understudy status " + k.VM.Name)
	case last != nil:
		return h.fail(model.Unreachable, k.VM, last, "no grantor of generation %d answers", k.Generation)
	}
	return h.fail(model.Unreachable, k.VM, nil, "no grantor of generation %d is known, so it may not start", k.Generation)
}
