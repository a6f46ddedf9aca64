package model

// EncryptionRequired is the policy that keeps replicas on encrypted disks only.
const EncryptionRequired = "required"

// What an agent says of the disks below its state folder; it says nothing when it cannot tell.
const (
	AtRestEncrypted = "encrypted" // dm-crypt below every one
	AtRestPlain     = "plain"
)

// RefuseAtRest is why a host may not hold replicas under the policy, nil when it may. A host of which it cannot be told may not.
func (p Policy) RefuseAtRest(vm string, h HostID, atRest string) error {
	if p.EncryptionAtRest != EncryptionRequired || atRest == AtRestEncrypted {
		return nil
	}
	what := "the state folder of " + string(h) + " is not encrypted"
	if atRest != AtRestPlain {
		what = "it cannot be told whether the state folder of " + string(h) + " is encrypted"
	}
	return Fail(Refused, nil, "%s, and the policy requires encryption at rest", what).WithVM(vm).WithHost(h).
		WithTry("understudy doctor --host " + string(h) + ", then put its state folder on LUKS (docs/SECURITY.md); or --encryption-at-rest optional")
}
