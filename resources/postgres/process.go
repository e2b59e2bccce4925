package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Phase is what a postmaster is doing.
type Phase string

const (
	Stopped  Phase = "stopped"
	Starting Phase = "starting"
	Running  Phase = "running"
	Stopping Phase = "stopping"
)

// machine is where processes are: what a postmaster writes about itself is never staged.
const machine = Root("/")

// A Process is a server's postmaster as the process table and postmaster.pid tell of it. Its zero value does not occur:
// a server that does not run has the phase Stopped.
type Process struct {
	Phase           Phase
	PID             int
	Started         time.Time // as postmaster.pid has it
	Port            int
	SocketDirectory string // "" when it has no unix socket
	ListenAddress   string // the first, or "*"; "" when it does not listen on TCP
	BinDirectory    string // of the program that runs; "" when it has been replaced on the disk
	Unit            string // the systemd unit that it runs in; "" when it runs in none
	Stale           bool   // a postmaster.pid stands there and means no postmaster of this server
	Standby         bool   // it follows another server, or will when it starts
}

// Process looks whether this server runs on this machine now, without connecting. The postmaster is the process that postmaster.pid names,
// if its program is postgres, if it works in this data directory, and if it began when the file says or holds the
// server's socket. Anything else under that number is a stranger: the file is stale. The error is for what cannot
// be found out; a server that does not run is no error.
func (s *Server) Process() (Process, error) {
	p := Process{Phase: Stopped, Standby: s.standby()}
	content, err := machine.ReadFile(path.Join(s.DataDirectory, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read postmaster.pid: %w", err)
	}
	file, ok := parsePIDFile(content)
	if !ok {
		return p, nil // about to start: the file is there and not filled in yet
	}
	is, err := s.isPostmaster(file)
	if err != nil {
		return p, err
	}
	if !is {
		p.Stale = true
		return p, nil
	}
	p.Phase, p.PID, p.Started = file.phase, file.pid, file.started
	p.Port, p.SocketDirectory, p.ListenAddress = file.port, file.socketDirectory, file.listen
	if program, err := os.Readlink(procPath(p.PID, "exe")); err == nil && !strings.HasSuffix(program, deleted) {
		p.BinDirectory = path.Dir(program)
	}
	p.Unit = unitOf(p.PID)
	return p, nil
}

// standby says whether the server's files make it one that follows another.
func (s *Server) standby() bool {
	name := "standby.signal"
	if s.Major < 12 {
		name = "recovery.conf"
	}
	content, err := machine.ReadFile(path.Join(s.DataDirectory, name))
	if err != nil {
		return false
	}
	if s.Major >= 12 {
		return true
	}
	return standbyMode(string(content))
}

// standbyMode reads recovery.conf of 10 and 11, which is written like postgresql.conf.
func standbyMode(recovery string) bool {
	on, ok := parseBool(recoverySetting(recovery, "standby_mode"))
	return on && ok
}

// recoverySetting is the last value that recovery.conf gives a setting; "" for none.
func recoverySetting(recovery, wanted string) string {
	last := ""
	for lex := (confLexer{text: recovery, line: 1}); !lex.done(); {
		if name, value, problem := lex.setting(); problem == "" && foldName(name) == wanted {
			last = value
		}
	}
	return last
}

// A pidFile is postmaster.pid.
type pidFile struct {
	pid             int
	directory       string
	started         time.Time
	port            int
	socketDirectory string
	listen          string
	phase           Phase
}

// parsePIDFile reads postmaster.pid: pid, data directory, start, port, socket directory, address, shared memory, status.
// A postmaster that has only begun to start has written the first lines only.
func parsePIDFile(content []byte) (pidFile, bool) {
	lines := strings.Split(string(content), "\n")
	line := func(i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	pid, err := strconv.Atoi(line(0))
	if err != nil || pid < 1 { // negative: a server in single-user mode, which takes no signals
		return pidFile{}, false
	}
	started, _ := strconv.ParseInt(line(2), 10, 64)
	f := pidFile{
		pid: pid, directory: line(1), started: time.Unix(started, 0), port: portOf(line(3)),
		socketDirectory: line(4), listen: line(5),
	}
	switch line(7) {
	case "ready", "standby":
		f.phase = Running
	case "stopping":
		f.phase = Stopping
	default:
		f.phase = Starting
	}
	return f, true
}

const deleted = " (deleted)"

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// isPostmaster says whether the process that a pid file names is this server's postmaster.
func (s *Server) isPostmaster(f pidFile) (bool, error) {
	program, err := os.Readlink(procPath(f.pid, "exe"))
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find out what process %d of postmaster.pid is: %w", f.pid, err)
	}
	if name := path.Base(strings.TrimSuffix(program, deleted)); name != "postgres" && name != "postmaster" {
		return false, nil
	}
	same, err := sameDirectory(procPath(f.pid, "cwd"), s.DataDirectory)
	if err != nil || !same {
		return false, err
	}
	began, err := processStart(f.pid)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if d := began.Sub(f.started); -startTolerance < d && d < startTolerance {
		return true, nil
	}
	// The machine's clock may have been set since. Who holds the server's socket is its postmaster.
	return f.port != 0 && f.socketDirectory != "" && socketHolder(f.socketDirectory, f.port) == f.pid, nil
}

// The times of the process table and of postmaster.pid are rounded to a second and kept by different clocks.
const startTolerance = 10 * time.Second

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// sameDirectory compares two paths by what they are.
func sameDirectory(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// processStart tells when a process began, by the kernel.
func processStart(pid int) (time.Time, error) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	i := bytes.LastIndexByte(stat, ')') // the name before it can hold anything
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 20 {
		return time.Time{}, fmt.Errorf("process %d has no start time", pid)
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("process %d has no start time", pid)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, err
	}
	boot := time.Now().Add(-time.Duration(up.Nano()))
	return boot.Add(time.Duration(ticks) * (time.Second / userHZ)), nil
}

// The kernel counts process times in hundredths of a second on every architecture that Go runs on.
const userHZ = 100

// socketHolder tells which process listens on a server's socket, or 0.
func socketHolder(dir string, port int) int {
	fd, err := connectSocket(socketPath(dir, port))
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}

// unitOf tells the systemd unit that a process runs in, or "".
func unitOf(pid int) string {
	content, err := os.ReadFile(procPath(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return systemUnit(string(content))
}

// systemUnit finds the system's unit in what /proc tells of control groups. A user's session has none.
func systemUnit(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "name=systemd" || !strings.HasPrefix(f[2], "/system.slice/") {
			continue
		}
		for part := range strings.SplitSeq(f[2], "/") {
			if strings.HasSuffix(part, ".service") {
				return part
			}
		}
	}
	return ""
}

// postmasterDirectories returns the data directories of all postmasters that run here, sorted.
func postmasterDirectories() []string {
	processes, _ := os.ReadDir("/proc")
	seen := map[string]bool{}
	for _, p := range processes {
		if name := p.Name(); name[0] < '0' || name[0] > '9' {
			continue
		}
		link := path.Join("/proc", p.Name(), "exe")
		program, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if name := path.Base(strings.TrimSuffix(program, deleted)); name != "postgres" && name != "postmaster" {
			continue
		}
		data, err := os.Readlink(path.Join(path.Dir(link), "cwd"))
		if err != nil || seen[data] {
			continue
		}
		content, err := os.ReadFile(path.Join(data, "postmaster.pid"))
		if err != nil {
			continue
		}
		if f, ok := parsePIDFile(content); ok && strconv.Itoa(f.pid) == path.Base(path.Dir(link)) {
			seen[data] = true
		}
	}
	var out []string
	for data := range seen {
		out = append(out, data)
	}
	slices.Sort(out)
	return out
}

// parseBool reads a boolean as a server does: prefixes of the words count.
func parseBool(value string) (b, ok bool) {
	v := strings.ToLower(value)
	if v == "" {
		return false, false
	}
	for _, word := range []struct {
		text  string
		least int
		value bool
	}{{"true", 1, true}, {"false", 1, false}, {"yes", 1, true}, {"no", 1, false}, {"on", 2, true}, {"off", 2, false}, {"1", 1, true}, {"0", 1, false}} {
		if len(v) >= word.least && strings.HasPrefix(word.text, v) {
			return word.value, true
		}
	}
	return false, false
}
