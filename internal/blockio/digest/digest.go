// Package digest is the one definition of what a block's digest is, for the sender, the receiver's store and the proof.
//
// A block is 4 KiB (model.BlockSize); a shorter one, at the end of a disk, counts as padded with zeroes, so that growing
// the disk changes no digest. A block of zeroes has the zero digest. Any other has the XXH3-128 under the replica's
// random seed, big endian; a hash that came out as zero is replaced by Substitute.
package digest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/xxh3"

	"understudy/internal/model"
)

// Size is the length of a digest in bytes.
const Size = len(model.Digest{})

// Substitute stands for a block that is not zero but whose hash is.
var Substitute = model.Digest{15: 1}

var zeroes [model.BlockSize]byte

// IsZero tells whether p holds nothing but zeroes.
func IsZero(p []byte) bool {
	for ; len(p) > len(zeroes); p = p[len(zeroes):] {
		if !bytes.Equal(p[:len(zeroes)], zeroes[:]) {
			return false
		}
	}
	return bytes.Equal(p, zeroes[:len(p)])
}

// Block gives the digest of one block of 1 to 4096 bytes. It panics on a longer one, which is a bug of the caller.
func Block(seed uint64, p []byte) model.Digest {
	if IsZero(p) {
		return model.Digest{}
	}
	if len(p) != model.BlockSize {
		var whole [model.BlockSize]byte
		if len(p) > len(whole) {
			panic("digest: block longer than 4096 bytes")
		}
		copy(whole[:], p)
		p = whole[:]
	}
	d := model.Digest(xxh3.Hash128Seed(p, seed).Bytes())
	if d == (model.Digest{}) {
		return Substitute
	}
	return d
}

// Blocks fills dst with the digests of the blocks of p, the last of which may be short. dst must hold Count(len(p)).
func Blocks(seed uint64, p []byte, dst []model.Digest) {
	for i := 0; len(p) > 0; i++ {
		n := min(len(p), model.BlockSize)
		dst[i] = Block(seed, p[:n])
		p = p[n:]
	}
}

// Count is the number of blocks that n bytes take.
func Count(n int64) int64 { return (n + model.BlockSize - 1) / model.BlockSize }

// Fold gives one digest for neighbouring blocks: zero for zero blocks only, so that ranges can be compared before blocks
// are. Blocks beyond the end of a disk may be left out at the end: they are zero.
func Fold(seed uint64, ds []model.Digest) model.Digest {
	for len(ds) > 0 && ds[len(ds)-1] == (model.Digest{}) {
		ds = ds[:len(ds)-1]
	}
	if len(ds) == 0 {
		return model.Digest{}
	}
	p := make([]byte, 0, len(ds)*Size)
	for i := range ds {
		p = append(p, ds[i][:]...)
	}
	d := model.Digest(xxh3.Hash128Seed(p, seed).Bytes())
	if d == (model.Digest{}) {
		return Substitute
	}
	return d
}

// State is the digest of a whole disk, kept block by block: the XOR over its non-zero blocks of a hash of (index,
// digest). The order of changes does not matter and an unchanged block costs nothing, so it is kept in time proportional
// to a delta; a disk of zeroes has the zero State whatever its size.
type State [16]byte

// Change replaces block index's digest was by is.
func (s *State) Change(seed uint64, index int64, was, is model.Digest) {
	if was == is {
		return
	}
	s.toggle(seed, index, was)
	s.toggle(seed, index, is)
}

func (s *State) toggle(seed uint64, index int64, d model.Digest) {
	if d == (model.Digest{}) {
		return
	}
	var p [8 + 16]byte
	binary.BigEndian.PutUint64(p[:], uint64(index))
	copy(p[8:], d[:])
	h := xxh3.Hash128Seed(p[:], seed).Bytes()
	for i := range s {
		s[i] ^= h[i]
	}
}

// String is the State in hexadecimal, as manifests carry it.
func (s State) String() string { return hex.EncodeToString(s[:]) }

// ParseState reads what String gave.
func ParseState(text string) (s State, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(s) {
		return s, fmt.Errorf("digest: %q is not the digest of a disk", text)
	}
	copy(s[:], b)
	return s, nil
}
