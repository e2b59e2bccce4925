package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Postgres is a store in a table of the environment's own PostgreSQL: what the authority writes on the master arrives
// on every standby by replication. Each node reads from the server beside it, also when the master is away, and writes to
// the master.
//
// A standby is behind: what others have written is read later there, and Create and Swap decide on the master by what is
// there. What was written through this very store is read from the master as well. A write is on the master's disk when it
// returns, even where synchronous_commit is off. When the connection breaks while a write is under way, the error wraps
// ErrUnavailable, and the write was done or not.
type Postgres struct {
	config PostgresConfig
	table  string // as it stands in a statement
	read   *link
	write  *link
	wrote  sync.Map // the keys that were written through this store
}

// A PostgresConfig says where the table is and how it is reached.
type PostgresConfig struct {
	// Schema is where the table "entries" is; "" is converge.
	Schema string
	// Read connects to the server that this node reads from, and Write to the master; without Read, reads go to the master
	// too. They are called again after a connection broke, so that each call can find another server. Without Write the
	// store is read-only.
	Read, Write func(context.Context) (*pgx.Conn, error)
	// Others are further servers that may have the table: see Elsewhere.
	Others []Server
	// Name names the server for people: "the PostgreSQL at 10.0.1.10:5432".
	Name string
	// Reader is a role that Init lets read all of it, and write the keys below the prefix Asks; "" is none. What is not below
	// it is for the table's owner and superusers to write.
	Reader, Asks string
	// Timeout ends a call that has no earlier deadline; 0 is 10 s.
	Timeout time.Duration
}

// tableName is the table's name in its schema.
const tableName = "entries"

// initLock is the advisory lock that two Inits at once take in turn.
const initLock = 0x636f6e7665726765 // "converge"

