package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"converge/engine"
	"converge/fixtures/faults/machine"
	"converge/fixtures/pgserver"
)

const scripts = "../../fixtures/scripts"

func TestMain(m *testing.M) {
	machine.Enter()
	testscript.Main(m, map[string]func(){"converge": main})
}

// Each script in fixtures/scripts is one behaviour that an operator can see. It runs on a machine of its own, as root,
// with the real main.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob(scripts + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", scripts, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			machine.Run(t, "", func(t *testing.T) {
				testscript.Run(t, testscript.Params{
					Files: []string{file}, Setup: setUp, Cmds: scriptCommands, RequireUniqueNames: true,
				})
			})
		})
	}
}

func setUp(env *testscript.Env) error {
	env.Values["t"] = env.T()
	env.Setenv("HOME", "/root")
	env.Setenv("TZ", "UTC")
	// The work folder belongs to root: recipes that others could write are refused.
	return os.Chmod(env.WorkDir, 0o755)
}

// What scripts can do besides testscript's own commands.
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits":     exits,
	"server":    startServer,
	"stop":      stopServer,
	"start":     startAgain,
	"psql":      psql,
	"keys":      jsonKeys,
	"json":      jsonValue,
	"mode":      scriptMode,
	"owner":     scriptOwner,
	"append":    appendLine,
	"holdlock":  holdLock,
	"last":      scriptLast,
	"tls":       scriptTLS,
	"lineorder": lineOrder,
	"session":   openSession,
	"sleeper":   openWithKey,
	"confirmed": confirmed,
	"killed":    killWaiting,
	"receiver":  startReceiver,

	"serve":       scriptServe,
	"runs":        scriptRuns,
	"said":        scriptSaid,
	"times":       scriptTimes,
	"silent":      scriptSilent,
	"besides":     scriptBesides,
	"descriptors": scriptDescriptors,
	"quit":        scriptQuit,
	"window":      scriptWindow,
}

// exits CODE COMMAND ARG...: the command ends with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		code = ended.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s ends with %d, not %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// server [SETTING...]: Debian's PostgreSQL runs on this machine, in Debian's layout; with the setting "standby" it is in
// recovery.
func startServer(ts *testscript.TestScript, _ bool, args []string) {
	standby := slices.Contains(args, "standby")
	conf := []string{"port = 5432"}
	for _, a := range args {
		if a != "standby" {
			conf = append(conf, a)
		}
	}
	t := ts.Value("t").(testing.TB)
	_, debian := pgserver.Debian(15)
	s := pgserver.Start(t, pgserver.Options{
		Major: 15, Debian: debian, Layout: pgserver.DebianLayout, Root: "/", Down: true, Conf: conf,
		HBA: "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\n",
	})
	s.Port = 5432
	if standby {
		s.WriteFile(s.DataDirectory+"/standby.signal", nil, 0o600)
	}
	s.Start()
	theServer = s
}

// theServer is the one of this script: a script has a process of its own.
var theServer *pgserver.Server

func stopServer(ts *testscript.TestScript, _ bool, _ []string) { theServer.Stop() }

func startAgain(ts *testscript.TestScript, _ bool, _ []string) { theServer.Start() }

// psql SQL: the server's superuser asks over the socket, and the answer is stdout.
func psql(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "/usr/lib/postgresql/15/bin/psql", "-XAtqw",
		"-h", "/var/run/postgresql", "-U", "postgres", "-d", "postgres", "-c", strings.Join(args, " "))
	if (err != nil) != neg {
		ts.Fatalf("psql: %v", err)
	}
}

