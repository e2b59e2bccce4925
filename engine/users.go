package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"converge/engine/disk"
)

// A User is an account of the machine.
type User struct {
	Name     string
	UID, GID int
	Home     string
}

// ErrNoUser is in the error of a look-up for an account that the machine does not have.
var ErrNoUser = errors.New("no such user")

// Accounts answers for users and groups: from the machine's own /etc/passwd and /etc/group, then, for those that a
// directory service knows, from getent.
type Accounts struct {
	disk   *disk.Disk
	getent bool

	once       sync.Once
	err        error
	users      map[string]User
	userNames  map[int]string
	groups     map[string]int
	groupNames map[int]string
	mu         sync.Mutex
}

// NewAccounts asks the machine of d.
func NewAccounts(d *disk.Disk) *Accounts {
	return &Accounts{disk: d, getent: d.Root() == "/"}
}

const accountsLimit = 64 << 20

func (a *Accounts) load() error {
	a.once.Do(func() {
		a.users, a.userNames = map[string]User{}, map[int]string{}
		a.groups, a.groupNames = map[string]int{}, map[int]string{}
		a.err = errors.Join(a.each("/etc/passwd", 7, a.addUser), a.each("/etc/group", 4, a.addGroup))
	})
	return a.err
}

func (a *Accounts) each(path string, fields int, add func([]string)) error {
	b, _, err := a.disk.ReadFile(path, accountsLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		if f := strings.Split(strings.TrimRight(string(line), "\n"), ":"); len(f) >= fields {
			add(f)
		}
	}
	return nil
}

func (a *Accounts) addUser(f []string) {
	uid, errU := strconv.Atoi(f[2])
	gid, errG := strconv.Atoi(f[3])
	if errU != nil || errG != nil || uid < 0 || gid < 0 {
		return
	}
	if _, first := a.users[f[0]]; !first {
		a.users[f[0]] = User{Name: f[0], UID: uid, GID: gid, Home: f[5]}
	}
	if _, first := a.userNames[uid]; !first {
		a.userNames[uid] = f[0]
	}
}

func (a *Accounts) addGroup(f []string) {
	gid, err := strconv.Atoi(f[2])
	if err != nil || gid < 0 {
		return
	}
	if _, first := a.groups[f[0]]; !first {
		a.groups[f[0]] = gid
	}
	if _, first := a.groupNames[gid]; !first {
		a.groupNames[gid] = f[0]
	}
}

// User looks an account up by name. The error of an account that is not there wraps ErrNoUser.
func (a *Accounts) User(name string) (User, error) {
	if err := a.load(); err != nil {
		return User{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if u, ok := a.users[name]; ok {
		return u, nil
	}
	if a.getent && name != "" && !strings.HasPrefix(name, "-") {
		if f := getent("passwd", name, 7); f != nil {
			a.addUser(f)
			if u, ok := a.users[name]; ok {
				return u, nil
			}
		}
	}
	return User{}, fmt.Errorf("%w: %q has no account on this host", ErrNoUser, name)
}

func (a *Accounts) userName(uid int) string {
	return a.nameOf(uid, func() string { return a.userNames[uid] })
}

func (a *Accounts) groupName(gid int) string {
	return a.nameOf(gid, func() string { return a.groupNames[gid] })
}

// nameOf returns the name of a number, or the number itself in digits.
func (a *Accounts) nameOf(id int, known func() string) string {
	a.load() // an unreadable file leaves the numbers, which are as true
	a.mu.Lock()
	defer a.mu.Unlock()
	if name := known(); name != "" {
		return name
	}
	return strconv.Itoa(id)
}

// getent asks the machine's name services. nil when they do not know the name.
func getent(database, name string, fields int) []string {
	out, err := exec.Command("getent", database, name).Output()
	if err != nil {
		return nil
	}
	f := strings.Split(strings.TrimRight(string(out), "\n"), ":")
	if len(f) < fields {
		return nil
	}
	return f
}
