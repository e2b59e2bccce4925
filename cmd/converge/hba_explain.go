package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources/hba"
)

// explainFlags are the client that hba explain asks about, or the file with many.
type explainFlags struct {
	version hbaVersion
	client  hbaClient
	from    string
	batch   string
}

func (a *app) hbaExplainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain FILE --user U --database D --from ADDR|local | FILE --batch CASES",
		Short: "Say which line of a pg_hba.conf a connection meets, and what it asks for",
		Long: `Say which line of a pg_hba.conf a connection meets, what the line asks of the client, and which lines before it come near.
Names are as PostgreSQL has them: case counts, and nobody is in a role that --member-of does not name, besides the role
of the own name. samehost and samenet are the addresses and networks of this host; names of hosts are looked up.

A batch is a file (or - for standard input) with a JSON object a line, like
  {"user":"deploy","database":"app","from":"10.0.1.7","ssl":true,"cert":false,"replication":false,"member_of":["staff"]}
What is left out is false or empty, but for "from", an address or "local". There is one answer for each line, in order.

That no line matches is an answer too, and the exit code is 0. It is 1 when the file would not load.`,
		Example: `  converge hba explain pg_hba.conf --user deploy --database app --from 10.0.1.7 --ssl --cert
  converge hba explain pg_hba.conf --user replicator --replication --from 10.0.1.8
  converge hba explain pg_hba.conf --batch cases.jsonl --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.hbaExplain(cmd, args[0], f) },
	}
	f.version.flag(c)
	fs := c.Flags()
	fs.StringVar(&f.client.user, "user", "", "the `ROLE` that the client wants to be")
	fs.StringVar(&f.client.database, "database", "", "the `DATABASE` that it wants; not needed with --replication")
	fs.StringVar(&f.from, "from", "", "the client's `ADDRESS`, or local for the unix socket")
	fs.BoolVar(&f.client.tls, "ssl", false, "the connection is encrypted by TLS")
	fs.BoolVar(&f.client.cert, "cert", false, "the client shows a certificate of the CA in the user's name")
	fs.BoolVar(&f.client.gss, "gss", false, "the connection is encrypted by GSSAPI")
	fs.BoolVar(&f.client.replication, "replication", false, "physical replication; logical replication is a connection like any other")
	fs.StringArrayVar(&f.client.memberOf, "member-of", nil, "a `ROLE` that the user is a member of; repeatable")
	fs.StringVar(&f.batch, "batch", "", "answer for each of the cases in `FILE`, - for standard input")
	return c
}

func (a *app) hbaExplain(cmd *cobra.Command, name string, f explainFlags) error {
	cases, err := f.cases(cmd)
	if err != nil {
		return err
	}
	if err := a.chooseVersion(cmd, &f.version); err != nil {
		return err
	}
	file, err := f.version.loadHBA(cmd.Context(), name)
	if err != nil {
		return err
	}
	facts := a.newHostFacts(cmd.Context())
	p := newPrinter(a)
	if !p.json && f.batch == "" {
		p.linef("%s\n", f.version.forWhich())
	}
	for _, c := range cases {
		e := explanation{name: name, file: file, client: c, facts: facts.of(c)}
		if e.rule, err = file.Match(c.connection(), e.facts); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case p.json:
			err = a.printJSON(answerOf(e.rule))
		case f.batch != "":
			p.linef("%s: %s", c.place, e.outcome())
		default:
			p.explanation(&e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cases are the clients that the command line asks about.
func (f *explainFlags) cases(cmd *cobra.Command) ([]hbaClient, error) {
	given := cmd.Flags().Changed
	if given("batch") {
		for _, name := range []string{"user", "database", "from", "ssl", "cert", "gss", "replication", "member-of"} {
			if given(name) {
				return nil, usage("--batch and --%s: the cases of a batch say that themselves", name)
			}
		}
		return readCases(f.batch, cmd.InOrStdin())
	}
	switch {
	case !given("user"), !given("from"), !given("database") && !f.client.replication:
		return nil, usage("--user, --database and --from say whose connection it is (or --batch)")
	case f.client.tls && f.client.gss:
		return nil, usage("--ssl and --gss: a connection is encrypted by one of them at most")
	}
	var err error
	if f.client.from, err = parseFrom(f.from); err != nil {
		return nil, usage("--from: %w", err)
	}
	return []hbaClient{f.client}, nil
}

// A hbaClient is who wants to connect.
type hbaClient struct {
	user, database string
	from           netip.Addr // the zero Addr: through the unix socket
	tls, cert, gss bool
	replication    bool
	memberOf       []string

	place string // where it stands in a batch
}

// parseFrom reads the address of a client.
func parseFrom(text string) (netip.Addr, error) {
	if text == "local" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address; write one, or local for the unix socket", text)
	}
	return addr, nil
}

func (c *hbaClient) connection() hba.Connection {
	return hba.Connection{From: c.from, TLS: c.tls, GSS: c.gss, Database: c.database, User: c.user, Replication: c.replication}
}

// shows is the certificate that the client presents. There is none without TLS.
func (c *hbaClient) shows() hba.Certificate {
	if c.cert && c.tls && c.from.IsValid() {
		return hba.CertifiesTheUser
	}
	return hba.NoCertificate
}

// hbaAnswerJSON is the line that a connection meets.
type hbaAnswerJSON struct {
	File    string   `json:"file,omitempty"` // the included file that it is in
	Line    *int     `json:"line"`           // null: no line matches
	Method  string   `json:"method"`
	Options []string `json:"options"`
}

func answerOf(r *hba.Rule) hbaAnswerJSON {
	if r == nil {
		return hbaAnswerJSON{Options: []string{}}
	}
	return hbaAnswerJSON{File: r.File, Line: &r.Line, Method: r.Method, Options: notNil(r.Options)}
}

// An explanation is what there is to say of one client.
type explanation struct {
	name   string
	file   *hba.File
	client hbaClient
	facts  hba.Facts
	rule   *hba.Rule // the one that it meets; nil: none
}

// outcome says in words what becomes of the client.
func (e *explanation) outcome() string {
	if e.rule == nil {
		return "no line matches: refused"
	}
	line, d, shown := lineOf(e.rule), e.rule.Demand(), e.client.shows()
	asks := line + " asks for " + d.String()
	if right[d.Proof] != "" {
		asks += " (" + e.rule.Method + ")"
	}
	switch {
	case d.Proof == hba.Rejected:
		return line + " rejects it: refused"
	case !d.Admits(shown):
		return asks + "; " + e.noCertificate() + ": refused"
	case d.Certificate != hba.NoCertificate:
		asks += "; this client shows the certificate"
	}
	return asks + ": let in" + right[d.Proof]
}

// right is what else has to be right before a client is let in.
var right = map[hba.Proof]string{
	hba.Password: " with the right password", hba.SystemUser: " as the right system user", hba.Ticket: " with a valid ticket",
	hba.BearerToken: " with a valid token",
}

func (e *explanation) noCertificate() string {
	if e.client.cert {
		return "without TLS this client shows none"
	}
	return "this client shows none"
}

func lineOf(r *hba.Rule) string {
	text := fmt.Sprintf("line %d", r.Line)
	if r.File != "" {
		text += " of " + printable(r.File)
	}
	return text
}

// text is the rule as it stands in the file, or, for one of an included file, as it was read.
func (e *explanation) text() string {
	for i := range e.file.Lines {
		if l := &e.file.Lines[i]; e.rule.File == "" && l.Number == e.rule.Line {
			return strings.TrimSpace(l.Text)
		}
	}
	r := e.rule
	words := []string{r.Type, strings.Join(hba.Texts(r.Databases), ","), strings.Join(hba.Texts(r.Users), ","), r.Address, r.Netmask, r.Method}
	words = append(words, r.Options...)
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// maxNear is how many of the lines that come near are shown.
const maxNear = 5

// explanation shows the line, what becomes of the client, and what comes near.
func (p *printer) explanation(e *explanation) {
	if e.rule != nil {
		p.linef("%s  %s\n", lineAt(e.name, e.rule.File, e.rule.Line), engine.Redact(printable(e.text())))
	}
	outcome := e.outcome()
	color := green
	if strings.HasSuffix(outcome, "refused") {
		color = red
	}
	p.linef("%s", p.paint(color, outcome))
	near := e.near()
	for i, n := range near {
		if i == maxNear {
			p.linef("  and %s like these", count(len(near)-i, "more line", "more lines"))
			break
		}
		p.linef("  %s", p.paint(dim, printable(n)))
	}
}

// near says of the lines before the one that matches, those that miss the client by one thing only, what that is.
func (e *explanation) near() []string {
	var out []string
	for i := range e.file.Rules {
		r := &e.file.Rules[i]
		if r == e.rule {
			break
		}
		if why := e.miss(*r); why != "" {
			out = append(out, lineOf(r)+" is not it: "+why)
		}
	}
	return out
}

// miss says what keeps a rule from matching, if it is one thing: the kind of connection, the user, the database or the
// address.
func (e *explanation) miss(r hba.Rule) string {
	c := e.client.connection()
	user, database := r, r
	user.Users = []hba.Name{{Text: "all"}}
	database.Databases = []hba.Name{{Text: "all"}, {Text: "replication"}}
	elsewhere := c
	elsewhere.From, _ = netip.ParseAddr(r.Address)
	switch {
	case e.otherWay(r, c):
		return "it is for " + waysOf[r.Type]
	case e.matches(user, c):
		return "it is for " + list("", "", whom(r.Users))
	case e.matches(database, c) && c.Replication:
		return "it is not for replication, which all does not stand for"
	case e.matches(database, c):
		return "it is for " + list("the database ", "the databases ", hba.Texts(r.Databases))
	case c.From.IsValid() && elsewhere.From.IsValid() && e.matches(r, elsewhere):
		return "it is for clients in " + strings.TrimSpace(r.Address+" "+r.Netmask)
	}
	return ""
}

var waysOf = map[string]string{
	"local": "the unix socket", "host": "connections over TCP", "hostssl": "connections with TLS", "hostnossl": "connections without TLS",
	"hostgssenc": "connections with GSSAPI encryption", "hostnogssenc": "connections without GSSAPI encryption",
}

// otherWay tells whether the client would meet the rule if it came in another way from where it is.
func (e *explanation) otherWay(r hba.Rule, c hba.Connection) bool {
	if !c.From.IsValid() {
		return false
	}
	for _, way := range []hba.Connection{{}, {TLS: true}, {GSS: true}} {
		other := c
		other.TLS, other.GSS = way.TLS, way.GSS
		if e.matches(r, other) {
			return true
		}
	}
	return false
}

// matches tells whether a file with this one rule would let the connection meet it.
func (e *explanation) matches(r hba.Rule, c hba.Connection) bool {
	one := hba.File{Server: e.file.Server, Rules: []hba.Rule{r}}
	found, err := one.Match(c, e.facts)
	return err == nil && found != nil
}

// list is a list in words, cut where it becomes long.
func list(one, many string, names []string) string {
	const most = 8
	if len(names) == 1 {
		return one + names[0]
	}
	more := ""
	if n := len(names) - most; n > 0 {
		names, more = names[:most], fmt.Sprintf(" and %d more", n)
	}
	return many + strings.Join(names, ", ") + more
}

// whom are the users of a rule in words.
func whom(users []hba.Name) []string {
	out := hba.Texts(users)
	for i, u := range users {
		if group := u.Group(); group != "" {
			out[i] = "members of " + group
		}
	}
	return out
}
