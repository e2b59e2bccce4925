package libpq

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestParseConninfo(t *testing.T) {
	for _, c := range []struct {
		text string
		want Settings
	}{
		{"postgres://deploy@db1/app", Settings{"user": "deploy", "host": "db1", "dbname": "app"}},
		{"postgresql://deploy:s%40crt%3A@db1:5433/app?sslmode=verify-full&connect_timeout=3",
			Settings{"user": "deploy", "password": "s@crt:", "host": "db1", "port": "5433", "dbname": "app", "sslmode": "verify-full", "connect_timeout": "3"}},
		{"postgres://deploy:a?b@db1/app", Settings{"user": "deploy", "password": "a?b", "host": "db1", "dbname": "app"}},
		{"postgres://u@[fd00::1]:5433,db2/app", Settings{"user": "u", "host": "fd00::1,db2", "port": "5433,", "dbname": "app"}},
		{"postgres://db1?dbname=other&user=u", Settings{"host": "db1", "dbname": "other", "user": "u"}},
		{"postgres:///app?host=/run/postgresql", Settings{"dbname": "app", "host": "/run/postgresql"}},
		{"postgres://db1/app?ssl=true", Settings{"host": "db1", "dbname": "app", "sslmode": "require"}},
		{"postgres://%2Frun%2Fpostgresql/app", Settings{"host": "/run/postgresql", "dbname": "app"}},
		{`host=db1 user = deploy password='it\'s a \\' dbname=app`, Settings{"host": "db1", "user": "deploy", "password": `it's a \`, "dbname": "app"}},
		{`user=a\ b password='' dbname=`, Settings{"user": "a b"}},
		{`user= dbname=app`, Settings{"user": "dbname=app"}}, // the blanks after the = are passed over
		{"", Settings{}},
	} {
		got, err := ParseConninfo(c.text)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %q, %v, not %q", c.text, got, err, c.want)
		}
	}
}

// What libpq refuses is refused, and no message repeats what may be a password.
func TestParseConninfoErrors(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://deploy:hunter2@db1:hunter2/app": "a port is no number",
		"postgres://deploy:hun:ter2@db1/app":        "", // fine: the password is hun:ter2
		"postgres://deploy:hunter2/x@db1/app":       "a port is no number",
		"postgres://deploy:%zzhunter2@db1/app":      "password: a % is not followed",
		"postgres://deploy:hunter2%@db1/app":        "password: a % is not followed",
		"postgres://deploy:hunter2%00@db1/app":      "password: a % is not followed",
		"postgres://[fd00::1/hunter2":               "an IPv6 address in a URI",
		"postgres://h/d?hunter2":                    "NAME=VALUE",
		"postgres://h/d?password=hunter2=x":         "with one =",
		"postgres://h/d?colour=hunter2":             `libpq has no parameter "colour"`,
		"postgres://h/d?sslmode=hunter2":            "sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
		"host=a,b port=1,2,3":                       "there are 3 ports for 2 hosts",
		"host=a,b hostaddr=10.0.0.1":                "host names 2 servers and hostaddr 1",
		"hostaddr=hunter2":                          "hostaddr is no address",
		"service=prod":                              "pg_service.conf is not read",
		"password='hunter2":                         "password: the value has no closing quote",
		"hunter2":                                   "neither a URI",
		"user=u hunter2 host=h":                     "neither a URI",
		"host=h\x00":                                "NUL",
	} {
		_, err := ParseConninfo(text)
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, not %s", text, err, want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"host=a,b,c port=5433", "[{a  5433 false} {b  5433 false} {c  5433 false}]"},
		{"host=a,b port=5433,", "[{a  5433 false} {b  5432 false}]"},
		{"host=db1 hostaddr=10.0.0.1", "[{db1 10.0.0.1 5432 false}]"},
		{"hostaddr=10.0.0.1", "[{10.0.0.1 10.0.0.1 5432 false}]"},
		{"host=/run/postgresql", "[{/run/postgresql  5432 true}]"},
		{"user=deploy", "[{  5432 true}]"},
	} {
		s, err := ParseConninfo(c.text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Endpoints()
		if fmt.Sprint(got) != c.want || err != nil {
			t.Errorf("%s: %v, %v, not %s", c.text, got, err, c.want)
		}
	}
}

func TestSSLMode(t *testing.T) {
	for text, want := range map[string]string{
		"host=a": "prefer", "sslmode=require": "require", "sslrootcert=system": "verify-full", "requiressl=1": "require",
	} {
		if s, err := ParseConninfo(text); err != nil || s.SSLMode() != want {
			t.Errorf("%s: %v, %v", text, s.SSLMode(), err)
		}
	}
}

// Whatever we take, pgconn takes for the same servers, user, database and password.
func FuzzParseConninfo(f *testing.F) {
	for _, seed := range []string{
		"postgres://u:p@h:1/d", "postgres://u:p@h1:1,h2:2/d?sslmode=disable", "host=a user=u dbname='x y'", "postgres://[::1]:5/d", "postgres://u:a?b@h/d",
		`host=h password='a\'b\\' user=x`, "postgres://h/d?user=q&password=%41", "postgres://@h:/", "host = h  port= 5 ", `user=a\`,
	} {
		f.Add(seed)
	}
	f.Setenv("HOME", f.TempDir())
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := ParseConninfo(text)
		if err != nil || ours["sslmode"] != "" || ours["host"] == "" || ours["user"] == "" || ours["hostaddr"] != "" {
			return
		}
		for _, other := range []string{"sslcert", "sslkey", "sslrootcert", "sslcertmode", "sslnegotiation", "requiressl", "servicefile", "target_session_attrs",
			"min_protocol_version", "max_protocol_version", "channel_binding", "require_auth", "connect_timeout", "passfile"} {
			if ours[other] != "" {
				return
			}
		}
		theirs, err := pgconn.ParseConfig(text)
		if err != nil {
			return // it refuses more: blanks in a URI, say
		}
		endpoints, err := ours.Endpoints()
		if err != nil {
			t.Fatal(err)
		}
		if endpoints[0].Host == "" {
			return
		}
		got := fmt.Sprintf("%q %d %q %q %q", endpoints[0].Host, endpoints[0].Port, ours["user"], ours["dbname"], ours["password"])
		if want := fmt.Sprintf("%q %d %q %q %q", theirs.Host, theirs.Port, theirs.User, theirs.Database, theirs.Password); got != want {
			t.Errorf("%q: %s, and pgconn has %s", text, got, want)
		}
	})
}
