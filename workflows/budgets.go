package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	leastThaw, mostThaw = 10, 160

	cpuMemory    = 0.25 // weight of the newest cycle
	levelCycles  = 4    // between two steps down: each has to show in the mean first
	calmCycles   = 10   // below half of the budget, until a step up
	cpuTolerated = 1.1  // beyond the budget, before it is said
)

// spent is what captures cost the agent's CPU of late, and what was done about it.
type spent struct {
	Share float64 `json:"share"` // of one core: CPU over the interval, mean of the recent captures
	Each  float64 `json:"each_s"`
	Down  int     `json:"down"` // levels that compression is down
	Since int     `json:"since"`
	Calm  int     `json:"calm"`
}

// frozen says whether this capture freezes the guest's file systems.
func (p *protection) frozen() bool {
	st := p.st
	return st.Policy.Freeze && !st.SkipFreeze && st.Thaw == 0
}

// stalled compares a capture's stall with the budget. Freezing is what can be left out; without it only a person can do something.
func (p *protection) stalled(ctx workflow.Context, out contract.SnapshotOut, froze bool) {
	st, most := p.st, p.st.Policy.MaxStall
	if most <= 0 {
		st.Thaw, st.ThawNext = 0, 0
		p.clear(contract.AlertStallBudget)
		return
	}
	took := time.Duration(out.StallMS * float64(time.Millisecond))
	switch over := took > most; {
	case over && froze:
		st.ThawNext = min(max(2*st.ThawNext, leastThaw), mostThaw)
		st.Thaw = st.ThawNext
		p.alert(ctx, contract.AlertStallBudget, fmt.Sprintf("point %d held the guest up for %s, the policy allows %s: the next %d captures do not freeze its file systems",
			out.Point.Seq, took.Round(time.Millisecond), most, st.Thaw), "understudy set-policy --freeze=false, or a larger --max-stall")
	case over:
		st.Thaw = max(st.Thaw-1, 0)
		p.alert(ctx, contract.AlertStallBudget, fmt.Sprintf("point %d held the guest up for %s, the policy allows %s, and its file systems were not frozen",
			out.Point.Seq, took.Round(time.Millisecond), most), "a longer --rpo makes fewer captures; understudy doctor")
	case st.Thaw > 0:
		st.Thaw--
	default:
		st.ThawNext = 0
		p.clear(contract.AlertStallBudget)
	}
}

// spend takes the CPU of a verified cycle in and chooses the level of compression for the next.
func (p *protection) spend(ctx workflow.Context, used, interval time.Duration) {
	s, most := &p.learned.CPU, p.st.Policy.CPUShare
	if used <= 0 || interval <= 0 {
		return
	}
	share := used.Seconds() / interval.Seconds()
	if s.Share == 0 {
		s.Share, s.Each = share, used.Seconds()
	}
	s.Share += cpuMemory * (share - s.Share)
	s.Each += cpuMemory * (used.Seconds() - s.Each)
	if most <= 0 {
		s.Down, s.Since, s.Calm = 0, 0, 0
		p.clear(contract.AlertCPUBudget)
		return
	}
	s.Since++
	switch {
	case s.Share > most:
		s.Calm = 0
		if s.Since >= levelCycles && lower(p.st.Policy.Compression, s.Down) != "off" {
			s.Down, s.Since = s.Down+1, 0
		}
	case s.Share < most/2:
		if s.Calm++; s.Calm >= calmCycles && s.Down > 0 {
			s.Down, s.Since, s.Calm = s.Down-1, 0, 0
		}
	default:
		s.Calm = 0
	}
	if s.Share > cpuTolerated*most && s.Since >= levelCycles && lower(p.st.Policy.Compression, s.Down) == "off" {
		p.alert(ctx, contract.AlertCPUBudget, fmt.Sprintf("captures use %.0f %% of a core, the policy allows %.0f %%, and its RPO of %s comes first", 100*s.Share, 100*most, p.rpo(ctx)),
			"a longer --rpo, or a larger --cpu")
	} else if s.Share <= most {
		p.clear(contract.AlertCPUBudget)
	}
}

// apart is how far apart captures are for the CPU budget; 0 without one, or while it is kept anyway.
func (p *protection) apart() time.Duration {
	s, most := p.learned.CPU, p.st.Policy.CPUShare
	if most <= 0 || s.Each <= 0 {
		return 0
	}
	return min(seconds(s.Each/most), model.MaxRPO)
}

// lower is a compression so many levels down.
func lower(level string, down int) string {
	levels := []string{"off", "fast", "default", "best"}
	at := 1 // auto begins as fast
	for i, l := range levels {
		if l == level {
			at = i
		}
	}
	if down <= 0 {
		return level
	}
	return levels[max(at-down, 0)]
}
