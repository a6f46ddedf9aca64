package starter

import (
	"context"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"golang.org/x/sync/errgroup"

	"understudy/internal/contract"
)

const (
	// Lists lag behind by some hundredths of a second; with a search engine behind them by a second.
	settleTime = 2 * time.Second
	settleTick = 20 * time.Millisecond
	settleMany = 50 // protections: more are listed with all others
)

// touch notes that a protection was told something which a list may not show yet.
func (c *Client) touch(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.touched == nil {
		c.touched = map[string]bool{}
	}
	c.touched[id] = true
}

// Settle waits until lists show what was done through this client, so that whoever looks next is not told what was before;
// two seconds at most, after which a list may lag until the protection's next plan is due.
func (c *Client) Settle(ctx context.Context) {
	c.mu.Lock()
	touched := c.touched
	c.touched = nil
	c.mu.Unlock()
	if len(touched) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	want := c.revisions(ctx, touched)
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for len(want) > 0 {
		if c.strike(ctx, want) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ended is the revision of a protection that is no more.
const ended = -1

// revisions of the memos as the history service has them, which does not lag.
func (c *Client) revisions(ctx context.Context, ids map[string]bool) map[string]int64 {
	type found struct {
		id  string
		rev int64
	}
	answers := make(chan found, len(ids))
	var g errgroup.Group
	g.SetLimit(parallel)
	for id := range ids {
		g.Go(func() error {
			d, err := c.t.DescribeWorkflowExecution(ctx, id, "")
			if err != nil {
				return nil //nolint:nilerr // nothing to wait for
			}
			info, rev := d.GetWorkflowExecutionInfo(), int64(ended)
			if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				rev = revision(info)
			}
			answers <- found{id, rev}
			return nil
		})
	}
	_ = g.Wait()
	close(answers)
	want := map[string]int64{}
	for f := range answers {
		want[f.id] = f.rev
	}
	return want
}

// revision of a protection's memo; zero without one. One that cannot be read makes the reader ask.
func revision(r *workflowpb.WorkflowExecutionInfo) int64 {
	var n contract.Now
	if p := r.GetMemo().GetFields()[contract.MemoNow]; p != nil {
		_ = decode(p, &n)
	}
	return n.Rev
}

// strike takes out what the list shows.
func (c *Client) strike(ctx context.Context, want map[string]int64) error {
	query := ""
	if len(want) <= settleMany {
		var ids []string
		for id := range want {
			ids = append(ids, "'"+id+"'")
		}
		query = fmt.Sprintf(" AND WorkflowId IN (%s)", strings.Join(ids, ", "))
	}
	runs, err := c.runningOf(ctx, contract.ProtectVMName, query)
	if err != nil {
		return err
	}
	shown := map[string]int64{}
	for _, r := range runs {
		shown[r.GetExecution().GetWorkflowId()] = revision(r)
	}
	for id, rev := range want {
		if has, listed := shown[id]; listed && rev != ended && has >= rev || !listed && rev == ended {
			delete(want, id)
		}
	}
	return nil
}
