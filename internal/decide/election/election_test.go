package election

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func point(g model.Generation, seq model.Seq, verified bool) Candidate {
	c := Candidate{PointRef: model.PointRef{Generation: g, Seq: seq}}
	if verified {
		c.VerifiedAt = time.Unix(int64(seq), 0)
	}
	return c
}

func TestChoose(t *testing.T) {
	store := []Candidate{point(1, 3, true), point(1, 4, true), point(3, 7, true), point(3, 8, false), {}}
	for name, c := range map[string]struct {
		want, below, got model.Seq
		says             string
	}{
		"the newest verified one":       {0, 0, 7, ""},
		"a chosen one":                  {3, 0, 3, ""},
		"never an unproved one":         {8, 0, 0, "there are 3, 4, 7"},
		"not one that is not there":     {5, 0, 0, "point 5"},
		"the next older one":            {0, 7, 4, ""},
		"until there is none":           {0, 3, 0, "older than 3"},
		"a chosen one that is older":    {3, 4, 3, ""},
		"a chosen one that was tried":   {3, 3, 0, "point 3"},
		"generations do not order them": {0, 4, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(store, c.want, c.below)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				require.Equal(t, model.NotFound, model.KindOf(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.got, got.Seq)
		})
	}
	_, err := Choose(nil, 0, 0)
	require.ErrorContains(t, err, "no verified point")
	_, err = Choose(nil, 2, 0)
	require.ErrorContains(t, err, "there are none")
}

// The order of the list does not matter, and what is chosen is verified and the newest of what is allowed.
func TestLawChoiceIsTheNewestOfTheProved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var store []Candidate
		for _, seq := range rapid.SliceOfNDistinct(rapid.Uint64Range(1, 30), 0, 20, rapid.ID[uint64]).Draw(t, "seqs") {
			store = append(store, point(1, model.Seq(seq), rapid.Bool().Draw(t, "verified")))
		}
		below := model.Seq(rapid.Uint64Range(0, 30).Draw(t, "below"))
		got, err := Choose(store, 0, below)
		for _, c := range store {
			if allowed := !c.VerifiedAt.IsZero() && (below == 0 || c.Seq < below); allowed {
				require.NoError(t, err)
				require.GreaterOrEqual(t, got.Seq, c.Seq)
			}
		}
		if err == nil {
			require.False(t, got.VerifiedAt.IsZero())
		}
		again, againErr := Choose(rapid.Permutation(store).Draw(t, "shuffled"), 0, below)
		require.Equal(t, got, again)
		require.Equal(t, err == nil, againErr == nil)
	})
}
