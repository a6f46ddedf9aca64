package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// found makes the plane know db1 on host-a and accept its protection.
func found(d *desk) *contract.ProtectSpec {
	var spec contract.ProtectSpec
	d.plane.hosts = heard("host-a", "host-b")
	d.plane.locate = func(vm string, on model.HostID) (model.DomainFacts, model.HostID, error) {
		return model.DomainFacts{VM: db1, Running: true}, "host-a", nil
	}
	d.plane.ensure = func(s contract.ProtectSpec) (contract.DescribeOut, error) {
		spec = s
		return seeding(), nil
	}
	d.plane.describe = func() (contract.DescribeOut, error) { return seeding(), nil }
	return &spec
}

func seeding() contract.DescribeOut {
	d := protected()
	d.State.Phase, d.State.Committed, d.State.Recent = model.PhaseSeeding, model.PointRef{}, nil
	d.State.InFlight = &contract.InFlight{PointRef: model.PointRef{Generation: 1, Seq: 1}, Stage: "replicate", StartedAt: noon}
	return d
}

func TestProtectPassesOnWhatThePersonAskedFor(t *testing.T) {
	d := sit(t)
	spec := found(d)
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--rpo", "10s", "--keep-last", "50", "--bandwidth", "12MB", "--compression", "off",
		"--failover", "manual", "--tier", "gold", "--freeze", "db1"), d.stderr.String())
	want := model.DefaultPolicy()
	want.RPO, want.Tier, want.KeepLast, want.Failover = 10*time.Second, model.Gold, 50, model.FailoverManual
	want.Freeze, want.MaxBandwidth, want.Compression = true, 12_000_000, "off"
	require.Equal(t, contract.ProtectSpec{VM: db1, Primary: "host-a", Standby: "host-b", Policy: want}, *spec)
}

func TestProtectRefusesWithTheKindItWasGiven(t *testing.T) {
	for kind, code := range map[model.Kind]int{
		model.Conflict: 11, model.Unsupported: 12, model.Refused: 12, model.TargetFull: 1, model.NotFound: 10, model.Unreachable: 20,
	} {
		d := sit(t)
		found(d)
		d.plane.ensure = func(contract.ProtectSpec) (contract.DescribeOut, error) {
			return contract.DescribeOut{}, model.Fail(kind, nil, "no")
		}
		require.Equal(t, code, d.run("protect", "--standby", "host-b", "db1"), kind)
		require.Empty(t, d.stdout.String())
	}
	d := sit(t)
	found(d)
	require.Equal(t, 10, d.run("protect", "--standby", "host-z", "db1"), "unknown host")
	d.plane.locate = func(string, model.HostID) (model.DomainFacts, model.HostID, error) {
		return model.DomainFacts{VM: db1}, "host-b", nil
	}
	require.Equal(t, 64, d.run("protect", "--standby", "host-b", "db1"), "it is on the standby itself")
}

func TestWaitShowsTheCopyUntilTheFirstPointIsVerified(t *testing.T) {
	d := sit(t)
	found(d)
	d.plane.progress = &contract.ReplicateProgress{Disk: "vda", DoneBytes: 256 << 20, TotalBytes: 512 << 20, SentBytes: 100 << 20, Rate: 64 << 20}
	looks := 0
	d.plane.describe = func() (contract.DescribeOut, error) {
		switch looks++; {
		case looks == 2:
			return contract.DescribeOut{}, model.Fail(model.Unreachable, nil, "the control plane restarts")
		case looks < 4:
			return seeding(), nil
		}
		return protected(), nil
	}
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--wait", "db1"), d.stderr.String())
	require.Contains(t, d.stderr.String(), "point 1: replicate vda [##########..........]  50 % of 512.0 MiB, 100.0 MiB sent, 64.0 MiB/s, 4.0 s left")
	require.Equal(t, 1, strings.Count(d.stderr.String(), "\n"), "without a terminal: one line each ten seconds")
	require.Contains(t, d.stdout.String(), "point 42 verified")
}

func TestCtrlCStopsTheWatchingAndSaysThatTheWorkGoesOn(t *testing.T) {
	d := sit(t)
	found(d)
	d.plane.describe = func() (contract.DescribeOut, error) {
		d.cancel()
		return seeding(), nil
	}
	require.Equal(t, 130, d.run("protect", "--standby", "host-b", "--wait", "db1"))
	require.Contains(t, d.stderr.String(), "the copy of db1 goes on. Try: understudy status --watch db1")
}

func TestWaitEndsWhenAPersonIsNeeded(t *testing.T) {
	d := sit(t)
	found(d)
	d.plane.describe = func() (contract.DescribeOut, error) {
		s := seeding()
		s.State.Failed = "a newer owner exists"
		return s, nil
	}
	require.Equal(t, 1, d.run("protect", "--standby", "host-b", "--wait", "db1"))
	require.Contains(t, d.stderr.String(), "a newer owner exists")
}

func TestSetPolicyChangesOnlyWhatIsGiven(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	d.plane.setPolicy = func(p model.Policy) (contract.DescribeOut, error) {
		want := model.DefaultPolicy()
		want.Tier = model.Gold
		require.Equal(t, want, p)
		return protected(), nil
	}
	require.Equal(t, 0, d.run("set-policy", "--tier", "gold", "db1"))
}

func TestUnprotectNeedsAPersonOrYes(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	require.Equal(t, 64, d.run("unprotect", "db1"), "nobody can answer")
	d.interactive, d.in = true, strings.NewReader("n\n")
	require.Equal(t, 130, d.run("unprotect", "db1"))
	require.Contains(t, d.stderr.String(), "nothing was done")

	d.plane.unprotect = func(in contract.UnprotectIn) (contract.UnprotectOut, error) {
		require.Equal(t, contract.UnprotectIn{By: "kim@console", PurgeReplica: true}, in)
		return contract.UnprotectOut{Leftovers: []string{"everything on host-b"}}, nil
	}
	require.Equal(t, 0, d.run("unprotect", "--yes", "--purge", "--output", "json", "db1"))
	require.JSONEq(t, `{"message_type":"unprotected","vm":"db1","uuid":"`+db1.UUID+`","purged":true,"leftovers":["everything on host-b"]}`, d.stdout.String())
	require.Contains(t, d.stderr.String(), "left behind: everything on host-b")
	d.plane.unprotect = func(contract.UnprotectIn) (contract.UnprotectOut, error) {
		return contract.UnprotectOut{}, model.Fail(model.Conflict, nil, "a failover of db1 is running")
	}
	require.Equal(t, 11, d.run("unprotect", "--yes", "db1"))
}
