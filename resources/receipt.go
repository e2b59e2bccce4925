package resources

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/engine/bundle"
	"converge/resources/pki"
	"converge/resources/postgres"
)

// receiptEntry is the key of the store at which a node tells the authority what has arrived there.
func receiptEntry(node string) string { return requestEntries + node + "/receipt" }

// A receiptBody is what a node tells the authority of what has arrived there. Authorities are told by fingerprint.
type receiptBody struct {
	Trusts []string       `json:"trusts"` // those that every root.crt of the node has, sorted
	Leaves map[string]int `json:"leaves"` // certificates, by who issued them; "" is an authority that the node does not know
	Since  time.Time      `json:"since"`  // when the node first told of these
	Server *serverReceipt `json:"server,omitempty"`
}

// A serverReceipt is what the node's running server shows.
type serverReceipt struct {
	Down     bool           `json:"down,omitempty"`
	Accepts  []string       `json:"accepts"`            // whose client certificates it accepts, sorted
	Issuer   string         `json:"issuer"`             // of the certificate that it shows; "" when it has no TLS
	Sessions map[string]int `json:"sessions,omitempty"` // with a certificate of another authority than the one that issues
}

// lacks says what of the node does not trust an authority; "" when all does.
func (r receiptBody) lacks(authority string) string {
	switch {
	case !slices.Contains(r.Trusts, authority):
		return "does not trust the new one yet: run converge apply there"
	case r.Server == nil:
		return ""
	case r.Server.Down:
		return "has a server that does not run"
	case r.Server.Issuer != "" && !slices.Contains(r.Server.Accepts, authority):
		return "has a server that does not accept the new one yet: run converge apply there"
	}
	return ""
}

// holds says what of the node is not of the authority that issues; "" when all is.
func (r receiptBody) holds(authority string) string {
	for issuer := range r.Leaves {
		if issuer != authority {
			return "still has a certificate of the old one: run converge apply there"
		}
	}
	switch {
	case r.Server == nil:
		return ""
	case r.Server.Down:
		return "has a server that does not run"
	case r.Server.Issuer != "" && r.Server.Issuer != authority:
		return "has a server that still shows a certificate of the old one: run converge apply there"
	}
	return ""
}

// sessions says how many sessions have a certificate of an authority; "" when none has.
func (r receiptBody) sessions(authority string) string {
	if r.Server == nil || r.Server.Sessions[authority] == 0 {
		return ""
	}
	return fmt.Sprintf("has %d sessions with a certificate of the old one, which stay until their clients connect again", r.Server.Sessions[authority])
}

// equal compares what two receipts say, whenever they were first told.
func (r receiptBody) equal(other receiptBody) bool {
	return fmt.Sprint(r.flat()) == fmt.Sprint(other.flat())
}

func (r receiptBody) flat() []any {
	if r.Server == nil {
		return []any{r.Trusts, r.Leaves}
	}
	return []any{r.Trusts, r.Leaves, *r.Server}
}

// observe looks at what this node trusts and holds. read is how the files of other steps are read.
func (s Site) observe(ctx context.Context, h *engine.Host, read func(string) ([]byte, error), places []place, roots []pki.Certificate, certFile string) (receiptBody, error) {
	r := receiptBody{Leaves: map[string]int{}}
	for _, c := range roots {
		r.Trusts = append(r.Trusts, c.Fingerprint())
	}
	for _, p := range places {
		text, err := read(p.rootFile())
		if err := unlessMissing(err); err != nil {
			return r, err
		}
		here, _ := pki.ParseCertificates(text) // of what cannot be read, nothing is trusted
		r.Trusts = slices.DeleteFunc(r.Trusts, func(fp string) bool {
			return !slices.ContainsFunc(here, func(c pki.Certificate) bool { return c.Fingerprint() == fp })
		})
		text, err = read(p.certFile())
		if err := unlessMissing(err); err != nil {
			return r, err
		}
		if cert, err := pki.ParseCertificate(text); err == nil {
			r.Leaves[issuerAmong(roots, cert)]++
		}
	}
	slices.Sort(r.Trusts)
	if s.Server == nil {
		return r, nil
	}
	var err error
	r.Server, err = s.observeServer(ctx, h, roots, certFile)
	return r, err
}

// issuerAmong returns the fingerprint of the authority that issued a certificate; "" when it is none of them.
func issuerAmong(roots []pki.Certificate, cert pki.Certificate) string {
	if i := slices.IndexFunc(roots, cert.IssuedBy); i >= 0 {
		return roots[i].Fingerprint()
	}
	return ""
}

