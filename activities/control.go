package activities

import (
	"context"
	"time"

	"understudy/internal/contract"
	"understudy/internal/lease"
	"understudy/internal/model"
)

// Power switches hosts off, and returns evidence that is younger than the call.
type Power interface {
	Off(ctx context.Context, host model.HostID, g model.Generation, now func() time.Time) (model.Evidence, error)
	Check(ctx context.Context, host model.HostID) []model.Check
}

// Control holds the control plane's activities: the generation records and the power of hosts.
type Control struct {
	Records *lease.Records
	Power   Power
	// Grantor of leases that this control plane is; nil when it grants none.
	Grantor *model.Grantor
	Now     func() time.Time
}

// Register binds all control activities.
func (c *Control) Register(r contract.Registry) {
	contract.BeginRecord.Register(r, c.begin)
	contract.Claim.Register(r, c.claim)
	contract.Permit.Register(r, c.permit)
	contract.ReadRecord.Register(r, c.read)
	contract.Keep.Register(r, c.keep)
	contract.ListRecords.Register(r, c.list)
	contract.SetMode.Register(r, c.setMode)
	contract.DropRecord.Register(r, c.drop)
	contract.FencePower.Register(r, c.fence)
	contract.FenceCheck.Register(r, c.fenceCheck)
}

func (c *Control) begin(ctx context.Context, in contract.PermitIn) (contract.RecordOut, error) {
	rec, err := c.Records.Begin(ctx, in.VM, in.Generation, in.Host)
	return c.told(rec), toWire(err)
}

// told adds this grantor: its address may change from one server to the next.
func (c *Control) told(rec model.Record) contract.RecordOut {
	return contract.RecordOut{Record: rec, Grantor: c.Grantor}
}

func (c *Control) keep(ctx context.Context, in contract.KeepIn) (contract.None, error) {
	return contract.None{}, toWire(c.Records.Keep(ctx, in.VM.UUID, in.Standby, in.Policy))
}

func (c *Control) list(ctx context.Context, _ contract.None) (contract.RecordsOut, error) {
	all, err := c.Records.List(ctx)
	return contract.RecordsOut{Records: list(all)}, toWire(err)
}

func (c *Control) setMode(ctx context.Context, in contract.SetModeIn) (contract.RecordOut, error) {
	rec, err := c.Records.SetMode(ctx, in.VM.UUID, in.Generation, in.Host, in.Mode, in.Terms)
	return c.told(rec), toWire(err)
}

func (c *Control) claim(ctx context.Context, in contract.ClaimIn) (contract.RecordOut, error) {
	if !model.ValidHostID(in.Target) || in.Attempt == "" {
		return contract.RecordOut{}, toWire(model.Fail(model.InvalidArgument, nil, "a claim needs a target host and an attempt").WithVM(in.VM.Name))
	}
	rec, err := c.Records.Claim(ctx, in.VM.UUID, in.Generation, in.Expect, in.Target, in.Attempt)
	return c.told(rec), toWire(err)
}

func (c *Control) permit(ctx context.Context, in contract.PermitIn) (contract.RecordOut, error) {
	rec, err := c.Records.Permit(ctx, in.VM.UUID, lease.Permission{
		Generation: in.Generation, Host: in.Host, Attempt: in.Attempt, Evidence: in.Evidence, Mode: in.Mode, Terms: in.Terms,
	})
	return c.told(rec), toWire(err)
}

func (c *Control) read(ctx context.Context, in contract.Fence) (contract.RecordOut, error) {
	rec, err := c.Records.Read(ctx, in.VM.UUID)
	return c.told(rec), toWire(err)
}

func (c *Control) drop(ctx context.Context, in contract.Fence) (contract.None, error) {
	return contract.None{}, toWire(c.Records.Drop(ctx, in.VM.UUID))
}

// fence refuses to power off the host that is to take the VM over: a mis-wired request must not take the last copy down.
func (c *Control) fence(ctx context.Context, in contract.FenceIn) (contract.EvidenceOut, error) {
	rec, err := c.Records.Read(ctx, in.VM.UUID)
	if err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	if rec.Claimed != in.Generation || rec.Attempt != in.Attempt || rec.Target == in.Host {
		return contract.EvidenceOut{}, toWire(model.Fail(model.StaleGeneration, nil,
			"no power-off of %s: generation %d is not the open takeover from it", in.Host, in.Generation).WithVM(in.VM.Name))
	}
	ev, err := c.Power.Off(ctx, in.Host, in.Generation, c.Now)
	return contract.EvidenceOut{Evidence: ev}, toWire(err)
}

func (c *Control) fenceCheck(ctx context.Context, in contract.FenceCheckIn) (contract.FenceCheckOut, error) {
	return contract.FenceCheckOut{Checks: list(c.Power.Check(ctx, in.Host))}, nil
}
