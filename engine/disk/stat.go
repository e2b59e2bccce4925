package disk

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what stands at a path.
type Kind int

// The kinds. A Device is a character or a block device.
const (
	Regular Kind = iota + 1
	Dir
	Symlink
	FIFO
	Socket
	Device
)

func (k Kind) String() string {
	switch k {
	case Regular:
		return "a file"
	case Dir:
		return "a directory"
	case Symlink:
		return "a symbolic link"
	case FIFO:
		return "a named pipe (FIFO)"
	case Socket:
		return "a socket"
	case Device:
		return "a device"
	}
	return "of an unknown kind"
}

func kindOf(mode uint32) Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return Regular
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFSOCK:
		return Socket
	case unix.S_IFCHR, unix.S_IFBLK:
		return Device
	}
	return 0
}

// Ident tells one state of one file from another. Two that are equal (==) mean the same file, unchanged as far as stat
// can tell: a change within one tick of the file system's clock (some milliseconds before Linux 6.13) that keeps the
// size does not show.
type Ident struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime unix.Timespec
}

// Info is what stat says of a path.
type Info struct {
	Kind     Kind
	Mode     fs.FileMode // permission bits, with fs.ModeSetuid, fs.ModeSetgid and fs.ModeSticky
	UID, GID int
	Size     int64
	Links    int // names that the file has
	Ident    Ident
}

func infoOf(st *unix.Stat_t) Info {
	return Info{
		Kind: kindOf(st.Mode), Mode: modeOf(st.Mode),
		UID: int(st.Uid), GID: int(st.Gid), Size: st.Size, Links: int(st.Nlink), Ident: identOf(st),
	}
}

func identOf(st *unix.Stat_t) Ident {
	return Ident{Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, Mtime: st.Mtim, Ctime: st.Ctim}
}

// modeOf and bitsOf translate permission bits between the kernel's numbers and Go's.
func modeOf(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	for _, b := range specialBits {
		if bits&b.bit != 0 {
			mode |= b.mode
		}
	}
	return mode
}

func bitsOf(mode fs.FileMode) (uint32, error) {
	bits := uint32(mode & fs.ModePerm)
	rest := mode &^ fs.ModePerm
	for _, b := range specialBits {
		if rest&b.mode != 0 {
			bits |= b.bit
			rest &^= b.mode
		}
	}
	if rest != 0 {
		return 0, fmt.Errorf("mode %v has more than permission bits", mode)
	}
	return bits, nil
}

var specialBits = []struct {
	bit  uint32
	mode fs.FileMode
}{
	{unix.S_ISUID, fs.ModeSetuid},
	{unix.S_ISGID, fs.ModeSetgid},
	{unix.S_ISVTX, fs.ModeSticky},
}

// Stat describes what path leads to. It follows trusted links only; one that dangles is fs.ErrNotExist.
func (d *Disk) Stat(path string) (Info, error) { return d.stat(path, true) }

// Lstat describes what stands at path itself; a link in its last part is not followed.
func (d *Disk) Lstat(path string) (Info, error) { return d.stat(path, false) }

func (d *Disk) stat(path string, last bool) (Info, error) {
	p, err := d.find("stat", path, last)
	if err != nil {
		return Info{}, err
	}
	defer p.close()
	if !p.exists {
		return Info{}, p.fail("stat", unix.ENOENT)
	}
	return infoOf(&p.st), nil
}

// Entry is one name in a folder, with what stat says of it: of a link, what the link itself is.
type Entry struct {
	Name string
	Info Info
}

// maxEntries bounds what ReadDir will hold. No folder of ours comes near; a user's own can hold millions.
const maxEntries = 100_000

// ReadDir lists a folder, sorted by name. It follows trusted links to the folder, and none in it.
func (d *Disk) ReadDir(path string) ([]Entry, error) {
	p, err := d.find("list", path, true)
	if err != nil {
		return nil, err
	}
	defer p.close()
	fd, err := p.openDir("list")
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var entries []Entry
	err = eachName(fd, func(name string) error {
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case err == unix.ENOENT:
			return nil // gone since the folder was read
		case err != nil:
			return err
		case len(entries) == maxEntries:
			return fmt.Errorf("%w: more than %d entries", ErrTooLarge, maxEntries)
		}
		entries = append(entries, Entry{Name: name, Info: infoOf(&st)})
		return nil
	})
	if err != nil {
		return nil, p.fail("list", err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// openDir opens the folder at the place itself for reading and syncing.
func (p *place) openDir(op string) (int, error) {
	if !p.exists {
		return -1, p.fail(op, unix.ENOENT)
	}
	if p.kind() != Dir {
		return -1, p.wrongKind(op, Dir)
	}
	fd, err := openIn(p.dir, p.name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return -1, p.changed(op, "it was replaced while it was opened")
	}
	if err != nil {
		return -1, p.fail(op, err)
	}
	return fd, nil
}

// eachName calls do for every name in the folder, without holding them all.
func eachName(fd int, do func(name string) error) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := again(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if err := do(name); err != nil {
				return err
			}
		}
	}
}
