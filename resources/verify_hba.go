package resources

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// An ownServer is what the server of this host tells its superuser: the rules that it runs with, and who there is.
type ownServer struct {
	err    error // it could not be asked
	port   int
	facts  postgres.Facts
	people postgres.People
	rules  *hba.File // nil: not known, for the reason why
	why    string
}

// ownServer is the server of this host if it is the one at the address; nil: it is another one. It is asked once.
func (p *proof) ownServer(ctx context.Context, remote netip.AddrPort) *ownServer {
	v := p.v
	if v.Site.Server == nil || !v.reachesOwn(remote.Addr()) {
		return nil
	}
	v.once.Do(func() { v.own = v.askOwn(context.WithoutCancel(ctx)) })
	if v.own.port != int(remote.Port()) {
		return nil
	}
	return v.own
}

func (v *Verifier) askOwn(ctx context.Context) *ownServer {
	s := v.Site.Server
	own := &ownServer{port: s.Port}
	if proc, err := s.Process(); err == nil && proc.Port != 0 {
		own.port = proc.Port
	}
	conn, facts, err := connect(ctx, s)
	if err != nil {
		own.err = err
		return own
	}
	defer conn.Close(ctx)
	own.facts = facts
	if own.people, own.err = conn.People(ctx, facts); own.err != nil {
		return own
	}
	own.rules, own.why = v.loadedRules(ctx, facts)
	return own
}

// loadedRules are the rules on the disk, if they are those that the server runs with.
func (v *Verifier) loadedRules(ctx context.Context, facts postgres.Facts) (*hba.File, string) {
	s := v.Site.Server
	files := postgres.Root(v.Disk.Root())
	text, info, err := v.Disk.ReadFile(s.HBAFile, hbaLimit)
	if err != nil {
		return nil, shortError(err)
	}
	f := hba.Parse(text, v.hbaServer(files), hba.Files{Path: s.HBAFile, Read: files.ReadFile, List: files.ReadDir})
	switch {
	case time.Unix(info.Ident.Ctime.Unix()).After(facts.Loaded):
		return nil, fmt.Sprintf("%s was changed, and the server has not read it since", s.HBAFile)
	case len(f.Problems()) > 0:
		return nil, fmt.Sprintf("the server does not take %s as it is: %s", s.HBAFile, f.Problems()[0].Message)
	}
	told := true
	missing, err := unloaded(ctx, text, s, func(string) { told = false })
	switch {
	case err != nil:
		return nil, shortError(err)
	case !told:
		return nil, "it cannot be told which rules the server has loaded"
	case len(missing) > 0:
		return nil, missing[0]
	}
	return f, ""
}

// hbaServer is the server that a pg_hba.conf is read for.
func (v *Verifier) hbaServer(files postgres.Files) hba.Server {
	server := hba.Packaged(v.Site.Server.Major)
	if conf, err := v.Site.Server.Conf(files); err == nil {
		server.UserNamespace = isOn(conf.Value("db_user_namespace", "off"))
		for name := range strings.SplitSeq(conf.Value("oauth_validator_libraries", ""), ",") {
			if name = strings.TrimSpace(name); name != "" {
				server.Validators = append(server.Validators, name)
			}
		}
	}
	return server
}

// Why a line is not known.
const (
	notOwn = "not visible from here"
	noLine = "no line is for it"
)

// ownLine is the line of this host's pg_hba.conf that a connection of this program meets; nil, and why: it is another
// server's, or none is for it, or it is not known.
func (p *proof) ownLine(ctx context.Context, from netip.AddrPort, encrypted bool) (*HBALine, string) {
	remote := p.login.Remote
	if !remote.IsValid() {
		remote = p.plain.Remote
	}
	own := p.ownServer(ctx, remote)
	switch {
	case own == nil:
		return nil, notOwn
	case own.err != nil:
		return nil, shortError(own.err)
	case own.rules == nil:
		return nil, own.why
	}
	c := hba.Connection{From: from.Addr(), TLS: encrypted, Database: p.result.Database, User: p.result.User}
	rule, err := own.rules.Match(c, hba.Facts{Member: own.people.Member, Interfaces: p.v.Site.Interfaces})
	if err != nil {
		return nil, err.Error()
	}
	if r := firstUncertain(own.rules.Rules, rule, "samehost", "samenet"); r != nil {
		return nil, fmt.Sprintf("line %d has the host name %s, which the server looks up itself", r.Line, r.Address)
	}
	if rule == nil {
		return nil, noLine
	}
	file := rule.File
	if file == "" {
		file = p.v.Site.Server.HBAFile
	}
	return &HBALine{file, rule.Line, engine.Redact(textOf(own.rules, rule))}, ""
}

// firstUncertain is the first rule, up to the one that matches, of which only the server knows whether it is for a client: by
// a host name, or by another word than those that are known here.
func firstUncertain(rules []hba.Rule, match *hba.Rule, knownWords ...string) *hba.Rule {
	for i := range rules {
		r := &rules[i]
		if _, err := netip.ParseAddr(r.Address); r.Address != "" && r.Address != "all" && err != nil && !slices.Contains(knownWords, r.Address) {
			return r
		}
		if r == match {
			return nil
		}
	}
	return nil
}

// textOf is the rule as it stands in the file, or, for one of an included file, as it was read.
func textOf(f *hba.File, r *hba.Rule) string {
	for i := range f.Lines {
		if l := &f.Lines[i]; r.File == "" && l.Number == r.Line {
			return strings.Join(strings.Fields(l.Text), " ")
		}
	}
	words := append([]string{r.Type, strings.Join(hba.Texts(r.Databases), ","), strings.Join(hba.Texts(r.Users), ","), r.Address, r.Netmask, r.Method}, r.Options...)
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// remoteLine is the line of another host's server that let the client in, if the role that is in may see the rules.
func (p *proof) remoteLine() (*HBALine, string) {
	s := p.login.Session
	if s == nil || s.HBA == nil {
		return nil, notOwn
	}
	var text strings.Builder
	for _, r := range s.HBA.Rules {
		text.WriteString(r.Text() + "\n")
	}
	f := hba.Parse([]byte(text.String()), hba.Packaged(s.Version/10000), hba.Files{})
	c := hba.Connection{From: p.login.Local.Addr(), TLS: true, Database: p.result.Database, User: p.result.User}
	rule, err := f.Match(c, hba.Facts{Member: func(user, role string) bool { return user == s.User && s.HBA.Member(role) }})
	if err != nil || rule == nil || len(f.Problems()) > 0 || firstUncertain(f.Rules, rule) != nil {
		return nil, notOwn
	}
	row := s.HBA.Rules[rule.Line-1]
	file := row.File
	if file == "" {
		file = s.HBA.File
	}
	return &HBALine{file, row.Line, engine.Redact(row.Text())}, ""
}

// roleMissing says that the server of this host has no role of the name that may log in.
func (o *ownServer) roleMissing(name string) bool {
	return o != nil && o.err == nil && !slices.ContainsFunc(o.people.Roles, func(r postgres.Role) bool { return r.Name == name })
}
