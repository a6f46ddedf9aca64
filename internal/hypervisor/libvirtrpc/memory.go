package libvirtrpc

import (
	"context"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/model"
)

// pageSampling is VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING: 512 pages a GiB, which the guest does not notice. The other ways
// make each of its writes to a clean page slower.
const pageSampling = 0

// StartMemoryRate implements hypervisor.Hypervisor. QEMU looks at the pages in a thread of its own.
func (c *Client) StartMemoryRate(ctx context.Context, uuid string, over time.Duration) error {
	return c.do(ctx, "estimating the dirty memory of domain "+uuid, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		if _, measuring, err := memoryRate(l, dom); err != nil {
			return err
		} else if measuring { // QEMU says so in words that libvirt passes on as an internal error
			return model.Fail(model.JobConflict, nil, "an estimate of its dirty memory is under way").WithVM(dom.Name)
		}
		return l.DomainStartDirtyRateCalc(dom, int32(max(over.Seconds(), 1)), pageSampling)
	})
}

// MemoryRate implements hypervisor.Hypervisor.
func (c *Client) MemoryRate(ctx context.Context, uuid string) (rate int64, done bool, err error) {
	err = c.do(ctx, "asking for the dirty memory of domain "+uuid, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		r, _, err := memoryRate(l, dom)
		if err == nil && r >= 0 {
			rate, done = r, true
		}
		return err
	})
	return rate, done, err
}

// memoryRate is negative while nothing was measured.
func memoryRate(l *libvirt.Libvirt, dom libvirt.Domain) (rate int64, measuring bool, err error) {
	if active, err := l.DomainIsActive(dom); err != nil || active == 0 {
		if err == nil {
			err = model.Fail(model.NotRunning, nil, "it is not running").WithVM(dom.Name)
		}
		return -1, false, err
	}
	records, err := l.ConnectGetAllDomainStats([]libvirt.Domain{dom}, uint32(libvirt.DomainStatsDirtyrate), uint32(libvirt.ConnectGetAllDomainsStatsNowait))
	if err != nil || len(records) == 0 {
		return -1, false, err
	}
	p := paramsOf(records[0])
	status, known := p.num(libvirt.DomainStatsDirtyrateCalcStatus)
	measuring = known && libvirt.DomainDirtyRateStatus(status) == libvirt.DomainDirtyrateMeasuring
	if mib, ok := p.num(libvirt.DomainStatsDirtyrateMegabytesPerSecond); ok && mib >= 0 && known && libvirt.DomainDirtyRateStatus(status) == libvirt.DomainDirtyrateMeasured {
		return mib << 20, false, nil
	}
	return -1, measuring, nil
}
