package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/model"
	"understudy/internal/simulate"
)

const (
	maxTrace  = 24 * time.Hour
	lookEvery = time.Second
	lookLimit = 5 * time.Second
)

// traced is what a recorder asks of the hypervisor.
type traced interface {
	Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error)
	Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error)
	Checkpoints(ctx context.Context, uuid string) ([]hypervisor.Checkpoint, error)
	DirtyBytes(ctx context.Context, uuid, checkpoint string) (map[string]int64, error)
}

// TraceCommand is `understudy trace`.
func TraceCommand() *cli.Command {
	return &cli.Command{
		Name: "trace", Usage: "record how a VM of this host writes, for understudy simulate", ArgsUsage: "VM",
		Description: `Run it on the host where the VM runs. Once a second it reads the write counters and, when the VM is protected, how many
clusters are dirty since the newest checkpoint. libvirt tells no addresses: they are made up so that bytes, requests and dirty
clusters are those that were seen (docs/TRACES.md). A VM that is protected and paused shows how its writes saturate over the
whole recording; one that is not protected is taken for one that never rewrites.

EXAMPLE
   understudy pause db1; understudy trace --for 10m db1 > db1.csv; understudy resume db1
   understudy simulate --trace db1.csv --rpo 30s --link 100mbit

EXIT STATUS
   0 recorded (also when it was ended early), 1 failed, 64 usage`,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "for", Value: 10 * time.Minute, Usage: "`TIME` to record"},
			&cli.StringFlag{Name: "out", DefaultText: "standard output", Usage: "`FILE` to write"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`N` of the addresses that are made up"},
			&cli.StringFlag{Name: "libvirt-socket", Value: "/run/libvirt/libvirt-sock", Usage: "socket of libvirtd"},
		},
		Action: func(c *cli.Context) (err error) {
			length := c.Duration("for")
			if c.NArg() != 1 || length < 2*lookEvery || length > maxTrace {
				return model.Fail(model.InvalidArgument, nil, "one VM, and a time from %s to %s", 2*lookEvery, maxTrace).WithTry("understudy trace --for 10m VM")
			}
			hv := libvirtrpc.Lazy(c.String("libvirt-socket"), slog.New(slog.DiscardHandler))
			defer hv.Close()
			out := io.Writer(os.Stdout)
			if path := c.String("out"); path != "" {
				f, err := os.Create(path)
				if err != nil {
					return model.Fail(model.InvalidArgument, err, "cannot write the trace to %s", path)
				}
				defer func() {
					if closeErr := f.Close(); err == nil && closeErr != nil {
						err = model.Fail(model.Internal, closeErr, "cannot write the trace to %s", path)
					}
				}()
				out = f
			}
			r := recorder{hv: hv, every: lookEvery}
			if err := r.record(c.Context, c.Args().First(), length); err != nil {
				return err
			}
			return r.write(out, c.Uint64("seed"))
		},
	}
}

// recorder looks at one VM.
type recorder struct {
	hv    traced
	every time.Duration

	vm      model.VMRef
	last    hypervisor.Stats
	mark    string // newest checkpoint of ours
	looks   []simulate.Look
	counted int // looks with a count of dirty clusters
	missed  int
}

// record looks until the time is over or ctx ends. A look that fails is left out: its writes are in the next one.
func (r *recorder) record(ctx context.Context, name string, length time.Duration) error {
	d, err := r.hv.Domain(ctx, name)
	if err != nil {
		return err
	}
	r.vm = d.VM
	if !d.State.Active() {
		return model.Fail(model.NotRunning, nil, "%s does not run here", d.VM.Name).WithVM(d.VM.Name).WithTry("understudy trace on the host where it runs")
	}
	begun := time.Now()
	if r.last, err = r.counters(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for time.Since(begun) < length {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := r.counters(ctx)
		if err != nil || now.Run != r.last.Run || now.WriteBytes < r.last.WriteBytes {
			if err != nil && model.KindOf(err) == model.NotRunning {
				return nil // what was recorded is whole
			}
			r.missed++
			if err == nil {
				r.last = now // it was started again: its counters began anew
			}
			continue
		}
		l := simulate.Look{Time: time.Since(begun).Seconds(), Bytes: now.WriteBytes - r.last.WriteBytes, Reqs: now.WriteReqs - r.last.WriteReqs}
		l.Dirty, l.Window = r.dirty(ctx)
		if l.Dirty >= 0 {
			r.counted++
		}
		r.looks, r.last = append(r.looks, l), now
	}
	return nil
}

func (r *recorder) counters(ctx context.Context) (hypervisor.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	all, err := r.hv.Stats(ctx, hypervisor.StatsQuery{Only: []string{r.vm.UUID}})
	if err != nil {
		return hypervisor.Stats{}, err
	}
	if len(all) == 0 { // off, or held by another call just now
		d, err := r.hv.Domain(ctx, r.vm.UUID)
		if err == nil && !d.State.Active() {
			err = model.Fail(model.NotRunning, nil, "%s does not run any more", r.vm.Name).WithVM(r.vm.Name)
		}
		if err == nil {
			err = model.Fail(model.JobConflict, nil, "%s is held by another call", r.vm.Name).WithVM(r.vm.Name)
		}
		return hypervisor.Stats{}, err
	}
	return all[0], nil
}

// dirty counts since the newest checkpoint of ours; the older one is gone soon after a point was committed.
func (r *recorder) dirty(ctx context.Context) (int64, string) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	for range 2 {
		if r.mark != "" {
			if sizes, err := r.hv.DirtyBytes(ctx, r.vm.UUID, r.mark); err == nil {
				sum := int64(0)
				for _, n := range sizes {
					sum += n
				}
				return sum, r.mark
			}
		}
		r.mark = ""
		list, err := r.hv.Checkpoints(ctx, r.vm.UUID)
		if err != nil {
			return -1, ""
		}
		for _, c := range list { // parents first
			if _, ours := model.ParseMark(c.Name); ours {
				r.mark = c.Name
			}
		}
		if r.mark == "" {
			return -1, ""
		}
	}
	return -1, ""
}

// write makes the file; its remarks say how it came about.
func (r *recorder) write(out io.Writer, seed uint64) error {
	seconds := r.every.Seconds()
	if n := len(r.looks); n > 0 {
		seconds = r.looks[n-1].Time
	}
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "# recorded by understudy trace from the counters of %s: the addresses are made up (seed %d)\n", r.vm.Name, seed)
	fmt.Fprintf(w, "# looks: %d, of them with a count of dirty clusters: %d; missed: %d\n", len(r.looks), r.counted, r.missed)
	err := w.Flush()
	if err == nil {
		err = simulate.WriteCSV(out, seconds, 1, simulate.FromLooks(r.looks, seed))
	}
	if err != nil {
		return model.Fail(model.Internal, err, "cannot write the trace").WithVM(r.vm.Name)
	}
	return nil
}
