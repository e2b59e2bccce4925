package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"converge/engine"
	"converge/resources"
	"converge/resources/postgres"
)

// status shows the screen: problems first, then the three states, then keys and debts.
func (p *printer) status(st *statusJSON, now time.Time) {
	p.linef("%s", p.paint(bold, fmt.Sprintf("%s: %s as %s", st.Environment, st.Node, st.Role)))
	if s := st.Server; s != nil {
		line := fmt.Sprintf("%s is %s", s.Name, s.Phase)
		if s.Started != nil {
			line = fmt.Sprintf("%s (%s) is %s, up %s", s.Name, s.Version, s.Phase, ago(now.Sub(*s.Started)))
		}
		p.linef("%s", line)
	}
	p.replication(st.Replication)
	p.linef("")
	for _, t := range st.Problems {
		p.linef("%s %s", p.paint(red, "!"), strings.ReplaceAll(t.Text, "\n", "\n  "))
		if t.Mend != "" {
			p.linef("    mend: %s", t.Mend)
		}
	}
	for _, u := range st.Unknown {
		p.linef("%s %s", p.paint(yellow, "?"), u)
	}
	if st.Healthy {
		p.linef("%s", p.paint(green, "All is well."))
	}
	p.linef("")
	p.states(st)
	p.linef("")
	p.debts(st, now)
}

// replication is whom the server follows, and who follows it.
func (p *printer) replication(r *postgres.Replication) {
	switch {
	case r == nil || !r.InRecovery && len(r.Standbys) == 0:
	case r.InRecovery && !r.Streaming:
		p.linef("%s", p.paint(red, "It is a standby, and does not stream"))
	case r.InRecovery:
		lag := ""
		if r.Lag != nil {
			lag = fmt.Sprintf(", %d bytes not replayed", *r.Lag)
		}
		p.linef("It streams from %s%s", orUnknown(r.Sender), lag)
	default:
		var names []string
		for _, s := range r.Standbys {
			how := "TLS"
			if !s.TLS {
				how = "no TLS"
			}
			names = append(names, fmt.Sprintf("%s (%s, %s, %s)", s.Name, orUnknown(s.Address), s.State, how))
		}
		p.linef("Followed by %s", strings.Join(names, ", "))
	}
}

// states is the table of declared, on disk and served.
func (p *printer) states(st *statusJSON) {
	w := tabwriter.NewWriter(p.w, 0, 0, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\tDECLARED\tON DISK\tSERVED")
	if s := st.SSL; s != nil {
		served := s.Served
		if s.Protocol != "" {
			served += ", " + s.Protocol
		}
		fmt.Fprintf(w, "ssl\t%s\t%s\t%s\n", s.Declared, s.OnDisk, served)
	}
	if h := st.HBA; h != nil {
		served := map[string]string{"yes": "loaded", "no": "not loaded"}[h.Loaded]
		fmt.Fprintf(w, "pg_hba.conf\t%s\t%d rules, %d errors\t%s\n", declaredAs(st, "file_block.pg_hba"), h.Rules, len(h.Errors), orUnknown(served))
	}
	if c := st.Authority; c != nil {
		fmt.Fprintf(w, "authority\t%s\t%s\t%s\n", declaredAs(st, c.Address), c.Short(), servedAuthority(c))
	}
	if c := st.ServerKey; c != nil {
		fmt.Fprintf(w, "server certificate\t%s\t%s\t%s\n", declaredAs(st, c.Address), c.Short(), servedCert(c))
	}
	for _, c := range st.UserKeys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Address, declaredAs(st, c.Address), c.Short(), c.Path)
	}
	for _, c := range st.CRLs {
		fmt.Fprintf(w, "revocation list\t\t%s\t%s\n", crlText(c), c.Path)
	}
}

// crlText is a revocation list in a few words.
func crlText(c resources.CRLStatus) string {
	switch {
	case c.Error != "":
		return "unreadable"
	case c.NextUpdate.IsZero():
		return fmt.Sprintf("%d revoked, no end", c.Revoked)
	}
	return fmt.Sprintf("%d revoked, %d days left", c.Revoked, c.DaysLeft)
}

// servedCert says whether the certificate on the disk is the one that is served, and which one is.
func servedCert(c *resources.CertStatus) string {
	switch {
	case c.Served == "yes":
		return "this one"
	case c.ServedFingerprint != "" && c.ServedExpires != nil:
		return fmt.Sprintf("another one: %.12s, until %s", c.ServedFingerprint, c.ServedExpires.Format(time.DateOnly))
	case c.Served == "no":
		return "another one"
	}
	return "unknown"
}

// servedAuthority says whether the server trusts the authority, and whom it trusts else.
func servedAuthority(c *resources.CertStatus) string {
	switch {
	case c.Served == "yes":
		return "trusted"
	case c.Served == "no" && len(c.ServedNames) > 0:
		return "not trusted; it trusts " + strings.Join(c.ServedNames, ", ")
	case c.Served == "no":
		return "not trusted"
	}
	return "unknown"
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// declaredAs says whether a step's resource is as declared.
func declaredAs(st *statusJSON, address string) string {
	for _, d := range st.Drift {
		if d.Address == address {
			return "differs"
		}
	}
	return "as declared"
}

// debts is what is owed, the window, and the last run.
func (p *printer) debts(st *statusJSON, now time.Time) {
	if len(st.Owed) == 0 {
		p.linef("Owed: nothing")
	}
	p.owed(st.Owed)
	if owesRestart(st.Owed) && st.Server != nil {
		p.linef("A restart takes %s", restartTime(st.Server))
	}
	switch {
	case st.WindowCloses != nil:
		p.linef("Maintenance window: open, for %s more", ago(st.WindowCloses.Sub(now)))
	case st.NextWindow != nil:
		p.linef("Next maintenance window: %s, in %s", st.NextWindow.Local().Format(windowForm), ago(st.NextWindow.Sub(now)))
	}
	if st.Server != nil {
		p.linef("Would the server start again: %s", startsText(st.Server.Starts))
	}
	p.lastRun(st.LastRun)
}

// startsText is yes, unknown, or no: why not is among the problems.
func startsText(starts string) string {
	if starts == "yes" || starts == "unknown" {
		return starts
	}
	return "no"
}

func restartTime(s *resources.ServerStatus) resources.RestartTime {
	return resources.RestartTime{Restart: time.Duration(s.RestartSeconds * float64(time.Second)), Measured: s.RestartMeasured}
}

// lastRun tells how the last run ended, and why.
func (p *printer) lastRun(r *lastRun) {
	switch {
	case r == nil:
		p.linef("Last run: none")
	case r.Finished.IsZero():
		p.linef("Last run: %s (converge history %s)", r.Result, r.Run)
	default:
		p.linef("Last run: %s, %s (converge history %s)", r.Finished.Local().Format("2006-01-02 15:04:05"), r.Result, r.Run)
	}
	if r != nil && r.Result != engine.ResultOK {
		for _, f := range r.Failures {
			p.linef("    %s", strings.ReplaceAll(f, "\n", "\n    "))
		}
	}
}

// ago is a duration as people say it.
func ago(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d minutes", int(d.Minutes()))
}
