package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"converge/engine"
)

func (a *app) historyCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "history [RUN]",
		Short: "Show past runs and what they did",
		Example: `  converge history
  converge history 20261124T030000.000-4f2a91`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.history(args, all) },
	}
	c.Flags().BoolVar(&all, "all", false, "show the runs that found nothing to do as well")
	return c
}

func (a *app) history(args []string, all bool) error {
	if os.Geteuid() != 0 {
		return errors.New("the history belongs to root: run it with sudo")
	}
	s := &site{}
	if err := a.openEngine(s); err != nil {
		return err
	}
	if len(args) == 1 {
		rep, err := s.engine.State.Report(args[0])
		if err != nil {
			return err
		}
		return a.showRun(rep)
	}
	reports, err := s.engine.State.History()
	if err != nil {
		return err
	}
	if a.flags.json {
		return a.printJSON(map[string]any{"format": 1, "runs": notNil(reports)})
	}
	return a.listRuns(reports, all)
}

func (a *app) listRuns(reports []*engine.Report, all bool) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tSTARTED\tRESULT\tCHANGED\tFAILED\tDISRUPTION")
	idle := 0
	for _, r := range reports {
		if !all && r.Result == engine.ResultOK && len(r.Changes) == 0 {
			idle++
			continue
		}
		started := "unknown"
		if !r.Started.IsZero() {
			started = r.Started.Local().Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.Run, started, r.Result, len(r.Changes), len(r.Failures), r.Disruption)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if idle > 0 {
		fmt.Fprintf(a.stdout, "%s that found nothing to do: converge history --all\n", count(idle, "run", "runs"))
	}
	return nil
}

func (a *app) showRun(rep *engine.Report) error {
	if a.flags.json {
		return a.printJSON(rep)
	}
	p := newPrinter(a)
	p.linef("Run %s in %s: %s as %s, %s", rep.Run, rep.Environment, rep.Node, rep.Role, rep.Result)
	if !rep.Started.IsZero() {
		p.linef("from %s to %s", rep.Started.Local().Format("2006-01-02 15:04:05"), rep.Finished.Local().Format("15:04:05"))
	}
	p.linef("")
	for _, c := range rep.Changes {
		p.change(c)
	}
	p.report(rep)
	return nil
}
