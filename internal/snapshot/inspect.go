package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Inspect says which disks of a domain can be replicated and, in words, what keeps it from being replicated. The error is
// only for a domain that could not be asked.
func (s *Source) Inspect(ctx context.Context, nameOrUUID string) (model.DomainFacts, hypervisor.Domain, error) {
	facts, dom, _, err := s.inspect(ctx, nameOrUUID)
	return facts, dom, err
}

// Admit is Inspect for those who go on: what keeps the domain from being replicated is an error, Refused for an image
// outside the allowed folders and Unsupported for everything else.
func (s *Source) Admit(ctx context.Context, nameOrUUID string) (model.DomainFacts, hypervisor.Domain, error) {
	facts, dom, refusal, err := s.inspect(ctx, nameOrUUID)
	if err == nil && refusal != nil {
		err = refusal
	}
	return facts, dom, err
}

func (s *Source) inspect(ctx context.Context, nameOrUUID string) (model.DomainFacts, hypervisor.Domain, *model.Failure, error) {
	dom, err := s.hv.Domain(ctx, nameOrUUID)
	if err != nil {
		return model.DomainFacts{}, hypervisor.Domain{}, nil, err
	}
	facts := model.DomainFacts{VM: dom.VM, Running: dom.State.Active(), State: string(dom.State), Disks: []model.Disk{}, Problems: []string{}}
	kind := model.Unsupported
	for _, d := range dom.Disks {
		if d.ReadOnly {
			continue
		}
		problem, refused := s.problem(dom.VM.UUID, d)
		if problem != "" {
			facts.Problems = append(facts.Problems, fmt.Sprintf("disk %s cannot be replicated: %s", d.Target, problem))
			if refused {
				kind = model.Refused
			}
			continue
		}
		facts.Disks = append(facts.Disks, d.Disk)
	}
	try := "understudy doctor"
	switch {
	case len(facts.Problems) == 0 && len(facts.Disks) == 0:
		facts.Problems = append(facts.Problems, "the VM has no disk that can be replicated: it needs at least one writable qcow2 or raw file")
	case len(facts.Disks) > model.MaxDisks:
		facts.Problems = append(facts.Problems, fmt.Sprintf("the VM has %d disks, more than %d", len(facts.Disks), model.MaxDisks))
	case kind == model.Refused:
		try = "understudy agent --image-dir FOLDER on " + string(s.o.Host)
	}
	if len(facts.Problems) == 0 {
		return facts, dom, nil, nil
	}
	return facts, dom, s.fail(kind, dom.VM, nil, "%s", strings.Join(facts.Problems, "; ")).WithTry(try), nil
}

// problem says why a writable disk cannot be replicated and what would help; refused says that it is for safety's sake.
func (s *Source) problem(uuid string, d hypervisor.Disk) (problem string, refused bool) {
	switch {
	case d.Problem != "":
		return d.Problem, false
	case !model.ValidTarget(d.Target):
		return "its target name is not of the usual form (vda, sdb …)", false
	case d.Format != model.FormatQCOW2 && d.Format != model.FormatRaw:
		return fmt.Sprintf("its format is %q; convert it with: qemu-img convert -O qcow2", d.Format), false
	case !filepath.IsAbs(d.Path):
		return "its image has no absolute path; put it into a file", false
	case d.Size <= 0:
		return fmt.Sprintf("the size of %s cannot be read; see that the file exists and is an image", d.Path), false
	case d.Size > model.MaxDiskSize:
		return fmt.Sprintf("it has %d bytes, more than %d", d.Size, model.MaxDiskSize), false
	}
	if len(s.o.ImageDirs) == 0 {
		return "", false
	}
	real, err := filepath.EvalSymlinks(d.Path)
	if err != nil {
		return fmt.Sprintf("its path cannot be resolved: %v", err), false
	}
	for _, dir := range append([]string{filepath.Join(s.o.StateDir, "replicas", uuid, "active")}, s.o.ImageDirs...) {
		if within(real, dir) {
			return "", false
		}
	}
	return fmt.Sprintf("%s lies outside the folders that images may be read from (%s); move it there or start the agent with --image-dir %s",
		real, describe(s.o.ImageDirs), filepath.Dir(real)), true
}

// within says whether the resolved path lies below dir, whose own symbolic links are followed.
func within(path, dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../") && rel != "."
}

// trackable says why an image cannot carry a dirty bitmap; empty when it can.
func trackable(d model.Disk) string {
	if d.Format != model.FormatQCOW2 {
		return "a raw image has no dirty bitmap: all its data is compared in each cycle (qemu-img convert -O qcow2 would end that)"
	}
	if oldQCOW2(d.Path) {
		return "the image is qcow2 version 2, which has no dirty bitmap (qemu-img amend -o compat=1.1, with the VM off, would end that)"
	}
	return ""
}

// oldQCOW2 looks at the version in the header. What cannot be read is taken to be new: libvirt says otherwise soon enough.
func oldQCOW2(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [8]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false
	}
	return string(head[:4]) == "QFI\xfb" && binary.BigEndian.Uint32(head[4:]) == 2
}
