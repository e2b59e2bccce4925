package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/disk"
	"converge/engine/store"
	"converge/resources"
)

func (a *app) applyCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "apply [PLANFILE]",
		Short: "Make this node what its recipes say",
		Long: `Make this node what its recipes say. With a PLANFILE, which converge plan --out has written, exactly that plan is
applied, once; when anything that it was made from has changed since, nothing is done.`,
		Example: `  converge apply --role db_master
  converge apply monday.plan
  converge apply --allow-restart
  converge apply --every 30m --splay 5m
  converge apply --confirm-within 60s   # then, from another session: converge confirm`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.dryRun && len(args) > 0 {
				return usage("--dry-run with a plan file: the file already says what would be done")
			}
			if f.wait > 0 && len(args) > 0 {
				return usage("--wait with a plan file: a plan is good for one run, and waiting may take two")
			}
			switch {
			case f.every != 0 || f.splay != 0:
				return a.applyEvery(cmd, args, f)
			case f.dryRun:
				return a.plan(cmd, f)
			}
			s, err := a.apply(cmd, args, f)
			a.brokenOff(s, err)
			return err
		},
	}
	a.runFlags(c, &f)
	c.Flags().DurationVar(&f.confirmWithin, "confirm-within", 0, "put everything back unless converge confirm comes within this `TIME`, such as 60s")
	c.Flags().DurationVar(&f.wait, "wait", 0, "wait up to this `TIME`, such as 2m, for what other nodes have to do first")
	c.Flags().DurationVar(&f.every, "every", 0, "stay, and apply again each `TIME`, such as 30m, until a signal comes")
	c.Flags().DurationVar(&f.splay, "splay", 0, "with --every: begin up to this `TIME` later, so that not all hosts run at once")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "the same as converge plan")
	return c
}

func (a *app) apply(cmd *cobra.Command, args []string, f runFlags) (*site, error) {
	s, rep, err := a.applyPatiently(cmd.Context(), f, args...)
	if err != nil || rep == nil {
		return s, err
	}
	if a.flags.json {
		a.printJSON(done(rep))
	} else {
		newPrinter(a).report(rep)
	}
	return s, a.applyExit(rep, f)
}

// applyPatiently is one run, and another one when what that waits for has come in time.
func (a *app) applyPatiently(ctx context.Context, f runFlags, args ...string) (*site, *engine.Report, error) {
	patience, stop := waiting(ctx, f.wait)
	defer stop()
	for {
		s, rep, again, err := a.applyOnce(ctx, patience, args, f)
		if !again || err != nil || rep == nil {
			return s, rep, err
		}
	}
}

// waiting is how long a run may wait for others: a context that has ended already when it may not.
func waiting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

// applyOnce is one run. It says whether there is to be another one: what this one waited for has come, while patience,
// the time for that, has not ended.
func (a *app) applyOnce(ctx, patience context.Context, args []string, f runFlags) (s *site, rep *engine.Report, again bool, err error) {
	var only *engine.SavedPlan
	if len(args) == 1 {
		if only, err = readPlan(args[0]); err != nil {
			return nil, nil, false, err
		}
		a.planned = only.Created
	}
	s, err = a.openSite(ctx)
	defer s.close()
	if err != nil {
		return s, nil, false, err
	}
	o, err := f.options(s)
	if err != nil {
		return s, nil, false, err
	}
	o.Only = only
	var known store.Version
	if f.wait > 0 {
		known = s.delivered(ctx)
	}
	show := newPrinter(a)
	s.engine.Observe = func(ev engine.Event) {
		a.logEvent(ev)
		if a.flags.json {
			a.printJSON(ev)
		} else {
			show.event(ev)
		}
		a.out.flush() // what has happened is told when it has
	}
	a.followLong(s.engine)
	rep, err = s.engine.Apply(ctx, s.graph, o)
	a.rememberRestarts(s)
	if err != nil {
		return s, nil, false, err
	}
	a.rememberPublished(s)
	return s, rep, f.wait > 0 && onlyLate(rep) && a.waited(patience, s, known), nil
}

// onlyLate says whether a run failed for nothing but what other nodes have not done yet.
func onlyLate(rep *engine.Report) bool {
	late := func(f engine.Failure) bool { return f.NotYet }
	return len(rep.Failures) > 0 && !slices.ContainsFunc(rep.Failures, func(f engine.Failure) bool { return !late(f) })
}

