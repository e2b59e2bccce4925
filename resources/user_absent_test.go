package resources

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"converge/engine"
	"converge/resources/pki"
)

// userRecipe has a block of its own, with these arguments, for a user that is on every node.
func userRecipe(arguments string) string {
	return networkRecipe + "user_key \"postgres_copy\" {\n  user = \"postgres\"\n  roles = [\"app\"]\n  authority = cert_authority.environment\n  " + arguments + "\n}\n"
}

const copyDir = "home/postgres/.postgresql"

// files are the names in a directory of a node; "" where there is none.
func (n *network) files(node, dir string) string {
	n.t.Helper()
	entries, err := os.ReadDir(n.path(node, dir))
	if os.IsNotExist(err) {
		return ""
	}
	n.check(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func (n *network) wantFiles(node, dir, want string) {
	n.t.Helper()
	if got := n.files(node, dir); got != want {
		n.t.Errorf("%s %s holds %q, wanted %q", node, dir, got, want)
	}
}

// archived are the keys of a user that lie among the old ones.
func (n *network) archived(node, user string) []string {
	n.t.Helper()
	found, err := filepath.Glob(n.path(node, "etc/converge/old_keys/user/*/"+user+"*/postgresql.key"))
	n.check(err)
	return found
}

// All forms hold the same key at all times, wherever they are made; none is made twice; one that is taken out of the list
// is removed, and what somebody else has put there is not.
func TestFormats(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.recipe = userRecipe(`formats = ["pem", "pk8", "p12"]`)
	n.check(os.MkdirAll(n.path("app1", copyDir), 0o700))
	n.check(os.Chown(n.path("app1", copyDir), 1001, 1001))
	n.check(os.WriteFile(n.path("app1", copyDir+"/postgresql.p12"), []byte("of a former time"), 0o600))
	n.settle("db1", "app1")
	n.wantFiles("app1", copyDir, "postgresql.crt postgresql.key postgresql.p12 postgresql.pk8 root.crt")
	same := func() {
		t.Helper()
		key, err := pki.ParsePrivateKey([]byte(n.read("app1", copyDir+"/postgresql.key")))
		n.check(err)
		cert, err := pki.ParseCertificate([]byte(n.read("app1", copyDir+"/postgresql.crt")))
		n.check(err)
		roots, err := pki.ParseCertificates([]byte(n.read("app1", copyDir+"/root.crt")))
		n.check(err)
		p12, err := pki.PKCS12(key, cert, roots[0])
		n.check(err)
		if n.read("app1", copyDir+"/postgresql.pk8") != string(key.DER()) || n.read("app1", copyDir+"/postgresql.p12") != string(p12) {
			t.Error("the forms do not hold one key and certificate")
		}
		for _, name := range []string{"postgresql.pk8", "postgresql.p12"} {
			info, err := os.Stat(n.path("app1", copyDir+"/"+name))
			n.check(err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
		}
	}
	same()
	if old, _ := filepath.Glob(n.path("app1", "etc/converge/old_keys/user/*/postgres/postgresql.p12")); len(old) != 1 {
		t.Errorf("the former file is kept as %v", old)
	}
	n.ok(n.apply("app1"), 0)

	n.maintenance = &Maintenance{Users: []string{"postgres"}}
	n.ok(n.apply("db1"), -1)
	n.maintenance = nil
	n.ok(n.apply("app1"), 2)
	same()

	n.recipe = userRecipe(`formats = ["pem", "pk8"]`)
	n.ok(n.apply("app1"), 1)
	n.wantFiles("app1", copyDir, "postgresql.crt postgresql.key postgresql.pk8 root.crt")
	n.check(os.WriteFile(n.path("app1", copyDir+"/postgresql.p12"), []byte("the operator's"), 0o600))
	n.recipe = userRecipe("")
	n.ok(n.apply("app1"), 1)
	n.wantFiles("app1", copyDir, "postgresql.crt postgresql.key postgresql.p12 root.crt")
	n.ok(n.apply("app1"), 0)
}

// An absent key goes to no node any more, is taken from where it was, and is kept among the old ones. It comes to the same
// whether the block says so or is gone.
func TestAbsentUser(t *testing.T) {
	for name, after := range map[string]string{
		"declared": strings.Replace(networkRecipe, `user      = "deploy"`, "user      = \"deploy\"\n  state     = \"absent\"", 1),
		"removed":  withoutBlock(networkRecipe, `user_key "app"`),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, "", "db1:db_master", "app1:app")
			n.settle("db1", "app1")
			const dir = "home/deploy/.postgresql"
			key := n.read("app1", dir+"/postgresql.key")
			n.recipe = after
			n.settle("db1", "app1")
			for _, node := range []string{"db1", "app1"} {
				n.wantFiles(node, dir, "")
				if old := n.archived(node, "deploy"); len(old) != 1 {
					t.Errorf("%s has kept %v", node, old)
				} else if b, _ := os.ReadFile(old[0]); string(b) != key {
					t.Errorf("%s has kept another key", node)
				}
				n.wantFiles(node, "etc/converge/authority/installed", map[string]string{"db1": "postgres.json"}[node])
			}
			n.wantFiles("db1", "etc/converge/authority/users", "postgres.crt postgres.key")
			n.ok(n.apply("db1"), 0)
			n.ok(n.apply("app1"), 0)
			if r, err := parseReceived([]byte(n.read("app1", "etc/converge/authority/received"))); err != nil || len(r.body.Users) > 0 {
				t.Errorf("app1 still gets %v (%v)", r.body.Users, err)
			}
		})
	}
}

