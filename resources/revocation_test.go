package resources

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"converge/engine"
	"converge/resources/pki"
)

const authorityFiles = "etc/converge/authority/"

// revoke is a run of a node in which something is revoked.
func (n *network) revoke(name string, m *Maintenance) *engine.Report {
	n.t.Helper()
	n.maintenance = m
	defer func() { n.maintenance = nil }()
	return n.apply(name)
}

// listed are the serial numbers on the lists in a file that are not the probe's.
func (n *network) listed(node, file, probe string) []string {
	n.t.Helper()
	lists, err := pki.ParseRevocationLists([]byte(n.read(node, file)))
	n.check(err)
	cert, key, err := parseProbe([]byte(n.read(node, probe)))
	n.check(err)
	if !key.Matches(cert) || !n.now.After(cert.NotAfter) {
		n.t.Errorf("%s %s: the probe is good for something", node, probe)
	}
	var out []string
	shown := false
	for _, l := range lists {
		for _, e := range l.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				shown = true
				continue
			}
			out = append(out, fmt.Sprintf("%040x", e.SerialNumber))
		}
	}
	if !shown {
		n.t.Errorf("%s %s: the probe is not on the list", node, file)
	}
	slices.Sort(out)
	return out
}

func (n *network) certAt(node, file string) pki.Certificate {
	n.t.Helper()
	cert, err := pki.ParseCertificate([]byte(n.read(node, file)))
	n.check(err)
	return cert
}

// openssl says whether a client's certificate is good for a server that has the files of a node.
func (n *network) openssl(node string, cert pki.Certificate) error {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "cert.pem")
	n.check(os.WriteFile(file, cert.PEM(), 0o600))
	out, err := exec.Command("openssl", "verify", "-crl_check_all", "-attime", fmt.Sprint(n.now.Unix()), "-CAfile", n.path(node, "srv/tls/root.crt"),
		"-CRLfile", n.path(node, "srv/tls/root.crl"), file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s", out)
	}
	return nil
}

// good wants openssl to take the certificates that are in use, and to refuse these, on every node that has a server.
func (n *network) good(nodes []string, inUse, gone []pki.Certificate) {
	n.t.Helper()
	for _, node := range nodes {
		for _, c := range inUse {
			if err := n.openssl(node, c); err != nil {
				n.t.Errorf("%s: a certificate of %s that counts: %v", node, c.Subject.CommonName, err)
			}
		}
		for _, c := range gone {
			if err := n.openssl(node, c); err == nil || !strings.Contains(err.Error(), "certificate revoked") {
				n.t.Errorf("%s: a revoked certificate of %s: %v", node, c.Subject.CommonName, err)
			}
		}
	}
}

