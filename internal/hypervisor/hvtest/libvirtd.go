package hvtest

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// Libvirtd is a libvirtd of the test's own: in namespaces for mounts, processes and the network, with folders of its own in
// place of libvirt's, so that it shares nothing with the machine's but the kernel. Everything in it dies with the test.
type Libvirtd struct {
	Dir    string // all its files; Images, Scratch and Sockets lie in it
	Socket string
	in     io.WriteCloser
	out    *bufio.Reader
}

// initScript is the first process of the PID namespace: it reaps, keeps libvirtd running, and carries out commands. It ends,
// and with it everything in the namespace, when its input does: when the test process is gone.
const initScript = `set -eu
D=$1
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/libvirt /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt
for m in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
  mount --bind "$D/${m%%:*}" "${m#*:}"
done
set +e
echo up
(while :; do libvirtd </dev/null >>"$D/libvirtd.out" 2>&1; sleep 0.2; done) &
while read -r line; do eval "$line" >>"$D/init.out" 2>&1; echo "done $?"; done
`

// StartLibvirtd starts one for the length of the test, which it skips where that cannot be.
func StartLibvirtd(t testing.TB) *Libvirtd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a libvirtd of our own needs root")
	}
	for _, tool := range []string{"libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (deploy/setup/install-deps)", tool)
		}
	}
	dir, err := os.MkdirTemp("", "hv")
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	for _, sub := range []string{"run", "lib", "etc", "log", "cache", "images", "scratch", "s"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	l := &Libvirtd{Dir: dir, Socket: filepath.Join(dir, "run", "libvirt-sock")}
	l.config(t)
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private",
		"bash", "-c", initScript, "init", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	l.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	l.out = bufio.NewReader(out)
	stderr, err := os.Create(filepath.Join(dir, "init.err"))
	require.NoError(t, err)
	defer stderr.Close()
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		l.in.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // the namespace was ended on purpose: its status says nothing
	})
	if _, err := l.out.ReadString('\n'); err != nil {
		t.Skipf("no namespaces here: %s", l.words("init.err"))
	}
	l.await(t)
	return l
}

func (l *Libvirtd) config(t testing.TB) {
	t.Helper()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(l.Dir, "etc", name), []byte(text), 0o600))
	}
	write("libvirtd.conf", fmt.Sprintf("host_uuid = %q\nauth_unix_rw = \"none\"\n", NewUUID()))
	write("qemu.conf", `stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
remember_owner = 0
`)
}

// NewUUID makes a random UUID.
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // cannot fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (l *Libvirtd) words(file string) string {
	b, _ := os.ReadFile(filepath.Join(l.Dir, file))
	return string(b)
}

// await waits until libvirtd answers.
func (l *Libvirtd) await(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		rpc, err := l.connect()
		if err == nil {
			_ = rpc.Disconnect()
			return
		}
		if time.Now().After(deadline) {
			require.NoError(t, err, l.words("libvirtd.out"))
		}
	}
}

func (l *Libvirtd) connect() (*libvirt.Libvirt, error) {
	conn, err := net.Dial("unix", l.Socket)
	if err != nil {
		return nil, err
	}
	rpc := libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	return rpc, rpc.Connect()
}

// run carries out a shell command inside.
func (l *Libvirtd) run(t testing.TB, command string) {
	t.Helper()
	_, err := io.WriteString(l.in, command+"\n")
	require.NoError(t, err)
	answer, err := l.out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "done 0\n", answer, "%s: %s", command, l.words("init.out"))
}

// signal sends a signal to libvirtd.
func (l *Libvirtd) signal(t testing.TB, name string) {
	t.Helper()
	l.run(t, "kill -"+name+" $(cat /run/libvirtd.pid)")
}

// Restart kills libvirtd without warning and waits until a new one answers. The VMs go on.
func (l *Libvirtd) Restart(t testing.TB) {
	t.Helper()
	l.signal(t, "KILL")
	l.await(t)
}

// Stop freezes libvirtd until cont is called.
func (l *Libvirtd) Stop(t testing.TB) (cont func()) {
	t.Helper()
	l.signal(t, "STOP")
	return func() { l.signal(t, "CONT") }
}

