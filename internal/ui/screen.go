package ui

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Screen redraws text in place on a terminal, on a page of its own: what stood there before is back afterwards.
type Screen struct {
	w    io.Writer
	size func() (width, height int)
	open bool
}

// NewScreen writes to w; size is asked at each drawing, as windows change.
func NewScreen(w io.Writer, size func() (width, height int)) *Screen {
	return &Screen{w: w, size: size}
}

// Draw shows text. What does not fit is cut, and said: the last line stays visible.
func (s *Screen) Draw(text string) error {
	width, height := s.size()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if n := len(lines); n > height && height > 2 {
		foot := lines[n-1]
		lines = append(lines[:height-2:height-2], fmt.Sprintf("… %d lines more", n-height+1), foot)
	}
	var b strings.Builder
	if !s.open {
		b.WriteString("\x1b[?1049h\x1b[?25l")
		s.open = true
	}
	b.WriteString("\x1b[H")
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(l, width) + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := io.WriteString(s.w, b.String())
	return err
}

// Close gives the terminal back.
func (s *Screen) Close() {
	if s.open {
		s.open = false
		_, _ = io.WriteString(s.w, "\x1b[?25h\x1b[?1049l") // nobody is left to hear that it failed
	}
}

// cut keeps a line within width; colours take no room and are closed.
func cut(line string, width int) string {
	var b strings.Builder
	seen := 0
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			end := strings.IndexByte(line[i:], 'm')
			if end < 0 {
				break
			}
			b.WriteString(line[i : i+end+1])
			i += end + 1
			continue
		}
		r, n := utf8.DecodeRuneInString(line[i:])
		if seen++; seen <= width {
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// Colour of a line.
type Colour string

// Colours, as a terminal is told them.
const (
	Plain  Colour = ""
	Bold   Colour = "1"
	Red    Colour = "31"
	Yellow Colour = "33"
)

// Paint colours text.
func Paint(c Colour, text string) string {
	if c == Plain {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}
