package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/blockio/file"
	"understudy/internal/blockio/qemuimg"
	"understudy/internal/blockio/qemunbd"
	"understudy/internal/model"
)

const (
	journalEvery = 500 * time.Millisecond
	journalBytes = 64 << 20
	hastenBytes  = 16 << 20 // written between two hints to the kernel
	roomBytes    = 32 << 20 // written between two looks at the free space
	// closeGrace is what a closing session spends on a last journal.
	closeGrace = 10 * time.Second
	// lockWait is how long the qemu-nbd of a killed agent may take to end before its image is given up.
	lockWait = 15 * time.Second
	maxMarks = 4096
)

// keeps tells whether what was journaled is still good after an error of the image.
func keeps(err error) bool {
	return errors.Is(err, blockio.ErrDisconnected) || errors.Is(err, blockio.ErrClosed)
}

// mark says how long the log was after the run that ended at end.
type mark struct{ end, log int64 }

// stagedDisk receives one disk. mu is held for all of it but the digests of the parent.
type stagedDisk struct {
	store *Store
	spec  model.StagingDisk
	image model.Image // its own layer first
	seed  uint64
	below string // the file in the chain that the overlay lies on; "" for a base
	files struct{ image, log, ack, table string }

	mu       sync.Mutex
	log      *os.File
	slot     *os.File
	logged   int64  // bytes of the log
	end      int64  // of the last run in it
	marks    []mark // since the last journal, oldest first
	upTo     int64  // as the sender told
	ack      ack    // as journaled
	unsaved  int64  // bytes written since the last journal
	unlooked int64  // bytes written since the last look at the free space
	last     time.Time
	record   []byte
	flat     []byte         // parts of a write, joined
	lazy     int64          // bytes of a raw image that the kernel was not told to write
	hastened int64          // where they begin
	target   blockio.Target // nil until the first write
	server   *qemunbd.Server

	tableMu sync.Mutex
	table   *table         // nil for a base
	parent  blockio.Source // what lies below, when the parent itself is to be read; nil until it was
	scratch []byte
}

func newStagedDisk(s *Store, r *replica, dir string, spec model.StagingDisk, parent model.Seq) *stagedDisk {
	d := &stagedDisk{store: s, spec: spec, image: r.stagedImage(dir, spec, parent), seed: r.chain.Seed}
	d.files.image = d.image.Layers[0].Path
	d.files.log = inStaging(dir, spec.Target, "log")
	d.files.ack = inStaging(dir, spec.Target, "ack")
	d.files.table = r.home.digests(spec.Target)
	if spec.Mode != model.ModeFull {
		d.below = r.chain.Disks[spec.Target][r.chain.at(spec.Target, parent)].File
	}
	return d
}

// stagedImage is a staged disk with what lies below it.
func (r *replica) stagedImage(dir string, spec model.StagingDisk, parent model.Seq) model.Image {
	format := layerFormat(layerName(model.PointRef{}, spec.Mode))
	own := model.ImageLayer{Path: inStaging(dir, spec.Target, string(format)), Format: format}
	img := model.Image{Target: spec.Target, Size: spec.Size, Layers: []model.ImageLayer{own}}
	if spec.Mode == model.ModeFull {
		return img
	}
	below, _ := r.chain.image(r.home, spec.Target, parent)
	img.ParentSize = below.Size
	img.Layers = append(img.Layers, below.Layers...)
	return img
}

