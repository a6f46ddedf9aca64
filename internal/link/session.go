package link

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"understudy/internal/model"
)

// Session is one staging area, seen from the sender. Look, Send and Finish are safe for concurrent use, but the order of
// batches is the order of the calls. After the first error everything fails with it.
type Session struct {
	client *Client
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	disks  disks
	wire   wire
	ctx    context.Context
	cancel context.CancelCauseFunc

	host  model.HostID
	seed  uint64
	start []int64 // acknowledged when the session began

	sendMu sync.Mutex
	asked  chan *Reply // Looks without an answer, in order

	upTo     []atomic.Int64 // acknowledged by now
	cleared  []atomic.Int64
	finished []chan struct{}
	heard    atomic.Int64  // frames received
	over     chan struct{} // closed when the receiver goroutine has ended
	helpers  sync.WaitGroup
}

// Reply is the answer to a Look.
type Reply struct {
	ready chan struct{}
	dst   []model.Digest
}

// lookWindow bounds the Looks without an answer: digests of 64 MiB of disk.
const lookWindow = 64

// errClosed is why calls fail after Close.
var errClosed = errors.New("link: session is closed")

// Stage opens a session. Close it.
func (c *Client) Stage(ctx context.Context, spec model.StagingSpec) (*Session, error) {
	if err := checkSpec(spec); err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "opening a staging area").WithVM(spec.VM.Name)
	}
	open, err := encodeOpen(spec)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "opening a staging area").WithVM(spec.VM.Name)
	}
	n := len(spec.Disks)
	s := &Session{client: c, disks: spec.Disks, asked: make(chan *Reply, lookWindow), over: make(chan struct{}),
		upTo: make([]atomic.Int64, n), cleared: make([]atomic.Int64, n), finished: make([]chan struct{}, n)}
	for i := range s.finished {
		s.finished[i] = make(chan struct{})
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if s.conn, err = c.connect(&s.wire); err != nil {
		s.cancel(err)
		return nil, err
	}
	if err := s.handshake(open); err != nil {
		s.cancel(errClosed)
		s.helpers.Wait()
		_ = s.conn.Close()
		return nil, s.named(err, spec.VM.Name)
	}
	return s, nil
}

const what = "replicating to the agent"

func (s *Session) handshake(open []byte) error {
	desc := &grpc.StreamDesc{StreamName: methodStage, ServerStreams: true, ClientStreams: true}
	var err error
	if s.stream, err = s.conn.NewStream(s.ctx, desc, fullStage); err != nil {
		return fromStatus(s.ctx, err, nil, s.client.address, what)
	}
	s.helpers.Go(s.watch)
	if err := s.stream.SendMsg(&frame{body: open}); err != nil && !errors.Is(err, io.EOF) {
		return fromStatus(s.ctx, err, nil, s.client.address, what)
	}
	f := &frame{}
	for {
		if err := s.stream.RecvMsg(f); err != nil {
			return s.broken(err)
		}
		s.heard.Add(1)
		if f.kind() != frameAlive {
			break
		}
	}
	o, err := decodeOpened(f.body, s.disks)
	if err != nil {
		return s.broken(err)
	}
	s.host, s.seed, s.start = o.Host, o.Seed, o.Acked
	for i, a := range o.Acked {
		s.upTo[i].Store(a)
	}
	s.helpers.Go(s.receive)
	return nil
}

// Seed of the digests.
func (s *Session) Seed() uint64 { return s.seed }

// Host is the name of the standby.
func (s *Session) Host() model.HostID { return s.host }

// Resume is the offset below which an earlier session's bytes of a disk were kept.
func (s *Session) Resume(disk int) int64 { return s.start[disk] }

// Acked is the offset below which the standby has journaled a disk by now.
func (s *Session) Acked(disk int) int64 { return s.upTo[disk].Load() }

// Cleared is the number of bytes that OpClear really zeroed, as of the last acknowledgement.
func (s *Session) Cleared(disk int) int64 { return s.cleared[disk].Load() }

// Wire is the number of bytes sent and received on the session's connection.
func (s *Session) Wire() (sent, received int64) { return s.wire.sent.Load(), s.wire.received.Load() }

// Look asks for the parent point's digests of runs, which are at most MaxBatch long together. dst, one for each block, is
// filled when the Reply is there; until then, or until the session is closed, it belongs to the session.
func (s *Session) Look(ctx context.Context, disk int, runs []model.Run, dst []model.Digest) (*Reply, error) {
	return s.LookAt(ctx, disk, 0, runs, dst)
}

