// Command understudy-temporal is the Temporal that comes with Understudy: server and Web UI in one process on one SQLite
// file or one PostgreSQL database, for sites without a Temporal cluster. `understudy server` starts and supervises it. It takes the flags of
// `temporal server start-dev` that matter here, so that the SDK's testsuite can drive it too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(exit(os.Args[1:])) }

func exit(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "understudy-temporal:", err)
		return 64
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "understudy-temporal:", err)
		return 1
	}
	return 0
}
