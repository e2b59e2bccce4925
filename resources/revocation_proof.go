package resources

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"converge/engine"
	"converge/engine/disk"
	"converge/resources/pki"
	"converge/resources/postgres"
)

// An Aftermath is what is left to know when certificates were revoked.
type Aftermath struct {
	Revoked  []Revocation // of the users that were named, by this run and by earlier ones, those that have not ended
	Proof    string       // what shows that the server of this node refuses them; "" when nothing does
	Sessions []postgres.CertificateSession
	SQL      string // ends those sessions
	Guessed  bool   // the server tells the name in a certificate and not its number: newer ones are among the sessions
}

// ErrStillAccepted is in the error of a server that lets somebody in with a revoked certificate.
var ErrStillAccepted = errors.New("the server still takes a revoked certificate")

// InspectRevoked finds out what became of the revoked certificates of users: it shows the node's server those whose keys are
// here, or else the certificate that only its lists call revoked, and looks for sessions that were opened with them before.
// A server that does not refuse them is an error.
func InspectRevoked(ctx context.Context, d *disk.Disk, g *engine.Graph, site Site, users []string) (Aftermath, error) {
	var out Aftermath
	a, k := authorityIn(g)
	if a == nil {
		return out, errors.New("the recipe has no cert_authority")
	}
	text, err := readFile(d, a.issuer().revokedFile())
	if err != nil {
		return out, err
	}
	known, err := parseRevocations(text)
	if err != nil {
		return out, fmt.Errorf("%s: %w", a.issuer().revokedFile(), err)
	}
	for _, r := range known.Revoked {
		if slices.Contains(users, r.User) {
			out.Revoked = append(out.Revoked, r)
		}
	}
	if site.Server == nil || k == nil {
		return out, nil
	}
	proc, err := site.Server.Process()
	if err != nil || proc.Phase != postgres.Running {
		return out, err
	}
	if out.Proof, err = prove(ctx, d, a, k, out.Revoked); err != nil {
		return out, err
	}
	return out, out.findSessions(ctx, site.Server)
}

// authorityIn finds the steps of the authority and of the server's key.
func authorityIn(g *engine.Graph) (a *CertAuthority, k *ServerKey) {
	for _, s := range g.Steps {
		switch r := s.Resource.(type) {
		case *CertAuthority:
			a = r
		case *ServerKey:
			k = r
		}
	}
	return a, k
}

func readFile(d *disk.Disk, file string) ([]byte, error) {
	b, _, err := d.ReadFile(file, certLimit)
	return b, err
}

// certOfSerial finds a certificate in a file of several; the zero one where it is not there.
func certOfSerial(text []byte, serial string) (pki.Certificate, error) {
	all, err := pki.ParseCertificates(text)
	if i := slices.IndexFunc(all, func(c pki.Certificate) bool { return serialOf(c) == serial }); i >= 0 {
		return all[i], nil
	}
	return pki.Certificate{}, err
}

// prove shows the server what it must refuse: what a list has as revoked, and what is of an authority that was dropped, and
// that no list is for any more, as of an unknown one.
func prove(ctx context.Context, d *disk.Disk, a *CertAuthority, k *ServerKey, all []Revocation) (string, error) {
	text, err := readFile(d, a.issuer().bundleFile)
	if err != nil {
		return "", err
	}
	trusted, err := pki.ParseCertificates(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", a.issuer().bundleFile, err)
	}
	keys := a.keysOf(d, all)
	shown := map[postgres.Verdict][]string{}
	for _, r := range all {
		text, err := readFile(d, a.issuer().issuedFile(pki.Client, r.User))
		if err != nil {
			continue // an earlier node of the authority has issued it
		}
		cert, err := certOfSerial(text, r.Serial)
		i := slices.IndexFunc(keys, func(k pki.PrivateKey) bool { return k.Matches(cert) })
		if err != nil || i < 0 {
			continue
		}
		want := postgres.UnknownIssuer
		if slices.ContainsFunc(trusted, func(authority pki.Certificate) bool { return authority.KeyID() == r.Issuer }) {
			want = postgres.RevokedByServer
		}
		if err := mustRefuse(ctx, k, r, cert, keys[i], want); err != nil {
			return "", err
		}
		shown[want] = append(shown[want], r.Short())
	}
	var proof []string
	for _, verdict := range []postgres.Verdict{postgres.RevokedByServer, postgres.UnknownIssuer} {
		if users := shown[verdict]; len(users) > 0 {
			proof = append(proof, fmt.Sprintf("shown the certificate and the key of %s, the server refuses: %s", list(users), verdict))
		}
	}
	if len(shown[postgres.UnknownIssuer]) > 0 {
		proof[len(proof)-1] += " (the authority was dropped)"
	}
	if len(proof) > 0 {
		return strings.Join(proof, "; "), nil
	}
	probe, err := readFile(d, path.Join(k.dir, serverProbe))
	if err != nil {
		return "", err
	}
	cert, err := tls.X509KeyPair(probe, probe)
	if err != nil {
		return "", fmt.Errorf("%s is no certificate with its key", path.Join(k.dir, serverProbe))
	}
	verdict, err := k.site.Server.ShowCertificate(ctx, cert)
	if err == nil && verdict != postgres.RevokedByServer {
		err = fmt.Errorf("%w: of one that is in %s it says %q; run converge apply", ErrStillAccepted, k.listFile(), verdict)
	}
	return fmt.Sprintf("no revoked key is here to be shown to the server; it calls a certificate revoked that no list but %s has, so it has that list", k.listFile()), err
}