// tls USER: psql connects with the key that USER has, verifies the server in full, and says which TLS it got.
func scriptTLS(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("setpriv", "--reuid="+args[0], "--regid="+args[0], "--clear-groups", "env", "HOME=/home/"+args[0],
		"/usr/lib/postgresql/15/bin/psql", "-XAtqw", "-d",
		"host=localhost hostaddr=127.0.0.1 port=5432 sslmode=verify-full dbname=postgres user="+args[0],
		"-c", "SELECT ssl, version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
	if (err != nil) != neg {
		ts.Fatalf("psql as %s: %v", args[0], err)
	}
}

// at follows a path such as .changes[].ops[] into a JSON document and returns all values there.
func at(v any, path string) ([]any, error) {
	found := []any{v}
	for part := range strings.SplitSeq(strings.Trim(path, "."), ".") {
		name, each := strings.CutSuffix(part, "[]")
		var next []any
		for _, f := range found {
			if name != "" {
				o, ok := f.(map[string]any)
				if !ok {
					return nil, fmt.Errorf("%q is asked of what is no object: %v", name, f)
				}
				if f, ok = o[name]; !ok {
					continue
				}
			}
			list, ok := f.([]any)
			switch {
			case each && !ok:
				return nil, fmt.Errorf("%s is no list: %v", part, f)
			case each:
				next = append(next, list...)
			default:
				next = append(next, f)
			}
		}
		found = next
	}
	return found, nil
}

// documents are the JSON values in a file, one after the other.
func documents(ts *testscript.TestScript, file string) []any {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(file)))
	var out []any
	for {
		var v any
		if err := d.Decode(&v); err != nil {
			if err.Error() == "EOF" {
				return out
			}
			ts.Fatalf("%s: %v", file, err)
		}
		out = append(out, v)
	}
}

func valuesAt(ts *testscript.TestScript, file, path string) []any {
	var out []any
	for _, d := range documents(ts, file) {
		v, err := at(d, path)
		ts.Check(err)
		out = append(out, v...)
	}
	return out
}

// keys FILE PATH KEY...: each object there has these keys and no others; KEY? may be left out.
func jsonKeys(ts *testscript.TestScript, _ bool, args []string) {
	objects := valuesAt(ts, args[0], args[1])
	if len(objects) == 0 {
		ts.Fatalf("nothing at %s", args[1])
	}
	for _, v := range objects {
		o, ok := v.(map[string]any)
		if !ok {
			ts.Fatalf("%s is no object: %v", args[1], v)
		}
		known := map[string]bool{}
		for _, k := range args[2:] {
			name, optional := strings.CutSuffix(k, "?")
			known[name] = true
			if _, there := o[name]; !there && !optional {
				ts.Fatalf("%s has no %q: %v", args[1], name, o)
			}
		}
		for k := range o {
			if !known[k] {
				ts.Fatalf("%s has %q, which the contract does not know: %v", args[1], k, o)
			}
		}
	}
}

// json FILE PATH VALUE...: the values there are these, in this order. With !: none of them is there.
func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	var got []string
	for _, v := range valuesAt(ts, args[0], args[1]) {
		text, ok := v.(string)
		if !ok {
			b, _ := json.Marshal(v)
			text = string(b)
		}
		got = append(got, text)
	}
	if neg {
		for _, want := range args[2:] {
			if slices.Contains(got, want) {
				ts.Fatalf("%s holds %q", args[1], want)
			}
		}
		return
	}
	if !slices.Equal(got, args[2:]) {
		ts.Fatalf("%s is %q, not %q", args[1], got, args[2:])
	}
}

// mode FILE MODE: chmod's way, as in 0600.
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, not %s", args[0], got, args[1])
	}
}

// owner FILE UID.
func scriptOwner(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid); got != args[1] {
		ts.Fatalf("%s belongs to %s, not %s", args[0], got, args[1])
	}
}

// append FILE LINE...: owner and mode of the file stay.
func appendLine(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	defer f.Close()
	_, err = fmt.Fprintln(f, strings.Join(args[1:], "\n"))
	ts.Check(err)
}

// holdlock: another run is under way until the script ends.
func holdLock(ts *testscript.TestScript, _ bool, _ []string) {
	a := newApp(os.Stdout, os.Stderr)
	a.flags.state = engine.DefaultStateDir
	s := &site{}
	ts.Check(a.openEngine(s))
	unlock, err := s.engine.State.Lock(time.Now())
	ts.Check(err)
	ts.Defer(unlock)
	ts.Setenv("HOLDER", strconv.Itoa(os.Getpid()))
}

// last VARIABLE: the name of the latest run.
func scriptLast(ts *testscript.TestScript, _ bool, args []string) {
	names, err := os.ReadDir(engine.DefaultStateDir + "/runs")
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("there is no run")
	}
	ts.Setenv(args[0], names[len(names)-1].Name())
}

