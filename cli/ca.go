package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/trust"
	"understudy/internal/ui"
)

const defaultAuthority = "/etc/understudy/ca"

// certificateView is the documented JSON of `understudy ca show`, `issue` and `renew`.
type certificateView struct {
	MessageType string    `json:"message_type"` // "certificate"
	File        string    `json:"file"`
	Identity    string    `json:"identity"` // "authority" for the authority itself
	Names       []string  `json:"names"`
	Serial      string    `json:"serial"`
	NotAfter    time.Time `json:"not_after"`
	Expired     bool      `json:"expired"`
}

func (e *env) caCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "ca-dir", EnvVars: []string{"UNDERSTUDY_CA_DIR"}, Value: defaultAuthority, Usage: "`FOLDER` of the authority; its key can make anybody, keep it off the hosts"}
	output := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"}
	valid := &cli.DurationFlag{Name: "valid", Value: trust.DefaultValid, Usage: "how long the certificate lasts"}
	address := &cli.StringSliceFlag{Name: "address", Usage: "another name or IP `ADDRESS` under which it is reached; repeatable"}
	describe := func(about, example string) string {
		return about + "\n\nEXAMPLE\n   " + example + "\n\n" + exitStatus(exitDone, exitFailed, exitNotFound, exitConflict, exitUnsafe, exitUsage)
	}
	commands := []*cli.Command{
		{
			Name: "init", Usage: "make the authority of this site",
			Description: describe("Writes ca.key (mode 0600) and ca.crt into the folder. A folder that has an authority is left alone.", "understudy ca init --name example"),
			Flags:       []cli.Flag{dir, output, &cli.StringFlag{Name: "name", Value: "this site", Usage: "name of the site, for people"}},
			Action:      e.caInit,
		},
		{
			Name: "issue", Usage: "make a folder with a key and a certificate", ArgsUsage: "host NAME | server | operator NAME",
			Description: describe(`The folder gets ca.crt, tls.crt and tls.key (mode 0600); give it to --tls-dir. Prefer understudy ca token and understudy join for
hosts: the key is then made where it is used. An existing key in the folder is kept.`, "understudy ca issue --out /etc/understudy/tls --address 10.0.0.5 server"),
			Flags:  []cli.Flag{dir, output, valid, address, &cli.StringFlag{Name: "out", Usage: "`FOLDER` for the files; it becomes private (mode 0700)"}},
			Action: e.caIssue,
		},
		{
			Name: "renew", Usage: "make the certificate of a folder last longer", ArgsUsage: "FOLDER",
			Description: describe(`Same key, same names, same length. A running process takes it up by itself. Agents that joined renew by themselves.`,
				"understudy ca renew /etc/understudy/tls"),
			Flags: []cli.Flag{dir, output}, Action: e.caRenew,
		},
		{
			Name: "show", Usage: "print what certificates say", ArgsUsage: "[FOLDER or FILE …]",
			Description: describe("Without an argument: the authority.", "understudy ca show /etc/understudy/tls"),
			Flags:       []cli.Flag{dir, output}, Action: e.caShow,
		},
		{
			Name: "token", Usage: "let one host join", ArgsUsage: "HOST",
			Description: describe(`Run it on the server's machine. Prints a token that is good for one host, once, until it expires; understudy join takes it there. Only its digest
is kept here. The server must run with --join-listen and the same --ca-dir.`, "understudy ca token --address 10.0.0.11 kvm1"),
			Flags: []cli.Flag{
				dir, output, valid, address,
				&cli.DurationFlag{Name: "expires", Value: time.Hour, Usage: "how long the token can be used, a week at most"},
			},
			Action: e.caToken,
		},
	}
	commands = append([]*cli.Command{e.setupCommand(dir, valid)}, commands...)
	for _, c := range commands {
		c.OnUsageError, c.HideHelpCommand, c.Action = usage, true, strict(c.Action)
	}
	return &cli.Command{
		Name: "ca", Usage: "certificates of server, hosts and operators", ArgsUsage: "COMMAND",
		Description: describe("docs/SECURITY.md says what each certificate may do.", "understudy ca init --name example"),
		Subcommands: commands,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return model.Fail(model.InvalidArgument, nil, "there is no command ca %s", c.Args().First()).WithTry("understudy ca --help")
			}
			return model.Fail(model.InvalidArgument, nil, "ca needs a command: setup, init, issue, renew, show or token").WithTry("understudy ca --help")
		},
	}
}

func (e *env) caInit(c *cli.Context) error {
	a, err := trust.Init(filepath.Clean(c.String("ca-dir")), c.String("name"), e.now)
	if err != nil {
		return err
	}
	return e.printCertificates(c, filepath.Join(filepath.Clean(c.String("ca-dir")), trust.AuthorityFile), a.Certificate())
}

