package resources

import (
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"converge/engine/store"
	"converge/resources/pki"
)

// rotationRecipe has every node tell what has arrived.
var rotationRecipe = strings.Replace(networkRecipe, "key_delivery \"environment\" {\n  roles     = [\"db_master\"]\n", "key_delivery \"environment\" {\n", 1)

// A watched network is looked at after every run: who trusts what, and whether everybody can reach everybody.
type watched struct {
	*network
	nodes   []string // the master first
	renewed map[string]int
	seen    map[string]string
}

func newWatched(t *testing.T, nodes ...string) *watched { return newWatchedWith(t, "", nodes...) }

func newWatchedWith(t *testing.T, variables string, nodes ...string) *watched {
	w := &watched{network: newNetwork(t, variables, nodes...), renewed: map[string]int{}, seen: map[string]string{}}
	w.recipe = rotationRecipe
	for _, n := range nodes {
		name, _, _ := strings.Cut(n, ":")
		w.nodes = append(w.nodes, name)
	}
	return w
}

// run is one run of a node; afterwards every client can still reach every server.
func (w *watched) run(name string) {
	w.t.Helper()
	rep := w.apply(name)
	for _, f := range rep.Failures {
		if !f.NotYet {
			w.t.Fatalf("%s at %s: %s: %s", name, w.now.Format(time.DateTime), f.Address, f.Error)
		}
	}
	w.reachable()
}

// round is a run of every node, the master's first.
func (w *watched) round() {
	w.t.Helper()
	for _, n := range w.nodes {
		w.run(n)
	}
}

// asked is a run of the master with something asked of the keys.
func (w *watched) asked(m *Maintenance) {
	w.t.Helper()
	w.maintenance = m
	w.run(w.nodes[0])
	w.maintenance = nil
}

func (w *watched) certs(node, file string) []pki.Certificate {
	w.t.Helper()
	all, err := pki.ParseCertificates([]byte(w.read(node, file)))
	w.check(err)
	return all
}

// clients and servers are where keys are, by role.
func (w *watched) clients(node string) []string {
	return map[string][]string{"db_master": {"home/deploy", "home/postgres"}, "db_replica": {"home/postgres"}, "app": {"home/deploy"}}[w.roles[node]]
}

