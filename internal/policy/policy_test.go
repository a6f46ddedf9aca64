package policy

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"understudy/internal/decide/calendar"
	"understudy/internal/model"
)

var update = flag.Bool("update", false, "write docs/policy.schema.json")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTheLeastFileIsTheDefault(t *testing.T) {
	p, err := Parse("p.yaml", []byte("version: 1\n"), now)
	require.NoError(t, err)
	require.Equal(t, model.DefaultPolicy(), p)
}

func TestATierPresetsWhatIsNotSaid(t *testing.T) {
	p, err := Parse("p.yaml", []byte("rpo: 45s\nversion: 1\ntier: bronze\n"), now)
	require.NoError(t, err)
	require.Equal(t, model.Bronze, p.Tier)
	require.Equal(t, 45*time.Second, p.RPO, "what is said counts, wherever it stands")
	require.Equal(t, 4, p.KeepLast)
}

// The example of the document is a policy.
func example(t *testing.T) string {
	doc, err := os.ReadFile("../../docs/POLICY_FILE.md")
	require.NoError(t, err)
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(string(doc))
	require.NotNil(t, m)
	return m[1]
}

func TestTheExampleOfTheDocument(t *testing.T) {
	p, err := Parse("example.yaml", []byte(example(t)), now)
	require.NoError(t, err)
	slow, fast := int64(6_000_000), int64(0)
	require.Equal(t, "Europe/Berlin", p.Calendar.Zone.Name)
	require.Greater(t, len(p.Calendar.Zone.Offsets), 38, "twenty years, two changes each")
	zone := p.Calendar.Zone
	p.Calendar.Zone = model.Zone{}
	want := model.DefaultPolicy()
	want.RPO, want.KeepLast, want.Hourly, want.Daily, want.Freeze, want.MaxBandwidth = time.Minute, 12, 24, 7, true, 12_000_000
	want.RTO, want.BootEvery, want.CPUShare, want.MaxStall = 5*time.Minute, 24*time.Hour, 0.5, 200*time.Millisecond
	want.RecoverInPlace, want.Probes = 2, []model.Probe{{Kind: probeAgent, Timeout: 2 * time.Minute}}
	want.Calendar = &model.Calendar{Windows: []model.Window{
		{Name: "office hours", Days: []int{1, 2, 3, 4, 5}, From: 480, To: 1080, RPO: 10 * time.Second, Tier: model.Gold, MaxBandwidth: &slow},
		{Name: "night", Days: []int{0, 1, 2, 3, 4, 5, 6}, From: 1320, To: 300, RPO: 5 * time.Minute, MaxBandwidth: &fast},
	}}
	require.Equal(t, want, p)
	p.Calendar.Zone = zone
	in, window := calendar.Effective(p, time.Date(2026, 7, 1, 6, 0, 0, 0, time.UTC)) // a Wednesday, 08:00 in summer
	require.Equal(t, "office hours", window)
	require.Equal(t, 10*time.Second, in.RPO)
}

func TestTheDocumentNamesEveryField(t *testing.T) {
	doc, err := os.ReadFile("../../docs/POLICY_FILE.md")
	require.NoError(t, err)
	var walk func(fields []field)
	walk = func(fields []field) {
		for _, f := range fields {
			require.Contains(t, string(doc), "`"+f.name+"`")
			walk(f.inner)
		}
	}
	walk(top())
}

func TestTheZoneIsGosForTwentyYears(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "America/Santiago"} {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err)
		z := zoneOf(name, loc, now)
		require.Less(t, len(z.Offsets), 90, name)
		for at := now; at.Before(now.Add(horizon - 48*time.Hour)); at = at.Add(47 * time.Hour) {
			_, off := at.In(loc).Zone()
			require.Equal(t, at.Add(time.Duration(off)*time.Second), z.Wall(at), "%s at %s", name, at)
		}
		for _, o := range z.Offsets[1:] {
			_, before := time.Unix(o.From-1, 0).In(loc).Zone()
			_, after := time.Unix(o.From, 0).In(loc).Zone()
			require.NotEqual(t, before, after, "%s at %d", name, o.From)
			require.Equal(t, after, o.Seconds)
		}
	}
}

