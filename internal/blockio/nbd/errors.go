package nbd

import (
	"fmt"
	"syscall"

	"understudy/internal/blockio"
)

// ServerError is the server's answer that it could not do one request; the connection
// goes on. errors.Is matches its Errno.
type ServerError struct {
	Command string // "read", "write" …
	Offset  int64
	Length  int64
	Errno   syscall.Errno // one of section "Error values"; EINVAL for any other number
	Message string        // the server's words, may be empty; untrusted
}

func (e *ServerError) Error() string {
	s := fmt.Sprintf("nbd: server failed %s of %d bytes at %d: %v", e.Command, e.Length, e.Offset, e.Errno)
	if e.Message != "" {
		s += fmt.Sprintf(" (%q)", e.Message)
	}
	return s
}

// Unwrap gives the errno.
func (e *ServerError) Unwrap() error { return e.Errno }

// HandshakeError is the server's refusal of an option during the handshake.
type HandshakeError struct {
	Option  uint32 // NBD_OPT_*
	Reply   uint32 // NBD_REP_ERR_*
	Message string // the server's words, may be empty; untrusted
}

func (e *HandshakeError) Error() string {
	reason := fmt.Sprintf("error %#x", e.Reply)
	switch e.Reply {
	case repErrUnsup:
		reason = "not supported"
	case repErrPolicy:
		reason = "forbidden by policy"
	case repErrInvalid:
		reason = "invalid request"
	case repErrPlatform:
		reason = "not supported on the server's platform"
	case repErrTLSReqd:
		reason = "TLS required"
	case repErrUnknown:
		reason = "no such export"
	case repErrShutdown:
		reason = "server is shutting down"
	case repErrBlockSz:
		reason = "block size negotiation required"
	case repErrTooBig:
		reason = "request too big"
	}
	s := fmt.Sprintf("nbd: server refused option %d: %s", e.Option, reason)
	if e.Message != "" {
		s += fmt.Sprintf(" (%q)", e.Message)
	}
	return s
}

// UnknownExport tells whether the server has no export of the name asked for.
func (e *HandshakeError) UnknownExport() bool { return e.Reply == repErrUnknown }

// ProtocolError is a breach of the protocol by the server; it ends the connection.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "nbd: protocol error: " + e.What }

func breach(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}

// disconnected wraps the cause of a lost connection.
type disconnected struct{ cause error }

func (e *disconnected) Error() string {
	return fmt.Sprintf("%v: %v", blockio.ErrDisconnected, e.cause)
}

func (e *disconnected) Unwrap() []error { return []error{blockio.ErrDisconnected, e.cause} }

// errnoOf maps section "Error values"; a number outside it means EINVAL.
func errnoOf(n uint32) syscall.Errno {
	switch e := syscall.Errno(n); e {
	case syscall.EPERM, syscall.EIO, syscall.ENOMEM, syscall.EINVAL, syscall.ENOSPC,
		syscall.EOVERFLOW, syscall.ENOTSUP, syscall.ESHUTDOWN:
		return e
	}
	return syscall.EINVAL
}
