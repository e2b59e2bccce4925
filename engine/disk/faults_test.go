package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"converge/fixtures/strace"
)

// mount mounts inside the test's own namespace.
func (tr tree) mount(source, p, kind string, flags uintptr, options string) {
	tr.t.Helper()
	if err := unix.Mount(source, tr.at(p), kind, flags, options); err != nil {
		tr.t.Fatalf("mount %s: %v", p, err)
	}
	tr.t.Cleanup(func() { unix.Unmount(tr.at(p), unix.MNT_DETACH) })
}

func (tr tree) tmpfs(p, options string) {
	tr.t.Helper()
	tr.dir(p, 0o755, 0)
	tr.mount("tmpfs", p, "tmpfs", 0, "mode=755,"+options)
}

func TestNoSpace(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	tr.tmpfs("db", "size=64k")
	tr.file("db/f", "old", 0o600, 0)
	err := tr.write("/db/f", strings.Repeat("x", 128<<10), 0o600, 0)
	wantError(t, err, unix.ENOSPC, "write /db/f: no space is left on the file system mounted at "+tr.at("db")+" (tmpfs)", "free some there")
	tr.wants("db/f", "old", 0o600, 0)
	tr.noStrays()
	check(t, tr.write("/db/f", "new", 0o600, 0))
}

func TestNoInodes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	tr.tmpfs("db", "nr_inodes=2")
	tr.file("db/f", "old", 0o600, 0)
	wantError(t, tr.write("/db/f", "new", 0o600, 0), unix.ENOSPC, "no inodes are left on the file system mounted at "+tr.at("db"))
	wantError(t, tr.Mkdir("/db/d", 0o700, 0, 0), unix.ENOSPC, "no inodes are left")
	wantError(t, tr.Symlink("x", "/db/l"), unix.ENOSPC, "no inodes are left")
	tr.wants("db/f", "old", 0o600, 0)
	tr.noStrays()
}

func TestReadOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	tr.dir("d b/in", 0o755, 0)
	tr.file("d b/in/f", "old", 0o600, 0)
	tr.mount(tr.at("d b"), "d b", "", unix.MS_BIND, "")
	tr.mount("", "d b", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	says := "read-only file system (mounted at " + tr.at("d b") + ")"
	info, _ := tr.Stat("/d b/in/f")
	was := tr.before("/d b/in/f")
	for _, err := range []error{
		tr.write("/d b/in/f", "new", 0o600, 0),
		tr.Mkdir("/d b/new", 0o700, 0, 0),
		tr.Remove("/d b/in/f", was),
		tr.Rename("/d b/in/f", "/d b/in/g", was),
		tr.SetAttr("/d b/in/f", info, 0o644, 0, 0),
		tr.Symlink("x", "/d b/l"),
		tr.RemoveDir("/d b/in"),
	} {
		wantError(t, err, unix.EROFS, says, "mount -o remount,rw "+tr.at("d b"))
	}
	tr.wants("d b/in/f", "old", 0o600, 0)
}

// A rename cannot replace a file that is a mount point (a container's pg_hba.conf): an error, never a truncating write.
func TestBindMountedFile(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	tr.file("f", "under", 0o600, 0)
	tr.file("source", "old", 0o600, 0)
	tr.mount(tr.at("source"), "f", "", unix.MS_BIND, "")
	const says = "is a mount point of its own"
	was := tr.before("/f")
	wantError(t, tr.write("/f", "new", 0o600, 0), unix.EBUSY, says, "mount its folder instead")
	wantError(t, tr.Remove("/f", was), unix.EBUSY, says)
	wantError(t, tr.Rename("/f", "/g", was), unix.EBUSY, says)
	tr.wants("source", "old", 0o600, 0)

	// Mounted between Stage and Switch.
	tr.file("g", "old", 0o600, 0)
	s, err := tr.Stage(File{Path: "/g", Content: []byte("new"), Mode: 0o600, Temp: prefix + "1"})
	check(t, err)
	was = tr.before("/g")
	tr.mount(tr.at("source"), "g", "", unix.MS_BIND, "")
	wantError(t, s.Switch(was), unix.EBUSY, says)
	tr.wants("source", "old", 0o600, 0)
	tr.noStrays()
}

