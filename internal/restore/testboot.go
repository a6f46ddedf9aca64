package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Test is a copy of a VM that is booted in isolation to see whether a point starts. It has a name, a UUID, a console and
// disks of its own, and no network.
type Test struct {
	VM     model.VMRef
	Point  model.PointRef
	Number int
	Probes []model.Probe
	For    time.Duration // it must stay up so long when it cannot be asked
}

// Answer is what a test's guest said, and when.
type Answer struct {
	At     time.Time
	By     string // "agent", "command" or, of a guest that cannot be asked, "runs"
	Detail string
}

// testRecord is the record of a test, in tests/: it is there before anything else of it, and goes last.
type testRecord struct {
	VM     model.VMRef `json:"vm"`
	Number int         `json:"number"`
}

// testMark begins the names of sets of overlays that tests run from.
const testMark = "test-"

func (t Test) set() string { return fmt.Sprintf("%s%d", testMark, t.Number) }

// copyName is bounded: libvirt makes file names of it.
func (t Test) copyName() string {
	name := t.VM.Name
	return fmt.Sprintf("%s-test-%d", name[:min(len(name), 64)], t.Number)
}

// uuid is the same for the same test, so that every process of the agent finds its copy.
func (t Test) uuid() string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("understudy-test:"+t.VM.UUID+":"+t.set())).String()
}

func (r *Restorer) testDir() string { return filepath.Join(r.o.StateDir, "tests") }

func (r *Restorer) testFile(t Test, ending string) string {
	return filepath.Join(r.testDir(), fmt.Sprintf("%s-%d.%s", t.VM.UUID, t.Number, ending))
}

// TestBoot boots the copy and returns when it runs. A host runs one at a time.
func (r *Restorer) TestBoot(ctx context.Context, t Test) (name string, at time.Time, err error) {
	if !model.ValidUUID(t.VM.UUID) || t.Number <= 0 {
		return "", at, r.fail(model.InvalidArgument, t.VM, nil, "test %d of %q", t.Number, t.VM.UUID)
	}
	if err := r.beginTest(t); err != nil {
		return "", at, err
	}
	p, err := r.points.Point(ctx, t.VM, t.Point)
	if err != nil {
		return "", at, err
	}
	disks, err := r.points.Activate(ctx, t.VM, t.Point, t.set())
	if err != nil {
		return "", at, err
	}
	built, err := rewrite(p.DomainXML, t.VM, disks, nil)
	if err == nil {
		built.xml, err = isolate(built.xml, t.copyName(), t.uuid(), r.testFile(t, "console"), r.testFile(t, "nvram"))
	}
	if err != nil {
		return "", at, r.located(err, t.VM)
	}
	if _, err := r.hv.Define(ctx, built.xml); err != nil {
		return "", at, err
	}
	if err := r.hv.Start(ctx, t.uuid()); err != nil {
		return "", at, err
	}
	limit, cancel := context.WithTimeout(ctx, r.o.StartTimeout)
	defer cancel()
	for {
		dom, found, err := r.lookup(limit, t.uuid())
		switch {
		case err != nil:
			return "", at, err
		case found && dom.State == hypervisor.Running:
			return t.copyName(), r.o.Now().UTC(), nil
		case !found || !dom.State.Active():
			return "", at, r.fail(model.NotRunning, t.VM, nil, "the copy stopped right after its start (%s)%s", state(dom, found), r.lastWords(t))
		}
		if err := r.wait(limit); err != nil {
			return "", at, r.fail(model.NotRunning, t.VM, err, "the copy does not run %s after its start", r.o.StartTimeout)
		}
	}
}

// beginTest writes the record, unless another test has the host.
func (r *Restorer) beginTest(t Test) error {
	r.tests.Lock()
	defer r.tests.Unlock()
	others, err := r.testRecords()
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.VM.UUID != t.VM.UUID || o.Number != t.Number {
			return r.fail(model.Conflict, t.VM, nil, "a test failover of %s has this host", o.VM.Name).WithTry("understudy test-failover " + t.VM.Name + " a little later")
		}
	}
	return r.write(r.testFile(t, "json"), testRecord{t.VM, t.Number})
}

func (r *Restorer) testRecords() ([]testRecord, error) {
	files, err := filepath.Glob(filepath.Join(r.testDir(), "*.json"))
	if err != nil {
		return nil, r.fail(model.Internal, model.VMRef{}, err, "listing test failovers")
	}
	var list []testRecord
	for _, f := range files {
		var rec testRecord
		if err := r.read(f, &rec); err != nil {
			return nil, err
		}
		if model.ValidUUID(rec.VM.UUID) {
			list = append(list, rec)
		}
	}
	return list, nil
}

// TestClean takes a test away. What is not there is success.
func (r *Restorer) TestClean(ctx context.Context, t Test) error {
	if !model.ValidUUID(t.VM.UUID) || t.Number <= 0 {
		return r.fail(model.InvalidArgument, t.VM, nil, "test %d of %q", t.Number, t.VM.UUID)
	}
	if err := r.hv.Destroy(ctx, t.uuid()); err != nil {
		return err
	}
	if err := r.hv.Undefine(ctx, t.uuid()); err != nil {
		return err
	}
	if err := r.points.Deactivate(ctx, t.VM, t.set()); err != nil {
		return err
	}
	for _, ending := range []string{"console", "nvram", "json"} {
		if err := r.remove(r.testFile(t, ending)); err != nil {
			return err
		}
	}
	return nil
}

// Tests lists the tests that are on this host: running ones, and what a process before this one left.
func (r *Restorer) Tests() ([]Test, error) {
	recs, err := r.testRecords()
	var list []Test
	for _, rec := range recs {
		list = append(list, Test{VM: rec.VM, Number: rec.Number})
	}
	return list, err
}

// SweepTests takes away what a process before this one left of tests, and tries until it can or ctx ends. left is what Tests
// said before this process began to work.
func (r *Restorer) SweepTests(ctx context.Context, left []Test) {
	for len(left) > 0 && ctx.Err() == nil {
		if r.TestClean(ctx, left[0]) == nil {
			left = left[1:]
			continue
		}
		timer := time.NewTimer(2 * time.Second)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// lastWords is the end of what the copy printed on its console.
func (r *Restorer) lastWords(t Test) string {
	b, err := os.ReadFile(r.testFile(t, "console"))
	if err != nil {
		return ""
	}
	lines := strings.Fields(strings.Join(strings.Split(strings.TrimSpace(string(b[max(0, len(b)-2048):])), "\n"), " "))
	words := strings.Join(lines, " ")
	if words == "" {
		return ""
	}
	return "; its console ends with: " + strings.ToValidUTF8(words[max(0, len(words)-200):], "?")
}

// ends is the same as a remark.
func (r *Restorer) ends(t Test) []string {
	if words := r.lastWords(t); words != "" {
		return []string{strings.TrimPrefix(words, "; ")}
	}
	return nil
}
