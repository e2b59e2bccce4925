package resources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

// A PgRole keeps a role of the node's PostgreSQL server. It is made where it is missing, what the recipe says of it is
// kept so, and what the recipe does not mention is nobody's business here: other attributes, a password, grants on
// objects. No membership is ever taken away, and no role is dropped.
type PgRole struct {
	Role              *string   `hcl:"name" doc:"The role. Default: the block's name, or the key of its for_each."`
	RoleAt            hcl.Range `hcl:"name,attr_value_range"`
	Login             *bool     `hcl:"login" doc:"Whether it can log in. Left out: a role that is made can, and one that is there stays as it is."`
	LoginAt           hcl.Range `hcl:"login,attr_value_range"`
	MemberOf          []string  `hcl:"member_of,optional" doc:"Roles that it is a member of, at the least: what is missing is granted, and what is there besides is named and kept. Left out: memberships are not looked at."`
	MemberOfAt        hcl.Range `hcl:"member_of,attr_value_range"`
	Inherit           *bool     `hcl:"inherit" doc:"Whether it has the privileges of the roles that it is a member of without SET ROLE. Left out: as PostgreSQL makes it, or as it is."`
	ConnectionLimit   *int      `hcl:"connection_limit" doc:"How many connections it may have at a time; -1 is any number. Left out: as it is."`
	ConnectionLimitAt hcl.Range `hcl:"connection_limit,attr_value_range"`
	ValidUntil        *string   `hcl:"valid_until" doc:"When its password ends (the password alone: a certificate has its own end), as \"2027-01-31T00:00:00Z\", or \"infinity\". Left out: as it is."`
	ValidUntilAt      hcl.Range `hcl:"valid_until,attr_value_range"`

	site Site
	wish postgres.RoleWish
}

// Prepare checks the arguments.
func (r *PgRole) Prepare(b recipe.Block) hcl.Diagnostics {
	name := b.Address.Name
	if b.Address.HasKey {
		name = b.Address.Key
	}
	if r.Role != nil {
		name = *r.Role
	}
	r.wish = postgres.RoleWish{Name: name, Login: r.Login, Inherit: r.Inherit, ConnectionLimit: r.ConnectionLimit}
	var diags hcl.Diagnostics
	if err := postgres.CheckRoleName(name); err != nil {
		diags = append(diags, mistake(r.RoleAt, b, "Invalid role", "There cannot be such a role: %s.", err))
	}
	diags = append(diags, r.checkMemberOf(b)...)
	if n := r.ConnectionLimit; n != nil && (*n < -1 || *n > 1<<31-1) {
		diags = append(diags, mistake(r.ConnectionLimitAt, b, "Invalid connection limit", "connection_limit is %d: it is a number of connections, or -1 for any number.", *n))
	}
	if r.ValidUntil != nil {
		until, err := validUntil(*r.ValidUntil)
		if err != nil {
			diags = append(diags, mistake(r.ValidUntilAt, b, "Invalid time", "valid_until is %q: write it as \"2027-01-31T00:00:00Z\", or \"infinity\".", *r.ValidUntil))
		}
		r.wish.ValidUntil = &until
	}
	if s := r.site.Server; s != nil && r.Login != nil && !*r.Login && (name == s.AdminUser || name == s.Owner.Name) {
		diags = append(diags, mistake(r.LoginAt, b, "Locked out", "converge connects as %q: with login = false it could not mend anything any more.", name))
	}
	return diags
}

func (r *PgRole) checkMemberOf(b recipe.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for i, m := range r.MemberOf {
		err := postgres.CheckMemberName(m)
		switch {
		case err != nil:
			diags = append(diags, mistake(r.MemberOfAt, b, "Invalid role", "member_of: there cannot be such a role: %s.", err))
		case m == r.wish.Name:
			diags = append(diags, mistake(r.MemberOfAt, b, "Circular membership", "member_of names %q itself.", m))
		case !slices.Contains(r.MemberOf[:i], m):
			r.wish.MemberOf = append(r.wish.MemberOf, m)
		}
	}
	return diags
}

