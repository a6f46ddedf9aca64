package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// fromEnvironment lets every flag of a process be set by the environment: --link-listen of agent is
// UNDERSTUDY_AGENT_LINK_LISTEN. That is what the files under /etc/understudy set; a flag on the command line wins.
func fromEnvironment(c *cli.Command) {
	for _, f := range c.Flags {
		name := variable(c.Name, f.Names()[0])
		switch f := f.(type) {
		case *cli.StringFlag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.StringSliceFlag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.BoolFlag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.IntFlag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.Int64Flag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.Float64Flag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.DurationFlag:
			f.EnvVars = append(f.EnvVars, name)
		case *cli.GenericFlag:
			f.EnvVars = append(f.EnvVars, name)
		}
	}
}

func variable(command, flag string) string {
	return strings.ToUpper(strings.ReplaceAll("understudy_"+command+"_"+flag, "-", "_"))
}

// Configuration is the file under /etc/understudy that sets what the process understands: every flag with its help and its
// default, commented out.
func Configuration(c *cli.Command) string {
	var b strings.Builder
	b.WriteString("# Environment of `understudy " + c.Name + "`, read by its systemd unit. Every setting is the flag of that name;\n")
	b.WriteString("# what is commented out is the default. Lists are separated by commas.\n")
	for _, f := range c.Flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		value := strings.Trim(d.GetValue(), `[]"`)
		b.WriteString("\n# " + strings.ReplaceAll(d.GetUsage(), "`", "") + "\n")
		b.WriteString("#" + variable(c.Name, f.Names()[0]) + "=" + value + "\n")
	}
	return b.String()
}

// Commands is the whole command line, for tests of what documents say of it.
func Commands(processes ...*cli.Command) []*cli.Command { return (&env{}).app(processes).Commands }
