package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// An AuthoritySpec declares an environment's certificate authority.
type AuthoritySpec struct {
	CommonName string        // what the name begins with: "production CA"
	ID         string        // ends the name, so that no two authorities share one; "" for eight random hex digits
	Algorithm  Algorithm     // "" for ECDSAP256
	Validity   time.Duration // from when it is made
}

// Check says all that is wrong with the declaration in one line, or nil.
func (s AuthoritySpec) Check() error {
	id := s.ID
	if id == "" {
		id = "00000000"
	}
	return inOneLine(CheckCommonName(s.CommonName), CheckCommonName(s.name(id)),
		CheckAuthorityAlgorithm(s.Algorithm), CheckValidity(s.Validity))
}

// name puts the id after a space. OpenSSL looks an issuer up by name first: of two authorities with one name it may try the
// wrong one, so a new authority never takes the name of the last.
func (s AuthoritySpec) name(id string) string { return s.CommonName + " " + id }

// NewAuthority makes a self-signed authority and its key. It may sign certificates and revocation lists but no further
// authority (path length 0, RFC 5280, 4.2.1.9), and begins BackDate before now. rand gives the serial number and the id. It
// fails when the declaration is wrong, or the clock stands before 2020.
func NewAuthority(rand io.Reader, now time.Time, spec AuthoritySpec) (Certificate, PrivateKey, error) {
	spec.Algorithm = spec.Algorithm.orDefault()
	cert, key, err := newAuthority(rand, now, spec)
	if err != nil {
		return Certificate{}, PrivateKey{}, fmt.Errorf("make the authority %q: %w", spec.CommonName, err)
	}
	return cert, key, nil
}

func newAuthority(rand io.Reader, now time.Time, spec AuthoritySpec) (Certificate, PrivateKey, error) {
	if err := inOneLine(spec.Check(), checkClock(now)); err != nil {
		return Certificate{}, PrivateKey{}, err
	}
	if spec.ID == "" {
		var id [4]byte
		if _, err := io.ReadFull(rand, id[:]); err != nil {
			return Certificate{}, PrivateKey{}, fmt.Errorf("read randomness: %w", err)
		}
		spec.ID = hex.EncodeToString(id[:])
	}
	key, err := GenerateKey(rand, spec.Algorithm)
	if err != nil {
		return Certificate{}, PrivateKey{}, err
	}
	cert, err := selfSign(rand, now, spec, key)
	if err != nil {
		return Certificate{}, PrivateKey{}, err
	}
	if reasons := WrongAuthority(cert, key, spec, now); len(reasons) > 0 {
		return Certificate{}, PrivateKey{}, fmt.Errorf("what was made is wrong: %s", Sentences(reasons))
	}
	return cert, key, nil
}

func selfSign(rand io.Reader, now time.Time, spec AuthoritySpec, key PrivateKey) (Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.held().signer.Public())
	if err != nil {
		return Certificate{}, err
	}
	id := keyIDOf(spki)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: spec.name(spec.ID)},
		NotBefore:             seconds(now.Add(-BackDate)),
		NotAfter:              seconds(now.Add(spec.Validity)),
		KeyUsage:              authorityUsage,
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		SubjectKeyId:          id,
		AuthorityKeyId:        id,
	}
	return sign(rand, template, template, key, key)
}

const authorityUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign

// sign returns the certificate read back from what was signed. A nil serial number in the template becomes 20 octets of rand,
// positive (RFC 5280, 4.1.2.2).
func sign(rand io.Reader, template, parent *x509.Certificate, subject Subject, signer PrivateKey) (Certificate, error) {
	der, err := x509.CreateCertificate(rand, template, parent, subject.public(), signer.held().signer)
	if err != nil {
		return Certificate{}, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fmt.Errorf("read back what was signed: %w", err)
	}
	return Certificate{cert}, nil
}

// seconds is the time as a certificate holds it.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// WrongAuthority returns what is wrong with an authority, in a fixed order; nothing when it is as declared. An authority is
// never replaced by itself, so the caller turns what it finds into errors (reasons that are Broken: nothing can be issued or
// verified) and warnings (the rest). A zero key is not missed: nodes that only trust the authority have none. The declared
// validity is not compared: it is for when the authority is made. Nor is a name: an authority that an operator brought may
// have the declared common name as it is, or with any id after it.
func WrongAuthority(cert Certificate, key PrivateKey, spec AuthoritySpec, now time.Time) []Reason {
	if cert.IsZero() {
		return []Reason{broken(CertificateMissing, "there is no certificate")}
	}
	found := brokenAuthority(cert, key, now)
	if cn := cert.Subject.CommonName; cn != spec.CommonName && !strings.HasPrefix(cn, spec.CommonName+" ") {
		found.differs(WrongName, "the common name is %q, declared is %q", cn, spec.CommonName)
	}
	if declared := spec.Algorithm.orDefault(); cert.Algorithm() != declared && !found.has(WeakKey) {
		found.differs(WrongAlgorithm, "the key is %s, declared is %s", cert.Algorithm(), declared)
	}
	if len(cert.SubjectKeyId) == 0 {
		found.differs(NoKeyID, "no subject key identifier")
	}
	if weakSignature(cert) {
		found.differs(WeakSignature, "signed with %s", cert.SignatureAlgorithm) // its own: nobody needs to check it
	}
	if cert.SerialNumber.Sign() <= 0 {
		found.differs(BadSerial, "the serial number is not above 0")
	}
	left := cert.NotAfter.Sub(now)
	if window := RenewBefore(cert.NotAfter.Sub(cert.NotBefore)); left <= window && !found.has(Expired) {
		found.differs(InWindow, "expires in %s, on %s", length(left), date(cert.NotAfter))
	}
	return found
}

// brokenAuthority finds what keeps an authority from issuing anything that verifies.
func brokenAuthority(cert Certificate, key PrivateKey, now time.Time) reasons {
	var found reasons
	if !cert.BasicConstraintsValid || !cert.IsCA {
		found.broken(NotAuthority, "not an authority's certificate (no CA:true)")
	} else if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		found.broken(NotAuthority, "the key usage does not include signing certificates")
	}
	switch {
	case string(cert.RawIssuer) != string(cert.RawSubject):
		found.broken(OtherAuthority, "not self-signed but issued by %q; PostgreSQL needs the root", cert.Issuer.CommonName)
	case !weakSignature(cert) && !signedBy(cert, cert):
		found.broken(BadSignature, "its own signature does not verify")
	}
	if !key.IsZero() && !key.Matches(cert) {
		found.broken(KeyMismatch, "the private key does not belong to the certificate")
	}
	if err := CheckAuthorityAlgorithm(cert.Algorithm()); err != nil && cert.Algorithm() == Ed25519 {
		found.broken(WeakKey, "%v", err)
	} else if weak(cert.PublicKey) {
		found.broken(WeakKey, "the key is %s, which OpenSSL refuses as too weak", cert.Algorithm())
	}
	found.addBounds(cert, now)
	return found
}
