package cadence

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write the decisions of the scenarios as they are now")

// TestScenarios tells the stories of testdata: lines set the state, "decide" and "explain" ask, lines with > are the answers.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			require.NoError(t, err)
			s := story{in: Input{Committed: true, Dirty: -1, Now: noon, RPO: 30 * time.Second, Learned: &Learned{}}, captured: noon}
			var out []string
			for n, line := range strings.Split(strings.TrimRight(string(raw), "\n"), "\n") {
				if strings.HasPrefix(line, ">") {
					continue
				}
				out = append(out, line)
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				answers, err := s.do(strings.Fields(line))
				require.NoError(t, err, "%s:%d: %s", f, n+1, line)
				for _, a := range answers {
					out = append(out, "> "+a)
				}
			}
			got := strings.Join(out, "\n") + "\n"
			if *rewrite {
				require.NoError(t, os.WriteFile(f, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(raw), got)
		})
	}
}

// story is a VM in the middle of its life.
type story struct {
	in       Input
	captured time.Time
}

func (s *story) do(w []string) ([]string, error) {
	v := map[string]string{}
	for i := 1; i+1 < len(w); i += 2 {
		v[w[i]] = w[i+1]
	}
	l := s.in.Learned
	switch w[0] {
	case "rpo":
		s.in.RPO = dur(w[1])
	case "link": // as the seeding measured it
		l.Rate = bytesOf(w[1])
	case "share":
		s.in.Share = bytesOf(w[1])
	case "crowd":
		s.in.Crowd, _ = strconv.ParseFloat(w[1], 64)
	case "at":
		s.in.Now = noon.Add(dur(w[1]))
	case "captured": // and verified
		s.captured, s.in.LastCapture, s.in.Oldest, s.in.Written, s.in.Dirty = s.in.Now, s.in.Now, nil, 0, -1
		s.in.Committed = true
	case "oldest":
		o := noon.Add(dur(w[1]))
		s.in.Oldest = &o
	case "look": // written BYTES [dirty BYTES], since the capture
		s.in.Written, s.in.Dirty = int64(bytesOf(v["written"])), -1
		if d, is := v["dirty"]; is {
			s.in.Dirty = int64(bytesOf(d))
		}
		l.Look(Counters{s.in.Now, s.in.Written, s.in.Dirty}, s.captured, s.in.RPO)
		s.in.SampledAt = s.in.Now
	case "cycles": // N every INTERVAL changed BYTES [written BYTES] [dirty BYTES] [sent BYTES] [fixed TIME] [moved TIME]
		n, err := strconv.Atoi(w[1])
		if err != nil {
			return nil, err
		}
		v = map[string]string{"fixed": "300ms"}
		for i := 2; i+1 < len(w); i += 2 {
			v[w[i]] = w[i+1]
		}
		changed := int64(bytesOf(v["changed"]))
		c := Cycle{Interval: dur(v["every"]), Changed: changed, Written: changed, Dirty: changed, Sent: changed, Fixed: dur(v["fixed"]), Moved: span(float64(changed) / max(l.Rate, 1))}
		for key, to := range map[string]*int64{"written": &c.Written, "dirty": &c.Dirty, "sent": &c.Sent} {
			if x, is := v[key]; is {
				*to = int64(bytesOf(x))
			}
		}
		if m, is := v["moved"]; is {
			c.Moved = dur(m)
		}
		c.Predicted = c.Moved
		for range n {
			s.in.Now = s.in.Now.Add(c.Interval)
			c.TakenAt = s.in.Now
			if e, is := v["early"]; is { // dirty clusters at an eighth of RPO
				l.Early = Point{s.in.RPO.Seconds() / 8, bytesOf(e)}
			}
			l.Done(c, s.in.RPO)
		}
		s.captured, s.in.LastCapture, s.in.Oldest = s.in.Now, s.in.Now, nil
		return []string{fmt.Sprintf("now %s", s.in.Now.Sub(noon))}, nil
	case "retry":
		r := s.in.Now.Add(dur(w[1]))
		s.in.RetryAt = &r
	case "paused", "requested", "running", "uncommitted":
		s.in.Paused, s.in.Requested, s.in.Running, s.in.Committed = w[0] == "paused", w[0] == "requested", w[0] == "running", w[0] != "uncommitted"
	case "hindered":
		s.in.Hindered = strings.Join(w[1:], " ")
	case "decide":
		return []string{s.decide()}, nil
	case "explain":
		return append([]string{s.decide()}, Explain(s.in).Change...), nil
	default:
		return nil, fmt.Errorf("unknown word %q", w[0])
	}
	return nil, nil
}

func (s *story) decide() string {
	c := Decide(s.in)
	what := "starts"
	if c.Skip {
		what = "looks"
	}
	when := "now"
	if c.StartIn > 0 {
		when = "in " + round(c.StartIn).String()
	}
	return fmt.Sprintf("%s %s (%s): %s", what, when, c.Binding, c.Reason)
}

func dur(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func bytesOf(s string) float64 {
	s = strings.TrimSuffix(s, "/s")
	for unit, f := range map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, is := strings.CutSuffix(s, unit); is {
			x, err := strconv.ParseFloat(n, 64)
			if err != nil {
				panic(err)
			}
			return x * f
		}
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic(err)
	}
	return x
}
