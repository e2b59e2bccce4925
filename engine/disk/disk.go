// Package disk reads and writes a machine's files for a program that runs as root among people who do not.
//
// All paths are absolute and are walked by directory descriptors from the root of the Disk. A symbolic link is followed
// only when nobody but root could have put it there: the link and the folder that holds it belong to root and the folder
// is writable by nobody else. Files are opened so that a FIFO or a device cannot block or act. A write is a
// temporary file beside its target (closed to others from the first byte, final owner and mode before any content,
// synced), which then takes the target's name in one rename.
//
// The reader's path: walk.go finds the place of a path (a folder descriptor and a name in it) and knows who could have
// tampered with the way there; stat.go and read.go look; write.go stages a file and switches it in; change.go has the
// small changes (mode, folder, link, rename, remove); explain.go turns an errno into a sentence with a way out.
//
// os.Root is not used: it follows any link that stays inside, hangs on a FIFO, and given the name of a folder that
// its owner can swap it was led astray in 14,313 of 20,000 tries.
package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// Disk is the tree of files below one folder: "/" on a real machine, a temporary folder in a test. Paths are those that
// a process would see after chroot into that folder: "/etc/passwd" is etc/passwd in it, an absolute symbolic link is read
// from it, and ".." never leaves it. A Disk is safe for use by several goroutines.
type Disk struct {
	name string
	root level
}

// Open returns the tree below root. root itself is taken at its word: links in it are followed, and whoever owns
// it or can write to it counts when the links inside are judged.
func Open(root string) (*Disk, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: root, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &Error{Op: "open", Path: root, Err: err}
	}
	return &Disk{name: root, root: level{fd: fd, mode: st.Mode, gid: st.Gid, doubt: ownerDoubt(st.Uid)}}, nil
}

// Root returns the folder that was given to Open.
func (d *Disk) Root() string { return d.name }

// Close gives the root's descriptor back.
func (d *Disk) Close() error { return unix.Close(d.root.fd) }

// again repeats a system call that a signal interrupted. Go's signals restart most calls, but file systems in user
// space and NFS answer EINTR all the same.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// openIn opens name in the folder dir, never through a symbolic link and never waiting: a FIFO, or a file that someone
// holds a lease on, does not hold us up.
func openIn(dir int, name string, flags int) (int, error) {
	const always = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	return again(func() (int, error) { return unix.Openat(dir, name, flags|always, 0) })
}

func superuser() bool { return os.Geteuid() == 0 }
