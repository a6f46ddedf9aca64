package policy

import (
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
	"understudy/internal/ui"
)

// field is one key of a mapping: what may stand there, and what it does.
type field struct {
	name    string
	doc     string
	needed  bool
	enum    []string
	pattern *regexp.Regexp // of a string
	want    string         // the pattern in words
	min     int            // of an integer, when max is set
	max     int
	inner   []field // of a mapping
	list    bool    // of mappings of inner, or of enum
	limit   int     // of a list
	refused map[string]string
	unkept  string // why the field is refused: the system does not do it
	set     func(*decoder, *yaml.Node)
}

var (
	timePattern = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms))+$`)
	ratePattern = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{1,9})?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)|unlimited)$`)
	wallPattern = regexp.MustCompile(`^(([01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)$`)
	zonePattern = regexp.MustCompile(`^(UTC|[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$`)
	namePattern = regexp.MustCompile(`^[^\x00-\x1f]{1,60}$`)
)

const (
	wantTime = "a time with a unit, for example 30s or 5m"
	wantRate = "a size a second with a unit, for example 12MB or 10MiB, or unlimited"
	wantWall = "a time of the day, for example 08:00"
	wantZone = "a time zone of the IANA list, for example Europe/Berlin or UTC"
)

// minRate is the least bandwidth: below one cluster a second not even an idle guest's writes get through.
const minRate = 64 << 10

var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// top is the whole file.
func top() []field {
	return []field{
		{name: "version", doc: "Version of this format.", needed: true, min: Version, max: Version, set: func(*decoder, *yaml.Node) {}},
		{name: "tier", doc: "Who goes first when resources are short; also presets rpo and retention.", enum: tiers(), set: func(*decoder, *yaml.Node) {}}, // read before all else
		{name: "rpo", doc: "How much may be lost: the greatest age of a write that is in no verified point.", pattern: timePattern, want: wantTime, set: setRPO},
		{name: "consistency", doc: "crash: as after a power loss; filesystem: the guest's file systems are frozen around the snapshot (needs its agent).",
			enum: []string{"crash", "filesystem"}, refused: map[string]string{
				"application": "no application is quiesced by this version: filesystem runs the guest agent's freeze hooks",
				"memory":      "the guest's memory is not captured by this version",
			}, set: func(d *decoder, n *yaml.Node) { d.p.Freeze = n.Value == "filesystem" }},
		{name: "failover", doc: "Who decides an unplanned failover.", enum: []string{string(model.FailoverAuto), string(model.FailoverManual)},
			set: func(d *decoder, n *yaml.Node) { d.p.Failover = model.FailoverMode(n.Value) }},
		{name: "verification", doc: "digest: each point is re-read on the standby and compared with what the primary sent. Always done.",
			enum: []string{"digest"}, refused: map[string]string{
				"boot": "points are not test-booted by this version",
				"none": "no point is committed without proof",
			}, set: func(*decoder, *yaml.Node) {}},
		{name: "compression", doc: "Of what is sent.", enum: []string{"auto", "off", "fast", "default", "best"},
			set: func(d *decoder, n *yaml.Node) { d.p.Compression = n.Value }},
		{name: "budgets", doc: "What the protection may use.", inner: []field{
			{name: "bandwidth", doc: "At most so much a second on the link.", pattern: ratePattern, want: wantRate, set: setBandwidth},
			{name: "cpu", unkept: "the CPU of a protection is not bounded by this version: choose compression off or fast instead"},
			{name: "stall", unkept: "the guest's stall is measured but not bounded by this version: consistency crash has none worth the name"},
		}},
		{name: "retention", doc: "Which points stay; one that any rule keeps stays.", inner: []field{
			{name: "keep-last", doc: "The newest so many.", min: 2, max: model.MaxKeep, set: number(func(d *decoder, v int) { d.p.KeepLast = v })},
			{name: "hourly", doc: "The newest of each of so many hours (UTC) that have one.", min: 0, max: model.MaxKeep, set: number(func(d *decoder, v int) { d.p.Hourly = v })},
			{name: "daily", doc: "The newest of each of so many days (UTC) that have one.", min: 0, max: model.MaxKeep, set: number(func(d *decoder, v int) { d.p.Daily = v })},
		}},
		{name: "calendar", doc: "What is different at certain hours of the week.", inner: []field{
			{name: "time-zone", doc: "Of the windows; IANA name.", needed: true, pattern: zonePattern, want: wantZone, set: setZone},
			{name: "windows", doc: "No two may overlap.", needed: true, list: true, limit: model.MaxWindows, set: (*decoder).windows, inner: window()},
		}},
		{name: "rto", unkept: "the time to recover is measured by each failover but no target is kept or watched by this version"},
	}
}

