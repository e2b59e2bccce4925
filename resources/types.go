// Package resources holds the types of resources that a recipe can use: what each makes true, and how it finds out.
//
// Each type is one file. Types lists them all. A type decides in Converge and writes through the engine's Host; the hard
// parts are in packages that know no host: hba, pki and postgres.
package resources

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

// A Site is what the types need to know of the node that a recipe is for, before the machine is touched.
type Site struct {
	Server        *postgres.Server    // the node's PostgreSQL server
	Environment   *recipe.Environment // never nil
	Node          recipe.Node
	Addresses     []netip.Addr                     // of the host's interfaces, where no environment file says its address
	Delivery      *Delivery                        // how keys go from node to node; nil: this node keeps to itself
	Trials        *Trials                          // never nil
	AcceptLockout bool                             // pg_hba.conf may be changed even when somebody who has to get in could not any more
	WasRunning    bool                             // the server ran when this run began
	Session       *Session                         // opened to it when this run began; nil when it did not run
	Interfaces    []netip.Prefix                   // the addresses of the host with the bits of their networks, loopback among them
	Home          func(user string) (string, bool) // the home directory of an account, if there is one
	Started       time.Time                        // when this run began
	Maintenance   *Maintenance                     // what is asked of the keys in this run, beyond keeping them; nil: nothing
}

// Types returns every type of resource, for one site.
func Types(site Site) []engine.Type {
	return []engine.Type{
		{
			Name:    "cert_authority",
			Summary: "The environment has one certificate authority, made once, whose key stays where it was made.",
			New:     func() engine.Resource { return &CertAuthority{site: site} },
		},
		{
			Name:    "server_key",
			Summary: "The database node has its own server key and a certificate for its names and addresses.",
			New:     func() engine.Resource { return &ServerKey{site: site} },
		},
		{
			Name:    "user_key",
			Summary: "A user has a client key and certificate, with root.crt, where libpq looks for them.",
			New:     func() engine.Resource { return &UserKey{site: site} },
		},
		{
			Name:    "key_delivery",
			Summary: "The other nodes of the environment can fetch what the recipe has for them, each its own, sealed to it.",
			New:     func() engine.Resource { return &KeyDelivery{site: site} },
		},
		{
			Name:    "file_block",
			Summary: "A marked block of lines stands in a file that somebody else owns.",
			New:     func() engine.Resource { return &FileBlock{site: site} },
		},
		{
			Name:    "service_reload",
			Summary: "A service runs with what is on disk.",
			New:     func() engine.Resource { return &ServiceReload{site: site} },
			Service: true,
		},
	}
}

// Values returns what recipes see as postgresql.*: the node's server.
func Values(s *postgres.Server) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"version":          cty.NumberIntVal(int64(s.Major)),
		"data_directory":   cty.StringVal(s.DataDirectory),
		"config_file":      cty.StringVal(s.ConfigFile),
		"hba_file":         cty.StringVal(s.HBAFile),
		"ident_file":       cty.StringVal(s.IdentFile),
		"bin_directory":    cty.StringVal(s.BinDirectory),
		"port":             cty.NumberIntVal(int64(s.Port)),
		"socket_directory": cty.StringVal(s.SocketDirectory),
		"owner":            cty.StringVal(s.Owner.Name),
		"ssl_directory":    cty.StringVal(s.SSLDirectory),
		"custom_hba_file":  cty.StringVal(s.CustomHBAFile),
		"keygen_directory": cty.StringVal(s.KeygenDirectory),
	})
}

// mistake is a diagnostic about an argument.
func mistake(at hcl.Range, b recipe.Block, summary, detail string, args ...any) *hcl.Diagnostic {
	if at == (hcl.Range{}) {
		at = b.Range
	}
	return &hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  summary,
		Detail:   fmt.Sprintf(detail, args...),
		Subject:  at.Ptr(),
	}
}
