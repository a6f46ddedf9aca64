package lease

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

// schedule drives a world by chance. Its decider obeys the order of single-writer.md section 4 and nothing else: it may claim,
// roll back, fence or forget at any moment, and everything it says may arrive late, twice or never.
type schedule struct {
	*world
	t        *rapid.T
	mail     []letter
	sealed   map[model.Generation]bool // the target's word, as it reached the decider
	evidence []*model.Evidence
}

type letter struct {
	what string
	do   func()
}

func (s *schedule) post(what string, do func()) { s.mail = append(s.mail, letter{what, do}) }

func (s *schedule) pick(what string) *host {
	return s.hosts[rapid.SampledFrom(s.order).Draw(s.t, what)]
}

func (s *schedule) record() model.Record {
	rec, err := s.records.Read(s.ctx, vm.UUID)
	require.NoError(s.t, err)
	return rec
}

func (s *schedule) peer(id model.HostID) model.HostID {
	if id == "host-a" {
		return "host-b"
	}
	return "host-a"
}

// to runs only at a host that answers.
func (s *schedule) to(id model.HostID, do func(h *host)) func() {
	return func() {
		if h := s.hosts[id]; h.answers() {
			do(h)
		}
	}
}

func (s *schedule) proven(ev *model.Evidence) {
	s.post("evidence", func() { s.evidence = append(s.evidence, ev) })
}

func (s *schedule) open() {
	rec := s.record()
	g, target := rec.Claimed+1, s.pick("target").id
	_, err := s.records.Claim(s.ctx, vm.UUID, g, rec.Permitted, target, attempt(g))
	require.NoError(s.t, err)
	s.post("seal", s.to(target, func(h *host) {
		if _, err := h.holder.Seal(s.ctx, vm, g, attempt(g)); err == nil {
			s.post("sealed", func() { s.sealed[g] = true })
		}
	}))
}

// prove asks for evidence, after both seals only.
func (s *schedule) prove() {
	rec := s.record()
	g, wait := rec.Claimed, rec.Terms.Wait()
	if !rec.Open() || !s.sealed[g] {
		return
	}
	switch rapid.IntRange(0, 3).Draw(s.t, "rung") {
	case 2:
		s.post("surrender", s.to(rec.PermitHost, func(h *host) {
			if ev, err := h.surrender(g, attempt(g)); err == nil {
				s.proven(ev)
			}
		}))
	case 3:
		s.hosts[rec.PermitHost].powerOff()
		s.proven(&model.Evidence{Kind: model.EvidenceFenced, Generation: g})
	default:
		if rapid.Bool().Draw(s.t, "in one go") {
			s.run(wait - rapid.SampledFrom([]time.Duration{0, s.step, 2 * s.step}).Draw(s.t, "early"))
		}
		s.post("await", s.to(rec.Target, func(h *host) {
			if wait > 0 && h.waited(g, attempt(g), wait) {
				s.proven(expired(g))
			}
		}))
	}
}

func (s *schedule) allow() {
	rec := s.record()
	if !rec.Open() {
		return
	}
	var ev *model.Evidence
	if n := len(s.evidence); n > 0 {
		ev = s.evidence[n-1-rapid.IntRange(0, n-1).Draw(s.t, "evidence")]
	}
	if s.permit(rec.Claimed, rec.Target, ev) == nil {
		s.start()
	}
}

// start tells the permitted host to take the VM, now or in an hour.
func (s *schedule) start() {
	rec := s.record()
	g, to := rec.Permitted, rec.PermitHost
	k := s.hold(to, g, model.ModeProbation, s.peer(to))
	s.post("start", s.to(to, func(h *host) { _ = h.takeAndStart(k) }))
}

