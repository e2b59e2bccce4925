package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"converge/engine/recipe"
)

// A sshClient starts commands on nodes through the system's own ssh. What ssh_config, the agent and known_hosts say holds:
// the only options added make it never ask and never hang, and none has to do with host keys.
type sshClient struct {
	program   string // the path of ssh
	user      string // "": whom ssh_config says
	byAddress bool   // the node's address, not its name
	log       zerolog.Logger
}

// findSSH looks for ssh once, before any node is begun.
func findSSH() (string, error) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return "", errors.New("there is no ssh on this machine: install openssh-client")
	}
	return program, nil
}

// unanswered is how the exit status of ssh says that ssh itself failed (ssh(1)).
const unanswered = 255

// sshOptions keep ssh from asking anything, and from waiting for a node that has gone: for 10 seconds at the start, for a
// minute later.
var sshOptions = []string{
	"-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
}

// destination is what ssh_config and known_hosts are asked for: operators write them by name.
func (c sshClient) destination(n recipe.Node) string {
	if c.byAddress {
		return n.Address.String()
	}
	return n.Name
}

func (c sshClient) arguments(n recipe.Node, command string) []string {
	args := append([]string{}, sshOptions...)
	if c.user != "" {
		args = append(args, "-l", c.user)
	}
	return append(args, "--", c.destination(n), command)
}

// shellQuote makes one word of s for a POSIX shell, whatever is in it but NUL bytes, which no argument can have.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// beginMark is the first word that every remote script says. What comes before it is not ours (a login shell's greeting),
// and where it is missing nothing has begun.
const beginMark = "converge-fleet-begin"

// asRoot runs a script as root; where the user is not root it takes sudo, which must not ask for a password.
const asRoot = `script=$1; shift; if [ "$(id -u)" = 0 ]; then exec sh -c "$script" converge-fleet "$@"; fi; ` + needSudo +
	`exec sudo -n sh -c "$script" converge-fleet "$@"`

const needSudo = `command -v sudo >/dev/null || { echo "the user there is not root, and there is no sudo: log in as root, with --ssh-user root" >&2; exit 1; }; `

// runConverge runs converge as root. Its path is found out before sudo, whose own PATH often lacks /usr/local/bin, and it is
// what a rule in sudoers has to name. With the mark goes the SHA-256 of the node's environment file.
const runConverge = `printf "%s %s\n" ` + beginMark + ` "$(sha256sum 2>/dev/null < ` + defaultEnvironmentFile + ` | cut -c 1-64)"; ` +
	`p=$(command -v converge) || p=` + binaryPath + `; [ -x "$p" ] || exit 127; ` +
	`if [ "$(id -u)" = 0 ]; then exec "$p" "$@"; fi; ` + needSudo + `exec sudo -n "$p" "$@"`

// remoteCommand is the line that the user's login shell on the node gets: sh runs the script, whatever that shell is. The
// script is one line, because csh wants that.
func remoteCommand(script string, args ...string) string {
	words := []string{"exec", "sh", "-c", shellQuote(script), "converge-fleet"}
	for _, a := range args {
		words = append(words, shellQuote(a))
	}
	return strings.Join(words, " ")
}

// An answer is what became of one command on a node.
type answer struct {
	began       bool   // the remote script ran
	environment string // SHA-256 of the node's environment file, "" when it could not be read
	code        int    // the exit status of ssh, which is the command's where it began
	stderr      string // the end of it
	err         error  // ssh could not be started, or said too much
}

// unreachable says whether the node was not reached at all.
func (a answer) unreachable() bool { return a.err == nil && !a.began && a.code == unanswered }

// cutOff says whether the connection broke while the command ran. Of a command that a signal has ended ssh says the same.
func (a answer) cutOff() bool { return a.began && a.code == unanswered }

// run runs a command on a node and waits for its end. Each line after the mark goes to line, without its line feed.
func (c sshClient) run(n recipe.Node, command string, stdin io.Reader, line func([]byte)) answer {
	var a answer
	out := &lineWriter{line: func(l []byte) {
		if a.began {
			line(l)
			return
		}
		if word, rest, _ := strings.Cut(string(l), " "); word == beginMark {
			a.began, a.environment = true, strings.TrimSpace(rest)
		}
	}}
	errs := &tailWriter{}
	cmd := exec.Command(c.program, c.arguments(n, command)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, errs
	// Ctrl-C goes to the whole process group of a terminal, and would cut the connection to a run in the middle of a step.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second // a ControlMaster left in the background may hold the pipes open
	err := cmd.Run()
	out.end()
	a.stderr = string(errs.kept)
	for l := range strings.Lines(a.stderr) {
		c.log.Debug().Str("node", n.Name).Msg(strings.TrimRight(l, "\r\n"))
	}
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		a.code = ended.ExitCode()
	case errors.As(err, &ended):
		a.code = unanswered // ssh was killed
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		a.err = fmt.Errorf("%s: %w", c.program, err)
	}
	if out.err != nil {
		a.err = out.err
	}
	return a
}

// reason is what ssh or the command said last, on one line. Three lines tell of a changed host key, and of a jump host that
// did not answer. Debian's ssh adds how to forget a changed key, which is no advice to pass on.
func (a answer) reason() string {
	var lines []string
	for l := range strings.Lines(a.stderr) {
		if l = printable(strings.TrimSpace(l)); l != "" && l != "remove with:" && !strings.HasPrefix(l, "ssh-keygen -f ") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// because is the reason as the end of a sentence, where there is one.
func (a answer) because() string {
	if r := a.reason(); r != "" {
		return ": " + r
	}
	return ""
}

// answerLimit is how much one node may say, in bytes.
const answerLimit = 64 << 20

// A lineWriter cuts what is written into lines. A line is valid until its call returns.
type lineWriter struct {
	line    func([]byte)
	pending []byte
	size    int
	err     error
}

func (w *lineWriter) Write(b []byte) (int, error) {
	if w.size += len(b); w.size > answerLimit {
		w.err = fmt.Errorf("it said more than %d MB", answerLimit>>20)
		return 0, w.err
	}
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			w.pending = append(w.pending, b...)
			return n, nil
		}
		w.pending = append(w.pending, b[:i]...)
		w.line(bytes.TrimSuffix(w.pending, []byte("\r")))
		w.pending, b = w.pending[:0], b[i+1:]
	}
}

// end gives the last line when no line feed ends it.
func (w *lineWriter) end() {
	if len(w.pending) > 0 && w.err == nil {
		w.line(w.pending)
	}
	w.pending = nil
}

// tailSize is how much of what ssh says on stderr is kept, in bytes.
const tailSize = 16 << 10

// A tailWriter keeps the end of what is written.
type tailWriter struct{ kept []byte }

func (w *tailWriter) Write(b []byte) (int, error) {
	w.kept = append(w.kept, b...)
	w.kept = w.kept[max(0, len(w.kept)-tailSize):]
	return len(b), nil
}
