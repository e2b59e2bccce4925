package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"converge/fixtures/pgserver"
)

func mkfifo(file string) error { return syscall.Mkfifo(file, 0o600) }

// eachMajor runs a test for every major version.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	t.Helper()
	for _, major := range pgserver.Majors() {
		t.Run("pg"+strconv.Itoa(major), func(t *testing.T) { test(t, major) })
	}
}

// found discovers a test's server by its data directory.
func found(t *testing.T, ps *pgserver.Server) *Server {
	t.Helper()
	s, err := Discover(Root("/"), Override{DataDirectory: ps.DataDirectory, BinDirectory: ps.Bin, AdminUser: ps.User})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, s *Server) *Conn {
	t.Helper()
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// eventually waits for what a server does in its own time.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 500 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for: %s", what)
}

// Connect gets in as the server's owner by peer authentication, and leaves the process root in every thread.
func TestConnect(t *testing.T) {
	// What a user may have in the environment must not matter.
	for name, value := range map[string]string{"PGHOST": "/nowhere", "PGPORT": "1", "PGUSER": "x", "PGDATABASE": "x", "PGPASSWORD": "secret", "PGSSLMODE": "verify-full",
		"PGSSLROOTCERT": "/nowhere", "PGPASSFILE": "/dev/zero", "PGOPTIONS": "-c bogus=1", "PGTZ": "Mars", "PGREQUIREAUTH": "none", "PGTARGETSESSIONATTRS": "read-only", "PGSSLNEGOTIATION": "direct"} {
		t.Setenv(name, value)
	}
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		begin := time.Now()
		c := connect(t, s)
		t.Logf("connected in %v", time.Since(begin).Round(100*time.Microsecond))
		f, err := c.Facts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f.Number/10000 != major || f.InRecovery || time.Since(f.Started) > time.Minute || f.Loaded.Before(f.Started.Add(-time.Second)) || !strings.HasPrefix(f.Version, strconv.Itoa(major)+".") {
			t.Errorf("facts: %+v", f)
		}
		set, err := c.Settings(t.Context(), "search_path", "application_name", "Port", "ssl", "no_such_setting", "statement_timeout")
		if err != nil {
			t.Fatal(err)
		}
		if set["search_path"].Value != "pg_catalog" || set["application_name"].Value != "converge" || set["statement_timeout"].Value != "15000" {
			t.Errorf("settings of the session: %+v", set)
		}
		if p := set["port"]; p.Value != strconv.Itoa(ps.Port) || p.Context != "postmaster" || p.SourceFile != ps.ConfigFile || p.SourceLine == 0 || p.BootValue != "5432" || p.PendingRestart {
			t.Errorf("port: %+v", p)
		}
		if _, ok := set["no_such_setting"]; ok || set["ssl"].Value != "off" {
			t.Errorf("settings: %+v", set)
		}
		if p, err := s.Process(); err != nil || p.Phase != Running || p.PID != ps.PID() || p.Port != ps.Port || p.SocketDirectory != ps.SocketDirectory || p.BinDirectory != ps.Bin || p.ListenAddress != "127.0.0.1" || p.Standby {
			t.Errorf("process: %+v %v", p, err)
		}
		mustBeRoot(t)
	})
}

// mustBeRoot looks at every thread.
func mustBeRoot(t *testing.T) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	want := fmt.Sprintf("%d", os.Getuid())
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); (f[0] == "Uid:" || f[0] == "Gid:") && slices.ContainsFunc(f[1:], func(id string) bool { return id != want }) {
				t.Errorf("%s: %s", task, line)
			}
		}
	}
}

