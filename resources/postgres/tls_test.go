package postgres

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"converge/fixtures/pgserver"
)

// A pair is a certificate with its key, in PEM.
type pair struct {
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	pem, kpem []byte
}

var serial atomic.Int64

func issue(t *testing.T, name string, by *pair) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: by == nil, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign | x509.KeyUsageCertSign,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})}
}

// emptyCRL is a revocation list without an entry.
func emptyCRL(t *testing.T, ca pair) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// installTLS writes a CA, a server's certificate and its key where the settings look by default, and returns the two.
func installTLS(t *testing.T, ps *pgserver.Server) (ca, server pair) {
	t.Helper()
	ca = issue(t, "test CA", nil)
	server = issue(t, "db1", &ca)
	ps.WriteFile(path.Join(ps.DataDirectory, "server.crt"), server.pem, 0o644)
	ps.WriteFile(path.Join(ps.DataDirectory, "server.key"), server.kpem, 0o600)
	ps.WriteFile(path.Join(ps.DataDirectory, "root.crt"), ca.pem, 0o644)
	return ca, server
}

func fingerprint(p pair) string {
	sum := sha256.Sum256(p.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// A handshake tells what is served: nothing, a certificate, the trusted CAs; and keeps telling it when the settings lie.
func TestHandshake(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		served := func() Served {
			t.Helper()
			got, err := s.Served(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if got := served(); got.TLS {
			t.Errorf("TLS is off: %+v", got)
		}
		ca, server := installTLS(t, ps)

		// Off to on with a key that does not fit: the server says on, and serves nothing.
		ps.WriteFile(path.Join(ps.DataDirectory, "server.key"), ca.kpem, 0o600)
		ps.AppendConf("ssl = on")
		reloadAndWait(t, ps, s)
		c := connect(t, s)
		set, err := c.Settings(t.Context(), "ssl")
		if err != nil || set["ssl"].Value != "on" {
			t.Errorf("SHOW ssl: %+v %v", set, err)
		}
		if p, err := c.FileProblems(t.Context()); err != nil || len(p) != 0 {
			t.Errorf("the view: %+v %v", p, err)
		}
		if got := served(); got.TLS {
			t.Errorf("served with a wrong key: %+v", got)
		}
		if !strings.Contains(ps.Log(), "SSL configuration was not reloaded") {
			t.Errorf("the reload was taken: %s", ps.Log())
		}

		ps.WriteFile(path.Join(ps.DataDirectory, "server.key"), server.kpem, 0o600)
		reloadAndWait(t, ps, s)
		got := served()
		if !got.TLS || got.Fingerprint != fingerprint(server) || got.AsksForCertificate || len(got.Certificates) != 1 || got.Version == 0 || got.Cipher == "" {
			t.Errorf("served: %+v", got)
		}

		second := issue(t, "second CA", nil)
		ps.WriteFile(path.Join(ps.DataDirectory, "root.crt"), append(slices.Clone(ca.pem), second.pem...), 0o644)
		ps.AppendConf("ssl_ca_file = 'root.crt'")
		reloadAndWait(t, ps, s)
		got = served()
		if !got.AsksForCertificate || !got.Accepts(ca.cert) || !got.Accepts(second.cert) || got.Accepts(server.cert) || !slices.Equal(got.CANames(), []string{"CN=test CA", "CN=second CA"}) {
			t.Errorf("trusted: %v", got.CANames())
		}

		// A refused reload: the setting shows the new path, the old CA is served.
		ps.AppendConf("ssl_ca_file = 'missing.crt'")
		reloadAndWait(t, ps, s)
		got = served()
		if set, err := c.Settings(t.Context(), "ssl_ca_file"); err != nil || set["ssl_ca_file"].Value != "missing.crt" {
			t.Errorf("SHOW ssl_ca_file: %+v %v", set, err)
		}
		if !got.Accepts(ca.cert) {
			t.Errorf("trusted after a refused reload: %v", got.CANames())
		}
		if log := ps.Log(); strings.Contains(log, "incomplete startup packet") || strings.Contains(log, "could not accept SSL connection") || strings.Contains(log, "could not receive data") {
			t.Errorf("handshakes leave complaints in the log:\n%s", log)
		}
	})
}

// What listens may be no PostgreSQL, or nothing.
func TestHandshakeErrors(t *testing.T) {
	for answer, want := range map[string]string{"HTTP/1.1 400": "this is no PostgreSQL server", "": "the server closed the connection", "Efatal": "answers with an error", "Sgarbage garbage": "tls: "} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err == nil {
				conn.Read(make([]byte, 8))
				conn.Write([]byte(answer))
				conn.Close()
			}
		}()
		if _, err := Handshake(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", answer, err, want)
		}
	}
	if _, err := Handshake(t.Context(), "127.0.0.1:1"); err == nil {
		t.Error("nobody listens, and no error")
	}
}

