package resources

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/resources/pki"
)

// A ServerKey keeps the key and the certificate that a database node shows to its clients.
type ServerKey struct {
	Authority       cty.Value `hcl:"authority" doc:"The authority that signs it: a cert_authority."`
	AuthorityAt     hcl.Range `hcl:"authority,attr_value_range"`
	Directory       *string   `hcl:"directory" doc:"Where server.key, server.crt and root.crt are. Default: postgresql.ssl_directory."`
	DirectoryAt     hcl.Range `hcl:"directory,attr_value_range"`
	Hosts           []string  `hcl:"hosts,optional" doc:"Host names and addresses by which clients reach the server. Default: the node's name, names and address, localhost and the loopback addresses; without an environment file the addresses of the host's interfaces as well."`
	HostsAt         hcl.Range `hcl:"hosts,attr_value_range"`
	Algorithm       *string   `hcl:"algorithm" doc:"Kind of the key: ecdsa-p256 (default), ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096."`
	AlgorithmAt     hcl.Range `hcl:"algorithm,attr_value_range"`
	ExpireInDays    *int      `hcl:"expire_in_days" doc:"Validity in days. Default: 1825."`
	ExpireAt        hcl.Range `hcl:"expire_in_days,attr_value_range"`
	RenewBeforeDays *int      `hcl:"renew_before_days" doc:"How many days before its end it is renewed. Default: the last third of its life, 30 at the most."`
	RenewAt         hcl.Range `hcl:"renew_before_days,attr_value_range"`
	Rekey           bool      `hcl:"rekey,optional" doc:"Whether it is renewed with a new key. Default: the key stays, and no reader ever sees a key and a certificate that do not match."`

	site Site
	dir  string
	leaf leaf
}

// A renewal says when a certificate is issued anew although nothing is wrong with it, and how.
type renewal struct {
	before time.Duration
	rekey  bool // with a new key
}

// Prepare checks the arguments.
func (k *ServerKey) Prepare(b recipe.Block) hcl.Diagnostics {
	ref, diags := recipe.Referenced(k.Authority, "cert_authority", k.AuthorityAt)
	owner := struct{ uid, gid int }{}
	if s := k.site.Server; s != nil {
		k.dir = s.SSLDirectory
		owner.uid, owner.gid = s.Owner.UID, s.Owner.GID
	}
	if k.Directory != nil {
		k.dir = path.Clean(*k.Directory)
		diags = append(diags, absolute(*k.Directory, "directory", k.DirectoryAt, b)...)
	}
	valid, d := validity(k.ExpireInDays, k.ExpireAt, b)
	diags = append(diags, d...)
	before, d := renewBefore(k.RenewBeforeDays, valid, k.RenewAt, b)
	diags = append(diags, d...)
	kind, d := algorithm(k.Algorithm, k.AlgorithmAt, b, func(a pki.Algorithm) error { return pki.CheckLeafAlgorithm(a, pki.Server) })
	diags = append(diags, d...)
	names, addresses, d := k.hosts(b)
	diags = append(diags, d...)
	k.leaf = leaf{
		issuer: issuerOf(ref),
		spec: pki.LeafSpec{
			CommonName: k.site.Node.Name, DNSNames: names, IPAddresses: addresses,
			Usage: pki.Server, Algorithm: kind, Validity: valid,
		},
		renew:  renewal{before, k.Rekey},
		places: []place{newPlace(k.dir, "server.key", "server.crt", owner.uid, owner.gid)},
		what:   "the server certificate of " + k.site.Node.Name,
		old:    k.site.oldServerKeys(),
	}
	if k.site.Maintenance.server() {
		k.leaf.asked = k.site.Maintenance
	}
	if !diags.HasErrors() {
		if err := k.leaf.spec.Check(); err != nil {
			diags = append(diags, mistake(k.HostsAt, b, "Invalid server certificate", "%s.", sentence(err)))
		}
	}
	return diags
}

// hosts splits the names of the node into host names and addresses.
func (k *ServerKey) hosts(b recipe.Block) (names []string, addresses []netip.Addr, diags hcl.Diagnostics) {
	hosts := k.Hosts
	if hosts == nil {
		hosts = k.defaultHosts()
	}
	for _, host := range hosts {
		if a, err := netip.ParseAddr(host); err == nil {
			addresses = append(addresses, a)
			continue
		}
		if err := pki.CheckDNSName(host); err != nil {
			diags = append(diags, mistake(k.HostsAt, b, "Invalid host", "%s.", sentence(err)))
		}
		names = append(names, host)
	}
	return names, addresses, diags
}

func (k *ServerKey) defaultHosts() []string {
	node := k.site.Node
	hosts := append([]string{node.Name}, node.Names...)
	hosts = append(hosts, "localhost", "127.0.0.1", "::1")
	if node.Address.IsValid() {
		hosts = append(hosts, node.Address.String())
	}
	for _, a := range k.site.Addresses {
		hosts = append(hosts, a.String())
	}
	return hosts
}

