package libvirtrpc_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/hvtest"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/model"
)

// QEMU 7.2 dies when it is asked about its block nodes while it opens a scratch file that it made itself: within six snapshots.
func TestAVMSurvivesQuestionsInTheMidstOfASnapshot(t *testing.T) {
	l := hvtest.StartLibvirtd(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := libvirtrpc.Dial(ctx, l.Socket, nil)
	require.NoError(t, err)
	defer c.Close()
	uuid := hvtest.NewUUID()
	disk := filepath.Join(l.Dir, "images", "beside")
	l.CreateImage(t, disk, model.FormatQCOW2, 1<<20)
	_, err = c.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>beside</name><uuid>%s</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, uuid, disk))
	require.NoError(t, err)
	require.NoError(t, c.Start(ctx, uuid))
	asking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var questions atomic.Int64
	for _, ask := range []func() error{
		func() error { _, err := c.Stats(asking, hypervisor.StatsQuery{Only: []string{uuid}}); return err },
		func() error { _, err := c.Stats(asking, hypervisor.StatsQuery{}); return err },
		func() error { _, err := c.Domain(asking, uuid); return err },
	} {
		wg.Go(func() {
			for asking.Err() == nil {
				_ = ask()
				questions.Add(1)
			}
		})
	}
	scratch := filepath.Join(l.Dir, "scratch")
	n, begin := 0, time.Now()
	for ; time.Since(begin) < 10*time.Second; n++ {
		_, err = c.Capture(ctx, uuid, hypervisor.CaptureSpec{
			Disks: []hypervisor.CaptureDisk{{Target: "vda", NoBitmap: true}}, Socket: filepath.Join(l.Dir, "s", "beside"), ScratchDir: scratch,
		})
		if err != nil {
			break // the domain says why, below
		}
		if err = c.EndCapture(ctx, uuid, scratch); err != nil {
			break
		}
	}
	stop()
	wg.Wait()
	d, lookErr := c.Look(ctx, uuid)
	require.NoError(t, lookErr)
	require.True(t, d.State.Active(), "after %d snapshots and %d questions in %s: %s, %v", n, questions.Load(), time.Since(begin), d.Reason, err)
	require.NoError(t, err)
	require.Positive(t, n)
	require.NoError(t, c.Destroy(ctx, uuid))
	require.NoError(t, c.Undefine(ctx, uuid))
}
