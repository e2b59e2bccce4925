package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

func TestParseCertificates(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	leaf := issue(t, noon, ca, caKey, makeKey(t, ""), clientSpec())
	dir := t.TempDir()
	put(t, dir, "crt", ca.PEM())
	withText := []byte(openssl(t, dir, "x509", "-in", "crt", "-text"))
	openssl(t, dir, "x509", "-in", "crt", "-trustout", "-addtrust", "serverAuth", "-out", "trusted")
	two := Bundle(ca, leaf)
	tests := []struct {
		name string
		data []byte
		want string // how many certificates, or the error
	}{
		{"one", ca.PEM(), "1"},
		{"two", two, "2"},
		{"openssl's text", withText, "1"},
		{"comments", []byte("# the old one\n" + string(ca.PEM()) + "# the new one\n" + string(leaf.PEM()) + "# end\n"), "2"},
		{"CRLF", bytes.ReplaceAll(two, []byte("\n"), []byte("\r\n")), "2"},
		{"no last newline", bytes.TrimSuffix(two, []byte("\n")), "2"},
		{"empty", nil, "expected a certificate, found an empty file"},
		{"white space", []byte("\n\n"), "expected a certificate, found nothing but white space"},
		{"text", []byte("hello"), "expected a certificate, found text without a PEM block"},
		{"binary", []byte{0x7f, 'E', 'L', 'F', 0}, "expected a certificate, found binary data"},
		{"DER", ca.Raw, "expected a certificate, found a certificate in DER form; PEM is needed"},
		{"key as DER", caKey.DER(), "expected a certificate, found a private key in DER form; PEM is needed"},
		{"key", caKey.PEM(), "expected a certificate, found a private key"},
		{"key in the bundle", append(ca.PEM(), caKey.PEM()...), "expected a certificate, found a private key (block 2 of 2)"},
		{"trusted", get(t, dir, "trusted"), "expected a certificate, found a certificate in OpenSSL's own trusted form"},
		{"byte order mark", append([]byte("\ufeff"), ca.PEM()...), "expected a certificate, found a byte order mark before the PEM block"},
		{"cut", ca.PEM()[:300], "expected a certificate, found a damaged PEM block"},
		{"second cut", two[:len(two)-40], "expected a certificate, found a damaged PEM block after the last block"},
		{"first without its end", append(bytes.TrimSuffix(ca.PEM(), []byte("-----END CERTIFICATE-----\n")), leaf.PEM()...), "expected a certificate, found a damaged PEM block"},
		{"junk after", append(ca.PEM(), 0, 1, 2), "expected a certificate, found binary data after the last block"},
		{"headers", []byte(strings.Replace(string(ca.PEM()), "-----\n", "-----\nA: b\n\n", 1)), "expected a certificate, found a certificate with PEM headers"},
	}
	for _, test := range tests {
		certs, err := ParseCertificates(test.data)
		got := string(rune('0' + len(certs)))
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %s, wanted is %s", test.name, got, test.want)
		}
		var parse *ParseError
		if err != nil && !errors.As(err, &parse) {
			t.Errorf("%s: the error is a %T", test.name, err)
		}
	}
	if _, err := ParseCertificate(two); err == nil || err.Error() != "expected a certificate, found 2 certificates" {
		t.Errorf("one of two: %v", err)
	}
	padded := leaf
	padded.Certificate = new(*leaf.Certificate)
	padded.Raw = append(bytes.Clone(leaf.Raw), 0)
	if _, err := ParseCertificate(padded.PEM()); err == nil || !strings.Contains(err.Error(), "trailing data") {
		t.Errorf("trailing data in the block: %v", err)
	}
}

