package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"converge/fixtures/pgserver"
)

const peopleHBA = "local converge_gen_000000000001 all reject\nlocal all all peer\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"

// A session of one client, opened for the test.
func openSession(t *testing.T, s *Server, parameters string) {
	t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable %s", s.Port, parameters))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
}

// People knows memberships as the server does, and who is connected, but not this program itself.
func TestPeople(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := found(t, pgserver.Start(t, pgserver.Options{Major: major, HBA: peopleHBA}))
		c := connect(t, s)
		for _, sql := range []string{
			"CREATE ROLE staff", "CREATE ROLE inner_staff NOINHERIT IN ROLE staff", "CREATE ROLE alice LOGIN NOINHERIT IN ROLE inner_staff",
			"CREATE ROLE bob LOGIN SUPERUSER", "CREATE DATABASE shop",
		} {
			if _, err := c.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		openSession(t, s, "user=alice dbname=shop")
		openSession(t, s, "user=alice dbname=shop")
		facts, err := c.Facts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.People(t.Context(), facts)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []struct {
			user, role string
			is         bool
		}{{"alice", "staff", true}, {"alice", "inner_staff", true}, {"alice", "alice", true}, {"bob", "staff", false}, {"nobody", "nobody", false}} {
			if p.Member(m.user, m.role) != m.is {
				t.Errorf("%s in %s is not %v", m.user, m.role, m.is)
			}
		}
		if !slices.Contains(p.Databases, "shop") || slices.Contains(p.Databases, "template1") {
			t.Errorf("databases %q", p.Databases)
		}
		if i := slices.IndexFunc(p.Roles, func(r Role) bool { return r.Name == "bob" }); i < 0 || !p.Roles[i].Superuser || slices.ContainsFunc(p.Roles, func(r Role) bool { return r.Name == "staff" }) {
			t.Errorf("roles %+v", p.Roles)
		}
		if len(p.Sessions) != 1 || p.Sessions[0].Count != 2 || p.Sessions[0].User != "alice" || p.Sessions[0].Database != "shop" ||
			p.Sessions[0].From.String() != "127.0.0.1" || p.Sessions[0].TLS || p.TLS {
			t.Errorf("sessions %+v, TLS %v", p.Sessions, p.TLS)
		}
	})
}

// RuleLoaded sees the rules that the server runs with, not those on the disk: not even when a broken file was reloaded.
func TestRuleLoaded(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major, HBA: peopleHBA})
		s := found(t, ps)
		loaded := func(name string, want bool) {
			t.Helper()
			if got, err := s.RuleLoaded(t.Context(), name); err != nil || got != want {
				t.Errorf("%s is loaded: %v, %v", name, got, err)
			}
		}
		const first, second = "converge_gen_000000000001", "converge_gen_000000000002"
		loaded(first, true)
		loaded(second, false)
		ps.WriteFile(s.HBAFile, []byte("local "+second+" all reject\nlocal all all peer\nbogus\n"), 0o600)
		syscall.Kill(ps.PID(), syscall.SIGHUP)
		loaded(first, true)
		loaded(second, false)
		ps.WriteFile(s.HBAFile, []byte("local "+second+" all reject\nlocal all all peer\n"), 0o600)
		syscall.Kill(ps.PID(), syscall.SIGHUP)
		eventually(t, "the second generation", func() bool { is, err := s.RuleLoaded(t.Context(), second); return is && err == nil })
		loaded(first, false)
		// Only one database may be reached: who comes for another is turned away too, and that proves nothing.
		ps.WriteFile(s.HBAFile, []byte("local postgres all peer\n"), 0o600)
		syscall.Kill(ps.PID(), syscall.SIGHUP)
		eventually(t, "the rules without a beacon", func() bool { is, err := s.RuleLoaded(t.Context(), second); return !is && err == nil })
		ps.WriteFile(s.HBAFile, []byte("local postgres all peer\nlocal all all reject\n"), 0o600)
		syscall.Kill(ps.PID(), syscall.SIGHUP)
		eventually(t, "the rules that reject all", func() bool {
			is, err := s.RuleLoaded(t.Context(), second)
			return !is && errors.Is(err, ErrCannotTell)
		})
		ps.WriteFile(s.HBAFile, []byte("local "+second+" all reject\nlocal postgres all peer\n"), 0o600)
		syscall.Kill(ps.PID(), syscall.SIGHUP)
		eventually(t, "the beacon before the end of the rules", func() bool { is, err := s.RuleLoaded(t.Context(), second); return is && err == nil })
	})
}

func TestRuleLoadedWithoutServer(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15, HBA: peopleHBA})
	s := found(t, ps)
	ps.Stop()
	if _, err := s.RuleLoaded(t.Context(), "converge_gen_000000000001"); err == nil {
		t.Error("a server that does not run has loaded something")
	}
}
