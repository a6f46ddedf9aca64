package recoverypoint

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/blockio/qemuimg"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// DefaultReserve is what must stay free on the store's file system (256 MiB): manifests, digests and a running VM's
// overlay need room when replication has none.
const DefaultReserve = 256 << 20

// Options of a Store. The zero value is for production.
type Options struct {
	// Reserve is the space that staging leaves free, bytes; 0 is DefaultReserve, negative is none.
	Reserve int64
	// RunDir is where the sockets of qemu-nbd go; "" is a folder in the store. A socket's path has at most 107 bytes.
	RunDir string
	// QemuNBD and QemuImg are the binaries; "" finds them in PATH.
	QemuNBD, QemuImg string
	// BootID identifies this boot of the host; "" asks the kernel. What was staged in an earlier boot may have lost pages
	// and is dropped.
	BootID string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Fault, if set, is called at every step that changes the store, and makes it fail. For tests and drills.
	Fault func(step string) error
}

// Store is the replicas on one host. Its methods are safe for concurrent use; calls about one VM take turns.
type Store struct {
	root string
	opts Options
	img  qemuimg.Tool
	lock *os.File

	mu     sync.Mutex
	vms    map[string]*replica
	closed bool
	socket int // numbers sockets

	plans sync.WaitGroup // retention that goes on since the store was opened
}

// replica is one VM's folder. turn is held while its state is read or changed.
type replica struct {
	home home
	turn chan struct{} // of capacity 1: a lock that a context can end the wait for

	chain  chain
	points []model.Point // committed, oldest first
	broken error         // why this replica could not be opened; everything but Remove fails with it
	open   *Staging      // the session that is receiving
	// unsettled: something failed half way; recover runs before the next use.
	unsettled bool

	view atomic.Pointer[view] // nil: take the turn and look

	hurryMu sync.Mutex
	hurry   context.CancelFunc // ends a retention that is under way
}

// view is what can be read of a replica without its turn, which a merge may hold for long. It is never changed.
type view struct {
	chain  chain
	points []model.Point
	err    error
}

// show renews the view. The turn is held.
func (r *replica) show() *view {
	v := &view{chain: r.chain, points: r.points, err: r.broken}
	if r.unsettled || v.err == nil && r.chain.Format == 0 {
		r.view.Store(nil)
		return v
	}
	r.view.Store(v)
	return v
}

// Open opens the store at root, making it if needed, and finishes what a crash left: a commit that did not happen is
// taken back, digests of one that did are applied, a retention plan is run to its end. A replica that cannot be opened
// does not keep the others from being used; its own calls fail with the reason. Only one process may have a store open.
func Open(root string, opts Options) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "opening the store %s", root)
	}
	if err := opts.fill(root); err != nil {
		return nil, model.Fail(model.Internal, err, "opening the store %s", root)
	}
	if err := errors.Join(os.MkdirAll(root, 0o700), os.MkdirAll(opts.RunDir, 0o700)); err != nil {
		return nil, ioFailure(err, "opening the store %s", root)
	}
	s := &Store{root: root, opts: opts, img: qemuimg.Tool{Binary: opts.QemuImg}, vms: map[string]*replica{}}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		_ = s.lock.Close()
		return nil, ioFailure(err, "listing the store %s", root)
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), trashMark):
			_ = os.RemoveAll(filepath.Join(root, e.Name()))
		case e.IsDir() && model.ValidUUID(e.Name()):
			r := s.newReplica(e.Name())
			r.broken = s.recover(context.Background(), r)
			r.show()
			s.vms[e.Name()] = r
		}
	}
	s.sweepSockets()
	for _, r := range s.vms {
		if begun, err := exists(r.home.plan()); err == nil && begun {
			s.plans.Go(func() { s.finishPlan(r) })
		}
	}
	return s, nil
}

func (o *Options) fill(root string) error {
	switch {
	case o.Reserve == 0:
		o.Reserve = DefaultReserve
	case o.Reserve < 0:
		o.Reserve = 0
	}
	if o.RunDir == "" {
		o.RunDir = filepath.Join(root, runDir)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BootID != "" {
		return nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	o.BootID = strings.TrimSpace(string(b))
	return err
}

func (s *Store) takeLock() error {
	path := filepath.Join(s.root, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return ioFailure(err, "opening the store %s", s.root)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return model.Fail(model.Conflict, err, "the store %s is open in another process", s.root).
			WithTry("stop the other agent of this host, or give this one its own --store")
	}
	s.lock = f
	return nil
}

// Close ends all sessions and gives the store free. What was staged can be resumed later.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	vms := make([]*replica, 0, len(s.vms))
	for _, r := range s.vms {
		vms = append(vms, r)
	}
	s.mu.Unlock()
	for _, r := range vms {
		r.interrupt()
		r.turn <- struct{}{}
		if r.open != nil {
			r.open.shut()
		}
		<-r.turn
	}
	s.plans.Wait()
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return ioFailure(err, "closing the store %s", s.root)
	}
	return nil
}

