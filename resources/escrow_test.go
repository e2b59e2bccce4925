package resources

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"converge/engine/bundle"
)

// fallOver makes db2 the master and db1 a replica.
func (n *network) fallOver() { n.roles["db1"], n.roles["db2"] = "db_replica", "db_master" }

// keysOf are the users' keys and certificates on some nodes, where each user needs them.
func (n *network) keysOf(nodes ...string) string {
	n.t.Helper()
	var out strings.Builder
	for _, node := range nodes {
		user := "postgres"
		if n.roles[node] == "app" {
			user = "deploy"
		}
		for _, name := range []string{"postgresql.key", "postgresql.crt"} {
			out.WriteString(n.read(node, "home/"+user+"/.postgresql/"+name))
		}
	}
	return out.String()
}

// reissue makes deploy get another key.
func (n *network) reissue(others ...string) {
	n.t.Helper()
	before := n.keysOf("app1")
	n.check(os.RemoveAll(n.path("db1", "etc/converge/authority/users")))
	n.check(os.RemoveAll(n.path("db1", "home/deploy/.postgresql")))
	n.settle("db1", others...)
	if n.keysOf("app1") == before {
		n.t.Fatal("deploy has the old key")
	}
}

// stored is what lies at a key.
func (n *network) stored(key string) (s bundle.Statement, text []byte) {
	n.t.Helper()
	e, err := n.store.Get(context.Background(), key)
	n.check(err)
	s, err = bundle.Parse(e.Value)
	n.check(err)
	return s, slices.Clone(e.Value)
}

func (n *network) escrow(node string) (body escrowBody, text []byte) {
	n.t.Helper()
	s, text := n.stored("escrow/" + node)
	n.check(s.Decode(&body))
	return body, text
}

// sealed is sealed to a node.
func (n *network) sealed(plain []byte, to string) []byte {
	n.t.Helper()
	id := n.identity(to)
	out, err := bundle.Seal(plain, id.Public())
	n.check(err)
	return out
}

// everything is what stands on a node's disk and in the store, but for what a run leaves of itself.
func (n *network) everything(node string) string {
	n.t.Helper()
	var out strings.Builder
	n.check(filepath.WalkDir(n.path(node, ""), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "/var/lib/converge") {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			fmt.Fprintf(&out, "%s %x\n", path, sha256.Sum256(b))
			return err
		}
		return err
	}))
	keys, err := n.store.List(context.Background(), "")
	n.check(err)
	fmt.Fprintln(&out, keys)
	return out.String()
}

// A user who has got another key since is in escrow with that one, and comes out of it with that one.
func TestEscrowFollowsUsers(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	n.reissue("db2", "app1")
	keys := n.keysOf("app1")
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("app1"), 1)
	if n.keysOf("app1") != keys {
		t.Error("app1 got another key")
	}
}

// An entry of an earlier version has no users. The authority is taken over as ever, and its users get new keys.
func TestEscrowWithoutUsers(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	now, _ := n.escrow("db2")
	n.forge("db1", "escrow/db2", 1, map[string]any{"fingerprint": now.Fingerprint, "host_key": now.HostKey, "key": now.Key})
	keys := n.keysOf("app1")
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("app1"), -1)
	n.ok(n.apply("db2"), 0)
	if n.keysOf("app1") == keys {
		t.Error("where does db2 have the key from?")
	}
}

// The keys of more users than a statement has room for are not in escrow, which the run says; the authority's is, and can be
// taken over. So are they again when there are fewer.
func TestEscrowOfManyUsers(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app", "main1:app_master", "util1:util")
	few := n.recipe
	for _, role := range []string{"app_master", "util"} {
		n.recipe += fmt.Sprintf("\nuser_key %q {\n  for_each = toset(formatlist(\"%s%%d\", range(450)))\n  roles = [%q]\n  authority = cert_authority.environment\n}\n", role, role[:1], role)
	}
	rep := n.apply("db1")
	n.ok(rep, -1)
	told := fmt.Sprint(rep.Warnings)
	if !strings.Contains(told, "the keys of 902 users are too many for escrow") {
		t.Errorf("the run says %s", told)
	}
	if body, _ := n.escrow("db2"); len(body.Users) > 0 || len(body.Key) == 0 {
		t.Errorf("in escrow are %d bytes of users' keys, and %d of the authority's", len(body.Users), len(body.Key))
	}
	n.recipe = few
	n.settle("db1", "db2", "app1")
	if body, _ := n.escrow("db2"); len(body.Users) == 0 {
		t.Error("the keys of two users are not in escrow")
	}
	keys := n.keysOf("app1")
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("app1"), 1)
	if n.keysOf("app1") != keys {
		t.Error("app1 got another key")
	}
}

