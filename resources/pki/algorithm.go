package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
)

// An Algorithm is the kind and size of a key, by the name that recipes use. The empty one stands for ECDSAP256. Keys that
// were read may be of other kinds than the constants here: "rsa-1024", "ecdsa-p521".
type Algorithm string

const (
	ECDSAP256 Algorithm = "ecdsa-p256" // the default
	ECDSAP384 Algorithm = "ecdsa-p384"
	RSA2048   Algorithm = "rsa-2048"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
	Ed25519   Algorithm = "ed25519" // client keys only
)

// Algorithms returns the algorithms that a recipe can name, the default first.
func Algorithms() []Algorithm {
	return []Algorithm{ECDSAP256, ECDSAP384, RSA2048, RSA3072, RSA4096, Ed25519}
}

// ParseAlgorithm reads the name of an algorithm; "" is the default, ECDSAP256. The error proposes the nearest name.
func ParseAlgorithm(name string) (Algorithm, error) {
	algorithm := Algorithm(name).orDefault()
	if slices.Contains(Algorithms(), algorithm) {
		return algorithm, nil
	}
	if near := nearest(name); near != "" {
		return "", fmt.Errorf("%q is not a key algorithm; did you mean %q?", name, near)
	}
	return "", fmt.Errorf("%q is not a key algorithm; there is %s", name, strings.Join(algorithmNames(), ", "))
}

// CheckAuthorityAlgorithm says why an authority cannot have a key of this kind, or nil. Ed25519 is refused: a server
// certificate that an Ed25519 authority signed breaks SCRAM channel binding in PostgreSQL 15 (measured), because RFC 5929
// takes the hash from the certificate's signature, and Ed25519 has none to give.
func CheckAuthorityAlgorithm(a Algorithm) error {
	if a == Ed25519 {
		return fmt.Errorf("%q is not for an authority: server certificates that it signs break SCRAM channel binding in PostgreSQL 15; use %q", a, ECDSAP256)
	}
	_, err := ParseAlgorithm(string(a))
	return err
}

// CheckLeafAlgorithm says why a certificate for this usage cannot have a key of this kind, or nil. Ed25519 is for clients
// only: a server must be reached by every client, and Java's TLS knows Ed25519 certificates from Java 16 on, OpenSSL from
// 1.1.1 on.
func CheckLeafAlgorithm(a Algorithm, usage Usage) error {
	if a == Ed25519 && usage == Server {
		return fmt.Errorf("%q is not for a server: older clients (Java before 16, OpenSSL before 1.1.1) cannot connect, and SCRAM channel binding breaks where the certificate is signed with it; use %q", a, ECDSAP256)
	}
	_, err := ParseAlgorithm(string(a))
	return err
}

func (a Algorithm) orDefault() Algorithm {
	if a == "" {
		return ECDSAP256
	}
	return a
}

// algorithmOf names the kind of a public key; "unknown" for one that is neither ECDSA, RSA nor Ed25519.
func algorithmOf(public crypto.PublicKey) Algorithm {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return Algorithm("ecdsa-" + strings.ToLower(strings.ReplaceAll(key.Curve.Params().Name, "-", "")))
	case *rsa.PublicKey:
		return Algorithm(fmt.Sprintf("rsa-%d", key.N.BitLen()))
	case ed25519.PublicKey:
		return Ed25519
	}
	return "unknown"
}

// weak says that OpenSSL at Debian's security level 2 refuses a key of this size: RSA below 2048 bits, curves below 224.
func weak(public crypto.PublicKey) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize < 224
	case *rsa.PublicKey:
		return key.N.BitLen() < 2048
	case ed25519.PublicKey:
		return false
	}
	return true
}

func algorithmNames() []string {
	var names []string
	for _, a := range Algorithms() {
		names = append(names, string(a))
	}
	return names
}

// nearest returns the algorithm whose name is within a third of the letters of the given one, or "".
func nearest(name string) string {
	plain := strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(name))
	best, least := "", len(name)/3+2
	for _, known := range algorithmNames() {
		d := distance(name, known)
		if plain == strings.ReplaceAll(known, "-", "") {
			d = 0
		}
		if d < least {
			best, least = known, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace (Levenshtein) in the first 32 bytes of a and b.
func distance(a, b string) int {
	a, b = strings.ToLower(a[:min(len(a), 32)]), strings.ToLower(b[:min(len(b), 32)])
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := row
		row = make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := above[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(above[j+1]+1, row[j]+1, change)
		}
	}
	return row[len(b)]
}
