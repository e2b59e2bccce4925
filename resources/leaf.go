package resources

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"

	"converge/engine"
	"converge/resources/pki"
)

// A place is a directory that holds a key, its certificate and the authorities that its user trusts.
type place struct {
	dir             string
	key, cert, root string // names in dir
	owner           engine.Attr
	keyMode         engine.Attr
}

func (p place) keyFile() string  { return path.Join(p.dir, p.key) }
func (p place) certFile() string { return path.Join(p.dir, p.cert) }
func (p place) rootFile() string { return path.Join(p.dir, p.root) }

func (p place) targets() []engine.Target {
	out := []engine.Target{{Path: p.dir, Dir: true}, {Path: p.keyFile()}, {Path: p.certFile()}}
	if p.root != "" {
		out = append(out, engine.Target{Path: p.rootFile()})
	}
	return out
}

// vault is where the authority keeps a user's key for the nodes that are to have it.
func (i issuer) vault(user string) place {
	p := newPlace(path.Join(i.dir, "users"), user+".key", user+".crt", 0, 0)
	p.root = ""
	return p
}

// newPlace is a directory whose files belong to one account. Only that account may enter it.
func newPlace(dir, key, cert string, uid, gid int) place {
	return place{
		dir: dir, key: key, cert: cert, root: "root.crt",
		owner:   engine.Attr{Mode: 0o644, UID: uid, GID: gid},
		keyMode: engine.Attr{Mode: 0o600, UID: uid, GID: gid},
	}
}

// A leaf is a key with a certificate that stand in one or more places.
type leaf struct {
	issuer issuer
	spec   pki.LeafSpec
	renew  renewal
	places []place
	what   string       // "the server certificate of db1", for people
	old    archive      // where its old keys go
	asked  *Maintenance // another key is asked for in this run; nil: none is
	leave  bool         // what this run revokes stays where it is

	// also keeps what else of a pair is to stand in a place with the authorities to trust, not in a vault; nil: nothing.
	also func(h *engine.Host, p place, f found, roots []byte, options []engine.WriteOption) error
}

// found is what stands in one place.
type found struct {
	key     pki.PrivateKey
	cert    pki.Certificate
	reasons []pki.Reason
	missing bool // nothing stands there at all
}

// converge makes the same good key and certificate stand in every place: the first good pair that one of them has, or a
// new one.
func (l leaf) converge(h *engine.Host) error {
	authority, err := l.issuer.cert(h)
	if err != nil {
		return err
	}
	bundle, err := h.ReadFile(l.issuer.bundleFile)
	if err != nil {
		return err
	}
	good, first := -1, found{}
	for i, p := range l.places {
		f, err := l.look(h, p, authority)
		if err != nil {
			return err
		}
		if i == 0 || first.missing && !f.missing {
			first = f
		}
		if len(f.reasons) == 0 {
			good, first = i, f
			break
		}
	}
	if l.leave && good < 0 && slices.ContainsFunc(first.reasons, isRevoked) {
		return nil // the next apply issues another key
	}
	if l.asked != nil && l.asked.pending(l.what, first.cert.Fingerprint()) {
		good = -1
		if first, err = l.other(h, authority, first); err != nil {
			return err
		}
	}
	var fresh []engine.WriteOption
	if good < 0 && len(first.reasons) > 0 {
		if first, err = l.renewed(h, authority, bundle, first); err != nil {
			return err
		}
		fresh = []engine.WriteOption{engine.Generated}
	}
	if err := l.issuer.record(h, l.spec.Usage, first.cert); err != nil {
		return err
	}
	return l.install(h, first, bundle, fresh)
}

// install makes a pair stand in every place, with the authorities to trust.
func (l leaf) install(h *engine.Host, f found, roots []byte, options []engine.WriteOption) error {
	for _, p := range l.places {
		if err := p.write(h, f, l.old, options); err != nil {
			return err
		}
		if err := l.writeRoots(h, p, roots); err != nil {
			return err
		}
		if l.also == nil || p.root == "" {
			continue
		}
		if err := l.also(h, p, f, roots, options); err != nil {
			return err
		}
	}
	return nil
}

// other is what is to stand in the place of a pair, because somebody asked for it: a new key, or the one before.
func (l leaf) other(h *engine.Host, authority pki.Certificate, now found) (found, error) {
	if !l.asked.back() {
		now.reasons = append(now.reasons, pki.Reason{Kind: askedFor, Text: "a new key is asked for"})
		return now, nil
	}
	before, dir, err := l.before(h, authority)
	if err != nil {
		return found{}, err
	}
	h.Explain("bring back the key of "+l.what, "asked for; it is in "+dir)
	return before, nil
}

