// Command pipe is the replicate stage alone, for whoever makes it quicker: one process sends an NBD export, another one
// receives it into a store and proves it, and each round stands beside nbdcopy of the same export to a local file. It
// prints time and CPU of every process that works, and both ends serve net/http/pprof.
//
//	pipe recv --listen 10.77.0.12:7999 --store DIR            (in one host of the lab)
//	pipe send --to 10.77.0.12:7999 --socket SOCKET --export vda --qemu PID --file PATH   (in the other)
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" //nolint:gosec // a tool for a laboratory
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/blockio/nbd"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/recoverypoint"
	"understudy/internal/replicate"
	"understudy/internal/verify"
)

var vm = model.VMRef{UUID: "11111111-2222-3333-4444-555555555555", Name: "pipe"}

func main() {
	if len(os.Args) < 2 || os.Args[1] != "recv" && os.Args[1] != "send" {
		fmt.Fprintln(os.Stderr, "usage: pipe recv|send FLAGS")
		os.Exit(2)
	}
	run := map[string]func([]string) error{"recv": recv, "send": send}[os.Args[1]]
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "pipe:", err)
		os.Exit(1)
	}
}

type anyone struct{}

func (anyone) Admit(model.VMRef, model.Generation) error { return nil }

type store struct{ *recoverypoint.Store }

func (s store) Stage(ctx context.Context, spec model.StagingSpec) (link.Staging, error) {
	st, err := s.Store.Stage(ctx, spec)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// proof is what the receiving side did after a round.
type proof struct {
	Took float64
	CPU  float64 // of the process, since it began
	Peak float64 // MiB resident
}

func recv(args []string) error {
	flags := flag.NewFlagSet("recv", flag.ExitOnError)
	listen := flags.String("listen", "", "address; pprof is at the next port")
	dir := flags.String("store", "", "folder of the store")
	_ = flags.Parse(args)
	s, err := recoverypoint.Open(*dir, recoverypoint.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	http.HandleFunc("/prove", func(w http.ResponseWriter, r *http.Request) {
		seq, _ := strconv.ParseUint(r.FormValue("seq"), 10, 64)
		point := model.PointRef{Generation: 1, Seq: model.Seq(seq)}
		begun := time.Now()
		_, err := verify.Prove(r.Context(), s, vm, point, nil)
		p := proof{Took: time.Since(begun).Seconds(), CPU: own(), Peak: peak()}
		if err == nil && r.FormValue("keep") == "" {
			err = s.Discard(r.Context(), vm, point)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(p)
	})
	http.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(proof{CPU: own(), Peak: peak()})
	})
	go serveHTTP(*listen)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	return link.NewServer(store{s}, anyone{}, "host-b", slog.New(slog.NewTextHandler(io.Discard, nil))).Serve(l)
}

func next(address string) string {
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n+1))
}

func serveHTTP(address string) {
	if err := http.ListenAndServe(next(address), nil); err != nil { //nolint:gosec // a tool for a laboratory
		fmt.Fprintln(os.Stderr, "pipe:", err)
	}
}

func ask(address, path string) (p proof, err error) {
	res, err := http.Get("http://" + next(address) + path) //nolint:noctx // a tool
	if err != nil {
		return p, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return p, fmt.Errorf("%s: %s", path, text)
	}
	return p, json.NewDecoder(res.Body).Decode(&p)
}

func send(args []string) error {
	flags := flag.NewFlagSet("send", flag.ExitOnError)
	to := flags.String("to", "", "address of recv")
	socket := flags.String("socket", "", "of the NBD server")
	export := flags.String("export", "vda", "")
	qemu := flags.Int("qemu", 0, "pid of the NBD server")
	file := flags.String("file", "", "where nbdcopy copies to")
	rounds := flags.Int("rounds", 5, "")
	compression := flags.String("compression", "auto", "")
	self := flags.String("pprof", "127.0.0.1:7997", "")
	_ = flags.Parse(args)
	go serveHTTP(*self)
	ctx := context.Background()
	open := func(ctx context.Context, _ string) (blockio.Source, error) {
		return nbd.DialUnix(ctx, *socket, nbd.Options{Export: *export})
	}
	src, err := open(ctx, "")
	if err != nil {
		return err
	}
	size := src.Size()
	_ = src.Close()
	client, err := link.Dial(ctx, *to)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Ping(ctx); err != nil {
		return err
	}
	fmt.Println("nbdcopy s  cpu qemu  self | ours s  cpu qemu  send  recv | proof s  cpu | ratio  sent MB  peak MiB send recv")
	base := uint64(time.Now().Unix())
	var rows [][]float64
	for i := range *rounds {
		q0 := of(*qemu)
		begun := time.Now()
		cmd := exec.Command("nbdcopy", "--flush", "nbd+unix:///"+*export+"?socket="+*socket, *file)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		theirs := time.Since(begun).Seconds()
		q1 := of(*qemu)
		theirCPU := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		_ = os.Remove(*file)

		r1, err := ask(*to, "/cpu")
		if err != nil {
			return err
		}
		s1 := own()
		seq := base + uint64(i)
		res, err := replicate.Run(ctx, open, client, replicate.Request{
			VM: vm, Point: model.PointRef{Generation: 1, Seq: model.Seq(seq)}, Capture: strconv.FormatUint(seq, 10),
			Disks:       []model.SnapshotDisk{{Disk: model.Disk{Target: "vda", Size: size}, Mode: model.ModeFull, DirtyBytes: -1}},
			Compression: *compression,
		}, nil)
		if err != nil {
			return err
		}
		q2, s2 := of(*qemu), own()
		r2, err := ask(*to, "/cpu")
		if err != nil {
			return err
		}
		p, err := ask(*to, fmt.Sprintf("/prove?seq=%d", seq))
		if err != nil {
			return err
		}
		ours := res.Took.Seconds()
		row := []float64{theirs, q1 - q0, theirCPU, ours, q2 - q1, s2 - s1, r2.CPU - r1.CPU, p.Took, p.CPU - r2.CPU, theirs / ours,
			float64(res.SentBytes) / 1e6, peak(), p.Peak}
		rows = append(rows, row)
		show(row)
	}
	fmt.Println("median, then best, of each column:")
	var middle, best []float64
	for i := range rows[0] {
		column := make([]float64, len(rows))
		for j, row := range rows {
			column[j] = row[i]
		}
		slices.Sort(column)
		middle, best = append(middle, column[len(column)/2]), append(best, column[0])
	}
	best[9] = best[0] / best[3]
	show(middle)
	show(best)
	return nil
}

func show(r []float64) {
	fmt.Printf("%9.2f %9.2f %5.2f | %6.2f %9.2f %5.2f %5.2f | %7.2f %4.2f | %5.2f %8.1f %10.0f %4.0f\n",
		r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12])
}

func own() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func peak() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Maxrss) / 1024
}

// of is the CPU of a process so far, user and system.
func of(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}
