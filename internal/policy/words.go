package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func (f field) wanted() string {
	if f.want != "" {
		return f.want
	}
	return oneOf(f.enum)
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func names(fields []field) string {
	var list []string
	for _, f := range fields {
		if f.unkept == "" {
			list = append(list, f.name)
		}
	}
	return oneOf(list)
}

// nearest names the field that was meant, or all there are.
func nearest(key, path string, fields []field) string {
	best, least := "", 3
	for _, f := range fields {
		if n := distance(strings.ReplaceAll(key, "_", "-"), f.name); f.unkept == "" && n < least {
			best, least = f.name, n
		}
	}
	if best != "" {
		return "is it " + strings.TrimPrefix(path+"."+best, ".") + "?"
	}
	return "there are " + strings.Replace(names(fields), " or ", " and ", 1)
}

// distance is the number of letters to change; far for what is far anyway.
func distance(a, b string) int {
	if len(a) > 30 {
		return 30
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		const most = 40
		if len(n.Value) > most {
			return strconv.Quote(strings.ToValidUTF8(n.Value[:most], "")) + "…"
		}
		return strconv.Quote(n.Value)
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	case yaml.AliasNode, yaml.DocumentNode:
	}
	return fmt.Sprintf("this (%s)", n.Tag)
}

// short is 24h where Go writes 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
