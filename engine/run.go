package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"converge/engine/recipe"
)

// Options say what a run may do.
type Options struct {
	MaxDisruption Disruption // nothing beyond it happens in this run; it stays owed
	AllowRestart  bool       // restarts need not wait for a maintenance window
	Windows       []recipe.Window
	Only          *SavedPlan // apply: exactly this plan, or nothing
	Inputs        map[string]string
	ConfirmWithin time.Duration // apply: put everything back unless it is confirmed; 0: no need
}

// allowed returns the greatest disruption that may happen at t, and why no greater one.
func (o Options) allowed(t time.Time) (Disruption, string) { return o.allowedFor(t, 0) }

// allowedFor is allowed for a service whose restart is given so long: a window has to stay open until it is over.
func (o Options) allowedFor(t time.Time, restart time.Duration) (Disruption, string) {
	switch {
	case o.MaxDisruption < Restart:
		return o.MaxDisruption, fmt.Sprintf("this run may cause no more than %s (--max-disruption)", o.MaxDisruption)
	case o.AllowRestart:
		return Restart, ""
	case len(o.Windows) == 0:
		return Reload, "no maintenance window is declared: a restart waits for --allow-restart"
	}
	w, next := recipe.NextWindow(o.Windows, t, restart)
	switch {
	case next.IsZero():
		return Reload, fmt.Sprintf("no maintenance window is long enough for a restart, which is given %s: converge restart pays it at once", roundUp(restart))
	case next.Equal(t):
		return Restart, ""
	}
	text := fmt.Sprintf("a restart waits for the maintenance window %q, next at %s", w.Name, next.Format(time.RFC3339))
	for _, open := range o.Windows {
		if left := open.Remaining(t); left > 0 {
			return Reload, fmt.Sprintf("a restart is given %s, and the maintenance window %q closes in %s; %s", roundUp(restart), open.Name, left.Truncate(time.Second), text)
		}
	}
	return Reload, text
}

// roundUp is a time that was measured as people say it: to a second, and never as none.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// A run is one plan or one apply under way.
type run struct {
	engine   *Engine
	graph    *Graph
	options  Options
	files    *overlay
	accounts *Accounts
	ledger   *ledger
	journal  *journal // nil in a plan

	mu     sync.Mutex
	undone map[*Step]bool

	generated map[string]bool              // paths whose content this run makes anew
	acted     map[*Step]bool               // steps whose actions were carried out
	reads     map[string]map[string]string // by step, for saved plans
	tookBack  string                       // the killed run whose unconfirmed changes were taken back

	folders sync.Mutex // while folders are made or removed that several steps may make
}

func (e *Engine) newRun(g *Graph, o Options, owed []Owed, store func([]Owed) error) *run {
	return &run{
		engine:   e,
		graph:    g,
		options:  o,
		files:    newOverlay(e.Disk),
		accounts: NewAccounts(e.Disk),
		ledger:   newLedger(owed, e.Now, store),
		undone:   map[*Step]bool{},
		acted:    map[*Step]bool{},

		generated: map[string]bool{},
		reads:     map[string]map[string]string{},
	}
}

// converge lets a step's resource decide. A panic becomes an error: the other steps go on.
func (r *run) converge(ctx context.Context, s *Step) (h *Host, err error) {
	h = &Host{run: r, step: s, staged: map[string]node{}, reads: map[string]node{}}
	if w := r.engine.Working; w != nil {
		w(s.Address, true)
		defer w(s.Address, false)
	}
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: Redact(fmt.Sprint(p)), Stack: Redact(string(debug.Stack()))}
		}
	}()
	err = s.Resource.Converge(ctx, h)
	return h, err
}

// A PanicError is a bug in a resource: it is reported like a failure of the step.
type PanicError struct{ Value, Stack string }

func (p *PanicError) Error() string {
	return "internal error, which is a bug in converge: " + p.Value
}

// A State of a step is how it ended.
type StepState string

// The ends there are.
const (
	Unchanged StepState = "unchanged"
	Changed   StepState = "changed"
	Failed    StepState = "failed"
	Skipped   StepState = "skipped" // something that it needs has failed
	Stopped   StepState = "stopped" // the run was told to stop before it began
	Undone    StepState = "undone"  // it was changed, and put back because the server refused it
)

// An outcome is what became of one step.
type outcome struct {
	state  StepState
	change *Change // of a step with operations
	err    error
	cause  *Step // of a skipped step: the one that failed
	events []Event

	warnings []string
	access   []Access
}

