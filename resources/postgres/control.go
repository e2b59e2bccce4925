package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Provider is how a server is told to reload or to restart.
type Provider string

const (
	Auto         Provider = "auto" // see Server.Provider
	Signal       Provider = "signal"
	PgCtl        Provider = "pg_ctl"
	PgCtlCluster Provider = "pg_ctlcluster"
	Systemd      Provider = "systemd"
	Command      Provider = "command"
)

// A Control says how to act on a server.
type Control struct {
	Provider Provider      // "" is Auto
	Command  []string      // of the provider "command": program and arguments, no shell
	Timeout  time.Duration // 0: ReloadTimeout or RestartTimeout
}

// The action words of systemctl, pg_ctlcluster and pg_ctl.
const (
	reload  = "reload"
	restart = "restart"
)

// ReloadProvider tells which provider Auto means for a reload on this machine now: systemd where it runs the server,
// else a signal to the postmaster.
func (s *Server) ReloadProvider() (Provider, error) {
	p, err := s.running()
	if err != nil {
		return "", err
	}
	if s.underSystemd(p) {
		return Systemd, nil
	}
	return Signal, nil
}

// RestartProvider tells which provider Auto means for a restart on this machine now: systemd where it runs the server,
// pg_ctlcluster for a cluster of Debian's, else pg_ctl with the options of the last start.
func (s *Server) RestartProvider() (Provider, error) {
	p, err := s.running()
	switch {
	case err != nil:
		return "", err
	case s.underSystemd(p):
		return Systemd, nil
	case s.Cluster != "" && isExecutable("/usr/bin/pg_ctlcluster"):
		return PgCtlCluster, nil
	case s.BinDirectory == "" || !isExecutable(path.Join(s.BinDirectory, "pg_ctl")):
		return "", fmt.Errorf("restart %s: there is no pg_ctl in %q: say where it is in the environment file: postgresql { bin_directory = \"...\" }", s, s.BinDirectory)
	}
	return PgCtl, nil
}

func isExecutable(file string) bool { return unix.Access(file, unix.X_OK) == nil }

// underSystemd says whether the server runs in its unit. The process's own control group is the evidence: a unit may be
// active while the server was started by hand beside it.
func (s *Server) underSystemd(p Process) bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil || s.Unit == "" {
		return false
	}
	return p.Unit == s.Unit
}

// running is the server's process, or the error that says that there is none to act on.
func (s *Server) running() (Process, error) {
	p, err := s.Process()
	if err == nil && p.Phase == Stopped {
		err = fmt.Errorf("%w (%s)", ErrNotRunning, s)
		if p.Stale {
			err = fmt.Errorf("%w (%s): its postmaster.pid was left behind, and the number in it belongs to no process or to somebody else's", ErrNotRunning, s)
		}
	}
	return p, err
}

// Reload tells the running server to read its files again. It does not know whether the server took them, and nobody does
// before Handshake and the views say so. A server that is not running is ErrNotRunning; nothing is started.
func (s *Server) Reload(ctx context.Context, c Control) error {
	p, err := s.running()
	if err != nil {
		return err
	}
	if c.Provider == Auto || c.Provider == "" {
		if c.Provider, err = s.ReloadProvider(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(c.Timeout, ReloadTimeout))
	defer cancel()
	switch c.Provider {
	case Signal, PgCtl:
		// pg_ctl reload would send the same signal, with less certainty about to whom.
		return s.hangUp(p)
	case PgCtlCluster:
		return s.ctlCluster(ctx, reload)
	case Systemd:
		return s.systemctl(ctx, reload)
	case Command:
		return s.ownCommand(ctx, c.Command)
	}
	return fmt.Errorf("reload %s: there is no provider %q", s, c.Provider)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// hangUp sends SIGHUP to the postmaster that was verified: a process descriptor holds on to it, so that its number cannot
// pass to another process between the look and the signal.
func (s *Server) hangUp(p Process) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ENOSYS) {
		return signalError(s, unix.Kill(p.PID, unix.SIGHUP))
	}
	if err != nil {
		return signalError(s, err)
	}
	defer unix.Close(fd)
	again, err := s.running()
	if err != nil {
		return err
	}
	if again.PID != p.PID {
		return s.hangUp(again)
	}
	return signalError(s, unix.PidfdSendSignal(fd, unix.SIGHUP, nil, 0))
}

func signalError(s *Server, err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w (%s): it ended just now", ErrNotRunning, s)
	}
	if err != nil {
		return fmt.Errorf("send SIGHUP to %s: %w", s, err)
	}
	return nil
}

