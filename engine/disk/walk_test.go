package disk

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTrust(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("etc", 0o755, 0)
	tr.file("etc/real", "real", 0o644, 0)
	tr.file("etc/shadow", "secret", 0o600, 0)
	tr.dir("home", 0o755, 0)
	tr.dir("home/alice", 0o755, alice)
	tr.dir("home/alice/roots", 0o755, 0) // root's folder, but she can give it another name
	tr.dir("tmp", 0o777|fs.ModeSticky, 0)
	tr.dir("open", 0o777, 0)
	tr.dir("group", 0o775, 0)
	check(t, os.Chown(tr.at("group"), 0, 50))

	tr.link("real", "etc/link", 0)
	tr.link("/etc/real", "etc/absolute", 0)
	tr.link("../../../../etc/real", "etc/up", 0)
	tr.link("link", "etc/chain", 0)
	tr.link("/etc", "conf", 0)
	tr.link("/etc/real", "tmp/roots", 0)
	tr.link("../etc/shadow", "etc/hers", alice)
	tr.link("/etc/shadow", "home/alice/key", alice)
	tr.link("/etc", "home/alice/.postgresql", alice)
	tr.link("/etc/shadow", "home/alice/byroot", 0)
	tr.link("/etc/shadow", "home/alice/roots/key", 0)
	tr.link("/etc/shadow", "tmp/hers", alice)
	tr.link("/etc/shadow", "open/link", 0)
	tr.link("/etc/shadow", "group/link", 0)
	tr.link("loop", "etc/loop", 0)
	tr.link("nothing", "etc/dangling", 0)

	for _, p := range []string{"/etc/link", "/etc/absolute", "/etc/up", "/etc/chain", "/conf/link", "/tmp/roots", "/conf/../etc/real"} {
		if b, _, err := tr.ReadFile(p, 100); string(b) != "real" || err != nil {
			t.Errorf("%s: %q %v", p, b, err)
		}
	}
	for p, who := range map[string]string{
		"/etc/hers":                     "UID 54321",
		"/home/alice/key":               "UID 54321",
		"/home/alice/.postgresql/x":     "UID 54321",
		"/home/alice/byroot":            "UID 54321",
		"/home/alice/roots/key":         "UID 54321",
		"/tmp/hers":                     "UID 54321",
		"/open/link":                    "any user",
		"/group/link":                   `a member of group "staff"`,
		"/home/alice/.postgresql/../..": "UID 54321",
	} {
		_, _, err := tr.ReadFile(p, 100)
		wantError(t, err, ErrUntrustedLink, "is a symbolic link that ", who+" could have put there; not followed")
		wantError(t, tr.write(p, "x", 0o600, 0), ErrUntrustedLink)
		_, err = tr.Stat(p)
		wantError(t, err, ErrUntrustedLink)
	}
	_, err := tr.Stat("/etc/loop")
	wantError(t, err, unix.ELOOP)
	_, err = tr.Stat("/etc/dangling")
	wantError(t, err, fs.ErrNotExist)
	wantError(t, tr.write("/etc/dangling", "x", 0o600, 0), ErrDangling, `"/etc/dangling" is a symbolic link to "/etc/nothing", which does not exist`)

	check(t, tr.write("/etc/chain", "new", 0o644, 0))
	tr.wants("etc/real", "new", 0o644, 0)
	if text, err := tr.Readlink("/etc/chain"); text != "link" || err != nil {
		t.Errorf("a written link is no link any more: %q %v", text, err)
	}
	tr.wants("etc/shadow", "secret", 0o600, 0)
	tr.noStrays()
}

func TestLinkDepth(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("l0", "end", 0o600, 0)
	for i := range 41 {
		tr.link(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1), 0)
	}
	if _, err := tr.Stat("/l40"); err != nil {
		t.Errorf("40 links: %v", err)
	}
	_, err := tr.Stat("/l41")
	wantError(t, err, unix.ELOOP)
}

// Where every link is trusted, a path leads where the kernel's own RESOLVE_IN_ROOT takes it; and the short way and the
// walk agree on every path.
func TestWalkAgreesWithKernel(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	names := []string{"a", "b", "c"}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	path := func(from []string) string {
		parts := make([]string, 1+random.IntN(5))
		for i := range parts {
			parts[i] = pick(from)
		}
		return strings.Join(parts, "/")
	}
	for range 60 {
		p := tr.at(path(names))
		switch random.IntN(4) {
		case 0:
			os.WriteFile(p, nil, 0o600)
		case 1, 2:
			os.Mkdir(p, 0o755)
		default:
			os.Symlink(pick([]string{"", "/", "../", "../../"})+path(append(names, "..", ".")), p)
		}
	}
	found, missing := 0, 0
	for range 20_000 {
		p := "/" + path(append(names, "..", "."))
		for _, last := range []bool{true, false} {
			got := ino(tr.find("test", p, last))
			walked := func() (*place, error) { parts, _ := split(p); return tr.walk("test", p, parts, last) }
			if w := ino(walked()); w != got {
				t.Fatalf("%s (last %v): find says %q, walk %q", p, last, got, w)
			}
			want := kernel(tr.root, p, last)
			if got != want {
				t.Fatalf("%s (last %v): found %q, the kernel says %q", p, last, got, want)
			}
			if strings.HasPrefix(got, "ino") {
				found++
			} else {
				missing++
			}
		}
	}
	t.Logf("%d found, %d not", found, missing)
	if found < 1000 || missing < 1000 {
		t.Errorf("the tree is no test: %d found, %d not", found, missing)
	}
}

func ino(p *place, err error) string {
	if err != nil {
		return "nothing"
	}
	defer p.close()
	var st unix.Stat_t
	if unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return "nothing"
	}
	return fmt.Sprint("ino ", st.Ino)
}

func kernel(root, p string, last bool) string {
	dir, _ := unix.Open(root, unix.O_PATH, 0)
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT}
	if !last {
		how.Flags |= unix.O_NOFOLLOW
	}
	// A trailing "." or "/" makes the kernel follow the last link whatever the flags say; here they mean nothing.
	parts, _ := split(p)
	fd, err := unix.Openat2(dir, "/"+strings.Join(parts, "/"), &how)
	for err == unix.EAGAIN { // openat2(2): something was renamed or mounted anywhere on the machine
		fd, err = unix.Openat2(dir, "/"+strings.Join(parts, "/"), &how)
	}
	if err != nil {
		return "nothing"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	return fmt.Sprint("ino ", st.Ino)
}
