package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
)

const keyText = "(private key)"

// A PrivateKey is an ECDSA, RSA or Ed25519 key that cannot be printed: formatted with any verb, logged or encoded it is
// "(private key)". Only PEM and DER give its bytes, for the code that writes them to a file.
//
// It is reached through a function because fmt asks no method of a value in an unexported field, and prints what it finds
// there, behind pointers too when the verb does not fit; of a function it prints the address. (Two keys therefore cannot be
// compared with ==.)
type PrivateKey struct{ held func() heldKey }

type heldKey struct {
	signer crypto.Signer
	der    []byte // PKCS#8
}

func (PrivateKey) String() string               { return keyText }
func (PrivateKey) GoString() string             { return keyText }
func (PrivateKey) Format(f fmt.State, _ rune)   { io.WriteString(f, keyText) }
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(keyText), nil }
func (PrivateKey) MarshalJSON() ([]byte, error) { return []byte(`"` + keyText + `"`), nil }

// GenerateKey makes a new key; the empty algorithm is the default. Randomness for ECDSA and RSA comes from the system's
// secure source whatever rand is (see the package comment); an Ed25519 key is 32 bytes of rand. Which algorithm an
// authority or a server may have is for CheckAuthorityAlgorithm and CheckLeafAlgorithm to say.
func GenerateKey(rand io.Reader, algorithm Algorithm) (PrivateKey, error) {
	algorithm, err := ParseAlgorithm(string(algorithm))
	if err != nil {
		return PrivateKey{}, err
	}
	signer, err := generate(rand, algorithm)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("make a key of kind %s: %w", algorithm, err)
	}
	return hold(signer)
}

func generate(rand io.Reader, algorithm Algorithm) (crypto.Signer, error) {
	switch algorithm {
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand)
	case RSA2048:
		return rsa.GenerateKey(rand, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand, 4096)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand)
		return key, err
	}
	panic("pki: no generator for " + string(algorithm))
}

// hold keeps the key beside its PKCS#8 form.
func hold(signer crypto.Signer) (PrivateKey, error) {
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("encode the key as PKCS#8: %w", err)
	}
	return PrivateKey{func() heldKey { return heldKey{signer, der} }}, nil
}

// PEM returns the key as one PKCS#8 block, "PRIVATE KEY"; nil for the zero PrivateKey.
func (k PrivateKey) PEM() []byte {
	if k.IsZero() {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k.held().der})
}

// DER returns the key as PKCS#8 DER, the form in which the JDBC driver reads postgresql.pk8; nil for the zero PrivateKey.
func (k PrivateKey) DER() []byte {
	if k.IsZero() {
		return nil
	}
	return bytes.Clone(k.held().der)
}

// IsZero says that there is no key.
func (k PrivateKey) IsZero() bool { return k.held == nil }

// Algorithm names the kind of the key; "" for the zero PrivateKey.
func (k PrivateKey) Algorithm() Algorithm {
	if k.IsZero() {
		return ""
	}
	return algorithmOf(k.held().signer.Public())
}

// Matches says that the certificate was made for this key. The zero PrivateKey and the zero Certificate match nothing.
func (k PrivateKey) Matches(cert Certificate) bool {
	return !k.IsZero() && !cert.IsZero() && samePublic(k.held().signer.Public(), cert.PublicKey)
}

// samePublic compares two public keys. All kinds that crypto/x509 reads can compare themselves, but its DSA keys.
func samePublic(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// mostKeyBytes is far above any key: 16384-bit RSA in PEM is below 13 kB. Larger input is not looked at.
const mostKeyBytes = 64 << 10

// ParsePrivateKey reads the one private key of a PEM file: PKCS#8 ("PRIVATE KEY"), SEC 1 ("EC PRIVATE KEY") or PKCS#1 ("RSA
// PRIVATE KEY"). EC parameters, certificates and text may stand beside it, as OpenSSL allows. Every error is a *ParseError
// that says what was found instead, and never repeats a byte of it; errors.Is(err, ErrEncrypted) for a key with a
// passphrase.
func ParsePrivateKey(data []byte) (PrivateKey, error) {
	if len(data) > mostKeyBytes {
		return PrivateKey{}, noKey("%d bytes, more than a key can have", len(data))
	}
	blocks, damage := pemBlocks(data)
	if damage != "" {
		return PrivateKey{}, noKey("%s", damage)
	}
	var keys []*pem.Block
	for _, block := range blocks {
		switch {
		case encrypted(block):
			return PrivateKey{}, &ParseError{Want: wantKey, Found: "a key with a passphrase", cause: ErrEncrypted}
		case isKey(block):
			keys = append(keys, block)
		case block.Type != "EC PARAMETERS" && block.Type != "CERTIFICATE":
			return PrivateKey{}, noKey("%s", nameOf(block))
		}
	}
	switch {
	case len(keys) > 1:
		return PrivateKey{}, noKey("%d private keys", len(keys))
	case len(keys) == 0:
		return PrivateKey{}, noKey("%s", nameOf(blocks[0]))
	}
	return parseKeyBlock(keys[0])
}

func parseKeyBlock(block *pem.Block) (PrivateKey, error) {
	if len(block.Headers) > 0 {
		return PrivateKey{}, noKey("a private key with PEM headers")
	}
	signer, known := parseKeyDER(block)
	if !known {
		return PrivateKey{}, noKey("a damaged private key, or one of an unknown kind")
	}
	key, err := hold(signer)
	if err != nil {
		return PrivateKey{}, noKey("a private key of a kind that PostgreSQL cannot use")
	}
	return key, nil
}

// parseKeyDER gives no error: those of crypto/x509 are not promised to be free of the key.
func parseKeyDER(block *pem.Block) (crypto.Signer, bool) {
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, false
	}
	signer, ok := key.(crypto.Signer) // an X25519 key is none
	return signer, ok
}

func isKey(block *pem.Block) bool {
	return block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" || block.Type == "RSA PRIVATE KEY"
}

// encrypted tells both forms: PKCS#8 with its own label, and the old one with headers (RFC 1421, 4.6.1.1).
func encrypted(block *pem.Block) bool {
	return block.Type == "ENCRYPTED PRIVATE KEY" ||
		isKey(block) && (strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") || block.Headers["DEK-Info"] != "")
}
