package libvirtrpc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/beevik/etree"
	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

const (
	// undoTime is what cleaning up after a failed capture may take when the caller's time is over.
	undoTime = 3 * time.Second
	// thawTime is what a thaw may take beyond the agent's own timeout.
	thawTime = 5 * time.Second
	// exportBitmap is the name under which an export shows its bitmap. QEMU makes a bitmap of that name for the time of the
	// job, so it must not be a checkpoint's.
	exportBitmap = model.MarkPrefix + "export"

	maxSocketPath = 107
)

func scratchPrefix(uuid string) string { return model.MarkPrefix + "scratch-" + uuid + "-" }

// Capture implements hypervisor.Hypervisor.
func (c *Client) Capture(ctx context.Context, uuid string, spec hypervisor.CaptureSpec) (hypervisor.Capture, error) {
	what := "taking a snapshot of domain " + uuid
	if err := checkSpec(spec); err != nil {
		return hypervisor.Capture{}, err
	}
	all, err := c.activeTargets(ctx, what, uuid)
	if err != nil {
		return hypervisor.Capture{}, err
	}
	// libvirt would wait half a minute for the job that runs, with the guest frozen.
	if running, err := c.backupXML(ctx, uuid); err != nil {
		return hypervisor.Capture{}, err
	} else if running != "" {
		return hypervisor.Capture{}, model.Fail(model.JobConflict, nil, "%s: another backup job runs on it", what).WithTry("virsh domjobinfo " + uuid)
	}
	r, err := newRequest(uuid, spec, all)
	if err != nil {
		return hypervisor.Capture{}, err
	}
	if err := c.makeScratch(ctx, what, uuid, r.scratch); err != nil {
		return hypervisor.Capture{}, err
	}
	if !spec.Freeze {
		return c.begin(ctx, what, uuid, spec, r)
	}
	frozen, err := c.freeze(ctx, what, uuid, spec.FreezeTimeout)
	if err != nil {
		c.removeScratch(r.scratch)
		return hypervisor.Capture{}, err
	}
	start := time.Now()
	got, err := c.begin(ctx, what, uuid, spec, r)
	thawed, thawErr := c.thaw(ctx, uuid, spec.FreezeTimeout, 3)
	got.Stall = frozen.took + time.Since(start)
	if thawErr != nil {
		stuck := model.Fail(model.QuiesceFailed, thawErr, "%s: the guest was frozen and its agent does not thaw it", what).
			WithTry("virsh domfsthaw " + uuid + "; if that fails, restart qemu-guest-agent on the guest's console or reset the VM")
		return hypervisor.Capture{}, errors.Join(stuck, err, c.undo(ctx, uuid, spec, r, err == nil))
	}
	if err != nil {
		return hypervisor.Capture{}, err
	}
	// Who thawed nothing found the file systems thawed already: nobody knows whether the instant was a quiet one.
	got.Frozen = frozen.count > 0 && thawed > 0
	return got, nil
}

func checkSpec(spec hypervisor.CaptureSpec) error {
	bad := func(format string, args ...any) error { return model.Fail(model.InvalidArgument, nil, format, args...) }
	switch {
	case len(spec.Disks) == 0 || len(spec.Disks) > model.MaxDisks:
		return bad("a snapshot of %d disks cannot be taken", len(spec.Disks))
	case !filepath.IsAbs(spec.Socket) || len(spec.Socket) > maxSocketPath:
		return bad("%q cannot be a socket: it must be absolute and at most %d bytes", spec.Socket, maxSocketPath)
	case !filepath.IsAbs(spec.ScratchDir):
		return bad("%q cannot be the scratch folder: it must be absolute", spec.ScratchDir)
	case spec.Freeze && spec.FreezeTimeout <= 0:
		return bad("a freeze needs a timeout")
	}
	bitmaps := 0
	seen := map[string]bool{}
	for _, d := range spec.Disks {
		if !model.ValidTarget(d.Target) || seen[d.Target] {
			return bad("disk target %q cannot be used", d.Target)
		}
		seen[d.Target] = true
		if d.NoBitmap && d.Since != "" {
			return bad("disk %s carries no bitmap, so it has no delta", d.Target)
		}
		if !d.NoBitmap {
			bitmaps++
		}
	}
	if spec.Checkpoint != "" && bitmaps == 0 {
		return bad("checkpoint %s would be on no disk", spec.Checkpoint)
	}
	return nil
}

