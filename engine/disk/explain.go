package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fail turns what the kernel answered into an Error that names the cause and, when there is one, the remedy. It costs some
// system calls, on the way of failure only. An Error passes as it is.
func (p *place) fail(op string, err error) error {
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	e := &Error{Op: op, Path: p.asked, Real: p.real, Err: err}
	var untrusted *untrustedLink
	if errors.As(err, &untrusted) {
		e.Real = ""
		e.Remedy = "use the path that it leads to, or make the link and its folder root's own"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		p.explain(e, errno)
	}
	return e
}

// explain fills in cause and remedy. The text of err goes first when it says more than the errno.
func (p *place) explain(e *Error, errno unix.Errno) {
	cause, remedy := "", ""
	switch errno {
	case unix.ENOSPC:
		cause, remedy = p.noSpace()
	case unix.EDQUOT:
		cause = "the disk quota on " + fileSystem(p.dir) + " is used up"
		remedy = "raise it (setquota) or free space there"
	case unix.EROFS:
		mount := mountOf(p.dir)
		cause = "read-only file system (mounted at " + mount.point + ")"
		remedy = "remount it writable: mount -o remount,rw " + mount.point
	case unix.EPERM, unix.EACCES:
		cause, remedy = p.notPermitted(errno)
	case unix.EBUSY:
		cause, remedy = p.busy()
	case unix.EXDEV:
		cause = "the folder or the names lie on more than one file system, so that a rename cannot do it"
	case unix.EIO:
		cause, remedy = "input/output error on "+fileSystem(p.dir), "look at the kernel's log (dmesg)"
	default:
		return
	}
	if e.Err != error(errno) {
		cause = strings.Replace(e.Err.Error(), errno.Error(), cause, 1)
	}
	e.Cause, e.Remedy = cause, remedy
}

func (p *place) noSpace() (cause, remedy string) {
	var st unix.Statfs_t
	if unix.Fstatfs(p.dir, &st) == nil && st.Files > 0 && st.Ffree == 0 {
		return "no inodes are left on " + fileSystem(p.dir), "remove files there"
	}
	return "no space is left on " + fileSystem(p.dir), "free some there"
}

func (p *place) busy() (cause, remedy string) {
	if attributes(p.dir, p.name)&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return p.real + " is a mount point of its own and cannot be replaced",
			"change the file that is mounted there, or mount its folder instead"
	}
	return "the kernel is using it (device or resource busy)", ""
}

func (p *place) notPermitted(errno unix.Errno) (cause, remedy string) {
	if text, remedy := p.flags(); text != "" {
		return text, remedy
	}
	if !superuser() {
		return fmt.Sprintf("permission denied for UID %d", os.Geteuid()), "run as root"
	}
	return errno.Error() + " although this is root: " + fileSystem(p.dir) + " or the sandbox of this process does not allow it", ""
}

// flags names the chattr(1) flag of the entry or its folder that stands in the way.
func (p *place) flags() (cause, remedy string) {
	folder := p.real[:max(strings.LastIndexByte(p.real, '/'), 1)]
	for _, at := range []struct{ name, path, what string }{
		{p.name, p.real, "the file"},
		{".", folder, "its folder " + folder},
	} {
		switch a := attributes(p.dir, at.name); {
		case a&unix.STATX_ATTR_IMMUTABLE != 0:
			return at.what + " is immutable (chattr +i)", "allow changes with: chattr -i " + at.path
		case a&unix.STATX_ATTR_APPEND != 0:
			return at.what + " is append-only (chattr +a)", "allow changes with: chattr -a " + at.path
		}
	}
	return "", ""
}

// writableFlags refuses ahead what the rename would refuse at the end. It matters for an append-only folder, which lets a
// temporary file in and never out again, and for a set of files, of which none should be switched when one cannot be.
func (p *place) writableFlags(op string) error {
	if text, remedy := p.flags(); text != "" {
		return &Error{Op: op, Path: p.asked, Real: p.real, Err: unix.EPERM, Cause: text, Remedy: remedy}
	}
	if p.exists && attributes(p.dir, p.name)&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return p.fail(op, unix.EBUSY)
	}
	return nil
}

// attributes are the STATX_ATTR bits of an entry, with those of chattr from FS_IOC_GETFLAGS where statx does not know
// them. 0 when nothing can be found out.
func attributes(dir int, name string) uint64 {
	var st unix.Statx_t
	if unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, 0, &st) != nil {
		return 0
	}
	const known = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	kind := kindOf(uint32(st.Mode))
	if st.Attributes_mask&known == known || kind != Regular && kind != Dir {
		return st.Attributes
	}
	fd, err := openIn(dir, name, unix.O_RDONLY)
	if err != nil {
		return st.Attributes
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return st.Attributes
	}
	const immutable, appendOnly = 0x10, 0x20 // FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, the same bits as statx's
	return st.Attributes | uint64(flags&(immutable|appendOnly))
}

// failOwner says that a file could not be given away.
func (p *place) failOwner(op string, uid, gid int, err error) error {
	if err != unix.EPERM && err != unix.EINVAL {
		return p.fail(op, err)
	}
	e := &Error{Op: op, Path: p.asked, Real: p.real, Err: err}
	e.Cause = fmt.Sprintf("cannot give the file to UID %d and GID %d: %v", uid, gid, err)
	if superuser() {
		e.Remedy = fileSystem(p.dir) + " (NFS with root_squash?) or the sandbox of this process refuses to change owners"
	} else {
		e.Remedy = "run as root"
	}
	return e
}

func (p *place) hardLinked(op string) error {
	return &Error{Op: op, Path: p.asked, Real: p.real, Err: ErrHardLinked,
		Cause:  fmt.Sprintf("the file has %d names (hard links)", p.st.Nlink),
		Remedy: fmt.Sprintf("find the others with: find / -xdev -samefile %s; then remove them, or make this one a file of its own", p.real)}
}

func (p *place) wrongKind(op string, want Kind) error {
	return &Error{Op: op, Path: p.asked, Real: p.real, Err: ErrKind, Cause: fmt.Sprintf("it is %s, not %s", p.kind(), want)}
}

func absentIsNil(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A mount is a mounted file system as /proc/self/mountinfo tells it.
type mount struct{ point, kind string }

// fileSystem names the file system of an open folder for a message.
func fileSystem(fd int) string {
	m := mountOf(fd)
	return fmt.Sprintf("the file system mounted at %s (%s)", m.point, m.kind)
}

// mountOf finds the mount that a descriptor lies on. The mount's id, unlike the device, tells a bind mount from its source.
func mountOf(fd int) mount {
	unknown := mount{point: "an unknown place", kind: "unknown"}
	id := mountID(fd)
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil || id == "" {
		return unknown
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// proc_pid_mountinfo(5): id parent major:minor root POINT options [optional ...] - KIND source options
		line, kind, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(line); len(fields) > 4 && fields[0] == id {
			kind, _, _ = strings.Cut(kind, " ")
			return mount{point: unescape(fields[4]), kind: kind}
		}
	}
	return unknown
}

func mountID(fd int) string {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// unescape undoes mountinfo's octal escapes for space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
