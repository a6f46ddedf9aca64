// Package control composes the control plane: the workflow worker, the control activities, health and, when no Temporal
// address is given, the supervised bundled Temporal.
package control

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/workers"
)

// Options of `understudy server`.
type Options struct {
	TemporalAddress string // given: use that cluster; empty: run the bundled one
	Namespace       string
	DataDir         string
	IP              string // the bundled Temporal and its Web UI listen here
	TemporalPort    int
	UIPort          int
	TemporalBinary  string
	TemporalDB      string // of the bundled Temporal: a PostgreSQL; empty: a SQLite file in DataDir
	DBPasswordFile  string
	HealthListen    string
	LeaseListen     string // "off": this server grants no leases
	LeaseAdvertise  string
	TLSDir          string // empty: plain text
	UIIP            string // empty: IP, or loopback with TLS
	JoinListen      string // empty: hosts do not join here
	AuthorityDir    string
	FenceCommand    []string
	FenceConfig     string // file with the fence agents of each host
	Webhook         WebhookOptions
	Notify          workers.NotifyOptions
}

// Command is `understudy server`.
func Command() *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run the control plane (and, without --temporal-address, the bundled Temporal)",
		Description: `Runs the workflow worker, keeps the generation records, serves /healthz. Without --temporal-address it starts
and supervises the bundled single-node Temporal (SQLite file or PostgreSQL, Web UI) and restarts it when it dies.

EXAMPLE
   understudy server --data-dir /var/lib/understudy/server --fence-config /etc/understudy/fence.yaml

EXIT STATUS
   0 ended by a signal, 1 failed, 20 Temporal unreachable, 64 usage`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "temporal-address", EnvVars: []string{"UNDERSTUDY_TEMPORAL_ADDRESS"}, Usage: "use this Temporal cluster, `HOST:PORT`; empty runs the bundled one"},
			&cli.StringFlag{Name: "namespace", Value: "understudy", Usage: "Temporal namespace"},
			&cli.StringFlag{Name: "data-dir", Value: "/var/lib/understudy/server", Usage: "generation records and the bundled Temporal's file"},
			&cli.StringFlag{Name: "ip", Value: "127.0.0.1", Usage: "address the bundled Temporal and its Web UI listen on"},
			&cli.StringFlag{Name: "ui-ip", Usage: "address of the Web UI, which has no login (default: --ip, or 127.0.0.1 with --tls-dir)"},
			&cli.StringFlag{Name: "tls-dir", EnvVars: []string{"UNDERSTUDY_TLS_DIR"}, Usage: "`FOLDER` with the server's ca.crt, tls.crt and tls.key; without it nothing is encrypted and nobody is checked"},
			&cli.StringFlag{Name: "ca-dir", EnvVars: []string{"UNDERSTUDY_CA_DIR"}, Usage: "`FOLDER` of the authority, needed here only to renew certificates and to let hosts join"},
			&cli.StringFlag{Name: "join-listen", DefaultText: "off", Usage: "let hosts join by a token and renew their certificates at this `HOST:PORT`, for example :7461"},
			&cli.IntFlag{Name: "temporal-port", Value: 7233, Usage: "port of the bundled Temporal"},
			&cli.IntFlag{Name: "ui-port", Value: 8233, Usage: "port of its Web UI"},
			&cli.StringFlag{Name: "temporal-binary", Usage: "path of understudy-temporal (default: beside this program, then PATH)"},
			&cli.StringFlag{Name: "temporal-db", Usage: "PostgreSQL for the bundled Temporal, `URL` without password: postgres://USER@HOST/DATABASE (default: a SQLite file in --data-dir)"},
			&cli.StringFlag{Name: "temporal-db-password-file", Usage: "`FILE` with the password of that user, read when Temporal starts"},
			&cli.StringFlag{Name: "lease-listen", Value: ":7460", Usage: "`HOST:PORT` where leases of VMs are granted, or off"},
			&cli.StringFlag{Name: "lease-advertise", Usage: "`HOST:PORT` under which agents reach it (default: that of --lease-listen, or this host's name)"},
			&cli.StringFlag{Name: "health-listen", Value: "127.0.0.1:7480", Usage: "address of /healthz and /metrics"},
			&cli.StringFlag{Name: "fence-command", EnvVars: []string{"UNDERSTUDY_FENCE_COMMAND"}, Usage: "command called as `CMD` off HOST and CMD status HOST; off must mean powered off"},
			&cli.StringFlag{Name: "fence-config", EnvVars: []string{"UNDERSTUDY_FENCE_CONFIG"}, Usage: "`FILE` with the fence agents (fence_ipmilan, fence_apc …) of each host; read again when it is used"},
			&cli.StringFlag{Name: "webhook-listen", DefaultText: "off", Usage: "take alerts of monitoring on this `HOST:PORT` (POST /webhook/alertmanager, POST /webhook/crash)"},
			&cli.StringFlag{Name: "webhook-token-file", Usage: "`FILE` with the bearer token that a sender must know; needed on anything but loopback"},
			&cli.BoolFlag{Name: "webhook-tls", Usage: "HTTPS with the certificate of --tls-dir; an operator's certificate is then as good as the token"},
			&cli.StringFlag{Name: "webhook-vm-label", Value: "understudy_vm", Usage: "label of an alert that names the VM; alerts without it are ignored"},
			&cli.StringSliceFlag{Name: "webhook-match", Usage: "only alerts with the label `NAME=VALUE` count; given more than once, those with all of them"},
			&cli.BoolFlag{Name: "webhook-dry-run", Usage: "log and answer what an alert would do, and do nothing"},
		}, workers.NotifyFlags()...),
		Action: func(c *cli.Context) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "server")
			return Run(c.Context, Options{
				TemporalAddress: c.String("temporal-address"), Namespace: c.String("namespace"),
				DataDir: filepath.Clean(c.String("data-dir")), IP: c.String("ip"),
				TemporalPort: c.Int("temporal-port"), UIPort: c.Int("ui-port"),
				TemporalDB: c.String("temporal-db"), DBPasswordFile: c.String("temporal-db-password-file"),
				TemporalBinary: c.String("temporal-binary"), HealthListen: c.String("health-listen"),
				TLSDir: c.String("tls-dir"), UIIP: c.String("ui-ip"), JoinListen: c.String("join-listen"), AuthorityDir: c.String("ca-dir"),
				LeaseListen: c.String("lease-listen"), LeaseAdvertise: c.String("lease-advertise"),
				FenceCommand: strings.Fields(c.String("fence-command")), FenceConfig: c.String("fence-config"),
				Webhook: WebhookOptions{
					Listen: c.String("webhook-listen"), TokenFile: c.String("webhook-token-file"), VMLabel: c.String("webhook-vm-label"),
					Match:  c.StringSlice("webhook-match"),
					DryRun: c.Bool("webhook-dry-run"), TLS: c.Bool("webhook-tls"),
				},
				Notify: workers.NotifyFrom(c),
			}, log)
		},
	}
}
