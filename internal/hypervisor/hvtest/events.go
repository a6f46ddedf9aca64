package hvtest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// with defines and starts a domain with a device more, which does action when its guest panics.
func (s *suite) with(device, onCrash string) model.VMRef {
	s.T.Helper()
	uuid := s.define(one, device).VM.UUID
	if onCrash != "" {
		xml, err := s.HV.XML(s.ctx(), uuid)
		require.NoError(s.T, err)
		xml = strings.ReplaceAll(xml, "<on_crash>destroy</on_crash>", "")
		_, err = s.HV.Define(s.ctx(), strings.Replace(xml, "<devices>", "<on_crash>"+onCrash+"</on_crash><devices>", 1))
		require.NoError(s.T, err)
	}
	require.NoError(s.T, s.HV.Start(s.ctx(), uuid))
	d, err := s.HV.Domain(s.ctx(), uuid)
	require.NoError(s.T, err)
	return d.VM
}

func panics(t *testing.T, s *suite) {
	const device = "<panic model='isa'/>"
	vm := s.with(device, "preserve")
	events := s.watch()
	s.Panic(t, vm)
	for events.next(vm).Kind != model.EventPanicked { // a real guest is paused first
	}
	d := s.until(vm, hypervisor.Crashed)
	require.Equal(t, "panicked", d.Reason)
	require.Equal(t, "preserve", d.OnCrash)

	vm = s.with(device, "")
	s.Panic(t, vm)
	for events.next(vm).Kind != model.EventPanicked { // libvirt tells of the start as well
	}
	require.Equal(t, model.EventCrashed, events.next(vm).Kind, "its QEMU is ended, and that is no wish of anybody")
	require.Equal(t, "destroy", s.until(vm, hypervisor.ShutOff).OnCrash)
}

func watchdogs(t *testing.T, s *suite) {
	vm := s.with("<watchdog model='ib700' action='pause'/>", "")
	events := s.watch()
	s.Watchdog(t, vm, model.ActionPause)
	// Events of two kinds have no order.
	told := map[model.EventKind]model.Event{}
	for len(told) < 2 {
		e := events.next(vm)
		told[e.Kind] = e
	}
	require.Equal(t, model.ActionPause, told[model.EventWatchdog].Action)
	require.Equal(t, "watchdog", told[model.EventPaused].Detail)
	require.Equal(t, "watchdog", s.until(vm, hypervisor.Paused).Reason)

	vm = s.with("<watchdog model='ib700' action='reset'/>", "")
	s.Watchdog(t, vm, "reset")
	e := events.next(vm)
	for ; e.Kind != model.EventWatchdog; e = events.next(vm) {
	}
	require.Equal(t, "reset", e.Action)
}

func fullDisk(t *testing.T, s *suite) {
	if s.FullDisk == nil {
		t.Skip("this hypervisor has no file systems")
	}
	path := s.FullDisk(t, size)
	vm := s.with("<disk type='file' device='disk'><driver name='qemu' type='raw' cache='writeback'/><source file='"+path+"'/><target dev='hda' bus='ide'/></disk>", "")
	events := s.watch()
	// The firmware uses the same ports while it looks for something to boot.
	require.Eventually(t, func() bool {
		s.WriteIDE(t, vm)
		time.Sleep(200 * time.Millisecond)
		return s.state(vm).State == hypervisor.Paused
	}, time.Minute, time.Second)
	told := map[model.EventKind]model.Event{}
	for len(told) < 2 {
		e := events.next(vm)
		told[e.Kind] = e
	}
	e := told[model.EventIOError]
	require.Equal(t, model.ReasonNoSpace, e.Reason)
	require.Equal(t, model.ActionPause, e.Action)
	require.Contains(t, e.Detail, path)
	require.Equal(t, "I/O error", told[model.EventPaused].Detail)
	require.Equal(t, "I/O error", s.until(vm, hypervisor.Paused).Reason)
}
