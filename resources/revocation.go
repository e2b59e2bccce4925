package resources

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"path"
	"slices"
	"time"

	"converge/engine"
	"converge/resources/pki"
)

// Nothing of revocation is on a host before the first certificate is revoked: a server with ssl_crl_file refuses every
// client of an authority whose list is missing or has ended, and who never revokes need not run that risk. From then on the
// authority's directory has three files more:
//
//	revoked.json:   what was revoked, when and why. All else is made from it.
//	crl.pem:        a list of each authority that is trusted, signed by that authority (RFC 5280, 5). A list ends with its
//	                authority: it lies on the servers' own disks, and one that ended earlier would lock everybody out when
//	                nobody runs converge.
//	crl_probe.pem:  a certificate, with its key, that is on this very list and has ended long ago, so that nobody can log in
//	                with it. A server that has the list loaded calls it revoked, and every other one expired. It is the only
//	                evidence there is of what a server has loaded.
//
// The three are made anew together, with the next number, whenever one of them is not as it should be.

// A Revocation is one certificate that counts no longer.
type Revocation struct {
	Serial string    `json:"serial"`        // in hex
	User   string    `json:"user"`          // its common name; "" where only a list tells of it
	Issuer string    `json:"issuer"`        // the key identifier of its authority
	Key    string    `json:"key,omitempty"` // SHA-256 of its public key: no certificate is ever issued over that again
	End    time.Time `json:"end,omitzero"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// number is the serial number; nil where the file was tampered with.
func (r Revocation) number() *big.Int {
	n, ok := new(big.Int).SetString(r.Serial, 16)
	if !ok {
		return nil
	}
	return n
}

// Decimal is the serial number as pg_stat_ssl has it.
func (r Revocation) Decimal() string { return r.number().String() }

// revocations is the content of revoked.json.
type revocations struct {
	Format  int          `json:"format"`
	Number  int64        `json:"number"` // of the lists (RFC 5280, 5.2.3): it never falls
	Revoked []Revocation `json:"revoked"`
}

func parseRevocations(text []byte) (revocations, error) {
	var r revocations
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if r.Format != 1 {
		return r, fmt.Errorf("its format is %d, and this version of converge knows 1", r.Format)
	}
	for _, one := range r.Revoked {
		if n := one.number(); n == nil || n.Sign() <= 0 {
			return r, fmt.Errorf("%q is no serial number", one.Serial)
		}
	}
	return r, nil
}

func (r revocations) text() ([]byte, error) {
	r.Format = 1
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// add takes one in, once.
func (r *revocations) add(one Revocation) {
	if !slices.ContainsFunc(r.Revoked, func(other Revocation) bool { return other.Serial == one.Serial && other.Issuer == one.Issuer }) {
		r.Revoked = append(r.Revoked, one)
	}
}

// sort puts them in the order of time, and of serial numbers where that is the same.
func (r *revocations) sort() {
	slices.SortStableFunc(r.Revoked, func(a, b Revocation) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Serial, b.Serial)) })
}

// of are the entries of an authority's list.
func (r revocations) of(authority pki.Certificate) []pki.Revoked {
	var out []pki.Revoked
	for _, one := range r.Revoked {
		if one.Issuer == authority.KeyID() {
			out = append(out, pki.Revoked{Serial: one.number(), At: one.At})
		}
	}
	return out
}

// find returns the revocation of a certificate, or of another one over the same key: who has the key has them all.
func (r revocations) find(cert pki.Certificate) (Revocation, bool) {
	serial, key := serialOf(cert), keySum(cert)
	i := slices.IndexFunc(r.Revoked, func(one Revocation) bool {
		return one.Serial == serial && one.Issuer == cert.IssuerKeyID() || one.Key != "" && one.Key == key
	})
	if i < 0 {
		return Revocation{}, false
	}
	return r.Revoked[i], true
}

func serialOf(cert pki.Certificate) string { return fmt.Sprintf("%040x", cert.SerialNumber) }

func keySum(cert pki.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func (i issuer) revokedFile() string { return path.Join(i.dir, "revoked.json") }
func (i issuer) listFile() string    { return path.Join(i.dir, "crl.pem") }
func (i issuer) probeFile() string   { return path.Join(i.dir, "crl_probe.pem") }

// inheritedFile has what an earlier node of the authority has issued.
func (i issuer) inheritedFile() string { return path.Join(i.dir, "issued_before.json") }

func (i issuer) revocationTargets() []engine.Target {
	return []engine.Target{{Path: i.revokedFile()}, {Path: i.listFile()}, {Path: i.probeFile()}, {Path: i.inheritedFile()}}
}

// revocations reads what was revoked; nothing where nothing was.
func (i issuer) revocations(h *engine.Host) (revocations, error) {
	r, err := engine.Parsed(h, i.revokedFile(), parseRevocations)
	if engine.IsNotExist(err) {
		return revocations{}, nil
	}
	if err != nil {
		return r, fmt.Errorf("%s, which says what was revoked: %w; put it back from a backup, or move it away: it is made anew from %s", i.revokedFile(), err, path.Base(i.listFile()))
	}
	return r, nil
}

// isRevoked is the reason for which a key must not be used any more: nil when there is none.
func (i issuer) isRevoked(h *engine.Host, cert pki.Certificate) ([]pki.Reason, error) {
	r, err := i.revocations(h)
	if err != nil || cert.IsZero() {
		return nil, err
	}
	one, is := r.find(cert)
	if !is {
		return nil, nil
	}
	text := "it was revoked on " + one.At.UTC().Format(time.DateOnly)
	if one.Serial != serialOf(cert) {
		text = "a certificate over its key was revoked on " + one.At.UTC().Format(time.DateOnly)
	}
	if one.Reason != "" {
		text += fmt.Sprintf(" (%s)", one.Reason)
	}
	return []pki.Reason{{Kind: revoked, Text: text, Broken: true}}, nil
}

// issuer is the authority as those read it who are signed by it.
func (a *CertAuthority) issuer() issuer {
	return issuer{a.dir, a.certFile(), a.keyFile(), a.bundleFile(), a.receivedFile()}
}

// keepRevocations keeps the lists of what was revoked as they should be, and adds to them what this run is to revoke.
// authorities are those whose keys are here, the one that issues first. Where nothing was ever revoked there is nothing to
// do.
func (a *CertAuthority) keepRevocations(h *engine.Host, authorities []pair) error {
	known, there, err := a.knownRevocations(h, authorities)
	if err != nil {
		return err
	}
	fresh, asked, err := a.toRevoke(h, known)
	if err != nil {
		return err
	}
	if len(known.Revoked) == 0 && len(fresh) == 0 && known.Number == 0 {
		return nil
	}
	if known.Number == 0 {
		if err := a.noListOfOthers(h); err != nil {
			return err
		}
	}
	for _, one := range fresh {
		known.add(one)
	}
	known.sort()
	trusted, err := engine.Parsed(h, a.bundleFile(), pki.ParseCertificates)
	if err != nil {
		return fmt.Errorf("the bundle %s: %w", a.bundleFile(), err)
	}
	others, err := a.othersLists(h, there, trusted, authorities)
	if err != nil {
		return err
	}
	why := there.wrong(known, authorities, others, h.Now())
	if len(fresh) > 0 {
		why = asked
	}
	if why == "" {
		return a.keepLists(h, known)
	}
	return a.makeLists(h, known, there, authorities, others, fresh, why)
}

// knownRevocations is what was revoked so far. A list of the authorities' own that has more than revoked.json, because that
// was lost, because an operator made the list, or because this node has taken the authority over, is believed: what was
// revoked once never counts again by accident.
func (a *CertAuthority) knownRevocations(h *engine.Host, authorities []pair) (revocations, lists, error) {
	known, err := a.issuer().revocations(h)
	if err != nil {
		return known, lists{}, err
	}
	known.Revoked = slices.Clone(known.Revoked)
	there, err := a.issuer().lists(h)
	if err != nil {
		return known, there, err
	}
	for _, l := range there.lists {
		i := slices.IndexFunc(authorities, func(p pair) bool { return l.IssuedBy(p.cert) })
		if i < 0 {
			continue
		}
		if l.Number != nil && l.Number.IsInt64() {
			known.Number = max(known.Number, l.Number.Int64())
		}
		for _, e := range l.RevokedCertificateEntries {
			if there.probe.IsZero() || e.SerialNumber.Cmp(there.probe.SerialNumber) != 0 {
				known.add(Revocation{Serial: fmt.Sprintf("%040x", e.SerialNumber), Issuer: authorities[i].cert.KeyID(), At: e.RevocationTime.UTC()})
			}
		}
	}
	return known, there, nil
}

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
