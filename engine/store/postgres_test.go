package store

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"converge/fixtures/pgserver"
)

const postgresMajor = 15

func startPostgres(t testing.TB, conf ...string) *pgserver.Server {
	t.Helper()
	return pgserver.Start(t, pgserver.Options{Major: postgresMajor, Conf: append(conf, "max_connections = 40"),
		HBA: "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"})
}

// as connects to a server as a role.
func as(s *pgserver.Server, role string, more ...string) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d dbname=postgres user=%s %s", s.SocketDirectory, s.Port, role, strings.Join(more, " ")))
	}
}

// run does statements as the superuser.
func run(t testing.TB, s *pgserver.Server, statements ...string) {
	t.Helper()
	runAs(t, as(s, s.User), statements...)
}

func runAs(t testing.TB, connect func(context.Context) (*pgx.Conn, error), statements ...string) {
	t.Helper()
	ctx := background(t)
	c, err := connect(ctx)
	check(t, err)
	defer c.Close(ctx)
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// ask returns one value as text.
func ask(t testing.TB, s *pgserver.Server, sql string) string {
	t.Helper()
	ctx := background(t)
	c, err := as(s, s.User)(ctx)
	check(t, err)
	defer c.Close(ctx)
	var answer string
	check(t, c.QueryRow(ctx, sql).Scan(&answer))
	return answer
}

func openPostgres(t testing.TB, c PostgresConfig) *Postgres {
	t.Helper()
	if c.Name == "" {
		c.Name = "the PostgreSQL of the test"
	}
	p, err := OpenPostgres(c)
	check(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// openMaster opens a store that reads and writes on one server as its superuser.
func openMaster(t testing.TB, s *pgserver.Server) *Postgres {
	t.Helper()
	return openPostgres(t, PostgresConfig{Read: as(s, s.User), Write: as(s, s.User)})
}

func TestPostgres(t *testing.T) {
	s := startPostgres(t)
	config := PostgresConfig{Schema: `an "odd" schéma; --`, Read: as(s, s.User), Write: as(s, s.User)}
	check(t, openPostgres(t, config).Init(background(t)))
	conform(t, func(t testing.TB) Store { return openPostgres(t, config) })
}

// A server whose transactions are serializable, and whose commits are not waited for, makes no difference.
func TestPostgresSettings(t *testing.T) {
	s := startPostgres(t, "default_transaction_isolation = serializable", "synchronous_commit = off", "standard_conforming_strings = off", "bytea_output = escape", "search_path = 'trap'")
	run(t, s, "CREATE SCHEMA trap", "CREATE TABLE trap.entries (key text)")
	p := openMaster(t, s)
	check(t, p.Init(background(t)))
	conformEntry(t, func(t testing.TB) Store { return openMaster(t, s) })
	conformValues(t, func(t testing.TB) Store { return openMaster(t, s) })
	conformCounter(t, func(t testing.TB) Store { return openMaster(t, s) })
	create(t, p, "a", "x")
	var commit string
	check(t, p.write.conn.QueryRow(background(t), "SHOW synchronous_commit").Scan(&commit))
	if commit != "local" {
		t.Errorf("synchronous_commit is %s", commit)
	}
}

// Every major version does it in the same way.
func TestPostgresVersions(t *testing.T) {
	for _, major := range pgserver.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := pgserver.Start(t, pgserver.Options{Major: major, HBA: "local all all trust\n"})
			run(t, s, "CREATE ROLE app LOGIN")
			config := PostgresConfig{Read: as(s, "app"), Write: as(s, s.User), Reader: "app", Asks: "request/"}
			p := openPostgres(t, config)
			check(t, p.Init(background(t)))
			check(t, p.Init(background(t)))
			asksOnly(t, s, p)
			for _, test := range []func(*testing.T, func(testing.TB) Store){conformNothing, conformEntry} {
				test(t, func(t testing.TB) Store { return openPostgres(t, config) })
			}
		})
	}
}

