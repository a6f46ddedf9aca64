// Package restore is stage 5, on the standby: a VM made from a recovery point and started, and the undo of that. It also
// takes the local copy of a VM down when the VM has moved away (surrender, demote).
//
// Whether a VM may be started here at all is decided before and elsewhere (generation, evidence, permit).
package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Hypervisor is what this stage asks of libvirt.
type Hypervisor interface {
	Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error)
	XML(ctx context.Context, uuid string) (string, error)
	Define(ctx context.Context, xml string) (hypervisor.Domain, error)
	Undefine(ctx context.Context, uuid string) error
	Start(ctx context.Context, uuid string) error
	Destroy(ctx context.Context, uuid string) error
	SetAutostart(ctx context.Context, uuid string, on bool) error
	PingGuest(ctx context.Context, uuid string, timeout time.Duration) error
	Suspend(ctx context.Context, uuid string) error
	Resume(ctx context.Context, uuid string) error
	Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error)
	Networks(ctx context.Context) ([]string, error)
}

// Points is what this stage asks of the store of recovery points.
type Points interface {
	Point(ctx context.Context, vm model.VMRef, ref model.PointRef) (model.Point, error)
	// Activate makes (or finds) the set of bootable overlays of that name on a point.
	Activate(ctx context.Context, vm model.VMRef, ref model.PointRef, name string) ([]model.Disk, error)
	// Deactivate removes them; Conflict while a QEMU has them open. A missing set is success.
	Deactivate(ctx context.Context, vm model.VMRef, name string) error
}

// Options of a Restorer.
type Options struct {
	Host model.HostID
	// StateDir is the agent's: restored/ and demoted/ are ours.
	StateDir string
	// StartTimeout bounds the wait until libvirt says that a started domain runs; 0 is 30 s.
	StartTimeout time.Duration
	// Poll is the distance of two looks at a domain's state; 0 is 250 ms.
	Poll time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Restorer restores VMs on one host. Its steps are idempotent; the caller runs them one at a time for each VM.
type Restorer struct {
	hv     Hypervisor
	points Points
	o      Options

	pauses sync.Mutex // of pause records
	tests  sync.Mutex // of test records
}

// New makes a Restorer.
func New(hv Hypervisor, points Points, o Options) *Restorer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 30 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	return &Restorer{hv: hv, points: points, o: o}
}

// Set is the name of the set of overlays that a generation runs from.
func Set(g model.Generation) string { return fmt.Sprintf("g%d", g) }

// Materialize makes the overlays that the VM will run from under generation g. The point itself is never written.
func (r *Restorer) Materialize(ctx context.Context, vm model.VMRef, point model.PointRef, g model.Generation) ([]model.Disk, error) {
	if err := r.check(vm, g); err != nil {
		return nil, err
	}
	return r.points.Activate(ctx, vm, point, Set(g))
}

func (r *Restorer) check(vm model.VMRef, g model.Generation) error {
	switch {
	case !model.ValidUUID(vm.UUID):
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	case g == 0:
		return r.fail(model.InvalidArgument, vm, nil, "a VM is restored under a generation, and none was given")
	}
	return nil
}

func (r *Restorer) fail(kind model.Kind, vm model.VMRef, err error, format string, args ...any) *model.Failure {
	return model.Fail(kind, err, format, args...).WithVM(vm.Name).WithHost(r.o.Host)
}

// lookup finds the domain by UUID; found is false when there is none. A domain that only has that name does not count.
func (r *Restorer) lookup(ctx context.Context, uuid string) (dom hypervisor.Domain, found bool, err error) {
	dom, err = r.hv.Domain(ctx, uuid)
	switch {
	case err == nil:
		return dom, dom.VM.UUID == uuid, nil
	case model.KindOf(err) == model.NotFound:
		return hypervisor.Domain{}, false, nil
	}
	return hypervisor.Domain{}, false, err
}

// runsFrom says that every writable disk of a domain is an overlay of the set. The store lays them out as
// <uuid>/active/<set>/<target>.qcow2, so this holds after any restart and without a record.
func runsFrom(dom hypervisor.Domain, set string) bool {
	n := 0
	for _, d := range dom.Disks {
		if d.ReadOnly {
			continue
		}
		if !strings.HasSuffix(filepath.Dir(d.Path), filepath.Join("/", dom.VM.UUID, "active", set)) {
			return false
		}
		n++
	}
	return n > 0
}

// wait sleeps for one poll.
func (r *Restorer) wait(ctx context.Context) error {
	t := time.NewTimer(r.o.Poll)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
