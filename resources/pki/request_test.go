package pki

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// A node that keeps its key gets a certificate that is right for it, whatever names its request has.
func TestRequest(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	ca, caKey, err := NewAuthority(rand.Reader, now, AuthoritySpec{CommonName: "test CA", Validity: 1825 * Day})
	if err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048} {
		key, err := GenerateKey(rand.Reader, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		text, err := NewRequest(rand.Reader, key, "db1,CN=postgres")
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRequest(text)
		if err != nil || !r.For(key) || r.Algorithm() != algorithm {
			t.Fatalf("%s: %v %v", algorithm, err, r.Algorithm())
		}
		spec := LeafSpec{CommonName: "db2", DNSNames: []string{"db2"}, Usage: Server, Algorithm: algorithm, Validity: 365 * Day}
		cert, _, err := Issue(rand.Reader, now, ca, caKey, r, spec)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName != "db2" || !key.Matches(cert) || !r.Matches(cert) {
			t.Errorf("%s: got %s", algorithm, cert)
		}
		if wrong := Wrong(cert, key, ca, spec, now, 0); len(wrong) > 0 {
			t.Errorf("%s: %s", algorithm, Sentences(wrong))
		}
		if algorithm == RSA2048 {
			continue // the parameters of its signature's algorithm are not signed, and mean nothing
		}
		block, _ := pem.Decode(text)
		for i := range block.Bytes {
			damaged := bytes.Clone(block.Bytes)
			damaged[i] ^= 4
			if r, err := ParseRequest(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: damaged})); err == nil && r.For(key) {
				t.Fatalf("%s: byte %d changed, and it still is a request for the key", algorithm, i)
			}
		}
	}
	for _, text := range []string{"", "x", string(ca.PEM()), strings.Repeat("x", 1<<20)} {
		if _, err := ParseRequest([]byte(text)); err == nil {
			t.Errorf("%.20q is a request", text)
		}
	}
}
