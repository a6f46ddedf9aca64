package ui

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSizesAreReadWithTheirUnits(t *testing.T) {
	for text, want := range map[string]int64{
		"12MB": 12_000_000, "10MiB": 10 << 20, "1.5GiB": 3 << 29, "0": 0, "4096": 4096, "7 kB": 7000, "512B": 512, "1TiB": 1 << 40,
	} {
		got, err := ParseBytes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "12M", "10mb", "-1MB", "NaNMB", "Inf", "1e30TiB", "MB", "12MB/s", "12 M B"} {
		_, err := ParseBytes(text)
		require.Error(t, err, text)
	}
}

func FuzzParseBytes(f *testing.F) {
	f.Add("12MB")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); err == nil && n < 0 {
			t.Fatalf("%q became %d", s, n)
		}
	})
}

func TestLawAPrintedSizeIsCloseToTheSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<60).Draw(t, "n")
		back, err := ParseBytes(strings.ReplaceAll(strings.ReplaceAll(Bytes(n), "PiB", "XX"), "EiB", "XX"))
		if strings.ContainsAny(Bytes(n), "PE") {
			return // larger than anything one types
		}
		require.NoError(t, err)
		require.InDelta(t, float64(n), float64(back), 0.06*float64(max(n, 1)))
	})
}

func TestWithoutATerminalProgressIsALineEachTenSeconds(t *testing.T) {
	now := time.Unix(1000, 0)
	var b bytes.Buffer
	p := NewProgress(&b, false, func() time.Time { return now })
	for range 25 {
		p.Show("at %d", now.Unix())
		now = now.Add(time.Second)
	}
	p.Done()
	require.Equal(t, "at 1000\nat 1010\nat 1020\n", b.String())
}

func TestOnATerminalOneLineIsRedrawnAndLeftFree(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, true, time.Now)
	p.Show("one\n\x1b[31m")
	p.Say("stays")
	require.Equal(t, "\r\x1b[Kone  [31m\r\x1b[Kstays\n", b.String())
}