// waited waits until the authority has published something else for this node than what was known, and says whether it
// has.
func (a *app) waited(ctx context.Context, s *site, known store.Version) bool {
	d := s.types.Delivery
	if d == nil || ctx.Err() != nil {
		return false
	}
	fmt.Fprintf(a.stderr, "converge: waiting for the run of another node, at %s\n", d.Store)
	return d.Store.Watch(ctx, resources.NodeEntry(s.node.Name), known) == nil
}

// delivered is the version of what the authority has for this node; 0 where that is nothing, or not known.
func (s *site) delivered(ctx context.Context) store.Version {
	if s.types.Delivery == nil {
		return 0
	}
	e, err := s.types.Delivery.Store.Get(ctx, resources.NodeEntry(s.node.Name))
	if err != nil {
		return 0
	}
	return e.Version
}

// brokenOff is the last line of apply --json for a run that did not come to its report.
func (a *app) brokenOff(s *site, err error) {
	var silent silentError
	var wrong *usageError
	if err == nil || !a.flags.json || errors.As(err, &silent) || errors.As(err, &wrong) {
		return
	}
	j := doneJSON{
		Event: engine.EventDone, Format: 1, Failures: []engine.Failure{{Error: engine.Redact(err.Error())}},
		Owed: []engine.Owed{}, Result: engine.ResultFailed,
	}
	if engine.IsRefused(err) || errors.Is(err, engine.ErrLocked) {
		j.Result = engine.ResultRefused
	}
	if s != nil && s.env != nil {
		j.Environment, j.Node, j.Role = s.env.Name, s.node.Name, s.node.Role
	}
	a.printJSON(j)
}

func readPlan(name string) (*engine.SavedPlan, error) {
	abs, err := absPath(name)
	if err != nil {
		return nil, err
	}
	d, err := disk.Open("/")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	b, _, err := d.ReadFile(abs, planLimit)
	if err != nil {
		return nil, err
	}
	return engine.ParseSavedPlan(b)
}

func (a *app) applyExit(rep *engine.Report, f runFlags) error {
	switch {
	case len(rep.Failures) > 0:
		return failuresExit(rep.Failures)
	case rep.Result == engine.ResultStopped:
		return silentError(exitFailed)
	case f.detailedExitcode && owesRestart(rep.Owed):
		a.code = exitOwed
	case f.detailedExitcode && len(rep.Changes) > 0:
		a.code = exitChanges
	}
	return nil
}

// doneJSON is the last line of apply --json.
type doneJSON struct {
	Event       engine.EventKind  `json:"event"`
	Format      int               `json:"format"`
	Run         string            `json:"run,omitempty"`
	Environment string            `json:"environment"`
	Node        string            `json:"node"`
	Role        string            `json:"role"`
	Disruption  engine.Disruption `json:"disruption"`
	Changed     int               `json:"changed"`
	Unchanged   int               `json:"unchanged"`
	Failures    []engine.Failure  `json:"failures,omitempty"`
	Undone      []string          `json:"undone,omitempty"`
	NotRun      []string          `json:"not_run,omitempty"`
	Warnings    []engine.Warning  `json:"warnings,omitempty"`
	Owed        []engine.Owed     `json:"owed"`
	Result      engine.Result     `json:"result"`

	AuthorityChange *resources.AuthorityChange `json:"authority_change,omitempty"` // of rotate
}

func done(rep *engine.Report) doneJSON {
	return doneJSON{
		Event: engine.EventDone, Format: 1, Run: rep.Run, Environment: rep.Environment, Node: rep.Node, Role: rep.Role,
		Disruption: rep.Disruption, Changed: len(rep.Changes), Unchanged: rep.Unchanged, Failures: rep.Failures,
		Undone: rep.Undone, NotRun: rep.NotRun, Warnings: rep.Warnings, Owed: notNil(rep.Owed), Result: rep.Result,
	}
}

// logEvent tells the log what happened.
func (a *app) logEvent(ev engine.Event) {
	line := a.log.Info()
	if ev.Event == engine.EventFail {
		line = a.log.Debug() // it is printed; the log has the stack besides
	}
	if ev.Stack != "" {
		line = line.Str("stack", ev.Stack)
	}
	if ev.Change != nil {
		line = line.Str("summary", ev.Change.Summary)
	}
	if ev.Error != "" {
		line = line.Str("error", ev.Error)
	}
	line.Str("address", ev.Address).Msg(string(ev.Event))
}
