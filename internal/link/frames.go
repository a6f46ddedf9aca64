package link

import (
	"encoding/binary"
	"encoding/json"

	"understudy/internal/model"
)

// OpKind says what an Op does to its run.
type OpKind byte

// The operations of a Batch.
const (
	OpData  OpKind = iota // the run's bytes are in the payload
	OpZero                // the run became zeroes
	OpClear               // the run is zeroes at the source: the standby zeroes what is not so in the parent point
)

// Op is one operation of a Batch. Runs are made of whole blocks, in increasing order.
type Op struct {
	Kind OpKind
	model.Run
}

// Encoding of a payload.
type Encoding byte

// The encodings.
const (
	Raw  Encoding = iota
	Zstd          // one zstd frame, smaller than the data
)

// Batch is a stretch of one disk.
type Batch struct {
	Disk     int
	UpTo     int64 // everything below is in this batch or an earlier one, or unchanged
	Ops      []Op
	Digests  []model.Digest // of the source: one for each block of the data ops
	Encoding Encoding
	RawLen   int    // bytes of data, before compression
	Payload  []byte // as encoded; not copied
	// Done, if set, is called once when Payload may be used again. It is not called when the session has failed.
	Done func()
}

// disks is what both ends know of the disks of a session.
type disks []model.StagingDisk

func (d disks) size(i int) int64 { return d[i].Size }

func blocks(n int64) int64 { return (n + model.BlockSize - 1) / model.BlockSize }

// appendOps writes runs as distance from the end of the last one and length, in blocks: some four bytes each.
func appendOps(p []byte, ops []Op) []byte {
	p = binary.AppendUvarint(p, uint64(len(ops)))
	last := int64(0)
	for _, o := range ops {
		from, n := o.Offset/model.BlockSize, blocks(o.Length)
		p = binary.AppendUvarint(p, uint64(from-last)<<2|uint64(o.Kind))
		p = binary.AppendUvarint(p, uint64(n))
		last = from + n
	}
	return p
}

// ops reads what appendOps wrote into dst, inside a disk of the given size.
func (c *cursor) ops(dst []Op, size int64) []Op {
	total, last := blocks(size), int64(0)
	for range c.number(MaxOps, "number of runs") {
		head := c.number(total<<2|3, "start of a run")
		kind, from := OpKind(head&3), last+head>>2
		if kind > OpClear || from >= total {
			c.fail("run of kind %d at block %d of %d", kind, from, total)
		}
		n := c.number(max(total-from, 0), "length of a run")
		if n == 0 {
			c.fail("empty run")
		}
		if c.err != nil {
			return nil
		}
		off := from * model.BlockSize
		dst = append(dst, Op{kind, model.Run{Offset: off, Length: min(n*model.BlockSize, size-off)}})
		last = from + n
	}
	return dst
}

func (c *cursor) disk(d disks) int {
	i := int(c.byte())
	if i >= len(d) {
		c.fail("disk %d of %d", i, len(d))
		return 0
	}
	return i
}

func encodeOpen(spec model.StagingSpec) ([]byte, error) {
	p, err := json.Marshal(spec)
	return append([]byte{byte(frameOpen), version}, p...), err
}

func decodeOpen(p []byte) (spec model.StagingSpec, err error) {
	c := cursor{p: p}
	c.start(frameOpen)
	if v := c.byte(); v != version {
		c.fail("version %d of the protocol, this side speaks %d", v, version)
	}
	if c.err == nil {
		if err := json.Unmarshal(c.p, &spec); err != nil {
			return spec, malformed("%v", err)
		}
	}
	return spec, c.err
}

// checkSpec refuses what must not reach a store: names become paths there.
func checkSpec(s model.StagingSpec) error {
	switch {
	case !model.ValidUUID(s.VM.UUID):
		return malformed("%q is not the UUID of a VM", s.VM.UUID)
	case s.PointRef.IsZero() || s.Parent >= s.Seq:
		return malformed("point %s with parent %d", s.PointRef, s.Parent)
	case len(s.Disks) == 0 || len(s.Disks) > model.MaxDisks:
		return malformed("%d disks", len(s.Disks))
	}
	seen := map[string]bool{}
	for _, d := range s.Disks {
		if !model.ValidTarget(d.Target) || seen[d.Target] || d.Size <= 0 || d.Size > model.MaxDiskSize || d.Expect < 0 {
			return malformed("disk %q of %d bytes", d.Target, d.Size)
		}
		if d.Mode != model.ModeDelta && d.Mode != model.ModeResync && d.Mode != model.ModeFull {
			return malformed("disk %q of mode %q", d.Target, d.Mode)
		}
		seen[d.Target] = true
	}
	return nil
}

type opened struct {
	Host  model.HostID
	Seed  uint64
	Acked []int64 // by disk
}

func (o opened) encode() []byte {
	p := []byte{byte(frameOpened), byte(len(o.Host))}
	p = append(p, o.Host...)
	p = binary.LittleEndian.AppendUint64(p, o.Seed)
	for _, a := range o.Acked {
		p = binary.AppendUvarint(p, uint64(a))
	}
	return p
}

func decodeOpened(p []byte, d disks) (o opened, err error) {
	c := cursor{p: p}
	c.start(frameOpened)
	o.Host = model.HostID(c.take(int(c.byte())))
	o.Seed = c.uint64()
	for i := range d {
		o.Acked = append(o.Acked, c.number(d.size(i), "acknowledged offset"))
	}
	return o, c.end()
}

func encodeLook(disk, grain int, runs []Op) []byte {
	return appendOps([]byte{byte(frameLook), byte(disk), byte(grain)}, runs)
}

// look asks for one digest for each 2^grain blocks of its runs.
type look struct {
	Disk    int
	Grain   int
	Runs    []Op
	Digests int
}