func window() []field {
	return []field{
		{name: "name", doc: "For people.", pattern: namePattern, want: "a name of at most 60 characters", set: func(d *decoder, n *yaml.Node) { d.w.Name = n.Value }},
		{name: "days", doc: "On which it begins; all when absent.", list: true, limit: 7, enum: days, set: setDays},
		{name: "from", doc: "Begins at.", needed: true, pattern: wallPattern, want: wantWall, set: func(d *decoder, n *yaml.Node) { d.w.From = wall(n.Value) }},
		{name: "to", doc: "Ends at; not after from: on the next day.", needed: true, pattern: wallPattern, want: wantWall, set: func(d *decoder, n *yaml.Node) { d.w.To = wall(n.Value) }},
		{name: "rpo", doc: "Instead of the policy's.", pattern: timePattern, want: wantTime, set: setRPO},
		{name: "tier", doc: "Instead of the policy's; presets nothing.", enum: tiers(), set: func(d *decoder, n *yaml.Node) { d.w.Tier = model.Tier(n.Value) }},
		{name: "bandwidth", doc: "Instead of the policy's.", pattern: ratePattern, want: wantRate, set: setBandwidth},
	}
}

func tiers() []string {
	return []string{string(model.Gold), string(model.Silver), string(model.Bronze)}
}

func number(set func(*decoder, int)) func(*decoder, *yaml.Node) {
	return func(d *decoder, n *yaml.Node) {
		if v, err := strconv.Atoi(n.Value); err == nil {
			set(d, v)
		}
	}
}

func setRPO(d *decoder, n *yaml.Node) {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < model.MinRPO || v > model.MaxRPO {
		d.fail(n, "an RPO is between %s and %s, not %s", short(model.MinRPO), short(model.MaxRPO), n.Value)
		return
	}
	if d.w != nil {
		d.w.RPO = v
		return
	}
	d.p.RPO, d.rpoAt = v, n
}

func setBandwidth(d *decoder, n *yaml.Node) {
	var v int64
	if n.Value != "unlimited" {
		var err error
		v, err = ui.ParseBytes(n.Value)
		switch {
		case err != nil:
			d.fail(n, "bandwidth is %s, not %s", wantRate, n.Value)
			return
		case v < minRate:
			d.fail(n, "a bandwidth of %s carries nothing: at least 64KiB, or unlimited", n.Value)
			return
		}
	}
	if d.w != nil {
		d.w.MaxBandwidth = &v
		return
	}
	d.p.MaxBandwidth = v
}

func setDays(d *decoder, n *yaml.Node) {
	for _, item := range n.Content {
		for i, name := range days {
			if item.Value == name {
				d.w.Days = append(d.w.Days, i)
			}
		}
	}
}

// wall is the minute of the day; the pattern was checked.
func wall(s string) int {
	var h, m int
	for i, c := range s {
		if c == ':' {
			h, _ = strconv.Atoi(s[:i])
			m, _ = strconv.Atoi(s[i+1:])
		}
	}
	return h*60 + m
}
