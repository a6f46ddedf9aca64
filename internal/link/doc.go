// Package link is the transport between two agents: bulk bytes of a replication, and a ping for the witness. It is gRPC
// streaming over TCP with a binary codec of its own; bulk bytes never go through Temporal.
//
// One stream is one session: the staging area of one point on the standby. The sender opens it, learns the seed of the
// digests and how far each disk was received before, then both sides stream without waiting for each other:
//
//	sender                          standby
//	Open(spec)                  →
//	                            ←   Opened(seed, acked offsets)
//	Look(disk, grain, runs)     →                               "which digests has the parent point here?"
//	                            ←   Digests                     in the order of the Looks, one for each 2^grain blocks
//	Batch(disk, ops, up to)     →                               data, zeroes, "checked up to here"
//	                            ←   Acked(disk, up to)          journaled: a later session resumes there
//	Finish(disk)                →
//	                            ←   Finished(disk)              durable
//	                            ←   Alive                       every two seconds, however busy the store is
//
// Looks are answered beside the batches, not behind them. A resync looks at 1 MiB a digest first, and closer only where that
// differs, so that comparing equal disks costs 16 bytes a MiB. A failure of the standby comes back with its kind, in the
// trailer of the stream. Frames are bounded on both ends, and nothing that a peer sends makes a decoder panic or
// allocate more than the bound.
package link
