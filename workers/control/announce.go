package control

import (
	"context"
	"path/filepath"
	"time"

	"go.temporal.io/sdk/client"

	"understudy/internal/durable"
	"understudy/internal/model"
	"understudy/starter"
)

const announceAgain = 5 * time.Second

// announce tells every protection where leases are granted, when that is not where the server before this one said: holders would
// go on asking there. It tries until all were told or ctx ends.
func (s *server) announce(ctx context.Context, c client.Client) {
	if s.control.Grantor == nil {
		return
	}
	path, self := filepath.Join(s.o.DataDir, "grantor.json"), *s.control.Grantor
	var before model.Grantor
	if err := durable.ReadJSON(path, &before); err == nil && before == self {
		return
	}
	for {
		told, err := starter.New(c).TellGrantor(ctx, self)
		if err == nil {
			err = durable.WriteJSON(path, self)
		}
		if err == nil {
			s.log.Info("grantor_announced", "address", self.Address, "protections", told)
			return
		}
		if ctx.Err() == nil {
			s.log.Warn("grantor_not_announced", "error", err, "again_in", announceAgain.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(announceAgain):
		}
	}
}
