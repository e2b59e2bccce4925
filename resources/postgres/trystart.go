package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrWouldNotStart is in the error of files that the server's own program refuses.
var ErrWouldNotStart = errors.New("the server would not start with these files")

// ErrCannotTry is in the error of a server whose own program cannot be asked: it is not there, or says what is not
// understood. It says nothing about the files.
var ErrCannotTry = errors.New("cannot try the files with the server's own program")

// TryStart asks the server's own program whether it would start with the files as they stand, or as they are staged: its
// settings, its TLS files, pg_hba.conf and pg_ident.conf, with all that they include. The program runs as the server's
// owner in a scratch directory that looks like a data directory without data; it reads the files, and then gives up
// because there is no checkpoint. It listens on no address, touches no data, and takes some 100 ms. Keys and settings
// reach it through memory and are never on a disk. nil: it would start. ErrWouldNotStart: with the program's words.
//
// Not seen: files that pg_hba.conf names by an absolute path, while they are only staged; and whether the memory and
// the ports of the settings can be had.
func (s *Server) TryStart(ctx context.Context, files Files) error {
	return s.try(ctx, files, (*trial).checkSettings, (*trial).start)
}

// TrySettings is the half of TryStart that is about the names and values of all settings.
func (s *Server) TrySettings(ctx context.Context, files Files) error {
	return s.try(ctx, files, (*trial).checkSettings)
}

// TryFiles is the other half: the TLS files, pg_hba.conf and pg_ident.conf.
func (s *Server) TryFiles(ctx context.Context, files Files) error {
	return s.try(ctx, files, (*trial).start)
}

func (s *Server) try(ctx context.Context, files Files, questions ...func(*trial, context.Context) error) error {
	if s.BinDirectory == "" || !isExecutable(path.Join(s.BinDirectory, "postgres")) {
		return fmt.Errorf("%w: there is no postgres in %q", ErrCannotTry, s.BinDirectory)
	}
	if s.Owner.UID == 0 {
		return fmt.Errorf("%w: %s belongs to root, and PostgreSQL does not run as root", ErrCannotTry, s.DataDirectory)
	}
	conf, err := s.Conf(files)
	if err != nil {
		return err
	}
	if err := conf.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrWouldNotStart, err)
	}
	return apart(func() error {
		t := trial{server: s, files: files, conf: conf, place: hiddenPlace(s)}
		return t.run(ctx, questions)
	})
}

func (t *trial) run(ctx context.Context, questions []func(*trial, context.Context) error) error {
	defer t.end()
	if err := t.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	for _, ask := range questions {
		if err := ask(t, ctx); err != nil {
			return err
		}
	}
	return nil
}

const trialTimeout = 20 * time.Second

// Beginning of the names of scratch directories. Their paths are short: that of a unix socket may have 107 bytes only.
const scratchName = "converge-try-"

// A trial is one scratch directory and what is open in memory.
type trial struct {
	server  *Server
	files   Files
	conf    *Conf
	place   string // the folder for the scratch directory
	scratch string
	tree    string     // copies of files below their own absolute paths
	memory  []*os.File // the child has them as 3, 4, ...
	pid     int
}

// The settings that decide whether TLS and authentication load. All others are checked by name and value only.
var trialSettings = lazily(`^(ssl.*|krb_.*|gss_.*|db_user_namespace|oauth_.*|password_encryption|shared_preload_libraries|dynamic_library_path|.*\..*)$`)

// Settings that name a file for TLS, with what they are when nothing sets them.
var tlsFiles = []struct{ name, otherwise string }{
	{"ssl_cert_file", "server.crt"}, {"ssl_key_file", "server.key"}, {"ssl_ca_file", ""}, {"ssl_crl_file", ""}, {"ssl_dh_params_file", ""},
}

func (t *trial) prepare() (err error) {
	removeOldTrials(t.server.Owner)
	if p, err := t.server.Process(); err == nil {
		t.pid = p.PID
	}
	if t.scratch, err = os.MkdirTemp(t.place, scratchName); err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	t.tree = path.Join(t.scratch, "tree")
	for _, step := range []func() error{t.skeleton, t.authentication, t.settings} {
		if err := step(); err != nil {
			return err
		}
	}
	return t.give(t.scratch)
}

