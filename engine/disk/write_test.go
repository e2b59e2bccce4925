package disk

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The umask takes nothing away and lets nothing through: modes are set on descriptors.
func TestWriteWhateverTheUmask(t *testing.T) {
	needRoot(t)
	for _, mask := range []int{0o077, 0o000, 0o777} {
		tr := newTree(t)
		tr.dir("d", 0o755, alice)
		func() {
			defer syscall.Umask(syscall.Umask(mask))
			check(t, tr.write("/d/f", "one", 0o600, alice))
			tr.wants("d/f", "one", 0o600, alice)
			check(t, tr.write("/d/f", strings.Repeat("x", 3<<20), fs.ModeSetuid|0o755, 0))
			tr.wants("d/f", strings.Repeat("x", 3<<20), fs.ModeSetuid|0o755, 0)
			check(t, tr.write("/d/f", "", 0o644, alice))
			tr.wants("d/f", "", 0o644, alice)
			check(t, tr.Mkdir("/d/new", fs.ModeSetgid|0o750, alice, alice))
			check(t, tr.Mkdir("/d/closed", 0, 0, 0))
		}()
		for p, want := range map[string]fs.FileMode{"/d/new": fs.ModeSetgid | 0o750, "/d/closed": 0} {
			if info, err := tr.Stat(p); err != nil || info.Mode != want || info.Kind != Dir {
				t.Errorf("umask %o: %s: %+v %v", mask, p, info, err)
			}
		}
		tr.noStrays()
	}
}

func TestStageTouchesNothing(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "old", 0o600, alice)
	before := tr.before("/f")
	info, _ := tr.Stat("/f")
	s, err := tr.Stage(File{Path: "/f", Content: []byte("new"), Mode: 0o600, Temp: prefix + "1"})
	check(t, err)
	if now, _ := tr.Stat("/f"); now != info {
		t.Errorf("Stage changed the target: %+v, %+v", info, now)
	}
	_, err = tr.Stage(File{Path: "/f", Content: []byte("new"), Mode: 0o600, Temp: prefix + "1"})
	wantError(t, err, fs.ErrExist, `temporary file ".converge-1" already exists`)
	check(t, s.Discard())
	check(t, s.Discard())
	wantError(t, s.Switch(before), fs.ErrClosed)
	tr.noStrays()
	tr.wants("f", "old", 0o600, alice)
}

func TestStageRefusesNonsense(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	for _, f := range []File{
		{Path: "/f"}, {Path: "/f", Temp: "a/b"}, {Path: "/f", Temp: ".."}, {Path: "/f", Temp: "x", Mode: 0o4755},
		{Path: "/f", Temp: "x", Mode: fs.ModeDir | 0o755}, {Path: "f", Temp: "x"}, {Path: "/f/", Temp: "x"}, {Path: "", Temp: "x"},
		{Path: "/", Temp: "x"}, {Path: "/..", Temp: "x"}, {Path: "/no/f", Temp: "x"}, {Path: "/f\x00", Temp: "x"},
	} {
		if s, err := tr.Stage(f); err == nil {
			t.Errorf("%+v was staged", f)
			s.Discard()
		} else {
			t.Log(err)
		}
	}
}

