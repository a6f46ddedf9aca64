package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/contract"
	"understudy/internal/decide/allocate"
	"understudy/internal/model"
)

// ledger is a book of claims without a watcher.
type ledger struct {
	held   map[string]claim
	others []allocate.Demand
	wrote  int64
	looked time.Duration
}

func (l *ledger) claimOf(uuid string) claim        { return l.held[uuid] }
func (l *ledger) keepClaim(uuid string, c claim)   { l.held[uuid] = c }
func (l *ledger) demands(string) []allocate.Demand { return l.others }
func (l *ledger) written(_ context.Context, _ model.VMRef, d time.Duration) (int64, time.Duration, error) {
	l.looked = d
	return l.wrote, d, nil
}

const mega = 1_000_000

func booked(budget int64, others ...allocate.Demand) (*shares, *ledger) {
	l := &ledger{held: map[string]claim{}, others: others}
	now := time.Now()
	s := newShares(budget, func() time.Time { return now }, func(string) (*time.Time, time.Duration) { return &now, 30 * time.Second },
		func() int { return 1 + len(others) }, slog.New(slog.DiscardHandler))
	s.book = l
	return s, l
}

func TestAdmissionIsToldWithItsNumbers(t *testing.T) {
	gold := allocate.Demand{ID: "gold1", Tier: model.Gold, RPO: 30 * time.Second, Half: 75 * mega} // half of the link
	p := model.DefaultPolicy()
	for name, c := range map[string]struct {
		budget, demand, wrote int64
		verdict               string
	}{
		"no budget: nothing to ask":       {0, 75 * mega, 0, ""},
		"a trace says that it fits":       {10 * mega, 30 * mega, 0, "accept"},
		"a trace says that it is tight":   {10 * mega, 55 * mega, 0, "warn"},
		"a trace says that it cannot":     {10 * mega, 80 * mega, 0, "refuse"},
		"a look says that it fits":        {10 * mega, 0, 50 * mega, "accept"}, // 15 s of it: half of the RPO, 60 % on the wire
		"a look says that it cannot":      {10 * mega, 0, 200 * mega, "refuse"},
		"it writes nothing while we look": {10 * mega, 0, 0, "accept"},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := booked(c.budget, gold)
			l.wrote = c.wrote
			a, err := s.Admit(context.Background(), db1, p, contract.AdmissionIn{Demand: c.demand})
			require.NoError(t, err)
			if c.verdict == "" {
				require.Nil(t, a)
				return
			}
			require.Equal(t, c.verdict, a.Verdict, a.Reason)
			require.InDelta(t, 0.5, a.Before, 0.01)
			require.Equal(t, []string{"gold1 (gold, RPO 30s) 50 %"}, a.Others)
			require.InDelta(t, a.Before+float64(a.Demand)/(15*10*mega), a.After, 0.01)
			if c.demand == 0 {
				require.Equal(t, 15*time.Second, l.looked)
				require.Contains(t, a.Reason, "provisional")
			} else {
				require.Zero(t, l.looked, "a trace says more than a look")
			}
		})
	}
}

func TestAdmissionCountsTheStrictestWindowOfTheCalendar(t *testing.T) {
	p := model.DefaultPolicy() // 30 s
	p.Calendar = &model.Calendar{Windows: []model.Window{
		{Name: "night", RPO: 5 * time.Minute}, {Name: "rush", RPO: 10 * time.Second, Tier: model.Gold}, {Name: "noon", RPO: 20 * time.Second},
	}}
	s, l := booked(10 * mega)
	ask := func(p model.Policy, in contract.AdmissionIn) *contract.Admission {
		a, err := s.Admit(context.Background(), db1, p, in)
		require.NoError(t, err)
		return a
	}
	a := ask(p, contract.AdmissionIn{Demand: 60 * mega, Strict: 25 * mega}) // hot blocks: a third of the time, but 42 % of the bytes
	require.Equal(t, "accept", a.Verdict)
	require.InDelta(t, 0.5, a.After, 0.001)
	require.Equal(t, "rush", a.Window)
	require.Contains(t, a.Reason, `the RPO of 10s in the window "rush"`)
	require.EqualValues(t, 60*mega, a.Demand, "the claim is that of the RPO outside of the window")
	require.Equal(t, "refuse", ask(p, contract.AdmissionIn{Demand: 60 * mega}).Verdict, "what is not known for the window is no less than for the policy, at worst")

	l.wrote = 30 * mega
	a = ask(p, contract.AdmissionIn{})
	require.InDelta(t, 0.12, a.After, 0.001, "a rate of writing is the same at each RPO")
	require.Equal(t, a.Demand, halfOf(2*mega, p.RPO))

	p.Calendar.Windows = p.Calendar.Windows[:1]
	a = ask(p, contract.AdmissionIn{Demand: 60 * mega})
	require.Equal(t, "accept", a.Verdict)
	require.Empty(t, a.Window, "a longer RPO is no stricter")
}

