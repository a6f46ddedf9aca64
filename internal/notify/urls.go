package notify

import "strings"

// DefaultFile is where a host or the server keeps its receivers.
const DefaultFile = "/etc/understudy/notify"

// URLs is the value of a flag that may be repeated. The environment gives several between spaces: commas stand in addresses.
type URLs []string

// Set implements flag.Value.
func (u *URLs) Set(text string) error {
	*u = append(*u, strings.Fields(text)...)
	return nil
}

// String is empty: it would be printed with the help, and URLs hold passwords.
func (u *URLs) String() string { return "" }
