package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
	"understudy/internal/ui"
)

const (
	doctorLimit = 10 * time.Second
	oneCheck    = 3 * time.Second
)

// Oldest versions that have pull backups with checkpoints and all that references/libvirt.md rests on.
var (
	minLibvirt = []int{7, 2}
	minQEMU    = []int{4, 2}
)

// Doctor looks for what keeps this host from doing its work, each finding with the next thing to try.
func (s *self) Doctor(ctx context.Context) []model.Check {
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	checks := s.libvirt(ctx)
	checks = append(checks, s.rights(), s.stateDir(), s.imageDirs(), s.space(), s.receiver(ctx), clock(), s.targets(), s.atRest(), s.certificate())
	checks = append(checks, s.guardLevel(), s.startGate(ctx), s.thirdMachine(ctx), sleeps(ctx), pausable())
	for _, tool := range []string{"qemu-img", "qemu-nbd"} {
		checks = append(checks, present(tool))
	}
	return checks
}

func (s *self) libvirt(ctx context.Context) []model.Check {
	ctx, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	v, err := s.hv.Versions(ctx)
	if err != nil {
		return []model.Check{failed("libvirtd", err, "systemctl start libvirtd, or understudy agent --libvirt-socket")}
	}
	return []model.Check{
		{Name: "libvirtd", OK: true, Detail: "answers on " + s.opts.LibvirtSocket},
		atLeast("libvirt version", v.Libvirt, minLibvirt),
		atLeast("QEMU version", v.QEMU, minQEMU),
	}
}

func atLeast(name, have string, least []int) model.Check {
	c := model.Check{Name: name, OK: true, Detail: have}
	if !reaches(have, least) {
		c.OK = false
		c.Detail = fmt.Sprintf("%q; incremental backup needs %d.%d", have, least[0], least[1])
		c.Try = "upgrade the packages of this host"
	}
	return c
}

func reaches(have string, least []int) bool {
	parts := strings.Split(have, ".")
	for i, want := range least {
		got := 0
		if i < len(parts) {
			got, _ = strconv.Atoi(parts[i]) // what is no number is old
		}
		if got != want {
			return got > want
		}
	}
	return true
}

func (s *self) rights() model.Check {
	if unix.Access(s.opts.LibvirtSocket, unix.R_OK|unix.W_OK) != nil {
		return model.Check{Name: "rights", Detail: "may not use " + s.opts.LibvirtSocket,
			Try: "run the agent as root, or put its user into the group libvirt"}
	}
	if os.Geteuid() != 0 {
		return model.Check{Name: "rights", OK: true, Detail: fmt.Sprintf("runs as user %d; images must be readable to it", os.Geteuid())}
	}
	return model.Check{Name: "rights", OK: true, Detail: "runs as root"}
}

func (s *self) stateDir() model.Check {
	const name = "state folder"
	try := fmt.Sprintf("chmod 0700 %s, and see that it is writable", s.opts.StateDir)
	info, err := os.Stat(s.opts.StateDir)
	if err != nil {
		return failed(name, err, try)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return model.Check{Name: name, Detail: fmt.Sprintf("others may look into %s (%04o); replicas hold whole disks", s.opts.StateDir, perm), Try: try}
	}
	probe, err := os.CreateTemp(s.opts.StateDir, ".doctor-*")
	if err != nil {
		return failed(name, err, try)
	}
	_, err = probe.Write([]byte("x"))
	err = errors.Join(err, probe.Close(), os.Remove(probe.Name()))
	if err != nil {
		return failed(name, err, try)
	}
	return model.Check{Name: name, OK: true, Detail: s.opts.StateDir + " is writable and private"}
}

func (s *self) imageDirs() model.Check {
	const name = "image folders"
	if len(s.opts.ImageDirs) == 0 {
		return model.Check{Name: name, OK: true, Detail: "disks may lie anywhere"}
	}
	for _, dir := range s.opts.ImageDirs {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return model.Check{Name: name, Detail: dir + " is not a folder of this host", Try: "understudy agent --image-dir FOLDER"}
		}
	}
	return model.Check{Name: name, OK: true, Detail: strings.Join(s.opts.ImageDirs, ", ")}
}

func (s *self) space() model.Check {
	free, total, err := s.usage()
	if err != nil {
		return failed("store", err, "see that "+filepath.Join(s.opts.StateDir, "replicas")+" is mounted")
	}
	c := model.Check{Name: "store", OK: free > s.opts.StoreReserve, Detail: ui.Bytes(free) + " free of " + ui.Bytes(total)}
	if !c.OK {
		c.Try = "free space, or lower --keep-last of the VMs whose standby this is"
	}
	return c
}

func (s *self) receiver(ctx context.Context) model.Check {
	ctx, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	try := "understudy agent --link-advertise HOST:PORT, and the firewall"
	got, err := s.ping(ctx, s.address)
	switch {
	case err != nil:
		return failed("receiver", err, try)
	case got != s.opts.Host:
		return model.Check{Name: "receiver", Detail: fmt.Sprintf("at %s answers %q", s.address, got), Try: try}
	}
	return model.Check{Name: "receiver", OK: true, Detail: "answers at " + s.address}
}

// clock asks the kernel whether something keeps it right; recovery points carry its time.
func clock() model.Check {
	const name = "clock"
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return model.Check{Name: name, OK: true, Detail: fmt.Sprintf("the kernel does not say whether it is kept right: %v", err)}
	case state == unix.TIME_ERROR:
		// Not a failure: what keeps a clock right may be outside of this kernel.
		return model.Check{Name: name, OK: true, Detail: "the kernel knows of nothing that keeps it right (NTP)", Try: "systemctl enable --now chrony"}
	}
	return model.Check{Name: name, OK: true, Detail: "kept right by NTP"}
}

// targets is the agent's own account, which does not rest on the control plane.
func (s *self) targets() model.Check {
	const name = "recovery points"
	if s.watch == nil {
		return model.Check{Name: name, OK: true, Detail: "nobody watches"}
	}
	if late := s.watch.late(); len(late) > 0 {
		return model.Check{Name: name, Detail: "late, by the write counters: " + strings.Join(late, ", "), Try: "understudy status " + late[0]}
	}
	return model.Check{Name: name, OK: true, Detail: fmt.Sprintf("in time for %d VMs", s.watch.served())}
}

func present(tool string) model.Check {
	path, err := exec.LookPath(tool)
	if err != nil {
		return failed(tool, err, "apt-get install qemu-utils")
	}
	return model.Check{Name: tool, OK: true, Detail: path}
}

func failed(name string, err error, try string) model.Check {
	return model.Check{Name: name, Detail: err.Error(), Try: try}
}
