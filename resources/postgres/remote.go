package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// A Remote is a server on another machine, and who connects to it.
type Remote struct {
	Address  netip.Addr
	Port     int
	Database string
	User     string
	Password []byte
	Roots    *x509.CertPool // the authorities that its certificate may come from; nil: it is not verified
}

// Dial connects over TCP, with TLS where the server has it. The server gets no password but as SCRAM: whoever pretends to
// be it learns nothing.
func Dial(ctx context.Context, r Remote) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("host=/ port=5432 user=postgres dbname=postgres sslmode=disable passfile=/dev/null connect_timeout=0 " +
		"sslnegotiation=postgres channel_binding=prefer require_auth='scram-sha-256,none' target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, err
	}
	host := r.Address.String()
	config.Host, config.Port, config.Database, config.User, config.Password = host, uint16(r.Port), r.Database, r.User, string(r.Password)
	config.Fallbacks, config.ValidateConnect = nil, nil
	config.RuntimeParams = map[string]string{"application_name": "converge", "search_path": "pg_catalog", "client_encoding": "UTF8"}
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(r.Port)))
	}
	config.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	if r.Roots != nil {
		config.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.Roots, ServerName: host}
	}
	plain := *config.Copy()
	plain.TLSConfig = nil
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil && r.Roots == nil && ctx.Err() == nil {
		conn, err = pgx.ConnectConfig(ctx, &plain) // a server that has no TLS yet
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s:%d as %s: %w", host, r.Port, r.User, plainCause(err))
	}
	return conn, nil
}

// plainCause is an error of pgx without the parts of the connection string.
func plainCause(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