func TestSwitchRefusesWhatChanged(t *testing.T) {
	needRoot(t)
	start := func() (tree, Before, *Staged) {
		tr := newTree(t)
		tr.file("f", "old", 0o600, alice)
		s, err := tr.Stage(File{Path: "/f", Content: []byte("PRIVATE"), Mode: 0o600, Temp: prefix + "1"})
		check(t, err)
		return tr, tr.before("/f"), s
	}
	for name, change := range map[string]func(tr tree){
		"content":   func(tr tree) { tr.file("f", "hers", 0o600, alice) },
		"same size": func(tr tree) { tr.file("f", "OLD", 0o600, alice) },
		"mode":      func(tr tree) { os.Chmod(tr.at("f"), 0o644) },
		"owner":     func(tr tree) { os.Chown(tr.at("f"), 0, alice) },
		"group":     func(tr tree) { os.Chown(tr.at("f"), alice, 0) },
		"gone":      func(tr tree) { os.Remove(tr.at("f")) },
		"link":      func(tr tree) { os.Remove(tr.at("f")); tr.link("/etc/shadow", "f", 0) },
		"fifo":      func(tr tree) { os.Remove(tr.at("f")); unix.Mkfifo(tr.at("f"), 0o600) },
		"folder":    func(tr tree) { os.Remove(tr.at("f")); tr.dir("f", 0o755, 0) },
	} {
		tr, before, s := start()
		change(tr)
		info, _ := tr.Lstat("/f")
		err := s.Switch(before)
		wantError(t, err, ErrChanged, "write /f: ", "plan again")
		t.Log(name, err)
		if now, _ := tr.Lstat("/f"); now != info {
			t.Errorf("%s: the target was changed: %+v, %+v", name, info, now)
		}
		if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("content in %v", err)
		}
		tr.noStrays()
	}
	tr, before, s := start()
	check(t, os.Link(tr.at("f"), tr.at("other")))
	wantError(t, s.Switch(before), ErrHardLinked)
	tr.wants("other", "old", 0o600, alice)
	tr.noStrays()

	tr, _, s = start()
	wantError(t, s.Switch(Before{}), ErrChanged, "come into being")
	tr.wants("f", "old", 0o600, alice)
	tr.noStrays()

	// Its time alone is no change.
	tr, before, s = start()
	tr.file("f", "old", 0o600, alice)
	check(t, s.Switch(before))
}

func TestWriteRefusesTarget(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	for p, kind := range tr.special() {
		_, err := tr.Stage(File{Path: p, Mode: 0o600, Temp: prefix + "1"})
		wantError(t, err, ErrKind, "write "+p, "it is a "+kind)
	}
	tr.file("f", "old", 0o600, 0)
	check(t, os.Link(tr.at("f"), tr.at("other")))
	info, _ := tr.Stat("/f")
	_, err := tr.Stage(File{Path: "/f", Mode: 0o600, Temp: prefix + "1"})
	wantError(t, err, ErrHardLinked, "2 names (hard links)", "samefile /f")
	wantError(t, tr.SetAttr("/f", info, 0o644, alice, alice), ErrHardLinked)
	tr.wants("other", "old", 0o600, 0)
	tr.noStrays()
}

