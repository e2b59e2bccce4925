package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"converge/fixtures/pgserver"
)

// A reload by signal reaches the server, and a restart by pg_ctl keeps its options, its environment and its log.
func TestReloadAndRestart(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		t.Parallel()
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		c := connect(t, s)
		value := func(c *Conn, name string) string {
			set, err := c.Settings(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return set[name].Value
		}
		ps.AppendConf("log_statement = 'ddl'", "max_connections = 25")
		if p, err := s.ReloadProvider(); err != nil || p != Signal {
			t.Errorf("reload by %s %v", p, err)
		}
		if err := s.Reload(t.Context(), Control{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new value", func() bool { return value(c, "log_statement") == "ddl" })
		if set, err := c.Settings(t.Context(), "max_connections"); err != nil || !set["max_connections"].PendingRestart {
			t.Errorf("max_connections does not wait for a restart: %+v %v", set, err)
		}
		before, err := s.Process()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.RestartProvider(); err != nil || p != PgCtl {
			t.Errorf("restart by %s %v", p, err)
		}
		took, err := s.Restart(t.Context(), Control{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("restarted in %v", took.Round(time.Millisecond))
		after, err := s.Process()
		if err != nil || after.PID == before.PID || after.Phase != Running {
			t.Errorf("before %+v, after %+v %v", before, after, err)
		}
		again := connect(t, s)
		if value(again, "max_connections") != "25" {
			t.Error("the restart did not bring the new value")
		}
		if log := openFile(after.PID, 2); log != ps.LogFile {
			t.Errorf("the log moved to %q", log)
		}
		if env := strings.Join(environmentOf(after.PID), " "); !strings.Contains(env, "TZ=UTC") {
			t.Errorf("the environment is another: %s", env)
		}
		opts, err := os.ReadFile(path.Join(ps.DataDirectory, "postmaster.opts"))
		if err != nil || !strings.Contains(string(opts), "config_file="+ps.ConfigFile) {
			t.Errorf("the options are lost: %s %v", opts, err)
		}

		// A server that does not come back.
		ps.AppendConf("primary_conninfo = 'host=x password=hunter2'", "no_such_setting = 1")
		took, err = s.Restart(t.Context(), Control{})
		if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) && major >= 12 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
		if took > 20*time.Second {
			t.Errorf("it took %v to tell", took)
		}
		t.Logf("%v", err)
	})
}

// A Debian cluster restarts by pg_ctlcluster. It is made in a mount namespace, so that the machine's own stays alone.
func TestPgCtlCluster(t *testing.T) {
	if os.Getenv("IN_NAMESPACE") == "" {
		if _, ok := pgserver.Debian(15); !ok || !isExecutable("/usr/bin/pg_ctlcluster") {
			if os.Getenv("CI") != "" {
				t.Fatal("Debian's PostgreSQL 15 is not installed")
			}
			t.Skip("Debian's PostgreSQL 15 is not installed")
		}
		cmd := exec.Command("unshare", "-m", os.Args[0], "-test.run", "^TestPgCtlCluster$", "-test.v")
		cmd.Env = append(os.Environ(), "IN_NAMESPACE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, dir := range []string{"/etc/postgresql", "/var/lib/postgresql", "/var/log/postgresql", "/var/run/postgresql"} {
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0755,uid=postgres", "none", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// mount makes a shared mount private only when it is told to.
	if out, err := exec.Command("pg_createcluster", "15", "test", "--", "-N").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("pg_ctlcluster", "--skip-systemctl-redirect", "15", "test", "start").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := Discover(Root("/"), Override{})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Command("pg_ctlcluster", "--skip-systemctl-redirect", "15", "test", "stop", "-m", "immediate").Run()
	if s.Layout != LayoutDebian || s.Cluster != "15/test" || s.Unit != "postgresql@15-test.service" || s.BinDirectory != "/usr/lib/postgresql/15/bin" {
		t.Errorf("found %+v", s)
	}
	if p, err := s.RestartProvider(); err != nil || p != PgCtlCluster {
		t.Errorf("restart by %s %v", p, err)
	}
	before, err := s.Process()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context(), Control{Provider: PgCtlCluster}); err != nil {
		t.Error(err)
	}
	took, err := s.Restart(t.Context(), Control{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restarted in %v", took)
	if after, err := s.Process(); err != nil || after.PID == before.PID || after.Phase != Running {
		t.Errorf("before %+v, after %+v %v", before, after, err)
	}
	connect(t, s)
	if err := s.TryStart(t.Context(), Root("/")); err != nil {
		t.Error(err)
	}
}

// fakeProgram puts a shell script on the PATH.
func fakeProgram(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Programs are called with the right words, a small environment, no input and a timeout; their output is in the error,
// without secrets; and their word that they restarted the server is not taken for it.
func TestProviders(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15})
	s := found(t, ps)
	s.Unit = "pg.service"
	t.Setenv("SECRET_OF_OURS", "canary")
	note := filepath.Join(t.TempDir(), "note")
	fakeProgram(t, "systemctl", `echo "$@" > `+note+`; env >> `+note+`; cat >> `+note+`; [ "$1" = reload ] && kill -HUP $(head -1 `+ps.DataDirectory+`/postmaster.pid)`)
	if err := s.Reload(t.Context(), Control{Provider: Systemd}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(note)
	if err != nil || !strings.HasPrefix(string(text), "reload pg.service\n") || strings.Contains(string(text), "canary") {
		t.Errorf("%s %v", text, err)
	}
	eventually(t, "the reload", func() bool { return strings.Contains(ps.Log(), "received SIGHUP") })

	_, err = s.Restart(t.Context(), Control{Provider: Command, Command: []string{"true"}, Timeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), "the same postmaster still runs") {
		t.Errorf("a command that does nothing: %v", err)
	}
	_, err = s.Restart(t.Context(), Control{Provider: Command, Command: []string{"sh", "-c", "yes x | head -100000; echo password=hunter2 >&2; exit 7"}})
	if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "password=***") || strings.Contains(err.Error(), "hunter2\n") || len(err.Error()) > 3*outputLimit {
		t.Errorf("a command that fails: %v", err)
	}
	begin := time.Now()
	err = s.Reload(t.Context(), Control{Provider: Command, Command: []string{"sleep", "30"}, Timeout: 200 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("a command that hangs: %v after %v", err, time.Since(begin))
	}
	for _, c := range []Control{{Provider: "upstart"}, {Provider: Command}, {Provider: PgCtlCluster}} {
		if err := s.Reload(t.Context(), c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, err := s.Restart(t.Context(), Control{Provider: Signal}); err == nil {
		t.Error("a restart by signal: no error")
	}
	if _, err := s.Restart(t.Context(), Control{Provider: Command, Command: []string{"/no/such/program"}}); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("no such program: %v", err)
	}

	// A command that stops the server and does not start it.
	_, err = s.Restart(t.Context(), Control{Provider: Command, Command: []string{"kill", "-INT", strconv.Itoa(ps.PID())}})
	if err == nil || !strings.Contains(err.Error(), "the server stopped and did not start") || !strings.Contains(err.Error(), "database system is shut down") {
		t.Errorf("a command that stops the server only: %v", err)
	}
	if err := s.Reload(t.Context(), Control{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a reload of a stopped server: %v", err)
	}
	if _, err := s.Restart(t.Context(), Control{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a restart of a stopped server: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"host=x password=hunter2 port=1":                                           "host=x password=*** port=1",
		"password = 'hun ter''2' x":                                                "password = *** x",
		"ALTER ROLE x PASSWORD 'hunter2';":                                         "ALTER ROLE x PASSWORD ***;",
		"sslpassword=hunter2":                                                      "sslpassword=***",
		"postgres://deploy:hunter2@db/x":                                           "postgres://deploy:***db/x",
		"SCRAM-SHA-256$4096:salt$stored:server x":                                  "SCRAM-SHA-256$*** x",
		"md5" + strings.Repeat("0a", 16):                                           "md5***",
		"password authentication failed for user \"deploy\"":                       "password *** failed for user \"deploy\"",
		"x\n-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\ny": "x\n*** private key ***\ny",
		"nothing to hide":                                                          "nothing to hide",
	} {
		if got := redact(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
