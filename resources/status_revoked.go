package resources

import (
	"context"
	"math/big"
	"slices"

	"converge/resources/postgres"
)

// RevokedSessions are open sessions that came in with a certificate which has been revoked since.
type RevokedSessions struct {
	User     string `json:"user"`
	Serial   string `json:"serial"` // of the certificate, in hex
	Sessions int    `json:"sessions"`

	decimal string
}

// revokedSessions finds the sessions that a server would not let in any more: it looks at a certificate when a connection
// begins. Before 12 it does not tell which one that was.
func (in *inspection) revokedSessions(ctx context.Context, conn *postgres.Conn, facts postgres.Facts) {
	revoked := map[string]bool{}
	for _, c := range in.status.CRLs {
		for _, serial := range c.serials {
			revoked[serial] = true
		}
	}
	if len(revoked) == 0 {
		return
	}
	sessions, err := conn.CertificateSessions(ctx, facts)
	if err != nil {
		in.unknown("sessions with revoked certificates", err)
		return
	}
	all := &in.status.Revoked
	for _, s := range sessions {
		if !revoked[s.Serial] {
			continue
		}
		i := slices.IndexFunc(*all, func(r RevokedSessions) bool { return r.User == s.User && r.decimal == s.Serial })
		if i < 0 {
			n, _ := new(big.Int).SetString(s.Serial, 10)
			i, *all = len(*all), append(*all, RevokedSessions{User: s.User, Serial: n.Text(16), decimal: s.Serial})
		}
		(*all)[i].Sessions++
	}
}
