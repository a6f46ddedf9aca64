// Package fake is a hypervisor in memory, for tests: domains, checkpoints with bitmaps that behave as QEMU's do over stops and
// crashes, captures that are served over NBD on a real unix socket. It passes hvtest.
//
// The content of a disk is kept in memory under its path; a placeholder file is made at that path so that code that looks at
// the file finds one. An image that somebody else made there is taken by its size, as if empty.
package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

var _ hypervisor.Hypervisor = (*Hypervisor)(nil)

// Agent is how a domain's guest agent behaves.
type Agent int

// Behaviours. A domain whose XML has no agent channel has no agent, whatever is set.
const (
	AgentAnswers     Agent = iota
	AgentHangs             // every call fails after its timeout
	AgentHangsFrozen       // freezes, then answers no more: the guest cannot be thawed
)

// Hypervisor is the fake. Its methods are safe for concurrent use.
type Hypervisor struct {
	mu       sync.Mutex
	images   map[string]*image // by path
	domains  map[string]*domain
	order    []string
	watchers map[*watcher]bool
	fault    func(ctx context.Context, op, uuid string) error
	closed   bool
	networks []string
}

type domain struct {
	d           hypervisor.Domain
	xml         string
	agent       Agent
	hasAgent    bool
	frozen      bool
	checkpoints []hypervisor.Checkpoint
	job         *job
	cpu         time.Time
	run         int64
	memory      int64     // bytes/s that its guest dirties
	measured    time.Time // the end of the estimate; zero when there was none
}

// New makes a host without domains.
func New() *Hypervisor {
	return &Hypervisor{images: map[string]*image{}, domains: map[string]*domain{}, watchers: map[*watcher]bool{}}
}

// SetFault sets a function that is asked before each call of the port, by its name; its error fails the call. It may block,
// heeding ctx. nil removes it.
func (h *Hypervisor) SetFault(f func(ctx context.Context, op, uuid string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = f
}

// SetAgent says how a domain's guest agent behaves.
func (h *Hypervisor) SetAgent(uuid string, a Agent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[uuid]; d != nil {
		d.agent = a
	}
}

// Frozen tells whether the guest's file systems are frozen.
func (h *Hypervisor) Frozen(uuid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[uuid]
	return d != nil && d.frozen
}

// CreateImage makes an empty image, with its placeholder file.
func (h *Hypervisor) CreateImage(path string, format model.DiskFormat, size int64) error {
	if err := placeholder(path, format, size); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.images[path] = newImage(format, size)
	return nil
}

// Write is a write of a running domain's guest.
func (h *Hypervisor) Write(uuid, target string, data []byte, off int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.active("writing", uuid)
	if err != nil {
		return err
	}
	img, err := h.imageOf(d, target)
	if err != nil {
		return err
	}
	return img.write(data, off)
}

// Resize grows a running domain's disk.
func (h *Hypervisor) Resize(uuid, target string, size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.active("resizing", uuid)
	if err != nil {
		return err
	}
	img, err := h.imageOf(d, target)
	if err == nil {
		img.size = size
	}
	return err
}

// Kill ends a running domain's QEMU as kill -9 does.
func (h *Hypervisor) Kill(uuid string) error {
	h.mu.Lock()
	d, err := h.active("killing", uuid)
	var j *job
	if err == nil {
		j = h.end(d, "crashed", false)
		h.tell(d, model.EventCrashed, "failed")
	}
	h.mu.Unlock()
	j.stop()
	return err
}

// Panic is what libvirt does and tells when the guest's kernel panics and the domain has a panic device.
func (h *Hypervisor) Panic(uuid string) error {
	h.mu.Lock()
	d, err := h.active("panicking", uuid)
	var j *job
	if err == nil {
		h.told(d, model.Event{Kind: model.EventPanicked, Detail: "panicked"})
		switch d.d.OnCrash {
		case "preserve", "coredump-preserve":
			d.d.State, d.d.Reason = hypervisor.Crashed, "panicked"
		case "restart", "coredump-restart":
			h.tell(d, model.EventResumed, "unpaused")
		default:
			j = h.end(d, "crashed", false)
			h.tell(d, model.EventCrashed, "crashed")
		}
	}
	h.mu.Unlock()
	j.stop()
	return err
}

// Watchdog is a watchdog device of the domain that fires.
func (h *Hypervisor) Watchdog(uuid, action string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.active("firing the watchdog of", uuid)
	if err != nil {
		return err
	}
	h.told(d, model.Event{Kind: model.EventWatchdog, Detail: "the watchdog fired: " + action, Action: action})
	if action == model.ActionPause {
		d.d.State, d.d.Reason = hypervisor.Paused, "watchdog"
		h.tell(d, model.EventPaused, "watchdog")
	}
	return nil
}

// IOError fails a write of the domain's disk as the host's storage would: the guest is paused.
func (h *Hypervisor) IOError(uuid, target, reason string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.active("failing a write of", uuid)
	if err != nil {
		return err
	}
	d.d.State, d.d.Reason = hypervisor.Paused, "I/O error"
	h.told(d, model.Event{Kind: model.EventIOError, Detail: "write error on " + target, Reason: reason, Action: model.ActionPause})
	h.tell(d, model.EventPaused, "I/O error")
	return nil
}

// Emit delivers an event as if libvirt had told it.
func (h *Hypervisor) Emit(uuid string, kind model.EventKind, detail string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[uuid]; d != nil {
		h.tell(d, kind, detail)
	}
}

// enter begins a call of the port: it asks the fault function and takes the lock, which the caller releases.
func (h *Hypervisor) enter(ctx context.Context, op, uuid string) error {
	h.mu.Lock()
	fault := h.fault
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return model.Fail(model.Unreachable, nil, "%s: the connection was closed by us", op)
	}
	if fault != nil {
		if err := fault(ctx, op, uuid); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return model.Fail(model.Unreachable, err, "%s: libvirtd did not answer in time", op)
	}
	h.mu.Lock()
	return nil
}

