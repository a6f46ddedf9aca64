package link

import (
	"context"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"understudy/internal/model"
	"understudy/internal/trust"
)

// PeerOf is whom the other side's certificate speaks for; ok is false on a link without TLS.
func PeerOf(ctx context.Context) (id trust.Identity, ok bool, err error) {
	p, known := peer.FromContext(ctx)
	if !known {
		return id, false, nil
	}
	return peerOf(p)
}

func peerOf(p *peer.Peer) (id trust.Identity, ok bool, err error) {
	info, isTLS := p.AuthInfo.(credentials.TLSInfo)
	if !isTLS {
		return id, false, nil
	}
	id, err = trust.PeerOf(info.State)
	return id, true, err
}

// Speaks refuses a host's claim to be another than its certificate says. Without TLS there is nothing to compare with.
func Speaks(ctx context.Context, claimed model.HostID) error {
	id, ok, err := PeerOf(ctx)
	if err != nil {
		return model.Fail(model.Refused, err, "the other side's certificate")
	}
	if ok && id != (trust.Identity{Role: trust.Host, Name: string(claimed)}) {
		return model.Fail(model.Refused, nil, "%s speaks as host %s", id, claimed)
	}
	return nil
}

// senders remembers which host sends the points of a VM under a generation: its active host, and no other. The first counts.
type senders struct {
	mu sync.Mutex
	of map[string]sender // by UUID of the VM
}

type sender struct {
	generation model.Generation
	host       string
}

// check is asked after the generation was admitted, and tells who sends. A host that was first without being the active one gets
// no point committed: verify compares.
func (s *senders) check(ctx context.Context, spec model.StagingSpec) (model.HostID, error) {
	id, ok, err := PeerOf(ctx)
	switch {
	case err != nil:
		return "", model.Fail(model.Refused, err, "the other side's certificate")
	case !ok:
		return "", nil
	case id.Role != trust.Host:
		return "", model.Fail(model.Refused, nil, "%s sends no replicas", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.of[spec.VM.UUID]
	if now.generation == spec.Generation && now.host != id.Name {
		return "", model.Fail(model.Refused, nil, "generation %d of this VM is sent by %s, not by %s", spec.Generation, now.host, id.Name)
	}
	if s.of == nil {
		s.of = map[string]sender{}
	}
	s.of[spec.VM.UUID] = sender{spec.Generation, id.Name}
	return model.HostID(id.Name), nil
}
