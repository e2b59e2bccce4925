package resources

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"converge/engine"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// An HBAStatus is pg_hba.conf.
type HBAStatus struct {
	Path   string   `json:"path"`
	Rules  int      `json:"rules"`
	Errors []string `json:"errors"` // each with its file, its line, and whose the line is
	Loaded string   `json:"loaded"` // "yes": read since it was last changed, and without a broken line; "no"; "unknown"
}

// A Plaintext is how many sessions of one user from one address are without TLS although the rules want it: they came
// before the rules did, and last until they end.
type Plaintext struct {
	User     string `json:"user"`
	Database string `json:"database,omitempty"` // "" of replication
	From     string `json:"from"`
	Sessions int    `json:"sessions"`
}

// hbaLimit is the largest pg_hba.conf, in bytes, that is looked at.
const hbaLimit = 64 << 20

// hbaOnDisk judges the file as converge reads it: all there is while the server does not answer.
func (in *inspection) hbaOnDisk(files postgres.Files) {
	text, err := files.ReadFile(in.site.Server.HBAFile)
	if err != nil {
		in.unknown("pg_hba.conf", err)
		return
	}
	rules := in.parseHBA(text, files)
	in.status.HBA.Rules = len(rules.Rules)
	for _, p := range rules.Problems() {
		in.hbaError(text, postgres.FileProblem{File: cmp.Or(p.File, in.site.Server.HBAFile), Line: p.Line, Text: p.Message})
	}
}

func (in *inspection) parseHBA(text []byte, files postgres.Files) *hba.File {
	server := hba.Packaged(in.site.Server.Major)
	if in.conf != nil {
		server.UserNamespace = isOn(in.conf.Value("db_user_namespace", "off"))
	}
	return hba.Parse(text, server, hba.Files{Path: in.site.Server.HBAFile, Read: files.ReadFile, List: files.ReadDir})
}

// hbaError keeps a line that the server would refuse, with whose it is.
func (in *inspection) hbaError(text []byte, p postgres.FileProblem) {
	said := p.String()
	if doc, err := parseDocument(text, "#"); err == nil && p.File == in.site.Server.HBAFile && p.Line > 0 {
		said = fmt.Sprintf("%s line %d%s: %s", p.File, p.Line, doc.owner(p.Line), p.Text)
	}
	in.status.HBA.Errors = append(in.status.HBA.Errors, engine.Redact(said))
}

// hbaServed asks the server what it makes of the file, and which rules it runs with.
func (in *inspection) hbaServed(ctx context.Context, conn *postgres.Conn, facts postgres.Facts) {
	st, s := in.status.HBA, in.site.Server
	rules, err := conn.HBARules(ctx)
	if err != nil {
		in.unknown("pg_hba_file_rules", err)
		return
	}
	text, info, err := in.disk.ReadFile(s.HBAFile, hbaLimit)
	if err != nil {
		in.unknown("pg_hba.conf", err)
		return
	}
	st.Rules, st.Errors = 0, []string{} // the server has the word
	for _, r := range rules {
		if !r.Broken() {
			st.Rules++
		}
	}
	for _, p := range s.HBAProblems(rules) {
		in.hbaError(text, p)
	}
	if len(st.Errors) > 0 || time.Unix(info.Ident.Ctime.Unix()).After(facts.Loaded) {
		st.Loaded = "no"
		return
	}
	st.Loaded = in.loaded(ctx, text)
}

// loaded asks the server by the beacons which rules it runs with.
func (in *inspection) loaded(ctx context.Context, text []byte) string {
	told := true
	missing, err := unloaded(ctx, text, in.site.Server, func(string) { told = false })
	switch {
	case err != nil:
		in.unknown("which rules are loaded", err)
		return "unknown"
	case !told:
		return "unknown"
	}
	for _, m := range missing {
		in.problem("converge apply", "%s", m)
	}
	return yesNo(len(missing) == 0)
}

// plaintext finds the sessions that are here without TLS, and by the rules on the disk would get in with it only. Most
// servers have no session without TLS at all, and are asked no more than that.
func (in *inspection) plaintext(ctx context.Context, conn *postgres.Conn, facts postgres.Facts) {
	var any bool
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
		WHERE NOT s.ssl AND a.client_addr IS NOT NULL AND a.backend_type IN ('client backend', 'walsender'))`).Scan(&any)
	if err != nil {
		in.unknown("sessions without TLS", err)
		return
	}
	if !any {
		return
	}
	people, err := conn.People(ctx, facts)
	if err != nil {
		in.unknown("sessions without TLS", err)
		return
	}
	files := postgres.Root(in.disk.Root())
	text, err := files.ReadFile(in.site.Server.HBAFile)
	if err != nil {
		return // told already
	}
	j := accessJudge{site: in.site, people: people, facts: hba.Facts{Interfaces: in.site.Interfaces, Member: people.Member}}
	rules := in.parseHBA(text, files)
	for _, s := range people.Sessions {
		if s.From != (netip.Addr{}) && !s.TLS && !s.GSS && j.wantsTLS(rules, visitOf(s)) {
			in.status.Plaintext = append(in.status.Plaintext, Plaintext{s.User, s.Database, s.From.String(), s.Count})
		}
	}
}

// wantsTLS says whether a visit without TLS is turned away, and with TLS, whatever certificate is shown, is not.
func (j *accessJudge) wantsTLS(rules *hba.File, v visit) bool {
	plain, err := j.verdict(rules, v)
	if err != nil || plain.in {
		return false
	}
	v.TLS, v.shown = true, hba.CertifiesTheUser
	with, err := j.verdict(rules, v)
	return err == nil && with.in
}
