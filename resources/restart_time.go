package resources

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Restarts are how long the last restarts of the servers on this machine took. They are kept from run to run: in a
// maintenance window a restart begins only when it can end.
type Restarts struct {
	Took map[string][]time.Duration `json:"took"` // by data directory, the latest last

	mutex sync.Mutex
	fresh bool // something was measured that is not stored yet
}

const (
	// restartsKept is how many restarts count: a server that grew slower is judged by what it is now.
	restartsKept = 5
	// firstGuess is what a restart is given before one was measured. Shutting down writes what is in shared memory to the
	// disk, which takes a few seconds on most servers.
	firstGuess = time.Minute
	// leastRestart is the least that a restart is given, whatever was measured: the next one may find more to write.
	leastRestart = 10 * time.Second
)

// A RestartTime is what a restart of a server is given.
type RestartTime struct {
	Restart  time.Duration // of the restart alone: the longest of the last ones
	Measured int           // how many were measured; 0: it is a guess
}

// Needed is what has to be left of a maintenance window: for the restart, and for another one with the files as they were
// before, in case that the server does not come back.
func (r RestartTime) Needed() time.Duration { return 2 * max(r.Restart, leastRestart) }

// String says what a restart is given, and how that is known.
func (r RestartTime) String() string {
	switch r.Measured {
	case 0:
		return "about a minute (a first guess: no restart of this server was measured yet)"
	case 1:
		return fmt.Sprintf("about %s (as the last one did)", shortTime(r.Restart))
	}
	return fmt.Sprintf("about %s (the longest of the last %d)", shortTime(r.Restart), r.Measured)
}

// shortTime is a measured time with as many digits as mean something.
func shortTime(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// Expect returns what a restart of the server with this data directory is given.
func (r *Restarts) Expect(directory string) RestartTime {
	if r == nil {
		return RestartTime{Restart: firstGuess}
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	took := r.Took[directory]
	if len(took) == 0 {
		return RestartTime{Restart: firstGuess}
	}
	return RestartTime{Restart: slices.Max(took), Measured: len(took)}
}

// add keeps what a restart took.
func (r *Restarts) add(directory string, took time.Duration) {
	if r == nil {
		return
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.Took == nil {
		r.Took = map[string][]time.Duration{}
	}
	all := append(r.Took[directory], took)
	r.Took[directory] = all[max(0, len(all)-restartsKept):]
	r.fresh = true
}

// Fresh says whether there is something to store.
func (r *Restarts) Fresh() bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.fresh
}
