package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // hosts without zone files

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
)

type decoder struct {
	now      time.Time
	p        model.Policy
	problems []Problem
	rpoAt    *yaml.Node
	w        *model.Window // the one being read
	probe    *model.Probe  // the one being read

	isolationAt, levelAt, salvageAt *yaml.Node
	zone                            model.Zone
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: max(n.Line, 1), Column: max(n.Column, 1), Reason: fmt.Sprintf(format, args...)})
}

func (d *decoder) file(data []byte) model.Policy {
	start := &yaml.Node{Line: 1, Column: 1}
	if len(data) > maxFile {
		d.fail(start, "a policy is at most %d KiB long", maxFile>>10)
		return d.p
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		d.fail(start, "the file is empty; at least: version: 1")
		return d.p
	} else if err != nil {
		d.syntax(err)
		return d.p
	}
	if err := dec.Decode(&more); err == nil {
		d.fail(&more, "a second document; a file holds one policy")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.fail(root, "a policy is a mapping, beginning with version: 1")
		return d.p
	}
	d.p = model.Preset(tierOf(root))
	d.mapping(root, "", top())
	d.contradictions(root)
	return d.p
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// syntax takes the line out of yaml's message.
func (d *decoder) syntax(err error) {
	at := &yaml.Node{Line: 1, Column: 1}
	said := strings.ReplaceAll(err.Error(), "\n", " ")
	if m := yamlLine.FindStringSubmatch(said); m != nil {
		said = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.Line = line
		}
	}
	d.fail(at, "this is not YAML: %s", said)
}

// tierOf looks ahead: the tier's preset lies under everything else, wherever it stands.
func tierOf(root *yaml.Node) model.Tier {
	if n := child(root, "tier"); n != nil && n.Kind == yaml.ScalarNode && slices.Contains(tiers(), n.Value) {
		return model.Tier(n.Value)
	}
	return model.DefaultPolicy().Tier
}

func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func (d *decoder) mapping(n *yaml.Node, path string, fields []field) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s holds %s", or(path, "the file"), names(fields))
		return
	}
	d.plain(n)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		full := strings.TrimPrefix(path+"."+key.Value, ".")
		at := slices.IndexFunc(fields, func(f field) bool { return f.name == key.Value })
		switch before, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "":
			d.fail(key, "a key is a word")
		case twice:
			d.fail(key, "%s is given twice, first in line %d", full, before)
		case at < 0:
			d.fail(key, "there is no field %s; %s", full, nearest(key.Value, path, fields))
		case fields[at].unkept != "":
			d.fail(key, "%s: %s", full, fields[at].unkept)
		default:
			d.value(value, full, fields[at])
		}
		if _, twice := seen[key.Value]; !twice {
			seen[key.Value] = key.Line
		}
	}
	for _, f := range fields {
		if _, given := seen[f.name]; f.needed && !given {
			d.fail(n, "%s is missing", strings.TrimPrefix(path+"."+f.name, "."))
		}
	}
}

// plain refuses what makes a file mean something else than it shows.
func (d *decoder) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fail(n, "anchors and aliases are not read")
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, "tags are not read")
	default:
		return true
	}
	return false
}

func (d *decoder) value(n *yaml.Node, path string, f field) {
	if !d.plain(n) {
		return
	}
	ok := true
	switch {
	case f.list:
		ok = d.items(n, path, f)
	case f.pairs:
		ok = d.words(n, path, f)
	case f.inner != nil && (f.enum == nil || n.Kind == yaml.MappingNode):
		d.mapping(n, path, f.inner)
	case f.max > 0:
		ok = d.integer(n, path, f)
	default:
		ok = d.text(n, path, f)
	}
	if ok && f.set != nil {
		f.set(d, n)
	}
}

func (d *decoder) integer(n *yaml.Node, path string, f field) bool {
	v, err := strconv.Atoi(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || strconv.Itoa(v) != n.Value: // 010 is eight to some
		d.fail(n, "%s is a whole number, not %s", path, shown(n))
	case v < f.min || v > f.max:
		if f.min == f.max {
			d.fail(n, "%s is %d; this version reads no other", path, f.min)
		} else {
			d.fail(n, "%s is between %d and %d, not %d", path, f.min, f.max, v)
		}
	default:
		return true
	}
	return false
}

func (d *decoder) text(n *yaml.Node, path string, f field) bool {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.fail(n, "%s has no value; it is %s", path, f.wanted())
	case f.refused[n.Value] != "":
		d.fail(n, "%s: %s", path, f.refused[n.Value])
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str" || f.pattern != nil && !f.pattern.MatchString(n.Value) || f.enum != nil && !slices.Contains(f.enum, n.Value):
		d.fail(n, "%s is %s, not %s", path, f.wanted(), shown(n))
	default:
		return true
	}
	return false
}

// words reads a mapping of names to names.
func (d *decoder) words(n *yaml.Node, path string, f field) bool {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.fail(n, "%s maps names to names, for example default: br0", path)
		return false
	}
	if len(n.Content) > 2*f.limit {
		d.fail(n.Content[2*f.limit], "%s has at most %d entries", path, f.limit)
		return false
	}
	ok, seen := true, map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "" || !f.pattern.MatchString(key.Value) {
			d.fail(key, "a key of %s is %s", path, f.want)
			ok = false
			continue
		}
		if seen[key.Value] {
			d.fail(key, "%s.%s is given twice", path, key.Value)
			ok = false
		}
		seen[key.Value] = true
		ok = d.plain(value) && d.text(value, path+"."+key.Value, f) && ok
	}
	return ok
}

