package guard

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestGarbageOnTheSocketHarmsNobody(t *testing.T) {
	p, vm := stand(t), aVM()
	info, err := os.Stat(Socket(p.run))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, garbage := range []string{
		"\n", "null\n", "{}\n", "GET / HTTP/1.1\r\n\r\n", `{"op":"arm"}` + "\n", `{"op":"stop","uuid":"../../x","generation":1}` + "\n",
		`{"op":"state"}{"op":"state"}` + "\n", `{"op":"list","uuid":7}` + "\n", `{"op":"sudo"}` + "\n", strings.Repeat("x", 1<<20) + "\n", "\x00\xff\n",
		`{"op":"arm","arm":{"uuid":"` + vm + `","generation":-1}}` + "\n", `{"op":"state","more":1}` + "\n",
	} {
		conn, err := net.Dial("unix", Socket(p.run))
		require.NoError(t, err)
		_, _ = conn.Write([]byte(garbage))
		line, _ := bufio.NewReader(conn).ReadString('\n')
		require.Contains(t, line, `"ok":false`, "%.40q", garbage)
		require.NoError(t, conn.Close())
	}
	silent, err := net.Dial("unix", Socket(p.run))
	require.NoError(t, err)
	defer silent.Close()
	list, err := p.c.List(context.Background())
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestCallsBeyondTheBoundAreTurnedAway(t *testing.T) {
	p := stand(t)
	var held []net.Conn
	for range maxCalls {
		conn, err := net.Dial("unix", Socket(p.run))
		require.NoError(t, err)
		held = append(held, conn)
	}
	require.Eventually(t, func() bool { _, err := p.c.State(context.Background()); return err != nil && Away(err) }, 5*time.Second, 10*time.Millisecond)
	for _, c := range held {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { _, err := p.c.State(context.Background()); return err == nil }, 5*time.Second, 10*time.Millisecond)
}

func TestAGuardThatDoesNotAnswerIsAway(t *testing.T) {
	dir := t.TempDir()
	require.True(t, Away(Dial(Socket(dir)).MayStart(context.Background(), someVM)))

	l, err := net.Listen("unix", Socket(dir)) // one that hangs
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.True(t, Away(Dial(Socket(dir)).MayStart(ctx, someVM)))
}

func TestARefusalKeepsItsKindAndItsAdviceOverTheSocket(t *testing.T) {
	p, vm := stand(t), aVM()
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, time.Millisecond))
	err := p.mayStart(vm)
	var f *model.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, model.Refused, f.Kind)
	require.Contains(t, f.Error(), "its lease ran out")
	require.NotEmpty(t, f.Try)
	require.Equal(t, 1, strings.Count(f.Error(), "Try:"))
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"op":"arm","arm":{"uuid":"` + someVM + `","generation":1,"boot_id":"b","deadline":1,"mode":"sole","action":"freeze"}}`))
	f.Add([]byte(`{"op":"stop","uuid":"` + someVM + `","generation":2}`))
	f.Add([]byte(`{"op":"state"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err == nil && r.Op != opState && r.Op != opList && !uuidPattern.MatchString(r.UUID) {
			t.Fatalf("%q names a file", r.UUID)
		}
		if err == nil && r.Op == opArm && r.Arm.UUID != r.UUID {
			t.Fatal("two VMs in one request")
		}
	})
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nb"), 3)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		r := bufio.NewReaderSize(bytes.NewReader(b), 16)
		for {
			line, err := readLine(r, limit)
			if err != nil {
				return
			}
			if len(line) > limit {
				t.Fatal("longer than the limit")
			}
		}
	})
}
