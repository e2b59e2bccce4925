package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// What a server that cannot be asked is found to be. Connect's errors wrap one of them where it knows.
var (
	ErrNotRunning = errors.New("the server is not running")
	ErrStarting   = errors.New("the server is starting up")
	ErrStopping   = errors.New("the server is shutting down")
	ErrNoAnswer   = errors.New("the server does not answer")
	ErrRefused    = errors.New("the server refuses the connection")
	ErrTurnedAway = errors.New("pg_hba.conf or pg_ident.conf turns the connection away") // an ErrRefused
	ErrStranger   = errors.New("the socket belongs to somebody else")
)

// A Conn is a connection to the server as its superuser. Close it.
type Conn struct {
	*pgx.Conn
	Server *Server
}

// How long a statement of this program may run on the server.
const statementTimeout = "15s"

// Connect connects over the unix socket as the operating system's account that owns the server, and proves it to the
// server by that (peer authentication): no password, no change of pg_hba.conf, no child. For this one connect the calling
// thread takes the owner's user id and then goes back. The process at the other end must be the owner's or root's.
// Nothing of the environment (PGHOST, PGPASSWORD, PGSERVICE, a password file) is used.
func (s *Server) Connect(ctx context.Context) (*Conn, error) {
	if s.SocketDirectory == "" {
		return nil, fmt.Errorf("%s: it has no unix socket: set unix_socket_directories in postgresql.conf, or socket_directory in the environment file", s)
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	c, err := s.connectAs(ctx, s.AdminUser)
	if err != nil && s.AdminUser != s.Owner.Name && asksForAnother(err) {
		// initdb names the superuser after the account that it runs as.
		if c, err := s.connectAs(ctx, s.Owner.Name); err == nil {
			return c, nil
		}
	}
	if err != nil {
		return nil, s.connectError(ctx, err)
	}
	return c, nil
}

func (s *Server) connectAs(ctx context.Context, role string) (*Conn, error) {
	config, err := s.config(role)
	if err != nil {
		return nil, err
	}
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Conn{c, s}, nil
}

// config is made from nothing but what is known here: each of libpq's variables that pgx would read is set aside.
func (s *Server) config(role string) (*pgx.ConnConfig, error) {
	if name := os.Getenv("PGSERVICE"); name != "" {
		return nil, fmt.Errorf("PGSERVICE is set in the environment: unset it, %s is found without it", s)
	}
	base, err := pgx.ParseConfig("host=/ port=5432 user=postgres dbname=postgres sslmode=disable passfile=/dev/null connect_timeout=0 " +
		"sslnegotiation=postgres channel_binding=prefer require_auth='' target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, err
	}
	base.Host, base.Port, base.Database, base.User, base.Password = s.SocketDirectory, uint16(s.Port), "postgres", role, ""
	base.Fallbacks, base.ValidateConnect = nil, nil
	base.RuntimeParams = map[string]string{
		"application_name": "converge", "search_path": "pg_catalog", "statement_timeout": statementTimeout,
		"client_encoding": "UTF8", "lc_messages": "C", "DateStyle": "ISO", "client_min_messages": "error",
	}
	base.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements: one round trip for a question
	base.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }
	return base, nil
}

func socketPath(dir string, port int) string {
	return path.Join(dir, ".s.PGSQL."+strconv.Itoa(port))
}

// dial connects to the socket as the server's owner.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	fd, err := s.dialAsOwner(ctx)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "postgres socket")
	defer file.Close()
	if err := s.checkPeer(fd); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// checkPeer is libpq's requirepeer: in /tmp anybody can put up a socket of the server's name.
func (s *Server) checkPeer(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("ask who is at the other end of %s: %w", socketPath(s.SocketDirectory, s.Port), err)
	}
	if int(cred.Uid) != s.Owner.UID && cred.Uid != 0 {
		return fmt.Errorf("%w: process %d of user %d listens on %s, and the server's owner is %s (%d)",
			ErrStranger, cred.Pid, cred.Uid, socketPath(s.SocketDirectory, s.Port), s.Owner.Name, s.Owner.UID)
	}
	return nil
}

// dialAsOwner connects on a thread of its own, which ends when it could not go back to being root.
func (s *Server) dialAsOwner(ctx context.Context) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		back, err := becomeThread(s.Owner)
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{-1, err}
			return
		}
		fd, err := connectUntil(ctx, socketPath(s.SocketDirectory, s.Port))
		if back() == nil {
			runtime.UnlockOSThread()
		} // else the goroutine ends locked, and the runtime ends the thread with it
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

