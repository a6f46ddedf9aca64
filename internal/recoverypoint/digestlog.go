package recoverypoint

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"

	"understudy/internal/blockio/digest"
	"understudy/internal/model"
)

// The digest log of a staged disk says what was written where, in increasing order: a header, then records. All numbers
// are little endian.
//
//	header  "USDLOG01" | seed 8 | size 8 | sum 8 (XXH3-64 of the bytes before)
//	record  offset 8 | length 8 | count 4 | zero 4 | sum 8 | count digests of 16
//
// A record is a run of data (one digest a block, none of them zero) or of zeroes (count 0). Its sum covers its first 24
// bytes and its digests, so a record that was cut off by a kill is seen and ends the log.
const (
	logMagic      = "USDLOG01"
	logHeaderSize = 32
	logRecordSize = 32
	maxRecord     = 1024 // digests of one record: 4 MiB of data, 16 KiB of log
)

var errLog = errors.New("digest log is damaged")

// appendRecord adds a run of at most maxRecord blocks (or any length of zeroes) to p.
func appendRecord(p []byte, r model.Run, digests []model.Digest) []byte {
	at := len(p)
	p = binary.LittleEndian.AppendUint64(p, uint64(r.Offset))
	p = binary.LittleEndian.AppendUint64(p, uint64(r.Length))
	p = binary.LittleEndian.AppendUint32(p, uint32(len(digests)))
	zero := uint32(0)
	if len(digests) == 0 {
		zero = 1
	}
	p = binary.LittleEndian.AppendUint32(p, zero)
	p = binary.LittleEndian.AppendUint64(p, 0)
	for i := range digests {
		p = append(p, digests[i][:]...)
	}
	binary.LittleEndian.PutUint64(p[at+24:], recordSum(p[at:]))
	return p
}

func recordSum(record []byte) uint64 {
	return xxh3.Hash(record[:24]) ^ xxh3.HashSeed(record[logRecordSize:], 1)
}

func logHeader(seed uint64, size int64) []byte {
	p := append(make([]byte, 0, logHeaderSize), logMagic...)
	p = binary.LittleEndian.AppendUint64(p, seed)
	p = binary.LittleEndian.AppendUint64(p, uint64(size))
	return binary.LittleEndian.AppendUint64(p, xxh3.Hash(p))
}

// logSummary is what reading a whole log tells.
type logSummary struct {
	Blocks int64 // blocks of the runs, zero blocks included
	Bytes  int64
	Sum    string // XXH3-128 over header and records
}

