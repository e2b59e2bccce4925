package resources

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/pki"
)

// An Issued is a client certificate that counts.
type Issued struct {
	Serial string    `json:"serial"`
	User   string    `json:"user"`
	Issuer string    `json:"issuer"`
	End    time.Time `json:"end"`
	Key    string    `json:"key,omitempty"`
}

// issued are the client certificates that are known here and have not ended, each once, sorted by user and end: those that
// were recorded when they were signed, those of an earlier node of the authority, and those in use on this node.
func (a *CertAuthority) issued(h *engine.Host) ([]Issued, error) {
	out, err := a.issuer().recorded(h)
	if err != nil {
		return nil, err
	}
	inherited, err := a.issuer().inherited(h)
	if err != nil {
		return nil, err
	}
	for _, i := range inherited {
		if h.Now().Before(i.End) {
			out = append(out, i)
		}
	}
	for _, file := range a.certificateFiles(h) {
		text, err := h.ReadBefore(file)
		if err := unlessMissing(err); err != nil {
			return nil, err
		}
		if cert, err := pki.ParseCertificate(text); err == nil && isClient(cert, h.Now()) {
			out = append(out, issuedOf(cert))
		}
	}
	return eachOnce(out), nil
}

func eachOnce(all []Issued) []Issued {
	slices.SortStableFunc(all, func(x, y Issued) int {
		return cmp.Or(cmp.Compare(x.User, y.User), x.End.Compare(y.End), cmp.Compare(x.Serial, y.Serial), -cmp.Compare(x.Key, y.Key))
	})
	return slices.CompactFunc(all, func(x, y Issued) bool { return x.Serial == y.Serial && x.Issuer == y.Issuer })
}

func issuedOf(cert pki.Certificate) Issued {
	return Issued{serialOf(cert), cert.Subject.CommonName, cert.IssuerKeyID(), cert.NotAfter.UTC(), keySum(cert)}
}

// isClient says whether somebody can log in with a certificate: servers of PostgreSQL take one without extended key usage.
func isClient(cert pki.Certificate, now time.Time) bool {
	return cert.Allows(pki.Client) && !cert.IsCA && now.Before(cert.NotAfter)
}

// recorded are the client certificates that the authority has recorded, those that count.
func (i issuer) recorded(h *engine.Host) ([]Issued, error) {
	names, err := h.ReadDir(i.issuedDir())
	if err := unlessMissing(err); err != nil {
		return nil, err
	}
	var out []Issued
	for _, name := range names {
		if !strings.HasSuffix(name, ".crt") {
			continue
		}
		certs, err := engine.Parsed(h, path.Join(i.issuedDir(), name), pki.ParseCertificates)
		if err != nil {
			return nil, fmt.Errorf("%s, which records a certificate: %w; put it back from a backup, or move it away", path.Join(i.issuedDir(), name), err)
		}
		for _, cert := range certs {
			if isClient(cert, h.Now()) {
				out = append(out, issuedOf(cert))
			}
		}
	}
	return out, nil
}

// inherited are those that an earlier node of the authority has issued.
func (i issuer) inherited(h *engine.Host) ([]Issued, error) {
	text, err := h.ReadFile(i.inheritedFile())
	if engine.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Issued
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("%s, which has what another node has issued: %w", i.inheritedFile(), err)
	}
	return out, nil
}

// certificateFiles are where certificates of users are in use on this node.
func (a *CertAuthority) certificateFiles(h *engine.Host) []string {
	var out []string
	for _, p := range a.places {
		out = append(out, p.certFile())
	}
	names, err := h.ReadDir(a.usersDir())
	if err != nil {
		return out // there is none
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".crt") {
			out = append(out, path.Join(a.usersDir(), name))
		}
	}
	return out
}

// toRevoke are the certificates that this run is asked to revoke, or that the recipe wants revoked, and that are not revoked
// yet, with the reason for people.
func (a *CertAuthority) toRevoke(h *engine.Host, known revocations) (out []Revocation, why string, err error) {
	m := a.site.Maintenance
	asked := m != nil && len(m.Revoke) > 0 && !m.chosen
	if !asked && len(a.gone) == 0 {
		return nil, "", nil
	}
	all, err := a.issued(h)
	if err != nil {
		return nil, "", err
	}
	take := func(list []Issued, reason string) {
		for _, i := range list {
			is := func(r Revocation) bool { return r.Serial == i.Serial && r.Issuer == i.Issuer }
			if !slices.ContainsFunc(known.Revoked, is) && !slices.ContainsFunc(out, is) {
				out = append(out, Revocation{i.Serial, i.User, i.Issuer, i.Key, i.End, h.Now().UTC().Truncate(time.Second), reason})
			}
		}
	}
	if asked {
		wanted, err := choose(all, m.Revoke, m.Serials)
		if err != nil {
			return nil, "", err
		}
		take(wanted, m.Reason)
		// They are chosen once: the key that a user gets afterwards is not among them when the step is looked at again.
		m.chosen, m.Revoked, why = true, out, "asked for"
	}
	before := len(out)
	take(slices.DeleteFunc(all, func(i Issued) bool { return !slices.Contains(a.gone, i.User) }), "declared absent")
	if len(out) > before && why == "" {
		why = "the recipe declares absent, with revoke = true: " + list(RevokedUsers(out))
	}
	return out, why, nil
}

// choose finds the certificates of users, or those of them with a serial number and all others over the same key: who has
// the key has them all.
func choose(all []Issued, users, serials []string) ([]Issued, error) {
	var out []Issued
	for _, user := range users {
		n := len(out)
		for _, i := range all {
			if i.User == user {
				out = append(out, i)
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("no certificate of %q is known here that has not ended: nothing can be revoked; there are certificates of %s", user, orNobody(usersIn(all)))
		}
	}
	if len(serials) == 0 {
		return out, nil
	}
	keys := map[string]bool{}
	for _, s := range serials {
		i := slices.IndexFunc(out, func(i Issued) bool { return i.Serial == s })
		if i < 0 {
			return nil, fmt.Errorf("no certificate of %s has the serial number %s; there are %s", list(users), strings.TrimLeft(s, "0"), list(serialsIn(out)))
		}
		keys[out[i].keyOrSerial()] = true
	}
	return slices.DeleteFunc(out, func(i Issued) bool { return !keys[i.keyOrSerial()] }), nil
}

func (i Issued) keyOrSerial() string { return cmp.Or(i.Key, i.Serial) }

func usersIn(all []Issued) []string {
	var out []string
	for _, i := range all {
		out = append(out, i.User)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func serialsIn(all []Issued) []string {
	var out []string
	for _, i := range all {
		out = append(out, fmt.Sprintf("%s (of %s, until %s)", strings.TrimLeft(i.Serial, "0"), i.User, i.End.Format(time.DateOnly)))
	}
	return out
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return list(names)
}

// ParseSerial reads a serial number as openssl and others write it: hex, with or without colons.
func ParseSerial(text string) (string, error) {
	n, ok := new(big.Int).SetString(strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(text), "0x"), ":", ""), 16)
	if !ok || n.Sign() <= 0 || n.BitLen() > 160 {
		return "", fmt.Errorf("%q is no serial number: it has up to 40 hex digits", text)
	}
	return fmt.Sprintf("%040x", n), nil
}