// Whatever somebody who can write to the store, or a database node that lies, puts in the place of what is in escrow: the
// takeover says what is wrong and how to go on, nothing is written, and no second authority is made. The right one is taken
// afterwards.
func TestTamperedEscrow(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2", "db3"]`, "db1:db_master", "db2:db_replica", "db3:db_replica", "app1:app")
	n.settle("db1", "db2", "db3", "app1")
	_, older := n.escrow("db2")
	n.reissue("db2", "db3", "app1")
	body, good := n.escrow("db2")
	_, ofAnother := n.escrow("db3")
	other := newNetwork(t, "", "db9:db_master")
	other.apply("db9")
	stray := []byte(other.read("db9", "etc/converge/authority/ca.key"))

	put := func(value []byte) func() { return func() { n.overwrite("escrow/db2", value) } }
	with := func(from string, change func(*escrowBody)) func() {
		return func() {
			b := body
			b.Key = slices.Clone(b.Key)
			change(&b)
			n.forge(from, "escrow/db2", 1, b)
		}
	}
	flipped := slices.Clone(good)
	flipped[strings.Index(string(good), `"key":"`)+200] ^= 1
	keys := n.keysOf("app1")
	n.fallOver()
	for _, c := range []struct {
		name   string
		tamper func()
		says   string
	}{
		{"a bit flipped", put(flipped), "its signature is not that of db1"},
		{"cut off", put(good[:len(good)/2]), "no statement of converge"},
		{"the entry of another node", put(ofAnother), "it was made for escrow/db3: somebody has moved it"},
		{"an older one", put(older), "an old one was brought back"},
		{"by an application host", with("app1", func(*escrowBody) {}), `"app1", which has no say`},
		{"sealed to another node", with("db1", func(b *escrowBody) { b.Key = n.sealed([]byte("x"), "db3") }), "is sealed to the host key"},
		{"no key in it", with("db1", func(b *escrowBody) { b.Key = n.sealed([]byte("x"), "db2") }), "the authority's key in escrow"},
		{"damaged before it was signed", with("db1", func(b *escrowBody) { b.Key[len(b.Key)-1] ^= 1 }), "what is sealed is damaged"},
		{"the key of another authority", with("db3", func(b *escrowBody) { b.Key = n.sealed(stray, "db2") }), "the key does not belong to the environment's authority"},
		{"taken back", with("db1", func(b *escrowBody) { *b = escrowBody{} }), "its key was not put in escrow for this node"},
		{"by a later version", func() { n.forge("db1", "escrow/db2", 1, map[string]any{"more": 1}) }, "cannot be read by this version of converge"},
	} {
		c.tamper()
		before := n.everything("db2")
		all := strings.Join(failureTexts(n.apply("db2")), "\n")
		if !strings.Contains(all, "cert_authority.environment: ") || !strings.Contains(all, c.says) {
			t.Errorf("%s: %q was expected, and it says %q", c.name, c.says, all)
		}
		if after := n.everything("db2"); after != before {
			t.Errorf("%s: something was written:\n%s\nbefore:\n%s", c.name, after, before)
		}
		if s, _ := n.stored(authorityEntry); s.From != "db1" || s.Epoch != 1 {
			t.Errorf("%s: %s has the authority in epoch %d", c.name, s.From, s.Epoch)
		}
	}
	n.overwrite("escrow/db2", good)
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("app1"), 1)
	if n.keysOf("app1") != keys {
		t.Error("app1 got another key")
	}
}

// A database node that lies puts a key of deploy's that is no longer in use, and that it knows, beside the authority's in
// another's escrow. The authority's key is the right one, and is taken; the user's is not.
func TestEscrowByLyingPeer(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "db3:db_replica", "app1:app")
	n.settle("db1", "db2", "db3", "app1")
	leaked := deliveredUser{User: "deploy", Certificate: n.read("app1", "home/deploy/.postgresql/postgresql.crt"), Key: []byte(n.read("app1", "home/deploy/.postgresql/postgresql.key"))}
	n.reissue("db2", "db3", "app1")
	users, err := json.Marshal([]deliveredUser{leaked})
	n.check(err)
	body, _ := n.escrow("db2")
	body.Users = n.sealed(users, "db2")
	n.forge("db3", "escrow/db2", 1, body)
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	if n.read("db2", "etc/converge/authority/users/deploy.key") == string(leaked.Key) {
		t.Error("deploy has the key that db3 knows")
	}
}

// A node that had the authority says, as a replica, which keys it still has from that time and does not need; once they are
// taken away it says nothing more, and what it needs it has.
func TestKeysOfAFormerAuthority(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	n.check(os.Remove(n.path("db1", "etc/converge/authority/ca.key")))
	n.settle("db2", "db1", "app1")
	rep := n.apply("db1")
	n.ok(rep, 0)
	const files = "/etc/converge/authority/users/deploy.key /home/deploy/.postgresql/postgresql.key /etc/converge/authority/users/postgres.key"
	if len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0].Text, "(shred -u "+files+")") {
		t.Fatalf("got %v", rep.Warnings)
	}
	for file := range strings.FieldsSeq(files) {
		n.check(os.Remove(n.path("db1", file)))
	}
	rep = n.apply("db1")
	n.ok(rep, 0)
	if len(rep.Warnings) > 0 {
		t.Errorf("got %v", rep.Warnings)
	}
	if n.read("db1", "home/postgres/.postgresql/postgresql.key") != n.read("db2", "home/postgres/.postgresql/postgresql.key") {
		t.Error("the admin has two keys")
	}
}
