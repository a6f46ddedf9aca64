// Command adaptive compares the adaptive cadence with fixed intervals and with planners like those of its peers, on every
// shipped trace, target and capacity. It prints the tables, writes them into docs/PERFORMANCE.md and docs/POLICY.md between
// markers, and draws docs/img/pareto-*.svg. It simulates: no guest runs. A few minutes on one core.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/internal/simulate"
)

func main() {
	hours := flag.Float64("hours", 3, "length of each trace")
	seeds := flag.Int("seeds", 5, "how many seeds; the tables are of the first, the others are checked beside it")
	docs := flag.String("docs", "docs", "folder of the documents; empty writes nothing")
	flag.Parse()
	if err := run(*hours, *seeds, *docs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(hours float64, seeds int, docs string) error {
	began := time.Now()
	length := time.Duration(hours * float64(time.Hour))
	first, err := newFleet(length, 1)
	if err != nil {
		return err
	}
	var report strings.Builder
	fmt.Fprintf(&report, "Traces of %s, seed 1 where nothing else is said. Written by `make bench-adaptive`.\n", length)
	g := first.grid(schedules())
	g.main(&report)
	g.traces(&report)
	blockSizes(&report, first)
	first.failures(&report)
	if err := bursts(&report); err != nil {
		return err
	}
	decisions(&report)
	if err := otherSeeds(&report, length, seeds); err != nil {
		return err
	}
	var constants strings.Builder
	first.constants(&constants)
	fmt.Print(report.String(), "\n", constants.String())
	fmt.Fprintf(os.Stderr, "%s\n", time.Since(began).Round(time.Second))
	if docs == "" {
		return nil
	}
	if err := first.pareto(filepath.Join(docs, "img")); err != nil {
		return err
	}
	if err := between(filepath.Join(docs, "PERFORMANCE.md"), "bench-adaptive", report.String()); err != nil {
		return err
	}
	return between(filepath.Join(docs, "POLICY.md"), "bench-adaptive", constants.String())
}

// between replaces what stands between the markers of a document; a document without them gets them at its end.
func between(path, name, text string) error {
	begin, end := "<!-- "+name+" begin -->", "<!-- "+name+" end -->"
	raw, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	doc := string(raw)
	i, j := strings.Index(doc, begin), strings.Index(doc, end)
	if i < 0 || j < i {
		doc = strings.TrimRight(doc, "\n") + "\n\n## Adaptive cadence, simulated\n\n" + begin + end + "\n"
		doc = strings.TrimLeft(doc, "\n")
		i, j = strings.Index(doc, begin), strings.Index(doc, end)
	}
	return os.WriteFile(path, []byte(doc[:i]+begin+"\n\n"+strings.TrimSpace(text)+"\n\n"+doc[j:]), 0o644)
}

// pareto draws cycles against time in violation, one figure a target, with the curve of all fixed intervals.
func (f *fleet) pareto(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, rpo := range targets {
		var dots []simulate.Dot
		for _, capacity := range capacities {
			base := f.sum(rpo, capacity, half(false))
			add := func(group, label string, s schedule) {
				x := f.sum(rpo, capacity, s)
				dots = append(dots, simulate.Dot{X: percent(x.cycles, base.cycles), Y: 100 * x.late, Label: label, Group: group})
			}
			for _, share := range []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9} {
				add(fmt.Sprintf("fixed at %gx", capacity), fmt.Sprintf("%g", share), fixedAt(share))
			}
			add("adaptive", fmt.Sprintf("%gx", capacity), adaptive())
			add("last-duration", fmt.Sprintf("%gx", capacity), schedule{"last-duration", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.Run(&simulate.LastDurations{}) }})
		}
		name := filepath.Join(dir, fmt.Sprintf("pareto-%gs.svg", rpo.Seconds()))
		out, err := os.Create(name)
		if err != nil {
			return err
		}
		title := fmt.Sprintf("RPO %s: cycles of the mixed fleet and its time in violation; left and down is better", rpo)
		err = simulate.Scatter(out, title, "cycles against fixed RPO/2, %", "time in violation, %", 1e-4, dots)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
	return nil
}
