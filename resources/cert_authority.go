package resources

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/pki"
)

// A CertAuthority keeps the environment's certificate authority. It is made once; afterwards it is checked in every run
// and never replaced: what is signed by it is out there.
type CertAuthority struct {
	CommonName   *string   `hcl:"common_name" doc:"What the authority's name begins with; a unique id follows. Default: the environment's name and \"CA\"."`
	CommonNameAt hcl.Range `hcl:"common_name,attr_value_range"`
	Algorithm    *string   `hcl:"algorithm" doc:"Kind of its key: ecdsa-p256 (default), ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096."`
	AlgorithmAt  hcl.Range `hcl:"algorithm,attr_value_range"`
	ExpireInDays *int      `hcl:"expire_in_days" doc:"Validity in days, counted when it is made. Default: 1825."`
	ExpireAt     hcl.Range `hcl:"expire_in_days,attr_value_range"`
	Directory    *string   `hcl:"directory" doc:"Where ca.key, ca.crt and bundle.crt are. It must not lie in the data directory, which backups and replicas copy. Default: /etc/converge/authority."`
	DirectoryAt  hcl.Range `hcl:"directory,attr_value_range"`
	Escrow       []string  `hcl:"escrow,optional" doc:"Nodes that may take the authority over when its node is lost: each finds the key in the store, sealed to its host key. Default: none."`
	EscrowAt     hcl.Range `hcl:"escrow,attr_value_range"`

	RenewBeforeDays *int      `hcl:"renew_before_days" doc:"How many days before its end another authority begins to take its place, step by step. 0: never by itself. Default: the last third of its life, 90 at the most."`
	RenewAt         hcl.Range `hcl:"renew_before_days,attr_value_range"`

	site        Site
	spec        pki.AuthoritySpec
	dir         string
	renewBefore time.Duration
	places      []place  // where the keys of this node are
	gone        []string // users whose certificates the recipe wants revoked
	began       string   // the state of a change of authorities, when this run first looked at it
}

// DefaultAuthorityDirectory is where the authority is, unless it is said otherwise.
const DefaultAuthorityDirectory = "/etc/converge/authority"

func (a *CertAuthority) certFile() string   { return a.dir + "/ca.crt" }
func (a *CertAuthority) keyFile() string    { return a.dir + "/ca.key" }
func (a *CertAuthority) bundleFile() string { return a.dir + "/bundle.crt" }

// receivedFile is where a node without the authority keeps what it had from it last.
func (a *CertAuthority) receivedFile() string { return a.dir + "/received" }

// recordFile is where a node remembers in which epoch it had the authority.
func (a *CertAuthority) recordFile() string { return a.dir + "/epoch" }

// Prepare checks the arguments.
func (a *CertAuthority) Prepare(b recipe.Block) hcl.Diagnostics {
	a.dir = DefaultAuthorityDirectory
	var diags hcl.Diagnostics
	if a.Directory != nil {
		a.dir = path.Clean(*a.Directory)
		diags = append(diags, absolute(*a.Directory, "directory", a.DirectoryAt, b)...)
	}
	if s := a.site.Server; s != nil && inside(a.dir, s.DataDirectory) {
		diags = append(diags, mistake(a.DirectoryAt, b, "Authority in the data directory",
			"%s lies in the data directory %s: backups and replicas would take the authority's key with them. Choose a directory outside.", a.dir, s.DataDirectory))
	}
	name := a.site.Environment.Name + " CA"
	if a.CommonName != nil {
		name = *a.CommonName
	}
	valid, d := validity(a.ExpireInDays, a.ExpireAt, b)
	diags = append(diags, d...)
	if a.renewBefore, d = renewBefore(a.RenewBeforeDays, valid, a.RenewAt, b); a.RenewBeforeDays == nil {
		a.renewBefore = min(90*pki.Day, valid/3) // it takes several runs of every node
	}
	diags = append(diags, d...)
	kind, d := algorithm(a.Algorithm, a.AlgorithmAt, b, pki.CheckAuthorityAlgorithm)
	diags = append(diags, d...)
	diags = append(diags, a.checkEscrow(b)...)
	a.spec = pki.AuthoritySpec{CommonName: name, Algorithm: kind, Validity: valid}
	if !diags.HasErrors() {
		if err := a.spec.Check(); err != nil {
			diags = append(diags, mistake(a.CommonNameAt, b, "Invalid authority", "%s.", sentence(err)))
		}
	}
	return diags
}

