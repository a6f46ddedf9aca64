package libvirtrpc

import (
	"context"
	"fmt"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// allStats asks about all active domains at once and waits for none that somebody holds: of such a one the fields that QEMU
// must be asked for are left out.
func allStats(l *libvirt.Libvirt, what libvirt.DomainStatsTypes, only ...string) ([]libvirt.DomainStatsRecord, error) {
	if len(only) > 0 {
		var doms []libvirt.Domain
		for _, uuid := range only {
			u, err := parseUUID(uuid)
			if err != nil {
				return nil, err
			}
			doms = append(doms, libvirt.Domain{Name: uuid, UUID: u}) // found by the UUID
		}
		return l.ConnectGetAllDomainStats(doms, uint32(what), uint32(libvirt.ConnectGetAllDomainsStatsNowait))
	}
	return l.ConnectGetAllDomainStats(nil, uint32(what),
		uint32(libvirt.ConnectGetAllDomainsStatsActive|libvirt.ConnectGetAllDomainsStatsNowait))
}

type params map[string]any

func paramsOf(r libvirt.DomainStatsRecord) params {
	p := make(params, len(r.Params))
	for _, f := range r.Params {
		p[f.Field] = f.Value.I
	}
	return p
}

func (p params) num(key string) (int64, bool) {
	switch v := p[key].(type) {
	case uint64:
		return clip(v), true
	case int64:
		return v, true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	}
	return 0, false
}

// disks calls f for each disk of the domain, with the prefix of its fields.
func (p params) disks(f func(target, prefix string)) {
	count, _ := p.num("block.count")
	for i := range min(count, 4*model.MaxDisks) {
		prefix := fmt.Sprintf("block.%d.", i)
		if target, ok := p[prefix+"name"].(string); ok {
			f(target, prefix)
		}
	}
}

// runningSizes gives the sizes of all running domains' disks, by target.
func runningSizes(l *libvirt.Libvirt) (map[libvirt.UUID]map[string]size, error) {
	records, err := allStats(l, libvirt.DomainStatsBlock)
	if err != nil {
		return nil, err
	}
	out := make(map[libvirt.UUID]map[string]size, len(records))
	for _, r := range records {
		p, sizes := paramsOf(r), map[string]size{}
		p.disks(func(target, prefix string) {
			capacity, _ := p.num(prefix + "capacity")
			allocated, _ := p.num(prefix + "allocation")
			sizes[target] = size{capacity, allocated}
		})
		out[r.Dom.UUID] = sizes
	}
	return out, nil
}

// Stats implements hypervisor.Hypervisor.
func (c *Client) Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error) {
	return call(ctx, c, "reading the counters of the domains", func(l *libvirt.Libvirt) ([]hypervisor.Stats, error) {
		what := libvirt.DomainStatsBlock
		if q.CPU {
			what |= libvirt.DomainStatsCPUTotal
		}
		records, err := allStats(l, what, q.Only...)
		if err != nil {
			return nil, err
		}
		out := make([]hypervisor.Stats, 0, len(records))
		for _, r := range records {
			p := paramsOf(r)
			s := hypervisor.Stats{UUID: ref(r.Dom).UUID, Run: int64(r.Dom.ID)}
			cpu, _ := p.num("cpu.time")
			s.CPUTime = time.Duration(cpu)
			known := true
			p.disks(func(_, prefix string) {
				written, ok := p.num(prefix + "wr.bytes")
				reqs, _ := p.num(prefix + "wr.reqs")
				s.WriteBytes += written
				s.WriteReqs += reqs
				if _, empty := p[prefix+"path"]; empty && !ok { // a drive without medium has no counters either
					known = false
				}
			})
			if known {
				out = append(out, s)
			}
		}
		return out, nil
	})
}