// Short names the certificate in a few words.
func (r Revocation) Short() string {
	return fmt.Sprintf("%s (serial number %s)", r.User, strings.TrimLeft(r.Serial, "0"))
}

func mustRefuse(ctx context.Context, k *ServerKey, r Revocation, cert pki.Certificate, key pki.PrivateKey, want postgres.Verdict) error {
	pair, err := tls.X509KeyPair(cert.PEM(), key.PEM())
	if err != nil {
		return fmt.Errorf("the certificate of %s cannot be shown to the server", r.Short())
	}
	switch verdict, err := k.site.Server.ShowCertificate(ctx, pair); {
	case err != nil:
		return err
	case verdict != want:
		return fmt.Errorf("%w: of that of %s it says %q; run converge apply", ErrStillAccepted, r.Short(), verdict)
	}
	return nil
}

// keysOf reads the private keys of users that are still here: where they are in use, where the authority has them for other
// nodes, and in the archive. What cannot be read is not there.
func (a *CertAuthority) keysOf(d *disk.Disk, all []Revocation) []pki.PrivateKey {
	var files []string
	for _, p := range a.places {
		files = append(files, p.keyFile())
	}
	for _, user := range RevokedUsers(all) {
		files = append(files, a.vault(user).keyFile())
		old := a.site.oldUserKeys(user)
		root := path.Join(a.site.oldKeys(), old.kind)
		times, _ := d.ReadDir(root)
		for _, t := range times {
			files = append(files, path.Join(root, t.Name, old.of, old.key))
		}
	}
	var out []pki.PrivateKey
	for _, f := range files {
		text, err := readFile(d, f)
		if err != nil {
			continue
		}
		if key, err := pki.ParsePrivateKey(text); err == nil {
			out = append(out, key)
		}
	}
	return out
}

// RevokedUsers are the users of certificates that were revoked, as far as they are known, sorted.
func RevokedUsers(all []Revocation) []string {
	var out []string
	for _, r := range all {
		if r.User != "" {
			out = append(out, r.User)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// findSessions looks for what was let in before.
func (m *Aftermath) findSessions(ctx context.Context, s *postgres.Server) error {
	conn, facts, err := connect(ctx, s)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var serials []string
	for _, r := range m.Revoked {
		serials = append(serials, r.Decimal())
	}
	users := RevokedUsers(m.Revoked)
	m.Guessed = facts.Number < 120000
	m.SQL = "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE client_serial IN (" + strings.Join(serials, ", ") + ");"
	if m.Guessed {
		var names []string
		for _, u := range users {
			names = append(names, "'/CN="+strings.ReplaceAll(u, "'", "''")+"'")
		}
		m.SQL = "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE clientdn IN (" + strings.Join(names, ", ") + ");"
	}
	m.Sessions, err = conn.SessionsWith(ctx, facts, serials, users)
	return err
}

// Terminate ends the sessions that were found, and no others: each is asked for once more, because a process number can be
// another session's by now.
func (m *Aftermath) Terminate(ctx context.Context, s *postgres.Server) error {
	found := m.Sessions
	if err := m.findSessions(ctx, s); err != nil {
		return err
	}
	conn, _, err := connect(ctx, s)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, one := range found {
		if !slices.Contains(m.Sessions, one) {
			continue
		}
		if err := conn.Terminate(ctx, one.PID); err != nil {
			return err
		}
	}
	return nil
}

// Servers names the other nodes of the environment that have a server.
func Servers(site Site) []string {
	var out []string
	for _, n := range site.Environment.Nodes {
		if hasDatabase(n.Role) && n.Name != site.Node.Name {
			out = append(out, n.Name)
		}
	}
	return out
}
