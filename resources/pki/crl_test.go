package pki

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A listed is an authority with a client and a list.
type listed struct {
	*testing.T
	ca    Certificate
	caKey PrivateKey
	now   time.Time
}

func newListed(t *testing.T) listed {
	t.Helper()
	l := listed{T: t, now: time.Now()}
	var err error
	l.ca, l.caKey, err = NewAuthority(rand.Reader, l.now, AuthoritySpec{CommonName: "list CA", Validity: 365 * Day})
	l.check(err)
	return l
}

func (l listed) check(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l listed) client(name string) Certificate {
	l.Helper()
	key, err := GenerateKey(rand.Reader, ECDSAP256)
	l.check(err)
	cert, _, err := Issue(rand.Reader, l.now, l.ca, l.caKey, key, LeafSpec{CommonName: name, Usage: Client, Validity: 30 * Day})
	l.check(err)
	return cert
}

func (l listed) list(number int64, revoked ...Certificate) RevocationList {
	l.Helper()
	list, err := NewRevocationList(rand.Reader, l.now, l.ca, l.caKey, big.NewInt(number), revokedOf(l.now, revoked...))
	l.check(err)
	return list
}

func revokedOf(at time.Time, certs ...Certificate) []Revoked {
	var out []Revoked
	for _, c := range certs {
		out = append(out, Revoked{Serial: c.SerialNumber, At: at})
	}
	return out
}

// OpenSSL takes the list, finds on it who is on it, and nobody else.
func TestRevocationListWithOpenSSL(t *testing.T) {
	l := newListed(t)
	alice, bob := l.client("alice"), l.client("bob")
	probe, probeKey, err := NewProbe(rand.Reader, l.now, l.ca, l.caKey, "probe")
	l.check(err)
	if !probeKey.Matches(probe) || !probe.IssuedBy(l.ca) || !probe.Allows(Client) || !l.now.After(probe.NotAfter) {
		t.Errorf("the probe is none: %v", probe)
	}
	list := l.list(3, alice, probe)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		l.check(os.WriteFile(file, content, 0o600))
		return file
	}
	ca, crl := write("ca.crt", l.ca.PEM()), write("ca.crl", list.PEM())
	openssl := func(args ...string) string {
		out, _ := exec.Command("openssl", args...).CombinedOutput()
		return string(out)
	}
	if out := openssl("crl", "-in", crl, "-CAfile", ca, "-noout"); out != "verify OK\n" {
		t.Errorf("openssl crl: %s", out)
	}
	text := openssl("crl", "-in", crl, "-noout", "-text")
	for _, want := range []string{"Version 2 (0x1)", "X509v3 CRL Number: \n                3\n", "X509v3 Authority Key Identifier"} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl crl -text has no %q:\n%s", want, text)
		}
	}
	for name, c := range map[string]struct {
		cert Certificate
		says string
	}{"alice": {alice, "certificate revoked"}, "bob": {bob, ": OK"}, "probe": {probe, "certificate revoked"}} {
		if out := openssl("verify", "-crl_check_all", "-CAfile", ca, "-CRLfile", crl, write(name, c.cert.PEM())); !strings.Contains(out, c.says) {
			t.Errorf("openssl verify %s: %s", name, out)
		}
	}
	if !list.NextUpdate.Equal(l.ca.NotAfter) || list.ThisUpdate.Before(l.ca.NotBefore) {
		t.Errorf("the list is from %v to %v, its authority from %v to %v", list.ThisUpdate, list.NextUpdate, l.ca.NotBefore, l.ca.NotAfter)
	}
	again, err := ParseRevocationLists(append([]byte("text of an operator's\n"), RevocationLists(list, list)...))
	if err != nil || len(again) != 2 || string(again[1].PEM()) != string(list.PEM()) {
		t.Errorf("read back: %v", err)
	}
}