// withoutBlock is a recipe without one of its blocks.
func withoutBlock(text, header string) string {
	begin := strings.Index(text, header)
	end := begin + strings.Index(text[begin:], "\n}\n") + len("\n}\n")
	return text[:begin] + text[end:]
}

// What converge has not put there stays, and is named: a certificate of another authority, a key that is not the
// certificate's, another root.crt. A user whose account is gone is no failure.
func TestAbsentLeavesWhatIsNotItsOwn(t *testing.T) {
	const dir = "home/deploy/.postgresql"
	absent := strings.Replace(networkRecipe, `user      = "deploy"`, "user      = \"deploy\"\n  state     = \"absent\"", 1)
	for name, c := range map[string]struct {
		spoil func(n *network)
		left  string
		says  string
	}{
		"another authority": {func(n *network) {
			other := newNetwork(n.t, "", "db1:db_master")
			other.ok(other.apply("db1"), -1)
			for _, file := range []string{"postgresql.crt", "postgresql.key"} {
				n.check(os.WriteFile(n.path("app1", dir+"/"+file), []byte(other.read("db1", dir+"/"+file)), 0o600))
			}
		}, "postgresql.crt postgresql.key root.crt", "no authority of this environment has issued the certificate there"},
		"another key": {func(n *network) {
			key, _ := pki.GenerateKey(nil, pki.ECDSAP256)
			n.check(os.WriteFile(n.path("app1", dir+"/postgresql.key"), key.PEM(), 0o600))
		}, "postgresql.crt postgresql.key root.crt", "the key there is not the certificate's"},
		"another root": {func(n *network) {
			n.check(os.WriteFile(n.path("app1", dir+"/root.crt"), []byte("mine"), 0o600))
		}, "root.crt", "root.crt stays: it holds something else"},
		"no account": {func(n *network) {
			n.check(os.WriteFile(n.path("app1", "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\n"), 0o644))
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, "", "db1:db_master", "app1:app")
			n.settle("db1", "app1")
			c.spoil(n)
			n.recipe = absent
			rep := n.apply("app1")
			n.ok(rep, -1)
			n.wantFiles("app1", dir, c.left)
			if text := fmt.Sprint(rep.Warnings); !strings.Contains(text, c.says) {
				t.Errorf("says %s", text)
			}
			rep = n.apply("app1")
			n.ok(rep, 0)
		})
	}
}

// A directory that is declared no longer is left, and one that another user has by now is that user's.
func TestUserLeavesADirectory(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.recipe = userRecipe(`directories = ["~/.postgresql", "/srv/a", "/srv/b"]`)
	n.settle("db1", "app1")
	n.wantFiles("app1", "srv/a", "postgresql.crt postgresql.key root.crt")
	n.recipe = userRecipe(`directories = ["/srv/b"]`)
	rep := n.apply("app1")
	n.ok(rep, 1)
	if len(rep.Changes) == 1 && rep.Changes[0].Summary != "take the key of postgres away from /home/postgres/.postgresql, /srv/a" {
		t.Errorf("says %q", rep.Changes[0].Summary)
	}
	n.wantFiles("app1", "srv/a", "")
	n.wantFiles("app1", copyDir, "")
	n.ok(n.apply("app1"), 0)
	n.recipe = strings.Replace(networkRecipe, "roles     = [\"db_master\", \"app\"]\n", "roles     = [\"db_master\", \"app\"]\n  directories = [\"/srv/b\"]\n", 1)
	n.settle("db1", "app1")
	cert, err := pki.ParseCertificate([]byte(n.read("app1", "srv/b/postgresql.crt")))
	n.check(err)
	if cert.Subject.CommonName != "deploy" {
		t.Errorf("%s is in /srv/b", cert.Subject.CommonName)
	}
	n.ok(n.apply("app1"), 0)
	if got := n.archived("app1", "postgres"); len(got) == 0 {
		t.Error("the key of postgres is not kept")
	}
}

// A plan shows what would be taken away, and takes nothing.
func TestAbsentPlan(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.settle("db1", "app1")
	n.recipe = withoutBlock(networkRecipe, `user_key "app"`)
	e, graph := n.open("db1", "db_master")
	p, err := e.Plan(t.Context(), graph, engine.Options{MaxDisruption: engine.Restart})
	n.check(err)
	var texts []string
	for _, c := range p.Changes {
		texts = append(texts, c.Address+": "+c.Summary+": "+c.Reason)
	}
	want := "user_key.deploy: take the key of deploy away from /home/deploy/.postgresql, /etc/converge/authority/users: no recipe declares it for this node any more; it is kept in /etc/converge/old_keys/user"
	if !strings.Contains(strings.Join(texts, "\n"), want) {
		t.Errorf("the plan says\n%s", strings.Join(texts, "\n"))
	}
	n.wantFiles("db1", "home/deploy/.postgresql", "postgresql.crt postgresql.key root.crt")
}
