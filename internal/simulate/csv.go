package simulate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strconv"
	"strings"

	"understudy/internal/model"
)

const csvHeader = "time_s,first_block,blocks"

// ReadCSV reads a trace (docs/TRACES.md), plain or compressed with gzip.
func ReadCSV(name string, r io.Reader) (*Trace, error) {
	in := bufio.NewReader(r)
	if head, _ := in.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, model.Fail(model.InvalidArgument, err, "%s is not a gzip file", name)
		}
		in = bufio.NewReader(z)
	}
	seconds, ratio := 0.0, 1.0
	var writes []Write
	var total uint64
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text == csvHeader {
			continue
		}
		if comment, is := strings.CutPrefix(text, "#"); is {
			if key, value, found := strings.Cut(strings.TrimSpace(comment), "="); found {
				v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				switch strings.TrimSpace(key) {
				case "seconds":
					seconds = v
				case "ratio":
					ratio = v
				default:
					err = nil
				}
				if err != nil {
					return nil, badLine(name, n, text, err)
				}
			}
			continue
		}
		w, err := parseWrite(text)
		if err != nil {
			return nil, badLine(name, n, text, err)
		}
		if total += uint64(w.Blocks); total > maxBlocks {
			return nil, model.Fail(model.InvalidArgument, nil, "%s writes more than %d blocks", name, maxBlocks).WithTry("cut it into shorter traces")
		}
		writes = append(writes, w)
	}
	if err := lines.Err(); err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "%s cannot be read as a trace", name)
	}
	if len(writes) > 0 && seconds == 0 {
		seconds = writes[len(writes)-1].Time + 1
	}
	if seconds == 0 {
		return nil, model.Fail(model.InvalidArgument, nil, "%s has no writes and no length", name).WithTry("give it a line '# seconds=3600' or writes; docs/TRACES.md has the format")
	}
	return NewTrace(name, seconds, ratio, writes)
}

func parseWrite(text string) (Write, error) {
	f := strings.Split(text, ",")
	if len(f) != 3 {
		return Write{}, fmt.Errorf("%d columns instead of %s", len(f), csvHeader)
	}
	at, err := strconv.ParseFloat(strings.TrimSpace(f[0]), 64)
	if err != nil {
		return Write{}, err
	}
	first, err := strconv.ParseUint(strings.TrimSpace(f[1]), 10, 40)
	if err != nil {
		return Write{}, err
	}
	blocks, err := strconv.ParseUint(strings.TrimSpace(f[2]), 10, 31)
	if err != nil {
		return Write{}, err
	}
	if !(at >= 0) {
		return Write{}, fmt.Errorf("the time %g is before the start", at)
	}
	return Write{at, first, uint32(blocks)}, nil
}

func badLine(name string, n int, text string, err error) error {
	return model.Fail(model.InvalidArgument, err, "%s, line %d: %.60q is not a write", name, n, text).WithTry("docs/TRACES.md has the format")
}

// WriteCSV writes a trace.
func WriteCSV(w io.Writer, seconds, ratio float64, writes []Write) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "# seconds=%g\n# ratio=%g\n%s\n", seconds, ratio, csvHeader)
	for _, x := range writes {
		fmt.Fprintf(out, "%.3f,%d,%d\n", x.Time, x.First, x.Blocks)
	}
	return out.Flush()
}
