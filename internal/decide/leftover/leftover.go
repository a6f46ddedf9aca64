// Package leftover tells which marks on a host are expected, by what the protections say. Pure.
package leftover

import (
	"strings"

	"understudy/internal/model"
)

// Known is a protection, as far as its marks on a host depend on it.
type Known struct {
	VM         model.VMRef
	Primary    model.HostID
	Standby    model.HostID
	Generation model.Generation
	Committed  model.PointRef
	Busy       bool // a takeover runs, or the former primary was not taken in as standby yet: nothing is judged
	Testing    bool // a test failover runs
}

// Verdict on a mark.
type Verdict string

// Verdicts.
const (
	OK       Verdict = "ok"
	Leftover Verdict = "leftover"
	Foreign  Verdict = "foreign"
)

// Judge says whether a mark on host is expected, and why. k is nil when no protection knows the VM.
func Judge(m model.Mark, host model.HostID, k *Known) (Verdict, string) {
	switch {
	case m.Foreign:
		return Foreign, "somebody else's"
	case m.Kind == model.MarkNBD:
		if m.Orphan {
			return Leftover, "its agent is gone"
		}
		return OK, "of the agent"
	case m.Kind == model.MarkRescue:
		return OK, "kept until a person removes it"
	case m.Kind == model.MarkOverlay && m.Used:
		return OK, "a domain's disks"
	case k == nil:
		switch {
		case m.Kind == model.MarkReplica:
			return OK, "points that were kept when the protection ended"
		case m.Kind == model.MarkOverlay && !isTest(m):
			return OK, "disks that a VM ran from: only a person may remove them"
		case m.Kind == model.MarkGuard:
			return Leftover, "no protection knows this VM, and it does not start there before: understudy guard forget " + m.VM.UUID
		}
		return Leftover, "no protection knows this VM"
	case k.Busy:
		return OK, "a takeover is not at its end"
	}
	switch m.Kind {
	case model.MarkCheckpoint:
		return checkpoint(m, host, *k)
	case model.MarkJob, model.MarkScratch, model.MarkSocket:
		return on(host, k.Primary, "the primary's", "this host is not the primary")
	case model.MarkStaging:
		if host == k.Standby && m.Seq <= k.Committed.Seq {
			return Leftover, "a newer point is committed"
		}
		return on(host, k.Standby, "a point on its way", "this host is not the standby")
	case model.MarkOverlay:
		return overlay(m, host, *k)
	case model.MarkTest:
		if k.Testing {
			return OK, "a test failover runs"
		}
		return Leftover, "no test failover runs"
	case model.MarkRecord, model.MarkFloor, model.MarkGuard, model.MarkReplica, model.MarkWatch: // a former primary's watch is mute
		if host != k.Primary && host != k.Standby {
			return Leftover, "this host has no part in the protection any more"
		}
		return OK, "of the protection"
	default:
		return OK, ""
	}
}

func on(host, want model.HostID, ok, not string) (Verdict, string) {
	if host == want {
		return OK, ok
	}
	return Leftover, not
}

// checkpoint: the primary keeps the committed point's, and that of a capture that is under way.
func checkpoint(m model.Mark, host model.HostID, k Known) (Verdict, string) {
	switch {
	case host != k.Primary:
		return Leftover, "this host is not the primary"
	case m.Seq < k.Committed.Seq:
		return Leftover, "a newer point is committed"
	case m.Seq == k.Committed.Seq:
		return OK, "the next delta starts here"
	}
	return OK, "a capture under way"
}

func isTest(m model.Mark) bool { return strings.Contains(m.Name, "/active/test-") }

// overlay: what the VM runs from, and its former lives, which are its rescue copy until enough newer points are there.
func overlay(m model.Mark, host model.HostID, k Known) (Verdict, string) {
	switch {
	case isTest(m):
		if k.Testing {
			return OK, "a test failover runs"
		}
		return Leftover, "no test failover runs"
	case host == k.Primary:
		return OK, "the VM may run from it"
	case host == k.Standby && m.Generation < k.Generation:
		return OK, "a former life: the rescue copy until enough newer points are there"
	}
	return Leftover, "nothing of the protection runs here"
}
