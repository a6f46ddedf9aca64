package e2e

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

var screenshots = flag.Bool("screenshots", false, "write the Web UI's pages into docs/img")

const maxScreenshot = 200_000

// webUI is the Temporal Web UI of the lab, seen through one port of loopback.
type webUI struct {
	*chromium
	base, img string
}

func (s *story) webUI() *webUI {
	s.t.Helper()
	c := s.chromium()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(s.t, l.Close())
	s.run("forward", fmt.Sprint(port), "control:8233")
	root, err := labkit.FindRoot()
	require.NoError(s.t, err)
	return &webUI{c, fmt.Sprintf("http://127.0.0.1:%d/namespaces/understudy/", port), filepath.Join(root, "docs", "img")}
}

// shows opens a page and waits until a person can read all of it there.
func (u *webUI) shows(name, page string, want ...string) {
	u.s.t.Helper()
	u.open(u.base + page)
	var text, missing string
	for limit := time.Now().Add(90 * time.Second); ; {
		text, missing = u.eval(`document.body.innerText + " " + [...document.querySelectorAll("svg text")].map(t => t.textContent).join(" ")
			+ " " + [...document.querySelectorAll("iframe")].map(f => f.contentDocument ? f.contentDocument.body.innerText : "").join(" ")`), ""
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(text) {
				missing = w
			}
		}
		if missing == "" {
			break
		}
		require.True(u.s.t, time.Now().Before(limit), "%s does not show %q but: %s", name, missing, text)
		time.Sleep(500 * time.Millisecond)
	}
	if *screenshots {
		picture := u.picture()
		require.Less(u.s.t, len(picture), maxScreenshot, name)
		require.NoError(u.s.t, os.WriteFile(filepath.Join(u.img, "webui-"+name+".png"), picture, 0o644))
	}
}

// execution finds the newest run of a workflow in the UI's own list, as a person does.
func (u *webUI) execution(query, id string) string {
	u.s.t.Helper()
	u.open(u.base + "workflows?query=" + url.QueryEscape(query))
	link := regexp.MustCompile(`/namespaces/understudy/(workflows/` + regexp.QuoteMeta(url.PathEscape(id)) + `/[0-9a-f-]{36}/)`)
	for range 180 {
		if m := link.FindStringSubmatch(u.eval(`[...document.querySelectorAll("a")].map(a => a.getAttribute("href")).join(" ")`)); m != nil {
			return m[1]
		}
		time.Sleep(500 * time.Millisecond)
	}
	require.FailNow(u.s.t, "the list does not have it", "%s of %s: %s", id, query, u.eval("document.body.innerText"))
	return ""
}

// The Web UI is where a protection is traced, also in the middle of a failover.
func TestTheWebUIShowsAProtectionAndItsFailover(t *testing.T) {
	s := begin(t, "books", 20*time.Minute, "--workload", "db", "--disk", "512M")
	u := s.webUI()
	s.protect("--rpo", "20s")
	p := s.untilSeq(3*time.Minute, 2)
	const ofBooks = "`UnderstudyVM`=\"books\""
	protect := u.execution(ofBooks, "protect/"+p.UUID)

	u.shows("list", "workflows?query="+url.QueryEscape(ofBooks), `ProtectVM`, `Running`)
	u.shows("details", protect+"user-metadata", `books: Protected`, `host-a → host-b`, `last point: \W*\d+`, `exposure:`, `points \d+`)
	u.shows("timeline", protect+"timeline", `point \d+, captured and sent`, `prove point \d+`, `next in|exposure reaches`)

	s.run("fence-fault", hostA, "--on") // holds the failover up, so that it can be looked at
	s.run("crash", hostA)
	s.until(3*time.Minute, "the failover under way", func(p labkit.Protection) bool { return p.Phase == "FailingOver" })
	u.shows("failing-over", protect+"user-metadata", `books: FailingOver`)
	s.run("fence-fault", hostA, "--off")
	p = s.until(6*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB && p.Phase != "FailingOver" })
	failover := u.execution(`WorkflowType="FailoverVM"`, fmt.Sprintf("failover/%s/%d", p.UUID, p.Generation))
	u.shows("failover", failover+"timeline", `(?i)completed`, `FailoverVM`, `permit`, `start`)
}
