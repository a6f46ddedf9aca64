package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/stretchr/testify/require"
)

// chromium is Debian's, headless, driven by its debugging protocol over a pipe: JSON messages that end with a zero byte.
type chromium struct {
	s       *story
	to      *os.File
	replies chan reply
	session string
	last    int
}

type reply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func (s *story) chromium() *chromium {
	s.t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		s.t.Skip("needs chromium: deploy/setup/install-deps --optional")
	}
	in, to, err := os.Pipe()
	require.NoError(s.t, err)
	from, out, err := os.Pipe()
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--hide-scrollbars", "--window-size=1280,900", "--remote-debugging-pipe", "--user-data-dir="+s.t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{in, out}
	require.NoError(s.t, cmd.Start())
	require.NoError(s.t, in.Close())
	require.NoError(s.t, out.Close())
	c := &chromium{s: s, to: to, replies: make(chan reply, 64)}
	go c.read(from)
	s.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		_ = to.Close()
	})
	var target struct {
		ID string `json:"targetId"`
	}
	c.ask("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct {
		ID string `json:"sessionId"`
	}
	c.ask("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &session)
	c.session = session.ID
	c.ask("Emulation.setDeviceMetricsOverride", map[string]any{"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	return c
}

// read ends when the browser does.
func (c *chromium) read(from *os.File) {
	defer close(c.replies)
	defer from.Close()
	r := bufio.NewReader(from)
	for {
		message, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var a reply
		if json.Unmarshal(message[:len(message)-1], &a) == nil && a.ID != 0 {
			c.replies <- a
		}
	}
}

func (c *chromium) ask(method string, params, result any) {
	c.s.t.Helper()
	c.last++
	message := map[string]any{"id": c.last, "method": method, "params": params}
	if c.session != "" {
		message["sessionId"] = c.session
	}
	b, err := json.Marshal(message)
	require.NoError(c.s.t, err)
	_, err = c.to.Write(append(b, 0))
	require.NoError(c.s.t, err)
	limit := time.After(2 * time.Minute)
	for {
		select {
		case a, open := <-c.replies:
			require.True(c.s.t, open, "the browser has ended")
			if a.ID != c.last {
				continue
			}
			require.Nil(c.s.t, a.Error, method)
			if result != nil {
				require.NoError(c.s.t, json.Unmarshal(a.Result, result))
			}
			return
		case <-limit:
			require.FailNow(c.s.t, "the browser does not answer", method)
		}
	}
}

// eval runs an expression in the page; "" while the page is being replaced.
func (c *chromium) eval(expression string) string {
	c.s.t.Helper()
	var out struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
	}
	c.ask("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &out)
	if out.Result.Value == nil {
		return ""
	}
	return fmt.Sprint(out.Result.Value)
}

func (c *chromium) open(url string) {
	c.s.t.Helper()
	c.ask("Page.navigate", map[string]any{"url": url}, nil)
}

func (c *chromium) picture() []byte {
	c.s.t.Helper()
	var out struct {
		Data string `json:"data"`
	}
	c.ask("Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false}, &out)
	b, err := base64.StdEncoding.DecodeString(out.Data)
	require.NoError(c.s.t, err)
	return b
}
