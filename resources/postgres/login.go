package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A Client is a program that connects from somewhere, as a server sees it, with what it has to show.
type Client struct {
	Address     string // host:port
	ServerName  string // what it calls the server when it asks for TLS; "" or an address: nothing
	Database    string
	User        string
	Password    string           // "": the client has none, and none is sent
	Certificate *tls.Certificate // nil: the client has none
	// Verify judges the certificates that the server shows, its own first. Nothing but the greeting is sent before.
	Verify func([]*x509.Certificate) error
}

// Stage is how far a login has come, from the first step to the last.
type Stage int

const (
	Unreachable Stage = iota // no connection over TCP
	Greeted                  // connected; what came back to the request for TLS is no answer, or the server's error
	WithoutTLS               // the server answers that it has no TLS
	Handshaking              // the TLS handshake did not end well
	Secured                  // the handshake is over, and no word of PostgreSQL's came after it
	Answered                 // the server has answered the startup packet
	LoggedIn
)

// A Login is what became of one real connection over TLS.
//
// A TLS 1.3 handshake is over for the client before the server has looked at the client's certificate; the alert of a server
// that refuses it is the first thing that the client reads. So that the server has taken the certificate is shown by its
// first word of PostgreSQL's protocol, be it a refusal: the stage Answered.
type Login struct {
	Stage    Stage
	Served   Served // what the server showed, as far as the handshake came
	CipherID uint16 // crypto/tls's number of the suite
	Local    netip.AddrPort
	Remote   netip.AddrPort
	Asks     string   // what the server wanted besides the certificate: "a password", "a Kerberos ticket" ...; "" for nothing
	Refusal  *Refusal // what the server said when it let nobody in
	Err      error    // why it came no further; nil when Refusal says it, and after a login
	Session  *LoginSession
}

// A Refusal is an error that a server gives to a client before it is in. It repeats names, never a password: redact would
// take the words out of "password authentication failed for user".
type Refusal struct{ Code, Message string }

func (r Refusal) String() string { return r.Message }

// A LoginSession is what a server told the role that logged in.
type LoginSession struct {
	User       string // the role
	InRecovery bool
	Version    int    // 150018
	Subject    string // of the client's certificate, as the server took it; "" for none
	HBA        *RemoteHBA
}

// A RemoteHBA is the pg_hba.conf of a server as a role of it may see it, when it is what the server runs with.
type RemoteHBA struct {
	File  string
	Rules []HBARule
	// Member tells whether the role is a member of another.
	Member func(role string) bool
}

// TryLogin logs in, looks around, and leaves. ctx ends the attempt.
func TryLogin(ctx context.Context, c Client) Login {
	a := &attempt{client: c}
	conn, err := a.connect(ctx)
	if conn != nil {
		defer conn.Close(ctx)
		a.login.Stage = LoggedIn
		if a.login.Session, err = lookAround(ctx, conn); err != nil {
			a.login.Err = fmt.Errorf("logged in, and then: %w", plainCause(err))
		}
		return a.login
	}
	a.explain(ctx, err)
	return a.login
}

// An attempt is a Login in the making.
type attempt struct {
	client Client
	login  Login
	first  firstMessage
	begun  atomic.Bool
	dialed error // why there is no connection to speak PostgreSQL's protocol on
}

// connect goes the way of a client with pgconn, which knows how passwords are proven; TCP and TLS are done here, to see how
// far it came. The config is made from nothing but what is known here.
func (a *attempt) connect(ctx context.Context) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig("host=/ port=5432 user=postgres dbname=postgres sslmode=disable passfile=/dev/null connect_timeout=0 " +
		"sslnegotiation=postgres channel_binding=prefer require_auth='' target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, err
	}
	// Of an empty password the server would keep a failed login in its log: without one nothing is sent.
	config.RequireAuth = "none"
	if a.client.Password != "" {
		config.RequireAuth = "none,password,md5,scram-sha-256"
	}
	config.User, config.Database, config.Password = a.client.User, a.client.Database, a.client.Password
	config.Host, config.Fallbacks, config.ValidateConnect = "/", nil, nil
	config.RuntimeParams = map[string]string{"application_name": "converge"}
	config.DialFunc = func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		if a.begun.Swap(true) {
			return nil, errors.New("there is one connection only") // pgconn, in the background: to cancel a query on a broken one
		}
		conn, a.dialed = a.dial(ctx)
		return conn, a.dialed
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		a.first.from = r
		return pgproto3.NewFrontend(&a.first, w)
	}
	return pgconn.ConnectConfig(ctx, config)
}

