package nbd

import (
	"errors"
	"io"
	"net"
	"os"
)

// streamBuf is enough for some hundred reply headers, and small against a payload, of
// which the part that came with the header is copied once.
const streamBuf = 16 << 10

// stream is the receiving side of a connection: small reads are buffered, large ones
// go straight into the caller's memory. Not safe for concurrent use.
type stream struct {
	conn net.Conn
	buf  []byte
	r, w int // buf[r:w] is read but not yet handed out

	// resume, if set, is called when a read deadline passed, and the read then goes on:
	// after the handshake a deadline only serves to wake the receiver.
	resume func()
}

func newStream(conn net.Conn) *stream {
	return &stream{conn: conn, buf: make([]byte, streamBuf)}
}

// some reads at least one byte into p, which must not be empty.
func (s *stream) some(p []byte) (int, error) {
	if s.r == s.w {
		if len(p) >= len(s.buf) {
			return s.raw(p)
		}
		n, err := s.raw(s.buf)
		if err != nil {
			return 0, err
		}
		s.r, s.w = 0, n
	}
	n := copy(p, s.buf[s.r:s.w])
	s.r += n
	return n, nil
}

func (s *stream) raw(p []byte) (int, error) {
	for range 100 {
		if n, err := s.conn.Read(p); n > 0 {
			return min(n, len(p)), nil
		} else if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// full fills p.
func (s *stream) full(p []byte) error {
	for got := 0; got < len(p); {
		n, err := s.some(p[got:])
		got += n
		if err == nil {
			continue
		}
		if s.resume != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			s.resume()
			continue
		}
		if got > 0 && errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// discard reads n bytes and forgets them, in bounded memory.
func (s *stream) discard(n int64) error {
	var scrap []byte
	for n > 0 {
		if buffered := int64(s.w - s.r); buffered > 0 {
			k := min(n, buffered)
			s.r += int(k)
			n -= k
			continue
		}
		if scrap == nil {
			scrap = make([]byte, min(n, 64<<10))
		}
		p := scrap[:min(n, int64(len(scrap)))]
		if err := s.full(p); err != nil {
			return err
		}
		n -= int64(len(p))
	}
	return nil
}
