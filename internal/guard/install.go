package guard

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// HookFile is where the hook lies: in a folder of its own beside a hook of the administrator's, which libvirt knows since 6.5.
func HookFile(hooksDir string) string { return filepath.Join(hooksDir, "qemu.d", "50-understudy") }

const hookMark = "written by `understudy guard install-hook`"

// hookScript keeps libvirt's many other calls cheap, and fails closed by itself when the program is gone.
const hookScript = `#!/bin/sh
# Start gate of understudy, ` + hookMark + `. A VM that understudy protects starts only where its guard allows it.
case "$2/$3" in
  prepare/begin | migrate/begin | restore/begin) ;;
  *) exec cat >/dev/null ;;
esac
program=@PROGRAM@ list=@LIST@
if [ -x "$program" ]; then exec "$program" guard --run-dir @RUN@ --state-dir @STATE@ hook -- "$@"; fi
[ -e "$list" ] || exec cat >/dev/null
uuid=$(sed -n 's:.*<uuid>\([0-9a-fA-F-]*\)</uuid>.*:\1:p' | head -n 1)
if grep -qi -e "$uuid" "$list"; then
  echo "understudy: $1 is protected, and $program is not there to say whether it may start here" >&2
  exit 1
fi
`

// InstallHook writes the hook; one that is the same is left alone, a file of somebody else's is Conflict. It says whether
// anything changed: libvirtd reads a new hook only when it starts.
func InstallHook(hooksDir, program, runDir, stateDir string) (changed bool, err error) {
	path := HookFile(hooksDir)
	text := []byte(strings.NewReplacer(
		"@PROGRAM@", shellWord(program), "@LIST@", shellWord(ListFile(stateDir)), "@RUN@", shellWord(runDir), "@STATE@", shellWord(stateDir),
	).Replace(hookScript))
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, text):
		return false, os.Chmod(path, 0o755)
	case err == nil && !bytes.Contains(old, []byte(hookMark)):
		return false, model.Fail(model.Conflict, nil, "%s is somebody else's", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, model.Fail(model.Internal, err, "cannot read %s", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, model.Fail(model.Internal, err, "cannot make the folder of the hook")
	}
	// Outside the folder first: libvirt runs whatever is executable in it.
	fresh := filepath.Join(hooksDir, ".understudy-hook")
	if err := durable.WriteFile(fresh, text); err != nil {
		return false, model.Fail(model.Internal, err, "cannot write the hook")
	}
	if err := errors.Join(os.Chmod(fresh, 0o755), os.Rename(fresh, path), durable.SyncDir(filepath.Dir(path))); err != nil {
		return false, model.Fail(model.Internal, err, "cannot write the hook")
	}
	return true, nil
}

// RemoveHook takes the hook away; a file of somebody else's stays.
func RemoveHook(hooksDir string) error {
	b, err := os.ReadFile(HookFile(hooksDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !bytes.Contains(b, []byte(hookMark)) {
		return model.Fail(model.Conflict, nil, "%s is somebody else's", HookFile(hooksDir))
	}
	if err == nil {
		err = durable.Remove(HookFile(hooksDir))
	}
	if err != nil {
		return model.Fail(model.Internal, err, "cannot remove the hook")
	}
	return nil
}

// ProveHook calls the installed hook as libvirt does, for the probe: it must refuse. That libvirtd calls it too is proved by
// ProbeDomain.
func ProveHook(ctx context.Context, hooksDir string) error {
	cmd := exec.CommandContext(ctx, HookFile(hooksDir), "understudy-probe", "prepare", "begin", "-")
	cmd.Stdin = strings.NewReader(ProbeDomain)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return model.Fail(model.Refused, nil, "the start gate let its probe pass").WithTry("understudy guard install-hook")
	case !errors.As(err, &exit) || exit.ExitCode() >= 126:
		return model.Fail(model.Refused, err, "the start gate cannot be called").WithTry("understudy guard install-hook")
	case !bytes.Contains(out, []byte("understudy")):
		return model.Fail(model.Refused, err, "the start gate failed: %.200s", out)
	}
	return nil
}

// ProbeDomain is a domain that the gate refuses: whoever asks libvirtd to create it and gets anything but a failed hook has
// proved that libvirtd does not call the gate. It has no disk and no network, and is to be created paused.
const ProbeDomain = `<domain type='qemu'><name>understudy-probe</name><uuid>` + ProbeUUID + `</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>` +
	`<os><type arch='x86_64'>hvm</type></os><on_crash>destroy</on_crash><devices><memballoon model='none'/></devices></domain>
`

func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
