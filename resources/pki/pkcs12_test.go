package pki

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// madeClient is an authority with a client's key of an algorithm.
func madeClient(t *testing.T, algorithm Algorithm) (PrivateKey, Certificate, Certificate) {
	t.Helper()
	now := time.Now()
	authority, authorityKey, err := NewAuthority(rand.Reader, now, AuthoritySpec{CommonName: "test CA", Validity: 30 * Day})
	if err != nil {
		t.Fatal(err)
	}
	key, err := GenerateKey(rand.Reader, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := Issue(rand.Reader, now, authority, authorityKey, key, LeafSpec{CommonName: "alice", Usage: Client, Algorithm: algorithm, Validity: 10 * Day})
	if err != nil {
		t.Fatal(err)
	}
	return key, cert, authority
}

// Of each kind of key, openssl reads the key and both certificates out of the file, with its check sum.
func TestPKCS12IsReadByOpenSSL(t *testing.T) {
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048, Ed25519} {
		t.Run(string(algorithm), func(t *testing.T) {
			key, cert, authority := madeClient(t, algorithm)
			content, err := PKCS12(key, cert, authority)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "postgresql.p12")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("openssl", "pkcs12", "-in", file, "-passin", "pass:"+PKCS12Password, "-nodes").CombinedOutput()
			if err != nil {
				t.Fatalf("openssl: %v\n%s", err, out)
			}
			for name, want := range map[string][]byte{"key": key.PEM(), "certificate": cert.PEM(), "authority": authority.PEM()} {
				if !bytes.Contains(out, want) {
					t.Errorf("openssl does not find the %s", name)
				}
			}
			if !strings.Contains(string(out), "friendlyName: user") {
				t.Errorf("the entry is not called user, which the JDBC driver looks for:\n%s", out)
			}
			if out, err := exec.Command("openssl", "pkcs12", "-in", file, "-passin", "pass:wrong", "-nodes").CombinedOutput(); err == nil {
				t.Errorf("a wrong password opens it: %s", out)
			}
		})
	}
}

// The same key and certificates give the same bytes, and any other gives others.
func TestPKCS12IsAFunctionOfItsContent(t *testing.T) {
	key, cert, authority := madeClient(t, ECDSAP256)
	first, err := PKCS12(key, cert, authority)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := PKCS12(key, cert, authority)
	if !bytes.Equal(first, second) {
		t.Error("made twice, it is another file")
	}
	if alone, _ := PKCS12(key, cert); bytes.Equal(first, alone) {
		t.Error("the authority makes no difference")
	}
	other, otherCert, _ := madeClient(t, ECDSAP256)
	if _, err := PKCS12(other, cert); err == nil {
		t.Error("a key goes with another's certificate")
	}
	if content, _ := PKCS12(other, otherCert, authority); bytes.Equal(first, content) {
		t.Error("another key gives the same file")
	}
	if bytes.Contains(first, key.DER()) {
		t.Error("the key is readable in the file")
	}
}