// acl is a POSIX access list in the kernel's form (linux/posix_acl_xattr.h): one more user may do what perm says.
func acl(user, perm, mask, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{
		{0x01, 6, 0xffffffff}, {0x02, uint32(perm), uint32(user)}, {0x04, 4, 0xffffffff},
		{0x10, uint32(mask), 0xffffffff}, {0x20, uint32(other), 0xffffffff},
	} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

func attribute(p, name string) string {
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(p, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func TestWriteKeepsAttributes(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "old", 0o640, 0)
	list := acl(alice, 4, 4, 0)
	if err := unix.Setxattr(tr.at("f"), accessList, list, 0); err != nil {
		need(t, false, "a file system with access lists: "+err.Error())
	}
	check(t, unix.Setxattr(tr.at("f"), "user.note", []byte("kept"), 0))
	check(t, unix.Setxattr(tr.at("f"), "trusted.note", []byte("kept too"), 0))
	check(t, unix.Setxattr(tr.at("f"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	check(t, tr.write("/f", "new", 0o640, 0))
	tr.wants("f", "new", 0o640, 0)
	if got := attribute(tr.at("f"), accessList); got != string(list) {
		t.Errorf("access list %x, want %x", got, list)
	}
	if attribute(tr.at("f"), "user.note") != "kept" || attribute(tr.at("f"), "trusted.note") != "kept too" {
		t.Error("extended attributes were dropped")
	}
	if attribute(tr.at("f"), "security.capability") != "" {
		t.Error("new content inherited a capability")
	}

	// A narrower mode caps the list.
	check(t, tr.write("/f", "newer", 0o600, 0))
	tr.wants("f", "newer", 0o600, 0)
	if got := attribute(tr.at("f"), accessList); got != string(acl(alice, 4, 0, 0)) {
		t.Errorf("access list %x", got)
	}
}

// A secret ends with its mode and nothing else: not the list of the file that it replaces, nor the one that its folder hands
// down.
func TestSecretHasNoAccessList(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("d", 0o755, 0)
	if err := unix.Setxattr(tr.at("d"), "system.posix_acl_default", acl(alice, 6, 6, 4), 0); err != nil {
		need(t, false, "a file system with access lists: "+err.Error())
	}
	tr.file("d/old", "old", 0o640, 0)
	if attribute(tr.at("d/old"), accessList) == "" {
		t.Fatal("the folder hands down no list")
	}
	for _, p := range []string{"/d/old", "/d/new"} {
		s, err := tr.Stage(File{Path: p, Content: []byte("PRIVATE"), Mode: 0o640, UID: 0, GID: 50, Secret: true, Temp: prefix + "1"})
		check(t, err)
		if got := attribute(tr.at("d/"+prefix+"1"), accessList); got != "" {
			t.Errorf("%s: the temporary file has an access list: %x", p, got)
		}
		check(t, s.Switch(tr.before(p)))
		tr.wants(p, "PRIVATE", 0o640, 0)
		if got := attribute(tr.at(p), accessList); got != "" {
			t.Errorf("%s has an access list: %x", p, got)
		}
	}
}

func TestSetAttr(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "x", 0o644, 0)
	tr.dir("d", 0o777, 0)
	tr.link("f", "link", 0)
	tr.link("f", "hers", alice)
	info, err := tr.Stat("/link")
	check(t, err)
	check(t, tr.SetAttr("/link", info, 0o600, alice, alice))
	tr.wants("f", "x", 0o600, alice)
	wantError(t, tr.SetAttr("/f", info, 0o600, alice, alice), ErrChanged)
	wantError(t, tr.SetAttr("/hers", info, 0o600, alice, alice), ErrUntrustedLink)
	wantError(t, tr.SetAttr("/no", info, 0o600, alice, alice), ErrChanged, "gone")
	dir, _ := tr.Stat("/d")
	check(t, tr.SetAttr("/d", dir, fs.ModeSetgid|0o750, alice, 0))
	if dir, _ := tr.Stat("/d"); dir.Mode != fs.ModeSetgid|0o750 || dir.UID != alice || dir.GID != 0 {
		t.Errorf("%+v", dir)
	}
	check(t, unix.Mkfifo(tr.at("fifo"), 0o600))
	info, _ = tr.Stat("/fifo")
	wantError(t, tr.SetAttr("/fifo", info, 0o600, 0, 0), ErrKind)
}

func TestChanges(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	check(t, tr.Mkdir("/d", 0o750, alice, alice))
	wantError(t, tr.Mkdir("/d", 0o700, 0, 0), fs.ErrExist)
	wantError(t, tr.Mkdir("/no/d", 0o700, 0, 0), fs.ErrNotExist)
	wantError(t, tr.Mkdir("/", 0o700, 0, 0), unix.EINVAL)

	tr.file("f", "x", 0o644, 0)
	was := tr.before("/f")
	wantError(t, tr.Remove("/f", Before{}), unix.EINVAL)
	wantError(t, tr.Rename("/f", "/d", was), fs.ErrExist, "/d")
	wantError(t, tr.Rename("/f", "/no/f", was), fs.ErrNotExist)
	check(t, tr.Rename("/f", "/d/g", was))
	tr.wants("d/g", "x", 0o644, 0)
	wantError(t, tr.Rename("/f", "/d/h", was), ErrChanged, "gone")
	changed := was
	changed.Content = []byte("y")
	wantError(t, tr.Remove("/d/g", changed), ErrChanged)
	wantError(t, tr.RemoveDir("/d"), unix.ENOTEMPTY)
	wantError(t, tr.RemoveDir("/d/g"), ErrKind)
	check(t, tr.Remove("/d/g", was))

	check(t, tr.Symlink("../nowhere", "/d/link"))
	wantError(t, tr.Symlink("x", "/d/link"), fs.ErrExist)
	wantError(t, tr.Remove("/d/link", was), ErrChanged, "symbolic link")
	wantError(t, tr.Remove("/d/link", Before{Exists: true, Link: "other"}), ErrChanged)
	check(t, tr.Remove("/d/link", Before{Exists: true, Link: "../nowhere"}))
	check(t, tr.RemoveDir("/d"))
	wantError(t, tr.RemoveDir("/d"), fs.ErrNotExist)
	wantError(t, tr.Remove("/d", was), ErrChanged)
}

func TestRemoveTemps(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("d", 0o755, alice)
	tr.file("d/"+prefix+"7-1", "PRIVATE", 0, 0)
	tr.file("d/"+prefix+"7-2", "PRIVATE", 0o600, alice) // killed after the owner was set
	tr.file("d/keep", "x", 0o600, 0)
	tr.dir("d/"+prefix+"dir", 0o755, 0)
	tr.file("secret", "x", 0o600, 0)
	tr.link("../secret", "d/"+prefix+"link", alice)
	check(t, os.Link(tr.at("secret"), tr.at("d/"+prefix+"hard")))
	check(t, tr.RemoveTemps("/d", prefix))
	check(t, tr.RemoveTemps("/no/such", prefix))
	wantError(t, tr.RemoveTemps("/d", ""), nil)
	wantError(t, tr.RemoveTemps("/d", "k"), nil)
	wantError(t, tr.RemoveTemps("/d/keep", prefix), ErrKind)
	var left []string
	entries, err := tr.ReadDir("/d")
	check(t, err)
	for _, e := range entries {
		left = append(left, e.Name)
	}
	if got := strings.Join(left, " "); got != ".converge-dir .converge-link keep" {
		t.Errorf("left: %s", got)
	}
	tr.wants("secret", "x", 0o600, 0)
}

// A descriptor that leaks into a child or stays open for good shows up in /proc.
func TestNoDescriptorLeaks(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.dir("d", 0o755, 0)
	tr.link("d", "link", 0)
	tr.link("d", "hers", alice)
	tr.file("d/f", "x", 0o600, 0)
	check(t, unix.Mkfifo(tr.at("d/fifo"), 0o600))
	use := func() {
		tr.Stat("/link/f")
		tr.Stat("/hers/f")
		tr.Stat("/link/../no/f")
		tr.ReadFile("/link/f", 0)
		tr.ReadFile("/link/fifo", 0)
		tr.ReadDir("/link")
		tr.write("/link/f", "y", 0o600, 0)
		tr.write("/link/fifo", "y", 0o600, 0)
		tr.write("/link/f", "y", 0o600, -7)
		tr.Mkdir("/link", 0o700, 0, 0)
		tr.Rename("/link/f", "/no/f", Before{})
		info, _ := tr.Stat("/d/f")
		tr.SetAttr("/link/f", info, 0o640, 0, 0)
		if s, err := tr.Stage(File{Path: "/d/f", Mode: 0o600, Temp: prefix + "9"}); err == nil {
			for _, fd := range []int{s.fd, s.dir, s.at.dir, tr.Disk.root.fd} {
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor %d reaches children (%v)", fd, err)
				}
			}
			s.Discard()
		} else {
			t.Error(err)
		}
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(entries)
	}
	use()
	before := open()
	for range 20 {
		use()
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	tr.noStrays()
}

func TestErrorsAreTyped(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	_, err := tr.Stat("/no")
	var e *Error
	if !errors.As(err, &e) || e.Path != "/no" || e.Op != "stat" {
		t.Errorf("%#v", err)
	}
}
