package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Change is what one step does.
type Change struct {
	Address string `json:"address"`
	Action  string `json:"action"` // create, update, remove, reload, restart or run
	Summary string `json:"summary"`
	Reason  string `json:"reason,omitempty"`
	Ops     []*Op  `json:"ops"`

	Access []Access `json:"-"` // what the change means for who may get in
}

// A Failure is a step that could not do its part, with those that could not run because of it.
type Failure struct {
	Address      string   `json:"address"`
	Error        string   `json:"error"`
	Consequences []string `json:"consequences,omitempty"` // addresses
	NotYet       bool     `json:"not_yet,omitempty"`      // it waits for another node's run

	Err error `json:"-"`
}

// A Warning is something that a step has to say and that is no failure.
type Warning struct {
	Address string `json:"address"`
	Text    string `json:"text"`
}

// A Plan is what an apply would do now.
type Plan struct {
	Environment string
	Node        string
	Role        string
	Disruption  Disruption
	Changes     []*Change
	Unchanged   int
	Owed        []Owed
	Failures    []Failure
	Warnings    []Warning
	Access      []Access // what the changes mean for who may get in

	inputs map[string]string
	reads  map[string]map[string]string
}

// Plan finds out what an apply would do. It writes nothing at all. The error is for what concerns the whole run; what
// concerns a step is among the plan's failures.
func (e *Engine) Plan(ctx context.Context, g *Graph, o Options) (*Plan, error) {
	// While a run is under way, what it has not finished is not left by a killed one.
	return e.plan(ctx, g, o, !e.State.busy())
}

func (e *Engine) plan(ctx context.Context, g *Graph, o Options, recovers bool) (*Plan, error) {
	owed, err := e.State.Owed()
	if err != nil {
		return nil, err
	}
	r := e.newRun(g, o, owed, nil)
	p := &Plan{Environment: g.Environment, Node: g.Node, Role: g.Role, inputs: o.Inputs}
	if recovers {
		if err := r.planRecovery(p); err != nil {
			return nil, err
		}
	}
	p.take(r.graph, r.walk(ctx, r.plan))
	p.Owed = r.ledger.all()
	p.reads = r.reads
	if ctx.Err() != nil {
		return nil, errors.New("stopped before the plan was complete")
	}
	return p, nil
}

// planRecovery stages what an apply would first do about the steps that a killed run left half done.
func (r *run) planRecovery(p *Plan) error {
	records, _, err := r.engine.State.unfinished()
	if err != nil {
		return err
	}
	for _, rec := range records {
		ops, forward, err := r.engine.State.settle(rec, r.files)
		if err != nil {
			return fmt.Errorf("%s, left half done by run %s: %w", rec.Step, rec.run, err)
		}
		if len(ops) == 0 {
			continue
		}
		r.nameOwners(ops)
		for _, op := range ops {
			r.files.set(op.Path, op.after)
		}
		p.add(recoveryChange(rec, ops, forward))
	}
	return nil
}

func recoveryChange(rec *record, ops []*Op, forward bool) *Change {
	c := &Change{Address: rec.Step, Action: "update", Summary: "take back what was left half done", Ops: ops}
	if forward {
		c.Summary = "finish what was left half done"
	}
	c.Reason = "run " + rec.run + " was killed in the middle of it"
	if rec.takeBack {
		c.Summary, c.Reason = "take back what was not confirmed", "run "+rec.run+" was killed while it waited for converge confirm"
	}
	return c
}

// nameOwners gives operations that come from numbers the names of the accounts.
func (r *run) nameOwners(ops []*Op) {
	for _, op := range ops {
		op.Owner, op.Group = r.accounts.userName(op.uid), r.accounts.groupName(op.gid)
	}
}

// plan stages one step.
func (r *run) plan(ctx context.Context, s *Step) outcome {
	h, err := r.converge(ctx, s)
	if err != nil {
		return failedAt(s, h, err)
	}
	r.note(s, h)
	if err := r.settleDebts(s, h, nil); err != nil {
		return failed(s, err)
	}
	if len(h.ops) == 0 {
		return afterwards(s, h, outcome{state: Unchanged, warnings: h.warnings})
	}
	for p, n := range h.staged {
		r.files.set(p, n)
	}
	if concernsServices(h.ops) {
		if _, err := r.ledger.owe(s); err != nil {
			return failed(s, err)
		}
	}
	if s.Service && acts(h.ops) && h.deferred == nil {
		// An apply would now see the evidence and strike the debt out.
		if _, _, err := r.ledger.strike(s); err != nil {
			return failed(s, err)
		}
	}
	return afterwards(s, h, outcome{state: Changed, change: h.change(), warnings: h.warnings, access: h.access})
}

