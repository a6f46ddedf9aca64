// Package recoverypoint is the store of replicas on a standby (stage 4 of a cycle): it receives the data of a point into a
// staging area, turns a proved staging area into a recovery point at one instant, drops old points, and lays bootable
// overlays on top of one. docs/RECOVERY_POINT_FORMAT.md describes what is on disk.
//
// Invariants, whatever dies at whatever moment: a listed point reads as it was proved; a point is listed only after its
// proof; what a crash left half done is finished or taken back when the store is opened, and doing so twice is the same.
package recoverypoint
