package main

import (
	"strings"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources/hba"
)

func (a *app) hbaDiffCommand() *cobra.Command {
	var v hbaVersion
	var detailed bool
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say who gains and who loses access between two pg_hba.conf files",
		Long: `Say who gains access, who loses it and whose method changes between two pg_hba.conf files. Not the lines are compared but
what they come to: for every user, role, database and network that one of the files names, and for any other; through
the unix socket, in plaintext, over TLS, with GSSAPI encryption; and for physical replication.

The exit code is 0, changes or not; with --detailed-exitcode it is 2 when there are changes. It is 1 when one of the files
would not load.`,
		Example: `  converge hba diff pg_hba.conf.old pg_hba.conf
  converge hba diff --json pg_hba.conf.old pg_hba.conf | jq '.changes[] | select(.change == "loses")'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.hbaDiff(cmd, args[0], args[1], v, detailed) },
	}
	v.flag(c)
	c.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with 2 when there are changes")
	return c
}

func (a *app) hbaDiff(cmd *cobra.Command, before, after string, v hbaVersion, detailed bool) error {
	if err := a.chooseVersion(cmd, &v); err != nil {
		return err
	}
	old, err := v.loadHBA(cmd.Context(), before)
	if err != nil {
		return err
	}
	fresh, err := v.loadHBA(cmd.Context(), after)
	if err != nil {
		return err
	}
	d := hba.Diff(old, fresh, hba.Names{})
	if detailed && len(d.Changes) > 0 {
		a.code = exitChanges
	}
	if a.flags.json {
		return a.printJSON(diffOf(before, after, d))
	}
	p := newPrinter(a)
	p.linef("%s -> %s", p.paint(bold, printable(before)), p.paint(bold, printable(after)))
	p.linef("%s\n", v.forWhich())
	p.hbaDiff(d)
	return nil
}

// hbaDiffJSON is what hba diff --json prints.
type hbaDiffJSON struct {
	Format  int             `json:"format"`
	Old     string          `json:"old"`
	New     string          `json:"new"`
	Changes []hbaChangeJSON `json:"changes"`
	Limits  []string        `json:"limits,omitempty"` // what was not compared
}

type hbaChangeJSON struct {
	Change      string        `json:"change"` // loses, gains or method
	Users       []string      `json:"users"`
	Databases   []string      `json:"databases"`
	From        []string      `json:"from"`
	Connection  string        `json:"connection"` // local, plaintext, tls or gss
	Replication bool          `json:"replication"`
	Before      hbaAnswerJSON `json:"before"`
	After       hbaAnswerJSON `json:"after"`
}

func diffOf(before, after string, d *hba.Difference) hbaDiffJSON {
	out := hbaDiffJSON{Format: 1, Old: before, New: after, Changes: []hbaChangeJSON{}, Limits: d.Limits}
	for _, c := range d.Changes {
		out.Changes = append(out.Changes, hbaChangeJSON{
			Change: c.Effect.String(), Users: c.Users, Databases: c.Databases, From: c.From, Connection: c.Connection,
			Replication: c.Replication, Before: answerOf(c.Before), After: answerOf(c.After),
		})
	}
	return out
}

// effects are the kinds of change, in words.
var effects = []struct {
	effect      hba.Effect
	sign, color string
	one, many   string
}{
	{hba.Loses, "-", red, "loses access", "lose access"},
	{hba.Gains, "+", green, "gains access", "gain access"},
	{hba.OtherMethod, "~", yellow, "gets in by another method", "get in by another method"},
}

// hbaDiff shows the changes, grouped, losses first.
func (p *printer) hbaDiff(d *hba.Difference) {
	groups := d.Groups()
	var sums []string
	for _, e := range effects {
		n := 0
		for _, g := range groups {
			if g.Effect == e.effect {
				n++
				p.linef("%s %s", p.paint(e.color, e.sign), printable(who(g)))
				p.linef("    was %s, now %s", printable(decision(g.Before)), printable(decision(g.After)))
			}
		}
		if n > 0 {
			sums = append(sums, count(n, e.one, e.many))
		}
	}
	switch {
	case len(sums) > 0:
		p.linef("\n%s: %s.", count(len(groups), "change", "changes"), strings.Join(sums, ", "))
	case len(d.Limits) == 0:
		p.linef("Nobody gains access, nobody loses it, and no method changes.")
	default:
		p.linef("No change was found.")
	}
	for _, l := range d.Limits {
		p.linef("%s %s", p.paint(yellow, "Not everything was compared:"), printable(l))
	}
}

// who says whose connections a group is.
func who(g hba.Group) string {
	parts := []string{g.Users, "to " + g.Databases}
	if g.Databases == "replication" {
		parts[1] = "for replication"
	}
	if g.From != "" {
		parts = append(parts, "from "+g.From)
	}
	return strings.Join(append(parts, g.Connections), "; ")
}

// decision says what lines ask for. They all ask for the same.
func decision(rules []*hba.Rule) string {
	if len(rules) == 0 {
		return "refused, for no line matches"
	}
	r := rules[0]
	what := r.Method
	if r.Method == "reject" {
		what = "rejected"
	}
	if len(r.Options) > 0 {
		what += " " + engine.Redact(strings.Join(r.Options, " "))
	}
	var places []string
	for _, r := range rules {
		places = append(places, strings.TrimPrefix(lineOf(r), "line "))
	}
	return what + " (" + list("line ", "lines ", places) + ")"
}
