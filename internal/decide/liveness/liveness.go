// Package liveness decides whether a VM's primary is dead, from several pieces of evidence. A dead or hung detector is not
// a verdict: the control plane that hears nothing may itself be the one that is cut off. Pure.
//
// Source: DESIGN.md section 8, references/single-writer.md scenarios 3, 4 and 14. A wrong "dead" costs a needless failover
// but never a second writer: that is the business of seals and evidence of off, not of this package.
package liveness

import "time"

// Evidence is what is known about the primary.
type Evidence struct {
	VMGone        string // the primary's own agent says that the VM crashed or vanished; what it said
	Reported      string // external monitoring says so; who and why
	HeartbeatLost bool   // the host watch hears nothing
	WitnessAsked  bool   // the standby's agent could be asked …
	WitnessAlive  bool   // … and reaches the primary's agent
	WitnessDetail string
	WitnessTook   time.Duration // until the primary's agent answered the standby's
	Load          string        // of the host when it was last heard; empty when nobody knows
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
	Slow    bool // it lives and is late: its load is what to look at, not its network
	Reason  string
}

// slowAnswer of an agent that has nothing else to do than to answer.
const slowAnswer = time.Second

// Judge weighs the evidence.
func Judge(e Evidence) Judgement {
	switch {
	case e.VMGone != "":
		return Judgement{Verdict: Dead, Reason: "the primary's agent reports: " + e.VMGone}
	case e.Reported != "":
		return Judgement{Verdict: Dead, Host: e.HeartbeatLost, Reason: e.Reported}
	case !e.HeartbeatLost:
		return Judgement{Verdict: Alive, Reason: "the control plane hears the host"}
	case e.WitnessAsked && e.WitnessAlive && e.WitnessTook >= slowAnswer:
		return Judgement{Verdict: Alive, Slow: true, Reason: "the host is slow, not dead: " + e.WitnessDetail + loaded(e.Load)}
	case e.WitnessAsked && e.WitnessAlive:
		return Judgement{Verdict: Alive, Reason: "the control plane does not hear the host, but the standby does: " + e.WitnessDetail + loaded(e.Load)}
	case e.WitnessAsked:
		return Judgement{Verdict: Dead, Host: true, Reason: "neither the control plane nor the standby hears the host: " + e.WitnessDetail + loaded(e.Load)}
	}
	return Judgement{Verdict: Unknown, Reason: "the control plane hears neither the primary nor the standby; it may be cut off itself"}
}

func loaded(load string) string {
	if load == "" {
		return ""
	}
	return " (when it was last heard: " + load + ")"
}
