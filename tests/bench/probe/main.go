// Command probe runs inside a guest and tells how long its writes take: 4 KiB past the page cache, each durable, one after
// the other with a pause. It says once a second, on the console, the longest time between two completions of that second:
// what a client of the guest would feel as a stall.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	block = 4096
	area  = 2048 // blocks that are rewritten in turn: 8 MiB
	pause = 2 * time.Millisecond
)

func main() {
	if err := run("/data/probe.dat"); err != nil {
		fmt.Println("PROBE failed:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT|syscall.O_DSYNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := aligned()
	if err := f.Truncate(area * block); err != nil {
		return err
	}
	last, second, longest, writes := time.Now(), time.Now(), time.Duration(0), 0
	for i := 0; ; i++ {
		buf[0], buf[1] = byte(i), byte(i>>8)
		if _, err := f.WriteAt(buf, int64(i%area)*block); err != nil {
			return err
		}
		now := time.Now()
		longest = max(longest, now.Sub(last))
		writes++
		if now.Sub(second) >= time.Second {
			fmt.Printf("PROBE max_us=%d writes=%d\n", longest.Microseconds(), writes)
			second, longest, writes = now, 0, 0
		}
		time.Sleep(pause)
		last = time.Now()
	}
}

// aligned is a block as O_DIRECT wants it.
func aligned() []byte {
	b := make([]byte, 2*block)
	off := block - int(uintptr(unsafe.Pointer(&b[0]))%block)
	return b[off : off+block]
}
