package resources

import (
	"context"
	"sync"

	"converge/resources/postgres"
)

// A Session is a connection that was opened when the run began, with what the server said of itself then. A connection
// costs the server a process, so the first step that needs one takes this one over.
type Session struct {
	Facts postgres.Facts

	mutex sync.Mutex
	conn  *postgres.Conn
}

// OpenSession connects and asks.
func OpenSession(ctx context.Context, s *postgres.Server) (*Session, error) {
	conn, facts, err := connect(ctx, s)
	if err != nil {
		return nil, err
	}
	return &Session{Facts: facts, conn: conn}, nil
}

// Close ends the connection, when nobody has taken it.
func (s *Session) Close(ctx context.Context) {
	if conn := s.give(); conn != nil {
		conn.Close(ctx)
	}
}

func (s *Session) give() *postgres.Conn {
	if s == nil {
		return nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	conn := s.conn
	s.conn = nil
	return conn
}

// keep takes a connection back for the next step that needs one, or closes it.
func (s *Session) keep(ctx context.Context, conn *postgres.Conn) {
	if s != nil && !conn.IsClosed() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		if s.conn == nil {
			s.conn = conn
			return
		}
	}
	conn.Close(ctx)
}

// ask puts a question to the server over the session's connection, and over a new one where another step has it or a
// restart has ended it. The question may be put twice, so it must change nothing.
func (s *Session) ask(ctx context.Context, server *postgres.Server, question func(*postgres.Conn) error) error {
	if conn := s.give(); conn != nil {
		err := question(conn)
		broken := conn.IsClosed()
		s.keep(ctx, conn)
		if !broken {
			return err
		}
	}
	conn, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer s.keep(ctx, conn)
	return question(conn)
}

// take returns a connection and the facts as they are now: the session's, the first time, or else a new one. A session
// that has read the configuration again since it was opened is not used: it did so at its own time, and only what a new
// one says is what the postmaster has.
func (s *Session) take(ctx context.Context, server *postgres.Server) (*postgres.Conn, postgres.Facts, error) {
	if conn := s.give(); conn != nil {
		facts, err := conn.Facts(ctx)
		if err == nil && facts.Loaded.Equal(s.Facts.Loaded) {
			return conn, facts, nil
		}
		conn.Close(ctx)
	}
	return connect(ctx, server)
}

func connect(ctx context.Context, server *postgres.Server) (*postgres.Conn, postgres.Facts, error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, postgres.Facts{}, err
	}
	facts, err := conn.Facts(ctx)
	if err != nil {
		conn.Close(ctx)
		return nil, postgres.Facts{}, err
	}
	return conn, facts, nil
}
