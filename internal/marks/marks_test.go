package marks

import (
	"context"
	"fmt"
	"os"
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
		case m.Kind == model.MarkNBD:
			require.Equal(t, m.Name == "process 11 on "+run+"/nbd/2", m.Orphan)
		}
	}
	require.Equal(t, map[model.MarkKind]int{
		model.MarkCheckpoint: 2, model.MarkJob: 1, model.MarkRecord: 1, model.MarkScratch: 1, model.MarkReplica: 1, model.MarkStaging: 1,
		model.MarkOverlay: 2, model.MarkFloor: 1, model.MarkRescue: 1, model.MarkSocket: 1, model.MarkGuard: 1, model.MarkNBD: 2, model.MarkTest: 1,
	}, count)
}