// Exports returns where its files are.
func (k *ServerKey) Exports() map[string]cty.Value {
	p := k.leaf.places[0]
	return map[string]cty.Value{
		"directory": cty.StringVal(k.dir),
		"cert_file": cty.StringVal(p.certFile()),
		"key_file":  cty.StringVal(p.keyFile()),
		"root_file": cty.StringVal(p.rootFile()),
		"crl_file":  cty.StringVal(k.listFile()),
	}
}

// held is where its key is.
func (k *ServerKey) held() []place { return k.leaf.places }

// Targets returns its files and its directory.
func (k *ServerKey) Targets() []engine.Target {
	out := append(k.leaf.places[0].targets(), k.leaf.old.targets()...)
	out = append(out, engine.Target{Path: k.listFile()}, engine.Target{Path: path.Join(k.dir, serverProbe)})
	if !issues(k.site.Node.Role) {
		return append(out, engine.Target{Path: k.nextKeyFile()})
	}
	return append(out, k.leaf.issuer.targets()...)
}

// Converge issues the certificate where it is missing or not as declared; a node without the authority asks for it.
func (k *ServerKey) Converge(ctx context.Context, h *engine.Host) error {
	if err := k.keepLists(h); err != nil {
		return err
	}
	if !issues(k.site.Node.Role) {
		return k.ask(ctx, h)
	}
	return k.leaf.converge(h)
}

// nextKeyFile is where a key waits for its certificate: not beside the one in use, of which it is no half.
func (k *ServerKey) nextKeyFile() string { return path.Join(k.leaf.issuer.dir, "server.key.next") }

// specFor is what the certificate of another node has to be, whose evaluated block this is.
func (k *ServerKey) specFor(n recipe.Node) pki.LeafSpec {
	other := *k
	other.site = Site{Node: n}
	spec := k.leaf.spec
	spec.CommonName = n.Name
	spec.DNSNames, spec.IPAddresses, _ = other.hosts(recipe.Block{})
	return spec
}

// ask keeps the server's key on this node: the authority sees a request, and gives the certificate for it. As long as a key
// waits for its certificate the request is for that one, and the one in use stays.
func (k *ServerKey) ask(ctx context.Context, h *engine.Host) error {
	r, err := k.leaf.issuer.received(h)
	if err != nil {
		return err
	}
	p := k.leaf.places[0]
	now, err := k.leaf.look(h, p, r.authority())
	if err != nil {
		return err
	}
	next, err := k.nextKey(h)
	if err != nil {
		return err
	}
	bringBack := false
	switch wanted := k.leaf.asked != nil && k.leaf.asked.pending(k.leaf.what, now.cert.Fingerprint()); {
	case wanted && k.leaf.asked.back():
		bringBack = true
	case wanted, k.leaf.renew.rekey && slices.ContainsFunc(now.reasons, func(r pki.Reason) bool { return r.Kind == pki.InWindow }):
		if next, err = k.makeNext(h, next); err != nil {
			return err
		}
	}
	if bringBack {
		return k.bringBack(ctx, h, r)
	}
	if r.body.Server != "" {
		done, err := k.accept(ctx, h, r, now, next)
		if done || err != nil {
			return err
		}
	}
	key := now.key
	if now.missing || len(brokenOnly(now.reasons)) > 0 {
		if key, err = k.makeNext(h, next); err != nil {
			return err
		}
		if err := k.request(ctx, h, key, true, "there is none that can be used"); err != nil {
			return err
		}
		h.Wait("%s has not signed this server's key yet: run converge apply on %s, then here", r.statement.From, r.statement.From)
		return nil
	}
	if len(now.reasons) > 0 {
		h.Warn(fmt.Sprintf("%s: %s; %s has not issued another one yet: run converge apply there", k.leaf.what, pki.Sentences(now.reasons), r.statement.From))
	}
	return k.requestNext(ctx, h, r, key, next)
}

// accept installs the certificate that the authority has for one of this server's keys; it says whether it was for one.
func (k *ServerKey) accept(ctx context.Context, h *engine.Host, r *received, now found, next pki.PrivateKey) (bool, error) {
	cert, err := pki.ParseCertificate([]byte(r.body.Server))
	if err != nil {
		return false, fmt.Errorf("the server certificate that %s issued: %w", r.statement.From, err)
	}
	for _, key := range []pki.PrivateKey{next, now.key} {
		if len(brokenOnly(pki.Wrong(cert, key, r.authority(), k.leaf.spec, h.Now(), 0))) > 0 {
			continue
		}
		h.Explain("install "+k.leaf.what, fmt.Sprintf("%s has issued it, valid until %s", r.statement.From, cert.NotAfter.Format("2006-01-02")))
		if err := k.leaf.deliver(h, cert, func() (pki.PrivateKey, error) { return key, nil }); err != nil {
			return true, err
		}
		if next.Matches(cert) {
			next = pki.PrivateKey{}
			if err := h.Remove(k.nextKeyFile(), engine.NoDiff, engine.Aside); err != nil {
				return true, err
			}
		}
		return true, k.requestNext(ctx, h, r, key, next)
	}
	return false, nil
}