// observeServer shakes hands with the node's server, and asks it for the sessions that an old authority has let in.
func (s Site) observeServer(ctx context.Context, h *engine.Host, roots []pki.Certificate, certFile string) (*serverReceipt, error) {
	out := &serverReceipt{}
	proc, err := s.Server.Process()
	if err != nil {
		return nil, err
	}
	if proc.Phase != postgres.Running {
		out.Down = true
		return out, nil
	}
	served, err := s.Server.Served(ctx)
	if err != nil && !errors.Is(err, postgres.ErrNoTCP) {
		return nil, err
	}
	if served.TLS && len(served.Certificates) > 0 {
		out.Issuer = issuerAmong(roots, pki.Certificate{Certificate: served.Certificates[0]})
	}
	for _, c := range roots {
		if served.Accepts(c.Certificate) {
			out.Accepts = append(out.Accepts, c.Fingerprint())
		}
	}
	slices.Sort(out.Accepts)
	h.Observe("authorities that the server accepts", strings.Join(out.Accepts, " "))
	if len(roots) < 2 {
		return out, nil
	}
	st, err := h.Stat(certFile)
	if err != nil {
		return nil, err
	}
	out.Sessions, err = s.oldSessions(ctx, h, roots, st.Changed)
	return out, err
}

// oldSessions counts the sessions whose certificate another authority has issued than the first, by authority. A server
// that does not tell is taken to have let those in with an old one that began before the first was here. A standby's stream
// is not counted: it would not end before one of the two servers does, and the standby has told what it connects with next.
func (s Site) oldSessions(ctx context.Context, h *engine.Host, roots []pki.Certificate, since time.Time) (map[string]int, error) {
	conn, facts, err := s.Session.take(ctx, s.Server)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	sessions, err := conn.CertificateSessions(ctx, facts)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, root := range roots[1:] {
		for _, one := range sessions {
			if !one.Replication && one.IssuedBy(root.Certificate) && (one.Issuer != "" || one.Started.Before(since)) {
				out[root.Fingerprint()]++
			}
		}
	}
	h.Observe("sessions of old authorities", fmt.Sprint(out))
	return out, nil
}

// receipt reads what a node has told. The time is zero when it has told nothing.
func (s Site) receipt(ctx context.Context, h *engine.Host, node string) (receiptBody, time.Time, error) {
	there, body, err := s.receiptStored(ctx, h, node)
	if err == nil {
		err = there.refused
	}
	if err != nil || there.version == 0 {
		return body, time.Time{}, err
	}
	return body, there.statement.Made, nil
}

func (s Site) receiptStored(ctx context.Context, h *engine.Host, node string) (stored, receiptBody, error) {
	var body receiptBody
	signers := map[string]bundle.HostKey{}
	for _, n := range s.Environment.Nodes {
		if n.Name == node {
			signers[n.Name], _ = hostKey(n)
		}
	}
	there, _, err := s.Delivery.get(ctx, h, bundle.Wanted{Environment: s.Environment.Name, Key: receiptEntry(node), Signers: signers, Now: h.Now()})
	if err == nil && there.version != 0 && there.refused == nil {
		err = there.statement.Decode(&body)
	}
	return there, body, err
}

// tell publishes what has arrived on this node, when the authority does not know it yet.
func (s Site) tell(ctx context.Context, h *engine.Host, i issuer, places []place) error {
	r, err := i.received(h)
	if engine.IsNotExist(err) {
		return nil // the step of the authority waits for it
	}
	if err != nil {
		return err
	}
	now, err := s.observe(ctx, h, h.ReadFile, places, r.roots, i.certFile)
	if err != nil {
		return err
	}
	there, before, err := s.receiptStored(ctx, h, s.Node.Name)
	if err != nil {
		return nil // the step of the authority has said that the store is away
	}
	if h.Acted() && there.version != 0 && there.refused == nil {
		return nil // told in this run; sessions come and go meanwhile
	}
	st := there.statement
	if now.Since = h.Now().UTC().Truncate(time.Second); there.version != 0 && there.refused == nil && maps.Equal(before.Leaves, now.Leaves) {
		now.Since = before.Since
	}
	asked := r.body.TellAfter != nil && st.Made.Before(*r.body.TellAfter) && st.Made.Before(s.Started.Truncate(time.Second))
	if there.version != 0 && there.refused == nil && before.equal(now) && !due(st, h.Now()) && !asked {
		return nil
	}
	id, err := s.identity(h)
	if err != nil {
		return err
	}
	text, err := s.sign(h, id, message{key: receiptEntry(s.Node.Name), after: st.Version, body: now})
	if err != nil {
		return err
	}
	h.Explain("tell "+s.authorityNode()+" what has arrived here", "it does not know yet")
	s.Delivery.publish(h, receiptEntry(s.Node.Name), there.version, text, "authorities trusted and certificates in use, no key")
	return nil
}