// before is the key that was in use before, from the archive, with its certificate.
func (l leaf) before(h *engine.Host, authority pki.Certificate) (found, string, error) {
	dir, files, err := l.old.newest(h, l.old.key, l.old.cert)
	if err != nil {
		return found{}, "", err
	}
	if dir == "" {
		return found{}, "", fmt.Errorf("no old key of %s is in %s: nothing can be brought back", l.what, path.Join(l.old.site.oldKeys(), l.old.kind))
	}
	f := found{}
	if f.key, err = pki.ParsePrivateKey(files[0]); err != nil {
		return f, dir, fmt.Errorf("%s: %w", path.Join(dir, l.old.key), err)
	}
	if f.cert, err = pki.ParseCertificate(files[1]); err != nil {
		return f, dir, fmt.Errorf("%s: %w", path.Join(dir, l.old.cert), err)
	}
	if found, err := l.issuer.isRevoked(h, f.cert); err != nil || len(found) > 0 {
		return f, dir, cmp.Or(err, fmt.Errorf("the key in %s cannot come back: %s", dir, pki.Sentences(found)))
	}
	if !f.key.Fits(authority, l.spec) {
		return f, dir, fmt.Errorf("the key in %s is %s, and %s is declared: it cannot come back", dir, f.key.Algorithm(), l.spec.Algorithm)
	}
	for _, r := range pki.Wrong(f.cert, f.key, authority, l.spec, h.Now(), l.renew.before) {
		if r.Kind == pki.OtherAuthority {
			r.Kind = retired // the key is as good as it was: its certificate is made anew
		}
		f.reasons = append(f.reasons, r)
	}
	return f, dir, nil
}

// writeRoots puts the authorities to trust beside a key.
func (l leaf) writeRoots(h *engine.Host, p place, roots []byte) error {
	if p.root == "" {
		return nil
	}
	return h.WriteFile(p.rootFile(), roots, p.owner, copied(h, l.issuer.bundleFile)...)
}

// deliver makes a key and certificate that came from the authority stand in every place. key is asked for the private key
// only where one of the places does not have it yet.
func (l leaf) deliver(h *engine.Host, cert pki.Certificate, key func() (pki.PrivateKey, error)) error {
	authority, err := l.issuer.cert(h)
	if err != nil {
		return err
	}
	roots, err := h.ReadFile(l.issuer.bundleFile)
	if err != nil {
		return err
	}
	var have pki.PrivateKey
	for _, p := range l.places {
		f, err := l.look(h, p, authority)
		if err != nil {
			return err
		}
		if f.key.Matches(cert) {
			have = f.key
		}
	}
	if have.IsZero() {
		if have, err = key(); err != nil {
			return err
		}
	}
	for _, r := range pki.Wrong(cert, have, authority, l.spec, h.Now(), 0) {
		switch {
		case r.Kind == pki.Expired:
			h.Warn(fmt.Sprintf("%s %s: run converge apply on the node that has the authority", l.what, r))
		case r.Broken:
			return fmt.Errorf("%s that the authority's node issued is not right: %s; run converge apply there", l.what, r)
		}
	}
	return l.install(h, found{key: have, cert: cert}, roots, nil)
}

// copied are the options of a file that is a copy of path.
func copied(h *engine.Host, path string) []engine.WriteOption {
	if h.Foretold(path) {
		return []engine.WriteOption{engine.NoDiff}
	}
	return []engine.WriteOption{engine.Generated}
}

// look judges what stands in a place.
func (l leaf) look(h *engine.Host, p place, authority pki.Certificate) (found, error) {
	f := found{}
	cert, errCert := h.ReadFile(p.certFile())
	key, errKey := h.ReadFile(p.keyFile())
	if err := errors.Join(unlessMissing(errCert), unlessMissing(errKey)); err != nil {
		return f, err
	}
	f.missing = errCert != nil && errKey != nil
	if errCert == nil {
		if f.cert, errCert = pki.ParseCertificate(cert); errCert != nil {
			f.reasons = append(f.reasons, pki.Reason{Kind: pki.CertificateMissing, Text: p.certFile() + ": " + errCert.Error()})
		}
	}
	if errKey == nil {
		if f.key, errKey = pki.ParsePrivateKey(key); errKey != nil {
			f.reasons = append(f.reasons, pki.Reason{Kind: pki.KeyMissing, Text: p.keyFile() + ": " + errKey.Error()})
		}
	}
	if len(f.reasons) == 0 {
		f.reasons = pki.Wrong(f.cert, f.key, authority, l.spec, h.Now(), l.renew.before)
	}
	found, err := l.issuer.isRevoked(h, f.cert)
	f.reasons = append(found, f.reasons...)
	return f, err
}

func unlessMissing(err error) error {
	if engine.IsNotExist(err) {
		return nil
	}
	return err
}