// What is revoked gets to every server, and to nobody else; the next run gives the user another key; nothing is done twice.
func TestRevocation(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app")
	n.settle("db1", "db2", "app1")
	for _, f := range []string{"db1/" + authorityFiles + "crl.pem", "db1/" + authorityFiles + "revoked.json", "db1/srv/tls/root.crl", "db2/srv/tls/root.crl"} {
		if _, err := os.Lstat(filepath.Join(n.dir, f)); err == nil {
			t.Errorf("%s is there, and nothing was revoked", f)
		}
	}
	deploy, admin := n.certAt("app1", "home/deploy/.postgresql/postgresql.crt"), n.certAt("db2", "home/postgres/.postgresql/postgresql.crt")

	n.fails(n.revoke("db1", &Maintenance{Revoke: []string{"nobody"}}), `no certificate of "nobody" is known here`, "there are certificates of deploy, postgres")
	m := &Maintenance{Revoke: []string{"deploy"}, Reason: "leaked"}
	n.ok(n.revoke("db1", m), 3)
	if len(m.Revoked) != 1 || m.Revoked[0].Serial != serialOf(deploy) || m.Revoked[0].User != "deploy" {
		t.Errorf("revoked: %+v", m.Revoked)
	}
	if now := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt"); now.Fingerprint() != deploy.Fingerprint() {
		t.Error("the user has another key, and nobody asked for it")
	}
	n.good([]string{"db1"}, []pki.Certificate{admin}, []pki.Certificate{deploy})
	n.ok(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}}), 0)
	n.ok(n.apply("app1"), 0)
	n.ok(n.apply("db2"), 2)
	n.good([]string{"db2"}, []pki.Certificate{admin}, []pki.Certificate{deploy})
	if got := n.listed("db2", "srv/tls/root.crl", "srv/tls/root.crl.probe"); !slices.Equal(got, []string{serialOf(deploy)}) {
		t.Errorf("listed: %v", got)
	}
	if _, err := os.Lstat(n.path("app1", authorityFiles+"crl.pem")); err == nil {
		t.Error("an application host has the list")
	}

	// The recipe says that deploy has a key: the next run makes one, and never over the old one's.
	n.settle("db1", "app1", "db2")
	now := n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
	if keySum(now) == keySum(deploy) {
		t.Error("the new certificate is over the revoked key")
	}
	n.good([]string{"db1", "db2"}, []pki.Certificate{admin, now}, []pki.Certificate{deploy})

	// By its number alone, and with a new key at once.
	m = &Maintenance{Revoke: []string{"deploy"}, Serials: []string{serialOf(now)}, Reissue: true}
	n.ok(n.revoke("db1", m), 4)
	if len(m.Revoked) != 1 || m.Revoked[0].Serial != serialOf(now) {
		t.Errorf("revoked: %+v", m.Revoked)
	}
	n.ok(n.apply("db2"), 2)
	n.ok(n.apply("app1"), 2)
	n.good([]string{"db1", "db2"}, []pki.Certificate{admin, n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")}, []pki.Certificate{deploy, now})
	for _, name := range []string{"db1", "db2", "app1"} {
		n.ok(n.apply(name), 0)
	}

	// The revoked key does not come back, neither from the archive nor from an old copy of the file.
	n.fails(n.revoke("db1", &Maintenance{Users: []string{"deploy"}, Back: true}), "cannot come back: it was revoked on")
	n.check(os.Remove(n.path("db1", authorityFiles+"users/deploy.key")))
	n.check(os.WriteFile(n.path("db1", "home/deploy/.postgresql/postgresql.crt"), now.PEM(), 0o644))
	n.settle("db1", "app1", "db2")
	if c := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt"); slices.Contains([]string{serialOf(deploy), serialOf(now)}, serialOf(c)) {
		t.Error("a revoked certificate is in use")
	}
}

// A serial number stands for a key: whoever has the key has all certificates over it.
func TestRevocationOfASerial(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master")
	n.recipe = strings.Replace(n.recipe, "user      = \"deploy\"\n", "user      = \"deploy\"\n expire_in_days = 60\n", 1)
	n.settle("db1")
	first := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")
	n.ok(n.revoke("db1", &Maintenance{Users: []string{"deploy"}}), -1)
	other := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")
	n.now = other.NotAfter.Add(-time.Hour) // it is renewed over its key
	n.ok(n.apply("db1"), -1)
	renewed := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")
	if keySum(renewed) != keySum(other) || serialOf(renewed) == serialOf(other) {
		t.Fatal("it was not renewed over its key")
	}
	m := &Maintenance{Revoke: []string{"deploy"}, Serials: []string{serialOf(renewed)}}
	n.ok(n.revoke("db1", m), -1)
	var got []string
	for _, r := range m.Revoked {
		got = append(got, r.Serial)
	}
	want := []string{serialOf(other), serialOf(renewed)}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("revoked %v, wanted %v and not %s", got, want, serialOf(first))
	}
	// By a clock that is two days late all of it is as good.
	n.ok(n.apply("db1"), -1)
	n.now = n.now.Add(-2 * pki.Day)
	n.ok(n.apply("db1"), 0)
	n.fails(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}, Serials: []string{strings.Repeat("0", 39) + "7"}}), "no certificate of deploy has the serial number 7; there are")
}

