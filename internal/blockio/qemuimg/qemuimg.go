// Package qemuimg runs qemu-img for the few things it does to whole images: create an overlay, merge a layer into the one
// below it, point a layer at another one, check. Reading and writing of bytes is not its business (see qemunbd).
//
// Nothing is guessed: formats are always given, so that a guest that writes an image header onto its raw disk cannot make
// us follow the names in it, and paths must be absolute, so that QEMU takes none for a protocol.
package qemuimg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// ErrLocked: another process has the image open in a way that forbids the operation. Nothing was changed.
var ErrLocked = errors.New("qemuimg: another process has the image open")

// ErrDamaged: the check found errors in the image's own structure.
var ErrDamaged = errors.New("qemuimg: the image is damaged")

// ExitError tells how qemu-img failed.
type ExitError struct {
	Op     string
	Code   int    // -1 when a signal ended it
	Stderr string // its last words
	Err    error
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("qemuimg: %s: %v", e.Op, e.Err)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Unwrap gives ErrLocked or an errno when qemu-img's words name one, else the cause.
func (e *ExitError) Unwrap() error {
	switch {
	case strings.Contains(e.Stderr, `" lock`):
		return ErrLocked
	case strings.Contains(e.Stderr, "No space left on device"):
		return syscall.ENOSPC
	case strings.Contains(e.Stderr, "Disk quota exceeded"):
		return syscall.EDQUOT
	}
	return e.Err
}

// Tool is a qemu-img. The zero value finds it in PATH.
type Tool struct {
	Binary string
}

// CreateOverlay makes a new qcow2 image of size bytes on top of backing, which is stored as it is given (it may be
// relative to the folder of path) and not opened. An existing file is overwritten: the caller owns the name.
// 4 KiB writes cost 4 KiB: extended_l2 gives subclusters, without them each would copy a whole cluster of 64 KiB.
func (t Tool) CreateOverlay(ctx context.Context, path string, size int64, backing string, format model.DiskFormat) error {
	if err := absolute(path); err != nil {
		return err
	}
	_, err := t.run(ctx, "create", "-q", "-f", "qcow2", "-u", "-o", "extended_l2=on",
		"-F", string(format), "-b", backing, "--", path, strconv.FormatInt(size, 10))
	return err
}

// CommitDown writes what the layer at path holds into the image below it, growing that one if needed. The layer itself is
// left as it is. Done twice, or ended half-way and done again, it comes to the same. It does not sync: see Sync.
func (t Tool) CommitDown(ctx context.Context, path string) error {
	if err := absolute(path); err != nil {
		return err
	}
	_, err := t.run(ctx, "commit", "-q", "-d", "-f", "qcow2", "--", path)
	return err
}

// Rebase makes the layer at path name another image below it, without looking at its content.
func (t Tool) Rebase(ctx context.Context, path, backing string, format model.DiskFormat) error {
	if err := absolute(path); err != nil {
		return err
	}
	_, err := t.run(ctx, "rebase", "-q", "-u", "-f", "qcow2", "-F", string(format), "-b", backing, "--", path)
	return err
}

// Check looks for errors in the structure of the qcow2 layer at path, alone: what lies below it is not opened. Leaked
// clusters are no error. It fails with ErrDamaged when there are errors.
func (t Tool) Check(ctx context.Context, path string) error {
	if err := absolute(path); err != nil {
		return err
	}
	node, err := json.Marshal(map[string]any{
		"driver": "qcow2", "backing": nil,
		"file": map[string]any{"driver": "file", "filename": path},
	})
	if err != nil {
		return fmt.Errorf("qemuimg: %w", err)
	}
	_, err = t.run(ctx, "check", "-q", "--", "json:"+string(node))
	var exit *ExitError
	switch {
	case errors.As(err, &exit) && exit.Code == 3: // leaks only
		return nil
	case errors.As(err, &exit) && exit.Code == 2:
		return fmt.Errorf("%w: %s: %s", ErrDamaged, path, exit.Stderr)
	}
	return err
}

// Version is the first line of qemu-img --version.
func (t Tool) Version(ctx context.Context) (string, error) {
	out, err := t.run(ctx, "--version")
	line, _, _ := strings.Cut(string(out), "\n")
	return line, err
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("qemuimg: %q is not an absolute path", path)
	}
	return nil
}

func (t Tool) run(ctx context.Context, args ...string) ([]byte, error) {
	binary := t.Binary
	if binary == "" {
		binary = "qemu-img"
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C on our terminal is for us to handle
	cmd.WaitDelay = time.Second
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("qemuimg: %s: %w", args[0], ctx.Err())
	}
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	words := stderr.Bytes()
	return nil, &ExitError{Op: args[0], Code: code, Stderr: string(bytes.TrimSpace(words[max(0, len(words)-2048):])), Err: err}
}

// Sync makes what was written to the file at path durable, whoever wrote it.
func Sync(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("qemuimg: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("qemuimg: sync of %s: %w", path, err)
	}
	return nil
}

// InUse tells whether a QEMU process (a VM, qemu-nbd, qemu-img) has the image at path open, by looking at the locks QEMU
// takes on the bytes from 100 on (block/file-posix.c). A missing file is not in use.
func InUse(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("qemuimg: %w", err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: 100, Len: 200}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("qemuimg: locks of %s: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// Link is one image of a chain.
type Link struct {
	Path   string
	Format model.DiskFormat
	Size   int64 // virtual
}

// ErrGuess: an image names what lies below it without its format. It would have to be guessed, and nothing is.
var ErrGuess = errors.New("qemuimg: the image does not say of which format the one below it is")

// maxLinks bounds a chain.
const maxLinks = 2 * model.MaxKeep

// Chain lists an image of a format that is known and what lies below it, by the headers, top first. The headers must be of
// our host: names in them are followed.
func (t Tool) Chain(ctx context.Context, path string, format model.DiskFormat) ([]Link, error) {
	var chain []Link
	for path != "" {
		if err := absolute(path); err != nil {
			return nil, err
		}
		if len(chain) == maxLinks {
			return nil, fmt.Errorf("qemuimg: %s lies on more than %d images", chain[0].Path, maxLinks)
		}
		out, err := t.run(ctx, "info", "--output=json", "-U", "-f", string(format), "--", path)
		if err != nil {
			return nil, err
		}
		var info struct {
			Size    int64            `json:"virtual-size"`
			Backing string           `json:"backing-filename"`
			Full    string           `json:"full-backing-filename"`
			Below   model.DiskFormat `json:"backing-filename-format"`
		}
		if err := json.Unmarshal(out, &info); err != nil {
			return nil, fmt.Errorf("qemuimg: info of %s: %w", path, err)
		}
		chain = append(chain, Link{path, format, info.Size})
		if info.Backing != "" && info.Below == "" {
			return nil, fmt.Errorf("%w: %s", ErrGuess, path)
		}
		next := info.Full
		if next == "" {
			next = info.Backing
		}
		if next != "" && !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(path), next)
		}
		path, format = next, info.Below
	}
	return chain, nil
}
