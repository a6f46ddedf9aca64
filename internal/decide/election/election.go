// Package election chooses the point that a failover starts from. Pure.
//
// Source: DESIGN.md section 8: the newest verified point, a chosen one, and after a failed start the next older one.
package election

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/model"
)

// Candidate is a point of the store.
type Candidate struct {
	model.PointRef
	TakenAt    time.Time
	VerifiedAt time.Time // zero: not proved, never started
}

// Choose returns the newest verified point; want (not zero) asks for that one; below (not zero) asks for points older than
// it. Seq grows over generations, so it alone orders points.
func Choose(points []Candidate, want, below model.Seq) (Candidate, error) {
	var best Candidate
	for _, c := range points {
		switch {
		case c.IsZero(), c.VerifiedAt.IsZero():
		case want != 0 && c.Seq != want:
		case below != 0 && c.Seq >= below:
		case c.Seq > best.Seq:
			best = c
		}
	}
	if best.IsZero() {
		return best, refuse(points, want, below)
	}
	return best, nil
}

func refuse(points []Candidate, want, below model.Seq) error {
	have := verified(points)
	switch {
	case want != 0:
		return model.Fail(model.NotFound, nil, "point %d is not in the store as a verified point; there are %s", want, have).
			WithTry("understudy points VM, then failover VM --point SEQ")
	case below != 0:
		return model.Fail(model.NotFound, nil, "there is no verified point older than %d", below)
	}
	return model.Fail(model.NotFound, nil, "the store has no verified point")
}

func verified(points []Candidate) string {
	var seqs []string
	for _, c := range points {
		if !c.VerifiedAt.IsZero() {
			seqs = append(seqs, fmt.Sprint(c.Seq))
		}
	}
	if len(seqs) == 0 {
		return "none"
	}
	return strings.Join(seqs, ", ")
}