func TestRenameAcrossFileSystems(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	tr.tmpfs("db", "size=64k")
	tr.file("f", "x", 0o600, 0)
	wantError(t, tr.Rename("/f", "/db/f", tr.before("/f")), unix.EXDEV, "more than one file system")
	tr.wants("f", "x", 0o600, 0)
}

// chattr works on ext4 and, from Linux 6.6, on tmpfs; each is tried where the machine has it.
func TestChattr(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needProgram(t, "chattr")
	chattr := func(flag, p string) {
		t.Helper()
		if out, err := exec.Command("chattr", flag, p).CombinedOutput(); err != nil {
			t.Fatalf("chattr %s %s: %v %s", flag, p, err, out)
		}
	}
	tr := newTree(t)
	tr.dir("here", 0o755, 0)
	tr.tmpfs("tmpfs", "size=1m")
	tr.dir("ext4", 0o755, 0)
	image := tr.at("image")
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 8<<20))
	tested := 0
	for _, p := range []string{"here", "tmpfs", "ext4"} {
		if p == "ext4" {
			if out, err := exec.Command("sh", "-c", "mkfs.ext4 -q -F "+image+" && mount -o loop "+image+" "+tr.at(p)).CombinedOutput(); err != nil {
				t.Logf("no loop ext4: %v %s", err, out)
				continue
			}
			t.Cleanup(func() { unix.Unmount(tr.at("ext4"), unix.MNT_DETACH) })
		}
		tr.dir(p+"/d", 0o755, 0)
		f := filepath.Join(p, "d/f")
		tr.file(f, "old", 0o600, 0)
		if err := exec.Command("chattr", "+i", tr.at(f)).Run(); err != nil {
			t.Logf("%s: no chattr: %v", p, err)
			continue
		}
		tested++
		info, _ := tr.Stat("/" + f)
		was := tr.before("/" + f)
		all := func() []error {
			return []error{tr.write("/"+f, "new", 0o600, 0), tr.Remove("/"+f, was), tr.Rename("/"+f, "/"+f+"2", was)}
		}
		for _, err := range append(all(), tr.SetAttr("/"+f, info, 0o644, 0, 0)) {
			wantError(t, err, unix.EPERM, "the file is immutable (chattr +i)", "chattr -i /"+f)
		}
		chattr("-i", tr.at(f))

		chattr("+a", tr.at(f))
		for _, err := range all() {
			wantError(t, err, unix.EPERM, "the file is append-only (chattr +a)", "chattr -a /"+f)
		}
		chattr("-a", tr.at(f))

		d := filepath.Dir(f)
		chattr("+i", tr.at(d))
		for _, err := range append(all(), tr.write("/"+d+"/new", "x", 0o600, 0), tr.Mkdir("/"+d+"/sub", 0o700, 0, 0)) {
			wantError(t, err, unix.EPERM, "its folder /"+d+" is immutable (chattr +i)", "chattr -i /"+d)
		}
		chattr("-i", tr.at(d))

		chattr("+a", tr.at(d))
		for _, err := range append(all(), tr.write("/"+d+"/new", "x", 0o600, 0)) {
			wantError(t, err, unix.EPERM, "its folder /"+d+" is append-only (chattr +a)")
		}
		tr.noStrays() // a temporary file made there could not be removed
		chattr("-a", tr.at(d))

		tr.wants(f, "old", 0o600, 0)
		check(t, tr.write("/"+f, "new", 0o600, 0))
	}
	need(t, tested > 0, "a file system that knows chattr")
	t.Logf("tested on %d file systems", tested)
}

