package pki

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func kinds(found []Reason) string {
	var said []string
	for _, reason := range found {
		said = append(said, string(reason.Kind))
	}
	return strings.Join(said, " ")
}

const caConf = `
[ca]
default_ca = d
[d]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
policy = p
default_md = sha256
[p]
commonName = supplied
organizationName = optional
`

// A byOpenSSL is a leaf that the real openssl makes with our authority's key.
type byOpenSSL struct {
	newkey     string // "" for ec P-256
	subject    string // "" for /CN=db1
	extensions string // "" for those that Issue would write
	digest     string // "" for sha256
	start, end time.Time
}

const goodExtensions = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n" +
	"subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=DNS:db1,DNS:db1.internal,IP:10.0.1.10,IP:fd00::1\n"

func (b byOpenSSL) make(t *testing.T, ca Certificate, caKey PrivateKey) (Certificate, PrivateKey) {
	t.Helper()
	dir := t.TempDir()
	or := func(word, otherwise string) string {
		if word == "" {
			return otherwise
		}
		return word
	}
	if b.start.IsZero() {
		b.start = noon.Add(-Day)
	}
	if b.end.IsZero() {
		b.end = noon.Add(365 * Day)
	}
	put(t, dir, "conf", []byte(caConf))
	put(t, dir, "index", nil)
	put(t, dir, "ca.crt", ca.PEM())
	put(t, dir, "ca.key", caKey.PEM())
	put(t, dir, "ext", []byte(or(b.extensions, goodExtensions)))
	openssl(t, dir, append([]string{"req", "-new", "-nodes", "-keyout", "key", "-out", "req", "-subj", or(b.subject, "/CN=db1"), "-newkey"},
		strings.Fields(or(b.newkey, "ec -pkeyopt ec_paramgen_curve:P-256"))...)...)
	openssl(t, dir, "ca", "-batch", "-config", "conf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", "req", "-out", "crt", "-notext", "-extfile", "ext",
		"-md", or(b.digest, "sha256"), "-startdate", b.start.UTC().Format("20060102150405Z"), "-enddate", b.end.UTC().Format("20060102150405Z"))
	cert, err := ParseCertificate(get(t, dir, "crt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(get(t, dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// without leaves one line out of the good extensions, or puts another in its place.
func withLine(begins, instead string) string {
	var lines []string
	for line := range strings.Lines(goodExtensions) {
		if strings.HasPrefix(line, begins) {
			line = instead
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func TestWrongWithCertificatesByOpenSSL(t *testing.T) {
	ca, caKey := makeAuthority(t, noon.Add(-10*Day), production)
	tests := []struct {
		name  string
		made  byOpenSSL
		kinds string // of what is wrong
		text  string
	}{
		{"as we make it", byOpenSSL{}, "", ""},
		{"client's usage", byOpenSSL{extensions: withLine("extended", "extendedKeyUsage=clientAuth\n")},
			"wrong-usage", "the extended key usage is clientAuth, wanted is serverAuth"},
		{"both usages", byOpenSSL{extensions: withLine("extended", "extendedKeyUsage=serverAuth,clientAuth,1.2.3.4\n")},
			"wrong-usage", "the extended key usage is serverAuth and clientAuth and 1.2.3.4, wanted is serverAuth alone"},
		{"no usage", byOpenSSL{extensions: withLine("extended", "")}, "wrong-usage", "no extended key usage, wanted is serverAuth"},
		{"no subject key id", byOpenSSL{extensions: withLine("subjectKey", "subjectKeyIdentifier=none\n")}, "no-key-id", "no subject or no authority key identifier"},
		{"no authority key id", byOpenSSL{extensions: withLine("authorityKey", "authorityKeyIdentifier=none\n")}, "no-key-id", ""},
		{"no extensions", byOpenSSL{extensions: "basicConstraints=CA:false\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"},
			"wrong-names wrong-usage wrong-key-usage no-key-id", "the names differ: missing 10.0.1.10, db1, db1.internal, fd00::1"},
		{"may sign", byOpenSSL{extensions: withLine("basic", "basicConstraints=critical,CA:true\n")}, "is-authority", "an authority's certificate (CA:true) where a leaf is wanted"},
		{"key usage", byOpenSSL{extensions: withLine("keyUsage", "keyUsage=keyAgreement,digitalSignature\n")},
			"wrong-key-usage", "the key usage is digitalSignature+keyAgreement, wanted is digitalSignature"},
		{"SHA-1", byOpenSSL{digest: "sha1"}, "weak-signature", "signed with ECDSA-SHA1, which OpenSSL refuses as too weak"},
		{"RSA 1024", byOpenSSL{newkey: "rsa:1024", extensions: withLine("keyUsage", "keyUsage=digitalSignature,keyEncipherment\n")},
			"wrong-algorithm", "the key is rsa-1024, which OpenSSL refuses as too weak; declared is ecdsa-p256"},
		{"RSA 2048", byOpenSSL{newkey: "rsa:2048", extensions: withLine("keyUsage", "keyUsage=digitalSignature,keyEncipherment\n")},
			"wrong-algorithm", "the key is rsa-2048, declared is ecdsa-p256"},
		{"P-521", byOpenSSL{newkey: "ec -pkeyopt ec_paramgen_curve:P-521"}, "wrong-algorithm", "the key is ecdsa-p521, declared is ecdsa-p256"},
		{"other host", byOpenSSL{extensions: withLine("subjectAlt", "subjectAltName=DNS:old.internal,DNS:*.internal,DNS:DB1,IP:10.0.1.10,email:root@db1,URI:http://x/\n")},
			"wrong-names", `the names differ: missing db1.internal, fd00::1; not wanted "*.internal", URI "http://x/", email "root@db1", old.internal`},
		{"other name", byOpenSSL{subject: "/CN=db2"}, "wrong-name", `the common name is "db2", declared is "db1"`},
		{"two names", byOpenSSL{subject: "/CN=postgres/CN=db1"}, "wrong-name", `the common name is "postgres" and "db1", declared is "db1"`},
		{"expired", byOpenSSL{start: noon.Add(-365 * Day), end: noon.Add(-59 * Day)}, "expired wrong-validity", "expired on 2026-01-01"},
		{"future", byOpenSSL{start: noon.Add(9 * Day), end: noon.Add(374 * Day)}, "not-yet-valid", "not valid before 2026-03-10, and the clock says 2026-03-01"},
		{"future by hours", byOpenSSL{start: noon.Add(5 * time.Hour)}, "not-yet-valid", ""},
		{"in the window", byOpenSSL{start: noon.Add(-353 * Day), end: noon.Add(12*Day + time.Hour)}, "in-renewal-window", "expires in 12 days, inside the renewal window of 30 days"},
		{"last hours", byOpenSSL{start: noon.Add(-364 * Day), end: noon.Add(5*time.Hour + time.Minute)}, "in-renewal-window", "expires in 5 hours, inside the renewal window of 30 days"},
		{"outlives", byOpenSSL{end: noon.Add(4000 * Day)}, "outlives-authority", "ends on 2037-02-11, after its authority, which ends on 2031-02-18"},
		{"for ten years", byOpenSSL{end: noon.Add(1500 * Day)}, "wrong-validity", "valid from 2026-02-28 to 2030-04-09, declared are 365 days"},
		{"critical and unknown", byOpenSSL{extensions: goodExtensions + "1.2.3.4=critical,ASN1:NULL\n"}, "bad-chain", "does not verify with its authority: x509: unhandled critical extension"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cert, key := test.made.make(t, ca, caKey)
			found := Wrong(cert, key, ca, serverSpec(), noon, 30*Day)
			if got := kinds(found); got != test.kinds {
				t.Errorf("wrong is %q, wanted is %q: %s", got, test.kinds, Sentences(found))
			}
			if !strings.Contains(Sentences(found), test.text) {
				t.Errorf("the text is\n%s\nwanted is\n%s", Sentences(found), test.text)
			}
		})
	}
}

func TestWrongKeysAndAuthorities(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	namesake, namesakeKey := makeAuthority(t, noon, production) // same name, other key
	spec := production
	spec.ID = "7777"
	stranger, strangerKey := makeAuthority(t, noon, spec)
	key := makeKey(t, "")
	cert := issue(t, noon, ca, caKey, key, clientSpec())

	// A forger knows the authority's certificate, so its names and key identifiers are his to write.
	template, _ := leafTemplate(noon, ca, key, clientSpec())
	forgedTemplate := *namesake.Certificate
	forgedTemplate.SubjectKeyId = ca.SubjectKeyId
	forged, err := sign(rand.Reader, template, &forgedTemplate, key, namesakeKey)
	if err != nil {
		t.Fatal(err)
	}
	// What the cookbooks did: the server's key was the authority's.
	shared, err := sign(rand.Reader, template, ca.Certificate, caKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		cert  Certificate
		key   PrivateKey
		ca    Certificate
		kinds string
		text  string
	}{
		{"right", cert, key, ca, "", ""},
		{"no certificate", Certificate{}, key, ca, "certificate-missing", "there is no certificate"},
		{"no authority", cert, key, Certificate{}, "other-authority", "there is no authority"},
		{"no key", cert, PrivateKey{}, ca, "key-missing", "there is no private key"},
		{"other key", cert, makeKey(t, ""), ca, "key-mismatch", "the private key does not belong to the certificate"},
		{"other kind of key", cert, makeKey(t, Ed25519), ca, "key-mismatch", ""},
		{"namesake", issue(t, noon, namesake, namesakeKey, key, clientSpec()), key, ca, "other-authority", `issued by another authority: "production CA 5f3a" (key id `},
		{"stranger", issue(t, noon, stranger, strangerKey, key, clientSpec()), key, ca, "other-authority", `issued by another authority: "production CA 7777" (key id `},
		{"self-signed", ca, caKey, stranger, "other-authority", ""},
		{"forged", forged, key, ca, "bad-signature", "the signature does not verify with the authority \"production CA 5f3a\""},
		{"authority's key", shared, caKey, ca, "shared-key", "the key is the authority's own"},
		{"authority's key beside", cert, caKey, ca, "key-mismatch shared-key", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found := Wrong(test.cert, test.key, test.ca, clientSpec(), noon, 30*Day)
			if got := kinds(found); got != test.kinds && !(test.name == "self-signed" && strings.HasPrefix(got, test.kinds)) {
				t.Errorf("wrong is %q, wanted is %q: %s", got, test.kinds, Sentences(found))
			}
			if !strings.Contains(Sentences(found), test.text) {
				t.Errorf("the text is\n%s\nwanted is\n%s", Sentences(found), test.text)
			}
			for _, reason := range found {
				if !reason.Broken && test.name != "self-signed" {
					t.Errorf("%s is not called broken", reason.Kind)
				}
			}
		})
	}
}

func TestWrongComparesTheDeclaration(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, "")
	cert := issue(t, noon, ca, caKey, key, serverSpec())
	tests := []struct {
		name   string
		change func(*LeafSpec)
		want   string
	}{
		{"nothing", func(*LeafSpec) {}, ""},
		{"order and case", func(s *LeafSpec) { s.DNSNames = []string{"DB1", "db1.INTERNAL"} }, ""},
		{"a name less", func(s *LeafSpec) { s.DNSNames = []string{"db1"} }, "the names differ: not wanted db1.internal"},
		{"a name more", func(s *LeafSpec) { s.DNSNames = append(s.DNSNames, "www") }, "the names differ: missing www"},
		{"an address more", func(s *LeafSpec) { s.IPAddresses = append(s.IPAddresses, netip.MustParseAddr("10.0.1.11")) }, "the names differ: missing 10.0.1.11"},
		{"algorithm", func(s *LeafSpec) { s.Algorithm = RSA2048 }, "the key is ecdsa-p256, declared is rsa-2048"},
		{"shorter", func(s *LeafSpec) { s.Validity = 90 * Day }, "valid from 2026-02-26 to 2027-03-01, declared are 90 days"},
		{"longer", func(s *LeafSpec) { s.Validity = 1000 * Day }, "valid from 2026-02-26 to 2027-03-01, declared are 1000 days"},
	}
	for _, test := range tests {
		spec := serverSpec()
		test.change(&spec)
		if got := Sentences(Wrong(cert, key, ca, spec, noon, 30*Day)); got != test.want {
			t.Errorf("%s: got %q, wanted is %q", test.name, got, test.want)
		}
	}
}

// TestClocks is row 31 of the faults: a clock that goes back two days or forward 400 between runs, and some worse ones.
func TestClocks(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, "")
	spec := clientSpec()
	spec.Validity = 1825 * Day
	cert := issue(t, noon, ca, caKey, key, spec)
	tests := []struct {
		jump       time.Duration
		kinds      string // wrong with what was made before the jump
		reissuable bool
	}{
		{0, "", true},
		{-2 * Day, "", true},
		{-BackDate + time.Minute, "", true},
		{400 * Day, "", true},
		{1794 * Day, "", true},             // within 30 days of its end, which is the authority's: a new one would not last longer
		{-4 * Day, "not-yet-valid", false}, // before the authority: the clock is to be mended
		{1826 * Day, "expired", false},
	}
	for _, test := range tests {
		now := noon.Add(test.jump)
		if got := kinds(Wrong(cert, key, ca, spec, now, 30*Day)); got != test.kinds {
			t.Errorf("%v: wrong is %q, wanted is %q", test.jump, got, test.kinds)
		}
		anew, _, err := Issue(rand.Reader, now, ca, caKey, key, spec)
		if test.reissuable != (err == nil) {
			t.Errorf("%v: issue says %v", test.jump, err)
		}
		if err == nil && test.jump <= 0 && !anew.NotBefore.Before(noon.Add(test.jump)) {
			t.Errorf("%v: what is made lies in the future: %v", test.jump, anew.NotBefore)
		}
	}
}

// TestAClockThatComesBack: what was made while the clock was two days back is right afterwards too; what was made while it
// was 400 days ahead lies in the future afterwards, is said to, and is made again once.
func TestAClockThatComesBack(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, "")
	behind := issue(t, noon.Add(-2*Day), ca, caKey, key, clientSpec())
	if found := Wrong(behind, key, ca, clientSpec(), noon, 30*Day); len(found) > 0 {
		t.Errorf("made two days behind: %s", Sentences(found))
	}
	ahead := issue(t, noon.Add(400*Day), ca, caKey, key, clientSpec())
	if got := kinds(Wrong(ahead, key, ca, clientSpec(), noon, 30*Day)); got != "not-yet-valid" {
		t.Errorf("made 400 days ahead: %s", got)
	}
	anew := issue(t, noon, ca, caKey, key, clientSpec())
	if found := Wrong(anew, key, ca, clientSpec(), noon, 30*Day); len(found) > 0 {
		t.Errorf("made again: %s", Sentences(found))
	}
}

// TestNothingIsWrongWithWhatWasJustIssued, nor a day later: no declaration renews on every run, whatever its window and
// however little the authority has left.
func TestNothingIsWrongWithWhatWasJustIssued(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, AuthoritySpec{CommonName: "short", ID: "1", Validity: 100 * Day})
	key := makeKey(t, "")
	for _, age := range []time.Duration{0, time.Second, Day, 50 * Day, 69 * Day, 71 * Day, 98 * Day} {
		for _, validity := range []time.Duration{Day, 2 * Day, 7 * Day, 29 * Day, 30 * Day, 31 * Day, 99 * Day, 100 * Day, 1825 * Day, 36500 * Day} {
			for _, window := range []time.Duration{0, Day, 30 * Day, 365 * Day, RenewBefore(validity)} {
				spec := clientSpec()
				spec.Validity = validity
				now := noon.Add(age)
				cert := issue(t, now, ca, caKey, key, spec)
				for _, later := range []time.Duration{0, time.Hour, 11 * time.Hour} {
					if found := Wrong(cert, key, ca, spec, now.Add(later), window); len(found) > 0 {
						t.Errorf("age %v, validity %v, window %v, %v later: %s", age, validity, window, later, Sentences(found))
					}
				}
			}
		}
	}
}