// afterwards is the outcome of a step that said in h that it has failed, or waits, after all that it did. Without it, it
// is out.
func afterwards(s *Step, h *Host, out outcome) outcome {
	if h.afterwards == nil {
		return out
	}
	late := failed(s, h.afterwards)
	out.state, out.err, out.events = late.state, late.err, append(out.events, late.events...)
	return out
}

// settleDebts writes down what a service said of its debts.
func (r *run) settleDebts(s *Step, h *Host, events *[]Event) error {
	if h.paid {
		o, was, err := r.ledger.strike(s)
		if err != nil {
			return err
		}
		if was && events != nil {
			*events = append(*events, Event{Event: EventPay, Address: s.Address, Owed: &o})
		}
	}
	if h.deferred != nil {
		news, err := r.ledger.keep(*h.deferred)
		if err != nil {
			return err
		}
		if news && events != nil {
			o, _ := r.ledger.of(s)
			*events = append(*events, Event{Event: EventOwe, Address: s.Address, Owed: &o})
		}
	}
	return nil
}

// concernsServices says whether operations change a file that services could read.
func concernsServices(ops []*Op) bool {
	return slices.ContainsFunc(ops, func(o *Op) bool { return !o.acts() && !o.aside })
}

func acts(ops []*Op) bool {
	for _, o := range ops {
		if o.acts() {
			return true
		}
	}
	return false
}

// change is the step's operations with what the resource said of them.
func (h *Host) change() *Change {
	c := &Change{Address: h.step.Address, Action: actionOf(h.ops), Summary: h.summary, Reason: h.reason, Ops: h.ops, Access: h.access}
	if c.Summary == "" {
		c.Summary = summaryOf(h.ops)
	}
	return c
}

// actionOf names a step's change by the most that it does.
func actionOf(ops []*Op) string {
	action := ""
	for _, o := range ops {
		switch {
		case o.Kind == OpPublish && action == "":
			action = "update"
		case o.Kind == OpPublish:
		case o.Creates() && action == "":
			action = "create"
		case o.Kind == OpSQL && action == "":
			action = "update"
		case o.Kind == OpSQL:
		case o.acts():
			return string(o.Kind)
		case o.Kind == OpRemove && (action == "" || action == "remove"):
			action = "remove"
		case o.Kind == OpWrite && o.before.kind == absent && action != "update":
			action = "create"
		case o.Kind == OpMkdir && o.before.kind == absent && action == "":
			action = "create"
		case o.Kind == OpMkdir && action != "":
		default:
			action = "update"
		}
	}
	return action
}

func summaryOf(ops []*Op) string {
	if len(ops) == 1 {
		return ops[0].String()
	}
	return fmt.Sprintf("%s and %d more", ops[0], len(ops)-1)
}

// add takes a change into the plan.
func (p *Plan) add(c *Change) {
	p.Changes = append(p.Changes, c)
	for _, o := range c.Ops {
		p.Disruption = max(p.Disruption, o.disruption())
	}
}

// take sums up the outcomes of a walk.
func (p *Plan) take(g *Graph, outcomes []outcome) {
	for _, out := range outcomes {
		switch {
		case out.state == Unchanged:
			p.Unchanged++
		case out.change != nil:
			p.add(out.change)
		}
	}
	p.Failures = failuresOf(g, outcomes)
	p.Warnings = warningsOf(g, outcomes)
	p.Access = accessOf(outcomes)
}

func warningsOf(g *Graph, outcomes []outcome) []Warning {
	var out []Warning
	for i, o := range outcomes {
		for _, w := range o.warnings {
			out = append(out, Warning{g.Steps[i].Address, Redact(w)})
		}
	}
	return out
}

// failuresOf gathers the steps that failed, each with the steps that could not run because of it.
func failuresOf(g *Graph, outcomes []outcome) []Failure {
	var failures []Failure
	at := map[*Step]int{}
	for i, out := range outcomes {
		s := g.Steps[i]
		switch out.state {
		case Failed:
			at[s] = len(failures)
			failures = append(failures, Failure{Address: s.Address, Error: Redact(out.err.Error()), NotYet: IsNotYet(out.err), Err: out.err})
		case Skipped:
			f := &failures[at[out.cause]]
			f.Consequences = append(f.Consequences, s.Address)
		}
	}
	return failures
}
