package hostload

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// The files of /proc are read here and not by gopsutil, which asks udev about every disk each time.

// pressure is the share of the last ten seconds in which something waited for the resource; -1 where the kernel does not say.
func pressure(resource string) float64 {
	b, err := os.ReadFile("/proc/pressure/" + resource)
	if err != nil {
		return -1
	}
	return parsePressure(string(b))
}

func parsePressure(text string) float64 {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "some" {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimPrefix(f[1], "avg10="), 64); err == nil {
			return v / 100
		}
	}
	return -1
}

// diskCount is what a disk did since the host started.
type diskCount struct {
	bytes int64
	busy  time.Duration
}

func (m *Meter) measureDisks(gap time.Duration, first bool) {
	b, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return
	}
	now := parseDisks(string(b))
	if !first {
		m.last.DiskBusy, m.last.DiskBytes = diskUse(m.disks, now, gap)
	}
	m.disks = now
}

// parseDisks leaves out what only stands for another disk: partitions, device mapper, loops.
func parseDisks(text string) map[string]diskCount {
	const sector, name, readSectors, writtenSectors, busyMS, fields = 512, 2, 5, 9, 12, 14
	out := map[string]diskCount{}
	whole := ""
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < fields || hasAnyPrefix(f[name], "loop", "ram", "dm-", "md", "zram", "nbd") {
			continue
		}
		if partition(f[name], whole) {
			continue
		}
		whole = f[name]
		out[whole] = diskCount{bytes: sector * (num(f[readSectors]) + num(f[writtenSectors])), busy: time.Duration(num(f[busyMS])) * time.Millisecond}
	}
	return out
}

// partition says whether name is one of the disk before it in the list: sda1 of sda, nvme0n1p1 of nvme0n1, but not sdaa or nvme0n10.
func partition(name, disk string) bool {
	rest, ok := strings.CutPrefix(name, disk)
	if !ok || disk == "" {
		return false
	}
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		rest, ok = strings.CutPrefix(rest, "p")
	}
	_, err := strconv.Atoi(rest)
	return ok && err == nil
}

// diskUse is the busy share of the busiest disk, and the bytes a second of all.
func diskUse(a, b map[string]diskCount, gap time.Duration) (busy, bytes float64) {
	for name, now := range b {
		before, ok := a[name]
		if !ok || gap <= 0 || now.bytes < before.bytes {
			continue
		}
		busy = max(busy, min(float64(now.busy-before.busy)/float64(gap), 1))
		bytes += float64(now.bytes-before.bytes) / gap.Seconds()
	}
	return busy, bytes
}

type netCount struct{ received, sent int64 }

func (m *Meter) measureNet(gap time.Duration, first bool) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return
	}
	now := sumNet(parseNet(string(b)), m.hasDevice)
	if !first && gap > 0 && now.sent >= m.net.sent && now.received >= m.net.received {
		m.last.NetSent, m.last.NetReceived = float64(now.sent-m.net.sent)/gap.Seconds(), float64(now.received-m.net.received)/gap.Seconds()
	}
	m.net = now
}

func parseNet(text string) map[string]netCount {
	const received, sent, fields = 0, 8, 16
	out := map[string]netCount{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if f := strings.Fields(rest); ok && len(f) >= fields {
			out[strings.TrimSpace(name)] = netCount{num(f[received]), num(f[sent])}
		}
	}
	return out
}

// sumNet counts what leaves the host: interfaces with a device behind them; without any, all but the loopback.
func sumNet(all map[string]netCount, device func(name string) bool) netCount {
	var cables, rest netCount
	found := false
	for name, c := range all {
		switch {
		case name == "lo":
		case device(name):
			found = true
			cables.received, cables.sent = cables.received+c.received, cables.sent+c.sent
		default:
			rest.received, rest.sent = rest.received+c.received, rest.sent+c.sent
		}
	}
	if found {
		return cables
	}
	return rest
}

func (m *Meter) hasDevice(name string) bool {
	is, known := m.real[name]
	if !known {
		if m.real == nil || len(m.real) > 10_000 { // taps of VMs come and go
			m.real = map[string]bool{}
		}
		_, err := os.Stat("/sys/class/net/" + name + "/device")
		is = err == nil
		m.real[name] = is
	}
	return is
}

func num(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