// dial connects over TCP and asks for TLS.
func (a *attempt) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", a.client.Address)
	if err != nil {
		return nil, err
	}
	a.login.Stage, a.login.Local, a.login.Remote = Greeted, addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	secured, err := a.secure(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		p := tcp.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// ErrNotPostgreSQL is in the error of an answer that no PostgreSQL server gives.
var ErrNotPostgreSQL = errors.New("this is no PostgreSQL server")

var errNoTLS = errors.New("the server answers that it has no TLS")

func (a *attempt) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	answer, err := requestTLS(conn)
	if err != nil {
		return nil, err
	}
	switch answer {
	case 'S':
		a.login.Stage = Handshaking
		return a.handshake(ctx, conn)
	case 'N':
		a.login.Stage = WithoutTLS
		return nil, errNoTLS
	case 'E':
		return nil, a.errorBeforeTLS(conn)
	}
	return nil, fmt.Errorf("%w: it answers %q to the request for TLS", ErrNotPostgreSQL, []byte{answer})
}

// errorBeforeTLS reads the error that a server gives instead of an answer: it has too many connections, say.
func (a *attempt) errorBeforeTLS(conn net.Conn) error {
	message, err := pgproto3.NewFrontend(io.MultiReader(strings.NewReader("E"), conn), conn).Receive()
	if e, ok := message.(*pgproto3.ErrorResponse); ok && err == nil {
		a.login.Refusal = &Refusal{e.Code, e.Message}
		return errors.New(e.Message)
	}
	return fmt.Errorf("%w: it answers with an error that is none of PostgreSQL's", ErrNotPostgreSQL)
}

// handshake shows the client's certificate whatever authorities the server names, as libpq does.
func (a *attempt) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	served := &a.login.Served
	served.TLS = true
	client := tlsClient(conn, &tls.Config{
		MinVersion: tls.VersionTLS12, // libpq's default
		ServerName: a.client.ServerName, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			served.Certificates, served.Version, served.Cipher = state.PeerCertificates, state.Version, tls.CipherSuiteName(state.CipherSuite)
			a.login.CipherID = state.CipherSuite
			sum := sha256.Sum256(state.PeerCertificates[0].Raw)
			served.Fingerprint = hex.EncodeToString(sum[:])
			return a.client.Verify(state.PeerCertificates)
		},
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			served.AsksForCertificate, served.AcceptableCAs = true, r.AcceptableCAs
			if a.client.Certificate == nil {
				return &tls.Certificate{}, nil
			}
			return a.client.Certificate, nil
		},
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, answerError(err)
	}
	a.login.Stage = Secured
	return client, nil
}

// A firstMessage keeps the beginning of what a server says after the startup packet.
type firstMessage struct {
	from io.Reader
	kept []byte
}

func (f *firstMessage) Read(b []byte) (int, error) {
	n, err := f.from.Read(b)
	if room := 256 - len(f.kept); room > 0 {
		f.kept = append(f.kept, b[:min(n, room)]...)
	}
	return n, err
}

// asks says what an authentication request in it wants; "" for none.
// https://www.postgresql.org/docs/current/protocol-message-formats.html
func (f *firstMessage) asks() string {
	if len(f.kept) < 9 || f.kept[0] != 'R' {
		return ""
	}
	switch binary.BigEndian.Uint32(f.kept[5:9]) {
	case pgproto3.AuthTypeOk:
		return ""
	case pgproto3.AuthTypeCleartextPassword, pgproto3.AuthTypeMD5Password:
		return AsksPassword
	case pgproto3.AuthTypeSASL:
		if bytes.Contains(f.kept, []byte("OAUTHBEARER")) {
			return "an OAuth token"
		}
		return AsksPassword
	}
	return "a Kerberos ticket"
}

