package postgres

import (
	"context"
	"net/netip"
	"strings"

	"github.com/jackc/pgx/v5"
)

// People are those who may connect to a server and those who are connected now.
type People struct {
	Roles     []Role
	Databases []string // those that take connections, sorted
	Sessions  []Sessions
	TLS       bool // the setting ssl is on

	members map[membership]bool
}

// A Role may log in.
type Role struct {
	Name        string
	Superuser   bool
	Replication bool
}

// Sessions are connections of clients that are alike, and open now.
type Sessions struct {
	User     string
	Database string     // "" for physical replication
	From     netip.Addr // the zero Addr: the unix socket
	TLS, GSS bool
	Subject  string // of the client's certificate; "": none was shown
	Standby  string // application_name of a standby that receives the log; "" for others
	Count    int
}

type membership struct{ user, role string }

// Member tells whether a role is a member of another, directly or through others, whatever the grants say of inheritance.
// A role is a member of itself.
func (p People) Member(user, role string) bool { return p.members[membership{user, role}] }

// Certifies tells whether the certificate that was shown is in the name of the user.
func (s Sessions) Certifies() bool {
	for _, part := range strings.FieldsFunc(s.Subject, func(r rune) bool { return r == '/' || r == ',' }) {
		if strings.TrimSpace(part) == "CN="+s.User {
			return true
		}
	}
	return false
}

// People asks the server who there is. Connections of this program are not among the sessions.
func (c *Conn) People(ctx context.Context, f Facts) (People, error) {
	p := People{members: map[membership]bool{}}
	for _, question := range []func(context.Context, *People, Facts) error{c.roles, c.databases, c.memberships, c.sessions} {
		if err := question(ctx, &p, f); err != nil {
			return People{}, c.questionError("ask who may connect", err)
		}
	}
	return p, nil
}

func (c *Conn) roles(ctx context.Context, p *People, _ Facts) error {
	if err := c.QueryRow(ctx, `SELECT current_setting('ssl')::bool`).Scan(&p.TLS); err != nil {
		return err
	}
	rows, err := c.Query(ctx, `SELECT rolname::text, rolsuper, rolreplication FROM pg_roles WHERE rolcanlogin ORDER BY 1`)
	if err == nil {
		p.Roles, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Role])
	}
	return err
}

func (c *Conn) databases(ctx context.Context, p *People, _ Facts) error {
	rows, err := c.Query(ctx, `SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1`)
	if err == nil {
		p.Databases, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	return err
}

func (c *Conn) memberships(ctx context.Context, p *People, _ Facts) error {
	rows, err := c.Query(ctx, `WITH RECURSIVE m (member, role) AS (
			SELECT oid, oid FROM pg_roles
			UNION SELECT m.member, g.roleid FROM m JOIN pg_auth_members g ON g.member = m.role)
		SELECT u.rolname::text, r.rolname::text FROM m JOIN pg_roles u ON u.oid = m.member JOIN pg_roles r ON r.oid = m.role`)
	if err != nil {
		return err
	}
	var user, role string
	_, err = pgx.ForEachRow(rows, []any{&user, &role}, func() error {
		p.members[membership{user, role}] = true
		return nil
	})
	return err
}

// sessions counts the connections of clients. The view with the certificate's subject names it otherwise before 12, and
// only from 12 on there is one for GSSAPI.
func (c *Conn) sessions(ctx context.Context, p *People, f Facts) error {
	subject, gss, join := "s.client_dn", "coalesce(g.encrypted, false)", "LEFT JOIN pg_stat_gssapi g ON g.pid = a.pid"
	if f.Number < 120000 {
		subject, gss, join = "s.clientdn", "false", ""
	}
	rows, err := c.Query(ctx, `SELECT coalesce(a.usename::text, ''), coalesce(a.datname::text, ''), coalesce(host(a.client_addr), ''),
			coalesce(s.ssl, false), `+gss+`, coalesce(`+subject+`, ''), coalesce(r.application_name, ''), count(*)
		FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s ON s.pid = a.pid LEFT JOIN pg_stat_replication r ON r.pid = a.pid AND a.datname IS NULL `+join+`
		WHERE a.pid <> pg_backend_pid() AND a.application_name <> 'converge' AND a.backend_type IN ('client backend', 'walsender') AND a.usename IS NOT NULL
		GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7`)
	if err != nil {
		return err
	}
	var s Sessions
	var from string
	_, err = pgx.ForEachRow(rows, []any{&s.User, &s.Database, &from, &s.TLS, &s.GSS, &s.Subject, &s.Standby, &s.Count}, func() error {
		s.From, _ = netip.ParseAddr(from) // "": the unix socket
		p.Sessions = append(p.Sessions, s)
		return nil
	})
	return err
}
