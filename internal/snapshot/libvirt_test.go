package snapshot_test

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

var vm = model.VMRef{Name: "db1", UUID: "11111111-2222-4333-8444-555555555555"}

func point(n int) model.PointRef { return model.PointRef{Generation: 1, Seq: model.Seq(n)} }

const blocks = 12

// errDied is of the kind that every step returns at once, as if its process had ended.
var errDied = model.Fail(model.Unreachable, nil, "the agent died here")

// libvirtd is one VM in memory with libvirt's rules for checkpoints and jobs, down to which blocks a bitmap knows. It can
// let the agent die before or after any call.
type libvirtd struct {
	dom     hypervisor.Domain
	content map[string]*[blocks]int // by target
	marks   []*mark                 // oldest first
	job     *job
	missing bool // no such domain

	calls   []string
	dieAt   int // counts down to the call in which the agent dies; 0 never
	dieLate bool
	refuse  map[string]error // by name of call
}

type mark struct {
	name  string
	dirty map[string]map[int]bool // by target: blocks written since, until the next mark of that target
	lost  bool
}

type job struct {
	socket string
	frozen map[string][blocks]int
	delta  map[string]map[int]bool
}

func newLibvirtd(targets ...string) *libvirtd {
	l := &libvirtd{content: map[string]*[blocks]int{}, refuse: map[string]error{}}
	l.dom = hypervisor.Domain{VM: vm, State: hypervisor.Running, Persistent: true, Autostart: true}
	for _, t := range targets {
		l.attach(t, model.FormatQCOW2)
	}
	return l
}

func (l *libvirtd) attach(target string, f model.DiskFormat) {
	l.content[target] = new([blocks]int)
	l.dom.Disks = append(l.dom.Disks, hypervisor.Disk{Disk: model.Disk{
		Target: target, Format: f, Path: filepath.Join("/images", target), Size: blocks * model.ClusterSize,
	}})
}

func (l *libvirtd) write(target string, block, value int) {
	l.content[target][block] = value
	if dirty := bitmap(l.marks, target); dirty != nil {
		dirty[block] = true
	}
}

// bitmap is the newest of a target. A mark that leaves a target out changes nothing for it.
func bitmap(marks []*mark, target string) map[int]bool {
	for _, m := range slices.Backward(marks) {
		if dirty := m.dirty[target]; dirty != nil {
			return dirty
		}
	}
	return nil
}

// crash is kill -9 of QEMU and a new start: libvirt lists the checkpoints, their bitmaps are gone.
func (l *libvirtd) crash() {
	l.job = nil
	for _, m := range l.marks {
		m.lost = true
	}
}

func (l *libvirtd) call(name string, effect func() error) error {
	l.calls = append(l.calls, name)
	dies := false
	if l.dieAt > 0 {
		l.dieAt--
		dies = l.dieAt == 0
	}
	if dies && !l.dieLate {
		return errDied
	}
	if err := l.refuse[name]; err != nil {
		return err
	}
	if l.missing {
		return model.Fail(model.NotFound, nil, "no domain")
	}
	err := effect()
	if dies {
		return errDied
	}
	return err
}

func (l *libvirtd) Domains(context.Context) (out []hypervisor.Domain, err error) {
	return []hypervisor.Domain{l.dom}, nil
}

func (l *libvirtd) Domain(context.Context, string) (out hypervisor.Domain, err error) {
	err = l.call("Domain", func() error { out = l.dom; out.Disks = slices.Clone(l.dom.Disks); return nil })
	return out, err
}

func (l *libvirtd) XML(context.Context, string) (string, error) {
	return "<domain/>", l.call("XML", func() error { return nil })
}

func (l *libvirtd) SetAutostart(_ context.Context, _ string, on bool) error {
	return l.call("SetAutostart", func() error { l.dom.Autostart = on; return nil })
}

func (l *libvirtd) find(name string) int {
	return slices.IndexFunc(l.marks, func(m *mark) bool { return m.name == name })
}

