package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Apply makes the graph true. It holds the run lock, settles first what a killed run has left half done, and leaves a
// report in the history. The error is for what concerns the whole run (a *RefusedError among them); what concerns a step
// is among the report's failures.
func (e *Engine) Apply(ctx context.Context, g *Graph, o Options) (*Report, error) {
	started := e.Now().UTC()
	unlock, err := e.State.Lock(started)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if o.Only != nil {
		if err := e.stillHolds(ctx, g, o); err != nil {
			return nil, err
		}
	}
	owed, err := e.State.Owed()
	if err != nil {
		return nil, err
	}
	r := e.newRun(g, o, owed, e.State.storeOwed)
	r.journal = &journal{state: e.State, run: newRunName(started), kept: map[string]bool{}, waits: o.ConfirmWithin > 0}
	rep := &Report{
		Format: 1, Run: r.journal.run, Started: started, Environment: g.Environment, Node: g.Node, Role: g.Role, Result: ResultOK,
	}
	if o.Only != nil {
		rep.Plan = o.Only.ID
		if err := e.State.useUp(o.Only); err != nil {
			return nil, err
		}
	}
	if rep.Changes, err = r.recover(); err != nil {
		return nil, err
	}
	for _, c := range rep.Changes {
		e.observe(Event{Event: EventChange, Address: c.Address, Change: c})
	}
	if refused := r.notConfirmed(ctx); refused != nil {
		rep.Result, rep.Failures, rep.Owed = ResultRefused, []Failure{{Error: Redact(refused.Error()), Err: refused}}, r.ledger.all()
	} else {
		rep.take(r, r.walk(ctx, r.apply))
		r.confirmed(ctx, rep)
	}
	rep.Finished = e.Now().UTC()
	r.journal.close()
	return rep, e.State.finish(rep.Run, rep)
}

// newRunName names a run by its time, so that the names sort by age, and a few random digits.
func newRunName(t time.Time) string {
	var b [3]byte
	rand.Read(b[:])
	return t.Format("20060102T150405.000Z")[:19] + "-" + hex.EncodeToString(b[:])
}

// apply makes one step true: converge, commit, and converge again, which must find nothing to do.
func (r *run) apply(ctx context.Context, s *Step) outcome {
	out := r.applyOnce(ctx, s)
	var refusal *Refusal
	if !errors.As(out.err, &refusal) {
		return out
	}
	return r.putBack(ctx, s, refusal, out)
}

func (r *run) applyOnce(ctx context.Context, s *Step) outcome {
	h, err := r.converge(ctx, s)
	if err != nil {
		return failedAt(s, h, err)
	}
	var events []Event
	if len(h.ops) == 0 {
		if err := r.settleDebts(s, h, &events); err != nil {
			return failed(s, err)
		}
		return afterwards(s, h, outcome{state: Unchanged, events: events, warnings: h.warnings})
	}
	if err := r.expected(s, h.ops); err != nil {
		return failed(s, err)
	}
	events = append(events, Event{Event: EventStart, Address: s.Address})
	change := h.change()
	owed, err := r.commit(ctx, s, h.ops)
	events = append(events, owed...)
	if err != nil {
		return withEvents(events, failed(s, err))
	}
	change.freeze()
	events = append(events, Event{Event: EventChange, Address: s.Address, Change: change})
	after, err := r.converge(ctx, s)
	if err == nil && len(after.ops) > 0 {
		err = fmt.Errorf("still differs after apply: %s", summaryOf(after.ops))
	}
	if err == nil {
		err = r.settleDebts(s, after, &events)
	}
	if err != nil {
		out := withEvents(events, failed(s, err))
		out.change = change
		return out
	}
	return afterwards(s, after, outcome{state: Changed, change: change, events: events, warnings: h.warnings, access: h.access})
}

func withEvents(events []Event, out outcome) outcome {
	out.events = append(events, out.events...)
	return out
}

// expected holds a step to the saved plan, when there is one.
func (r *run) expected(s *Step, ops []*Op) error {
	if r.options.Only == nil {
		return nil
	}
	return r.options.Only.expects(s.Address, ops)
}