// asksOnly holds that the nodes' role can write what nodes ask for, and nothing that others say: neither by this package nor
// in SQL of its own.
func asksOnly(t *testing.T, s *pgserver.Server, authority *Postgres) {
	t.Helper()
	ctx := background(t)
	v := create(t, authority, "node/app1", "by the authority")
	node := openPostgres(t, PostgresConfig{Read: as(s, "app"), Write: as(s, "app"), Asks: "request/"})
	wants(t, node, "node/app1", "by the authority", v)
	asked := create(t, node, "request/app1", "please")
	asked = swap(t, node, "request/app1", asked, "pretty please")
	wants(t, authority, "request/app1", "pretty please", asked)

	for _, key := range []string{"node/app2", "node/app1", "request", "requests/app1", "authority"} {
		_, err := node.Create(ctx, key, []byte("forged"))
		wantError(t, err, ErrUnavailable, "row-level security", "42501", "the nodes' role writes what is below request/")
	}
	_, err := node.Swap(ctx, "node/app1", v, []byte("forged"))
	wantError(t, err, ErrChanged)

	c, err := as(s, "app")(ctx)
	check(t, err)
	defer c.Close(ctx)
	for _, sql := range []string{
		"UPDATE converge.entries SET key = 'node/app2' WHERE key = 'request/app1'", "UPDATE converge.entries SET key = 'request/x'",
		"DELETE FROM converge.entries", "TRUNCATE converge.entries", "LOCK TABLE converge.entries", "ALTER TABLE converge.entries DISABLE ROW LEVEL SECURITY",
		"DROP POLICY asks ON converge.entries", "INSERT INTO converge.entries VALUES ('node/app1', 1, 'x') ON CONFLICT (key) DO UPDATE SET value = 'x'",
	} {
		if tag, err := c.Exec(ctx, sql); err == nil {
			t.Errorf("as the nodes' role: %s: %s", sql, tag)
		}
	}
	for _, sql := range []string{"UPDATE converge.entries SET value = 'forged' WHERE key NOT LIKE 'request/%'", "SELECT FROM converge.entries WHERE key = 'node/app1' FOR UPDATE"} {
		if tag, err := c.Exec(ctx, sql); err != nil || tag.RowsAffected() != 0 {
			t.Errorf("as the nodes' role: %s: %s, %v", sql, tag, err)
		}
	}
	wants(t, authority, "node/app1", "by the authority", v)
	swap(t, authority, "request/app1", asked, "by the authority, too")
	swap(t, authority, "node/app1", v, "again")
}

// A table of an earlier version let the nodes' role write all of it. Admit takes that away, and what is in the table stays.
func TestPostgresEarlierTable(t *testing.T) {
	s := startPostgres(t)
	run(t, s, "CREATE ROLE app LOGIN")
	p := openPostgres(t, PostgresConfig{Write: as(s, s.User), Reader: "app", Asks: "request/"})
	check(t, p.Admit(background(t))) // there is no table yet
	if n := ask(t, s, "SELECT count(*)::text FROM pg_namespace WHERE nspname = 'converge'"); n != "0" {
		t.Error("Admit has made a schema")
	}
	check(t, openMaster(t, s).Init(background(t)))
	run(t, s, "GRANT USAGE ON SCHEMA converge TO app", "GRANT SELECT, INSERT, UPDATE ON converge.entries TO app")
	v := create(t, p, "a", "x")
	check(t, p.Admit(background(t)))
	check(t, p.Admit(background(t)))
	wants(t, p, "a", "x", v)
	asksOnly(t, s, p)
}

