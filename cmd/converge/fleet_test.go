package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"pgregory.net/rapid"

	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/fixtures/faults/machine"
)

const fleetScripts = scripts + "/fleet"

// The scripts in fixtures/scripts/fleet have machines that an ssh of theirs reaches; the shell, the commands and
// the files on these are real.
func TestFleetScripts(t *testing.T) {
	files, err := filepath.Glob(fleetScripts + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", fleetScripts, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			machine.Run(t, "", func(t *testing.T) {
				testscript.Run(t, testscript.Params{
					Files: []string{file}, Setup: setUpFleet, Cmds: scriptCommands, RequireUniqueNames: true,
				})
			})
		})
	}
}

// setUpFleet puts up the machines of environment.hcl, with the same file and a converge on each, unless a script
// brings its own.
func setUpFleet(env *testscript.Env) error {
	program, err := exec.LookPath("converge")
	if err != nil {
		return err
	}
	env.Setenv("CONVERGE", filepath.Dir(program))
	env.Setenv("NODES", env.WorkDir+"/nodes")
	env.Setenv("PATH", env.WorkDir+"/bin:"+env.Getenv("PATH"))
	if err := errors.Join(setUp(env), copyFixture("ssh", env.WorkDir+"/bin/ssh", 0o755), copyFixture("environment.hcl", env.WorkDir+"/environment.hcl", 0o644)); err != nil {
		return err
	}
	for _, node := range []string{"db1", "db2", "db3", "app1", "app2", "util1"} {
		dir := env.WorkDir + "/nodes/" + node
		err := errors.Join(copyFixture("converge", dir+"/bin/converge", 0o755), copyFixture("environment.hcl", dir+"/etc/environment.hcl", 0o644))
		if err != nil {
			return err
		}
		brought, err := filepath.Glob(dir + "/bin/*")
		for _, name := range brought {
			err = errors.Join(err, os.Chmod(name, 0o755))
		}
		if err != nil {
			return err
		}
	}
	return os.MkdirAll("/etc/converge", 0o755)
}

func copyFixture(name, to string, mode os.FileMode) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(fleetScripts + "/" + name)
	return errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, mode))
}

