package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"

	"understudy/internal/model"
)

// maxCalls at once: only root can connect, and a caller that hangs must not cost the others.
const maxCalls = 64

// serve answers on the socket until ctx ends.
func (g *Guard) serve(ctx context.Context) error {
	path := Socket(g.o.RunDir)
	_ = os.Remove(path) // ours: the lock of the folder is held
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return model.Fail(model.Internal, err, "cannot listen on %s", path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return model.Fail(model.Internal, err, "cannot keep others off %s", path)
	}
	var calls sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	free := make(chan struct{}, maxCalls)
	for {
		conn, err := l.Accept()
		if err != nil {
			calls.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return model.Fail(model.Internal, err, "the socket failed")
		}
		select {
		case free <- struct{}{}:
		default:
			reply(conn, failed(model.Fail(model.Unreachable, nil, "the guard has %d calls already", maxCalls)))
			_ = conn.Close()
			continue
		}
		calls.Add(1)
		go func() {
			defer calls.Done()
			defer func() { <-free }()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer conn.Close()
			g.talk(ctx, conn)
		}()
	}
}

// talk answers one connection. A line that is no request ends it: what follows cannot be trusted to be in step.
func (g *Guard) talk(ctx context.Context, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		line, err := readLine(r, maxLine)
		if errors.Is(err, errLineTooLong) {
			reply(conn, failed(model.Fail(model.InvalidArgument, err, "not a request")))
		}
		if err != nil {
			return
		}
		req, err := decodeRequest(line)
		if err != nil {
			reply(conn, failed(err))
			return
		}
		if !reply(conn, g.do(ctx, req)) {
			return
		}
	}
}

func (g *Guard) do(ctx context.Context, r request) answer {
	a := answer{OK: true}
	var err error
	switch r.Op {
	case opArm:
		err = g.Arm(*r.Arm)
	case opForget:
		err = g.Forget(r.UUID)
	case opStop:
		err = g.Stop(ctx, r.UUID, r.Generation)
	case opFreeze:
		err = g.Freeze(ctx, r.UUID, r.Generation)
	case opMayStart:
		err = g.MayStart(r.UUID)
	case opState:
		s := g.State()
		a.State = &s
	case opList:
		a.List = g.List()
	}
	if err != nil {
		return failed(err)
	}
	return a
}

func reply(conn net.Conn, a answer) bool {
	b, err := json.Marshal(a)
	if err != nil {
		return false
	}
	_, err = conn.Write(append(b, '\n'))
	return err == nil
}
