package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"
)

// A RevocationList is one X.509 CRL (RFC 5280, 5): the serial numbers that an authority takes back. The zero
// RevocationList is none.
type RevocationList struct{ *x509.RevocationList }

// A Revoked is one certificate that its authority takes back.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason RevocationReason
}

// A RevocationReason is why, by the numbers of RFC 5280, 5.3.1.
type RevocationReason int

// The reasons that are used here. Unspecified is left out of the list, as RFC 5280, 5.3.1 wants.
const (
	Unspecified          RevocationReason = 0
	CessationOfOperation RevocationReason = 5
)

// ParseRevocationLists reads a PEM file of one revocation list or more, in its order. A block that is damaged or is no
// revocation list makes an error, never a shorter answer: what is left out is taken back no more. Errors are *ParseError.
func ParseRevocationLists(data []byte) ([]RevocationList, error) {
	blocks, damage := pemBlocks(data)
	if damage != "" {
		return nil, noList("%s", damage)
	}
	var lists []RevocationList
	for _, block := range blocks {
		if block.Type != crlBlock {
			return nil, noList("%s", nameOf(block))
		}
		parsed, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, noList("a damaged revocation list (%v)", err)
		}
		lists = append(lists, RevocationList{parsed})
	}
	return lists, nil
}

const crlBlock = "X509 CRL"

func noList(found string, args ...any) error {
	return &ParseError{Want: "a revocation list", Found: fmt.Sprintf(found, args...)}
}

// RevocationLists joins lists into one PEM file, in the order given, as PostgreSQL takes it for ssl_crl_file.
func RevocationLists(lists ...RevocationList) []byte {
	var out bytes.Buffer
	for _, l := range lists {
		out.Write(l.PEM())
	}
	return out.Bytes()
}

// PEM returns the list as one PEM block; nil for the zero RevocationList.
func (l RevocationList) PEM() []byte {
	if l.IsZero() {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: crlBlock, Bytes: l.Raw})
}

// IsZero says that there is no list.
func (l RevocationList) IsZero() bool { return l.RevocationList == nil }

// NamesIssuer says that the list names this authority as its issuer: by name, and by key identifier if it has one.
func (l RevocationList) NamesIssuer(authority Certificate) bool {
	return !l.IsZero() && !authority.IsZero() && bytes.Equal(l.RawIssuer, authority.RawSubject) &&
		(len(l.AuthorityKeyId) == 0 || bytes.Equal(l.AuthorityKeyId, authority.keyID()))
}

// IssuedBy says whether the authority has signed the list.
func (l RevocationList) IssuedBy(authority Certificate) bool {
	return l.NamesIssuer(authority) && l.CheckSignatureFrom(mayRevoke(authority)) == nil
}

// Revokes says whether a serial number is on the list.
func (l RevocationList) Revokes(serial *big.Int) bool {
	return slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 })
}

// mayRevoke is the authority as crypto/x509 wants it to be: without a key usage extension every usage is allowed (RFC
// 5280, 4.2.1.3), and crypto/x509 asks for the bit all the same.
func mayRevoke(authority Certificate) *x509.Certificate {
	c := *authority.Certificate
	if c.KeyUsage == 0 {
		c.KeyUsage = x509.KeyUsageCRLSign
	}
	c.SubjectKeyId = authority.keyID()
	return &c
}

// KeyID names an authority by its key, in lower-case hex digits; "" for the zero Certificate. A certificate that it has
// signed names it by the same (IssuerKeyID).
func (c Certificate) KeyID() string {
	if c.IsZero() {
		return ""
	}
	return hex.EncodeToString(c.keyID())
}

// IssuerKeyID names the authority that has signed the certificate; "" where the certificate does not say.
func (c Certificate) IssuerKeyID() string {
	if c.IsZero() {
		return ""
	}
	return hex.EncodeToString(c.AuthorityKeyId)
}

// NewRevocationList signs a list. It begins BackDate before now, yet not before its authority, and ends with its authority:
// a server refuses every client of an authority whose list has ended, so one that ends earlier than it has to is a danger
// that gains nothing where the list lies on the server's own disk. The entries are sorted by serial number.
//
// It fails when the authority's key usage does not allow it (RFC 5280, 4.2.1.3: cRLSign), when the authority cannot issue,
// and when the number is not one of 1 to 20 octets above 0 (RFC 5280, 5.2.3).
func NewRevocationList(rand io.Reader, now time.Time, authority Certificate, key PrivateKey, number *big.Int, revoked []Revoked) (RevocationList, error) {
	list, err := newRevocationList(rand, now, authority, key, number, revoked)
	if err != nil {
		return RevocationList{}, fmt.Errorf("make a revocation list: %w", err)
	}
	return list, nil
}

func newRevocationList(rand io.Reader, now time.Time, authority Certificate, key PrivateKey, number *big.Int, revoked []Revoked) (RevocationList, error) {
	if err := canRevoke(now, authority, key); err != nil {
		return RevocationList{}, err
	}
	if number == nil || number.Sign() <= 0 || number.BitLen() > 159 {
		return RevocationList{}, errors.New("its number is not one of 1 to 20 octets above 0")
	}
	template := &x509.RevocationList{
		Number: number, ThisUpdate: listBegin(now, authority), NextUpdate: authority.NotAfter, RevokedCertificateEntries: entries(revoked),
	}
	der, err := x509.CreateRevocationList(rand, template, mayRevoke(authority), key.held().signer)
	if err != nil {
		return RevocationList{}, fmt.Errorf("sign: %w", err)
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return RevocationList{}, fmt.Errorf("read back what was signed: %w", err)
	}
	list := RevocationList{parsed}
	if wrong := WrongRevocationList(list, authority, revoked, now); len(wrong) > 0 {
		return RevocationList{}, fmt.Errorf("what was made is wrong: %s", Sentences(wrong))
	}
	return list, nil
}