// walk does every step after those that come before it, several at a time. What it returns, and the order of the events,
// depends on the graph alone.
func (r *run) walk(ctx context.Context, do func(context.Context, *Step) outcome) []outcome {
	w := &walker{
		graph: r.graph, outcomes: make([]outcome, len(r.graph.Steps)), done: make([]bool, len(r.graph.Steps)),
		waiting: make([]int, len(r.graph.Steps)), followers: make([][]*Step, len(r.graph.Steps)), emit: r.engine.observe,
	}
	w.wake = sync.NewCond(&w.mu)
	for _, s := range r.graph.Steps {
		w.waiting[s.index] = len(s.After)
		for _, e := range s.After {
			w.followers[e.Step.index] = append(w.followers[e.Step.index], s)
		}
		if len(s.After) == 0 {
			w.ready = append(w.ready, s)
		}
	}
	var workers sync.WaitGroup
	for range max(1, r.engine.Parallelism) {
		workers.Go(func() { w.work(ctx, do) })
	}
	workers.Wait()
	return w.outcomes
}

// A walker is the shared state of the workers of one walk.
type walker struct {
	graph    *Graph
	outcomes []outcome
	emit     func(Event)

	mu        sync.Mutex
	wake      *sync.Cond
	ready     []*Step
	waiting   []int // how many steps each one still waits for
	followers [][]*Step
	done      []bool
	finished  int
	next      int // the first step whose events are not told yet
}

func (w *walker) work(ctx context.Context, do func(context.Context, *Step) outcome) {
	for {
		s := w.take()
		if s == nil {
			return
		}
		out, run := w.withoutRunning(ctx, s)
		if run {
			out = do(context.WithoutCancel(ctx), s)
		}
		w.finish(s, out)
	}
}

// take waits for a step that can begin. nil: there will be none any more.
func (w *walker) take() *Step {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.ready) == 0 && w.finished < len(w.graph.Steps) {
		w.wake.Wait()
	}
	if len(w.ready) == 0 {
		return nil
	}
	s := w.ready[0]
	w.ready = w.ready[1:]
	return s
}

// withoutRunning returns the outcome of a step that must not begin.
func (w *walker) withoutRunning(ctx context.Context, s *Step) (outcome, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range s.After {
		before := w.outcomes[e.Step.index]
		if !e.needed() {
			continue
		}
		switch before.state {
		case Failed:
			return skipped(s, e.Step), false
		case Skipped:
			return skipped(s, before.cause), false
		case Stopped:
			return outcome{state: Stopped}, false
		}
	}
	if ctx.Err() != nil {
		return outcome{state: Stopped}, false
	}
	return outcome{}, true
}

func skipped(s, cause *Step) outcome {
	return outcome{state: Skipped, cause: cause, events: []Event{{Event: EventSkip, Address: s.Address, Cause: cause.Address}}}
}

func (w *walker) finish(s *Step, out outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes[s.index], w.done[s.index] = out, true
	w.finished++
	for _, f := range w.followers[s.index] {
		if w.waiting[f.index]--; w.waiting[f.index] == 0 {
			w.ready = append(w.ready, f)
		}
	}
	for ; w.next < len(w.done) && w.done[w.next]; w.next++ {
		for _, ev := range w.outcomes[w.next].events {
			w.emit(ev)
		}
	}
	w.wake.Broadcast()
}

func (r *run) setActed(s *Step, is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acted[s] = is
}

// note keeps what a step's decision was made from. What an earlier step of this run has staged is not among it: that
// follows from what the earlier step has read, and a key that is made anew is another one each time.
func (r *run) note(s *Step, h *Host) {
	seen := make(map[string]string, len(h.reads))
	for p, n := range h.reads {
		if !n.staged {
			seen[p] = n.fingerprint()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads[s.Address] = seen
}

// fingerprint is all of a node that a decision can rest on.
func (n node) fingerprint() string {
	switch n.kind {
	case absent:
		return "absent"
	case directory:
		return fmt.Sprintf("directory %s %d:%d", modeText(n.mode), n.uid, n.gid)
	case file:
		return fmt.Sprintf("file %s %d:%d %s", modeText(n.mode), n.uid, n.gid, n.content.sum())
	}
	return "other"
}

// failedAt is the outcome of a step whose resource returned an error, with what it had to say before.
func failedAt(s *Step, h *Host, err error) outcome {
	out := failed(s, err)
	out.warnings, out.access = h.warnings, h.access
	return out
}

// failed is the outcome of a step with an error.
func failed(s *Step, err error) outcome {
	var panicked *PanicError
	ev := Event{Event: EventFail, Address: s.Address, Error: Redact(err.Error()), NotYet: IsNotYet(err)}
	if errors.As(err, &panicked) {
		ev.Stack = panicked.Stack
	}
	return outcome{state: Failed, err: err, events: []Event{ev}}
}
