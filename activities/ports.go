package activities

import (
	"context"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/contract"
	"understudy/internal/decide/retention"
	"understudy/internal/hypervisor"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/internal/recoverypoint"
	"understudy/internal/replicate"
	"understudy/internal/restore"
	"understudy/internal/snapshot"
)

// Floors refuses generations below the highest seen here.
type Floors interface {
	Admit(vm model.VMRef, g model.Generation) error
	Raise(vm model.VMRef, g model.Generation, attempt string) error
	Get(uuid string) (lease.Entry, error)
	Forget(uuid string) error
}

// Snapshots is stage 1.
type Snapshots interface {
	Take(ctx context.Context, r snapshot.Request) (snapshot.Snapshot, error)
	Get(ctx context.Context, vm model.VMRef, p model.PointRef) (snapshot.Snapshot, error)
	Open(ctx context.Context, vm model.VMRef, p model.PointRef, target string) (blockio.Source, error)
	Abandon(ctx context.Context, vm model.VMRef, p model.PointRef) ([]string, error)
	Settle(ctx context.Context, vm model.VMRef, committed model.PointRef) ([]string, error)
	Retire(ctx context.Context, vm model.VMRef) ([]string, error)
	// Leave is for a host that is the VM's primary no more.
	Leave(ctx context.Context, vm model.VMRef) ([]string, error)
	Dirty(ctx context.Context, vm model.VMRef, committed model.PointRef) (int64, error)
	Inspect(ctx context.Context, nameOrUUID string) (model.DomainFacts, hypervisor.Domain, error)
	// Admit is Inspect that fails when the domain cannot be replicated.
	Admit(ctx context.Context, nameOrUUID string) (model.DomainFacts, hypervisor.Domain, error)
	// Warnings says what of a VM is in no point.
	Warnings(ctx context.Context, uuid string) ([]string, error)
}

// Link reaches the agents of other hosts.
type Link interface {
	// Ping says which host answers at address.
	Ping(ctx context.Context, address string) (model.HostID, error)
	// Send is stage 2. It resumes from what the other side acknowledged. The domain's XML travels in the staging spec.
	Send(ctx context.Context, address, domainXML string, open replicate.Open, r replicate.Request, progress func(replicate.Progress)) (replicate.Result, error)
}

// Shares divides the host's link between the transfers that leave it.
type Shares interface {
	// Join makes a transfer's lane, which follows what it is granted until Leave.
	Join(t Transfer) Share
	// Admit says whether the link carries a VM that is not protected yet; nil where nothing is divided.
	Admit(ctx context.Context, vm model.VMRef, p model.Policy, in contract.AdmissionIn) (*contract.Admission, error)
}

// Share is a transfer's part of the link.
type Share interface {
	Lane() *replicate.Lane
	Progress(p replicate.Progress)
	// Leave ends it. looked is the bytes of the disks that were looked at, when that went well.
	Leave(looked int64) Granted
}

// Transfer is what the link is shared by.
type Transfer struct {
	VM     model.VMRef
	Point  model.PointRef // the same again is the same transfer, tried once more
	Tier   model.Tier
	RPO    time.Duration
	Demand int64 // admitted: bytes on the wire of a capture each RPO/2; 0 unknown
	Cap    int64 // of the policy, bytes/s; 0 unbounded
	Look   int64 // bytes of the disks to look at
	Disks  int
	Seed   bool // a first copy: nothing is promised before it
}

// Granted is what a transfer got.
type Granted struct {
	Rate    int64 // bytes/s that it can count on: the mean, or its reservation; 0 when the link has no budget
	Limited bool  // it was kept waiting by its grant
	Reason  string
	LinkUse float64
	CPU     time.Duration // of the agent, for this transfer
}

// Store is the standby's replicas: stages 3 (Prove) and 4.
type Store interface {
	Prove(ctx context.Context, vm model.VMRef, p model.PointRef, progress func(done, total int64)) (model.Receipt, error)
	StagedSpec(ctx context.Context, vm model.VMRef, p model.PointRef) (model.StagingSpec, error)
	Commit(ctx context.Context, receipt model.Receipt, point model.Point) (model.Point, error)
	Point(ctx context.Context, vm model.VMRef, p model.PointRef) (model.Point, error)
	Points(ctx context.Context, vm model.VMRef) ([]model.Point, error)
	PruneTo(ctx context.Context, vm model.VMRef, rules retention.Rules) (dropped []model.Seq, postponed string, err error)
	Discard(ctx context.Context, vm model.VMRef, p model.PointRef) error
	Holds(ctx context.Context, vm model.VMRef) ([]model.Hold, error)
	Deactivate(ctx context.Context, vm model.VMRef, name string) error
	Remove(ctx context.Context, vm model.VMRef) error
	BytesOnDisk(ctx context.Context, vm model.VMRef, p model.PointRef) (int64, error)
	Usage() (free, total int64, err error)
	// Fill stages a point from disks that a VM left on this host; SeedOf is the one that the next point of a
	// generation builds on.
	Fill(ctx context.Context, vm model.VMRef, p model.PointRef, left []recoverypoint.Left, progress func(done, total int64)) (int64, error)
	SeedOf(ctx context.Context, vm model.VMRef, g model.Generation) (model.PointRef, error)
	// OpenPoint opens the disks of a point for reading.
	OpenPoint(ctx context.Context, vm model.VMRef, p model.PointRef) (disks map[string]blockio.Source, closing func(), err error)
}