// A quoted word comes out of the shell as it went in, and so does a word inside a quoted command.
func FuzzShellQuote(f *testing.F) {
	for _, s := range []string{"", "a", "it's", `\`, `'\''`, "$HOME `id` $(id)", "-n", "a\nb\n", "*?[", "\xff", "!x", "'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "\x00") || len(s) > 1000 {
			return
		}
		out, err := exec.Command("sh", "-c", `printf '%s\0' `+shellQuote(s)).Output()
		if err != nil || string(out) != s+"\x00" {
			t.Errorf("%q came out as %q: %v", s, out, err)
		}
		out, err = exec.Command("sh", "-c", remoteCommand(`printf "%s\0" "$@"`, s, "end")).Output()
		if err != nil || string(out) != s+"\x00end\x00" {
			t.Errorf("%q came out of a remote command as %q: %v", s, out, err)
		}
	})
}

// However the bytes are cut, the lines are the same.
func TestLineWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.StringMatching(`[a-z]{0,5}`)).Draw(t, "lines")
		text := []byte(strings.Join(lines, "\r\n"))
		var got []string
		w := &lineWriter{line: func(l []byte) { got = append(got, string(l)) }}
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		w.end()
		want := strings.Split(string(text), "\r\n")
		if last := len(want) - 1; want[last] == "" {
			want = want[:last]
		}
		if strings.Join(got, "|") != strings.Join(want, "|") || len(got) != len(want) {
			t.Fatalf("%q is cut into %q", text, got)
		}
	})
}

func TestLineWriterHasALimit(t *testing.T) {
	w := &lineWriter{line: func([]byte) {}}
	chunk := bytes.Repeat([]byte("a"), 1<<20)
	var err error
	for i := 0; i <= answerLimit>>20 && err == nil; i++ {
		_, err = w.Write(chunk)
	}
	if err == nil || w.err == nil {
		t.Error("a node may say without end")
	}
}

func TestTailWriterKeepsTheEnd(t *testing.T) {
	w := &tailWriter{}
	for range 100 {
		w.Write(bytes.Repeat([]byte("a"), 1000))
	}
	w.Write([]byte("the end"))
	if len(w.kept) != tailSize || !bytes.HasSuffix(w.kept, []byte("athe end")) {
		t.Errorf("%d bytes are kept, which end in %q", len(w.kept), w.kept[len(w.kept)-10:])
	}
}

func TestPlatform(t *testing.T) {
	for uname, want := range map[string]string{
		"Linux x86_64": "linux/amd64", "Linux aarch64": "linux/arm64", "Darwin arm64": "darwin/arm64", "Linux riscv64": "linux/riscv64", "": "/",
	} {
		if got := platform(uname); got != want {
			t.Errorf("%q is %q, not %q", uname, got, want)
		}
	}
}

func TestFleetExit(t *testing.T) {
	for _, c := range []struct {
		results  string
		detailed bool
		want     int
	}{
		{"ok ok", true, exitDone},
		{"ok changed", false, exitDone},
		{"ok changed", true, exitChanges},
		{"changed owed", true, exitOwed},
		{"changes owed", true, exitChanges},
		{"changed owed", false, exitDone},
		{"changed not_yet", true, exitNotYet},
		{"refused not_yet not_run", false, exitRefused},
		{"refused failed", false, exitFailed},
		{"unreachable ok", false, exitFailed},
		{"not_run ok", false, exitFailed},
		{"attention ok", false, exitChanges},
		{"attention unknown", false, exitFailed},
	} {
		var nodes []*fleetNode
		for _, r := range strings.Fields(c.results) {
			nodes = append(nodes, &fleetNode{Result: fleetResult(r)})
		}
		if got := fleetExit(nodes, c.detailed); got != c.want {
			t.Errorf("%s (detailed: %t): %d, not %d", c.results, c.detailed, got, c.want)
		}
	}
}

func TestChooseNodes(t *testing.T) {
	all := []recipe.Node{{Name: "app", Role: "util"}, {Name: "b", Role: "app"}, {Name: "c", Role: "app"}}
	for words, want := range map[string]string{"": "app b c", "app": "app", "c b": "b c", "c c util": "app c"} {
		chosen, err := chooseNodes(all, strings.Fields(words))
		var names []string
		for _, n := range chosen {
			names = append(names, n.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%q chooses %q, not %q: %v", words, got, want, err)
		}
	}
}

// What a node says does not reach the terminal or the table as it is.
func TestNoteIsOneLine(t *testing.T) {
	n := &fleetNode{Error: "a\tb\x1b[31m" + strings.Repeat("ä", 200) + "\nmore"}
	got := n.note()
	if strings.ContainsAny(got, "\t\n\x1b") || len([]rune(got)) != noteLength+3 {
		t.Errorf("%q", got)
	}
}

const (
	scanKeyA  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDS1dQMUW3W9CQHZXpUskjjNnvbtmBOFboDKQjjlhjmM"
	scanECDSA = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBP9UAY79KFxoQNy5jWNd33r4JCb3jBWtqlU2mZnf7T/jTvPBJDh13NP9OnKDDT8AaXzTdHRkU8oQi1vB1C4I8NQ="
)

// Lines that are not of known_hosts give no key, and one of an authority is no host's.
func TestParseKeys(t *testing.T) {
	text := "# Host db1 found: line 1\n" +
		"db1 " + scanKeyA + "\n" +
		"@cert-authority *.internal " + scanKeyA + "\n" +
		"@revoked db1 " + scanKeyA + "\n" +
		"db1 " + scanECDSA + " comment\n" +
		"db1 1024 35 12345\n\nnonsense\n"
	found := parseKeys([]byte(text), fromKnownHosts, "db1")
	var got []string
	for _, k := range found {
		if k.bad == nil {
			got = append(got, kindOf(k.key))
		} else {
			got = append(got, k.bad.Error()[:16])
		}
	}
	if want := "ssh-ed25519|the key SHA256:6|a key of the kin|it is no public "; !strings.HasPrefix(strings.Join(got, "|"), "ssh-ed25519|the key SHA256:") || len(got) != 4 {
		t.Errorf("%q, not like %q", got, want)
	}
}

func TestMustScan(t *testing.T) {
	key, err := bundle.ParseHostKey(scanKeyA)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := foundKey{key: key, source: fromKnownHosts}, foundKey{bad: errors.New("no")}
	for _, c := range []struct {
		declared string
		found    []foundKey
		want     bool
	}{
		{"", nil, true}, {"", []foundKey{bad}, true}, {"", []foundKey{bad, good}, false},
		{scanKeyA, []foundKey{good}, false}, {scanKeyA, []foundKey{bad}, true},
	} {
		if got := mustScan(recipe.Node{HostKey: c.declared}, c.found); got != c.want {
			t.Errorf("%q with %d keys found: %t", c.declared, len(c.found), got)
		}
	}
}

// ssh ends its own lines with a carriage return.
func TestReason(t *testing.T) {
	a := answer{stderr: "Authorized use only\r\nssh: connect to host db1 port 22: Connection refused\r\n"}
	if got := a.reason(); got != "Authorized use only; ssh: connect to host db1 port 22: Connection refused" {
		t.Errorf("%q", got)
	}
}
