package disk

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"converge/engine/fault"
)

// File is a file as it shall be.
type File struct {
	Path     string
	Content  []byte
	Mode     fs.FileMode // permission bits; fs.ModeSetuid and the like for the special ones
	UID, GID int
	Secret   bool   // exactly its mode: no access list, neither the replaced file's nor one that the folder hands down
	Temp     string // name of the temporary file beside it, ".converge-<run>-<n>"
}

// Before is what a decision to change a path was made from. The zero Before says that nothing stood there.
type Before struct {
	Exists   bool
	Content  []byte
	Mode     fs.FileMode
	UID, GID int
	Link     string // of a symbolic link: its text, and the fields above but Exists mean nothing
}

// BeforeOf is the Before of a file that was read.
func BeforeOf(content []byte, info Info) Before {
	return Before{Exists: true, Content: content, Mode: info.Mode, UID: info.UID, GID: info.GID}
}

// Staged is a file that lies complete and synced beside its target. It ends with Switch or Discard.
type Staged struct {
	at   *place
	dir  int // the folder, open for syncing
	fd   int // the temporary file; held so that its inode cannot become another file's
	temp string
	made unix.Stat_t // what the temporary file is when complete
	over bool

	content []byte
	secret  bool
}

// Stage writes f to a temporary file beside its target and syncs it. The target stays as it is until Switch.
//
// When the path is a trusted link, the file that it leads to is the target. Refused before anything is created: a target
// that is no file, that has other names, that is a mount point of its own or immutable; a link that dangles or is not
// trusted. The temporary file is created with O_EXCL and mode 0, then gets its owner, then the replaced file's access list
// and attributes (of a Secret none), then its mode, and only then content. On failure it is removed again.
func (d *Disk) Stage(f File) (*Staged, error) {
	bits, err := bitsOf(f.Mode)
	if err != nil {
		return nil, &Error{Op: "write", Path: f.Path, Err: err}
	}
	if f.Temp == "" || f.Temp == "." || f.Temp == ".." || strings.ContainsAny(f.Temp, "/\x00") {
		return nil, &Error{Op: "write", Path: f.Path, Err: fmt.Errorf("%q is no name for a temporary file", f.Temp)}
	}
	p, err := d.findTarget(f.Path)
	if err != nil {
		return nil, err
	}
	s := &Staged{at: p, dir: -1, fd: -1, temp: f.Temp, content: f.Content, secret: f.Secret}
	if err := s.create(); err != nil {
		s.close()
		return nil, err
	}
	if err := s.fill(f, bits); err != nil {
		return nil, s.undo(err)
	}
	return s, nil
}