// Whatever becomes of the files, the next run makes lists that lock nobody out and let nobody in who was revoked.
func TestRevocationListsAreMended(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica")
	n.settle("db1", "db2")
	gone := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")
	n.ok(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}, Reason: "leaked"}), -1)
	n.settle("db1", "db2")
	list, revokedJSON := n.read("db1", authorityFiles+"crl.pem"), n.read("db1", authorityFiles+"revoked.json")
	write := func(node, file, text string) func() {
		return func() { n.check(os.WriteFile(n.path(node, file), []byte(text), 0o644)) }
	}
	remove := func(node string, files ...string) func() {
		return func() {
			for _, f := range files {
				n.check(os.Remove(n.path(node, f)))
			}
		}
	}
	authority := n.certAt("db1", authorityFiles+"ca.crt")
	foreign, foreignKey, err := pki.NewAuthority(rand.Reader, n.now, pki.AuthoritySpec{CommonName: "foreign", Validity: 365 * pki.Day})
	n.check(err)
	foreignList, err := pki.NewRevocationList(rand.Reader, n.now, foreign, foreignKey, big.NewInt(1), nil)
	n.check(err)
	for _, c := range []struct {
		name   string
		damage func()
	}{
		{"no list", remove("db1", authorityFiles+"crl.pem")},
		{"an empty list", write("db1", authorityFiles+"crl.pem", "")},
		{"half a list", write("db1", authorityFiles+"crl.pem", list[:len(list)/2])},
		{"a foreign list", write("db1", authorityFiles+"crl.pem", string(foreignList.PEM()))},
		{"a foreign list as well", write("db1", authorityFiles+"crl.pem", list+string(foreignList.PEM()))},
		{"the list twice", write("db1", authorityFiles+"crl.pem", list+list)},
		{"a list that has ended", write("db1", authorityFiles+"crl.pem", n.listUntil("db1", -time.Hour))},
		{"a list that ends soon", write("db1", authorityFiles+"crl.pem", n.listUntil("db1", time.Hour))},
		{"a list of nobody", write("db1", authorityFiles+"crl.pem", n.listUntil("db1", 90*pki.Day))},
		{"no probe", remove("db1", authorityFiles+"crl_probe.pem")},
		{"a broken probe", write("db1", authorityFiles+"crl_probe.pem", "nonsense")},
		{"no record", remove("db1", authorityFiles+"revoked.json")},
		{"nothing but the record", remove("db1", authorityFiles+"crl.pem", authorityFiles+"crl_probe.pem")},
		{"no list at the server", remove("db1", "srv/tls/root.crl")},
		{"no probe at the server", remove("db1", "srv/tls/root.crl.probe")},
		{"rubbish at the server", write("db1", "srv/tls/root.crl", "nonsense")},
		{"no list at the replica", remove("db2", "srv/tls/root.crl")},
		{"no copy at the replica", remove("db2", authorityFiles+"crl.pem", authorityFiles+"crl_probe.pem")},
		{"rubbish at the replica", write("db2", authorityFiles+"crl.pem", string(foreignList.PEM()))},
		{"an old list put back", write("db1", authorityFiles+"crl.pem", list)},
		{"an old record put back", write("db1", authorityFiles+"revoked.json", revokedJSON)},
		{"the clock a year ahead", func() { n.now = n.now.Add(365 * pki.Day) }},
	} {
		c.damage()
		n.settle("db1", "db2")
		users := []pki.Certificate{n.certAt("db1", "home/deploy/.postgresql/postgresql.crt"), n.certAt("db2", "home/postgres/.postgresql/postgresql.crt")}
		n.good([]string{"db1", "db2"}, users, []pki.Certificate{gone})
		if got := n.listed("db2", "srv/tls/root.crl", "srv/tls/root.crl.probe"); !slices.Contains(got, serialOf(gone)) {
			t.Errorf("%s: listed %v", c.name, got)
		}
		if n.read("db1", "srv/tls/root.crl") != n.read("db2", "srv/tls/root.crl") {
			t.Errorf("%s: two servers have two lists", c.name)
		}
		if t.Failed() {
			t.Fatalf("with %s; the authority is %s", c.name, authority)
		}
	}
	n.check(os.WriteFile(n.path("db1", authorityFiles+"revoked.json"), []byte("{"), 0o644))
	n.fails(n.apply("db1"), "which says what was revoked: ", "put it back from a backup, or move it away")
	n.check(os.Remove(n.path("db1", authorityFiles+"revoked.json")))
	n.settle("db1", "db2")
	n.good([]string{"db1", "db2"}, nil, []pki.Certificate{gone})
}

