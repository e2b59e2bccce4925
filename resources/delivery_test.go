package resources

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/disk"
	"converge/engine/recipe"
	"converge/engine/store"
)

// A network is an environment in folders: each node has a root with accounts and a host key, and all share a store.
type network struct {
	t     *testing.T
	dir   string
	roles map[string]string // by node
	keys  map[string]ed25519.PrivateKey
	var_  string
	store store.Store
	now   time.Time

	recipe      string
	maintenance *Maintenance     // of the next run
	change      *AuthorityChange // that the last run found
}

const networkRecipe = `
variable "escrow" {
  type    = list(string)
  default = []
}
cert_authority "environment" { escrow = var.escrow }
user_key "admin" {
  roles     = ["db_master", "db_replica"]
  user      = "postgres"
  authority = cert_authority.environment
}
user_key "app" {
  roles     = ["db_master", "app"]
  user      = "deploy"
  authority = cert_authority.environment
}
server_key "postgresql" {
  roles     = ["db_master", "db_replica"]
  authority = cert_authority.environment
  directory = "/srv/tls"
}
key_delivery "environment" {
  roles     = ["db_master"]
  authority = cert_authority.environment
}
`

func newNetwork(t *testing.T, variables string, nodes ...string) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test gives files away: it needs root")
		}
		t.Skip("this test gives files away: it needs root")
	}
	n := &network{t: t, dir: t.TempDir(), roles: map[string]string{}, keys: map[string]ed25519.PrivateKey{}, var_: variables, now: time.Now(), recipe: networkRecipe}
	os.Chmod(n.dir, 0o755)
	os.Chmod(filepath.Dir(n.dir), 0o755)
	s, err := store.OpenDir(filepath.Join(n.dir, "store"))
	n.check(err)
	n.store = s
	for _, node := range nodes {
		name, role, _ := strings.Cut(node, ":")
		n.roles[name] = role
		n.add(name)
	}
	return n
}

func (n *network) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// add makes a node's root, or gives it another host key.
func (n *network) add(name string) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	n.check(err)
	n.keys[name] = key
	for _, dir := range []string{"etc/ssh", "home/deploy", "home/postgres", "var/lib", "srv"} {
		n.check(os.MkdirAll(n.path(name, dir), 0o755))
	}
	n.check(os.Chmod(n.path(name, ""), 0o755))
	n.check(os.WriteFile(n.path(name, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\ndeploy:x:1000:1000::/home/deploy:/bin/sh\npostgres:x:1001:1001::/home/postgres:/bin/sh\n"), 0o644))
	n.check(os.WriteFile(n.path(name, "etc/group"), []byte("root:x:0:\n"), 0o644))
	n.check(os.Chown(n.path(name, "home/deploy"), 1000, 1000))
	n.check(os.Chown(n.path(name, "home/postgres"), 1001, 1001))
	block, err := ssh.MarshalPrivateKey(key, "")
	n.check(err)
	n.check(os.WriteFile(n.path(name, "etc/ssh/ssh_host_ed25519_key"), pem.EncodeToMemory(block), 0o600))
}

func (n *network) path(node, file string) string { return filepath.Join(n.dir, node, file) }

func (n *network) read(node, file string) string {
	b, err := os.ReadFile(n.path(node, file))
	n.check(err)
	return string(b)
}

// environment is the file as it now is.
func (n *network) environment() *recipe.Environment {
	n.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "environment \"net\" {\n  variables = { %s }\n", n.var_)
	names := make([]string, 0, len(n.roles))
	for name := range n.roles {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		public, err := ssh.NewPublicKey(n.keys[name].Public())
		n.check(err)
		fmt.Fprintf(&text, "  node %q {\n    role = %q\n    address = \"10.0.0.%d\"\n    host_key = %q\n  }\n", name, n.roles[name], int(name[0])+int(name[len(name)-1]-'0'), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))
	}
	text.WriteString("}\n")
	env, diags := recipe.ParseEnvironment(recipe.Source{Name: "environment.hcl", Bytes: []byte(text.String())})
	if diags.HasErrors() {
		n.t.Fatal(diags)
	}
	return env
}

