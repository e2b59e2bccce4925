package resources

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"converge/engine"
	"converge/resources/postgres"
)

// deliveredLists is what is revoked, on its way to a server.
type deliveredLists struct {
	Lists string `json:"lists"` // PEM: of each authority that is trusted
	Probe []byte `json:"probe"` // PEM, a certificate with its key: it has ended long ago, so the key opens nothing
}

func (l *deliveredLists) equal(other *deliveredLists) bool {
	if l == nil || other == nil {
		return l == other
	}
	return l.Lists == other.Lists && bytes.Equal(l.Probe, other.Probe)
}

// listsToDeliver reads what the servers of other nodes are to have; nil where nothing was ever revoked.
func (i issuer) listsToDeliver(h *engine.Host) (*deliveredLists, error) {
	text, err := h.ReadFile(i.listFile())
	if engine.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	probe, err := h.ReadFile(i.probeFile())
	if err != nil {
		return nil, err
	}
	return &deliveredLists{string(text), probe}, nil
}

// keepDelivered keeps what the authority says of revoked certificates, for the server's step. When the authority has no
// lists, as a new one that has revoked nothing, none must be left here: they would be another's.
func (i issuer) keepDelivered(h *engine.Host, l *deliveredLists) error {
	if l == nil {
		if err := h.Remove(i.listFile(), engine.NoDiff); err != nil {
			return err
		}
		return h.Remove(i.probeFile(), engine.NoDiff)
	}
	if err := h.WriteSecret(i.probeFile(), engine.NewSecret(l.Probe), rootSecret, engine.NoDiff); err != nil {
		return err
	}
	return h.WriteFile(i.listFile(), []byte(l.Lists), rootPublic, engine.NoDiff)
}

// addRevocations puts into escrow what is revoked and what there is to revoke, for who takes the authority over.
func (p *publisher) addRevocations(body *escrowBody) error {
	known, err := p.issuer.revocations(p.h)
	if err != nil {
		return err
	}
	if len(known.Revoked) > 0 {
		text, err := known.text()
		if err != nil {
			return err
		}
		body.Revoked = string(text)
	}
	recorded, err := p.issuer.recorded(p.h)
	if err != nil {
		return err
	}
	inherited, err := p.issuer.inherited(p.h)
	if err != nil {
		return err
	}
	for _, i := range inherited {
		if p.h.Now().Before(i.End) {
			recorded = append(recorded, i)
		}
	}
	body.Issued = eachOnce(recorded)
	if size := body.public(); size > escrowRoom/2 {
		p.h.Warn(fmt.Sprintf("what was issued is too much for escrow (%d bytes, and there is room for %d): after a takeover only what is in use can be revoked", size, escrowRoom/2))
		body.Issued = nil
	}
	return nil
}

// public is how many bytes of the body are no secret.
func (b *escrowBody) public() int {
	text, err := json.Marshal(escrowBody{Revoked: b.Revoked, Issued: b.Issued, Others: b.Others, Change: b.Change, Roots: b.Roots})
	if err != nil {
		panic(fmt.Sprintf("resources: strings and times cannot be written: %v", err))
	}
	return len(text)
}

// inherit takes from escrow what the node that had the authority before has revoked and issued.
func (a *CertAuthority) inherit(h *engine.Host, body escrowBody) error {
	i := a.issuer()
	known, err := i.revocations(h)
	if err != nil {
		return err
	}
	known.Revoked = slices.Clone(known.Revoked)
	if body.Revoked != "" {
		theirs, err := parseRevocations([]byte(body.Revoked))
		if err != nil {
			return fmt.Errorf("what is revoked, in escrow: %w", err)
		}
		known.Number = max(known.Number, theirs.Number)
		for _, one := range theirs.Revoked {
			known.add(one)
		}
		known.sort()
		if err := a.writeRevoked(h, known); err != nil {
			return err
		}
	}
	if len(body.Issued) == 0 {
		return nil
	}
	before, err := i.inherited(h)
	if err != nil {
		return err
	}
	text, err := json.Marshal(eachOnce(append(before, body.Issued...)))
	if err != nil {
		return err
	}
	return h.WriteFile(i.inheritedFile(), append(text, '\n'), rootPublic, engine.NoDiff)
}

// compareRevocations finds out whether the server has loaded the lists on the disk. No view of it tells; that it calls a
// certificate revoked which only these lists call so does. Asking leaves a line in the server's log, so it is asked when a
// reload is owed, and after one; else the time of the file has to do, as for pg_hba.conf.
func (e *evidence) compareRevocations(ctx context.Context, h *engine.Host, s *postgres.Server, conf *postgres.Conf) error {
	file := s.Path(conf.Value("ssl_crl_file", ""))
	if file == "" {
		return nil
	}
	newer, err := newerFiles(h, []string{file}, e.facts.Loaded)
	if err != nil || len(newer) > 0 {
		e.stale = append(e.stale, newer...)
		return err
	}
	if _, owed := h.Owed(); !owed && !h.Acted() {
		return nil
	}
	probe, there, err := shownProbe(h, file)
	if err != nil || !there {
		return err
	}
	verdict, err := s.ShowCertificate(ctx, probe)
	if err != nil {
		return err
	}
	h.Observe("a revoked certificate", string(verdict))
	if verdict != postgres.RevokedByServer {
		e.stale = append(e.stale, fmt.Sprintf("the server does not use the revocations in %s: of a certificate that is among them it says %q", file, verdict))
	}
	return nil
}
