package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
)

// A Subject is what a certificate is made for: a PrivateKey, or the Request of a node that keeps its key to itself.
type Subject interface {
	IsZero() bool
	Algorithm() Algorithm
	Matches(cert Certificate) bool
	public() crypto.PublicKey
}

func (k PrivateKey) public() crypto.PublicKey { return k.held().signer.Public() }

// A Request is a certificate signing request (PKCS#10, RFC 2986): a public key with the proof that who asks has the
// private one. Names in it mean nothing: an authority decides for itself what it certifies.
type Request struct{ request *x509.CertificateRequest }

// NewRequest returns a request for the key, in PEM.
func NewRequest(rand io.Reader, key PrivateKey, commonName string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key.held().signer)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest reads one request in PEM, and checks that it is signed with its own key. Errors are *ParseError.
func ParseRequest(data []byte) (Request, error) {
	wrong := func(found string) (Request, error) {
		return Request{}, &ParseError{Want: "a certificate request in PEM", Found: found}
	}
	if len(data) > mostKeyBytes {
		return wrong(fmt.Sprintf("%d bytes, more than one can have", len(data)))
	}
	blocks, damage := pemBlocks(data)
	switch {
	case damage != "":
		return wrong(damage)
	case len(blocks) != 1 || blocks[0].Type != "CERTIFICATE REQUEST":
		return wrong(nameOf(blocks[0]))
	}
	r, err := x509.ParseCertificateRequest(blocks[0].Bytes)
	if err != nil {
		return wrong("a damaged certificate request")
	}
	if r.CheckSignature() != nil {
		return wrong("a certificate request that is not signed with its own key")
	}
	if weak(r.PublicKey) {
		return wrong("a certificate request for a key that OpenSSL refuses as too weak")
	}
	return Request{r}, nil
}

// IsZero says that there is none.
func (r Request) IsZero() bool { return r.request == nil }

// Algorithm names the kind of its key; "" for the zero Request.
func (r Request) Algorithm() Algorithm {
	if r.IsZero() {
		return ""
	}
	return algorithmOf(r.request.PublicKey)
}

// Matches says that the certificate was made for its key.
func (r Request) Matches(cert Certificate) bool {
	return !r.IsZero() && !cert.IsZero() && samePublic(r.request.PublicKey, cert.PublicKey)
}

// For says that the request is for this key.
func (r Request) For(key PrivateKey) bool {
	return !r.IsZero() && !key.IsZero() && samePublic(r.request.PublicKey, key.public())
}

func (r Request) public() crypto.PublicKey { return r.request.PublicKey }
