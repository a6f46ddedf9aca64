// Package trust says who is who: a small certificate authority for one site, the role that each certificate carries, and
// TLS configurations that check it. A certificate is for a host, for the server or for an operator, by its URI; names and
// addresses in it only say where that host is reached.
//
// identity.go, folder.go and temporal.go use the standard library alone: the module of the bundled Temporal compiles the
// very same files.
package trust
