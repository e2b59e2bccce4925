package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"converge/engine"
	"converge/resources/postgres"
)

// fleetJSON is what fleet plan, apply and status print with --json.
type fleetJSON struct {
	Format      int          `json:"format"`
	Environment string       `json:"environment"`
	Nodes       []*fleetNode `json:"nodes"`
	Result      string       `json:"result"` // ok, failed, refused, not_yet; of status: attention
}

// fleetResultOf is the result of all nodes together.
func fleetResultOf(nodes []*fleetNode) string {
	switch fleetExit(nodes, false) {
	case exitFailed:
		return "failed"
	case exitRefused:
		return "refused"
	case exitNotYet:
		return "not_yet"
	case exitChanges:
		return "attention"
	}
	return "ok"
}

func (fl *fleet) printFleet(nodes []*fleetNode) error {
	return fl.app.printJSON(fleetJSON{Format: 1, Environment: fl.env.Name, Nodes: nodes, Result: fleetResultOf(nodes)})
}

func (fl *fleet) showApply(nodes []*fleetNode) error {
	if fl.app.flags.json {
		return fl.printFleet(nodes)
	}
	p := newPrinter(fl.app)
	p.fleetTable([]string{"CHANGED", "UNCHANGED", "OWED"}, nodes, func(n *fleetNode) []string {
		return []string{fmt.Sprint(n.Changed), fmt.Sprint(n.Unchanged), owedText(n.Owed)}
	})
	fl.fleetWarnings(nodes)
	return nil
}

func (fl *fleet) showPlans(nodes []*fleetNode, diff bool) error {
	if fl.app.flags.json {
		return fl.printFleet(nodes)
	}
	p := newPrinter(fl.app)
	for _, n := range nodes {
		if n.plan != nil {
			p.fleetPlan(n.plan, diff)
		}
	}
	p.fleetTable([]string{"TO CHANGE", "UNCHANGED", "DISRUPTION", "OWED"}, nodes, func(n *fleetNode) []string {
		disruption := "-"
		if n.plan != nil {
			disruption = n.plan.Disruption.String()
		}
		return []string{fmt.Sprint(n.Changed), fmt.Sprint(n.Unchanged), disruption, owedText(n.Owed)}
	})
	fl.fleetWarnings(nodes)
	return nil
}

// fleetPlan shows one node's plan: its changes, whole or in a line each, and what they mean for who gets in.
func (p *printer) fleetPlan(plan *planJSON, diff bool) {
	if len(plan.Changes) == 0 && len(plan.Access) == 0 {
		return
	}
	p.linef("%s", p.paint(bold, fmt.Sprintf("%s: %s as %s", plan.Environment, plan.Node, plan.Role)))
	p.linef("")
	for _, c := range plan.Changes {
		if diff {
			p.change(c)
			continue
		}
		s := signs[c.Action]
		p.linef("%s %s: %s", p.paint(s.color, s.sign), p.paint(bold, printable(c.Address)), printable(c.Summary))
	}
	if !diff && len(plan.Changes) > 0 {
		p.linef("")
	}
	p.access(plan.Access)
}

func (fl *fleet) showStatus(nodes []*fleetNode) error {
	if fl.app.flags.json {
		return fl.printFleet(nodes)
	}
	p := newPrinter(fl.app)
	for _, n := range nodes {
		if n.status != nil {
			p.fleetStatus(n)
		}
	}
	p.fleetTable([]string{"DRIFT", "OWED", "REPLICATION"}, nodes, func(n *fleetNode) []string {
		return []string{fmt.Sprint(n.Changed), owedText(n.Owed), replicationText(n.Replication)}
	})
	fl.fleetWarnings(nodes)
	return nil
}

// fleetStatus shows what is wrong with a node and what mends it.
func (p *printer) fleetStatus(n *fleetNode) {
	if len(n.status.Problems) == 0 && len(n.status.Unknown) == 0 {
		return
	}
	p.linef("%s", p.paint(bold, n.Node))
	for _, t := range n.status.Problems {
		p.linef("%s %s", p.paint(red, "!"), strings.ReplaceAll(printable(t.Text), "\n", "\n  "))
		if t.Mend != "" {
			p.linef("    mend: %s", printable(t.Mend))
		}
	}
	for _, u := range n.status.Unknown {
		p.linef("%s %s", p.paint(yellow, "?"), printable(u))
	}
	p.linef("")
}

func replicationText(r *postgres.Replication) string {
	switch {
	case r == nil:
		return "-"
	case !r.InRecovery:
		return followers(r.Standbys)
	case !r.Streaming:
		return "not streaming"
	}
	return "streaming" + fromSender(r)
}

func followers(standbys []postgres.Standby) string {
	if len(standbys) == 0 {
		return "-"
	}
	var names []string
	for _, s := range standbys {
		names = append(names, printable(s.Name))
	}
	return "followed by " + strings.Join(names, ", ")
}

