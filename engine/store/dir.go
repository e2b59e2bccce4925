package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"converge/engine/fault"
)

// A Dir is a store in a folder: of one machine, or one that all nodes mount (NFS).
//
// The key node/app1 is the folder node/app1 in it, and each version is a file there, @1, @2 and so on, that holds the
// value and nothing else. "@" stands in no key, so that the key node and the key node/1 do not meet. A version is written
// under a temporary name, synced, and then linked to its own name: link(2) is the one call that refuses a name which is
// there, also on NFS, so of many who write the same version one wins. A file never changes once it has its name, and the
// highest version is what stands at the key. A value that was damaged is returned as it is: who reads it finds the
// signature broken, and can put a good one over it.
//
// The folder is a store when it has the file .store in it, and only Init puts it there. A folder that is mounted late, or
// not at all, is an empty folder: without this mark it would look like an environment in which nobody has published
// anything yet.
//
// On NFS a node sees what another wrote as late as its mount keeps the names of a folder: up to a minute, and a second where
// it is mounted with acdirmax=1 (nfs(5)). Until then it reads the version before, and its Swap is told ErrChanged.
//
// Links, pipes and other things that somebody put in there are never followed and never waited for. Files have mode 0600
// and folders 0700, whatever the umask is.
type Dir struct {
	Path string

	calls chan struct{}
}

const (
	markFile   = ".store"
	markText   = "converge store 1\n"
	tempPrefix = ".new-"

	// tempAge is how old a temporary file has to be before somebody else removes it: its writer is dead.
	tempAge = time.Hour

	// kept is how many of the last versions stay for good. Those before stay for keptFor: a writer that was slow finds its
	// version taken. It is longer than a temporary file lives, so that one which was slower has no file to link any more.
	kept    = 2
	keptFor = 2 * tempAge

	// most is how many versions there are at once, however fast they come.
	most = 1000

	// dirTimeout ends a call that has no deadline of its own.
	dirTimeout = 30 * time.Second

	// dirCalls is how many calls go on at once. Those to a server that is away never end, and each has a thread.
	dirCalls = 16
)

// OpenDir returns the store in the folder at path. It does not look at the folder, and never creates it: that is Init's.
func OpenDir(path string) (*Dir, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("the folder of a store has an absolute path, and %q is none", path)
	}
	return &Dir{Path: filepath.Clean(path), calls: make(chan struct{}, dirCalls)}, nil
}

// Init makes the folder a store, and creates it when only its last part is missing. It is called by the authority alone,
// before it publishes for the first time: anybody else who found no store there would hide that it is not mounted.
func (d *Dir) Init(ctx context.Context) error {
	_, err := within(ctx, d, func(context.Context) (struct{}, error) { return struct{}{}, d.init() })
	return err
}

// Get returns the highest version.
func (d *Dir) Get(ctx context.Context, key string) (Entry, error) {
	if err := CheckKey(key); err != nil {
		return Entry{}, err
	}
	return within(ctx, d, func(ctx context.Context) (Entry, error) { return d.get(ctx, key) })
}

// Create writes version 1.
func (d *Dir) Create(ctx context.Context, key string, value []byte) (Version, error) {
	if err := checkPut(key, value); err != nil {
		return 0, err
	}
	return within(ctx, d, func(ctx context.Context) (Version, error) { return d.put(ctx, key, 0, value, ErrExists) })
}

// Swap writes the version after old.
func (d *Dir) Swap(ctx context.Context, key string, old Version, value []byte) (Version, error) {
	if err := checkPut(key, value); err != nil {
		return 0, err
	}
	if old < 1 {
		return 0, at(d, key, ErrChanged)
	}
	return within(ctx, d, func(ctx context.Context) (Version, error) { return d.put(ctx, key, old, value, ErrChanged) })
}

// List walks the folders. What is no folder with a key's name, or has no version in it, is passed over.
func (d *Dir) List(ctx context.Context, prefix string) ([]Key, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	return within(ctx, d, func(ctx context.Context) ([]Key, error) { return d.list(ctx, prefix) })
}

// Watch looks every half second: the kernel tells nothing of what other machines do in a folder.
func (d *Dir) Watch(ctx context.Context, key string, known Version) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return poll(ctx, known, func(ctx context.Context) (Version, error) {
		return within(ctx, d, func(context.Context) (Version, error) { return d.version(key) })
	})
}

// String names the folder.
func (d *Dir) String() string { return "the folder " + d.Path }

// Close does nothing: no file stays open between two calls.
func (d *Dir) Close() error { return nil }

// within does work, and comes back when ctx ends even if work does not: a call to an NFS server that is away cannot be
// broken off (nfs(5), "hard"), so it is left behind. Not more than dirCalls are.
func within[T any](ctx context.Context, d *Dir, work func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, dirTimeout)
	defer cancel()
	done := make(chan result, 1)
	if ctx.Err() == nil {
		select {
		case d.calls <- struct{}{}:
			go func() {
				defer func() { <-d.calls }()
				value, err := work(ctx)
				done <- result{value, err}
			}()
		case <-ctx.Done():
		}
	}
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	if r.err != nil && r.err == ctx.Err() {
		r.err = &unusable{d.String(), ended(r.err), "is its server there?", r.err}
	}
	return r.value, r.err
}