// reachable proves that each client that has a key accepts each server that has one, and is accepted by it, today.
func (w *watched) reachable() {
	w.t.Helper()
	type end struct {
		who   string
		leaf  pki.Certificate
		roots *x509.CertPool
	}
	read := func(node, dir, cert, key string) (end, bool) {
		if _, err := os.Stat(w.path(node, filepath.Join(dir, cert))); err != nil {
			return end{}, false
		}
		leaf := w.certs(node, filepath.Join(dir, cert))[0]
		private, err := pki.ParsePrivateKey([]byte(w.read(node, filepath.Join(dir, key))))
		w.check(err)
		if !private.Matches(leaf) {
			w.t.Fatalf("%s %s: the key and the certificate do not match", node, dir)
		}
		pool := x509.NewCertPool()
		for _, c := range w.certs(node, filepath.Join(dir, "root.crt")) {
			pool.AddCert(c.Certificate)
			if w.now.After(c.NotAfter) {
				w.t.Fatalf("%s %s trusts an authority that has ended", node, dir)
			}
		}
		name := node + " " + dir
		if sum := leaf.Fingerprint(); w.seen[name] != sum {
			w.seen[name] = sum
			w.renewed[name]++
		}
		return end{name, leaf, pool}, true
	}
	var clients, servers []end
	for _, n := range w.nodes {
		for _, home := range w.clients(n) {
			if e, ok := read(n, home+"/.postgresql", "postgresql.crt", "postgresql.key"); ok {
				clients = append(clients, e)
			}
		}
		if e, ok := read(n, "srv/tls", "server.crt", "server.key"); ok {
			servers = append(servers, e)
		}
	}
	for _, c := range clients {
		for _, s := range servers {
			if _, err := s.leaf.Verify(x509.VerifyOptions{Roots: c.roots, CurrentTime: w.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				w.t.Fatalf("%s: %s does not accept %s: %v", w.now.Format(time.DateTime), c.who, s.who, err)
			}
			if _, err := c.leaf.Verify(x509.VerifyOptions{Roots: s.roots, CurrentTime: w.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				w.t.Fatalf("%s: %s does not accept %s: %v", w.now.Format(time.DateTime), s.who, c.who, err)
			}
		}
	}
}

// The authority is changed without a moment in which anybody could not reach anybody, whoever runs when; keys stay; the old
// authority is in the archive and comes back from there.
func TestAuthorityChange(t *testing.T) {
	w := newWatched(t, "db1:db_master", "db2:db_replica", "app1:app")
	for range 3 {
		w.round()
	}
	first := w.certs("db1", "etc/converge/authority/ca.crt")[0]
	key := w.read("app1", "home/deploy/.postgresql/postgresql.key")

	w.asked(&Maintenance{Authority: true})
	if w.change.Phase != Trust || !w.change.Moved || len(w.certs("db1", "etc/converge/authority/bundle.crt")) != 2 {
		t.Fatalf("the change has not begun: %+v", w.change)
	}
	// Nobody has told anything: the second authority issues nothing.
	w.run("db1")
	wantWaits(t, w.change, Trust, "db2 does not trust the new one yet", "app1 does not trust the new one yet")
	w.run("db2")
	w.run("db1")
	wantWaits(t, w.change, Trust, "app1 does not trust the new one yet")
	if now := w.certs("db1", "etc/converge/authority/ca.crt")[0]; now.Fingerprint() != first.Fingerprint() {
		t.Fatal("it issues before everybody trusts it")
	}
	w.run("app1")
	w.run("db1")
	second := w.certs("db1", "etc/converge/authority/ca.crt")[0]
	if second.Fingerprint() == first.Fingerprint() {
		t.Fatal("it does not issue although everybody trusts it")
	}
	w.run("db1")
	wantWaits(t, w.change, Drain, "db2 still has a certificate of the old one", "app1 still has a certificate of the old one")
	w.run("app1")
	w.round()
	w.round()
	w.round()
	for _, n := range w.nodes {
		for _, f := range append([]string{"srv/tls"}, "home/deploy/.postgresql", "home/postgres/.postgresql") {
			if _, err := os.Stat(w.path(n, f+"/root.crt")); err != nil {
				continue
			}
			if roots := w.certs(n, f+"/root.crt"); len(roots) != 1 || roots[0].Fingerprint() != second.Fingerprint() {
				t.Errorf("%s %s trusts %v", n, f, roots)
			}
		}
	}
	if now := w.read("app1", "home/deploy/.postgresql/postgresql.key"); now != key {
		t.Error("the user has another key")
	}
	if left, _ := filepath.Glob(w.path("db1", "etc/converge/authority/*")); len(left) == 0 || strings.Contains(fmt.Sprint(left), "next") || strings.Contains(fmt.Sprint(left), "previous") {
		t.Errorf("left over: %v", left)
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}

	w.now = w.now.Add(24 * time.Hour)
	w.asked(&Maintenance{Authority: true, Back: true})
	for range 6 {
		w.round()
	}
	if now := w.certs("app1", "home/deploy/.postgresql/root.crt"); len(now) != 1 || now[0].Fingerprint() != first.Fingerprint() {
		t.Errorf("app1 trusts %v, and the first authority was to come back", now)
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}
}

func wantWaits(t *testing.T, c *AuthorityChange, phase Phase, waits ...string) {
	t.Helper()
	all := strings.Join(c.Waits, "; ")
	if c.Phase != phase || len(c.Waits) != len(waits) {
		t.Fatalf("phase %q, waits for %q; wanted phase %q and %q", c.Phase, all, phase, waits)
	}
	for _, text := range waits {
		if !strings.Contains(all, text) {
			t.Errorf("it waits for %q, wanted %q", all, text)
		}
	}
}

// In each phase the change can be taken back.
func TestAuthorityChangeBack(t *testing.T) {
	w := newWatched(t, "db1:db_master", "db2:db_replica", "app1:app")
	for range 3 {
		w.round()
	}
	first := w.certs("db1", "etc/converge/authority/ca.crt")[0].Fingerprint()
	for moves := 1; moves <= 4; moves++ {
		w.asked(&Maintenance{Authority: true})
		for range moves - 1 {
			w.run("db2")
			w.run("app1")
			w.run("db1")
		}
		w.now = w.now.Add(time.Minute)
		w.asked(&Maintenance{Authority: true, Back: true})
		for range 7 {
			w.round()
		}
		for _, n := range w.nodes {
			w.ok(w.apply(n), 0)
		}
		if now := w.certs("app1", "etc/converge/authority/bundle.crt"); len(now) != 1 || now[0].Fingerprint() != first {
			t.Fatalf("after %d moves and back, app1 trusts %v", moves, now)
		}
		w.now = w.now.Add(time.Hour)
	}
}

// A change of authorities is under way when its node is lost: who takes over goes on with it, with the same two authorities,
// and nobody is cut off. The old node, when it comes back, has to give up the keys of both.
func TestAuthorityChangeTakenOver(t *testing.T) {
	for moves := 1; moves <= 3; moves++ {
		w := newWatchedWith(t, `escrow = ["db2"]`, "db1:db_master", "db2:db_replica", "app1:app")
		for range 3 {
			w.round()
		}
		first := w.certs("db1", "etc/converge/authority/ca.crt")[0].Fingerprint()
		w.asked(&Maintenance{Authority: true})
		for range moves - 1 {
			w.run("db2")
			w.run("app1")
			w.run("db1")
		}
		both := map[string]bool{}
		for _, c := range w.certs("db1", "etc/converge/authority/bundle.crt") {
			both[c.Fingerprint()] = true
		}
		key := w.read("app1", "home/deploy/.postgresql/postgresql.key")
		w.fallOver()
		w.nodes = []string{"db2", "app1"}
		w.round()
		delete(w.roles, "db1") // it is lost for good, and would hold the change back; its folder is left as it was
		for range 8 {
			w.round()
		}
		now := w.certs("db2", "etc/converge/authority/bundle.crt")
		if len(now) != 1 || now[0].Fingerprint() == first || !both[now[0].Fingerprint()] {
			t.Errorf("after %d moves and a takeover: %v is trusted, and the two of the change were %v", moves, now, both)
		}
		if w.read("app1", "home/deploy/.postgresql/postgresql.key") != key {
			t.Errorf("after %d moves and a takeover: another key", moves)
		}
		for _, n := range w.nodes {
			w.ok(w.apply(n), 0)
		}
		w.roles["db1"] = "db_replica"
		for _, slot := range []string{"ca", "next", "previous"} {
			file := "etc/converge/authority/" + slot + ".key"
			if _, err := os.Stat(w.path("db1", file)); err == nil {
				w.fails(w.apply("db1"), "the authority's private key is here, as /"+file)
				w.check(os.Remove(w.path("db1", file)))
			}
		}
	}
}

// Keys of a server and of users are changed and come back; what was in use is kept.
func TestRotateKeys(t *testing.T) {
	w := newWatched(t, "db1:db_master", "db2:db_replica", "app1:app")
	for range 3 {
		w.round()
	}
	const app, server, old = "home/deploy/.postgresql/postgresql.key", "srv/tls/server.key", "etc/converge/old_keys"
	user, key := w.read("app1", app), w.read("db1", server)

	w.asked(&Maintenance{Server: true, Users: []string{"deploy"}})
	stamp := w.now.UTC().Format(archiveTime)
	if w.read("db1", old+"/user/"+stamp+"/deploy/postgresql.key") != user || w.read("db1", old+"/server/"+stamp+"/server.key") != key {
		t.Error("the old keys are not kept")
	}
	w.round()
	w.round()
	if w.read("app1", app) == user || w.read("db1", server) == key || w.read("app1", app) != w.read("db1", app) {
		t.Error("the keys are the old ones")
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}
	w.now = w.now.Add(time.Minute)
	w.asked(&Maintenance{Server: true, Users: []string{"deploy"}, Back: true})
	w.round()
	w.round()
	if w.read("app1", app) != user || w.read("db1", app) != user || w.read("db1", server) != key {
		t.Error("the old keys have not come back")
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}

	// On a replica the new key waits for its certificate, and the old one stays in use meanwhile.
	key = w.read("db2", server)
	w.maintenance = &Maintenance{Server: true}
	rep := w.apply("db2")
	w.maintenance = nil
	if len(rep.Failures) != 1 || !rep.Failures[0].NotYet || w.read("db2", server) != key {
		t.Fatalf("db2: %v", failureTexts(rep))
	}
	w.run("db2")
	w.round()
	w.round()
	if w.read("db2", server) == key {
		t.Error("db2 has the old key")
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}
	w.now = w.now.Add(time.Minute)
	w.maintenance = &Maintenance{Server: true, Back: true}
	w.run("db2")
	w.maintenance = nil
	w.round()
	w.round()
	if w.read("db2", server) != key {
		t.Error("the old key of db2 has not come back")
	}
	for _, n := range w.nodes {
		w.ok(w.apply(n), 0)
	}
}

// inMemory moves the network to a file system on which syncing costs nothing.
func (w *watched) inMemory() {
	dir, err := os.MkdirTemp("/dev/shm", "converge-")
	w.check(err)
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	w.check(os.Chmod(dir, 0o755))
	w.dir = dir
	if w.store, err = store.OpenDir(filepath.Join(dir, "store")); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes {
		w.add(n)
	}
}

// openssl has the last word on what stands there after ten years.
func (w *watched) opensslAgrees() {
	w.t.Helper()
	for _, n := range w.nodes {
		for _, home := range w.clients(n) {
			dir := w.path(n, home+"/.postgresql")
			out, err := exec.Command("openssl", "verify", "-attime", fmt.Sprint(w.now.Unix()), "-CAfile", dir+"/root.crt", "-purpose", "sslclient", dir+"/postgresql.crt").CombinedOutput()
			if err != nil {
				w.t.Errorf("openssl: %s", out)
			}
		}
	}
}

// Ten years with a run of every node every day: nothing that was served had ever ended, and every renewal happened once.
func TestTenYears(t *testing.T) {
	w := newWatched(t, "db1:db_master", "db2:db_replica", "app1:app")
	w.inMemory()
	w.recipe = strings.NewReplacer(
		"user_key \"app\" {", "user_key \"app\" {\n  expire_in_days = 365",
		"server_key \"postgresql\" {", "server_key \"postgresql\" {\n  expire_in_days = 90",
	).Replace(rotationRecipe)
	begin := w.now
	authorities := map[string]bool{}
	days := 3652
	for day := range days {
		w.now = begin.Add(time.Duration(day) * 24 * time.Hour)
		w.round()
		authorities[w.certs("db1", "etc/converge/authority/ca.crt")[0].Fingerprint()] = true
	}
	w.opensslAgrees()
	t.Logf("%d days: %d authorities, certificates by place: %v", days, len(authorities), w.renewed)
	if len(authorities) != 3 {
		t.Errorf("%d authorities in ten years of five each, begun 90 days early: wanted 3", len(authorities))
	}
	for place, n := range w.renewed {
		life, window := 1825.0, 30.0
		switch {
		case strings.HasSuffix(place, "srv/tls"):
			life = 90
		case strings.Contains(place, "home/deploy"):
			life = 365
		}
		// One every life less its window, and one more for each change of the authority.
		if most := int(float64(days)/(life-window)) + 1 + len(authorities); n > most {
			t.Errorf("%s: %d certificates, and %d would have done", place, n, most)
		}
	}
}
