package trust

// The names that the authorizer of the bundled Temporal goes by. They are those of internal/contract, which its module cannot
// import; a test compares.
const (
	ControlQueue    = "understudy-control"
	ProtectType     = "ProtectVM"
	HostWatchType   = "HostWatch"
	ProtectPrefix   = "protect/"
	RecoverType     = "Recover"
	RecoverID       = "recover"
	HostWatchPrefix = "hostwatch/"

	SignalAgentStarted = "agent-started"
	SignalUtilization  = "utilization"
	SignalVMEvent      = "vm-event"
)

// Queues of a host.
func Queues(host string) []string {
	return []string{"understudy-host-" + host + "-ctl", "understudy-host-" + host + "-bulk"}
}