func (t *trial) end() {
	if t.scratch != "" {
		os.RemoveAll(t.scratch)
	}
	for _, f := range t.memory {
		f.Close()
	}
}

// removeOldTrials removes what a killed run left. There is no secret in it.
func removeOldTrials(o Owner) {
	names, _ := filepath.Glob(path.Join("/tmp", scratchName+"*"))
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == o.UID {
			os.RemoveAll(name)
		}
	}
}

// The folders that one version or another wants in a data directory.
var dataFolders = []string{
	"base/1", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical/mappings", "pg_logical/snapshots", "pg_multixact/members", "pg_multixact/offsets",
	"pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase",
	"pg_wal/archive_status", "pg_wal/summaries", "pg_xact",
}

// A backup label whose checkpoint is nowhere: the start ends with FATAL and an exit code. Without the label it would end
// with PANIC and a core dump.
const backupLabel = `START WAL LOCATION: 0/1000028 (file 000000010000000000000001)
CHECKPOINT LOCATION: 0/1000060
BACKUP METHOD: streamed
BACKUP FROM: master
START TIME: 2020-01-01 00:00:00 UTC
LABEL: converge
`

// What every version says when it has taken all files and finds no data.
const reachedData = "could not locate required checkpoint record"

// skeleton makes a data directory without data.
func (t *trial) skeleton() error {
	data := path.Join(t.scratch, "data")
	for _, dir := range dataFolders {
		if err := os.MkdirAll(path.Join(data, dir), 0o700); err != nil {
			return fmt.Errorf("%w: %w", ErrCannotTry, err)
		}
	}
	control, err := machine.ReadFile(path.Join(t.server.DataDirectory, "global", "pg_control"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	for name, content := range map[string][]byte{
		"PG_VERSION": []byte(t.server.Version + "\n"), "global/pg_control": control, "backup_label": []byte(backupLabel),
	} {
		if err := os.WriteFile(path.Join(data, name), content, 0o600); err != nil {
			return fmt.Errorf("%w: %w", ErrCannotTry, err)
		}
	}
	return nil
}

// How many files pg_hba.conf and pg_ident.conf may bring along.
const maxReferred = 1000

// authentication copies pg_hba.conf and pg_ident.conf with what they refer to. A missing pg_ident.conf is the server's
// to judge: it starts without.
func (t *trial) authentication() error {
	hba := t.confFile("hba_file", t.server.HBAFile)
	if _, err := t.files.ReadFile(hba); err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrWouldNotStart, hba, cause(err))
	}
	seen := map[string]bool{}
	if err := t.copyReferred(hba, seen); err != nil {
		return err
	}
	return t.copyReferred(t.confFile("ident_file", t.server.IdentFile), seen)
}

func (t *trial) confFile(setting, otherwise string) string {
	return t.server.Path(t.conf.Value(setting, otherwise))
}

// References in pg_hba.conf: @file, and from 16 on include lines. Taking too many for one does no harm.
var (
	atReference      = lazily(`@"?([^\s,"#]+)`)
	includeReference = lazily(`(?m)^[ \t]*"?include(?:_if_exists|_dir)?"?[ \t]+"?([^\s"#]+)`)
)