func (l *libvirtd) Checkpoints(context.Context, string) (out []hypervisor.Checkpoint, err error) {
	err = l.call("Checkpoints", func() error {
		for _, m := range l.marks {
			out = append(out, hypervisor.Checkpoint{Name: m.name, Disks: slices.Sorted(maps.Keys(m.dirty))})
		}
		return nil
	})
	return out, err
}

func (l *libvirtd) DeleteCheckpoint(_ context.Context, _, name string) error {
	return l.call("DeleteCheckpoint", func() error {
		i := l.find(name)
		if i < 0 {
			return nil
		}
		if i > 0 { // libvirt merges the bitmaps into the parent's
			for t, dirty := range l.marks[i].dirty {
				if into := bitmap(l.marks[:i], t); into != nil {
					maps.Copy(into, dirty)
				}
			}
			l.marks[i-1].lost = l.marks[i-1].lost || l.marks[i].lost
		}
		l.marks = slices.Delete(l.marks, i, i+1)
		return nil
	})
}

// since joins the bitmaps from a checkpoint to now.
func (l *libvirtd) since(name string) (map[string]map[int]bool, error) {
	i := l.find(name)
	if i < 0 {
		return nil, model.Fail(model.NotFound, nil, "no checkpoint %s", name)
	}
	out := map[string]map[int]bool{}
	for t := range l.marks[i].dirty {
		out[t] = map[int]bool{}
		for _, m := range l.marks[i:] {
			if dirty, in := m.dirty[t]; m.lost || in && dirty == nil {
				return nil, model.Fail(model.CheckpointLost, nil, "bitmap of %s is in use", m.name)
			}
			maps.Copy(out[t], m.dirty[t])
		}
	}
	return out, nil
}

func (l *libvirtd) DirtyBytes(_ context.Context, _, name string) (out map[string]int64, err error) {
	err = l.call("DirtyBytes", func() error {
		d, err := l.since(name)
		out = map[string]int64{}
		for t := range d {
			out[t] = int64(len(d[t])) * model.ClusterSize
		}
		return err
	})
	return out, err
}

func (l *libvirtd) CaptureSocket(context.Context, string) (out string, err error) {
	err = l.call("CaptureSocket", func() error {
		if l.job != nil {
			out = l.job.socket
		}
		return nil
	})
	return out, err
}

func (l *libvirtd) EndCapture(context.Context, string, string) error {
	return l.call("EndCapture", func() error { l.job = nil; return nil })
}

func (l *libvirtd) Capture(_ context.Context, _ string, spec hypervisor.CaptureSpec) (out hypervisor.Capture, err error) {
	err = l.call("Capture", func() error {
		if l.job != nil {
			return model.Fail(model.JobConflict, nil, "a job runs")
		}
		j := &job{socket: spec.Socket, frozen: map[string][blocks]int{}, delta: map[string]map[int]bool{}}
		m := &mark{name: spec.Checkpoint, dirty: map[string]map[int]bool{}}
		for _, d := range spec.Disks {
			e := hypervisor.Export{Target: d.Target, Name: d.Target}
			if d.Since != "" {
				dirty, err := l.since(d.Since)
				if err != nil {
					return err
				}
				j.delta[d.Target], e.Bitmap = dirty[d.Target], "b"
			}
			if !d.NoBitmap {
				m.dirty[d.Target] = map[int]bool{}
			}
			j.frozen[d.Target] = *l.content[d.Target]
			out.Exports = append(out.Exports, e)
		}
		if m.name != "" {
			if l.find(m.name) >= 0 {
				return model.Fail(model.Internal, nil, "checkpoint %s exists", m.name)
			}
			l.marks = append(l.marks, m)
		}
		l.job = j
		out.TakenAt, out.Socket, out.Frozen = time.Now(), spec.Socket, spec.Freeze
		return nil
	})
	return out, err
}

func (l *libvirtd) names() []string {
	out := []string{}
	for _, m := range l.marks {
		out = append(out, m.name)
	}
	return out
}
