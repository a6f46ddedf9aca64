// Package liveness decides whether a VM's primary is dead, from several pieces of evidence. A dead or hung detector is not
// a verdict: the control plane that hears nothing may itself be the one that is cut off. Pure.
//
// Source: DESIGN.md section 8, references/single-writer.md scenarios 3, 4 and 14. A wrong "dead" costs a needless failover
// but never a second writer: that is the business of seals and evidence of off, not of this package.
package liveness

// Evidence is what is known about the primary.
type Evidence struct {
	VMGone        string // the primary's own agent says that the VM crashed or vanished; what it said
	Reported      string // external monitoring says so; who and why
	HeartbeatLost bool   // the host watch hears nothing
	WitnessAsked  bool   // the standby's agent could be asked …
	WitnessAlive  bool   // … and reaches the primary's agent
	WitnessDetail string
}

// Verdict is the conclusion.
type Verdict string

// Verdicts.
const (
	Alive   Verdict = "alive"
	Dead    Verdict = "dead"
	Unknown Verdict = "unknown" // nobody can tell: nothing is done, and it is asked again
)

// Judgement is a verdict with its reason.
type Judgement struct {
	Verdict Verdict
	Host    bool // the host is thought dead, not only the VM
	Reason  string
}

// Judge weighs the evidence.
func Judge(e Evidence) Judgement {
	switch {
	case e.VMGone != "":
		return Judgement{Dead, false, "the primary's agent reports: " + e.VMGone}
	case e.Reported != "":
		return Judgement{Dead, e.HeartbeatLost, e.Reported}
	case !e.HeartbeatLost:
		return Judgement{Alive, false, "the control plane hears the host"}
	case e.WitnessAsked && e.WitnessAlive:
		return Judgement{Alive, false, "the control plane does not hear the host, but the standby does: " + e.WitnessDetail}
	case e.WitnessAsked:
		return Judgement{Dead, true, "neither the control plane nor the standby hears the host: " + e.WitnessDetail}
	}
	return Judgement{Unknown, false, "the control plane hears neither the primary nor the standby; it may be cut off itself"}
}
