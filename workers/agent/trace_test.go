package agent

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
	"understudy/internal/simulate"
)

func TestATraceIsRecordedFromCountersAndCanBeSimulated(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hv := fake.New()
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, hv.CreateImage(image, model.FormatQCOW2, 1<<30))
	_, err := hv.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>db1</name><uuid>%s</uuid><memory>1</memory><devices>`+
		`<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda'/></disk></devices></domain>`, db1.UUID, image))
	require.NoError(t, err)
	r := recorder{hv: hv, every: 20 * time.Millisecond}
	require.Equal(t, model.NotRunning, model.KindOf(r.record(ctx, "db1", time.Second)))
	require.NoError(t, hv.Start(ctx, db1.UUID))
	done := make(chan error, 1)
	go func() { done <- r.record(ctx, "db1", 500*time.Millisecond) }()
	time.Sleep(100 * time.Millisecond)
	for range 5 {
		require.NoError(t, hv.Write(db1.UUID, "vda", make([]byte, 64<<10), 1<<20))
		time.Sleep(30 * time.Millisecond)
	}
	require.NoError(t, <-done)
	var file bytes.Buffer
	require.NoError(t, r.write(&file, 1))
	trace, err := simulate.ReadCSV("db1", &file)
	require.NoError(t, err)
	require.EqualValues(t, 5*64<<10, trace.Written())
	require.InDelta(t, 0.5, trace.Seconds, 0.3)
}