func (h *Hypervisor) get(op, uuid string) (*domain, error) {
	if d := h.domains[uuid]; d != nil {
		return d, nil
	}
	return nil, model.Fail(model.NotFound, nil, "%s: there is no domain %s", op, uuid)
}

func (h *Hypervisor) active(op, uuid string) (*domain, error) {
	d, err := h.get(op, uuid)
	if err == nil && !d.d.State.Active() {
		err = model.Fail(model.NotRunning, nil, "%s: it is not running", op).WithVM(d.d.VM.Name)
	}
	return d, err
}

// image finds a disk's image, looking at the file when it is not known yet.
func (h *Hypervisor) image(disk hypervisor.Disk) (*image, error) {
	if img := h.images[disk.Path]; img != nil {
		return img, nil
	}
	img, err := imageFile(disk.Path, disk.Format)
	if err == nil {
		h.images[disk.Path] = img
	}
	return img, err
}

func (h *Hypervisor) imageOf(d *domain, target string) (*image, error) {
	for _, disk := range d.d.Disks {
		if disk.Target == target && disk.Path != "" {
			return h.image(disk)
		}
	}
	return nil, model.Fail(model.NotFound, nil, "the domain has no disk %s", target).WithVM(d.d.VM.Name)
}

// each calls f for the images of a domain that exist.
func (h *Hypervisor) each(d *domain, f func(target string, img *image)) {
	for _, disk := range d.d.Disks {
		if img := h.images[disk.Path]; img != nil && disk.Path != "" {
			f(disk.Target, img)
		}
	}
}

func (h *Hypervisor) view(d *domain) hypervisor.Domain {
	v := d.d
	v.Disks = slices.Clone(d.d.Disks)
	for i := range v.Disks {
		disk := &v.Disks[i]
		if disk.Path == "" {
			continue
		}
		img, err := h.image(*disk)
		switch {
		case err == nil:
			disk.Size, disk.Allocated = img.size, int64(len(img.pages))*page
		case disk.Problem == "" && !disk.ReadOnly:
			disk.Problem = "its image cannot be read: " + err.Error()
		}
	}
	return v
}

// Versions implements hypervisor.Hypervisor.
func (h *Hypervisor) Versions(ctx context.Context) (hypervisor.Versions, error) {
	if err := h.enter(ctx, "Versions", ""); err != nil {
		return hypervisor.Versions{}, err
	}
	defer h.mu.Unlock()
	return hypervisor.Versions{Libvirt: "9.0.0", QEMU: "7.2.22"}, nil
}

// Domains implements hypervisor.Hypervisor.
func (h *Hypervisor) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	if err := h.enter(ctx, "Domains", ""); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	out := make([]hypervisor.Domain, 0, len(h.order))
	for _, uuid := range h.order {
		out = append(out, h.view(h.domains[uuid]))
	}
	return out, nil
}

