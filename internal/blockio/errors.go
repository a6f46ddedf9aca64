package blockio

import "fmt"

// RangeError is an ErrOutOfRange with its figures.
type RangeError struct {
	Size, Offset, Length int64
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%v: %d bytes at offset %d of a disk of %d bytes", ErrOutOfRange, e.Length, e.Offset, e.Size)
}

// Unwrap lets errors.Is match ErrOutOfRange.
func (e *RangeError) Unwrap() error { return ErrOutOfRange }
