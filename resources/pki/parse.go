package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrEncrypted is in the chain of the error for a private key that needs a passphrase.
var ErrEncrypted = errors.New("the private key has a passphrase")

// A ParseError says what was found where a key or a certificate was expected. Of a file that holds a private key it
// repeats nothing.
type ParseError struct {
	Want  string // "a certificate"
	Found string // "an empty file"
	cause error
}

func (e *ParseError) Error() string { return fmt.Sprintf("expected %s, found %s", e.Want, e.Found) }
func (e *ParseError) Unwrap() error { return e.cause }

const (
	wantKey  = "a private key"
	wantCert = "a certificate"
)

func noKey(found string, args ...any) error {
	return &ParseError{Want: wantKey, Found: fmt.Sprintf(found, args...)}
}

func noCert(found string, args ...any) error {
	return &ParseError{Want: wantCert, Found: fmt.Sprintf(found, args...)}
}

// pemBlocks splits data into its PEM blocks, at least one, or says what is wrong with it. Text may stand around the blocks,
// as openssl writes it, but nothing that looks like a broken block and nothing that is not text: encoding/pem alone skips a
// damaged block in silence, and a bundle would lose an authority.
func pemBlocks(data []byte) (blocks []*pem.Block, damage string) {
	rest := data
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		if damage := outside(around(rest[:len(rest)-len(after)])); damage != "" {
			return nil, damage
		}
		blocks, rest = append(blocks, block), after
	}
	if len(blocks) == 0 {
		return nil, without(data)
	}
	if damage := outside(rest); damage != "" {
		return nil, damage + " after the last block"
	}
	return blocks, ""
}

// around cuts the last block, which is the one that was decoded, out of what the decoder consumed.
func around(taken []byte) []byte {
	begin := bytes.LastIndex(taken, []byte("-----BEGIN "))
	return taken[:max(begin, 0)]
}

// outside judges what stands outside the blocks.
func outside(text []byte) string {
	switch {
	case bytes.Contains(text, []byte("-----")), bytes.HasPrefix(text, []byte("-")), bytes.Contains(text, []byte("\n-")):
		return "a damaged PEM block" // the beginning of a line of dashes is where a file was cut
	case !isText(text):
		return "binary data"
	}
	return ""
}

// without says what data without a whole PEM block is.
func without(data []byte) string {
	switch {
	case len(data) == 0:
		return "an empty file"
	case len(bytes.TrimSpace(data)) == 0:
		return "nothing but white space"
	case bytes.HasPrefix(data, []byte("\ufeff-----BEGIN")):
		return "a byte order mark before the PEM block"
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return "a damaged PEM block"
	case isText(data):
		return "text without a PEM block"
	}
	if _, err := x509.ParseCertificate(data); err == nil {
		return "a certificate in DER form; PEM is needed"
	}
	if _, err := x509.ParsePKCS8PrivateKey(data); err == nil {
		return "a private key in DER form; PEM is needed"
	}
	return "binary data"
}

func isText(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexFunc(data, func(r rune) bool {
		return unicode.IsControl(r) && !strings.ContainsRune("\t\n\v\f\r", r)
	}) < 0
}

// nameOf says what a PEM block is. A label that is not known is not repeated: it may be anything.
func nameOf(block *pem.Block) string {
	switch block.Type {
	case "CERTIFICATE":
		return "a certificate"
	case "TRUSTED CERTIFICATE":
		return "a certificate in OpenSSL's own trusted form"
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return "a certificate request"
	case "X509 CRL":
		return "a revocation list"
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return "a public key"
	case "EC PARAMETERS", "DH PARAMETERS":
		return "parameters without a key"
	case "OPENSSH PRIVATE KEY":
		return "a private key in OpenSSH's own form"
	case "PKCS7", "CMS":
		return "a PKCS#7 container"
	}
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return "a private key"
	}
	return "a PEM block of another kind"
}
