package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources"
)

func (a *app) statusCommand() *cobra.Command {
	var metrics string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is declared, what is on disk and what is served",
		Long: `Show what is declared, what is on disk and what is served. What is served comes from evidence: a TLS handshake, and the
server's views. What needs the operator comes first, with the command that mends it. The exit code is 0 when all is well, 2
when something needs the operator, 1 when it could not be told.`,
		Example: `  converge status
  converge status --json
  converge status --prometheus /var/lib/prometheus/node-exporter/converge.prom`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.status(cmd, metrics) },
	}
	c.Flags().StringVar(&metrics, "prometheus", "", "also write metrics to `FILE`, for node_exporter's textfile collector")
	return c
}

// statusJSON is what status --json prints.
type statusJSON struct {
	Format      int    `json:"format"`
	Environment string `json:"environment"`
	Node        string `json:"node"`
	Role        string `json:"role"`
	Healthy     bool   `json:"healthy"`
	resources.Status
	Drift        []drift       `json:"drift"` // what an apply would change
	Owed         []engine.Owed `json:"owed"`
	NextWindow   *time.Time    `json:"next_window,omitempty"`   // now, while one is open
	WindowCloses *time.Time    `json:"window_closes,omitempty"` // of one that is open
	LastRun      *lastRun      `json:"last_run,omitempty"`

	AuthorityChange *resources.AuthorityChange `json:"authority_change,omitempty"` // while one is under way
}

type drift struct {
	Address string `json:"address"`
	Summary string `json:"summary"`
	Reason  string `json:"reason,omitempty"`
}

type lastRun struct {
	Run      string        `json:"run"`
	Finished time.Time     `json:"finished,omitzero"`
	Result   engine.Result `json:"result"`
	Changed  int           `json:"changed"`
	Failures []string      `json:"failures,omitempty"`
}

func (a *app) status(cmd *cobra.Command, metrics string) error {
	st, now, err := a.look(cmd.Context())
	if err != nil {
		if metrics != "" {
			err = errors.Join(err, a.writeMetrics(metrics, untoldMetrics(now)))
		}
		return err
	}
	switch {
	case len(st.Problems) > 0:
		a.code = exitChanges
	case len(st.Unknown) > 0:
		a.code = exitFailed
	}
	st.Healthy = a.code == exitDone
	if metrics != "" {
		if err := a.writeMetrics(metrics, statusMetrics(st, now)); err != nil {
			return err
		}
	}
	if a.flags.json {
		return a.printJSON(st)
	}
	newPrinter(a).status(st, now)
	return nil
}

// look finds out how the node is. The error is for what keeps it from being told at all.
func (a *app) look(ctx context.Context) (*statusJSON, time.Time, error) {
	if err := a.roleOfLastRun(); err != nil {
		return nil, now(), err
	}
	a.looksOnly = true
	s, err := a.openSite(ctx)
	defer s.close()
	if err != nil {
		return nil, now(), err
	}
	at := s.engine.Now()
	st := &statusJSON{Format: 1, Environment: s.graph.Environment, Node: s.graph.Node, Role: s.graph.Role, Drift: []drift{}, Owed: []engine.Owed{}}
	problems := []resources.Trouble{}
	if st.LastRun, err = latest(s.engine.State); err != nil {
		st.untold("the last run", err)
	}
	st.Status = resources.Inspect(ctx, s.engine.Disk, s.graph, s.types, at, st.LastRun.ended())
	if s.misfit != nil {
		problems = append(problems, resources.Trouble{Text: engine.Redact(s.misfit.what), Mend: s.misfit.mend})
	}
	if err := st.addWaiting(s.engine.State); err != nil {
		st.untold("whether a run waits for a confirmation", err)
	}
	st.Problems = append(problems, st.Problems...)
	st.addWindow(s.windows, at)
	st.addPlan(ctx, s)
	return st, at, nil
}

func (st *statusJSON) untold(what string, err error) {
	st.Unknown = append(st.Unknown, what+": "+engine.Redact(err.Error()))
}

// ended is when a run ended; the zero time of none, and of one that was killed.
func (r *lastRun) ended() time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.Finished
}

// addWindow tells when a restart may happen by itself.
func (st *statusJSON) addWindow(windows []recipe.Window, now time.Time) {
	w, next := recipe.NextWindow(windows, now, 0)
	if next.IsZero() {
		return
	}
	st.NextWindow = &next
	if left := w.Remaining(now); left > 0 {
		closes := now.Add(left)
		st.WindowCloses = &closes
	}
}

