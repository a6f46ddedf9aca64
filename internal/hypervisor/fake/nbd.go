package fake

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

// A small read-only NBD server, as much of it as QEMU shows for a pull-mode backup: fixed newstyle, structured replies,
// base:allocation and one dirty bitmap an export.

const (
	optMagic     = 0x49484156454F5054
	optReply     = 0x3e889045565a9
	reqMagic     = 0x25609513
	simpleReply  = 0x67446698
	chunkReply   = 0x668e33ef
	maxRequest   = 32 << 20
	maxOption    = 64 << 10
	maxExtents   = 1024
	errInvalid   = 22
	errNotPermit = 1
)

const (
	optAbort, optList, optInfo, optGo, optStructured, optListMeta, optSetMeta = 2, 3, 6, 7, 8, 9, 10

	repAck, repServer, repInfo, repMeta         = 1, 2, 3, 4
	repUnsup, repInvalid, repUnknown            = 1<<31 + 1, 1<<31 + 3, 1<<31 + 6
	cmdRead, cmdDisconnect, cmdFlush, cmdStatus = 0, 2, 3, 7
	chunkNone, chunkData, chunkStatus, chunkErr = 0, 1, 5, 1<<15 + 1

	flagDone, flagOne       = 1, 1 << 3
	allocationID, bitmapID  = 1, 2
	exportFlags             = 1 | 1<<1 | 1<<2 | 1<<8 // has flags, read-only, flush, multi-conn
	allocationCtx, bitmapNS = "base:allocation", "qemu:dirty-bitmap:"
)

type server struct {
	ln      net.Listener
	path    string
	bitmap  string
	exports map[string]*frozen

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when stopped
	work  sync.WaitGroup
}

func serve(socket, bitmap string, exports map[string]*frozen) (*server, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) { // as QEMU does
		return nil, err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	s := &server{ln: ln, path: socket, bitmap: bitmap, exports: exports, conns: map[net.Conn]bool{}}
	s.work.Add(1)
	go s.accept()
	return s, nil
}

func (s *server) stop() {
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.work.Wait()
}

func (s *server) accept() {
	defer s.work.Done()
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = true
		s.work.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.work.Done()
			p := &peer{server: s, r: bufio.NewReader(c), w: bufio.NewWriter(c)}
			if p.negotiate() == nil {
				_ = p.transmit() // its end is the client's business
			}
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

type peer struct {
	*server
	r          *bufio.Reader
	w          *bufio.Writer
	structured bool
	contexts   []uint32
	export     *frozen
}

var errGone = errors.New("fake: the NBD client is gone or talks nonsense")

// put writes values in network order.
func (p *peer) put(values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			v = []byte(s)
		}
		_ = binary.Write(p.w, binary.BigEndian, v) // bufio keeps the error for Flush
	}
}

func (p *peer) reply(opt, kind uint32, values ...any) {
	var body bytes.Buffer
	for _, v := range values {
		if s, ok := v.(string); ok {
			v = []byte(s)
		}
		_ = binary.Write(&body, binary.BigEndian, v)
	}
	p.put(uint64(optReply), opt, kind, uint32(body.Len()), body.Bytes())
}

func (p *peer) negotiate() error {
	p.put("NBDMAGIC", uint64(optMagic), uint16(1|2))
	if err := p.w.Flush(); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, p.r, 4); err != nil {
		return err
	}
	for {
		var head struct {
			Magic    uint64
			Opt, Len uint32
		}
		if err := binary.Read(p.r, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != optMagic || head.Len > maxOption {
			return errGone
		}
		data := make([]byte, head.Len)
		if _, err := io.ReadFull(p.r, data); err != nil {
			return err
		}
		done, err := p.option(head.Opt, data)
		if flush := p.w.Flush(); err == nil {
			err = flush
		}
		if done || err != nil {
			return err
		}
	}
}

// option answers one option; done says that transmission begins.
func (p *peer) option(opt uint32, data []byte) (done bool, err error) {
	switch opt {
	case optAbort:
		p.reply(opt, repAck)
		return false, errGone
	case optStructured:
		p.structured = true
		p.reply(opt, repAck)
	case optList:
		for name := range p.exports {
			p.reply(opt, repServer, uint32(len(name)), name)
		}
		p.reply(opt, repAck)
	case optInfo, optGo:
		name, _, ok := takeString(data)
		e := p.exports[name]
		if !ok || e == nil {
			p.reply(opt, repUnknown)
			return false, nil
		}
		p.reply(opt, repInfo, uint16(0), uint64(e.size), uint16(exportFlags))
		p.reply(opt, repInfo, uint16(3), uint32(1), uint32(4096), uint32(maxRequest))
		p.reply(opt, repAck)
		if opt == optGo {
			p.export = e
			return true, nil
		}
	case optListMeta, optSetMeta:
		p.meta(opt, data)
	default:
		p.reply(opt, repUnsup)
	}
	return false, nil
}

