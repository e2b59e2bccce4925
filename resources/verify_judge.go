package resources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"converge/resources/postgres"
)

// A Reason is one of the usual reasons why a key does not work, for programs.
type Reason string

const (
	KeyMissing    Reason = "key_missing"
	KeyUnreadable Reason = "key_unreadable"
	KeyTooOpen    Reason = "key_too_open"
	KeyMismatch   Reason = "key_mismatch"
	KeyEncrypted  Reason = "key_encrypted"

	RootMissing    Reason = "root_missing"
	RootUnreadable Reason = "root_unreadable"

	WrongAuthority       Reason = "wrong_authority"
	NameNotInCertificate Reason = "name_not_in_certificate"
	ServerExpired        Reason = "server_certificate_expired"
	ServerNotYetValid    Reason = "server_certificate_not_yet_valid"
	ServerRevoked        Reason = "server_certificate_revoked"
	ServerRefused        Reason = "server_certificate_refused"

	ClientExpired      Reason = "client_certificate_expired"
	ClientNotYetValid  Reason = "client_certificate_not_yet_valid"
	ClientRevoked      Reason = "client_certificate_revoked"
	ClientNotTrusted   Reason = "client_authority_not_trusted"
	ClientRefused      Reason = "client_certificate_refused"
	NoCertificateAsked Reason = "no_certificate_asked"
	CertificateWanted  Reason = "certificate_required"
	NotTheRoles        Reason = "certificate_not_the_roles"

	HBARejects      Reason = "hba_rejects"
	NoHBALine       Reason = "no_hba_line"
	RoleMissing     Reason = "role_missing"
	RoleNoLogin     Reason = "role_may_not_log_in"
	DatabaseMissing Reason = "database_missing"
	DatabaseDenied  Reason = "database_denied"
	PasswordWrong   Reason = "password_wrong"
	PasswordNeeded  Reason = "password_needed"
	OtherMethod     Reason = "other_method"

	NameUnknown       Reason = "host_unknown"
	NotListening      Reason = "not_listening"
	NoRoute           Reason = "no_route"
	NoAnswer          Reason = "no_answer"
	NoTLS             Reason = "no_tls"
	NotPostgreSQL     Reason = "not_postgresql"
	NotReady          Reason = "not_ready"
	TooMany           Reason = "too_many_connections"
	HandshakeFailed   Reason = "handshake_failed"
	ServerError       Reason = "server_error"
	WrongRecovery     Reason = "wrong_recovery_state"
	PlaintextAdmitted Reason = "plaintext_admitted"
	SSLModeWithout    Reason = "sslmode_without_tls"
	UnixSocket        Reason = "unix_socket"
)

var socketOnly = fault{UnixSocket, "it goes through the unix socket, where there is no TLS and no key is used", "give the host by the name or address that other machines have for it"}

// judge says what the connection comes to.
func (p *proof) judge() {
	r := p.result
	if f := p.wrong(); f != nil {
		r.fail(*f)
		return
	}
	r.Result = ClientOK
	if p.login.Stage != postgres.LoggedIn {
		r.Result, r.Reason = ClientPasswordNeeded, PasswordNeeded
		r.Text = "TLS and the client's certificate are accepted; the server then asks for a password, and none is known"
		if p.client.certificate == nil || !p.login.Served.AsksForCertificate {
			r.Text = "TLS is accepted; the server then asks for a password, and none is known"
		}
		r.Mend = fmt.Sprintf("to log in as well: a line %s:%d:%s:%s:PASSWORD in %s, mode 0600", r.Host, r.Port, r.Database, r.User, p.passfileName())
	}
	p.remarks()
}

