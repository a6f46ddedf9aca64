package allocate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"understudy/internal/model"
)

// fleet is a small discrete model of one link and its VMs: references/adaptive.md, section 6. What a VM has dirty follows
// D(T) = S(1-exp(-T/tau)) + aT times an activity that changes each five minutes; a capture starts by the VM's own law
// (latest safe start) or on behalf of the others; its transfer runs at the granted rate.
type fleet struct {
	capacity float64
	vms      []*guest
	rnd      *rand.Rand
	load     float64
	now      time.Time
	burst    *guest
	rate     float64 // added to the burster's writes
	out      Output
}

type guest struct {
	id          string
	tier        model.Tier
	rpo, fixed  float64
	s, tau, a   float64
	activity    float64
	hot, linear float64 // dirty since the last capture
	oldest      float64 // age of the oldest write that is in no capture
	sent        *sending
	reserved    Reservation
	throughput  float64
	late, most  float64 // seconds in violation, worst exposure
	captures    int
}

type sending struct {
	left, age, took, bytes float64
	tail                   float64
	excess                 bool
}

const tick = 0.25

func (g *guest) half() float64 {
	t := (g.rpo - 1) / 2
	return g.s*(1-math.Exp(-t/g.tau)) + g.a*t
}

func newFleet(seed uint64, load float64) *fleet {
	f := &fleet{capacity: 100e6 / 8, rnd: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_700_000_000, 0)}
	sum := 0.0
	for i := range 200 {
		g := &guest{id: fmt.Sprintf("vm%03d", i), tier: model.Bronze, rpo: 300, fixed: 0.3, activity: 1}
		switch {
		case i < 40:
			g.tier, g.rpo = model.Gold, 30
		case i < 120:
			g.tier, g.rpo = model.Silver, 60
		}
		size := math.Exp(1.2 * f.rnd.NormFloat64())
		g.tau = math.Exp(math.Log(5) + f.rnd.Float64()*math.Log(60)) // 5 s to 300 s
		g.s, g.a = size*g.tau*0.7, size*0.3
		sum += g.half() / ((g.rpo - 1) / 2 * f.capacity)
		f.vms = append(f.vms, g)
	}
	for _, g := range f.vms {
		g.s, g.a = g.s*load/sum, g.a*load/sum
		g.oldest = FirstPhase(g.id, seconds(g.rpo)).Seconds()
		g.reserved = Reserve(int64(g.half()), seconds(g.rpo), f.now)
		g.throughput = f.capacity / 4
	}
	return f
}

func (f *fleet) run(length float64) {
	for at := 0.0; at < length; at += tick {
		if math.Mod(at, 300) < tick {
			for _, g := range f.vms {
				g.activity = []float64{0.3, 1, 1.7}[f.rnd.IntN(3)]
			}
		}
		f.step(at)
		f.now = f.now.Add(time.Duration(tick * float64(time.Second)))
	}
}

func (f *fleet) step(at float64) {
	in := Input{Now: f.now, Budget: int64(f.capacity), Load: f.load, Hold: time.Duration(tick * float64(time.Second)), VMs: make([]VM, len(f.vms))}
	for i, g := range f.vms {
		if g.sent != nil && g.sent.excess {
			var fits bool
			g.reserved, fits = g.reserved.Take(int64(g.sent.left), f.now)
			g.sent.excess = !fits
		}
		in.VMs[i] = g.seen(f.now)
	}
	f.out = Allocate(in)
	used := 0.0
	for i, g := range f.vms {
		extra := 0.0
		if g == f.burst && at >= 600 && at < 900 {
			extra = f.rate
		}
		g.write(extra)
		used += g.send(float64(f.out.Grants[i].Rate))
		if g.sent == nil && (f.out.Grants[i].Start || g.own()) {
			g.capture(f.now)
		}
		exposure := g.oldest
		if g.sent != nil {
			exposure = g.sent.age
		}
		if at > 60 {
			g.most = max(g.most, exposure/g.rpo)
			if exposure > g.rpo {
				g.late += tick
			}
		}
	}
	f.load += (used/(f.capacity*tick) - f.load) * tick / 60
}

func (g *guest) seen(now time.Time) VM {
	v := VM{ID: g.id, Tier: g.tier, RPO: seconds(g.rpo), Tail: seconds(g.fixed)}
	age := g.oldest
	if g.sent != nil {
		age, v.Remaining, v.Excess = g.sent.age, int64(math.Ceil(g.sent.left)), g.sent.excess
	}
	oldest := now.Add(-seconds(age))
	v.Oldest = &oldest
	return v
}

