package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/trust"
)

const (
	joinPort        = "7461"
	leasePort       = "7460"
	temporalPort    = "7233"
	defaultOperator = "/etc/understudy/operator"
)

func (e *env) setupCommand(dir, valid cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "setup", Usage: "make this machine ready to be the control plane of a site", ArgsUsage: "[HOST …]",
		Description: `Makes the authority, the server's certificate and one for root as operator, and adds to the settings of the server what they need. What is
there already stays, so it can be repeated for further hosts. For each HOST it prints the line that lets that host join, once.

EXAMPLE
   understudy ca setup --ip 10.0.0.5 kvm1 kvm2

` + exitStatus(exitDone, exitFailed, exitConflict, exitUnsafe, exitUsage),
		Flags: []cli.Flag{
			dir, valid,
			&cli.StringFlag{Name: "ip", Usage: "`ADDRESS` of this machine, where hosts and operators reach it"},
			&cli.StringFlag{Name: "tls-dir", Value: defaultTLS, Usage: "`FOLDER` for the server's certificate"},
			&cli.StringFlag{Name: "operator-dir", Value: defaultOperator, Usage: "`FOLDER` for root's certificate as operator"},
			&cli.StringFlag{Name: "settings", Value: serverSettings, Usage: "`FILE` of the server's settings; left alone where there is none"},
			&cli.DurationFlag{Name: "expires", Value: time.Hour, Usage: "how long the hosts' tokens can be used, a week at most"},
		},
		Action: e.caSetUp,
	}
}

func (e *env) caSetUp(c *cli.Context) error {
	ip := c.String("ip")
	if net.ParseIP(ip) == nil {
		return model.Fail(model.InvalidArgument, nil, "say under which IP address this machine is reached").WithTry("understudy ca setup --ip 10.0.0.5 kvm1 kvm2")
	}
	var hosts []trust.Wish
	for _, h := range c.Args().Slice() {
		w := trust.Wish{Identity: trust.Identity{Role: trust.Host, Name: h}, Valid: c.Duration("valid")}
		if err := w.Check(); err != nil {
			return err
		}
		hosts = append(hosts, w)
	}
	name, err := os.Hostname()
	if err != nil {
		return model.Fail(model.Internal, err, "this machine has no name")
	}
	ca, tls, operator := filepath.Clean(c.String("ca-dir")), filepath.Clean(c.String("tls-dir")), filepath.Clean(c.String("operator-dir"))
	a, err := e.authority(ca, name)
	if err != nil {
		return err
	}
	server := trust.Wish{Identity: trust.Identity{Role: trust.Server}, Addresses: []string{ip, strings.ToLower(name)}, Valid: c.Duration("valid")}
	root := trust.Wish{Identity: trust.Identity{Role: trust.Operator, Name: "root"}, Valid: c.Duration("valid")}
	if err := errors.Join(grantOnce(a, tls, server), grantOnce(a, operator, root)); err != nil {
		return err
	}
	added, err := addSettings(c.String("settings"), "ca setup", []setting{
		{"UNDERSTUDY_SERVER_IP", ip}, {"UNDERSTUDY_SERVER_TLS_DIR", tls}, {"UNDERSTUDY_SERVER_CA_DIR", ca},
		{"UNDERSTUDY_SERVER_JOIN_LISTEN", ":" + joinPort}, {"UNDERSTUDY_SERVER_LEASE_ADVERTISE", net.JoinHostPort(ip, leasePort)},
	})
	if err != nil {
		return err
	}
	e.sayAdded(c.String("settings"), added)
	for _, w := range hosts {
		token, err := a.Invite(w, c.Duration("expires"))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(e.out, "understudy join --server %s --token %s\n", net.JoinHostPort(ip, joinPort), token); err != nil {
			return err
		}
	}
	return nil
}

// grantOnce leaves a folder alone that has a certificate: it may be in use, and renews itself.
func grantOnce(a *trust.Authority, out string, w trust.Wish) error {
	if _, err := os.Stat(filepath.Join(out, trust.CertificateFile)); err == nil {
		return nil
	}
	return a.Grant(out, w)
}

// authority opens the one of the folder, or makes it.
func (e *env) authority(dir, site string) (*trust.Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, trust.AuthorityFile)); err == nil {
		return trust.OpenAuthority(dir, e.now)
	}
	return trust.Init(dir, site, e.now)
}

func (e *env) sayAdded(path string, added []setting) {
	var names []string
	for _, s := range added {
		names = append(names, s.name+"="+s.value)
	}
	if len(names) > 0 {
		_, _ = fmt.Fprintf(e.err, "%s: added %s\n", path, strings.Join(names, " "))
	}
}
