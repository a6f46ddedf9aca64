package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
	"understudy/internal/restore"
)

var (
	vm  = model.VMRef{Name: "db1", UUID: "11111111-2222-4333-8444-555555555555"}
	ref = model.PointRef{Generation: 1, Seq: 42}
	ctx = context.Background()
)

// store is a store of points whose overlays are empty images.
type store struct {
	hv     *fake.Hypervisor
	dir    string
	point  model.Point
	active map[string]bool
	fault  func(op string) error
}

func (s *store) ask(op string) error {
	if s.fault != nil {
		return s.fault(op)
	}
	return nil
}

func (s *store) Point(context.Context, model.VMRef, model.PointRef) (model.Point, error) {
	return s.point, s.ask("Point")
}

func (s *store) set(name string) string {
	return filepath.Join(s.dir, "replicas", vm.UUID, "active", name)
}

func (s *store) Activate(_ context.Context, _ model.VMRef, _ model.PointRef, name string) ([]model.Disk, error) {
	if err := s.ask("Activate"); err != nil {
		return nil, err
	}
	var disks []model.Disk
	for _, d := range s.point.Disks {
		path := filepath.Join(s.set(name), d.Target+".qcow2")
		if !s.active[name] {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return nil, err
			}
			if err := s.hv.CreateImage(path, model.FormatQCOW2, d.Size); err != nil {
				return nil, err
			}
		}
		disks = append(disks, model.Disk{Target: d.Target, Format: model.FormatQCOW2, Path: path, Size: d.Size})
	}
	s.active[name] = true
	return disks, nil
}

func (s *store) Deactivate(ctx context.Context, v model.VMRef, name string) error {
	if err := s.ask("Deactivate"); err != nil {
		return err
	}
	if d, err := s.hv.Domain(ctx, v.UUID); err == nil && d.State.Active() && strings.HasPrefix(d.Disks[0].Path, s.set(name)+"/") {
		return model.Fail(model.Conflict, nil, "in use")
	}
	delete(s.active, name)
	return os.RemoveAll(s.set(name))
}

type host struct {
	t     *testing.T
	hv    *fake.Hypervisor
	store *store
	dir   string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, hv: fake.New(), dir: t.TempDir()}
	h.store = &store{hv: h.hv, dir: h.dir, active: map[string]bool{}, point: model.Point{VM: vm, PointRef: ref, DomainXML: description("")}}
	h.store.point.Disks = []model.PointDisk{{Target: "vda", Size: 1 << 20}, {Target: "vdb", Size: 1 << 20}}
	return h
}

// restorer is a new process of the agent.
func (h *host) restorer() *restore.Restorer {
	return restore.New(h.hv, h.store, restore.Options{Host: "host-b", StateDir: h.dir, Poll: time.Millisecond, StartTimeout: time.Second})
}

func (h *host) domain() hypervisor.Domain {
	h.t.Helper()
	d, err := h.hv.Domain(ctx, vm.UUID)
	require.NoError(h.t, err)
	return d
}

// define puts a definition of the VM here that runs from files of its own.
func (h *host) define() {
	for _, t := range []string{"vda", "vdb"} {
		require.NoError(h.t, h.hv.CreateImage(filepath.Join(h.dir, t+".img"), model.FormatQCOW2, 1<<20))
	}
	_, err := h.hv.Define(ctx, strings.NewReplacer("/primary/vda.qcow2", h.dir+"/vda.img", "/primary/vdb.raw", h.dir+"/vdb.img", "type='raw' cache='none'", "type='qcow2'").Replace(description("")))
	require.NoError(h.t, err)
}

func description(more string) string {
	return `<domain type='qemu' id='7' xmlns:x='urn:x'><name>db1</name><uuid>` + vm.UUID + `</uuid><metadata><x:keep a='1'/></metadata>
<os><type arch='x86_64'>hvm</type></os><devices>
<disk type='file' device='disk' snapshot='external'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/primary/vda.qcow2' index='3'/><backingStore type='file'><source file='/primary/base'/></backingStore><target dev='vda' bus='virtio'/><serial>S1</serial><boot order='1'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='/primary/vdb.raw'/><target dev='vdb' bus='virtio'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
` + more + `</devices></domain>`
}

