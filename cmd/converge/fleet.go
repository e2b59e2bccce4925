package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"

	"converge/engine/recipe"
)

func (a *app) fleetCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "fleet",
		Short: "Plan, apply and look at every node of the environment, over ssh",
		Long: `Plan, apply and look at every node of the environment, from any machine that reaches them with ssh. It takes the
system's own ssh, so ssh_config, the agent, ProxyJump and known_hosts hold, and host keys are checked as always. It reads
the environment file and needs neither root nor PostgreSQL here.`,
		Example: `  converge fleet scan -e environment.hcl
  converge fleet plan -e environment.hcl
  converge fleet apply -e environment.hcl --push
  converge fleet status -e environment.hcl --only db_replica`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(a.fleetPlanCommand(), a.fleetApplyCommand(), a.fleetStatusCommand(), a.fleetScanCommand())
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
	return c
}

// fleetFlags say which nodes, and how they are reached.
type fleetFlags struct {
	only      []string
	sshUser   string
	byAddress bool
}

func (f *fleetFlags) chooseFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.only, "only", nil, "only this node, or the nodes of this role; repeatable (`NODE|ROLE`)")
}

func (f *fleetFlags) sshFlags(c *cobra.Command) {
	c.Flags().StringVar(&f.sshUser, "ssh-user", "", "log in as `USER` (default: whom ssh_config says)")
	c.Flags().BoolVar(&f.byAddress, "by-address", false, "give ssh the addresses of the nodes, not their names")
}

// A fleet is the nodes that a command is about, and the way to them.
type fleet struct {
	app    *app
	env    *recipe.Environment
	source recipe.Source // the environment file
	nodes  []recipe.Node // in declared order
	ssh    sshClient
	passed []string // flags that every converge on a node gets

	mu sync.Mutex // of what is told on stderr
}

// openFleet reads the environment file and chooses the nodes. It looks at nothing else.
func (a *app) openFleet(cmd *cobra.Command, f fleetFlags) (*fleet, error) {
	for _, name := range []string{"role", "node"} {
		if cmd.Flags().Changed(name) {
			return nil, usage("--%s is for one node; --only NODE or --only ROLE chooses nodes of the fleet", name)
		}
	}
	source, err := a.environmentSource()
	if err != nil {
		return nil, err
	}
	if source == nil {
		return nil, usage("there is no %s here: -e FILE says which environment this is about", defaultEnvironmentFile)
	}
	env, diags := recipe.ParseEnvironment(*source)
	if diags.HasErrors() {
		return nil, &diagnosticsError{diags, env.Files}
	}
	if len(env.Nodes) == 0 {
		return nil, fmt.Errorf("%s names no nodes: the fleet is its blocks node \"NAME\" { ... }", source.Name)
	}
	nodes, err := chooseNodes(env.Nodes, f.only)
	if err != nil {
		return nil, err
	}
	return &fleet{app: a, env: env, source: *source, nodes: nodes}, nil
}

// reach finds the way to the nodes, and what their converge is told.
func (fl *fleet) reach(cmd *cobra.Command, f fleetFlags) error {
	if strings.HasPrefix(f.sshUser, "-") || strings.ContainsAny(f.sshUser, " @\t\n") {
		return usage("--ssh-user %q is no name of a user", f.sshUser)
	}
	passed, err := fl.app.passedOn(cmd)
	if err != nil {
		return err
	}
	program, err := findSSH()
	if err != nil {
		return err
	}
	fl.passed = passed
	fl.ssh = sshClient{program: program, user: f.sshUser, byAddress: f.byAddress, log: fl.app.log}
	return nil
}

// passedOn are those of the flags of every command that hold for the nodes too.
func (a *app) passedOn(cmd *cobra.Command) ([]string, error) {
	if _, err := a.vars(); err != nil {
		return nil, err
	}
	var args []string
	for _, v := range a.flags.vars {
		args = append(args, "--var="+v)
	}
	if a.flags.noStandardRecipes {
		args = append(args, "--no-standard-recipes")
	}
	if cmd.Flags().Changed("state") {
		args = append(args, "--state="+a.flags.state)
	}
	if cmd.Flags().Changed("log-level") {
		args = append(args, "--log-level="+a.flags.logLevel)
	}
	return args, nil
}

// chooseNodes returns the nodes that are named, or have a role that is named, in declared order. A word that is both means
// the node. No words mean all nodes.
func chooseNodes(all []recipe.Node, only []string) ([]recipe.Node, error) {
	if len(only) == 0 {
		return all, nil
	}
	chosen := map[string]bool{}
	for _, word := range only {
		found := namedNodes(all, word)
		if len(found) == 0 {
			return nil, unknownNode(all, word)
		}
		for _, n := range found {
			chosen[n.Name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(n recipe.Node) bool { return !chosen[n.Name] }), nil
}

func namedNodes(all []recipe.Node, word string) []recipe.Node {
	var withRole []recipe.Node
	for _, n := range all {
		if n.Name == word {
			return []recipe.Node{n}
		}
		if n.Role == word {
			withRole = append(withRole, n)
		}
	}
	return withRole
}

func unknownNode(all []recipe.Node, word string) error {
	if slices.Contains(recipe.Roles, word) {
		return usage("--only %s: no node of the environment has this role", word)
	}
	var known []string
	for _, n := range all {
		known = append(known, n.Name, n.Role)
	}
	if near := nearest(word, known); near != "" {
		return usage("--only %s: the environment has no such node or role; did you mean %q?", word, near)
	}
	slices.Sort(known)
	return usage("--only %s: the environment has no such node or role; it has %s", word, strings.Join(slices.Compact(known), ", "))
}

// nearest is the known word that somebody may have meant, or "".
func nearest(word string, known []string) string {
	best, least := "", len(word)/3+2
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := levenshtein.Distance(word, k, nil); d < min(least, len(word)) {
			best, least = k, d
		}
	}
	return best
}

// inParallel does it for every node, some at once, and returns what came of each, in the order of the nodes.
func inParallel[T any](atOnce int, nodes []recipe.Node, do func(recipe.Node) T) []T {
	out := make([]T, len(nodes))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, n := range nodes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = do(n)
		})
	}
	wg.Wait()
	return out
}

// tell says on stderr what happens on a node. Only the first line of it begins in the margin.
func (fl *fleet) tell(node, format string, args ...any) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	text := printable(fmt.Sprintf(format, args...))
	fmt.Fprintf(fl.app.stderr, "%s: %s\n", node, strings.ReplaceAll(text, "\n", "\n    "))
}

// errStopped is why a node was not begun after a signal.
var errStopped = errors.New("stopped by a signal before its turn")
