package restore_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
)

const agentChannel = `<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`

func TestAGuestIsAskedInEveryWayThePolicyNames(t *testing.T) {
	h := newHost(t)
	h.store.point.DomainXML = description(agentChannel)
	r := h.restorer()
	_, err := r.Start(ctx, vm, ref, 2, nil)
	require.NoError(t, err)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, port.Close()) }()
	soon := 20 * time.Millisecond
	ask := func(p model.Probe) error {
		p.Timeout = soon
		_, err := r.Probe(ctx, vm, []model.Probe{p})
		return err
	}
	require.NoError(t, ask(model.Probe{Kind: model.ProbeAgent}))
	require.NoError(t, ask(model.Probe{Kind: model.ProbeTCP, Address: port.Addr().String()}))
	require.NoError(t, ask(model.Probe{Kind: model.ProbeCommand, Command: []string{"/bin/sh", "-c", "test $UNDERSTUDY_VM = db1 -a $UNDERSTUDY_UUID = " + vm.UUID}}))

	err = ask(model.Probe{Kind: model.ProbeCommand, Command: []string{"/bin/sh", "-c", "yes refused | head -c 100000; exit 3"}})
	require.Equal(t, model.NotRunning, model.KindOf(err))
	require.ErrorContains(t, err, "exit status 3")
	require.Less(t, len(err.Error()), 1000, "what it says is bounded")
	require.Equal(t, model.NotRunning, model.KindOf(ask(model.Probe{Kind: model.ProbeTCP, Address: "127.0.0.1:1"})))
	h.hv.SetAgent(vm.UUID, fake.AgentHangs)
	require.Equal(t, model.NotRunning, model.KindOf(ask(model.Probe{Kind: model.ProbeAgent})))

	require.NoError(t, h.hv.Kill(vm.UUID))
	soon = time.Hour // a VM that is off is not waited for
	require.ErrorContains(t, ask(model.Probe{Kind: model.ProbeTCP, Address: port.Addr().String()}), "did not stay up")
}

// A probe runs as root: nobody else may be able to change what is run.
func TestAProgramThatOthersCanChangeIsNotRun(t *testing.T) {
	h := newHost(t)
	r := h.restorer()
	_, err := r.Start(ctx, vm, ref, 2, nil)
	require.NoError(t, err)
	ran := filepath.Join(t.TempDir(), "ran")
	program := filepath.Join(t.TempDir(), "probe")
	require.NoError(t, os.WriteFile(program, []byte(fmt.Sprintf("#!/bin/sh\ntouch %s\n", ran)), 0o700))
	require.NoError(t, os.Chmod(program, 0o722))
	_, err = r.Probe(ctx, vm, []model.Probe{{Kind: model.ProbeCommand, Command: []string{program}, Timeout: time.Millisecond}})
	require.ErrorContains(t, err, "can be changed by others than root")
	require.NoFileExists(t, ran)
	require.NoError(t, os.Chmod(program, 0o700))
	_, err = r.Probe(ctx, vm, []model.Probe{{Kind: model.ProbeCommand, Command: []string{program}, Timeout: time.Millisecond}})
	require.NoError(t, err)
	require.FileExists(t, ran)
}
