package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources"
)

// rotateFlags are those of rotate, beside those of a run.
type rotateFlags struct {
	runFlags
	undo bool
}

func (a *app) rotateCommand() *cobra.Command {
	var f rotateFlags
	c := &cobra.Command{
		Use:   "rotate [server] [users] [ca] [USER...]",
		Short: "Make new keys, and keep the old ones",
		Long: `Make new keys, and keep the old ones: of this node's server, of all users or of those named, or of the certificate
authority. Without a name it is server and users. Nothing is down meanwhile.

Users' keys and the authority are changed on the node that has the authority; the next runs of the other nodes bring the new
keys there. A server's key is changed on its own node. Old keys go to /db/old_keys where the layout has it, else to
/etc/converge/old_keys, and --undo brings the last ones back.

A new authority takes the place of the old one step by step, and each step waits until the one before is proven: every node
and server trusts both; every certificate is of the new one, and no session is of the old one; nobody trusts the old one any
more. Any run goes on with it. Nodes that hold it back are named, and the exit code is then 5.`,
		Example: `  converge rotate                  # this server's key, and those of all users
  converge rotate server           # this server's key alone
  converge rotate alice            # the key of one user
  converge rotate ca --wait 1h     # another certificate authority, as far as the other nodes get in an hour
  converge rotate alice --undo     # bring back the key that she had before`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.rotate(cmd, args, f)
			a.brokenOff(s, err)
			return err
		},
	}
	a.runFlags(c, &f.runFlags)
	c.Flags().BoolVar(&f.undo, "undo", false, "bring back the keys that were there before")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be done; write nothing")
	c.Flags().DurationVar(&f.wait, "wait", 0, "of ca: go on for up to this `TIME`, such as 1h, while other nodes have to do their part")
	return c
}

// maintenanceOf reads what is to be changed.
func maintenanceOf(args []string, undo bool) *resources.Maintenance {
	m := &resources.Maintenance{Back: undo}
	if len(args) == 0 {
		args = []string{"server", "users"}
	}
	for _, arg := range args {
		switch arg {
		case "server":
			m.Server = true
		case "users":
			m.AllUsers = true
		case "ca":
			m.Authority = true
		default:
			m.Users = append(m.Users, arg)
		}
	}
	return m
}

func (a *app) rotate(cmd *cobra.Command, args []string, f rotateFlags) (*site, error) {
	if err := a.roleOfLastRun(); err != nil {
		return nil, err
	}
	a.maintenance = maintenanceOf(args, f.undo)
	a.checkSite = func(s *site) error { return a.mayRotate(s, len(args) == 0) }
	if f.dryRun {
		return nil, a.plan(cmd, f.runFlags)
	}
	patience, stop := waiting(cmd.Context(), f.wait)
	defer stop()
	for {
		s, rep, _, err := a.applyOnce(cmd.Context(), cmd.Context(), nil, runFlags{
			allowRestart: f.allowRestart, maxDisruption: f.maxDisruption,
		})
		if err != nil {
			return s, err
		}
		a.maintenance, a.checkSite = &resources.Maintenance{}, nil // what follows are runs like any other
		change := s.types.Change
		if a.flags.json {
			j := done(rep)
			j.AuthorityChange = change
			a.printJSON(j)
		} else {
			newPrinter(a).report(rep)
		}
		a.out.flush()
		switch err := a.applyExit(rep, f.runFlags); {
		case err != nil || a.code != exitDone && !change.UnderWay():
			return s, err
		case !change.UnderWay():
			return s, nil
		case change.Moved:
			continue
		case !waitUntil(patience, time.Now().Add(5*time.Second)):
			a.code = exitNotYet
			fmt.Fprintf(a.stderr, "converge: the change of the authority goes on with the next runs; it waits: %s\n", strings.Join(change.Waits, "; "))
			return s, nil
		}
	}
}

// mayRotate refuses what is not for this node to do, and users whom the recipe does not know.
func (a *app) mayRotate(s *site, everything bool) error {
	m := a.maintenance
	switch {
	case m.Server && s.server == nil:
		return usage("this node has no database server, so it has no server key; name a user, or run it on a database node")
	case !resources.Issues(s.node.Role) && everything:
		m.AllUsers = false // users' keys are made elsewhere, and nobody has named them
		fmt.Fprintf(a.stderr, "converge: the keys of users are made on %s: converge rotate users there\n", resources.AuthorityNode(s.env))
		return nil
	case !resources.Issues(s.node.Role) && (m.AllUsers || m.Authority || len(m.Users) > 0):
		return &engine.RefusedError{Reason: fmt.Sprintf("the keys of users and the authority are made on %s, and this node is %s: run it there", resources.AuthorityNode(s.env), s.node.Role)}
	}
	known := resources.UsersOf(s.graph)
	for _, u := range m.Users {
		if !slices.Contains(known, u) {
			return usage("the recipe has no user_key for %q; it has: %s (and server, users and ca can be named)", u, strings.Join(known, ", "))
		}
	}
	return nil
}
