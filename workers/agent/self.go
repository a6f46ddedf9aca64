package agent

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"understudy/activities"
	"understudy/internal/hostload"
	"understudy/internal/hypervisor"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/internal/trust"
)

const factsLimit = 3 * time.Second

// about is what self asks of libvirt.
type about interface {
	Versions(ctx context.Context) (hypervisor.Versions, error)
	Domains(ctx context.Context) ([]hypervisor.Domain, error)
}

// self describes this host.
type self struct {
	known    atomic.Bool // the control plane took what we said of ourselves
	opts     Options
	address  string // of the receiver, as others reach it
	instance string // of this process
	boot     string
	hv       about
	usage    func() (free, total int64, err error)
	watch    *watcher      // nil where nobody watches
	guard    *guarded      // nil where nobody guards
	tls      *trust.Folder // nil: plain text
	held     func() ([]lease.Held, error)
	gate     func(ctx context.Context, domain string) (refused bool, err error) // tries it by libvirtd
	grantor  string
	notified func() *model.NotifyFacts // nil: nobody is told
	sys      string                    // block devices by number
	ping     func(ctx context.Context, address string) (model.HostID, error)
}

var _ activities.Self = (*self)(nil)

func newSelf(opts Options, address string, hv about, usage func() (int64, int64, error), ping func(context.Context, string) (model.HostID, error)) *self {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // unknown is empty
	return &self{
		opts: opts, address: address, instance: uuid.NewString(), boot: strings.TrimSpace(string(boot)), hv: hv, usage: usage, ping: ping, sys: sysBlock,
	}
}

// Facts leaves out what does not answer in time: the host is known without it.
func (s *self) Facts(ctx context.Context) model.HostFacts {
	ctx, cancel := context.WithTimeout(ctx, factsLimit)
	defer cancel()
	f := model.HostFacts{
		Host: s.opts.Host, LinkAddress: s.address, AgentVersion: model.Version(), BootID: s.boot, Instance: s.instance,
		CPUs: hostload.Cores(ctx),
	}
	if v, err := s.hv.Versions(ctx); err == nil {
		f.Libvirt, f.QEMU = v.Libvirt, v.QEMU
		if domains, err := s.hv.Domains(ctx); err == nil {
			f.Domains = len(domains)
		}
	}
	f.StoreFree, f.StoreTotal, _ = s.usage()
	f.GrantorID, f.AtRest = s.grantor, s.AtRest()
	if s.guard != nil {
		f.Terms, f.Guard = s.guard.terms(), s.guard.last()
	}
	if s.notified != nil {
		f.Notify = s.notified()
	}
	if s.tls != nil {
		end := s.tls.NotAfter().UTC()
		f.CertificateEnd = &end
	}
	if s.watch != nil {
		load := s.watch.hostLoad(ctx)
		f.Load, f.Late = &load, s.watch.late()
	}
	f.Clock = time.Now().UTC()
	return f
}
