package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
	"understudy/internal/restore"
)

var trial = restore.Test{VM: vm, Point: ref, Number: 3, For: 5 * time.Millisecond}

// copies are the domains that are not the VM's.
func (h *host) copies() []hypervisor.Domain {
	h.t.Helper()
	all, err := h.hv.Domains(ctx)
	require.NoError(h.t, err)
	var list []hypervisor.Domain
	for _, d := range all {
		if d.VM.UUID != vm.UUID {
			list = append(list, d)
		}
	}
	return list
}

func TestATestCopyIsAnotherVMWithoutANetworkAndLeavesNothing(t *testing.T) {
	h := newHost(t)
	h.store.point.DomainXML = description(`
<serial type='file'><source path='/var/log/real-console'/><target port='0'/></serial><console type='file'><source path='/var/log/real-console'/></console>
<channel type='unix'><source mode='bind' path='/run/real-agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<channel type='spicevmc'/><graphics type='vnc' port='5901'/><hostdev mode='subsystem' type='pci'/><tpm model='tpm-crb'><backend type='emulator'/></tpm>`)
	name, _, err := h.restorer().TestBoot(ctx, trial)
	require.NoError(t, err)
	require.Equal(t, "db1-test-3", name)
	copies := h.copies()
	require.Len(t, copies, 1)
	require.Equal(t, hypervisor.Running, copies[0].State)
	require.Equal(t, h.store.set("test-3")+"/vda.qcow2", copies[0].Disks[0].Path)
	xml, err := h.hv.XML(ctx, copies[0].VM.UUID)
	require.NoError(t, err)
	doc := etree.NewDocument()
	require.NoError(t, doc.ReadFromString(xml))
	for _, gone := range []string{"//interface", "//graphics", "//hostdev", "//tpm", "//channel[@type='spicevmc']", "//channel/source", "//metadata"} {
		require.Nil(t, doc.FindElement(gone), gone)
	}
	require.NotNil(t, doc.FindElement("//channel/target[@name='org.qemu.guest_agent.0']"))
	require.NotContains(t, xml, "/var/log/real-console")
	require.Contains(t, doc.FindElement("//serial/source").SelectAttrValue("path", ""), h.dir)
	_, err = h.hv.Domain(ctx, vm.UUID)
	require.Equal(t, model.NotFound, model.KindOf(err), "the VM itself is not here")

	_, _, err = h.restorer().TestBoot(ctx, restore.Test{VM: model.VMRef{Name: "web", UUID: "99999999-2222-4333-8444-555555555555"}, Number: 1, Point: ref})
	require.Equal(t, model.Conflict, model.KindOf(err), "one at a time on a host")

	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "tests", vm.UUID+"-3.console"), []byte("boot\r\nlogin: \n"), 0o600))
	a, err := h.restorer().TestProbe(ctx, restore.Test{VM: vm, Point: ref, Number: 3, Probes: []model.Probe{
		{Kind: "tcp", Address: "db1:5432"}, {Kind: "command", Command: []string{"grep", "-q", "login:", filepath.Join(h.dir, "tests", vm.UUID+"-3.console")}},
	}})
	require.NoError(t, err)
	require.Equal(t, "command", a.By)
	require.Contains(t, a.Detail, "the copy has no network")
	require.Contains(t, a.Detail, "login:")

	require.NoError(t, h.restorer().TestClean(ctx, trial))
	require.NoError(t, h.restorer().TestClean(ctx, trial))
	require.Empty(t, h.copies())
	require.Empty(t, h.store.active)
	left, err := os.ReadDir(filepath.Join(h.dir, "tests"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestATestCopyThatDoesNotAnswerFailsAndOneThatCannotBeAskedMustStayUp(t *testing.T) {
	h := newHost(t)
	r := h.restorer()
	_, _, err := r.TestBoot(ctx, trial)
	require.NoError(t, err)
	a, err := r.TestProbe(ctx, trial)
	require.NoError(t, err)
	require.Equal(t, "runs", a.By)
	refusing := trial
	refusing.Probes = []model.Probe{{Kind: "command", Command: []string{"false"}, Timeout: 10 * time.Millisecond}}
	_, err = r.TestProbe(ctx, refusing)
	require.Equal(t, model.NotRunning, model.KindOf(err), "%v", err)
	require.NoError(t, h.hv.Kill(h.copies()[0].VM.UUID))
	_, err = r.TestProbe(ctx, trial)
	require.Equal(t, model.NotRunning, model.KindOf(err), "%v", err)
}

// Whatever step an agent dies in, the next one finds what it left of a test and takes it away; the VM's own copies stay.
func TestAnAgentThatDiesInATestLeavesNothingForLong(t *testing.T) {
	died := model.Fail(model.Unreachable, nil, "the agent died here")
	for at := 1; ; at++ {
		h := newHost(t)
		_, err := h.restorer().Start(ctx, vm, ref, 2, nil)
		require.NoError(t, err)
		n := 0
		die := func() error {
			if n++; n >= at {
				return died
			}
			return nil
		}
		h.hv.SetFault(func(context.Context, string, string) error { return die() })
		h.store.fault = func(string) error { return die() }
		_, _, bootErr := h.restorer().TestBoot(ctx, trial)
		h.hv.SetFault(nil)
		h.store.fault = nil

		next := h.restorer()
		left, err := next.Tests()
		require.NoError(t, err)
		require.Len(t, left, 1)
		next.SweepTests(ctx, left)
		require.Empty(t, h.copies(), "died at %d", at)
		require.Equal(t, map[string]bool{"g2": true}, h.store.active)
		require.True(t, h.domain().State.Active())
		left, err = next.Tests()
		require.NoError(t, err)
		require.Empty(t, left)
		if bootErr == nil {
			require.Greater(t, at, 4)
			break
		}
	}
}

func TestALongNameIsCut(t *testing.T) {
	h := newHost(t)
	long := trial
	long.VM.Name = strings.Repeat("n", 200)
	name, _, err := h.restorer().TestBoot(ctx, long)
	require.NoError(t, err)
	require.Len(t, name, 64+len("-test-3"))
}
