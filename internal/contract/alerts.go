package contract

// Alerts: states a person should know of. Each is raised and cleared by the workflow; those of a host carry its name after
// a slash.
const (
	AlertRPOAtRisk        = "RPOAtRisk"        // exposure above 75 % of the target
	AlertRPOViolated      = "RPOViolated"      // above the target
	AlertRPOTwice         = "RPOViolatedTwice" // above twice the target
	AlertVMDown           = "VMDown"           // and the system may not fail over by itself
	AlertVMPaused         = "VMPaused"
	AlertIOError          = "IOError"
	AlertGuest            = "GuestEvent"   // a panic that libvirt answered by a restart, or a watchdog that fired
	AlertNotEncrypted     = "NotEncrypted" // the standby is not, and the policy requires it
	AlertStandbyFull      = "StandbyFull"
	AlertStandbyNotReady  = "StandbyNotReady"  // the returning host cannot take replicas yet
	AlertFreezeFailed     = "FreezeFailed"     // points are crash-consistent although the policy asks for more
	AlertStallBudget      = "StallBudget"      // a capture held the guest up for longer than the policy allows
	AlertCPUBudget        = "CPUBudget"        // captures use more CPU than the policy allows, and the RPO leaves no other way
	AlertNeedsAttention   = "NeedsAttention"   // cycles fail and only a person can repair it
	AlertStaleGeneration  = "StaleGeneration"  // a newer owner exists
	AlertFenceUnconfirmed = "FenceUnconfirmed" // the old VM cannot be proved off: nothing was started
	AlertFailoverFailed   = "FailoverFailed"
	AlertCutOff           = "ControlPlaneCutOff" // the control plane hears less than others do
	AlertHostSilent       = "HostSilent"         // /host
	AlertUnwatched        = "Unwatched"          // /host: nobody watches whether it lives
)