// Init can be called by several at once, and a second time it writes nothing.
func TestPostgresInit(t *testing.T) {
	s := startPostgres(t)
	run(t, s, "CREATE ROLE app LOGIN", "CREATE ROLE stranger LOGIN")
	config := PostgresConfig{Write: as(s, s.User), Reader: "app", Asks: "request/"}
	ctx := background(t)

	// Before: it is empty, and nothing can be written.
	p := openPostgres(t, config)
	_, err := p.Get(ctx, "a")
	wantError(t, err, ErrNotFound)
	if keys, err := p.List(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("List: %v %v", keys, err)
	}
	_, err = p.Create(ctx, "a", nil)
	_, err2 := p.Swap(ctx, "a", 1, nil)
	for _, err := range []error{err, err2} {
		wantError(t, err, ErrUnavailable, `the table "converge"."entries" is not there`, "converge apply on the authority makes it")
	}

	done := make(chan error)
	for range 8 {
		mine := openPostgres(t, config)
		go func() { done <- mine.Init(ctx) }()
	}
	for range 8 {
		check(t, <-done)
	}
	const state = `SELECT (SELECT xmin::text || nspacl::text FROM pg_namespace WHERE nspname = 'converge') || (SELECT xmin::text || relacl::text FROM pg_class WHERE relname = 'entries')`
	was := ask(t, s, state)
	check(t, p.Init(ctx))
	if is := ask(t, s, state); is != was {
		t.Errorf("a second Init wrote: %s, and before %s", is, was)
	}
	v := create(t, p, "a", "x")

	reader := openPostgres(t, PostgresConfig{Read: as(s, "app"), Write: as(s, "app")})
	wants(t, reader, "a", "x", v)
	create(t, reader, "request/app1", "please")
	wantError(t, openPostgres(t, PostgresConfig{Write: as(s, "app"), Schema: "other"}).Init(ctx), ErrUnavailable, "permission denied for database", "42501")

	stranger := openPostgres(t, PostgresConfig{Read: as(s, "stranger"), Write: as(s, "stranger")})
	_, err = stranger.Get(ctx, "a")
	_, err2 = stranger.Create(ctx, "b", nil)
	_, err3 := stranger.List(ctx, "")
	for _, err := range []error{err, err2, err3} {
		wantError(t, err, ErrUnavailable, "permission denied for schema converge", "42501", "needs USAGE of the schema")
	}
	wantError(t, openPostgres(t, PostgresConfig{Write: as(s, s.User), Reader: "nobody", Asks: "request/"}).Init(ctx), ErrUnavailable, `role "nobody" does not exist`)

	// Without a master it can be read.
	only := openPostgres(t, PostgresConfig{Read: as(s, s.User)})
	wants(t, only, "request/app1", "please", 1)
	_, err = only.Create(ctx, "b", nil)
	wantError(t, err, ErrUnavailable, "no master is known to write to")
	for _, bad := range []PostgresConfig{{}, {Read: as(s, s.User), Reader: "app"}, {Read: as(s, s.User), Reader: "app", Asks: "x'y"}, {Read: as(s, s.User), Schema: "a\x00b"}, {Read: as(s, s.User), Schema: strings.Repeat("x", 64)}} {
		if _, err := OpenPostgres(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}

	// The table is dropped under an open connection.
	run(t, s, "DROP SCHEMA converge CASCADE")
	_, err = p.Get(ctx, "a")
	wantError(t, err, ErrNotFound)
	check(t, p.Init(ctx))
	create(t, p, "a", "again")
}

// Somebody who may create schemas was quicker than the superuser. What he has put there must not run as the superuser.
func TestPostgresStrangersTable(t *testing.T) {
	s := startPostgres(t)
	run(t, s, "CREATE ROLE mallory LOGIN", "GRANT CREATE ON DATABASE postgres TO mallory")
	ctx, mallory := background(t), as(s, "mallory")
	p := openMaster(t, s)
	refused := func(says ...string) {
		t.Helper()
		_, err := p.Get(ctx, "a")
		_, err2 := p.List(ctx, "")
		_, err3 := p.Create(ctx, "a", nil)
		for _, err := range []error{err, err2, err3, p.Init(ctx)} {
			wantError(t, err, ErrUnavailable, says...)
		}
		if ask(t, s, "SELECT rolsuper::text FROM pg_roles WHERE rolname = 'mallory'") != "false" {
			t.Fatal("mallory is a superuser")
		}
	}
	// She makes it while the store is open and has found nothing there.
	_, err := p.Get(ctx, "a")
	wantError(t, err, ErrNotFound)
	runAs(t, mallory, "CREATE SCHEMA converge",
		"CREATE FUNCTION converge.boom() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN 1; END $$",
		"CREATE VIEW converge.entries AS SELECT 'a'::text AS key, converge.boom() AS version, ''::bytea AS value, now() AS changed")
	refused("mallory", "no superuser")
	runAs(t, mallory, "DROP VIEW converge.entries",
		"CREATE TABLE converge.entries (key text PRIMARY KEY, version bigint, value bytea, changed timestamptz DEFAULT now())",
		"CREATE FUNCTION converge.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN NEW; END $$",
		"CREATE TRIGGER t BEFORE INSERT ON converge.entries FOR EACH ROW EXECUTE FUNCTION converge.trap()")
	refused("mallory", "no superuser")
	// The schema is hers and the table is not: she could put another in its place.
	run(t, s, "ALTER TABLE converge.entries OWNER TO "+s.User)
	refused("mallory", "no superuser")
	run(t, s, "DROP SCHEMA converge CASCADE", "CREATE SCHEMA converge", "CREATE VIEW converge.entries AS SELECT 1")
	refused("is no table")
	// A role that is no superuser has to trust whose table it is.
	run(t, s, "DROP SCHEMA converge CASCADE")
	owner := openPostgres(t, PostgresConfig{Write: mallory})
	check(t, owner.Init(ctx))
	create(t, owner, "a", "x")
	refused("mallory")
}

func TestPostgresDamage(t *testing.T) {
	s := startPostgres(t)
	p, ctx := openMaster(t, s), background(t)
	check(t, p.Init(ctx))
	v := create(t, p, "a", "x")
	run(t, s, "INSERT INTO converge.entries VALUES ('huge', 1, decode(repeat('00', 1048577), 'hex')), ('not a key', 1, ''), ('../x', 1, ''), ('last', 9223372036854775807, '')")
	_, err := p.Get(ctx, "huge")
	wantError(t, err, ErrUnavailable, "1048577 bytes", "delete the row")
	keys, err := p.List(ctx, "")
	if err != nil || len(keys) != 3 {
		t.Errorf("List: %v %v", keys, err)
	}
	_, err = p.Swap(ctx, "last", 9223372036854775807, nil)
	wantError(t, err, ErrUnavailable, "out of range")

	// What the server says when its disk is full, and a session that is ended under a write.
	run(t, s, "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
		"CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON converge.entries FOR EACH ROW EXECUTE FUNCTION no_space()")
	_, err = p.Swap(ctx, "a", v, []byte("y"))
	_, err2 := p.Create(ctx, "b", nil)
	for _, err := range []error{err, err2} {
		wantError(t, err, ErrUnavailable, "No space left on device", "53100", "free some space on the server")
	}
	run(t, s, "DROP TRIGGER no_space ON converge.entries",
		"CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NEW; END $$",
		"CREATE TRIGGER gone BEFORE INSERT OR UPDATE ON converge.entries FOR EACH ROW EXECUTE FUNCTION gone()")
	_, err = p.Swap(ctx, "a", v, []byte("y"))
	wantError(t, err, ErrUnavailable, "57P01")
	run(t, s, "DROP TRIGGER gone ON converge.entries")
	wants(t, p, "a", "x", v)
	swap(t, p, "a", v, "y")
}

// The server stops, and comes back; the store is the same all the time.
func TestPostgresStopped(t *testing.T) {
	s := startPostgres(t)
	p, ctx := openMaster(t, s), background(t)
	check(t, p.Init(ctx))
	v := create(t, p, "a", "x")
	waiting := watched(ctx, p, "a", v)
	for range 2 {
		wants(t, p, "a", "x", v)
		s.Stop()
		soon(t, 2*time.Second, "calls to a server that is stopped", func() {
			_, err := p.Get(ctx, "a")
			_, err2 := p.Swap(ctx, "a", v, nil)
			_, err3 := p.List(ctx, "")
			for _, err := range []error{err, err2, err3, p.Init(ctx)} {
				wantError(t, err, ErrUnavailable, p.String())
			}
		})
		s.Start()
	}
	v = swap(t, p, "a", v, "y") // over a connection that broke, which nobody has noticed yet
	s.Restart()
	v = swap(t, p, "a", v, "z")
	s.Restart()
	wants(t, p, "a", "z", v)
	select {
	case err := <-waiting:
		check(t, err)
	case <-time.After(5 * time.Second):
		t.Error("the watch has not survived")
	}
	check(t, p.Close())
	_, err := p.Get(ctx, "a")
	wantError(t, err, ErrUnavailable, "it is closed")
	wantError(t, p.Watch(ctx, "a", 0), ErrUnavailable, "it is closed")
}

// freeze stops the server and its sessions where they are; what it returns lets them go on.
func freeze(t testing.TB, s *pgserver.Server) (thaw func()) {
	t.Helper()
	var pids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	check(t, err)
	for _, name := range stats {
		text, err := os.ReadFile(name)
		var pid, parent int
		if _, after, ok := strings.Cut(string(text), ") "); err == nil && ok {
			fmt.Sscan(string(text), &pid)
			fmt.Sscan(after[2:], &parent)
		}
		if pid != 0 && (pid == s.PID() || parent == s.PID()) {
			pids = append(pids, pid)
		}
	}
	if len(pids) < 3 {
		t.Fatalf("processes of the server: %v", pids)
	}
	signal := func(sig syscall.Signal) {
		for _, pid := range pids {
			syscall.Kill(pid, sig)
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	return func() { signal(syscall.SIGCONT) }
}

func TestPostgresFrozen(t *testing.T) {
	s := startPostgres(t)
	ctx := background(t)
	check(t, openMaster(t, s).Init(ctx))
	patient := openMaster(t, s)
	v := create(t, patient, "a", "x")
	config := PostgresConfig{Read: as(s, s.User), Write: as(s, s.User), Timeout: time.Second}
	p, fresh := openPostgres(t, config), openPostgres(t, config)
	wants(t, p, "a", "x", v)
	wants(t, patient, "a", "x", v)
	thaw := freeze(t, s)
	for _, s := range []*Postgres{p, fresh} {
		soon(t, 1500*time.Millisecond, "a read", func() {
			_, err := s.Get(ctx, "a")
			wantError(t, err, ErrUnavailable, "did not answer in time")
		})
		soon(t, 1500*time.Millisecond, "a write", func() {
			_, err := s.Swap(ctx, "a", v, []byte("lost"))
			wantError(t, err, ErrUnavailable, "did not answer in time")
		})
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	soon(t, 500*time.Millisecond, "a read and its watch with a deadline", func() {
		waiting := watched(short, patient, "a", v)
		_, err := patient.Get(short, "a")
		wantError(t, err, ErrUnavailable)
		wantError(t, <-waiting, context.DeadlineExceeded)
	})
	soon(t, 1500*time.Millisecond, "Close", func() { check(t, patient.Close()) })
	thaw()
	e, err := p.Get(ctx, "a")
	check(t, err)
	if e.Version != v && string(e.Value) != "lost" {
		t.Errorf("version %d, %q", e.Version, e.Value)
	}
	swap(t, p, "a", e.Version, "y")
}

// startStandby makes a standby of a server with a copy of its files.
func startStandby(t *testing.T, master *pgserver.Server) *pgserver.Server {
	t.Helper()
	standby := pgserver.Start(t, pgserver.Options{Major: postgresMajor, HBA: "local all all trust\n", Down: true})
	conf, err := os.ReadFile(standby.ConfigFile)
	check(t, err)
	master.Stop()
	check(t, os.RemoveAll(standby.DataDirectory))
	if out, err := exec.Command("cp", "-a", master.DataDirectory, standby.DataDirectory).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v %s", err, out)
	}
	standby.WriteFile(standby.ConfigFile, conf, 0o600)
	standby.WriteFile(filepath.Join(standby.DataDirectory, "standby.signal"), nil, 0o600)
	standby.AppendConf("max_connections = 40", fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=%s'", master.SocketDirectory, master.Port, master.User))
	master.Start()
	standby.Start()
	return standby
}

func TestPostgresStandby(t *testing.T) {
	master := startPostgres(t)
	standby := startStandby(t, master)
	ctx := background(t)
	authority := openMaster(t, master)
	node := openPostgres(t, PostgresConfig{Read: as(standby, standby.User), Write: as(master, master.User)})
	_, err := node.Get(ctx, "a")
	wantError(t, err, ErrNotFound)
	if keys, err := node.List(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("List: %v %v", keys, err)
	}
	waiting := watched(ctx, node, "a", 0)
	check(t, authority.Init(ctx))
	v := create(t, authority, "a", "x")
	check(t, <-waiting)
	wants(t, node, "a", "x", v)
	request := create(t, node, "request/node", "please")
	wants(t, authority, "request/node", "please", request)

	// A standby that is behind shows what others have written later, and what the node itself has written at once.
	run(t, standby, "SELECT pg_wal_replay_pause()")
	request = swap(t, node, "request/node", request, "pretty please")
	wants(t, node, "request/node", "pretty please", request)
	later := swap(t, authority, "a", v, "y")
	wants(t, node, "a", "x", v)
	run(t, standby, "SELECT pg_wal_replay_resume()")
	check(t, node.Watch(ctx, "a", v))
	wants(t, node, "a", "y", later)
	v = later

	wrong := openPostgres(t, PostgresConfig{Read: as(standby, standby.User), Write: as(standby, standby.User)})
	_, err = wrong.Swap(ctx, "a", v, nil)
	_, err2 := wrong.Create(ctx, "b", nil)
	for _, err := range []error{err, err2, openPostgres(t, PostgresConfig{Write: as(standby, standby.User), Schema: "b"}).Init(ctx)} {
		wantError(t, err, ErrUnavailable, "read-only transaction", "25006", "writes go to the master")
	}
	deaf := openPostgres(t, PostgresConfig{Write: as(master, master.User, "default_transaction_read_only=on")})
	_, err = deaf.Swap(ctx, "a", v, nil)
	wantError(t, err, ErrUnavailable, "25006", "default_transaction_read_only")

	master.Stop()
	wants(t, node, "a", "y", v)
	_, err = node.Swap(ctx, "a", v, nil)
	wantError(t, err, ErrUnavailable)
	// The standby takes over; a store that asks anew who the master is goes on.
	moved := openPostgres(t, PostgresConfig{Read: as(standby, standby.User), Write: as(standby, standby.User)})
	_, err = moved.Swap(ctx, "a", v, nil)
	wantError(t, err, ErrUnavailable, "25006")
	run(t, standby, "SELECT pg_promote()")
	swap(t, moved, "a", v, "y")
}

// No error has a password in it.
func TestPostgresTellsNoPassword(t *testing.T) {
	s := startPostgres(t)
	const canary = "c4n4ry"
	run(t, s, "CREATE ROLE app LOGIN PASSWORD 'another'")
	ctx := background(t)
	var texts []string
	for _, dsn := range []string{
		fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres user=app password=%s sslmode=disable", s.Port, canary),
		fmt.Sprintf("postgres://app:%s@127.0.0.1:%d/postgres?sslmode=disable", canary, s.Port),
		fmt.Sprintf("host=127.0.0.1 port=x password='it\\'s %s'", canary),
		fmt.Sprintf("postgres://app:%s%%zz@127.0.0.1:1/postgres", canary),
		fmt.Sprintf("host=127.0.0.1 port=1 password=%s connect_timeout=1", canary),
		fmt.Sprintf("host=no.such.host.invalid password=%s", canary),
	} {
		p := openPostgres(t, PostgresConfig{Write: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, dsn) }})
		_, err := p.Get(ctx, "a")
		wantError(t, err, ErrUnavailable, p.String())
		texts = append(texts, err.Error(), fmt.Sprintf("%+v", err))
	}
	for _, text := range texts {
		if strings.Contains(text, canary) {
			t.Errorf("a password: %s", text)
		}
		if strings.Contains(text, "\n") {
			t.Errorf("more than one line: %q", text)
		}
	}
}

func TestPostgresRemedies(t *testing.T) {
	p := openPostgres(t, PostgresConfig{Name: "db1", Read: func(context.Context) (*pgx.Conn, error) { return nil, nil }})
	for code, says := range map[string]string{"25006": "master", "53100": "space", "53300": "max_connections", "28P01": "pg_hba.conf", "42501": "USAGE", "XX000": ""} {
		err := p.fail(&pgconn.PgError{Code: code, Message: "why"})
		wantError(t, err, ErrUnavailable, `the schema "converge" of db1: why (SQLSTATE `+code+")", says)
	}
}

func BenchmarkPostgres(b *testing.B) {
	s := startPostgres(b)
	p := openMaster(b, s)
	check(b, p.Init(context.Background()))
	benchmarks(b, p)
}
