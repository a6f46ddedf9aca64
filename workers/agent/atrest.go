package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

const (
	sysBlock   = "/sys/dev/block"
	maxLayers  = 8 // of block devices under one file system
	expirySoon = 14 * 24 * time.Hour
)

// AtRest implements activities.Self: whether what the state folder holds is encrypted on its way to the disk.
func (s *self) AtRest() string {
	found, err := s.onDMCrypt()
	switch {
	case err != nil:
		return ""
	case found:
		return model.AtRestEncrypted
	}
	return model.AtRestPlain
}

func (s *self) onDMCrypt() (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(s.opts.StateDir, &st); err != nil {
		return false, err
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	found, err := encrypted(s.sys, dev, maxLayers)
	if err != nil {
		return false, fmt.Errorf("%s is on no block device of this host (%s)", s.opts.StateDir, dev)
	}
	return found, nil
}

// atRest is the doctor's line. It never fails: whether it has to be encrypted is for the policy to say.
func (s *self) atRest() model.Check {
	const name = "encryption at rest"
	switch found, err := s.onDMCrypt(); {
	case err != nil:
		return model.Check{Name: name, OK: true, Detail: "cannot be told: " + err.Error()}
	case found:
		return model.Check{Name: name, OK: true, Detail: s.opts.StateDir + " is on dm-crypt"}
	}
	return model.Check{Name: name, OK: true, Detail: s.opts.StateDir + " is not encrypted: replicas are readable to whoever has the disk",
		Try: "put the state folder on LUKS (docs/SECURITY.md)"}
}

// encrypted looks for dm-crypt in a block device and in what it lies on. Of several that it lies on, each must be.
func encrypted(sys, dev string, depth int) (bool, error) {
	if depth == 0 {
		return false, nil
	}
	dir := filepath.Join(sys, dev)
	if _, err := os.Stat(dir); err != nil {
		return false, err
	}
	if id, err := os.ReadFile(filepath.Join(dir, "dm", "uuid")); err == nil && strings.HasPrefix(string(id), "CRYPT-") {
		return true, nil
	}
	below, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil || len(below) == 0 {
		return false, nil //nolint:nilerr // a partition has none
	}
	for _, b := range below {
		number, err := os.ReadFile(filepath.Join(dir, "slaves", b.Name(), "dev"))
		if err != nil {
			return false, nil //nolint:nilerr // it went away
		}
		if ok, err := encrypted(sys, strings.TrimSpace(string(number)), depth-1); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// certificate tells how long this host's lasts.
func (s *self) certificate() model.Check {
	const name = "certificate"
	if s.tls == nil {
		return model.Check{Name: name, OK: true, Detail: "none: replicas and orders travel in plain text, and nobody is checked", Try: "understudy join, then --tls-dir"}
	}
	left := time.Until(s.tls.NotAfter())
	c := model.Check{Name: name, OK: left > expirySoon/2 || left > s.tls.NotAfter().Sub(s.tls.NotBefore())/4,
		Detail: fmt.Sprintf("%s, %s days left", s.tls.Self(), strconv.Itoa(int(left.Hours()/24)))}
	if err := s.tls.Err(); err != nil {
		c.OK, c.Detail = false, c.Detail+"; the folder was changed and cannot be read: "+err.Error()
	}
	if !c.OK {
		c.Try = "see that the server runs with --join-listen, or understudy ca renew " + s.tls.Path()
	}
	return c
}
