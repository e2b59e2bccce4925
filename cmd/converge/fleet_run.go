package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

// A fleetResult is what came of one node. Its words are part of the JSON contract.
type fleetResult string

const (
	fleetOK          fleetResult = "ok"
	fleetChanges     fleetResult = "changes" // of plan: there are some to make
	fleetChanged     fleetResult = "changed" // of apply
	fleetOwed        fleetResult = "owed"    // done, and a restart is owed
	fleetAttention   fleetResult = "attention"
	fleetUnknown     fleetResult = "unknown" // of status: it could not tell
	fleetFailed      fleetResult = "failed"
	fleetRefused     fleetResult = "refused"
	fleetNotYet      fleetResult = "not_yet" // waits for another node's run
	fleetUnreachable fleetResult = "unreachable"
	fleetNotRun      fleetResult = "not_run"
)

// String is the result as people read it.
func (r fleetResult) String() string { return strings.ReplaceAll(string(r), "_", " ") }

// broken says whether the node is not where it should be: nothing may follow that relies on it.
func (r fleetResult) broken() bool {
	return r == fleetFailed || r == fleetRefused || r == fleetUnreachable || r == fleetNotRun
}

// A fleetNode is what came of one node: one object in nodes of fleet --json.
type fleetNode struct {
	Node        string                `json:"node"`
	Role        string                `json:"role"`
	Result      fleetResult           `json:"result"`
	Exit        *int                  `json:"exit,omitempty"` // of the remote command; of ssh where it was not reached
	Rounds      int                   `json:"rounds"`         // how often it was run
	Changed     int                   `json:"changed"`        // of plan: to change
	Unchanged   int                   `json:"unchanged"`
	Owed        []engine.Owed         `json:"owed"`
	Replication *postgres.Replication `json:"replication,omitempty"`
	Pushed      []string              `json:"pushed,omitempty"` // paths
	Error       string                `json:"error,omitempty"`
	Warnings    []string              `json:"warnings,omitempty"`
	Document    json.RawMessage       `json:"document,omitempty"` // of plan and status theirs, of apply the event "done"

	plan   *planJSON
	status *statusJSON

	pushWarnings []string // those of its warnings that come from a push
}

func newFleetNode(n recipe.Node) *fleetNode {
	return &fleetNode{Node: n.Name, Role: n.Role, Owed: []engine.Owed{}}
}

func notRun(n recipe.Node, cause string) *fleetNode {
	node := newFleetNode(n)
	node.Result, node.Error = fleetNotRun, cause
	return node
}

func (n *fleetNode) warn(format string, args ...any) {
	n.Warnings = append(n.Warnings, fmt.Sprintf(format, args...))
}

// fail makes it failed, for this reason.
func (n *fleetNode) fail(format string, args ...any) {
	n.Result, n.Error = fleetFailed, fmt.Sprintf(format, args...)
}

// converge runs converge on a node, with the node's name and what is passed on. line gets what it prints; the
// document is the last JSON object of it.
func (fl *fleet) converge(n recipe.Node, line func([]byte), command string, args ...string) (*fleetNode, answer) {
	node := newFleetNode(n)
	node.Rounds = 1
	words := append([]string{command, "--json", "--node=" + n.Name}, args...)
	var document []byte
	a := fl.ssh.run(n, remoteCommand(runConverge, append(words, fl.passed...)...), nil, func(l []byte) {
		if json.Valid(l) && l[0] == '{' {
			document = append(document[:0], l...)
			line(l)
		}
	})
	node.Exit, node.Document = &a.code, document
	node.Result = fl.resultOf(n, a, node)
	return node, a
}

