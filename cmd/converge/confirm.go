package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/disk"
)

func (a *app) confirmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Keep what converge apply --confirm-within has changed",
		Long: `Keep what converge apply --confirm-within has changed. Run it from a session that you opened after the change: that you
could open it is what is to be confirmed. Without it everything is put back when the time is over.`,
		Example: `  converge apply --confirm-within 60s
  converge confirm`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.confirm() },
	}
}

func (a *app) confirm() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the run that waits belongs to root: run converge confirm with sudo")
	}
	d, err := disk.Open("/")
	if err != nil {
		return err
	}
	defer d.Close()
	state, err := engine.OpenState(d, a.flags.state)
	if err != nil {
		return err
	}
	w, err := state.Confirm(now())
	if err != nil {
		return err
	}
	if a.flags.json {
		return a.printJSON(map[string]any{"format": 1, "confirmed": w.Run})
	}
	fmt.Fprintf(a.stdout, "Confirmed: what run %s has changed stays.\n", w.Run)
	return nil
}
