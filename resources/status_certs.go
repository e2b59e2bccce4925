package resources

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/pki"
)

// A CertStatus is one certificate, in one place.
type CertStatus struct {
	Address     string    `json:"address"`
	User        string    `json:"user,omitempty"` // of a user's key
	Subject     string    `json:"subject,omitempty"`
	Path        string    `json:"path"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256
	Expires     time.Time `json:"expires,omitzero"`
	DaysLeft    int       `json:"days_left"`
	RenewAfter  time.Time `json:"renew_after,omitzero"` // when its renewal window begins
	Served      string    `json:"served,omitempty"`     // "yes", "no" or "unknown"; "" where it is not for serving
	Missing     bool      `json:"missing,omitempty"`
	Key         string    `json:"key,omitempty"` // what is wrong with the private key beside it
	Error       string    `json:"error,omitempty"`

	// Of what the server serves, where it is not this certificate.
	ServedFingerprint string     `json:"served_fingerprint,omitempty"`
	ServedExpires     *time.Time `json:"served_expires,omitempty"` // of the server's certificate, whichever it is
	ServedNames       []string   `json:"served_names,omitempty"`   // the authorities that it trusts

	mend  string // how what Error says is mended, where that is no apply
	final bool   // it ends with its authority: a renewed one would not last longer

	changes bool // of an authority: another one takes its place by itself
}

// A CRLStatus is one list of revoked certificates that the server is told to use.
type CRLStatus struct {
	Path       string    `json:"path"`
	Issuer     string    `json:"issuer,omitempty"`
	ThisUpdate time.Time `json:"this_update,omitzero"`
	NextUpdate time.Time `json:"next_update,omitzero"` // zero: it never ends
	DaysLeft   int       `json:"days_left"`
	Revoked    int       `json:"revoked"` // how many certificates are on it, beside that of the proof
	Error      string    `json:"error,omitempty"`

	serials []string // of those certificates, in decimal
}

// certLimit is the largest file, in bytes, in which certificates are looked for.
const certLimit = 1 << 20

func (c CertStatus) none() bool { return c.Missing || c.Error != "" }

// Short is a certificate in a few words.
func (c CertStatus) Short() string {
	switch {
	case c.Missing:
		return "missing"
	case c.Error != "":
		return "unreadable"
	}
	return fmt.Sprintf("%s, %d days left", shortSum(c.Fingerprint), c.DaysLeft)
}

func (in *inspection) authority(address string, r *CertAuthority) {
	c, cert := in.cert(address, r.certFile())
	if !cert.IsZero() {
		before := pki.RenewBefore(cert.NotAfter.Sub(cert.NotBefore))
		if c.changes = r.renewBefore > 0; c.changes {
			before = r.renewBefore
		}
		c.RenewAfter = cert.NotAfter.Add(-before).UTC()
	}
	if in.served != nil && in.served.TLS && !c.none() {
		c.Served = yesNo(in.served.Accepts(cert.Certificate))
		if c.Served == "no" {
			c.ServedNames = in.served.CANames()
		}
	}
	in.status.Authority = &c
}

func (in *inspection) serverKey(address string, r *ServerKey) {
	p := r.leaf.places[0]
	c := in.leafCert(address, r.leaf, p)
	if in.served != nil && in.served.TLS {
		ends := in.served.Certificates[0].NotAfter.UTC()
		c.ServedExpires = &ends
	}
	if in.served != nil && !c.none() {
		c.Served = yesNo(in.served.TLS && in.served.Fingerprint == c.Fingerprint)
		if c.Served == "no" {
			c.ServedFingerprint = in.served.Fingerprint
		}
	}
	in.status.ServerKey = &c
	if in.status.SSL != nil {
		in.status.SSL.Declared = "on"
	}
}

// userKey looks at every copy of a user's key.
func (in *inspection) userKey(address string, r *UserKey) {
	for _, d := range r.dirs {
		p := d.place(engine.User{})
		if strings.HasPrefix(d.path, "~") {
			in.status.UserKeys = append(in.status.UserKeys, CertStatus{
				Address: address, User: r.user, Path: p.certFile(),
				Error: fmt.Sprintf("the Linux user %q does not exist on this host, or has no home", r.user),
				mend:  fmt.Sprintf("useradd --create-home %s, then converge apply", r.user),
			})
			continue
		}
		c := in.leafCert(address, r.leaf, p)
		c.User = r.user
		in.status.UserKeys = append(in.status.UserKeys, c)
	}
}

// leafCert looks at a certificate that an authority issued, and at the key beside it.
func (in *inspection) leafCert(address string, l leaf, p place) CertStatus {
	c, cert := in.cert(address, p.certFile())
	if cert.IsZero() {
		return c
	}
	c.RenewAfter = cert.NotAfter.Add(-min(l.renew.before, l.spec.Validity/2)).UTC()
	if a := in.status.Authority; a != nil && !a.none() {
		c.final = !a.Expires.After(c.Expires)
	}
	key, _, err := in.disk.ReadFile(p.keyFile(), certLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Key = p.keyFile() + " does not exist"
	case err != nil:
		c.Key = engine.Redact(err.Error())
	default:
		k, err := pki.ParsePrivateKey(key)
		if err != nil {
			c.Key = engine.Redact(fmt.Sprintf("%s: %v", p.keyFile(), err))
		} else if !k.Matches(cert) {
			c.Key = p.keyFile() + " does not belong to the certificate beside it"
		}
	}
	return c
}

func (in *inspection) cert(address, file string) (CertStatus, pki.Certificate) {
	st := CertStatus{Address: address, Path: file}
	b, _, err := in.disk.ReadFile(file, certLimit)
	var c pki.Certificate
	if err == nil {
		if c, err = pki.ParseCertificate(b); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		st.Missing = true
	case err != nil:
		st.Error, c = engine.Redact(err.Error()), pki.Certificate{}
	default:
		st.Subject, st.Fingerprint, st.Expires = c.Subject.String(), c.Fingerprint(), c.NotAfter.UTC()
		st.DaysLeft = in.daysLeft(c.NotAfter)
	}
	return st, c
}

func (in *inspection) daysLeft(end time.Time) int { return int(end.Sub(in.now) / pki.Day) }

// revocations looks at the lists of revoked certificates that postgresql.conf names.
func (in *inspection) revocations() {
	s := in.site.Server
	if s == nil || in.conf == nil {
		return
	}
	if v := in.conf.Value("ssl_crl_file", ""); v != "" {
		in.crlFile(s.Path(v))
	}
	v := in.conf.Value("ssl_crl_dir", "")
	if v == "" {
		return
	}
	entries, err := in.disk.ReadDir(s.Path(v))
	if err != nil {
		in.status.CRLs = append(in.status.CRLs, CRLStatus{Path: s.Path(v), Error: engine.Redact(err.Error())})
	}
	for _, e := range entries {
		if strings.Contains(e.Name, ".r") { // HASH.r0, HASH.r1 ...: OpenSSL reads no others
			in.crlFile(path.Join(s.Path(v), e.Name))
		}
	}
}

func (in *inspection) crlFile(file string) {
	b, _, err := in.disk.ReadFile(file, hbaLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		in.status.CRLs = append(in.status.CRLs, CRLStatus{Path: file, Error: "it does not exist"})
		return
	case err != nil:
		in.status.CRLs = append(in.status.CRLs, CRLStatus{Path: file, Error: engine.Redact(err.Error())})
		return
	}
	proof := in.proofSerial(file)
	for _, st := range parseCRLs(b, file) {
		st.DaysLeft = in.daysLeft(st.NextUpdate)
		if st.Revoked = len(st.serials); slices.Contains(st.serials, proof) {
			st.Revoked--
		}
		in.status.CRLs = append(in.status.CRLs, st)
	}
}

// proofSerial is the number, in decimal, of the certificate that is on a list only to prove that the server has read it;
// "" where none is beside the list.
func (in *inspection) proofSerial(listFile string) string {
	b, _, err := in.disk.ReadFile(listFile+proofSuffix, certLimit)
	if err != nil {
		return ""
	}
	cert, _, err := parseProbe(b)
	if err != nil {
		return ""
	}
	return cert.SerialNumber.String()
}

// parseCRLs reads every list in a file of PEM. A file without any is one with an error: the server refuses it.
func parseCRLs(text []byte, file string) []CRLStatus {
	var out []CRLStatus
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		st, err := parseCRL(block.Bytes)
		if err != nil {
			st.Error = fmt.Sprintf("list %d in it cannot be read: %v", len(out)+1, err)
		}
		st.Path = file
		out = append(out, st)
	}
	if len(out) == 0 {
		out = append(out, CRLStatus{Path: file, Error: "there is no revocation list in PEM in it"})
	}
	return out
}

// A firstCRL is a list of the first version (RFC 5280, 5.1), which OpenSSL makes where its configuration has no
// crl_extensions, and which servers take. crypto/x509 reads the second only.
type firstCRL struct {
	List struct {
		Algorithm  pkix.AlgorithmIdentifier
		Issuer     pkix.RDNSequence
		ThisUpdate time.Time
		NextUpdate time.Time                 `asn1:"optional"`
		Revoked    []pkix.RevokedCertificate `asn1:"optional"`
	}
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

func parseCRL(der []byte) (CRLStatus, error) {
	list, err := x509.ParseRevocationList(der)
	if err == nil {
		st := CRLStatus{
			Issuer: list.Issuer.String(), ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(),
		}
		for _, r := range list.RevokedCertificateEntries {
			st.serials = append(st.serials, r.SerialNumber.String())
		}
		return st, nil
	}
	var first firstCRL
	if rest, errFirst := asn1.Unmarshal(der, &first); errFirst != nil || len(rest) > 0 {
		return CRLStatus{}, err
	}
	var issuer pkix.Name
	issuer.FillFromRDNSequence(&first.List.Issuer)
	st := CRLStatus{
		Issuer: issuer.String(), ThisUpdate: first.List.ThisUpdate.UTC(), NextUpdate: first.List.NextUpdate.UTC(),
	}
	for _, r := range first.List.Revoked {
		st.serials = append(st.serials, r.SerialNumber.String())
	}
	return st, nil
}