// activeTargets lists the targets of all disks of an active domain.
func (c *Client) activeTargets(ctx context.Context, what, uuid string) ([]string, error) {
	return call(ctx, c, what, func(l *libvirt.Libvirt) ([]string, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return nil, err
		}
		if now, _, err := state(l, dom); err != nil {
			return nil, err
		} else if !now.Active() {
			return nil, model.Fail(model.NotRunning, nil, "%s: it is not running", what).WithVM(dom.Name)
		}
		xml, err := l.DomainGetXMLDesc(dom, 0)
		if err != nil {
			return nil, err
		}
		parsed, err := domainxml.Parse(xml)
		if err != nil {
			return nil, err
		}
		var targets []string
		for _, d := range parsed.Disks {
			targets = append(targets, d.Target)
		}
		return targets, nil
	})
}

// request is the two documents of one capture, and its scratch files.
type request struct {
	backup     string
	checkpoint libvirt.OptString
	scratch    []scratch
}

// newRequest names every disk of the domain in both documents: what is not named takes part by libvirt's defaults, and a
// disk without bitmap would then fail the whole call.
func newRequest(uuid string, spec hypervisor.CaptureSpec, all []string) (request, error) {
	stamp := time.Now().UTC().Format("20060102T150405.000000000")
	part := map[string]hypervisor.CaptureDisk{}
	for _, d := range spec.Disks {
		part[d.Target] = d
	}
	var r request
	backup, checkpoint := etree.NewDocument(), etree.NewDocument()
	b := backup.CreateElement("domainbackup")
	b.CreateAttr("mode", "pull")
	server := b.CreateElement("server")
	server.CreateAttr("transport", "unix")
	server.CreateAttr("socket", spec.Socket)
	bDisks := b.CreateElement("disks")
	k := checkpoint.CreateElement("domaincheckpoint")
	k.CreateElement("name").SetText(spec.Checkpoint)
	kDisks := k.CreateElement("disks")
	for _, target := range all {
		d, in := part[target]
		delete(part, target)
		e := bDisks.CreateElement("disk")
		e.CreateAttr("name", target)
		mark := kDisks.CreateElement("disk")
		mark.CreateAttr("name", target)
		if in && !d.NoBitmap {
			mark.CreateAttr("checkpoint", "bitmap")
		} else {
			mark.CreateAttr("checkpoint", "no")
		}
		if !in {
			e.CreateAttr("backup", "no")
			continue
		}
		file := filepath.Join(spec.ScratchDir, scratchPrefix(uuid)+stamp+"-"+target)
		r.scratch = append(r.scratch, scratch{file, target})
		e.CreateAttr("backup", "yes")
		e.CreateAttr("type", "file")
		e.CreateAttr("exportname", target)
		if d.Since == "" {
			e.CreateAttr("backupmode", "full")
		} else {
			e.CreateAttr("backupmode", "incremental")
			e.CreateAttr("incremental", d.Since)
			e.CreateAttr("exportbitmap", exportBitmap)
		}
		e.CreateElement("driver").CreateAttr("type", "qcow2")
		e.CreateElement("scratch").CreateAttr("file", file)
	}
	for target := range part {
		return r, model.Fail(model.NotFound, nil, "the domain has no disk %s", target)
	}
	var err error
	if r.backup, err = backup.WriteToString(); err != nil {
		return r, model.Fail(model.Internal, err, "writing the backup's XML")
	}
	if spec.Checkpoint != "" {
		xml, err := checkpoint.WriteToString()
		if err != nil {
			return r, model.Fail(model.Internal, err, "writing the checkpoint's XML")
		}
		r.checkpoint = libvirt.OptString{xml}
	}
	return r, nil
}

// begin fixes the instant. When it fails nothing is left.
func (c *Client) begin(ctx context.Context, what, uuid string, spec hypervisor.CaptureSpec, r request) (hypervisor.Capture, error) {
	got := hypervisor.Capture{Socket: spec.Socket}
	for _, d := range spec.Disks {
		x := hypervisor.Export{Target: d.Target, Name: d.Target}
		if d.Since != "" {
			x.Bitmap = exportBitmap
		}
		got.Exports = append(got.Exports, x)
	}
	type timed struct{ from, to time.Time }
	// What is asked of libvirtd is done although nobody waits for it any more: only who heard the answer can take it back.
	patient, done := outlive(ctx, undoTime)
	defer done()
	t, err := call(patient, c, what, func(l *libvirt.Libvirt) (timed, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return timed{}, err
		}
		from := time.Now()
		err = l.DomainBackupBegin(dom, r.backup, r.checkpoint, libvirt.DomainBackupBeginReuseExternal)
		if code(err) == libvirt.ErrNoDomainCheckpoint {
			err = model.Fail(model.CheckpointLost, err, "%s: the checkpoint that the delta starts at is not there", what).WithVM(dom.Name)
		}
		return timed{from, time.Now()}, err
	})
	if err != nil {
		return hypervisor.Capture{}, errors.Join(err, c.undo(ctx, uuid, spec, r, isKind(err, model.Unreachable)))
	}
	if late := ctx.Err(); late != nil {
		late = model.Fail(model.Unreachable, late, "%s: it came too late", what)
		return hypervisor.Capture{}, errors.Join(late, c.undo(ctx, uuid, spec, r, true))
	}
	got.TakenAt, got.Stall = t.from.UTC(), t.to.Sub(t.from)
	return got, nil
}