// OpenPostgres returns the store. It connects when the store is first used.
func OpenPostgres(c PostgresConfig) (*Postgres, error) {
	if c.Schema == "" {
		c.Schema = "converge"
	}
	if c.Name == "" {
		c.Name = "PostgreSQL"
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if len(c.Schema) > 63 || strings.ContainsRune(c.Schema, 0) {
		return nil, fmt.Errorf("%q is no name of a schema: it has at most 63 bytes", c.Schema)
	}
	if err := checkPrefix(c.Asks); err != nil || c.Reader != "" && c.Asks == "" {
		return nil, fmt.Errorf("%q is no prefix of the keys that %q may write", c.Asks, c.Reader)
	}
	if c.Read == nil && c.Write == nil {
		return nil, errors.New("a store in PostgreSQL needs a server to read from or one to write to")
	}
	p := &Postgres{config: c, table: pgx.Identifier{c.Schema, tableName}.Sanitize()}
	p.write = &link{open: c.Write, turn: make(chan struct{}, 1), timeout: c.Timeout}
	p.read = p.write
	if c.Read != nil {
		p.read = &link{open: c.Read, turn: make(chan struct{}, 1), timeout: c.Timeout}
	}
	return p, nil
}

// Get reads one row. Before the master's first run has reached a standby there is no table there: nothing is in it.
func (p *Postgres) Get(ctx context.Context, key string) (Entry, error) {
	if err := CheckKey(key); err != nil {
		return Entry{}, err
	}
	var e Entry
	var size int64
	err := p.do(ctx, p.reads(key), func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT version, pg_catalog.octet_length(value), CASE WHEN pg_catalog.octet_length(value) <= $2::int8 THEN value END
			FROM `+p.table+` WHERE key = $1::text`, pgx.QueryExecModeExec, key, int64(MaxValue)).Scan(&e.Version, &size, &e.Value)
	})
	switch {
	case errors.Is(err, errNoTable), errors.Is(err, pgx.ErrNoRows):
		return Entry{}, at(p, key, ErrNotFound)
	case err != nil:
		return Entry{}, p.fail(err)
	case size > MaxValue:
		return Entry{}, &unusable{p.String(), fmt.Sprintf("%s: it has %d bytes, and a value has at most %d", key, size, MaxValue), "delete the row from " + p.table, nil}
	}
	return e, nil
}

// Create inserts a row.
func (p *Postgres) Create(ctx context.Context, key string, value []byte) (Version, error) {
	if err := checkPut(key, value); err != nil {
		return 0, err
	}
	return p.put(ctx, key, 1, ErrExists, `INSERT INTO `+p.table+` (key, version, value, changed)
		VALUES ($1::text, 1, $2::bytea, pg_catalog.now()) ON CONFLICT (key) DO NOTHING`, notNull(value))
}

// Swap updates a row, if it has the version that it should have.
func (p *Postgres) Swap(ctx context.Context, key string, old Version, value []byte) (Version, error) {
	if err := checkPut(key, value); err != nil {
		return 0, err
	}
	if old < 1 {
		return 0, at(p, key, ErrChanged)
	}
	return p.put(ctx, key, old+1, ErrChanged, `UPDATE `+p.table+` SET version = version + 1, value = $2::bytea, changed = pg_catalog.now()
		WHERE key = $1::text AND version = $3::int8`, notNull(value), int64(old))
}

// reads is the server to ask for a key.
func (p *Postgres) reads(key string) *link {
	if _, wrote := p.wrote.Load(key); wrote {
		return p.write
	}
	return p.read
}

// put does a statement that changes one row or none: that of the key, which is its first argument.
func (p *Postgres) put(ctx context.Context, key string, v Version, lost error, sql string, args ...any) (Version, error) {
	var rows int64
	p.wrote.Store(key, true) // before it is known whether it was done: the master knows
	err := p.do(ctx, p.write, func(ctx context.Context, c *pgx.Conn) error {
		tag, err := c.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec, key}, args...)...)
		rows = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, p.fail(err)
	}
	if rows == 0 {
		return 0, at(p, key, lost)
	}
	return v, nil
}

// notNull makes an empty value of none, which pgx would write as NULL.
func notNull(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// List reads the keys of a range: "0" is the character after "/". Rows with other keys than a store has are passed over.
func (p *Postgres) List(ctx context.Context, prefix string) ([]Key, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	from, to := prefix, strings.TrimSuffix(prefix, "/")+"0"
	if prefix == "" {
		to = "\x7f" // the keys are ASCII
	}
	var keys []Key
	err := p.do(ctx, p.read, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT key, version FROM `+p.table+` WHERE key COLLATE pg_catalog."C" >= $1::text AND key COLLATE pg_catalog."C" < $2::text
			ORDER BY key COLLATE pg_catalog."C"`, pgx.QueryExecModeExec, from, to)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Key])
		return err
	})
	if errors.Is(err, errNoTable) {
		return nil, nil
	}
	if err != nil {
		return nil, p.fail(err)
	}
	return onlyKeys(keys), nil
}

// onlyKeys takes out what is no key.
func onlyKeys(keys []Key) []Key {
	var out []Key
	for _, k := range keys {
		if CheckKey(k.Name) == nil {
			out = append(out, k)
		}
	}
	return out
}

// Watch looks every half second: LISTEN is not for standbys (PostgreSQL's documentation, Hot Standby).
func (p *Postgres) Watch(ctx context.Context, key string, known Version) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return poll(ctx, known, func(ctx context.Context) (Version, error) { return p.version(ctx, key) })
}

