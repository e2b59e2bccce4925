package resources

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/pki"
	"converge/resources/postgres"
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

// lists is what stands in crl.pem and crl_probe.pem, or in the copies of them beside a server's key.
type lists struct {
	lists    []pki.RevocationList
	probe    pki.Certificate
	probeKey pki.PrivateKey
	problem  string // why they cannot be read, or belong to nobody
	missing  bool   // there is no crl.pem
}

func (i issuer) lists(h *engine.Host) (lists, error) { return listsIn(h, i.listFile(), i.probeFile()) }

func listsIn(h *engine.Host, listFile, probeFile string) (lists, error) {
	var l lists
	text, err := h.ReadFile(listFile)
	if engine.IsNotExist(err) {
		return lists{missing: true, problem: "there are none"}, nil
	}
	if err != nil {
		return l, err
	}
	if l.lists, err = pki.ParseRevocationLists(text); err != nil {
		l.problem = fmt.Sprintf("%s: %v", listFile, err)
	}
	text, err = h.ReadFile(probeFile)
	if err := unlessMissing(err); err != nil {
		return l, err
	}
	if l.probe, l.probeKey, err = parseProbe(text); err != nil && l.problem == "" {
		l.problem = fmt.Sprintf("%s: %v", probeFile, err)
	}
	return l, nil
}

// parseProbe reads a certificate and its key from one file.
func parseProbe(text []byte) (pki.Certificate, pki.PrivateKey, error) {
	key, err := pki.ParsePrivateKey(text)
	if err != nil {
		return pki.Certificate{}, key, err
	}
	begin := strings.Index(string(text), "-----BEGIN CERTIFICATE-----")
	end := strings.Index(string(text), "-----BEGIN PRIVATE KEY-----")
	cert, err := pki.ParseCertificate(text[max(begin, 0):max(begin, end, 0)])
	if err == nil && !key.Matches(cert) {
		err = fmt.Errorf("its key does not belong to its certificate")
	}
	return cert, key, err
}

// wrong says why the lists have to be made anew; "" when they are as they should be.
func (l lists) wrong(known revocations, authorities []pair, others []pki.RevocationList, now time.Time) string {
	switch {
	case l.problem != "":
		return l.problem
	case !l.probe.IssuedBy(authorities[0].cert):
		return "the certificate that shows which lists a server has is not of the authority that issues"
	case len(l.lists) != len(authorities)+len(others):
		return fmt.Sprintf("there are %d, and %d authorities are trusted", len(l.lists), len(authorities)+len(others))
	}
	for i, p := range authorities {
		revoked := known.of(p.cert)
		if i == 0 {
			revoked = append(revoked, pki.Revoked{Serial: l.probe.SerialNumber})
		}
		if found := pki.WrongRevocationList(l.of(p.cert), p.cert, revoked, now); len(found) > 0 {
			return fmt.Sprintf("the list of %q: %s", p.cert.Subject.CommonName, pki.Sentences(found))
		}
	}
	return ""
}

// of is an authority's own list; the zero list where it has none.
func (l lists) of(authority pki.Certificate) pki.RevocationList {
	i := slices.IndexFunc(l.lists, func(one pki.RevocationList) bool { return one.NamesIssuer(authority) })
	if i < 0 {
		return pki.RevocationList{}
	}
	return l.lists[i]
}

// unsafe says why a server must not get the lists: it would turn away clients that it must not. "" when it may.
func (l lists) unsafe(trusted []pki.Certificate, now time.Time) string {
	if l.problem != "" {
		return l.problem
	}
	for _, authority := range trusted {
		if found := pki.UnsafeRevocationList(l.of(authority), authority, now); len(found) > 0 {
			return fmt.Sprintf("every client of the authority %q would be locked out: %s", authority.Subject.CommonName, pki.Sentences(found))
		}
	}
	return ""
}