// identityArgs reads "host NAME", "server" or "operator NAME".
func identityArgs(c *cli.Context) (trust.Identity, error) {
	id := trust.Identity{Role: trust.Role(c.Args().Get(0)), Name: c.Args().Get(1)}
	if err := id.Validate(); err != nil || c.NArg() > 2 {
		f := model.Fail(model.InvalidArgument, nil, "say for whom: host NAME, server, or operator NAME").WithTry("understudy ca issue --out FOLDER host kvm1")
		if err != nil && c.NArg() > 0 {
			f.What = err.Error()
		}
		return id, f
	}
	return id, nil
}

func wish(c *cli.Context, id trust.Identity) (trust.Wish, error) {
	w := trust.Wish{Identity: id, Addresses: c.StringSlice("address"), Valid: c.Duration("valid")}
	return w, w.Check()
}

func (e *env) caIssue(c *cli.Context) error {
	id, err := identityArgs(c)
	if err != nil {
		return err
	}
	w, err := wish(c, id)
	if err != nil {
		return err
	}
	out := c.String("out")
	if out == "" {
		return model.Fail(model.InvalidArgument, nil, "say where the files go").WithTry("understudy ca issue --out FOLDER " + string(id.Role))
	}
	a, err := trust.OpenAuthority(filepath.Clean(c.String("ca-dir")), e.now)
	if err != nil {
		return err
	}
	if err := a.Grant(out, w); err != nil {
		return err
	}
	return e.showFile(c, filepath.Join(out, trust.CertificateFile))
}

func (e *env) caRenew(c *cli.Context) error {
	if c.NArg() != 1 {
		return model.Fail(model.InvalidArgument, nil, "ca renew takes the folder of one certificate").WithTry("understudy ca renew FOLDER")
	}
	a, err := trust.OpenAuthority(filepath.Clean(c.String("ca-dir")), e.now)
	if err != nil {
		return err
	}
	if err := a.Renew(c.Args().First()); err != nil {
		return err
	}
	return e.showFile(c, filepath.Join(c.Args().First(), trust.CertificateFile))
}

func (e *env) caShow(c *cli.Context) error {
	paths := c.Args().Slice()
	if len(paths) == 0 {
		paths = []string{filepath.Join(c.String("ca-dir"), trust.AuthorityFile)}
	}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			p = filepath.Join(p, trust.CertificateFile)
		}
		if err := e.showFile(c, p); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) caToken(c *cli.Context) error {
	if c.NArg() != 1 {
		return model.Fail(model.InvalidArgument, nil, "ca token takes the name of one host").WithTry("understudy ca token HOST")
	}
	w, err := wish(c, trust.Identity{Role: trust.Host, Name: c.Args().First()})
	if err != nil {
		return err
	}
	a, err := trust.OpenAuthority(filepath.Clean(c.String("ca-dir")), e.now)
	if err != nil {
		return err
	}
	token, err := a.Invite(w, c.Duration("expires"))
	if err != nil {
		return err
	}
	output, err := ui.ParseOutput(c.String("output"))
	if err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
	}
	if output == ui.Table {
		_, err = fmt.Fprintln(e.out, token)
		return err
	}
	return ui.Print(e.out, output, struct {
		MessageType string    `json:"message_type"`
		Host        string    `json:"host"`
		Token       string    `json:"token"`
		Expires     time.Time `json:"expires"`
	}{"token", w.Identity.Name, token.String(), e.now().Add(c.Duration("expires")).UTC()})
}

func (e *env) showFile(c *cli.Context, path string) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return model.Fail(model.NotFound, err, "there is no certificate in %s", path).WithTry("understudy ca show FOLDER")
	}
	return e.printCertificates(c, path, p)
}

func (e *env) printCertificates(c *cli.Context, path string, p []byte) error {
	output, err := ui.ParseOutput(c.String("output"))
	if err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
	}
	list, err := trust.ParseCertificates(p)
	if err != nil {
		return model.Fail(model.Refused, err, "%s is not a file of certificates", path)
	}
	for _, cert := range list {
		v := certificateView{
			MessageType: "certificate", File: path, Identity: "authority", Names: append([]string{}, cert.DNSNames...), Serial: trust.Serial(cert),
			NotAfter: cert.NotAfter.UTC(), Expired: e.now().After(cert.NotAfter),
		}
		for _, ip := range cert.IPAddresses {
			v.Names = append(v.Names, ip.String())
		}
		if !cert.IsCA {
			id, err := trust.IdentityOf(cert)
			if err != nil {
				return model.Fail(model.Refused, err, "%s", path)
			}
			v.Identity = id.String()
		}
		if output != ui.Table {
			err = ui.Print(e.out, output, v)
		} else {
			_, err = fmt.Fprintf(e.out, "%s: %s, until %s, serial %s, reached as %v\n", v.File, v.Identity, v.NotAfter.Format(time.RFC3339), v.Serial, v.Names)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
