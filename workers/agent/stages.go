package agent

import (
	"context"

	"understudy/activities"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/recoverypoint"
	"understudy/internal/replicate"
	"understudy/internal/trust"
	"understudy/internal/verify"
	"understudy/workers"
)

// store joins stages 3 and 4 on the same folder.
type store struct{ *recoverypoint.Store }

var _ activities.Store = store{}

func (s store) Prove(ctx context.Context, vm model.VMRef, p model.PointRef, progress func(done, total int64)) (model.Receipt, error) {
	return verify.Prove(ctx, s.Store, vm, p, progress)
}

// receiving is the store as the link's server sees it.
type receiving struct{ *recoverypoint.Store }

func (r receiving) Stage(ctx context.Context, spec model.StagingSpec) (link.Staging, error) {
	st, err := r.Store.Stage(ctx, spec)
	if err != nil {
		return nil, err // not st: a nil pointer in an interface is not nil
	}
	return st, nil
}

// links makes a connection for each use: agents come and go, and addresses change.
type links struct{ tls *trust.Folder }

var _ activities.Link = links{}

func (l links) Ping(ctx context.Context, address string) (model.HostID, error) {
	c, err := workers.DialLink(ctx, l.tls, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.Ping(ctx)
}

func (l links) Send(ctx context.Context, address, domainXML string, open replicate.Open, r replicate.Request, progress func(replicate.Progress)) (replicate.Result, error) {
	c, err := workers.DialLink(ctx, l.tls, address)
	if err != nil {
		return replicate.Result{}, err
	}
	defer c.Close()
	return replicate.Run(ctx, open, described{c, domainXML}, r, progress)
}

// described puts the domain's XML into the staging spec: the point needs it, and it must not go through Temporal.
type described struct {
	replicate.Link
	xml string
}

func (d described) Stage(ctx context.Context, spec model.StagingSpec) (*link.Session, error) {
	spec.DomainXML = d.xml
	return d.Link.Stage(ctx, spec)
}