// othersLists are the lists of authorities that are trusted and whose keys are not here: an operator's. Where there is none,
// a server with lists would refuse all of their clients.
func (a *CertAuthority) othersLists(h *engine.Host, there lists, trusted []pki.Certificate, authorities []pair) ([]pki.RevocationList, error) {
	var out []pki.RevocationList
	for _, authority := range trusted {
		if slices.ContainsFunc(authorities, func(p pair) bool { return p.cert.Fingerprint() == authority.Fingerprint() }) {
			continue
		}
		list := there.of(authority)
		found := pki.UnsafeRevocationList(list, authority, h.Now())
		if list.IsZero() || slices.ContainsFunc(found, func(r pki.Reason) bool { return r.Kind == pki.BadSignature }) {
			return nil, fmt.Errorf("%s trusts %q, whose key is not here, and its revocation list is not in %s (%s): a server with the lists of the others would refuse all of its clients; append its list there, in PEM, or take it out of the bundle",
				a.bundleFile(), authority.Subject.CommonName, a.issuer().listFile(), pki.Sentences(found))
		}
		if len(found) > 0 {
			h.Warn(fmt.Sprintf("the revocation list of %q, whose key is not here: %s; servers refuse all of its clients: put a newer one into %s", authority.Subject.CommonName, pki.Sentences(found), a.issuer().listFile()))
		}
		out = append(out, list)
	}
	return out, nil
}

// noListOfOthers refuses to begin with lists where an operator has some already: those of converge would take their place.
func (a *CertAuthority) noListOfOthers(h *engine.Host) error {
	if a.site.Server == nil {
		return nil
	}
	conf, err := a.site.Server.Conf(postgres.Root(h.Root()))
	if err != nil {
		return err
	}
	for _, name := range []string{"ssl_crl_file", "ssl_crl_dir"} {
		if set, is := conf.Get(name); is && set.Value != "" {
			return fmt.Errorf("%s line %d sets %s to %s, and nothing was revoked with converge yet: put the lists that are there into %s (in PEM, one file for all), where those of this authority are believed and go on, and take the setting away",
				set.File, set.Line, name, set.Value, a.issuer().listFile())
		}
	}
	return nil
}

// keepLists keeps what is right, with owner and mode mended.
func (a *CertAuthority) keepLists(h *engine.Host, known revocations) error {
	i := a.issuer()
	text, err := h.ReadFile(i.listFile())
	if err != nil {
		return err
	}
	probe, err := h.ReadFile(i.probeFile())
	if err != nil {
		return err
	}
	if err := h.WriteFile(i.listFile(), text, rootPublic, engine.NoDiff); err != nil {
		return err
	}
	if err := h.WriteSecret(i.probeFile(), engine.NewSecret(probe), rootSecret, engine.NoDiff); err != nil {
		return err
	}
	return a.writeRevoked(h, known)
}

// writeRevoked writes revoked.json.
func (a *CertAuthority) writeRevoked(h *engine.Host, known revocations, options ...engine.WriteOption) error {
	text, err := known.text()
	if err != nil {
		return err
	}
	return h.WriteFile(a.issuer().revokedFile(), text, rootPublic, append(options, engine.NoDiff)...)
}

// makeLists makes the next generation: lists, and the certificate that shows that they are loaded.
func (a *CertAuthority) makeLists(h *engine.Host, known revocations, old lists, authorities []pair, others []pki.RevocationList, fresh []Revocation, why string) error {
	known.Number++
	issues := authorities[0]
	cert, key, err := pki.NewProbe(h.Rand(), h.Now(), issues.cert, issues.key, fmt.Sprintf("converge revocation list %d", known.Number))
	if err != nil {
		return err
	}
	all := slices.Clone(others)
	for i, p := range authorities {
		revoked := known.of(p.cert)
		if i == 0 {
			revoked = append(revoked, pki.Revoked{Serial: cert.SerialNumber, At: h.Now(), Reason: pki.CessationOfOperation})
		}
		list, err := pki.NewRevocationList(h.Rand(), h.Now(), p.cert, p.key, big.NewInt(known.Number), revoked)
		if err != nil {
			return fmt.Errorf("%q: %w", p.cert.Subject.CommonName, err)
		}
		all = append(all, list)
	}
	made := lists{lists: all, probe: cert, probeKey: key}
	if wrong := made.wrong(known, authorities, others, h.Now()); wrong != "" {
		return fmt.Errorf("the revocation lists that were made are wrong: %s", wrong)
	}
	a.explainLists(h, known, old, fresh, why)
	i := a.issuer()
	if err := a.writeRevoked(h, known, engine.Generated); err != nil {
		return err
	}
	probe := append(cert.PEM(), key.PEM()...)
	if err := h.WriteSecret(i.probeFile(), engine.NewSecret(probe), rootSecret, engine.Generated, engine.NoDiff); err != nil {
		return err
	}
	return h.WriteFile(i.listFile(), pki.RevocationLists(all...), rootPublic, engine.Generated, engine.NoDiff)
}

