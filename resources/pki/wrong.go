package pki

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Wrong returns every reason to issue the certificate anew, in a fixed order; nothing when it is as declared. It compares the
// certificate with its private key (or, where that is elsewhere, with the request), with the authority that it should come from, with the declaration, which must pass
// Check, and with the clock.
//
// Within renewBefore of its end a certificate is due (see RenewBefore). A window of more than half the declared validity
// counts as that half, else every run would renew; and no window applies when a new certificate could not last longer,
// because the authority itself ends: that is for WrongAuthority to say.
//
// Another declared validity is a reason too, so that lowering or raising expire_in_days does something. It is read from the
// certificate alone (end less beginning, give or take BackDate and a day), so a clock that jumps changes nothing. A
// certificate that was shortened to the end of its authority is as declared.
func Wrong(cert Certificate, subject Subject, authority Certificate, spec LeafSpec, now time.Time, renewBefore time.Duration) []Reason {
	switch {
	case cert.IsZero():
		return []Reason{broken(CertificateMissing, "there is no certificate")}
	case authority.IsZero():
		return []Reason{broken(OtherAuthority, "there is no authority to compare it with")}
	}
	spec = spec.normal()
	var found reasons
	found.addKey(cert, subject, authority, spec)
	found.addIssuer(cert, authority)
	found.addNames(cert, spec)
	found.addUsages(cert, spec)
	found.addForm(cert)
	found.addBounds(cert, now)
	found.addValidity(cert, authority, spec)
	found.addWindow(cert, authority, spec, now, renewBefore)
	switch {
	case !found.anyBroken():
		found.addChain(cert, authority, spec, now)
	case issuedBy(cert, authority) && !weakSignature(cert) && !signedBy(cert, authority):
		found.addBadSignature(authority)
	}
	return found
}

func (r *reasons) addKey(cert Certificate, key Subject, authority Certificate, spec LeafSpec) {
	switch {
	case key.IsZero():
		r.broken(KeyMissing, "there is no private key")
	case !key.Matches(cert):
		r.broken(KeyMismatch, "the private key does not belong to the certificate")
	}
	if key.Matches(authority) || samePublic(cert.PublicKey, authority.PublicKey) {
		r.broken(SharedKey, "the key is the authority's own, which must not leave it")
	}
	switch {
	case weak(cert.PublicKey):
		r.broken(WrongAlgorithm, "the key is %s, which OpenSSL refuses as too weak; declared is %s", cert.Algorithm(), spec.Algorithm)
	case cert.Algorithm() != spec.Algorithm:
		r.differs(WrongAlgorithm, "the key is %s, declared is %s", cert.Algorithm(), spec.Algorithm)
	}
}

func (r *reasons) addIssuer(cert, authority Certificate) {
	switch {
	case !issuedBy(cert, authority):
		r.broken(OtherAuthority, "issued by another authority: %s, not by %s",
			authorityName(cert.Issuer.CommonName, cert.AuthorityKeyId), authorityName(authority.Subject.CommonName, authority.keyID()))
	case weakSignature(cert):
		r.broken(WeakSignature, "signed with %s, which OpenSSL refuses as too weak", cert.SignatureAlgorithm)
	}
}

func (r *reasons) addBadSignature(authority Certificate) {
	r.broken(BadSignature, "the signature does not verify with the authority %s", authorityName(authority.Subject.CommonName, authority.keyID()))
}

// authorityName tells authorities of one name apart by the first bytes of the key's identifier.
func authorityName(cn string, keyID []byte) string {
	if len(keyID) == 0 {
		return fmt.Sprintf("%q (no key id)", cn)
	}
	return fmt.Sprintf("%q (key id %s)", cn, hex.EncodeToString(keyID[:min(len(keyID), 8)]))
}

func weakSignature(cert Certificate) bool {
	switch cert.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

func (r *reasons) addNames(cert Certificate, spec LeafSpec) {
	if cn := commonNames(cert); len(cn) != 1 || cn[0] != spec.CommonName {
		r.differs(WrongName, "the common name is %s, declared is %q", quoted(cn), spec.CommonName)
	}
	has, wants := altNames(cert), specNames(spec)
	missing, unwanted := lacking(wants, has), lacking(has, wants)
	if len(missing) == 0 && len(unwanted) == 0 {
		return
	}
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, "missing "+strings.Join(missing, ", "))
	}
	if len(unwanted) > 0 {
		parts = append(parts, "not wanted "+strings.Join(unwanted, ", "))
	}
	r.differs(WrongNames, "the names differ: %s", strings.Join(parts, "; "))
}

// commonNames returns all of them: PostgreSQL takes the first, crypto/x509 the last.
func commonNames(cert Certificate) []string {
	var names []string
	for _, part := range cert.Subject.Names {
		if part.Type.String() == "2.5.4.3" {
			names = append(names, fmt.Sprint(part.Value))
		}
	}
	return names
}

func quoted(names []string) string {
	var said []string
	for _, name := range names {
		said = append(said, fmt.Sprintf("%q", name))
	}
	if len(said) == 0 {
		return "missing"
	}
	return strings.Join(said, " and ")
}

