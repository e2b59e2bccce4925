package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/disk"
)

// runFlags are those of plan and apply.
type runFlags struct {
	out              string
	detailedExitcode bool
	dryRun           bool
	allowRestart     bool
	maxDisruption    string
	confirmWithin    time.Duration // of apply
	wait             time.Duration // of apply
	every, splay     time.Duration // of apply
}

func (a *app) runFlags(c *cobra.Command, f *runFlags) {
	c.Flags().BoolVar(&f.detailedExitcode, "detailed-exitcode", false, "exit with 2 when there are changes, with 3 when a restart is owed")
	c.Flags().BoolVar(&f.allowRestart, "allow-restart", false, "restart now when a restart is needed, without waiting for a maintenance window")
	c.Flags().BoolVar(&a.flags.acceptLockout, "accept-lockout", false, "change pg_hba.conf even when somebody who has to get in could not any more")
	c.Flags().StringVar(&f.maxDisruption, "max-disruption", "restart", "the most that may happen to a service: none, reload or restart (`D`)")
}

func (f *runFlags) options(s *site) (engine.Options, error) {
	o := s.options()
	o.AllowRestart = f.allowRestart
	most, err := engine.ParseDisruption(f.maxDisruption)
	if err != nil {
		return o, usage("--max-disruption: %w", err)
	}
	o.MaxDisruption = most
	if f.confirmWithin < 0 || f.confirmWithin > time.Hour {
		return o, usage("--confirm-within %s: between 1s and 1h", f.confirmWithin)
	}
	o.ConfirmWithin = f.confirmWithin
	if f.wait < 0 || f.wait > 24*time.Hour {
		return o, usage("--wait %s: between 1s and 24h", f.wait)
	}
	return o, nil
}

func (a *app) planCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what an apply would do; write nothing",
		Example: `  converge plan --role db_master
  converge plan --out monday.plan && converge apply monday.plan
  converge plan --json | jq '.changes[].address'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.plan(cmd, f) },
	}
	a.runFlags(c, &f)
	c.Flags().StringVar(&f.out, "out", "", "save the plan to `FILE` (mode 0600, no secret inside)")
	return c
}

func (a *app) plan(cmd *cobra.Command, f runFlags) error {
	s, err := a.openSite(cmd.Context())
	defer s.close()
	if err != nil {
		return err
	}
	o, err := f.options(s)
	if err != nil {
		return err
	}
	a.followLong(s.engine)
	p, err := s.engine.Plan(cmd.Context(), s.graph, o)
	if err != nil {
		return err
	}
	if err := a.showPlan(p, s); err != nil {
		return err
	}
	if f.out != "" {
		if err := a.savePlan(p, s, f.out); err != nil {
			return err
		}
	}
	return a.planExit(p, f)
}

func (a *app) planExit(p *engine.Plan, f runFlags) error {
	switch {
	case len(p.Failures) > 0:
		return failuresExit(p.Failures)
	case f.detailedExitcode && len(p.Changes) > 0:
		a.code = exitChanges
	case f.detailedExitcode && owesRestart(p.Owed):
		a.code = exitOwed
	}
	a.out.flush()
	if a.out.err != nil {
		return silentError(exitFailed) // a plan that nobody could read is no plan
	}
	return nil
}

func owesRestart(owed []engine.Owed) bool {
	for _, o := range owed {
		if o.Action == engine.Restart {
			return true
		}
	}
	return false
}

// failuresExit is the end of a run in which steps failed; they are told already.
func failuresExit(failures []engine.Failure) error {
	code := exitNotYet
	for _, f := range failures {
		if !f.NotYet {
			code = exitFailed
		}
	}
	for _, f := range failures {
		var bug *engine.PanicError
		switch {
		case errors.As(f.Err, &bug):
			return silentError(exitBug)
		case engine.IsRefused(f.Err):
			code = exitRefused
		}
	}
	return silentError(code)
}

// planJSON is a plan as the contract prints it.
type planJSON struct {
	Format      int               `json:"format"`
	Environment string            `json:"environment"`
	Node        string            `json:"node"`
	Role        string            `json:"role"`
	Disruption  engine.Disruption `json:"disruption"`
	Changes     []*engine.Change  `json:"changes"`
	Unchanged   int               `json:"unchanged"`
	Owed        []engine.Owed     `json:"owed"`
	Access      []engine.Access   `json:"access"`
	Failures    []engine.Failure  `json:"failures,omitempty"`
	Warnings    []engine.Warning  `json:"warnings,omitempty"`
}

func (a *app) showPlan(p *engine.Plan, s *site) error {
	if !a.flags.json {
		newPrinter(a).plan(p, s)
		return nil
	}
	return a.printJSON(planJSON{
		Format: 1, Environment: p.Environment, Node: p.Node, Role: p.Role, Disruption: p.Disruption,
		Changes: notNil(p.Changes), Unchanged: p.Unchanged, Owed: notNil(p.Owed), Access: notNil(p.Access),
		Failures: p.Failures, Warnings: p.Warnings,
	})
}

// notNil keeps an empty list from being null in JSON.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// savePlan puts the plan into a file that only its owner can read.
func (a *app) savePlan(p *engine.Plan, s *site, name string) error {
	saved, err := p.Save(s.types.Started)
	if err != nil {
		return err
	}
	content, err := saved.Encode()
	if err != nil {
		return err
	}
	name, err = filepath.Abs(name)
	if err != nil {
		return err
	}
	before := disk.Before{}
	old, info, err := s.engine.Disk.ReadFile(name, planLimit)
	if err == nil {
		before = disk.BeforeOf(old, info)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	staged, err := s.engine.Disk.Stage(disk.File{
		Path: name, Content: content, Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), Secret: true, Temp: fmt.Sprintf(".converge-plan-%d", os.Getpid()),
	})
	if err != nil {
		return err
	}
	if err := staged.Switch(before); err != nil {
		return errors.Join(err, staged.Discard())
	}
	fmt.Fprintf(a.stderr, "converge: the plan is in %s; converge apply %s does exactly that, once\n", name, name)
	return nil
}

// planLimit is the largest plan file, in bytes.
const planLimit = 256 << 20