func TestAVMStartsFromOverlaysAndKeepsWhatWeDoNotKnow(t *testing.T) {
	h := newHost(t)
	r := h.restorer()
	disks, err := r.Materialize(ctx, vm, ref, 2)
	require.NoError(t, err)
	require.Len(t, disks, 2)
	at, err := r.Start(ctx, vm, ref, 2, nil)
	require.NoError(t, err)
	d := h.domain()
	require.Equal(t, hypervisor.Running, d.State)
	require.False(t, d.Autostart)
	for i, disk := range disks {
		require.Equal(t, disk.Path, d.Disks[i].Path)
		require.Equal(t, model.FormatQCOW2, d.Disks[i].Format)
	}
	again, err := h.restorer().Start(ctx, vm, ref, 2, nil)
	require.NoError(t, err)
	require.Equal(t, at, again, "asked again it started when it started")

	xml, err := h.hv.XML(ctx, vm.UUID)
	require.NoError(t, err)
	doc := etree.NewDocument()
	require.NoError(t, doc.ReadFromString(xml))
	require.Nil(t, doc.Root().SelectAttr("id"))
	require.NotNil(t, doc.FindElement("//metadata/x:keep"))
	require.NotNil(t, doc.FindElement("//interface/mac[@address='52:54:00:00:00:01']"))
	require.NotNil(t, doc.FindElement("//disk/driver[@discard='unmap']"))
	require.NotNil(t, doc.FindElement("//disk/driver[@cache='none']"))
	require.Equal(t, "S1", doc.FindElement("//disk/serial").Text())
	require.Nil(t, doc.FindElement("//backingStore"))
	require.NotContains(t, xml, "/primary/")

	running, agent, detail, err := r.Confirm(ctx, vm, 5*time.Millisecond)
	require.NoError(t, err)
	require.True(t, running)
	require.False(t, agent, "it has no agent, and needs none")
	require.Empty(t, detail)
	require.NoError(t, h.hv.Kill(vm.UUID))
	running, _, detail, err = r.Confirm(ctx, vm, time.Minute)
	require.NoError(t, err)
	require.False(t, running)
	require.Contains(t, detail, "crashed")
}

func TestWhatIsNotOnThisHostIsEjectedOrLeftOutAndSaid(t *testing.T) {
	h := newHost(t)
	iso := filepath.Join(h.dir, "here.iso")
	require.NoError(t, os.WriteFile(iso, make([]byte, 512), 0o600))
	h.store.point.DomainXML = description(`
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/gone.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='` + iso + `'/><target dev='sdb' bus='sata'/><readonly/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/gone.ro'/><target dev='sdc' bus='sata'/><readonly/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/null'/><target dev='sdd' bus='sata'/></disk>
<tpm model='tpm-crb'><backend type='emulator'/></tpm><emulator>/gone/qemu</emulator>`)
	h.store.point.Disks = append(h.store.point.Disks, model.PointDisk{Target: "vdc", Size: 1 << 20}) // hot-plugged
	r := h.restorer()
	_, err := r.Start(ctx, vm, ref, 2, nil)
	require.NoError(t, err)
	got := map[string]string{}
	for _, d := range h.domain().Disks {
		got[d.Target] = filepath.Base(d.Path)
	}
	require.Equal(t, map[string]string{"vda": "vda.qcow2", "vdb": "vdb.qcow2", "vdc": "vdc.qcow2", "sda": ".", "sdb": "here.iso"}, got)
	_, _, detail, err := r.Confirm(ctx, vm, 0)
	require.NoError(t, err)
	for _, want := range []string{"cdrom sda was ejected: /gone.iso", "disk sdc was left out", "disk sdd was left out", "TPM", "/gone/qemu", "disk vdc was attached"} {
		require.Contains(t, detail, want)
	}
}

