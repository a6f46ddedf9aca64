// Package contract is the vocabulary on the wire between workflows, activities, the starter and the agents: names, task
// queues, workflow ids, typed handles, and the structs that go in and out. Changes are additive only; a golden file per
// struct fails the build on any other change.
package contract
