package resources

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/recipes"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// madeRules are the lines that the standard recipe makes for pg_hba.conf on a server of this major version.
func madeRules(t *testing.T, major int, level, app, admin string, networks ...netip.Prefix) string {
	t.Helper()
	env, err := recipe.Single("db1", "db_master", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	env.AppUser, env.AdminUser, env.CIDRs = app, admin, networks
	server := &postgres.Server{Major: major, DataDirectory: "/data", HBAFile: "/hba", ConfigFile: "/conf", CustomHBAFile: "/custom", SSLDirectory: "/ssl"}
	site := Site{Environment: env, Node: env.Nodes[0], Server: server}
	loaded, diags := recipe.Load(recipes.Standard(), engine.RecipeTypes(Types(site)))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	program, diags := loaded.For(recipe.Scope{
		Environment: env, Node: site.Node, Vars: map[string]string{"require_ssl": level}, Values: map[string]cty.Value{"postgresql": Values(server)},
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, b := range program.Blocks {
		if f, ok := b.Config.(*FileBlock); ok && b.Address.Name == "pg_hba" {
			return *f.Content
		}
	}
	t.Fatal("the standard recipe has no file_block.pg_hba")
	return ""
}

// The rules speak of both users and of no other role, whatever they are called, on every version.
func TestRequireSSLNames(t *testing.T) {
	network := netip.MustParsePrefix("10.0.0.0/8")
	for _, name := range []string{"deploy", "_app2", "Web-App", "a.b", "A", "a-", "all", "All", "replication", "sameuser", "samerole"} {
		for major := hba.Oldest; major <= hba.Newest; major++ {
			got := hba.Translate([]byte(madeRules(t, major, "client_cert", name, "postgres", network)), hba.Packaged(major), hba.Files{}, nil)
			f := hba.Parse(got.Text, hba.Packaged(major), hba.Files{})
			if len(got.Problems) > 0 || len(f.Errors) > 0 || len(f.Rules) != 5 {
				t.Fatalf("%q on %d: %+v %+v\n%s", name, major, got.Problems, f.Errors, got.Text)
			}
			var users []string
			for _, r := range f.Rules[:3] {
				if r.Users[0].Keyword("all") || r.Users[0].Group() != "" {
					t.Errorf("%q on %d is a word of pg_hba.conf: %+v", name, major, r)
				}
				users = append(users, r.Users[0].Text)
			}
			slices.Sort(users[:2])
			if !slices.Equal(users, []string{min(name, "postgres"), max(name, "postgres"), "postgres"}) {
				t.Errorf("%q on %d: the rules are for %q", name, major, users)
			}
		}
	}
}

func TestRequireSSL(t *testing.T) {
	one, six := netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("fd00::/8")
	for _, c := range []struct {
		story, level, app, admin string
		major                    int
		networks                 []netip.Prefix
		want                     string
	}{
		{"off", "off", "deploy", "postgres", 15, []netip.Prefix{one}, ""},
		{"off, without a network", "off", "deploy", "postgres", 15, nil, ""},
		{"no network is known", "ssl", "deploy", "postgres", 15, nil, `hostssl    all          deploy  samehost  md5
hostssl    all          postgres  samehost  md5
hostssl    replication  postgres  samehost  md5
hostnossl  replication  all  samehost  reject
hostnossl  all          all  samehost  reject`},
		{"one user, two networks", "client_cert", "pg", "pg", 12, []netip.Prefix{one, six}, `hostssl    all          pg  10.1.2.0/24  md5 clientcert=verify-full
hostssl    replication  pg  10.1.2.0/24  md5 clientcert=verify-full
hostnossl  replication  all  10.1.2.0/24  reject
hostnossl  all          all  10.1.2.0/24  reject
hostssl    all          pg  fd00::/8  md5 clientcert=verify-full
hostssl    replication  pg  fd00::/8  md5 clientcert=verify-full
hostnossl  replication  all  fd00::/8  reject
hostnossl  all          all  fd00::/8  reject`},
		{"an old server", "client_cert", "pg", "pg", 11, []netip.Prefix{one}, `hostssl    all          pg  10.1.2.0/24  md5 clientcert=verify-full # converge: accept clientcert=verify-ca
hostssl    replication  pg  10.1.2.0/24  md5 clientcert=verify-full # converge: accept clientcert=verify-ca
hostnossl  replication  all  10.1.2.0/24  reject
hostnossl  all          all  10.1.2.0/24  reject`},
	} {
		if got := madeRules(t, c.major, c.level, c.app, c.admin, c.networks...); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.story, got, c.want)
		}
	}
}
