package resources

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// An accessJudge says what a new pg_hba.conf means for the people who matter: those who are connected, the environment's
// nodes and users, and converge itself.
type accessJudge struct {
	site   Site
	doc    *document // the new file, which says whose a line is
	before *hba.File
	after  *hba.File
	people postgres.People // empty while the server does not run
	facts  hba.Facts
	limits []string // what was not compared
}

// access tells what the change means, and refuses it when somebody who has to get in could not any more.
func (c hbaCheck) access(ctx context.Context, h *engine.Host, f *FileBlock, before []byte, after *hba.File, doc *document) error {
	j := accessJudge{site: c.site, doc: doc, before: c.parse(h, f, before), after: after}
	j.facts.Interfaces = c.site.Interfaces
	if c.site.Session != nil {
		if err := j.ask(ctx); err != nil {
			return err
		}
	}
	list, err := j.all()
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	h.Affects(list...)
	for _, text := range append(j.shadowed(), j.limits...) {
		h.Warn(text)
	}
	return c.lockout(h, f, list)
}

// ask learns from the server who there is.
func (j *accessJudge) ask(ctx context.Context) error {
	conn, facts, err := connect(ctx, j.site.Server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if j.people, err = conn.People(ctx, facts); err != nil {
		return err
	}
	j.facts.Member = j.people.Member
	return nil
}

// lockout refuses a change that shuts somebody out, unless the operator has said that it may.
func (c hbaCheck) lockout(h *engine.Host, f *FileBlock, list []engine.Access) error {
	var shutOut []string
	for _, a := range list {
		if a.Lockout {
			shutOut = append(shutOut, a.Text)
		}
	}
	switch {
	case len(shutOut) == 0:
		return nil
	case c.site.AcceptLockout:
		h.Warn("locked out, as --accept-lockout allows: " + strings.Join(shutOut, "; "))
		return nil
	}
	return &engine.RefusedError{Reason: fmt.Sprintf("%s would lock out who has to get in: %s. Nothing is written: mend the rules, or accept it with --accept-lockout", f.path, strings.Join(shutOut, "; "))}
}

// all is everything that the change means: who is locked out first, then the open sessions, then the rest.
func (j *accessJudge) all() ([]engine.Access, error) {
	var out []engine.Access
	for _, part := range []func() ([]engine.Access, error){j.own, j.nodes, j.sessions, j.differences} {
		list, err := part()
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	slices.SortStableFunc(out, func(a, b engine.Access) int { return accessRank(a) - accessRank(b) })
	return out, nil
}

func accessRank(a engine.Access) int {
	switch {
	case a.Lockout:
		return 0
	case a.Sessions > 0:
		return 1
	case a.Change == engine.AccessLoses:
		return 2
	case a.Change == engine.AccessMethod:
		return 3
	}
	return 4
}

// A visit is a connection with what its client has to show.
type visit struct {
	hba.Connection
	shown  hba.Certificate
	system bool // nothing but who it is on this machine: no password
}

// A verdict is what a file makes of a visit.
type verdict struct {
	rule *hba.Rule
	in   bool
}

func (j *accessJudge) verdict(f *hba.File, v visit) (verdict, error) {
	rule, err := f.Match(v.Connection, j.facts)
	if err != nil {
		return verdict{}, err
	}
	return verdict{rule, rule != nil && rule.Demand().Admits(v.shown) && (!v.system || withoutPassword(rule))}, nil
}

func withoutPassword(r *hba.Rule) bool {
	p := r.Demand().Proof
	return p == hba.Nothing || p == hba.SystemUser
}

// lost is the first of the visits that gets in before and none of which gets in after; nil when there is no such loss.
func (j *accessJudge) lost(visits []visit) (*engine.Access, error) {
	var loss *engine.Access
	for _, v := range visits {
		before, err := j.verdict(j.before, v)
		if err != nil {
			return nil, err
		}
		after, err := j.verdict(j.after, v)
		if err != nil {
			return nil, err
		}
		if after.in {
			return nil, nil
		}
		if before.in && loss == nil {
			a := accessOf(v, before.rule, after.rule)
			a.Text = j.phrase(after.rule)
			loss = &a
		}
	}
	return loss, nil
}

// accessOf is what changes for one visit.
func accessOf(v visit, before, after *hba.Rule) engine.Access {
	a := engine.Access{
		Change: engine.AccessLoses, Users: []string{v.User}, Databases: []string{v.Database}, From: []string{"local"}, Connection: "local",
		Replication: v.Replication, Before: accessRule(before), After: accessRule(after),
	}
	if v.Replication {
		a.Databases = []string{}
	}
	if v.From.IsValid() {
		a.From, a.Connection = []string{v.From.String()}, connectionWord(v.Connection)
	}
	return a
}

func connectionWord(c hba.Connection) string {
	switch {
	case !c.From.IsValid():
		return "local"
	case c.TLS:
		return "tls"
	case c.GSS:
		return "gss"
	}
	return "plaintext"
}

func accessRule(r *hba.Rule) engine.AccessRule {
	if r == nil {
		return engine.AccessRule{Options: []string{}}
	}
	line := r.Line
	return engine.AccessRule{File: r.File, Line: &line, Method: r.Method, Options: shown(r.Options)}
}

// phrase says which line of the new file decides, and what it wants.
func (j *accessJudge) phrase(r *hba.Rule) string {
	if r == nil {
		return "no line is for it"
	}
	where := j.place(r.File, r.Line)
	if r.Demand().Proof != hba.Rejected {
		return where + " asks for " + wants(r)
	}
	return where + " rejects it"
}

// place is a line of the new file, with whose it is.
func (j *accessJudge) place(file string, line int) string {
	if file != "" {
		return fmt.Sprintf("%s line %d", file, line)
	}
	return fmt.Sprintf("line %d%s", line, j.doc.owner(line))
}

// wants is what a rule asks for, as the server prints it.
func wants(r *hba.Rule) string {
	return strings.Join(append([]string{r.Method}, shown(r.Options)...), " ")
}

// shown is options without the passwords that some methods have in them.
func shown(options []string) []string {
	out := []string{}
	for _, o := range options {
		out = append(out, engine.Redact(o))
	}
	return out
}

// own is converge's own connection.
func (j *accessJudge) own() ([]engine.Access, error) {
	loss, err := j.lost(j.ownVisits())
	if loss == nil || err != nil {
		return nil, err
	}
	loss.Lockout = true
	loss.Text = fmt.Sprintf("converge's own connection (%s over the unix socket): %s", loss.Users[0], loss.Text)
	return []engine.Access{*loss}, nil
}

// ownVisits are the ways in that converge tries.
func (j *accessJudge) ownVisits() []visit {
	s := j.site.Server
	var visits []visit
	for _, role := range []string{s.AdminUser, s.Owner.Name} {
		visits = append(visits, visit{Connection: hba.Connection{User: role, Database: "postgres"}, system: true})
	}
	return visits
}

// nodes are the machines of the environment that have to get in.
func (j *accessJudge) nodes() ([]engine.Access, error) {
	var out []engine.Access
	for _, n := range j.site.Environment.Nodes {
		if n.Name == j.site.Node.Name || !n.Address.IsValid() {
			continue
		}
		for _, c := range j.needs(n) {
			loss, err := j.lost(bestWays(c))
			if err != nil {
				return nil, err
			}
			if loss != nil {
				loss.Lockout = true
				loss.Text = nodeText(n, c, loss.Text)
				out = append(out, *loss)
			}
		}
	}
	return out, nil
}

func nodeText(n recipe.Node, c hba.Connection, why string) string {
	to := "database " + nameText(c.Database)
	if c.Replication {
		to = "replication"
	}
	return fmt.Sprintf("node %s (%s, %s) as %s to %s, in any way: %s", n.Name, n.Role, n.Address, nameText(c.User), to, why)
}

// needs are the connections that a node has to make: a replica to receive the log, an application host to the databases.
func (j *accessJudge) needs(n recipe.Node) []hba.Connection {
	var out []hba.Connection
	switch {
	case n.Role == "db_replica":
		out = append(out, hba.Connection{From: n.Address, User: j.site.Environment.AdminUser, Replication: true})
	case strings.HasPrefix(n.Role, "app"), n.Role == "util":
		for _, d := range j.databases() {
			out = append(out, hba.Connection{From: n.Address, User: j.site.Environment.AppUser, Database: d})
		}
	}
	return out
}

// bestWays are the ways in which a machine of the environment can come.
func bestWays(c hba.Connection) []visit {
	plain := visit{Connection: c}
	c.TLS = true
	return []visit{{Connection: c, shown: hba.CertifiesTheUser}, {Connection: c}, plain}
}

// databases are those that an application may want: all but postgres, where there is another. While the server cannot be
// asked, it is the one of the user's name.
func (j *accessJudge) databases() []string {
	others := slices.DeleteFunc(slices.Clone(j.people.Databases), func(d string) bool { return d == "postgres" })
	switch {
	case len(others) > 0:
		return others
	case len(j.people.Databases) > 0:
		return j.people.Databases
	}
	return []string{j.site.Environment.AppUser}
}

// sessions are the connections that are open now. Those that could not come back as they are are told; a standby among
// them is locked out.
func (j *accessJudge) sessions() ([]engine.Access, error) {
	var out []engine.Access
	for _, s := range j.people.Sessions {
		v := visitOf(s)
		loss, err := j.lost([]visit{v})
		if err != nil {
			return nil, err
		}
		if loss == nil {
			continue
		}
		better, err := j.cameBack(v)
		if err != nil {
			return nil, err
		}
		loss.Sessions = s.Count
		loss.Lockout = s.Standby != "" && !better
		loss.Text = j.sessionText(s, loss.Text)
		if better {
			loss.Text += "; with TLS, which the server did not have until now, it gets in"
		}
		out = append(out, *loss)
	}
	return out, nil
}

// cameBack tells whether a client that is here in plaintext because the server has no TLS gets in with it: those that
// prefer TLS, as libpq does, take it when it is there.
func (j *accessJudge) cameBack(v visit) (bool, error) {
	if j.people.TLS || v.TLS || v.GSS || !v.From.IsValid() {
		return false, nil
	}
	v.TLS = true
	after, err := j.verdict(j.after, v)
	return after.in, err
}

func visitOf(s postgres.Sessions) visit {
	v := visit{Connection: hba.Connection{From: s.From, TLS: s.TLS, GSS: s.GSS, Database: s.Database, User: s.User, Replication: s.Database == ""}}
	switch {
	case s.Certifies():
		v.shown = hba.CertifiesTheUser
	case s.Subject != "":
		v.shown = hba.TrustedByTheCA
	}
	return v
}

func (j *accessJudge) sessionText(s postgres.Sessions, why string) string {
	sessions, are := "sessions", "are"
	if s.Count == 1 {
		sessions, are = "session", "is"
	}
	who := fmt.Sprintf("%d open %s of %s", s.Count, sessions, nameText(s.User))
	if s.From.IsValid() {
		who += "@" + s.From.String()
	}
	switch {
	case s.Standby != "":
		who = fmt.Sprintf("the connected standby %q (%s@%s)", s.Standby, nameText(s.User), addressText(s.From))
		are = "is"
	case s.Database != "":
		who += fmt.Sprintf(" (database %s)", nameText(s.Database))
	}
	return fmt.Sprintf("%s %s %s and could not come back: %s", who, are, wayText(s), why)
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return "the unix socket"
	}
	return a.String()
}

func wayText(s postgres.Sessions) string {
	switch {
	case !s.From.IsValid():
		return "on the unix socket"
	case s.GSS:
		return "encrypted by GSSAPI"
	case s.TLS && s.Subject == "":
		return "over TLS without a certificate"
	case s.TLS:
		return "over TLS with a certificate"
	}
	return "in plaintext"
}

// differences are what the two files decide differently for anybody: the environment's people by their names.
func (j *accessJudge) differences() ([]engine.Access, error) {
	d := hba.Diff(withoutBeacons(j.before), withoutBeacons(j.after), j.names())
	j.limits = d.Limits
	var out []engine.Access
	for _, c := range d.Changes {
		out = append(out, j.difference(c))
	}
	return mergeText(out), nil
}

// mergeText tells what happens to connections with GSSAPI encryption, which few use, in the sentence of those in plaintext,
// where the same happens to them.
func mergeText(list []engine.Access) []engine.Access {
	at := map[string]int{}
	for i, a := range list {
		if a.Connection == "plaintext" {
			at[sameButWay(a)] = i
		}
	}
	for i, a := range list {
		if plain, ok := at[sameButWay(a)]; ok && a.Connection == "gss" {
			list[i].Text = ""
			list[plain].Text = strings.Replace(list[plain].Text, " in plaintext:", " in plaintext or with GSSAPI encryption:", 1)
		}
	}
	return list
}

// sameButWay is equal for what differs only in how the connection is encrypted.
func sameButWay(a engine.Access) string {
	return fmt.Sprint(a.Change, a.Replication, a.Users, a.Databases, a.From, a.Before.File, lineOf(a.Before), a.After.File, lineOf(a.After))
}

func lineOf(r engine.AccessRule) int {
	if r.Line == nil {
		return 0
	}
	return *r.Line
}

// manyRoles is how many roles of the server are told apart by name. Where there are more, those that the files do not name are
// "any other".
const manyRoles = 100

// names are those whom the environment knows, so that they are told apart from any other.
func (j *accessJudge) names() hba.Names {
	env := j.site.Environment
	names := hba.Names{Users: []string{env.AdminUser, env.AppUser}, Databases: j.people.Databases}
	if len(j.people.Roles) <= manyRoles {
		for _, r := range j.people.Roles {
			names.Users = append(names.Users, r.Name)
		}
	}
	for _, n := range env.Nodes {
		if n.Address.IsValid() {
			names.Networks = append(names.Networks, netip.PrefixFrom(n.Address, n.Address.BitLen()))
		}
	}
	return names
}

// listText is a list in a sentence. All of it is in the JSON.
func listText(list []string) string {
	const most = 8
	var names []string
	for _, name := range list[:min(most, len(list))] {
		names = append(names, nameText(name))
	}
	text := strings.Join(names, ", ")
	if len(list) > most {
		text += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return text
}

// nameText is a name in a line: whoever makes roles and databases must not make lines.
func nameText(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}

var accessKinds = map[hba.Effect]engine.AccessKind{
	hba.Loses: engine.AccessLoses, hba.Gains: engine.AccessGains, hba.OtherMethod: engine.AccessMethod,
}

func (j *accessJudge) difference(c hba.AccessChange) engine.Access {
	a := engine.Access{
		Change: accessKinds[c.Effect], Users: c.Users, Databases: append([]string{}, c.Databases...), From: c.From, Connection: c.Connection,
		Replication: c.Replication, Before: accessRule(c.Before), After: accessRule(c.After),
	}
	if c.Connection == "local" {
		a.From = []string{"local"}
	}
	to := "database " + listText(c.Databases)
	if c.Replication {
		to, a.Databases = "physical replication", []string{}
	}
	verb := map[hba.Effect]string{hba.Loses: "loses", hba.Gains: "gains", hba.OtherMethod: "keeps, by another method,"}[c.Effect]
	a.Text = fmt.Sprintf("%s %s %s %s: %s, where %s", listText(c.Users), verb, to, j.fromText(a), j.phrase(c.After), phraseBefore(c.Before))
	return a
}

func (j *accessJudge) fromText(a engine.Access) string {
	if a.Connection == "local" {
		return "over the unix socket"
	}
	way := map[string]string{"tls": "over TLS", "gss": "with GSSAPI encryption", "plaintext": "in plaintext"}[a.Connection]
	return "from " + listText(a.From) + " " + way
}

func phraseBefore(r *hba.Rule) string {
	switch {
	case r == nil:
		return "no line was for it"
	case r.Demand().Proof == hba.Rejected:
		return fmt.Sprintf("line %d rejected it", r.Line)
	}
	return fmt.Sprintf("line %d asked for %s", r.Line, wants(r))
}

// shadowed names the rules of the new file that no connection can come to, and that the old one did not have so.
func (j *accessJudge) shadowed() []string {
	known := map[string]bool{}
	before, after := textsOf(j.before), textsOf(j.after)
	for _, l := range j.before.Lints() {
		if l.Name == hba.NeverMatches {
			known[lineKey(l, before)] = true
		}
	}
	var out []string
	for _, l := range j.after.Lints() {
		if l.Name == hba.NeverMatches && !known[lineKey(l, after)] {
			out = append(out, fmt.Sprintf("%s never matches: %s", j.place(l.File, l.Line), l.Message))
		}
	}
	return out
}

// lineKey is the same for the same line, wherever it stands now.
func lineKey(l hba.Lint, texts map[int]string) string {
	if l.File != "" {
		return fmt.Sprintf("%s line %d", l.File, l.Line)
	}
	return texts[l.Line]
}

// textsOf are the lines of the file itself by their numbers.
func textsOf(f *hba.File) map[int]string {
	texts := make(map[int]string, len(f.Lines))
	for i := range f.Lines {
		texts[f.Lines[i].Number] = f.Lines[i].Text
	}
	return texts
}