// apply is one run on one node, in the role that the file gives it.
func (n *network) apply(name string) *engine.Report { return n.applyAs(name, n.roles[name]) }

// applyAs is one run of a node that takes itself for something: its own copy of the file says so.
func (n *network) applyAs(name, role string) *engine.Report {
	n.t.Helper()
	e, graph := n.open(name, role)
	rep, err := e.Apply(context.Background(), graph, engine.Options{MaxDisruption: engine.Restart})
	n.check(err)
	return rep
}

// open is what a run on a node is about.
func (n *network) open(name, role string) (*engine.Engine, *engine.Graph) {
	n.t.Helper()
	env := n.environment()
	for i := range env.Nodes {
		if env.Nodes[i].Name == name {
			env.Nodes[i].Role = role
		}
	}
	node := env.Nodes[slices.IndexFunc(env.Nodes, func(n recipe.Node) bool { return n.Name == name })]
	d, err := disk.Open(n.path(name, ""))
	n.check(err)
	n.t.Cleanup(func() { d.Close() })
	state, err := engine.OpenState(d, "/var/lib/converge")
	n.check(err)
	accounts := engine.NewAccounts(d)
	site := Site{Environment: env, Node: node, Trials: &Trials{}, Delivery: &Delivery{Store: n.store, Published: &Published{}}}
	site.Started, site.Maintenance, site.Change = n.now, n.maintenance, &AuthorityChange{}
	n.change = site.Change
	site.Home = func(user string) (string, bool) { u, err := accounts.User(user); return u.Home, err == nil }
	site.Disk = d
	types := Types(site)
	source := []recipe.Source{{Name: "net.hcl", Bytes: []byte(n.recipe)}}
	loaded, diags := recipe.Load(source, engine.RecipeTypes(types))
	if issues(role) && !diags.HasErrors() {
		site.Delivery.Needs, diags = AllNeeds(loaded, env, func(n recipe.Node) recipe.Scope { return recipe.Scope{Environment: env, Node: n} })
	}
	if diags.HasErrors() {
		n.t.Fatal(diags)
	}
	program, diags := loaded.For(recipe.Scope{Environment: env, Node: node})
	if diags.HasErrors() {
		n.t.Fatal(diags)
	}
	var blocks []*recipe.Block
	for i := range program.Blocks {
		blocks = append(blocks, &program.Blocks[i])
	}
	former, err := Formerly(site, blocks)
	n.check(err)
	graph, diags := engine.NewGraph(append(blocks, former...), types)
	if diags.HasErrors() {
		n.t.Fatal(diags)
	}
	graph.Environment, graph.Node, graph.Role = env.Name, name, role
	if diags := Link(graph); diags.HasErrors() {
		n.t.Fatal(diags)
	}
	e := &engine.Engine{Disk: d, State: state, Now: func() time.Time { return n.now }, Rand: rand.Reader, Parallelism: 2}
	return e, graph
}

// ok wants a run without failures, and with this many changes when that is not negative.
func (n *network) ok(rep *engine.Report, changes int) {
	n.t.Helper()
	if len(rep.Failures) > 0 || changes >= 0 && len(rep.Changes) != changes {
		n.t.Fatalf("%s: %d changes, wanted %d; failures %v", rep.Node, len(rep.Changes), changes, failureTexts(rep))
	}
}

func failureTexts(rep *engine.Report) (out []string) {
	for _, f := range rep.Failures {
		out = append(out, f.Address+": "+f.Error)
	}
	return out
}

// fails wants a run that fails with each of the texts.
func (n *network) fails(rep *engine.Report, texts ...string) {
	n.t.Helper()
	all := strings.Join(failureTexts(rep), "\n")
	for _, text := range texts {
		if len(rep.Failures) == 0 || !strings.Contains(all, text) {
			n.t.Errorf("%s: failures %q, wanted %q", rep.Node, all, text)
		}
	}
}