// listUntil is an empty list of a node's authority that ends after a time.
func (n *network) listUntil(node string, left time.Duration) string {
	n.t.Helper()
	key, err := pki.ParsePrivateKey([]byte(n.read(node, authorityFiles+"ca.key")))
	n.check(err)
	signer, err := x509.ParsePKCS8PrivateKey(key.DER())
	n.check(err)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: n.now.Add(-100 * pki.Day), NextUpdate: n.now.Add(left)},
		n.certAt(node, authorityFiles+"ca.crt").Certificate, signer.(crypto.Signer))
	n.check(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// Who takes the authority over goes on with what was revoked, and can revoke what was issued before: from escrow, and from
// the lists that it has as a replica where somebody brings the key.
func TestRevocationAfterTakeover(t *testing.T) {
	for _, escrow := range []string{`escrow = ["db2"]`, ""} {
		n := newNetwork(t, escrow, "db1:db_master", "db2:db_replica", "app1:app")
		n.settle("db1", "db2", "app1")
		gone := n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
		n.ok(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}, Reason: "leaked"}), -1)
		n.settle("db1", "db2", "app1")
		before := n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
		// A key that nobody has any more but who has taken it away.
		n.ok(n.revoke("db1", &Maintenance{Users: []string{"deploy"}}), -1)
		n.settle("db1", "app1", "db2")
		key := n.read("db1", authorityFiles+"ca.key")
		n.fallOver()
		if escrow == "" {
			n.check(os.WriteFile(n.path("db2", authorityFiles+"ca.key"), []byte(key), 0o600))
		}
		n.ok(n.apply("db2"), -1)
		n.ok(n.apply("db2"), -1)
		n.ok(n.apply("app1"), -1)
		now := n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
		n.good([]string{"db2"}, []pki.Certificate{now}, []pki.Certificate{gone})
		m := &Maintenance{Revoke: []string{"deploy"}, Reissue: true}
		n.ok(n.revoke("db2", m), -1)
		var serials []string
		for _, r := range m.Revoked {
			serials = append(serials, r.Serial)
		}
		if known := slices.Contains(serials, serialOf(before)); known != (escrow != "") {
			t.Errorf("escrow %q: revoked %v, and what was issued before is %s", escrow, serials, serialOf(before))
		}
		n.ok(n.apply("app1"), -1)
		n.good([]string{"db2"}, []pki.Certificate{n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")}, []pki.Certificate{gone, now})
		n.ok(n.apply("db2"), 0)
	}
}

// While one authority takes the place of another, each has its list, and what was revoked stays so.
func TestRevocationThroughAnAuthorityChange(t *testing.T) {
	w := newWatched(t, "db1:db_master", "db2:db_replica", "app1:app")
	for range 3 {
		w.round()
	}
	gone := w.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
	w.asked(&Maintenance{Revoke: []string{"deploy"}, Reissue: true})
	for range 2 {
		w.round()
	}
	w.asked(&Maintenance{Authority: true})
	sets, late, phase := map[int]bool{}, false, Settled
	for range 8 {
		for _, node := range w.nodes {
			w.run(node)
			if node == "db1" {
				phase = w.change.Phase
			}
			for _, server := range []string{"db1", "db2"} {
				inUse := []pki.Certificate{w.certAt("app1", "home/deploy/.postgresql/postgresql.crt"), w.certAt("db2", "home/postgres/.postgresql/postgresql.crt"), w.certAt("db1", "home/postgres/.postgresql/postgresql.crt")}
				trusted := w.certs(server, "srv/tls/root.crt")
				sets[len(trusted)] = true
				w.good([]string{server}, inUse, nil)
				if trusted[0].Fingerprint() == gone.Fingerprint() || slices.ContainsFunc(trusted, gone.IssuedBy) {
					w.good([]string{server}, nil, []pki.Certificate{gone})
				}
			}
		}
		// In the middle of it somebody else's key leaks, of whichever authority it is.
		if !late && phase == Drain {
			late = true
			leaked := w.certAt("db2", "home/postgres/.postgresql/postgresql.crt")
			w.asked(&Maintenance{Revoke: []string{"postgres"}, Reissue: true})
			w.run("db2")
			w.good([]string{"db1", "db2"}, nil, []pki.Certificate{leaked})
		}
	}
	if len(w.certs("db1", "srv/tls/root.crt")) != 1 || !sets[2] || !late {
		t.Errorf("the change did not come to its end: %+v %v", w.change, sets)
	}
}