// Root is the folder of the store.
func (s *Store) Root() string { return s.root }

func (s *Store) newReplica(uuid string) *replica {
	return &replica{home: home(filepath.Join(s.root, uuid)), turn: make(chan struct{}, 1)}
}

// enter takes the turn of a VM's replica; leave gives it back. Without create, an unknown VM is NotFound.
func (s *Store) enter(ctx context.Context, vm model.VMRef, create bool) (*replica, error) {
	r, err := s.turnOf(ctx, vm, create)
	if err != nil {
		return nil, err
	}
	if r.unsettled {
		if r.open != nil {
			r.open.shut()
		}
		if err = s.recover(ctx, r); err == nil {
			r.unsettled = false
		}
	}
	switch {
	case err != nil:
	case r.broken != nil:
		err = r.broken
	case r.chain.Format == 0 && create:
		err = s.found(r, vm)
	case r.chain.Format == 0:
		err = noReplica(vm)
	}
	if err != nil {
		r.leave()
		return nil, err
	}
	return r, nil
}

// unlessMissing: to a VM without replica there is nothing to do, and that is success.
func unlessMissing(err error) error {
	if model.KindOf(err) == model.NotFound {
		return nil
	}
	return err
}

// nothingStaged tells a staging area that is gone with its whole replica like one that is gone alone.
func nothingStaged(err error, vm model.VMRef, p model.PointRef) error {
	if model.KindOf(err) == model.NotFound {
		return model.Fail(model.StagingLost, err, "nothing is staged for point %s", p).WithVM(vm.Name)
	}
	return err
}

// enterNow is enter for what cannot wait for retention.
func (s *Store) enterNow(ctx context.Context, vm model.VMRef, create bool) (*replica, error) {
	s.mu.Lock()
	r := s.vms[vm.UUID]
	s.mu.Unlock()
	if r != nil {
		r.interrupt()
	}
	return s.enter(ctx, vm, create)
}

// turnOf takes the turn of a replica in whatever state it is.
func (s *Store) turnOf(ctx context.Context, vm model.VMRef, create bool) (*replica, error) {
	if !model.ValidUUID(vm.UUID) {
		return nil, model.Fail(model.InvalidArgument, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	s.mu.Lock()
	r := s.vms[vm.UUID]
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, model.Fail(model.Internal, nil, "the store is closed")
	case r == nil && !create:
		s.mu.Unlock()
		return nil, noReplica(vm)
	case r == nil:
		r = s.newReplica(vm.UUID)
		s.vms[vm.UUID] = r
	}
	s.mu.Unlock()
	select {
	case r.turn <- struct{}{}:
		return r, nil
	case <-ctx.Done():
		return nil, model.Fail(model.Internal, ctx.Err(), "waiting for the replica of %s", vm.Name)
	}
}

func (r *replica) leave() {
	r.show()
	<-r.turn
}

// interrupt ends a retention under way: it is run to its end later.
func (r *replica) interrupt() {
	r.hurryMu.Lock()
	defer r.hurryMu.Unlock()
	if r.hurry != nil {
		r.hurry()
	}
}

func noReplica(vm model.VMRef) *model.Failure {
	return model.Fail(model.NotFound, nil, "there is no replica of VM %s here", vm.UUID).
		WithVM(vm.Name).WithTry("understudy status")
}

// found makes the folder of a new replica, with its random seed.
func (s *Store) found(r *replica, vm model.VMRef) error {
	for _, dir := range []string{r.home.points(), filepath.Join(string(r.home), disksDir), r.home.stagings(), r.home.holds(), r.home.active("")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return ioFailure(err, "making the replica's folder %s", r.home)
		}
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return model.Fail(model.Internal, err, "drawing the seed of the digests")
	}
	c := chain{Format: model.PointFormat, VM: vm, Seed: binary.LittleEndian.Uint64(seed[:]), Disks: map[string][]layer{}}
	if err := s.writeChain(r, c); err != nil {
		return err
	}
	if err := durable.SyncDir(s.root); err != nil {
		return ioFailure(err, "syncing the store %s", s.root)
	}
	return nil
}

