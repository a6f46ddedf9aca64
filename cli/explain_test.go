package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestExplainSaysWhyAndWhatWouldChangeIt(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	d.plane.explain = contract.ExplainOut{VM: db1, Policy: model.DefaultPolicy(), Cycles: 31, Gear: contract.GearMerged, Degraded: "compression is a level up", Decisions: []contract.Decision{
		{
			At: noon.Add(-time.Minute), RPO: 30 * time.Second, Times: 4, Change: []string{"the first write starts the clock"},
			Cadence: model.Cadence{StartIn: 15 * time.Second, NextAt: noon.Add(-45 * time.Second), Skip: true, Binding: model.BindingIdle, Reason: "nothing was written since the last point"},
		},
		{
			At: noon, RPO: 10 * time.Second, Gear: contract.GearMerged, Times: 1, Window: "night", Change: []string{"with half the throughput: it starts 2 s earlier (load)"},
			Cadence: model.Cadence{StartIn: 6 * time.Second, NextAt: noon.Add(6 * time.Second), Interval: 8 * time.Second, Binding: model.BindingSlack, Reason: "a cycle over 1.0 MiB takes up to 900ms"},
			Inputs: []contract.Quantity{
				{Name: "exposure", Value: 2.1, Unit: "s"}, {Name: "changed bytes", Value: 1048576, Unit: "B"}, {Name: "dirty clusters", Value: -1, Unit: "B"},
				{Name: "load", Value: 0.25, Unit: "share"}, {Name: "guard", Value: 1.1, Unit: "x"},
			},
		},
	}}
	require.Equal(t, 0, d.run("explain", "--output", "json", "db1"))
	golden(t, "explain.json", d.stdout.Bytes())
	require.Equal(t, 0, d.run("explain", "--output", "jsonl", "db1"))
	require.Contains(t, d.stdout.String(), `"message_type":"decision"`)
	require.Equal(t, 0, d.run("explain", "db1"))
	for _, s := range []string{
		"look in 15", "point in 6", "(night)", "exposure 2.1 s, changed bytes 1.05 MB, load 25 %, guard × 1.1",
		"would change it: with half the throughput", "not everything fits: compression is a level up",
		"gear: merged: the primary captures and sends in one",
	} {
		require.Contains(t, d.stdout.String(), s)
	}
	require.NotContains(t, d.stdout.String(), "dirty clusters", "what is unknown is not shown")
	require.Equal(t, 64, d.run("explain", "--last", "0", "db1"))
}
