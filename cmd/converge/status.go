package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources"
	"converge/resources/postgres"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is declared, what is on disk and what is served",
		Long: `Show what is declared, what is on disk and what is served. What is served comes from evidence: a TLS handshake, and the
server's views. The exit code is 0 when all is well, 2 when something needs the operator, 1 when it could not be told.`,
		Example: "  converge status\n  converge status --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.status(cmd) },
	}
}

// statusJSON is what status --json prints.
type statusJSON struct {
	Format      int    `json:"format"`
	Environment string `json:"environment"`
	Node        string `json:"node"`
	Role        string `json:"role"`
	Healthy     bool   `json:"healthy"`
	resources.Status
	Drift      []drift       `json:"drift"` // what an apply would change
	Owed       []engine.Owed `json:"owed"`
	NextWindow *time.Time    `json:"next_window,omitempty"`
	LastRun    *lastRun      `json:"last_run,omitempty"`
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
}

func (a *app) status(cmd *cobra.Command) error {
	if err := a.roleOfLastRun(); err != nil {
		return err
	}
	s, err := a.openSite(cmd.Context())
	defer s.close()
	if err != nil {
		return err
	}
	st := statusJSON{Format: 1, Environment: s.graph.Environment, Node: s.graph.Node, Role: s.graph.Role, Drift: []drift{}}
	now := s.engine.Now()
	st.Status = resources.Inspect(cmd.Context(), s.engine.Disk, s.graph, s.types, now)
	if st.Owed, err = s.engine.State.Owed(); err != nil {
		return err
	}
	st.Owed = notNil(st.Owed)
	st.NextWindow = nextWindow(s.windows, now)
	if err := st.addWaiting(s.engine.State); err != nil {
		return err
	}
	if st.LastRun, err = latest(s.engine.State); err != nil {
		return err
	}
	plan, err := s.engine.Plan(cmd.Context(), s.graph, s.options())
	if err != nil {
		return err
	}
	st.addDrift(plan)
	st.Healthy = len(st.Problems) == 0
	switch {
	case len(st.Problems) > 0:
		a.code = exitChanges
	case len(st.Unknown) > 0:
		st.Healthy, a.code = false, exitFailed
	}
	if a.flags.json {
		return a.printJSON(st)
	}
	newPrinter(a).status(&st, now)
	return nil
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

// roleOfLastRun takes, where neither an environment file nor --role says what this host is, the role that it had last.
func (a *app) roleOfLastRun() error {
	if a.flags.role != "" || os.Geteuid() != 0 {
		return nil
	}
	if source, err := a.environmentSource(); source != nil || err != nil {
		return err
	}
	s := &site{}
	if err := a.openEngine(s); err != nil {
		return err
	}
	r, err := s.engine.State.Latest()
	if err == nil && r != nil {
		a.flags.role = r.Role
	}
	return err
}

func nextWindow(windows []recipe.Window, now time.Time) *time.Time {
	var next *time.Time
	for _, w := range windows {
		if t := w.Next(now); !t.IsZero() && (next == nil || t.Before(*next)) {
			next = &t
		}
	}
	return next
}

func latest(state *engine.State) (*lastRun, error) {
	r, err := state.Latest()
	if err != nil || r == nil {
		return nil, err
	}
	return &lastRun{Run: r.Run, Finished: r.Finished, Result: r.Result}, nil
}

// addDrift adds what a plan found: what is declared and not so.
func (st *statusJSON) addDrift(plan *engine.Plan) {
	for _, c := range plan.Changes {
		st.Drift = append(st.Drift, drift{c.Address, c.Summary, c.Reason})
	}
	if n := len(plan.Changes); n > 0 {
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("%s not as declared", count(n, "resource is", "resources are")), Mend: "converge plan shows them, converge apply mends them"})
	}
	for _, f := range plan.Failures {
		st.Problems = append(st.Problems, resources.Trouble{Text: f.Address + ": " + f.Error})
	}
	for _, o := range st.Owed {
		mend := "converge apply"
		if o.Action == engine.Restart {
			mend = "converge apply --allow-restart, or wait for the maintenance window"
		}
		st.Problems = append(st.Problems, resources.Trouble{Text: fmt.Sprintf("a %s of %s is owed since %s: %s", o.Action, o.Service, o.Since.Local().Format("2006-01-02 15:04"), o.Reason), Mend: mend})
	}
}

