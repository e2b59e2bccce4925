package libpq

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
)

func TestIsFor(t *testing.T) {
	dns := &x509.Certificate{DNSNames: []string{"db1.internal", "*.db.internal"}, Subject: pkix.Name{CommonName: "old"}}
	ip := &x509.Certificate{IPAddresses: []net.IP{net.ParseIP("10.0.1.10"), net.ParseIP("fd00::1")}, Subject: pkix.Name{CommonName: "old"}}
	cn := &x509.Certificate{Subject: pkix.Name{CommonName: "db1"}}
	for _, c := range []struct {
		cert *x509.Certificate
		host string
		want bool
	}{
		{dns, "db1.internal", true}, {dns, "DB1.Internal", true}, {dns, "db2.internal", false}, {dns, "a.db.internal", true}, {dns, "a.b.db.internal", false},
		{dns, "db.internal", false}, {dns, ".db.internal", false}, {dns, "old", false}, {dns, "10.0.1.10", false},
		{ip, "10.0.1.10", true}, {ip, "10.0.1.11", false}, {ip, "fd00:0::1", true}, {ip, "old", true},
		{cn, "db1", true}, {cn, "db2", false}, {cn, "", false}, {&x509.Certificate{}, "", false},
	} {
		if got := IsFor(c.cert, c.host); got != c.want {
			t.Errorf("%v for %q: %v", NamesOf(c.cert), c.host, got)
		}
	}
}

// Every suite that this program can speak has its name in OpenSSL's words.
func TestCipher(t *testing.T) {
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		name, bits := Cipher(c.ID)
		old := c.SupportedVersions[0] < tls.VersionTLS13
		if bits < 112 || old && strings.Contains(name, "_") || !old && name != c.Name {
			t.Errorf("%s: %s, %d bits", c.Name, name, bits)
		}
	}
}