// Restart restarts the running server and waits until it takes connections again. It returns how long the server was
// being restarted. Whatever the provider said, only a new postmaster that is ready counts. A server that does not come
// back is an error with the end of its log. A server that is not running is ErrNotRunning; nothing is started.
func (s *Server) Restart(ctx context.Context, c Control) (time.Duration, error) {
	before, err := s.running()
	if err != nil {
		return 0, err
	}
	if c.Provider == Auto || c.Provider == "" {
		if c.Provider, err = s.RestartProvider(); err != nil {
			return 0, err
		}
	}
	timeout := orDefault(c.Timeout, RestartTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	log := s.followLog(before)
	begin := time.Now()
	err = s.restart(ctx, c, before, timeout)
	if err == nil {
		err = s.awaitNew(ctx, before)
	}
	if err != nil {
		return time.Since(begin), fmt.Errorf("restart %s: %w%s", s, err, log.tail())
	}
	return time.Since(begin), nil
}

func (s *Server) restart(ctx context.Context, c Control, before Process, timeout time.Duration) error {
	switch c.Provider {
	case PgCtl:
		return s.pgCtlRestart(ctx, before, timeout)
	case PgCtlCluster:
		return s.ctlCluster(ctx, restart, "-m", "fast")
	case Systemd:
		return s.systemctl(ctx, restart)
	case Command:
		return s.ownCommand(ctx, c.Command)
	case Signal:
		return errors.New("a signal cannot restart a server: choose the provider systemd, pg_ctlcluster, pg_ctl or command")
	}
	return fmt.Errorf("there is no provider %q", c.Provider)
}

// awaitNew waits for a postmaster that is another than before and ready. When none is there and none is on the way, it
// does not wait for the timeout.
func (s *Server) awaitNew(ctx context.Context, before Process) error {
	down := 0
	for {
		p, err := s.Process()
		switch {
		case err != nil:
			return err
		case p.Phase == Running && (p.PID != before.PID || !p.Started.Equal(before.Started)):
			return nil
		case p.Phase == Stopped:
			down++
		default:
			down = 0
		}
		if down > 40 {
			return errors.New("the server stopped and did not start")
		}
		select {
		case <-ctx.Done():
			if p.PID == before.PID {
				return errors.New("the same postmaster still runs: it was not restarted")
			}
			return fmt.Errorf("the server is not ready (%s) when the time is up", p.Phase)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) ctlCluster(ctx context.Context, action string, more ...string) error {
	version, name, ok := strings.Cut(s.Cluster, "/")
	if !ok {
		return fmt.Errorf("pg_ctlcluster does not know %s: it is no cluster of Debian's", s)
	}
	return s.child(ctx, exec.CommandContext(ctx, "pg_ctlcluster", append([]string{version, name, action}, more...)...))
}

func (s *Server) systemctl(ctx context.Context, action string) error {
	if s.Unit == "" {
		return fmt.Errorf("the systemd unit of %s is not known: say it in the environment file: postgresql { unit = \"...\" }", s)
	}
	return s.child(ctx, exec.CommandContext(ctx, "systemctl", action, s.Unit))
}

func (s *Server) ownCommand(ctx context.Context, argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return errors.New("the provider \"command\" needs a command")
	}
	return s.child(ctx, exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// pgCtlRestart restarts with pg_ctl as the owner: with the options of postmaster.opts, the environment, the groups and the
// log file that the postmaster had.
func (s *Server) pgCtlRestart(ctx context.Context, before Process, timeout time.Duration) error {
	program := path.Join(s.BinDirectory, "pg_ctl")
	if s.BinDirectory == "" || !isExecutable(program) {
		return fmt.Errorf("there is no pg_ctl in %q: say where it is in the environment file: postgresql { bin_directory = \"...\" }", s.BinDirectory)
	}
	if s.Owner.UID == 0 {
		return fmt.Errorf("%s belongs to root: PostgreSQL does not run as root", s.DataDirectory)
	}
	cmd := exec.CommandContext(ctx, program, "restart", "-D", s.DataDirectory, "-w", "-t", strconv.Itoa(int(timeout.Seconds())), "-m", "fast",
		"-l", first(openFile(before.PID, 2), os.DevNull))
	cmd.Env = environmentOf(before.PID)
	cmd.SysProcAttr = s.asOwner(before.PID)
	return s.child(ctx, cmd)
}

// asOwner are the attributes of a child that runs as the server's owner, in a session of its own: Ctrl-C is for us and
// not for the server.
func (s *Server) asOwner(postmaster int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(s.Owner.UID), Gid: uint32(s.Owner.GID), Groups: groupsOf(postmaster, s.Owner)}
	}
	return attr
}

// groupsOf returns the supplementary groups of a running process: a key that the group ssl-cert may read stays readable.
// Without a process they are those of /etc/group.
func groupsOf(pid int, o Owner) []uint32 {
	if status, err := os.ReadFile(procPath(pid, "status")); pid > 0 && err == nil {
		for line := range strings.Lines(string(status)) {
			if list, ok := strings.CutPrefix(line, "Groups:"); ok {
				return numbers(strings.Fields(list))
			}
		}
	}
	out := []uint32{uint32(o.GID)}
	content, err := os.ReadFile("/etc/group")
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(content)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) == 4 && slices.Contains(strings.Split(f[3], ","), o.Name) {
			out = append(out, numbers(f[2:3])...)
		}
	}
	return out
}