func decodeLook(p []byte, d disks) (l look, err error) {
	c := cursor{p: p}
	c.start(frameLook)
	l.Disk, l.Grain = c.disk(d), int(c.byte())
	if l.Grain > MaxGrain {
		c.fail("digests of 2^%d blocks", l.Grain)
	}
	if c.err == nil {
		l.Runs = c.ops(nil, d.size(l.Disk))
	}
	total := int64(0)
	for _, r := range l.Runs {
		if r.Offset%groupSize(l.Grain) != 0 {
			c.fail("look at %d is not at a multiple of %d", r.Offset, groupSize(l.Grain))
		}
		if total += groups(r.Length, l.Grain); total > maxBlocks {
			break
		}
	}
	if total > maxBlocks {
		c.fail("more than %d digests asked for at once", maxBlocks)
	}
	l.Digests = int(total)
	return l, c.end()
}

// groupSize is what one digest of a Look stands for, in bytes; groups is how many a run takes.
func groupSize(grain int) int64 { return model.BlockSize << grain }

func groups(n int64, grain int) int64 { return (n + groupSize(grain) - 1) / groupSize(grain) }

func appendDigests(p []byte, ds []model.Digest) []byte {
	for i := range ds {
		p = append(p, ds[i][:]...)
	}
	return p
}

func encodeDigests(ds []model.Digest) []byte {
	return appendDigests(append(make([]byte, 0, 1+16*len(ds)), byte(frameDigests)), ds)
}

// decodeDigests fills dst, wholly.
func decodeDigests(p []byte, dst []model.Digest) error {
	c := cursor{p: p}
	c.start(frameDigests)
	c.digests(dst)
	return c.end()
}

func (c *cursor) digests(dst []model.Digest) {
	p := c.take(len(dst) * 16)
	if c.err != nil {
		return
	}
	for i := range dst {
		dst[i] = model.Digest(p[i*16:])
	}
}

func (b *Batch) frame() *frame {
	p := make([]byte, headSize, 40+8*len(b.Ops)+16*len(b.Digests))
	p[0] = byte(frameBatch)
	p = append(p, byte(b.Disk), byte(b.Encoding))
	p = binary.AppendUvarint(p, uint64(b.UpTo))
	p = binary.AppendUvarint(p, uint64(b.RawLen))
	p = appendOps(p, b.Ops)
	p = appendDigests(p, b.Digests)
	binary.LittleEndian.PutUint32(p[1:], uint32(len(p)))
	return &frame{body: p, tail: b.Payload, done: b.Done}
}

// decodeBatch reads a Batch whose payload of so many bytes follows p; Payload is left alone. Ops and Digests of b are used
// again.
func decodeBatch(p []byte, payload int, d disks, b *Batch) error {
	c := cursor{p: p}
	c.start(frameBatch)
	c.take(headSize - 1) // the length of p, which made p
	b.Disk, b.Encoding = c.disk(d), Encoding(c.byte())
	if c.err != nil {
		return c.err
	}
	size := d.size(b.Disk)
	b.UpTo = c.number(size, "offset")
	b.RawLen = int(c.number(MaxBatch, "length of data"))
	b.Ops = c.ops(b.Ops[:0], size)
	data, n, end := int64(0), int64(0), int64(0)
	for _, o := range b.Ops {
		if end = o.Offset + o.Length; o.Kind == OpData {
			data += o.Length
			n += blocks(o.Length)
			if data > MaxBatch {
				c.fail("more than %d bytes of data", MaxBatch)
				break
			}
		}
	}
	switch {
	case c.err != nil:
		return c.err
	case data != int64(b.RawLen):
		return malformed("%d bytes of data for runs of %d", b.RawLen, data)
	case b.UpTo < end || b.UpTo%model.BlockSize != 0 && b.UpTo != size:
		return malformed("checked up to %d with a run that ends at %d", b.UpTo, end)
	}
	if int64(cap(b.Digests)) < n {
		b.Digests = make([]model.Digest, maxBlocks)
	}
	b.Digests = b.Digests[:n]
	c.digests(b.Digests)
	if b.Encoding == Raw && payload != b.RawLen || b.Encoding == Zstd && payload >= b.RawLen || b.Encoding > Zstd {
		c.fail("payload of %d bytes, encoding %d, for %d bytes of data", payload, b.Encoding, b.RawLen)
	}
	return c.end()
}

type acked struct {
	Disk    int
	UpTo    int64
	Cleared int64 // bytes that clear operations of this session really zeroed
}

func (a acked) encode() []byte {
	p := binary.AppendUvarint([]byte{byte(frameAcked), byte(a.Disk)}, uint64(a.UpTo))
	return binary.AppendUvarint(p, uint64(a.Cleared))
}

func decodeAcked(p []byte, d disks) (a acked, err error) {
	c := cursor{p: p}
	c.start(frameAcked)
	if a.Disk = c.disk(d); c.err == nil {
		a.UpTo = c.number(d.size(a.Disk), "offset")
		a.Cleared = c.number(model.MaxDiskSize, "cleared bytes")
	}
	return a, c.end()
}

// encodeDisk makes a frame that names a disk and nothing else: Finish, Finished.
func encodeDisk(t frameType, disk int) []byte { return []byte{byte(t), byte(disk)} }

func decodeDisk(t frameType, p []byte, d disks) (int, error) {
	c := cursor{p: p}
	c.start(t)
	i := c.disk(d)
	return i, c.end()
}

func decodePong(p []byte) (model.HostID, error) {
	c := cursor{p: p}
	c.start(framePong)
	host := model.HostID(c.p)
	if c.err == nil && !model.ValidHostID(host) {
		c.fail("%q is not the name of a host", host)
	}
	return host, c.err
}