// becomeThread gives the calling thread, and no other, the owner's effective ids. The real user stays root, so that it
// can come back and nobody else may signal it. Whoever is not root stays who they are.
func becomeThread(o Owner) (back func() error, err error) {
	if os.Geteuid() != 0 || o.UID == 0 {
		return func() error { return nil }, nil
	}
	const keep = ^uintptr(0)
	set := func(call uintptr, id int) error {
		if _, _, e := unix.RawSyscall(call, keep, uintptr(id), keep); e != 0 {
			return e
		}
		return nil
	}
	group := os.Getegid()
	if err := set(unix.SYS_SETRESGID, o.GID); err != nil {
		return nil, fmt.Errorf("take the group of %s: %w", o.Name, err)
	}
	back = func() error { return errors.Join(set(unix.SYS_SETRESUID, 0), set(unix.SYS_SETRESGID, group)) }
	if err := set(unix.SYS_SETRESUID, o.UID); err != nil {
		return nil, errors.Join(fmt.Errorf("take the user id of %s: %w", o.Name, err), back())
	}
	return back, nil
}

// connectSocket connects to a unix socket, or says at once that it cannot.
func connectSocket(file string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: file}); err != nil {
		unix.Close(fd)
		return -1, &net.OpError{Op: "connect", Net: "unix", Err: fmt.Errorf("%s: %w", file, err)}
	}
	return fd, nil
}

var errQueueFull = errors.New("the queue of connections is full")

// connectUntil waits while the server's queue of connections is full.
func connectUntil(ctx context.Context, file string) (int, error) {
	for {
		fd, err := connectSocket(file)
		if !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
		select {
		case <-ctx.Done():
			return -1, errQueueFull
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// asksForAnother says whether another role may be let in.
func asksForAnother(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28"))
}

// connectError says what a failed connection means, and the way out.
func (s *Server) connectError(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, ErrStranger):
		return err
	case errors.As(err, &pg):
		return s.refusal(pg)
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return s.noAnswer(err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return s.noSocket()
	}
	return fmt.Errorf("connect to %s: %s", s, redact(err.Error()))
}

func (s *Server) noSocket() error {
	p, err := s.Process()
	switch {
	case err != nil:
		return err
	case p.Phase == Stopped:
		return fmt.Errorf("%w (%s)", ErrNotRunning, s)
	case p.Phase == Starting:
		return fmt.Errorf("%w (%s, process %d)", ErrStarting, s, p.PID)
	case p.Phase == Stopping:
		return fmt.Errorf("%w (%s, process %d)", ErrStopping, s, p.PID)
	}
	return fmt.Errorf("%s runs as process %d, and there is no socket at %s: it may have been removed; its socket directory is %q",
		s, p.PID, socketPath(s.SocketDirectory, s.Port), p.SocketDirectory)
}

func (s *Server) noAnswer(err error) error {
	text := fmt.Sprintf("no answer within %v", ConnectTimeout)
	if errors.Is(err, errQueueFull) {
		text = fmt.Sprintf("its queue of connections is full for %v", ConnectTimeout)
	}
	if p, err := s.Process(); err == nil && p.PID != 0 {
		text += fmt.Sprintf(" from process %d", p.PID)
		if state := processState(p.PID); state == "T" || state == "t" {
			text += ", which somebody has stopped (SIGSTOP): kill -CONT " + strconv.Itoa(p.PID)
		}
	}
	return fmt.Errorf("%w (%s): %s", ErrNoAnswer, s, text)
}

// processState returns the letter that the kernel has for what a process does, or "".
func processState(pid int) string {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	if !ok || rest == "" {
		return ""
	}
	return rest[:1]
}

// turnedAway is an ErrTurnedAway in the words of an ErrRefused.
type turnedAway struct{ error }

func (t turnedAway) Unwrap() error        { return t.error }
func (t turnedAway) Is(target error) bool { return target == ErrTurnedAway }

// refusal says what a server means that answers with an error.
func (s *Server) refusal(pg *pgconn.PgError) error {
	message := redact(pg.Message)
	switch {
	case pg.Code == "57P03" && strings.Contains(pg.Message, "shutting down"):
		return fmt.Errorf("%w (%s)", ErrStopping, s)
	case pg.Code == "57P03":
		return fmt.Errorf("%w (%s): %s", ErrStarting, s, message)
	case pg.Code == "53300":
		return fmt.Errorf("%w: %s: %s; superuser_reserved_connections keeps some free for this", ErrRefused, s, message)
	case strings.HasPrefix(pg.Code, "28"):
		return turnedAway{fmt.Errorf("%w: %s: %s; converge connects over the unix socket as the system user %q, for which %s needs the line \"local all %s peer\" above others that match"+
			" (a role of another name is admin_user in the environment file)", ErrRefused, s, message, s.Owner.Name, s.HBAFile, s.AdminUser)}
	}
	return fmt.Errorf("%w: %s: %s (%s)", ErrRefused, s, message, pg.Code)
}
