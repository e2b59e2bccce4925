package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// helperChange makes a folder, moves a file into it, closes the file and links to it; each step only if it is not done yet.
func helperChange() int {
	d, err := Open(os.Getenv("DISK_ROOT"))
	if err == nil {
		err = change(d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func change(d *Disk) error {
	dir, err := d.Stat("/new")
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.Mkdir("/new", 0o750, alice, alice); err == nil {
			dir, err = d.Stat("/new")
		}
	}
	if err == nil && (dir.Mode != 0o750 || dir.UID != alice) {
		err = d.SetAttr("/new", dir, 0o750, alice, alice)
	}
	if err != nil {
		return err
	}
	content, info, err := d.ReadFile("/f", 100)
	if err == nil {
		err = d.Rename("/f", "/new/f", BeforeOf(content, info))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	info, err = d.Stat("/new/f")
	if err == nil && (info.Mode != 0o600 || info.UID != alice) {
		err = d.SetAttr("/new/f", info, 0o600, alice, alice)
	}
	if err != nil {
		return err
	}
	if _, err = d.Lstat("/link"); errors.Is(err, fs.ErrNotExist) {
		err = d.Symlink("new/f", "/link")
	}
	if err != nil {
		return err
	}
	content, info, err = d.ReadFile("/gone", 100)
	if err == nil {
		err = d.Remove("/gone", BeforeOf(content, info))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// withFaultPoints builds this test binary with the fault points in it.
func withFaultPoints(t *testing.T) string {
	t.Helper()
	needRoot(t)
	binary := filepath.Join(t.TempDir(), "disk.test")
	out, err := exec.Command("go", "test", "-tags", "faultpoints", "-c", "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v %s", err, out)
	}
	return binary
}

// killed runs the helper and has it killed at fault point n; 0 is never. It says whether that happened.
func killed(t *testing.T, binary, role string, n int, env ...string) bool {
	t.Helper()
	cmd := helperCommand(binary, role, append(env, fmt.Sprintf("CONVERGE_FAULT=%d", n))...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	t.Fatalf("point %d: %v %s", n, err, out)
	return false
}

// Killed at each step of a write, and at each step of the run that mends it: the file is the old one or the new one, the
// temporary files are known by their prefix and closed, and the next run that is left alone cleans up.
func TestKilledWrite(t *testing.T) {
	binary := withFaultPoints(t)
	old, content := strings.Repeat("old", 1000), strings.Repeat("PRIVATE", 10_000)
	for _, exists := range []bool{true, false} {
		first, kills := true, 0
		for n := 1; first; n++ {
			second := true
			for m := 1; second; m++ {
				tr := newTree(t)
				if exists {
					tr.file("f", old, 0o600, alice)
				}
				env := []string{"DISK_ROOT=" + tr.root, "DISK_PATH=/f", "DISK_CONTENT=" + content}
				run := func(n int) bool {
					dead := killed(t, binary, "write", n, env...)
					if dead {
						kills++
					}
					tr.oldOrNew(exists, old, content)
					return dead
				}
				first = run(n)
				second = run(m)
				if second {
					run(0)
				}
				tr.wants("f", content, 0o600, alice)
				tr.noStrays()
				os.RemoveAll(tr.root)
			}
		}
		t.Logf("target exists %v: %d kills", exists, kills)
		if kills < 50 {
			t.Errorf("only %d kills: the fault points are not reached", kills)
		}
	}
}

// oldOrNew checks what a kill may leave: one of the two contents under the name, and closed temporary files.
func (tr tree) oldOrNew(exists bool, old, content string) {
	tr.t.Helper()
	b, err := os.ReadFile(tr.at("f"))
	switch {
	case err == nil && (string(b) == content || exists && string(b) == old):
		tr.wants("f", string(b), 0o600, alice)
	case !exists && errors.Is(err, fs.ErrNotExist):
	default:
		tr.t.Errorf("%d bytes that are neither old nor new, %v", len(b), err)
	}
	for _, s := range tr.strays() {
		if info, err := os.Lstat(s); err == nil && info.Mode().Perm()&0o077 != 0 {
			tr.t.Errorf("stray %s has mode %v", s, info.Mode())
		}
	}
}

// Killed at each step of the small changes, the next run ends where an undisturbed one does.
func TestKilledChange(t *testing.T) {
	binary := withFaultPoints(t)
	n := 1
	for dead := true; dead; n++ {
		tr := newTree(t)
		tr.file("f", "PRIVATE", 0o644, 0)
		tr.file("gone", "x", 0o600, 0)
		env := "DISK_ROOT=" + tr.root
		dead = killed(t, binary, "change", n, env)
		if info, err := tr.Stat("/new"); err == nil && info.Mode&0o027 != 0 {
			t.Errorf("point %d: the folder has mode %v", n, info.Mode)
		}
		killed(t, binary, "change", 0, env)
		tr.wants("new/f", "PRIVATE", 0o600, alice)
		if info, err := tr.Stat("/new"); err != nil || info.Mode != 0o750 || info.UID != alice {
			t.Errorf("point %d: %+v %v", n, info, err)
		}
		if text, err := tr.Readlink("/link"); text != "new/f" || err != nil {
			t.Errorf("point %d: %q %v", n, text, err)
		}
		if _, err := tr.Lstat("/gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("point %d: %v", n, err)
		}
		os.RemoveAll(tr.root)
	}
	t.Logf("%d fault points", n-2)
	if n < 15 {
		t.Error("the fault points are not reached")
	}
}