// What is wrong with a list, and whether it would lock anybody out.
func TestWrongRevocationList(t *testing.T) {
	l := newListed(t)
	other := newListed(t)
	alice, bob := l.client("alice"), l.client("bob")
	list := l.list(1, alice)
	end := l.ca.NotAfter
	for _, c := range []struct {
		name   string
		list   RevocationList
		of     Certificate
		wants  []Certificate
		now    time.Time
		kinds  []Kind
		unsafe bool
	}{
		{"right", list, l.ca, []Certificate{alice}, l.now, nil, false},
		{"none", RevocationList{}, l.ca, nil, l.now, []Kind{ListMissing}, true},
		{"one missing", list, l.ca, []Certificate{alice, bob}, l.now, []Kind{ListIncomplete}, false},
		{"one too many", list, l.ca, nil, l.now, []Kind{ListForeign}, false},
		{"of another authority", other.list(1, alice), l.ca, []Certificate{alice}, l.now, []Kind{OtherAuthority}, true},
		{"over", list, l.ca, []Certificate{alice}, end.Add(time.Second), []Kind{Expired}, true},
		{"at its end with its authority", list, l.ca, []Certificate{alice}, end.Add(-Day), nil, false},
		{"not begun", list, l.ca, []Certificate{alice}, l.now.Add(-4 * Day), []Kind{NotYetValid}, true},
		{"by a clock two days late", list, l.ca, []Certificate{alice}, l.now.Add(-2 * Day), nil, false},
		{"short", l.signed(t, l.now.Add(90*Day), alice), l.ca, []Certificate{alice}, l.now, nil, false},
		{"short, near its end", l.signed(t, l.now.Add(90*Day), alice), l.ca, []Certificate{alice}, l.now.Add(70 * Day), []Kind{InWindow}, false},
		{"another's signature", tampered(t, list), l.ca, []Certificate{alice}, l.now, []Kind{BadSignature}, true},
	} {
		var kinds []Kind
		for _, r := range WrongRevocationList(c.list, c.of, revokedOf(l.now, c.wants...), c.now) {
			kinds = append(kinds, r.Kind)
		}
		if !slices.Equal(kinds, c.kinds) {
			t.Errorf("%s: %v, wanted %v", c.name, kinds, c.kinds)
		}
		if got := len(UnsafeRevocationList(c.list, c.of, c.now)) > 0; got != c.unsafe {
			t.Errorf("%s: locks out: %v", c.name, got)
		}
	}
}

// signed is a list that ends when it likes: an operator's.
func (l listed) signed(t *testing.T, end time.Time, revoked ...Certificate) RevocationList {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(9), ThisUpdate: l.now, NextUpdate: end, RevokedCertificateEntries: entries(revokedOf(l.now, revoked...)),
	}, l.ca.Certificate, l.caKey.held().signer)
	l.check(err)
	parsed, err := x509.ParseRevocationList(der)
	l.check(err)
	return RevocationList{parsed}
}

func tampered(t *testing.T, list RevocationList) RevocationList {
	t.Helper()
	der := slices.Clone(list.Raw)
	at := strings.Index(string(der), string(list.RevokedCertificateEntries[0].SerialNumber.Bytes()))
	if at < 0 {
		t.Fatal("the serial number is not in the list")
	}
	der[at+5] ^= 1
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	parsed.RevokedCertificateEntries = list.RevokedCertificateEntries
	return RevocationList{parsed}
}

// Who cannot sign lists is told so; an authority that says nothing of its usages may.
func TestWhoMayRevoke(t *testing.T) {
	l := newListed(t)
	plain := *l.ca.Certificate
	plain.KeyUsage = 0
	if _, err := newRevocationList(rand.Reader, l.now, Certificate{&plain}, l.caKey, big.NewInt(1), nil); err != nil {
		t.Errorf("without key usage: %v", err)
	}
	narrow := *l.ca.Certificate
	narrow.KeyUsage = x509.KeyUsageCertSign
	for name, c := range map[string]struct {
		ca     Certificate
		key    PrivateKey
		number *big.Int
		now    time.Time
		says   string
	}{
		"certificates only": {Certificate{&narrow}, l.caKey, big.NewInt(1), l.now, "does not include signing revocation lists"},
		"no key":            {l.ca, PrivateKey{}, big.NewInt(1), l.now, "no private key"},
		"no number":         {l.ca, l.caKey, nil, l.now, "its number is not one of"},
		"number 0":          {l.ca, l.caKey, new(big.Int), l.now, "its number is not one of"},
		"a huge number":     {l.ca, l.caKey, new(big.Int).Lsh(big.NewInt(1), 160), l.now, "its number is not one of"},
		"over":              {l.ca, l.caKey, big.NewInt(1), l.ca.NotAfter.Add(Day), "expired on"},
		"in the stone age":  {l.ca, l.caKey, big.NewInt(1), time.Unix(0, 0), "set it first"},
		"nobody":            {Certificate{}, l.caKey, big.NewInt(1), l.now, "there is no authority"},
	} {
		if _, err := NewRevocationList(rand.Reader, c.now, c.ca, c.key, c.number, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, wanted %q", name, err, c.says)
		}
	}
}

// What is no list, or a damaged one, makes an error: a list that is left out would let revoked keys in.
func TestParseRevocationLists(t *testing.T) {
	l := newListed(t)
	list := string(l.list(1, l.client("alice")).PEM())
	for name, c := range map[string]struct{ text, says string }{
		"nothing":            {"", "an empty file"},
		"half of it":         {list[:len(list)/2], "a damaged PEM block"},
		"the second is half": {list + list[:len(list)/2], "a damaged PEM block"},
		"a certificate":      {list + string(l.ca.PEM()), "a certificate"},
		"a key":              {string(l.caKey.PEM()), "a private key"},
		"rubbish in it":      {"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "a damaged revocation list"},
	} {
		if _, err := ParseRevocationLists([]byte(c.text)); err == nil || !strings.Contains(err.Error(), "expected a revocation list, found "+c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
