package allocate

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

// demand uses the given share of a link of 10 MB/s.
func demand(id string, tier model.Tier, rpo time.Duration, share float64) Demand {
	return Demand{ID: id, Tier: tier, RPO: rpo, Half: int64(share * 10 * mega * rpo.Seconds() / 2), Fixed: 300 * time.Millisecond, Guard: 1.5}
}

func TestAdmissionTellsInNumbers(t *testing.T) {
	gold := demand("gold", model.Gold, 30*time.Second, 0.5)
	for name, c := range map[string]struct {
		others  []Demand
		asked   Demand
		verdict Verdict
		says    string
	}{
		"room":           {nil, demand("a", model.Silver, time.Minute, 0.3), Accept, "the link would be used 30 %"},
		"just room":      {[]Demand{gold}, demand("a", model.Silver, time.Minute, 0.3), Accept, "used 80 %"},
		"tight":          {[]Demand{gold}, demand("a", model.Silver, time.Minute, 0.38), Warn, "above 80 % a burst can make a VM late"},
		"alone too much": {nil, demand("a", model.Silver, time.Minute, 0.7), Refuse, "a cycle of a alone takes 31.8s and may take 27s at an RPO of 1m0s"},
		"bronze gives way": {[]Demand{gold}, demand("b", model.Bronze, 5*time.Minute, 0.5), Warn,
			"bronze gives way and will be late by up to 1m15s (b)"},
		"gold beside bronze": {[]Demand{demand("b", model.Bronze, 5*time.Minute, 0.6)}, gold, Warn, "late by up to 2m30s (b)"},
		"too much":           {[]Demand{gold}, demand("a", model.Silver, time.Minute, 0.5), Refuse, "more than 80 % cannot be promised"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Admit(10*mega, c.others, c.asked)
			require.Equal(t, c.verdict, got.Verdict, got.Reason)
			require.Contains(t, got.Reason, c.says)
			require.Equal(t, c.verdict == Refuse, got.Try != "")
		})
	}
	sampled := gold
	sampled.Sampled = true
	require.Contains(t, Admit(10*mega, nil, sampled).Reason, "provisional")
	require.Equal(t, Refuse, Admit(0, nil, gold).Verdict)
	capped := gold
	capped.Cap = mega
	require.Equal(t, Refuse, Admit(100*mega, nil, capped).Verdict, "its own limit is too small")
}

func TestLawMoreDemandIsNeverMoreWelcome(t *testing.T) {
	grade := map[Verdict]int{Accept: 0, Warn: 1, Refuse: 2}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(id string) Demand {
			return demand(id, rapid.SampledFrom([]model.Tier{model.Gold, model.Silver, model.Bronze}).Draw(t, "tier"),
				time.Duration(rapid.IntRange(2, 600).Draw(t, "rpo"))*time.Second, rapid.Float64Range(0, 0.6).Draw(t, "share"))
		}
		var others []Demand
		for i := range rapid.IntRange(0, 5).Draw(t, "others") {
			others = append(others, draw(fmt.Sprint(i)))
		}
		asked := draw("asked")
		less := Admit(10*mega, others, asked)
		asked.Half += rapid.Int64Range(0, 100*mega).Draw(t, "more")
		more := Admit(10*mega, others, asked)
		require.GreaterOrEqual(t, grade[more.Verdict], grade[less.Verdict], "%s / %s", less.Reason, more.Reason)
		require.GreaterOrEqual(t, more.BronzeLate, time.Duration(0))
	})
}