func takeString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func (p *peer) meta(opt uint32, data []byte) {
	name, rest, ok := takeString(data)
	e := p.exports[name]
	if !ok || e == nil || len(rest) < 4 || !p.structured {
		p.reply(opt, repInvalid)
		return
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	var queries []string
	for range count {
		var q string
		if q, rest, ok = takeString(rest); !ok {
			p.reply(opt, repInvalid)
			return
		}
		queries = append(queries, q)
	}
	asked := func(ctx string) bool {
		if opt == optListMeta && count == 0 {
			return true
		}
		for _, q := range queries {
			if q == ctx || opt == optListMeta && strings.HasSuffix(q, ":") && strings.HasPrefix(ctx, q) {
				return true
			}
		}
		return false
	}
	p.contexts = nil
	offer := func(id uint32, ctx string) {
		if asked(ctx) {
			p.reply(opt, repMeta, id, ctx)
			p.contexts = append(p.contexts, id)
		}
	}
	offer(allocationID, allocationCtx)
	if e.dirty != nil {
		offer(bitmapID, bitmapNS+p.bitmap)
	}
	p.reply(opt, repAck)
}

type request struct {
	Magic       uint32
	Flags, Type uint16
	Handle      uint64
	Offset      uint64
	Length      uint32
}

func (p *peer) transmit() error {
	for {
		var q request
		if err := binary.Read(p.r, binary.BigEndian, &q); err != nil {
			return err
		}
		size := uint64(p.export.size)
		inside := q.Offset <= size && uint64(q.Length) <= size-q.Offset
		switch {
		case q.Magic != reqMagic:
			return errGone
		case q.Type == cmdDisconnect:
			return nil
		case q.Type == cmdFlush:
			p.answer(q, 0, nil)
		case q.Type == cmdRead && inside && q.Length <= maxRequest:
			data := make([]byte, q.Length)
			p.export.read(data, int64(q.Offset))
			p.answer(q, 0, data)
		case q.Type == cmdStatus && inside && q.Length > 0 && p.structured && len(p.contexts) > 0:
			p.status(q)
		case q.Type == 1: // a write has a payload that would have to be skipped
			return errGone
		case q.Type == cmdRead || q.Type == cmdStatus:
			p.answer(q, errInvalid, nil)
		default:
			p.answer(q, errNotPermit, nil)
		}
		if err := p.w.Flush(); err != nil {
			return err
		}
	}
}

func (p *peer) answer(q request, errno uint32, data []byte) {
	switch {
	case !p.structured:
		p.put(uint32(simpleReply), errno, q.Handle, data)
	case errno != 0:
		p.chunk(q, flagDone, chunkErr, errno, uint16(0))
	case data == nil:
		p.chunk(q, flagDone, chunkNone)
	default:
		p.chunk(q, flagDone, chunkData, q.Offset, data)
	}
}

func (p *peer) chunk(q request, flags, kind uint16, values ...any) {
	var body bytes.Buffer
	for _, v := range values {
		_ = binary.Write(&body, binary.BigEndian, v)
	}
	p.put(uint32(chunkReply), flags, kind, q.Handle, uint32(body.Len()), body.Bytes())
}

func (p *peer) status(q request) {
	for i, id := range p.contexts {
		values := []any{id}
		end := int64(q.Offset) + int64(q.Length)
		for off := int64(q.Offset); off < end && len(values) < maxExtents; {
			bits := p.export.bits(id, off/page)
			next := min(end, (off/page+1)*page)
			for next < end && p.export.bits(id, next/page) == bits {
				next = min(end, next+page)
			}
			values = append(values, uint32(next-off), bits)
			off = next
			if q.Flags&flagOne != 0 {
				break
			}
		}
		flags := uint16(0)
		if i == len(p.contexts)-1 {
			flags = flagDone
		}
		p.chunk(q, flags, chunkStatus, values...)
	}
}

func (f *frozen) bits(id uint32, n int64) uint32 {
	switch {
	case id == bitmapID && f.dirty[n]:
		return 1
	case id == allocationID && f.pages[n] == nil:
		return 1 | 2
	}
	return 0
}