// wrong is the first thing that is wrong; nil: nothing, or a password is all that is missing.
func (p *proof) wrong() *fault {
	l := p.login
	switch l.Stage {
	case postgres.Unreachable:
		return p.unreached()
	case postgres.Greeted:
		return p.beforeTLS()
	case postgres.WithoutTLS:
		return &fault{NoTLS, "the server answers that it has no TLS: ssl is off, or it could not load its key", p.there("converge apply")}
	case postgres.Handshaking, postgres.Secured:
		return p.handshake()
	}
	switch {
	case l.Refusal != nil:
		return p.refused()
	case l.Err != nil:
		return &fault{ServerError, shortError(l.Err), p.there("look at the server's log")}
	case l.Stage == postgres.Answered && l.Asks != postgres.AsksPassword:
		return &fault{OtherMethod, fmt.Sprintf("TLS and the client's certificate are accepted; the server then asks for %s, which is not tried here", l.Asks), "psql, with what it takes"}
	}
	for _, wrong := range []func() *fault{p.certificateUnused, p.notTheRoles, p.recovery, p.plaintextIn, p.sslmode} {
		if f := wrong(); f != nil {
			return f
		}
	}
	return nil
}

// there is a command for the server's host.
func (p *proof) there(command string) string {
	if n := p.check.Node; n != nil && n.Name != p.v.Site.Node.Name {
		return "on " + n.Name + ": " + command
	}
	return command
}

// who is the server, in words.
func (p *proof) who() string {
	if n := p.check.Node; n != nil && n.Name != p.check.Endpoint.Host {
		return fmt.Sprintf("%s (%s)", n.Name, p.address())
	}
	return p.address()
}