func owedText(owed []engine.Owed) string {
	var out []string
	for _, o := range owed {
		out = append(out, fmt.Sprintf("%s of %s", o.Action, printable(o.Service)))
	}
	if out == nil {
		return "-"
	}
	return strings.Join(out, ", ")
}

// fleetTable is a line for every node, in the order of the environment file.
func (p *printer) fleetTable(columns []string, nodes []*fleetNode, cells func(*fleetNode) []string) {
	w := newTable()
	fmt.Fprintf(w, "NODE\tROLE\tRESULT\t%s\tNOTE\n", strings.Join(columns, "\t"))
	for _, n := range nodes {
		middle := cells(n)
		if n.Document == nil { // nothing is known of it
			for i := range middle {
				middle[i] = "-"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Node, n.Role, n.Result, strings.Join(middle, "\t"), n.note())
	}
	p.table(w)
}

// A fleetTable is gathered before it is printed: no line of it ends in blanks.
type fleetTable struct {
	*tabwriter.Writer
	text *strings.Builder
}

func newTable() fleetTable {
	text := &strings.Builder{}
	return fleetTable{tabwriter.NewWriter(text, 0, 0, 2, ' ', 0), text}
}

func (p *printer) table(t fleetTable) {
	t.Flush()
	for l := range strings.Lines(t.text.String()) {
		p.linef("%s", strings.TrimRight(l, " \n"))
	}
}

// noteLength is how much of a reason goes into the table, in letters. All of it is below, and in the JSON.
const noteLength = 160

// note is why the node is not done, or what there is to say of one that is.
func (n *fleetNode) note() string {
	text := n.Error
	if text == "" {
		text = n.remarks()
	}
	text, _, _ = strings.Cut(printable(text), "\n")
	if text = strings.ReplaceAll(text, "\t", " "); utf8.RuneCountInString(text) > noteLength {
		text = string([]rune(text)[:noteLength]) + "..."
	}
	return text
}

// word is how the node's reason begins on stderr.
func (n *fleetNode) word() string {
	if n.Result == fleetNotYet || n.Result == fleetNotRun {
		return n.Result.String()
	}
	return "error"
}

// remarks are what there is to say of a node that is done.
func (n *fleetNode) remarks() string {
	var out []string
	if n.Rounds > 1 {
		out = append(out, fmt.Sprintf("in %d rounds", n.Rounds))
	}
	if len(n.Pushed) > 0 {
		out = append(out, "pushed "+count(len(n.Pushed), "file", "files"))
	}
	if n.status == nil && n.Replication != nil && n.Replication.Streaming {
		out = append(out, replicationText(n.Replication))
	}
	return strings.Join(out, "; ")
}

// fleetWarnings are below the table: reasons that were too long for it, and warnings.
func (fl *fleet) fleetWarnings(nodes []*fleetNode) {
	fl.app.out.flush()
	for _, n := range nodes {
		if n.Error != "" && n.note() != printable(n.Error) {
			fmt.Fprintf(fl.app.stderr, "converge: %s: %s: %s\n", n.word(), n.Node, printable(n.Error))
		}
		for _, w := range n.Warnings {
			fmt.Fprintf(fl.app.stderr, "converge: warning: %s: %s\n", n.Node, printable(w))
		}
	}
}

// scan shows the keys, then what is wrong with some, then the lines to paste.
func (p *printer) scan(fl *fleet, nodes []*scanNode) {
	w := newTable()
	fmt.Fprintln(w, "NODE\tRESULT\tFINGERPRINT\tFROM")
	for _, n := range nodes {
		from := "-"
		if n.Source != "" {
			from = n.Source + " (" + n.Under + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Node, n.Result, orDash(n.Fingerprint), from)
	}
	p.table(w)
	for _, n := range nodes {
		if n.Note != "" {
			p.linef("\n%s", p.paint(red, n.Node+": "+printable(n.Note)))
		}
	}
	p.linesToPaste(fl, nodes)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// linesToPaste are the host_key lines that the environment file lacks. A person puts them there.
func (p *printer) linesToPaste(fl *fleet, nodes []*scanNode) {
	first := true
	for _, n := range nodes {
		if n.HostKey == "" || n.Result == scanSame {
			continue
		}
		if first {
			p.linef("\nLines for %s. First hold each fingerprint against the console of its machine, where", fl.source.Name)
			p.linef("ssh-keygen -lf /etc/ssh/%s prints it: whoever has the key opens what is sealed to the node.", keyFile(n.HostKey))
			first = false
		}
		p.linef("\n  node %q   # %s, %s", n.Node, n.Fingerprint, vouched(n))
		p.linef("    host_key = %q", n.HostKey)
	}
}

func keyFile(key string) string {
	if strings.HasPrefix(key, "ssh-rsa ") {
		return "ssh_host_rsa_key.pub"
	}
	return "ssh_host_ed25519_key.pub"
}

func vouched(n *scanNode) string {
	switch {
	case n.Result == scanDiffers:
		return "NOT the one in the file"
	case n.Source == fromKeyscan:
		return "from the network, confirmed by nobody"
	}
	return "from your known_hosts"
}
