package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
)

// A Certificate is one X.509 certificate, with all of crypto/x509's fields and methods. The zero Certificate is none: ask
// IsZero before using a field.
type Certificate struct{ *x509.Certificate }

// ParseCertificate reads a PEM file that holds exactly one certificate. Errors are *ParseError and say what was found.
func ParseCertificate(data []byte) (Certificate, error) {
	certs, err := ParseCertificates(data)
	if err != nil {
		return Certificate{}, err
	}
	if len(certs) > 1 {
		return Certificate{}, noCert("%d certificates", len(certs))
	}
	return certs[0], nil
}

// ParseCertificates reads a PEM bundle of one certificate or more, in its order. Text may stand between the blocks, as
// openssl and operators put it there; a block that is damaged or is no certificate makes an error, never a shorter answer.
// Errors are *ParseError and say what was found.
func ParseCertificates(data []byte) ([]Certificate, error) {
	blocks, damage := pemBlocks(data)
	if damage != "" {
		return nil, noCert("%s", damage)
	}
	var certs []Certificate
	for i, block := range blocks {
		cert, found := parseCertBlock(block)
		switch {
		case found != "" && len(blocks) > 1:
			return nil, noCert("%s (block %d of %d)", found, i+1, len(blocks))
		case found != "":
			return nil, noCert("%s", found)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

func parseCertBlock(block *pem.Block) (cert Certificate, found string) {
	if block.Type != "CERTIFICATE" {
		return Certificate{}, nameOf(block)
	}
	if len(block.Headers) > 0 {
		return Certificate{}, "a certificate with PEM headers"
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Certificate{}, fmt.Sprintf("a damaged certificate (%v)", err)
	}
	return Certificate{parsed}, ""
}

// Bundle joins certificates into one PEM file, in the order given. PostgreSQL and libpq take such a file as root.
func Bundle(certs ...Certificate) []byte {
	var bundle bytes.Buffer
	for _, cert := range certs {
		bundle.Write(cert.PEM())
	}
	return bundle.Bytes()
}

// PEM returns the certificate as one PEM block; nil for the zero Certificate.
func (c Certificate) PEM() []byte {
	if c.IsZero() {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// IsZero says that there is no certificate.
func (c Certificate) IsZero() bool { return c.Certificate == nil }

// Fingerprint returns the SHA-256 of the certificate as 64 lower-case hex digits; "" for the zero Certificate.
func (c Certificate) Fingerprint() string {
	if c.IsZero() {
		return ""
	}
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Algorithm names the kind of the certificate's key; "" for the zero Certificate.
func (c Certificate) Algorithm() Algorithm {
	if c.IsZero() {
		return ""
	}
	return algorithmOf(c.PublicKey)
}

// String names the certificate in one line: its subject and when it ends.
func (c Certificate) String() string {
	if c.IsZero() {
		return "no certificate"
	}
	return fmt.Sprintf("CN=%q until %s", c.Subject.CommonName, date(c.NotAfter))
}

// Allows says whether PostgreSQL takes the certificate for this usage: OpenSSL takes one without any extended key usage for
// all of them.
func (c Certificate) Allows(u Usage) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, u.extended()) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// keyID returns the key identifier of the certificate, or, for one without, the one that its key would have been given.
func (c Certificate) keyID() []byte {
	if len(c.SubjectKeyId) > 0 {
		return c.SubjectKeyId
	}
	return keyIDOf(c.RawSubjectPublicKeyInfo)
}

// keyIDOf returns the first 160 bits of the SHA-256 of the subjectPublicKey bits (RFC 7093, 2, method 1).
func keyIDOf(spki []byte) []byte {
	var info struct {
		Algorithm asn1.RawValue
		PublicKey asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return nil
	}
	sum := sha256.Sum256(info.PublicKey.Bytes)
	return sum[:20]
}
