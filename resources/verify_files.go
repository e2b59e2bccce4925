package resources

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
	"time"

	"converge/resources/libpq"
	"converge/resources/pki"
)

// credentials are what a client has to show, and whom it trusts.
type credentials struct {
	certificate *tls.Certificate // nil: it has none
	leaf        pki.Certificate
	roots       *x509.CertPool
	rootCerts   []pki.Certificate // "": of the system
	crls        []*x509.RevocationList
	password    string
}

// A fault is one of the usual reasons why a connection fails, with the command that mends it.
type fault struct {
	reason Reason
	text   string
	mend   string
}

func (f fault) Error() string { return f.text }

// load reads the files of a client as its user, and refuses what libpq refuses.
func (p *proof) load() *fault {
	for _, read := range []func() *fault{p.loadRoots, p.loadCRL, p.loadKey} {
		if f := read(); f != nil {
			return f
		}
	}
	p.loadPassword()
	return nil
}

// mendFile is how a file that converge keeps comes right: by an apply. Others are their user's.
func (p *proof) mendFile(otherwise string) string {
	if p.check.Declared {
		return "converge apply"
	}
	return otherwise
}

func (p *proof) loadRoots() *fault {
	name := p.check.Paths.Root
	if name == "system" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return &fault{RootUnreadable, "the system's certificate authorities cannot be read: " + err.Error(), "install ca-certificates"}
		}
		p.client.roots = pool
		return nil
	}
	file, err := p.check.Account.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fault{RootMissing, fmt.Sprintf("%s does not exist: there is nothing to hold the server's certificate against", name), p.mendFile("converge apply, if a recipe has a user_key for " + p.check.Account.Name + "; else put the authority's certificate there")}
	case err != nil:
		return p.unreadable(RootUnreadable, name, err)
	}
	certs, err := pki.ParseCertificates(file.Content)
	if err != nil {
		return &fault{RootUnreadable, fmt.Sprintf("%s: %v", name, err), p.mendFile("put the authority's certificate there")}
	}
	p.client.roots, p.client.rootCerts = x509.NewCertPool(), certs
	for _, c := range certs {
		p.client.roots.AddCert(c.Certificate)
	}
	return nil
}

// unreadable is the fault of a file that the client's user cannot read, or that is no file.
func (p *proof) unreadable(reason Reason, name string, err error) *fault {
	mend := p.mendFile(fmt.Sprintf("look at ls -l %s", name))
	if errors.Is(err, fs.ErrPermission) {
		mend = p.mendFile(fmt.Sprintf("chown %s %s, and its directory", p.check.Account.Name, name))
	}
	return &fault{reason, fmt.Sprintf("%s cannot be read by the user %s: %s", name, p.check.Account.Name, shortError(err)), mend}
}

// loadCRL reads the client's list of revoked server certificates; libpq takes none when it is not there.
func (p *proof) loadCRL() *fault {
	name := p.check.Paths.CRL
	file, err := p.check.Account.ReadFile(name)
	if err != nil {
		return nil // as in libpq, which only looks whether it can load it
	}
	for rest := file.Content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return &fault{RootUnreadable, fmt.Sprintf("%s: it has a damaged revocation list: %v", name, err), "put the authority's list there, or take the file away"}
		}
		p.client.crls = append(p.client.crls, list)
	}
	return nil
}

// loadKey reads certificate and key. A certificate that is not there is no fault of a client for which nobody declares one.
func (p *proof) loadKey() *fault {
	name, key := p.check.Paths.Cert, p.check.Paths.Key
	if p.check.Settings["sslcertmode"] == "disable" {
		p.result.note("sslcertmode=disable: no client certificate is shown")
		return nil
	}
	file, err := p.check.Account.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		if p.check.Declared {
			return &fault{KeyMissing, fmt.Sprintf("%s does not exist", name), "converge apply"}
		}
		p.result.note("no client certificate is shown: %s does not exist", name)
		return nil
	case err != nil:
		return p.unreadable(KeyUnreadable, name, err)
	}
	certs, err := pki.ParseCertificates(file.Content)
	if err != nil {
		return &fault{KeyUnreadable, fmt.Sprintf("%s: %v", name, err), p.mendFile("put the client's certificate there")}
	}
	p.client.leaf = certs[0]
	return p.loadPrivateKey(key, file.Content)
}

func (p *proof) loadPrivateKey(name string, certificate []byte) *fault {
	file, err := p.check.Account.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fault{KeyMissing, fmt.Sprintf("%s does not exist, and the certificate beside it does: libpq gives up", name), p.mendFile("put the key of the certificate there")}
	case err != nil:
		return p.unreadable(KeyUnreadable, name, err)
	case file.TooOpen():
		return &fault{KeyTooOpen, fmt.Sprintf("%s has mode %04o: libpq takes no key that its group or others can read", name, file.Mode), "chmod 0600 " + name}
	}
	key, err := pki.ParsePrivateKey(file.Content)
	switch {
	case errors.Is(err, pki.ErrEncrypted):
		return &fault{KeyEncrypted, fmt.Sprintf("%s has a passphrase, which nobody can type here", name), "openssl pkey -in " + name + " -out " + name + ".open, for a key without one"}
	case err != nil:
		return &fault{KeyUnreadable, fmt.Sprintf("%s: %v", name, err), p.mendFile("put the client's key there")}
	case !key.Matches(p.client.leaf):
		return &fault{KeyMismatch, fmt.Sprintf("%s is not the key of %s", name, p.check.Paths.Cert), p.mendFile("put the two that belong together there")}
	}
	pair, err := tls.X509KeyPair(certificate, bytes.TrimSpace(file.Content))
	if err != nil {
		return &fault{KeyUnreadable, fmt.Sprintf("%s: it is not a key that TLS can use", name), p.mendFile("put the client's key there")}
	}
	p.client.certificate = &pair
	return nil
}