func TestAddress(t *testing.T) {
	s := &Server{Port: 5433, ConfigFile: "/c"}
	for listen, want := range map[string]string{
		"*": "127.0.0.1:5433", "localhost": "127.0.0.1:5433", "0.0.0.0": "127.0.0.1:5433", "::": "[::1]:5433", "10.0.0.1, 127.0.0.1": "127.0.0.1:5433", "10.0.0.1,10.0.0.2": "10.0.0.1:5433",
		"db1.internal": "db1.internal:5433", "fe80::1": "[fe80::1]:5433", "::1": "[::1]:5433",
	} {
		if got, err := s.Address(listen); err != nil || got != want {
			t.Errorf("%s: got %s %v, want %s", listen, got, err, want)
		}
	}
	if _, err := s.Address(" "); !errors.Is(err, ErrNoTCP) {
		t.Errorf("got %v", err)
	}
}

// A case is one state of the files and whether a server takes it.
type fileCase struct {
	name  string
	make  func()
	takes bool
	fast  bool // Preflight sees it too
}

// What Preflight and TryStart say is what a reload does, and what a start does: compared with the server's log.
func TestFilesAgainstServers(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		t.Parallel()
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		ca, server := installTLS(t, ps)
		ps.AppendConf("ssl = on")
		saved, err := os.ReadFile(ps.ConfigFile)
		if err != nil {
			t.Fatal(err)
		}
		at := func(name string) string { return path.Join(ps.DataDirectory, name) }
		key := func(content []byte, mode os.FileMode) func() {
			return func() { ps.WriteFile(at("server.key"), content, mode) }
		}
		rootKey := func(mode os.FileMode) func() {
			return func() {
				key(server.kpem, mode)()
				if err := os.Chown(at("server.key"), 0, ps.GID); err != nil {
					t.Fatal(err)
				}
			}
		}
		conf := func(line string) func() { return func() { ps.AppendConf(line) } }
		hba := func(text string) func() { return func() { ps.WriteFile(ps.HBAFile, []byte(text), 0o600) } }
		cases := []fileCase{
			{"all is well", func() {}, true, true},
			{"another's key", key(ca.kpem, 0o600), false, true},
			{"an empty key", key(nil, 0o600), false, true},
			{"a key that all may read", key(server.kpem, 0o644), false, true},
			{"a key that its group may read", key(server.kpem, 0o640), false, true},
			{"a key that nobody may write", key(server.kpem, 0o400), true, true},
			{"root's key for the group", rootKey(0o640), true, true},
			{"root's key for the group, read only", rootKey(0o440), true, true},
			{"root's key for root only", rootKey(0o600), false, true},
			{"root's key for all", rootKey(0o644), false, true},
			{"no certificate", func() { os.Remove(at("server.crt")) }, false, true},
			{"a broken certificate", func() { ps.WriteFile(at("server.crt"), []byte("nonsense"), 0o644) }, false, true},
			{"a CA", conf("ssl_ca_file = 'root.crt'"), true, true},
			{"a missing CA", conf("ssl_ca_file = 'missing.crt'"), false, true},
			{"an empty CA", func() { ps.WriteFile(at("empty.crt"), nil, 0o644); ps.AppendConf("ssl_ca_file = 'empty.crt'") }, false, true},
			{"a revocation list", func() {
				ps.WriteFile(at("root.crl"), emptyCRL(t, ca), 0o644)
				ps.AppendConf("ssl_crl_file = 'root.crl'")
			}, true, true},
			{"an empty revocation list", func() { ps.WriteFile(at("empty.crl"), nil, 0o644); ps.AppendConf("ssl_crl_file = 'empty.crl'") }, false, true},
			{"a link to a key", func() {
				if err := errors.Join(os.Rename(at("server.key"), at("real.key")), os.Symlink("real.key", at("server.key"))); err != nil {
					t.Fatal(err)
				}
			}, true, true},
			{"ssl_min_protocol_version", conf("ssl_min_protocol_version = 'TLSv1.2'"), major >= 12, true},
			{"ssl_groups", conf("ssl_groups = 'prime256v1'"), major >= 18, true},
			{"ssl_crl_dir", func() { os.Mkdir(at("crls"), 0o755); ps.AppendConf("ssl_crl_dir = 'crls'") }, major >= 14, true},
			{"a curve that there is not", conf("ssl_ecdh_curve = 'nonsense'"), false, false},
			{"an unknown setting", conf("no_such_setting = 1"), false, false},
			{"a line that is no setting", conf("what is this"), false, true},
			{"a rule of the old days", hba("local all all peer\nhostssl all all all md5 clientcert=1\n"), major < 14, false},
			{"a rule without an address", hba("local all all peer\nhostssl all deploy md5 clientcert=1\n"), false, false},
			{"no rule", hba("# nothing\n"), false, false},
			{"users in a file", func() {
				ps.WriteFile(at("users"), []byte("a b\n@more\n"), 0o600)
				ps.WriteFile(at("more"), []byte("c\n"), 0o600)
				hba("local all all peer\nhost all @users all md5\n")()
			}, true, false},
			{"an included rule", func() {
				ps.WriteFile(at("more"), []byte("bogus\n"), 0o600)
				hba("local all all peer\ninclude more\n")()
			}, false, false},
			{"a certificate map", func() { ps.WriteFile(ps.IdentFile, []byte("m /^(.*)$ \\1\n"), 0o600) }, true, false},
			{"a broken map", func() { ps.WriteFile(ps.IdentFile, []byte("m x\n"), 0o600) }, false, false},
		}
		var slowest, total time.Duration
		for _, c := range cases {
			installTLS := func() {
				os.Remove(at("server.key"))
				ps.WriteFile(at("server.crt"), server.pem, 0o644)
				key(server.kpem, 0o600)()
				ps.WriteFile(ps.ConfigFile, saved, 0o600)
				hba("local all all peer\n")()
				ps.WriteFile(ps.IdentFile, nil, 0o600)
			}
			installTLS()
			c.make()
			refusals := func() int { return countRefusals(ps.Log()) }
			before := refusals()
			reloadAndWait(t, ps, s)
			// A busy server may answer before its postmaster has come to the file.
			for patience := time.Now().Add(5 * time.Second); !c.takes && refusals() == before && time.Now().Before(patience); {
				time.Sleep(10 * time.Millisecond)
			}
			takes := refusals() == before
			if takes != c.takes {
				t.Errorf("%s: this test expects %v, the server says %v", c.name, c.takes, takes)
			}
			begin := time.Now()
			err := s.TryStart(t.Context(), Root("/"))
			took := time.Since(begin)
			total += took
			slowest = max(slowest, took)
			if (err == nil) != takes || err != nil && !errors.Is(err, ErrWouldNotStart) {
				t.Errorf("%s: the server takes it: %v; TryStart: %v", c.name, takes, err)
			}
			if err != nil && (strings.Contains(err.Error(), "/proc/self") || strings.Contains(err.Error(), scratchName)) {
				t.Errorf("%s: the error names a place of ours: %v", c.name, err)
			}
			problems, perr := s.Preflight(Root("/"))
			if perr != nil {
				t.Errorf("%s: %v", c.name, perr)
			}
			if len(problems) > 0 && takes || len(problems) == 0 && !takes && c.fast {
				t.Errorf("%s: the server takes it: %v; Preflight: %v", c.name, takes, problems)
			}
			if testing.Verbose() && !takes {
				t.Logf("%s: %v | %v", c.name, err, problems)
			}
		}
		t.Logf("TryStart: %v on average, %v at most", (total / time.Duration(len(cases))).Round(time.Millisecond), slowest.Round(time.Millisecond))
	})
}

