package disk

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"converge/engine/fault"
)

// SetAttr gives the file or folder at path a mode and an owner, if it is still the one that before describes (ErrChanged
// otherwise). It works on a descriptor and follows trusted links only. A file with other names is refused: one of them may
// be root's. In between, the mode is never wider than the old and the new one both are.
func (d *Disk) SetAttr(path string, before Info, mode fs.FileMode, uid, gid int) error {
	const op = "set mode and owner of"
	bits, err := bitsOf(mode)
	if err != nil {
		return &Error{Op: op, Path: path, Err: err}
	}
	p, err := d.find(op, path, true)
	if err != nil {
		return err
	}
	defer p.close()
	fd, err := p.openUnchanged(op, before)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return p.setAttr(op, fd, bits, uid, gid)
}

// openUnchanged opens the file or folder at the place, if it is the one that before describes.
func (p *place) openUnchanged(op string, before Info) (int, error) {
	switch {
	case !p.exists:
		return -1, p.changed(op, "it is gone")
	case p.kind() != Regular && p.kind() != Dir:
		return -1, p.wrongKind(op, Regular)
	case p.kind() == Regular && (p.st.Nlink > 1 || before.Links > 1):
		return -1, p.hardLinked(op)
	case infoOf(&p.st) != before:
		return -1, p.changed(op, "it was changed or replaced")
	}
	fd, err := p.openSame(op)
	if err == errRaced {
		return -1, p.changed(op, "it was changed or replaced")
	}
	return fd, err
}

// setAttr closes the file to all whom the new mode shuts out, then gives it away, then opens it to those the new mode lets in.
func (p *place) setAttr(op string, fd int, bits uint32, uid, gid int) error {
	fault.Point("disk: before mode and owner")
	if err := unix.Fchmod(fd, bits&p.st.Mode&0o777); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: mode narrowed")
	if err := unix.Fchown(fd, uid, gid); err != nil {
		unix.Fchmod(fd, p.st.Mode&0o7777)
		return p.failOwner(op, uid, gid, err)
	}
	fault.Point("disk: owner set")
	if err := unix.Fchmod(fd, bits); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: mode set")
	if err := unix.Fsync(fd); err != nil && err != unix.EINVAL {
		return p.fail(op, fmt.Errorf("sync: %w (%w)", err, ErrNotDurable))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return p.fail(op, err)
	}
	if st.Mode&0o7777 != bits || int(st.Uid) != uid || int(st.Gid) != gid {
		return &Error{Op: op, Path: p.asked, Real: p.real, Err: unix.ENOTSUP,
			Cause:  fmt.Sprintf("%s made it mode %v, owner %d:%d", fileSystem(p.dir), modeOf(st.Mode), st.Uid, st.Gid),
			Remedy: "use a file system that keeps owners and modes"}
	}
	return nil
}

// Mkdir makes one folder; its parent must exist. It is root's and closed (0700) until it has its owner and, last, its mode.
// What exists already is fs.ErrExist. A kill in between leaves a closed folder, for SetAttr to finish.
func (d *Disk) Mkdir(path string, mode fs.FileMode, uid, gid int) error {
	const op = "make folder"
	bits, err := bitsOf(mode)
	if err != nil {
		return &Error{Op: op, Path: path, Err: err}
	}
	p, dir, err := d.findParent(op, path)
	if err != nil {
		return err
	}
	defer p.close()
	defer unix.Close(dir)
	fault.Point("disk: before the folder")
	if err := unix.Mkdirat(dir, p.name, 0o700); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: folder made")
	fd, err := p.openMade(op)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.setAttr(op, fd, bits, uid, gid); err != nil {
		unix.Unlinkat(dir, p.name, unix.AT_REMOVEDIR)
		return err
	}
	return p.syncDir(op, dir)
}

