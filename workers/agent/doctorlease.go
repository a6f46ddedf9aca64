package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"understudy/internal/guard"
	"understudy/internal/model"
)

const hooksDir = "/etc/libvirt/hooks"

// guardLevel says what a lease of this host is worth.
func (s *self) guardLevel() model.Check {
	const name = "guard"
	if s.guard == nil {
		return model.Check{Name: name, OK: true, Detail: "nobody guards"}
	}
	state, terms := s.guard.last(), s.guard.terms()
	if state.Level < 1 {
		if bound, err := guard.Protected(s.opts.StateDir); err != nil || len(bound) > 0 {
			return model.Check{Name: name, Try: "systemctl restart understudy-guard, then journalctl -u understudy-guard",
				Detail: fmt.Sprintf("it was here and does not answer: nobody keeps the leases of %d VMs (%s)", len(bound), state.Detail)}
		}
		return model.Check{Name: name, OK: true, Try: "systemctl enable --now understudy-guard",
			Detail: "none: a VM here is moved off a silent host only by a fence device or a person (" + state.Detail + ")"}
	}
	c := model.Check{Name: name, OK: true, Detail: fmt.Sprintf("level %d, longest stop so far %s; a takeover of a silent host waits %s",
		state.Level, state.DStop.Round(time.Millisecond), terms.Wait())}
	if state.Detail != "" {
		c.Detail += " (" + state.Detail + ")"
	}
	switch {
	case state.DStop > model.GuardDStop: // the wait follows it, but it should not be so
		c.OK, c.Try = false, "understudy guard list; a guard needs a host that lets it run: CPU, disk under its --run-dir"
	case state.Level == 1:
		c.Try = "understudy guard --watchdog /dev/watchdog: without one nobody stops a VM when guard and agent both die"
	}
	return c
}

// startGate is proved by dry calls, never by looking at a file: first the hook itself, then libvirtd, which reads a new hook
// only when it starts.
func (s *self) startGate(ctx context.Context) model.Check {
	const name = "start gate"
	if s.guard == nil || s.gate == nil || s.guard.last().Level < 1 {
		return model.Check{Name: name, OK: true, Detail: "without a guard there is none"}
	}
	ctx, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	if err := guard.ProveHook(ctx, hooksDir); err != nil {
		return failed(name, err, "understudy guard install-hook && systemctl restart libvirtd")
	}
	switch refused, err := s.gate(ctx, guard.ProbeDomain); {
	case err != nil:
		return failed(name, err, "virsh -c qemu:///system version")
	case !refused:
		return model.Check{Name: name, Detail: "the hook is there and refuses, but libvirtd does not call it", Try: "systemctl restart libvirtd (the VMs go on)"}
	}
	return model.Check{Name: name, OK: true, Detail: "libvirtd refused to start its probe"}
}

// thirdMachine: who stands on the machine of a VM is lost together with it.
func (s *self) thirdMachine(ctx context.Context) model.Check {
	const name = "third machine"
	ok := model.Check{Name: name, OK: true, Detail: "no VM is held here"}
	if s.held == nil {
		return ok
	}
	held, err := s.held()
	if err != nil {
		return failed(name, err, "see "+statesIn(s.opts))
	}
	for _, h := range held {
		for _, g := range h.Grantors {
			if !g.Control() {
				continue
			}
			host, _, err := net.SplitHostPort(g.Address)
			if err != nil {
				continue
			}
			if here(ctx, host, string(s.opts.Host)) {
				return model.Check{Name: name, Detail: fmt.Sprintf("the control plane at %s stands on this host: its loss ends both, and no failover follows", g.Address),
					Try: "run understudy server on a machine without protected VMs and without replicas"}
			}
			ok.Detail = "the control plane stands elsewhere, at " + g.Address
		}
	}
	return ok
}

// here says that a name or address is of this host.
func here(ctx context.Context, host, self string) bool {
	if host == self || host == "localhost" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addresses {
		for _, o := range own {
			if n, ok := o.(*net.IPNet); ok && n.IP.Equal(a.IP) {
				return true
			}
		}
	}
	return false
}

var sleepTargets = []string{"sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target"}

// sleeps: a host that wakes may run a VM before its guard runs.
func sleeps(ctx context.Context) model.Check {
	const name = "sleep"
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return model.Check{Name: name, OK: true, Detail: "systemd does not run here, so it does not put this host to sleep"}
	}
	ctx, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", append([]string{"is-enabled"}, sleepTargets...)...).Output() // it fails for what is masked
	var open []string
	words := strings.Fields(string(out))
	for i, target := range sleepTargets {
		if i >= len(words) || !strings.HasPrefix(words[i], "masked") {
			open = append(open, target)
		}
	}
	if len(open) > 0 {
		return model.Check{Name: name, Detail: "this host may go to sleep: " + strings.Join(open, ", "), Try: "systemctl mask " + strings.Join(sleepTargets, " ")}
	}
	return model.Check{Name: name, OK: true, Detail: "the targets are masked"}
}

// pausable: no clock inside sees that a host is paused from outside.
func pausable() model.Check {
	const name = "machine"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return model.Check{Name: name, OK: true, Detail: "the kernel does not say what it runs on"}
	}
	for line := range bytes.Lines(info) {
		if bytes.HasPrefix(line, []byte("flags")) && bytes.Contains(line, []byte(" hypervisor")) {
			return model.Check{Name: name, OK: true, Try: "fence it through its hypervisor (--fence-config of the server)",
				Detail: "a VM itself: paused from outside its clocks stand still, and a lease could outlive a takeover"}
		}
	}
	return model.Check{Name: name, OK: true, Detail: "not a VM itself"}
}
