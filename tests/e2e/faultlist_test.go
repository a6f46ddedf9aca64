package e2e

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// faults are the scenarios of references/single-writer.md section 9 (S…) and of references/peers.md part d (P…).
func faults() []fault {
	return []fault{
		{id: "S2", name: "the link between the hosts is cut", stays: true, strike: func(f *struck) {
			f.run("partition", hostA, "--from", hostB)
			f.until(time.Minute, "the exposure to grow", func(p labkit.Protection) bool { return p.RPO.State != "met" || p.Phase == "Degraded" })
			f.writesOn(30 * time.Second)
			f.run("heal", hostA)
		}},
		{id: "S3", name: "the primary and the control plane do not hear each other", stays: true, short: true, strike: func(f *struck) {
			f.run("partition", hostA, "--from", "control")
			f.writesOn(40 * time.Second) // the standby grants, and is the witness that keeps a failover off
			f.run("heal", hostA)
		}},
		{id: "S5", name: "the standby and the control plane do not hear each other", stays: true, strike: func(f *struck) {
			f.run("partition", hostB, "--from", "control")
			f.writesOn(40 * time.Second)
			f.run("heal", hostB)
		}},
		{id: "S7", name: "all apart, and an isolated VM is killed", policy: []string{"--isolation", "kill", "--recover-in-place", "3"}, strike: func(f *struck) {
			f.fenceFault(hostA) // apart from all: else a crash that is told before the host counts as heard cuts its power
			f.run("partition", hostA)
			f.run("partition", hostB)
			f.eventually(time.Minute, "the guard to kill the VM", func() bool { return f.state(hostA) == "" })
			f.run("heal", hostA)
			f.run("heal", hostB)
			f.until(2*time.Minute, "the VM to run again", func(p labkit.Protection) bool { return p.Phase == "Protected" })
			f.run("fence-fault", hostA, "--off")
		}},
		{id: "S9", name: "power loss of the primary", short: true, strike: func(f *struck) {
			f.run("crash", hostA)
			f.moved(2 * time.Minute)
			f.lostWithin(10)
			f.note("the fence device confirmed")
			f.run("boot", hostA)
		}},
		{id: "S10", name: "the primary is power-cycled", strike: func(f *struck) {
			f.run("crash", hostA)
			_, _ = f.lab.Run(f.ctx, "boot", hostA) // a failover that has begun may cut the power again
			p := f.until(2*time.Minute, "the VM to run again", func(p labkit.Protection) bool {
				ack, _ := f.watch.LastAck(p.Primary)
				return ack.At.After(f.at.Add(2 * time.Second))
			})
			f.note("it runs on %s, generation %d", p.Primary, p.Generation)
		}},
		{id: "S12", name: "power loss of the primary, its fence device dead with it", strike: func(f *struck) {
			f.fenceFault(hostA)
			f.run("crash", hostA)
			f.moved(2 * time.Minute)
			f.lostWithin(10)
			f.note("lease rung, W 22 s")
			f.run("fence-fault", hostA, "--off")
			f.run("boot", hostA)
		}},
		{id: "S13", name: "the primary's agent hangs", strike: func(f *struck) {
			f.fenceFault(hostA)
			f.exec(hostA, "pkill -STOP -f '[u]nderstudy agent'")
			f.moved(2 * time.Minute)
			f.exec(hostA, "pkill -CONT -f '[u]nderstudy agent'")
			f.run("fence-fault", hostA, "--off")
		}},
		{id: "S14", name: "the primary's agent is killed", stays: true, strike: func(f *struck) {
			f.killService(hostA, "understudy agent")
			f.writesOn(30 * time.Second)
		}},
		{id: "S15", name: "libvirtd of the primary hangs for a while", stays: true, strike: func(f *struck) {
			f.exec(hostA, "pkill -STOP -x libvirtd")
			f.writesOn(30 * time.Second)
			f.exec(hostA, "pkill -CONT -x libvirtd")
		}},
		{id: "S16", name: "libvirtd hangs, then the host is cut off", strike: func(f *struck) {
			f.fenceFault(hostA)
			f.exec(hostA, "pkill -STOP -x libvirtd")
			f.run("partition", hostA)
			f.moved(2 * time.Minute)
			f.exec(hostA, "pkill -CONT -x libvirtd")
			f.run("fence-fault", hostA, "--off")
			f.run("heal", hostA)
		}},
		{id: "S17", name: "the primary's guard is killed", stays: true, short: true, strike: func(f *struck) {
			f.exec(hostA, "pkill -9 -f '[u]nderstudy guard'")
			f.writesOn(25 * time.Second)
		}},
		{id: "S18", name: "the primary's guard hangs: the watchdog resets the host", strike: func(f *struck) {
			f.exec(hostA, "pkill -STOP -f '[u]nderstudy guard'")
			f.moved(3 * time.Minute)
			f.run("boot", hostA)
		}},
		{id: "S19", name: "guard and agent are killed and held down together", strike: func(f *struck) {
			f.exec(hostA, "pkill -STOP -f '[u]nderstudy (guard|agent)'")
			f.moved(3 * time.Minute)
			f.run("boot", hostA)
		}},
		{id: "S20", name: "the primary stands still for a minute and goes on, as after a suspend", beside: 3 * time.Second, strike: func(f *struck) {
			f.fenceFault(hostA)
			asleep := time.Now()
			f.run("pause", hostA)
			stood := time.Now()
			f.moved(2 * time.Minute)
			time.Sleep(time.Until(asleep.Add(time.Minute)))
			woke := time.Now()
			f.run("resume", hostA)
			f.stood = map[string]span{hostA: {from: stood, to: woke}}
			f.eventually(30*time.Second, "the old copy to be stopped", func() bool {
				for _, e := range f.journal(hostA) {
					if e.UUID == f.before.UUID && (e.Event == "freeze" || e.Event == "kill") && *e.Proved && e.at(e.Boot).After(woke) {
						f.note("stopped %.1f s after it woke", e.at(e.Boot).Sub(woke).Seconds())
						return true
					}
				}
				return false
			})
			f.run("fence-fault", hostA, "--off")
		}},
		{id: "S23", name: "the target's agent dies while it waits for the lease", strike: func(f *struck) {
			f.fenceFault(hostA)
			f.run("crash", hostA)
			f.until(time.Minute, "the failover to wait", func(p labkit.Protection) bool { return p.Phase == "FailingOver" })
			f.pause(15 * time.Second)
			f.killService(hostB, "understudy agent")
			f.moved(3 * time.Minute)
			f.run("fence-fault", hostA, "--off")
			f.run("boot", hostA)
		}},
		{id: "S24", name: "the target dies while it waits for the lease of a host that lives", stays: true, strike: func(f *struck) {
			f.fenceFault(hostA)
			f.run("partition", hostA)
			f.until(2*time.Minute, "the failover to wait", func(p labkit.Protection) bool { return p.Phase == "FailingOver" })
			f.pause(10 * time.Second)
			f.run("crash", hostB)
			f.run("heal", hostA)
			healed := time.Now()
			f.until(4*time.Minute, "the VM to be given back", func(p labkit.Protection) bool { return p.Primary == hostA && p.Generation >= 3 })
			f.note("given back after %.0f s", time.Since(healed).Seconds())
			given := time.Now()
			f.eventually(time.Minute, "the VM to write where it was", func() bool {
				ack, _ := f.watch.LastAck(hostA)
				return ack.At.After(given)
			})
			f.run("fence-fault", hostA, "--off")
			f.run("boot", hostB)
		}},
		{id: "N1", name: "a silent host is heard again before anything proves its VM off", stays: true, strike: func(f *struck) {
			f.fenceFault(hostA)
			f.run("partition", hostA)
			f.until(time.Minute, "the failover to begin", func(p labkit.Protection) bool { return p.Phase == "FailingOver" })
			require.Less(f.t, time.Since(f.at), 11*time.Second, "too late for this fault: the lease ends")
			f.run("heal", hostA)
			p := f.until(time.Minute, "the failover to be taken back", func(p labkit.Protection) bool { return p.Phase != "FailingOver" && p.Generation > f.before.Generation })
			require.Contains(f.t, string(*p.Failover), "was heard again")
			f.note("taken back %.1f s after it began", time.Since(stepOf(p, "elect").At).Seconds())
			f.writesOn(10 * time.Second)
			f.run("fence-fault", hostA, "--off")
		}},
		{id: "S28", name: "the control plane is killed in the middle of a failover", strike: func(f *struck) {
			f.run("crash", hostA)
			f.until(time.Minute, "the failover", func(p labkit.Protection) bool { return p.Phase == "FailingOver" || p.Primary == hostB })
			f.pause(3 * time.Second)
			f.exec("control", "pkill -9 -f '[u]nderstudy( server|-temporal)'")
			f.moved(3 * time.Minute)
			f.run("boot", hostA)
		}},
		{id: "S30", name: "the control plane is down, then the primary dies", strike: func(f *struck) {
			f.run("crash", "control")
			f.run("crash", hostA)
			f.pause(10 * time.Second)
			f.run("boot", "control")
			f.moved(3 * time.Minute)
			f.run("boot", hostA)
		}},
		{id: "S32", name: "two requests for a failover in the same second", strike: func(f *struck) {
			done := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := f.lab.CLI(f.ctx, "failover", "--yes", f.name)
					done <- err
				}()
			}
			require.NoError(f.t, <-done)
			require.NoError(f.t, <-done)
			f.moved(2 * time.Minute)
			p := f.until(time.Minute, "the state", func(labkit.Protection) bool { return true })
			require.EqualValues(f.t, 2, p.Generation, "they met in one failover")
		}},
		{id: "S33", name: "a failover and a switchover at once", strike: func(f *struck) {
			done := make(chan error, 2)
			for _, verb := range []string{"failover", "switchover"} {
				go func() {
					_, err := f.lab.CLI(f.ctx, verb, "--yes", f.name)
					done <- err
				}()
			}
			first, second := <-done, <-done
			require.True(f.t, first == nil || second == nil, "%v, %v", first, second)
			f.moved(2 * time.Minute)
		}},
		{id: "S37", name: "a person starts the old copy by hand, and autostart is on", strike: func(f *struck) {
			f.run("crash", hostA)
			f.moved(2 * time.Minute)
			f.run("boot", hostA)
			out, err := f.lab.Exec(f.ctx, hostA, "sh", "-c", fmt.Sprintf("virsh autostart %[1]s; virsh start %[1]s", f.name))
			require.Error(f.t, err, out)
		}},
		{id: "S38", name: "a QEMU of the VM's UUID is started without libvirt", beside: 3 * time.Second, strike: func(f *struck) {
			f.run("crash", hostA)
			f.moved(2 * time.Minute)
			f.run("boot", hostA)
			struck := time.Now()
			f.service(hostA, "exec qemu-system-x86_64 -uuid "+f.before.UUID+" -machine q35,accel=tcg -m 64 -display none -serial none -monitor none -name stray")
			f.eventually(15*time.Second, "the guard to stop the stray copy", func() bool { // and to kill it, when the host gave the VM up
				for _, e := range f.journal(hostA) {
					if e.UUID == f.before.UUID && (e.Event == "freeze" || e.Event == "kill") && *e.Proved && e.at(e.Boot).After(struck) {
						return true
					}
				}
				return false
			})
		}},
		{id: "S42", name: "the standby's disk is full when it is to take over", stays: true, strike: func(f *struck) {
			// The folder as it is, on a disk without room.
			f.exec(hostB, `set -e; d=/var/lib/understudy/floors; t=$(mktemp -d); cp -a $d/. $t/; mount -t tmpfs -o size=64k tmpfs $d; cp -a $t/. $d/; rm -r $t; dd if=/dev/zero of=$d/fill bs=4k status=none || true`)
			_, err := f.lab.CLI(f.ctx, "failover", "--yes", f.name)
			f.exec(hostB, "umount /var/lib/understudy/floors")
			require.Error(f.t, err)
			f.writesOn(5 * time.Second)
		}},
		{id: "S46", name: "a person says that the host is down, and it is not", strike: func(f *struck) {
			f.fenceFault(hostA)
			f.run("partition", hostA)
			_, err := f.lab.CLI(f.ctx, "failover", "--yes", "--confirm-primary-down", f.name)
			require.NoError(f.t, err)
			f.moved(2 * time.Minute)
			f.run("fence-fault", hostA, "--off")
			f.run("heal", hostA)
		}},
		{id: "S47", name: "the guard is of a lower level than the policy wants", policy: []string{"--guard-level", "3"}, stays: true, strike: func(f *struck) {
			p := f.until(time.Minute, "the reason", func(p labkit.Protection) bool { return p.Lease != nil && p.Lease.Why != "" })
			require.Equal(f.t, "sole", p.Lease.Mode)
			require.Contains(f.t, p.Lease.Why, "level 2")
		}},
		{id: "P1", name: "QEMU is killed in the middle of a delta", policy: []string{"--recover-in-place", "0"}, short: true, strike: func(f *struck) {
			f.eventually(30*time.Second, "the guest to be asked for 64 MiB", func() bool { // not while a capture has it paused
				_, err := f.lab.Run(f.ctx, "guest", hostA, f.name, "--fill", fmt.Sprint(64<<20))
				return err == nil
			})
			f.pause(4 * time.Second)
			f.killQEMU(hostA)
			f.moved(2 * time.Minute)
		}},
		{id: "P2", name: "libvirtd is killed", stays: true, strike: func(f *struck) {
			f.exec(hostA, "pkill -9 -x libvirtd")
			f.writesOn(20 * time.Second)
		}},
		{id: "P3", name: "the standby's agent is killed again and again", stays: true, strike: func(f *struck) {
			for range 4 {
				f.pause(6 * time.Second)
				f.killService(hostB, "understudy agent")
			}
			f.writesOn(10 * time.Second)
		}},
		{id: "P4", name: "a block of a replica is changed", policy: []string{"--failover", "manual"}, stays: true, strike: func(f *struck) {
			// A block that the guest leaves alone, read through the newest point as a failover would.
			const block = `cd /var/lib/understudy/replicas/%s/disks/vda; f=$(ls -t *.qcow2 | head -n1); qemu-img dd -U -O raw bs=4k skip=40 count=41 if="$f" of=/run/block >/dev/null; sha256sum </run/block; rm /run/block`
			read := fmt.Sprintf(block, f.before.UUID)
			was := f.exec(hostB, read)
			f.exec(hostB, fmt.Sprintf("cd /var/lib/understudy/replicas/%s/disks/vda; dd if=/dev/urandom of=$(ls *.raw) bs=4k count=1 seek=40 conv=notrunc status=none", f.before.UUID))
			require.NotEqual(f.t, was, f.exec(hostB, read), "the fault reaches what a failover would start")
			f.cli("sync", "--resync", f.name)
			require.Equal(f.t, was, f.exec(hostB, read), "it was sent again")
		}},
		{id: "P5", name: "the primary's space for scratch files is gone", stays: true, strike: func(f *struck) {
			f.exec(hostA, "mkdir -p /var/lib/understudy/scratch && mount -t tmpfs -o size=64k tmpfs /var/lib/understudy/scratch")
			f.writesOn(20 * time.Second)
			f.exec(hostA, "umount -l /var/lib/understudy/scratch")
		}},
		{id: "P6", name: "a second power loss during the failover", strike: func(f *struck) {
			f.run("crash", hostA)
			f.until(time.Minute, "the failover", func(p labkit.Protection) bool { return p.Phase == "FailingOver" || p.Primary == hostB })
			f.pause(4 * time.Second)
			f.run("crash", hostB)
			f.run("boot", hostB)
			f.run("boot", hostA)
		}},
	}
}
