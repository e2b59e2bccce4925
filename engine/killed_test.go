package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fillToyHost is the machine that the kills happen on: a file that others own, a pair of key and certificate in a new
// folder, a file to be removed, one whose mode is wrong, and a service that takes all of it up.
func fillToyHost(b *bench, loaded string) {
	b.add("keys", keyToy("/etc/keys"))
	b.add("conf", fileToy("/etc/conf", "new\n"))
	b.add("gone", &toy{targets: []Target{{Path: "/etc/gone"}}, do: func(_ context.Context, h *Host) error {
		return h.Remove("/etc/gone")
	}})
	b.add("mode", &toy{targets: []Target{{Path: "/etc/mode"}}, do: func(_ context.Context, h *Host) error {
		return h.WriteFile("/etc/mode", []byte("m"), mine(0o600))
	}})
	b.addService("toyd", &toyService{toy{do: func(_ context.Context, h *Host) error {
		key, err := h.ReadFile("/etc/keys/key")
		if err != nil {
			return err
		}
		cert, err := h.ReadFile("/etc/keys/cert")
		if err != nil {
			return err
		}
		if "for "+string(key) != string(cert) {
			return errors.New("toyd would load a key and a certificate that do not match")
		}
		is, _ := os.ReadFile(loaded)
		if _, owed := h.Owed(); !owed || string(is) == string(cert) {
			h.Paid()
			return nil
		}
		h.Act(Action{Kind: OpReload, Service: "toyd", Do: func(context.Context) error {
			return os.WriteFile(loaded, cert, 0o644)
		}})
		return nil
	}}}, "keys", "conf", "gone", "mode")
}

// TestToyHostRun is the process that gets killed.
func TestToyHostRun(t *testing.T) {
	root := os.Getenv("TOY_HOST")
	if root == "" {
		t.Skip("the other half of TestKilledAnywhere")
	}
	b := &bench{t: t, root: root, engine: benchEngine(t, root)}
	b.engine.Parallelism = 1
	fillToyHost(b, filepath.Join(root, "loaded"))
	if rep := b.apply(); rep.Result != ResultOK {
		t.Fatalf("%+v", rep.Failures)
	}
}

// killable builds this package's tests so that a fault point can kill them.
func killable(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "killable")
	out, err := exec.Command("go", "test", "-c", "-tags", "faultpoints", "-o", name, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

// runToyHost runs the process with a fault. It says whether the fault was reached.
func runToyHost(t *testing.T, bin, root string, fault int) (killed bool) {
	t.Helper()
	cmd := exec.Command(bin, "-test.run=^TestToyHostRun$")
	cmd.Env = append(os.Environ(), "TOY_HOST="+root, fmt.Sprintf("CONVERGE_FAULT=%d", fault))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
		return true
	}
	t.Fatalf("fault %d: %v: %s", fault, err, out)
	return false
}

func newToyHost(t *testing.T) *bench {
	b := newBench(t)
	b.put("/etc/conf", "old\n")
	b.put("/etc/gone", "g")
	b.put("/etc/mode", "m")
	return b
}

// checkToyHost asserts what must hold after any crash: each file old or new, nothing in between.
func checkToyHost(t *testing.T, b *bench, when string) {
	t.Helper()
	if c := b.got("/etc/conf"); c != "old\n" && c != "new\n" {
		t.Errorf("%s: conf holds %q", when, c)
	}
	if c := b.got("/etc/gone"); c != "g" && c != "absent" {
		t.Errorf("%s: gone holds %q", when, c)
	}
}

func finishToyHost(t *testing.T, bin string, b *bench, when string) {
	t.Helper()
	if runToyHost(t, bin, b.root, 0) {
		t.Fatalf("%s: the run without a fault was killed", when)
	}
	b.noStrays()
	b.wants("/etc/conf", "new\n")
	b.wants("/etc/gone", "absent")
	if cert := b.got("/etc/keys/cert"); cert != "for "+b.got("/etc/keys/key") || cert != b.got("/loaded") {
		t.Errorf("%s: key %q, certificate %q, loaded %q", when, b.got("/etc/keys/key"), cert, b.got("/loaded"))
	}
	settled := b.got("/etc/keys/key")
	fillToyHost(b, filepath.Join(b.root, "loaded"))
	if p := b.plan(); len(p.Changes) != 0 || len(p.Owed) != 0 || len(p.Failures) != 0 {
		t.Errorf("%s: the third run would do %v, owes %v, fails %v", when, addresses(p.Changes), p.Owed, p.Failures)
	}
	b.wants("/etc/keys/key", settled)
}

// A run is killed at each durable step there is, and the next one is killed at each of its own: whatever is left, one
// more run converges, a plan after it is empty, and no file was ever half of one thing and half of another.
func TestKilledAnywhere(t *testing.T) {
	bin := killable(t)
	points, recoveries := 0, 0
	for first := 1; ; first++ {
		b := newToyHost(t)
		if !runToyHost(t, bin, b.root, first) {
			break
		}
		points++
		when := fmt.Sprintf("killed at %d", first)
		checkToyHost(t, b, when)
		saved := copyTree(t, b.root)
		finishToyHost(t, bin, b, when)
		for second := 1 + first%41; ; second += 41 { // a sample: every point would be quadratic
			b := newBench(t)
			b.root = copyTree(t, saved)
			b.engine = benchEngine(t, b.root)
			if !runToyHost(t, bin, b.root, second) {
				break
			}
			recoveries++
			when := fmt.Sprintf("killed at %d, then at %d", first, second)
			checkToyHost(t, b, when)
			finishToyHost(t, bin, b, when)
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("killed at %d points, and %d times more during the run after", points, recoveries)
	if points < 20 {
		t.Errorf("only %d points were reached: the faults do not fire", points)
	}
}

func copyTree(t *testing.T, root string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", root, dir).CombinedOutput(); err != nil {
		t.Fatal(strings.TrimSpace(string(out)))
	}
	return dir
}
