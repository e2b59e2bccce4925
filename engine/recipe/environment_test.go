package recipe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

const production = `
environment "production" {
  app_user   = "app"
  admin_user = "dba"
  variables  = { expire_in_days = 365, names = ["a"] }

  postgresql {
    data_directory = "/db/postgresql/15/data"
    port           = 5432
  }
  store "dir" { path = "/db/converge" }

  node "db1" {
    role     = "db_master"
    address  = "10.0.1.10"
    names    = ["db1.internal"]
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA db1"
  }
  node "db2" {
    role    = "db_replica"
    address = "fd00::11"
  }
  node "app1" {
    role    = "app_master"
    address = "::ffff:10.0.1.20"
  }
}
`

func environment(t testing.TB, text string) *Environment {
	t.Helper()
	env, diags := ParseEnvironment(source("environment.hcl", text))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	return env
}

func TestAnEnvironmentFile(t *testing.T) {
	env := environment(t, production)
	if env.Name != "production" || env.AppUser != "app" || env.AdminUser != "dba" || len(env.Nodes) != 3 || env.Store.Kind != "dir" || env.Range.Start.Line != 2 {
		t.Errorf("got %+v", env)
	}
	var cidrs []string
	for _, prefix := range env.CIDRs {
		cidrs = append(cidrs, prefix.String())
	}
	wantStrings(t, "cidrs", cidrs, "10.0.1.10/32", "10.0.1.20/32", "fd00::11/128")
	if db1 := env.Nodes[0]; db1.Role != "db_master" || db1.Names[0] != "db1.internal" || !strings.HasPrefix(db1.HostKey, "ssh-ed25519 ") || db1.Range.Start.Line != 13 {
		t.Errorf("got %+v", db1)
	}
	if days := env.Variables["expire_in_days"]; !days.Value.RawEquals(cty.NumberIntVal(365)) || days.Range.Start.Line != 5 {
		t.Errorf("got %+v", days)
	}
	var settings struct {
		DataDirectory string  `hcl:"data_directory"`
		Port          *int    `hcl:"port"`
		Bin           *string `hcl:"bin_directory"`
	}
	if diags := env.PostgreSQL.Decode(&settings); diags.HasErrors() || settings.DataDirectory != "/db/postgresql/15/data" || *settings.Port != 5432 || settings.Bin != nil {
		t.Errorf("got %+v %v", settings, diags)
	}
	var store struct {
		Folder string `hcl:"folder"`
	}
	diags := env.Store.Decode(&store)
	if len(diags) != 2 || !strings.Contains(diags[0].Detail+diags[1].Detail, `store dir takes no argument "path"`) {
		t.Errorf("got %v", diags)
	}
}

func TestAnEnvironmentWithoutArgumentsHasDefaults(t *testing.T) {
	env := environment(t, `environment "e" {}`)
	if env.AppUser != "deploy" || env.AdminUser != "postgres" || env.PostgreSQL != nil || env.Store != nil || len(env.CIDRs) != 0 {
		t.Errorf("got %+v", env)
	}
	env = environment(t, `environment "e" { cidrs = ["10.0.0.0/8", "::1/128"] }`)
	if len(env.CIDRs) != 2 || env.CIDRs[0].String() != "10.0.0.0/8" {
		t.Errorf("got %+v", env.CIDRs)
	}
}

func TestTheEnvironmentInExpressions(t *testing.T) {
	r, diags := Load([]Source{source("a.hcl", `
		file_block "a" {
			path  = "/${environment.name}/${environment.app_user}/${environment.admin_user}/${node.name}/${node.role}/${node.address}/${node.names[0]}"
			lines = concat(environment.cidrs, [for n in environment.nodes : "${n.name}=${n.address}" if n.role != node.role])
		}
	`)}, toyTypes)
	env := environment(t, production)
	p, more := r.For(Scope{Environment: env, Node: env.Nodes[0]})
	if len(diags) > 0 || len(more) != 2 { // the file's variables are not declared by this recipe
		t.Fatal(diags, more)
	}
	c := p.Blocks[0].Config.(*toyFile)
	if c.Path != "/production/app/dba/db1/db_master/10.0.1.10/db1.internal" {
		t.Errorf("path is %s", c.Path)
	}
	wantStrings(t, "lines", c.Lines, "10.0.1.10/32", "10.0.1.20/32", "fd00::11/128", "db2=fd00::11", "app1=10.0.1.20")
}

