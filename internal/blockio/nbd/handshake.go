package nbd

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"strings"

	"understudy/internal/blockio"
)

// Info is what the handshake settled. Sizes are in bytes.
type Info struct {
	Size       int64
	ReadOnly   bool
	CanFlush   bool
	CanZero    bool // WRITE_ZEROES; without it zeroes are written as data
	MultiConn  bool // a flush on one connection covers all connections
	Structured bool // structured replies; without them there are no maps
	MinBlock   uint32
	PrefBlock  uint32
	MaxPayload uint32 // most bytes in one READ or WRITE
	Allocation bool   // base:allocation was granted
	Dirty      bool   // the dirty bitmap asked for was granted

	allocationID, dirtyID uint32
}

// negotiator runs the handshake: sections "Fixed newstyle negotiation" and "Option
// types". The connection's deadline bounds it in time.
type negotiator struct {
	conn net.Conn
	in   *stream
	opts Options
	info Info
}

// negotiate takes a fresh connection to the transmission phase.
func (n *negotiator) negotiate() error {
	if err := n.greet(); err != nil {
		return err
	}
	if err := n.structured(); err != nil {
		return err
	}
	if n.info.Structured {
		if err := n.setContexts(); err != nil {
			return err
		}
	}
	if n.opts.Bitmap != "" && !n.info.Dirty {
		return fmt.Errorf("nbd: server does not export dirty bitmap %q: %w", n.opts.Bitmap, blockio.ErrNoMap)
	}
	return n.choose()
}

// greet is the opening of section "Newstyle negotiation".
func (n *negotiator) greet() error {
	var p [18]byte
	if err := n.in.full(p[:]); err != nil {
		return fmt.Errorf("nbd: reading the greeting: %w", err)
	}
	if binary.BigEndian.Uint64(p[:]) != magicInit {
		return breach("not an NBD server")
	}
	if binary.BigEndian.Uint64(p[8:]) != magicOption {
		return breach("server speaks only oldstyle negotiation")
	}
	flags := binary.BigEndian.Uint16(p[16:])
	if flags&flagFixedNewstyle == 0 {
		return breach("server does not speak fixed newstyle negotiation")
	}
	answer := uint32(flagFixedNewstyle) | uint32(flags&flagNoZeroes)
	return n.write(binary.BigEndian.AppendUint32(nil, answer))
}

// structured asks for structured replies; an old server may say no.
func (n *negotiator) structured() error {
	err := n.option(optStructuredReply, nil, nil)
	if refused(err) {
		return nil
	}
	n.info.Structured = err == nil
	return err
}

// setContexts asks for the metadata contexts. That the server grants fewer is no error.
func (n *negotiator) setContexts() error {
	dirty := contextDirtyPrefix + n.opts.Bitmap
	queries := []string{contextAllocation}
	if n.opts.Bitmap != "" {
		queries = append(queries, dirty)
	}
	err := n.option(optSetMetaContext, contextQuery(n.opts.Export, queries), func(typ uint32, p []byte) error {
		id, name, err := parseContext(typ, p)
		switch {
		case err != nil:
			return err
		case name == contextAllocation && !n.info.Allocation:
			n.info.Allocation, n.info.allocationID = true, id
		case n.opts.Bitmap != "" && name == dirty && !n.info.Dirty:
			n.info.Dirty, n.info.dirtyID = true, id
		default:
			return breach("metadata context %q was not asked for, or was granted twice", name)
		}
		return nil
	})
	if refused(err) {
		n.info.Allocation, n.info.Dirty = false, false
		return nil
	}
	if err == nil && n.info.Allocation && n.info.Dirty && n.info.allocationID == n.info.dirtyID {
		return breach("two metadata contexts with one id")
	}
	return err
}

// choose is NBD_OPT_GO.
func (n *negotiator) choose() error {
	n.info.MinBlock, n.info.PrefBlock, n.info.MaxPayload = 1, 4096, defaultMaxPayload
	data := binary.BigEndian.AppendUint32(nil, uint32(len(n.opts.Export)))
	data = append(data, n.opts.Export...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	export := false
	err := n.option(optGo, data, func(typ uint32, p []byte) error {
		if typ != repInfo || len(p) < 2 {
			return breach("reply type %d of %d bytes to GO", typ, len(p))
		}
		switch kind, p := binary.BigEndian.Uint16(p), p[2:]; {
		case kind == infoExport && len(p) == 10:
			export = true
			return n.setExport(binary.BigEndian.Uint64(p), binary.BigEndian.Uint16(p[8:]))
		case kind == infoBlockSize && len(p) == 12:
			return n.setBlockSize(binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:]))
		case kind == infoExport || kind == infoBlockSize:
			return breach("info %d of %d bytes", kind, len(p))
		}
		return nil // information we did not ask for: may be ignored
	})
	if err != nil {
		return err
	}
	if !export {
		return breach("server acknowledged GO without describing the export")
	}
	if n.info.Size%int64(n.info.MinBlock) != 0 {
		return breach("size %d is not a multiple of the minimal block size %d", n.info.Size, n.info.MinBlock)
	}
	return nil
}