// session USER ADDRESS SSLMODE: a client of this address has a session open until the script ends.
func openSession(ts *testscript.TestScript, _ bool, args []string) {
	config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=5432 user=%s dbname=postgres sslmode=%s", args[0], args[2]))
	ts.Check(err)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[1])}}
	config.DialFunc = dialer.DialContext
	conn, err := pgx.ConnectConfig(context.Background(), config)
	ts.Check(err)
	ts.Defer(func() { conn.Close(context.Background()) })
}

// sleeper USER: USER has a session open with the key in their home until the script ends.
func openWithKey(ts *testscript.TestScript, _ bool, args []string) {
	dir := "/home/" + args[0] + "/.postgresql/"
	conn, err := pgx.Connect(context.Background(), fmt.Sprintf("host=localhost port=5432 user=%s dbname=postgres sslmode=verify-full sslcert=%spostgresql.crt sslkey=%spostgresql.key sslrootcert=%sroot.crt", args[0], dir, dir, dir))
	ts.Check(err)
	ts.Defer(func() { conn.Close(context.Background()) })
}

// receiver USER SSLMODE: pg_receivewal, which is to the server what a standby is, receives the log until the script ends.
func startReceiver(ts *testscript.TestScript, _ bool, args []string) {
	dir, err := os.MkdirTemp("/var/lib/postgresql", "received")
	ts.Check(err)
	ts.Check(os.Chmod(dir, 0o777))
	cmd := exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "/usr/lib/postgresql/15/bin/pg_receivewal",
		"-D", dir, "-d", fmt.Sprintf("host=127.0.0.1 port=5432 user=%s sslmode=%s", args[0], args[1]))
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 200 {
		if out, err := exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "/usr/lib/postgresql/15/bin/psql", "-XAtq",
			"-h", "/var/run/postgresql", "-c", "SELECT count(*) FROM pg_stat_replication").Output(); err == nil && string(out) == "1\n" {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("pg_receivewal is not connected")
}

// confirmed: converge confirm, as soon as a run waits for it.
func confirmed(ts *testscript.TestScript, _ bool, _ []string) {
	for range 200 {
		if w, alive, _ := waitingRun(ts); w != nil && alive && !w.Until.IsZero() {
			if ts.Exec("converge", "status", "--role", "db_master") == nil {
				ts.Fatalf("the status does not tell of the run that waits")
			}
		}
		if ts.Exec("converge", "confirm") == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("no run waits")
}

// killed: the run that waits for a confirmation is killed, kill -9.
func killWaiting(ts *testscript.TestScript, _ bool, _ []string) {
	for range 400 {
		w, alive, err := waitingRun(ts)
		ts.Check(err)
		if w == nil || !alive || w.Until.IsZero() {
			time.Sleep(25 * time.Millisecond)
			continue
		}
		var holder struct{ PID int }
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(engine.DefaultStateDir+"/lock")), &holder))
		ts.Check(syscall.Kill(holder.PID, syscall.SIGKILL))
		return
	}
	ts.Fatalf("no run waits")
}

func waitingRun(ts *testscript.TestScript) (*engine.Waiting, bool, error) {
	a := newApp(os.Stdout, os.Stderr)
	a.flags.state = engine.DefaultStateDir
	s := &site{}
	ts.Check(a.openEngine(s))
	return s.engine.State.Waiting()
}

// lineorder FILE TEXT TEXT...: the texts stand in the file one below the other.
func lineOrder(ts *testscript.TestScript, _ bool, args []string) {
	rest := ts.ReadFile(args[0])
	for _, want := range args[1:] {
		_, after, found := strings.Cut(rest, want)
		if !found {
			ts.Fatalf("%q does not come in its turn in:\n%s", want, ts.ReadFile(args[0]))
		}
		rest = after
	}
}

// A panic in a resource is a bug of ours: it has an exit code of its own, whatever else failed.
func TestABugHasItsOwnExitCode(t *testing.T) {
	failures := []engine.Failure{
		{Address: "a.a", Err: &engine.RefusedError{Reason: "no"}},
		{Address: "b.b", Err: fmt.Errorf("step: %w", &engine.PanicError{Value: "boom"})},
	}
	if got := failuresExit(failures); got != silentError(exitBug) {
		t.Errorf("got %v", got)
	}
	if got := failuresExit(failures[:1]); got != silentError(exitRefused) {
		t.Errorf("got %v", got)
	}
}