// addPlan adds what a plan finds: what is declared and not so, and what is owed. What a role that does not fit the server
// would have is of no interest.
func (st *statusJSON) addPlan(ctx context.Context, s *site) {
	owed, err := s.engine.State.Owed()
	if err != nil {
		st.untold("what is owed", err)
	}
	st.Owed = notNil(owed)
	if s.misfit != nil {
		return
	}
	plan, err := s.engine.Plan(ctx, s.graph, s.options())
	if err != nil {
		st.untold("what an apply would change", err)
		return
	}
	st.Owed = stillOwed(owed, plan)
	st.addDrift(plan)
	st.addAuthorityChange(s.types.Change)
}

// stillOwed is what the ledger says, in the words of a plan that has looked at the evidence; with what only the evidence
// says. A plan that would change files also owes what follows from them, which nobody owes yet.
func stillOwed(ledger []engine.Owed, plan *engine.Plan) []engine.Owed {
	out := slices.Clone(ledger)
	writes := slices.ContainsFunc(plan.Changes, func(c *engine.Change) bool { return !actsOnly(c) })
	for _, p := range plan.Owed {
		i := slices.IndexFunc(out, func(o engine.Owed) bool { return o.Service == p.Service })
		switch {
		case i >= 0 && p.Action >= out[i].Action:
			p.Since = out[i].Since
			out[i] = p
		case i < 0 && !writes:
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b engine.Owed) int { return strings.Compare(a.Service, b.Service) })
	return notNil(out)
}

// actsOnly says whether a change writes no file: it reloads, restarts, runs or publishes.
func actsOnly(c *engine.Change) bool {
	return !slices.ContainsFunc(c.Ops, func(o *engine.Op) bool {
		return o.Kind != engine.OpReload && o.Kind != engine.OpRestart && o.Kind != engine.OpRun && o.Kind != engine.OpPublish
	})
}

// addWaiting tells of a run that puts its changes back unless somebody confirms them, or that was killed before.
func (st *statusJSON) addWaiting(state *engine.State) error {
	w, alive, err := state.Waiting()
	switch {
	case err != nil || w == nil:
		return err
	case !alive:
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("run %s was killed before somebody confirmed it: its changes are still there", w.Run), Mend: "converge apply, which takes them back"})
	case !w.Until.IsZero():
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("run %s puts its changes back at %s unless it is confirmed", w.Run, w.Until.Local().Format("15:04:05")), Mend: "converge confirm"})
	}
	return nil
}

func latest(state *engine.State) (*lastRun, error) {
	r, err := state.Latest()
	if err != nil || r == nil {
		return nil, err
	}
	out := &lastRun{Run: r.Run, Finished: r.Finished, Result: r.Result, Changed: len(r.Changes)}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, engine.Redact(strings.TrimPrefix(f.Address+": "+f.Error, ": ")))
	}
	return out, nil
}

// addAuthorityChange tells of a change of authorities that is under way, and of the nodes that hold it back.
func (st *statusJSON) addAuthorityChange(c *resources.AuthorityChange) {
	if c == nil || !c.UnderWay() {
		return
	}
	st.AuthorityChange = c
	if len(c.Waits) > 0 {
		st.Problems = append(st.Problems, resources.Trouble{Text: "the change of the authority waits: " + strings.Join(c.Waits, "; "), Mend: "converge apply on the nodes named, then here"})
	}
}

// addDrift adds what a plan found: what is declared and not so.
func (st *statusJSON) addDrift(plan *engine.Plan) {
	for _, c := range plan.Changes {
		st.Drift = append(st.Drift, drift{c.Address, c.Summary, c.Reason})
	}
	if n := len(plan.Changes); n > 0 {
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("%s not as declared: %s", count(n, "resource is", "resources are"), firstOf(st.Drift, 3)), Mend: "converge plan shows them, converge apply mends them"})
	}
	for _, f := range plan.Failures {
		mend := "mend that, then converge apply"
		if f.NotYet {
			mend = "converge apply on the node that it names, then here"
		}
		st.Problems = append(st.Problems, resources.Trouble{Text: f.Address + ": " + f.Error, Mend: mend})
	}
	for _, o := range st.Owed {
		mend := "converge apply"
		if o.Action == engine.Restart {
			mend = "converge restart, or wait for the maintenance window" + st.windowText()
		}
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("a %s of %s is owed since %s: %s", o.Action, o.Service, o.Since.Local().Format("2006-01-02 15:04"), o.Reason), Mend: mend})
	}
}

// firstOf names the first of what differs.
func firstOf(list []drift, most int) string {
	var names []string
	for _, d := range list[:min(len(list), most)] {
		names = append(names, d.Address)
	}
	if more := len(list) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// windowText says in brackets when the next maintenance window is.
func (st *statusJSON) windowText() string {
	switch {
	case st.NextWindow == nil:
		return " (none is declared)"
	case st.WindowCloses != nil:
		return " (open now: the next apply)"
	}
	return fmt.Sprintf(" (next on %s)", st.NextWindow.Local().Format(windowForm))
}

// windowForm is how a window's times are shown.
const windowForm = "Mon 2006-01-02 15:04 MST"
