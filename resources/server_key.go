package resources

import (
	"context"
	"net/netip"
	"path"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
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

	site Site
	dir  string
	leaf leaf
}

// A renewal says when a certificate is issued anew although nothing is wrong with it.
type renewal struct{ before time.Duration }

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
		renew:  renewal{before},
		places: []place{newPlace(k.dir, "server.key", "server.crt", owner.uid, owner.gid)},
		what:   "the server certificate of " + k.site.Node.Name,
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
	}
}

// Targets returns its files and its directory.
func (k *ServerKey) Targets() []engine.Target { return k.leaf.places[0].targets() }

// Converge issues the certificate where it is missing or not as declared.
func (k *ServerKey) Converge(_ context.Context, h *engine.Host) error { return k.leaf.converge(h) }
