package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestAPolicyThatRequiresEncryptionIsTakenOnlyWhenTheStandbyHasIt(t *testing.T) {
	w := newWorld(t)
	required := policy()
	required.EncryptionAtRest = model.EncryptionRequired
	var refused, taken, lifted *answer[contract.DescribeOut]
	w.at(time.Minute, func() { refused = update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: required}) })
	var before, after, plain, mended contract.ProtectState
	w.at(2*time.Minute, func() {
		before = w.state()
		w.hosts[hostB].atRest = model.AtRestEncrypted
		taken = update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: required})
	})
	w.at(3*time.Minute, func() { after = w.state(); w.hosts[hostB].atRest = model.AtRestPlain })
	w.at(4*time.Minute, func() { plain = w.state(); w.hosts[hostB].atRest = model.AtRestEncrypted })
	w.at(5*time.Minute, func() { mended = w.state(); w.hosts[hostB].atRest = "" })
	w.at(6*time.Minute, func() {
		require.Contains(t, alertNames(w.state()), contract.AlertNotEncrypted, "what cannot be told is not promised")
		lifted = update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: policy()})
	})
	var end contract.ProtectState
	w.at(7*time.Minute, func() { end = w.state() })
	w.protect(protectIn(policy()), 7*time.Minute+time.Second)

	require.ErrorContains(t, refused.Err, "the policy requires encryption at rest")
	require.Equal(t, model.Refused, kindOf(refused.Err))
	require.Empty(t, before.Policy.EncryptionAtRest)
	require.Equal(t, 1, before.Policy.Version)
	require.NoError(t, taken.Err)
	require.Equal(t, model.EncryptionRequired, after.Policy.EncryptionAtRest)
	require.Empty(t, after.Alerts)
	require.Equal(t, []string{contract.AlertNotEncrypted}, alertNames(plain))
	require.Greater(t, plain.Totals.Cycles, after.Totals.Cycles, "points go on being made")
	require.Empty(t, mended.Alerts)
	require.NoError(t, lifted.Err)
	require.Empty(t, end.Alerts)
}

// The target is asked before anything is claimed; a person who would rather have the VM changes the policy.
func TestAFailoverDoesNotPutAVMWhereItsDisksAreReadable(t *testing.T) {
	w := newWorld(t).connect()
	required := policy()
	required.EncryptionAtRest = model.EncryptionRequired
	w.hosts[hostA].atRest, w.hosts[hostB].atRest = model.AtRestEncrypted, model.AtRestEncrypted
	w.at(time.Minute, func() { w.hosts[hostB].atRest = model.AtRestPlain; w.crashVM() })
	var stopped, moved contract.ProtectState
	w.at(2*time.Minute, func() {
		stopped = w.state()
		update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: policy()})
		update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "kim", Reason: "it is needed"})
	})
	w.at(4*time.Minute, func() { moved = w.state() })
	w.protect(protectIn(required), 4*time.Minute+time.Second)
	require.Equal(t, hostA, stopped.Primary)
	require.Contains(t, stopped.Failover.Error, "the policy requires encryption at rest")
	require.Equal(t, 1, w.count("start"), "when nothing was required any more")
	require.Equal(t, hostB, moved.Primary)
}