// LookAt is Look with one digest (digest.Fold) for each 2^grain blocks. Runs begin at multiples of so many blocks; there are
// at most MaxBatch/BlockSize digests.
func (s *Session) LookAt(ctx context.Context, disk, grain int, runs []model.Run, dst []model.Digest) (*Reply, error) {
	r := &Reply{ready: make(chan struct{}), dst: dst}
	ops := make([]Op, len(runs))
	for i, run := range runs {
		ops[i] = Op{Run: run}
	}
	f := &frame{body: encodeLook(disk, grain, ops)}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	select {
	case s.asked <- r:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, s.Err()
	}
	return r, s.send(f)
}

// Wait until the digests are in dst.
func (s *Session) Wait(ctx context.Context, r *Reply) error {
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return s.Err()
	}
}

// Send sends a batch. It returns when the transport has taken it, which is held back by the speed of the standby.
func (s *Session) Send(b *Batch) error {
	f := b.frame()
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.send(f)
}

// WireSize is about what a batch takes on the wire.
func (b *Batch) WireSize() int {
	return len(b.Payload) + 16*len(b.Digests) + 5*len(b.Ops) + 64
}

func (s *Session) send(f *frame) error {
	err := s.stream.SendMsg(f)
	if err == nil {
		return nil
	}
	// The reason comes with the receiving side.
	select {
	case <-s.over:
	case <-s.ctx.Done():
	}
	s.cancel(s.broken(err))
	return s.Err()
}

// Finish says that a disk is complete and waits until it is durable on the standby.
func (s *Session) Finish(ctx context.Context, disk int) error {
	s.sendMu.Lock()
	err := s.send(&frame{body: encodeDisk(frameFinish, disk)})
	s.sendMu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-s.finished[disk]:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return s.Err()
	}
}

// Context ends with the session.
func (s *Session) Context() context.Context { return s.ctx }

// Err is why the session ended, or nil.
func (s *Session) Err() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}

// Close ends the session; what the standby acknowledged is kept there. After a success it waits for the standby's
// goodbye, so that the staging area is free when it returns.
func (s *Session) Close() error {
	var err error
	if s.Err() == nil {
		s.sendMu.Lock()
		_ = s.stream.CloseSend()
		s.sendMu.Unlock()
		select {
		case <-s.over:
		case <-s.ctx.Done():
		}
		if cause := s.Err(); cause != nil && !errors.Is(cause, errClosed) {
			err = cause
		}
	}
	s.cancel(errClosed)
	closeErr := s.conn.Close()
	s.helpers.Wait()
	return errors.Join(err, closeErr)
}

// broken explains an error of the stream.
func (s *Session) broken(err error) error {
	if cause := s.Err(); cause != nil {
		return cause
	}
	if errors.Is(err, errFrame) {
		return down(err, s.client.address, what)
	}
	return fromStatus(s.ctx, err, s.stream.Trailer(), s.client.address, what)
}

func (s *Session) named(err error, vm string) error {
	var f *model.Failure
	if errors.As(err, &f) && f.VM == "" {
		f.VM = vm
	}
	return err
}

// receive takes the standby's frames until the stream ends. It never waits for the sender, so the standby can always go on.
func (s *Session) receive() {
	defer close(s.over)
	f := &frame{}
	for {
		err := s.stream.RecvMsg(f)
		if errors.Is(err, io.EOF) {
			s.cancel(errClosed)
			return
		}
		if err == nil {
			s.heard.Add(1)
			err = s.take(f)
		}
		if err != nil {
			s.cancel(s.broken(err))
			return
		}
	}
}

func (s *Session) take(f *frame) error {
	switch f.kind() {
	case frameAlive:
		return nil
	case frameDigests:
		select {
		case r := <-s.asked:
			if err := decodeDigests(f.body, r.dst); err != nil {
				return err
			}
			close(r.ready)
			return nil
		default:
			return malformed("digests that nobody asked for")
		}
	case frameAcked:
		a, err := decodeAcked(f.body, s.disks)
		if err == nil {
			s.upTo[a.Disk].Store(a.UpTo)
			s.cleared[a.Disk].Store(a.Cleared)
		}
		return err
	case frameFinished:
		i, err := decodeDisk(frameFinished, f.body, s.disks)
		if err != nil {
			return err
		}
		select {
		case <-s.finished[i]:
			return malformed("disk %d finished twice", i)
		default:
			close(s.finished[i])
		}
		return nil
	default:
		return malformed("type %d during a session", f.kind())
	}
}

// watch ends the session when the standby is silent: it says every two seconds that it lives. Seconds are counted, not
// measured, so that a pause of this very process does not count against the standby.
func (s *Session) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	heard, silent := s.heard.Load(), 0
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		if now := s.heard.Load(); now != heard {
			heard, silent = now, 0
			continue
		}
		if silent++; silent >= s.client.silence {
			s.cancel(down(nil, s.client.address, "nothing was heard for some seconds while replicating to the agent"))
			return
		}
	}
}