func TestDescriptionsThatCannotBeTrustedStartNothing(t *testing.T) {
	for name, c := range map[string]struct {
		xml  string
		want string
	}{
		"another VM":              {strings.Replace(description(""), vm.UUID, "99999999-2222-4333-8444-555555555555", 1), "another VM"},
		"not XML":                 {"<domain", "cannot be used"},
		"not a domain":            {"<network/>", "cannot be used"},
		"entities":                {`<!DOCTYPE domain [<!ENTITY a "b">]>` + description(""), "cannot be used"},
		"huge":                    {description(strings.Repeat(" ", 5<<20)), "cannot be used"},
		"a target twice":          {description(`<disk type='file'><target dev='vda'/></disk>`), "twice"},
		"a kernel of the primary": {strings.Replace(description(""), "</os>", "<kernel>/gone/vmlinuz</kernel></os>", 1), "/gone/vmlinuz"},
		"no name":                 {strings.Replace(description(""), "<name>db1</name>", "", 1), "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.store.point.DomainXML = c.xml
			_, err := h.restorer().Start(ctx, vm, ref, 2, nil)
			require.Equal(t, model.Refused, model.KindOf(err), "%v", err)
			require.ErrorContains(t, err, c.want)
			_, err = h.hv.Domain(ctx, vm.UUID)
			require.Equal(t, model.NotFound, model.KindOf(err))
		})
	}
}

func TestACopyOrANameThatIsInTheWayIsAConflict(t *testing.T) {
	h := newHost(t)
	h.define()
	require.NoError(t, h.hv.Start(ctx, vm.UUID))
	_, err := h.restorer().Start(ctx, vm, ref, 2, nil)
	require.Equal(t, model.Conflict, model.KindOf(err))
	require.NoError(t, h.restorer().Dismantle(ctx, vm, 2))
	require.Equal(t, hypervisor.Running, h.domain().State, "what is not of this generation is left alone")

	h = newHost(t)
	_, err = h.hv.Define(ctx, strings.Replace(description(""), vm.UUID, "99999999-2222-4333-8444-555555555555", 1))
	require.NoError(t, err)
	_, err = h.restorer().Start(ctx, vm, ref, 2, nil)
	require.Equal(t, model.Conflict, model.KindOf(err))
	require.ErrorContains(t, err, "domrename")
}

// Whatever step an agent dies in, a new one that starts again has it running, and a new one that dismantles leaves the host
// as it was, with the definition that stood there before.
func TestAnAgentThatDiesInAnyStepOfAStartOrItsUndo(t *testing.T) {
	died := model.Fail(model.Unreachable, nil, "the agent died here")
	for _, before := range []bool{false, true} {
		for at := 1; ; at++ {
			h := newHost(t)
			was := ""
			if before {
				h.define()
				was, _ = h.hv.XML(ctx, vm.UUID)
			}
			n := 0
			die := func() error {
				if n++; n >= at { // a dead process does nothing more
					return died
				}
				return nil
			}
			arm := func(on bool) {
				n = 0
				h.hv.SetFault(nil)
				h.store.fault = nil
				if on {
					h.hv.SetFault(func(context.Context, string, string) error { return die() })
					h.store.fault = func(string) error { return die() }
				}
			}
			arm(true)
			_, startErr := h.restorer().Start(ctx, vm, ref, 2, nil)
			arm(false)
			if at%2 == 0 { // half of the deaths are followed by the undo at once
				_, err := h.restorer().Start(ctx, vm, ref, 2, nil)
				require.NoError(t, err, "died at %d", at)
				require.Equal(t, hypervisor.Running, h.domain().State)
			}
			arm(true)
			undoErr := h.restorer().Dismantle(ctx, vm, 2)
			arm(false)
			require.NoError(t, h.restorer().Dismantle(ctx, vm, 2), "died at %d", at)
			require.NoError(t, h.restorer().Dismantle(ctx, vm, 2))
			require.Empty(t, h.store.active)
			now, err := h.hv.XML(ctx, vm.UUID)
			if before {
				require.NoError(t, err, "died at %d", at)
				require.Equal(t, was, now)
				require.False(t, h.domain().State.Active())
			} else {
				require.Equal(t, model.NotFound, model.KindOf(err), "died at %d", at)
			}
			if startErr == nil && undoErr == nil {
				require.Greater(t, at, 6)
				break
			}
		}
	}
}

