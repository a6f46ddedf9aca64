package link

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"

	"understudy/internal/blockio/digest"
	"understudy/internal/model"
)

// receiver is one session on the standby. Four goroutines: read takes frames off the wire, look answers Looks, the
// handler's own applies batches, write is the only one that sends. Only look and the handler touch the staging area, and
// the handler waits for look, so nothing uses the area after it is closed. read and write may be stuck in the transport;
// they end when the handler has returned.
type receiver struct {
	s      *Server
	stream grpc.ServerStream
	spec   model.StagingSpec
	disks  disks
	ctx    context.Context
	end    context.CancelCauseFunc
	gone   chan struct{} // closed when the session has left the store

	staging Staging
	looks   chan look // closed by read at the orderly end, as is work
	work    chan *job
	out     chan []byte // frames to send; closed by the handler at the orderly end
	sent    chan struct{}

	next    []int64 // by disk: where the next batch may begin
	ack     []int64 // by disk: what was acknowledged
	cleared []int64
	pending int64 // bytes since the last acknowledgement
	last    int   // disk of the last batch
	digests []model.Digest
	parts   [][]byte // of one write
	flat    []byte   // the same in one piece
}

// job is a frame for the handler, with the buffers it lives in.
type job struct {
	kind  frameType
	frame frame
	batch Batch
	plain [][]byte // the data of the batch, decoded
	whole [1][]byte
	space []byte // where it is decoded to
	small []byte // what it is decoded from
}

// recycle gives the job's buffers back.
func (j *job) recycle() {
	j.frame.drop()
	j.plain, j.whole[0] = nil, nil
	jobs.Put(j)
}

var jobs = sync.Pool{New: func() any { return new(job) }}

const (
	workQueue = 4
	lookQueue = 64
	outQueue  = 64
)

func newReceiver(s *Server, stream grpc.ServerStream, spec model.StagingSpec) *receiver {
	ctx, end := context.WithCancelCause(stream.Context())
	n := len(spec.Disks)
	return &receiver{
		s: s, stream: stream, spec: spec, disks: spec.Disks, ctx: ctx, end: end, gone: make(chan struct{}),
		looks: make(chan look, lookQueue), work: make(chan *job, workQueue), out: make(chan []byte, outQueue), sent: make(chan struct{}),
		next: make([]int64, n), ack: make([]int64, n), cleared: make([]int64, n), digests: make([]model.Digest, maxBlocks),
	}
}

// why gives the reason for which the session was ended instead of "cancelled", where there is one.
func (r *receiver) why(err error) error {
	if r.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(r.ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// send hands a frame to write.
func (r *receiver) send(p []byte) error {
	select {
	case r.out <- p:
		return nil
	case <-r.ctx.Done():
		return r.why(r.ctx.Err())
	}
}

// write sends frames, and shows the sender every now and then that this side lives.
func (r *receiver) write() {
	defer close(r.sent)
	tick := time.NewTicker(r.s.alive)
	defer tick.Stop()
	for {
		var p []byte
		var ok bool
		select {
		case p, ok = <-r.out:
			if !ok {
				return
			}
		case <-tick.C:
			p = []byte{byte(frameAlive)}
		case <-r.ctx.Done():
			return
		}
		if err := r.stream.SendMsg(&frame{body: p}); err != nil {
			r.end(err)
			return
		}
	}
}

// run is the session after the staging area is open.
func (r *receiver) run(staging Staging) error {
	r.staging = staging
	acked := staging.Acked()
	for i, d := range r.disks {
		r.next[i] = min(max(acked[d.Target], 0), d.Size)
		r.ack[i] = r.next[i]
	}
	if err := r.send(opened{Host: r.s.self, Seed: staging.Seed(), Acked: r.ack}.encode()); err != nil {
		return err
	}
	r.s.helpers.Go(r.read)
	looked := make(chan struct{})
	r.s.helpers.Go(func() { defer close(looked); r.look() })
	err := r.apply()
	if err == nil {
		// The sender waits for what is still to be sent; if it does not, the stream's context ends.
		<-looked
		close(r.out)
		select {
		case <-r.sent:
		case <-r.ctx.Done():
		}
	}
	r.end(context.Canceled)
	<-looked
	return err
}

// read takes frames off the wire until the sender is done, the stream breaks or the session ends.
func (r *receiver) read() {
	inflater, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBatch),
		zstd.WithDecoderMaxWindow(MaxBatch), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		r.end(err)
		return
	}
	defer inflater.Close()
	for {
		j := jobs.Get().(*job)
		err := r.stream.RecvMsg(&j.frame)
		if isEnd(err) {
			close(r.looks)
			close(r.work)
			return
		}
		if err == nil {
			err = r.sort(j, inflater)
		}
		if err != nil {
			r.end(err)
			return
		}
	}
}