func numbers(words []string) []uint32 {
	var out []uint32
	for _, w := range words {
		if n, err := strconv.ParseUint(w, 10, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	return out
}

// environmentOf returns the environment that a postmaster was started with: archive_command and friends depend on it.
// It goes to a child with the same user id and so gives it nothing new.
func environmentOf(pid int) []string {
	content, err := os.ReadFile(procPath(pid, "environ"))
	if err != nil || len(content) == 0 {
		return cleanEnvironment()
	}
	var out []string
	for entry := range strings.SplitSeq(string(content), "\x00") {
		name, _, ok := strings.Cut(entry, "=")
		if ok && name != "" && name != "PG_GRANDPARENT_PID" && name != "NOTIFY_SOCKET" && !strings.HasPrefix(name, "SYSTEMD_") {
			out = append(out, entry)
		}
	}
	return out
}

// cleanEnvironment is what a child gets: none of ours.
func cleanEnvironment() []string {
	return []string{"PATH=" + first(os.Getenv("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL=C.UTF-8", "HOME=/", "TERM=dumb"}
}

// openFile returns the path of the regular file that a process has open under a number, or "".
func openFile(pid, fd int) string {
	link := procPath(pid, "fd/"+strconv.Itoa(fd))
	name, err := os.Readlink(link)
	if err != nil || !path.IsAbs(name) || strings.HasSuffix(name, deleted) {
		return ""
	}
	if info, err := os.Stat(link); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return name
}

// How much of a child's output goes into an error.
const outputLimit = 4 << 10

// child runs a command without input and with a clean environment, and puts the end of its output into the error.
func (s *Server) child(ctx context.Context, cmd *exec.Cmd) error {
	if cmd.Env == nil {
		cmd.Env = cleanEnvironment()
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	cmd.Dir = "/"
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	output, err := runCollecting(cmd)
	if err == nil {
		return nil
	}
	name := filepath.Base(cmd.Path)
	if ctx.Err() != nil {
		err = fmt.Errorf("%s did not end in time: %w", name, ctx.Err())
	} else {
		err = fmt.Errorf("%s: %w", strings.Join(append([]string{name}, cmd.Args[1:]...), " "), err)
	}
	if output != "" {
		return fmt.Errorf("%w: %s", err, output)
	}
	return err
}

// How long a child's output is read after the child has ended: a server that it started may hold on to the pipe.
const outputDelay = 100 * time.Millisecond

// runCollecting runs cmd and returns the end of what it wrote, without secrets.
func runCollecting(cmd *exec.Cmd) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	collected := make(chan string)
	go func() { collected <- lastOf(r, outputLimit) }()
	err = cmd.Wait()
	r.SetReadDeadline(time.Now().Add(outputDelay))
	return tidy(<-collected), err
}

// lastOf reads to the end and returns the last limit bytes, in whole lines.
func lastOf(r io.Reader, limit int) string {
	var kept []byte
	cut := false
	buffer := make([]byte, 4096)
	for {
		n, err := r.Read(buffer)
		kept = append(kept, buffer[:n]...)
		if len(kept) > 2*limit {
			kept, cut = append(kept[:0], kept[len(kept)-limit:]...), true
		}
		if err != nil {
			break
		}
	}
	if len(kept) > limit {
		kept, cut = kept[len(kept)-limit:], true
	}
	if cut {
		_, kept, _ = bytes.Cut(kept, []byte("\n"))
	}
	return string(kept)
}

// tidy makes a program's output fit for an error.
func tidy(output string) string {
	return strings.TrimSpace(redact(strings.ToValidUTF8(output, "?")))
}

// A logTail is the place in a server's log from which on a restart is told.
type logTail struct {
	file string
	from int64
}

// followLog finds the server's log: the collector's file, else the file that the postmaster writes to.
func (s *Server) followLog(p Process) logTail {
	t := logTail{file: first(s.collectorLog(), openFile(p.PID, 2))}
	if info, err := os.Stat(t.file); t.file != "" && err == nil {
		t.from = info.Size()
	}
	return t
}

func (s *Server) collectorLog() string {
	content, err := os.ReadFile(path.Join(s.DataDirectory, "current_logfiles"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if kind, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok && kind == "stderr" {
			return s.absolute(file)
		}
	}
	return ""
}

// How many lines of the log an error shows.
const logLines = 12

// tail returns what the server logged since, for an error: the last lines, without secrets.
func (t logTail) tail() string {
	if t.file == "" {
		return ""
	}
	f, err := os.OpenFile(t.file, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() <= t.from {
		return ""
	}
	lines := strings.Split(tidy(lastOf(io.NewSectionReader(f, t.from, info.Size()-t.from), 4*outputLimit)), "\n")
	for i, line := range lines[:len(lines)-1] {
		if strings.Contains(line, "database system is shut down") {
			lines = lines[i+1:] // how it stopped is of no interest when it said something afterwards
			break
		}
	}
	lines = lines[max(0, len(lines)-logLines):]
	return fmt.Sprintf("\nthe end of its log (%s):\n    %s", t.file, strings.Join(lines, "\n    "))
}
