package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server made of scripted bytes, for what no real server does.

// testInfo is what a client with both contexts has negotiated.
func testInfo() Info {
	return Info{
		Size: 1 << 30, CanFlush: true, CanZero: true, Structured: true, MinBlock: 1, MaxPayload: defaultMaxPayload,
		Allocation: true, allocationID: 1, Dirty: true, dirtyID: 2,
	}
}

// fake is the server's end of a connection in the transmission phase.
type fake struct {
	t    testing.TB
	conn net.Conn
}

// transmission gives a client past its handshake, and its server. The connection is a
// real socket pair, so that the kernel buffers as it does in life.
func transmission(t testing.TB, info Info) (*Client, *fake) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	require.NoError(t, err)
	defer l.Close()
	mine, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	theirs, err := l.Accept()
	require.NoError(t, err)
	c := start(mine, newStream(mine), info)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, theirs.Close())
	})
	return c, &fake{t: t, conn: theirs}
}

type request struct {
	cmd         uint16
	handle, off uint64
	length      uint32
}

// request reads one request, without its payload.
func (f *fake) request() request {
	f.t.Helper()
	var p [requestHdrSize]byte
	_, err := io.ReadFull(f.conn, p[:])
	require.NoError(f.t, err)
	require.Equal(f.t, uint32(magicRequest), binary.BigEndian.Uint32(p[:]))
	return request{
		binary.BigEndian.Uint16(p[6:]), binary.BigEndian.Uint64(p[8:]),
		binary.BigEndian.Uint64(p[16:]), binary.BigEndian.Uint32(p[24:]),
	}
}

func (f *fake) send(p ...[]byte) {
	for _, q := range p {
		_, _ = f.conn.Write(q) // the client may have hung up already: that is the test
	}
}

func u16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func u64(n uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, n)
}

func join(p ...[]byte) (all []byte) {
	for _, q := range p {
		all = append(all, q...)
	}
	return all
}

// chunkOf is one structured reply chunk.
func chunkOf(done bool, typ int, handle uint64, payload ...[]byte) []byte {
	flags := 0
	if done {
		flags = replyFlagDone
	}
	p := join(payload...)
	return join(u32(magicStructuredReply), u16(flags), u16(typ), u64(handle), u32(len(p)), p)
}

func simpleOf(errno int, handle uint64, payload ...[]byte) []byte {
	return join(u32(magicSimpleReply), u32(errno), u64(handle), join(payload...))
}

func readFull(r io.Reader, p []byte) (int, error) { return io.ReadFull(r, p) }
func be64(p []byte) uint64                        { return binary.BigEndian.Uint64(p) }
func be32(p []byte) uint32                        { return binary.BigEndian.Uint32(p) }