func canRevoke(now time.Time, authority Certificate, key PrivateKey) error {
	switch {
	case authority.IsZero():
		return errors.New("there is no authority")
	case key.IsZero():
		return errors.New("there is no private key of the authority here")
	case authority.KeyUsage != 0 && authority.KeyUsage&x509.KeyUsageCRLSign == 0:
		return fmt.Errorf("the key usage of the authority %q does not include signing revocation lists", authority.Subject.CommonName)
	}
	if err := checkClock(now); err != nil {
		return err
	}
	if found := brokenAuthority(authority, key, now); len(found) > 0 {
		return fmt.Errorf("the authority %q cannot sign: %s", authority.Subject.CommonName, Sentences(found))
	}
	return nil
}

func listBegin(now time.Time, authority Certificate) time.Time {
	begin := seconds(now.Add(-BackDate))
	if begin.Before(authority.NotBefore) {
		return authority.NotBefore
	}
	return begin
}

// entries sorts, so that the same revocations give the same list.
func entries(revoked []Revoked) []x509.RevocationListEntry {
	var out []x509.RevocationListEntry
	for _, r := range revoked {
		out = append(out, x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: seconds(r.At), ReasonCode: int(r.Reason)})
	}
	slices.SortFunc(out, func(a, b x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) })
	return out
}

// WrongRevocationList returns every reason to make the list anew, in a fixed order; nothing when it is the authority's own,
// takes back just these certificates, and is not near its end. What is Broken would lock out clients that it must not, or
// let in some that it must not.
func WrongRevocationList(list RevocationList, authority Certificate, revoked []Revoked, now time.Time) []Reason {
	if list.IsZero() {
		return []Reason{broken(ListMissing, "there is no revocation list of %s", authorityName(authority.Subject.CommonName, authority.keyID()))}
	}
	found := brokenList(list, authority, now)
	for _, r := range revoked {
		if !list.Revokes(r.Serial) {
			found.broken(ListIncomplete, "the serial number %x is not on it", r.Serial)
		}
	}
	for _, e := range list.RevokedCertificateEntries {
		if !slices.ContainsFunc(revoked, func(r Revoked) bool { return r.Serial.Cmp(e.SerialNumber) == 0 }) {
			found.broken(ListForeign, "the serial number %x is on it, and was not revoked", e.SerialNumber)
		}
	}
	if left, window := list.NextUpdate.Sub(now), RenewBefore(list.NextUpdate.Sub(list.ThisUpdate)); list.NextUpdate.Before(authority.NotAfter) &&
		!list.NextUpdate.IsZero() && left >= 0 && left <= window {
		found.differs(InWindow, "it ends in %s, on %s", length(left), date(list.NextUpdate))
	}
	return found
}

// UnsafeRevocationList returns why a server with this list would turn away the authority's clients, all of them; nothing
// when it would turn away those on the list alone.
func UnsafeRevocationList(list RevocationList, authority Certificate, now time.Time) []Reason {
	if list.IsZero() {
		return WrongRevocationList(list, authority, nil, now)
	}
	return brokenList(list, authority, now)
}

// brokenList finds what makes OpenSSL refuse the list, and with it every certificate of the authority: with
// X509_V_FLAG_CRL_CHECK, which PostgreSQL sets, no list and no good list are the same.
func brokenList(list RevocationList, authority Certificate, now time.Time) reasons {
	var found reasons
	switch {
	case !list.NamesIssuer(authority):
		found.broken(OtherAuthority, "it is of another authority than %s", authorityName(authority.Subject.CommonName, authority.keyID()))
	case !list.IssuedBy(authority):
		found.broken(BadSignature, "its signature does not verify with the authority %s", authorityName(authority.Subject.CommonName, authority.keyID()))
	}
	switch {
	case !list.NextUpdate.IsZero() && now.After(list.NextUpdate):
		found.broken(Expired, "it ended on %s", date(list.NextUpdate))
	case now.Before(list.ThisUpdate):
		found.broken(NotYetValid, "it begins on %s, and the clock says %s", date(list.ThisUpdate), date(now))
	}
	return found
}

// NewProbe makes a client certificate with which nobody can ever log in, because it ended a second after its authority
// began, with its key. Put on a revocation list, it shows whether a server has loaded this very list: OpenSSL asks for
// revocation before it asks for the time (verify_chain in crypto/x509/x509_vfy.c), so a handshake with it is answered
// with certificate_revoked by a server that has the list, and with certificate_expired by one that has not.
func NewProbe(rand io.Reader, now time.Time, authority Certificate, key PrivateKey, name string) (Certificate, PrivateKey, error) {
	if err := canRevoke(now, authority, key); err != nil {
		return Certificate{}, PrivateKey{}, fmt.Errorf("make a revoked certificate: %w", err)
	}
	own, err := GenerateKey(rand, ECDSAP256)
	if err != nil {
		return Certificate{}, PrivateKey{}, err
	}
	spec := LeafSpec{CommonName: name, Usage: Client, Algorithm: ECDSAP256, Validity: Day}
	template, _ := leafTemplate(now, authority, own, spec)
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = authority.NotBefore, authority.NotBefore.Add(time.Second)
	cert, err := sign(rand, template, authority.Certificate, own, key)
	if err != nil {
		return Certificate{}, PrivateKey{}, fmt.Errorf("make a revoked certificate: %w", err)
	}
	if !now.After(cert.NotAfter) {
		return Certificate{}, PrivateKey{}, fmt.Errorf("make a revoked certificate: the authority begins on %s, and the clock says %s", date(authority.NotBefore), date(now))
	}
	return cert, own, nil
}