// traced runs the write helper under strace with the given options and returns its stderr.
func (tr tree) traced(path, content string, options ...string) (trace, stderr string, err error) {
	tr.t.Helper()
	needProgram(tr.t, "strace")
	out := filepath.Join(tr.t.TempDir(), "trace")
	cmd := helperCommand("strace", "write", "DISK_ROOT="+tr.root, "DISK_PATH="+path, "DISK_CONTENT="+content)
	cmd.Args = append([]string{"strace", "-f", "-o", out}, append(options, os.Args[0])...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err = cmd.Run()
	b, readErr := os.ReadFile(out)
	check(tr.t, readErr)
	return string(b), errs.String(), err
}

// What the kernel refuses is injected by strace: root's own process, real files, one errno.
func TestKernelRefuses(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ call, errno, says string }{
		{"fchown", "EPERM", "cannot give the file to UID 54321 and GID 54321: operation not permitted; the file system mounted at"},
		{"fchown", "EDQUOT", "the disk quota on the file system mounted at"},
		{"fchmod", "EPERM", "operation not permitted although this is root: the file system mounted at"},
		{"write", "EDQUOT", "the disk quota on the file system mounted at"},
		{"write", "EIO", "input/output error on the file system mounted at"},
		{"write", "EFBIG", "file too large"},
		{"fsync", "EIO", "input/output error on the file system mounted at"},
		{"fsync", "ENOSPC", "no space is left on"},
		{"renameat", "EIO", "input/output error on the file system mounted at"},
		{"renameat", "EXDEV", "more than one file system"},
		{"renameat", "EBUSY", "the kernel is using it"},
		{"renameat", "EROFS", "read-only file system (mounted at /"},
	} {
		tr := newTree(t)
		tr.file("f", "old", 0o600, alice)
		options := []string{"-e", "trace=" + c.call, "-e", "inject=" + c.call + ":error=" + c.errno}
		if c.call == "write" {
			// Only the write of the content: the runtime's and the error's go elsewhere.
			options = append(options, "-P", tr.at(prefix+"h-1"))
		}
		trace, stderr, err := tr.traced("/f", "PRIVATE", options...)
		if !strings.Contains(trace, "INJECTED") {
			t.Errorf("%s %s: not injected:\n%s", c.call, c.errno, trace)
		}
		if n := strings.Count(trace, "INJECTED"); n != 1 {
			t.Errorf("%s %s: called %d times; what failed is not to be tried again", c.call, c.errno, n)
		}
		if err == nil || !strings.Contains(stderr, c.says) || !strings.HasPrefix(stderr, "write /f: ") || strings.Contains(stderr, "PRIVATE") {
			t.Errorf("%s %s: %v %q, want %q", c.call, c.errno, err, stderr, c.says)
		}
		tr.wants("f", "old", 0o600, alice)
		tr.noStrays()
	}
}

// When the folder cannot be synced after the rename, the new file stands there and the error says how sure that is.
func TestFolderSyncFails(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "old", 0o600, alice)
	_, stderr, err := tr.traced("/f", "new", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "-P", tr.root)
	if err == nil || !strings.Contains(stderr, "the change is made, but a power cut may undo it") || !strings.Contains(stderr, "sync its folder") {
		t.Errorf("%v %q", err, stderr)
	}
	tr.wants("f", "new", 0o600, alice)
	tr.noStrays()
	// A file system that cannot sync folders at all is none to complain about.
	_, stderr, err = tr.traced("/f", "newer", "-e", "trace=fsync", "-e", "inject=fsync:error=EINVAL", "-P", tr.root)
	if err != nil {
		t.Errorf("%v %q", err, stderr)
	}
}

// Old kernels, sandboxes and NFS know fewer calls; everything goes the long way round, to the same end.
func TestOldKernel(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ call, errno string }{
		{"openat2", "ENOSYS"}, {"openat2", "EPERM"}, {"renameat2", "EINVAL"}, {"renameat2", "ENOSYS"}, {"statx", "ENOSYS"},
	} {
		tr := newTree(t)
		tr.dir("d", 0o755, alice)
		for _, content := range []string{"one", "two"} {
			trace, stderr, err := tr.traced("/d/f", content, "-e", "trace="+c.call, "-e", "inject="+c.call+":error="+c.errno)
			if err != nil {
				t.Errorf("%s %s: %v %q", c.call, c.errno, err, stderr)
			}
			if content == "one" && !strings.Contains(trace, "INJECTED") {
				t.Errorf("%s %s: not injected", c.call, c.errno)
			}
			tr.wants("d/f", content, 0o600, alice)
			tr.noStrays()
		}
		tr.file("d/exists", "old", 0o600, alice)
	}
}

