package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A RoleState is what a server says of a role.
type RoleState struct {
	Login           bool
	Inherit         bool
	ConnectionLimit int    // -1: none
	ValidUntil      string // of its password: "" or "infinity", or RFC 3339 in UTC
	MemberOf        []string
	Powerless       []string // of MemberOf: by grants that let it neither use nor become the other role (16 and up)
}

// A RoleWish is what a role is to be. What is nil is not looked at.
type RoleWish struct {
	Name            string
	Login           *bool
	Inherit         *bool
	ConnectionLimit *int
	ValidUntil      *string  // as in RoleState
	MemberOf        []string // of these at the least
}

// Role asks for a role; nil when there is none of that name.
func (c *Conn) Role(ctx context.Context, name string) (*RoleState, error) {
	powerless := "'{}'::text[]"
	if c.Server.Major >= 16 {
		powerless = `ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
			WHERE m.member = r.oid GROUP BY 1 HAVING NOT bool_or(m.inherit_option OR m.set_option) ORDER BY 1)`
	}
	var s RoleState
	err := c.QueryRow(ctx, `SELECT r.rolcanlogin, r.rolinherit, r.rolconnlimit,
			CASE WHEN r.rolvaliduntil IS NULL THEN '' WHEN r.rolvaliduntil = 'infinity' THEN 'infinity'
				ELSE pg_catalog.to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END,
			ARRAY(SELECT DISTINCT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
				WHERE m.member = r.oid ORDER BY 1), `+powerless+`
		FROM pg_catalog.pg_roles r WHERE r.rolname::text = $1`, name).
		Scan(&s.Login, &s.Inherit, &s.ConnectionLimit, &s.ValidUntil, &s.MemberOf, &s.Powerless)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, c.questionError(fmt.Sprintf("ask for the role %q", name), err)
	}
	return &s, nil
}

// Superusers says of each of these roles that there is whether it is a superuser.
func (c *Conn) Superusers(ctx context.Context, names []string) (map[string]bool, error) {
	out := map[string]bool{}
	if len(names) == 0 {
		return out, nil
	}
	rows, err := c.Query(ctx, `SELECT rolname::text, rolsuper FROM pg_catalog.pg_roles WHERE rolname::text = ANY($1)`, names)
	if err != nil {
		return nil, c.questionError("ask for roles", err)
	}
	var name string
	var super bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &super}, func() error { out[name] = super; return nil }); err != nil {
		return nil, c.questionError("ask for roles", err)
	}
	return out, nil
}

// Carry carries statements out, all of them or none.
func (c *Conn) Carry(ctx context.Context, statements []string) error {
	tx, err := c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return c.questionError("begin", err)
	}
	defer tx.Rollback(ctx)
	for _, s := range statements {
		if _, err := tx.Exec(ctx, s); err != nil {
			return c.questionError(s, err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return c.questionError("commit", err)
	}
	return nil
}

// Statements are what makes a role as wished of what it is now; nil: it is not there.
func (w RoleWish) Statements(now *RoleState) []string {
	var out []string
	name := QuoteIdent(w.Name)
	switch attributes := w.attributes(now); {
	case now == nil:
		out = append(out, strings.Join(append([]string{"CREATE ROLE", name}, attributes...), " "))
	case len(attributes) > 0:
		out = append(out, strings.Join(append([]string{"ALTER ROLE", name}, attributes...), " "))
	}
	var missing []string
	for _, m := range w.MemberOf {
		if now == nil || !slices.Contains(now.MemberOf, m) {
			missing = append(missing, QuoteIdent(m))
		}
	}
	if len(missing) > 0 {
		out = append(out, fmt.Sprintf("GRANT %s TO %s", strings.Join(missing, ", "), name))
	}
	return out
}

// attributes are those that differ, in the words of CREATE ROLE. A role that is made can log in, unless it is said that it
// cannot.
func (w RoleWish) attributes(now *RoleState) []string {
	var out []string
	made := now == nil
	if made {
		now = &RoleState{Inherit: true, ConnectionLimit: -1}
	}
	switch {
	case w.Login == nil && made:
		out = append(out, "LOGIN")
	case w.Login != nil && (made || *w.Login != now.Login):
		out = append(out, unless(*w.Login, "LOGIN"))
	}
	if w.Inherit != nil && *w.Inherit != now.Inherit {
		out = append(out, unless(*w.Inherit, "INHERIT"))
	}
	if w.ConnectionLimit != nil && *w.ConnectionLimit != now.ConnectionLimit {
		out = append(out, fmt.Sprintf("CONNECTION LIMIT %d", *w.ConnectionLimit))
	}
	if w.ValidUntil != nil && *w.ValidUntil != now.ValidUntil {
		out = append(out, "VALID UNTIL '"+strings.ReplaceAll(*w.ValidUntil, "'", "''")+"'")
	}
	return out
}

func unless(is bool, word string) string {
	if is {
		return word
	}
	return "NO" + word
}

// QuoteIdent is a name as SQL takes it for a name, whatever is in it.
func QuoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// CheckRoleName says why PostgreSQL, or a line of pg_hba.conf, could not have a role of that name; nil when it could. Many
// odd names are allowed: SQL takes them in quotes, and so does pg_hba.conf.
func CheckRoleName(name string) error {
	if strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("names that begin with pg_ are kept for the roles that PostgreSQL brings along")
	}
	return CheckMemberName(name)
}

// CheckMemberName is CheckRoleName for a role that is only named: it may be one that PostgreSQL brings along.
func CheckMemberName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > 63:
		return fmt.Errorf("%q has %d bytes, and PostgreSQL keeps 63", shortened(name), len(name))
	case name == "public", name == "none":
		return fmt.Errorf("PostgreSQL keeps the name %q for itself", name)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("%q has a control character in it, which no line of pg_hba.conf can hold", name)
		}
	}
	return nil
}

// shortened is the beginning of a long name, cut between characters.
func shortened(name string) string {
	runes := []rune(name)
	return string(runes[:min(20, len(runes))]) + "..."
}
