package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/replicate"
	"understudy/internal/snapshot"
)

// mergedHost captures deltas and sends them to a receiver that may fail.
type mergedHost struct {
	*hostFixture
	open *openCapture
	link *fakeReceiver
}

// openCapture gives the open capture again, like stage 1.
type openCapture struct {
	fakeSource
	taken map[model.PointRef]snapshot.Snapshot
	disks []model.SnapshotDisk
	times int
}

func (o *openCapture) Take(_ context.Context, r snapshot.Request) (snapshot.Snapshot, error) {
	if o.takeErr != nil {
		return snapshot.Snapshot{}, o.takeErr
	}
	if s, open := o.taken[r.Point]; open {
		return s, nil
	}
	o.times++
	s := snapshot.Snapshot{Point: r.Point, TakenAt: time.Unix(int64(1000*o.times), 0), Disks: o.disks, Consistency: model.CrashConsistent}
	o.taken[r.Point] = s
	return s, nil
}

func (o *openCapture) Get(_ context.Context, _ model.VMRef, p model.PointRef) (snapshot.Snapshot, error) {
	return o.taken[p], nil
}

func (o *openCapture) Settle(context.Context, model.VMRef, model.PointRef) ([]string, error) {
	return nil, nil
}

func (o *openCapture) Dirty(context.Context, model.VMRef, model.PointRef) (int64, error) {
	return 4096, nil
}

type fakeReceiver struct {
	err  error
	sent []replicate.Request
}

func (f *fakeReceiver) Ping(context.Context, string) (model.HostID, error) { return "host-a", nil }

func (f *fakeReceiver) Send(_ context.Context, _, _ string, _ replicate.Open, r replicate.Request, progress func(replicate.Progress)) (replicate.Result, error) {
	f.sent = append(f.sent, r)
	progress(replicate.Progress{Disk: "vda", DoneBytes: 1, TotalBytes: 2})
	return replicate.Result{SentBytes: 9, Disks: []replicate.DiskStats{{Target: "vda", ReadBytes: 7, SentBytes: 9}}}, f.err
}

type noShares struct{ Shares }

func (noShares) Join(Transfer) Share { return noShare{} }

type noShare struct{}

func (noShare) Lane() *replicate.Lane       { return nil }
func (noShare) Progress(replicate.Progress) {}
func (noShare) Leave(int64) Granted         { return Granted{} }

func newMergedHost(t *testing.T) *mergedHost {
	t.Helper()
	m := &mergedHost{hostFixture: hostEnv(t), link: &fakeReceiver{}}
	m.open = &openCapture{taken: map[model.PointRef]snapshot.Snapshot{}, disks: []model.SnapshotDisk{
		{Disk: model.Disk{Target: "vda"}, Mode: model.ModeDelta, DirtyBytes: 7},
	}}
	m.Snapshot, m.Link, m.Shares = m.open, m.link, noShares{}
	return m
}

var point7 = model.PointRef{Generation: 1, Seq: 7}

func captureAndSendIn() contract.CaptureAndSendIn {
	return contract.CaptureAndSendIn{
		Capture: contract.SnapshotIn{Fence: under(1), Seq: 7, Parent: model.PointRef{Generation: 1, Seq: 6}},
		Send:    contract.ReplicateIn{Fence: under(1), Point: point7, Parent: model.PointRef{Generation: 1, Seq: 6}, Standby: "host-a", LinkAddress: "a:1"},
		Below:   100,
	}
}

func TestASmallCaptureIsSentByTheSameActivity(t *testing.T) {
	m := newMergedHost(t)
	out, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
	require.NoError(t, err)
	require.Equal(t, point7, out.Capture.Point)
	require.EqualValues(t, 7, out.Capture.DirtyBytes)
	require.EqualValues(t, 9, out.Capture.WrittenBytes)
	require.NotNil(t, out.Sent)
	require.EqualValues(t, 9, out.Sent.SentBytes)
	require.Equal(t, []string{"answering", "serve", "capturing"}, m.watcher.calls)
	require.Equal(t, out.Capture.TakenAt.UTC().Format(time.RFC3339Nano), m.link.sent[0].Capture)
}

func TestALargeCaptureIsLeftOpenForReplicate(t *testing.T) {
	for name, disk := range map[string]model.SnapshotDisk{
		"by its bytes":       {Mode: model.ModeDelta, DirtyBytes: 100},
		"a disk is compared": {Mode: model.ModeResync, DirtyBytes: 1},
		"a disk is copied":   {Mode: model.ModeFull, DirtyBytes: 1},
	} {
		m := newMergedHost(t)
		m.open.disks[0] = disk
		out, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
		require.NoError(t, err, name)
		require.Nil(t, out.Sent, name)
		require.Empty(t, m.link.sent, name)
		require.Equal(t, point7, out.Capture.Point)
		sent, err := run(t, m.hostFixture, contract.Replicate, captureAndSendIn().Send)
		require.NoError(t, err)
		require.EqualValues(t, 9, sent.SentBytes)
		require.Equal(t, 1, m.open.times, "the same capture")
	}
}

