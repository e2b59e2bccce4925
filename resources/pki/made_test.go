package pki

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

// noon is when these tests play; openssl, which has the machine's clock, is told it with -attime.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("odd", 5*3600+1800))

var production = AuthoritySpec{CommonName: "production CA", ID: "5f3a", Validity: 1825 * Day}

func makeAuthority(t testing.TB, now time.Time, spec AuthoritySpec) (Certificate, PrivateKey) {
	t.Helper()
	cert, key, err := NewAuthority(rand.Reader, now, spec)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func makeKey(t testing.TB, algorithm Algorithm) PrivateKey {
	t.Helper()
	key, err := GenerateKey(rand.Reader, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t testing.TB, now time.Time, ca Certificate, caKey, key PrivateKey, spec LeafSpec) Certificate {
	t.Helper()
	cert, _, err := Issue(rand.Reader, now, ca, caKey, key, spec)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func serverSpec() LeafSpec {
	return LeafSpec{CommonName: "db1", DNSNames: []string{"db1.internal", "DB1", "db1"}, Usage: Server, Validity: 365 * Day,
		IPAddresses: []netip.Addr{netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("::ffff:10.0.1.10"), netip.MustParseAddr("fd00::1")}}
}

func clientSpec() LeafSpec {
	return LeafSpec{CommonName: "deploy", Usage: Client, Validity: 365 * Day}
}

// openssl runs the real one in dir and returns what it says; it fails the test when openssl does.
func openssl(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := tryOpenssl(dir, args...)
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryOpenssl(dir string, args ...string) (string, error) {
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func put(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOpenSSLVerifiesWhatIsMade(t *testing.T) {
	authorities := []Algorithm{ECDSAP256, ECDSAP384, RSA2048, RSA3072}
	if !testing.Short() {
		authorities = append(authorities, RSA4096)
	}
	keys := map[Algorithm]PrivateKey{Ed25519: makeKey(t, Ed25519)}
	for _, algorithm := range authorities {
		keys[algorithm] = makeKey(t, algorithm)
	}
	for _, authority := range authorities {
		t.Run(string(authority), func(t *testing.T) {
			spec := production
			spec.Algorithm = authority
			ca, caKey := makeAuthority(t, noon, spec)
			for _, leaf := range authorities {
				verifyLeaf(t, ca, caKey, keys[leaf], serverSpec(), "sslserver", "sslclient")
				verifyLeaf(t, ca, caKey, keys[leaf], clientSpec(), "sslclient", "sslserver")
			}
			verifyLeaf(t, ca, caKey, keys[Ed25519], clientSpec(), "sslclient", "sslserver")
		})
	}
}

// verifyLeaf has openssl accept the certificate for one purpose and refuse it for the other, and read the key both ways.
func verifyLeaf(t *testing.T, ca Certificate, caKey, key PrivateKey, spec LeafSpec, purpose, other string) {
	t.Helper()
	spec.Algorithm = key.Algorithm()
	cert := issue(t, noon, ca, caKey, key, spec)
	dir := t.TempDir()
	put(t, dir, "root.crt", ca.PEM())
	put(t, dir, "leaf.crt", cert.PEM())
	put(t, dir, "leaf.key", key.PEM())
	put(t, dir, "leaf.pk8", key.DER())
	verify := []string{"verify", "-x509_strict", "-check_ss_sig", "-auth_level", "2", "-attime", unix(noon), "-CAfile", "root.crt"}
	if spec.Usage == Server {
		openssl(t, dir, append(verify, "-purpose", purpose, "-verify_hostname", "db1.internal", "leaf.crt")...)
		openssl(t, dir, append(verify, "-purpose", purpose, "-verify_ip", "10.0.1.10", "leaf.crt")...)
	}
	openssl(t, dir, append(verify, "-purpose", purpose, "leaf.crt")...)
	if out, err := tryOpenssl(dir, append(verify, "-purpose", other, "leaf.crt")...); err == nil {
		t.Errorf("a certificate for %s is good for %s too:\n%s", purpose, other, out)
	}
	public := openssl(t, dir, "x509", "-in", "leaf.crt", "-noout", "-pubkey")
	if got := openssl(t, dir, "pkey", "-in", "leaf.key", "-pubout"); got != public {
		t.Errorf("openssl reads another key from the PEM")
	}
	if got := openssl(t, dir, "pkey", "-inform", "DER", "-in", "leaf.pk8", "-pubout"); got != public {
		t.Errorf("openssl reads another key from the DER")
	}
	print := strings.ToLower(strings.ReplaceAll(openssl(t, dir, "x509", "-in", "leaf.crt", "-noout", "-fingerprint", "-sha256"), ":", ""))
	if !strings.Contains(print, cert.Fingerprint()) {
		t.Errorf("openssl's fingerprint is %s, ours %s", print, cert.Fingerprint())
	}
}

func unix(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

func TestOpenSSLReadsTheExtensions(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	dir := t.TempDir()
	put(t, dir, "ca", ca.PEM())
	put(t, dir, "server", issue(t, noon, ca, caKey, makeKey(t, ""), serverSpec()).PEM())
	rsa := clientSpec()
	rsa.Algorithm = RSA2048
	put(t, dir, "client", issue(t, noon, ca, caKey, makeKey(t, RSA2048), rsa).PEM())
	wants := map[string][]string{
		"ca": {"CA:TRUE, pathlen:0", "X509v3 Basic Constraints: critical", "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
			"Subject: CN = production CA 5f3a", "X509v3 Subject Key Identifier", "X509v3 Authority Key Identifier",
			"Not Before: Feb 26 06:30:00 2026 GMT", "Not After : Feb 28 06:30:00 2031 GMT", "ecdsa-with-SHA256"},
		"server": {"CA:FALSE", "Key Usage: critical\n                Digital Signature\n", "TLS Web Server Authentication\n", "Subject: CN = db1",
			"DNS:db1, DNS:db1.internal, IP Address:10.0.1.10, IP Address:FD00:0:0:0:0:0:0:1\n",
			"X509v3 Subject Key Identifier", "X509v3 Authority Key Identifier"},
		"client": {"CA:FALSE", "Digital Signature, Key Encipherment\n", "TLS Web Client Authentication\n", "Subject: CN = deploy",
			"Not Before: Feb 26 06:30:00 2026 GMT", "Not After : Mar  1 06:30:00 2027 GMT"},
	}
	for name, texts := range wants {
		out := openssl(t, dir, "x509", "-in", name, "-noout", "-text")
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("%s: openssl does not say %q:\n%s", name, text, out)
			}
		}
	}
	if out := openssl(t, dir, "x509", "-in", "client", "-noout", "-text"); strings.Contains(out, "Alternative Name") {
		t.Errorf("a client has alternative names:\n%s", out)
	}
}

func TestTheSameRandomnessAndTimeMakeTheSameCertificate(t *testing.T) {
	for _, algorithm := range Algorithms() {
		if testing.Short() && strings.HasPrefix(string(algorithm), "rsa") {
			continue
		}
		var made [2][]byte
		for i := range made {
			cryptotest.SetGlobalRandom(t, 7)
			spec := production
			spec.ID = ""
			ca, caKey := makeAuthority(t, noon, spec)
			client := clientSpec()
			client.Algorithm = algorithm
			key := makeKey(t, algorithm)
			made[i] = bytes.Join([][]byte{ca.PEM(), caKey.PEM(), key.PEM(), issue(t, noon, ca, caKey, key, client).PEM()}, nil)
		}
		if !bytes.Equal(made[0], made[1]) {
			t.Errorf("%s: two makings differ", algorithm)
		}
	}
}

func TestTwoAuthoritiesNeverShareANameOrASerial(t *testing.T) {
	spec := production
	spec.ID = ""
	seen := map[string]bool{}
	for range 50 {
		ca, caKey := makeAuthority(t, noon, spec)
		leaf := issue(t, noon, ca, caKey, makeKey(t, ""), clientSpec())
		for _, word := range []string{ca.Subject.CommonName, ca.SerialNumber.String(), leaf.SerialNumber.String(), ca.Fingerprint()} {
			if seen[word] {
				t.Fatalf("%s came twice", word)
			}
			seen[word] = true
		}
		if !strings.HasPrefix(ca.Subject.CommonName, "production CA ") || len(ca.Subject.CommonName) != len("production CA ")+8 {
			t.Fatalf("the name is %q", ca.Subject.CommonName)
		}
	}
}

// TestIssueRefuses holds what crypto/x509 would sign without a word, and what makes an authority useless.
func TestIssueRefuses(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	_, otherKey := makeAuthority(t, noon, production)
	key, edKey := makeKey(t, ""), makeKey(t, Ed25519)
	leaf := issue(t, noon, ca, caKey, key, clientSpec())
	ed := edAuthority(t, noon, edKey)
	server := func(change func(*LeafSpec)) LeafSpec { s := serverSpec(); change(&s); return s }
	client := func(change func(*LeafSpec)) LeafSpec { s := clientSpec(); change(&s); return s }
	tests := []struct {
		name              string
		now               time.Time
		authority         Certificate
		authorityKey, key PrivateKey
		spec              LeafSpec
		want              string
	}{
		{"no name", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "" }), "the common name is empty"},
		{"newline", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "a\nb" }), `the common name "a\nb" holds U+000A`},
		{"NUL", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "postgres\x00.evil" }), "holds U+0000"},
		{"right to left", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "a\u202eb" }), "holds U+202E"},
		{"80 letters", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = strings.Repeat("x", 80) }), "has 80 bytes, 64 are allowed"},
		{"no UTF-8", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "a\xff" }), "is not UTF-8"},
		{"space", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "alice " }), "space at its ends"},
		{"empty host", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{""} }), "a host name is empty"},
		{"wildcard", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"*.internal"} }), "is a wildcard"},
		{"dot", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"db1."} }), "ends in a dot"},
		{"two dots", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"db1..x"} }), "has an empty part"},
		{"hyphen", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"-rf"} }), "hyphen"},
		{"umlaut", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"bücher.de"} }), "xn-- form"},
		{"shell", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"a;b"} }), "holds ';'"},
		{"long part", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{strings.Repeat("a", 64)} }), "a part of 64 bytes"},
		{"long host", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{strings.Repeat("a.", 130) + "a"} }), "has 261 bytes"},
		{"address as host", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames = []string{"10.0.0.1"} }), "is an address"},
		{"no address", noon, ca, caKey, key, server(func(s *LeafSpec) { s.IPAddresses = []netip.Addr{{}} }), "an address is empty"},
		{"zone", noon, ca, caKey, key, server(func(s *LeafSpec) { s.IPAddresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }), "has a zone"},
		{"any address", noon, ca, caKey, key, server(func(s *LeafSpec) { s.IPAddresses = []netip.Addr{netip.MustParseAddr("0.0.0.0")} }), "is not that of one host"},
		{"server without names", noon, ca, caKey, key, server(func(s *LeafSpec) { s.DNSNames, s.IPAddresses = nil, nil }), "needs a host name or an address"},
		{"client with names", noon, ca, caKey, key, server(func(s *LeafSpec) { s.Usage = Client }), "has no host names"},
		{"no usage", noon, ca, caKey, key, client(func(s *LeafSpec) { s.Usage = "" }), `the usage "" is neither "server" nor "client"`},
		{"ed25519 server", noon, ca, caKey, edKey, server(func(s *LeafSpec) { s.Algorithm = Ed25519 }), "is not for a server"},
		{"no validity", noon, ca, caKey, key, client(func(s *LeafSpec) { s.Validity = 0 }), "a validity of 0 minutes is not between 1 day and 36500 days"},
		{"end before beginning", noon, ca, caKey, key, client(func(s *LeafSpec) { s.Validity = -5 * Day }), "a validity of -5 days"},
		{"all at once", noon, ca, caKey, key, LeafSpec{Algorithm: "rsa-2084"}, `the common name is empty; the usage "" is neither "server" nor "client"; "rsa-2084" is not a key algorithm; did you mean "rsa-2048"?; a validity of`},
		{"other key", noon, ca, caKey, makeKey(t, ECDSAP384), clientSpec(), "the key is ecdsa-p384, declared is ecdsa-p256"},
		{"authority's key", noon, ca, caKey, caKey, clientSpec(), "the key is the authority's own"},
		{"authority's name", noon, ca, caKey, key, client(func(s *LeafSpec) { s.CommonName = "production CA 5f3a" }), "the common name is the authority's own"},
		{"no authority", noon, Certificate{}, caKey, key, clientSpec(), "there is no authority"},
		{"no authority key", noon, ca, PrivateKey{}, key, clientSpec(), "there is no private key of the authority here"},
		{"no key", noon, ca, caKey, PrivateKey{}, clientSpec(), "there is no key to make it for"},
		{"other authority's key", noon, ca, otherKey, key, clientSpec(), `the authority "production CA 5f3a" cannot issue: the private key does not belong to the certificate`},
		{"leaf as authority", noon, leaf, key, makeKey(t, ""), clientSpec(), "not an authority's certificate"},
		{"ed25519 authority", noon, ed, edKey, key, clientSpec(), "SCRAM channel binding"},
		{"expired authority", noon.Add(1826 * Day), ca, caKey, key, clientSpec(), "expired on 2031-02-28"},
		{"authority's last day", noon.Add(1825*Day - 23*time.Hour), ca, caKey, key, clientSpec(), "expires in 22 hours, too soon to issue anything"},
		{"clock before the authority", noon.Add(-30 * Day), ca, caKey, key, clientSpec(), "not valid before 2026-02-26, and the clock says 2026-01-30"},
		{"dead clock", time.Unix(0, 0), ca, caKey, key, clientSpec(), "the clock says 1970-01-01"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cert, _, err := Issue(rand.Reader, test.now, test.authority, test.authorityKey, test.key, test.spec)
			if err == nil || !cert.IsZero() {
				t.Fatalf("it was issued: %v", cert)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is\n%s\nwanted is\n%s", err, test.want)
			}
			if strings.ContainsAny(err.Error(), "\n\x00\u202e") {
				t.Errorf("the error is not one printable line: %q", err)
			}
		})
	}
}