// KillQEMU kills a domain's QEMU without warning.
func (l *Libvirtd) KillQEMU(t testing.TB, name string) {
	t.Helper()
	l.run(t, "kill -KILL $(cat /run/libvirt/qemu/"+name+".pid)")
}

// FreezeQEMU makes a domain's QEMU stand still, as a guard does.
func (l *Libvirtd) FreezeQEMU(t testing.TB, name string) {
	t.Helper()
	l.run(t, "kill -STOP $(cat /run/libvirt/qemu/"+name+".pid)")
}

// CreateImage makes an empty image.
func (l *Libvirtd) CreateImage(t testing.TB, path string, format model.DiskFormat, size int64) {
	t.Helper()
	out, err := exec.Command("qemu-img", "create", "-q", "-f", string(format), path, fmt.Sprint(size)).CombinedOutput()
	require.NoError(t, err, string(out))
}

// Out writes a byte to an I/O port of a running domain, as its guest would.
func (l *Libvirtd) Out(t testing.TB, name string, port, value int) {
	t.Helper()
	l.outs(t, name, fmt.Sprintf("o /b 0x%x 0x%x", port, value))
}

// WriteIDE writes zeroes to the first sector of the domain's first IDE disk, as its guest would.
func (l *Libvirtd) WriteIDE(t testing.TB, name string) {
	t.Helper()
	orders := []string{"o /b 0x1f6 0xe0", "o /b 0x1f2 1", "o /b 0x1f3 0", "o /b 0x1f4 0", "o /b 0x1f5 0", "o /b 0x1f7 0x30"}
	for range 256 {
		orders = append(orders, "o /w 0x1f0 0x5555")
	}
	l.outs(t, name, orders...)
}

// FullDisk makes a sparse raw image on a file system of its own, which has no room left.
func (l *Libvirtd) FullDisk(t testing.TB, size int64) string {
	t.Helper()
	dir := filepath.Join(l.Dir, "full")
	l.run(t, fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs -o size=64k tmpfs %[1]s && truncate -s %[2]d %[1]s/disk && { dd if=/dev/zero of=%[1]s/rest bs=4k 2>/dev/null; true; }", dir, size))
	return filepath.Join(dir, "disk")
}

func (l *Libvirtd) outs(t testing.TB, name string, orders ...string) {
	t.Helper()
	rpc, err := l.connect()
	require.NoError(t, err)
	defer func() { _ = rpc.Disconnect() }()
	dom, err := rpc.DomainLookupByName(name)
	require.NoError(t, err)
	const hmp = 1 // VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
	for _, order := range orders {
		_, err = rpc.QEMUDomainMonitorCommand(dom, order, hmp)
		require.NoError(t, err)
	}
}

// Write writes to a running domain's disk as its guest would, through QEMU's monitor. The disk must be a virtio one.
func (l *Libvirtd) Write(t testing.TB, name, target string, pattern byte, off, length int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	rpc, err := l.connect()
	require.NoError(t, err)
	defer func() { _ = rpc.Disconnect() }()
	context.AfterFunc(ctx, func() { _ = rpc.Disconnect() })
	dom, err := rpc.DomainLookupByName(name)
	require.NoError(t, err)
	xml, err := rpc.DomainGetXMLDesc(dom, 0)
	require.NoError(t, err)
	root, err := domainxml.Read(xml, "domain")
	require.NoError(t, err)
	alias := ""
	for _, e := range root.FindElements("./devices/disk") {
		if e.FindElement("./target[@dev='"+target+"']") != nil {
			alias = e.FindElement("./alias").SelectAttrValue("name", "")
		}
	}
	require.NotEmpty(t, alias, "no disk %s", target)
	const hmp = 1 // VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
	// aio_write because QEMU counts no other of qemu-io's writes; aio_flush waits for it.
	for _, command := range []string{fmt.Sprintf("aio_write -P %d %d %d", pattern, off, length), "aio_flush"} {
		said, err := rpc.QEMUDomainMonitorCommand(dom, fmt.Sprintf(`qemu-io -d /machine/peripheral/%s/virtio-backend "%s"`, alias, command), hmp)
		require.NoError(t, err)
		require.Empty(t, said, command) // what qemu-io itself says goes to QEMU's log
	}
}