// Whoever is told that the sending failed is told what was captured before.
func TestAFailedSendingTellsWhatWasCaptured(t *testing.T) {
	for _, fault := range []error{
		model.Fail(model.LinkDown, nil, "cut").WithVM("db1").WithTry("wait"), model.Fail(model.TargetFull, nil, "full"), errors.New("something else"),
	} {
		m := newMergedHost(t)
		m.link.err = fault
		_, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
		require.Equal(t, string(model.KindOf(fault)), kind(t, err))
		var app *temporal.ApplicationError
		require.ErrorAs(t, err, &app)
		require.Equal(t, !retryable(model.KindOf(fault)), app.NonRetryable())
		var d contract.Detail
		var taken contract.SnapshotOut
		require.NoError(t, app.Details(&d, &taken))
		require.Equal(t, point7, taken.Point)
		require.Equal(t, m.open.taken[point7].TakenAt.Unix(), taken.TakenAt.Unix())
		require.NoError(t, app.Details(&d), "who reads only the detail")

		m.link.err = nil
		out, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
		require.NoError(t, err, "the next attempt")
		require.Equal(t, 1, m.open.times, "goes on with the same capture")
		require.Equal(t, m.link.sent[0].Capture, m.link.sent[1].Capture)
		require.NotNil(t, out.Sent)
	}
}

// When the agent dies, its last sign of life is all that is left: what was captured is in it, after the progress.
func TestEachSignOfLifeTellsWhatWasCaptured(t *testing.T) {
	b, taken := &beat{}, contract.SnapshotOut{Point: point7}
	require.Empty(t, b.told())
	b.keep(contract.ReplicateProgress{TotalBytes: 7}, taken)
	require.Equal(t, []any{contract.ReplicateProgress{TotalBytes: 7}, taken}, b.told())
	b.set(contract.ReplicateProgress{DoneBytes: 3, TotalBytes: 7})
	require.Equal(t, []any{contract.ReplicateProgress{DoneBytes: 3, TotalBytes: 7}, taken}, b.told())
}

func TestACaptureThatFailsIsNotSentAndNotTriedForLong(t *testing.T) {
	m := newMergedHost(t)
	m.open.takeErr = model.Fail(model.JobConflict, nil, "another job")
	_, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
	require.Equal(t, "JobConflict", kind(t, err))
	require.Empty(t, m.link.sent)
	require.Equal(t, []string{"answering", "serve", "capturing", "abandoned"}, m.watcher.calls)
	var app *temporal.ApplicationError
	require.ErrorAs(t, err, &app)
	require.False(t, app.NonRetryable(), "once more")
	var taken contract.SnapshotOut
	require.NoError(t, app.Details(&contract.Detail{}, &taken))
	require.True(t, taken.Point.IsZero())

	err = toWire(final{m.open.takeErr})
	require.ErrorAs(t, err, &app)
	require.True(t, app.NonRetryable())
	require.Equal(t, "JobConflict", app.Type())
}

func TestAnOldGenerationCapturesAndSendsNothing(t *testing.T) {
	m := newMergedHost(t)
	require.NoError(t, m.floors.Raise(db1, 5, "failover"))
	_, err := run(t, m.hostFixture, contract.CaptureAndSend, captureAndSendIn())
	require.Equal(t, "StaleGeneration", kind(t, err))
	require.Zero(t, m.open.times)
	require.Empty(t, m.watcher.calls)
}

// The takeover begins between the two halves.
func TestATakeoverBetweenCaptureAndSendingEndsIt(t *testing.T) {
	m := newMergedHost(t)
	in := captureAndSendIn()
	m.Leases = unguarded(t, m.floors)
	m.watcher.onCaptured = func() { require.NoError(t, m.floors.Raise(db1, 2, "failover")) }
	_, err := run(t, m.hostFixture, contract.CaptureAndSend, in)
	require.Equal(t, "StaleGeneration", kind(t, err))
	require.Empty(t, m.link.sent)
}

func TestSettleAnswersWithALookWhenItIsAsked(t *testing.T) {
	m := newMergedHost(t)
	in := contract.SettleIn{PointIn: contract.PointIn{Fence: under(1), Point: point7}, Look: true}
	out, err := run(t, m.hostFixture, contract.Settle, in)
	require.NoError(t, err)
	require.NotNil(t, out.Observed)
	m.watcher.observeErr = errors.New("libvirt hangs")
	out, err = run(t, m.hostFixture, contract.Settle, in)
	require.NoError(t, err, "a look that fails is no failure of settling")
	require.Nil(t, out.Observed)
	in.Look, m.watcher.observeErr = false, nil
	out, err = run(t, m.hostFixture, contract.Settle, in)
	require.NoError(t, err)
	require.Nil(t, out.Observed)
}