// checkEscrow wants nodes with a database: a server key is all that others could do without.
func (a *CertAuthority) checkEscrow(b recipe.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, name := range a.Escrow {
		i := slices.IndexFunc(a.site.Environment.Nodes, func(n recipe.Node) bool { return n.Name == name })
		switch {
		case i < 0:
			diags = append(diags, mistake(a.EscrowAt, b, "Unknown node", "escrow names %q, and the environment has no such node.", name))
		case !hasDatabase(a.site.Environment.Nodes[i].Role):
			diags = append(diags, mistake(a.EscrowAt, b, "No database node", "escrow names %q, which is %s: only a node with a database can take the authority over.", name, a.site.Environment.Nodes[i].Role))
		}
	}
	return diags
}

// Exports returns where its files are.
func (a *CertAuthority) Exports() map[string]cty.Value {
	return map[string]cty.Value{
		"received_file": cty.StringVal(a.receivedFile()),
		"escrow":        listOfStrings(a.Escrow),
		"directory":     cty.StringVal(a.dir),
		"cert_file":     cty.StringVal(a.certFile()),
		"key_file":      cty.StringVal(a.keyFile()),
		"bundle_file":   cty.StringVal(a.bundleFile()),
		"crl_file":      cty.StringVal(a.issuer().listFile()),
	}
}

// Targets returns its files, and its directory with the one above.
func (a *CertAuthority) Targets() []engine.Target {
	out := []engine.Target{
		{Path: path.Dir(a.dir), Dir: true},
		{Path: a.dir, Dir: true},
		{Path: a.bundleFile()},
		{Path: a.receivedFile()},
		{Path: a.recordFile()},
	}
	for _, s := range []authoritySlot{a.current(), a.next(), a.previous()} {
		out = append(out, s.targets()...)
	}
	out = append(out, a.vaultTargets()...)
	out = append(out, a.issuer().revocationTargets()...)
	return append(out, a.site.oldAuthorities().targets()...)
}

var (
	rootSecret  = engine.Attr{Mode: 0o600}
	rootPublic  = engine.Attr{Mode: 0o644}
	rootPrivate = engine.Attr{Mode: 0o700}
)

// Converge makes the authority where there is none, and else checks it. On nodes that do not have it, it takes what the
// authority's node has published for them.
func (a *CertAuthority) Converge(ctx context.Context, h *engine.Host) error {
	if err := makeParent(h, a.dir); err != nil {
		return err
	}
	if err := h.Mkdir(a.dir, rootPrivate); err != nil {
		return err
	}
	if !issues(a.site.Node.Role) {
		return a.receive(ctx, h)
	}
	if len(a.vaultTargets()) > 0 {
		if err := h.Mkdir(a.usersDir(), rootPrivate); err != nil { // for the steps of the users, which go side by side
			return err
		}
	}
	if known, err := h.ReadFile(a.bundleFile()); err == nil {
		if roots, err := pki.ParseCertificates(known); err == nil {
			if err := a.strayKeys(h, roots); err != nil {
				return err
			}
		}
	}
	if err := a.keepAny(ctx, h); err != nil {
		return err
	}
	c, err := a.changing(h)
	if err != nil {
		return err
	}
	return a.keepRevocations(h, c.all())
}

// keepAny keeps the authority, for this node alone or for others as well.
func (a *CertAuthority) keepAny(ctx context.Context, h *engine.Host) error {
	if a.site.Delivery != nil {
		return a.share(ctx, h)
	}
	if err := a.keep(h); err != nil {
		return err
	}
	return a.change(ctx, h)
}

