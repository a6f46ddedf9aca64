package cli

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/trust"
)

// defaultTLS is where the packages' units look.
const defaultTLS = "/etc/understudy/tls"

func (e *env) joinCommand() *cli.Command {
	return &cli.Command{
		Name: "join", Usage: "get this host its certificate by a one-time token",
		Description: `Makes a key here, which never leaves this host, and asks the server to sign it. The token names the authority, so that a
false server is noticed. After a lost answer the same command can be repeated. The agent renews the certificate by itself. Its settings get
its name, its certificate and the server's Temporal, where they say nothing else.

EXAMPLE
   understudy join --server control.example.org:7461 --token -

` + exitStatus(exitDone, exitFailed, exitUnsafe, exitUnreachable, exitUsage),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "server", Usage: "`HOST:PORT` of --join-listen of the server"},
			&cli.StringFlag{Name: "token", EnvVars: []string{"UNDERSTUDY_TOKEN"}, Usage: "what understudy ca token printed; - reads it from standard input, where nobody sees it"},
			&cli.StringFlag{Name: "tls-dir", EnvVars: []string{"UNDERSTUDY_TLS_DIR"}, Value: defaultTLS, Usage: "`FOLDER` for key and certificates; it becomes private (mode 0700)"},
			&cli.StringFlag{Name: "settings", Value: agentSettings, Usage: "`FILE` of the agent's settings; left alone where there is none"},
		},
		Action: e.join,
	}
}

func (e *env) join(c *cli.Context) error {
	if c.String("server") == "" || c.String("token") == "" {
		return model.Fail(model.InvalidArgument, nil, "join needs a server and a token").WithTry("understudy join --server HOST:7461 --token -")
	}
	token := c.String("token")
	if token == "-" {
		lines := bufio.NewScanner(e.in)
		if !lines.Scan() {
			return model.Fail(model.InvalidArgument, lines.Err(), "there is no token on standard input")
		}
		token = strings.TrimSpace(lines.Text())
	}
	dir := filepath.Clean(c.String("tls-dir"))
	id, err := trust.Join(c.Context, c.String("server"), token, dir)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(e.out, "%s: %s\n", filepath.Join(dir, trust.CertificateFile), id); err != nil {
		return err
	}
	server, _, err := net.SplitHostPort(c.String("server"))
	if err != nil {
		return model.Fail(model.InvalidArgument, err, "--server is HOST:PORT")
	}
	added, err := addSettings(c.String("settings"), "join", []setting{
		{"UNDERSTUDY_AGENT_HOST", id.Name}, {"UNDERSTUDY_AGENT_TEMPORAL_ADDRESS", net.JoinHostPort(server, temporalPort)}, {"UNDERSTUDY_AGENT_TLS_DIR", dir},
	})
	if err != nil {
		return err
	}
	e.sayAdded(c.String("settings"), added)
	return nil
}
