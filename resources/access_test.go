package resources

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/hba"
	"converge/resources/postgres"
)

const beforeRules = "local all all peer\nhost all deploy 10.0.0.0/8 md5\nhost replication postgres 10.0.0.0/8 md5\n"

// judgeOf is about a master with a replica and an application host.
func judgeOf(t *testing.T, before, after string, people postgres.People) *accessJudge {
	t.Helper()
	parse := func(text string) *hba.File {
		f := hba.Parse([]byte(text), hba.Packaged(15), hba.Files{})
		if !f.Loads() {
			t.Fatalf("%+v", f.Problems())
		}
		return f
	}
	doc, err := parseDocument([]byte(after), "#")
	if err != nil {
		t.Fatal(err)
	}
	node := func(name, role, address string) recipe.Node {
		return recipe.Node{Name: name, Role: role, Address: netip.MustParseAddr(address)}
	}
	nodes := []recipe.Node{node("db1", "db_master", "10.0.0.1"), node("db2", "db_replica", "10.0.0.2"), node("app1", "app", "10.0.0.3")}
	return &accessJudge{
		site: Site{
			Server: &postgres.Server{Major: 15, AdminUser: "postgres", Owner: postgres.Owner{Name: "postgres"}}, Node: nodes[0],
			Environment: &recipe.Environment{AppUser: "deploy", AdminUser: "postgres", Nodes: nodes},
		},
		doc: doc, before: parse(before), after: parse(after), people: people,
	}
}

// lockedOut are the texts of those who are.
func lockedOut(t *testing.T, j *accessJudge) []string {
	t.Helper()
	list, err := j.all()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		if a.Lockout {
			out = append(out, a.Text)
		}
	}
	return out
}

func TestLockout(t *testing.T) {
	databases := postgres.People{Databases: []string{"app", "postgres", "shop"}}
	for name, c := range map[string]struct {
		rules string
		want  []string // beginnings
	}{
		"nothing changes":                  {"", nil},
		"everybody has to come with TLS":   {"hostnossl all all all reject\n", nil},
		"with a certificate":               {"hostssl all deploy 10.0.0.0/8 md5 clientcert=verify-full\nhostnossl all all all reject\n", nil},
		"a database less":                  {"host shop all all reject\n", []string{"node app1 (app, 10.0.0.3) as deploy to database shop, in any way: line 1 "}},
		"the maintenance database":         {"host postgres all all reject\n", nil},
		"no replication":                   {"host replication all all reject\n", []string{"node db2 (db_replica, 10.0.0.2) as postgres to replication, in any way: line 1 "}},
		"nobody on the socket":             {"local all all reject\n", []string{"converge's own connection (postgres over the unix socket): line 1 "}},
		"a password on the socket":         {"local all all scram-sha-256\n", []string{"converge's own connection (postgres over the unix socket): line 1 (not converge's) asks for scram-sha-256"}},
		"somebody else on the socket":      {"local all alice reject\n", nil},
		"another machine":                  {"host all all 10.0.0.9/32 reject\n", nil},
		"the master itself, which is here": {"host all all 10.0.0.1/32 reject\n", nil},
	} {
		got := lockedOut(t, judgeOf(t, beforeRules, c.rules+beforeRules, databases))
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A session is tried with what its client showed: TLS, a certificate of the CA, the user's own.
func TestSessionsThatCouldNotComeBack(t *testing.T) {
	from := netip.MustParseAddr("10.0.0.7")
	session := func(change func(*postgres.Sessions)) postgres.Sessions {
		s := postgres.Sessions{User: "deploy", Database: "app", From: from, Count: 2}
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		session postgres.Sessions
		tls     bool // the server has TLS
		want    string
		lockout bool
	}{
		"plaintext":               {session(func(*postgres.Sessions) {}), true, "2 open sessions of deploy@10.0.0.7 (database app) are in plaintext and could not come back: no line is for it", false},
		"plaintext, without TLS":  {session(func(*postgres.Sessions) {}), false, "2 open sessions of deploy@10.0.0.7 (database app) are in plaintext and could not come back: no line is for it", false},
		"without a certificate":   {session(func(s *postgres.Sessions) { s.TLS = true }), true, "2 open sessions of deploy@10.0.0.7 (database app) are over TLS without a certificate and could not come back: line 1 ", false},
		"another's certificate":   {session(func(s *postgres.Sessions) { s.TLS, s.Subject, s.Count = true, "/CN=alice", 1 }), true, "1 open session of deploy@10.0.0.7 (database app) is over TLS with a certificate and could not", false},
		"the user's":              {session(func(s *postgres.Sessions) { s.TLS, s.Subject = true, "/CN=deploy" }), true, "", false},
		"on the socket":           {postgres.Sessions{User: "deploy", Database: "app", Count: 1}, true, "", false},
		"a name that makes lines": {session(func(s *postgres.Sessions) { s.Database = "a\nb" }), true, `2 open sessions of deploy@10.0.0.7 (database "a\nb") are in plaintext`, false},
		"a standby":               {postgres.Sessions{User: "postgres", From: from, Standby: "db2", Count: 1}, true, `the connected standby "db2" (postgres@10.0.0.7) is in plaintext and could not come back: no line is for it`, true},
	} {
		j := judgeOf(t, beforeRules, "hostssl all deploy all md5 clientcert=verify-full\nlocal all all peer\n", postgres.People{TLS: c.tls, Sessions: []postgres.Sessions{c.session}})
		list, err := j.sessions()
		if err != nil {
			t.Fatal(err)
		}
		var got engine.Access
		if len(list) > 0 {
			got = list[0]
		}
		if (c.want == "") != (got.Text == "") || !strings.HasPrefix(got.Text, c.want) || got.Lockout != c.lockout {
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
}