func (n *negotiator) setExport(size uint64, flags uint16) error {
	if size > maxExportSize {
		return breach("export of %d bytes is too large", size)
	}
	if flags&flagHasFlags == 0 {
		return breach("transmission flags %#x without HAS_FLAGS", flags)
	}
	n.info.Size = int64(size)
	n.info.ReadOnly = flags&flagReadOnly != 0
	n.info.CanFlush = flags&flagSendFlush != 0
	n.info.CanZero = flags&flagSendWriteZeroes != 0
	n.info.MultiConn = flags&flagCanMultiConn != 0
	return nil
}

// setBlockSize checks NBD_INFO_BLOCK_SIZE: section "Block size constraints".
func (n *negotiator) setBlockSize(minimum, preferred, maximum uint32) error {
	if bits.OnesCount32(minimum) != 1 || minimum > maxMinBlock {
		return breach("minimal block size %d", minimum)
	}
	if maximum < minimum {
		return breach("maximal block size %d below the minimal %d", maximum, minimum)
	}
	n.info.MinBlock, n.info.PrefBlock = minimum, preferred
	n.info.MaxPayload = min(maximum, defaultMaxPayload) &^ (minimum - 1)
	return nil
}

// list is NBD_OPT_LIST_META_CONTEXT; it ends with NBD_OPT_ABORT, so the connection is
// of no use afterwards.
func (n *negotiator) list(queries []string) ([]string, error) {
	if err := n.greet(); err != nil {
		return nil, err
	}
	if err := n.structured(); err != nil {
		return nil, err
	}
	if !n.info.Structured {
		return nil, fmt.Errorf("nbd: server has no structured replies: %w", blockio.ErrNoMap)
	}
	var names []string
	err := n.option(optListMetaContext, contextQuery(n.opts.Export, queries), func(typ uint32, p []byte) error {
		_, name, err := parseContext(typ, p)
		if err == nil {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// A server may hang up instead of answering ABORT, so its answer is not awaited.
	_ = n.write(optionHeader(optAbort, 0))
	return names, nil
}

// option sends one option and reads its replies up to the final one. each, if not nil,
// gets every reply that is neither the final ACK nor an error; its p is valid only
// during the call.
func (n *negotiator) option(opt uint32, data []byte, each func(typ uint32, p []byte) error) error {
	if err := n.write(append(optionHeader(opt, len(data)), data...)); err != nil {
		return err
	}
	var hdr [20]byte
	for range maxOptionReplies {
		if err := n.in.full(hdr[:]); err != nil {
			return fmt.Errorf("nbd: reading the reply to option %d: %w", opt, err)
		}
		typ, length := binary.BigEndian.Uint32(hdr[12:]), binary.BigEndian.Uint32(hdr[16:])
		switch {
		case binary.BigEndian.Uint64(hdr[:]) != magicOptReply:
			return breach("bad magic in the reply to option %d", opt)
		case binary.BigEndian.Uint32(hdr[8:]) != opt:
			return breach("reply to option %d while waiting for %d", binary.BigEndian.Uint32(hdr[8:]), opt)
		case length > maxOptionReply:
			return breach("option reply of %d bytes", length)
		}
		p := make([]byte, length)
		if err := n.in.full(p); err != nil {
			return fmt.Errorf("nbd: reading the reply to option %d: %w", opt, err)
		}
		switch {
		case typ&repErrBit != 0:
			return &HandshakeError{Option: opt, Reply: typ, Message: clip(p)}
		case typ == repAck:
			return nil
		case each == nil:
			return breach("reply type %d to option %d", typ, opt)
		}
		if err := each(typ, p); err != nil {
			return err
		}
	}
	return breach("more than %d replies to option %d", maxOptionReplies, opt)
}

func (n *negotiator) write(p []byte) error {
	if _, err := n.conn.Write(p); err != nil {
		return fmt.Errorf("nbd: sending to the server: %w", err)
	}
	return nil
}

func optionHeader(opt uint32, length int) []byte {
	p := binary.BigEndian.AppendUint64(nil, magicOption)
	p = binary.BigEndian.AppendUint32(p, opt)
	return binary.BigEndian.AppendUint32(p, uint32(length))
}

// contextQuery is the data of LIST_ and SET_META_CONTEXT.
func contextQuery(export string, queries []string) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	p = append(p, export...)
	p = binary.BigEndian.AppendUint32(p, uint32(len(queries)))
	for _, q := range queries {
		p = binary.BigEndian.AppendUint32(p, uint32(len(q)))
		p = append(p, q...)
	}
	return p
}

func parseContext(typ uint32, p []byte) (id uint32, name string, err error) {
	if typ != repMetaContext || len(p) < 4 || len(p) > 4+maxString {
		return 0, "", breach("reply type %d of %d bytes to a metadata context option", typ, len(p))
	}
	return binary.BigEndian.Uint32(p), string(p[4:]), nil
}

// refused tells whether the server said no to an option we can live without.
func refused(err error) bool {
	he, ok := err.(*HandshakeError) //nolint:errorlint // made by option, never wrapped
	return ok && (he.Reply == repErrUnsup || he.Reply == repErrPolicy || he.Reply == repErrInvalid)
}

// clip makes an untrusted message short and valid.
func clip(p []byte) string {
	const most = 512
	if len(p) > most {
		p = p[:most]
	}
	return strings.ToValidUTF8(string(p), "?")
}
