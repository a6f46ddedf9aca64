package cli

import (
	"time"

	"understudy/internal/model"
)

// showing does one thing that takes a while and shows meanwhile how the copy under way gets on.
func showing[Out any](c *call, vm model.VMRef, do func() (Out, error)) (Out, error) {
	type end struct {
		out Out
		err error
	}
	done := make(chan end, 1)
	go func() { // ends with the command's context
		out, err := do()
		done <- end{out, err}
	}()
	bar, ctx := c.progress(), c.Context.Context
	defer bar.Done()
	for {
		select {
		case e := <-done:
			return e.out, e.err
		case <-time.After(c.tick):
		}
		d, err := c.s.Describe(ctx, vm.UUID)
		if err != nil {
			continue // what was asked for says what is wrong
		}
		if progress, err := c.s.Progress(ctx, vm); err == nil {
			bar.Show("%s", copyLine(d, progress, c.now()))
		}
	}
}