// Owner and mode come before content, content before its sync, all before the rename, and the folder's sync last.
func TestOrderOfCalls(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "old", 0o600, alice)
	trace, stderr, err := tr.traced("/f", "PRIVATE", "-y", "-e", "trace=openat,fchown,fchmod,write,fsync,rename,renameat,renameat2,chmod,chown,fchmodat,fchownat,ftruncate,truncate")
	if err != nil {
		t.Fatal(err, stderr)
	}
	var calls []string
	for line := range strace.Calls(trace) {
		if strings.Contains(line, "O_EXCL") || !strings.Contains(line, "openat(") && strings.Contains(line, tr.root) {
			calls = append(calls, line)
			t.Log(line)
		}
	}
	temp := regexp.QuoteMeta(tr.at(prefix + "h-1"))
	want := []string{
		`openat\(.*"\.converge-h-1", O_WRONLY\|O_CREAT\|O_EXCL\|O_NOFOLLOW\|O_CLOEXEC, 000\) += `,
		`fchown\(\d+<` + temp + `>, 54321, 54321\) += 0`,
		`fchmod\(\d+<` + temp + `>, 0600\) += 0`,
		`write\(\d+<` + temp + `>, "PRIVATE", 7\) += 7`,
		`fsync\(\d+<` + temp + `>\) += 0`,
		`renameat\(\d+<` + regexp.QuoteMeta(tr.root) + `>, "\.converge-h-1", \d+<` + regexp.QuoteMeta(tr.root) + `>, "f"\) += 0`,
		`fsync\(\d+<` + regexp.QuoteMeta(tr.root) + `>\) += 0`,
	}
	if len(calls) != len(want) {
		t.Fatalf("%d calls, want %d", len(calls), len(want))
	}
	for i, w := range want {
		if !regexp.MustCompile(w).MatchString(calls[i]) {
			t.Errorf("call %d is\n%s\nwant\n%s", i, calls[i], w)
		}
	}
}

// Without the capability to give files away (a hardened unit, NFS with root_squash) nothing is left half done.
func TestChownRefused(t *testing.T) {
	needRoot(t)
	needProgram(t, "setpriv")
	tr := newTree(t)
	tr.file("f", "old", 0o600, alice)
	cmd := helperCommand("setpriv", "write", "DISK_ROOT="+tr.root, "DISK_PATH=/f", "DISK_CONTENT=PRIVATE")
	cmd.Args = []string{"setpriv", "--bounding-set", "-chown", os.Args[0]}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cannot give the file to UID 54321") || strings.Contains(string(out), "PRIVATE") {
		t.Errorf("%v %s", err, out)
	}
	t.Logf("%s", out)
	tr.wants("f", "old", 0o600, alice)
	tr.noStrays()
}

// Closed standard descriptors, an empty environment and a working directory that is gone make no difference.
func TestOddSurroundings(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("cwd", 0o755, 0)
	tr.file("f", "old", 0o600, alice)
	for _, script := range []string{
		`exec "$0" <&- >&- 2>&-`,
		`cd "$DISK_ROOT/cwd" && rmdir "$DISK_ROOT/cwd" && exec "$0"`,
		`umask 0777; exec env -i LANG=xx TZ=nowhere DISK_HELPER=write DISK_ROOT="$DISK_ROOT" DISK_PATH=/f DISK_CONTENT="$DISK_CONTENT" "$0"`,
	} {
		cmd := helperCommand("/bin/sh", "write", "DISK_ROOT="+tr.root, "DISK_PATH=/f", "DISK_CONTENT="+script)
		cmd.Args = []string{"sh", "-c", script, os.Args[0]}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, out)
		}
		tr.wants("f", script, 0o600, alice)
		tr.noStrays()
	}
}

// A user who runs the program himself gets his own files written and is told who he is where he may not.
func TestNotRoot(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	binary := tr.copyBinary()
	tr.dir("home", 0o755, alice)
	tr.dir("etc", 0o755, 0)
	run := func(path string) (string, error) {
		cmd := helperCommand(binary, "write", "DISK_ROOT="+tr.root, "DISK_PATH="+path, "DISK_CONTENT=x")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("/home/f"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	tr.wants("home/f", "x", 0o600, alice)
	out, err := run("/etc/f")
	if err == nil || !strings.Contains(out, "permission denied for UID 54321; run as root") {
		t.Errorf("%v %s", err, out)
	}
}

// copyBinary puts this test binary where every user can run it.
func (tr tree) copyBinary() string {
	tr.t.Helper()
	b, err := os.ReadFile(os.Args[0])
	check(tr.t, err)
	binary := tr.at("binary")
	check(tr.t, os.WriteFile(binary, b, 0o755))
	check(tr.t, os.Chmod(binary, 0o755))
	return binary
}