// resultOf says what the exit status means. Whether the document goes with it is for those who know the command.
func (fl *fleet) resultOf(n recipe.Node, a answer, node *fleetNode) fleetResult {
	switch {
	case a.err != nil:
		node.Error = a.err.Error()
		return fleetFailed
	case a.unreachable():
		node.Error = a.reason() + unreachableHint(a.stderr)
		return fleetUnreachable
	case a.cutOff():
		node.Error = fmt.Sprintf("the connection broke, or the run there was killed; converge fleet status --only %s shows which%s", n.Name, a.because())
		return fleetFailed
	case !a.began:
		node.Error = fmt.Sprintf("the shell there did not run the command (exit status %d)%s", a.code, a.because())
		return fleetFailed
	case a.code == 126 || a.code == 127:
		node.Error = "converge is not installed there: --push copies this one there"
		return fleetFailed
	}
	if here := sum(fl.source.Bytes); a.environment != "" && a.environment != here {
		node.warn("its %s is not the file %s: --push copies it there", defaultEnvironmentFile, fl.source.Name)
	}
	switch a.code {
	case exitDone:
		return fleetOK
	case exitChanges:
		return fleetChanges
	case exitOwed:
		return fleetOwed
	case exitRefused:
		return fleetRefused
	case exitNotYet:
		return fleetNotYet
	}
	return fleetFailed
}

// unreachableHint is the way out of what ssh said, where there is a true one.
func unreachableHint(stderr string) string {
	switch {
	case strings.Contains(stderr, "REMOTE HOST IDENTIFICATION HAS CHANGED"), strings.Contains(stderr, "has changed and you have requested strict checking"):
		return " (rotated, or another machine: find out which before anything else)"
	case strings.Contains(stderr, "Host key verification failed"):
		return " (log in once with ssh and confirm its key against the machine's console)"
	}
	return ""
}

// sudoHint is the way out where sudo would have asked for a password.
func sudoHint(stderr string) string {
	if strings.Contains(stderr, "sudo:") && (strings.Contains(stderr, "password is required") || strings.Contains(stderr, "terminal is required")) {
		return " (let the user run it without a password, or log in as root: --ssh-user root)"
	}
	return ""
}

// explain gives a node that has not told its reason in a document the reason that was on stderr, and says when another
// version of converge may be to blame.
func (fl *fleet) explain(n recipe.Node, node *fleetNode, a answer) {
	if node.Error == "" && node.Result.broken() {
		node.Error = strings.NewReplacer("converge: error: ", "", "converge: hint: ", "").Replace(a.reason()) + sudoHint(a.stderr)
	}
	if node.Error == "" && node.Result.broken() {
		node.Error = fmt.Sprintf("exit status %d, without a word", a.code)
	}
	if node.Result != fleetFailed || !a.began || a.cutOff() || a.code == 126 || a.code == 127 {
		return
	}
	if there := fl.versionOf(n); there != "" && there != versionText() {
		node.warn("it has converge %s, and this is %s: --push copies this one there", there, versionText())
	}
}

// versionOf asks a node for its version of converge; "" when it does not tell.
func (fl *fleet) versionOf(n recipe.Node) string {
	var v struct{ Version string }
	fl.ssh.run(n, remoteCommand(runConverge, "version", "--json"), nil, func(l []byte) { json.Unmarshal(l, &v) })
	return v.Version
}

// firstFailure is the reason to show for a run in which steps failed: one that waits is no reason where another failed.
func firstFailure(list []engine.Failure) string {
	reason, waits := "", ""
	for _, f := range list {
		text := f.Error
		if f.Address != "" {
			text = f.Address + ": " + f.Error
		}
		switch {
		case f.NotYet && waits == "":
			waits = text
		case !f.NotYet && reason == "":
			reason = text
		}
	}
	if reason == "" {
		return waits
	}
	return reason
}

// misfit says that a document is not what was asked for: another format, node or role; or "".
func misfit(n recipe.Node, format int, node, role string) string {
	switch {
	case format != 1:
		return fmt.Sprintf("its converge prints format %d, and this one reads format 1", format)
	case node != "" && node != n.Name:
		return fmt.Sprintf("it takes itself for the node %s", node)
	case role != "" && role != n.Role:
		return fmt.Sprintf("its environment file says that it is %s, and here it is %s", role, n.Role)
	}
	return ""
}

// everywhere asks all nodes at once; it is for what writes nothing.
func (fl *fleet) everywhere(ctx context.Context, ask func(recipe.Node) *fleetNode) []*fleetNode {
	return inParallel(fl.app.flags.parallelism, fl.nodes, func(n recipe.Node) *fleetNode {
		if ctx.Err() != nil {
			return notRun(n, errStopped.Error())
		}
		return ask(n)
	})
}