// Domain implements hypervisor.Hypervisor.
func (h *Hypervisor) Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error) {
	if err := h.enter(ctx, "Domain", nameOrUUID); err != nil {
		return hypervisor.Domain{}, err
	}
	defer h.mu.Unlock()
	if d := h.domains[nameOrUUID]; d != nil {
		return h.view(d), nil
	}
	for _, d := range h.domains {
		if d.d.VM.Name == nameOrUUID {
			return h.view(d), nil
		}
	}
	return hypervisor.Domain{}, model.Fail(model.NotFound, nil, "there is no domain %s", nameOrUUID)
}

// XML implements hypervisor.Hypervisor.
func (h *Hypervisor) XML(ctx context.Context, uuid string) (string, error) {
	if err := h.enter(ctx, "XML", uuid); err != nil {
		return "", err
	}
	defer h.mu.Unlock()
	d, err := h.get("reading the XML", uuid)
	if err != nil {
		return "", err
	}
	return d.xml, nil
}

// Define implements hypervisor.Hypervisor.
func (h *Hypervisor) Define(ctx context.Context, xml string) (hypervisor.Domain, error) {
	if err := h.enter(ctx, "Define", ""); err != nil {
		return hypervisor.Domain{}, err
	}
	defer h.mu.Unlock()
	parsed, err := domainxml.Parse(xml)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	for uuid, other := range h.domains {
		if other.d.VM.Name != parsed.Name || uuid == parsed.UUID {
			continue
		}
		if parsed.UUID != "" {
			return hypervisor.Domain{}, model.Fail(model.Internal, nil, "domain %s already exists with UUID %s", parsed.Name, uuid)
		}
		parsed.UUID = uuid
	}
	if parsed.UUID == "" {
		parsed.UUID = newUUID()
	}
	d := h.domains[parsed.UUID]
	if d == nil {
		d = &domain{d: hypervisor.Domain{State: hypervisor.ShutOff, Reason: "unknown"}}
		h.domains[parsed.UUID] = d
		h.order = append(h.order, parsed.UUID)
	}
	d.d.VM = model.VMRef{Name: parsed.Name, UUID: parsed.UUID}
	d.d.Persistent, d.xml, d.hasAgent, d.d.OnCrash = true, xml, parsed.Agent, parsed.OnCrash
	if !d.d.State.Active() {
		d.d.Disks = parsed.Disks
	}
	return h.view(d), nil
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // cannot fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Undefine implements hypervisor.Hypervisor.
func (h *Hypervisor) Undefine(ctx context.Context, uuid string) error {
	if err := h.enter(ctx, "Undefine", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d := h.domains[uuid]
	if d == nil {
		return nil
	}
	if d.d.State.Active() {
		return model.Fail(model.Conflict, nil, "the domain is active, so its definition stays").WithVM(d.d.VM.Name)
	}
	delete(h.domains, uuid)
	h.order = slices.DeleteFunc(h.order, func(u string) bool { return u == uuid })
	return nil
}

// Start implements hypervisor.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, uuid string) error {
	if err := h.enter(ctx, "Start", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d, err := h.get("starting", uuid)
	if err != nil || d.d.State.Active() {
		return err
	}
	parsed, err := domainxml.Parse(d.xml)
	if err != nil {
		return err
	}
	d.d.Disks = parsed.Disks
	for _, disk := range d.d.Disks {
		if disk.Path == "" {
			continue
		}
		img, err := h.image(disk)
		if err != nil {
			return model.Fail(model.Internal, err, "starting: cannot access storage file %s", disk.Path).WithVM(d.d.VM.Name)
		}
		img.written, img.writes = 0, 0
	}
	d.d.State, d.d.Reason, d.frozen, d.cpu, d.run = hypervisor.Running, "booted", false, time.Now(), d.run+1
	h.tell(d, model.EventStarted, "booted")
	return nil
}

// end takes a domain's QEMU away; the caller stops the job that is returned, after it has released the lock.
func (h *Hypervisor) end(d *domain, reason string, clean bool) *job {
	j := d.job
	d.job, d.frozen = nil, false
	d.d.State, d.d.Reason = hypervisor.ShutOff, reason
	h.each(d, func(_ string, img *image) { img.stopped(clean) })
	return j
}

// Destroy implements hypervisor.Hypervisor.
func (h *Hypervisor) Destroy(ctx context.Context, uuid string) error {
	if err := h.enter(ctx, "Destroy", uuid); err != nil {
		return err
	}
	var j *job
	if d := h.domains[uuid]; d != nil && d.d.State.Active() {
		j = h.end(d, "destroyed", true)
		h.tell(d, model.EventStopped, "destroyed")
	}
	h.mu.Unlock()
	j.stop()
	return nil
}

// Suspend implements hypervisor.Hypervisor.
func (h *Hypervisor) Suspend(ctx context.Context, uuid string) error {
	return h.change(ctx, "Suspend", uuid, hypervisor.Paused, "user", model.EventPaused, "paused")
}

// Resume implements hypervisor.Hypervisor.
func (h *Hypervisor) Resume(ctx context.Context, uuid string) error {
	return h.change(ctx, "Resume", uuid, hypervisor.Running, "unpaused", model.EventResumed, "unpaused")
}

func (h *Hypervisor) change(ctx context.Context, op, uuid string, to hypervisor.State, reason string, kind model.EventKind, detail string) error {
	if err := h.enter(ctx, op, uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d, err := h.active(op, uuid)
	if err != nil || d.d.State == to {
		return err
	}
	d.d.State, d.d.Reason = to, reason
	h.tell(d, kind, detail)
	return nil
}

// SetAutostart implements hypervisor.Hypervisor.
func (h *Hypervisor) SetAutostart(ctx context.Context, uuid string, on bool) error {
	if err := h.enter(ctx, "SetAutostart", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d, err := h.get("setting autostart", uuid)
	if err == nil {
		d.d.Autostart = on
	}
	return err
}

// PingGuest implements hypervisor.Hypervisor.
func (h *Hypervisor) PingGuest(ctx context.Context, uuid string, _ time.Duration) error {
	if err := h.enter(ctx, "PingGuest", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d, err := h.active("asking the guest agent", uuid)
	switch {
	case err != nil:
		return err
	case !d.hasAgent:
		return model.Fail(model.Unsupported, nil, "it has no channel org.qemu.guest_agent.0").WithVM(d.d.VM.Name)
	case d.agent == AgentHangs || d.agent == AgentHangsFrozen && d.frozen || d.d.State != hypervisor.Running:
		return model.Fail(model.QuiesceFailed, errors.New("guest agent is not responding"), "asking the guest agent").WithVM(d.d.VM.Name)
	}
	return nil
}

// Stats implements hypervisor.Hypervisor.
func (h *Hypervisor) Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error) {
	if err := h.enter(ctx, "Stats", ""); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	var out []hypervisor.Stats
	for _, uuid := range h.order {
		d := h.domains[uuid]
		if !d.d.State.Active() || len(q.Only) > 0 && !slices.Contains(q.Only, uuid) {
			continue
		}
		s := hypervisor.Stats{UUID: uuid, Run: d.run}
		if q.CPU {
			s.CPUTime = time.Since(d.cpu)
		}
		h.each(d, func(_ string, img *image) {
			s.WriteBytes += img.written
			s.WriteReqs += img.writes
		})
		out = append(out, s)
	}
	return out, nil
}

// DirtyMemory sets how fast a guest dirties its memory.
func (h *Hypervisor) DirtyMemory(uuid string, rate int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[uuid]; d != nil {
		d.memory = rate
	}
}

// StartMemoryRate implements hypervisor.Hypervisor.
func (h *Hypervisor) StartMemoryRate(ctx context.Context, uuid string, over time.Duration) error {
	if err := h.enter(ctx, "StartMemoryRate", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	d, err := h.active("StartMemoryRate", uuid)
	if err != nil {
		return err
	}
	if time.Now().Before(d.measured) {
		return model.Fail(model.JobConflict, nil, "an estimate of its dirty memory is under way").WithVM(d.d.VM.Name)
	}
	d.measured = time.Now().Add(over)
	return nil
}

// MemoryRate implements hypervisor.Hypervisor.
func (h *Hypervisor) MemoryRate(ctx context.Context, uuid string) (int64, bool, error) {
	if err := h.enter(ctx, "MemoryRate", uuid); err != nil {
		return 0, false, err
	}
	defer h.mu.Unlock()
	d, err := h.active("MemoryRate", uuid)
	if err != nil || d.measured.IsZero() || time.Now().Before(d.measured) {
		return 0, false, err
	}
	return d.memory, true, nil
}

// Close implements hypervisor.Hypervisor. The domains and the captures go on, as they would under libvirtd.
func (h *Hypervisor) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		w.cancel()
	}
	return nil
}