// copyReferred copies a file to the tree, and the relative ones that it refers to.
func (t *trial) copyReferred(file string, seen map[string]bool) error {
	if seen[file] || len(seen) >= maxReferred || within(file, t.scratch) {
		return nil
	}
	seen[file] = true
	if info, err := t.files.Stat(file); err == nil && info.Dir {
		return t.copyFolder(file, func(f string) error { return t.copyReferred(f, seen) })
	}
	content, err := t.files.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrCannotTry, file, err)
	}
	if err := t.copy(file, content); err != nil {
		return err
	}
	for _, pattern := range []*regexp.Regexp{atReference(), includeReference()} {
		for _, m := range pattern.FindAllSubmatch(content, -1) {
			if name := string(m[1]); !path.IsAbs(name) {
				if err := t.copyReferred(besides(file, name), seen); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *trial) copyFolder(dir string, each func(file string) error) error {
	names, err := t.files.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrCannotTry, dir, err)
	}
	if err := os.MkdirAll(t.treePath(dir), 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	for _, name := range names {
		if info, err := t.files.Stat(path.Join(dir, name)); err == nil && !info.Dir {
			if err := each(path.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *trial) treePath(file string) string { return path.Join(t.tree, file) }

// copy puts a file into the tree. Only the server's owner may read it there.
func (t *trial) copy(file string, content []byte) error {
	to := t.treePath(file)
	if err := os.MkdirAll(path.Dir(to), 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	return nil
}

// inMemory gives the child a file that is nowhere on a disk, with the owner and the mode of info. It returns the path
// under which the child finds it.
func (t *trial) inMemory(name string, content []byte, info FileInfo) (string, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	f := os.NewFile(uintptr(fd), name)
	t.memory = append(t.memory, f)
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(info.Mode)
	}
	if err == nil && os.Geteuid() == 0 {
		err = f.Chown(info.UID, info.GID)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(t.memory)), nil
}

// settings makes the two configurations: all settings for a check of names and values, and those that matter for a start.
func (t *trial) settings() error {
	var all strings.Builder
	start := strings.Builder{}
	for _, s := range t.conf.Settings {
		line := quoteSetting(s.Name, s.Value)
		all.WriteString(line)
		if trialSettings().MatchString(foldName(s.Name)) {
			start.WriteString(line)
		}
	}
	if err := t.tlsSettings(&start); err != nil {
		return err
	}
	for _, s := range [][2]string{
		{"listen_addresses", ""}, {"unix_socket_directories", t.scratch}, {"port", "1"}, {"shared_buffers", "128kB"}, {"max_connections", "10"},
		{"superuser_reserved_connections", "0"}, {"max_wal_senders", "0"}, {"wal_level", "minimal"}, {"dynamic_shared_memory_type", "mmap"},
		{"lc_messages", "C"}, {"log_min_messages", "log"}, {"log_destination", "stderr"},
		{"hba_file", t.treePath(t.confFile("hba_file", t.server.HBAFile))}, {"ident_file", t.treePath(t.confFile("ident_file", t.server.IdentFile))},
	} {
		start.WriteString(quoteSetting(s[0], s[1]))
	}
	for _, text := range []string{all.String(), start.String()} {
		if _, err := t.inMemory("postgresql.conf", []byte(text), FileInfo{Mode: 0o600, UID: t.server.Owner.UID, GID: t.server.Owner.GID}); err != nil {
			return err
		}
	}
	return nil
}

// quoteSetting writes one line of a configuration.
func quoteSetting(name, value string) string {
	return name + " = '" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(value) + "'\n"
}

// tlsSettings brings the TLS files along: the key in memory, with its own owner and mode, the others as copies.
func (t *trial) tlsSettings(start *strings.Builder) error {
	if on, ok := parseBool(t.conf.Value("ssl", "off")); !ok || !on {
		return nil
	}
	for _, set := range tlsFiles {
		file := t.server.Path(t.conf.Value(set.name, set.otherwise))
		if file == "" {
			continue
		}
		place, err := t.tlsFile(set.name, file)
		if err != nil {
			return err
		}
		start.WriteString(quoteSetting(set.name, place))
	}
	dir := t.server.Path(t.conf.Value("ssl_crl_dir", ""))
	if dir == "" {
		return nil
	}
	start.WriteString(quoteSetting("ssl_crl_dir", t.treePath(dir)))
	err := t.copyFolder(dir, func(file string) error {
		content, err := t.files.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%w: read %s: %w", ErrCannotTry, file, err)
		}
		return t.copy(file, content)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (t *trial) tlsFile(setting, file string) (place string, err error) {
	content, err := t.files.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t.treePath(file), nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrWouldNotStart, file, cause(err))
	}
	info, err := t.files.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrWouldNotStart, file, cause(err))
	}
	return t.inMemory(setting, content, info)
}

// give makes the scratch directory the owner's.
func (t *trial) give(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, t.server.Owner.UID, t.server.Owner.GID)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, err)
	}
	return nil
}

