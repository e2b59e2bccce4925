package hba

import "slices"

// A Demand is what a rule wants to see of a client before it lets it in.
type Demand struct {
	Proof       Proof       // how the client proves that it is the user
	Certificate Certificate // what certificate it has to present beside that
}

// A Proof is the kind of an authentication method.
type Proof int

// The proofs that methods ask for.
const (
	Rejected      Proof = iota // reject: nobody gets in
	Nothing                    // trust: everybody gets in
	Password                   // md5, scram-sha-256, password, ldap, pam, radius, bsd
	SystemUser                 // peer, ident: the account on the client's machine
	Ticket                     // gss, sspi
	BearerToken                // oauth
	ByCertificate              // cert: the certificate is the proof
)

// A Certificate is a kind of client certificate, from the worst to the best: where one will do, the later ones do too.
type Certificate int

// The kinds of certificates, of those that a client can present and a rule can ask for. One that the server's CA file does
// not vouch for is none; it can be worse than none, because the server breaks off the handshake.
const (
	NoCertificate    Certificate = iota
	TrustedByTheCA               // any certificate of the server's CA, whosever it is
	CertifiesTheUser             // one whose name is that of the user, or is mapped to the user
)

// Demand says what the rule wants to see. It follows the server's version, as the parsed options do: on 10 and 11 only
// clientcert=1 and the method cert ask for a certificate.
func (r *Rule) Demand() Demand {
	d := Demand{Proof: proofs[r.Method]}
	switch {
	case r.Method == "cert" || slices.Contains(r.Options, "clientcert=verify-full"):
		d.Certificate = CertifiesTheUser
	case slices.Contains(r.Options, "clientcert=verify-ca") || slices.Contains(r.Options, "clientcert=true"):
		d.Certificate = TrustedByTheCA
	}
	return d
}

var proofs = map[string]Proof{
	"reject": Rejected, "trust": Nothing, "md5": Password, "scram-sha-256": Password, "password": Password, "ldap": Password,
	"pam": Password, "radius": Password, "bsd": Password, "peer": SystemUser, "ident": SystemUser, "gss": Ticket, "sspi": Ticket,
	"oauth": BearerToken, "cert": ByCertificate,
}

// Admits tells whether a client with this certificate gets in, if it has everything else that the rule asks for.
func (d Demand) Admits(shown Certificate) bool {
	return d.Proof != Rejected && shown >= d.Certificate
}

// String says what to show in a few words, like "a password and the user's own certificate".
func (d Demand) String() string {
	proof := [...]string{
		Rejected: "rejected", Nothing: "nothing", Password: "a password", SystemUser: "the system user", Ticket: "a Kerberos ticket",
		BearerToken: "an OAuth token",
	}
	certificate := [...]string{TrustedByTheCA: "any certificate of the CA", CertifiesTheUser: "the user's own certificate"}
	switch {
	case d.Proof == Rejected || d.Certificate == NoCertificate:
		return proof[d.Proof]
	case d.Proof == ByCertificate || d.Proof == Nothing:
		return certificate[d.Certificate]
	}
	return proof[d.Proof] + " and " + certificate[d.Certificate]
}
