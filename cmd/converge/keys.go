package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"converge/resources"
)

func (a *app) keysCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "keys",
		Short: "List the keys of the environment, and where they are",
		Long: `List the keys of the environment: whose they are, how long they last, their serial numbers, and where they are. On the node
that has the authority these are all keys that it has signed, with what is published for each node; elsewhere they are the
node's own. Keys that somebody has to see to come with a word about it; the exit code is 0 all the same.`,
		Example: "  converge keys\n  converge keys --json | jq '.keys[] | select(.problem)'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.keys(cmd, all) },
	}
	c.Flags().BoolVar(&all, "all", false, "those as well that have ended and are in use nowhere")
	return c
}

// keysJSON is what keys --json prints.
type keysJSON struct {
	Format      int    `json:"format"`
	Environment string `json:"environment"`
	Node        string `json:"node"`
	Role        string `json:"role"`
	resources.KeyList
}

func (a *app) keys(cmd *cobra.Command, all bool) error {
	if err := a.roleOfLastRun(); err != nil {
		return err
	}
	a.looksOnly = true
	s, err := a.openSite(cmd.Context())
	defer s.close()
	if err != nil {
		return err
	}
	found := resources.ListKeys(cmd.Context(), s.engine.Disk, s.graph, s.types, s.engine.Now())
	hidden := 0
	if !all {
		found, hidden = withoutEnded(found)
	}
	if a.flags.json {
		return a.printJSON(keysJSON{1, s.graph.Environment, s.graph.Node, s.graph.Role, found})
	}
	p := newPrinter(a)
	p.linef("%s", p.paint(bold, fmt.Sprintf("%s: %s as %s", s.graph.Environment, s.graph.Node, s.graph.Role)))
	p.linef("")
	p.keys(found, s.graph.Node)
	if hidden > 0 {
		p.linef("%s in use nowhere: --all lists them", count(hidden, "key has ended and is", "keys have ended and are"))
	}
	return nil
}

// withoutEnded leaves out what nobody has to know of.
func withoutEnded(l resources.KeyList) (resources.KeyList, int) {
	kept := []resources.KeyInfo{}
	for _, k := range l.Keys {
		if k.State != resources.KeyEnded {
			kept = append(kept, k)
		}
	}
	hidden := len(l.Keys) - len(kept)
	l.Keys = kept
	return l, hidden
}

func (p *printer) keys(l resources.KeyList, here string) {
	if len(l.Keys) == 0 {
		p.linef("There are no keys yet: converge apply makes them")
	}
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	if len(l.Keys) > 0 {
		fmt.Fprintln(w, "OWNER\tKIND\tSTATE\tEXPIRES\tDAYS\tSERIAL\tFINGERPRINT\tAUTHORITY\tWHERE")
	}
	for _, k := range l.Keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", k.Owner, k.Kind, k.State, k.Expires.Format(time.DateOnly), k.DaysLeft,
			k.Serial, k.Fingerprint[:12], printable(k.Authority), places(k.Places, here))
	}
	w.Flush()
	for _, k := range l.Keys {
		if k.Problem != "" {
			p.linef("%s %s (%s, serial %s): %s", p.paint(red, "!"), k.Owner, k.Kind, k.Serial, k.Problem)
		}
	}
	for _, u := range l.Unknown {
		p.linef("%s %s", p.paint(yellow, "?"), u)
	}
}

// places are in the order of nodes: first the directories here, then each other node with its own.
func places(all []resources.KeyPlace, here string) string {
	var own, others []string
	for _, p := range all {
		switch {
		case p.Node == here:
			own = append(own, p.Directory)
		case p.Directory == "":
			others = append(others, p.Node)
		default:
			others = append(others, p.Node+":"+p.Directory)
		}
	}
	if text := strings.Join(append(own, others...), ", "); text != "" {
		return text
	}
	return "-"
}
