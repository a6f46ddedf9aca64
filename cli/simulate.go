package cli

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/policy"
	"understudy/internal/simulate"
	"understudy/internal/ui"
)

// simulationView is the documented JSON of `understudy simulate`.
type simulationView struct {
	MessageType string            `json:"message_type"` // "simulation"
	Trace       string            `json:"trace"`
	Seconds     float64           `json:"seconds"`
	RPO         float64           `json:"rpo_s"`
	Link        float64           `json:"link_bytes_per_s"`
	Minimum     float64           `json:"minimum_link_bytes_per_s,omitempty"` // at which some fixed interval keeps the RPO
	Results     []simulate.Result `json:"results"`
}

func (e *env) simulateCommand() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "run the decision code over a write trace: what an RPO would cost, before turning it on",
		Description: `The trace is a CSV file (docs/TRACES.md, gzip is fine) or one of those that are shipped as a model and a seed:
` + traceList() + `
The adaptive cadence is the product's own code; the others are what it is compared with. A violation is an exposure beyond
the RPO. Nothing is asked of the control plane.

EXAMPLE
   understudy simulate --trace oltp --rpo 30s --link 20mbit
   understudy simulate --trace mixed --rpo 5s --compare fixed:2.5s,last-duration --output json
   understudy simulate --trace db1.csv.gz --rpo 30s --plot db1.svg
   understudy simulate --vm db1 --for 5m --rpo 10s --link 100mbit --export db1.csv

` + exitStatus(exitDone, exitFailed, exitOutside, exitNotFound, exitUsage),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "trace", Usage: "`FILE` or name of a trace, or mixed for the weighted fleet"},
			&cli.StringFlag{Name: "vm", Usage: "record this `VM` of this host first (as understudy trace does), in the place of a trace"},
			&cli.DurationFlag{Name: "for", Value: 2 * time.Minute, Usage: "`TIME` that --vm records"},
			&cli.StringFlag{Name: "libvirt-socket", Value: "/run/libvirt/libvirt-sock", Usage: "socket of libvirtd, for --vm"},
			&cli.DurationFlag{Name: "rpo", Value: 30 * time.Second, Usage: "how much may be lost, as `TIME`"},
			&cli.StringFlag{Name: "policy", Usage: "`FILE` with a policy: its RPO and bandwidth count unless flags say otherwise"},
			&cli.StringFlag{Name: "link", Value: "100mbit", Usage: "`RATE` of the link, for example 100mbit or 12MB; or 2x for twice the least that some fixed interval needs"},
			&cli.StringFlag{Name: "cross", Value: "10-50", Usage: "`LOW-HIGH` percent of the link that others take"},
			&cli.DurationFlag{Name: "failures", Usage: "mean `TIME` between failures of the link, each ends the copy under way"},
			&cli.StringFlag{Name: "compare", DefaultText: "fixed at RPO/2 and RPO, best-fixed, last-duration, two-gear", Usage: "`LIST` of schedules: fixed:15s, fixed:15s+skip, best-fixed, last-duration, two-gear"},
			&cli.DurationFlag{Name: "length", Value: 3 * time.Hour, Usage: "`TIME` that a shipped trace lasts"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`N` of the traces, the link and the noise"},
			&cli.StringFlag{Name: "plot", Usage: "write exposure and cycles over time to this `FILE` (SVG)"},
			&cli.StringFlag{Name: "export", Usage: "write the trace to this `FILE` as CSV (gzip if it ends in .gz)"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
		},
		Action: func(c *cli.Context) error { return e.simulate(c) },
	}
}

func traceList() string {
	var b strings.Builder
	for _, s := range simulate.Specs() {
		fmt.Fprintf(&b, "   %-8s %s\n", s.Name, s.About)
	}
	return b.String()
}

func (e *env) simulate(c *cli.Context) error {
	o, err := ui.ParseOutput(c.String("output"))
	if err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
	}
	if (c.String("trace") == "") == (c.String("vm") == "") {
		return model.Fail(model.InvalidArgument, nil, "which trace? simulate needs --trace or --vm").WithTry("understudy simulate --trace oltp")
	}
	setup, err := e.setup(c)
	if err != nil {
		return err
	}
	traces, err := e.traces(c)
	if err != nil {
		return err
	}
	if c.String("plot") != "" && len(traces) > 1 {
		return model.Fail(model.InvalidArgument, nil, "a plot shows one trace, not the whole fleet").WithTry("--trace oltp --plot oltp.svg")
	}
	var views []simulationView
	for _, t := range traces {
		v, err := simulated(c, t, setup)
		if err != nil {
			return err
		}
		views = append(views, v)
		if c.Context.Err() != nil {
			return interrupted{"the simulation was stopped"}
		}
	}
	if path := c.String("plot"); path != "" {
		v := views[0]
		title := fmt.Sprintf("%s, RPO %s, link %s/s", v.Trace, setup.RPO, ui.Bytes(int64(v.Link)))
		if err := create(path, func(w io.Writer) error { return simulate.Plot(w, title, v.Results) }); err != nil {
			return err
		}
		fmt.Fprintf(e.err, "plot written to %s\n", path)
	}
	if err := e.printSimulations(o, views); err != nil {
		return err
	}
	for _, v := range views {
		if v.Results[0].Violations > 0 {
			return errOutside
		}
	}
	return nil
}

