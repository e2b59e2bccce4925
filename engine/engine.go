// Package engine makes a recipe true on one machine and proves it.
//
// A Graph holds the steps of a run, each with a Resource. A Resource has one routine, Converge: it reads the machine
// through its Host, decides, and writes through the Host. What it writes is staged: the step and those after it see it,
// the disk does not. Plan stages every step and commits none. Apply commits each step's staged operations before the
// next step begins, and then converges the step once more, which must stage nothing. Because both run the same code, a
// plan cannot promise what an apply does not do.
//
// The order of the files for a reader: type.go and graph.go (what is to be done), host.go and overlay.go (how a resource
// sees the machine), op.go (what a change is), run.go (the walk that plan.go and apply.go share), commit.go (the only
// place that writes), journal.go and ledger.go (what a killed run leaves for the next one).
//
// The package knows no PostgreSQL.
package engine

import (
	"io"
	"time"

	"converge/engine/disk"
)

// An Engine plans and applies graphs on one machine.
type Engine struct {
	Disk        *disk.Disk
	State       *State
	Now         func() time.Time
	Rand        io.Reader                        // for keys and serial numbers
	Parallelism int                              // how many steps may be under way at once; below 1 means 1
	Observe     func(Event)                      // what happened, in the order of the graph; may be nil
	Working     func(address string, begin bool) // a step begins or ends, as it happens; may be nil
}

func (e *Engine) observe(ev Event) {
	if e.Observe != nil {
		e.Observe(ev)
	}
}
