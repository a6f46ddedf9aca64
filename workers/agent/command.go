// Package agent composes what runs on a libvirt host: the activities of this host's queues, the receiver and store of
// replicas, the watcher of libvirt events and the sampler of utilization.
package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/ui"
	"understudy/workers"
)

// Options of `understudy agent`.
type Options struct {
	Host            model.HostID
	TemporalAddress string
	Namespace       string
	LinkListen      string
	LinkAdvertise   string
	StateDir        string
	RunDir          string
	LibvirtSocket   string
	ImageDirs       []string // disks outside these folders are refused
	StoreReserve    int64    // bytes of the store's file system that replicas never use
	GuardSocket     string   // empty: that of RunDir
	TLSDir          string   // empty: plain text
	LeaseTTL        time.Duration
	LeaseRenew      time.Duration
	LinkBudget      int64 // bytes/s that all transfers from this host use together; 0 unbounded
	Notify          workers.NotifyOptions
}

// Command is `understudy agent`.
func Command() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "run on each libvirt host: snapshots, replication, store of replicas, events",
		Description: `Connects to the local libvirtd and to Temporal, serves this host's task queues and receives replicas from the
agents of other hosts. It is stopped and started freely: whatever it was doing goes on.

EXAMPLE
   understudy agent --host kvm1 --temporal-address control.example.org:7233 --image-dir /srv/vms

EXIT STATUS
   0 ended by a signal, 1 failed, 20 Temporal unreachable, 64 usage`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "host", EnvVars: []string{"UNDERSTUDY_HOST"}, Usage: "name of this host; stable, also over reinstalls (default: the host name)"},
			&cli.StringFlag{Name: "temporal-address", EnvVars: []string{"UNDERSTUDY_TEMPORAL_ADDRESS"}, Value: "127.0.0.1:7233", Usage: "Temporal frontend, `HOST:PORT`"},
			&cli.StringFlag{Name: "namespace", Value: "understudy", Usage: "Temporal namespace"},
			&cli.StringFlag{Name: "tls-dir", EnvVars: []string{"UNDERSTUDY_TLS_DIR"}, Usage: "`FOLDER` with this host's ca.crt, tls.crt and tls.key (understudy join); without it nothing is encrypted and nobody is checked"},
			&cli.StringFlag{Name: "link-listen", Value: ":7450", Usage: "address where replicas are received"},
			&cli.StringFlag{Name: "link-advertise", Usage: "`HOST:PORT` under which other agents reach it (default: HOST and the port of --link-listen)"},
			&cli.StringFlag{Name: "link-budget", DefaultText: "unbounded", Usage: "all transfers from this host together use at most `RATE` of the link, for example 100mbit or 12MB (a second)"},
			&cli.StringFlag{Name: "state-dir", Value: "/var/lib/understudy", Usage: "replicas, floors and scratch files"},
			&cli.StringFlag{Name: "run-dir", Value: "/run/understudy", Usage: "sockets; keep it short, a socket's path has at most 107 bytes"},
			&cli.StringFlag{Name: "libvirt-socket", Value: "/run/libvirt/libvirt-sock", Usage: "socket of libvirtd"},
			&cli.StringSliceFlag{Name: "image-dir", Value: cli.NewStringSlice("/var/lib/libvirt/images"), Usage: "folder whose images may be protected; repeatable"},
			&cli.StringFlag{Name: "guard-socket", DefaultText: "guard.sock in --run-dir", Usage: "socket of this host's guard"},
			&cli.DurationFlag{Name: "lease-ttl", Value: model.LeaseTTL, Usage: "how long a grant lasts; a takeover by lease waits a little longer than this"},
			&cli.DurationFlag{Name: "lease-renew", Value: model.LeaseRenew, Usage: "distance of two renewals; at most a quarter of --lease-ttl less two seconds"},
			&cli.StringFlag{Name: "store-reserve", Value: "256MiB", Usage: "`SIZE` of the replicas' file system that stays free"},
		}, workers.NotifyFlags()...),
		Action: func(c *cli.Context) error {
			opts := Options{
				Host: model.HostID(c.String("host")), TemporalAddress: c.String("temporal-address"), Namespace: c.String("namespace"),
				LinkListen: c.String("link-listen"), LinkAdvertise: c.String("link-advertise"),
				StateDir: filepath.Clean(c.String("state-dir")), RunDir: filepath.Clean(c.String("run-dir")),
				LibvirtSocket: c.String("libvirt-socket"), ImageDirs: c.StringSlice("image-dir"),
			}
			var err error
			if opts.StoreReserve, err = ui.ParseBytes(c.String("store-reserve")); err != nil {
				return model.Fail(model.InvalidArgument, err, "--store-reserve").WithTry("--store-reserve 1GiB")
			}
			opts.GuardSocket, opts.LeaseTTL, opts.LeaseRenew = c.String("guard-socket"), c.Duration("lease-ttl"), c.Duration("lease-renew")
			terms := model.DefaultTerms(1)
			terms.TTL, terms.Renew = opts.LeaseTTL, opts.LeaseRenew
			if err := terms.Validate(); err != nil {
				return err
			}
			opts.TLSDir, opts.Notify = c.String("tls-dir"), workers.NotifyFrom(c)
			if opts.LinkBudget, err = parseRate(c.String("link-budget")); err != nil {
				return err
			}
			if opts.Host == "" {
				name, err := os.Hostname()
				if err != nil {
					return model.Fail(model.InvalidArgument, err, "this host has no name").WithTry("understudy agent --host NAME")
				}
				opts.Host = model.HostID(name)
			}
			if !model.ValidHostID(opts.Host) {
				return model.Fail(model.InvalidArgument, nil, "%q cannot name a host: lower-case letters, digits, dots and dashes, at most 63", opts.Host).
					WithTry("understudy agent --host NAME")
			}
			return Run(c.Context, opts, slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "agent", "host", string(opts.Host)))
		},
	}
}

// parseRate reads a rate as bytes a second: bits in the words of networks, bytes in those of disks.
func parseRate(text string) (int64, error) {
	t := strings.TrimSuffix(strings.TrimSpace(text), "/s")
	if t == "" || t == "0" {
		return 0, nil
	}
	factor := 1.0
	for _, u := range []struct {
		suffix, bytes string
	}{{"kbit", "KB"}, {"mbit", "MB"}, {"gbit", "GB"}} {
		if number, ok := strings.CutSuffix(strings.ToLower(t), u.suffix); ok {
			t, factor = number+u.bytes, 1.0/8
		}
	}
	n, err := ui.ParseBytes(t)
	if rate := int64(float64(n) * factor); err == nil && rate >= leastBudget {
		return rate, nil
	}
	return 0, model.Fail(model.InvalidArgument, err, "%q is not the budget of a link: at least %d bytes a second", text, leastBudget).
		WithTry("--link-budget 100mbit")
}

// leastBudget is below what one batch of data in eight seconds takes.
const leastBudget = 8 << 10