func (s *shares) claimFor(demand int64, seq model.Seq) *account {
	t := s.Join(activities.Transfer{VM: db1, Point: model.PointRef{Generation: 1, Seq: seq}, Tier: model.Silver, RPO: 30 * time.Second, Demand: demand, Look: mega, Disks: 1})
	t.Leave(0)
	return s.vms[db1.UUID]
}

func TestAClaimGrowsOnlyIntoWhatCanBePromised(t *testing.T) {
	s, l := booked(10*mega, allocate.Demand{ID: "gold1", Tier: model.Gold, RPO: 30 * time.Second, Half: 75 * mega})
	require.EqualValues(t, 20*mega, s.claimFor(20*mega, 1).demand, "as admitted")
	require.Equal(t, claim{model.Silver, 20 * mega}, l.held[db1.UUID])
	require.EqualValues(t, 40*mega, s.claimFor(40*mega, 2).demand)
	require.InDelta(t, 45*mega, s.claimFor(150*mega, 3).demand, 1, "80 % of the link, less the other's half")
	require.EqualValues(t, 10*mega, s.claimFor(10*mega, 4).demand, "and gives back at once")
	require.InDelta(t, 2*10*mega/15.0, s.vms[db1.UUID].claim.Rate, 1, "twice D(RPO/2) each RPO/2")

	l.others[0].Half = 150 * mega
	require.EqualValues(t, 10*mega, s.claimFor(90*mega, 5).demand, "what it holds is not taken away")
}

func TestARetryDoesNotPayItsReservationAgain(t *testing.T) {
	s, _ := booked(10 * mega)
	a := s.claimFor(20*mega, 7)
	once := a.claim.Tokens
	require.Less(t, once, a.claim.Depth)
	require.InDelta(t, once, s.claimFor(20*mega, 7).claim.Tokens, 1, "the same point")
	require.Less(t, s.claimFor(20*mega, 8).claim.Tokens, once-mega/2, "the next one pays")
}

func TestClaimsAndWritesOfAWatchedVM(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watch")
	r := newRig(t, dir, running(), &plane{})
	r.cycle(t, 1)
	r.tick(t, 2*mega) // a megabyte a second
	d := r.demands("")
	require.Len(t, d, 1)
	require.EqualValues(t, 0.6*mega*15, d[0].Half, "before it has a claim: as it writes")
	r.keepClaim(db1.UUID, claim{model.Gold, 5 * mega})
	require.Empty(t, r.demands(db1.UUID))
	again := newRig(t, dir, running(), &plane{}) // the agent is restarted
	require.Equal(t, claim{model.Gold, 5 * mega}, again.claimOf(db1.UUID))
	require.Equal(t, []allocate.Demand{{ID: "db1", Tier: model.Gold, RPO: 30 * time.Second, Half: 5 * mega}}, again.demands(""))
}

func TestABusierLinkTellsTheVMsWhoseStartItBringsForward(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.cycle(t, 1)
	r.tick(t, 4096)
	for range 8 {
		r.tick(t, 4096) // 18 s of 30
	}
	use := func(u float64) map[string]string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.crowded(model.HostLoad{LinkBudget: mega, LinkUse: u})
	}
	require.Empty(t, use(0.3), "0.67 of the target is not reached")
	require.Contains(t, use(0.6)[db1.UUID], "60 %", fmt.Sprint(use(0.6)))
	_, err := r.Observe(context.Background(), db1)
	require.NoError(t, err)
	r.vms[db1.UUID].toldUse = 0.6
	require.Empty(t, use(0.65), "it knows")
	require.NotEmpty(t, use(0.8))
}
