package simulate

import (
	"strings"
	"time"

	"understudy/internal/model"
)

// Planners that can be asked for by name.
const plannersTry = "--compare fixed:15s,fixed:15s+skip,best-fixed,last-duration,two-gear"

// Compare runs the adaptive cadence and then the schedules named: fixed:TIME, fixed:TIME+skip (leaves a cycle out when
// nothing was written), best-fixed (the best interval in hindsight), last-duration and two-gear.
func Compare(b *Bed, names []string) ([]Result, error) {
	out := []Result{b.Run(&Adaptive{})}
	for _, n := range names {
		if n = strings.TrimSpace(n); n == "" || n == "adaptive" {
			continue
		}
		if n == "best-fixed" {
			out = append(out, b.BestFixed())
			continue
		}
		p, err := planner(n)
		if err != nil {
			return nil, err
		}
		out = append(out, b.Run(p))
	}
	return out, nil
}

func planner(name string) (Planner, error) {
	switch name {
	case "last-duration":
		return &LastDurations{}, nil
	case "two-gear":
		return &TwoGear{}, nil
	}
	value, is := strings.CutPrefix(name, "fixed:")
	if !is {
		return nil, model.Fail(model.InvalidArgument, nil, "there is no schedule %q", name).WithTry(plannersTry)
	}
	value, skip := strings.CutSuffix(value, "+skip")
	t, err := time.ParseDuration(value)
	if err != nil || t < 100*time.Millisecond || t > 7*24*time.Hour {
		return nil, model.Fail(model.InvalidArgument, err, "%q is not an interval between 100ms and 168h", value).WithTry(plannersTry)
	}
	return &Fixed{T: t, Skip: skip}, nil
}