// undo leaves nothing of a capture that failed. libvirt itself takes back what it refuses; when its answer was lost, begun
// says that the job and the checkpoint may exist. Its own failure is only worth a word: the next capture or the caller's
// clean-up finds the job by its socket and the checkpoint by its name.
func (c *Client) undo(ctx context.Context, uuid string, spec hypervisor.CaptureSpec, r request, begun bool) error {
	var err error
	if begun {
		ctx, cancel := aftercare(ctx, undoTime)
		defer cancel()
		var socket string
		socket, err = c.CaptureSocket(ctx, uuid)
		if err == nil && socket == spec.Socket {
			err = c.endJob(ctx, uuid)
		}
		if err == nil && spec.Checkpoint != "" {
			err = c.DeleteCheckpoint(ctx, uuid, spec.Checkpoint)
		}
		if err != nil {
			err = model.Fail(model.KindOf(err), err, "what the failed snapshot may have left (job, checkpoint %s) could not be removed", spec.Checkpoint)
		}
	}
	c.removeScratch(r.scratch)
	return err
}

// CaptureSocket implements hypervisor.Hypervisor.
func (c *Client) CaptureSocket(ctx context.Context, uuid string) (string, error) {
	xml, err := c.backupXML(ctx, uuid)
	if err != nil || xml == "" {
		return "", err
	}
	root, err := domainxml.Read(xml, "domainbackup")
	if err != nil {
		return "", err
	}
	if e := root.SelectElement("server"); e != nil {
		if s := e.SelectAttrValue("socket", ""); s != "" {
			return s, nil
		}
	}
	return "", model.Fail(model.JobConflict, nil, "a backup job that is not ours runs on domain %s", uuid).WithTry("virsh domjobinfo " + uuid)
}

// backupXML is empty when no backup job runs.
func (c *Client) backupXML(ctx context.Context, uuid string) (string, error) {
	return call(ctx, c, "looking for a backup job of domain "+uuid, func(l *libvirt.Libvirt) (string, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return "", err
		}
		xml, err := l.DomainBackupGetXMLDesc(dom, 0)
		if n := code(err); n == libvirt.ErrNoDomainBackup || n == libvirt.ErrOperationInvalid { // none, or the domain is off
			return "", nil
		}
		return xml, err
	})
}

// EndCapture implements hypervisor.Hypervisor.
func (c *Client) EndCapture(ctx context.Context, uuid, scratchDir string) error {
	if err := c.endJob(ctx, uuid); err != nil {
		return err
	}
	if scratchDir == "" {
		return nil
	}
	entries, err := os.ReadDir(scratchDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return model.Fail(model.Internal, err, "looking for scratch files")
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix(uuid)) || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(scratchDir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return model.Fail(model.Internal, err, "removing a scratch file")
		}
	}
	return nil
}

// endJob ends the backup job of a domain and waits until it is over. No job and no domain are success.
func (c *Client) endJob(ctx context.Context, uuid string) error {
	what := "ending the backup job of domain " + uuid
	asked := false
	err := poll(ctx, what, func() (bool, error) {
		xml, err := c.backupXML(ctx, uuid)
		if err != nil || xml == "" {
			return xml == "", err
		}
		if asked {
			return false, nil
		}
		asked = true
		return false, c.do(ctx, what, func(l *libvirt.Libvirt) error {
			dom, err := byUUID(l, uuid)
			if err != nil {
				return err
			}
			err = l.DomainAbortJobFlags(dom, 0)
			if code(err) == libvirt.ErrOperationInvalid { // ended by itself, or the domain stopped; the next look tells
				return nil
			}
			return err
		})
	})
	if isKind(err, model.NotFound) {
		return nil
	}
	return err
}