// While many connect at once, no other goroutine ever acts as somebody else.
func TestConnectLeavesOthersAlone(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15, Conf: []string{"max_connections = 60"}})
	s := found(t, ps)
	stop := make(chan bool)
	var watchers, dialers sync.WaitGroup
	for range 4 {
		watchers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				runtime.LockOSThread()
				if euid, _, _ := unix.RawSyscall(unix.SYS_GETEUID, 0, 0, 0); int(euid) != os.Geteuid() {
					t.Errorf("a goroutine that does not connect acts as %d", euid)
				}
				runtime.UnlockOSThread()
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 8 {
		dialers.Go(func() {
			for range 25 {
				c, err := s.dial(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			}
		})
	}
	dialers.Wait()
	close(stop)
	watchers.Wait()
	mustBeRoot(t)
}

// What Connect says of a server that cannot be asked.
func TestConnectErrors(t *testing.T) {
	check := func(t *testing.T, s *Server, want error, words ...string) {
		t.Helper()
		begin := time.Now()
		c, err := s.Connect(t.Context())
		if err == nil {
			c.Close(t.Context())
		}
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
		if d := time.Since(begin); d > ConnectTimeout+2*time.Second {
			t.Errorf("took %v", d)
		}
	}
	eachMajor(t, func(t *testing.T, major int) {
		t.Parallel()
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)

		ps.WriteFile(ps.HBAFile, []byte("local all all scram-sha-256\n"), 0o600)
		reloadAndWait(t, ps, s)
		check(t, s, ErrRefused, "local all "+ps.User+" peer", ps.HBAFile)
		ps.WriteFile(ps.HBAFile, []byte("local all all reject\n"), 0o600)
		reloadAndWait(t, ps, s)
		check(t, s, ErrRefused, "local all "+ps.User+" peer")
		ps.WriteFile(ps.HBAFile, []byte("local all all peer\n"), 0o600)
		reloadAndWait(t, ps, s)

		c := connect(t, s)
		if err := syscall.Kill(ps.PID(), syscall.SIGTERM); err != nil { // waits for the session that is open
			t.Fatal(err)
		}
		eventually(t, "the server shuts down", func() bool { p, err := s.Process(); return err == nil && p.Phase == Stopping })
		check(t, s, ErrStopping)
		c.Close(t.Context())
		eventually(t, "the server has stopped", func() bool { p, err := s.Process(); return err == nil && p.Phase == Stopped })
		check(t, s, ErrNotRunning)

		// A server that follows another and lets nobody in yet.
		if major < 12 {
			ps.WriteFile(path.Join(ps.DataDirectory, "recovery.conf"), []byte("standby_mode = 'on'\n"), 0o600)
		} else {
			ps.WriteFile(path.Join(ps.DataDirectory, "standby.signal"), nil, 0o600)
		}
		ps.AppendConf("hot_standby = off")
		ps.Start()
		if p, err := s.Process(); err != nil || !p.Standby {
			t.Errorf("not known as a standby: %+v %v", p, err)
		}
		check(t, s, ErrStarting)
		ps.Stop()
		ps.AppendConf("hot_standby = on")
		ps.Start()
		standby := connect(t, s)
		if f, err := standby.Facts(t.Context()); err != nil || !f.InRecovery {
			t.Errorf("facts of a standby: %+v %v", f, err)
		}

		if err := syscall.Kill(ps.PID(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		check(t, s, ErrNoAnswer, "SIGSTOP", strconv.Itoa(ps.PID()))
		if _, err := s.Served(t.Context()); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("handshake: %v", err)
		}
	})
}

// reloadAndWait reloads and waits until the server has read its files.
func reloadAndWait(t *testing.T, ps *pgserver.Server, s *Server) {
	t.Helper()
	marks := strings.Count(ps.Log(), "received SIGHUP")
	if err := s.Reload(t.Context(), Control{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reload", func() bool { return strings.Count(ps.Log(), "received SIGHUP") > marks })
	// It says so when it begins. It does one thing after the other: who gets any answer now, comes after the end.
	if conn, err := s.Connect(t.Context()); err == nil {
		conn.Close(t.Context())
	} else if !errors.Is(err, ErrTurnedAway) {
		t.Fatal(err)
	}
}

// A socket that somebody else has put up in the server's place is not talked to.
func TestConnectStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("has to run as root")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/tmp" && d != "/"; d = path.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	listening := make(chan error)
	var listener net.Listener
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		back, err := becomeThread(Owner{Name: "nobody", UID: 65534, GID: 65534})
		if err == nil {
			listener, err = net.Listen("unix", socketPath(dir, 5432))
			err = errors.Join(err, back(), os.Chmod(socketPath(dir, 5432), 0o777))
		}
		listening <- err
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &Server{Version: "15", DataDirectory: "/nowhere", SocketDirectory: dir, Port: 5432, Owner: Owner{"postgres", 101, 104}, AdminUser: "postgres"}
	if _, err := s.Connect(t.Context()); !errors.Is(err, ErrStranger) {
		t.Errorf("got %v", err)
	}
}

// A server that has stopped taking connections is waited for, and not for ever.
func TestConnectQueueFull(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socketPath(dir, 5432)}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waiting, err := connectSocket(socketPath(dir, 5432))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(waiting)
	s := &Server{Version: "15", DataDirectory: "/nowhere", SocketDirectory: dir, Port: 5432, Owner: Owner{"root", 0, 0}, AdminUser: "root"}
	begin := time.Now()
	if _, err := s.Connect(t.Context()); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "queue of connections is full") || time.Since(begin) > ConnectTimeout+2*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

func TestSystemUnit(t *testing.T) {
	for cgroups, want := range map[string]string{
		"0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n":                 "postgresql@15-main.service",
		"12:pids:/system.slice/x.service\n1:name=systemd:/system.slice/pg.service/init\n0::/\n": "pg.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                         "",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/pg.service\n":               "",
		"0::/\n": "", "": "", "nonsense": "",
	} {
		if got := systemUnit(cgroups); got != want {
			t.Errorf("%q: got %q, want %q", cgroups, got, want)
		}
	}
}

// A line of pg_hba.conf is broken exactly when a reload with it is refused: the judge is compared with the log.
func TestHBAJudge(t *testing.T) {
	lines := []string{
		"host all all 10.0.0.0/8 md5", "hostssl all all 10.0.0.0/8 md5 clientcert=1", "hostssl all all 10.0.0.0/8 md5 clientcert=0", "hostssl all all all md5 clientcert=verify-full",
		"hostssl all all all md5 clientcert=foo", "hostssl all all all cert clientcert=verify-ca", "hostssl all all all cert clientname=XX", "hostssl all deploy md5 clientcert=1",
		"hostgssenc all all all md5", "host all all all bogus", "host all all all md5 map=x", "bogus", "host all all 10.0.0.0/99 md5", "host all all all radius radiusservers=127.0.0.1",
		"host all @missing all md5", "include missing.conf", "include_if_exists missing.conf", `local all "unterminated peer`, "local all all peer",
	}
	eachMajor(t, func(t *testing.T, major int) {
		t.Parallel()
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		c := connect(t, s)
		refused := func() int { return strings.Count(ps.Log(), "pg_hba.conf was not reloaded") }
		for _, ssl := range []bool{false, true} {
			if ssl {
				installTLS(t, ps)
				ps.AppendConf("ssl = on")
				reloadAndWait(t, ps, s)
			}
			for _, line := range lines {
				ps.WriteFile(ps.HBAFile, []byte("local all all peer\n"+line+"\n"), 0o600)
				before := refused()
				reloadAndWait(t, ps, s)
				rules, err := c.HBARules(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				problems := s.HBAProblems(rules)
				if (len(problems) > 0) != (refused() > before) {
					t.Errorf("ssl=%v %q: refused %v, judged %v, rules %+v", ssl, line, refused() > before, problems, rules)
				}
				for _, p := range problems {
					if p.Line != 2 || p.File != ps.HBAFile && !strings.HasSuffix(p.File, "missing.conf") || p.Text == "" {
						t.Errorf("%q: %+v", line, p)
					}
				}
			}
		}
		ps.WriteFile(ps.HBAFile, []byte("# nothing\n"), 0o600)
		rules, err := c.HBARules(t.Context())
		if err != nil || len(s.HBAProblems(rules)) != 1 {
			t.Errorf("an empty file: %+v %v", rules, err)
		}
		if major >= 15 {
			ps.WriteFile(ps.IdentFile, []byte("a b c\nbroken\n"), 0o600)
			if p, err := c.IdentProblems(t.Context()); err != nil || len(p) != 1 || p[0].Line != 2 || p[0].File != ps.IdentFile {
				t.Errorf("ident: %+v %v", p, err)
			}
		}
	})
}

// The view of the files tells what is refused, what is wrong and what only waits for a restart.
func TestFileProblems(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		for _, c := range []struct {
			line           string
			fatal, restart bool
		}{
			{"work_mem = 'abc'", false, false}, {"no_such_setting = 1", true, false}, {"bogus", true, false}, {"port = 'x'", false, false}, {"max_connections = 21", false, true},
			{"hba_file = '/elsewhere'", false, true}, {"ssl = on", false, false},
		} {
			saved, err := os.ReadFile(ps.ConfigFile)
			if err != nil {
				t.Fatal(err)
			}
			ps.AppendConf(c.line)
			conn := connect(t, s)
			got, err := conn.FileProblems(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.line == "ssl = on" {
				if len(got) != 0 {
					t.Errorf("%s: %+v", c.line, got)
				}
			} else if len(got) != 1 || got[0].Fatal != c.fatal || got[0].Restart != c.restart || got[0].File != ps.ConfigFile || got[0].Line == 0 {
				t.Errorf("%s: %+v", c.line, got)
			}
			ps.WriteFile(ps.ConfigFile, saved, 0o600)
			if got, err := conn.FileProblems(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("%s: after it was taken back: %+v %v", c.line, got, err)
			}
			conf, err := s.Conf(Root("/"))
			if err != nil {
				t.Fatal(err)
			}
			set, err := conn.Settings(t.Context(), "max_connections", "hba_file")
			if err != nil || set["max_connections"].WaitsForRestart(conf) || set["hba_file"].WaitsForRestart(conf) {
				t.Errorf("%s: after it was taken back: %+v %v", c.line, set, err)
			}
			conn.Close(t.Context())
		}
	})
}

// A setting waits for a restart when the files change what it had, and not when a line has come and gone, although the
// server goes on saying so.
func TestWaitsForRestart(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		saved, err := os.ReadFile(ps.ConfigFile)
		if err != nil {
			t.Fatal(err)
		}
		look := func(what string, waits map[string]bool) {
			t.Helper()
			reloadAndWait(t, ps, s)
			c := connect(t, s)
			defer c.Close(t.Context())
			conf, err := s.Conf(Root("/"))
			if err != nil {
				t.Fatal(err)
			}
			set, err := c.Settings(t.Context(), "max_connections", "hba_file", "wal_level")
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range waits {
				if set[name].WaitsForRestart(conf) != want {
					t.Errorf("%s: %+v", what, set[name])
				}
			}
		}
		ps.AppendConf("max_connections = 30", "hba_file = '/x'", "wal_level = 'minimal'")
		look("added", map[string]bool{"max_connections": true, "hba_file": true, "wal_level": true})
		ps.WriteFile(ps.ConfigFile, saved, 0o600)
		look("taken back", map[string]bool{"max_connections": false, "hba_file": false, "wal_level": false})
		ps.WriteFile(ps.ConfigFile, []byte(strings.ReplaceAll(string(saved), "max_connections", "#max_connections")), 0o600)
		look("removed", map[string]bool{"max_connections": true})
	})
}