// settle runs every node until all is as declared.
func (n *network) settle(master string, others ...string) {
	n.t.Helper()
	n.apply(master)
	for _, o := range others {
		n.apply(o)
	}
	n.ok(n.apply(master), -1)
	for _, o := range others {
		n.ok(n.apply(o), -1)
	}
	for _, o := range append([]string{master}, others...) {
		n.ok(n.apply(o), 0)
	}
}

func (n *network) identity(name string) bundle.Identity {
	id, err := bundle.ParseIdentity([]byte(n.read(name, "etc/ssh/ssh_host_ed25519_key")))
	n.check(err)
	return id
}

// forge puts a statement of one node at a key, as whoever can write to the store could.
func (n *network) forge(from, key string, epoch int64, body any) {
	n.t.Helper()
	text, err := bundle.Sign(n.identity(from), bundle.Header{Environment: "net", Key: key, From: from, Epoch: epoch, Version: n.now.UnixMilli() + 1000, Made: n.now, Expires: n.now.Add(statementLife)}, body)
	n.check(err)
	n.overwrite(key, text)
}

func (n *network) overwrite(key string, text []byte) {
	n.t.Helper()
	ctx := context.Background()
	e, err := n.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		_, err = n.store.Create(ctx, key, text)
	} else if err == nil {
		_, err = n.store.Swap(ctx, key, e.Version, text)
	}
	n.check(err)
}

// The first run waits for nobody but the replica's server key, and the second changes nothing.
func TestNetwork(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app")
	n.fails(n.apply("app1"), "no such file or directory: is it mounted here?")
	n.ok(n.apply("db1"), 5)
	rep := n.apply("db2")
	if len(rep.Failures) != 1 || !rep.Failures[0].NotYet {
		t.Errorf("db2: %v", failureTexts(rep))
	}
	n.ok(n.apply("app1"), 2)
	n.settle("db1", "db2", "app1")
	if n.read("db1", "srv/tls/server.key") == n.read("db2", "srv/tls/server.key") {
		t.Error("two servers have one key")
	}
	if n.read("db1", "home/deploy/.postgresql/postgresql.key") != n.read("app1", "home/deploy/.postgresql/postgresql.key") {
		t.Error("a user has two keys")
	}
	if n.read("db1", "home/postgres/.postgresql/postgresql.key") != n.read("db2", "home/postgres/.postgresql/postgresql.key") {
		t.Error("the admin has two keys")
	}
	for _, stray := range []string{"app1/home/postgres/.postgresql", "app1/srv/tls", "db2/home/deploy/.postgresql", "db2/etc/converge/authority/ca.key", "app1/etc/converge/authority/ca.key", "db2/etc/converge/authority/server.key.next"} {
		if _, err := os.Lstat(filepath.Join(n.dir, stray)); err == nil {
			t.Errorf("%s is there", stray)
		}
	}
}

