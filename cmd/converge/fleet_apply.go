package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

func (a *app) fleetApplyCommand() *cobra.Command {
	var f fleetRunFlags
	var within time.Duration
	c := &cobra.Command{
		Use:   "apply",
		Short: "Make every node what its recipes say, in a safe order",
		Long: `Run converge apply on the nodes: the master first; then the replicas, one at a time, each proven healthy and replicating
before the next; then all others, several at once. When a database node fails, no further one is begun; when the
master fails, no other node is. Nodes that wait for the master's next run get it: there are up to three rounds.`,
		Example: `  converge fleet apply -e environment.hcl
  converge fleet apply -e environment.hcl --push --recipes ./recipes
  converge fleet apply --only db2 --allow-restart
  converge fleet apply --json > applied.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.fleetApply(cmd, f, within) },
	}
	f.flags(a, c)
	c.Flags().DurationVar(&f.run.wait, "wait", 0, "let each node wait up to this `TIME`, such as 2m, for what other nodes have to do first")
	c.Flags().DurationVar(&within, "proof-within", time.Minute, "how long a replica may take to stream again (`TIME`)")
	return c
}

func (a *app) fleetApply(cmd *cobra.Command, f fleetRunFlags, within time.Duration) error {
	args, err := f.arguments(a)
	if err != nil {
		return err
	}
	if within < 0 || within > time.Hour {
		return usage("--proof-within %s: at most 1h", within)
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
	r := &rollout{fleet: fl, args: args, push: push, within: within, results: map[string]*fleetNode{}}
	r.apply(cmd.Context())
	nodes := r.inOrder()
	if err := fl.showApply(nodes); err != nil {
		return err
	}
	a.code = fleetExit(nodes, f.run.detailedExitcode)
	return nil
}

// A rollout is one fleet apply.
type rollout struct {
	*fleet
	args   []string
	push   *pusher
	within time.Duration // for a replica to stream again

	results map[string]*fleetNode
	broken  string // why no further database node is begun; "" as long as all is well
	master  string // why no further node is
}

// maxRounds is enough for what waits on the master: its certificate is asked for in the first round, and fetched in the
// second. A third one is for a replica whose request came after the master had looked.
const maxRounds = 3

// apply runs the nodes, and runs those again that wait for the master's next run.
func (r *rollout) apply(ctx context.Context) {
	r.pass(ctx, r.nodes)
	for round := 2; round <= maxRounds && r.broken == "" && ctx.Err() == nil; round++ {
		again := r.waiting()
		if again == nil {
			return
		}
		r.tell(r.env.Name, "round %d, for what waits on the master", round)
		r.pass(ctx, again)
	}
}

// waiting are the nodes for another round: those that are not yet done, and the master that they wait for. Where the
// master is not of the fleet, or is the one that waits, nobody would make what they wait for: then it is nil.
func (r *rollout) waiting() []recipe.Node {
	again := slices.DeleteFunc(slices.Clone(r.nodes), func(n recipe.Node) bool {
		return !isMaster(n) && r.results[n.Name].Result != fleetNotYet
	})
	if !slices.ContainsFunc(again, isMaster) || len(again) == 1 {
		return nil
	}
	return again
}

func isMaster(n recipe.Node) bool  { return n.Role == "db_master" || n.Role == "solo" }
func isReplica(n recipe.Node) bool { return n.Role == "db_replica" }

// pass runs nodes once in the safe order.
func (r *rollout) pass(ctx context.Context, nodes []recipe.Node) {
	var others []recipe.Node
	for _, n := range nodes {
		if isMaster(n) {
			r.keep(n, r.turn(ctx, n, r.broken))
		} else if !isReplica(n) {
			others = append(others, n)
		}
	}
	for _, n := range nodes {
		if isReplica(n) {
			r.keep(n, r.turn(ctx, n, r.broken))
		}
	}
	done := inParallel(r.app.flags.parallelism, others, func(n recipe.Node) *fleetNode { return r.turn(ctx, n, r.master) })
	for i, n := range others {
		r.keep(n, done[i])
	}
}

// turn runs one node, unless something is in the way.
func (r *rollout) turn(ctx context.Context, n recipe.Node, inTheWay string) *fleetNode {
	switch {
	case inTheWay != "":
		return notRun(n, inTheWay)
	case ctx.Err() != nil:
		return notRun(n, errStopped.Error())
	}
	node := r.run(ctx, n)
	words := node.Result.String()
	if node.Document != nil {
		words += fmt.Sprintf(" (%d changed, %d unchanged)", node.Changed, node.Unchanged)
	}
	if node.Error != "" {
		words += ": " + node.Error
	}
	r.tell(n.Name, "%s", words)
	return node
}

// run pushes, applies, and has a replica prove itself.
func (r *rollout) run(ctx context.Context, n recipe.Node) *fleetNode {
	var pushed *fleetNode
	if r.results[n.Name] == nil {
		if pushed = r.push.to(n); pushed.stops() {
			return pushed
		}
	}
	r.tell(n.Name, "apply, as %s", n.Role)
	node := pushed.then(r.applyOn(n))
	if isReplica(n) && !node.Result.broken() {
		r.prove(ctx, n, node)
	}
	return node
}

// keep notes what came of a node, with what came of it in earlier rounds.
func (r *rollout) keep(n recipe.Node, node *fleetNode) {
	r.results[n.Name] = node.after(r.results[n.Name])
	if !isDatabase(n.Role) || r.broken != "" || whatBroke[node.Result] == "" {
		return
	}
	r.broken = fmt.Sprintf("because %s %s", n.Name, whatBroke[node.Result])
	if isMaster(n) {
		r.master = r.broken
	}
}

// whatBroke are the results that end the order, as they are said of a node.
var whatBroke = map[fleetResult]string{
	fleetFailed: "failed", fleetRefused: "was refused", fleetUnreachable: "is unreachable",
}

// after joins a node's round with those before it.
func (n *fleetNode) after(before *fleetNode) *fleetNode {
	switch {
	case before == nil:
		return n
	case n.Result == fleetNotRun:
		before.warn("not run again: %s", n.Error)
		return before
	}
	n.Rounds += before.Rounds
	n.Changed += before.Changed
	n.Pushed = before.Pushed
	n.pushWarnings = before.pushWarnings // its other warnings may be mended by now
	n.Warnings = append(slices.Clone(n.pushWarnings), n.Warnings...)
	if n.Result == fleetOK && n.Changed > 0 {
		n.Result = fleetChanged
	}
	return n
}

func (r *rollout) inOrder() []*fleetNode {
	nodes := make([]*fleetNode, len(r.nodes))
	for i, n := range r.nodes {
		nodes[i] = r.results[n.Name]
	}
	return nodes
}

// applyOn runs apply on a node, and tells what it does while it does it.
func (r *rollout) applyOn(n recipe.Node) *fleetNode {
	node, a := r.converge(n, func(l []byte) { r.tellEvent(n, l) }, "apply", r.args...)
	var d doneJSON
	switch err := json.Unmarshal(node.Document, &d); {
	case node.Document == nil || err == nil && d.Event != engine.EventDone:
		node.Document = nil
		if !node.Result.broken() {
			node.fail("it ended with %d before it was done%s", a.code, a.because())
		}
	case err != nil:
		node.fail("what its apply says cannot be read: %v", err)
	case misfit(n, d.Format, d.Node, d.Role) != "":
		node.fail("%s", misfit(n, d.Format, d.Node, d.Role))
	default:
		node.Changed, node.Unchanged, node.Owed = d.Changed, d.Unchanged, notNil(d.Owed)
		node.takeFailures(d.Failures, d.Warnings)
		if d.Result == engine.ResultStopped && node.Error == "" {
			node.Error = "stopped by a signal on the node; not run: " + strings.Join(d.NotRun, ", ")
		}
	}
	if node.Result == fleetChanges {
		node.Result = fleetChanged
	}
	r.explain(n, node, a)
	return node
}

// tellEvent tells what an apply has just done, but for what only a machine wants to know.
func (r *rollout) tellEvent(n recipe.Node, line []byte) {
	var ev engine.Event
	if json.Unmarshal(line, &ev) != nil {
		return
	}
	switch ev.Event {
	case engine.EventChange:
		if ev.Change != nil {
			r.tell(n.Name, "change %s: %s", ev.Address, ev.Change.Summary)
		}
	case engine.EventFail:
		if ev.NotYet {
			r.tell(n.Name, "%s waits: %s", ev.Address, ev.Error)
			return
		}
		r.tell(n.Name, "fail %s: %s", ev.Address, ev.Error)
	case engine.EventSkip:
		r.tell(n.Name, "skip %s, because of %s", ev.Address, ev.Cause)
	case engine.EventUndo:
		r.tell(n.Name, "undo %s, because %s", ev.Address, ev.Cause)
	}
}

// proofPause lies between two looks at a replica that does not stream yet.
const proofPause = time.Second

// prove has a replica show that it is healthy and replicates, within the time that a standby takes to connect again after
// a restart. One that does not has failed.
func (r *rollout) prove(ctx context.Context, n recipe.Node, node *fleetNode) {
	deadline := now().Add(r.within)
	for {
		st := r.statusOf(n)
		missing := unproven(st, node.Result)
		node.Replication = st.Replication
		if missing == "" {
			r.proven(n, node, st)
			return
		}
		if ctx.Err() != nil || now().After(deadline) {
			node.fail("not proven: %s", missing)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(proofPause):
		}
	}
}

// proven tells of it, and warns of problems that are no reason to stop. Of a node that waits for another one they are what
// it waits for.
func (r *rollout) proven(n recipe.Node, node *fleetNode, st *fleetNode) {
	r.tell(n.Name, "proven: it streams%s", fromSender(st.Replication))
	if node.Result == fleetNotYet {
		return
	}
	for _, t := range st.status.Problems {
		if !slices.ContainsFunc(node.Owed, func(o engine.Owed) bool { return strings.Contains(t.Text, o.Reason) }) {
			node.warn("%s", t.Text)
		}
	}
}

// unproven says what is missing in the status of a replica before the next one may be touched, or "". What is owed, or
// waits for another node, is told by its run already; certificates that end soon are no reason to stop.
func unproven(st *fleetNode, result fleetResult) string {
	s := st.status
	switch {
	case s == nil:
		return "its status could not be had: " + st.Error
	case s.Server == nil:
		return "its status shows no server"
	case s.Server.Phase != postgres.Running:
		return fmt.Sprintf("%s is %s", s.Server.Name, s.Server.Phase)
	case s.Server.Starts != "yes" && s.Server.Starts != "unknown":
		return "the server would not start again: " + s.Server.Starts
	case s.HBA != nil && s.HBA.Loaded == "no" && result != fleetOwed:
		return "the server has not loaded its pg_hba.conf"
	case len(s.Drift) > 0 && result != fleetOwed && result != fleetNotYet:
		return fmt.Sprintf("%s is not as declared", s.Drift[0].Address)
	case s.Replication == nil:
		return "its status does not tell whether it replicates: its converge is of an older version, or the server cannot be asked"
	case !s.Replication.InRecovery:
		return "it is not in recovery: it follows nobody"
	case !s.Replication.Streaming:
		return "it is in recovery, and no WAL receiver streams"
	}
	return ""
}

func fromSender(r *postgres.Replication) string {
	text := ""
	if r.Sender != "" {
		text = " from " + r.Sender
	}
	if r.Lag != nil {
		text += fmt.Sprintf(", %d bytes not replayed", *r.Lag)
	}
	return text
}
