package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/trust"
	"understudy/workers"
)

// certify gives the site an authority, and the server its certificate; hosts may join.
func (s *site) certify() {
	dir := s.t.TempDir()
	ca, err := trust.Init(filepath.Join(dir, "ca"), "test", time.Now)
	require.NoError(s.t, err)
	s.issue = func(id trust.Identity) *trust.Folder {
		at := filepath.Join(dir, string(id.Role)+id.Name)
		require.NoError(s.t, ca.Grant(at, trust.Wish{Identity: id, Valid: time.Hour}))
		f, err := trust.Open(at)
		require.NoError(s.t, err)
		return f
	}
	s.o.TLSDir, s.o.AuthorityDir = s.issue(trust.Identity{Role: trust.Server}).Path(), filepath.Join(dir, "ca")
	s.o.JoinListen = fmt.Sprintf("127.0.0.1:%d", anyPort(s.t))
}

// A stolen certificate of a host is worth that host, on the real bundled Temporal.
func TestAHostsCertificateServesItsOwnQueuesOnly(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // what is private must be so by itself
	s := raise(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dial := func(f *trust.Folder) (client.Client, error) {
		return client.DialContext(ctx, client.Options{
			HostPort: s.o.address(), Namespace: s.o.Namespace, Logger: slog.New(slog.DiscardHandler),
			ConnectionOptions: client.ConnectionOptions{TLS: workers.ToServer(f, s.o.address())},
		})
	}
	refused := func(err error) {
		t.Helper()
		var denied *serviceerror.PermissionDenied
		require.ErrorAs(t, err, &denied)
	}

	// A new host joins by its token and may then do what a host may.
	ca, err := trust.OpenAuthority(s.o.AuthorityDir, time.Now)
	require.NoError(t, err)
	token, err := ca.Invite(trust.Wish{Identity: trust.Identity{Role: trust.Host, Name: "host-c"}, Valid: time.Hour}, time.Hour)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "tls")
	_, err = trust.Join(ctx, s.o.JoinListen, token.String(), dir)
	require.NoError(t, err)
	folder, err := trust.Open(dir)
	require.NoError(t, err)
	require.NoError(t, folder.RenewAt(ctx))
	c, err := dial(folder)
	require.NoError(t, err)
	defer c.Close()

	poll := func(queue string) error {
		short, done := context.WithTimeout(ctx, 2*time.Second)
		defer done()
		_, err := c.WorkflowService().PollActivityTaskQueue(short, &workflowservice.PollActivityTaskQueueRequest{
			Namespace: s.o.Namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: queue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}, Identity: "test",
		})
		return err
	}
	require.NotContains(t, fmt.Sprint(poll(contract.HostQueue("host-c"))), "unauthorized", "its own queue is only empty")
	refused(poll(contract.HostQueue("host-a")))
	refused(poll(contract.ControlQueue))
	refused(c.SignalWorkflow(ctx, contract.ProtectID(vmUUID), "", contract.SigCrash.Name, contract.CrashIn{}))
	refused(c.TerminateWorkflow(ctx, contract.HostWatchID("host-a"), "", "no"))
	_, err = c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{})
	refused(err)
	_, err = c.SignalWithStartWorkflow(ctx, contract.HostWatchID("host-a"), contract.SigAgentStarted.Name, model.HostFacts{Host: "host-a"},
		client.StartWorkflowOptions{ID: contract.HostWatchID("host-a"), TaskQueue: contract.ControlQueue}, contract.HostWatchName, contract.HostWatchIn{Host: "host-a"})
	refused(err)

	// Nobody comes in without a certificate of the site.
	_, err = dial(nil)
	require.Error(t, err)

	for _, root := range []string{s.o.DataDir, s.o.AuthorityDir, s.o.TLSDir, dir} {
		private(t, root)
	}
}

// private walks what lies below a folder: nobody else can read any of it.
func private(t *testing.T, root string) {
	t.Helper()
	seen := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root && e.IsDir() {
			return err // the test's own folder
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file of Temporal's went away
		}
		require.NoError(t, err)
		seen++
		require.Zero(t, info.Mode().Perm()&0o077, "%s has mode %04o", path, info.Mode().Perm())
		return nil
	}))
	require.NotZero(t, seen, root)
}
