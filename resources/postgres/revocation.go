package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A Verdict is what a server says of a client's certificate when it is shown one.
type Verdict string

// The verdicts there are.
const (
	Accepted         Verdict = "accepted"            // the connection got as far as pg_hba.conf
	NotAsked         Verdict = "not asked for"       // the server has no ssl_ca_file loaded: it asks no client for a certificate
	RevokedByServer  Verdict = "certificate revoked" // alert 44
	ExpiredForServer Verdict = "certificate expired" // alert 45: the certificate, or the revocation list of its authority
	UnknownIssuer    Verdict = "unknown ca"          // alert 48: the authority, or its revocation list, is not loaded
	OtherwiseRefused Verdict = "refused"             // another alert
	NoTLS            Verdict = "no TLS"
)

// The alerts of RFC 8446, 6.2 that tell of a client's certificate.
const (
	alertRevoked   = 44
	alertExpired   = 45
	alertUnknownCA = 48
)

// ShowCertificate shakes hands with the server where it listens now and shows it a client certificate, with its key. It
// tells what the server says of that, and leaves before it would log in. A refusal is a verdict, not an error; each leaves
// a line in the server's log.
func (s *Server) ShowCertificate(ctx context.Context, cert tls.Certificate) (Verdict, error) {
	address, err := s.addressNow()
	if err != nil {
		return "", err
	}
	return ShowCertificate(ctx, address, cert)
}

// ShowCertificate is the same for the server at a TCP address.
func ShowCertificate(ctx context.Context, address string, cert tls.Certificate) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	v, err := showCertificate(ctx, address, cert)
	for range 5 { // a server that has closed already resets the connection, and its alert can be lost
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			break
		}
		v, err = showCertificate(ctx, address, cert)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w within %v", ErrNoAnswer, ConnectTimeout)
		}
		return "", fmt.Errorf("show %s a certificate: %w", address, err)
	}
	return v, nil
}

func showCertificate(ctx context.Context, address string, cert tls.Certificate) (Verdict, error) {
	conn, tlsOn, err := askForTLS(ctx, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if !tlsOn {
		return NoTLS, nil
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	asked := false
	client := tlsClient(conn, &tls.Config{
		InsecureSkipVerify: true, // it is the server that judges here
		MinVersion:         tls.VersionTLS10,
		CipherSuites:       allCiphers(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &cert, nil
		},
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return verdictOf(err)
	}
	if !asked {
		return NotAsked, nil
	}
	// In TLS 1.3 the client is done before the server has looked at its certificate: the alert comes as the first answer.
	// A server that accepts it answers to the beginning of a connection.
	if _, err := client.Write(startupPacket(probeName, probeName)); err != nil {
		return verdictOf(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		return verdictOf(err)
	}
	return Accepted, nil
}

// probeName is the role and the database that a connection asks for which is never to come to a login.
const probeName = "converge_revocation_probe"

// verdictOf reads the alert with which a server ended a handshake.
func verdictOf(err error) (Verdict, error) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return "", answerError(err)
	}
	// crypto/tls keeps its type of alerts to itself; it is the number of RFC 8446, 6.
	alert := reflect.ValueOf(op.Err)
	if alert.Kind() != reflect.Uint8 {
		return "", err
	}
	switch alert.Uint() {
	case alertRevoked:
		return RevokedByServer, nil
	case alertExpired:
		return ExpiredForServer, nil
	case alertUnknownCA:
		return UnknownIssuer, nil
	}
	return OtherwiseRefused, nil
}

// SessionsWith lists the open sessions whose client showed one of the certificates, given by serial number in decimal and by
// common name. From 12 on the server tells the serial number; before, only the name is compared, and a session with a newer
// certificate of the same user is among them.
func (c *Conn) SessionsWith(ctx context.Context, f Facts, serials, names []string) ([]CertificateSession, error) {
	all, err := c.CertificateSessions(ctx, f)
	return slices.DeleteFunc(all, func(s CertificateSession) bool {
		if s.Serial != "" {
			return !slices.Contains(serials, s.Serial)
		}
		return !slices.ContainsFunc(names, func(n string) bool { return s.Subject == "/CN="+n })
	}), err
}

// Terminate ends a session.
func (c *Conn) Terminate(ctx context.Context, pid int) error {
	if _, err := c.Exec(ctx, "select pg_catalog.pg_terminate_backend($1)", pid); err != nil {
		return c.questionError("end the session "+strconv.Itoa(pid), err)
	}
	return nil
}
