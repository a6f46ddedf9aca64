package nbd

import (
	"context"
	"encoding/binary"
	"fmt"

	"understudy/internal/blockio"
)

// descriptor is one extent of a block status reply.
type descriptor struct {
	length uint32 // bytes, not 0
	flags  uint32
}

// statusChunk is NBD_REPLY_TYPE_BLOCK_STATUS. Of the descriptors for the context asked
// for the first maxDescriptors are kept: a server may tell less than it was asked, so a
// client may listen to less than it was told.
func (c *Client) statusChunk(pd *pending, ch chunk) error {
	if ch.length < 12 || ch.length%8 != 4 || ch.length > maxStatusChunk {
		return breach("block status chunk of %d bytes", ch.length)
	}
	var p [4]byte
	if err := c.in.full(p[:]); err != nil {
		return err
	}
	id, rest := binary.BigEndian.Uint32(p[:]), ch.length-4
	known := c.info.Allocation && id == c.info.allocationID || c.info.Dirty && id == c.info.dirtyID
	if !known || pd.seenCount >= len(pd.seen) || pd.seenCount > 0 && pd.seen[0] == id {
		return breach("block status for context id %d, unknown or told twice", id)
	}
	pd.seen[pd.seenCount] = id
	pd.seenCount++
	if id != pd.context {
		return c.in.discard(rest)
	}
	var page [512 * 8]byte
	for left := min(rest, maxDescriptors*8); left > 0; {
		q := page[:min(left, int64(len(page)))]
		if err := c.in.full(q); err != nil {
			return err
		}
		left, rest = left-int64(len(q)), rest-int64(len(q))
		for ; len(q) > 0; q = q[8:] {
			d := descriptor{length: binary.BigEndian.Uint32(q), flags: binary.BigEndian.Uint32(q[4:])}
			if d.length == 0 {
				return breach("block status descriptor of length 0")
			}
			pd.descs = append(pd.descs, d)
		}
	}
	return c.in.discard(rest)
}

// Map implements blockio.Mapper by NBD_CMD_BLOCK_STATUS, a page of up to 2 GiB of disk
// and 128 Ki extents (1 MiB of memory) at a time.
func (c *Client) Map(ctx context.Context, m blockio.Map, off, length int64, visit func(blockio.Extent) error) error {
	if err := blockio.CheckRange(c.info.Size, off, length); err != nil {
		return err
	}
	id, kindOf, err := c.contextOf(m)
	if err != nil {
		return err
	}
	merger := blockio.Merger{Visit: visit}
	block := int64(c.info.MinBlock)
	for end := off + length; off < end; {
		base := off &^ (block - 1)
		ask := min(end-base, blockStatusSpan)
		ask = (ask + block - 1) &^ (block - 1) // stays in the disk: its size is a multiple
		pd := &pending{cmd: cmdBlockStatus, off: base, length: ask, context: id}
		if err := c.do(ctx, pd, nil); err != nil {
			return err
		}
		before := off
		for _, d := range pd.descs {
			// The last extent may go beyond what was asked; only that far do we believe it.
			next := min(base+int64(d.length), end, pd.off+pd.length)
			e := blockio.Extent{Offset: off, Length: next - off, Kind: kindOf(d.flags)}
			if base += int64(d.length); e.Length <= 0 {
				continue
			}
			if err := merger.Add(e); err != nil {
				return err
			}
			off = next
		}
		if off == before { // the server told only of the bytes before an unaligned start
			err := breach("block status of %d bytes at %d tells nothing of it", pd.length, pd.off)
			c.fail(err)
			return c.Err()
		}
	}
	return merger.Finish()
}

// contextOf finds the metadata context behind a map, and how to read its flags.
func (c *Client) contextOf(m blockio.Map) (id uint32, kindOf func(flags uint32) blockio.Kind, err error) {
	switch {
	case m == blockio.Allocation && c.info.Allocation:
		return c.info.allocationID, allocationKind, nil
	case m == blockio.DirtyBitmap && c.info.Dirty:
		return c.info.dirtyID, dirtyKind, nil
	}
	return 0, nil, fmt.Errorf("nbd: %v: %w", m, blockio.ErrNoMap)
}

// allocationKind reads base:allocation. A hole that does not read as zeroes has
// undefined content (section "Metadata contexts"): it counts as data.
func allocationKind(flags uint32) blockio.Kind {
	switch flags & (stateHole | stateZero) {
	case stateHole | stateZero:
		return blockio.Hole
	case stateZero:
		return blockio.Zero
	}
	return blockio.Data
}

func dirtyKind(flags uint32) blockio.Kind {
	if flags&stateDirty != 0 {
		return blockio.Dirty
	}
	return blockio.Clean
}
