package fence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
)

// Level is tried as a whole: all of its devices must confirm. Two power supplies are two devices of one level.
type Level []Device

// Config says for each host by which levels it is powered off; they are tried in order, as in Pacemaker's topology.
type Config struct {
	Hosts map[model.HostID][]Level
}

const (
	maxConfig     = 1 << 20
	maxRetries    = 10
	deviceTimeout = 20 * time.Second
	maxTimeout    = 5 * time.Minute
)

// The file as written.
type (
	configFile struct {
		Version int                              `yaml:"version"`
		Hosts   map[string]oneOrMore[levelEntry] `yaml:"hosts"`
	}
	levelEntry  oneOrMore[deviceEntry]
	deviceEntry struct {
		Agent   string            `yaml:"agent"`
		Options map[string]string `yaml:"options"`
		Secrets map[string]string `yaml:"secrets"`
		Timeout string            `yaml:"timeout"`
		Retries *int              `yaml:"retries"`
	}
)

// oneOrMore lets a host with one device be written without lists.
type oneOrMore[T any] []T

// UnmarshalYAML takes a list or a single entry.
func (o *oneOrMore[T]) UnmarshalYAML(n *yaml.Node) error { return oneOrMany(n, (*[]T)(o)) }

// UnmarshalYAML takes a list of devices or a single one.
func (l *levelEntry) UnmarshalYAML(n *yaml.Node) error { return oneOrMany(n, (*[]deviceEntry)(l)) }

func oneOrMany[T any](n *yaml.Node, into *[]T) error {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for _, one := range nodes {
		var v T
		if err := decodeNode(one, &v); err != nil {
			return err
		}
		*into = append(*into, v)
	}
	return nil
}

// decodeNode is strict, which a node's own Decode is not.
func decodeNode(n *yaml.Node, v any) error {
	if d, ok := v.(*deviceEntry); ok && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			switch key := n.Content[i]; key.Value {
			case "agent", "options", "secrets", "timeout", "retries":
			default:
				return fmt.Errorf("line %d: %q is not a key of a device: agent, options, secrets, timeout, retries", key.Line, key.Value)
			}
		}
		return n.Decode(d)
	}
	return n.Decode(v)
}

// Parse reads a fence configuration. It looks at the agents and at the files with secrets too: what is missing shows when the
// server starts, not when a host has died.
func Parse(data []byte) (Config, error) {
	if len(data) > maxConfig {
		return Config{}, fmt.Errorf("it is longer than %d bytes", maxConfig)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var f configFile
	if err := dec.Decode(&f); err != nil {
		return Config{}, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("it must hold one document")
	}
	if f.Version != 1 {
		return Config{}, fmt.Errorf("version must be 1, not %d", f.Version)
	}
	c := Config{Hosts: make(map[model.HostID][]Level, len(f.Hosts))}
	for name, levels := range f.Hosts {
		host := model.HostID(name)
		if !model.ValidHostID(host) {
			return Config{}, fmt.Errorf("%q cannot name a host", name)
		}
		if len(levels) == 0 {
			return Config{}, fmt.Errorf("%s has no device", name)
		}
		for i, entries := range levels {
			var l Level
			for _, e := range entries {
				d, err := e.device()
				if err != nil {
					return Config{}, fmt.Errorf("%s, level %d: %w", name, i+1, err)
				}
				l = append(l, d)
			}
			if len(l) == 0 {
				return Config{}, fmt.Errorf("%s, level %d has no device", name, i+1)
			}
			c.Hosts[host] = append(c.Hosts[host], l)
		}
	}
	return c, nil
}

var (
	optionName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,63}$`)
	secretName = regexp.MustCompile(`pass|secret|token|credential|api_?key`)
)

func (e deviceEntry) device() (Device, error) {
	d := Device{Agent: e.Agent, Options: map[string]string{}, Secrets: map[string]string{}, Timeout: deviceTimeout, Retries: 1}
	if !filepath.IsAbs(e.Agent) {
		return d, fmt.Errorf("agent must be an absolute path such as /usr/sbin/fence_ipmilan, not %q", e.Agent)
	}
	if info, err := os.Stat(e.Agent); err != nil {
		return d, err
	} else if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return d, fmt.Errorf("%s cannot be run", e.Agent)
	}
	for name, value := range e.Options {
		if file, ok := strings.CutSuffix(name, "_file"); ok && (file == "password" || file == "passwd") {
			d.Secrets[file] = value // the shorthand that most devices need
			continue
		}
		switch {
		case !optionName.MatchString(name) || name == "action":
			return d, fmt.Errorf("%q cannot be an option", name)
		case strings.ContainsAny(value, "\r\n\x00"):
			return d, fmt.Errorf("option %s must be one line", name)
		case secretName.MatchString(name) && !strings.HasSuffix(name, "_script") && !strings.HasSuffix(name, "_file"):
			return d, fmt.Errorf("option %s looks like a secret; put it in a file of its own and write secrets: {%s: FILE}", name, name)
		}
		d.Options[name] = value
	}
	for name, file := range e.Secrets {
		if !optionName.MatchString(name) || name == "action" {
			return d, fmt.Errorf("%q cannot be an option", name)
		}
		d.Secrets[name] = file
	}
	for name, file := range d.Secrets {
		if _, err := readSecret(file); err != nil {
			return d, fmt.Errorf("option %s: %w", name, err)
		}
	}
	if e.Retries != nil {
		d.Retries = *e.Retries
	}
	if d.Retries < 0 || d.Retries > maxRetries {
		return d, fmt.Errorf("retries must be between 0 and %d, not %d", maxRetries, d.Retries)
	}
	if e.Timeout != "" {
		t, err := time.ParseDuration(e.Timeout)
		if err != nil || t <= 0 || t > maxTimeout {
			return d, fmt.Errorf("timeout must be a time such as 20s, at most %s, not %q", maxTimeout, e.Timeout)
		}
		d.Timeout = t
	}
	return d, nil
}