// A user whose key cannot be made keeps nobody else's from the nodes, and a node keeps what it has of that user.
func TestDeliveryWithoutOneUser(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	n.recipe += `
user_key "alice" {
  roles     = ["db_master", "app"]
  authority = cert_authority.environment
}
user_key "bob" {
  roles     = ["db_master", "app"]
  authority = cert_authority.environment
}
`
	account := func(node, name string, id int) {
		passwd := fmt.Sprintf("%s%s:x:%d:%d::/home/%s:/bin/sh\n", n.read(node, "etc/passwd"), name, id, id, name)
		n.check(errors.Join(os.WriteFile(n.path(node, "etc/passwd"), []byte(passwd), 0o644),
			os.MkdirAll(n.path(node, "home/"+name), 0o755), os.Chown(n.path(node, "home/"+name), id, id)))
	}
	account("app1", "alice", 1002)
	account("app1", "bob", 1003)
	account("db1", "bob", 1003)
	rep := n.apply("db1")
	n.fails(rep, `the Linux user "alice" does not exist on this host`)
	if len(rep.Failures) != 1 || !slices.Contains(rep.Warnings, engine.Warning{Address: "key_delivery.environment", Text: "no other node gets a new key of alice: none was made"}) {
		t.Errorf("failures %v, warnings %v", failureTexts(rep), rep.Warnings)
	}
	rep = n.apply("app1")
	if len(rep.Failures) != 1 || !rep.Failures[0].NotYet || rep.Failures[0].Address != "user_key.alice" {
		t.Errorf("app1: %v", failureTexts(rep))
	}
	n.read("app1", "home/bob/.postgresql/postgresql.key")
	account("db1", "alice", 1002)
	n.settle("db1", "db2", "app1")

	// A block of another kind for one node, and a new certificate for another user: alice's key stands where it stood.
	alice := n.read("app1", "home/alice/.postgresql/postgresql.key")
	good := n.recipe
	n.recipe = strings.Replace(good, "user_key \"alice\" {\n  roles     = [\"db_master\", \"app\"]", "user_key \"alice_of_old\" {\n  user = \"alice\"\n  roles = [\"app\"]\n  expire_in_days = 99\n  authority = cert_authority.environment\n}\nuser_key \"alice\" {\n  roles     = [\"db_master\"]", 1)
	n.maintenance = &Maintenance{Users: []string{"bob"}}
	n.fails(n.apply("db1"), "no other node gets a new key of alice: the key of alice is declared in two ways")
	n.maintenance = nil
	n.recipe = good
	n.ok(n.apply("app1"), 2)
	if n.read("app1", "home/bob/.postgresql/postgresql.key") != n.read("db1", "home/bob/.postgresql/postgresql.key") || n.read("app1", "home/alice/.postgresql/postgresql.key") != alice {
		t.Error("bob has not got his new key on app1, or alice has another one")
	}
	n.settle("db1", "db2", "app1")
}

// A replica that lies cannot make an application host take anything, nor keep from it what is its own for longer than until
// the next run of the master.
func TestLyingPeer(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	before := n.read("app1", "home/deploy/.postgresql/postgresql.key") + n.read("app1", "home/deploy/.postgresql/root.crt")
	r, err := parseReceived([]byte(n.read("app1", "etc/converge/authority/received")))
	n.check(err)
	n.forge("db2", "node/app1", 1, r.body)
	n.fails(n.apply("app1"), `"db2", which has no say in this: db1 has`, "what is here stays")
	if after := n.read("app1", "home/deploy/.postgresql/postgresql.key") + n.read("app1", "home/deploy/.postgresql/root.crt"); after != before {
		t.Error("the keys changed")
	}
	n.ok(n.apply("db1"), 1)
	n.ok(n.apply("app1"), 1)

	n.forge("app1", "request/db2", 1, requestBody{Server: "x"})
	n.fails(n.apply("db1"), "db2 gets no server certificate", `"app1", which has no say`)
	n.ok(n.apply("db2"), 1)
	n.ok(n.apply("db1"), 0)
}

// Row 89: a node with another host key says so; with the new one in the file the master seals to it.
func TestChangedHostKey(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.settle("db1", "app1")
	old := n.keys["app1"]
	n.add("app1")
	fresh := n.keys["app1"]
	n.keys["app1"] = old
	n.check(os.Remove(n.path("app1", "home/deploy/.postgresql/postgresql.key")))
	n.fails(n.apply("app1"), "the host's key was changed, or this is another machine", "mend host_key")
	n.keys["app1"] = fresh
	n.fails(n.apply("app1"), "is sealed to the host key", "run converge apply on db1, then here")
	n.ok(n.apply("db1"), 1)
	n.ok(n.apply("app1"), -1)
}