// validUntil reads a time, and gives it the form that the server's answers have.
func validUntil(text string) (string, error) {
	if text == "infinity" {
		return text, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err == nil && (t.UTC().Year() < 1 || t.Nanosecond() != 0) {
		err = errors.New("no such second")
	}
	return t.UTC().Format(time.RFC3339), err
}

// Exports returns the name.
func (r *PgRole) Exports() map[string]cty.Value {
	return map[string]cty.Value{"name": cty.StringVal(r.wish.Name)}
}

// Targets returns nothing: a role is no file.
func (r *PgRole) Targets() []engine.Target { return nil }

// roleThing names a role for the graph.
func roleThing(name string) string { return fmt.Sprintf("role %q", name) }

// Provides returns the role.
func (r *PgRole) Provides() string { return roleThing(r.wish.Name) }

// Needs returns the roles that it is to be a member of.
func (r *PgRole) Needs() []string {
	var out []string
	for _, m := range r.wish.MemberOf {
		out = append(out, roleThing(m))
	}
	return out
}

// Converge makes the role, or what differs of it. To a standby replication brings it; a node without a server has no roles.
func (r *PgRole) Converge(ctx context.Context, h *engine.Host) error {
	if r.site.Server == nil || !hasDatabase(r.site.Node.Role) {
		return nil
	}
	found, err := r.look(ctx)
	if err != nil {
		return fmt.Errorf("the role %q cannot be looked at: %w", r.wish.Name, err)
	}
	h.Observe(roleThing(r.wish.Name), found.String())
	if err := r.missing(h, found); err != nil {
		return err
	}
	r.warn(h, found.role)
	statements := r.wish.Statements(found.role)
	switch {
	case len(statements) == 0:
		return nil
	case !issues(r.site.Node.Role):
		h.Wait("the role %q is not as declared on this standby (%s): replication brings it when converge apply has run on %s", r.wish.Name, strings.Join(statements, "; "), r.site.authorityNode())
		return nil
	}
	r.stage(h, found, statements)
	return nil
}

// A foundRole is what the server has.
type foundRole struct {
	role   *postgres.RoleState // nil: there is none
	groups map[string]bool     // of member_of, those that there are, and whether each is a superuser
}

// String is all that a decision rests on.
func (f foundRole) String() string {
	if f.role == nil {
		return fmt.Sprintf("absent %v", f.groups)
	}
	return fmt.Sprintf("%+v %v", *f.role, f.groups)
}

func (r *PgRole) look(ctx context.Context) (f foundRole, err error) {
	err = r.site.Session.ask(ctx, r.site.Server, func(conn *postgres.Conn) (err error) {
		if f.role, err = conn.Role(ctx, r.wish.Name); err == nil {
			f.groups, err = conn.Superusers(ctx, r.wish.MemberOf)
		}
		return err
	})
	return f, err
}

// missing names the roles of member_of that there are not. One that another step makes will be there.
func (r *PgRole) missing(h *engine.Host, f foundRole) error {
	var errs []error
	for _, m := range r.wish.MemberOf {
		if _, there := f.groups[m]; !there && !h.Provided(roleThing(m)) {
			errs = append(errs, fmt.Errorf("member_of names the role %q, and the server has none of that name: create it (CREATE ROLE %s), or declare it (pg_role %q { login = false })", m, postgres.QuoteIdent(m), m))
		}
	}
	return errors.Join(errs...)
}

// warn tells what the recipe leaves open, and what it may not expect.
func (r *PgRole) warn(h *engine.Host, now *postgres.RoleState) {
	if now == nil {
		return
	}
	if r.Login == nil && !now.Login {
		h.Warn(fmt.Sprintf("the role %q cannot log in, and the recipe does not say whether it should: write login = true or login = false", r.wish.Name))
	}
	if r.MemberOf == nil {
		return
	}
	var more []string
	for _, m := range now.MemberOf {
		if !slices.Contains(r.wish.MemberOf, m) {
			more = append(more, m)
		}
	}
	if len(more) > 0 {
		h.Warn(fmt.Sprintf("the role %q is also a member of %s, which member_of does not name; it is kept: add it there, or take it away (REVOKE)", r.wish.Name, list(more)))
	}
	for _, m := range now.Powerless {
		if slices.Contains(r.wish.MemberOf, m) {
			h.Warn(fmt.Sprintf("the role %q is a member of %s by a grant WITH INHERIT FALSE, SET FALSE, which gives it nothing; it is kept: GRANT %s TO %s WITH INHERIT TRUE, SET TRUE makes it count", r.wish.Name, m, postgres.QuoteIdent(m), postgres.QuoteIdent(r.wish.Name)))
		}
	}
}

// stage has the statements carried out together: the first that is called does it for all.
func (r *PgRole) stage(h *engine.Host, f foundRole, statements []string) {
	var once sync.Once
	var outcome error
	do := func(ctx context.Context) error {
		once.Do(func() { outcome = r.carry(ctx, statements) })
		return outcome
	}
	if f.role == nil {
		h.Explain(fmt.Sprintf("make the role %q", r.wish.Name), "there is none of that name")
	} else {
		h.Explain(fmt.Sprintf("change the role %q", r.wish.Name), "it differs from what is declared")
	}
	for _, s := range statements {
		h.Act(engine.Action{Kind: engine.OpSQL, Service: postgresqlService, Statement: s, Note: r.note(f, s), Do: do})
	}
}

// note tells of a grant that it makes a superuser.
func (r *PgRole) note(f foundRole, statement string) string {
	if !strings.HasPrefix(statement, "GRANT ") {
		return ""
	}
	var super []string
	for _, m := range r.wish.MemberOf {
		if f.groups[m] && (f.role == nil || !slices.Contains(f.role.MemberOf, m)) {
			super = append(super, m)
		}
	}
	if len(super) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is a superuser, and a member can become it by SET ROLE", list(super))
}

func (r *PgRole) carry(ctx context.Context, statements []string) error {
	conn, err := r.site.Server.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Carry(ctx, statements)
}