// edAuthority is what NewAuthority refuses to make.
func edAuthority(t *testing.T, now time.Time, key PrivateKey) Certificate {
	t.Helper()
	cert, err := selfSign(rand.Reader, now, production, key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestNewAuthorityRefuses(t *testing.T) {
	tests := []struct {
		spec AuthoritySpec
		now  time.Time
		want string
	}{
		{AuthoritySpec{Validity: Day}, noon, "the common name is empty"},
		{AuthoritySpec{CommonName: strings.Repeat("x", 60), Validity: Day}, noon, "has 69 bytes, 64 are allowed"},
		{AuthoritySpec{CommonName: "x", ID: "a\n", Validity: Day}, noon, "space at its ends"},
		{AuthoritySpec{CommonName: "x", Validity: Day, Algorithm: Ed25519}, noon, "SCRAM channel binding in PostgreSQL 15"},
		{AuthoritySpec{CommonName: "x", Validity: Day, Algorithm: "rsa-1024"}, noon, `"rsa-1024" is not a key algorithm; did you mean "rsa-2048"?`},
		{AuthoritySpec{CommonName: "x", Validity: 1e18}, noon, ""},
		{AuthoritySpec{CommonName: "x", Validity: 1<<63 - 1}, noon, "is not between 1 day and 36500 days"},
		{AuthoritySpec{CommonName: "x", Validity: Day}, time.Time{}, "the clock says 0001-01-01"},
	}
	for _, test := range tests {
		_, key, err := NewAuthority(rand.Reader, test.now, test.spec)
		if test.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", test.spec, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !key.IsZero() {
			t.Errorf("%+v: the error is %v, wanted is %s", test.spec, err, test.want)
		}
	}
}

func TestLeafIsShortenedToItsAuthority(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	tests := []struct {
		after     time.Duration // the authority's age
		validity  time.Duration
		shortened time.Duration
	}{
		{0, 365 * Day, 0},
		{0, 1825 * Day, 0},
		{10 * time.Minute, 1825 * Day, 0}, // by minutes: not worth a word
		{100 * Day, 1825 * Day, 100 * Day},
		{1823 * Day, 365 * Day, 363 * Day},
	}
	for _, test := range tests {
		now := noon.Add(test.after)
		spec := clientSpec()
		spec.Validity = test.validity
		cert, shortened, err := Issue(rand.Reader, now, ca, caKey, makeKey(t, ""), spec)
		if err != nil {
			t.Fatal(err)
		}
		if shortened.Round(time.Hour) != test.shortened {
			t.Errorf("after %v: shortened by %v, wanted is %v", test.after, shortened, test.shortened)
		}
		if cert.NotAfter.After(ca.NotAfter) || cert.NotBefore.Before(ca.NotBefore) {
			t.Errorf("after %v: the leaf lasts from %v to %v, the authority from %v to %v", test.after, cert.NotBefore, cert.NotAfter, ca.NotBefore, ca.NotAfter)
		}
	}
}

// TestLeafOfAnAuthorityWithoutKeyID: an operator's own authority may have none; its leaves get the identifier all the same.
func TestLeafOfAnAuthorityWithoutKeyID(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "c.cnf", []byte("[req]\ndistinguished_name=d\nx509_extensions=x\n[d]\n[x]\nbasicConstraints=critical,CA:true\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"))
	openssl(t, dir, "req", "-x509", "-config", "c.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "k", "-out", "c", "-days", "400", "-subj", "/CN=theirs")
	ca, err := ParseCertificate(get(t, dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := ParsePrivateKey(get(t, dir, "k"))
	if err != nil {
		t.Fatal(err)
	}
	now := ca.NotBefore.Add(time.Hour)
	if len(ca.SubjectKeyId) > 0 {
		t.Skip("this openssl adds a key identifier unasked")
	}
	leaf := issue(t, now, ca, caKey, makeKey(t, ""), clientSpec())
	if len(leaf.AuthorityKeyId) == 0 || len(leaf.SubjectKeyId) == 0 {
		t.Error("the leaf has no key identifiers")
	}
	put(t, dir, "leaf", leaf.PEM())
	openssl(t, dir, "verify", "-purpose", "sslclient", "-CAfile", "c", "leaf")
	got := kinds(WrongAuthority(ca, caKey, AuthoritySpec{CommonName: "theirs", Validity: 400 * Day}, now))
	if got != "no-key-id" {
		t.Errorf("wrong with the authority: %s", got)
	}
}

// TestBadRandomness: serial number 0 is signed by crypto/x509 without a word; what was signed is therefore read again.
func TestBadRandomness(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, "")
	if _, _, err := Issue(zeroes{}, noon, ca, caKey, key, clientSpec()); err == nil || !strings.Contains(err.Error(), "what was made is wrong: the serial number") {
		t.Errorf("all zeroes: %v", err)
	}
	if _, _, err := Issue(strings.NewReader("short"), noon, ca, caKey, key, clientSpec()); err == nil {
		t.Error("it was issued from five bytes of randomness")
	}
	spec := production
	spec.ID = ""
	if _, _, err := NewAuthority(strings.NewReader(""), noon, spec); err == nil || !strings.Contains(err.Error(), "read randomness") {
		t.Errorf("an authority from nothing: %v", err)
	}
}

func TestFits(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, ECDSAP256)
	if !key.Fits(ca, clientSpec()) || !key.Fits(Certificate{}, clientSpec()) {
		t.Error("a good key does not fit")
	}
	if caKey.Fits(ca, clientSpec()) || (PrivateKey{}).Fits(ca, clientSpec()) || makeKey(t, Ed25519).Fits(ca, clientSpec()) {
		t.Error("a bad key fits")
	}
}

func TestAlgorithmNames(t *testing.T) {
	tests := map[string]string{
		"":           "ecdsa-p256",
		"ecdsa-p384": "ecdsa-p384",
		"ecdsap256":  `"ecdsap256" is not a key algorithm; did you mean "ecdsa-p256"?`,
		"RSA_4096":   `"RSA_4096" is not a key algorithm; did you mean "rsa-4096"?`,
		"ed2519":     `"ed2519" is not a key algorithm; did you mean "ed25519"?`,
		"kyber":      `"kyber" is not a key algorithm; there is ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096, ed25519`,
	}
	for name, want := range tests {
		algorithm, err := ParseAlgorithm(name)
		got := string(algorithm)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, wanted is %s", name, got, want)
		}
	}
}

