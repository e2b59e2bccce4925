package recipe

import (
	"net/netip"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// The toy types stand for real ones: a file that exports its path, a key that needs an authority, and a service.
var toyTypes = []Type{
	{Name: "file_block", Summary: "a block of lines stands in a file", New: func() Config { return &toyFile{} }},
	{Name: "cert_authority", Summary: "there is one authority", New: func() Config { return &toyAuthority{} }},
	{Name: "user_key", Summary: "a user has a key", New: func() Config { return &toyKey{} }},
	{Name: "service_reload", Summary: "a service runs with what is on disk", New: func() Config { return &toyService{} }, Service: true},
}

type toyFile struct {
	Path    string    `hcl:"path"`
	PathAt  hcl.Range `hcl:"path,attr_value_range"`
	Content *string   `hcl:"content"`
	Lines   []string  `hcl:"lines,optional"`
	Mode    *toyMode  `hcl:"mode,block"`
}

type toyMode struct {
	Owner string `hcl:"owner"`
	Bits  *int   `hcl:"bits"`
}

func (c *toyFile) Prepare(b Block) hcl.Diagnostics {
	if c.Path == "" || c.Path[0] != '/' {
		return hcl.Diagnostics{mistake(c.PathAt, "Invalid path", "%s wants a path that begins with a slash, not %q.", b.Address, c.Path)}
	}
	return nil
}

func (c *toyFile) Exports() map[string]cty.Value {
	content := cty.NullVal(cty.String)
	if c.Content != nil {
		content = cty.StringVal(*c.Content)
	}
	return map[string]cty.Value{"path": cty.StringVal(c.Path), "content": content}
}

type toyAuthority struct {
	ExpireInDays *int `hcl:"expire_in_days"`
}

func (c *toyAuthority) Prepare(Block) hcl.Diagnostics { return nil }
func (c *toyAuthority) Exports() map[string]cty.Value {
	return map[string]cty.Value{"cert_file": cty.StringVal("/ssl/ca.crt")}
}

type toyKey struct {
	User         *string   `hcl:"user"`
	Authority    cty.Value `hcl:"authority"`
	AuthorityAt  hcl.Range `hcl:"authority,attr_value_range"`
	ExpireInDays *int      `hcl:"expire_in_days"`
}

func (c *toyKey) Prepare(b Block) hcl.Diagnostics {
	if c.User == nil {
		c.User = &b.Address.Name
		if b.Address.HasKey {
			c.User = &b.Address.Key
		}
	}
	_, diags := Referenced(c.Authority, "cert_authority", c.AuthorityAt)
	return diags
}

func (c *toyKey) Exports() map[string]cty.Value {
	return map[string]cty.Value{"cert_file": cty.StringVal("/home/" + *c.User + "/postgresql.crt"), "user": cty.StringVal(*c.User)}
}

type toyService struct {
	Service *string `hcl:"service"`
}

func (c *toyService) Prepare(Block) hcl.Diagnostics { return nil }
func (c *toyService) Exports() map[string]cty.Value { return nil }

// scopeFor is a node with a role, in an environment of its own.
func scopeFor(t testing.TB, role string) Scope {
	t.Helper()
	env, err := Single("db1", role, netip.MustParseAddr("10.0.1.10"))
	if err != nil {
		t.Fatal(err)
	}
	return Scope{Environment: env, Node: env.Nodes[0], Values: map[string]cty.Value{"postgresql": cty.ObjectVal(map[string]cty.Value{
		"version": cty.NumberIntVal(16), "data_directory": cty.StringVal("/db/postgresql/16/data"), "hba_file": cty.StringVal("/db/postgresql/16/data/pg_hba.conf"),
	})}}
}

func source(name, text string) Source { return Source{Name: name, Bytes: []byte(text)} }

// program loads and evaluates a recipe that must be right.
func program(t testing.TB, role, text string) *Program {
	t.Helper()
	r, diags := Load([]Source{source("a.hcl", text)}, toyTypes)
	p, more := r.For(scopeFor(t, role))
	for _, d := range append(diags, more...) {
		t.Errorf("%s", d)
	}
	return p
}
