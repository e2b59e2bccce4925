package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests work on real files, as root, with real mounts. A test that needs a mount runs itself again inside
// `unshare -m`; one that needs a process to kill, to trace or to play the hostile user runs this binary as a helper.

const prefix = ".converge-"

// alice is the UID and GID of a user who is not root. She needs no entry in /etc/passwd.
const alice = 54321

func TestMain(m *testing.M) {
	if role := os.Getenv("DISK_HELPER"); role != "" {
		os.Exit(helper(role))
	}
	os.Exit(m.Run())
}

// need stops a test that cannot run here: skipped on a developer's machine, failed in CI.
func need(t testing.TB, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("CI has to provide: %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	need(t, os.Geteuid() == 0, "root")
}

func needProgram(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	need(t, err == nil, name)
}

// inNamespace runs the calling test again in a mount namespace of its own and is true in there:
//
//	if !inNamespace(t) { return }
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("DISK_NAMESPACE") != "" {
		return true
	}
	needRoot(t)
	needProgram(t, "unshare")
	cmd := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "DISK_NAMESPACE=1")
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in the namespace: %v", err)
	}
	return false
}

// tree is a Disk on a folder that other users can reach.
type tree struct {
	*Disk
	t    testing.TB
	root string
}

func newTree(t testing.TB) tree {
	t.Helper()
	root, err := os.MkdirTemp("", "converge-disk-")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	check(t, os.Chmod(root, 0o755))
	return treeAt(t, root)
}

func treeAt(t testing.TB, root string) tree {
	t.Helper()
	d, err := Open(root)
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return tree{d, t, root}
}

func (tr tree) at(p string) string { return filepath.Join(tr.root, p) }

func (tr tree) file(p, content string, mode fs.FileMode, uid int) {
	tr.t.Helper()
	check(tr.t, os.WriteFile(tr.at(p), []byte(content), 0o600))
	check(tr.t, os.Chown(tr.at(p), uid, uid))
	check(tr.t, os.Chmod(tr.at(p), mode))
}

func (tr tree) dir(p string, mode fs.FileMode, uid int) {
	tr.t.Helper()
	check(tr.t, os.MkdirAll(tr.at(p), 0o755))
	check(tr.t, os.Chown(tr.at(p), uid, uid))
	check(tr.t, os.Chmod(tr.at(p), mode))
}

func (tr tree) link(text, p string, uid int) {
	tr.t.Helper()
	check(tr.t, os.Symlink(text, tr.at(p)))
	check(tr.t, os.Lchown(tr.at(p), uid, uid))
}

// write stages and switches, from what stands there now.
func (tr tree) write(p, content string, mode fs.FileMode, uid int) error {
	tr.t.Helper()
	s, err := tr.Stage(File{Path: p, Content: []byte(content), Mode: mode, UID: uid, GID: uid, Temp: prefix + "t-1"})
	if err != nil {
		return err
	}
	return s.Switch(tr.before(p))
}

func (tr tree) before(p string) Before {
	content, info, err := tr.ReadFile(p, 8<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return Before{}
	}
	check(tr.t, err)
	return BeforeOf(content, info)
}

// wants checks that the file has this content, mode and owner.
func (tr tree) wants(p, content string, mode fs.FileMode, uid int) {
	tr.t.Helper()
	b, err := os.ReadFile(tr.at(p))
	check(tr.t, err)
	info, err := os.Lstat(tr.at(p))
	check(tr.t, err)
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if string(b) != content || info.Mode() != mode || owner != uid {
		tr.t.Errorf("%s: %q mode %v UID %d, want %q mode %v UID %d", p, b, info.Mode(), owner, content, mode, uid)
	}
}

// noStrays checks that no temporary file is left anywhere.
func (tr tree) noStrays() {
	tr.t.Helper()
	for _, s := range tr.strays() {
		tr.t.Errorf("stray temporary file %s", s)
	}
}

