package nbd

import (
	"context"
	"errors"
	"fmt"

	"understudy/internal/blockio"
)

// zeroes is what is sent when the server cannot write zeroes by itself.
var zeroes [256 << 10]byte

// ReadAt implements blockio.Reader. Where the server has a minimal block size and the
// request is not aligned to it, the first and last block are read through a copy.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := blockio.CheckRange(c.info.Size, off, int64(len(p))); err != nil {
		return err
	}
	return c.split(off, int64(len(p)), func(part part) error {
		dst := p[part.off-off:][:part.length]
		if part.whole {
			return c.read(ctx, dst, part.off)
		}
		block := make([]byte, c.info.MinBlock)
		base := part.off &^ (int64(c.info.MinBlock) - 1)
		if err := c.read(ctx, block, base); err != nil {
			return err
		}
		copy(dst, block[part.off-base:])
		return nil
	})
}

// WriteAt implements blockio.Writer. A part of a block is written by reading the block
// and writing it back.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := c.checkWrite(off, int64(len(p))); err != nil {
		return err
	}
	return c.split(off, int64(len(p)), func(part part) error {
		src := p[part.off-off:][:part.length]
		if part.whole {
			return c.write(ctx, src, part.off)
		}
		return c.modify(ctx, part, func(dst []byte) { copy(dst, src) })
	})
}

// WriteZeroes implements blockio.Writer.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64) error {
	if err := c.checkWrite(off, length); err != nil {
		return err
	}
	whole := c.zero
	if !c.info.CanZero {
		whole = c.writeZeroData
	}
	for length > 0 {
		n := c.head(off, length, maxZeroesSpan)
		var err error
		if n.whole {
			err = whole(ctx, n.off, n.length)
		} else {
			err = c.modify(ctx, n, func(dst []byte) { clear(dst) })
		}
		if err != nil {
			return err
		}
		off, length = off+n.length, length-n.length
	}
	return nil
}

// Flush implements blockio.Writer. A server that cannot flush promises nothing about a
// power loss, so it is an error that matches errors.ErrUnsupported.
func (c *Client) Flush(ctx context.Context) error {
	switch {
	case c.info.ReadOnly:
		return ctx.Err()
	case !c.info.CanFlush:
		return fmt.Errorf("nbd: server cannot flush: %w", errors.ErrUnsupported)
	}
	return c.do(ctx, &pending{cmd: cmdFlush}, nil)
}

// part is a piece of a request that fits one NBD request.
type part struct {
	off, length int64
	whole       bool // made of whole blocks; else it lies inside one block
}

// head gives the first part of a request: up to limit bytes of whole blocks, or what
// there is of a single block.
func (c *Client) head(off, length, limit int64) part {
	block := int64(c.info.MinBlock)
	if in := off & (block - 1); in != 0 || length < block {
		return part{off: off, length: min(length, block-in)}
	}
	return part{off: off, length: min(length, limit) &^ (block - 1), whole: true}
}

// split calls f for each part of a read or write, in order.
func (c *Client) split(off, length int64, f func(part) error) error {
	for length > 0 {
		n := c.head(off, length, int64(c.info.MaxPayload))
		if err := f(n); err != nil {
			return err
		}
		off, length = off+n.length, length-n.length
	}
	return nil
}

func (c *Client) checkWrite(off, length int64) error {
	if err := blockio.CheckRange(c.info.Size, off, length); err != nil {
		return err
	}
	if c.info.ReadOnly {
		return fmt.Errorf("nbd: %w", blockio.ErrReadOnly)
	}
	return nil
}

func (c *Client) read(ctx context.Context, p []byte, off int64) error {
	return c.do(ctx, &pending{cmd: cmdRead, off: off, length: int64(len(p)), buf: p}, nil)
}

func (c *Client) write(ctx context.Context, p []byte, off int64) error {
	return c.do(ctx, &pending{cmd: cmdWrite, off: off, length: int64(len(p))}, p)
}

func (c *Client) zero(ctx context.Context, off, length int64) error {
	return c.do(ctx, &pending{cmd: cmdWriteZeroes, off: off, length: length}, nil)
}

func (c *Client) writeZeroData(ctx context.Context, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroes)), int64(c.info.MaxPayload))
		if err := c.write(ctx, zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// modify changes a part of one block. Two of them must not overlap in time, or one
// would write back what the other has just replaced.
func (c *Client) modify(ctx context.Context, n part, change func([]byte)) error {
	c.rmw.Lock()
	defer c.rmw.Unlock()
	block := make([]byte, c.info.MinBlock)
	base := n.off &^ (int64(c.info.MinBlock) - 1)
	if err := c.read(ctx, block, base); err != nil {
		return err
	}
	change(block[n.off-base:][:n.length])
	return c.write(ctx, block, base)
}
