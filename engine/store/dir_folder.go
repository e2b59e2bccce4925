package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"converge/engine/fault"
)

// A folder is one that is open.
type folder struct {
	file *os.File
	path string
}

func (f folder) close() { f.file.Close() }

// walk adds the keys below f. names are what is in f, and prefix is its key with a slash. A folder that cannot be
// read is an error: a part of the store must not look like all of it.
func (f folder) walk(ctx context.Context, prefix string, names []string, keys *[]Key) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := prefix + name
		if CheckKey(key) != nil {
			continue
		}
		sub, err := f.sub(name)
		if errors.Is(err, errKind) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "open", Path: f.at(name), Err: err}
		}
		below, err := sub.file.Readdirnames(-1)
		if v := highest(below); err == nil && v > 0 {
			*keys = append(*keys, Key{key, v})
		}
		if err == nil {
			err = sub.walk(ctx, key+"/", below, keys)
		}
		sub.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// errKind is a thing of another kind than converge puts there: a link, a pipe, a folder for a file.
var errKind = errors.New("it is not what converge puts there")

func (f folder) at(name string) string { return path.Join(f.path, name) }

// sub opens a folder in this one. A link is not followed: whoever can write to the store could lead root anywhere.
func (f folder) sub(name string) (folder, error) {
	fd, err := f.openat(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return folder{}, errKind
	}
	if err != nil {
		return folder{}, err
	}
	return folder{os.NewFile(uintptr(fd), f.at(name)), f.at(name)}, nil
}

// mkdir makes a folder that may have come into being meanwhile.
func (f folder) mkdir(name string) (folder, error) {
	err := eintr(func() error { return unix.Mkdirat(int(f.file.Fd()), name, 0o700) })
	if err != nil && err != unix.EEXIST {
		return folder{}, err
	}
	made := err == nil
	fault.Point("store: folder made")
	sub, err := f.sub(name)
	if err == nil && made {
		if err = sub.file.Chmod(0o700); err != nil {
			sub.close()
		}
	}
	return sub, err
}

func (f folder) openat(name string, flags int, mode uint32) (int, error) {
	const always = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	return try(func() (int, error) { return unix.Openat(int(f.file.Fd()), name, flags|always, mode) })
}

func (f folder) remove(name string) error {
	return eintr(func() error { return unix.Unlinkat(int(f.file.Fd()), name, 0) })
}

// sync makes the names in the folder last. Some network file systems know no such call, and keep them anyway.
func (f folder) sync() error {
	err := f.file.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// highest returns the highest version in the folder. One that is there when it begins to read is in what it reads, for it
// stays, and so the answer is never older than the question.
func (f folder) highest() (Version, error) {
	names, err := f.names()
	return highest(names), err
}

func (f folder) names() ([]string, error) {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return f.file.Readdirnames(-1)
}

// read returns a file's content. It looks at what the name is before it opens it: the mere opening of a device can
// do things. A file that is larger than most is errTooLarge.
func (f folder) read(name string, most int64) ([]byte, error) {
	var st unix.Stat_t
	if err := eintr(func() error { return unix.Fstatat(int(f.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errKind
	}
	fd, err := f.openat(name, unix.O_RDONLY, 0)
	if err == unix.ELOOP || err == unix.ENXIO {
		return nil, errKind
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errKind
	}
	if info.Size() > most {
		return nil, errTooLarge
	}
	content := make([]byte, 0, info.Size()+1) // and one, so that the end is found without another buffer
	for {
		n, err := file.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		switch {
		case int64(len(content)) > most:
			return nil, errTooLarge
		case err == io.EOF:
			return content, nil
		case err != nil:
			return nil, err
		case len(content) == cap(content):
			content = slices.Grow(content, 512)
		}
	}
}

var errTooLarge = fmt.Errorf("it has more than the %d bytes that a value has", MaxValue)

// A temp is a complete file under a temporary name.
type temp struct {
	in   folder
	file *os.File
	name string
	time time.Time // of its last write, by the clock of the file system
}

// stage writes a temporary file and syncs it.
func (f folder) stage(content []byte) (*temp, error) {
	var random [8]byte
	rand.Read(random[:])
	t := &temp{in: f, name: tempPrefix + hex.EncodeToString(random[:])}
	fd, err := f.openat(t.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	t.file = os.NewFile(uintptr(fd), t.name)
	fault.Point("store: temporary file created")
	if err := t.fill(content); err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

func (t *temp) fill(content []byte) error {
	if err := t.file.Chmod(0o600); err != nil {
		return err
	}
	if _, err := t.file.Write(content); err != nil {
		return err
	}
	if err := t.file.Sync(); err != nil {
		return err
	}
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != int64(len(content)) {
		return io.ErrShortWrite
	}
	t.time = info.ModTime()
	return nil
}

// link gives the file a name that nobody else has taken: then the error is unix.EEXIST. An NFS client that loses the
// answer asks again and is told that the name is there; whether it is ours is seen from the file's second name (open(2)).
func (t *temp) link(name string) error {
	dir := int(t.in.file.Fd())
	err := eintr(func() error { return unix.Linkat(dir, t.name, dir, name, 0) })
	if err == nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(int(t.file.Fd()), &st) == nil && st.Nlink > 1 {
		return nil
	}
	return err
}

// discard removes the temporary name.
func (t *temp) discard() {
	t.in.remove(t.name)
	t.file.Close()
}

// tidy removes the versions that went out of use, and the temporary files of writers that were killed. Their age is
// measured against a file that was written just now, so that it is the file system's clock on both sides. What cannot be
// removed stays for the next writer: it is in nobody's way.
func (f folder) tidy(newest Version, now *temp) {
	names, err := f.names()
	if err != nil {
		return
	}
	age := func(name string) time.Duration { return now.time.Sub(f.written(name)) }
	for _, name := range names {
		v, isVersion := parseVersion(name)
		if isVersion && (v <= newest-kept && age(name) > keptFor || v <= newest-most) || strings.HasPrefix(name, tempPrefix) && age(name) > tempAge {
			f.remove(name)
			fault.Point("store: old file removed")
		}
	}
}

// written returns when a file was last written; one that is gone, in the far future.
func (f folder) written(name string) time.Time {
	var st unix.Stat_t
	if unix.Fstatat(int(f.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return time.Unix(1<<40, 0)
	}
	return time.Unix(st.Mtim.Unix())
}

func versionName(v Version) string { return "@" + strconv.FormatInt(int64(v), 10) }

// parseVersion is versionName's other direction. Another spelling of a number is no version.
func parseVersion(name string) (Version, bool) {
	digits, ok := strings.CutPrefix(name, "@")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	v := Version(n)
	return v, err == nil && v > 0 && versionName(v) == name
}

// highest returns the highest version among a folder's names, or 0.
func highest(names []string) Version {
	var high Version
	for _, name := range names {
		if v, ok := parseVersion(name); ok {
			high = max(high, v)
		}
	}
	return high
}

// try does a call of the kernel again when a signal broke it off.
func try(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func eintr(call func() error) error {
	_, err := try(func() (int, error) { return 0, call() })
	return err
}
