package recoverypoint

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestPointsOfAChainReadAsTheyWereTaken(t *testing.T) {
	g := newRig(t)
	g.disks["vda"] = make([]byte, 3*mib)
	g.write("vda", 0, mib)
	g.cycle(1, 0)
	g.write("vda", 8192, 20000)
	clear(g.disks["vda"][500*1024 : 700*1024])
	g.cycle(2, 1)

	g.disks["vda"] = append(g.disks["vda"], make([]byte, mib+512)...) // grown
	g.write("vda", 3*mib+4096, 4096)
	g.disks["vdb"] = make([]byte, mib) // plugged in
	g.write("vdb", 100*4096, 5000)
	g.cycle(3, 2, "vdb")
	g.write("vdb", 0, 10)
	g.cycle(4, 3, "vda") // somebody lost the bitmap: a new base in the middle of the chain
	g.cycle(5, 4)        // idle
	g.checkAll()
	require.Equal(t, []model.Seq{1, 2, 3, 4, 5}, g.listed())

	g.reopen()
	g.checkAll()
	bytes, err := g.store.BytesOnDisk(context.Background(), vm1, ref(2))
	require.NoError(t, err)
	require.Less(t, bytes, int64(600<<10), "a small change takes little space")
}

func TestASmallCycleIsFast(t *testing.T) {
	g := newRig(t)
	g.disks["vda"] = make([]byte, 16*mib)
	g.write("vda", 0, 8*mib)
	g.cycle(1, 0)
	best := time.Hour
	for seq := model.Seq(2); seq < 6; seq++ {
		for i := range 9 {
			g.write("vda", i*mib, 64<<10)
		}
		spec := g.spec(seq, seq-1)
		g.remember(seq)
		begin := time.Now()
		require.NoError(t, g.receive(spec))
		received := time.Since(begin)
		require.NoError(t, g.proveAndCommit(spec))
		took := time.Since(begin)
		t.Logf("received in %v, all in %v", received, took)
		best = min(best, took)
	}
	g.checkAll()
	require.Less(t, best, 2*time.Second)
}