func (s *schedule) commit() {
	rec := s.record()
	g, to := rec.Permitted, rec.PermitHost
	if _, err := s.records.SetMode(s.ctx, vm.UUID, g, to, model.ModeSole, s.terms); err != nil {
		return
	}
	k := s.hold(to, g, model.ModeSole, s.peer(to))
	s.post("commit", s.to(to, func(h *host) { _, _ = h.holder.Told(s.ctx, k) }))
}

// lease makes a sole generation leased, a letter for each step.
func (s *schedule) lease() {
	rec := s.record()
	g, to := rec.Permitted, rec.PermitHost
	if rec.Open() || rec.Mode == model.ModeProbation {
		return
	}
	s.post("admit", s.to(s.peer(to), func(h *host) { _ = h.state.Admit(vm, g) }))
	k := s.hold(to, g, model.ModeLeased, s.peer(to))
	s.post("lease", s.to(to, func(h *host) {
		terms, err := h.holder.Told(s.ctx, k)
		if err != nil || terms.GuardLevel < 1 {
			return
		}
		s.post("leased", func() { _, _ = s.records.SetMode(s.ctx, vm.UUID, g, to, model.ModeLeased, terms) })
	}))
}

// ask sends a renewal whose answers come when they come.
func (s *schedule) ask() {
	h := s.pick("asker")
	if !h.answers() {
		return
	}
	e, err := h.state.Get(vm.UUID)
	require.NoError(s.t, err)
	if !e.Holds() || len(e.Grantors) == 0 {
		return
	}
	to, holder := rapid.SampledFrom(e.Grantors).Draw(s.t, "grantor"), h.holder
	out, err := s.answer(to.Address, holder.compose(to, []Entry{e}))
	if err != nil {
		return
	}
	s.post("answer", func() {
		for _, a := range out.Answers {
			if h.holder == holder && h.answers() && holder.receive(to, a) {
				holder.act(s.ctx, a.VM)
			}
		}
	})
}

func (s *schedule) deliver() {
	if len(s.mail) == 0 {
		return
	}
	i := rapid.IntRange(max(0, len(s.mail)-8), len(s.mail)-1).Draw(s.t, "letter")
	if rapid.IntRange(0, 5).Draw(s.t, "old") == 0 {
		i = rapid.IntRange(0, len(s.mail)-1).Draw(s.t, "old letter")
	}
	s.mail[i].do() // it stays, and may come again
}

// drive is a decider that wants to come to an end: it does the next step of what is open, else it opens a takeover.
func (s *schedule) drive() {
	rec := s.record()
	at := len(s.mail)
	switch {
	case rec.Open() && s.sealed[rec.Claimed]:
		if n := len(s.evidence); n > 0 && s.evidence[n-1].Generation == rec.Claimed {
			s.allow()
		} else {
			s.prove()
		}
	case !rec.Open() && rec.Mode == model.ModeProbation:
		s.commit()
	case !rec.Open() && rec.Mode == model.ModeSole && rapid.Bool().Draw(s.t, "lease it"):
		s.lease()
	case !rec.Open():
		s.open()
	}
	for i := at; i < len(s.mail); i++ { // and the network works
		s.mail[i].do()
	}
}

// push is a network that works: the newest letter arrives.
func (s *schedule) push() {
	if n := len(s.mail); n > 0 {
		s.mail[n-1].do()
	}
}

func (s *schedule) fault() {
	h := s.pick("victim")
	switch rapid.IntRange(0, 10).Draw(s.t, "fault") {
	case 0:
		h.powerOff()
	case 1:
		h.holder = nil
	case 2:
		h.hung = true
	case 3:
		if !h.off {
			h.guard.alive = false
		}
	case 4:
		h.qemu = nil
	case 5:
		if !h.off && !h.asleep {
			h.sleep()
		}
	case 6:
		ends := []string{"host-a", "host-b", control}
		i := rapid.IntRange(0, 2).Draw(s.t, "cut")
		s.part(ends[i], ends[(i+1)%3])
	case 7:
		s.cDown = true
		s.openRecords()
		clear(s.sealed)
	case 8, 9:
		s.isolate(h.id)
	case 10:
		h.rate = rapid.SampledFrom([]float64{1 / (1 + model.LeaseRho), 1, 1 + model.LeaseRho}).Draw(s.t, "rate")
	}
}

