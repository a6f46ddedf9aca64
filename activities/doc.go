// Package activities translates: wire struct in, domain call, error mapped once, heartbeat, wire struct out. It decides
// nothing and orders nothing; one file a stage.
package activities