func TestEachRefusalNamesItsLineAndReason(t *testing.T) {
	for name, c := range map[string]struct{ file, says string }{
		"empty":           {"", "1:1: the file is empty"},
		"only comments":   {"# nothing\n", "1:1: the file is empty"},
		"no mapping":      {"- a\n", "1:1: a policy is a mapping"},
		"not YAML":        {"version: 1\nrpo: [\n", "this is not YAML"},
		"tabs":            {"version: 1\n\trpo: 3s\n", ":2:1: this is not YAML"},
		"two documents":   {"version: 1\n---\nversion: 1\n", "a second document"},
		"no version":      {"rpo: 30s\n", "1:1: version is missing"},
		"other version":   {"version: 2\n", "1:10: version is 1; this version reads no other"},
		"version as text": {"version: \"1\"\n", `version is a whole number, not "1"`},
		"unknown":         {"version: 1\n\nbandwith: 3MB\n", "3:1: there is no field bandwith; there are version, tier,"},
		"typo":            {"version: 1\nretention:\n  keep_last: 3\n", "3:3: there is no field retention.keep_last; is it retention.keep-last?"},
		"twice":           {"version: 1\nrpo: 30s\nrpo: 40s\n", "3:1: rpo is given twice, first in line 2"},
		"no unit":         {"version: 1\nrpo: 30\n", `2:6: rpo is a time with a unit, for example 30s or 5m, not "30"`},
		"no value":        {"version: 1\nrpo:\n", "rpo has no value"},
		"too short":       {"version: 1\nrpo: 1s\n", "2:6: an RPO is between 2s and 24h, not 1s"},
		"too long":        {"version: 1\nrpo: 999999999h\n", "2:6: an RPO is between 2s and 24h"},
		"tier":            {"version: 1\ntier: iron\n", `2:7: tier is gold, silver or bronze, not "iron"`},
		"list":            {"version: 1\nrpo: [30s]\n", "rpo is a time with a unit, for example 30s or 5m, not a list"},
		"bare M":          {"version: 1\nbudgets: {bandwidth: 12M}\n", "2:22: budgets.bandwidth is a size a second with a unit"},
		"nothing":         {"version: 1\nbudgets: {bandwidth: 0MB}\n", "a bandwidth of 0MB carries nothing"},
		"immense":         {"version: 1\nbudgets: {bandwidth: 999999999TB}\n", "bandwidth is a size a second"},
		"octal":           {"version: 1\nretention: {keep-last: 010}\n", `retention.keep-last is a whole number, not "010"`},
		"one point":       {"version: 1\nretention:\n  keep-last: 1\n", "3:14: retention.keep-last is between 2 and 500, not 1"},
		"too many":        {"version: 1\nretention:\n  keep-last: 400\n  daily: 101\n", "3:3: retention keeps at most 500 points in all, not 501"},
		"hourly":          {"version: 1\nrpo: 2h\nretention:\n  hourly: 3\n", "4:11: retention.hourly needs a point each hour, and the rpo in line 2 is 2h"},
		"hourly, later": {"version: 1\nretention: {hourly: 3}\ncalendar:\n  time-zone: UTC\n  windows: [{name: w, from: 08:00, to: 09:00, rpo: 2h}]\n",
			`2:21: retention.hourly needs a point each hour, and the rpo of the window "w" is 2h`},
		"application": {"version: 1\nconsistency: application\n", "2:14: consistency: no application is quiesced by this version"},
		"memory":      {"version: 1\nconsistency: memory\n", "2:14: consistency: the guest's memory is not captured by this version"},
		"rto":         {"version: 1\nrto: 25h\n", "2:6: an RTO is between 1s and 24h, not 25h"},
		"cpu":         {"version: 1\nbudgets:\n  cpu: 1000%\n", "3:8: budgets.cpu is between 1% and 800% of one core, not 1000%"},
		"bare cpu":    {"version: 1\nbudgets: {cpu: 10}\n", "2:16: budgets.cpu is a share of one core with a percent sign"},
		"stall":       {"version: 1\nbudgets: {stall: 1ms}\n", "2:18: budgets.stall is between 5ms and 10s, not 1ms"},
		"unproved":    {"version: 1\nverification: none\n", "2:15: verification: no point is committed without proof"},
		"boot":        {"version: 1\nverification: {boot: 1m}\n", "2:22: verification.boot is between 10m and 720h, not 1m"},
		"mode":        {"version: 1\nfailover: soon\n", `2:11: failover is auto or manual, not "soon"`},
		"rule":        {"version: 1\nfailover: {guard_level: 1}\n", "2:12: there is no field failover.guard_level; is it failover.guard-level?"},
		"no guard":    {"version: 1\nfailover:\n  isolation: keep\n  guard-level: 2\n", "4:16: failover.guard-level is of leases, and isolation keep in line 3 has none"},
		"salvage":     {"version: 1\nrto: 30s\nfailover: {salvage: 30s}\n", "3:21: failover.salvage alone may take 30s, and the rto is 30s"},
		"probe":       {"version: 1\nfailover: {probes: [{kind: tcp}]}\n", "2:21: failover.probes[0]: a tcp probe needs an address HOST:PORT"},
		"no shell":    {"version: 1\nfailover: {probes: [{kind: command, command: [curl, x]}]}\n", "2:21: failover.probes[0]: a command probe needs a command that begins with a full path"},
		"both":        {"version: 1\nfailover: {probes: [{kind: agent, address: 'a:1'}]}\n", "only a tcp probe has an address"},
		"networks":    {"version: 1\nfailover: {networks: {default: \"a b\"}}\n", `2:32: failover.networks.default is the name of a network or bridge, not "a b"`},
		"alias":       {"version: 1\nrpo: &a 30s\n", "anchors and aliases are not read"},
		"merge":       {"version: 1\n<<: {rpo: 30s}\n", "a key is a word"},
		"tag":         {"version: 1\nrpo: !!str 30s\n", "tags are not read"},
		"zone":        {"version: 1\ncalendar:\n  time-zone: Europe/Paradise\n  windows: [{from: 08:00, to: 09:00, rpo: 10s}]\n", "3:14: there is no time zone Europe/Paradise"},
		"local":       {"version: 1\ncalendar:\n  time-zone: Local\n  windows: [{from: 08:00, to: 09:00, rpo: 10s}]\n", "3:14: calendar.time-zone is a time zone of the IANA list"},
		"no zone":     {"version: 1\ncalendar:\n  windows: [{from: 08:00, to: 09:00, rpo: 10s}]\n", "3:3: calendar.time-zone is missing"},
		"no windows":  {"version: 1\ncalendar:\n  time-zone: UTC\n  windows: []\n", "4:12: calendar.windows is a list with at least one entry"},
		"no end":      {"version: 1\ncalendar:\n  time-zone: UTC\n  windows:\n    - {from: 08:00, rpo: 10s}\n", "5:7: calendar.windows[0].to is missing"},
		"no length":   {"version: 1\ncalendar:\n  time-zone: UTC\n  windows:\n    - {from: 08:00, to: 08:00, rpo: 10s}\n", "begins and ends at the same time"},
		"no change":   {"version: 1\ncalendar:\n  time-zone: UTC\n  windows:\n    - {from: 08:00, to: 00:00}\n", "5:7: calendar.windows[0] changes nothing"},
		"no such day": {"version: 1\ncalendar:\n  time-zone: UTC\n  windows:\n    - {days: [mo], from: 08:00, to: 09:00, rpo: 10s}\n", `calendar.windows[0].days[0] is sun, mon, tue, wed, thu, fri or sat, not "mo"`},
		"overlap": {"version: 1\ncalendar:\n  time-zone: UTC\n  windows:\n    - {days: [mon], from: 22:00, to: 02:00, rpo: 10s}\n    - {days: [tue], from: 01:00, to: 03:00, tier: gold}\n",
			"6:7: calendar.windows[1] overlaps the window in line 5: which one counts?"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte(c.file), now)
			var refused *Error
			require.True(t, errors.As(err, &refused), "accepted")
			require.Contains(t, err.Error(), c.says)
			require.Contains(t, err.Error(), "p.yaml:")
		})
	}
}

