package main

import (
	"fmt"
	"strings"
	"time"

	"converge/resources"
)

// verified shows the connections, each with what was seen of it, and what they come to.
func (p *printer) verified(doc *verifyJSON, requireLogin bool) {
	title := doc.Node
	if doc.Environment != "" {
		title = doc.Environment + ": " + title
	}
	if doc.Role != "" {
		title += " as " + doc.Role
	}
	p.linef("%s", p.paint(bold, printable(title)))
	counts := map[resources.Outcome]int{}
	for i := range doc.Connections {
		r := &doc.Connections[i]
		counts[r.Result]++
		p.linef("")
		p.connection(r, requireLogin)
	}
	p.linef("")
	var words []string
	for _, o := range []struct {
		outcome resources.Outcome
		text    string
	}{{resources.ClientOK, "ok"}, {resources.ClientPasswordNeeded, "proven up to the password"}, {resources.ClientFailed, "failed"}} {
		if n := counts[o.outcome]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, o.text))
		}
	}
	p.linef("%s: %s.", count(len(doc.Connections), "connection", "connections"), strings.Join(words, ", "))
}

// field is one line of what is said of a connection.
func (p *printer) field(name, format string, args ...any) {
	p.linef("    %-12s %s", name, printable(fmt.Sprintf(format, args...)))
}

// connection shows one.
func (p *printer) connection(r *resources.ClientResult, requireLogin bool) {
	sign, color, word := "ok", green, ""
	switch {
	case r.Result == resources.ClientFailed:
		sign, color, word = "!", red, ": "+string(r.Reason)
	case r.Result == resources.ClientPasswordNeeded && requireLogin:
		sign, color, word = "!", red, ": not logged in"
	case r.Result == resources.ClientPasswordNeeded:
		word = ", up to the password"
	}
	where := fmt.Sprintf("%s, port %d", orUnknown(r.Host), r.Port)
	if r.Node != "" && r.Node != r.Host {
		where = r.Node + " (" + where + ")"
	}
	p.linef("%s %s", p.paint(color, sign), p.paint(bold, printable(fmt.Sprintf("%s to database %s on %s%s", r.User, r.Database, where, word))))
	if r.Text != "" {
		p.linef("    %s", printable(r.Text))
	}
	if r.Mend != "" {
		p.linef("    mend: %s", printable(r.Mend))
	}
	p.field("key", "%s, %s", r.Key, r.KeyFile)
	p.seen(r)
	p.plaintext(r)
	for _, n := range r.Notes {
		p.field("note", "%s", n)
	}
}

// seen is what the connection itself showed, as far as it came.
func (p *printer) seen(r *resources.ClientResult) {
	if r.LoggedInAs != "" {
		p.field("logged in as", "%s", r.LoggedInAs)
	}
	if r.InRecovery != nil {
		declared := ""
		if r.Declared && r.Reason != resources.WrongRecovery {
			declared = ", as declared"
		}
		p.field("the server", "%s", map[bool]string{true: "is in recovery", false: "is not in recovery"}[*r.InRecovery]+declared)
	}
	if c := r.Server; c != nil {
		p.linef("    SSL connection (protocol: %s, cipher: %s, bits: %d)", r.Protocol, r.Cipher, r.Bits)
		p.field("certificate", "%s, %s, until %s, for %s", c.Subject, c.Short(), c.Expires.Format(time.DateOnly), strings.Join(c.Names, ", "))
	}
	switch {
	case r.HBA != nil:
		p.field("pg_hba.conf", "%s", r.HBA)
	case r.HBAUnknown != "" && r.Server != nil:
		p.field("pg_hba.conf", "%s", r.HBAUnknown)
	}
}

// plaintext is what the server does without TLS. That it lets the client in is the loud truth.
func (p *printer) plaintext(r *resources.ClientResult) {
	text := r.Plaintext.Text
	switch r.Plaintext.Result {
	case "admitted":
		p.linef("    %-12s %s", "PLAINTEXT", p.paint(red, printable(text)))
	case "refused":
		p.field("plaintext", "refused: %s", text)
	default:
		p.field("plaintext", "not known: %s", text)
	}
}