func (d *decoder) items(n *yaml.Node, path string, f field) bool {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.fail(n, "%s is a list with at least one entry", path)
		return false
	}
	if len(n.Content) > f.limit {
		d.fail(n.Content[f.limit], "%s has at most %d entries", path, f.limit)
		return false
	}
	ok := true
	if f.inner != nil {
		return ok
	}
	seen := map[string]bool{}
	for i, item := range n.Content {
		ok = d.plain(item) && d.text(item, fmt.Sprintf("%s[%d]", path, i), f) && ok
		if seen[item.Value] && !f.repeats {
			d.fail(item, "%s is given twice", item.Value)
			ok = false
		}
		seen[item.Value] = true
	}
	return ok
}

// windows reads each window after what the policy says is known.
func (d *decoder) windows(n *yaml.Node) {
	if d.p.Calendar == nil {
		d.p.Calendar = &model.Calendar{}
	}
	var at []*yaml.Node
	for i, item := range n.Content {
		before := len(d.problems)
		w := model.Window{}
		d.w = &w
		path := fmt.Sprintf("calendar.windows[%d]", i)
		if d.plain(item) {
			d.mapping(item, path, window())
		}
		d.w = nil
		if len(d.problems) > before {
			continue
		}
		if w.Days == nil {
			w.Days = []int{0, 1, 2, 3, 4, 5, 6}
		}
		if w.To == 0 {
			w.To = 24 * 60
		}
		if w.Name == "" {
			w.Name = fmt.Sprintf("%02d:%02d to %02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
		}
		switch {
		case w.From == 24*60:
			d.fail(child(item, "from"), "%s.from: a day begins at 00:00", path)
		case w.From == w.To:
			d.fail(child(item, "to"), "%s begins and ends at the same time; a whole day is 00:00 to 24:00", path)
		case w.RPO == 0 && w.Tier == "" && w.MaxBandwidth == nil:
			d.fail(item, "%s changes nothing; give it an rpo, a tier or a bandwidth", path)
		}
		if len(d.problems) > before {
			continue
		}
		for j, o := range d.p.Calendar.Windows {
			if w.Overlaps(o) {
				d.fail(item, "%s overlaps the window in line %d: which one counts?", path, at[j].Line)
			}
		}
		d.p.Calendar.Windows = append(d.p.Calendar.Windows, w)
		at = append(at, item)
	}
}

// contradictions are those between fields; each is said where it can be changed.
func (d *decoder) contradictions(root *yaml.Node) {
	if d.p.Isolation == model.IsolationKeep && d.levelAt != nil {
		d.fail(d.levelAt, "failover.guard-level is of leases, and isolation keep in line %d has none", d.isolationAt.Line)
	}
	if d.p.RTO > 0 && d.salvageAt != nil && d.p.Salvage >= d.p.RTO {
		d.fail(d.salvageAt, "failover.salvage alone may take %s, and the rto is %s", short(d.p.Salvage), short(d.p.RTO))
	}
	retention := child(root, "retention")
	if d.p.Calendar != nil {
		d.p.Calendar.Zone = d.zone
	}
	if d.p.KeepLast+d.p.Hourly+d.p.Daily > model.MaxKeep && retention != nil {
		d.fail(retention, "retention keeps at most %d points in all, not %d", model.MaxKeep, d.p.KeepLast+d.p.Hourly+d.p.Daily)
	}
	hourly := child(retention, "hourly")
	if d.p.Hourly == 0 || hourly == nil {
		return
	}
	if d.p.RPO > time.Hour && d.rpoAt != nil {
		d.fail(hourly, "retention.hourly needs a point each hour, and the rpo in line %d is %s", d.rpoAt.Line, short(d.p.RPO))
	}
	if d.p.Calendar != nil {
		for _, w := range d.p.Calendar.Windows {
			if w.RPO > time.Hour {
				d.fail(hourly, "retention.hourly needs a point each hour, and the rpo of the window %q is %s", w.Name, short(w.RPO))
			}
		}
	}
}

// horizon is how far ahead the zone's rules are taken along.
const horizon = 20 * 365 * 24 * time.Hour

func setZone(d *decoder, n *yaml.Node) {
	loc, err := time.LoadLocation(n.Value)
	if err != nil {
		d.fail(n, "there is no time zone %s; it is %s", n.Value, wantZone)
		return
	}
	d.zone = zoneOf(n.Value, loc, d.now)
}

func zoneOf(name string, loc *time.Location, now time.Time) model.Zone {
	t := now.In(loc)
	start, end := t.ZoneBounds()
	if start.IsZero() {
		start = t
	}
	_, off := t.Zone()
	z := model.Zone{Name: name, Offsets: []model.ZoneOffset{{From: start.Unix(), Seconds: off}}}
	for !end.IsZero() && end.Before(now.Add(horizon)) {
		if !end.After(t) { // Go ends a stretch with the 365th day of the year, leap years too, and begins another with the next
			end = t.Add(24 * time.Hour)
		}
		t = end
		if _, next := t.Zone(); next != off {
			off = next
			z.Offsets = append(z.Offsets, model.ZoneOffset{From: t.Unix(), Seconds: off})
		}
		_, end = t.ZoneBounds()
	}
	return z
}