// keyIsBad are the reasons for which a new certificate is not enough.
var keyIsBad = map[pki.Kind]bool{
	pki.KeyMissing: true, pki.KeyMismatch: true, pki.SharedKey: true, pki.WrongAlgorithm: true, pki.WeakKey: true, pki.OtherAuthority: true,
	askedFor: true, revoked: true,
}

// Reasons that no certificate shows.
const (
	askedFor pki.Kind = "asked-for" // somebody wants another key
	retired  pki.Kind = "retired"   // issued by an authority that another one has taken the place of
	revoked  pki.Kind = "revoked"   // it counts no longer, and neither does any certificate over its key
)

func isRevoked(r pki.Reason) bool { return r.Kind == revoked }

// renewed issues a certificate: over the old key, so that there is no moment in which the two do not match, unless
// something is wrong with the key, or another one is wanted.
func (l leaf) renewed(h *engine.Host, authority pki.Certificate, roots []byte, old found) (found, error) {
	key, how := old.key, "renew "+l.what+" over its key"
	for _, r := range old.reasons {
		switch {
		case r.Kind == pki.OtherAuthority && trusted(roots, old.cert):
			// It comes from the authority that this one takes the place of, and the key is as good as it was.
		case keyIsBad[r.Kind], r.Kind == pki.InWindow && l.renew.rekey:
			key = pki.PrivateKey{}
		}
	}
	reason := pki.Sentences(old.reasons)
	if key.IsZero() {
		how = "issue " + l.what + " with a new key"
		var err error
		if key, err = pki.GenerateKey(h.Rand(), l.spec.Algorithm); err != nil {
			return found{}, err
		}
	}
	if old.missing {
		how, reason = "issue "+l.what, "there is none yet"
	}
	cert, err := l.issuer.issue(h, authority, key, l.spec)
	if err != nil {
		return found{}, fmt.Errorf("%s: %w", how, err)
	}
	h.Explain(how, reason)
	return found{key: key, cert: cert}, nil
}

// make stages the directory.
func (p place) make(h *engine.Host) error {
	return h.Mkdir(p.dir, engine.Attr{Mode: 0o700, UID: p.owner.UID, GID: p.owner.GID})
}

// write stages a pair in a place. What is there already is no operation.
func (p place) write(h *engine.Host, f found, old archive, fresh []engine.WriteOption) error {
	if err := p.make(h); err != nil {
		return err
	}
	key, err := sameKey(h, p.keyFile(), f.key)
	if err != nil {
		return err
	}
	if err := p.keepOld(h, key, old); err != nil {
		return err
	}
	cert, err := sameCert(h, p.certFile(), f.cert)
	if err != nil {
		return err
	}
	// The certificate first: clients and servers read it before the key.
	options := append([]engine.WriteOption{engine.NoDiff}, fresh...)
	if err := h.WriteFile(p.certFile(), cert, p.owner, options...); err != nil {
		return err
	}
	return h.WriteSecret(p.keyFile(), engine.NewSecret(key), p.keyMode, options...)
}

// keepOld puts the pair that stands in a place into the archive, when its key is about to be replaced.
func (p place) keepOld(h *engine.Host, key []byte, old archive) error {
	there, err := oldFileAt(h, p.keyFile(), true)
	if err != nil || len(there) == 0 || bytes.Equal(there[0].content, key) {
		return err
	}
	there[0].name = old.key
	cert, err := oldFileAt(h, p.certFile(), false)
	if err != nil {
		return err
	}
	for _, c := range cert {
		c.name = old.cert
		there = append(there, c)
	}
	return old.put(h, there)
}

// trusted says whether a certificate was issued by one of the authorities in a bundle.
func trusted(bundle []byte, cert pki.Certificate) bool {
	roots, err := pki.ParseCertificates(bundle)
	return err == nil && slices.ContainsFunc(roots, cert.IssuedBy)
}

// sameKey returns the bytes that stand at path when they hold the key already: an operator's own form of it stays.
func sameKey(h *engine.Host, path string, key pki.PrivateKey) ([]byte, error) {
	old, err := h.ReadFile(path)
	if err := unlessMissing(err); err != nil {
		return nil, err
	}
	if k, err := pki.ParsePrivateKey(old); err == nil && string(k.PEM()) == string(key.PEM()) {
		return old, nil
	}
	return key.PEM(), nil
}

func sameCert(h *engine.Host, path string, cert pki.Certificate) ([]byte, error) {
	old, err := h.ReadFile(path)
	if err := unlessMissing(err); err != nil {
		return nil, err
	}
	if c, err := pki.ParseCertificate(old); err == nil && c.Fingerprint() == cert.Fingerprint() {
		return old, nil
	}
	return cert.PEM(), nil
}