// TestDamagedBundle: a bundle cut anywhere, or with any bit flipped, is an error or has the same certificates, never fewer.
func TestDamagedBundle(t *testing.T) {
	ca, caKey := makeAuthority(t, noon, production)
	bundle := Bundle(ca, issue(t, noon, ca, caKey, makeKey(t, ""), clientSpec()))
	firstEnds := len(ca.PEM())
	for at := range bundle {
		certs, err := ParseCertificates(bundle[:at])
		if whole := len(bundle) - 1; err == nil && at != firstEnds && at != firstEnds-1 && at != whole {
			t.Fatalf("cut at %d: %d certificates", at, len(certs))
		}
		for bit := range 8 {
			damaged := bytes.Clone(bundle)
			damaged[at] ^= 1 << bit
			if certs, err := ParseCertificates(damaged); err == nil && len(certs) != 2 {
				t.Fatalf("bit %d of byte %d flipped: %d certificates", bit, at, len(certs))
			}
		}
	}
}

// FuzzParseCertificates: what is accepted, written and read again is the same.
func FuzzParseCertificates(f *testing.F) {
	ca, caKey := makeAuthority(f, noon, production)
	f.Add(ca.PEM())
	f.Add(Bundle(ca, issue(f, noon, ca, caKey, makeKey(f, ""), serverSpec())))
	f.Add(append(ca.PEM(), caKey.PEM()...))
	f.Add(ca.Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nA: b\n\n-----END CERTIFICATE-----\n-----BEGIN X-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte{0x30}) { // DER: changed inside the block, where the PEM around it stays whole
			data = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data})
		}
		certs, err := ParseCertificates(data)
		if err != nil {
			if len(certs) > 0 {
				t.Fatal("certificates and an error")
			}
			return
		}
		again, err := ParseCertificates(Bundle(certs...))
		if err != nil || !bytes.Equal(Bundle(again...), Bundle(certs...)) {
			t.Fatalf("read again: %v", err)
		}
		for _, cert := range certs { // judging what was read does not panic either
			_ = Sentences(Wrong(cert, caKey, ca, serverSpec(), noon, Day)) + Sentences(WrongAuthority(cert, caKey, production, noon)) + cert.String()
			_, _, _ = Issue(zeroes{}, noon, cert, caKey, caKey, clientSpec())
		}
	})
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func first(data []byte) byte {
	if len(data) == 0 {
		return 0
	}
	return data[0]
}

// FuzzParsePrivateKey: what is accepted, written and read again is the same key; what is refused is not in the error.
func FuzzParsePrivateKey(f *testing.F) {
	ca, caKey := makeAuthority(f, noon, production)
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048, Ed25519} {
		f.Add(makeKey(f, algorithm).PEM())
		key := makeKey(f, algorithm)
		f.Add(key.DER())
		f.Add(append([]byte{1}, key.DER()...))
		switch signer := key.held().signer.(type) {
		case *ecdsa.PrivateKey:
			der, _ := x509.MarshalECPrivateKey(signer)
			f.Add(append([]byte{2}, der...))
		case *rsa.PrivateKey:
			f.Add(append([]byte{3}, x509.MarshalPKCS1PrivateKey(signer)...))
		}
	}
	f.Add(append(caKey.PEM(), ca.PEM()...))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if kind, ok := map[byte]string{1: "PRIVATE KEY", 2: "EC PRIVATE KEY", 3: "RSA PRIVATE KEY"}[first(data)]; ok {
			data = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data[1:]})
		}
		key, err := ParsePrivateKey(data)
		if err != nil {
			for line := range bytes.Lines(data) {
				if line = bytes.TrimSpace(line); len(line) > 20 && strings.Contains(err.Error(), string(line)) && !strings.HasPrefix("expected a private key, found ", string(line)) {
					t.Fatalf("the error %q repeats %q", err, line)
				}
			}
			return
		}
		again, err := ParsePrivateKey(key.PEM())
		if err != nil || !bytes.Equal(again.DER(), key.DER()) || again.Algorithm() != key.Algorithm() {
			t.Fatalf("read again: %v", err)
		}
		_ = key.Matches(ca)
	})
}