// An authority whose key is elsewhere needs its own list from there: without it all of its clients would be out.
func TestRevocationWithAnOperatorsAuthority(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica")
	n.settle("db1", "db2")
	foreign, key, err := pki.NewAuthority(rand.Reader, n.now, pki.AuthoritySpec{CommonName: "foreign", Validity: 365 * pki.Day})
	n.check(err)
	client, _, err := pki.Issue(rand.Reader, n.now, foreign, key, n.otherKey(), pki.LeafSpec{CommonName: "reports", Usage: pki.Client, Validity: 90 * pki.Day})
	n.check(err)
	bundle := n.read("db1", authorityFiles+"bundle.crt") + string(foreign.PEM())
	n.check(os.WriteFile(n.path("db1", authorityFiles+"bundle.crt"), []byte(bundle), 0o644))
	n.settle("db1", "db2")
	deploy := n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")
	n.fails(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}}), `trusts "foreign`, "a server with the lists of the others would refuse all of its clients; append its list there")
	if _, err := os.Lstat(n.path("db1", "srv/tls/root.crl")); err == nil {
		t.Error("the server has a list")
	}
	list, err := pki.NewRevocationList(rand.Reader, n.now, foreign, key, big.NewInt(7), nil)
	n.check(err)
	n.check(os.WriteFile(n.path("db1", authorityFiles+"crl.pem"), list.PEM(), 0o644))
	n.ok(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}, Reissue: true}), -1)
	n.settle("db1", "db2")
	n.good([]string{"db1", "db2"}, []pki.Certificate{client, n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")}, []pki.Certificate{deploy})

	// Its owner revokes somebody as well.
	list, err = pki.NewRevocationList(rand.Reader, n.now, foreign, key, big.NewInt(8), []pki.Revoked{{Serial: client.SerialNumber, At: n.now}})
	n.check(err)
	lists, err := pki.ParseRevocationLists([]byte(n.read("db1", authorityFiles+"crl.pem")))
	n.check(err)
	own := slices.IndexFunc(lists, func(l pki.RevocationList) bool { return !l.NamesIssuer(foreign) })
	n.check(os.WriteFile(n.path("db1", authorityFiles+"crl.pem"), pki.RevocationLists(lists[own], list), 0o644))
	n.settle("db1", "db2")
	n.good([]string{"db1", "db2"}, []pki.Certificate{n.certAt("db1", "home/deploy/.postgresql/postgresql.crt")}, []pki.Certificate{client, deploy})
}

func (n *network) otherKey() pki.PrivateKey {
	n.t.Helper()
	key, err := pki.GenerateKey(rand.Reader, pki.ECDSAP256)
	n.check(err)
	return key
}

// A forged or broken list that reaches a replica is not put into use there.
func TestRevocationListsThatLockOut(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica")
	n.settle("db1", "db2")
	n.ok(n.revoke("db1", &Maintenance{Revoke: []string{"deploy"}}), -1)
	n.settle("db1", "db2")
	good := n.read("db2", "srv/tls/root.crl")
	s, _ := n.stored("node/db2")
	var body nodeBody
	n.check(s.Decode(&body))
	body.Lists.Lists = n.listUntil("db1", -time.Hour)
	n.now = n.now.Add(time.Second)
	n.forge("db1", "node/db2", 1, body)
	n.fails(n.apply("db2"), "are not put into use: every client of the authority", "would be locked out: it ended on")
	if n.read("db2", "srv/tls/root.crl") != good {
		t.Error("the server has it")
	}
	n.now = n.now.Add(time.Minute)
	n.settle("db1", "db2")
}

// A user whom the recipe declares absent on other nodes, with revoke, is revoked by the node that has the authority, once.
func TestRevokedByTheRecipe(t *testing.T) {
	n := newNetwork(t, "", "db1:db_master", "db2:db_replica", "app1:app")
	declared := n.recipe
	n.check(os.WriteFile(n.path("app1", "etc/passwd"), []byte(n.read("app1", "etc/passwd")+"alice:x:1002:1002::/home/alice:/bin/sh\n"), 0o644))
	const alice = "\nuser_key \"alice\" {\n  roles = [\"app\"]\n  authority = cert_authority.environment\n  directories = [\"/srv/alice\"]\n"
	n.recipe = declared + alice + "}\n"
	n.settle("db1", "db2", "app1")
	cert, deploy := n.certAt("app1", "srv/alice/postgresql.crt"), n.certAt("app1", "home/deploy/.postgresql/postgresql.crt")
	n.recipe = declared + alice + "  state = \"absent\"\n}\n"
	n.settle("db1", "db2", "app1")
	if _, err := os.Lstat(n.path("db1", authorityFiles+"revoked.json")); err == nil {
		t.Error("a key that is only absent was revoked")
	}
	n.recipe = declared + alice + "  state = \"absent\"\n  revoke = true\n}\n"
	n.settle("db1", "db2", "app1")
	n.good([]string{"db1", "db2"}, []pki.Certificate{deploy}, []pki.Certificate{cert})
	if got := n.listed("db2", "srv/tls/root.crl", "srv/tls/root.crl.probe"); !slices.Equal(got, []string{serialOf(cert)}) {
		t.Errorf("listed: %v", got)
	}
	for _, name := range []string{"db1", "db2", "app1"} {
		n.ok(n.apply(name), 0)
	}
}