// altNames lists all alternative names of a certificate, sorted, each once, in a form that is safe to print.
func altNames(cert Certificate) []string {
	var names []string
	for _, name := range cert.DNSNames {
		names = append(names, printable(strings.ToLower(name)))
	}
	for _, ip := range cert.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip) // crypto/x509 reads 4 or 16 bytes only
		names = append(names, addr.Unmap().String())
	}
	for _, email := range cert.EmailAddresses {
		names = append(names, "email "+printable(email))
	}
	for _, uri := range cert.URIs {
		names = append(names, "URI "+printable(uri.String()))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// printable quotes a name that a host name cannot look like.
func printable(name string) string {
	if CheckDNSName(name) == nil {
		return name
	}
	return fmt.Sprintf("%q", name)
}

func specNames(spec LeafSpec) []string {
	names := slices.Clone(spec.DNSNames)
	for _, addr := range spec.IPAddresses {
		names = append(names, addr.String())
	}
	slices.Sort(names)
	return names
}

// lacking returns the words of a that b has not.
func lacking(a, b []string) []string {
	var left []string
	for _, word := range a {
		if !slices.Contains(b, word) {
			left = append(left, word)
		}
	}
	return left
}

func (r *reasons) addUsages(cert Certificate, spec LeafSpec) {
	if cert.IsCA {
		r.differs(IsAuthority, "an authority's certificate (CA:true) where a leaf is wanted")
	}
	want := spec.Usage.extended()
	switch has := extendedUsages(cert); {
	case len(has) == 0:
		r.differs(WrongUsage, "no extended key usage, wanted is %s", want)
	case !slices.Contains(cert.ExtKeyUsage, want):
		r.broken(WrongUsage, "the extended key usage is %s, wanted is %s", strings.Join(has, " and "), want)
	case len(has) > 1:
		r.differs(WrongUsage, "the extended key usage is %s, wanted is %s alone", strings.Join(has, " and "), want)
	}
	if want := leafUsage(cert.Algorithm()); cert.KeyUsage != want {
		r.differs(WrongKeyUsage, "the key usage is %s, wanted is %s", keyUsages(cert.KeyUsage), keyUsages(want))
	}
}

func extendedUsages(cert Certificate) []string {
	var names []string
	for _, usage := range cert.ExtKeyUsage {
		names = append(names, usage.String())
	}
	for _, oid := range cert.UnknownExtKeyUsage {
		names = append(names, oid.String())
	}
	return names
}

// keyUsages writes the bits by the names of RFC 5280, 4.2.1.3.
func keyUsages(usage x509.KeyUsage) string {
	if usage == 0 {
		return "missing"
	}
	names := []string{"digitalSignature", "contentCommitment", "keyEncipherment", "dataEncipherment", "keyAgreement",
		"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"}
	var has []string
	for bit, name := range names {
		if usage&(1<<bit) != 0 {
			has = append(has, name)
		}
	}
	return strings.Join(has, "+")
}

func (r *reasons) addForm(cert Certificate) {
	if len(cert.SubjectKeyId) == 0 || len(cert.AuthorityKeyId) == 0 {
		r.differs(NoKeyID, "no subject or no authority key identifier")
	}
	if cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 159 {
		r.differs(BadSerial, "the serial number is not one of 1 to 20 octets above 0")
	}
}

// addBounds compares the certificate's own bounds with the clock.
func (r *reasons) addBounds(cert Certificate, now time.Time) {
	switch {
	case now.After(cert.NotAfter):
		r.broken(Expired, "expired on %s", date(cert.NotAfter))
	case now.Before(cert.NotBefore):
		r.broken(NotYetValid, "not valid before %s, and the clock says %s", date(cert.NotBefore), date(now))
	}
}

func (r *reasons) addValidity(cert, authority Certificate, spec LeafSpec) {
	if cert.NotAfter.After(authority.NotAfter) {
		r.differs(OutlivesAuthority, "ends on %s, after its authority, which ends on %s", date(cert.NotAfter), date(authority.NotAfter))
		return
	}
	made := cert.NotAfter.Sub(cert.NotBefore)
	shortened := cert.NotAfter.Equal(authority.NotAfter)
	if made > spec.Validity+BackDate+Day || made < spec.Validity-Day && !shortened {
		r.differs(WrongValidity, "valid from %s to %s, declared are %s", date(cert.NotBefore), date(cert.NotAfter), length(spec.Validity))
	}
}

func (r *reasons) addWindow(cert, authority Certificate, spec LeafSpec, now time.Time, renewBefore time.Duration) {
	left, window := cert.NotAfter.Sub(now), min(renewBefore, spec.Validity/2)
	if left < 0 || left > window || !authority.NotAfter.After(cert.NotAfter) {
		return
	}
	r.differs(InWindow, "expires in %s, inside the renewal window of %s", length(left), length(window))
}

// addChain asks crypto/x509 for a last word: on the signature, and on what the checks before did not look at, such as a
// critical extension that nobody knows.
func (r *reasons) addChain(cert, authority Certificate, spec LeafSpec, now time.Time) {
	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate)
	options := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{spec.Usage.extended()}}
	switch _, err := cert.Verify(options); {
	case err == nil:
	case !signedBy(cert, authority):
		r.addBadSignature(authority)
	default:
		r.broken(BadChain, "does not verify with its authority: %v", err)
	}
}
