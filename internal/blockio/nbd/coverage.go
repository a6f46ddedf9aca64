package nbd

import "slices"

// span is [from, to) inside a request.
type span struct{ from, to int64 }

// coverage notes which bytes of a read have arrived, so that a reply with an overlap or
// a gap is told from a good one. Chunks in order cost nothing: they stay one span.
type coverage struct {
	spans []span // sorted, disjoint, not touching
	first [1]span
}

// add notes [from, to), not empty; false if it overlaps what is there, or is one
// fragment too many.
func (c *coverage) add(from, to int64) bool {
	if c.spans == nil {
		c.spans = c.first[:0]
	}
	i := len(c.spans) // most arrive in order: try the end first
	if i > 0 && c.spans[i-1].from > from {
		i, _ = slices.BinarySearchFunc(c.spans, from, func(s span, f int64) int {
			switch {
			case s.from < f:
				return -1
			case s.from > f:
				return 1
			}
			return 0
		})
	}
	touchesLeft, touchesRight := false, false
	if i > 0 {
		if c.spans[i-1].to > from {
			return false
		}
		touchesLeft = c.spans[i-1].to == from
	}
	if i < len(c.spans) {
		if c.spans[i].from < to {
			return false
		}
		touchesRight = c.spans[i].from == to
	}
	switch {
	case touchesLeft && touchesRight:
		c.spans[i-1].to = c.spans[i].to
		c.spans = slices.Delete(c.spans, i, i+1)
	case touchesLeft:
		c.spans[i-1].to = to
	case touchesRight:
		c.spans[i].from = from
	case len(c.spans) >= maxFragments:
		return false
	default:
		c.spans = slices.Insert(c.spans, i, span{from, to})
	}
	return true
}

// complete tells whether exactly [0, length) has arrived.
func (c *coverage) complete(length int64) bool {
	return length == 0 && len(c.spans) == 0 || len(c.spans) == 1 && c.spans[0] == span{0, length}
}
