// Package workflows coordinates: which step comes when, and what follows from a failure. It is deterministic, does nothing
// itself and decides nothing that internal/decide can decide.
//
//	ProtectVM   protect/<vm-uuid>            one for ever per VM: observe, decide, cycle, sleep. protect.go, cycle.go
//	FailoverVM  failover/<vm-uuid>/<gen>     child of ProtectVM (abandoned, reports by signal): a saga. failover.go
//	HostWatch   hostwatch/<host>             one per host, started by its agent: liveness becomes signals. hostwatch.go
//
// Who tells whom: agents start HostWatch (signal-with-start) and signal ProtectVM (utilization, vm-event); HostWatch signals
// every attached ProtectVM (host-suspect, host-recovered); ProtectVM starts FailoverVM, which answers with child-finished;
// people reach ProtectVM and HostWatch by updates.
//
// Inside ProtectVM one coroutine, the loop, does the work; a second, the pump, receives all signals and only changes state
// and wakes the loop (messages.go); update handlers do the same. A third, the judge (takeover.go), exists only while the
// primary's host is silent. The loop waits in two places: rest (between cycles) and await (for a stage of a cycle), and
// both end at once when a failover is wanted.
package workflows