// setup is what the flags and the policy say, checked.
func (e *env) setup(c *cli.Context) (simulate.Setup, error) {
	s := simulate.Setup{RPO: c.Duration("rpo"), Seed: c.Uint64("seed"), Failures: c.Duration("failures"), KeepTrail: c.String("plot") != ""}
	var budget int64
	if file := c.String("policy"); file != "" {
		p, err := policy.Load(file, e.now())
		if err != nil {
			return s, err
		}
		budget = p.MaxBandwidth
		if !c.IsSet("rpo") {
			s.RPO = p.RPO
		}
	}
	if s.RPO < model.MinRPO || s.RPO > model.MaxRPO {
		return s, model.Fail(model.InvalidArgument, nil, "RPO must be between %s and %s, not %s", model.MinRPO, model.MaxRPO, s.RPO).WithTry("--rpo 30s")
	}
	if s.Failures < 0 {
		return s, model.Fail(model.InvalidArgument, nil, "failures must not be negative").WithTry("--failures 30m")
	}
	low, high, err := crossTraffic(c.String("cross"))
	if err != nil {
		return s, err
	}
	s.Cross = [2]float64{low, high}
	if _, isMultiple := multiple(c.String("link")); isMultiple {
		s.Link = 1e6
		return s, nil
	}
	if s.Link, err = linkRate(c.String("link")); err != nil {
		return s, err
	}
	if budget > 0 {
		s.Link = min(s.Link, float64(budget))
	}
	return s, nil
}

// multiple reads 2x.
func multiple(s string) (float64, bool) {
	n, is := strings.CutSuffix(s, "x")
	if !is {
		return 0, false
	}
	v, err := strconv.ParseFloat(n, 64)
	return v, err == nil && v >= 0.1 && v <= 1e4
}

// linkRate reads a rate in bytes a second: bits with bit, kbit, mbit and gbit (decimal), else a size.
func linkRate(s string) (float64, error) {
	bad := func(why error) error {
		return model.Fail(model.InvalidArgument, why, "%q is not a rate of a link", s).WithTry("--link 100mbit")
	}
	if n, bits := strings.CutSuffix(strings.ToLower(s), "bit"); bits {
		factor := 1.0
		for unit, f := range map[string]float64{"k": 1e3, "m": 1e6, "g": 1e9} {
			if x, is := strings.CutSuffix(n, unit); is {
				n, factor = x, f
				break
			}
		}
		v, err := strconv.ParseFloat(n, 64)
		if v *= factor / 8; err != nil || !(v >= 1) || math.IsInf(v, 0) {
			return 0, bad(err)
		}
		return v, nil
	}
	n, err := ui.ParseBytes(s)
	if err != nil || n < 1 {
		return 0, bad(err)
	}
	return float64(n), nil
}

func crossTraffic(s string) (low, high float64, err error) {
	a, b, found := strings.Cut(s, "-")
	if !found {
		b = a
	}
	low, err1 := strconv.ParseFloat(a, 64)
	high, err2 := strconv.ParseFloat(b, 64)
	if err := errors.Join(err1, err2); err != nil || !(low >= 0) || !(high >= low) || high > 95 {
		return 0, 0, model.Fail(model.InvalidArgument, nil, "%q is not a range of percents up to 95", s).WithTry("--cross 10-50")
	}
	return low / 100, high / 100, nil
}

