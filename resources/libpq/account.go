package libpq

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Account is the Linux user under whom a client program runs: its files are what this user can read.
type Account struct {
	Name     string
	UID, GID int
	Groups   []int // further groups
	Home     string
}

// Paths are the files that a client takes.
type Paths struct{ Cert, Key, Root, CRL, Passfile string }

// Paths are the files by libpq's rules: those of the home where the settings do not name others. libpq 15 and later take
// $HOME, 14 and before the home of /etc/passwd, which here are the same.
func (a Account) Paths(s Settings) Paths {
	own := func(setting, name string) string {
		switch {
		case s[setting] != "":
			return s[setting]
		case a.Home == "":
			return ""
		}
		return path.Join(a.Home, name)
	}
	return Paths{
		Cert: own("sslcert", ".postgresql/postgresql.crt"), Key: own("sslkey", ".postgresql/postgresql.key"),
		Root: own("sslrootcert", ".postgresql/root.crt"), CRL: own("sslcrl", ".postgresql/root.crl"), Passfile: own("passfile", ".pgpass"),
	}
}

// The largest file of a client that is read, in bytes.
const fileLimit = 1 << 20

// A File is what a client finds at a path.
type File struct {
	Content []byte
	Mode    fs.FileMode // permission bits
	UID     int
}

// ReadFile reads a file as the account, with its rights and no others: what it cannot read is an error, and a link that it
// has put somewhere leads to nothing that it could not have read itself.
func (a Account) ReadFile(name string) (File, error) {
	f, err := a.open(name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, &fs.PathError{Op: "read", Path: name, Err: errors.New("it is not a regular file")}
	}
	content, err := io.ReadAll(io.LimitReader(f, fileLimit+1))
	if err == nil && len(content) > fileLimit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it is larger than %d KB", fileLimit>>10)}
	}
	return File{content, info.Mode().Perm(), int(info.Sys().(*syscall.Stat_t).Uid)}, err
}

// open opens the file on a thread of its own, which ends when it could not go back to being root.
func (a Account) open(name string) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		back, err := a.become()
		if err != nil {
			done <- result{nil, err}
			return // locked: the runtime ends the thread
		}
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // a FIFO would make us wait
		if back() == nil {
			runtime.UnlockOSThread()
		}
		done <- result{f, err}
	}()
	r := <-done
	return r.file, r.err
}

// become gives the calling thread, and no other, the account's effective ids and groups. Whoever is not root stays who they
// are.
func (a Account) become() (back func() error, err error) {
	if os.Geteuid() != 0 || a.UID == 0 {
		return func() error { return nil }, nil
	}
	before, err := unix.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("the groups of this program: %w", err)
	}
	own := os.Getegid()
	if err := errors.Join(setGroups(a.Groups), setID(unix.SYS_SETRESGID, a.GID), setID(unix.SYS_SETRESUID, a.UID)); err != nil {
		return nil, fmt.Errorf("read as the user %s: %w", a.Name, err)
	}
	return func() error {
		return errors.Join(setID(unix.SYS_SETRESUID, 0), setID(unix.SYS_SETRESGID, own), setGroups(before))
	}, nil
}

// setID changes the effective id of this thread. Go's own calls change that of all threads.
func setID(call uintptr, id int) error {
	const keep = ^uintptr(0)
	if _, _, e := unix.RawSyscall(call, keep, uintptr(id), keep); e != 0 {
		return e
	}
	return nil
}

func setGroups(groups []int) error {
	ids := make([]uint32, len(groups)+1) // one more: there is a first
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0); e != 0 {
		return e
	}
	return nil
}

// TooOpen tells whether libpq refuses a private key for its mode: it may be the user's alone, or root's and readable by a
// group.
func (f File) TooOpen() bool {
	if f.UID == 0 {
		return f.Mode&0o037 != 0
	}
	return f.Mode&0o077 != 0
}