// keep makes the authority where nothing of one is, and else checks it.
func (a *CertAuthority) keep(h *engine.Host) error {
	key, errKey := h.ReadFile(a.keyFile())
	cert, errCert := h.ReadFile(a.certFile())
	switch {
	case engine.IsNotExist(errKey) && engine.IsNotExist(errCert):
		return a.create(h)
	case engine.IsNotExist(errKey):
		return fmt.Errorf("the authority's certificate %s is there, and its key %s is missing: put the key back from a backup; to begin a new authority on purpose, move the certificate away as well, and every key that it signed will be issued anew", a.certFile(), a.keyFile())
	case engine.IsNotExist(errCert):
		return fmt.Errorf("the authority's key %s is there, and its certificate %s is missing: put the certificate back from a backup or from a node's root.crt; to begin a new authority on purpose, move the key away as well, and every key that it signed will be issued anew", a.keyFile(), a.certFile())
	}
	if err := errors.Join(errKey, errCert); err != nil {
		return err
	}
	return a.check(h, key, cert)
}

func (a *CertAuthority) create(h *engine.Host) error {
	if _, err := h.Stat(a.bundleFile()); !engine.IsNotExist(err) {
		return fmt.Errorf("the authority's key and certificate are missing from %s, and %s is still there, so there was one: put them back from a backup; to begin a new authority on purpose, move bundle.crt away as well, and every key that the old one signed will be issued anew", a.dir, a.bundleFile())
	}
	cert, key, err := pki.NewAuthority(h.Rand(), h.Now(), a.spec)
	if err != nil {
		return err
	}
	h.Explain(fmt.Sprintf("make the certificate authority %q (%s, valid for %d days)", a.spec.CommonName, key.Algorithm(), a.spec.Validity/pki.Day), "there is none yet")
	if err := h.WriteSecret(a.keyFile(), engine.NewSecret(key.PEM()), rootSecret, engine.Generated); err != nil {
		return err
	}
	if err := h.WriteFile(a.certFile(), cert.PEM(), rootPublic, engine.Generated); err != nil {
		return err
	}
	return h.WriteFile(a.bundleFile(), pki.Bundle(cert), rootPublic, engine.Generated)
}

// check keeps what is there, with its mode and owner mended, and refuses what is no sound authority.
func (a *CertAuthority) check(h *engine.Host, keyPEM, certPEM []byte) error {
	key, err := pki.ParsePrivateKey(keyPEM)
	if err != nil {
		return fmt.Errorf("the authority's key %s: %w; put it back from a backup", a.keyFile(), err)
	}
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		return fmt.Errorf("the authority's certificate %s: %w; put it back from a backup", a.certFile(), err)
	}
	var broken, odd []pki.Reason
	for _, r := range pki.WrongAuthority(cert, key, a.spec, h.Now()) {
		if r.Broken {
			broken = append(broken, r)
		} else {
			odd = append(odd, r)
		}
	}
	if len(broken) > 0 {
		return fmt.Errorf("the authority in %s cannot be used: %s; an authority is never replaced by itself: put the right files back from a backup, or move ca.key, ca.crt and bundle.crt away to begin a new one, and every key that the old one signed will be issued anew", a.dir, pki.Sentences(broken))
	}
	odd = slices.DeleteFunc(odd, func(r pki.Reason) bool { return r.Kind == pki.InWindow && a.renewBefore > 0 }) // it is being changed
	if len(odd) > 0 {
		h.Warn("the authority is kept as it is: " + pki.Sentences(odd))
	}
	if err := h.WriteSecret(a.keyFile(), engine.NewSecret(keyPEM), rootSecret); err != nil {
		return err
	}
	if err := h.WriteFile(a.certFile(), certPEM, rootPublic); err != nil {
		return err
	}
	return a.keepBundle(h, cert)
}

// keepBundle makes sure that the authority is in the bundle of those that nodes trust. Others in it stay: during a change
// of authorities there are two.
func (a *CertAuthority) keepBundle(h *engine.Host, cert pki.Certificate) error {
	old, err := h.ReadFile(a.bundleFile())
	if engine.IsNotExist(err) {
		return h.WriteFile(a.bundleFile(), pki.Bundle(cert), rootPublic, engine.NoDiff)
	}
	if err != nil {
		return err
	}
	certs, err := pki.ParseCertificates(old)
	if err != nil {
		return fmt.Errorf("the bundle %s: %w; move it away, and it is made from %s", a.bundleFile(), err, a.certFile())
	}
	for _, c := range certs {
		if c.Fingerprint() == cert.Fingerprint() {
			return h.WriteFile(a.bundleFile(), old, rootPublic)
		}
	}
	h.Explain("add the authority to the bundle", "it is not in "+a.bundleFile())
	return h.WriteFile(a.bundleFile(), pki.Bundle(append([]pki.Certificate{cert}, certs...)...), rootPublic, engine.NoDiff)
}

