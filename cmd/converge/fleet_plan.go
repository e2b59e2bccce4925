package main

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
)

// fleetRunFlags are those of fleet plan and fleet apply.
type fleetRunFlags struct {
	fleetFlags
	run  runFlags
	push bool
}

func (f *fleetRunFlags) flags(a *app, c *cobra.Command) {
	f.chooseFlags(c)
	f.sshFlags(c)
	a.runFlags(c, &f.run)
	c.Flags().BoolVar(&f.push, "push", false, "first copy this program, the environment file and the recipes (of --recipes, or of "+defaultRecipesDir+" here) to the node")
}

// arguments are what plan and apply on a node are told. Their exit status has to say whether there are changes.
func (f *fleetRunFlags) arguments(a *app) ([]string, error) {
	if _, err := engine.ParseDisruption(f.run.maxDisruption); err != nil {
		return nil, usage("--max-disruption: %w", err)
	}
	if f.run.wait < 0 || f.run.wait > 24*time.Hour {
		return nil, usage("--wait %s: between 1s and 24h", f.run.wait)
	}
	if len(a.flags.recipes) > 0 && !f.push {
		return nil, usage("--recipes: each node reads its own %s; --push copies yours there", defaultRecipesDir)
	}
	args := []string{"--detailed-exitcode", "--max-disruption=" + f.run.maxDisruption}
	if f.run.allowRestart {
		args = append(args, "--allow-restart")
	}
	if a.flags.acceptLockout {
		args = append(args, "--accept-lockout")
	}
	if f.run.wait != 0 {
		args = append(args, "--wait="+f.run.wait.String())
	}
	return args, nil
}

func (a *app) fleetPlanCommand() *cobra.Command {
	var f fleetRunFlags
	var diff bool
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what a fleet apply would do; write nothing",
		Long: `Run converge plan on the nodes, several at once, and show what each would change and who would gain or lose access. It
writes nothing on a node, but for --push: that copies the program, the environment file and recipes there first.`,
		Example: `  converge fleet plan -e environment.hcl
  converge fleet plan -e environment.hcl --only db_replica --diff
  converge fleet plan --json | jq '.nodes[] | {node, changed}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.fleetPlan(cmd, f, diff) },
	}
	f.flags(a, c)
	c.Flags().BoolVar(&diff, "diff", false, "show each node's whole plan, with the diffs of its files")
	return c
}

func (a *app) fleetPlan(cmd *cobra.Command, f fleetRunFlags, diff bool) error {
	args, err := f.arguments(a)
	if err != nil {
		return err
	}
	fl, err := a.openFleet(cmd, f.fleetFlags)
	if err != nil {
		return err
	}
	if err := fl.reach(cmd, f.fleetFlags); err != nil {
		return err
	}
	push, err := fl.pusher(f.push)
	if err != nil {
		return err
	}
	nodes := fl.everywhere(cmd.Context(), func(n recipe.Node) *fleetNode {
		pushed := push.to(n)
		if pushed.stops() {
			return pushed
		}
		return pushed.then(fl.planOf(n, args))
	})
	if err := fl.showPlans(nodes, diff); err != nil {
		return err
	}
	a.code = fleetExit(nodes, f.run.detailedExitcode)
	return nil
}

// planOf asks one node for its plan.
func (fl *fleet) planOf(n recipe.Node, args []string) *fleetNode {
	node, a := fl.converge(n, func([]byte) {}, "plan", args...)
	var p planJSON
	switch err := json.Unmarshal(node.Document, &p); {
	case node.Document == nil:
		if !node.Result.broken() {
			node.fail("it ended with %d and printed no plan%s", a.code, a.because())
		}
	case err != nil:
		node.fail("its plan cannot be read: %v", err)
	case misfit(n, p.Format, p.Node, p.Role) != "":
		node.fail("%s", misfit(n, p.Format, p.Node, p.Role))
	default:
		node.plan, node.Changed, node.Unchanged, node.Owed = &p, len(p.Changes), p.Unchanged, notNil(p.Owed)
		node.takeFailures(p.Failures, p.Warnings)
	}
	fl.explain(n, node, a)
	return node
}

// takeFailures takes the reason and the warnings of a run from its document.
func (n *fleetNode) takeFailures(failures []engine.Failure, warnings []engine.Warning) {
	if n.Error == "" {
		n.Error = firstFailure(failures)
	}
	for _, w := range warnings {
		n.warn("%s: %s", w.Address, w.Text)
	}
}

// stops says that a push ended what was to be done with the node.
func (n *fleetNode) stops() bool { return n != nil && n.Result.broken() }

// then is what comes of a node after something was pushed to it.
func (n *fleetNode) then(next *fleetNode) *fleetNode {
	if n != nil {
		next.Pushed = n.Pushed
		next.pushWarnings = n.Warnings
		next.Warnings = append(slices.Clone(n.Warnings), next.Warnings...)
	}
	return next
}

// fleetExit is the exit code for what came of all nodes. With detailed it tells of changes and debts.
func fleetExit(nodes []*fleetNode, detailed bool) int {
	has := func(results ...fleetResult) bool { return anyResult(nodes, results...) }
	switch {
	case has(fleetFailed, fleetUnreachable, fleetUnknown):
		return exitFailed
	case has(fleetRefused):
		return exitRefused
	case has(fleetNotRun):
		return exitFailed
	case has(fleetNotYet):
		return exitNotYet
	case has(fleetAttention):
		return exitChanges
	case detailed && has(fleetChanges): // as of a plan of one node
		return exitChanges
	case detailed && has(fleetOwed):
		return exitOwed
	case detailed && has(fleetChanged):
		return exitChanges
	}
	return exitDone
}

func anyResult(nodes []*fleetNode, results ...fleetResult) bool {
	return slices.ContainsFunc(nodes, func(n *fleetNode) bool { return slices.Contains(results, n.Result) })
}