func (s *schedule) repair() {
	h := s.pick("repaired")
	switch {
	case h.off:
		h.boot()
	case h.asleep:
		h.wake()
	case !h.guard.alive:
		h.guard.alive, h.guard.dead = true, 0
		h.guard.apply()
	case h.holder == nil || h.hung:
		h.startAgent()
	default:
		s.heal()
		s.cDown = false
	}
}

// byHand is what nobody should do: a start in place by the agent, or by virsh.
func (s *schedule) byHand() {
	h := s.pick("host")
	if h.answers() && rapid.Bool().Draw(s.t, "agent") {
		_ = h.inPlace()
	} else {
		h.start()
	}
}

func TestLawNeverTwoRunningCopiesUnderAnyScheduleOfFaults(t *testing.T) {
	terms := model.LeaseTerms{TTL: 5 * time.Second, Renew: time.Second, DStop: time.Second, TWd: time.Second, GuardLevel: 2}
	require.NoError(t, terms.Validate())
	taken := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, terms, time.Second, "host-a", "host-b")
		s := &schedule{world: w, t: rt, sealed: map[model.Generation]bool{}}
		s.begin()
		if rapid.Bool().Draw(rt, "leased") {
			require.NoError(rt, s.bind("host-a", 1, "host-b"))
		}
		moves := []struct {
			name   string
			weight int
			do     func()
		}{
			{"tick", 6, s.tick}, {"wait", 3, func() { s.run(s.terms.Wait() + time.Second) }}, {"deliver", 8, s.deliver}, {"push", 8, s.push}, {"drive", 20, s.drive},
			{"claim", 2, s.open}, {"prove", 5, s.prove}, {"permit", 4, s.allow}, {"start", 2, s.start}, {"commit", 2, s.commit},
			{"lease", 3, s.lease}, {"ask", 2, s.ask}, {"fault", 5, s.fault}, {"repair", 6, s.repair}, {"by hand", 1, s.byHand},
		}
		var bag []int
		for i, m := range moves {
			for range m.weight {
				bag = append(bag, i)
			}
		}
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] }) // draws lean to the first
		for range 150 - rapid.IntRange(0, 120).Draw(rt, "moves") {
			m := moves[rapid.SampledFrom(bag).Draw(rt, "move")]
			m.do()
			s.look()
			require.LessOrEqual(rt, s.worst, 1, "after %s", m.name)
		}
		rec := s.record()
		taken[fmt.Sprintf("%s on %s", rec.Mode, rec.PermitHost)]++
		if rec.Evidence != nil {
			taken[string(rec.Evidence.Kind)]++
		}
		s.benign()
		require.LessOrEqual(rt, s.worst, 1, "on the way back")
		require.Equal(rt, 1, s.running(), "when all is well again, one copy runs")
	})
	t.Log(taken)
}

// benign: every fault is over, and the decider brings the VM back on the host that was permitted last.
func (s *schedule) benign() {
	s.heal()
	s.cDown = false
	for _, id := range s.order {
		h := s.hosts[id]
		if h.off {
			h.boot()
		}
		if h.asleep {
			h.wake()
		}
		h.guard.alive, h.guard.dead = true, 0
		h.guard.apply()
		if h.holder == nil || h.hung {
			h.startAgent()
		}
	}
	rec := s.record()
	g, home := rec.Claimed+1, rec.PermitHost
	s.claim(g, rec.Permitted, home)
	_, err := s.hosts[s.peer(home)].surrender(g, attempt(g))
	require.NoError(s.t, err)
	s.mustPermit(g, home, nil)
	s.mustStart(g, home)
	s.run(3 * time.Second)
}
