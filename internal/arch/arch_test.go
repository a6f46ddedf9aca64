// Package arch holds tests about the tree itself: who may import whom, and that documents name what exists.
package arch

import (
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "understudy/"

type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps,GoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else {
			require.NoError(t, err)
		}
		if p.ImportPath = strings.TrimPrefix(p.ImportPath, module); hasPrefix(p.ImportPath, "build") {
			continue // what make fetched
		}
		all = append(all, p)
	}
}

func ours(imports []string) []string {
	var out []string
	for _, i := range imports {
		if s, ok := strings.CutPrefix(i, module); ok {
			out = append(out, s)
		}
	}
	return out
}

func hasPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if s == p || strings.HasPrefix(s, p+"/") {
			return true
		}
	}
	return false
}

// A rule says what of ours a package may import, what it must never reach even indirectly, and why.
type rule struct {
	of      string
	only    []string // direct imports of ours; nil: anything
	never   []string // direct or indirect
	because string
}

func rules() []rule {
	temporal, urfave, libvirt := "go.temporal.io", "github.com/urfave/cli", "github.com/digitalocean/go-libvirt"
	stages := []string{"internal/snapshot", "internal/replicate", "internal/verify", "internal/recoverypoint", "internal/restore"}
	list := []rule{
		{"internal/model", []string{}, []string{temporal, urfave, libvirt}, "model is the leaf that everybody shares"},
		{"internal/decide", []string{"internal/model"}, []string{temporal, "os", "net", "math/rand"}, "decisions are pure; pass facts in"},
		{"internal/contract", []string{"internal/model"}, []string{libvirt, urfave}, "the wire vocabulary is nearly a leaf"},
		{"workflows", []string{"internal/contract", "internal/decide", "internal/model"}, []string{libvirt, urfave, module + "activities"}, "workflows only coordinate"},
		{"activities", nil, []string{urfave, module + "workflows", module + "starter", module + "cli", module + "workers"}, "activities never orchestrate"},
		{"starter", []string{"internal/contract", "internal/model"}, []string{libvirt, urfave, module + "workflows", module + "activities"}, "the client knows only the wire"},
		{"internal/link", []string{"internal/model", "internal/trust", "internal/blockio/digest", "internal/link"}, []string{temporal, urfave, libvirt}, "bulk bytes never go through Temporal"},
		{"internal/trust", []string{"internal/model", "internal/durable"}, []string{temporal, urfave, libvirt}, "who is who is decided below everything"},
		{"internal/hypervisor", []string{"internal/model", "internal/hypervisor", "internal/blockio", "tests"}, []string{temporal, urfave}, "a port knows nothing above it"},
		{"internal/guard", []string{"internal/model", "internal/durable"}, []string{temporal, urfave, libvirt, "google.golang.org/grpc", module + "internal/hypervisor", module + "internal/link"}, "the guard acts whatever fails beside it: no network, no libvirt, no Temporal"},
		{"workers/guard", []string{"internal/guard", "internal/model"}, []string{temporal, libvirt, "google.golang.org/grpc"}, "the guard's process is as small as the guard"},
		{"internal/blockio", []string{"internal/model", "internal/blockio"}, []string{temporal, urfave, libvirt}, "a port knows nothing above it"},
	}
	for _, s := range stages {
		list = append(list, rule{s, []string{"internal/model", "internal/hypervisor", "internal/blockio", "internal/link", "internal/durable", "internal/decide", s}, []string{temporal, urfave}, "stages share types through model, never each other"})
	}
	return list
}

func TestImportRules(t *testing.T) {
	for _, p := range packages(t) {
		for _, r := range rules() {
			if !hasPrefix(p.ImportPath, r.of) {
				continue
			}
			for _, i := range ours(p.Imports) {
				if r.only != nil && !hasPrefix(i, r.only...) && !hasPrefix(i, r.of) {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, r.because)
				}
			}
			for _, d := range p.Deps {
				// Indirect use of os and net by the standard library itself is not the package's doing.
				if hasPrefix(d, r.never...) && (strings.Contains(d, ".") || strings.HasPrefix(d, module) || contains(p.Imports, d)) {
					t.Errorf("%s reaches %s: %s", p.ImportPath, d, r.because)
				}
			}
		}
		if contains(p.Imports, "github.com/digitalocean/go-libvirt") && !hasPrefix(p.ImportPath, "internal/hypervisor") {
			t.Errorf("%s imports go-libvirt: only internal/hypervisor speaks libvirt", p.ImportPath)
		}
		for _, i := range ours(p.Imports) {
			if hasPrefix(i, "workers") && !hasPrefix(p.ImportPath, "workers", "cli/understudy") {
				t.Errorf("%s imports %s: workers import everything and nobody imports them", p.ImportPath, i)
			}
			if hasPrefix(i, "tests") && !hasPrefix(p.ImportPath, "tests", "internal/hypervisor/hvtest") {
				t.Errorf("%s imports %s: test code is not imported by the product", p.ImportPath, i)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
