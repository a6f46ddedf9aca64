package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// fitting is a host that has all that a point needs.
type fitting struct{ Restorer }

func (fitting) Fit(context.Context, model.VMRef, model.PointRef, map[string]string) ([]string, error) {
	return nil, nil
}

func TestAStandbyThatIsNotEncryptedHoldsNothingWhenThePolicyRequiresIt(t *testing.T) {
	required := model.DefaultPolicy()
	required.EncryptionAtRest = model.EncryptionRequired
	for said, want := range map[string]string{model.AtRestEncrypted: "", model.AtRestPlain: "Refused", "": "Refused"} {
		f := hostEnv(t)
		f.Self, f.Restorer = fakeSelf{atRest: said}, fitting{f.restore}
		check := contract.PreflightIn{VM: db1, Policy: required, Disks: []model.Disk{{Target: "vda"}}}
		fit := contract.FitIn{VM: db1, Point: model.PointRef{Generation: 1, Seq: 1}, EncryptionAtRest: required.EncryptionAtRest}
		_, checkErr := run(t, f, contract.Preflight, check)
		_, fitErr := run(t, f, contract.Fit, fit)
		if want == "" {
			require.NoError(t, checkErr)
			require.NoError(t, fitErr)
		} else {
			require.Equal(t, want, kind(t, checkErr))
			require.Equal(t, want, kind(t, fitErr))
			require.ErrorContains(t, checkErr, "the policy requires encryption at rest")
		}
		check.Policy, fit.EncryptionAtRest = model.DefaultPolicy(), ""
		_, checkErr = run(t, f, contract.Preflight, check)
		_, fitErr = run(t, f, contract.Fit, fit)
		require.NoError(t, checkErr, "any other policy takes it as it is")
		require.NoError(t, fitErr)
	}
}
