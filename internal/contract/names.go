package contract

import (
	"fmt"
	"strings"

	"understudy/internal/model"
)

// Namespace is the Temporal namespace of Understudy.
const Namespace = "understudy"

// Workflow types.
const (
	ProtectVMName  = "ProtectVM"
	FailoverVMName = "FailoverVM"
	HostWatchName  = "HostWatch"
)

// Search attributes; few and slow, upserted only when phase or hosts change.
const (
	AttrVM         = "UnderstudyVM"
	AttrPrimary    = "UnderstudyPrimary"
	AttrStandby    = "UnderstudyStandby"
	AttrPhase      = "UnderstudyPhase"
	AttrGeneration = "UnderstudyGeneration"
)

// ControlQueue is polled by the control plane: workflows and control activities.
const ControlQueue = "understudy-control"

// HostQueue takes short work on one host (checkpoint, define, start, stop).
func HostQueue(h model.HostID) string { return "understudy-host-" + string(h) + "-ctl" }

// BulkQueue takes data movement on one host; a queue of copies must never stand in front of a failover.
func BulkQueue(h model.HostID) string { return "understudy-host-" + string(h) + "-bulk" }

const (
	protectPrefix   = "protect/"
	hostWatchPrefix = "hostwatch/"
)

// ProtectID is the workflow id of a VM's protection: one for ever per VM.
func ProtectID(vmUUID string) string { return protectPrefix + vmUUID }

// FailoverID contains the generation, so that two requests for the same failover meet in one execution.
func FailoverID(vmUUID string, g model.Generation) string {
	return fmt.Sprintf("failover/%s/%d", vmUUID, g)
}

// HostWatchID is the workflow id of a host's watch.
func HostWatchID(h model.HostID) string { return hostWatchPrefix + string(h) }

// HostOfWatchID is the reverse of HostWatchID.
func HostOfWatchID(id string) (model.HostID, bool) {
	h, ok := strings.CutPrefix(id, hostWatchPrefix)
	return model.HostID(h), ok
}