// open opens the store's folder and makes sure that it is one.
func (d *Dir) open() (folder, error) {
	root, err := d.openRoot()
	if err != nil {
		return folder{}, err
	}
	if err := d.checkMark(root); err != nil {
		root.close()
		return folder{}, err
	}
	return root, nil
}

// openRoot opens the folder. Its path is the operator's, so its links are followed.
func (d *Dir) openRoot() (folder, error) {
	fd, err := try(func() (int, error) {
		return unix.Open(d.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return folder{}, &unusable{d.String(), err.Error(), d.remedy(err), ErrNotMade}
	}
	if err != nil {
		return folder{}, d.fail(d.Path, err)
	}
	return folder{os.NewFile(uintptr(fd), d.Path), d.Path}, nil
}

func (d *Dir) checkMark(root folder) error {
	text, err := root.read(markFile, MaxValue)
	if errors.Is(err, fs.ErrNotExist) {
		return &unusable{d.String(), "it is not a store: " + markFile + " is not in it", "is it mounted here? On the authority, converge apply makes it a store", ErrNotMade}
	}
	if err != nil {
		return d.fail(root.at(markFile), err)
	}
	if string(text) != markText {
		return &unusable{d.String(), fmt.Sprintf("its %s says %q, and this converge knows %q", markFile, text, markText), "is another converge used here?", nil}
	}
	return nil
}

func (d *Dir) init() error {
	made, err := d.makeRoot()
	if err != nil {
		return err
	}
	root, err := d.openRoot()
	if err != nil {
		return err
	}
	defer root.close()
	if made {
		if err := root.file.Chmod(0o700); err != nil {
			return d.fail(d.Path, err)
		}
	}
	if _, err := root.read(markFile, 0); !errors.Is(err, fs.ErrNotExist) {
		return d.checkMark(root)
	}
	temp, err := root.stage([]byte(markText))
	if err != nil {
		return d.fail(root.path, err)
	}
	defer temp.discard()
	fault.Point("store: mark written")
	if err := temp.link(markFile); err != nil && err != unix.EEXIST {
		return d.fail(root.path, err)
	}
	fault.Point("store: mark put up")
	if err := root.sync(); err != nil {
		return d.fail(root.path, err)
	}
	root.tidy(0, temp)
	return d.checkMark(root)
}

// makeRoot creates the folder, not those above it: /mnt/store/converge must not be made where /mnt/store should be mounted.
func (d *Dir) makeRoot() (made bool, err error) {
	err = eintr(func() error { return unix.Mkdir(d.Path, 0o700) })
	if err == unix.EEXIST {
		return false, nil
	}
	if err != nil {
		return false, d.fail(d.Path, err)
	}
	parent, err := os.Open(filepath.Dir(d.Path))
	if err != nil {
		return true, d.fail(filepath.Dir(d.Path), err)
	}
	defer parent.Close()
	return true, folder{parent, parent.Name()}.sync()
}

// find opens a key's folder. The error is errNothing when it has none.
func (d *Dir) find(key string) (folder, error) {
	f, err := d.open()
	if err != nil {
		return folder{}, err
	}
	for part := range strings.SplitSeq(key, "/") {
		sub, err := f.sub(part)
		f.close()
		if errors.Is(err, fs.ErrNotExist) {
			return folder{}, errNothing
		}
		if err != nil {
			return folder{}, d.fail(f.at(part), err)
		}
		f = sub
	}
	return f, nil
}

// errNothing is that a key has no folder.
var errNothing = errors.New("there is no such folder in the store")

func (d *Dir) version(key string) (Version, error) {
	f, err := d.find(key)
	if err == errNothing {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.close()
	v, err := f.highest()
	if err != nil {
		return 0, d.fail(f.path, err)
	}
	return v, nil
}

func (d *Dir) get(ctx context.Context, key string) (Entry, error) {
	f, err := d.find(key)
	if err == errNothing {
		return Entry{}, at(d, key, ErrNotFound)
	}
	if err != nil {
		return Entry{}, err
	}
	defer f.close()
	for ctx.Err() == nil {
		v, err := f.highest()
		if err != nil {
			return Entry{}, d.fail(f.path, err)
		}
		if v == 0 {
			return Entry{}, at(d, key, ErrNotFound)
		}
		value, err := f.read(versionName(v), MaxValue)
		switch {
		case err == nil:
			return Entry{value, v}, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESTALE):
			return Entry{}, d.fail(f.at(versionName(v)), err)
		}
		// It was removed since it was seen: there are newer ones.
	}
	return Entry{}, ctx.Err() // nobody waits for it any more
}

func (d *Dir) list(ctx context.Context, prefix string) ([]Key, error) {
	var keys []Key
	f, err := d.open()
	if whole := strings.TrimSuffix(prefix, "/"); err == nil && whole != "" {
		f.close()
		f, err = d.find(whole)
	}
	if err == errNothing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.close()
	names, err := f.file.Readdirnames(-1)
	if err == nil {
		err = f.walk(ctx, prefix, names, &keys)
	}
	if err != nil {
		return nil, d.fail(f.path, err)
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return keys, nil
}

// put writes the version after old, if old is the highest. The error is lost when it is not.
func (d *Dir) put(ctx context.Context, key string, old Version, value []byte, lost error) (Version, error) {
	if old == math.MaxInt64 {
		return 0, &unusable{d.String(), fmt.Sprintf("%s has the last version there can be, %d", key, old), "remove its file", nil}
	}
	way, err := d.way(key, old == 0)
	defer way.close()
	if err == errNothing {
		return 0, at(d, key, lost)
	}
	if err != nil {
		return 0, err
	}
	f := way[len(way)-1]
	if v, err := f.highest(); err != nil {
		return 0, d.fail(f.path, err)
	} else if v != old {
		return 0, at(d, key, lost)
	}
	fault.Point("store: old version seen")
	temp, err := f.stage(value)
	if err != nil {
		return 0, d.fail(f.path, err)
	}
	defer temp.discard()
	fault.Point("store: temporary file written")
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	v := old + 1
	if err := temp.link(versionName(v)); err == unix.EEXIST {
		return 0, at(d, key, lost)
	} else if err == unix.ENOENT {
		return 0, &unusable{d.String(), fmt.Sprintf("the temporary file for %s is gone: somebody has removed it, or writing took more than %v", key, tempAge), "", err}
	} else if err != nil {
		return 0, d.fail(f.path, err)
	}
	fault.Point("store: version linked")
	if err := d.overtaken(temp, key, v); err != nil {
		return 0, err
	}
	if err := way.sync(old == 0); err != nil {
		return 0, d.fail(f.path, err)
	}
	fault.Point("store: folder synced")
	f.tidy(v, temp)
	return v, nil
}

// overtaken is for a writer that was stopped, or whose server was away, so long that its version came, went out of
// use and was removed before it got to link: its name was free again. Its file is no entry, for a higher one is there; it
// is removed, and what comes of it is the error. As long as nobody can have removed that version, for it would be too
// young, none of this has happened: the name was free because nobody had written it yet.
func (d *Dir) overtaken(t *temp, key string, v Version) error {
	f := t.in
	high, err := f.highest()
	if err != nil {
		return d.fail(f.path, err)
	}
	if high-v < kept || high-v < most && f.written(versionName(high)).Sub(t.time) < keptFor-tempAge {
		return nil
	}
	f.remove(versionName(v))
	return &unusable{d.String(), fmt.Sprintf("%s got %d other versions while version %d was being written, so that it is not known whether it ever stood there", key, high-v, v), "read it again", nil}
}

// A way is the open folders from the store's down to a key's.
type way []folder

func (w way) close() {
	for _, f := range w {
		f.close()
	}
}

// sync makes the name of a new file last, and, with all, those of the folders on the way to it. They are synced even if
// somebody else made them: he may have been killed before he did.
func (w way) sync(all bool) error {
	last := w[len(w)-1]
	if err := last.sync(); err != nil {
		return err
	}
	for i := len(w) - 2; all && i >= 0; i-- {
		if err := w[i].sync(); err != nil {
			return err
		}
	}
	return nil
}

// way opens the folders on the way to a key, and makes those that are missing if it is told to; else the error is
// errNothing. What it returns is closed by the caller, also beside an error.
func (d *Dir) way(key string, create bool) (way, error) {
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	w := way{root}
	for part := range strings.SplitSeq(key, "/") {
		f := w[len(w)-1]
		sub, err := f.sub(part)
		if create && errors.Is(err, fs.ErrNotExist) {
			sub, err = f.mkdir(part)
		} else if errors.Is(err, fs.ErrNotExist) {
			return w, errNothing
		}
		if err != nil {
			return w, d.fail(f.at(part), err)
		}
		w = append(w, sub)
	}
	return w, nil
}

// fail says which file of the store could not be used, why, and what helps.
func (d *Dir) fail(file string, err error) error {
	var u *unusable
	if errors.As(err, &u) {
		return err
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
		if filepath.IsAbs(p.Path) {
			file = p.Path
		}
	}
	cause := err.Error()
	if file != d.Path {
		cause = file + ": " + cause
	}
	return &unusable{d.String(), cause, d.remedy(err), err}
}

func (d *Dir) remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is it mounted here?"
	case errors.Is(err, fs.ErrPermission):
		return "run converge as root, or let this account in; on NFS root may be taken for nobody (no_root_squash)"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free some space there"
	case errors.Is(err, unix.EROFS):
		return "mount it writable on this node: mount -o remount,rw"
	case errors.Is(err, unix.ESTALE), errors.Is(err, unix.EIO), errors.Is(err, unix.ENOTCONN):
		return "mount it again"
	case errors.Is(err, errKind), errors.Is(err, errTooLarge):
		return "remove it"
	}
	return ""
}