// program runs the server's program with one of the configurations in memory, without core dumps.
func (t *trial) program(ctx context.Context, config int, args ...string) (output string, err error) {
	script := `ulimit -c 0; exec "$0" "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, path.Join(t.server.BinDirectory, "postgres"),
		"-D", path.Join(t.scratch, "data"), "-c", "log_line_prefix=", "-c", fmt.Sprintf("config_file=/proc/self/fd/%d", 3+config)}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(environmentOf(t.pid), "LC_ALL=C")
	cmd.SysProcAttr = t.server.asOwner(t.pid)
	cmd.ExtraFiles = t.memory
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return runCollecting(cmd)
}

// The places of the two configurations among the files in memory, from their end.
const (
	allSettings   = 2
	startSettings = 1
)

// checkSettings lets the program read all settings and print one.
func (t *trial) checkSettings(ctx context.Context) error {
	output, err := t.program(ctx, len(t.memory)-allSettings, "-C", "ssl")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrCannotTry, ctx.Err())
	}
	return fmt.Errorf("%w: %s", ErrWouldNotStart, t.inOriginal(output, len(t.memory)-allSettings))
}

// start lets the program start, and knows by its last words how far it came.
func (t *trial) start(ctx context.Context) error {
	output, _ := t.program(ctx, len(t.memory)-startSettings)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: it did not end: %w", ErrCannotTry, ctx.Err())
	}
	before, _, reached := strings.Cut(output, reachedData)
	if !reached {
		if !strings.Contains(output, "FATAL:") {
			return fmt.Errorf("%w: it says: %s", ErrCannotTry, first(t.complaints(output), "nothing"))
		}
		return fmt.Errorf("%w: %s", ErrWouldNotStart, t.complaints(output))
	}
	// The server starts without a readable pg_ident.conf, and then lets nobody in by a map.
	ident := t.confFile("ident_file", t.server.IdentFile)
	if strings.Contains(before, t.treePath(ident)) {
		return fmt.Errorf("%w: %s", ErrWouldNotStart, t.complaints(before))
	}
	return nil
}

var badValue = lazily(`(?m)\bparameter "([^"]+)"(?:: .*)?$`)

var fullConfigLine = lazily(`(?:in|of)? ?(?:configuration )?file "/proc/self/fd/\d+",? line (\d+)`)

// inOriginal says of which line of which file the program complains: the configuration in memory has one setting a line.
// Of a bad value it names the setting only; the place is known here.
func (t *trial) inOriginal(output string, config int) string {
	output = badValue().ReplaceAllStringFunc(output, func(text string) string {
		s, ok := t.conf.Get(badValue().FindStringSubmatch(text)[1])
		if !ok {
			return text
		}
		return fmt.Sprintf("%s (%s line %d)", text, s.File, s.Line)
	})
	return t.complaints(fullConfigLine().ReplaceAllStringFunc(output, func(place string) string {
		m := fullConfigLine().FindStringSubmatch(place)
		n, err := strconv.Atoi(m[1])
		if err != nil || n < 1 || n > len(t.conf.Settings) {
			return place
		}
		s := t.conf.Settings[n-1]
		return fmt.Sprintf("in %s line %d", s.File, s.Line)
	}))
}

// Lines of a start that say nothing about the files.
var smallTalk = []string{
	"starting PostgreSQL", "listening on", "skipping missing configuration file", "database system", "redirecting log", "ending log",
	"invalid checkpoint record", "starting backup recovery", "cannot match because", "contains errors",
}

// complaints makes one line of what the program says about the files, with the files' own names.
func (t *trial) complaints(output string) string {
	var out []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || containsAny(line, smallTalk) {
			continue
		}
		for _, level := range []string{"LOG:", "FATAL:", "WARNING:", "ERROR:", "CONTEXT:", "DETAIL:", "HINT:"} {
			line = strings.TrimSpace(strings.TrimPrefix(line, level))
		}
		if line != "" {
			out = append(out, line)
		}
	}
	text := strings.ReplaceAll(strings.Join(out, "; "), t.tree, "")
	for i, f := range t.memory {
		text = strings.ReplaceAll(text, fmt.Sprintf("/proc/self/fd/%d", 3+i), t.originalOf(f.Name()))
	}
	return text
}

// originalOf is the path that stands behind a file in memory.
func (t *trial) originalOf(name string) string {
	for _, set := range tlsFiles {
		if set.name == name {
			return t.server.Path(t.conf.Value(set.name, set.otherwise))
		}
	}
	return t.server.ConfigFile
}

func containsAny(text string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}