func TestTheNodeOfARun(t *testing.T) {
	env := environment(t, production)
	twoApps := environment(t, `environment "e" {
		node "a" {
			role = "app"
			address = "10.0.0.1"
		}
		node "b" {
			role = "app"
			address = "10.0.0.2"
		}
	}`)
	empty := environment(t, `environment "e" {}`)
	for _, c := range []struct {
		name             string
		env              *Environment
		node, role, host string
		want             string // the node, or a part of the error
	}{
		{"by name", env, "db2", "", "db1", "db2"},
		{"by host name", env, "", "", "app1", "app1"},
		{"the only one with the role", env, "", "db_replica", "strange", "db2"},
		{"host name and role agree", env, "", "db_master", "db1", "db1"},
		{"host name and role differ", env, "", "db_master", "db2", "--role db_master: the environment says that db2 is db_replica"},
		{"name and role differ", env, "db1", "app", "", "--role app: the environment says that db1 is db_master; leave --role out, or mend environment.hcl:13"},
		{"unknown name", env, "db11", "", "", `has no such node. Did you mean "db1"?`},
		{"unknown host", env, "", "", "strange", "no node named strange like this host: choose one with --node (app1, db1, db2)"},
		{"no node with the role", env, "", "util", "strange", "no node with the role util"},
		{"two with the role", twoApps, "", "app", "strange", "has 2 nodes with the role app: choose one with --node"},
		{"unknown role", env, "", "db_mastr", "db1", `there is no role "db_mastr". Did you mean "db_master"?`},
		{"no nodes, role", empty, "", "app", "host", "host"},
		{"no nodes, no role", empty, "", "", "host", "names no nodes: add node blocks to it, or give --role"},
		{"no nodes, name", empty, "db1", "app", "host", "the only one is this host, host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, err := c.env.Choose(c.node, c.role, c.host)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) || strings.Contains(c.want, node.Name) && node.Name != "" {
					t.Errorf("got %q, want %q", err, c.want)
				}
			} else if node.Name != c.want {
				t.Errorf("got %s, want %s", node.Name, c.want)
			}
		})
	}
}

func TestASingleHost(t *testing.T) {
	env, err := Single("host", "solo", netip.MustParseAddr("10.0.0.1"))
	if err != nil || len(env.Nodes) != 1 || env.CIDRs[0].String() != "10.0.0.1/32" || env.AppUser != "deploy" {
		t.Errorf("got %+v, %v", env, err)
	}
	if node, err := env.Choose("", "solo", "host"); err != nil || node.Name != "host" {
		t.Errorf("got %v, %v", node, err)
	}
	for role, want := range map[string]string{"": "give --role, one of db_master", "slave": `there is no role "slave"`} {
		if _, err := Single("host", role, netip.Addr{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", role, err, want)
		}
	}
}

func TestUserNamesThatAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../x", "a/b", "-rf", "x;id", "$(id)", "%s", "a b", "a\nb", "a\n", "'", `"`, "a\"b", "jürgen", "\u202e", "root", "public",
		"none", "pg_monitor", "1a", "a\x00", "a\\", "@x", "+x", "a,b", "a#b", "~", "*", "\xff", strings.Repeat("a", 64)} {
		if CheckUser(name) == nil {
			t.Errorf("%q is taken", name)
		}
		quotedName := strings.NewReplacer("\\", `\\`, "\"", `\"`, "\n", `\n`, "$", "$$", "%", "%%").Replace(name)
		if _, diags := ParseEnvironment(source("e.hcl", "environment \"e\" {\n app_user = \""+quotedName+"\"\n}")); !diags.HasErrors() {
			t.Errorf("an environment takes %q", name)
		}
	}
	for _, name := range []string{"deploy", "postgres", "_x", "a-b", "a.b", "A1", strings.Repeat("a", 63)} {
		if err := CheckUser(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A name that is taken has nothing in it that means something to a shell, a path, SQL or pg_hba.conf.
func TestUserNamesThatAreTakenAreHarmless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,70}`), rapid.StringMatching(`[a-z_.-]{1,8}`)).Draw(t, "name")
		if CheckUser(name) == nil && (strings.ContainsAny(name, "/\\\"'`$;&|<>()[]{}*?!#~%@+, \t\n\r\x00") || strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".") || len(name) > 63) {
			t.Fatalf("%q is taken", name)
		}
	})
}
