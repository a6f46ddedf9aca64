package replicate

import (
	"context"

	"understudy/internal/blockio"
	"understudy/internal/model"
)

// beforeSize is what is read at once of a disk as it was: what differs lies together.
const beforeSize = 64 << 10

// before reads blocks of a disk as it was.
type before struct {
	source blockio.Source
	at     int64 // of what is in buf; -1 for nothing
	buf    []byte
}

// newBefore gives nil for no source: nobody asks.
func newBefore(source blockio.Source) *before {
	if source == nil {
		return nil
	}
	return &before{source: source, at: -1, buf: make([]byte, beforeSize)}
}

// block gives n bytes of one block; what lies beyond the disk's end was zero. It is valid until the next call.
func (b *before) block(ctx context.Context, off int64, n int) ([]byte, error) {
	if at := off &^ (beforeSize - 1); at != b.at {
		b.at = -1
		have := min(max(b.source.Size()-at, 0), beforeSize)
		clear(b.buf[have:])
		if have > 0 {
			if err := b.source.ReadAt(ctx, b.buf[:have], at); err != nil {
				return nil, err
			}
		}
		b.at = at
	}
	from := off % beforeSize
	return b.buf[from : from+min(int64(n), model.BlockSize)], nil
}
