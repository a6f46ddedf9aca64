// Package model is the vocabulary of Understudy: plain values without behaviour that reaches outside.
// It imports nothing of ours, so that every other package can share its words.
package model

import (
	"fmt"
	"regexp"
)

// HostID names a libvirt host. It is stable over reboots and reinstalls of the agent, because task queues,
// points and generation records carry it.
type HostID string

// Generation is the fencing token of a VM: up by one with each change of the active host, never re-used.
// Zero means "not yet claimed"; the first protection runs under generation 1.
type Generation uint64

// Seq numbers the recovery points of one VM. It grows over generations and is never re-used; zero means "none".
type Seq uint64

// VMRef names a VM. UUID is the identity; Name is for people and may change.
type VMRef struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
}

func (v VMRef) String() string { return fmt.Sprintf("%s (%s)", v.Name, v.UUID) }

// PointRef names one recovery point of a VM.
type PointRef struct {
	Generation Generation `json:"generation"`
	Seq        Seq        `json:"seq"`
}

// IsZero says that no point is meant.
func (p PointRef) IsZero() bool { return p.Seq == 0 }

func (p PointRef) String() string { return fmt.Sprintf("g%d-s%d", p.Generation, p.Seq) }

// MarkPrefix starts the name of every mark (libvirt checkpoint, scratch file, staging folder) that Understudy leaves
// outside its own process. Marks without it are foreign and are refused, never adopted.
const MarkPrefix = "understudy-"

// Mark is the name of the checkpoint (and of its bitmap) that belongs to a point.
func (p PointRef) Mark() string { return MarkPrefix + p.String() }

var markPattern = regexp.MustCompile(`^understudy-g([0-9]{1,19})-s([0-9]{1,19})$`)

// ParseMark reads a name made by Mark; ok is false for a foreign name.
func ParseMark(name string) (p PointRef, ok bool) {
	m := markPattern.FindStringSubmatch(name)
	if m == nil {
		return PointRef{}, false
	}
	var g, s uint64
	if _, err := fmt.Sscanf(m[1]+" "+m[2], "%d %d", &g, &s); err != nil {
		return PointRef{}, false
	}
	return PointRef{Generation: Generation(g), Seq: Seq(s)}, true
}

var (
	uuidPattern   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	hostPattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	targetPattern = regexp.MustCompile(`^[a-z]{2,4}[a-z0-9]{0,8}$`)
)

// ValidUUID says whether s is a lower-case UUID. UUIDs become folder names, so nothing else may pass.
func ValidUUID(s string) bool { return uuidPattern.MatchString(s) }

// ValidHostID says whether h may be part of queue names and file names.
func ValidHostID(h HostID) bool { return hostPattern.MatchString(string(h)) }

// ValidTarget says whether s is a libvirt disk target such as vda; targets become file names.
func ValidTarget(s string) bool { return targetPattern.MatchString(s) }
