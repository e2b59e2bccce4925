// Package postgres knows what one PostgreSQL server is, what it says and how it is told to take up new files.
//
// Discover finds the server on a machine and gives a Server: where its files, its binaries and its socket are, and who
// owns it. From there the questions go three ways. What is on the disk is read by Conf, Preflight and TryStart; they take
// a Files, so that they judge staged content as well as written content. What runs is told by Process, from the process
// table, and by Connect, over the unix socket. What is served is told by Handshake alone: SHOW ssl and the exit status
// of a reload are both known to lie.
//
// Reload and Restart act. They never signal a process that is not this server's postmaster, and they tell when a server
// does not come back. Nothing in this package writes a server's files, and no error of it carries a password.
//
// All versions from 10 to 18 are known, and measured against real servers.
package postgres

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"sync"
	"syscall"
	"time"
)

// The versions that this package has been measured with.
const (
	OldestMajor = 10
	NewestMajor = 18
)

// An Override is the `postgresql` block of the environment file: what the operator says about the server. What is left
// out is discovered.
type Override struct {
	DataDirectory   string `hcl:"data_directory,optional"`
	BinDirectory    string `hcl:"bin_directory,optional"`
	ConfigFile      string `hcl:"config_file,optional"`
	HBAFile         string `hcl:"hba_file,optional"`
	IdentFile       string `hcl:"ident_file,optional"`
	SocketDirectory string `hcl:"socket_directory,optional"`
	Port            int    `hcl:"port,optional"`
	Version         int    `hcl:"version,optional"` // the major version, to pick one of several servers
	Cluster         string `hcl:"cluster,optional"` // Debian's name of one: "main" or "15/main"
	Unit            string `hcl:"unit,optional"`    // the systemd unit

	AdminUser string // environment.admin_user: the role that converge connects as; "" is "postgres"
}

// A Layout is how a server's files are arranged.
type Layout string

const (
	LayoutDB     Layout = "db"     // /db/postgresql/<version>/{data,ssl,custom_pg_hba.conf}
	LayoutDebian Layout = "debian" // /etc/postgresql/<version>/<cluster>, data elsewhere
	LayoutGiven  Layout = "given"  // anything else: told by the environment file or by the running server
)

// A Server is one PostgreSQL server of this machine: where its things are. All paths are absolute. It holds no state:
// whether it runs is asked each time.
type Server struct {
	Major           int    // 15
	Version         string // as PG_VERSION has it: "15"
	Layout          Layout
	DataDirectory   string
	ConfigFile      string
	HBAFile         string
	IdentFile       string
	BinDirectory    string // "" when no binaries of this version were found
	Port            int
	SocketDirectory string // "" when the server has no unix socket
	Owner           Owner  // of the data directory: the account that the server runs as
	AdminUser       string
	Cluster         string // Debian's name, "15/main"; else ""
	Unit            string // the systemd unit that runs it, or would on this layout; "" when there is no telling

	SSLDirectory    string // where TLS files go, outside the data directory
	CustomHBAFile   string // the operator's own rules
	KeygenDirectory string // /db/postgresql/keygen on that layout; else ""

	OldKeysDirectory string // /db/old_keys on that layout, where keys go that are in use no longer; else ""
}

// An Owner is the operating system's account of a server.
type Owner struct {
	Name     string // the number in digits when it has no name
	UID, GID int
}

func (s *Server) String() string {
	return fmt.Sprintf("PostgreSQL %s in %s", s.Version, s.DataDirectory)
}

// Files is how this package reads a machine's files: the disk, or the disk with what is staged on top. The error for
// nothing there wraps fs.ErrNotExist. Links are followed.
type Files interface {
	ReadFile(path string) ([]byte, error)
	Stat(path string) (FileInfo, error)
	ReadDir(path string) ([]string, error) // names, in the order of their bytes
}

// A FileInfo is what stands at a path.
type FileInfo struct {
	Dir      bool
	Mode     fs.FileMode // permission bits
	UID, GID int
}

// A Root is the Files of a folder that stands for a machine's root: Root("/") is the machine itself.
type Root string

// The largest file that Root reads: far above any real configuration, far below the memory of a machine.
const readLimit = 16 << 20

// ReadFile returns the content of a regular file of at most 16 MB. It never waits on a FIFO.
func (r Root) ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(string(r), path), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(f, readLimit+1))
	if err == nil && len(content) > readLimit {
		err = fmt.Errorf("%s is larger than %d MB", path, readLimit>>20)
	}
	return content, err
}

// Stat returns what stands at path.
func (r Root) Stat(path string) (FileInfo, error) {
	info, err := os.Stat(filepath.Join(string(r), path))
	if err != nil {
		return FileInfo{}, err
	}
	out := FileInfo{Dir: info.IsDir(), Mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.UID, out.GID = int(st.Uid), int(st.Gid)
	}
	return out, nil
}

// ReadDir returns the names in a directory.
func (r Root) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(r), path))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// How long one question to a server, and one child, may take.
const (
	ConnectTimeout = 5 * time.Second
	ReloadTimeout  = 30 * time.Second
	RestartTimeout = 120 * time.Second
)

var secrets = lazily(`(?i)(password\s*(?:=|\s)\s*)('(?:[^']|'')*'|"[^"]*"|[^\s,;)]+)` +
	`|(scram-sha-256\$)[^\s'"]+` +
	`|(\bmd5)[0-9a-f]{32}\b` +
	`|(postgres(?:ql)?://[^\s:@/]*:)[^\s@]+(?:@)`)

// redact takes passwords, verifiers and keys out of a text that goes into an error.
func redact(text string) string {
	return privateKeys().ReplaceAllString(secrets().ReplaceAllString(text, "${1}${3}${4}${5}***"), "*** private key ***")
}

var privateKeys = lazily(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`)

// lazily compiles a pattern when it is first wanted: most runs want none, and every run would wait for all.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}
