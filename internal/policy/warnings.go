package policy

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

// detection is how long a silent host takes to be noticed: the limit of its watch's heartbeats.
const detection = 3 * time.Second

// Warnings says what a policy asks for that may be impossible, depending on what the hosts have. Nothing of it is a reason to refuse.
func Warnings(p model.Policy) []string {
	var out []string
	if p.RTO > 0 && p.Isolation != model.IsolationKeep {
		if wait := detection + model.DefaultTerms(p.GuardLevel).Wait(); p.RTO < wait {
			out = append(out, fmt.Sprintf("rto %s: without a fence device a silent host is outlasted for %s before the VM may start elsewhere; with one that confirms in time the target can be met",
				short(p.RTO), short(wait.Round(100*time.Millisecond))))
		}
	}
	if p.RTO > 0 && p.Isolation == model.IsolationKeep {
		out = append(out, fmt.Sprintf("rto %s with isolation keep: a silent host needs a fence device, or a person, and a person takes longer", short(p.RTO)))
	}
	if p.RTO > 0 && p.Salvage >= p.RTO {
		out = append(out, fmt.Sprintf("salvage may take %s of the rto of %s", short(p.Salvage), short(p.RTO)))
	}
	if p.RTO > 0 && p.BootEvery == 0 {
		out = append(out, "rto is compared with test failovers, and none is scheduled: verification boot, or understudy test-failover by hand")
	}
	if p.Failover == model.FailoverManual && p.RTO > 0 && p.RTO < time.Minute {
		out = append(out, fmt.Sprintf("rto %s with failover manual: a person decides", short(p.RTO)))
	}
	return out
}
