package pki

import (
	"fmt"
	"strings"
)

// A Kind is what sort of thing is wrong, for code that decides by it.
type Kind string

const (
	CertificateMissing Kind = "certificate-missing"
	KeyMissing         Kind = "key-missing"
	KeyMismatch        Kind = "key-mismatch"    // the private key is not the certificate's
	SharedKey          Kind = "shared-key"      // the key is the authority's own
	OtherAuthority     Kind = "other-authority" // another issuer; of an authority: not self-signed
	BadSignature       Kind = "bad-signature"   // the right issuer by name, another by key
	WeakSignature      Kind = "weak-signature"  // MD5 or SHA-1
	WrongAlgorithm     Kind = "wrong-algorithm" // another kind of key than declared
	WeakKey            Kind = "weak-key"        // of an authority: nothing that it signs is accepted everywhere
	WrongName          Kind = "wrong-name"      // the common name
	WrongNames         Kind = "wrong-names"     // host names and addresses
	WrongUsage         Kind = "wrong-usage"     // the extended key usage
	WrongKeyUsage      Kind = "wrong-key-usage" // the key usage
	IsAuthority        Kind = "is-authority"    // CA:true where a leaf is wanted
	NotAuthority       Kind = "not-authority"   // no CA:true where an authority is wanted
	NoKeyID            Kind = "no-key-id"       // no subject or authority key identifier
	BadSerial          Kind = "bad-serial"      // a serial number that RFC 5280 does not allow
	WrongValidity      Kind = "wrong-validity"  // made for another time than declared
	OutlivesAuthority  Kind = "outlives-authority"
	NotYetValid        Kind = "not-yet-valid"
	InWindow           Kind = "in-renewal-window"
	Expired            Kind = "expired"
	BadChain           Kind = "bad-chain" // does not verify, for a reason that has no Kind of its own

	ListMissing    Kind = "no-revocation-list"
	ListIncomplete Kind = "not-on-the-list"  // a revoked certificate is missing from a revocation list
	ListForeign    Kind = "only-on-the-list" // a revocation list has a certificate that was not revoked
)

// A Reason is one thing that is wrong with a certificate.
type Reason struct {
	Kind   Kind
	Text   string // for the operator: lower case, no full stop
	Broken bool   // it does not work as it stands; else it works, but is not as declared
}

func (r Reason) String() string { return r.Text }

// Sentences joins reasons into one line, in their order.
func Sentences(found []Reason) string {
	var said []string
	for _, reason := range found {
		said = append(said, reason.Text)
	}
	return strings.Join(said, "; ")
}

type reasons []Reason

func broken(kind Kind, text string, args ...any) Reason {
	return Reason{kind, fmt.Sprintf(text, args...), true}
}

func (r *reasons) broken(kind Kind, text string, args ...any) {
	*r = append(*r, broken(kind, text, args...))
}

func (r *reasons) differs(kind Kind, text string, args ...any) {
	*r = append(*r, Reason{kind, fmt.Sprintf(text, args...), false})
}

func (r reasons) has(kind Kind) bool {
	for _, reason := range r {
		if reason.Kind == kind {
			return true
		}
	}
	return false
}

func (r reasons) anyBroken() bool {
	for _, reason := range r {
		if reason.Broken {
			return true
		}
	}
	return false
}
