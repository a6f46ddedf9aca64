package simulate

import "math"

// Result is what a schedule cost and kept.
type Result struct {
	Trace      string         `json:"trace"`
	Planner    string         `json:"planner"`
	Seconds    float64        `json:"seconds"`
	RPO        float64        `json:"rpo_s"`
	Link       float64        `json:"link_bytes_per_s"`
	Cycles     int            `json:"cycles"`
	Failed     int            `json:"failed_attempts"`
	Bytes      float64        `json:"sent_bytes"`
	Dirty4K    float64        `json:"changed_bytes"`          // by blocks of 4 KiB
	Dirty64K   float64        `json:"changed_clusters_bytes"` // had whole clusters been sent
	CPU        float64        `json:"cpu_s"`
	Looks      int            `json:"decisions"`
	Polls      int            `json:"size_polls"`
	P50        float64        `json:"exposure_p50_s"`
	P99        float64        `json:"exposure_p99_s"`
	Max        float64        `json:"exposure_max_s"`
	Violations int            `json:"violations"`
	Late       float64        `json:"violated_s"`
	Bindings   map[string]int `json:"bindings,omitempty"` // starts by the constraint that decided them
	Trail      []Step         `json:"-"`

	lastWork float64
}

// LateShare is the share of the time in violation.
func (r Result) LateShare() float64 { return r.Late / max(r.Seconds, 1) }

func (r *run) bound(by string) {
	if r.res.Bindings == nil {
		r.res.Bindings = map[string]int{}
	}
	r.res.Bindings[by]++
}

// Step is one verified cycle, for a plot.
type Step struct{ Instant, Verified, Oldest, Sent, Changed float64 }

const (
	binsPerRPO = 400
	binsRPO    = 8 // exposures beyond so many targets share a bin
)

// meter integrates the exposure, which rises by a second a second from the age of the oldest write and falls with a
// verified point.
type meter struct {
	rpo   float64
	prev  float64 // time of the last verified point
	bins  []float64
	none  float64
	max   float64
	late  float64
	count int
}

func newMeter(rpo float64) meter { return meter{rpo: rpo, bins: make([]float64, binsPerRPO*binsRPO+1)} }

// verified ends the piece from the last verified point to now, in which origin was the oldest unreplicated write.
func (m *meter) verified(origin, now float64, _ outcome) {
	from := max(origin, m.prev)
	if from >= now {
		m.none += now - m.prev
		m.prev = now
		return
	}
	m.none += from - m.prev
	low, high := from-origin, now-origin
	m.max = max(m.max, high)
	if high > m.rpo {
		m.count++
		m.late += high - max(low, m.rpo)
	}
	width := m.rpo / binsPerRPO
	for e := low; e < high; {
		i := min(int(e/width+1e-9), len(m.bins)-1)
		next := float64(i+1) * width
		if i == len(m.bins)-1 || next > high {
			next = high
		}
		m.bins[i] += next - e
		e = next
	}
	m.prev = now
}

func (m *meter) fill(r *Result) {
	r.Max, r.Late, r.Violations = m.max, m.late, m.count
	r.P50, r.P99 = m.quantile(0.5), m.quantile(0.99)
}

// quantile over the time, times without exposure count as 0.
func (m *meter) quantile(p float64) float64 {
	total := m.none
	for _, b := range m.bins {
		total += b
	}
	left := p*total - m.none
	if left <= 0 {
		return 0
	}
	for i, b := range m.bins {
		if left -= b; left <= 0 {
			return min(float64(i+1)*m.rpo/binsPerRPO, m.max)
		}
	}
	return math.Min(m.max, float64(binsRPO)*m.rpo)
}