func TestRulesOfFailoversAreRead(t *testing.T) {
	p, err := Parse("p.yaml", []byte(`version: 1
rto: 2m
verification: boot
encryption-at-rest: required
budgets: {cpu: 25%, stall: 80ms}
failover:
  mode: manual
  isolation: kill
  guard-level: 1
  on-standby-loss: stay-leased
  recover-in-place: 3
  salvage: 30s
  networks: {default: br-standby}
  probes:
    - {kind: tcp, address: "10.0.0.9:5432", timeout: 30s}
    - {kind: command, command: [/usr/local/bin/check, --db, --db]}
`), now)
	require.NoError(t, err)
	want := model.DefaultPolicy()
	want.RTO, want.BootEvery, want.CPUShare, want.MaxStall = 2*time.Minute, 24*time.Hour, 0.25, 80*time.Millisecond
	want.Failover, want.Isolation, want.GuardLevel, want.RecoverInPlace, want.Salvage = model.FailoverManual, model.IsolationKill, 1, 3, 30*time.Second
	want.EncryptionAtRest = model.EncryptionRequired
	want.Networks = map[string]string{"default": "br-standby"}
	want.Probes = []model.Probe{{Kind: probeTCP, Address: "10.0.0.9:5432", Timeout: 30 * time.Second},
		{Kind: probeCommand, Command: []string{"/usr/local/bin/check", "--db", "--db"}}}
	require.Equal(t, want, p)
	require.Empty(t, Warnings(p))
}