// sort decodes a frame and gives it to whom it is for.
func (r *receiver) sort(j *job, inflater *zstd.Decoder) (err error) {
	switch j.kind = j.frame.kind(); j.kind {
	case frameLook:
		l, err := decodeLook(j.frame.body, r.disks)
		j.recycle()
		if err != nil {
			return err
		}
		select {
		case r.looks <- l:
		case <-r.ctx.Done():
		}
		return nil
	case frameBatch:
		if err = decodeBatch(j.frame.body, total(j.frame.parts), r.disks, &j.batch); err == nil {
			err = j.decode(inflater)
		}
	case frameFinish:
		j.batch.Disk, err = decodeDisk(frameFinish, j.frame.body, r.disks)
	default:
		err = malformed("type %d during a session", j.kind)
	}
	if err != nil {
		return err
	}
	select {
	case r.work <- j:
	case <-r.ctx.Done():
	}
	return nil
}

// decode gives the batch's data its plain form. The decoder cannot write more than the batch says it has.
func (j *job) decode(inflater *zstd.Decoder) error {
	if j.batch.Encoding == Raw {
		j.plain = j.frame.parts
		return nil
	}
	if j.space == nil {
		j.space = make([]byte, MaxBatch)
	}
	plain, err := inflater.DecodeAll(join(j.frame.parts, &j.small), j.space[:0:j.batch.RawLen])
	if err != nil {
		return malformed("compressed data: %v", err)
	}
	if len(plain) != j.batch.RawLen {
		return malformed("compressed data of %d bytes where %d were announced", len(plain), j.batch.RawLen)
	}
	j.whole[0] = plain
	j.plain = j.whole[:]
	return nil
}

// look answers Looks, in order.
func (r *receiver) look() {
	digests := make([]model.Digest, maxBlocks)
	for {
		var l look
		var ok bool
		select {
		case l, ok = <-r.looks:
			if !ok {
				return
			}
		case <-r.ctx.Done():
			return
		}
		at := 0
		for _, run := range l.Runs {
			n := int(groups(run.Length, l.Grain))
			if err := r.fold(l, run.Run, digests[at:at+n]); err != nil {
				r.end(err)
				return
			}
			at += n
		}
		if r.send(encodeDigests(digests[:at])) != nil {
			return
		}
	}
}

// fold fills dst with the digests of a run, one for each group.
func (r *receiver) fold(l look, run model.Run, dst []model.Digest) error {
	target := r.disks[l.Disk].Target
	if l.Grain == 0 {
		return r.staging.Digests(r.ctx, target, run.Offset, dst)
	}
	one := make([]model.Digest, 1<<l.Grain)
	for i := range dst {
		off := run.Offset + int64(i)*groupSize(l.Grain)
		part := one[:blocks(min(groupSize(l.Grain), run.Offset+run.Length-off))]
		if err := r.staging.Digests(r.ctx, target, off, part); err != nil {
			return err
		}
		dst[i] = digest.Fold(r.staging.Seed(), part)
	}
	return nil
}

// apply is the handler's loop.
func (r *receiver) apply() error {
	tick := time.NewTicker(ackPeriod)
	defer tick.Stop()
	for {
		var err error
		select {
		case j, ok := <-r.work:
			if !ok {
				return r.acknowledge()
			}
			err = r.do(j)
			j.recycle()
		case <-tick.C:
			err = r.acknowledge()
		case <-r.ctx.Done():
			return r.interrupted()
		}
		if err != nil {
			return r.why(err)
		}
	}
}

// interrupted keeps what was received: the sender is gone, and a later session resumes from the last acknowledgement.
func (r *receiver) interrupted() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), ackPeriod)
	defer cancel()
	if d := r.disks[r.last]; r.next[r.last] > r.ack[r.last] && r.s.floors.Admit(r.spec.VM, r.spec.Generation) == nil {
		_ = r.staging.Ack(ctx, d.Target, r.next[r.last]) // best effort: less is resumed
	}
	return r.why(context.Cause(r.ctx))
}