// status shows the screen: problems first, then the three states, then keys and debts.
func (p *printer) status(st *statusJSON, now time.Time) {
	p.linef("%s", p.paint(bold, fmt.Sprintf("%s: %s as %s", st.Environment, st.Node, st.Role)))
	if s := st.Server; s != nil {
		line := fmt.Sprintf("%s is %s", s.Name, s.Phase)
		if s.Started != nil {
			line = fmt.Sprintf("%s (%s) is %s, up %s", s.Name, s.Version, s.Phase, ago(now.Sub(*s.Started)))
		}
		p.linef("%s", line)
	}
	p.replication(st.Replication)
	p.linef("")
	for _, t := range st.Problems {
		p.linef("%s %s", p.paint(red, "!"), strings.ReplaceAll(t.Text, "\n", "\n  "))
		if t.Mend != "" {
			p.linef("    mend: %s", t.Mend)
		}
	}
	for _, u := range st.Unknown {
		p.linef("%s %s", p.paint(yellow, "?"), u)
	}
	if st.Healthy {
		p.linef("%s", p.paint(green, "All is well."))
	}
	p.linef("")
	p.states(st)
	p.linef("")
	p.debts(st)
}

// replication is whom the server follows, and who follows it.
func (p *printer) replication(r *postgres.Replication) {
	switch {
	case r == nil || !r.InRecovery && len(r.Standbys) == 0:
	case r.InRecovery && !r.Streaming:
		p.linef("%s", p.paint(red, "It is a standby, and does not stream"))
	case r.InRecovery:
		lag := ""
		if r.Lag != nil {
			lag = fmt.Sprintf(", %d bytes not replayed", *r.Lag)
		}
		p.linef("It streams from %s%s", orUnknown(r.Sender), lag)
	default:
		var names []string
		for _, s := range r.Standbys {
			how := "TLS"
			if !s.TLS {
				how = "no TLS"
			}
			names = append(names, fmt.Sprintf("%s (%s, %s, %s)", s.Name, orUnknown(s.Address), s.State, how))
		}
		p.linef("Followed by %s", strings.Join(names, ", "))
	}
}

// states is the table of declared, on disk and served.
func (p *printer) states(st *statusJSON) {
	w := tabwriter.NewWriter(p.w, 0, 0, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\tDECLARED\tON DISK\tSERVED")
	if s := st.SSL; s != nil {
		served := s.Served
		if s.Protocol != "" {
			served += ", " + s.Protocol
		}
		fmt.Fprintf(w, "ssl\t%s\t%s\t%s\n", s.Declared, s.OnDisk, served)
	}
	if h := st.HBA; h != nil {
		served := map[string]string{"yes": "loaded", "no": "not loaded"}[h.Loaded]
		fmt.Fprintf(w, "pg_hba.conf\t%s\t%d rules, %d errors\t%s\n", declaredAs(st, "file_block.pg_hba"), h.Rules, len(h.Errors), orUnknown(served))
	}
	if c := st.Authority; c != nil {
		fmt.Fprintf(w, "authority\t%s\t%s\t%s\n", declaredAs(st, c.Address), c.Short(), orUnknown(map[string]string{"yes": "trusted", "no": "not trusted"}[c.Served]))
	}
	if c := st.ServerKey; c != nil {
		fmt.Fprintf(w, "server certificate\t%s\t%s\t%s\n", declaredAs(st, c.Address), c.Short(), orUnknown(map[string]string{"yes": "this one", "no": "another one"}[c.Served]))
	}
	for _, c := range st.UserKeys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Address, declaredAs(st, c.Address), c.Short(), c.Path)
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// declaredAs says whether a step's resource is as declared.
func declaredAs(st *statusJSON, address string) string {
	for _, d := range st.Drift {
		if d.Address == address {
			return "differs"
		}
	}
	return "as declared"
}

// debts is what is owed, the window, and the last run.
func (p *printer) debts(st *statusJSON) {
	if len(st.Owed) == 0 {
		p.linef("Owed: nothing")
	}
	p.owed(st.Owed)
	if st.NextWindow != nil {
		p.linef("Next maintenance window: %s", st.NextWindow.Local().Format("Mon 2006-01-02 15:04 MST"))
	}
	if st.Server != nil {
		p.linef("Would the server start again: %s", st.Server.Starts)
	}
	if r := st.LastRun; r == nil {
		p.linef("Last run: none")
	} else {
		p.linef("Last run: %s, %s (converge history %s)", r.Finished.Local().Format("2006-01-02 15:04:05"), r.Result, r.Run)
	}
}

// ago is a duration as people say it.
func ago(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d minutes", int(d.Minutes()))
}
