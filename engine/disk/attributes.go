package disk

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const accessList = "system.posix_acl_access"

// copyAttributes makes the temporary file's access list and extended attributes those of the file that it replaces;
// a rename would drop them. Of a Secret, only the access list that the folder hands down is taken off. The mode
// is to be set afterwards: it then caps the access list (acl(5), the mask entry).
func (s *Staged) copyAttributes(secret bool) error {
	replace := s.at.exists && !secret
	if secret || replace {
		if err := skippable(unix.Fremovexattr(s.fd, accessList)); err != nil {
			return fmt.Errorf("remove %s: %w", accessList, err)
		}
	}
	if !replace {
		return nil
	}
	old, err := s.at.openSame("write")
	if err == errRaced {
		return s.at.changed("write", "it is being changed")
	}
	if err != nil {
		return err
	}
	defer unix.Close(old)
	names, err := listAttributes(old)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyAttribute(old, s.fd, name); err != nil {
			return fmt.Errorf("copy attribute %s: %w", name, err)
		}
	}
	return nil
}

// ofContent says that an attribute speaks of the old bytes: a signature over them, or a privilege given to them.
func ofContent(name string) bool {
	return name == "security.ima" || name == "security.evm" || name == "security.capability"
}

func copyAttribute(from, to int, name string) error {
	if ofContent(name) {
		return nil
	}
	value, err := sized(func(buf []byte) (int, error) { return unix.Fgetxattr(from, name, buf) })
	if err != nil {
		return skippable(err)
	}
	return skippable(unix.Fsetxattr(to, name, value, 0))
}

func listAttributes(fd int) ([]string, error) {
	list, err := sized(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if err != nil {
		return nil, skippable(err)
	}
	return strings.FieldsFunc(string(bytes.TrimRight(list, "\x00")), func(r rune) bool { return r == 0 }), nil
}

// sized calls with a buffer that grows until the answer fits; the kernel's limit is 64 KiB (xattr(7)).
func sized(call func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 2 {
		buf := make([]byte, size)
		n, err := call(buf)
		if err == unix.ERANGE && size < 1<<17 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// skippable drops the errors that say that an attribute is not there, not known or not for us to copy (security.selinux
// in a container). No space is an error.
func skippable(err error) error {
	switch err {
	case unix.ENODATA, unix.ENOTSUP, unix.EPERM, unix.EACCES, unix.ENOSYS:
		return nil
	}
	return err
}