// A node that is gone: what lies there is taken back, and what it could open is said, once.
func TestRemovedNode(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app", "app2:app")
	n.settle("db1", "db2", "app1", "app2")
	delete(n.roles, "app2")
	delete(n.roles, "db2")
	rep := n.apply("db1")
	n.ok(rep, 1)
	said := []engine.Warning{
		{Address: "key_delivery.environment", Text: "app2 is no longer a node of the environment: what lies there for it is taken back, but it has, or could open, the keys of deploy: if it is out of your hands, converge revoke deploy --reissue"},
		{Address: "key_delivery.environment", Text: "db2 is no longer a node of the environment: what lies there for it is taken back, but it has, or could open, the keys of postgres: if it is out of your hands, converge revoke postgres --reissue; clients trust its server certificate until that ends, or until converge rotate ca"},
	}
	if !slices.Equal(rep.Warnings, said) {
		t.Errorf("got %v", rep.Warnings)
	}
	e, err := n.store.Get(context.Background(), "node/app2")
	n.check(err)
	if r, err := parseReceived(e.Value); err != nil || len(r.body.Users) != 0 {
		t.Errorf("got %v %v", r, err)
	}
	rep = n.apply("db1")
	n.ok(rep, 0)
	if len(rep.Warnings) > 0 {
		t.Errorf("said again: %v", rep.Warnings)
	}
}

// A failover: the promoted node takes the same authority over, and the old master is fenced.
func TestTakeOver(t *testing.T) {
	n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	ca := n.read("db1", "etc/converge/authority/ca.crt")
	keys := n.keysOf("app1", "db2")
	n.fallOver()
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("db2"), 0)
	if n.read("db2", "etc/converge/authority/ca.crt") != ca || n.read("db2", "etc/converge/authority/ca.key") != n.read("db1", "etc/converge/authority/ca.key") {
		t.Error("the authority is another one")
	}
	n.ok(n.apply("app1"), 1) // what it has from the authority is signed by another node now, and says the same
	if n.keysOf("app1", "db2") != keys {
		t.Error("clients got other keys")
	}
	if n.read("app1", "home/deploy/.postgresql/postgresql.key") != n.read("db2", "home/deploy/.postgresql/postgresql.key") {
		t.Error("the new authority has another key of deploy than app1")
	}
	rep := n.applyAs("db1", "db_master")
	n.fails(rep, "db2 has the authority since epoch 2", "this node had it in epoch 1")
	if rep.Result != engine.ResultRefused {
		t.Errorf("the result is %s", rep.Result)
	}
	n.fails(n.apply("db1"), "the authority's private key is here", "shred -u /etc/converge/authority/ca.key")
	n.check(os.Remove(n.path("db1", "etc/converge/authority/ca.key")))
	rep = n.apply("db1")
	n.ok(rep, 2)
	if c := rep.Changes[1]; c.Summary != "ask db2 for the server certificate of db1" || c.Reason != "it is renewed from a request, and there is none" {
		t.Errorf("the server's key: %s, because %s", c.Summary, c.Reason)
	}
	n.ok(n.apply("db1"), 0)
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("app1"), -1)
	n.forge("db1", "node/app1", 1, nodeBody{})
	n.fails(n.apply("app1"), "db1")
}

// Without escrow the run says what to do, and a key that was brought by hand is taken.
func TestTakeOverByHand(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica")
	n.settle("db1", "db2")
	n.roles["db1"], n.roles["db2"] = "db_replica", "db_master"
	n.fails(n.apply("db2"), "its key was not put in escrow for this node", "bring it here from db1, or from a backup, as /etc/converge/authority/ca.key")
	if _, err := os.Lstat(n.path("db2", "etc/converge/authority/ca.key")); err == nil {
		t.Fatal("an authority was made")
	}
	n.check(os.WriteFile(n.path("db2", "etc/converge/authority/ca.key"), []byte(n.read("db1", "etc/converge/authority/ca.key")), 0o600))
	n.ok(n.apply("db2"), -1)
	n.ok(n.apply("db2"), 0)
}