// countRefusals counts the reloads that a server refused in whole or in part.
func countRefusals(log string) int {
	n := 0
	for _, words := range []string{"was not reloaded", "contains errors"} {
		n += strings.Count(log, words)
	}
	return n
}

// Staged files are judged, not those on the disk; and no key touches a disk.
func TestTryStartStaged(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15, Down: true})
	s := found(t, ps)
	ca, server := installTLS(t, ps)
	ps.AppendConf("ssl = on")
	staged := overlay{Root("/"), map[string]string{path.Join(ps.DataDirectory, "server.key"): string(ca.kpem)}}
	if err := s.TryStart(t.Context(), staged); !errors.Is(err, ErrWouldNotStart) || !strings.Contains(err.Error(), "key values mismatch") {
		t.Errorf("a staged wrong key: %v", err)
	}
	if err := s.TryStart(t.Context(), Root("/")); err != nil {
		t.Errorf("the files on the disk: %v", err)
	}
	staged.content = map[string]string{ps.HBAFile: "local all all peer\nbogus\n"}
	if err := s.TryStart(t.Context(), staged); err == nil || !strings.Contains(err.Error(), `invalid connection type "bogus"`) || !strings.Contains(err.Error(), "line 2 of configuration file \""+ps.HBAFile+"\"") {
		t.Errorf("a staged broken rule: %v", err)
	}
	staged.content = map[string]string{ps.ConfigFile: "ssl = on\nprimary_conninfo = 'password=hunter2'\nwork_mem = x\n"}
	if err := s.TryStart(t.Context(), staged); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), `invalid value for parameter "work_mem": "x"`) {
		t.Errorf("a staged wrong value: %v", err)
	}
	trial := trial{server: s, files: Root("/")}
	conf, err := s.Conf(Root("/"))
	if err != nil {
		t.Fatal(err)
	}
	trial.conf = conf
	if err := trial.prepare(); err != nil {
		t.Fatal(err)
	}
	if out := grep(t, trial.scratch, "PRIVATE KEY"); out != "" {
		t.Errorf("a key on the disk: %s", out)
	}
	if !bytes.Contains(server.kpem, []byte("PRIVATE KEY")) {
		t.Error("the test looks for the wrong words")
	}
	trial.end()
	if _, err := os.Stat(trial.scratch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch directory is left: %v", err)
	}
	gone := *s
	gone.BinDirectory = "/nowhere"
	if err := gone.TryStart(t.Context(), Root("/")); !errors.Is(err, ErrCannotTry) {
		t.Errorf("without a program: %v", err)
	}
}

// An overlay is files with staged content on top.
type overlay struct {
	Root
	content map[string]string
}

func (o overlay) ReadFile(p string) ([]byte, error) {
	if c, ok := o.content[p]; ok {
		return []byte(c), nil
	}
	return o.Root.ReadFile(p)
}

func grep(t *testing.T, dir, words string) string {
	t.Helper()
	var out []string
	var walk func(string)
	walk = func(d string) {
		list, err := os.ReadDir(path.Join(dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			p := path.Join(d, e.Name())
			if e.IsDir() {
				walk(p)
				continue
			}
			if b, err := os.ReadFile(path.Join(dir, p)); err == nil && strings.Contains(string(b), words) {
				out = append(out, p)
			}
		}
	}
	walk("")
	return strings.Join(out, " ")
}
