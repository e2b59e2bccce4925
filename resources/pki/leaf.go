package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Usage is which end of a connection a certificate is for. It has exactly one: PostgreSQL accepts a client certificate
// without any, so a server's certificate without one logs in as the role that is named like its host.
type Usage string

const (
	Server Usage = "server" // extended key usage serverAuth
	Client Usage = "client" // extended key usage clientAuth
)

func (u Usage) extended() x509.ExtKeyUsage {
	if u == Server {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}

// A LeafSpec declares a server's or a client's certificate. Order, case and repetition of names make no difference.
type LeafSpec struct {
	CommonName  string        // of a client: the name of its role
	DNSNames    []string      // of a server, for sslmode=verify-full; a client has none
	IPAddresses []netip.Addr  // likewise; a server has at least one name or address
	Usage       Usage         // Server or Client
	Algorithm   Algorithm     // "" for ECDSAP256
	Validity    time.Duration // from when it is made, as far as the authority lasts
}

// Check says all that is wrong with the declaration in one line, or nil.
func (s LeafSpec) Check() error {
	errs := []error{CheckCommonName(s.CommonName), s.checkUsage(), CheckLeafAlgorithm(s.Algorithm, s.Usage), CheckValidity(s.Validity)}
	for _, name := range s.DNSNames {
		errs = append(errs, CheckDNSName(name))
	}
	for _, addr := range s.IPAddresses {
		errs = append(errs, CheckAddress(addr))
	}
	return inOneLine(errs...)
}

func (s LeafSpec) checkUsage() error {
	names := len(s.DNSNames) + len(s.IPAddresses)
	switch {
	case s.Usage != Server && s.Usage != Client:
		return fmt.Errorf("the usage %q is neither %q nor %q", s.Usage, Server, Client)
	case s.Usage == Server && names == 0:
		return errors.New("a server's certificate needs a host name or an address: with sslmode=verify-full no client would connect")
	case s.Usage == Client && names > 0:
		return errors.New("a client's certificate has no host names and no addresses")
	}
	return nil
}

// normal returns the declaration with its names in the one form that is written: lower case, sorted, each once, IPv4 as IPv4.
func (s LeafSpec) normal() LeafSpec {
	s.Algorithm = s.Algorithm.orDefault()
	var names []string
	for _, name := range s.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	s.DNSNames = slices.Compact(names)
	var addrs []netip.Addr
	for _, addr := range s.IPAddresses {
		addrs = append(addrs, addr.Unmap())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	s.IPAddresses = slices.Compact(addrs)
	return s
}

// Issue makes a certificate for subject, signed by the authority, and proves it before returning it: Wrong finds nothing
// wrong with it. rand gives the serial number.
//
// It begins BackDate before now, yet not before its authority, and ends after the declared validity, yet not after its
// authority: some verifiers want the one inside the other. shortened is how much earlier it therefore ends than declared,
// 0 when that is less than a day; tell the operator, who should replace the authority in good time.
//
// It fails when the declaration is wrong, when the key is of another kind than declared or is the authority's own, and when
// the authority cannot issue: its key is another's, it is no authority, is not valid yet (mend the clock), has expired, or
// has less than a day left.
func Issue(rand io.Reader, now time.Time, authority Certificate, authorityKey PrivateKey, subject Subject, spec LeafSpec) (cert Certificate, shortened time.Duration, err error) {
	spec = spec.normal()
	if err := canIssue(now, authority, authorityKey, subject, spec); err != nil {
		return Certificate{}, 0, fmt.Errorf("issue the %s certificate %q: %w", spec.Usage, spec.CommonName, err)
	}
	template, shortened := leafTemplate(now, authority, subject, spec)
	cert, err = sign(rand, template, authority.Certificate, subject, authorityKey)
	if err != nil {
		return Certificate{}, 0, fmt.Errorf("issue the %s certificate %q: %w", spec.Usage, spec.CommonName, err)
	}
	if wrong := Wrong(cert, subject, authority, spec, now, 0); len(wrong) > 0 {
		return Certificate{}, 0, fmt.Errorf("issue the %s certificate %q: what was made is wrong: %s", spec.Usage, spec.CommonName, Sentences(wrong))
	}
	return cert, shortened, nil
}

func canIssue(now time.Time, authority Certificate, authorityKey PrivateKey, subject Subject, spec LeafSpec) error {
	if err := inOneLine(spec.Check(), checkClock(now)); err != nil {
		return err
	}
	switch {
	case authority.IsZero():
		return errors.New("there is no authority")
	case authorityKey.IsZero():
		return errors.New("there is no private key of the authority here")
	case subject.IsZero():
		return errors.New("there is no key to make it for")
	}
	if found := brokenAuthority(authority, authorityKey, now); len(found) > 0 {
		return fmt.Errorf("the authority %q cannot issue: %s", authority.Subject.CommonName, Sentences(found))
	}
	switch left := authority.NotAfter.Sub(now); {
	case left < leastAuthorityLife:
		return fmt.Errorf("the authority %q expires in %s, too soon to issue anything", authority.Subject.CommonName, length(left))
	case subject.Matches(authority): // Fits, with words
		return errors.New("the key is the authority's own, which must not leave it")
	case subject.Algorithm() != spec.Algorithm:
		return fmt.Errorf("the key is %s, declared is %s", subject.Algorithm(), spec.Algorithm)
	case spec.CommonName == authority.Subject.CommonName:
		return errors.New("the common name is the authority's own")
	}
	return nil
}

// Fits says that the key can stay when the certificate is made anew: it is there, of the declared kind, and not the
// authority's own. A new certificate over the same key has no moment in which the two files do not match.
func (k PrivateKey) Fits(authority Certificate, spec LeafSpec) bool {
	return !k.IsZero() && !k.Matches(authority) && k.Algorithm() == spec.Algorithm.orDefault()
}

func leafTemplate(now time.Time, authority Certificate, subject Subject, spec LeafSpec) (template *x509.Certificate, shortened time.Duration) {
	spki, err := x509.MarshalPKIXPublicKey(subject.public())
	if err != nil {
		panic(fmt.Sprintf("pki: a key of kind %s has no public form: %v", subject.Algorithm(), err)) // it was encoded before
	}
	begin, end := seconds(now.Add(-BackDate)), seconds(now.Add(spec.Validity))
	if begin.Before(authority.NotBefore) {
		begin = authority.NotBefore
	}
	if end.After(authority.NotAfter) {
		shortened, end = end.Sub(authority.NotAfter), authority.NotAfter
	}
	if shortened < Day {
		shortened = 0
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: spec.CommonName},
		DNSNames:              spec.DNSNames,
		IPAddresses:           netIPs(spec.IPAddresses),
		NotBefore:             begin,
		NotAfter:              end,
		KeyUsage:              leafUsage(spec.Algorithm),
		ExtKeyUsage:           []x509.ExtKeyUsage{spec.Usage.extended()},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyIDOf(spki),
		AuthorityKeyId:        authority.keyID(),
	}, shortened
}

// leafUsage adds keyEncipherment for RSA, which TLS 1.2 may exchange keys with (RFC 5246, 7.4.2).
func leafUsage(algorithm Algorithm) x509.KeyUsage {
	if strings.HasPrefix(string(algorithm), "rsa-") {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

func netIPs(addrs []netip.Addr) []net.IP {
	var ips []net.IP
	for _, addr := range addrs {
		ips = append(ips, addr.AsSlice())
	}
	return ips
}

// signedBy checks the signature alone: not the names, not the times.
func signedBy(cert, authority Certificate) bool {
	return authority.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// IssuedBy says whether the authority has signed the certificate.
func (c Certificate) IssuedBy(authority Certificate) bool {
	return !c.IsZero() && !authority.IsZero() && issuedBy(c, authority) && signedBy(c, authority)
}

// issuedBy says that the certificate names this authority as its issuer: by name, and by key identifier if it has one.
func issuedBy(cert, authority Certificate) bool {
	return bytes.Equal(cert.RawIssuer, authority.RawSubject) &&
		(len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, authority.keyID()))
}