func (tr tree) strays() []string {
	var found []string
	filepath.WalkDir(tr.root, func(p string, _ fs.DirEntry, _ error) error {
		if strings.HasPrefix(filepath.Base(p), prefix) {
			found = append(found, p)
		}
		return nil
	})
	return found
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks the kind of an error, and that its text holds what an operator needs.
func wantError(t testing.TB, err, kind error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v", kind)
		return
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("error %q is not %q", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// helper is what this binary does as a process of its own.
func helper(role string) int {
	switch role {
	case "write":
		return helperWrite()
	case "change":
		return helperChange()
	case "pair":
		return helperPair()
	case "swap":
		return helperSwap()
	}
	fmt.Fprintln(os.Stderr, "unknown helper", role)
	return 64
}

func helperCommand(binary, role string, env ...string) *exec.Cmd {
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), append([]string{"DISK_HELPER=" + role}, env...)...)
	return cmd
}

// helperWrite makes DISK_PATH hold DISK_CONTENT below DISK_ROOT, mode 0600, owner alice, as a run of the engine does.
func helperWrite() int {
	d, err := Open(os.Getenv("DISK_ROOT"))
	if err == nil {
		err = converge(d, os.Getenv("DISK_PATH"), os.Getenv("DISK_CONTENT"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func converge(d *Disk, path, content string) error {
	if err := d.RemoveTemps(filepath.Dir(path), prefix); err != nil {
		return err
	}
	var before Before
	old, info, err := d.ReadFile(path, 1<<20)
	switch {
	case err == nil && string(old) == content:
		return nil
	case err == nil:
		before = BeforeOf(old, info)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	s, err := d.Stage(File{Path: path, Content: []byte(content), Mode: 0o600, UID: alice, GID: alice, Secret: true, Temp: prefix + "h-1"})
	if err != nil {
		return err
	}
	return s.Switch(before)
}

func TestStat(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("etc", 0o755, 0)
	tr.file("etc/a", "abc", 0o640, alice)
	check(t, os.Chmod(tr.at("etc/a"), 0o640|fs.ModeSetgid))
	tr.link("a", "etc/link", 0)
	info, err := tr.Stat("/etc/link")
	check(t, err)
	if info.Kind != Regular || info.Mode != 0o640|fs.ModeSetgid || info.UID != alice || info.Size != 3 || info.Links != 1 {
		t.Errorf("Stat: %+v", info)
	}
	if again, _ := tr.Stat("/etc/a"); again != info {
		t.Errorf("two looks at one file differ: %+v, %+v", info, again)
	}
	if info, _ := tr.Lstat("/etc/link"); info.Kind != Symlink {
		t.Errorf("Lstat: %+v", info)
	}
	for _, p := range []string{"/", "/etc", "/etc/.", "/etc/", "//etc", "/etc/..", "/../../..", "/etc/../etc"} {
		if info, err := tr.Stat(p); err != nil || info.Kind != Dir {
			t.Errorf("Stat %s: %+v %v", p, info, err)
		}
	}
	for _, p := range []string{"/etc/no", "/no/a", "/no/../etc"} {
		_, err := tr.Stat(p)
		wantError(t, err, fs.ErrNotExist, "stat "+p)
	}
	_, err = tr.Stat("/etc/a/b")
	wantError(t, err, unix.ENOTDIR, `"/etc/a" is a file, not a directory`)
	_, err = tr.Stat("etc/a")
	wantError(t, err, nil, "not absolute")
	_, err = tr.Stat("/etc/a\x00b")
	wantError(t, err, nil, "NUL")
}

func TestReadDir(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("d", 0o755, 0)
	for i := range 300 {
		tr.file(fmt.Sprintf("d/%03d", i), "", 0o600, 0)
	}
	tr.link("/etc/shadow", "d/link", alice)
	entries, err := tr.ReadDir("/d")
	check(t, err)
	if len(entries) != 301 || entries[0].Name != "000" || entries[299].Name != "299" || entries[300].Info.Kind != Symlink {
		t.Errorf("%d entries, %+v", len(entries), entries[len(entries)-1])
	}
	_, err = tr.ReadDir("/d/000")
	wantError(t, err, ErrKind, "it is a file, not a directory")
	_, err = tr.ReadDir("/d/link")
	wantError(t, err, ErrUntrustedLink)
	_, err = tr.ReadDir("/no")
	wantError(t, err, fs.ErrNotExist)
}