func (g *guest) write(extra float64) {
	g.hot += (g.s - g.hot) / g.tau * g.activity * tick
	g.linear += (g.a*g.activity + extra) * tick
	g.oldest += tick
	if g.sent != nil {
		g.sent.age += tick
	}
}

func (g *guest) send(rate float64) float64 {
	s := g.sent
	if s == nil {
		return 0
	}
	s.took += tick
	n := min(s.left, rate*tick)
	s.left -= n
	if s.left <= 0 {
		if s.tail -= tick; s.tail <= 0 {
			if s.took > 0.4 {
				g.throughput += 0.3 * (s.bytes/s.took - g.throughput)
			}
			g.sent = nil
		}
	}
	return n
}

// own is the latest safe start of the VM alone, at 1.5 times the predicted time.
func (g *guest) own() bool {
	margin := max(0.5, 0.05*g.rpo)
	return g.rpo-margin-g.oldest-g.fixed-1.5*(g.hot+g.linear)/max(g.throughput, 1) <= tick
}

func (g *guest) capture(now time.Time) {
	bytes := g.hot + g.linear + 4096
	var fits bool
	g.reserved, fits = g.reserved.Take(int64(bytes), now)
	g.sent = &sending{left: bytes, bytes: bytes, age: g.oldest, tail: g.fixed, excess: !fits}
	g.hot, g.linear, g.oldest = 0, 0, 0
	g.captures++
}

// late is the share of the time in violation by tier, the bursting VM not counted, and the worst exposure by RPO.
func (f *fleet) late(length float64) (late map[model.Tier]float64, worst map[model.Tier]float64) {
	late, worst = map[model.Tier]float64{}, map[model.Tier]float64{}
	n := map[model.Tier]float64{}
	for _, g := range f.vms {
		if g != f.burst {
			n[g.tier]++
			late[g.tier] += g.late / (length - 60)
			worst[g.tier] = max(worst[g.tier], g.most)
		}
	}
	for t := range n {
		late[t] *= 100 / n[t]
	}
	return late, worst
}

func (f *fleet) describe(t *testing.T, name string, length float64) (map[model.Tier]float64, map[model.Tier]float64) {
	late, worst := f.late(length)
	t.Logf("%-28s late %% gold/silver/bronze %.2f/%.2f/%.2f worst %.2f/%.2f/%.2f", name, late[model.Gold], late[model.Silver], late[model.Bronze],
		worst[model.Gold], worst[model.Silver], worst[model.Bronze])
	return late, worst
}

// The whole evaluation takes minutes: UNDERSTUDY_LONG=1.
func seeds() (list []uint64, length float64) {
	if os.Getenv("UNDERSTUDY_LONG") != "" {
		return []uint64{1, 2, 3, 4, 5}, 3600
	}
	return []uint64{1}, 1500
}

func TestTwoHundredVMsKeepTheirPromisesUpToEightyPercent(t *testing.T) {
	list, length := seeds()
	for _, seed := range list {
		for _, load := range []float64{0.3, 0.6, 0.8} {
			f := newFleet(seed, load)
			f.run(length)
			late, _ := f.describe(t, fmt.Sprintf("seed %d load %.1f", seed, load), length)
			for _, tier := range []model.Tier{model.Gold, model.Silver, model.Bronze} {
				assert.Zero(t, late[tier], "%s at %.1f", tier, load)
			}
		}
	}
}

func TestGoldIsInTimeInOverload(t *testing.T) {
	list, length := seeds()
	for _, seed := range list {
		for _, load := range []float64{0.9, 1, 1.2} {
			f := newFleet(seed, load)
			f.run(length)
			late, _ := f.describe(t, fmt.Sprintf("seed %d load %.1f", seed, load), length)
			assert.Zero(t, late[model.Gold], "gold at %.1f", load)
			assert.Less(t, late[model.Silver], 5.0)
		}
	}
}

func TestABurstPutsNoOtherVMOut(t *testing.T) {
	list, length := seeds()
	for _, seed := range list {
		for _, load := range []float64{0.5, 0.8} {
			for _, who := range []int{199, 100, 20} {
				f := newFleet(seed, load)
				f.burst, f.rate = f.vms[who], 0.8*f.capacity
				f.run(length)
				late, _ := f.describe(t, fmt.Sprintf("seed %d load %.1f burst %s", seed, load, f.burst.tier), length)
				for _, tier := range []model.Tier{model.Gold, model.Silver, model.Bronze} {
					assert.Zero(t, late[tier], "%s at %.1f when %s bursts", tier, load, f.burst.tier)
				}
			}
		}
	}
}