// recorded runs understudy trace on a VM of this host.
func (e *env) recorded(c *cli.Context) (*simulate.Trace, error) {
	vm := c.String("vm")
	path := c.String("export")
	if path == "" {
		f, err := os.CreateTemp("", "understudy-trace-*.csv")
		if err != nil {
			return nil, model.Fail(model.Internal, err, "no room for a recording")
		}
		path = f.Name()
		defer func() { _ = os.Remove(path) }()
		_ = f.Close()
	} else if strings.HasSuffix(path, ".gz") {
		return nil, model.Fail(model.InvalidArgument, nil, "a recording is not compressed").WithTry("--export " + strings.TrimSuffix(path, ".gz"))
	}
	record := c.App.Command("trace")
	if record == nil {
		return nil, model.Fail(model.Unsupported, nil, "this build records nothing")
	}
	fmt.Fprintf(e.err, "recording %s for %s\n", vm, c.Duration("for"))
	sub := cli.NewContext(c.App, nil, c) // Run changes the one that it is given
	sub.Command = record
	if err := record.Run(sub, "trace", "--for", c.Duration("for").String(), "--libvirt-socket", c.String("libvirt-socket"), "--out", path, vm); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "the recording cannot be read")
	}
	defer f.Close()
	return simulate.ReadCSV(vm, f)
}

// traces reads or makes what --trace or --vm names.
func (e *env) traces(c *cli.Context) ([]*simulate.Trace, error) {
	if c.String("vm") != "" {
		t, err := e.recorded(c)
		return []*simulate.Trace{t}, err
	}
	name := c.String("trace")
	export := c.String("export")
	if name == simulate.Mixed {
		if export != "" {
			return nil, model.Fail(model.InvalidArgument, nil, "the fleet is many traces, export them one by one").WithTry("--trace oltp --export " + export)
		}
		var out []*simulate.Trace
		for _, s := range simulate.Specs() {
			if s.Weight == 0 {
				continue
			}
			t, err := s.Trace(c.Duration("length"), c.Uint64("seed"))
			if err != nil {
				return nil, err
			}
			out = append(out, t)
		}
		return out, nil
	}
	if s, shipped := simulate.Find(name); shipped {
		t, err := s.Trace(c.Duration("length"), c.Uint64("seed"))
		if err == nil && export != "" {
			err = create(export, func(w io.Writer) error {
				return simulate.WriteCSV(w, c.Duration("length").Seconds(), s.Ratio, s.Generate(c.Duration("length"), c.Uint64("seed")))
			})
		}
		return []*simulate.Trace{t}, err
	}
	if export != "" {
		return nil, model.Fail(model.InvalidArgument, nil, "only a shipped trace can be exported, %s is a file already", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, model.Fail(model.NotFound, err, "there is no trace %q", name).WithTry("understudy simulate --help lists those that are shipped")
	}
	defer f.Close()
	t, err := simulate.ReadCSV(name, f)
	return []*simulate.Trace{t}, err
}

func simulated(c *cli.Context, t *simulate.Trace, s simulate.Setup) (simulationView, error) {
	bed := simulate.NewBed(t, s)
	v := simulationView{MessageType: "simulation", Trace: t.Name, Seconds: t.Seconds, RPO: s.RPO.Seconds(), Link: s.Link}
	if by, is := multiple(c.String("link")); is {
		v.Minimum = bed.Minimum()
		v.Link = by * v.Minimum
		bed = bed.With(v.Link)
	}
	names := []string{fmt.Sprintf("fixed:%s", s.RPO/2), fmt.Sprintf("fixed:%s+skip", s.RPO/2), fmt.Sprintf("fixed:%s+skip", s.RPO), "best-fixed", "last-duration", "two-gear"}
	if c.IsSet("compare") {
		names = strings.Split(c.String("compare"), ",")
	}
	var err error
	v.Results, err = simulate.Compare(bed, names)
	return v, err
}

func (e *env) printSimulations(o ui.Output, views []simulationView) error {
	if o != ui.Table {
		for _, v := range views {
			if err := ui.Print(e.out, o, v); err != nil {
				return err
			}
		}
		return nil
	}
	header := []string{"TRACE", "SCHEDULE", "CYCLES", "SENT", "CPU", "EXPOSURE P50", "P99", "MAX", "VIOLATIONS", "TIME VIOLATED", "FAILED"}
	var rows [][]string
	for _, v := range views {
		for _, r := range v.Results {
			rows = append(rows, []string{
				v.Trace, r.Planner, fmt.Sprint(r.Cycles), ui.Bytes(int64(r.Bytes)), ui.Duration(seconds(r.CPU)), ui.Duration(seconds(r.P50)), ui.Duration(seconds(r.P99)),
				ui.Duration(seconds(r.Max)), fmt.Sprint(r.Violations), fmt.Sprintf("%.3f %%", 100*r.LateShare()), fmt.Sprint(r.Failed),
			})
		}
	}
	return ui.Rows(e.out, header, rows)
}

// create writes a file; what ends in .gz is compressed.
func create(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return model.Fail(model.InvalidArgument, err, "%s cannot be written", path)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if !strings.HasSuffix(path, ".gz") {
		return write(f)
	}
	z := gzip.NewWriter(f)
	return errors.Join(write(z), z.Close())
}
