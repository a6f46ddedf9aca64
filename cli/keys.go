package cli

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const keyLook = 200 // ms until the reader of keys looks whether it is still wanted

// terminalKeys delivers single keys of standard input until it is released. Ctrl-C stays a signal and output stays as it is,
// which a raw mode would change. Without a terminal there are no keys.
func terminalKeys(ctx context.Context) (<-chan byte, func()) {
	fd := int(os.Stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil || !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil, func() {}
	}
	now := *old
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &now); err != nil {
		return nil, func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	keys, done := make(chan byte), make(chan struct{})
	go func() {
		defer close(done)
		defer close(keys)
		readKeys(ctx, fd, keys)
	}()
	return keys, func() {
		stop()
		<-done
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, old) // a terminal that is gone needs no repair
	}
}

// readKeys never blocks for longer than a look, because a read of a terminal cannot be taken back.
func readKeys(ctx context.Context, fd int, keys chan<- byte) {
	var b [16]byte
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, keyLook) //nolint:gosec // a descriptor
		if err == unix.EINTR || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return
		}
		got, err := unix.Read(fd, b[:])
		if err != nil || got <= 0 {
			return
		}
		for _, k := range b[:got] {
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
	}
}

func terminalSize() (width, height int) {
	w, h, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 80, 24
	}
	return w, h
}

// colours says whether standard output may be coloured (no-color.org).
func colours(terminal bool) bool {
	return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