func (a *CertAuthority) explainLists(h *engine.Host, known revocations, old lists, fresh []Revocation, why string) {
	if c := a.site.Change; len(fresh) == 0 && c != nil && c.Moved {
		return // the change of authorities has its own words
	}
	if len(fresh) == 0 {
		h.Explain(fmt.Sprintf("make the revocation lists anew, with the number %d", known.Number), why)
		return
	}
	var said []string
	for _, one := range fresh {
		said = append(said, fmt.Sprintf("%s of %s (until %s)", strings.TrimLeft(one.Serial, "0"), one.User, one.End.UTC().Format(time.DateOnly)))
	}
	h.Explain(fmt.Sprintf("revoke %s: %s", countOf(len(fresh), "certificate", "certificates"), strings.Join(said, ", ")), why)
	if old.missing {
		h.Warn("from now on every server has a list of what is revoked (ssl_crl_file), and refuses all clients when that is lost: leave the files where they are, converge keeps them")
	}
}

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

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

// The copies beside a server's key.
const (
	serverList  = "root.crl"
	serverProbe = serverList + proofSuffix
	proofSuffix = ".probe"
)

func (k *ServerKey) listFile() string { return path.Join(k.dir, serverList) }

// keepLists puts the lists of what is revoked beside root.crt, where the authority has some. What would lock clients out
// is not put there.
func (k *ServerKey) keepLists(h *engine.Host) error {
	i, p := k.leaf.issuer, k.leaf.places[0]
	l, err := i.lists(h)
	if err != nil || l.missing {
		return err
	}
	if err := p.make(h); err != nil {
		return err
	}
	trusted, err := engine.Parsed(h, i.bundleFile, pki.ParseCertificates)
	if err != nil {
		return err
	}
	text, err := h.ReadFile(i.listFile())
	if err != nil {
		return err
	}
	here, err := h.ReadFile(k.listFile())
	if err := unlessMissing(err); err != nil {
		return err
	}
	switch why := l.unsafe(trusted, h.Now()); {
	case why != "" && string(here) == string(text):
		h.Warn(fmt.Sprintf("the revocation lists in %s: %s; run converge apply on %s, then here", k.listFile(), why, k.site.authorityNode()))
	case why != "":
		return fmt.Errorf("the revocation lists in %s are not put into use: %s", i.listFile(), why)
	}
	probe, err := h.ReadFile(i.probeFile())
	if err != nil {
		return err
	}
	h.Explain("put what is revoked where the server reads it", "it is not there as "+i.listFile()+" has it")
	options := append(copied(h, i.listFile()), engine.NoDiff)
	if err := h.WriteFile(k.listFile(), text, p.owner, options...); err != nil {
		return err
	}
	return h.WriteSecret(path.Join(k.dir, serverProbe), engine.NewSecret(probe), p.keyMode, options...)
}

// shownProbe is the certificate that only the lists in a file call revoked; false where there is none beside it, as with an
// operator's own file.
func shownProbe(h *engine.Host, listFile string) (tls.Certificate, bool, error) {
	text, err := h.ReadFile(listFile + proofSuffix)
	if engine.IsNotExist(err) {
		return tls.Certificate{}, false, nil
	}
	if err != nil {
		return tls.Certificate{}, false, err
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return cert, false, fmt.Errorf("%s: it is no certificate with its key", listFile)
	}
	return cert, true, nil
}
