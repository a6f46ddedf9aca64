package cadence

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

// Explanation is a decision with everything that led to it. Plain data, for histories and for `understudy explain`.
type Explanation struct {
	Cadence model.Cadence `json:"cadence"`
	At      time.Time     `json:"at"`
	Inputs  []Quantity    `json:"inputs,omitempty"`
	Change  []string      `json:"what_would_change_it,omitempty"`
}

// Quantity is one named input or intermediate result.
type Quantity struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Explain decides as Decide does and says why.
func Explain(in Input) Explanation {
	in = in.known()
	e := Explanation{Cadence: Decide(in), At: in.Now}
	if in.Oldest == nil {
		e.Change = plainChange(e.Cadence.Binding)
		return e
	}
	t := in.terms()
	e.Inputs = []Quantity{
		{"rpo", t.rpo, "s"}, {"exposure", t.age, "s"}, {"sampling period", t.h, "s"}, {"margin", t.margin, "s"},
		{"changed bytes", compact(t.b), "B"}, {"written", float64(in.Written), "B"}, {"dirty clusters", float64(in.Dirty), "B"},
		{"growth", compact(t.g), "B/s"}, {"growth with reserve", compact(t.gReserve), "B/s"}, {"throughput", compact(t.rate), "B/s"},
		{"fixed cost", compact(t.e.Fixed), "s"}, {"guard", compact(t.e.Guard), "x"}, {"bytes sent per changed byte", compact(t.e.Wire), "x"},
		{"transfer", compact(t.once() - t.e.Fixed), "s"}, {"cycle", compact(t.d), "s"}, {"slack", compact(t.slack), "s"}, {"load", compact(t.load), "share"}, {"age limit", compact(t.limit), "s"},
		{"use of the host's link", in.Crowd, "share"}, {"cycles learned from", float64(in.Learned.Cycles), ""},
	}
	switch e.Cadence.Binding {
	case model.BindingSlack, model.BindingLoad, model.BindingTMin, model.BindingAllocator, model.BindingCPU:
		e.Change = in.counterfactuals(e.Cadence)
	default:
		e.Change = plainChange(e.Cadence.Binding)
	}
	return e
}

// counterfactuals asks the law itself: the same state with one thing other.
func (in Input) counterfactuals(now model.Cadence) []string {
	var out []string
	ask := func(what string, change func(*Input, *Learned)) {
		l := *in.Learned
		other := in
		other.Learned = &l
		change(&other, &l)
		c := Decide(other)
		switch by := c.StartIn - now.StartIn; {
		case by > 50*time.Millisecond:
			out = append(out, fmt.Sprintf("%s: it starts %s later (%s)", what, round(by), c.Binding))
		case by < -50*time.Millisecond:
			out = append(out, fmt.Sprintf("%s: it starts %s earlier (%s)", what, round(-by), c.Binding))
		}
	}
	ask("with twice the throughput", func(i *Input, l *Learned) { l.Rate, i.Share = 2*l.Rate, 2*i.Share })
	ask("with half the throughput", func(i *Input, l *Learned) { l.Rate, i.Share = l.Rate/2, i.Share/2 })
	ask("with half the bytes", func(i *Input, l *Learned) {
		i.Written, i.Dirty, i.Since, l.G, l.Pace = i.Written/2, i.Dirty/2, i.Since/2, l.G/2, l.Pace/2
	})
	ask("with half the load remembered", func(_ *Input, l *Learned) { l.Load.Value /= 2 })
	ask("without a burst remembered", func(_ *Input, l *Learned) { l.Growth = Peak{} })
	ask("with an RPO half as long again", func(i *Input, _ *Learned) { i.RPO += i.RPO / 2 })
	ask("with the link to itself", func(i *Input, _ *Learned) { i.Crowd = 0 })
	ask("without the CPU budget", func(i *Input, _ *Learned) { i.Apart = 0 })
	return out
}

func plainChange(b model.Binding) []string {
	switch b {
	case model.BindingIdle:
		return []string{"the first write starts the clock"}
	case model.BindingPaused:
		return []string{"resuming it"}
	case model.BindingWaiting:
		return []string{"the VM runs and both hosts are heard"}
	case model.BindingRetry:
		return []string{"the end of the back-off, or a request"}
	case model.BindingRunning:
		return []string{"the end of the cycle under way"}
	case model.BindingSeed, model.BindingRequest, model.BindingSlack, model.BindingLoad, model.BindingTMin, model.BindingAllocator, model.BindingCPU:
	}
	return nil
}
