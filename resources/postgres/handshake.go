package postgres

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Served is what a server really gives to a client that asks for TLS: the only evidence that its files are loaded.
type Served struct {
	TLS          bool                // false: the server answers that it has no TLS
	Certificates []*x509.Certificate // the server's own first
	Fingerprint  string              // SHA-256 of the server's own, in hex

	AsksForCertificate bool     // it has a CA file loaded, and so asks every client for a certificate
	AcceptableCAs      [][]byte // the names of the CAs that it trusts, DER, in the order of its file

	Version uint16 // tls.VersionTLS13 ...
	Cipher  string
}

// CANames returns the names of the CAs that the server trusts, for people.
func (s Served) CANames() []string {
	out := make([]string, len(s.AcceptableCAs))
	for i, der := range s.AcceptableCAs {
		var rdn pkix.RDNSequence
		if _, err := asn1.Unmarshal(der, &rdn); err != nil {
			out[i] = hex.EncodeToString(der)
			continue
		}
		out[i] = rdn.String()
	}
	return out
}

// Accepts says whether the server trusts a CA of this certificate's name.
func (s Served) Accepts(ca *x509.Certificate) bool {
	for _, der := range s.AcceptableCAs {
		if string(der) == string(ca.RawSubject) {
			return true
		}
	}
	return false
}

// AcceptsOthers says whether the server trusts a CA of another name than these have.
func (s Served) AcceptsOthers(cas []*x509.Certificate) bool {
	return slices.ContainsFunc(s.AcceptableCAs, func(der []byte) bool {
		return !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return string(der) == string(ca.RawSubject) })
	})
}

// Handshake asks the server at a TCP address for TLS and tells what it gets. It sends no certificate, no name and no
// password, and leaves before it would log in. It trusts nothing: whether the certificate is the right one is for the
// caller to judge. A server that has no TLS is no error.
func Handshake(ctx context.Context, address string) (Served, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	served, err := handshake(ctx, address)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w within %v", ErrNoAnswer, ConnectTimeout)
		}
		return Served{}, fmt.Errorf("ask %s for TLS: %w", address, err)
	}
	return served, nil
}

// The code of the protocol's SSLRequest.
const sslRequest = 80877103

func handshake(ctx context.Context, address string) (Served, error) {
	conn, hasTLS, err := askForTLS(ctx, address)
	if err != nil {
		return Served{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if !hasTLS {
		return Served{}, nil
	}
	return negotiate(ctx, conn)
}

// askForTLS connects and asks for TLS. It returns the connection, which the caller closes, and whether the server has TLS.
func askForTLS(ctx context.Context, address string) (conn net.Conn, hasTLS bool, err error) {
	var dialer net.Dialer
	if conn, err = dialer.DialContext(ctx, "tcp", address); err != nil {
		return nil, false, err
	}
	if hasTLS, err = sendSSLRequest(ctx, conn); err != nil {
		conn.Close()
		return nil, false, err
	}
	return conn, hasTLS, nil
}

func sendSSLRequest(ctx context.Context, conn net.Conn) (hasTLS bool, err error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := requestTLS(conn)
	if err != nil {
		return false, err
	}
	switch answer {
	case 'N':
		return false, nil
	case 'S':
		return true, nil
	case 'E':
		return false, errors.New("the server answers with an error: it has too many connections, or is not PostgreSQL")
	}
	return false, fmt.Errorf("the answer is %q: %w", []byte{answer}, ErrNotPostgreSQL)
}

// requestTLS sends the SSLRequest, and returns the one byte of the answer: 'S', 'N', or 'E' where an error message follows.
func requestTLS(conn net.Conn) (byte, error) {
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, sslRequest)); err != nil {
		return 0, err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, answerError(err)
	}
	return answer[0], nil
}

func answerError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server closed the connection")
	}
	return err
}

// tlsClient speaks TLS over a connection. A server that does not take the client's certificate says so and closes the
// connection, and what the client then writes comes back with a reset. Such a write is no failure here: what the server said
// lies there to be read, and reading tells when there is nothing.
func tlsClient(conn net.Conn, config *tls.Config) *tls.Conn {
	return tls.Client(hearsOut{conn}, config)
}

type hearsOut struct{ net.Conn }

func (c hearsOut) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return len(b), nil
	}
	return n, err
}

func negotiate(ctx context.Context, conn net.Conn) (Served, error) {
	served := Served{TLS: true}
	client := tlsClient(conn, &tls.Config{
		InsecureSkipVerify: true, // what is served is reported, good or bad
		MinVersion:         tls.VersionTLS10,
		CipherSuites:       allCiphers(),
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			served.AsksForCertificate, served.AcceptableCAs = true, r.AcceptableCAs
			return &tls.Certificate{}, nil
		},
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return Served{}, answerError(err)
	}
	defer client.Close()
	state := client.ConnectionState()
	served.Certificates, served.Version, served.Cipher = state.PeerCertificates, state.Version, tls.CipherSuiteName(state.CipherSuite)
	if len(served.Certificates) > 0 {
		sum := sha256.Sum256(served.Certificates[0].Raw)
		served.Fingerprint = hex.EncodeToString(sum[:])
	}
	return served, nil
}

// allCiphers are all that Go can speak: an old server's settings must not keep us from seeing what it serves.
func allCiphers() []uint16 {
	var out []uint16
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		out = append(out, c.ID)
	}
	return out
}

// ErrNoTCP is in the error of a server that listens on no TCP address.
var ErrNoTCP = errors.New("the server listens on no TCP address")

// Address picks the address to shake hands with from a server's listen_addresses: a loopback address where it listens on
// one, else the first.
func (s *Server) Address(listenAddresses string) (string, error) {
	port := strconv.Itoa(s.Port)
	var hosts []string
	for host := range strings.SplitSeq(listenAddresses, ",") {
		host = strings.Trim(strings.TrimSpace(host), `"`)
		switch host {
		case "":
			continue
		case "*", "0.0.0.0", "localhost":
			return net.JoinHostPort("127.0.0.1", port), nil
		case "::":
			return net.JoinHostPort("::1", port), nil
		}
		hosts = append(hosts, host)
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
			return net.JoinHostPort(host, port), nil
		}
	}
	if len(hosts) == 0 {
		return "", fmt.Errorf("%w: set listen_addresses in %s", ErrNoTCP, s.ConfigFile)
	}
	return net.JoinHostPort(hosts[0], port), nil
}

// Served shakes hands with the server where it listens now, by postmaster.pid.
func (s *Server) Served(ctx context.Context) (Served, error) {
	address, err := s.addressNow()
	if err != nil {
		return Served{}, err
	}
	return Handshake(ctx, address)
}

// addressNow is the address to shake hands with at which the server listens now, by postmaster.pid.
func (s *Server) addressNow() (string, error) {
	p, err := s.Process()
	if err != nil {
		return "", err
	}
	if p.Phase == Stopped {
		return "", fmt.Errorf("%w (%s)", ErrNotRunning, s)
	}
	at := *s
	at.Port = p.Port
	return at.Address(p.ListenAddress)
}
