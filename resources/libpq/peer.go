package libpq

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
)

// IsFor tells whether a server's certificate is for the host that the client has, as sslmode=verify-full decides: by the
// subjectAltNames, and by the common name only where there is none of the host's kind. A star stands for one label, the first.
// https://www.postgresql.org/docs/current/libpq-ssl.html#LIBQ-SSL-CERTIFICATES
func IsFor(c *x509.Certificate, host string) bool {
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	for _, a := range c.IPAddresses {
		if addr, ok := netip.AddrFromSlice(a); isIP && ok && addr.Unmap() == ip.Unmap() {
			return true
		}
	}
	for _, name := range c.DNSNames {
		if nameFits(name, host, isIP) {
			return true
		}
	}
	named := isIP && len(c.IPAddresses) > 0 || !isIP && len(c.DNSNames) > 0
	return !named && nameFits(c.Subject.CommonName, host, isIP)
}

func nameFits(name, host string, isIP bool) bool {
	if strings.EqualFold(name, host) {
		return name != ""
	}
	suffix, wild := strings.CutPrefix(name, "*.")
	_, rest, dotted := strings.Cut(host, ".")
	return wild && !isIP && dotted && host[0] != '.' && strings.EqualFold(suffix, rest)
}

// NamesOf are the hosts that a certificate is for, in its order.
func NamesOf(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, a := range c.IPAddresses {
		names = append(names, a.String())
	}
	if len(names) == 0 && c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// Cipher is the name that OpenSSL, and so psql, has for a cipher suite, and how many secret bits it has. The suites of TLS 1.3
// have one name everywhere.
func Cipher(id uint16) (name string, bits int) {
	if c, old := ciphers[id]; old {
		return c.name, c.bits
	}
	if name = tls.CipherSuiteName(id); id == tls.TLS_AES_128_GCM_SHA256 {
		return name, 128
	}
	return name, 256
}

// ciphers are the suites before TLS 1.3 that this program can speak.
var ciphers = map[uint16]struct {
	name string
	bits int
}{
	tls.TLS_RSA_WITH_RC4_128_SHA:                      {"RC4-SHA", 128},
	tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA:                 {"DES-CBC3-SHA", 112},
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:                  {"AES128-SHA", 128},
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:                  {"AES256-SHA", 256},
	tls.TLS_RSA_WITH_AES_128_CBC_SHA256:               {"AES128-SHA256", 128},
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               {"AES128-GCM-SHA256", 128},
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               {"AES256-GCM-SHA384", 256},
	tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA:              {"ECDHE-ECDSA-RC4-SHA", 128},
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          {"ECDHE-ECDSA-AES128-SHA", 128},
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          {"ECDHE-ECDSA-AES256-SHA", 256},
	tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA:                {"ECDHE-RSA-RC4-SHA", 128},
	tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA:           {"ECDHE-RSA-DES-CBC3-SHA", 112},
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            {"ECDHE-RSA-AES128-SHA", 128},
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            {"ECDHE-RSA-AES256-SHA", 256},
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256:       {"ECDHE-ECDSA-AES128-SHA256", 128},
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256:         {"ECDHE-RSA-AES128-SHA256", 128},
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         {"ECDHE-RSA-AES128-GCM-SHA256", 128},
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       {"ECDHE-ECDSA-AES128-GCM-SHA256", 128},
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         {"ECDHE-RSA-AES256-GCM-SHA384", 256},
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       {"ECDHE-ECDSA-AES256-GCM-SHA384", 256},
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   {"ECDHE-RSA-CHACHA20-POLY1305", 256},
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: {"ECDHE-ECDSA-CHACHA20-POLY1305", 256},
}

// Protocol is OpenSSL's name of a version of TLS.
func Protocol(version uint16) string {
	return map[uint16]string{tls.VersionTLS10: "TLSv1", tls.VersionTLS11: "TLSv1.1", tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[version]
}
