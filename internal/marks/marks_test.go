package marks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

type libvirt struct {
	domains []hypervisor.Domain
	points  map[string][]hypervisor.Checkpoint
	socket  string
}

func (l libvirt) Domains(context.Context) ([]hypervisor.Domain, error) { return l.domains, nil }
func (l libvirt) Checkpoints(_ context.Context, uuid string) ([]hypervisor.Checkpoint, error) {
	return l.points[uuid], nil
}
func (l libvirt) CaptureSocket(context.Context, string) (string, error) { return l.socket, nil }

const uuid = "11111111-2222-3333-4444-555555555555"

func TestAllThatIsLeftIsFoundByItsName(t *testing.T) {
	state, run, proc := t.TempDir(), t.TempDir(), t.TempDir()
	put := func(parts ...string) string {
		path := filepath.Join(parts...)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
		return path
	}
	put(state, "captures", uuid, "committed.json")
	put(state, "scratch", uuid, "vda")
	put(state, "replicas", uuid, "chain.json")
	put(state, "replicas", uuid, "staging", "g2-s7", "spec.json")
	put(state, "replicas", uuid, "active", "g3", "vda.qcow2")
	put(state, "replicas", uuid, "active", "test-1", "vda.qcow2")
	put(state, "floors", uuid+".json")
	put(state, "floors", "grantor-id")
	put(state, "demoted", uuid+".json")
	put(run, "understudy-"+uuid+".sock")
	put(run, "guard", uuid+".json")
	const other = "33333333-2222-3333-4444-555555555555"
	require.NoError(t, os.WriteFile(put(state, "guard", "protected.json"), []byte(`{"uuids":["`+uuid+`","`+other+`"]}`), 0o600))
	process := func(pid, parent int, cmd string) {
		put(proc, fmt.Sprint(pid), "cmdline")
		require.NoError(t, os.WriteFile(filepath.Join(proc, fmt.Sprint(pid), "cmdline"), []byte(cmd), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(proc, fmt.Sprint(pid), "stat"), []byte(fmt.Sprintf("%d (qemu-nbd) S %d 1", pid, parent)), 0o600))
	}
	process(10, os.Getpid(), "/usr/bin/qemu-nbd\x00--socket="+run+"/nbd/1\x00")
	process(11, 1, "qemu-nbd\x00-k\x00"+run+"/nbd/2\x00")
	process(12, 1, "qemu-nbd\x00--socket=/somewhere/else\x00")
	vm := model.VMRef{Name: "db1", UUID: uuid}
	hv := libvirt{
		domains: []hypervisor.Domain{
			{VM: vm, State: hypervisor.Running},
			{VM: model.VMRef{Name: "db1-test-1", UUID: "22222222-2222-3333-4444-555555555555"}, Disks: []hypervisor.Disk{{Disk: model.Disk{Path: state + "/replicas/" + uuid + "/active/test-1/vda.qcow2"}}}},
		},
		points: map[string][]hypervisor.Checkpoint{uuid: {{Name: "understudy-g2-s6"}, {Name: "somebody"}}},
		socket: "/run/other/understudy-" + uuid + ".sock",
	}
	found, err := Lister{HV: hv, StateDir: state, RunDir: run, GuardDir: filepath.Join(run, "guard"), Proc: proc}.List(t.Context())
	require.NoError(t, err)
	count := map[model.MarkKind]int{}
	for _, m := range found {
		count[m.Kind]++
		switch {
		case m.Name == "understudy-g2-s6":
			require.Equal(t, model.Mark{Kind: model.MarkCheckpoint, VM: vm, Generation: 2, Seq: 6, Name: m.Name}, m)
		case m.Name == "somebody":
			require.True(t, m.Foreign)
		case m.Kind == model.MarkStaging:
			require.EqualValues(t, 7, m.Seq)
			require.Equal(t, vm, m.VM)
		case m.Kind == model.MarkOverlay:
			require.Equal(t, m.Generation == 0, m.Used, "the test's domain has its disks there")
		case m.Kind == model.MarkJob:
			require.False(t, m.Foreign, "an agent with another run folder began it")
		case m.Kind == model.MarkTest:
			require.Equal(t, uuid, m.VM.UUID, "of the VM, not of its copy")
			require.EqualValues(t, 1, m.Seq)
		case m.Kind == model.MarkGuard && m.VM.UUID != uuid:
			require.Equal(t, other, m.VM.UUID, "its host was off when the protection ended: there is no record of this boot")
		case m.Kind == model.MarkNBD:
			require.Equal(t, m.Name == "process 11 on "+run+"/nbd/2", m.Orphan)
		}
	}
	require.Equal(t, map[model.MarkKind]int{
		model.MarkCheckpoint: 2, model.MarkJob: 1, model.MarkRecord: 1, model.MarkScratch: 1, model.MarkReplica: 1, model.MarkStaging: 1,
		model.MarkOverlay: 2, model.MarkFloor: 1, model.MarkRescue: 1, model.MarkSocket: 1, model.MarkGuard: 2, model.MarkNBD: 2, model.MarkTest: 1,
	}, count)
}

// A qemu-nbd that outlived its agent is ended, and nothing else: not one of a living agent, not a process that got its number, not
// one whose socket lies elsewhere.
func TestOnlyAnOrphanOfOursIsEnded(t *testing.T) {
	run := t.TempDir()
	socket := filepath.Join(run, "nbd", "1")
	serve := func(socket string) *exec.Cmd {
		c := &exec.Cmd{Path: "/bin/sh", Args: []string{"qemu-nbd", "-c", "read x", "--socket=" + socket}}
		in, err := c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		t.Cleanup(func() { _ = in.Close() })
		return c
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	require.NoError(t, os.WriteFile(socket, nil, 0o600))
	orphan, foreign := serve(socket), serve("/somewhere/else")
	mark := func(c *exec.Cmd, socket string) model.Mark {
		return model.Mark{Kind: model.MarkNBD, Name: nbdName(fmt.Sprint(c.Process.Pid), socket), Orphan: true}
	}
	living, dead := Lister{RunDir: run}, Lister{RunDir: run, Agent: 1}
	require.Equal(t, model.Refused, model.KindOf(living.EndOrphan(t.Context(), mark(orphan, socket))), "its agent lives")
	require.Equal(t, model.Refused, model.KindOf(dead.EndOrphan(t.Context(), mark(orphan, socket+"2"))), "another process")
	require.Equal(t, model.Refused, model.KindOf(dead.EndOrphan(t.Context(), mark(foreign, "/somewhere/else"))), "not ours")
	require.Equal(t, model.InvalidArgument, model.KindOf(dead.EndOrphan(t.Context(), model.Mark{Kind: model.MarkNBD, Name: "process 1 on " + socket})))
	require.NoError(t, dead.EndOrphan(t.Context(), mark(orphan, socket)))
	require.Error(t, orphan.Wait(), "by a signal")
	require.NoFileExists(t, socket)
	require.NoError(t, dead.EndOrphan(t.Context(), mark(orphan, socket)), "it is gone")
	require.NoError(t, foreign.Process.Kill())
	require.Error(t, foreign.Wait())
}
