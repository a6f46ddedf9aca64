package workers

import (
	"context"
	"errors"
	"sync"

	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/model"
)

// Renewer carries renewals over the link. It keeps a connection for each grantor: one that has to be made anew costs time that a
// renewal does not have.
type Renewer struct {
	Dial func(ctx context.Context, address string) (*link.Client, error)

	mu      sync.Mutex
	clients map[string]*link.Client
}

var _ lease.Renewer = (*Renewer)(nil)

// Granting answers renewals of who asks in the name of his own certificate.
func Granting(grant func(lease.RenewIn) lease.RenewOut) link.Responder {
	return func(ctx context.Context, question []byte) ([]byte, error) {
		var refused error
		answer, err := lease.Answering(question, func(in lease.RenewIn) lease.RenewOut {
			if refused = link.Speaks(ctx, in.Host); refused != nil {
				return lease.RenewOut{}
			}
			return grant(in)
		})
		return answer, errors.Join(refused, err)
	}
}

// Renew asks one grantor.
func (r *Renewer) Renew(ctx context.Context, to model.Grantor, in lease.RenewIn) (lease.RenewOut, error) {
	c, err := r.client(ctx, to.Address)
	if err != nil {
		return lease.RenewOut{}, err
	}
	question, err := lease.EncodeRenew(in)
	if err != nil {
		return lease.RenewOut{}, model.Fail(model.Internal, err, "a renewal that cannot be written")
	}
	answer, err := c.Ask(ctx, question)
	if err != nil {
		r.lose(to.Address, c)
		return lease.RenewOut{}, err
	}
	return lease.DecodeAnswer(answer)
}

func (r *Renewer) client(ctx context.Context, address string) (*link.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[address]; c != nil {
		return c, nil
	}
	c, err := r.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if r.clients == nil {
		r.clients = map[string]*link.Client{}
	}
	r.clients[address] = c
	return c, nil
}

// lose gives a connection up that did not answer: the next renewal must not wait until somebody notices that it is dead.
func (r *Renewer) lose(address string, c *link.Client) {
	r.mu.Lock()
	if r.clients[address] == c {
		delete(r.clients, address)
	}
	r.mu.Unlock()
	_ = c.Close()
}

// Close ends the connections.
func (r *Renewer) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, c := range r.clients {
		errs = append(errs, c.Close())
	}
	r.clients = nil
	return errors.Join(errs...)
}