// loadPassword finds the password as libpq does: the connection's own, then that of the password file, which is passed over
// when others can read it.
func (p *proof) loadPassword() {
	if p.client.password = p.check.Settings["password"]; p.client.password != "" {
		return
	}
	name := p.check.Paths.Passfile
	if p.check.Settings["passfile"] == "" && p.v.Passfile != "" {
		name = p.v.Passfile
	}
	file, err := p.check.Account.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || name == "":
	case err != nil:
		p.result.note("the password file %s is passed over: %s", name, shortError(err))
	case file.Mode&0o077 != 0:
		p.result.note("the password file %s is passed over, as by libpq: it has mode %04o; chmod 0600 %s", name, file.Mode, name)
	default:
		p.client.password, _ = libpq.Password(string(file.Content), p.check.Endpoint.Host, strconv.Itoa(p.check.Endpoint.Port), p.result.Database, p.result.User)
	}
}

// passfileName is where a password would be looked for.
func (p *proof) passfileName() string {
	if p.check.Settings["passfile"] == "" && p.v.Passfile != "" {
		return p.v.Passfile
	}
	return p.check.Paths.Passfile
}

// verifyServer holds the server's certificates against what the client trusts, as sslmode=verify-full does.
func (p *proof) verifyServer(shown []*x509.Certificate) error {
	leaf := pki.Certificate{Certificate: shown[0]}
	now := p.v.Now()
	switch {
	case now.After(leaf.NotAfter):
		return &fault{ServerExpired, fmt.Sprintf("the server's certificate (%s) expired on %s", shortSum(leaf.Fingerprint()), leaf.NotAfter.UTC().Format(time.DateOnly)), p.there("converge apply")}
	case now.Before(leaf.NotBefore):
		return &fault{ServerNotYetValid, fmt.Sprintf("the server's certificate (%s) is valid from %s on only: one of the two clocks is wrong", shortSum(leaf.Fingerprint()), leaf.NotBefore.UTC().Format(time.RFC3339)), "set the clock: timedatectl"}
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: p.client.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return p.untrusted(leaf, err)
	}
	if f := p.revokedServer(chains[0]); f != nil {
		return f
	}
	for _, host := range p.hosts() {
		if !libpq.IsFor(leaf.Certificate, host) {
			return p.notFor(leaf, host)
		}
	}
	return nil
}

// hosts are the names that the certificate has to be for: the one that the client connects to, and those that the
// environment file gives the node for clients to use.
func (p *proof) hosts() []string {
	hosts := []string{p.check.Endpoint.Host}
	if p.check.Declared && p.check.Node != nil {
		hosts = append(hosts, p.check.Node.Names...)
	}
	return hosts
}

func (p *proof) notFor(leaf pki.Certificate, host string) *fault {
	return &fault{NameNotInCertificate, fmt.Sprintf("the server's certificate (%s) is not for %s; the names in it are %s", shortSum(leaf.Fingerprint()), host, quotedList(libpq.NamesOf(leaf.Certificate))),
		p.there(fmt.Sprintf("converge apply, with %q among the names of its node in the environment file; or connect by one of the names that are in it", host))}
}

// untrusted says which authority the client trusts, and which one has signed what it was shown.
func (p *proof) untrusted(leaf pki.Certificate, err error) *fault {
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		return &fault{ServerRefused, fmt.Sprintf("the server's certificate (%s) is not taken: %v", shortSum(leaf.Fingerprint()), err), p.there("converge apply")}
	}
	trusted := "the system's authorities"
	if p.client.rootCerts != nil {
		trusted = ""
		for i, c := range p.client.rootCerts {
			if i > 0 {
				trusted += " and "
			}
			trusted += fmt.Sprintf("%s (%s)", c.Subject, shortSum(c.Fingerprint()))
		}
	}
	return &fault{WrongAuthority, fmt.Sprintf("%s has the authority %s, and the server's certificate (%s) is signed by %s%s", p.check.Paths.Root, trusted, shortSum(leaf.Fingerprint()), leaf.Issuer, sameName(p.client.rootCerts, leaf)), p.mendFile("converge apply here, and on the server's host")}
}

// sameName explains two authorities that look alike: of one name, and with different keys.
func sameName(roots []pki.Certificate, leaf pki.Certificate) string {
	for _, c := range roots {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) {
			return " with another key"
		}
	}
	return ""
}

// revokedServer looks a server's certificate up in the client's revocation lists, if it has any.
func (p *proof) revokedServer(chain []*x509.Certificate) *fault {
	if len(p.client.crls) == 0 || len(chain) < 2 {
		return nil
	}
	name := p.check.Paths.CRL
	for _, list := range p.client.crls {
		if list.CheckSignatureFrom(chain[1]) != nil {
			continue
		}
		if p.v.Now().After(list.NextUpdate) {
			return &fault{ServerRefused, fmt.Sprintf("%s has a revocation list that expired on %s: libpq takes no certificate by it", name, list.NextUpdate.UTC().Format(time.DateOnly)), "put the authority's new list there"}
		}
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(chain[0].SerialNumber) == 0 {
				return &fault{ServerRevoked, fmt.Sprintf("the server's certificate is revoked, by %s", name), p.there("converge apply")}
			}
		}
		return nil
	}
	return &fault{ServerRefused, fmt.Sprintf("%s has no revocation list of %s: libpq takes no certificate by it", name, chain[1].Subject), "put the authority's list there, or take the file away"}
}
