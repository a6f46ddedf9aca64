package obs

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Scopes of alarms: the beginnings of their keys. An observer takes in one scope at a time, so that what it cannot see now
// does not look over.
const (
	ScopePlane  = "plane/"  // what protections and hosts say, by the server
	ScopeServer = "server/" // the server about itself
	ScopeAgent  = "agent/"  // an agent about its host and the VMs that it serves
)

// What of a host an alarm is about, within a scope.
const (
	silentKey      = "silent/"
	diskKey        = "disk/"
	certificateKey = "certificate/"
)

const (
	certificateLeft = 14 * 24 * time.Hour
	diskLeft        = 0.1
	patienceDisk    = 5 * time.Minute
	patienceSilent  = 10 * time.Second // a restart of an agent is no matter
	patiencePlane   = 30 * time.Second
	// unverified: as the alert rule UnderstudyUnverified has it.
	unverifiedLeast = time.Hour
	unverifiedTimes = 4
)

// told are the alerts of a protection that people are sent, with how long they must last. The others are for who looks.
var told = map[string]struct {
	what  string
	after time.Duration
}{
	contract.AlertVMDown:           {"is down, and may not fail over by itself", 0},
	contract.AlertVMPaused:         {"is paused", 30 * time.Second},
	contract.AlertIOError:          {"has I/O errors on its disks", 0},
	contract.AlertStandbyFull:      {"is not replicated: the standby's disk is full", 0},
	contract.AlertNotEncrypted:     {"is replicated to disks that are not encrypted, against its policy", 0},
	contract.AlertNeedsAttention:   {"is not replicated: a person is needed", 0},
	contract.AlertStaleGeneration:  {"has a newer owner", 0},
	contract.AlertFenceUnconfirmed: {"cannot fail over: nothing proves that its old copy is off", 0},
	contract.AlertFailoverFailed:   {"did not fail over", 0},
	contract.AlertTestFailed:       {"did not pass its test failover", 0},
	contract.AlertCutOff:           {"has a primary that only others hear", time.Minute},
	contract.AlertUnwatched:        {"has a host that nobody watches", 5 * time.Minute},
}

// Alarms of the scope ScopePlane, as the control plane answered last.
func Alarms(s State, now time.Time) []model.Alarm {
	out := hostsAlarms(s.Hosts, now)
	speaks := speaking(s.Hosts)
	for _, d := range s.Protections {
		out = append(out, protectionAlarms(d, speaks, now)...)
	}
	return out
}

// Scoped are the alarms of a part of the scope ScopePlane, which is a scope of its own.
type Scoped struct {
	Scope  string
	Alarms []model.Alarm
}

// HeardAlarms are those of the hosts and protections that answered although the control plane as a whole did not: a
// protection that is stuck must not hide the others.
func HeardAlarms(s State, now time.Time) []Scoped {
	var out []Scoped
	if s.HostsHeard {
		all := hostsAlarms(s.Hosts, now)
		for _, kind := range []string{silentKey, diskKey, certificateKey} { // an observer takes what is in its scope
			out = append(out, Scoped{ScopePlane + kind, all})
		}
	}
	speaks := speaking(s.Hosts)
	for _, d := range s.Heard {
		out = append(out, Scoped{scopeOf(d.Spec.VM), protectionAlarms(d, speaks, now)})
	}
	return out
}

// speaking are the hosts whose agents tell people themselves.
func speaking(hosts []contract.HostWatchState) map[model.HostID]bool {
	out := map[model.HostID]bool{}
	for _, h := range hosts {
		out[h.Facts.Host] = h.Facts.Notify != nil && !h.Silent
	}
	return out
}

func scopeOf(vm model.VMRef) string { return ScopePlane + vm.UUID + "/" }

func hostsAlarms(hosts []contract.HostWatchState, now time.Time) []model.Alarm {
	var out []model.Alarm
	for _, h := range hosts {
		out = append(out, hostAlarms(h, now)...)
	}
	return out
}