// The table of effects and versions agrees with the servers.
func TestSettingEffect(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		c := connect(t, found(t, ps))
		var names []string
		for name := range restartSettings {
			names = append(names, name)
		}
		for name := range reloadSettings {
			names = append(names, name)
		}
		set, err := c.Settings(t.Context(), names...)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			real, there := set[name]
			if name == "ssl_ecdh_curve" && major >= 18 {
				there, real.Context = true, "sighup" // an old name, which is taken and not shown
			}
			exists, known := SettingExists(major, name)
			if !known || exists != there {
				t.Errorf("%s: exists %v, the server says %v", name, exists, there)
			}
			effect := SettingEffect(major, name)
			if !there && effect != EffectUnknown || there && (effect == EffectRestart) != (real.Context == "postmaster" || real.Context == "internal") {
				t.Errorf("%s: %q, the server says %q", name, effect, real.Context)
			}
		}
		rows, err := c.Query(t.Context(), `SELECT name FROM pg_settings WHERE name LIKE 'ssl%' AND context <> 'internal' ORDER BY name`)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			if SettingEffect(major, name) != EffectReload {
				t.Errorf("%s is not known", name)
			}
		}
	})
}

// A postmaster.pid that was left behind never leads to a signal to somebody else.
func TestStalePIDFile(t *testing.T) {
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	defer sleeper.Process.Kill()
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		file := path.Join(ps.DataDirectory, "postmaster.pid")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid := strconv.Itoa(ps.PID())
		ps.Stop()
		s := found(t, ps)
		other := pgserver.Start(t, pgserver.Options{Major: major})
		for name, stranger := range map[string]int{"no process": 4194303, "a sleep": sleeper.Process.Pid, "another server": other.PID()} {
			ps.WriteFile(file, []byte(strings.Replace(string(content), pid, strconv.Itoa(stranger), 1)), 0o600)
			if p, err := s.Process(); err != nil || p.Phase != Stopped || !p.Stale {
				t.Errorf("%s: %+v %v", name, p, err)
			}
			if err := s.Reload(t.Context(), Control{Provider: Signal}); !errors.Is(err, ErrNotRunning) {
				t.Errorf("%s: reload: %v", name, err)
			}
			if _, err := s.Restart(t.Context(), Control{Provider: PgCtl}); !errors.Is(err, ErrNotRunning) {
				t.Errorf("%s: restart: %v", name, err)
			}
		}
		if strings.Contains(other.Log(), "SIGHUP") {
			t.Error("another server was signalled")
		}
		os.Remove(file)
	})
	select {
	case err := <-ended:
		t.Fatalf("the sleep was signalled: %v", err)
	default:
	}
}

// A start time that does not agree, because the clock was set, is outweighed by the socket, and by nothing less.
func TestStartTime(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15})
	s := found(t, ps)
	file := path.Join(ps.DataDirectory, "postmaster.pid")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	lines[2] = "1000000000"
	ps.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600)
	if p, err := s.Process(); err != nil || p.Phase != Running {
		t.Errorf("the postmaster holds its socket and is not known: %+v %v", p, err)
	}
	lines[4] = "/nowhere"
	ps.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600)
	if p, err := s.Process(); err != nil || p.Phase != Stopped || !p.Stale {
		t.Errorf("neither time nor socket, and taken all the same: %+v %v", p, err)
	}
	ps.WriteFile(file, content, 0o600)
}
