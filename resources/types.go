// Package resources holds the types of resources that a recipe can use: what each makes true, and how it finds out.
//
// Each type is one file. Types lists them all. A type decides in Converge and writes through the engine's Host; the hard
// parts are in packages that know no host: hba, pki and postgres.
package resources

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/disk"
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
	Disk          *disk.Disk                       // where earlier runs have left what Formerly reads; nil: nothing is read
	Started       time.Time                        // when this run began
	Restarts      *Restarts                        // how long they took; nil: nothing is known of that, or kept
	ForceRestart  bool                             // the server is to be restarted although nothing needs it
	Maintenance   *Maintenance                     // what is asked of the keys in this run, beyond keeping them; nil: nothing
	Change        *AuthorityChange                 // filled by a run: how far a change of authorities is; nil: nobody asks
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
			Name:    "pg_role",
			Summary: "A role of the PostgreSQL server is there, with these attributes and memberships. A standby gets it by replication; nodes without a server have none.",
			New:     func() engine.Resource { return &PgRole{site: site} },
		},
		{
			Name:    "service_reload",
			Summary: "A service runs with what is on disk.",
			New:     func() engine.Resource { return &ServiceReload{site: site} },
			Service: true,
		},
	}
}

// A holder has keys on this node.
type holder interface{ held() []place }

// Link tells the steps that ask for it of the others: where the keys of this node are, and whose are to be revoked. The
// diagnostics are of blocks that do not go together.
func Link(g *engine.Graph) (diags hcl.Diagnostics) {
	var all []place
	for _, s := range g.Steps {
		if k, ok := s.Resource.(holder); ok {
			all = append(all, k.held()...)
		}
	}
	for _, s := range g.Steps {
		switch r := s.Resource.(type) {
		case *CertAuthority:
			r.places = all
			var found hcl.Diagnostics
			r.gone, found = revokedBy(g, r.site)
			diags = append(diags, found...)
		case *KeyDelivery:
			r.places = all
		}
	}
	return diags
}

// revokedBy are the users whose certificates are to be revoked because they are declared absent, sorted. One that some node of
// the environment is to have a key of is a mistake.
func revokedBy(g *engine.Graph, site Site) ([]string, hcl.Diagnostics) {
	present, gone := map[string]*UserKey{}, map[string]*UserKey{}
	take := func(k *UserKey) {
		switch {
		case !k.absent:
			present[k.user] = k
		case k.Revoke:
			gone[k.user] = k
		}
	}
	for _, s := range g.Steps {
		if k, ok := s.Resource.(*UserKey); ok {
			take(k)
		}
	}
	if site.Delivery != nil {
		for _, n := range site.Delivery.Needs {
			for _, k := range append(slices.Clip(n.Users), n.Gone...) {
				take(k)
			}
		}
	}
	var diags hcl.Diagnostics
	users := slices.Sorted(maps.Keys(gone))
	for _, user := range users {
		if k := present[user]; k != nil {
			diags = append(diags, mistake(gone[user].RevokeAt, recipe.Block{}, "Revoked and present", "What is revoked opens nothing anywhere, and the block of %s:%d says that %s is to have a key. Take revoke away here, or the other block.", k.AuthorityAt.Filename, k.AuthorityAt.Start.Line, user))
		}
	}
	return users, diags
}

// UsersOf returns the users whose keys are made by the steps of a graph, sorted.
func UsersOf(g *engine.Graph) []string {
	var users []string
	for _, s := range g.Steps {
		switch r := s.Resource.(type) {
		case *UserKey:
			if !r.absent {
				users = append(users, r.user)
			}
		case *KeyDelivery:
			users = slices.AppendSeq(users, maps.Keys(r.vault))
		}
	}
	slices.Sort(users)
	return slices.Compact(users)
}

// AuthorityNode names the node that has the authority, for people.
func AuthorityNode(env *recipe.Environment) string { return Site{Environment: env}.authorityNode() }

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
