package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Source is one file as it was read: the name that messages call it by, and its bytes.
type Source struct {
	Name  string
	Bytes []byte

	environment bool // one environment is one file, and may be larger
}

// ReadFolder reads the *.hcl files of a folder in the order of their names, without those in folders below it. What
// stands in a recipe is done as root, so a folder or file that someone else could have written is refused: a symbolic
// link, one that its group or the world may write to, one owned by neither root nor the user of this process, one that
// is no regular file, or one that changed while it was read. So is a file over MaxFileBytes. Errors name the path, the
// cause and the remedy; all files at fault are named.
func ReadFolder(dir string) ([]Source, error) {
	if err := checkFolder(dir); err != nil {
		return nil, fmt.Errorf("read recipes: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read recipes: %w", err)
	}
	var sources []Source
	var faults []error
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".hcl") {
			continue
		}
		source, err := ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		sources = append(sources, source)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	slices.SortFunc(sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	return sources, nil
}

// ReadFile reads one recipe under the same rules as ReadFolder.
func ReadFile(path string) (Source, error) {
	content, err := readTrusted(path, MaxFileBytes)
	if err != nil {
		return Source{}, fmt.Errorf("read recipe: %w", err)
	}
	return Source{Name: path, Bytes: content}, nil
}

// ReadEnvironmentFile reads an environment file under the same rules, but for its size: up to MaxEnvironmentBytes.
func ReadEnvironmentFile(path string) (Source, error) {
	content, err := readTrusted(path, MaxEnvironmentBytes)
	if err != nil {
		return Source{}, fmt.Errorf("read environment: %w", err)
	}
	return Source{Name: path, Bytes: content, environment: true}, nil
}

func checkFolder(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link: give the folder that it points to", dir)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no folder: give the folder that holds the *.hcl files", dir)
	}
	return checkTrust(dir, info)
}

// readTrusted opens without following a link and without waiting (a FIFO would hang), and judges the descriptor it
// reads from, not the name.
func readTrusted(path string, most int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: put the file itself there", path)
	}
	if errors.Is(err, syscall.ENXIO) {
		return nil, notRegular(path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	before, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, notRegular(path)
	}
	if err := checkTrust(path, before); err != nil {
		return nil, err
	}
	if before.Size() > most {
		return nil, tooLarge(path, before.Size(), most)
	}
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	after, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if changed(before, after, len(content)) {
		return nil, fmt.Errorf("%s changed while it was read: run again when nobody writes to it", path)
	}
	return bytes.Clone(content), nil
}

func notRegular(path string) error {
	return fmt.Errorf("%s is no regular file: move it away, or rename it so that it does not end in .hcl", path)
}

func tooLarge(path string, size, most int64) error {
	if most == MaxEnvironmentBytes {
		return fmt.Errorf("%s has %d bytes; an environment file may have %d", path, size, most)
	}
	return fmt.Errorf("%s has %d bytes; a recipe file may have %d: split it into several files", path, size, most)
}

// changed compares two looks at one open file. The change time cannot be set back by whoever wrote to it.
func changed(before, after fs.FileInfo, read int) bool {
	return before.Size() != after.Size() || int64(read) != after.Size() ||
		!before.ModTime().Equal(after.ModTime()) || !changeTime(before).Equal(changeTime(after))
}

func changeTime(info fs.FileInfo) time.Time {
	stat := info.Sys().(*syscall.Stat_t)
	return time.Unix(stat.Ctim.Unix())
}

func checkTrust(path string, info fs.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	if self := os.Geteuid(); owner != 0 && int(owner) != self {
		return fmt.Errorf("%s is owned by uid %d, who could change what is done as root: chown root %s", path, owner, path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o, so others than its owner can write to it: chmod go-w %s", path, mode, path)
	}
	return nil
}
