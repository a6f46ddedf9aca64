package agent

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
	"understudy/internal/simulate"
)

// looked tells of each look at the counters.
type looked struct {
	*fake.Hypervisor
	at chan struct{}
}

func (l looked) Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error) {
	out, err := l.Hypervisor.Stats(ctx, q)
	select {
	case l.at <- struct{}{}:
	case <-ctx.Done():
	}
	return out, err
}

func TestATraceIsRecordedFromCountersAndCanBeSimulated(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hv := fake.New()
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, hv.CreateImage(image, model.FormatQCOW2, 1<<30))
	_, err := hv.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>db1</name><uuid>%s</uuid><memory>1</memory><devices>`+
		`<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda'/></disk></devices></domain>`, db1.UUID, image))
	require.NoError(t, err)
	looks := looked{hv, make(chan struct{})}
	r := recorder{hv: looks, every: 20 * time.Millisecond}
	require.Equal(t, model.NotRunning, model.KindOf(r.record(ctx, "db1", time.Second)))
	require.NoError(t, hv.Start(ctx, db1.UUID))
	done := make(chan error, 1)
	begun := time.Now()
	go func() { done <- r.record(ctx, "db1", time.Minute) }()
	<-looks.at
	for range 5 {
		require.NoError(t, hv.Write(db1.UUID, "vda", make([]byte, 64<<10), 1<<20))
		<-looks.at
		<-looks.at // the first may have been under way
	}
	cancel()
	require.NoError(t, <-done)
	var file bytes.Buffer
	require.NoError(t, r.write(&file, 1))
	trace, err := simulate.ReadCSV("db1", &file)
	require.NoError(t, err)
	require.EqualValues(t, 5*64<<10, trace.Written())
	require.Positive(t, trace.Seconds)
	require.LessOrEqual(t, trace.Seconds, time.Since(begun).Seconds())
}