// unstoppable is a libvirtd whose order to destroy has no effect.
type unstoppable struct{ *fake.Hypervisor }

func (unstoppable) Destroy(context.Context, string) error { return nil }

// Only what was stopped for a takeover is started again, also by another process of the agent, and once.
func TestWhatWasStoppedForATakeoverIsTakenUpAgainAndNothingElse(t *testing.T) {
	h := newHost(t)
	h.define()
	require.NoError(t, h.hv.Start(ctx, vm.UUID))
	require.NoError(t, h.restorer().Surrender(ctx, vm))
	require.False(t, h.domain().State.Active())

	started, err := h.restorer().TakeUp(ctx, vm)
	require.NoError(t, err)
	require.True(t, started)
	require.True(t, h.domain().State.Active())

	require.NoError(t, h.hv.Destroy(ctx, vm.UUID)) // by its owner
	started, err = h.restorer().TakeUp(ctx, vm)
	require.NoError(t, err)
	require.False(t, started)
	require.False(t, h.domain().State.Active())

	require.NoError(t, h.restorer().Surrender(ctx, vm))
	started, err = h.restorer().TakeUp(ctx, vm)
	require.NoError(t, err)
	require.False(t, started, "it was off already when it was given up")
}

func TestSurrenderProvesTheCopyGoneOrFails(t *testing.T) {
	h := newHost(t)
	require.NoError(t, h.restorer().Surrender(ctx, vm), "not here at all")
	h.define()
	require.NoError(t, h.hv.SetAutostart(ctx, vm.UUID, true))
	require.NoError(t, h.hv.Start(ctx, vm.UUID))

	stubborn := restore.New(unstoppable{h.hv}, h.store, restore.Options{Host: "host-a", StateDir: h.dir})
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(stubborn.Surrender(ctx, vm)))
	h.hv.SetFault(func(_ context.Context, op, _ string) error {
		if op == "Destroy" {
			return model.Fail(model.Unreachable, nil, "libvirtd hangs")
		}
		return nil
	})
	require.Error(t, h.restorer().Surrender(ctx, vm))
	h.hv.SetFault(nil)
	require.NoError(t, h.restorer().Surrender(ctx, vm))
	require.False(t, h.domain().State.Active())
	require.False(t, h.domain().Autostart, "libvirtd must not bring it back")
	require.NoError(t, h.restorer().Surrender(ctx, vm))
}

func TestADemotedPrimaryKeepsItsDisksAndDefinitionAside(t *testing.T) {
	h := newHost(t)
	h.define()
	require.NoError(t, h.hv.Start(ctx, vm.UUID))
	was, err := h.hv.XML(ctx, vm.UUID)
	require.NoError(t, err)
	h.hv.SetFault(func(_ context.Context, op, _ string) error {
		if op == "Undefine" {
			return model.Fail(model.Unreachable, nil, "libvirtd is gone")
		}
		return nil
	})
	_, err = h.restorer().Demote(ctx, vm)
	require.Error(t, err)
	h.hv.SetFault(nil)
	kept, err := h.restorer().Demote(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, []string{h.dir + "/vda.img", h.dir + "/vdb.img"}, kept.Disks)
	require.FileExists(t, kept.Disks[0])
	saved, err := os.ReadFile(kept.XML)
	require.NoError(t, err)
	require.Equal(t, was, string(saved))
	_, err = h.hv.Domain(ctx, vm.UUID)
	require.Equal(t, model.NotFound, model.KindOf(err))
	again, err := h.restorer().Demote(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(kept), fmt.Sprint(again))
	_, err = h.restorer().Start(ctx, vm, ref, 3, nil)
	require.NoError(t, err, "and it can take the VM back")
}
