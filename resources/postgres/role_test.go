package postgres

import (
	"slices"
	"strings"
	"testing"

	"converge/fixtures/pgserver"
)

func ptr[T any](v T) *T { return &v }

// oddNames are names that PostgreSQL has, and that mean something else where they are not quoted.
var oddNames = []string{
	"all", "replication", "samerole", "+x", "@x", "/x", "a,b", "a#b", "Alice", "user", "select", "current_user", "session_user", "Public", `q"uote`, `a\b`, "$1",
	"ünïcode", "with space ", "'; DROP ROLE odd; --", strings.Repeat("n", 63), strings.Repeat("ü", 31) + "x",
}

// On every version a role becomes what was wished, in one go or in two, and then there is nothing to do. What was not
// wished stays.
func TestRole(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		c := connect(t, found(t, pgserver.Start(t, pgserver.Options{Major: major})))
		become := func(w RoleWish) *RoleState {
			t.Helper()
			now, err := c.Role(t.Context(), w.Name)
			if err == nil {
				err = c.Carry(t.Context(), w.Statements(now))
			}
			if err == nil {
				now, err = c.Role(t.Context(), w.Name)
			}
			if err != nil {
				t.Fatalf("%q: %v", w.Name, err)
			}
			if now == nil {
				t.Fatalf("%q is not there", w.Name)
			}
			if more := w.Statements(now); len(more) > 0 {
				t.Errorf("%q: still to do: %q", w.Name, more)
			}
			return now
		}
		for _, name := range oddNames {
			if err := CheckRoleName(name); err != nil {
				t.Errorf("%q: %v", name, err)
			}
			if now := become(RoleWish{Name: name}); !now.Login || !now.Inherit || now.ConnectionLimit != -1 || now.ValidUntil != "" || len(now.MemberOf) > 0 {
				t.Errorf("%q is %+v", name, *now)
			}
		}
		groups := slices.Sorted(slices.Values(oddNames[:5]))
		all := RoleWish{Name: "alice", Login: ptr(false), Inherit: ptr(false), ConnectionLimit: ptr(3), ValidUntil: ptr("2031-02-03T04:05:06Z"), MemberOf: groups}
		now := become(all)
		if now.Login || now.Inherit || now.ConnectionLimit != 3 || now.ValidUntil != "2031-02-03T04:05:06Z" || !slices.Equal(now.MemberOf, groups) {
			t.Errorf("alice is %+v", *now)
		}
		if now := become(RoleWish{Name: "alice", Login: ptr(true), ValidUntil: ptr("infinity"), MemberOf: []string{"Alice"}}); !now.Login || now.Inherit || now.ConnectionLimit != 3 || now.ValidUntil != "infinity" || len(now.MemberOf) != 6 {
			t.Errorf("alice is %+v", *now)
		}
		if super, err := c.Superusers(t.Context(), []string{"alice", c.Server.AdminUser, "nobody"}); err != nil || len(super) != 2 || super["alice"] || !super[c.Server.AdminUser] {
			t.Errorf("superusers are %v (%v)", super, err)
		}
		powerless(t, c, major)
		// Together or not at all: after a statement that fails nothing is there.
		if err := c.Carry(t.Context(), []string{`CREATE ROLE "half"`, `GRANT "nowhere" TO "half"`}); err == nil || !strings.Contains(err.Error(), `role "nowhere" does not exist`) {
			t.Errorf("got %v", err)
		}
		if half, err := c.Role(t.Context(), "half"); half != nil || err != nil {
			t.Errorf("half is there: %v (%v)", half, err)
		}
	})
}

// powerless wants a grant that gives nothing to be told from others.
func powerless(t *testing.T, c *Conn, major int) {
	t.Helper()
	if major < 16 {
		return
	}
	if err := c.Carry(t.Context(), []string{`CREATE ROLE "idle"`, `GRANT "all" TO "idle" WITH INHERIT FALSE, SET FALSE`, `GRANT "+x" TO "idle"`}); err != nil {
		t.Fatal(err)
	}
	if now, err := c.Role(t.Context(), "idle"); err != nil || !slices.Equal(now.Powerless, []string{"all"}) || len(now.MemberOf) != 2 {
		t.Errorf("idle is %+v (%v)", now, err)
	}
}

// A server whose administrator has made transactions read-only by default, and who has a search path full of traps, is
// asked and changed all the same.
func TestRoleAmongTraps(t *testing.T) {
	c := connect(t, found(t, pgserver.Start(t, pgserver.Options{Major: 18, Conf: []string{"default_transaction_read_only = on", "search_path = 'trap, pg_catalog'"}})))
	traps := []string{"CREATE SCHEMA trap", "CREATE TABLE trap.pg_roles (rolname text, rolsuper bool)", "INSERT INTO trap.pg_roles VALUES ('alice', true)"}
	if err := c.Carry(t.Context(), append(traps, RoleWish{Name: "alice"}.Statements(nil)...)); err != nil {
		t.Fatal(err)
	}
	if super, err := c.Superusers(t.Context(), []string{"alice"}); err != nil || super["alice"] {
		t.Errorf("%v (%v)", super, err)
	}
}

func TestRoleNamesThatCannotBe(t *testing.T) {
	for _, name := range []string{"", "public", "none", "pg_mine", "a\x00b", "a\nb", "a\x7f", strings.Repeat("n", 64), strings.Repeat("ü", 32)} {
		if CheckRoleName(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if err := CheckMemberName("pg_monitor"); err != nil {
		t.Error(err)
	}
}
