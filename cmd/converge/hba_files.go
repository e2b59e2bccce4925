package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// hbaLimit is how many bytes a pg_hba.conf and all the files that it names may have together: half a million rules.
const hbaLimit = 64 << 20

// hbaFiles reads a pg_hba.conf and the files that it names. Only regular files are read: a device could do anything, and a
// FIFO would make us wait.
type hbaFiles struct {
	room int64 // how many bytes may still be read
}

// read gives the bytes of a file. The error for a folder is EISDIR.
func (h *hbaFiles) read(name string) ([]byte, error) {
	f, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > h.room {
		return nil, errTooLarge
	}
	b, err := io.ReadAll(io.LimitReader(f, h.room+1)) // the files of /proc have no size
	if err == nil && int64(len(b)) > h.room {
		err = errTooLarge
	}
	h.room = max(h.room-int64(len(b)), 0)
	return b, err
}

var errTooLarge = fmt.Errorf("it is too large: at most %d MB are read of a pg_hba.conf and the files it names", hbaLimit>>20)

// list gives the names in a folder, without the folders in it.
func (h *hbaFiles) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		info, err := os.Stat(path.Join(dir, e.Name()))
		if err == nil && info.IsDir() {
			continue
		}
		names = append(names, e.Name()) // one that cannot be looked at is an error when it is read
	}
	return names, nil
}

// openRegular opens a file, if it is a regular one. It looks before it opens: to open a device can already do something.
func openRegular(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = regular(info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func regular(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	}
	return nil
}

// cause is an error of a file without the operation and the path, for a sentence that has both.
func cause(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
