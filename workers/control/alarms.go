package control

import (
	"context"
	"time"

	"understudy/internal/hostload"
	"understudy/internal/model"
	"understudy/internal/notify"
	"understudy/internal/obs"
)

// alarmsEvery is how often the server looks for what people should be told: three questions to the control plane.
const alarmsEvery = 10 * time.Second

// alarms tells people what the control plane says and what the server sees of itself. It needs no worker: that nothing
// answers is an alarm too.
type alarms struct {
	desk        *notify.Desk
	plane       *obs.Collector
	dataDir     string
	certificate func() time.Time // nil without TLS
	now         func() time.Time
}

// run looks until ctx ends.
func (a alarms) run(ctx context.Context) {
	t := time.NewTicker(alarmsEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		a.look(ctx)
	}
}

func (a alarms) look(ctx context.Context) {
	var own []model.Alarm
	state := a.plane.State()
	if ctx.Err() != nil {
		return // it ends, and so does the worker that would have answered
	}
	if state.Up {
		a.desk.Observe(obs.ScopePlane, obs.Alarms(state, a.now()))
	} else {
		own = append(own, obs.PlaneAlarm(state.Why))
		for _, heard := range obs.HeardAlarms(state, a.now()) {
			a.desk.Observe(heard.Scope, heard.Alarms)
		}
	}
	if free, total, err := hostload.Disk(ctx, a.dataDir); err == nil {
		if x, low := obs.DiskAlarm(obs.ScopeServer, "", "the server's data", free, total); low {
			own = append(own, x)
		}
	}
	if a.certificate != nil {
		if x, soon := obs.CertificateAlarm(obs.ScopeServer, "", "the server", a.certificate(), a.now()); soon {
			own = append(own, x)
		}
	}
	a.desk.Observe(obs.ScopeServer, own)
}