func (r *receiver) do(j *job) error {
	if j.kind == frameFinish {
		return r.finish(j.batch.Disk)
	}
	b := &j.batch
	if b.Disk != r.last {
		if err := r.acknowledge(); err != nil {
			return err
		}
		r.last = b.Disk
	}
	if b.UpTo < r.next[b.Disk] || len(b.Ops) > 0 && b.Ops[0].Offset < r.next[b.Disk] {
		return malformed("a batch goes back before %d", r.next[b.Disk])
	}
	if err := r.store(b, j.plain); err != nil {
		return err
	}
	r.next[b.Disk] = b.UpTo
	if r.pending += int64(b.RawLen); r.pending >= ackBytes {
		return r.acknowledge()
	}
	return nil
}

// store puts one batch into the staging area.
func (r *receiver) store(b *Batch, plain [][]byte) error {
	target, digests := r.disks[b.Disk].Target, b.Digests
	for _, o := range b.Ops {
		var err error
		switch o.Kind {
		case OpData:
			n := blocks(o.Length)
			plain = r.cut(plain, o.Length)
			err = r.put(target, o.Offset, digests[:n])
			digests = digests[n:]
		case OpZero:
			err = r.staging.WriteZeroes(r.ctx, target, o.Offset, o.Length)
		case OpClear:
			err = r.clear(b.Disk, o.Run)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cut moves the first n bytes of plain to r.parts, and gives the rest.
func (r *receiver) cut(plain [][]byte, n int64) [][]byte {
	r.parts = r.parts[:0]
	for n > 0 {
		p := plain[0]
		if int64(len(p)) > n {
			p, plain[0] = p[:n], p[n:]
		} else {
			plain = plain[1:]
		}
		r.parts = append(r.parts, p)
		n -= int64(len(p))
	}
	return plain
}

// put hands r.parts to the staging area, as they are where it can take them so.
func (r *receiver) put(target string, off int64, digests []model.Digest) error {
	if s, ok := r.staging.(PartsWriter); ok {
		return s.WriteParts(r.ctx, target, off, r.parts, digests)
	}
	return r.staging.Write(r.ctx, target, off, join(r.parts, &r.flat), digests)
}

// clear zeroes the blocks of a run that are not zero in the parent point, without a word about the others.
func (r *receiver) clear(disk int, run model.Run) error {
	target, size := r.disks[disk].Target, r.disks[disk].Size
	end := run.Offset + run.Length
	from := int64(-1) // start of what must be zeroed
	flush := func(to int64) error {
		if from < 0 {
			return nil
		}
		off := from
		from = -1
		to = min(to, size)
		r.cleared[disk] += to - off
		return r.staging.WriteZeroes(r.ctx, target, off, to-off)
	}
	for off := run.Offset; off < end; off += MaxBatch {
		digests := r.digests[:blocks(min(end-off, MaxBatch))]
		if err := r.staging.Digests(r.ctx, target, off, digests); err != nil {
			return err
		}
		for i := range digests {
			at := off + int64(i)*model.BlockSize
			switch zero := digests[i] == (model.Digest{}); {
			case !zero && from < 0:
				from = at
			case zero:
				if err := flush(at); err != nil {
					return err
				}
			}
		}
	}
	return flush(end)
}

// acknowledge journals how far the current disk is, if there is news, and tells the sender. A takeover that raised the
// floor since the session was admitted ends it here.
func (r *receiver) acknowledge() error {
	if r.next[r.last] <= r.ack[r.last] {
		return nil
	}
	if err := r.s.floors.Admit(r.spec.VM, r.spec.Generation); err != nil {
		return err
	}
	if err := r.staging.Ack(r.ctx, r.disks[r.last].Target, r.next[r.last]); err != nil {
		return err
	}
	r.ack[r.last], r.pending = r.next[r.last], 0
	return r.send(acked{Disk: r.last, UpTo: r.ack[r.last], Cleared: r.cleared[r.last]}.encode())
}

func (r *receiver) finish(disk int) error {
	if disk != r.last {
		if err := r.acknowledge(); err != nil {
			return err
		}
		r.last = disk
	}
	if err := r.acknowledge(); err != nil {
		return err
	}
	if r.ack[disk] != r.disks[disk].Size {
		return malformed("disk %s is finished at %d of %d bytes", r.disks[disk].Target, r.ack[disk], r.disks[disk].Size)
	}
	if err := r.s.floors.Admit(r.spec.VM, r.spec.Generation); err != nil {
		return err
	}
	if err := r.staging.Finish(r.ctx, r.disks[disk].Target); err != nil {
		return err
	}
	return r.send(encodeDisk(frameFinished, disk))
}
