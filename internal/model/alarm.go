package model

import "time"

// Alarm is a state that a person is told of even when nobody looks: by mail or webhook (internal/notify).
type Alarm struct {
	// Key names the one matter that an alarm is about, for example "rpo/<uuid>"; there is one alarm a key.
	Key  string `json:"key"`
	Name string `json:"name"` // for filters: RPOViolated
	VM   string `json:"vm,omitempty"`
	Host HostID `json:"host,omitempty"`
	What string `json:"what"`
	Why  string `json:"why"`
	Try  string `json:"try"` // the next command
	// Since is when it began, as far as its source knows; zero is when it was seen first.
	Since time.Time `json:"since,omitzero"`
	// Level is raised when it gets worse, which is told at once.
	Level int `json:"level,omitempty"`
	// After is how long it must last before it is told.
	After time.Duration `json:"after_ns,omitempty"`
	// Happened is no state: it is told once, and has no end.
	Happened bool `json:"happened,omitempty"`
}

// AlarmState says why a message about an alarm is sent.
type AlarmState string

// The states of messages.
const (
	AlarmFiring   AlarmState = "firing"
	AlarmWorse    AlarmState = "worse"
	AlarmStill    AlarmState = "still firing"
	AlarmResolved AlarmState = "resolved"
	AlarmHappened AlarmState = "happened"
	AlarmTest     AlarmState = "test"
)

// Notice is one message about an alarm.
type Notice struct {
	Alarm
	State AlarmState `json:"state"`
	At    time.Time  `json:"at"`
}
