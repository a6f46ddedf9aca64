// Package marks lists what Understudy left on a host: in libvirt, in the agent's folders and among the processes. It looks
// from the outside, by names and not through the stages that made them, so that it finds what they forgot.
package marks

import (
	"context"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"understudy/internal/guard"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Hypervisor is what is asked of libvirt.
type Hypervisor interface {
	Domains(ctx context.Context) ([]hypervisor.Domain, error)
	Checkpoints(ctx context.Context, uuid string) ([]hypervisor.Checkpoint, error)
	CaptureSocket(ctx context.Context, uuid string) (string, error)
}

// Lister looks at one host.
type Lister struct {
	HV       Hypervisor
	StateDir string // the agent's
	RunDir   string
	GuardDir string // records of the guard; empty leaves them out
	Proc     string // "" is /proc
	Agent    int    // process whose qemu-nbd are no orphans; 0 is this one
}

// List gives all marks, by kind and name. Host state that cannot be read is an error: a list with holes says nothing.
func (l Lister) List(ctx context.Context) ([]model.Mark, error) {
	domains, err := l.HV.Domains(ctx)
	if err != nil {
		return nil, err
	}
	c := &collector{lister: l, names: map[string]string{}, used: map[string]bool{}}
	for _, d := range domains {
		c.names[d.VM.UUID] = d.VM.Name
		for _, disk := range d.Disks {
			c.used[filepath.Dir(disk.Path)] = true
		}
	}
	for _, d := range domains {
		if err := c.domain(ctx, d); err != nil {
			return nil, err
		}
	}
	c.files()
	c.processes()
	slices.SortFunc(c.found, func(a, b model.Mark) int {
		return strings.Compare(string(a.Kind)+"\x00"+a.Name, string(b.Kind)+"\x00"+b.Name)
	})
	return c.found, c.err
}

type collector struct {
	lister Lister
	names  map[string]string
	used   map[string]bool // folders of domains' disks
	found  []model.Mark
	err    error
}

func (c *collector) add(kind model.MarkKind, uuid, name string) *model.Mark {
	c.found = append(c.found, model.Mark{Kind: kind, VM: model.VMRef{Name: c.names[uuid], UUID: uuid}, Name: name})
	return &c.found[len(c.found)-1]
}

func (c *collector) domain(ctx context.Context, d hypervisor.Domain) error {
	uuid := d.VM.UUID
	if of, number := c.testOf(d); of != "" {
		c.add(model.MarkTest, of, d.VM.Name).Seq = number
		return nil
	}
	list, err := c.lister.HV.Checkpoints(ctx, uuid)
	if err != nil {
		return gone(err)
	}
	for _, k := range list {
		m := c.add(model.MarkCheckpoint, uuid, k.Name)
		if ref, ok := model.ParseMark(k.Name); ok {
			m.Generation, m.Seq = ref.Generation, ref.Seq
		} else {
			m.Foreign = true
		}
	}
	if !d.State.Active() {
		return nil
	}
	socket, err := c.lister.HV.CaptureSocket(ctx, uuid)
	switch {
	case model.KindOf(err) == model.JobConflict && err != nil: // a job without a socket
		c.add(model.MarkJob, uuid, "backup job").Foreign = true
	case err != nil:
		return gone(err)
	case socket != "":
		c.add(model.MarkJob, uuid, socket).Foreign = filepath.Base(socket) != socketName(uuid)
	}
	return nil
}

// gone forgives a domain that went meanwhile.
func gone(err error) error {
	if k := model.KindOf(err); k == model.NotFound || k == model.NotRunning {
		return nil
	}
	return err
}

// testOf is the VM that a domain is a test's copy of, and the test's number: a copy runs from overlays of its own.
func (c *collector) testOf(d hypervisor.Domain) (uuid string, number model.Seq) {
	for _, disk := range d.Disks {
		rest, ok := strings.CutPrefix(disk.Path, filepath.Join(c.lister.StateDir, "replicas")+"/")
		if m := testDisk.FindStringSubmatch(rest); ok && m != nil {
			return m[1], seq(m[2])
		}
	}
	return "", 0
}

func seq(digits string) model.Seq {
	n, _ := strconv.ParseUint(digits, 10, 64)
	return model.Seq(n)
}

func socketName(uuid string) string { return model.MarkPrefix + uuid + ".sock" }

var (
	refName  = regexp.MustCompile(`^g[0-9]{1,19}-s[0-9]{1,19}$`)
	ownSet   = regexp.MustCompile(`^g([0-9]{1,19})$`)
	testFile = regexp.MustCompile(`^([0-9a-f-]{36})-([0-9]+)\.json$`)
	testDisk = regexp.MustCompile(`^([0-9a-f-]{36})/active/test-([0-9]{1,18})/`)
)

func (c *collector) files() {
	state, run := c.lister.StateDir, c.lister.RunDir
	c.each(filepath.Join(state, "captures", "*", "*.json"), func(path string) {
		uuid := filepath.Base(filepath.Dir(path))
		c.add(model.MarkRecord, uuid, path)
	})
	c.each(filepath.Join(state, "scratch", "*", "*"), func(path string) {
		c.add(model.MarkScratch, filepath.Base(filepath.Dir(path)), path)
	})
	c.each(filepath.Join(state, "replicas", "*", "chain.json"), func(path string) {
		c.add(model.MarkReplica, filepath.Base(filepath.Dir(path)), filepath.Dir(path))
	})
	c.each(filepath.Join(state, "replicas", "*", "staging", "*"), func(path string) {
		m := c.add(model.MarkStaging, filepath.Base(filepath.Dir(filepath.Dir(path))), path)
		if name := filepath.Base(path); refName.MatchString(name) {
			ref, _ := model.ParseMark(model.MarkPrefix + name)
			m.Generation, m.Seq = ref.Generation, ref.Seq
		}
	})
	c.each(filepath.Join(state, "replicas", "*", "active", "*"), func(path string) {
		m := c.add(model.MarkOverlay, filepath.Base(filepath.Dir(filepath.Dir(path))), path)
		m.Used = c.used[path]
		if n := ownSet.FindStringSubmatch(filepath.Base(path)); n != nil {
			g, _ := strconv.ParseUint(n[1], 10, 64)
			m.Generation = model.Generation(g)
		}
	})
	for dir, kind := range map[string]model.MarkKind{
		"floors": model.MarkFloor, "watch": model.MarkWatch, "demoted": model.MarkRescue,
		"restored": model.MarkRecord, "surrendered": model.MarkRecord, "paused": model.MarkRecord,
	} {
		c.perVM(filepath.Join(state, dir), kind)
	}
	c.each(filepath.Join(state, "tests", "*.json"), func(path string) {
		if m := testFile.FindStringSubmatch(filepath.Base(path)); m != nil {
			c.add(model.MarkTest, m[1], path).Seq = seq(m[2])
		}
	})
	c.each(filepath.Join(run, model.MarkPrefix+"*.sock"), func(path string) {
		uuid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), model.MarkPrefix), ".sock")
		c.add(model.MarkSocket, uuid, path)
	})
	if c.lister.GuardDir != "" {
		c.guarded()
	}
}

