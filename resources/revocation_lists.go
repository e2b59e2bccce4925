package resources

import (
	"crypto/tls"
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
	if string(here) != string(text) {
		h.Explain("put what is revoked where the server reads it", "it is not there as "+i.listFile()+" has it")
	}
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
