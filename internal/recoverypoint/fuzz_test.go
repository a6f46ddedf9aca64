package recoverypoint

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// Whatever is on disk, decoding it neither panics nor gives something that is not sound.

func seedJSON(f *testing.F, v any) {
	p, err := json.Marshal(v)
	require.NoError(f, err)
	f.Add(p)
	f.Add(p[:len(p)/2])
	f.Add([]byte("null"))
}

func FuzzDecodeChain(f *testing.F) {
	seedJSON(f, chain{Format: 1, VM: vm1, Disks: map[string][]layer{"vda": {
		{Seq: 1, File: "base-g1-s1.raw", Base: true, Size: mib}, {Seq: 2, File: "g1-s2.qcow2", Size: mib}}}})
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := decodeChain(p)
		if err != nil {
			return
		}
		require.NoError(t, c.check())
		for target, layers := range c.Disks {
			for _, l := range layers {
				img, ok := c.image("/r", target, l.Seq)
				require.True(t, ok)
				for _, i := range img.Layers {
					require.Equal(t, filepath.Join("/r/disks", target), filepath.Dir(i.Path))
				}
			}
		}
	})
}

func FuzzDecodePoint(f *testing.F) {
	seedJSON(f, model.Point{Format: 1, VM: vm1, PointRef: ref(1), Disks: []model.PointDisk{{Target: "vda", Size: 1}}})
	f.Fuzz(func(t *testing.T, p []byte) {
		if m, err := decodePoint(p); err == nil {
			require.NoError(t, checkPoint(m))
		}
	})
}

func FuzzDecodeSpec(f *testing.F) {
	seedJSON(f, stagingSpec{Boot: "b", StagingSpec: model.StagingSpec{VM: vm1, PointRef: ref(1), Disks: []model.StagingDisk{{Target: "vda", Size: 512, Mode: model.ModeFull}}}})
	f.Fuzz(func(t *testing.T, p []byte) {
		if s, err := decodeSpec(p); err == nil {
			require.True(t, same(s.StagingSpec, s.StagingSpec))
		}
	})
}

func FuzzDecodePlan(f *testing.F) {
	f.Add([]byte(`{"format":1,"ops":[{"op":"merge","target":"vda","file":"g1-s2.qcow2","into":"base-g1-s1.raw"},{"op":"delist","seq":1}]}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		pl, err := decodePlan(p)
		if err != nil {
			return
		}
		for _, op := range pl.Ops {
			for _, name := range []string{op.Target, op.File, op.Into} {
				require.NotContains(t, name, "/")
				require.NotContains(t, name, "..")
			}
		}
	})
}

func FuzzDecodeAck(f *testing.F) {
	f.Add(ack{Acked: 4096, Log: 100}.encode(), int64(8192))
	f.Add(ack{Acked: 8192, Log: 100, Finished: true}.encode(), int64(8192))
	f.Fuzz(func(t *testing.T, p []byte, size int64) {
		a := decodeAck(p, size)
		require.True(t, a == ack{} || a.Acked >= 0 && a.Acked <= size && a.Log >= logHeaderSize)
	})
}

func FuzzReadLog(f *testing.F) {
	const size = 64 * 4096
	good := appendRecord(logHeader(7, size), model.Run{Offset: 4096, Length: 8192}, make([]model.Digest, 2))
	good = appendRecord(good, model.Run{Offset: 40960, Length: 8192}, nil)
	f.Add(good)
	f.Add(good[:len(good)-5])
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, p []byte) {
		require.NoError(t, os.WriteFile(path, p, 0o600))
		last := int64(0)
		_, err := readLog(path, 7, size, int64(len(p)), func(w model.WrittenRun) error {
			require.NoError(t, checkRun(w.Run, last, size))
			last = w.Offset + w.Length
			return nil
		})
		require.True(t, err == nil || errors.Is(err, errLog), "%v", err)
	})
}

func FuzzDecodeTableHeader(f *testing.F) {
	f.Add(tableHeader{Seed: 1, Seq: 2, Blocks: 3}.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		if h, err := decodeTableHeader(p); err == nil {
			require.Equal(t, p[:40], h.encode())
		}
	})
}
