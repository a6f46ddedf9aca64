package cli

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// failoverPlan is what a failover would do now.
type failoverPlan struct {
	MessageType string       `json:"message_type"` // "failover_plan"
	VM          string       `json:"vm"`
	From        model.HostID `json:"from"`
	To          model.HostID `json:"to"`
	Point       uint64       `json:"point"`
	TakenAt     time.Time    `json:"taken_at"`
	AgeS        float64      `json:"age_s"`
	LossS       float64      `json:"loss_s"`           // age of the oldest write that is in no verified point; with a chosen point, of the point
	InPlace     bool         `json:"in_place"`         // a VM that dies on a host that is well is started there first
	Blocked     string       `json:"blocked"`          // why nothing would be done without a person
	Rungs       []rungView   `json:"rungs"`            // of the proof that the old copy is off
	Probes      []string     `json:"probes,omitempty"` // it is done when they answer
}

type rungView struct {
	Name   string  `json:"name"`
	Usable bool    `json:"usable"`
	WaitS  float64 `json:"wait_s,omitempty"`
	Detail string  `json:"detail"`
}

// rehearse says what a failover would do, and touches nothing.
func rehearse(c *call, d contract.DescribeOut) error {
	vm, st, ctx := d.Spec.VM, d.State, c.Context.Context
	points, err := c.s.Points(ctx, st.Standby, vm)
	if err != nil {
		return err
	}
	v := failoverPlan{MessageType: "failover_plan", VM: vm.Name, From: st.Primary, To: st.Standby, InPlace: st.Policy.RecoverInPlace > 0, Blocked: blockedOf(st)}
	want := model.Seq(c.Uint64("point"))
	for _, p := range points {
		if want == 0 && uint64(p.Seq) >= v.Point || p.Seq == want {
			v.Point, v.TakenAt = uint64(p.Seq), p.TakenAt
		}
	}
	if v.Point == 0 {
		return model.Fail(model.NotFound, nil, "there is no such verified point of %s on %s", vm.Name, st.Standby).WithVM(vm.Name).WithHost(st.Standby).
			WithTry("understudy points " + vm.Name)
	}
	v.AgeS = max(0, c.now().Sub(v.TakenAt).Seconds())
	v.LossS = rpoOf(st, c.now()).Exposure
	if want != 0 {
		v.LossS = v.AgeS
	}
	for _, p := range st.Policy.Probes {
		v.Probes = append(v.Probes, strings.TrimSpace(p.Kind+" "+p.Address+strings.Join(p.Command, " ")))
	}
	v.Rungs = []rungView{surrenderRung(st), fenceRung(c, st), leaseRung(st), {
		Name: "person", Usable: true, WaitS: st.Lease.Wait().Seconds(), Detail: "--confirm-primary-down, when " + string(st.Primary) + " is POWERED OFF",
	}}
	if c.output != ui.Table {
		return ui.Print(c.out, c.output, v)
	}
	return c.line("%s", v.words())
}

func (v failoverPlan) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s would start on %s from point %d, %s old; writes of the last %s would be lost\n", v.VM, v.To, v.Point, ui.Duration(seconds(v.AgeS)), ui.Duration(seconds(v.LossS)))
	if v.Blocked != "" {
		fmt.Fprintf(&b, "not by itself: %s\n", v.Blocked)
	} else if v.InPlace {
		fmt.Fprintf(&b, "if only the VM dies, it is started again on %s first, and nothing is lost\n", v.From)
	}
	b.WriteString("proof that the old copy is off, whichever comes first:")
	for _, r := range v.Rungs {
		word := "no "
		if r.Usable {
			word = "yes"
		}
		fmt.Fprintf(&b, "\n  %s  %-10s %s", word, r.Name, r.Detail)
	}
	for _, p := range v.Probes {
		fmt.Fprintf(&b, "\ndone when it answers: %s", p)
	}
	return b.String()
}

func blockedOf(st contract.ProtectState) string {
	switch {
	case st.Failover != nil && st.Failover.Outcome == "":
		return "a failover runs"
	case st.Paused != nil:
		return "the protection is paused by " + st.Paused.By
	case st.Failed != "":
		return st.Failed
	case st.HostSilent[string(st.Standby)]:
		return string(st.Standby) + " is not heard"
	case st.Policy.Failover == model.FailoverManual:
		return "the policy leaves failovers to people"
	}
	return ""
}

func surrenderRung(st contract.ProtectState) rungView {
	if st.HostSilent[string(st.Primary)] {
		return rungView{Name: "surrender", Detail: string(st.Primary) + " is not heard"}
	}
	return rungView{Name: "surrender", Usable: true, Detail: "the agent of " + string(st.Primary) + " stops it"}
}

// fenceRung asks the devices whether they answer; nothing is switched.
func fenceRung(c *call, st contract.ProtectState) rungView {
	out, err := c.s.Inspect(c.Context.Context, st.Primary, contract.InspectIn{Fence: true})
	r := rungView{Name: "fence", Detail: "no fence device is known for " + string(st.Primary)}
	if err != nil {
		r.Detail = "its devices could not be asked: " + err.Error()
		return r
	}
	for i, check := range out.Checks {
		r.Usable = (i == 0 || r.Usable) && check.OK && !strings.HasPrefix(check.Detail, "no device")
		r.Detail = check.Detail
		if !check.OK {
			break
		}
	}
	return r
}

func leaseRung(st contract.ProtectState) rungView {
	if w := st.Lease.Wait(); w > 0 {
		return rungView{Name: "lease", Usable: true, WaitS: w.Seconds(), Detail: fmt.Sprintf("it ends by itself: the standby waits %s", w)}
	}
	why := "the VM is not bound by a lease"
	if st.Lease != nil && st.Lease.Why != "" {
		why = st.Lease.Why
	}
	return rungView{Name: "lease", Detail: why}
}
