package simulate

import (
	"math/rand/v2"
	"slices"
)

// Look is what was seen of a running guest at one moment: counters, not addresses.
type Look struct {
	Time   float64 // s from the start
	Bytes  int64   // written since the look before
	Reqs   int64   // in so many requests
	Dirty  int64   // bytes of the clusters written since Window began; negative when unknown
	Window string  // changes when Dirty began anew
}

// FromLooks makes writes that have the same counters and the same growth of dirty clusters as what was seen. Where the writes
// went is not known, so the addresses are made up, and where that matters they err to more bytes: clusters of another window are
// other clusters, rewrites hit any block of a dirty cluster, and without a count of dirty clusters nothing is a rewrite.
func FromLooks(looks []Look, seed uint64) []Write {
	r := rand.New(rand.NewPCG(seed, 0))
	var out []Write
	var dirty []uint64 // clusters of this window
	window, before, known, next, from := "", int64(0), false, uint64(0), 0.0
	for _, l := range looks {
		if l.Window != window || l.Dirty < 0 {
			dirty, before, known, window = dirty[:0], 0, false, l.Window
		}
		blocks := (max(l.Bytes, 0) + Block - 1) / Block
		fresh := (blocks + perCluster - 1) / perCluster
		if l.Dirty >= 0 {
			// What was dirty at the first look of a window was written before it, as far as this second did not write so much.
			fresh = min(max(l.Dirty-before, 0)/Cluster, blocks)
			if !known {
				for range max(l.Dirty/Cluster-blocks, 0) {
					dirty, next = append(dirty, next), next+1
				}
				fresh = min(fresh, max(l.Dirty/Cluster-int64(len(dirty)), 0))
			}
			before, known = l.Dirty, true
		}
		if blocks > 0 {
			w := spread(r, &next, &dirty, blocks, fresh, max(l.Reqs, 1))
			stamp(r, w, from, l.Time)
			out = append(out, w...)
		}
		from = l.Time
	}
	return out
}

// spread places blocks in requests of about equal length: first into fresh clusters, the rest over dirty ones.
func spread(r *rand.Rand, next *uint64, dirty *[]uint64, blocks, fresh, reqs int64) []Write {
	var out []Write
	length := max(1, min(blocks/reqs, perCluster))
	for ; fresh > 0; fresh-- {
		n := min(max(length, (blocks-fresh+1)/max(fresh, 1)), perCluster, blocks-fresh+1)
		out = append(out, Write{First: *next * perCluster, Blocks: uint32(n)})
		*dirty, *next = append(*dirty, *next), *next+1
		blocks -= n
	}
	if blocks > 0 && len(*dirty) == 0 {
		*dirty, *next = append(*dirty, *next), *next+1
	}
	for blocks > 0 {
		n := min(length, blocks)
		c := (*dirty)[r.IntN(len(*dirty))]
		out = append(out, Write{First: c*perCluster + uint64(r.IntN(int(perCluster-n)+1)), Blocks: uint32(n)})
		blocks -= n
	}
	return out
}

// stamp gives the writes times between two looks, in order.
func stamp(r *rand.Rand, writes []Write, from, to float64) {
	at := make([]float64, len(writes))
	for i := range at {
		at[i] = from + r.Float64()*(to-from)
	}
	slices.Sort(at)
	r.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	for i := range writes {
		writes[i].Time = at[i]
	}
}