// version returns the version of a key, or 0 when nothing is there.
func (p *Postgres) version(ctx context.Context, key string) (Version, error) {
	var v Version
	err := p.do(ctx, p.reads(key), func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT version FROM `+p.table+` WHERE key = $1::text`, pgx.QueryExecModeExec, key).Scan(&v)
	})
	if errors.Is(err, errNoTable) || errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, p.fail(err)
	}
	return v, nil
}

// String names the server and the schema.
func (p *Postgres) String() string {
	return fmt.Sprintf("the schema %q of %s", p.config.Schema, p.config.Name)
}

// Close ends the connections, once the calls that use them have ended. The store cannot be used afterwards.
func (p *Postgres) Close() error {
	p.read.close()
	p.write.close()
	return nil
}

// Init makes schema and table, and lets the reader in, where any of this is missing; else it changes nothing. It goes to
// the master.
func (p *Postgres) Init(ctx context.Context) error { return p.arrange(ctx, p.create) }

// Admit lets the reader in, and keeps it out, as this version does it, where the table is there: an earlier version may have
// made it. It goes to the master, and changes nothing where all is as it should be.
func (p *Postgres) Admit(ctx context.Context) error {
	return p.arrange(ctx, func(ctx context.Context, tx pgx.Tx) error {
		err := p.trusted(ctx, tx)
		if errors.Is(err, errNoTable) {
			return nil
		}
		if err != nil {
			return err
		}
		return p.letIn(ctx, tx)
	})
}

// arrange does work in a transaction on the master, one at a time.
func (p *Postgres) arrange(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	err := p.write.do(ctx, func(c *pgx.Conn) error {
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, `SELECT pg_catalog.pg_advisory_xact_lock($1::int8)`, pgx.QueryExecModeExec, int64(initLock)); err != nil {
			return err
		}
		if err := work(ctx, tx); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		return p.fail(err)
	}
	return nil
}

func (p *Postgres) create(ctx context.Context, tx pgx.Tx) error {
	var there bool
	err := tx.QueryRow(ctx, `SELECT pg_catalog.count(*) > 0 FROM pg_catalog.pg_namespace WHERE nspname = $1::text`, pgx.QueryExecModeExec, p.config.Schema).Scan(&there)
	if err == nil && !there {
		_, err = tx.Exec(ctx, `CREATE SCHEMA `+p.schema(), pgx.QueryExecModeExec)
	}
	if err != nil {
		return err
	}
	if err := p.trusted(ctx, tx); errors.Is(err, errNoTable) {
		if _, err := tx.Exec(ctx, `CREATE TABLE `+p.table+` (
			key text COLLATE pg_catalog."C" PRIMARY KEY,
			version bigint NOT NULL,
			value bytea NOT NULL,
			changed timestamptz)`, pgx.QueryExecModeExec); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return p.letIn(ctx, tx)
}

// schema is its name as it stands in a statement.
func (p *Postgres) schema() string { return pgx.Identifier{p.config.Schema}.Sanitize() }

// letIn gives the reader its rights, when it does not have just these: a GRANT is a write even where it changes nothing. What
// it may write is a matter of rows: superusers and the table's owner, as whom the authority comes, are not bound by
// row-level security (PostgreSQL's documentation, Row Security Policies). Of UPDATE it gets the columns and not the table,
// for that would let it lock the whole table, too.
func (p *Postgres) letIn(ctx context.Context, tx pgx.Tx) error {
	if p.config.Reader == "" {
		return nil
	}
	var has bool
	err := tx.QueryRow(ctx, `SELECT pg_catalog.has_schema_privilege($1::name, $2::text, 'USAGE')
		AND pg_catalog.has_table_privilege($1::name, $3::text, 'SELECT') AND pg_catalog.has_table_privilege($1::name, $3::text, 'INSERT')
		AND pg_catalog.has_column_privilege($1::name, $3::text, 'value', 'UPDATE')
		AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(relacl) AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee WHERE r.rolname = $1::name AND a.privilege_type = 'UPDATE')
		AND relrowsecurity AND (SELECT pg_catalog.count(*) = $4::int8 FROM pg_catalog.pg_policy WHERE polrelid = c.oid)
		FROM pg_catalog.pg_class AS c WHERE oid = $3::text::regclass`,
		pgx.QueryExecModeExec, p.config.Reader, p.config.Schema, p.table, len(rowPolicies)).Scan(&has)
	if err != nil || has {
		return err
	}
	role := pgx.Identifier{p.config.Reader}.Sanitize()
	for _, sql := range append([]string{
		`GRANT USAGE ON SCHEMA ` + p.schema() + ` TO ` + role,
		`REVOKE UPDATE ON TABLE ` + p.table + ` FROM ` + role, // an earlier version has granted it
		`GRANT SELECT, INSERT, UPDATE (version, value, changed) ON TABLE ` + p.table + ` TO ` + role,
		`ALTER TABLE ` + p.table + ` ENABLE ROW LEVEL SECURITY`,
	}, p.policies()...) {
		if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeExec); err != nil {
			return err
		}
	}
	return nil
}

// rowPolicies say which rows a reader sees, and which it writes. %s is what is asked for.
var rowPolicies = []struct{ name, allows string }{
	{"reads", "FOR SELECT USING (true)"},
	{"asks", "FOR INSERT WITH CHECK (%s)"},
	{"asks_again", "FOR UPDATE USING (%s)"},
}

// policies are the statements that make them, in place of those that are there.
func (p *Postgres) policies() []string {
	asked := fmt.Sprintf("pg_catalog.left(key, %d) OPERATOR(pg_catalog.=) '%s'", len(p.config.Asks), p.config.Asks)
	var out []string
	for _, policy := range rowPolicies {
		allows := strings.ReplaceAll(policy.allows, "%s", asked)
		out = append(out, "DROP POLICY IF EXISTS "+policy.name+" ON "+p.table, "CREATE POLICY "+policy.name+" ON "+p.table+" "+allows)
	}
	return out
}

// errNoTable is that the table is not there, or not yet.
var errNoTable = errors.New("the table is not there")

// trusted makes sure, before a superuser touches the table, that a superuser made it: in a schema of this name that
// somebody else was quick to make, a view or a trigger could run what he likes as the superuser. The error is errNoTable
// when there is none.
func (p *Postgres) trusted(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) error {
	var isTable, ok bool
	var owners string
	err := q.QueryRow(ctx, `SELECT relkind IN ('r', 'p'), NOT me.rolsuper OR owner.rolsuper AND maker.rolsuper, owner.rolname || ', ' || maker.rolname
		FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_roles AS owner ON owner.oid = c.relowner JOIN pg_catalog.pg_roles AS maker ON maker.oid = n.nspowner
		JOIN pg_catalog.pg_roles AS me ON me.rolname = current_user
		WHERE n.nspname = $1::text AND c.relname = $2::text`, pgx.QueryExecModeExec, p.config.Schema, tableName).Scan(&isTable, &ok, &owners)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errNoTable
	case err != nil:
		return err
	case !ok:
		return &unusable{p.String(), fmt.Sprintf("the owner of %s or of its schema is no superuser (%s), and could have anything run by the superuser who uses it", p.table, owners), "look what it is, and drop it", nil}
	case !isTable:
		return &unusable{p.String(), p.table + " is no table", "look what it is, and drop it", nil}
	}
	return nil
}

// do does work on a link's connection, within the timeout, once the table is found to be one that can be used; errNoTable
// when it is not there.
func (p *Postgres) do(ctx context.Context, l *link, work func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	return l.do(ctx, func(c *pgx.Conn) error {
		if !l.trusted {
			if err := p.trusted(ctx, c); err != nil {
				return err
			}
			l.trusted = true
		}
		err := work(ctx, c)
		var server *pgconn.PgError
		if errors.As(err, &server) && (server.Code == "42P01" || server.Code == "3F000") {
			l.trusted = false
			return errNoTable
		}
		return err
	})
}

// fail says in words why PostgreSQL could not be used. What a driver says of a connection string that it cannot read may
// have the password in it, and is not shown.
func (p *Postgres) fail(err error) error {
	var u *unusable
	var server *pgconn.PgError
	var config *pgconn.ParseConfigError
	switch {
	case errors.As(err, &u):
		return err
	case errors.As(err, &config):
		return &unusable{p.String(), "its connection string cannot be read", "", nil}
	case errors.As(err, &server):
		return &unusable{p.String(), fmt.Sprintf("%s (SQLSTATE %s)", server.Message, server.Code), p.remedy(server), err}
	case errors.Is(err, errNoTable):
		return &unusable{p.String(), "the table " + p.table + " is not there", "converge apply on the authority makes it", err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &unusable{p.String(), ended(err), "is the server there, and not too busy?", err}
	}
	return &unusable{p.String(), strings.Join(strings.Fields(err.Error()), " "), "", err}
}

// remedy is what helps against an error of the server (PostgreSQL's documentation, Appendix A).
func (p *Postgres) remedy(err *pgconn.PgError) string {
	switch code := err.Code; {
	case code == "42501" && err.Routine == "ExecWithCheckOptions": // the place in the server that holds a row against the policies
		return "the nodes' role writes what is below " + p.config.Asks + ", and the rest is written on the master, by its superuser"
	case code == "25006":
		return "writes go to the master, and this server is a standby or lets nobody write (default_transaction_read_only)"
	case code == "42501":
		return "the role needs USAGE of the schema, and SELECT, INSERT and UPDATE (version, value, changed) of the table in it"
	case code == "53100":
		return "free some space on the server"
	case code == "53300":
		return "raise max_connections, or end some"
	case strings.HasPrefix(code, "28"):
		return "look at pg_hba.conf and the role's password"
	}
	return ""
}

// A link is one connection. It is opened when it is first needed, and again when it broke. Calls take turns.
type link struct {
	open    func(context.Context) (*pgx.Conn, error)
	turn    chan struct{} // holds something while a call has the link
	timeout time.Duration // of a statement
	conn    *pgx.Conn
	trusted bool // the table was looked at over this connection
	closed  bool
}

// do calls work with a connection that lives. When work fails in a way that leaves it in doubt, the next call opens
// another one; so it does when the server turns out to be a standby, for the master may be elsewhere now.
func (l *link) do(ctx context.Context, work func(*pgx.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := l.ready(ctx); err != nil {
		return err
	}
	err := work(l.conn)
	if leavesDoubt(err) {
		l.drop()
	}
	return err
}

func leavesDoubt(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.SeverityUnlocalized != "ERROR" || server.Code == "25006"
	}
	return err != nil && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, errNoTable)
}

// ready makes sure that there is a connection. One that was kept is asked first: a write must not find out that it broke
// long ago.
func (l *link) ready(ctx context.Context) error {
	switch {
	case l.closed:
		return errClosed
	case l.open == nil:
		return errNoMaster
	case l.conn != nil && l.conn.Ping(ctx) == nil:
		return nil
	}
	l.drop()
	c, err := l.open(ctx)
	if err != nil {
		return err
	}
	l.conn = c
	if err := l.prepare(ctx); err != nil {
		l.drop()
		return err
	}
	return nil
}

var errNoMaster = errors.New("no master is known to write to")

// prepare makes the session one in which names mean what they say, values come as the driver reads them, a commit is on the
// disk, and the loser of a race is told so by the count of rows, not by an error.
func (l *link) prepare(ctx context.Context) error {
	_, err := l.conn.Exec(ctx, `SELECT pg_catalog.set_config('search_path', '', false),
		pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
		pg_catalog.set_config('statement_timeout', $1::text, false),
		pg_catalog.set_config('bytea_output', 'hex', false), pg_catalog.set_config('client_encoding', 'UTF8', false),
		pg_catalog.set_config('row_security', 'on', false),
		CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
			THEN pg_catalog.set_config('synchronous_commit', 'local', false) END`,
		pgx.QueryExecModeExec, fmt.Sprint(l.timeout.Milliseconds()))
	return err
}

// drop gives up the connection. A server that is stuck is not waited for.
func (l *link) drop() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l.conn.Close(ctx)
	l.conn, l.trusted = nil, false
}

func (l *link) close() {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.drop()
	l.closed = true
}