func hostAlarms(h contract.HostWatchState, now time.Time) []model.Alarm {
	f := h.Facts
	var out []model.Alarm
	if h.Silent && len(h.Protections) > 0 {
		out = append(out, model.Alarm{
			Key: ScopePlane + silentKey + string(f.Host), Name: contract.AlertHostSilent, Host: f.Host, Since: h.Since, After: patienceSilent,
			What: "host " + string(f.Host) + " is silent", Why: fmt.Sprintf("its agent was heard last at %s; %s", clock(h.LastHeard), uses(len(h.Protections))),
			Try: "understudy hosts; understudy doctor --host " + string(f.Host),
		})
	}
	if f.Notify != nil && !h.Silent {
		return out // it says the rest itself
	}
	if a, ok := DiskAlarm(ScopePlane, f.Host, "the replicas of host "+string(f.Host), f.StoreFree, f.StoreTotal); ok {
		out = append(out, a)
	}
	if f.CertificateEnd != nil {
		if a, ok := CertificateAlarm(ScopePlane, f.Host, "host "+string(f.Host), *f.CertificateEnd, now); ok {
			out = append(out, a)
		}
	}
	return out
}

func uses(n int) string {
	if n == 1 {
		return "one protection uses it"
	}
	return fmt.Sprintf("%d protections use it", n)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// DiskAlarm when a file system is nearly full; host is empty for the server's own.
func DiskAlarm(scope string, host model.HostID, what string, free, total int64) (model.Alarm, bool) {
	if total <= 0 || float64(free) >= diskLeft*float64(total) {
		return model.Alarm{}, false
	}
	level := 1
	if float64(free) < diskLeft/4*float64(total) {
		level = 2
	}
	return model.Alarm{
		Key: scope + diskKey + string(host), Name: "DiskLow", Host: host, Level: level, After: patienceDisk,
		What: "the file system of " + what + " is nearly full",
		Why:  fmt.Sprintf("%.1f %% of %.1f GB are free; without room no point can be made", 100*float64(free)/float64(total), float64(total)/1e9),
		Try:  "free space there, or keep fewer points: understudy set-policy --keep-last N VM",
	}, true
}

// CertificateAlarm when a certificate ends soon and was not renewed; host is empty for the server's own.
func CertificateAlarm(scope string, host model.HostID, of string, end, now time.Time) (model.Alarm, bool) {
	left := end.Sub(now)
	if left >= certificateLeft {
		return model.Alarm{}, false
	}
	level, why := 1, fmt.Sprintf("it ends at %s and was not renewed", end.UTC().Format("2006-01-02 15:04 UTC"))
	switch {
	case left <= 0:
		level, why = 3, fmt.Sprintf("it ended at %s: nobody believes it any more", end.UTC().Format("2006-01-02 15:04 UTC"))
	case left < 48*time.Hour:
		level = 2
	}
	return model.Alarm{
		Key: scope + certificateKey + string(host), Name: "CertificateExpiring", Host: host, Level: level, After: time.Minute,
		What: "the certificate of " + of + " ends soon", Why: why, Try: "understudy ca renew FOLDER, where the authority lies",
	}, true
}

func protectionAlarms(d contract.DescribeOut, speaks map[model.HostID]bool, now time.Time) []model.Alarm {
	st, vm := d.State, d.Spec.VM
	var out []model.Alarm
	status := "understudy status " + vm.Name
	add := func(a model.Alarm) {
		a.Key, a.VM = scopeOf(vm)+a.Key, vm.Name
		out = append(out, a)
	}
	for _, a := range st.Alerts {
		name, host, _ := strings.Cut(a.Name, "/")
		if t, ok := told[name]; ok {
			on := st.Primary
			if host != "" {
				on = model.HostID(host)
			}
			add(model.Alarm{Key: a.Name, Name: name, Host: on, What: vm.Name + " " + t.what, Why: a.Detail, Try: orElse(a.Try, status), Since: a.Since, After: t.after})
		}
	}
	// The agent that serves the VM sees its writes first; while it is heard and tells people itself, it alone does.
	if promise := PromiseOf(st, now); !speaks[st.Primary] && promise.State == model.RPOViolated && st.Totals.Cycles > 0 {
		add(ExposureAlarm(vm.Name, st.Primary, promise.Exposure, promise.Target))
	}
	if n := len(st.Recent); n > 0 {
		age, promise := now.Sub(st.Recent[n-1].TakenAt), PromiseOf(st, now)
		if promise.Exposure > 0 && age > unverifiedLeast && age > unverifiedTimes*promise.Target {
			add(model.Alarm{
				Key: "unverified", Name: "Unverified", Host: st.Standby, Since: st.Recent[n-1].TakenAt, After: unverifiedLeast,
				What: vm.Name + " has had no verified point for long", Why: fmt.Sprintf("it writes, and the newest point is %s old", age.Round(time.Minute)), Try: status,
			})
		}
	}
	if st.Phase == model.PhaseFailed {
		add(model.Alarm{
			Key: "failed", Name: "ProtectionFailed", Host: st.Primary, After: time.Minute, What: "the protection of " + vm.Name + " stands still and needs a person",
			Why: st.Failed, Try: status + "; then understudy resume " + vm.Name,
		})
	}
	for _, a := range failoverAlarms(vm.Name, st.Failover) {
		add(a)
	}
	return out
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// ExposureAlarm of a VM beyond its target.
func ExposureAlarm(vm string, primary model.HostID, exposure, target time.Duration) model.Alarm {
	level, what := 1, vm+" is beyond its RPO"
	if exposure > 2*target {
		level, what = 2, vm+" is beyond twice its RPO"
	}
	return model.Alarm{
		Key: "rpo", Name: contract.AlertRPOViolated, VM: vm, Host: primary, Level: level, What: what,
		Why: fmt.Sprintf("its oldest write that is in no verified point is %s old, the target is %s", exposure.Round(100*time.Millisecond), target),
		Try: "understudy status " + vm + "; understudy explain " + vm,
	}
}

// failoverAlarms: its beginning, its end, and what it left behind.
func failoverAlarms(vm string, f *contract.FailoverBrief) []model.Alarm {
	if f == nil {
		return nil
	}
	kind := "failover"
	if f.Planned {
		kind = "switchover"
	}
	way := fmt.Sprintf("from %s to %s", f.From, f.To)
	if f.EndedAt == nil {
		return []model.Alarm{{
			Key: "began/" + f.WorkflowID, Name: "FailoverBegan", Host: f.To, Since: f.StartedAt, Happened: true,
			What: fmt.Sprintf("a %s of %s %s began", kind, vm, way), Why: f.Reason, Try: "understudy status " + vm,
		}}
	}
	a := model.Alarm{
		Key: "ended/" + f.WorkflowID, Name: "FailoverEnded", Host: f.To, Since: *f.EndedAt, Happened: true, Why: f.Reason, Try: "understudy status " + vm,
		What: fmt.Sprintf("the %s of %s %s is %s", kind, vm, way, f.Outcome),
	}
	if f.Error != "" {
		a.Why += ": " + f.Error
	}
	out := []model.Alarm{a}
	if r := f.Result; r != nil && len(r.UndoFailed) > 0 {
		out = append(out, model.Alarm{
			Key: "undo", Name: "UndoStuck", Host: f.To, Since: *f.EndedAt, What: "an undo of the " + kind + " of " + vm + " is stuck",
			Why: strings.Join(r.UndoFailed, "; "), Try: "understudy status " + vm + "; understudy marks",
		})
	}
	return out
}

// PlaneAlarm is about the control plane as a whole, when it does not answer all questions.
func PlaneAlarm(why string) model.Alarm {
	return model.Alarm{
		Key: ScopeServer + "control", Name: "ControlPlaneDown", What: "the control plane does not answer", After: patiencePlane,
		Why: why + "; while it lasts nothing fails over and no point is planned", Try: "understudy doctor; journalctl -u understudy-server",
	}
}