func (p *proof) unreached() *fault {
	err := p.login.Err
	var dns *net.DNSError
	const start = "start the server, and look at listen_addresses and port in postgresql.conf"
	switch {
	case errors.As(err, &dns):
		return &fault{NameUnknown, fmt.Sprintf("the name %s has no address here", dns.Name), "put it into DNS or /etc/hosts, or connect by the address"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &fault{NotListening, fmt.Sprintf("connection refused: nothing listens at %s", p.who()), p.there(start)}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &fault{NoRoute, fmt.Sprintf("no route to %s: %s", p.who(), shortError(err)), "ip route get " + p.check.Endpoint.Dial()}
	case errors.Is(err, postgres.ErrNoAnswer), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return &fault{NoAnswer, fmt.Sprintf("no answer from %s within %s: a firewall drops the packets, or the host is down", p.who(), p.v.Timeout), "open the port between the two hosts: ip route get " + p.check.Endpoint.Dial() + "; nft list ruleset"}
	}
	return &fault{NotListening, shortError(err), p.there(start)}
}

// beforeTLS is an answer to the request for TLS that is none.
func (p *proof) beforeTLS() *fault {
	switch {
	case p.login.Refusal != nil:
		return p.refused()
	case errors.Is(p.login.Err, postgres.ErrNoAnswer):
		return &fault{NoAnswer, fmt.Sprintf("%s takes the connection and does not answer within %s", p.who(), p.v.Timeout), p.there("look at the server's log; kill -CONT, if somebody has stopped it")}
	}
	return &fault{NotPostgreSQL, fmt.Sprintf("%s: %s", p.who(), shortError(p.login.Err)), "give the host and port of a PostgreSQL server"}
}

// handshake says why there is no TLS, or why the server broke it off when it saw the client's certificate.
func (p *proof) handshake() *fault {
	var own *fault
	alert := p.login.Alert()
	switch {
	case errors.As(p.login.Err, &own):
		return own
	case errors.Is(p.login.Err, postgres.ErrNoAnswer):
		return &fault{NoAnswer, fmt.Sprintf("%s does not go on with TLS within %s", p.who(), p.v.Timeout), p.there("look at the server's log")}
	case p.client.certificate != nil && p.login.Served.AsksForCertificate && (alert != "" || p.login.Stage == postgres.Secured):
		return p.clientRefused(alert)
	case alert != "":
		return &fault{HandshakeFailed, "the server breaks TLS off: " + alert, p.there("look at the server's log, and at ssl_min_protocol_version and ssl_ciphers")}
	}
	return &fault{HandshakeFailed, "there is no TLS: " + shortError(p.login.Err), p.there("look at the server's log, and at ssl_min_protocol_version and ssl_ciphers")}
}

// clientRefused says why the server does not take the client's certificate. Its alert is a word; the dates of the certificate
// and the authorities that the server has named say more.
func (p *proof) clientRefused(alert string) *fault {
	leaf, now, name := p.client.leaf, p.v.Now(), p.check.Paths.Cert
	said := ""
	if alert != "" {
		said = " (" + alert + ")"
	}
	renew := p.mendFile("a new certificate in its place")
	switch {
	case now.After(leaf.NotAfter):
		return &fault{ClientExpired, fmt.Sprintf("%s expired on %s, and the server refuses it%s", name, leaf.NotAfter.UTC().Format(time.DateOnly), said), renew}
	case now.Before(leaf.NotBefore):
		return &fault{ClientNotYetValid, fmt.Sprintf("%s is valid from %s on only, and the server refuses it%s", name, leaf.NotBefore.UTC().Format(time.RFC3339), said), "set the clock (timedatectl), or wait"}
	case !p.serverTrustsIssuer():
		return &fault{ClientNotTrusted, fmt.Sprintf("%s is signed by %s, and the server trusts %s only%s", name, leaf.Issuer, strings.Join(p.login.Served.CANames(), " and "), said), p.mendFile("a certificate of an authority that the server trusts, or its authority in ssl_ca_file")}
	case strings.Contains(alert, "revoked"):
		return &fault{ClientRevoked, fmt.Sprintf("%s is revoked: the server refuses it%s", name, said), "a new key for " + p.result.User + ", if it is to get in again: converge rotate " + p.result.User}
	case strings.Contains(alert, "unknown certificate authority"):
		return &fault{ClientNotTrusted, fmt.Sprintf("%s is signed by %s; the server trusts an authority of that name and refuses it%s: its authority has another key, or it has no revocation list of it", name, leaf.Issuer, said), p.there("converge apply; then " + renew + " here")}
	case strings.Contains(alert, "expired"):
		return &fault{ClientRefused, fmt.Sprintf("the server refuses %s as expired, which it is not: its revocation list is, or its clock is ahead", name), p.there("converge apply; timedatectl")}
	case strings.Contains(alert, "unsupported"):
		return &fault{ClientRefused, fmt.Sprintf("the server refuses %s%s: it is not for clients (extended key usage clientAuth)", name, said), renew}
	case alert == "":
		return &fault{ClientRefused, fmt.Sprintf("the server broke the connection off after the handshake, which is when it looks at %s", name), p.there("look at the server's log")}
	}
	return &fault{ClientRefused, fmt.Sprintf("the server refuses %s%s", name, said), p.there("look at the server's log")}
}

// serverTrustsIssuer compares names by their text: OpenSSL too takes those for the same that are only encoded differently.
func (p *proof) serverTrustsIssuer() bool {
	issuer := postgres.Served{AcceptableCAs: [][]byte{p.client.leaf.RawIssuer}}.CANames()
	return slices.ContainsFunc(p.login.Served.CANames(), func(name string) bool { return strings.EqualFold(name, issuer[0]) })
}

// refused says what a server means that answers with an error.
func (p *proof) refused() *fault {
	l, r := p.login, p.result
	said := l.Refusal.String()
	switch code := l.Refusal.Code; {
	case code == "28P01":
		return p.passwordFailed(said)
	case code == "F0000" && !l.Served.AsksForCertificate:
		return p.certificateWanted(said) // it wants one, and has nothing to verify it with
	case code == "28000":
		return p.notAuthorized(said)
	case code == "3D000":
		return &fault{DatabaseMissing, fmt.Sprintf("%s; everything before that went well", said), p.there("createdb "+r.Database) + ", or another one: --database"}
	case code == "42501":
		return &fault{DatabaseDenied, said, fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", r.Database, r.User)}
	case code == "53300":
		return &fault{TooMany, said, p.there("close some, or raise max_connections")}
	case strings.HasPrefix(code, "57P"):
		return &fault{NotReady, said, "wait until it is up, and run it again"}
	}
	return &fault{ServerError, fmt.Sprintf("%s (%s)", said, l.Refusal.Code), p.there("look at the server's log")}
}

// passwordFailed tells a wrong password from what PostgreSQL calls by the same words: a certificate in another name under
// clientcert=verify-full, and a role that does not exist.
func (p *proof) passwordFailed(said string) *fault {
	name, line := p.certificateName(), p.result.HBA
	another := name != "" && name != p.result.User
	switch {
	case p.ownOf().roleMissing(p.result.User):
		return p.roleMissing(fmt.Sprintf("there is no role %q that may log in; the server says: %s", p.result.User, said))
	case another && line != nil && comparesNames(line.Rule):
		return &fault{NotTheRoles, fmt.Sprintf("the certificate is in the name of %q, and the role is %q: that is what clientcert=verify-full calls: %s", name, p.result.User, said), p.mendName(name)}
	case another && line == nil:
		return &fault{NotTheRoles, fmt.Sprintf("%s: the certificate is in the name of %q, which is what clientcert=verify-full calls so; or else the password is wrong. The server says no more", said, name), p.mendName(name)}
	}
	return &fault{PasswordWrong, fmt.Sprintf("%s: the password is wrong, or there is no such role; the server says no more. TLS is accepted, and so is a certificate, where it asks for one", said), "the right password in " + p.passfileName()}
}

// comparesNames says whether a line with a password wants the certificate to be the role's own, beside it.
func comparesNames(rule string) bool { return strings.Contains(rule, "clientcert=verify-full") }

func (p *proof) ownOf() *ownServer { return p.ownServer(context.Background(), p.login.Remote) }

func (p *proof) roleMissing(text string) *fault {
	return &fault{RoleMissing, text, p.there("createuser " + p.result.User)}
}

// certificateName is the common name of the certificate that was shown; "" for none.
func (p *proof) certificateName() string {
	if p.client.certificate == nil || !p.login.Served.AsksForCertificate {
		return ""
	}
	return p.client.leaf.Subject.CommonName
}

func (p *proof) mendName(name string) string {
	return fmt.Sprintf("connect as %s, or with the key of %s (user_key %q in a recipe), or map the name in pg_ident.conf (method cert with map=)", name, p.result.User, p.result.User)
}

// notAuthorized is everything that PostgreSQL has the code 28000 for.
func (p *proof) notAuthorized(said string) *fault {
	r := p.result
	says := func(words ...string) bool {
		for _, w := range words {
			if !strings.Contains(said, w) {
				return false
			}
		}
		return true
	}
	switch {
	case says("pg_hba.conf rejects"), r.HBA != nil && strings.HasSuffix(r.HBA.Rule, " reject"):
		text := said
		if r.HBA != nil {
			text += ", by " + r.HBA.String()
		}
		return &fault{HBARejects, text, p.mendHBA()}
	case says("no pg_hba.conf entry"):
		return &fault{NoHBALine, said, p.mendHBA()}
	case says("requires a valid client certificate"):
		return p.certificateWanted(said)
	case says("certificate authentication failed"):
		return &fault{NotTheRoles, fmt.Sprintf("%s: the certificate is in the name of %q", said, p.certificateName()), p.mendName(p.certificateName())}
	case says("role \"", "does not exist"):
		return p.roleMissing(said)
	case says("not permitted to log in"):
		return &fault{RoleNoLogin, said, fmt.Sprintf("ALTER ROLE %s LOGIN", r.User)}
	}
	return &fault{ServerError, said, p.there("look at the server's log")}
}

func (p *proof) certificateWanted(said string) *fault {
	switch {
	case !p.login.Served.AsksForCertificate:
		return &fault{NoCertificateAsked, said + ": the server asks nobody for one, for it has no ssl_ca_file loaded", p.there("converge apply")}
	case p.client.certificate == nil:
		return &fault{KeyMissing, fmt.Sprintf("%s: %s has none at %s", said, p.check.Account.Name, p.check.Paths.Cert), "converge apply, with a user_key for " + p.check.Account.Name + " in a recipe"}
	}
	return &fault{CertificateWanted, said, p.there("look at the server's log")}
}

// mendHBA is how to see which lines come near, and where the operator's own go.
func (p *proof) mendHBA() string {
	r, file := p.result, "pg_hba.conf"
	if s := p.v.Site.Server; s != nil && p.ownOf() != nil {
		file = s.HBAFile
	}
	certificate := ""
	if p.client.certificate != nil {
		certificate = " --cert"
	}
	return p.there(fmt.Sprintf("converge hba explain %s --user %s --database %s --from %s --ssl%s says which lines come near; a line for it goes into custom_pg_hba.conf, then converge apply",
		file, r.User, r.Database, p.login.Local.Addr(), certificate))
}

// certificateUnused: the client has a key that somebody has declared, and the server did not look at it.
func (p *proof) certificateUnused() *fault {
	if p.login.Served.AsksForCertificate || p.client.certificate == nil {
		return nil
	}
	const text = "the server asks nobody for a certificate, for it has no ssl_ca_file loaded: the key is not used"
	if p.check.Declared {
		return &fault{NoCertificateAsked, text, p.there("converge apply")}
	}
	p.result.note("%s", text)
	return nil
}

// notTheRoles: with a password missing the server has not compared the names yet. Where the line is known, it is known what
// will come of it.
func (p *proof) notTheRoles() *fault {
	name := p.certificateName()
	if name == "" || name == p.result.User || p.login.Stage == postgres.LoggedIn {
		return nil
	}
	line := p.result.HBA
	switch {
	case line != nil && comparesNames(line.Rule):
		return &fault{NotTheRoles, fmt.Sprintf("the certificate is in the name of %q, and the role is %q: %s turns it away, whatever the password (PostgreSQL will say that password authentication failed)", name, p.result.User, line), p.mendName(name)}
	case line != nil:
		return nil
	}
	p.result.note("the certificate is in the name of %q, and the role is %q: a line with clientcert=verify-full turns that away, and PostgreSQL then says that password authentication failed", name, p.result.User)
	return nil
}

// recovery holds what the server is against what the environment file says of its node.
func (p *proof) recovery() *fault {
	n, in := p.check.Node, p.result.InRecovery
	if n == nil || in == nil || !hasDatabase(n.Role) || *in == (n.Role == "db_replica") {
		return nil
	}
	text, mend := "the server is in recovery: it follows another one, and nothing can be written there", "pg_ctl promote, if it is to be the master; else the right role"
	if !*in {
		text, mend = "the server is not in recovery: it follows nobody", "make it a standby again; if it was promoted, the right role"
	}
	return &fault{WrongRecovery, fmt.Sprintf("%s is declared as %s, and %s", n.Name, n.Role, text), p.there(mend) + " for " + n.Name + " in the environment file"}
}

// plaintextIn: the recipe lets nobody in without TLS, and the server does.
func (p *proof) plaintextIn() *fault {
	if !p.v.RequireTLS || p.plain.Err != nil || !p.plain.Admitted || p.check.Node == nil {
		return nil
	}
	return &fault{PlaintextAdmitted, "require_ssl lets nobody in without TLS, and the same client " + p.result.Plaintext.Text, p.there("converge apply")}
}

// sslmode: a client that asks for no TLS gets none, however good its key.
func (p *proof) sslmode() *fault {
	mode := p.check.Settings.SSLMode()
	if mode != "disable" && mode != "allow" {
		return nil
	}
	return &fault{SSLModeWithout, fmt.Sprintf("the key works, and the client does not use it: sslmode=%s asks for no TLS", mode), "sslmode=verify-full in its place"}
}

// remarks are for the operator to know, and nothing that keeps the key from working.
func (p *proof) remarks() {
	r := p.result
	switch mode := p.check.Settings.SSLMode(); mode {
	case "prefer":
		r.note("sslmode=prefer goes on in plaintext, without a word, when TLS does not come about: write sslmode=verify-full")
	case "require", "verify-ca":
		r.note("sslmode=%s does not look whether the certificate is the server's own: write sslmode=verify-full", mode)
	}
	if s := p.login.Session; s != nil && s.Subject == "" && p.certificateName() != "" {
		r.note("the server knows of no certificate for this session: something that ends TLS stands in between")
	}
	if p.check.Settings["sslnegotiation"] == "direct" {
		r.note("sslnegotiation=direct was not tried: TLS was asked for in the usual way")
	}
}

// shortError is the cause of an error, without the path or the address that the sentence around it has.
func shortError(err error) string {
	var path *fs.PathError
	var call *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &path):
		return path.Err.Error()
	case errors.As(err, &call):
		return call.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

// quotedList is names in quotes.
func quotedList(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