func TestRenewalComesOnceAndInTime(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, AuthoritySpec{CommonName: "x", ID: "1", Validity: 3650 * Day})
	key := makeKey(t, "")
	spec := serverSpec()
	spec.Validity = 90 * Day
	cert := issue(t, noon, ca, caKey, key, spec)
	var renewals []string
	for day := range 365 {
		now := noon.Add(time.Duration(day) * Day)
		if found := Wrong(cert, key, ca, spec, now, RenewBefore(spec.Validity)); len(found) > 0 {
			renewals = append(renewals, fmt.Sprintf("%d %s", day, kinds(found)))
			cert = issue(t, now, ca, caKey, key, spec)
		}
	}
	want := "60 in-renewal-window, 120 in-renewal-window, 180 in-renewal-window, 240 in-renewal-window, 300 in-renewal-window, 360 in-renewal-window"
	if got := strings.Join(renewals, ", "); got != want {
		t.Errorf("renewed on %s, wanted is %s", got, want)
	}
}

func TestWrongAuthority(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	key := makeKey(t, "")
	leaf := issue(t, noon, ca, caKey, key, clientSpec())
	edKey := makeKey(t, Ed25519)
	dir := t.TempDir()
	byOpenSSL := func(name string, args ...string) (Certificate, PrivateKey) {
		openssl(t, dir, append([]string{"req", "-x509", "-nodes", "-subj", "/CN=production CA", "-days", "1825", "-keyout", "k" + name, "-out", "c" + name}, args...)...)
		cert, err := ParseCertificate(get(t, dir, "c"+name))
		if err != nil {
			t.Fatal(err)
		}
		key, err := ParsePrivateKey(get(t, dir, "k"+name))
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	p256 := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}
	theirs, theirKey := byOpenSSL("plain", p256...)
	sha1, sha1Key := byOpenSSL("sha1", append(p256, "-sha1")...)
	cookbook, cookbookKey := byOpenSSL("1024", "-newkey", "rsa:1024")
	crlOnly, crlKey := byOpenSSL("crl", append(p256, "-addext", "keyUsage=cRLSign")...)
	template := *ca.Certificate
	template.Issuer = leaf.Subject
	intermediate, err := sign(rand.Reader, &template, leaf.Certificate, caKey, key)
	if err != nil {
		t.Fatal(err)
	}
	tampered, err := ParseCertificate(ca.PEM())
	if err != nil {
		t.Fatal(err)
	}
	tampered.Signature = append([]byte(nil), tampered.Signature...)
	tampered.Signature[9] ^= 1
	then := theirs.NotBefore.Add(time.Hour) // openssl has the machine's clock
	tests := []struct {
		name  string
		cert  Certificate
		key   PrivateKey
		now   time.Time
		kinds string
		text  string
	}{
		{"right", ca, caKey, noon, "", ""},
		{"trusted only", ca, PrivateKey{}, noon, "", ""},
		{"an operator's own", theirs, theirKey, then, "", ""},
		{"missing", Certificate{}, caKey, noon, "certificate-missing", "there is no certificate"},
		{"leaf", leaf, key, noon, "not-authority other-authority wrong-name", "not an authority's certificate (no CA:true)"},
		{"other key", ca, key, noon, "key-mismatch", "the private key does not belong to the certificate"},
		{"expired", ca, caKey, noon.Add(1826 * Day), "expired", "expired on 2031-02-28"},
		{"soon over", ca, caKey, noon.Add(1800 * Day), "in-renewal-window", "expires in 24 days, on 2031-02-28"},
		{"clock back", ca, caKey, noon.Add(-5 * Day), "not-yet-valid", "not valid before 2026-02-26"},
		{"ed25519", edAuthority(t, noon, edKey), edKey, noon, "weak-key", "SCRAM channel binding"},
		{"sha1", sha1, sha1Key, then, "weak-signature", "signed with ECDSA-SHA1"},
		{"the cookbook's", cookbook, cookbookKey, then, "weak-key", "the key is rsa-1024, which OpenSSL refuses as too weak"},
		{"revocation lists only", crlOnly, crlKey, then, "not-authority", "the key usage does not include signing certificates"},
		{"intermediate", intermediate, caKey, noon, "other-authority", `not self-signed but issued by "deploy"; PostgreSQL needs the root`},
		{"tampered", tampered, caKey, noon, "bad-signature", "its own signature does not verify"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found := WrongAuthority(test.cert, test.key, production, test.now)
			if got := kinds(found); got != test.kinds {
				t.Errorf("wrong is %q, wanted is %q: %s", got, test.kinds, Sentences(found))
			}
			if !strings.Contains(Sentences(found), test.text) {
				t.Errorf("the text is\n%s\nwanted is\n%s", Sentences(found), test.text)
			}
		})
	}
	other := production
	other.CommonName, other.Algorithm = "staging CA", RSA3072
	want := `the common name is "production CA 5f3a", declared is "staging CA"; the key is ecdsa-p256, declared is rsa-3072`
	if got := Sentences(WrongAuthority(ca, caKey, other, noon)); got != want {
		t.Errorf("got %s, wanted is %s", got, want)
	}
}