// guarded are the VMs that the guard lets start only on its word: those with a record of this boot, and those of its durable list.
func (c *collector) guarded() {
	c.perVM(c.lister.GuardDir, model.MarkGuard)
	list := guard.ListFile(c.lister.StateDir)
	protected, err := guard.Protected(c.lister.StateDir)
	if err != nil {
		if c.err == nil {
			c.err = model.Fail(model.Internal, err, "reading %s", list)
		}
		return
	}
	for _, uuid := range protected {
		if !slices.ContainsFunc(c.found, func(m model.Mark) bool { return m.Kind == model.MarkGuard && m.VM.UUID == uuid }) {
			c.add(model.MarkGuard, uuid, list)
		}
	}
}

func (c *collector) perVM(dir string, kind model.MarkKind) {
	c.each(filepath.Join(dir, "*.json"), func(path string) {
		if uuid := strings.TrimSuffix(filepath.Base(path), ".json"); model.ValidUUID(uuid) {
			c.add(kind, uuid, path)
		}
	})
}

func (c *collector) each(pattern string, do func(path string)) {
	paths, err := filepath.Glob(pattern)
	if err != nil && c.err == nil {
		c.err = model.Fail(model.Internal, err, "listing %s", pattern)
	}
	for _, p := range paths {
		do(p)
	}
}

// processes finds each qemu-nbd that serves on a socket of ours.
func (c *collector) processes() {
	c.each(filepath.Join(c.lister.proc(), "[0-9]*", "cmdline"), func(path string) {
		pid := filepath.Base(filepath.Dir(path))
		if socket := c.lister.serving(pid); socket != "" {
			c.add(model.MarkNBD, "", nbdName(pid, socket)).Orphan = c.lister.orphan(pid)
		}
	})
}
