// Package blockio is the port through which a disk's bytes are read, written
// and mapped. Adapters: nbd (client of qemu's or nbdkit's NBD server), file (a
// raw sparse file), mem (tests). The contract below is executable: blockiotest
// runs it against every adapter.
//
// Units are bytes everywhere; offsets count from the start of the disk.
//
// # Errors
//
// An operation fails with an error that errors.Is can match against the
// sentinels of this package, against ctx.Err() when the caller gave up, or
// against a syscall.Errno when the kernel or the server named one (ENOSPC, EIO,
// EPERM …). Nothing panics on what a file or a server sends.
package blockio
