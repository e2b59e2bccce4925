package postgres

import (
	"context"
	"crypto/x509"
	"strings"
	"time"
)

// A CertificateSession is an open session whose client showed a certificate.
type CertificateSession struct {
	PID     int
	User    string
	Subject string    // of the certificate, as OpenSSL writes it in one line, "/CN=alice"
	Serial  string    // of the certificate, in decimal; "" before 12
	Issuer  string    // its authority's name, "/CN=production CA 1f"; "" before 12
	Started time.Time // when the session began

	Replication bool // a standby's stream
}

// IssuedBy says whether the session's certificate may be from an authority. Before 12 a server does not tell, and whether
// the session is older than the authority's successor is for the caller to ask.
func (s CertificateSession) IssuedBy(ca *x509.Certificate) bool {
	name := "/CN=" + ca.Subject.CommonName
	return s.Issuer == "" || strings.HasSuffix(s.Issuer, name) || strings.Contains(s.Issuer, name+"/")
}

// CertificateSessions lists the sessions with a client certificate, those of replication among them, sorted by when they
// began. Who may not see others' sessions sees none of them.
func (c *Conn) CertificateSessions(ctx context.Context, f Facts) ([]CertificateSession, error) {
	columns, subject := "coalesce(s.client_serial::text, ''), coalesce(s.issuer_dn, '')", "s.client_dn"
	if f.Number < 120000 {
		columns, subject = "'', ''", "s.clientdn"
	}
	rows, err := c.Query(ctx, `select a.pid, coalesce(a.usename::text, ''), `+subject+`, `+columns+`, coalesce(a.backend_start, now()), coalesce(a.backend_type = 'walsender', false)
		from pg_catalog.pg_stat_ssl s join pg_catalog.pg_stat_activity a using (pid) where `+subject+` <> '' order by a.backend_start, a.pid`)
	if err != nil {
		return nil, c.questionError("ask for sessions with certificates", err)
	}
	defer rows.Close()
	var out []CertificateSession
	for rows.Next() {
		var s CertificateSession
		if err := rows.Scan(&s.PID, &s.User, &s.Subject, &s.Serial, &s.Issuer, &s.Started, &s.Replication); err != nil {
			return nil, c.questionError("ask for sessions with certificates", err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		return nil, c.questionError("ask for sessions with certificates", err)
	}
	return out, nil
}