func TestWhatMayBeImpossibleIsWarnedOf(t *testing.T) {
	p := model.DefaultPolicy()
	require.Empty(t, Warnings(p))
	p.RTO = 20 * time.Second // detection and the wait of guard level 2 take 25 s
	require.Contains(t, strings.Join(Warnings(p), "\n"), "outlasted for 25s")
	require.Contains(t, strings.Join(Warnings(p), "\n"), "none is scheduled")
	p.RTO, p.BootEvery = 30*time.Second, time.Hour
	require.Empty(t, Warnings(p))
	p.Isolation = model.IsolationKeep
	require.Contains(t, strings.Join(Warnings(p), "\n"), "needs a fence device, or a person")
	p.Isolation, p.RTO = model.IsolationFreeze, 8*time.Second
	require.Contains(t, strings.Join(Warnings(p), "\n"), "salvage may take 10s of the rto of 8s")
}

func TestAllProblemsAreSaidAtOnceInOrder(t *testing.T) {
	_, err := Parse("p.yaml", []byte("version: 1\nretention:\n  keep-last: 0\ntier: x\nrpo: y\n"), now)
	require.Equal(t, 3, len(strings.Split(err.Error(), "\n")), err.Error())
	require.Less(t, strings.Index(err.Error(), ":3:"), strings.Index(err.Error(), ":5:"))
}

func TestTheCheckedInSchemaIsTheParsers(t *testing.T) {
	const file = "../../docs/policy.schema.json"
	if *update {
		require.NoError(t, os.WriteFile(file, Schema(), 0o644))
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(Schema()), string(have), "run with -update")
}

// conforms checks v against the parts of JSON Schema that ours uses.
func conforms(s map[string]any, v any) error {
	if either, given := s["anyOf"].([]any); given {
		var err error
		for _, one := range either {
			if err = conforms(one.(map[string]any), v); err == nil {
				return nil
			}
		}
		return err
	}
	switch s["type"] {
	case "object":
		return conformsObject(s, v)
	case "array":
		list, ok := v.([]any)
		if !ok || float64(len(list)) < s["minItems"].(float64) || float64(len(list)) > s["maxItems"].(float64) {
			return fmt.Errorf("%v is not such a list", v)
		}
		for _, item := range list {
			if err := conforms(s["items"].(map[string]any), item); err != nil {
				return err
			}
		}
	case "integer":
		n, ok := v.(int)
		if !ok || float64(n) < s["minimum"].(float64) || float64(n) > s["maximum"].(float64) {
			return fmt.Errorf("%v is not such a number", v)
		}
	case "string":
		return text(s, v)
	default:
		return fmt.Errorf("the schema says %v", s)
	}
	return nil
}

func conformsObject(s map[string]any, v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%v is no object", v)
	}
	properties, _ := s["properties"].(map[string]any)
	if pair, given := s["additionalProperties"].(map[string]any); given {
		if len(m) < 1 || float64(len(m)) > s["maxProperties"].(float64) {
			return fmt.Errorf("%d pairs", len(m))
		}
		for k, inner := range m {
			if err := errors.Join(text(pair, k), conforms(pair, inner)); err != nil {
				return err
			}
		}
		return nil
	}
	for k, inner := range m {
		p, known := properties[k].(map[string]any)
		if !known {
			return fmt.Errorf("%s is unknown", k)
		}
		if err := conforms(p, inner); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, given := m[k.(string)]; !given {
			return fmt.Errorf("%s is missing", k)
		}
	}
	return nil
}

func text(s map[string]any, v any) error {
	word, ok := v.(string)
	if !ok {
		return fmt.Errorf("%v is no string", v)
	}
	if pattern, given := s["pattern"].(string); given && !regexp.MustCompile(pattern).MatchString(word) {
		return fmt.Errorf("%q is not %s", word, pattern)
	}
	enum, given := s["enum"].([]any)
	for _, e := range enum {
		given = given && e != word
	}
	if given {
		return fmt.Errorf("%q is not one of %v", word, enum)
	}
	return nil
}

func schemaOf(t require.TestingT) map[string]any {
	var s map[string]any
	require.NoError(t, json.Unmarshal(Schema(), &s))
	return s
}