// open makes the files, or goes on with them where their journal says.
func (d *stagedDisk) open(ctx context.Context) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = time.Now()
	if d.below != "" {
		if d.table, err = openTable(d.files.table, false); err != nil {
			return err
		}
	}
	if d.log, err = os.OpenFile(d.files.log, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if d.slot, err = os.OpenFile(d.files.ack, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if d.ack = d.journaled(); d.ack.Log == 0 {
		return d.fresh(ctx)
	}
	return d.resume(ctx)
}

// journaled is what the slot says, if log and image are there to back it.
func (d *stagedDisk) journaled() ack {
	var p [ackSize]byte
	n, _ := d.slot.ReadAt(p[:], 0)
	a := decodeAck(p[:n], d.spec.Size)
	st, err := d.log.Stat()
	if err != nil || st.Size() < a.Log {
		return ack{}
	}
	if there, err := exists(d.files.image); err != nil || !there {
		return ack{}
	}
	return a
}

// fresh starts with nothing. The journal goes first: what it said is over. The image is made under its own name at once,
// as no journal speaks for it yet, and a qemu-nbd that still has an old one open keeps writing to a file without a name.
func (d *stagedDisk) fresh(ctx context.Context) error {
	if err := errors.Join(d.slot.Truncate(0), d.log.Truncate(0)); err != nil {
		return err
	}
	if err := os.Remove(d.files.image); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := d.log.WriteAt(logHeader(d.seed, d.spec.Size), 0); err != nil {
		return err
	}
	d.logged = logHeaderSize
	if d.below != "" {
		return d.store.overlay(ctx, d.files.image, d.spec, d.below)
	}
	f, err := file.Create(d.files.image, d.spec.Size)
	if err != nil {
		return err
	}
	d.target = f
	return nil
}

// overlay makes an empty image on top of a layer of the chain, from two folders below the replica's.
func (s *Store) overlay(ctx context.Context, path string, d model.StagingDisk, below string) error {
	if err := s.img.CreateOverlay(ctx, path, d.Size, backingName(d.Target, below), layerFormat(below)); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

// resume goes back to the journal: what came after it is forgotten, and is sent again.
func (d *stagedDisk) resume(ctx context.Context) error {
	if d.ack.Finished {
		return nil
	}
	if err := d.log.Truncate(d.ack.Log); err != nil {
		return err
	}
	d.logged, d.end, d.upTo = d.ack.Log, d.ack.Acked, d.ack.Acked
	if d.below != "" {
		return nil
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	return d.target.WriteZeroes(ctx, d.ack.Acked, d.spec.Size-d.ack.Acked)
}

// begin opens the image for writing.
func (d *stagedDisk) begin(ctx context.Context) error {
	if d.target != nil {
		return nil
	}
	if d.below == "" {
		f, err := file.Open(d.files.image, file.Options{})
		if err == nil {
			d.target = f
		}
		return err
	}
	if err := unlocked(ctx, d.files.image); err != nil {
		return err
	}
	server, target, err := d.store.serve(ctx, d.image, false)
	if err == nil {
		d.server, d.target = server, target
	}
	return err
}

// unlocked waits until no QEMU has the image open: the qemu-nbd of a killed agent lives on for a moment.
func unlocked(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		used, err := qemuimg.InUse(path)
		if err != nil || !used {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", path, qemuimg.ErrLocked)
		}
	}
}

func (d *stagedDisk) digests(ctx context.Context, off int64, dst []model.Digest) error {
	if d.below == "" {
		clear(dst)
		return nil
	}
	d.tableMu.Lock()
	defer d.tableMu.Unlock()
	if d.table == nil {
		return fmt.Errorf("%w: closed", errTable)
	}
	if err := d.table.read(off/model.BlockSize, dst, &d.scratch); err != nil || !d.spec.Reread {
		return err
	}
	return d.reread(ctx, off, dst)
}

// reread replaces digests by those of what the parent's images hold now. Beyond the parent's end the table's zeroes stay.
func (d *stagedDisk) reread(ctx context.Context, off int64, dst []model.Digest) error {
	below := d.image
	below.Layers, below.Size = d.image.Layers[1:], d.image.ParentSize
	if d.parent == nil {
		src, err := d.store.OpenImage(ctx, below)
		if err != nil {
			return err
		}
		d.parent = src
	}
	n := min(int64(len(dst))*model.BlockSize, below.Size-off)
	if n <= 0 {
		return nil
	}
	data := make([]byte, n)
	if err := d.parent.ReadAt(ctx, data, off); err != nil {
		return err
	}
	digest.Blocks(d.seed, data, dst[:digest.Count(n)])
	return nil
}

// check refuses what does not follow on what is logged.
func (d *stagedDisk) check(run model.Run) error {
	if d.ack.Finished {
		return model.Fail(model.InvalidArgument, nil, "disk %s is complete", d.spec.Target)
	}
	if err := checkRun(run, d.end, d.spec.Size); err != nil {
		return model.Fail(model.InvalidArgument, err, "receiving disk %s", d.spec.Target)
	}
	return nil
}

func (d *stagedDisk) write(ctx context.Context, off int64, parts [][]byte, digests []model.Digest) error {
	run := model.Run{Offset: off}
	for _, p := range parts {
		run.Length += int64(len(p))
	}
	if err := d.check(run); err != nil {
		return err
	}
	if int64(len(digests)) != digest.Count(run.Length) {
		return model.Fail(model.InvalidArgument, nil, "%d digests for %d bytes of disk %s", len(digests), run.Length, d.spec.Target)
	}
	if err := d.looked(run.Length); err != nil {
		return err
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	if err := d.put(ctx, parts, run); err != nil {
		return err
	}
	d.record = d.record[:0]
	for rest := run; rest.Length > 0; {
		n := min(rest.Length, maxRecord*model.BlockSize)
		k := digest.Count(n)
		d.record = appendRecord(d.record, model.Run{Offset: rest.Offset, Length: n}, digests[:k])
		rest.Offset, rest.Length, digests = rest.Offset+n, rest.Length-n, digests[k:]
	}
	return d.logRun(run)
}

// hasten has the kernel write while more comes in, so that finish does not wait for all of it.
func (d *stagedDisk) hasten(f *file.File, run model.Run) {
	if d.lazy += run.Length; d.lazy >= hastenBytes {
		end := run.Offset + run.Length
		f.Begin(d.hastened, end-d.hastened)
		d.hastened, d.lazy = end, 0
	}
}

// put writes to the image.
func (d *stagedDisk) put(ctx context.Context, parts [][]byte, run model.Run) error {
	if f, ok := d.target.(*file.File); ok {
		if err := f.WriteParts(ctx, parts, run.Offset); err != nil {
			return err
		}
		d.hasten(f, run)
		return nil
	}
	if len(parts) == 1 {
		return d.target.WriteAt(ctx, parts[0], run.Offset)
	}
	d.flat = d.flat[:0]
	for _, p := range parts {
		d.flat = append(d.flat, p...)
	}
	return d.target.WriteAt(ctx, d.flat, run.Offset)
}

func (d *stagedDisk) zero(ctx context.Context, off, length int64) error {
	run := model.Run{Offset: off, Length: length}
	if err := d.check(run); err != nil {
		return err
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	if err := d.target.WriteZeroes(ctx, off, length); err != nil {
		return err
	}
	d.record = appendRecord(d.record[:0], run, nil)
	return d.logRun(run)
}

// logRun appends d.record. A record that was written in part is written over by the next one, or cut off by a resume.
func (d *stagedDisk) logRun(run model.Run) error {
	if _, err := d.log.WriteAt(d.record, d.logged); err != nil {
		return err
	}
	d.logged += int64(len(d.record))
	d.end = run.Offset + run.Length
	d.unsaved += run.Length
	if len(d.marks) == maxMarks { // keep every other one: an acknowledgement between them means a little less
		for i := range maxMarks / 2 {
			d.marks[i] = d.marks[2*i+1]
		}
		d.marks = d.marks[:maxMarks/2]
	}
	d.marks = append(d.marks, mark{d.end, d.logged})
	return nil
}

// looked keeps the reserve free: a VM that runs here on an overlay of its own must not be stopped by replication.
func (d *stagedDisk) looked(more int64) error {
	d.unlooked += more
	if d.unlooked < roomBytes {
		return nil
	}
	d.unlooked = 0
	free, _, err := d.store.free()
	if err == nil && free < d.store.opts.Reserve {
		return fmt.Errorf("%d bytes are free, of which %d are in reserve: %w", free, d.store.opts.Reserve, unix.ENOSPC)
	}
	return err
}

func (d *stagedDisk) acknowledge(ctx context.Context, upTo int64) error {
	if upTo < 0 || upTo > d.spec.Size || upTo%model.BlockSize != 0 && upTo != d.spec.Size {
		return model.Fail(model.InvalidArgument, nil, "acknowledging disk %s up to %d", d.spec.Target, upTo)
	}
	if d.ack.Finished {
		return nil
	}
	d.upTo = max(d.upTo, upTo)
	if d.unsaved < journalBytes && time.Since(d.last) < journalEvery {
		return nil
	}
	return d.journal(ctx)
}

// journal writes the slot. The flush before it makes sure that a kill of qemu-nbd, which holds the image's tables in
// memory, loses nothing of what the slot says is there; a raw file needs none.
func (d *stagedDisk) journal(ctx context.Context) error {
	a := ack{Acked: d.ack.Acked, Log: max(d.ack.Log, logHeaderSize)}
	if d.upTo >= d.end {
		a = ack{Acked: d.upTo, Log: d.logged}
	} else {
		for _, m := range d.marks {
			if m.end <= d.upTo {
				a = ack{Acked: m.end, Log: m.log}
			}
		}
	}
	d.last, d.unsaved = time.Now(), 0
	if a == d.ack {
		return nil
	}
	if d.server != nil {
		if err := d.target.Flush(ctx); err != nil {
			return err
		}
	}
	return d.save(a)
}

func (d *stagedDisk) save(a ack) error {
	if _, err := d.slot.WriteAt(a.encode(), 0); err != nil {
		return err
	}
	d.ack = a
	kept := d.marks[:0]
	for _, m := range d.marks {
		if m.end > a.Acked {
			kept = append(kept, m)
		}
	}
	d.marks = kept
	return nil
}

// finish makes image and log durable and closes them. Stopping qemu-nbd is no flush, and it may write once more when it
// ends: so flush, stop, and sync the file.
func (d *stagedDisk) finish(ctx context.Context) error {
	if d.ack.Finished {
		return nil
	}
	if d.server != nil {
		if err := d.target.Flush(ctx); err != nil {
			return err
		}
	}
	if err := d.release(); err != nil {
		return err
	}
	if err := qemuimg.Sync(d.files.image); err != nil {
		return err
	}
	if err := d.log.Truncate(d.logged); err != nil {
		return err
	}
	if err := d.log.Sync(); err != nil {
		return err
	}
	return d.save(ack{Acked: d.spec.Size, Log: d.logged, Finished: true})
}

// release closes the image. Stopping is bounded by itself: a caller that gives up must not have qemu-nbd killed.
func (d *stagedDisk) release() error {
	if d.target == nil {
		return nil
	}
	err := d.target.Close()
	if d.server != nil {
		err = errors.Join(err, d.server.Stop(context.Background()))
	}
	d.target, d.server = nil, nil
	return err
}

// close ends the session of the disk. With save, what was acknowledged is journaled first; when that fails, less is.
func (d *stagedDisk) close(save bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if save && !d.ack.Finished && d.slot != nil && d.logged > 0 {
		_ = d.journal(ctx)
	}
	_ = d.release()
	for _, f := range []*os.File{d.log, d.slot} {
		if f != nil {
			_ = f.Close()
		}
	}
	d.tableMu.Lock()
	defer d.tableMu.Unlock()
	if d.table != nil {
		_ = d.table.close()
		d.table = nil
	}
	if d.parent != nil {
		_ = d.parent.Close()
		d.parent = nil
	}
}
