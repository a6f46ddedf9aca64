package recoverypoint

import (
	"context"

	"understudy/internal/model"
)

// StagedSpec is what a staging area that was received to its end was opened for. The commit needs the domain's XML from it.
func (s *Store) StagedSpec(ctx context.Context, vm model.VMRef, p model.PointRef) (model.StagingSpec, error) {
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return model.StagingSpec{}, nothingStaged(err, vm, p)
	}
	defer r.leave()
	spec, _, err := s.staged(r, vm, p)
	return spec.StagingSpec, err
}