// Row 40: two that are promoted at once. One has the authority afterwards, the other says so, whatever the timing.
func TestTwoTakeOver(t *testing.T) {
	for range 20 {
		n := newNetwork(t, `escrow = ["db2", "db3"]`, "db1:db_master", "db2:db_replica", "db3:db_replica")
		n.settle("db1", "db2", "db3")
		var both sync.WaitGroup
		reports := map[string]*engine.Report{}
		var mutex sync.Mutex
		for _, name := range []string{"db2", "db3"} {
			both.Go(func() {
				rep := n.takeOver(name)
				mutex.Lock()
				defer mutex.Unlock()
				reports[name] = rep
			})
		}
		both.Wait()
		e, err := n.store.Get(context.Background(), authorityEntry)
		n.check(err)
		s, err := bundle.Parse(e.Value)
		n.check(err)
		loser := map[string]string{"db2": "db3", "db3": "db2"}[s.From]
		if loser == "" {
			t.Fatalf("%s has it", s.From)
		}
		if s.Epoch == 2 {
			if len(reports[loser].Failures) == 0 {
				t.Errorf("%s says nothing, and %s has the authority", loser, s.From)
			}
			if _, err := os.Lstat(n.path(loser, "etc/converge/authority/ca.key")); err == nil {
				t.Errorf("%s has the key", loser)
			}
		} else { // one after the other: the later one took it from the earlier, which is fenced
			n.fails(n.takeOver(loser), s.From+" has the authority since epoch")
		}
	}
}

// takeOver is a run of a node whose file says that it is the master, and that db1 is a replica.
func (n *network) takeOver(name string) *engine.Report {
	other := &network{t: n.t, dir: n.dir, roles: map[string]string{"db1": "db_replica", "db2": "db_replica", "db3": "db_replica"}, keys: n.keys, var_: n.var_, store: n.store, now: n.now, recipe: n.recipe}
	other.roles[name] = "db_master"
	return other.apply(name)
}

// Rows 80 and 83: no authority is made while nobody can see whether there is one, and one that has lost a half is not
// replaced. A node without a store goes on with what it has.
func TestStoreAway(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.settle("db1", "app1")
	n.check(os.Rename(filepath.Join(n.dir, "store"), filepath.Join(n.dir, "away")))
	n.check(os.Chmod(n.path("app1", "home/deploy/.postgresql/postgresql.key"), 0o644))
	rep := n.apply("app1")
	n.ok(rep, 1)
	if len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0].Text, "this node goes on with what it has") {
		t.Errorf("got %v", rep.Warnings)
	}
	n.fails(n.apply("db1"), "nothing is delivered")
	n.check(os.Rename(n.path("db1", "etc/converge/authority"), n.path("db1", "etc/converge/gone")))
	n.check(os.Mkdir(filepath.Join(n.dir, "store"), 0o755)) // what is left where a share was mounted
	rep = n.apply("db1")
	if _, err := os.Lstat(n.path("db1", "etc/converge/authority/ca.key")); err == nil && len(rep.Failures) == 0 {
		t.Log("a node that remembers nothing made an authority in an empty folder: it cannot know better")
	}
	n.check(os.RemoveAll(filepath.Join(n.dir, "store")))
	n.check(os.Rename(filepath.Join(n.dir, "away"), filepath.Join(n.dir, "store")))
	n.check(os.RemoveAll(n.path("db1", "etc/converge/authority")))
	n.fails(n.apply("db1"), "are missing: put them back from a backup; none is made in its place")
	n.check(os.RemoveAll(n.path("db1", "etc/converge/authority")))
	n.check(os.Rename(n.path("db1", "etc/converge/gone"), n.path("db1", "etc/converge/authority")))
	n.ok(n.apply("db1"), -1)
	for _, half := range []string{"ca.key", "ca.crt"} {
		file := n.path("db1", "etc/converge/authority/"+half)
		n.check(os.Rename(file, file+".gone"))
		rep := n.apply("db1")
		if len(rep.Failures) == 0 {
			t.Errorf("without %s the run is fine", half)
		}
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("%s was made anew", half)
		}
		n.check(os.Rename(file+".gone", file))
	}
	n.ok(n.apply("db1"), -1)
}

