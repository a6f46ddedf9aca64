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
	inner   []field // of a mapping; with enum or pattern a word may stand there instead
	list    bool    // of mappings of inner, or of words
	limit   int     // of a list or of pairs
	repeats bool    // a word may come twice in the list
	pairs   bool    // a mapping of any names to words
	refused map[string]string
	unkept  string // why the field is refused: the system does not do it
	set     func(*decoder, *yaml.Node)
}

var (
	timePattern = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms))+$`)
	ratePattern = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{1,9})?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)|unlimited)$`)
	wallPattern = regexp.MustCompile(`^(([01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)$`)
	zonePattern = regexp.MustCompile(`^(UTC|[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$`)
	cpuPattern  = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,2})?%$`)
	wordPattern = regexp.MustCompile(`^[^\x00-\x1f]{1,200}$`)
	netPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,60}$`)
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
		{name: "rto", doc: "How long the VM may be down in a failover. Test failovers are compared with it.", pattern: timePattern, want: wantTime, set: setRTO},
		{name: "failover", doc: "Who decides an unplanned failover, or the rules of failovers.", enum: modes(), inner: failover(), set: setMode},
		{name: "verification", doc: "digest: each point is re-read on the standby and compared with what the primary sent. Always done. boot: besides, a point is booted in isolation each day.",
			enum: []string{"digest", "boot"}, refused: map[string]string{"none": "no point is committed without proof"},
			inner: []field{
				{name: "boot", doc: "A point is booted in isolation so often.", needed: true, pattern: timePattern, want: wantTime, set: setBootEvery},
			}, set: setVerification},
		{name: "compression", doc: "Of what is sent.", enum: []string{"auto", "off", "fast", "default", "best"},
			set: func(d *decoder, n *yaml.Node) { d.p.Compression = n.Value }},
		{name: "encryption-at-rest", doc: "required: only a standby whose state folder is on dm-crypt may hold replicas and take over.", enum: []string{model.EncryptionRequired, "optional"},
			set: func(d *decoder, n *yaml.Node) {
				if d.p.EncryptionAtRest = n.Value; n.Value != model.EncryptionRequired {
					d.p.EncryptionAtRest = ""
				}
			}},
		{name: "budgets", doc: "What the protection may use.", inner: []field{
			{name: "bandwidth", doc: "At most so much a second on the link.", pattern: ratePattern, want: wantRate, set: setBandwidth},
			{name: "cpu", doc: "About so much of one core for captures, by less compression and later starts; never at the price of the RPO.", pattern: cpuPattern, want: wantCPU, set: setCPU},
			{name: "stall", doc: "The guest may stand still so long in a capture; after a longer one its file systems are not frozen for a while.", pattern: timePattern, want: wantTime, set: setStall},
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