// Restorer is stage 5.
type Restorer interface {
	Materialize(ctx context.Context, vm model.VMRef, p model.PointRef, g model.Generation) ([]model.Disk, error)
	Start(ctx context.Context, vm model.VMRef, p model.PointRef, g model.Generation, networks map[string]string) (time.Time, error)
	// Fit says whether a point could be started here; Probe whether the guest of a started VM answers, and what did.
	Fit(ctx context.Context, vm model.VMRef, p model.PointRef, networks map[string]string) (notes []string, err error)
	Probe(ctx context.Context, vm model.VMRef, probes []model.Probe) (answered string, err error)
	Confirm(ctx context.Context, vm model.VMRef, watch time.Duration) (running, guestAgent bool, detail string, err error)
	Dismantle(ctx context.Context, vm model.VMRef, g model.Generation) error
	Surrender(ctx context.Context, vm model.VMRef) error
	TakeUp(ctx context.Context, vm model.VMRef) (started bool, err error)
	// Again starts a VM that died where it is; false when it runs already.
	Again(ctx context.Context, vm model.VMRef) (at time.Time, restarted bool, err error)
	Forget(vm model.VMRef) error
	Demote(ctx context.Context, vm model.VMRef) (restore.Kept, error)
	// LeftBehind are the disks that a demoted VM left here, and all images that are kept for rescue.
	LeftBehind(vm model.VMRef) (disks []model.Disk, rescue []string, err error)
	Pause(ctx context.Context, vm model.VMRef, attempt string, limit time.Duration) (time.Time, error)
	Unpause(ctx context.Context, vm model.VMRef) error
	// MayGiveUp says whether SurrenderPaused would be refused.
	MayGiveUp(ctx context.Context, vm model.VMRef, attempt string) error
	// SurrenderPaused is Surrender of a copy that wrote nothing since Pause of that attempt.
	SurrenderPaused(ctx context.Context, vm model.VMRef, attempt string) error
	TestBoot(ctx context.Context, t restore.Test) (name string, at time.Time, err error)
	TestProbe(ctx context.Context, t restore.Test) (restore.Answer, error)
	TestClean(ctx context.Context, t restore.Test) error
}

// Domains is what preflight, seal and inspect ask of the hypervisor.
type Domains interface {
	Domains(ctx context.Context) ([]hypervisor.Domain, error)
	Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error)
}

// Watcher knows what the VMs served here write between captures. Its answers never make an exposure smaller than it is.
type Watcher interface {
	// Serve says that this host is the VM's primary; it is sampled from now on.
	Serve(w Watched)
	// Capturing moves the counters to a new capture, just before it is taken; Captured closes that and gives the oldest
	// write in the capture; Abandoned takes it back; Verified forgets the captures up to a committed one.
	Capturing(ctx context.Context, vm model.VMRef, p model.PointRef)
	Captured(vm model.VMRef, p model.PointRef, takenAt time.Time) *time.Time
	// CapturedBytes were written into an open capture, by the counters; 0 when nobody knows.
	CapturedBytes(vm model.VMRef, p model.PointRef) int64
	Abandoned(vm model.VMRef, p model.PointRef)
	Verified(vm model.VMRef, p model.PointRef)
	// Answering says that an answer on its way tells what is written after the capture of a point: it is not signalled while
	// that is open, nor between its commit and the look.
	Answering(vm model.VMRef, p model.PointRef)
	// Observe samples now.
	Observe(ctx context.Context, vm model.VMRef) (model.Observation, error)
	// Yield says that this host may no longer be the primary: nothing is signalled for the VM until it is served again.
	Yield(vm model.VMRef, below model.Generation)
	// Forget ends everything about the VM.
	Forget(vm model.VMRef) error
}

// Watched is what the watcher must know of a VM that is served here.
type Watched struct {
	VM         model.VMRef
	Generation model.Generation
	RPO        time.Duration  // 0: as before
	Committed  model.PointRef // zero: as before
	Started    time.Time      // its QEMU was started from a point, at this time or a little later; zero: not now
}

// Self describes this host.
type Self interface {
	Facts(ctx context.Context) model.HostFacts
	AtRest() string // of the facts
	Doctor(ctx context.Context) []model.Check
}