// The statements end, and the master makes them anew in time; a node whose statement has ended keeps what it has.
func TestStatementsEnd(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.settle("db1", "app1")
	n.now = n.now.Add(statementLife + 24*time.Hour)
	rep := n.apply("app1")
	n.ok(rep, 0)
	if len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0].Text, "it has expired on") {
		t.Errorf("got %v", rep.Warnings)
	}
	n.ok(n.apply("db1"), 2)
	rep = n.apply("app1")
	n.ok(rep, 1)
	if len(rep.Warnings) > 0 {
		t.Errorf("got %v", rep.Warnings)
	}
}

// A breakingStore fails at one of its writes: it is done, or it is not, and the node hears in both cases that it is not known.
type breakingStore struct {
	store.Store
	left atomic.Int64 // writes that go well first
	done bool
}

func (s *breakingStore) Create(ctx context.Context, key string, value []byte) (store.Version, error) {
	return s.write(func() (store.Version, error) { return s.Store.Create(ctx, key, value) })
}

func (s *breakingStore) Swap(ctx context.Context, key string, old store.Version, value []byte) (store.Version, error) {
	return s.write(func() (store.Version, error) { return s.Store.Swap(ctx, key, old, value) })
}

func (s *breakingStore) write(do func() (store.Version, error)) (store.Version, error) {
	left := s.left.Add(-1)
	if left >= 0 {
		return do()
	}
	if left == -1 && s.done {
		if _, err := do(); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("cut off: %w", store.ErrUnavailable)
}

// Init makes the folder.
func (s *breakingStore) Init(ctx context.Context) error {
	return s.Store.(interface{ Init(context.Context) error }).Init(ctx)
}

// Row 5: whatever write to the store a run breaks off at, the next one goes on with the same authority, and everybody gets
// there. It is so for the first run of a master and for a takeover.
func TestBrokenOffAtEachWrite(t *testing.T) {
	for _, first := range []bool{true, false} {
		for _, done := range []bool{false, true} {
			for writes, more := 0, true; more; writes++ {
				n := newNetwork(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
				whole, master := n.store, "db1"
				if !first {
					n.settle("db1", "db2", "app1")
					n.roles["db1"], n.roles["db2"], master = "db_replica", "db_master", "db2"
				}
				broken := &breakingStore{Store: whole, done: done}
				broken.left.Store(int64(writes))
				n.store = broken
				rep := n.apply(master)
				more = broken.left.Load() < 0
				if more != (len(rep.Failures) > 0) {
					t.Errorf("first %v, done %v, after %d writes: failures %v", first, done, writes, failureTexts(rep))
				}
				before := ""
				if b, err := os.ReadFile(n.path("db1", "etc/converge/authority/ca.key")); err == nil {
					before = string(b)
				}
				n.store = whole
				if first {
					n.settle("db1", "db2", "app1")
				} else {
					n.settle("db2", "app1")
				}
				if after := n.read(master, "etc/converge/authority/ca.key"); before != "" && after != before {
					t.Errorf("first %v, done %v, after %d writes: another authority", first, done, writes)
				}
			}
		}
	}
}

// A saved plan was made from what the store had: when that has changed, it is refused.
func TestSavedPlanKnowsTheStore(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "app1:app")
	n.settle("db1", "app1")
	n.check(os.Chmod(n.path("app1", "home/deploy/.postgresql/postgresql.key"), 0o644))
	o := engine.Options{MaxDisruption: engine.Restart}
	saved := func() *engine.SavedPlan {
		e, graph := n.open("app1", "app")
		p, err := e.Plan(context.Background(), graph, o)
		n.check(err)
		s, err := p.Save(n.now)
		n.check(err)
		return s
	}
	stale := saved()
	n.overwrite("node/app1", []byte("x"))
	n.ok(n.apply("db1"), 1)
	o.Only = stale
	e, graph := n.open("app1", "app")
	if _, err := e.Apply(context.Background(), graph, o); !engine.IsRefused(err) {
		t.Errorf("got %v", err)
	}
	o.Only = nil
	o.Only = saved()
	e, graph = n.open("app1", "app")
	rep, err := e.Apply(context.Background(), graph, o)
	n.check(err)
	n.ok(rep, 2)
}
