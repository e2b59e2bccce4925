package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"converge/engine/disk"
)

// A State is the folder in which converge keeps what one run must know of earlier ones: the ledger, the journals, the
// backups and the history. Only root reads it.
type State struct {
	dir  string
	disk *disk.Disk
	euid int
}

// DefaultStateDir is where the state is, unless it is said otherwise.
const DefaultStateDir = "/var/lib/converge"

// OpenState names the state folder. It neither makes nor changes it: a plan may run where no apply ever has.
func OpenState(d *disk.Disk, dir string) (*State, error) {
	if err := checkPath(dir); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	s := &State{dir: dir, disk: d, euid: os.Geteuid()}
	return s, s.check()
}

// check refuses a folder that others could have written in.
func (s *State) check() error {
	info, err := s.disk.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case info.Kind != disk.Dir:
		return fmt.Errorf("the state folder %s is %s: move it away", s.dir, info.Kind)
	case info.UID != s.euid:
		return fmt.Errorf("the state folder %s belongs to UID %d, and converge runs as UID %d: it would not be safe to trust what is in it; chown it, or give another with --state", s.dir, info.UID, s.euid)
	case info.Mode.Perm()&0o022 != 0:
		return fmt.Errorf("the state folder %s can be written by others (mode %s): look at what is in it, then chmod 0700 %s", s.dir, modeText(info.Mode.Perm()), s.dir)
	}
	return nil
}

func (s *State) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// make creates the folder and those above it.
func (s *State) make() error { return s.makeDir(s.dir) }

func (s *State) makeDir(dir string) error {
	_, err := s.disk.Stat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	mode := fs.FileMode(0o755)
	if dir == s.dir || strings.HasPrefix(dir, s.dir+"/") {
		mode = 0o700
	}
	if err := s.disk.Mkdir(dir, mode, s.euid, os.Getegid()); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	return nil
}

func (s *State) read(name string) ([]byte, error) {
	b, _, err := s.disk.ReadFile(s.path(name), readLimit)
	return b, err
}

// write puts a file into the state folder, whole or not at all.
func (s *State) write(name string, content []byte) error {
	path := s.path(name)
	if err := s.makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	before := disk.Before{}
	old, info, err := s.disk.ReadFile(path, readLimit)
	switch {
	case err == nil:
		before = disk.Before{Exists: true, Content: old, Mode: info.Mode, UID: info.UID, GID: info.GID}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	temp := stateTemp + filepath.Base(path)
	if err := s.disk.RemoveTemps(filepath.Dir(path), temp); err != nil {
		return err
	}
	staged, err := s.disk.Stage(disk.File{Path: path, Content: content, Mode: 0o600, UID: s.euid, GID: os.Getegid(), Secret: true, Temp: temp})
	if err != nil {
		return err
	}
	return staged.Switch(before)
}

const stateTemp = ".converge-state-"

// A holder is who holds the lock, for the message to the second one.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// ErrLocked is in the error of a run that finds another one under way.
var ErrLocked = errors.New("another run is under way")

// Lock takes the run lock. It belongs to the process: when that ends, however it ends, the lock is free. The error when
// somebody else holds it wraps ErrLocked and says who.
func (s *State) Lock(now time.Time) (unlock func(), err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.make(); err != nil {
		return nil, err
	}
	path := filepath.Join(s.disk.Root(), s.path("lock"))
	lock := flock.New(path, flock.SetPermissions(0o600))
	got, err := lock.TryLock()
	if err == nil && !got {
		time.Sleep(lookTime) // it may be somebody who only looks whether it is held
		got, err = lock.TryLock()
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", s.path("lock"), err)
	}
	if !got {
		return nil, fmt.Errorf("%w: %s", ErrLocked, s.holder())
	}
	b, err := json.Marshal(holder{PID: os.Getpid(), Since: now.UTC().Truncate(time.Second)})
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err == nil {
		err = s.disk.RemoveTemps(s.dir, stateTemp) // of a run that was killed while it wrote here
	}
	if err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("write the holder of the lock: %w", err)
	}
	return func() { lock.Unlock() }, nil
}

// lookTime is more than busy holds the lock for.
const lookTime = 20 * time.Millisecond

// busy tells whether a run is under way. It writes nothing.
func (s *State) busy() bool {
	f, err := os.Open(filepath.Join(s.disk.Root(), s.path("lock")))
	if err != nil {
		return false // no run ever was
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func (s *State) holder() string {
	var h holder
	b, err := s.read("lock")
	if err != nil || json.Unmarshal(b, &h) != nil {
		return "somebody holds the lock " + s.path("lock")
	}
	return fmt.Sprintf("process %d holds the lock %s since %s", h.PID, s.path("lock"), h.Since.Format(time.RFC3339))
}

// ReadCache reads what WriteCache wrote under a name into v. What is not there, or cannot be read, leaves v as it is: a
// cache can be thrown away at any time.
func (s *State) ReadCache(name string, v any) {
	if b, err := s.read(cacheFile(name)); err == nil {
		json.Unmarshal(b, v)
	}
}

// WriteCache keeps v for later runs.
func (s *State) WriteCache(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(cacheFile(name), b)
}

func cacheFile(name string) string { return "cache-" + name + ".json" }
