package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// ErrCannotTell is in the error of RuleLoaded on a server whose other rules turn away every connection that it could be told
// by.
var ErrCannotTell = errors.New("cannot tell which rules the server has loaded")

// RuleLoaded tells whether the server runs with a line `local NAME all reject` that stands before every line that would
// let this program in. No view of the server shows the rules that it has loaded, and a reload that it refuses leaves no
// trace in one; a connection to a database of that name does, beside one to a database of another name that does not exist
// either.
func (s *Server) RuleLoaded(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	answer, err := s.knock(ctx, s.AdminUser, name)
	if err != nil || !answer.turnedAway() {
		return false, err
	}
	other, err := s.knock(ctx, s.AdminUser, name+"_not")
	switch {
	case err != nil:
		return false, err
	case !other.turnedAway():
		return true, nil
	case other.line == answer.line:
		// Both met a line that rejects, or both met none: only the latter is an answer.
		return false, s.cannotTell(answer)
	}
	return true, nil // one met the line, the other met none
}

func (s *Server) cannotTell(n refusalNotice) error {
	if strings.Contains(n.message, "no pg_hba.conf entry") {
		return nil
	}
	return fmt.Errorf("%w (%s): a line of %s rejects local connections of %s to all databases but some", ErrCannotTell, s, s.HBAFile, s.AdminUser)
}

// A refusalNotice is what a server says to a connection that it does not let in; the zero value: it went on to authenticate.
// https://www.postgresql.org/docs/current/protocol-error-fields.html
type refusalNotice struct{ code, routine, message, line string }

// turnedAway says that pg_hba.conf, and nothing else, kept the client out.
func (n refusalNotice) turnedAway() bool {
	return n.code == "28000" && n.routine == "ClientAuthentication"
}

const protocol3 = 3 << 16

// knock sends the first packet of a connection over the unix socket, and reads the first answer.
func (s *Server) knock(ctx context.Context, user, database string) (refusalNotice, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return refusalNotice{}, s.connectError(ctx, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := conn.Write(startupPacket(user, database)); err != nil {
		return refusalNotice{}, fmt.Errorf("%s: %w", s, err)
	}
	notice, err := readAnswer(conn)
	switch {
	case err != nil:
		return refusalNotice{}, fmt.Errorf("%s: %w", s, err)
	case notice.code != "" && !strings.HasPrefix(notice.code, "28") && !strings.HasPrefix(notice.code, "3D"):
		return refusalNotice{}, fmt.Errorf("%s: the server turns connections away: %s", s, redact(notice.message))
	}
	return notice, nil
}

func startupPacket(user, database string) []byte {
	body := binary.BigEndian.AppendUint32(nil, protocol3)
	for _, text := range []string{"user", user, "database", database, "application_name", "converge", ""} {
		body = append(append(body, text...), 0)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
}

// The longest message that is read of a server at this point, in bytes.
const maxAnswer = 1 << 16

func readAnswer(conn net.Conn) (refusalNotice, error) {
	var head [5]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return refusalNotice{}, fmt.Errorf("read the answer to a connection: %w", err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if head[0] != 'E' {
		return refusalNotice{}, nil
	}
	if size < 4 || size > maxAnswer {
		return refusalNotice{}, errors.New("the answer to a connection is not that of a PostgreSQL server")
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(conn, body); err != nil {
		return refusalNotice{}, fmt.Errorf("read the answer to a connection: %w", err)
	}
	var n refusalNotice
	for _, field := range bytes.Split(body, []byte{0}) {
		if len(field) > 1 {
			n.take(field[0], string(field[1:]))
		}
	}
	return n, nil
}

func (n *refusalNotice) take(kind byte, text string) {
	switch kind {
	case 'C':
		n.code = text
	case 'R':
		n.routine = text
	case 'M':
		n.message = text
	case 'L':
		n.line = text
	}
}
