// Command understudy keeps libvirt VMs highly available by snapshot replication. `understudy --help` lists the commands.
package main

import (
	"os"

	"understudy/cli"
	"understudy/workers/agent"
	"understudy/workers/control"
	"understudy/workers/guard"
)

func main() {
	os.Exit(cli.Main(os.Args, control.Command(), agent.Command(), agent.TraceCommand(), guard.Command()))
}
