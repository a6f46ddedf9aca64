// Package recoveryplan reads the file that says in which order VMs start when their host died: groups, what each group or VM
// follows, delays, and how many may start at once on one host.
package recoveryplan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
)

// Plan is a file that was understood.
type Plan struct {
	Parallel int
	Wait     time.Duration
	VMs      []VM // in the order of the file
}

// VM is one VM's place. After holds names of VMs.
type VM struct {
	Name  string
	Group string
	Order int
	After []string
	Delay time.Duration
}

const (
	maxFile = 1 << 20
	maxVMs  = 10000
)

type file struct {
	Version  int     `yaml:"version"`
	Parallel *int    `yaml:"parallel"`
	Wait     string  `yaml:"wait"`
	Groups   []group `yaml:"groups"`
}

type group struct {
	Name  string   `yaml:"name"`
	After []string `yaml:"after"`
	Delay string   `yaml:"delay"`
	VMs   []string `yaml:"vms"`
}

// Load reads the file at path.
func Load(path string) (Plan, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil {
			var p Plan
			if p, err = Parse(data); err == nil {
				return p, nil
			}
		}
	}
	return Plan{}, model.Fail(model.InvalidArgument, err, "the recovery plan %s is refused", path).WithTry("understudy plan check FILE; docs/CLI.md has the format")
}

// Parse reads a plan and refuses what could never start: names that are not there, and circles.
func Parse(data []byte) (Plan, error) {
	if len(data) > maxFile {
		return Plan{}, fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var f file
	if err := dec.Decode(&f); err != nil {
		return Plan{}, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Plan{}, errors.New("it must hold one document")
	}
	p := Plan{Parallel: model.DefaultStartParallel, Wait: model.DefaultStartWait}
	if f.Version != 1 {
		return p, fmt.Errorf("version must be 1, not %d", f.Version)
	}
	if f.Parallel != nil {
		p.Parallel = *f.Parallel
	}
	if p.Parallel < 1 || p.Parallel > model.MaxStartParallel {
		return p, fmt.Errorf("parallel must be between 1 and %d, not %d", model.MaxStartParallel, p.Parallel)
	}
	var err error
	if p.Wait, err = duration("wait", f.Wait, model.DefaultStartWait); err != nil {
		return p, err
	}
	if p.VMs, err = places(f.Groups); err != nil {
		return p, err
	}
	if c := circle(p.VMs); c != "" {
		return p, fmt.Errorf("%s waits for itself", c)
	}
	return p, nil
}

func duration(name, text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > model.MaxStartWait {
		return 0, fmt.Errorf("%s must be a time such as 30s, at most %s, not %q", name, model.MaxStartWait, text)
	}
	return d, nil
}

// places resolves groups to VMs.
func places(groups []group) ([]VM, error) {
	members := map[string][]string{}
	groupOf := map[string]string{}
	for i, g := range groups {
		switch {
		case strings.TrimSpace(g.Name) == "":
			return nil, fmt.Errorf("group %d has no name", i+1)
		case members[g.Name] != nil:
			return nil, fmt.Errorf("two groups are called %s", g.Name)
		case len(g.VMs) == 0:
			return nil, fmt.Errorf("group %s has no vms", g.Name)
		}
		members[g.Name] = g.VMs
		for _, vm := range g.VMs {
			if strings.TrimSpace(vm) == "" {
				return nil, fmt.Errorf("group %s names a VM without a name", g.Name)
			}
			if other, twice := groupOf[vm]; twice {
				return nil, fmt.Errorf("%s is in %s and in %s", vm, other, g.Name)
			}
			groupOf[vm] = g.Name
		}
	}
	if len(groupOf) > maxVMs {
		return nil, fmt.Errorf("it names %d VMs, more than %d", len(groupOf), maxVMs)
	}
	var out []VM
	for i, g := range groups {
		delay, err := duration("delay of group "+g.Name, g.Delay, 0)
		if err != nil {
			return nil, err
		}
		var after []string
		for _, name := range g.After {
			switch {
			case name == g.Name:
				return nil, fmt.Errorf("group %s follows itself", name)
			case members[name] != nil:
				after = append(after, members[name]...)
			case groupOf[name] == g.Name:
				return nil, fmt.Errorf("group %s follows %s, which is in it", g.Name, name)
			case groupOf[name] != "":
				after = append(after, name)
			default:
				return nil, fmt.Errorf("group %s follows %q, which is neither a group nor a VM of this file", g.Name, name)
			}
		}
		slices.Sort(after)
		after = slices.Compact(after)
		for _, vm := range g.VMs {
			out = append(out, VM{Name: vm, Group: g.Name, Order: i + 1, After: after, Delay: delay})
		}
	}
	return out, nil
}

// circle names a VM that waits for itself in the end.
func circle(vms []VM) string {
	after := map[string][]string{}
	for _, v := range vms {
		after[v.Name] = v.After
	}
	const entered, done = 1, 2
	state := map[string]int{}
	var visit func(string) string
	visit = func(name string) string {
		switch state[name] {
		case entered:
			return name
		case done:
			return ""
		}
		state[name] = entered
		for _, next := range after[name] {
			if c := visit(next); c != "" {
				return c
			}
		}
		state[name] = done
		return ""
	}
	for _, v := range vms {
		if c := visit(v.Name); c != "" {
			return c
		}
	}
	return ""
}

// Waves are the VMs by what must run before them: those of one wave may start beside each other.
func (p Plan) Waves() [][]string {
	depth := map[string]int{}
	byName := map[string]VM{}
	for _, v := range p.VMs {
		byName[v.Name] = v
	}
	var of func(string) int
	of = func(name string) int {
		if d, ok := depth[name]; ok {
			return d
		}
		d := 0
		for _, a := range byName[name].After {
			d = max(d, of(a)+1)
		}
		depth[name] = d
		return d
	}
	var waves [][]string
	for _, v := range p.VMs {
		d := of(v.Name)
		for len(waves) <= d {
			waves = append(waves, nil)
		}
		waves[d] = append(waves[d], v.Name)
	}
	return waves
}

// Rule is a VM's place with its predecessors by UUID.
func (p Plan) Rule(v VM, uuids map[string]string) model.StartRule {
	r := model.StartRule{Group: v.Group, Order: v.Order, After: []string{}, Delay: v.Delay, Wait: p.Wait, Parallel: p.Parallel}
	for _, name := range v.After {
		if uuid := uuids[name]; uuid != "" {
			r.After = append(r.After, uuid)
		}
	}
	return r
}