// makeParent makes the directory above one that a resource makes, where it is missing. One that is there is not ours.
func makeParent(h *engine.Host, dir string) error {
	parent := path.Dir(dir)
	_, err := h.Stat(parent)
	if engine.IsNotExist(err) {
		return h.Mkdir(parent, engine.Attr{Mode: 0o755})
	}
	return err
}

// An issuer is an authority as those read it who are signed by it.
type issuer struct {
	dir, certFile, keyFile, bundleFile, receivedFile string
}

func issuerOf(ref recipe.Reference) issuer {
	return issuer{ref.String("directory"), ref.String("cert_file"), ref.String("key_file"), ref.String("bundle_file"), ref.String("received_file")}
}

// received is what the authority had for this node.
func (i issuer) received(h *engine.Host) (*received, error) {
	r, err := engine.Parsed(h, i.receivedFile, parseReceived)
	if err != nil {
		return nil, fmt.Errorf("what the authority had for this node: %w", err)
	}
	return r, nil
}

// cert returns the authority's certificate.
func (i issuer) cert(h *engine.Host) (pki.Certificate, error) {
	c, err := engine.Parsed(h, i.certFile, pki.ParseCertificate)
	if err != nil {
		return c, fmt.Errorf("the authority's certificate: %w", err)
	}
	return c, nil
}

// issue signs a certificate for key.
func (i issuer) issue(h *engine.Host, cert pki.Certificate, key pki.Subject, spec pki.LeafSpec) (pki.Certificate, error) {
	authorityKey, err := engine.Parsed(h, i.keyFile, pki.ParsePrivateKey)
	if err != nil {
		return pki.Certificate{}, fmt.Errorf("the authority's key: %w", err)
	}
	leaf, shortened, err := pki.Issue(h.Rand(), h.Now(), cert, authorityKey, key, spec)
	if err != nil {
		return pki.Certificate{}, err
	}
	if shortened > 0 {
		h.Warn(fmt.Sprintf("the certificate ends %d days earlier than declared, on %s, because its authority does: replace the authority in good time", shortened/pki.Day, leaf.NotAfter.Format(time.DateOnly)))
	}
	return leaf, i.record(h, spec.Usage, leaf)
}

// issuedDir has every certificate that the authority has signed and that has not ended: what there is to revoke, and to
// list. The names of the files do not depend on what is signed, so a plan can foretell them.
func (i issuer) issuedDir() string { return path.Join(i.dir, "issued") }

// issuedFile has the certificates of one user or server, the oldest first.
func (i issuer) issuedFile(usage pki.Usage, name string) string {
	return path.Join(i.issuedDir(), string(usage)+"-"+name+".crt")
}

// targets are the files that whoever issues may write.
func (i issuer) targets() []engine.Target {
	return []engine.Target{{Path: i.issuedDir(), Below: true}}
}

// record keeps a certificate among those that were issued.
func (i issuer) record(h *engine.Host, usage pki.Usage, cert pki.Certificate) error {
	file := i.issuedFile(usage, cert.Subject.CommonName)
	known, err := engine.Parsed(h, file, pki.ParseCertificates)
	if err := unlessMissing(err); err != nil {
		return fmt.Errorf("%w; it records certificates that were issued: put it back from a backup, or move it away", err)
	}
	if slices.ContainsFunc(known, func(c pki.Certificate) bool { return c.Fingerprint() == cert.Fingerprint() }) {
		return nil
	}
	all := slices.DeleteFunc(slices.Clone(known), func(c pki.Certificate) bool { return h.Now().After(c.NotAfter) })
	return h.WriteFile(file, pki.Bundle(append(all, cert)...), rootPublic, engine.NoDiff, engine.Generated, engine.Aside)
}

// list joins names for people.
func list(names []string) string { return strings.Join(names, ", ") }
