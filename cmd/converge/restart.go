package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources"
)

// restartsCache is the state's file of how long restarts took.
const restartsCache = "restarts"

func (a *app) restartCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "restart",
		Short: "Pay now what is owed to the services of this node",
		Long: `Pay now what is owed to the services of this node, without waiting for a maintenance window: a restart where one is
owed, and no more than a reload where that is enough. No file is changed. What is owed is found out anew, from the evidence
that the server gives. Before a restart the server's own program has to say that it would start again; afterwards
the server has to show that nothing is owed any more.`,
		Example: `  converge restart
  converge restart --force   # although nothing is owed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.restart(cmd) },
	}
	c.Flags().BoolVar(&a.forceRestart, "force", false, "restart the PostgreSQL server although nothing is owed")
	return c
}

// restartJSON is what restart --json prints.
type restartJSON struct {
	Format      int                     `json:"format"`
	Environment string                  `json:"environment"`
	Node        string                  `json:"node"`
	Role        string                  `json:"role"`
	Run         string                  `json:"run,omitempty"` // none where nothing was owed
	Paid        []payment               `json:"paid"`
	Seconds     float64                 `json:"seconds"`
	Failures    []engine.Failure        `json:"failures,omitempty"`
	Owed        []engine.Owed           `json:"owed"` // still
	Server      *resources.ServerStatus `json:"server,omitempty"`
	SSL         *resources.SSLStatus    `json:"ssl,omitempty"`
	Result      engine.Result           `json:"result"`
}

// A payment is a reload or a restart, and what it was for.
type payment struct {
	Service string     `json:"service"`
	Action  string     `json:"action"`
	Reason  string     `json:"reason"`
	Since   *time.Time `json:"since,omitempty"` // where the ledger knew of it
}

func (a *app) restart(cmd *cobra.Command) error {
	if err := a.roleOfLastRun(); err != nil {
		return err
	}
	s, err := a.openSite(cmd.Context())
	defer s.close()
	if err != nil {
		return err
	}
	if a.forceRestart && s.server == nil {
		return usage("--force restarts the node's PostgreSQL server, and %s is %s, which has none", s.node.Name, s.node.Role)
	}
	o := s.options()
	o.AllowRestart = true
	services := s.graph.Services()
	plan, err := s.engine.Plan(cmd.Context(), services, o)
	if err != nil {
		return err
	}
	if err := changesNoFile(plan); err != nil {
		return err
	}
	owed, err := s.engine.State.Owed()
	if err != nil {
		return err
	}
	r := restartJSON{
		Format: 1, Environment: plan.Environment, Node: plan.Node, Role: plan.Role, Paid: payments(plan, owed), Owed: notNil(plan.Owed), Result: engine.ResultOK,
	}
	if len(plan.Failures) > 0 {
		return a.notRestarted(r, plan)
	}
	if len(r.Paid) == 0 {
		return a.nothingToPay(cmd, s, services, o, r)
	}
	return a.pay(cmd, s, services, o, r)
}

// changesNoFile refuses to pay while a killed run has left files half done: what is paid on them could be taken back.
func changesNoFile(plan *engine.Plan) error {
	for _, c := range plan.Changes {
		if !actsOnly(c) {
			return &engine.RefusedError{Reason: fmt.Sprintf("%s: %s is still to be done (%s), and converge restart changes no file: run converge apply first", c.Address, c.Summary, c.Reason)}
		}
	}
	return nil
}

// payments are what a plan of the services comes to.
func payments(plan *engine.Plan, ledger []engine.Owed) []payment {
	paid := []payment{}
	for _, c := range plan.Changes {
		for _, o := range c.Ops {
			p := payment{Service: o.Service, Action: string(o.Kind), Reason: c.Reason}
			for _, known := range ledger {
				if known.Service == o.Service {
					p.Since = &known.Since
				}
			}
			paid = append(paid, p)
		}
	}
	return paid
}

func (a *app) notRestarted(r restartJSON, plan *engine.Plan) error {
	r.Result, r.Failures, r.Paid = engine.ResultFailed, plan.Failures, []payment{}
	if a.flags.json {
		a.printJSON(r)
	} else {
		newPrinter(a).failures(plan.Failures)
	}
	return failuresExit(plan.Failures)
}

// nothingToPay is the end where no service needs anything. A debt that the evidence does not bear out is struck out; what
// has to wait although everything is allowed is told, and is not done.
func (a *app) nothingToPay(cmd *cobra.Command, s *site, services *engine.Graph, o engine.Options, r restartJSON) error {
	if owed, err := s.engine.State.Owed(); err != nil {
		return err
	} else if len(owed) > len(r.Owed) {
		if _, err := s.engine.Apply(cmd.Context(), services, o); err != nil {
			return err
		}
	}
	if len(r.Owed) > 0 {
		r.Result = engine.ResultFailed
	}
	switch {
	case a.flags.json:
		a.printJSON(r)
	case len(r.Owed) == 0:
		newPrinter(a).linef("Nothing is owed.")
	default:
		newPrinter(a).owed(r.Owed)
	}
	if len(r.Owed) > 0 {
		return silentError(exitFailed)
	}
	return nil
}

// pay carries out what is owed, and shows the proof.
func (a *app) pay(cmd *cobra.Command, s *site, services *engine.Graph, o engine.Options, r restartJSON) error {
	p := newPrinter(a)
	if !a.flags.json {
		p.linef("%s", p.paint(bold, title(r.Environment, r.Node, r.Role, s)))
		p.linef("")
		p.toPay(r.Paid, s)
		a.out.flush() // it may be the last word for some time
	}
	s.engine.Observe = a.logEvent
	a.followLong(s.engine)
	rep, err := s.engine.Apply(cmd.Context(), services, o)
	a.rememberRestarts(s)
	if err != nil {
		return err
	}
	st := resources.Inspect(cmd.Context(), s.engine.Disk, services, s.types, s.engine.Now(), rep.Finished)
	r.Run, r.Failures, r.Owed, r.Result = rep.Run, rep.Failures, notNil(rep.Owed), rep.Result
	r.Server, r.SSL, r.Seconds = st.Server, st.SSL, rep.Finished.Sub(rep.Started).Seconds()
	if rep.Result != engine.ResultOK {
		r.Paid = []payment{}
	}
	if a.flags.json {
		a.printJSON(r)
	} else {
		p.warnings(rep.Warnings)
		p.failures(rep.Failures)
		p.paid(&r)
	}
	return a.applyExit(rep, runFlags{})
}

// toPay shows what is about to happen, and why.
func (p *printer) toPay(list []payment, s *site) {
	for _, pay := range list {
		since := ""
		if pay.Since != nil {
			since = ", owed since " + pay.Since.Local().Format("2006-01-02 15:04")
		}
		sign := signs[pay.Action]
		p.linef("%s %s of %s%s", p.paint(sign.color, sign.sign), pay.Action, pay.Service, since)
		p.linef("    because %s", pay.Reason)
		if pay.Action == string(engine.OpRestart) && s.server != nil {
			p.linef("    it takes %s", s.types.Restarts.Expect(s.server.DataDirectory))
		}
	}
	p.linef("")
}

// paid shows what there is to show for it.
func (p *printer) paid(r *restartJSON) {
	if r.Result != engine.ResultOK {
		p.linef("%s: it is still owed.", p.paint(red, "Failed"))
		p.owed(r.Owed)
		return
	}
	p.linef("Paid in %s (converge history %s).", time.Duration(r.Seconds*float64(time.Second)).Round(time.Millisecond), r.Run)
	if s := r.Server; s != nil && s.Started != nil {
		text := fmt.Sprintf("Proof: %s is %s since %s", s.Name, s.Phase, s.Started.Local().Format("15:04:05"))
		if r.SSL.Served == "on" {
			text += ", answers with " + r.SSL.Protocol
		}
		p.linef("%s, and runs with everything that is on the disk.", strings.TrimSpace(text))
	}
	p.owed(r.Owed)
}

// rememberRestarts keeps what a run has measured. That it cannot be kept is no reason to fail: the next restart is given
// what is known then.
func (a *app) rememberRestarts(s *site) {
	if s.types.Restarts == nil || !s.types.Restarts.Fresh() {
		return
	}
	if err := s.engine.State.WriteCache(restartsCache, s.types.Restarts); err != nil {
		a.log.Warn().Err(err).Msg("how long the restart took is not kept")
	}
}