// writeChain replaces chain.json durably, and the chain in memory when that succeeded.
func (s *Store) writeChain(r *replica, c chain) error {
	if err := c.check(); err != nil {
		return model.Fail(model.Internal, err, "refusing to write a chain that is not sound")
	}
	if err := s.step("chain"); err != nil {
		return err
	}
	if err := durable.WriteJSON(r.home.chain(), c); err != nil {
		return ioFailure(err, "writing %s", r.home.chain())
	}
	r.chain = c
	r.show()
	return s.step("chain-written")
}

// step is where tests let the store fail.
func (s *Store) step(name string) error {
	if s.opts.Fault == nil {
		return nil
	}
	if err := s.opts.Fault(name); err != nil {
		return ioFailure(err, "at step %s", name)
	}
	return nil
}

// newest is the newest committed point; ok is false when there is none.
func (r *replica) newest() (model.Point, bool) {
	if len(r.points) == 0 {
		return model.Point{}, false
	}
	return r.points[len(r.points)-1], true
}

func (r *replica) find(ref model.PointRef) (model.Point, bool) {
	i := slices.IndexFunc(r.points, func(p model.Point) bool { return p.PointRef == ref })
	if i < 0 {
		return model.Point{}, false
	}
	return r.points[i], true
}

// look gives what is listed, without waiting for retention.
func (s *Store) look(ctx context.Context, vm model.VMRef) (*view, error) {
	s.mu.Lock()
	r, closed := s.vms[vm.UUID], s.closed
	s.mu.Unlock()
	if r != nil && !closed {
		if v := r.view.Load(); v != nil {
			return v, v.err
		}
	}
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return nil, err
	}
	defer r.leave()
	return r.show(), nil
}

func (v *view) find(ref model.PointRef) (model.Point, bool) {
	i := slices.IndexFunc(v.points, func(p model.Point) bool { return p.PointRef == ref })
	if i < 0 {
		return model.Point{}, false
	}
	return v.points[i], true
}

// Points lists the committed points of a VM, oldest first. A VM without replica has none.
func (s *Store) Points(ctx context.Context, vm model.VMRef) ([]model.Point, error) {
	v, err := s.look(ctx, vm)
	if err != nil {
		return nil, unlessMissing(err)
	}
	return visible(v.points), nil
}

// visible leaves seeds out: they are not the VM's.
func visible(points []model.Point) []model.Point {
	return slices.DeleteFunc(slices.Clone(points), func(p model.Point) bool { return p.Seed })
}

// Newest is the newest committed point of a VM; ok is false when there is none.
func (s *Store) Newest(ctx context.Context, vm model.VMRef) (p model.Point, ok bool, err error) {
	points, err := s.Points(ctx, vm)
	if err != nil || len(points) == 0 {
		return model.Point{}, false, err
	}
	return points[len(points)-1], true, nil
}

// Point is one committed point.
func (s *Store) Point(ctx context.Context, vm model.VMRef, ref model.PointRef) (model.Point, error) {
	v, err := s.look(ctx, vm)
	if err != nil {
		return model.Point{}, err
	}
	p, ok := v.find(ref)
	if !ok || p.Seed {
		return model.Point{}, noPoint(vm, ref)
	}
	return p, nil
}

// Images gives the files of a point's disks, in the order of its manifest. They stay as they are while a hold exists;
// without one, retention may merge them at any time.
func (s *Store) Images(ctx context.Context, vm model.VMRef, ref model.PointRef) ([]model.Image, error) {
	v, err := s.look(ctx, vm)
	if err != nil {
		return nil, err
	}
	p, ok := v.find(ref)
	if !ok {
		return nil, noPoint(vm, ref)
	}
	images := make([]model.Image, 0, len(p.Disks))
	for _, d := range p.Disks {
		img, ok := v.chain.image(home(filepath.Join(s.root, vm.UUID)), d.Target, p.Seq)
		if !ok {
			return nil, model.Fail(model.ChainBroken, nil, "point %s has no layer of disk %s", ref, d.Target).WithVM(p.VM.Name)
		}
		images = append(images, img)
	}
	return images, nil
}

func noPoint(vm model.VMRef, ref model.PointRef) *model.Failure {
	return model.Fail(model.NotFound, nil, "there is no recovery point %s", ref).
		WithVM(vm.Name).WithTry("understudy points " + vm.Name)
}

// isFull tells whether err says that there is no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ioFailure gives an error of the file system its kind.
func ioFailure(err error, format string, args ...any) *model.Failure {
	kind := model.Internal
	if isFull(err) {
		kind = model.TargetFull
	}
	f := model.Fail(kind, err, format, args...)
	if kind == model.TargetFull {
		return f.WithTry("free space on the standby's store, or lower --keep-last")
	}
	return f
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// free is the space that is left in the store, bytes.
func (s *Store) free() (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", s.root, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}