// putBack undoes, after a service refused what was committed, this run's changes of the paths that it named, and lets
// the service take up what is now on the disk again. The step has failed all the same.
func (r *run) putBack(ctx context.Context, s *Step, refusal *Refusal, out outcome) outcome {
	undone, err := r.undo(refusal.Paths)
	for _, address := range undone {
		out.events = append(out.events, Event{Event: EventUndo, Address: address, Cause: s.Address + " was refused"})
	}
	if err == nil && len(undone) > 0 {
		err = r.serveAgain(ctx, s)
	}
	if err != nil {
		out.err = errors.Join(out.err, fmt.Errorf("after putting back %v: %w", undone, err))
		out.events = append(out.events, Event{Event: EventFail, Address: s.Address, Error: Redact(err.Error())})
	}
	return out
}

// serveAgain converges a service on the files that were put back.
func (r *run) serveAgain(ctx context.Context, s *Step) error {
	r.setActed(s, false)
	h, err := r.converge(ctx, s)
	if err != nil {
		return err
	}
	if _, err := r.commit(ctx, s, h.ops); err != nil {
		return err
	}
	if len(h.ops) > 0 {
		if h, err = r.converge(ctx, s); err != nil {
			return err
		}
	}
	return r.settleDebts(s, h, nil)
}

// undo takes back this run's records that touch one of the paths, and those that came later on the same files. It
// returns the addresses of their steps.
func (r *run) undo(paths []string) ([]string, error) {
	r.journal.mu.Lock()
	records := slices.Clone(r.journal.records)
	r.journal.mu.Unlock()
	return r.undoRecords(touching(records, paths))
}

func (r *run) undoRecords(chosen []*record) ([]string, error) {
	var undone []string
	for _, rec := range slices.Backward(chosen) {
		for _, o := range rec.Ops {
			r.files.forget(o.Path)
		}
		ops, err := r.engine.State.back(rec, r.files)
		if err == nil {
			err = r.perform(ops)
		}
		if err == nil {
			err = r.journal.end(rec, "undone")
		}
		if err != nil {
			return undone, err
		}
		undone = append(undone, rec.Step)
		r.markUndone(rec.Step)
	}
	return undone, nil
}

// touching returns the records that wrote one of the paths, and all later ones that wrote a file of theirs.
func touching(records []*record, paths []string) []*record {
	hit := map[string]bool{}
	for _, p := range paths {
		hit[p] = true
	}
	var chosen []*record
	for _, rec := range records {
		if rec.End != "done" || !slices.ContainsFunc(rec.Ops, func(o opRecord) bool { return o.Kind != OpMkdir && hit[o.Path] }) {
			continue
		}
		for _, o := range rec.Ops {
			hit[o.Path] = true
		}
		chosen = append(chosen, rec)
	}
	return chosen
}

func (r *run) markUndone(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.graph.Steps {
		if s.Address == address {
			r.undone[s] = true
		}
	}
}

// take sums up the outcomes of a walk.
func (rep *Report) take(r *run, outcomes []outcome) {
	for i, out := range outcomes {
		s := r.graph.Steps[i]
		if out.change != nil {
			rep.Changes = append(rep.Changes, out.change)
			for _, o := range out.change.Ops {
				rep.Disruption = max(rep.Disruption, o.disruption())
			}
		}
		switch {
		case r.undone[s]:
			rep.Undone = append(rep.Undone, s.Address)
		case out.state == Unchanged:
			rep.Unchanged++
		case out.state == Stopped:
			rep.NotRun = append(rep.NotRun, s.Address)
		}
	}
	rep.Failures = failuresOf(r.graph, outcomes)
	rep.Warnings = warningsOf(r.graph, outcomes)
	rep.Access = accessOf(outcomes)
	rep.Owed = r.ledger.all()
	switch {
	case len(rep.Failures) > 0:
		rep.Result = ResultFailed
		for _, f := range rep.Failures {
			if IsRefused(f.Err) {
				rep.Result = ResultRefused
			}
		}
	case len(rep.NotRun) > 0:
		rep.Result = ResultStopped
	}
}