// readLog visits the runs of a log that was finished at length bytes. The digests are valid during the call only.
// It holds one record in memory.
func readLog(path string, seed uint64, size, length int64, visit func(model.WrittenRun) error) (logSummary, error) {
	var sum logSummary
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	hash := xxh3.New()
	r := bufio.NewReaderSize(io.TeeReader(io.LimitReader(f, length), hash), 256<<10)
	head := make([]byte, logHeaderSize)
	if _, err := io.ReadFull(r, head); err != nil || !bytes.Equal(head, logHeader(seed, size)) {
		return sum, fmt.Errorf("%w: header", errLog)
	}
	buf := make([]byte, logRecordSize+maxRecord*digest.Size)
	digests := make([]model.Digest, maxRecord)
	last := int64(0)
	for {
		w, err := nextRecord(r, buf, digests, last, size)
		if errors.Is(err, io.EOF) {
			h := hash.Sum128().Bytes()
			sum.Sum = hex.EncodeToString(h[:])
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
		last = w.Offset + w.Length
		sum.Blocks += digest.Count(w.Length)
		sum.Bytes += w.Length
		if err := visit(w); err != nil {
			return sum, err
		}
	}
}

// nextRecord reads one record; io.EOF at the orderly end. Nothing of a record that is damaged, out of order or outside
// the disk is believed.
func nextRecord(r io.Reader, buf []byte, digests []model.Digest, last, size int64) (model.WrittenRun, error) {
	var w model.WrittenRun
	if _, err := io.ReadFull(r, buf[:logRecordSize]); err != nil {
		if errors.Is(err, io.EOF) {
			return w, io.EOF
		}
		return w, fmt.Errorf("%w: cut off", errLog)
	}
	w.Offset = int64(binary.LittleEndian.Uint64(buf))
	w.Length = int64(binary.LittleEndian.Uint64(buf[8:]))
	count, zero := binary.LittleEndian.Uint32(buf[16:]), binary.LittleEndian.Uint32(buf[20:])
	if count > maxRecord || (zero == 1) != (count == 0) {
		return w, fmt.Errorf("%w: record of %d digests", errLog, count)
	}
	body := buf[logRecordSize : logRecordSize+int(count)*digest.Size]
	if _, err := io.ReadFull(r, body); err != nil {
		return w, fmt.Errorf("%w: cut off", errLog)
	}
	if recordSum(buf[:logRecordSize+len(body)]) != binary.LittleEndian.Uint64(buf[24:]) {
		return w, fmt.Errorf("%w: sum of the record at offset %d", errLog, w.Offset)
	}
	if err := checkRun(w.Run, last, size); err != nil {
		return w, fmt.Errorf("%w: %w", errLog, err)
	}
	if count > 0 && digest.Count(w.Length) != int64(count) {
		return w, fmt.Errorf("%w: %d digests for %d bytes", errLog, count, w.Length)
	}
	for i := range int(count) {
		digests[i] = model.Digest(body[i*digest.Size:])
	}
	w.Digests = digests[:count]
	return w, nil
}

// checkRun refuses a run that does not follow on last, is not made of whole blocks, or leaves the disk.
func checkRun(r model.Run, last, size int64) error {
	end := r.Offset + r.Length
	switch {
	case r.Offset < 0 || r.Length <= 0 || r.Offset > size || r.Length > size-r.Offset:
		return fmt.Errorf("run of %d bytes at %d outside a disk of %d bytes", r.Length, r.Offset, size)
	case r.Offset%model.BlockSize != 0 || end%model.BlockSize != 0 && end != size:
		return fmt.Errorf("run of %d bytes at %d is not made of whole blocks", r.Length, r.Offset)
	case r.Offset < last:
		return fmt.Errorf("run at %d comes after %d: runs must be sent in increasing order", r.Offset, last)
	}
	return nil
}

// ack is the journal of a staged disk, one slot that is overwritten in place: how far the disk has been received, and
// how long the log was then. It survives the kill of the agent, not that of the host: see boot id in stagingSpec.
type ack struct {
	Acked    int64 // everything below is in the image
	Log      int64 // bytes of the log that belong to it
	Finished bool
}

const ackSize = 32

func (a ack) encode() []byte {
	p := binary.LittleEndian.AppendUint64(make([]byte, 0, ackSize), uint64(a.Acked))
	p = binary.LittleEndian.AppendUint64(p, uint64(a.Log))
	done := uint64(0)
	if a.Finished {
		done = 1
	}
	p = binary.LittleEndian.AppendUint64(p, done)
	return binary.LittleEndian.AppendUint64(p, xxh3.Hash(p))
}

// decodeAck reads a slot; a damaged one says that nothing was received.
func decodeAck(p []byte, size int64) ack {
	if len(p) < ackSize || binary.LittleEndian.Uint64(p[24:]) != xxh3.Hash(p[:24]) {
		return ack{}
	}
	a := ack{
		Acked:    int64(binary.LittleEndian.Uint64(p)),
		Log:      int64(binary.LittleEndian.Uint64(p[8:])),
		Finished: binary.LittleEndian.Uint64(p[16:]) == 1,
	}
	if a.Acked < 0 || a.Acked > size || a.Log < logHeaderSize || a.Finished && a.Acked != size {
		return ack{}
	}
	return a
}