// findTarget finds the place of a file that may be written.
func (d *Disk) findTarget(path string) (*place, error) {
	p, err := d.find("write", path, true)
	if err != nil {
		return nil, err
	}
	err = p.replaceable("write")
	if err == nil && strings.HasSuffix(path, "/") {
		err = &Error{Op: "write", Path: path, Err: ErrKind, Cause: "the path of a file does not end in a slash"}
	}
	if err == nil {
		err = p.writableFlags("write")
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// replaceable refuses a target that a rename must not replace.
func (p *place) replaceable(op string) error {
	switch {
	case !p.exists && p.linked:
		return &Error{Op: op, Path: p.asked, Real: p.real, Err: ErrDangling,
			Cause:  fmt.Sprintf("%q is a symbolic link to %q, which does not exist", p.asked, p.real),
			Remedy: "remove the link, or create what it leads to"}
	case !p.exists:
		return nil
	case p.kind() != Regular:
		return p.wrongKind(op, Regular)
	case p.st.Nlink > 1:
		return p.hardLinked(op)
	}
	return nil
}

// create makes the empty temporary file, closed to all. Its mode is 0 whatever the umask is.
func (s *Staged) create() error {
	var err error
	if s.dir, err = openIn(s.at.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: before the temporary file")
	s.fd, err = again(func() (int, error) {
		return unix.Openat(s.dir, s.temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err == unix.EEXIST {
		return &Error{Op: "write", Path: s.at.asked, Real: s.at.real, Err: err,
			Cause:  fmt.Sprintf("the temporary file %q already exists beside it", s.temp),
			Remedy: "it is left from a run that was killed; remove it"}
	}
	if err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: temporary file created")
	return nil
}

// fill gives the temporary file its owner, attributes and mode, checks that the file system kept them, and only then
// writes and syncs the content.
func (s *Staged) fill(f File, bits uint32) error {
	if err := unix.Fchown(s.fd, f.UID, f.GID); err != nil {
		return s.at.failOwner("write", f.UID, f.GID, err)
	}
	fault.Point("disk: owner set")
	if err := s.copyAttributes(f.Secret); err != nil {
		return s.at.fail("write", err)
	}
	if err := unix.Fchmod(s.fd, bits); err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: mode set")
	if err := s.check(f, bits, 0); err != nil {
		return err
	}
	if err := writeAll(s.fd, f.Content); err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: content written")
	// A failed fsync is not tried again: the kernel may have dropped the pages and would call it success (fsync(2)).
	if err := unix.Fsync(s.fd); err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: content synced")
	return s.check(f, bits, int64(len(f.Content)))
}

// check compares the temporary file with what was asked of the file system: vfat, CIFS and NFS with all_squash take a
// chown or chmod without an error and do something else.
func (s *Staged) check(f File, bits uint32, size int64) error {
	if err := unix.Fstat(s.fd, &s.made); err != nil {
		return s.at.fail("write", err)
	}
	got := infoOf(&s.made)
	if got.UID == f.UID && got.GID == f.GID && s.made.Mode&0o7777 == bits && got.Size == size {
		return nil
	}
	return &Error{Op: "write", Path: s.at.asked, Real: s.at.real, Err: unix.ENOTSUP,
		Cause: fmt.Sprintf("%s made it mode %v, owner %d:%d and %d bytes of what should be mode %v, owner %d:%d and %d bytes",
			fileSystem(s.dir), got.Mode, got.UID, got.GID, got.Size, f.Mode, f.UID, f.GID, size),
		Remedy: "use a file system that keeps owners and modes"}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		b = b[n:]
	}
	return nil
}

// Switch puts the staged file in its target's place, in one rename, if the target is still what before says; else the
// error is ErrChanged and the target stays. Then it syncs the folder and looks whether the target is the staged file.
//
// The target holds its old content or all of the new one at every moment. On failure the temporary file is removed, and
// the target is unchanged unless the error is ErrNotDurable. A change that someone makes in the instant between
// the comparison and the rename is lost; no call of the kernel compares and renames at once.
func (s *Staged) Switch(before Before) error {
	return SwitchTogether([]*Staged{s}, []Before{before})
}

// SwitchTogether is Switch for files that belong together, such as a certificate and its key. All are compared before the
// first is renamed, and nothing comes between the renames. They are renamed in their order, and synced afterwards. When one
// fails, those after it are not renamed.
//
// Where a secret among them takes the place of another one, readers of the first file are held up meanwhile (holdReaders),
// so that nobody reads the old certificate and the new key.
func SwitchTogether(all []*Staged, before []Before) error {
	for i, s := range all {
		if err := s.stillAs(before[i]); err != nil {
			return undoAll(all, err)
		}
	}
	held := holdReaders(all, before)
	defer held.letGo(all[0].content)
	for _, s := range all {
		if err := held.unchanged(s); err != nil {
			return undoAll(all, err)
		}
	}
	renamed := all
	var failed error
	for i, s := range all {
		if failed = s.rename(before[i].Exists); failed != nil {
			failed, renamed = undoAll(all[i:], failed), all[:i]
			break
		}
	}
	errs := []error{failed}
	for _, s := range renamed {
		errs = append(errs, s.settle())
	}
	return firstError(errs)
}

// firstError returns the first one as it is, for callers who look at what it is.
func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// undoAll removes temporary files, and returns why.
func undoAll(all []*Staged, why error) error {
	for _, s := range all {
		if !s.over {
			why = s.undo(why)
		}
	}
	return why
}

// stillAs says what keeps the target from being switched.
func (s *Staged) stillAs(before Before) error {
	if s.over {
		return &Error{Op: "write", Path: s.at.asked, Err: fs.ErrClosed}
	}
	if err := s.at.compare("write", before); err != nil || !before.Exists {
		return err
	}
	return s.at.replaceable("write")
}

// settle makes a rename durable, and looks whether it is the staged file that stands there now.
func (s *Staged) settle() error {
	defer s.close()
	if err := s.at.syncDir("write", s.dir); err != nil {
		return err
	}
	return s.readBack()
}

// rename gives the temporary file its target's name. A target that should not exist is never replaced.
func (s *Staged) rename(replace bool) error {
	fault.Point("disk: before the rename")
	var err error
	if replace {
		err = unix.Renameat(s.dir, s.temp, s.dir, s.at.name)
	} else {
		err = renameNew(s.dir, s.temp, s.dir, s.at.name)
	}
	if err == unix.EEXIST {
		return s.at.changed("write", "it has come into being")
	}
	if err != nil {
		return s.at.fail("write", err)
	}
	fault.Point("disk: renamed")
	return nil
}

// renameNew renames to a name that must not exist yet (EEXIST). Where the file system knows no RENAME_NOREPLACE (NFS)
// a second name is made and the first one removed; a folder cannot be renamed there.
func renameNew(fromDir int, from string, toDir int, to string) error {
	err := unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.ENOTSUP {
		return err
	}
	if err := unix.Linkat(fromDir, from, toDir, to, 0); err != nil {
		return err
	}
	fault.Point("disk: second name made")
	return unix.Unlinkat(fromDir, from, 0)
}

// readBack makes sure that the name leads to the file that was staged: in a folder of his own a user can put another
// file under the temporary name.
func (s *Staged) readBack() error {
	if err := s.at.look(); err != nil {
		return s.at.fail("read back", err)
	}
	got, want := s.at.st, s.made
	if got.Dev == want.Dev && got.Ino == want.Ino && got.Size == want.Size && got.Mtim == want.Mtim &&
		got.Mode == want.Mode && got.Uid == want.Uid && got.Gid == want.Gid {
		return nil
	}
	return &Error{Op: "read back", Path: s.at.asked, Real: s.at.real, Err: ErrChanged,
		Cause: "another process replaced or changed the file while it was being put in place"}
}

// Discard removes the temporary file. After Switch, or a second time, it does nothing.
func (s *Staged) Discard() error {
	if s.over {
		return nil
	}
	return s.undo(nil)
}

// undo removes the temporary file and returns why; a temporary file that stays is told too.
func (s *Staged) undo(why error) error {
	defer s.close()
	err := unix.Unlinkat(s.dir, s.temp, 0)
	if err == nil || err == unix.ENOENT {
		return why
	}
	left := &Error{Op: "remove temporary file", Path: s.temp, Err: s.at.fail("write", err)}
	if why == nil {
		return left
	}
	return fmt.Errorf("%w (and %w)", why, left)
}

func (s *Staged) close() {
	s.over = true
	for _, fd := range []int{s.fd, s.dir} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.at.close()
}

// compare looks again at the place and tells in which way it is not what it was.
func (p *place) compare(op string, before Before) error {
	if err := p.look(); err != nil {
		return p.fail(op, err)
	}
	switch {
	case !p.exists && !before.Exists:
		return nil
	case !p.exists:
		return p.changed(op, "it is gone")
	case !before.Exists:
		return p.changed(op, "it has come into being")
	case before.Link != "":
		return p.compareLink(op, before.Link)
	case p.kind() != Regular:
		return p.changed(op, "it is "+p.kind().String())
	}
	now := infoOf(&p.st)
	switch {
	case now.UID != before.UID || now.GID != before.GID:
		return p.changed(op, fmt.Sprintf("its owner is %d:%d and was %d:%d", now.UID, now.GID, before.UID, before.GID))
	case now.Mode != before.Mode:
		return p.changed(op, fmt.Sprintf("its mode is %v and was %v", now.Mode, before.Mode))
	case now.Size != int64(len(before.Content)):
		return p.changed(op, "its content is another one")
	}
	content, _, err := p.read(op, now.Size)
	if err == errRaced || err == nil && !bytes.Equal(content, before.Content) {
		return p.changed(op, "its content is another one")
	}
	return err
}

func (p *place) compareLink(op, want string) error {
	if p.kind() != Symlink {
		return p.changed(op, "it is "+p.kind().String())
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir, p.name, buf)
	if err != nil {
		return p.fail(op, err)
	}
	if string(buf[:n]) != want {
		return p.changed(op, "the link leads elsewhere")
	}
	return nil
}

// syncDir makes a change of names durable. File systems that cannot sync a folder say EINVAL; there is nothing to be done there.
func (p *place) syncDir(op string, dir int) error {
	err := unix.Fsync(dir)
	if err == unix.EINVAL || err == unix.ENOTSUP {
		err = nil
	}
	if err != nil {
		return p.fail(op, fmt.Errorf("sync its folder: %w (%w)", err, ErrNotDurable))
	}
	fault.Point("disk: folder synced")
	return nil
}