// openMade opens the folder that was just made. In a folder of his own a user can put another one in its place before it
// is opened, also one that root keeps there closed to him: giving him that one would give him what is in it. So it has to
// be ours and empty.
func (p *place) openMade(op string) (int, error) {
	if err := p.look(); err != nil {
		return -1, p.fail(op, err)
	}
	if !p.exists || p.kind() != Dir {
		return -1, p.changed(op, "it was replaced as soon as it was made")
	}
	fd, err := p.openSame(op)
	if err == errRaced {
		return -1, p.changed(op, "it was replaced as soon as it was made")
	}
	if err != nil {
		return -1, err
	}
	err = eachName(fd, func(string) error { return unix.ENOTEMPTY })
	if err == unix.ENOTEMPTY || !ownerDoubt(p.st.Uid).none() {
		err = p.changed(op, "it was replaced as soon as it was made")
	} else if err != nil {
		err = p.fail(op, err)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// findParent finds the place of a path whose last part is not to be followed, and opens its folder for syncing.
func (d *Disk) findParent(op, path string) (*place, int, error) {
	p, err := d.find(op, path, false)
	if err != nil {
		return nil, -1, err
	}
	if p.name == "." {
		p.close()
		return nil, -1, &Error{Op: op, Path: path, Err: unix.EINVAL, Cause: "the path has no name at its end"}
	}
	dir, err := openIn(p.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		defer p.close()
		return nil, -1, p.fail(op, err)
	}
	return p, dir, nil
}

// Remove removes the file or, when before.Link is set, the symbolic link at path, if it is still what before says
// (ErrChanged otherwise). A link is never followed in the last part of the path. Other names of the file stay.
func (d *Disk) Remove(path string, before Before) error {
	const op = "remove"
	p, dir, err := d.findParent(op, path)
	if err != nil {
		return err
	}
	defer p.close()
	defer unix.Close(dir)
	if !before.Exists {
		return &Error{Op: op, Path: path, Err: unix.EINVAL, Cause: "nothing was there when this change was decided"}
	}
	if err := p.compare(op, before); err != nil {
		return err
	}
	fault.Point("disk: before the removal")
	if err := unix.Unlinkat(dir, p.name, 0); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: removed")
	return p.syncDir(op, dir)
}

// RemoveDir removes an empty folder; one that is not empty is ENOTEMPTY and stays.
func (d *Disk) RemoveDir(path string) error {
	const op = "remove folder"
	p, dir, err := d.findParent(op, path)
	if err != nil {
		return err
	}
	defer p.close()
	defer unix.Close(dir)
	if p.exists && p.kind() != Dir {
		return p.wrongKind(op, Dir)
	}
	fault.Point("disk: before the removal")
	if err := unix.Unlinkat(dir, p.name, unix.AT_REMOVEDIR); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: removed")
	return p.syncDir(op, dir)
}

// Rename gives the file or link at from, if it is still what before says (ErrChanged otherwise), the name to, which must
// not exist yet (fs.ErrExist). A link is never followed in the last part of either path. Both folders are synced.
func (d *Disk) Rename(from, to string, before Before) error {
	const op = "rename"
	p, dir, err := d.findParent(op, from)
	if err != nil {
		return err
	}
	defer p.close()
	defer unix.Close(dir)
	q, toDir, err := d.findParent(op, to)
	if err != nil {
		return err
	}
	defer q.close()
	defer unix.Close(toDir)
	if !before.Exists {
		return &Error{Op: op, Path: from, Err: unix.EINVAL, Cause: "nothing was there when this change was decided"}
	}
	if err := p.compare(op, before); err != nil {
		return err
	}
	fault.Point("disk: before the rename")
	switch err := renameNew(dir, p.name, toDir, q.name); err {
	case nil:
	case unix.EEXIST, unix.ENOSPC, unix.EDQUOT:
		return q.fail("rename to", err)
	default:
		return p.fail(op, err)
	}
	fault.Point("disk: renamed")
	if err := q.syncDir(op, toDir); err != nil {
		return err
	}
	return p.syncDir(op, dir)
}

// Symlink makes a symbolic link at path with the text target, which may be anything. What exists already at path is
// fs.ErrExist.
func (d *Disk) Symlink(target, path string) error {
	const op = "make link"
	p, dir, err := d.findParent(op, path)
	if err != nil {
		return err
	}
	defer p.close()
	defer unix.Close(dir)
	fault.Point("disk: before the link")
	if err := unix.Symlinkat(target, dir, p.name); err != nil {
		return p.fail(op, err)
	}
	fault.Point("disk: link made")
	return p.syncDir(op, dir)
}

// Readlink returns the text of the symbolic link at path, trusted or not, without following it.
func (d *Disk) Readlink(path string) (string, error) {
	p, err := d.find("read link", path, false)
	if err != nil {
		return "", err
	}
	defer p.close()
	if !p.exists {
		return "", p.fail("read link", unix.ENOENT)
	}
	if p.kind() != Symlink {
		return "", p.wrongKind("read link", Symlink)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir, p.name, buf)
	if err != nil {
		return "", p.fail("read link", err)
	}
	return string(buf[:n]), nil
}

// RemoveTemps removes the temporary files that a killed run left in the folder dir: regular files whose name begins with
// prefix. Whose they are does not matter, because a run killed after it had set the owner leaves a file that is not
// root's; and a user who makes such names himself loses a name in his own folder, nothing else. A folder that does not
// exist has none.
func (d *Disk) RemoveTemps(dir, prefix string) error {
	const op = "remove temporary files in"
	if !strings.HasPrefix(prefix, ".") || len(prefix) < 4 {
		return &Error{Op: op, Path: dir, Err: unix.EINVAL, Cause: fmt.Sprintf("%q is too short a prefix", prefix)}
	}
	p, err := d.find(op, dir, true)
	if err != nil {
		return absentIsNil(err)
	}
	defer p.close()
	fd, err := p.openDir(op)
	if err != nil {
		return absentIsNil(err)
	}
	defer unix.Close(fd)
	removed := false
	err = eachName(fd, func(name string) error {
		if !strings.HasPrefix(name, prefix) {
			return nil
		}
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && kindOf(st.Mode) == Regular {
			err = unix.Unlinkat(fd, name, 0)
			removed = removed || err == nil
		}
		if err == unix.ENOENT {
			return nil
		}
		return err
	})
	if err != nil {
		return p.fail(op, err)
	}
	if !removed {
		return nil
	}
	return p.syncDir(op, fd)
}