func TestRenewBefore(t *testing.T) {
	for validity, want := range map[time.Duration]time.Duration{1825 * Day: 30 * Day, 90 * Day: 30 * Day, 30 * Day: 10 * Day, Day: 8 * time.Hour} {
		if got := RenewBefore(validity); got != want {
			t.Errorf("%v: got %v, wanted is %v", validity, got, want)
		}
	}
}

func BenchmarkNewAuthority(b *testing.B) {
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048} {
		b.Run(string(algorithm), func(b *testing.B) {
			spec := production
			spec.Algorithm = algorithm
			for b.Loop() {
				makeAuthority(b, noon, spec)
			}
		})
	}
}

func BenchmarkIssue(b *testing.B) {
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048} {
		spec := production
		spec.Algorithm = algorithm
		ca, caKey := makeAuthority(b, noon, spec)
		key := makeKey(b, "")
		b.Run(string(algorithm), func(b *testing.B) {
			for b.Loop() {
				issue(b, noon, ca, caKey, key, serverSpec())
			}
		})
	}
}

func BenchmarkWrong(b *testing.B) {
	ca, caKey := makeAuthority(b, noon, production)
	key := makeKey(b, "")
	cert := issue(b, noon, ca, caKey, key, serverSpec())
	for b.Loop() {
		if len(Wrong(cert, key, ca, serverSpec(), noon, 30*Day)) > 0 {
			b.Fatal("something is wrong")
		}
	}
}
