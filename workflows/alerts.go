package workflows

import (
	"slices"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// alert raises a state that a person should know of, or brings its detail up to date.
func (p *protection) alert(ctx workflow.Context, name, detail, try string) {
	detail = clip(detail)
	if i := p.alertAt(name); i >= 0 {
		p.st.Alerts[i].Detail, p.st.Alerts[i].Try = detail, try
		return
	}
	p.log.Warn("alert", "name", name, "detail", detail)
	p.st.Alerts = append(p.st.Alerts, contract.Alert{Name: name, Since: workflow.Now(ctx), Detail: detail, Try: try})
	if over := len(p.st.Alerts) - maxAlerts; over > 0 {
		p.st.Alerts = slices.Delete(p.st.Alerts, 0, over)
	}
}

func (p *protection) clear(names ...string) {
	p.st.Alerts = slices.DeleteFunc(p.st.Alerts, func(a contract.Alert) bool { return slices.Contains(names, a.Name) })
}

func (p *protection) alertAt(name string) int {
	return slices.IndexFunc(p.st.Alerts, func(a contract.Alert) bool { return a.Name == name })
}

func silentAlert(h model.HostID) string { return contract.AlertHostSilent + "/" + string(h) }

func unwatchedAlert(h model.HostID) string { return contract.AlertUnwatched + "/" + string(h) }

func clip(s string) string {
	if len(s) > maxTextBytes {
		return s[:maxTextBytes] + " …"
	}
	return s
}