// AsksPassword is what a server wants that asks for a password in any of the ways.
const AsksPassword = "a password"

// explain says why a connection came no further.
func (a *attempt) explain(ctx context.Context, err error) {
	if len(a.first.kept) > 0 && a.login.Stage == Secured {
		a.login.Stage = Answered
	}
	a.login.Asks = a.first.asks()
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		a.login.Refusal = &Refusal{refused.Code, refused.Message}
	case a.login.Refusal != nil || a.login.Asks != "":
	case ctx.Err() != nil || timedOut(err):
		a.login.Err = fmt.Errorf("%w in time", ErrNoAnswer)
	case a.dialed != nil:
		a.login.Err = a.dialed
	default:
		a.login.Err = afterTLS(err)
	}
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// afterTLS is an error without what pgconn puts around it.
func afterTLS(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return op
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return answerError(io.EOF)
	}
	return plainCause(err)
}

// Alert is the TLS alert that the server gave, in crypto/tls's words ("unknown certificate authority"); "" for none.
func (l Login) Alert() string {
	var op *net.OpError
	if errors.As(l.Err, &op) && op.Op == "remote error" {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

// lookAround asks as the role that is in.
func lookAround(ctx context.Context, conn *pgconn.PgConn) (*LoginSession, error) {
	s := &LoginSession{}
	dn := "client_dn"
	if !supportsClientDN(conn.ParameterStatus("server_version")) {
		dn = "clientdn"
	}
	rows, err := ask(ctx, conn, `SELECT session_user, pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version_num'),
		coalesce((SELECT `+dn+`::text FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()), '')`)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) != 4 {
		return nil, errors.New("the server's answer is not as expected")
	}
	s.User, s.InRecovery, s.Subject = rows[0][0], rows[0][1] == "t", rows[0][3]
	fmt.Sscan(rows[0][2], &s.Version)
	s.HBA, err = remoteHBA(ctx, conn, s.Version)
	return s, err
}

// supportsClientDN: the view named the column otherwise before 12.
func supportsClientDN(version string) bool {
	return !strings.HasPrefix(version, "10.") && !strings.HasPrefix(version, "11.") && !strings.HasPrefix(version, "9.")
}

// ask returns the rows of a query as texts, NULL as "".
func ask(ctx context.Context, conn *pgconn.PgConn, query string) ([][]string, error) {
	results, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for _, result := range results {
		for _, row := range result.Rows {
			texts := make([]string, len(row))
			for i, value := range row {
				texts[i] = string(value)
			}
			out = append(out, texts)
		}
	}
	return out, nil
}

// A Plaintext is what a server does with a client that comes without TLS.
type Plaintext struct {
	Admitted bool   // a rule lets it in, or would with the right password
	Asks     string // what it wants; "": it lets the client in as it is
	Refusal  *Refusal
	Local    netip.AddrPort
	Remote   netip.AddrPort
	Err      error // it could not be found out
}

// TryPlaintext knocks without TLS and leaves before it would log in. No password is sent.
func TryPlaintext(ctx context.Context, c Client) (p Plaintext) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", c.Address)
	defer func() {
		if timedOut(p.Err) {
			p.Err = fmt.Errorf("%w in time", ErrNoAnswer)
		}
	}()
	if err != nil {
		p.Err = err
		return p
	}
	defer conn.Close()
	p.Local, p.Remote = addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(startupPacket(c.User, c.Database)); err != nil {
		p.Err = err
		return p
	}
	first := &firstMessage{from: conn}
	message, err := pgproto3.NewFrontend(first, conn).Receive()
	if err != nil {
		p.Err = answerError(err)
		return p
	}
	if e, ok := message.(*pgproto3.ErrorResponse); ok {
		p.Refusal = &Refusal{e.Code, e.Message}
		return p
	}
	p.Admitted, p.Asks = true, first.asks()
	return p
}