func bySchema(s map[string]any, file []byte) error {
	var v any
	if err := yaml.Unmarshal(file, &v); err != nil {
		return err
	}
	return conforms(s, v)
}

// What breaks one field is refused by both; what only breaks the sense of the whole is for the parser.
func TestParserAndSchemaAgree(t *testing.T) {
	s := schemaOf(t)
	require.NoError(t, bySchema(s, []byte(example(t))))
	for _, bad := range []string{
		"rpo: 30s", "version: 2", "version: 1\nbandwidth: 3MB", "version: 1\nrpo: 30", "version: 1\nrpo: soon", "version: 1\ntier: iron", "version: 1\nrto: 60",
		"version: 1\nverification: none", "version: 1\nfailover: {mode: soon}", "version: 1\nfailover: {networks: {a: 3}}", "version: 1\nfailover: {probes: [{kind: ping}]}", "version: 1\nconsistency: memory", "version: 1\nretention: {keep-last: 1}", "version: 1\nretention: {hourly: -1}",
		"version: 1\nretention: 3", "version: 1\nencryption-at-rest: yes", "version: 1\nbudgets: {cpu: 1}", "version: 1\nbudgets: {stall: 3}", "version: 1\nbudgets: {bandwidth: 12M}", "version: 1\ncalendar: {time-zone: UTC}",
		"version: 1\ncalendar: {time-zone: Local, windows: [{from: 08:00, to: 09:00}]}", "version: 1\ncalendar: {time-zone: UTC, windows: [{from: 8, to: 09:00}]}",
		"version: 1\ncalendar: {time-zone: UTC, windows: [{from: 08:00, to: 25:00}]}", "version: 1\ncalendar: {time-zone: UTC, windows: [{days: [], from: 08:00, to: 09:00}]}",
	} {
		require.Error(t, bySchema(s, []byte(bad)), bad)
		_, err := Parse("p.yaml", []byte(bad), now)
		require.Error(t, err, bad)
	}
	for _, good := range []string{
		"version: 1", "version: 1\ncompression: off", "version: 1\nfailover: manual\nrpo: 1h30m", "version: 1\nbudgets: {bandwidth: unlimited}", "version: 1\nbudgets: {bandwidth: 1.5MiB}",
		"version: 1\nrto: 5m\nverification: boot\nbudgets: {cpu: 25%, stall: 100ms}", "version: 1\nencryption-at-rest: required", "version: 1\nencryption-at-rest: optional", "version: 1\nverification: {boot: 12h}",
		"version: 1\nfailover: {on-standby-loss: release}", "version: 1\nfailover: {mode: manual, isolation: kill, guard-level: 1, recover-in-place: 0, salvage: 0s, networks: {default: br0}}",
		"version: 1\nfailover: {probes: [{kind: tcp, address: \"10.0.0.9:5432\", timeout: 2m}, {kind: command, command: [/usr/bin/test, -f, -f]}, {kind: agent}]}",
		"version: 1\nretention: {keep-last: 2, hourly: 0}", "version: 1\ncalendar: {time-zone: America/Argentina/Ushuaia, windows: [{from: 8:00, to: 24:00, tier: gold}]}",
	} {
		require.NoError(t, bySchema(s, []byte(good)), good)
		_, err := Parse("p.yaml", []byte(good), now)
		require.NoError(t, err, good)
	}
}

// Whatever is read: no panic; what is refused has a line that exists; what is accepted can be kept, and the schema has it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"version: 1\n", "version: 1\ntier: gold\nrpo: 5s\nretention: {keep-last: 3, hourly: 2}\n", "version: 1\nbudgets:\n  bandwidth: 12MB\n",
		"version: 1\ncalendar:\n  time-zone: Asia/Tokyo\n  windows:\n    - {days: [sat], from: 22:00, to: 4:00, rpo: 1m}\n", "a: &a [*a]\n", "version: 1\n? [x]\n: y\n", "---\n...\n", "\xff\xfe",
	} {
		f.Add([]byte(seed))
	}
	s := schemaOf(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p", data, now)
		var refused *Error
		switch {
		case err == nil:
			require.NoError(t, p.Validate())
			require.NoError(t, bySchema(s, data))
			calendar.Effective(p, now)
		case errors.As(err, &refused):
			require.NotEmpty(t, refused.Problems)
			for _, problem := range refused.Problems {
				require.NotEmpty(t, problem.Reason)
				require.Positive(t, problem.Line)
			}
		default:
			t.Fatalf("%T", err)
		}
	})
}
