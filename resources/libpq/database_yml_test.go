package libpq

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// yml shows what a database.yml comes to, a line for each connection.
func yml(t *testing.T, text, environment string) string {
	t.Helper()
	databases, err := ParseDatabaseYML("config/database.yml", []byte(text), environment)
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	for _, d := range databases {
		line := d.Name
		if d.Replica {
			line += " (replica)"
		}
		for _, name := range sortedNames(d.Settings) {
			line += fmt.Sprintf(" %s=%s", name, d.Settings[name])
		}
		for _, n := range d.Notes {
			line += "; " + n
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func TestParseDatabaseYML(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"as rails new makes it", `
# PostgreSQL. Versions 9.3 and up are supported.
default: &default
  adapter: postgresql
  encoding: unicode
  pool: <%= ENV.fetch("RAILS_MAX_THREADS") { 5 } %>

development:
  <<: *default
  database: app_development

production:
  <<: *default
  host: db1.internal
  port: 5433
  database: app_production
  username: app
  password: <%= ENV["APP_DATABASE_PASSWORD"] %>
  sslmode: verify-full
  sslcert: /srv/app/app.crt
  sslkey: /srv/app/app.key
  sslrootcert: /srv/app/root.crt
`, "production dbname=app_production host=db1.internal port=5433 sslcert=/srv/app/app.crt sslkey=/srv/app/app.key sslmode=verify-full sslrootcert=/srv/app/root.crt user=app" +
			"; config/database.yml:18: the password is ERB, which is not run: it is taken as not known"},
		{"several databases", `
default: &default
  adapter: postgresql
  username: deploy
  host: db1
production:
  primary: &primary
    <<: *default
    database: app
  primary_replica:
    <<: *primary
    host: db2
    replica: true
  queue:
    adapter: sqlite3
    database: storage/queue.sqlite3
`, "production.primary dbname=app host=db1 user=deploy\nproduction.primary_replica (replica) dbname=app host=db2 user=deploy"},
		{"a url over the keys beside it", `
production:
  adapter: postgresql
  host: nowhere
  username: nobody
  password: old
  port: 6432
  url: postgres://deploy:s%40crt@db1,db2/app?sslmode=require&pool=5
`, "production dbname=app host=db1,db2 password=s@crt port=6432 sslmode=require user=deploy"},
		{"a merge key after a key wins, as in Ruby; the first of several counts most", `
a: &a {host: a, username: a}
b: &b {host: b, port: 1}
production:
  username: own
  <<: [*a, *b]
  database: app
`, "production dbname=app host=a port=1 user=a"},
		{"numbers, nothing, and quotes", `
production:
  adapter: postgis
  database: 2024
  username: "12"
  password: ~
  host:
`, "production dbname=2024 user=12"},
		{"an alias for the whole", "x: &x\n  host: h\n  username: u\nproduction: *x\n", "production host=h user=u"},
		{"as Heroku's", "production:\n  url: jdbc:postgresql://x/y\n  host: db1\n", "production host=db1"},
		{"as symbols in JSON", `{"production": {"adapter": "postgresql", "host": "db1", "username": "u"}}`, "production host=db1 user=u"},
	} {
		if got := yml(t, c.text, "production"); got != c.want {
			t.Errorf("%s:\n%s\nnot\n%s", c.name, got, c.want)
		}
	}
}

// Each error has the file, mostly the line, and a way out; and never a value.
func TestParseDatabaseYMLErrors(t *testing.T) {
	bomb := "a0: &a0 {x: y}\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 12), ", "))
	}
	for _, c := range []struct{ name, text, want string }{
		{"ERB for a host", "production:\n  username: u\n  host: <%= ENV['DB_HOST'] %>\n", "config/database.yml:3: host is ERB (<%), which is not run: write the value in its place, or give the connection by --url"},
		{"ERB for a url", "production:\n  url: <%= ENV['DATABASE_URL'] %>\n", "config/database.yml:2: url is ERB (<%), which is not run: write the value in its place, or give the connection by --url"},
		{"ERB within", "production:\n  database: app_<%= hunter2 %>\n", "config/database.yml:2: database is ERB"},
		{"ERB behind an anchor", "x: &x\n  username: <%= hunter2 %>\nproduction:\n  <<: *x\n", "config/database.yml:2: username is ERB"},
		{"ERB around lines", "production:\n<% if hunter2 %>\n  host: a\n<% end %>\n", "config/database.yml:2: the file has ERB in it, which is not run, and is no YAML with it"},
		{"no such environment", "default: &d {host: a}\ndevelopment: *d\nstaging: *d\nversion: 3\n", `there is no environment "production" in it: --rails-env names one of default, development, staging`},
		{"not an environment", "production: hunter2\n", "config/database.yml:1: keys with values are expected here"},
		{"another adapter", "production:\n  adapter: mysql2\n  password: hunter2\n", "the adapter of production is not postgresql"},
		{"another url", "production:\n  url: mysql2://u:hunter2@h/d\n", "config/database.yml:2: url of production is none of PostgreSQL"},
		{"a url that is broken", "production:\n  url: postgres://u:hunter2@h:hunter2/d\n", "config/database.yml: production: a port is no number"},
		{"only others", "production:\n  a: {adapter: mysql2}\n  b: {adapter: sqlite3}\n", "the adapter of production.a is not postgresql"},
		{"a list", "production:\n  host: [a, b]\n", "config/database.yml:2: host is not a single value"},
		{"a port", "production:\n  host: a\n  port: hunter2\n", "a port is no number"},
		{"no YAML", "production:\n  host: a: b\n", "config/database.yml: it is no YAML: line 2"},
		{"nothing", "# empty\n", "config/database.yml: the file is empty"},
		{"an alias of nothing", "production: *x\n", "it is no YAML: unknown anchor"},
		{"itself", "production: &p\n  <<: *p\n", "keys with values are expected here"},
		{"a bomb", bomb + "production: *a11\n", "aliases of aliases"},
	} {
		start := time.Now()
		got := yml(t, c.text, "production")
		if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, c.want) || strings.Contains(got, "hunter2") {
			t.Errorf("%s: %s\nnot %s", c.name, got, c.want)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s took %s", c.name, d)
		}
	}
}

// Whatever a file has in it, it is read or refused, and the values of a file are in no error.
func FuzzParseDatabaseYML(f *testing.F) {
	f.Add("production:\n  host: a\n  password: hunter2\n")
	f.Add("d: &d\n  adapter: postgresql\nproduction:\n  <<: *d\n  url: postgres://u:hunter2@h/d\n")
	f.Fuzz(func(t *testing.T, text string) {
		ParseDatabaseYML("f", []byte(text), "production")
	})
}
