package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"converge/engine/recipe"
)

func (a *app) fleetStatusCommand() *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how every node is",
		Long: `Run converge status on the nodes, several at once. The exit code is 0 when all of them are well, 2 when something needs
the operator, 1 when a node was not reached or could not tell.`,
		Example: `  converge fleet status -e environment.hcl
  converge fleet status --only db_master --only db_replica
  converge fleet status --json | jq '.nodes[] | select(.result != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.fleetStatus(cmd, f) },
	}
	f.chooseFlags(c)
	f.sshFlags(c)
	return c
}

func (a *app) fleetStatus(cmd *cobra.Command, f fleetFlags) error {
	if len(a.flags.recipes) > 0 {
		return usage("--recipes: each node reads its own %s; converge fleet apply --push copies yours there", defaultRecipesDir)
	}
	fl, err := a.openFleet(cmd, f)
	if err != nil {
		return err
	}
	if err := fl.reach(cmd, f); err != nil {
		return err
	}
	nodes := fl.everywhere(cmd.Context(), fl.statusOf)
	if err := fl.showStatus(nodes); err != nil {
		return err
	}
	a.code = fleetExit(nodes, false)
	return nil
}

// statusOf asks one node how it is.
func (fl *fleet) statusOf(n recipe.Node) *fleetNode {
	node, a := fl.converge(n, func([]byte) {}, "status")
	var st statusJSON
	switch err := json.Unmarshal(node.Document, &st); {
	case node.Document == nil:
		if !node.Result.broken() {
			node.fail("it ended with %d and printed no status%s", a.code, a.because())
		}
		if node.Result == fleetRefused {
			node.Result = fleetFailed // a refusal to say how it is leaves it untold
		}
	case err != nil:
		node.fail("its status cannot be read: %v", err)
	case misfit(n, st.Format, st.Node, st.Role) != "":
		node.fail("%s", misfit(n, st.Format, st.Node, st.Role))
	default:
		node.status, node.Replication = &st, st.Replication
		node.Changed, node.Owed = len(st.Drift), notNil(st.Owed)
		node.judgeStatus(&st)
	}
	fl.explain(n, node, a)
	return node
}

// judgeStatus turns a status into a result. What needs the operator comes before what could not be told, as on the node.
func (n *fleetNode) judgeStatus(st *statusJSON) {
	switch {
	case len(st.Problems) > 0:
		n.Result, n.Error = fleetAttention, st.Problems[0].Text
	case len(st.Unknown) > 0:
		n.Result, n.Error = fleetUnknown, st.Unknown[0]
	case n.Result != fleetOK:
		n.fail("it ended with %d, and its status tells of no problem", *n.Exit)
	}
}
