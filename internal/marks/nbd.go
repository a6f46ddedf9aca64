package marks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

func nbdName(pid, socket string) string { return "process " + pid + " on " + socket }

func (l Lister) proc() string {
	if l.Proc == "" {
		return "/proc"
	}
	return l.Proc
}

// serving is the socket in our folder that a process serves on, when it is a qemu-nbd.
func (l Lister) serving(pid string) string {
	b, err := os.ReadFile(filepath.Join(l.proc(), pid, "cmdline"))
	if err != nil {
		return "" // it ended
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if filepath.Base(args[0]) != "qemu-nbd" {
		return ""
	}
	socket := ""
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--socket="); ok {
			socket = v
		} else if (a == "--socket" || a == "-k") && i+1 < len(args) {
			socket = args[i+1]
		}
	}
	if !strings.HasPrefix(filepath.Clean(socket), l.RunDir+"/") {
		return ""
	}
	return socket
}

// orphan: one that is no child of the agent has outlived the agent that started it.
func (l Lister) orphan(pid string) bool {
	agent := l.Agent
	if agent == 0 {
		agent = os.Getpid()
	}
	b, err := os.ReadFile(filepath.Join(l.proc(), pid, "stat"))
	if err != nil {
		return false // it ended
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return true
	}
	n, _ := strconv.Atoi(fields[1])
	return n != agent
}

const (
	nbdTerm = 3 * time.Second // that a qemu-nbd has to flush and end
	nbdPoll = 20 * time.Millisecond
)

// EndOrphan ends a qemu-nbd that outlived its agent, and removes its socket. It is looked at again through a handle that no other
// process can get: a number that was given to somebody else meanwhile is left alone.
func (l Lister) EndOrphan(ctx context.Context, m model.Mark) error {
	var number int
	if _, err := fmt.Sscanf(m.Name, "process %d on ", &number); m.Kind != model.MarkNBD || err != nil || number <= 1 {
		return model.Fail(model.InvalidArgument, err, "%q is no process of ours", m.Name)
	}
	fd, err := unix.PidfdOpen(number, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return model.Fail(model.Internal, err, "process %d", number)
	}
	defer unix.Close(fd)
	pid := strconv.Itoa(number)
	socket := l.serving(pid)
	if nbdName(pid, socket) != m.Name || !l.orphan(pid) {
		return model.Fail(model.Refused, nil, "process %d is not what it was, or its agent lives", number)
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && err != unix.ESRCH {
			return model.Fail(model.Internal, err, "ending process %d", number)
		}
		if ended(ctx, fd) {
			if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
				return model.Fail(model.Internal, err, "removing its socket")
			}
			return nil
		}
	}
	return model.Fail(model.Internal, ctx.Err(), "process %d does not end", number)
}

// ended waits for the end of a process.
func ended(ctx context.Context, fd int) bool {
	limit, cancel := context.WithTimeout(ctx, nbdTerm)
	defer cancel()
	for limit.Err() == nil {
		at := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		if n, err := unix.Poll(at, int(nbdPoll.Milliseconds())); err == nil && n > 0 && slices.ContainsFunc(at, func(p unix.PollFd) bool { return p.Revents != 0 }) {
			return true
		}
	}
	return false
}
