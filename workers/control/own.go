package control

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// own takes the data folder for this process: two servers with the same generation records could each grant a VM to
// another host. The kernel drops the lock when the process dies, however it dies.
func own(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot open the lock of the data folder")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32)) // only for the message
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, model.Fail(model.Internal, err, "cannot lock the data folder %s", dir)
		}
		return nil, model.Fail(model.Conflict, nil, "another server (process %s) owns %s", strings.TrimSpace(string(holder)), dir).
			WithTry("end it, or choose another --data-dir")
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // only for the message
	}
	return func() { _ = f.Close() }, nil
}
