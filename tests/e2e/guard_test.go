package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// post is the guard of a host in a story, asked by its own command as a person would.
type post struct {
	*story
	host, uuid string
}

func (s *story) guardOf(host string) *post {
	s.t.Helper()
	p := &post{s, host, strings.TrimSpace(s.exec(host, "virsh domuuid "+s.name))}
	s.repairs = append(s.repairs, func(ctx context.Context) {
		_, _ = s.lab.Exec(ctx, host, s.lab.Binary("understudy"), "guard", "stop", p.uuid)
		if _, err := s.lab.Exec(ctx, host, s.lab.Binary("understudy"), "guard", "forget", p.uuid); err != nil {
			s.t.Errorf("forget at the end: %v", err)
		}
	})
	return p
}

func (p *post) arm(generation int, mode string, left time.Duration) {
	p.t.Helper()
	p.exec(p.host, fmt.Sprintf("%s guard arm --generation %d --mode %s --for %s %s", p.lab.Binary("understudy"), generation, mode, left, p.uuid))
}

// copies are the states of the VM's processes, as text; the error of a guard that is just being restarted too.
func (p *post) copies() string {
	out, err := p.lab.Exec(p.ctx, p.host, p.lab.Binary("understudy"), "guard", "list", "-o", "json")
	var list struct {
		VMs []struct {
			UUID   string `json:"uuid"`
			Copies []struct {
				State string `json:"state"`
			} `json:"copies"`
		} `json:"vms"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil {
		return err.Error()
	}
	states := []string{}
	for _, vm := range list.VMs {
		if vm.UUID == p.uuid {
			for _, c := range vm.Copies {
				states = append(states, c.State)
			}
		}
	}
	return fmt.Sprint(states)
}

func (p *post) becomes(limit time.Duration, states ...string) {
	p.t.Helper()
	saw := ""
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if saw = p.copies(); saw == fmt.Sprint(states) {
			return
		}
		require.True(p.t, time.Now().Before(end), "the copies are %s, want %v", saw, states)
	}
}

// virsh starts the VM by hand; what libvirt said when it refused.
func (p *post) virsh() string {
	p.t.Helper()
	_, err := p.lab.Exec(p.ctx, p.host, "timeout", "60", "virsh", "start", p.name)
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNobodyStartsAProtectedVMPastItsGate(t *testing.T) {
	s := begin(t, "gated", 6*time.Minute, "--workload", "idle")
	g := s.guardOf(hostA)
	g.arm(1, "sole", 300*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	g.becomes(3*time.Second, "running") // a sole copy has no deadline
	s.exec(hostA, "virsh destroy gated")
	require.Contains(t, g.virsh(), "it is protected by understudy")

	// A raw command goes around libvirt and its hook, and does not get far.
	s.exec(hostA, "qemu-system-x86_64 -nodefaults -display none -m 16 -accel tcg -daemonize -uuid "+g.uuid)
	g.becomes(3*time.Second, "frozen")
	s.exec(hostA, "pkill -KILL -f 'uuid "+g.uuid[:35]+"["+g.uuid[35:]+"]'")
	g.becomes(3 * time.Second)

	g.arm(1, "sole", 30*time.Second)
	require.Empty(t, g.virsh())
	g.becomes(5*time.Second, "running")
}

func TestALeasedVMStandsAtItsDeadlineWithoutAgentAndLibvirt(t *testing.T) {
	long(t)
	s := begin(t, "leased", 6*time.Minute, "--workload", "db")
	g := s.guardOf(hostA)
	_, err := s.watch.WaitAcks(s.ctx, hostA, 2)
	require.NoError(t, err)
	g.arm(1, "leased", 6*time.Second)
	t.Cleanup(func() { // before the story's end, which needs both
		_, _ = s.lab.Exec(context.Background(), hostA, "sh", "-c", "pkill -CONT -x libvirtd; pkill -CONT -f 'understudy [a]gent'")
	})
	s.exec(hostA, "pkill -STOP -x libvirtd; pkill -STOP -f 'understudy [a]gent'")
	s.exec(hostA, "pkill -KILL -f 'understudy [g]uard'") // restarted, with the same deadline
	g.becomes(15*time.Second, "frozen")
	last, _ := s.watch.LastAck(hostA)
	time.Sleep(3 * time.Second)
	now, _ := s.watch.LastAck(hostA)
	require.LessOrEqual(t, now.Row, last.Row+1, "a frozen VM acknowledges nothing")

	g.arm(1, "leased", time.Minute)
	g.becomes(3*time.Second, "running")
	_, err = s.watch.WaitAcks(s.ctx, hostA, 2)
	require.NoError(t, err)
}

func TestAHostWhoseGuardHangsIsReset(t *testing.T) {
	long(t)
	s := begin(t, "dogged", 6*time.Minute, "--workload", "idle")
	g := s.guardOf(hostA)
	g.arm(1, "leased", 2*time.Minute)
	s.exec(hostA, "pkill -STOP -f 'understudy [g]uard'")
	for end := time.Now().Add(15 * time.Second); strings.TrimSpace(s.run("power", hostA)) != "off"; time.Sleep(200 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "the watchdog does not bite")
	}

	s.run("boot", hostA)
	require.Contains(t, g.virsh(), "no lease was armed since this boot")
	s.exec(hostA, s.lab.Binary("understudy")+" guard stop "+g.uuid)
	s.exec(hostA, s.lab.Binary("understudy")+" guard forget "+g.uuid)
	require.Empty(t, g.virsh(), "it is nobody's concern any more")
}