// requestNext keeps the request up that the authority renews from: for the key that waits, or else for the one in use.
func (k *ServerKey) requestNext(ctx context.Context, h *engine.Host, r *received, key, next pki.PrivateKey) error {
	if next.IsZero() {
		why := "it is renewed from a request, and there is none"
		if h.Staged() {
			why = "" // what was installed just now matters more
		}
		return k.request(ctx, h, key, false, why)
	}
	if err := k.request(ctx, h, next, true, "its new key has none yet"); err != nil {
		return err
	}
	h.Wait("this server's new key waits for its certificate, and the old one stays in use: run converge apply on %s, then here", r.statement.From)
	return nil
}

// bringBack puts the key that was there before in the place of the one in use. Its certificate serves as long as it is
// good; the authority is asked for another one all the same.
func (k *ServerKey) bringBack(ctx context.Context, h *engine.Host, r *received) error {
	before, dir, err := k.leaf.before(h, r.authority())
	if err != nil {
		return err
	}
	if b := brokenOnly(before.reasons); len(b) > 0 {
		return fmt.Errorf("the certificate in %s is not right any more: %s", dir, pki.Sentences(b))
	}
	h.Explain("bring back the key of "+k.leaf.what, "asked for; it is in "+dir)
	if err := k.leaf.install(h, before, pki.Bundle(r.roots...), nil); err != nil {
		return err
	}
	return k.request(ctx, h, before.key, true, "")
}

// brokenOnly are the reasons for which a certificate cannot be used at all.
func brokenOnly(reasons []pki.Reason) []pki.Reason {
	return slices.DeleteFunc(slices.Clone(reasons), func(r pki.Reason) bool { return !r.Broken })
}

// nextKey reads the key that waits for its certificate; the zero key where there is none that can be used.
func (k *ServerKey) nextKey(h *engine.Host) (pki.PrivateKey, error) {
	b, err := h.ReadFile(k.nextKeyFile())
	if err := unlessMissing(err); err != nil {
		return pki.PrivateKey{}, err
	}
	key, err := pki.ParsePrivateKey(b)
	if err != nil || key.Algorithm() != k.leaf.spec.Algorithm {
		return pki.PrivateKey{}, nil
	}
	return key, nil
}

// makeNext makes the key that waits for its certificate, where there is none.
func (k *ServerKey) makeNext(h *engine.Host, next pki.PrivateKey) (pki.PrivateKey, error) {
	if !next.IsZero() {
		return next, nil
	}
	key, err := pki.GenerateKey(h.Rand(), k.leaf.spec.Algorithm)
	if err != nil {
		return key, err
	}
	return key, h.WriteSecret(k.nextKeyFile(), engine.NewSecret(key.PEM()), rootSecret, engine.Generated, engine.Aside)
}

// certificateOf is the certificate on the disk, where it is for this key.
func (k *ServerKey) certificateOf(h *engine.Host, key pki.PrivateKey) string {
	b, err := h.ReadFile(k.leaf.places[0].certFile())
	if err != nil {
		return ""
	}
	if cert, err := pki.ParseCertificate(b); err == nil && key.Matches(cert) {
		return string(cert.PEM())
	}
	return ""
}

// request sees to it that the store has this node's request for the key: the authority renews from it. Unless it is
// needed now, a store that is away is no reason to fail. A why of "" leaves the step explained as it is.
func (k *ServerKey) request(ctx context.Context, h *engine.Host, key pki.PrivateKey, needed bool, why string) error {
	d, name := k.site.Delivery, requestEntries+k.site.Node.Name
	self := k.site.signers(func(n recipe.Node) bool { return n.Name == k.site.Node.Name })
	there, _, err := d.get(ctx, h, bundle.Wanted{Environment: k.site.Environment.Name, Key: name, Signers: self})
	switch {
	case err != nil && !needed:
		return nil // the step of the authority has said it
	case err != nil:
		return err
	case there.version != 0 && there.refused == nil:
		var body requestBody
		if there.statement.Decode(&body) == nil && !due(there.statement, h.Now()) {
			if r, err := pki.ParseRequest([]byte(body.Server)); err == nil && r.For(key) {
				return nil
			}
		}
	}
	id, err := k.site.identity(h)
	if err != nil {
		return err
	}
	csr, err := pki.NewRequest(h.Rand(), key, k.site.Node.Name)
	if err != nil {
		return err
	}
	text, err := k.site.sign(h, id, message{key: name, after: there.statement.Version, body: requestBody{string(csr), k.certificateOf(h, key)}})
	if err != nil {
		return err
	}
	if why != "" {
		h.Explain("ask "+k.site.authorityNode()+" for "+k.leaf.what, why)
	}
	d.publish(h, name, there.version, text, "the key itself stays here")
	return nil
}
