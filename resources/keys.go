package resources

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/disk"
	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources/pki"
)

// A KeyList is all keys that a node knows of: the environment's on the node with the authority, its own elsewhere.
type KeyList struct {
	Keys    []KeyInfo `json:"keys"`
	Unknown []string  `json:"unknown,omitempty"` // what could not be found out, and why
}

// A KeyInfo is one certificate with its key.
type KeyInfo struct {
	Owner       string     `json:"owner"` // a user, or the node of a server
	Kind        string     `json:"kind"`  // "user" or "server"
	State       KeyState   `json:"state"`
	Expires     time.Time  `json:"expires"`
	DaysLeft    int        `json:"days_left"`
	Serial      string     `json:"serial"`      // in hex
	Fingerprint string     `json:"fingerprint"` // SHA-256
	Algorithm   string     `json:"algorithm"`
	Authority   string     `json:"authority"` // its common name
	Places      []KeyPlace `json:"places"`    // where it is, and where it waits
	Problem     string     `json:"problem,omitempty"`
}

// A KeyPlace is a directory with a key, on this node or on one that it is published for. Of another node's server the
// directory is not known.
type KeyPlace struct {
	Node      string `json:"node"`
	Directory string `json:"directory,omitempty"`
	Published bool   `json:"published,omitempty"` // what the node has is seen there only
}

// A KeyState says whether a key counts.
type KeyState string

// The states there are.
const (
	KeyInUse   KeyState = "in use"
	KeyRevoked KeyState = "revoked"
	KeyOld     KeyState = "old" // nobody is known to have it in use, and it has not ended
	KeyEnded   KeyState = "ended"
)

// ListKeys looks for keys on the node of a graph, and on the node with the authority in the store as well. It writes
// nothing.
func ListKeys(ctx context.Context, d *disk.Disk, g *engine.Graph, site Site, now time.Time) KeyList {
	l := &keyLister{disk: d, site: site, now: now, found: map[string]*keyFound{}}
	for _, s := range g.Steps {
		switch r := s.Resource.(type) {
		case *CertAuthority:
			l.authority = r.issuer()
			l.trust()
		case *UserKey:
			l.user(r)
		case *ServerKey:
			l.in(r.leaf.places[0], true)
		}
	}
	if issues(site.Node.Role) && l.authority.dir != "" {
		l.issued()
		l.others(ctx)
	}
	return l.list()
}

// A keyLister is a KeyList in the making.
type keyLister struct {
	disk      *disk.Disk
	site      Site
	now       time.Time
	authority issuer
	roots     []pki.Certificate
	revoked   revocations
	found     map[string]*keyFound // by fingerprint
	unknown   []string
}

// keyFound is a certificate that was come across.
type keyFound struct {
	cert       pki.Certificate
	places     []KeyPlace
	kept       bool // here, for other nodes
	undeclared bool
}

func (l *keyLister) doubt(what string, err error) {
	if err != nil && !engine.IsNotExist(err) {
		l.unknown = append(l.unknown, what+": "+engine.Redact(err.Error()))
	}
}

// add takes a certificate in, with where it was come across.
func (l *keyLister) add(cert pki.Certificate, places ...KeyPlace) *keyFound {
	f := l.found[cert.Fingerprint()]
	if f == nil {
		f = &keyFound{cert: cert}
		l.found[cert.Fingerprint()] = f
	}
	for _, p := range places {
		if !slices.Contains(f.places, p) {
			f.places = append(f.places, p)
		}
	}
	return f
}

// trust reads which authorities there are, and what they have revoked.
func (l *keyLister) trust() {
	text, _, err := l.disk.ReadFile(l.authority.bundleFile, 1<<20)
	if err == nil {
		l.roots, err = pki.ParseCertificates(text)
	}
	l.doubt("the authorities", err)
	text, _, err = l.disk.ReadFile(l.authority.revokedFile(), hbaLimit)
	if err == nil {
		l.revoked, err = parseRevocations(text)
	}
	l.doubt("what is revoked", err)
}

// in looks at the certificate in a place of this node.
func (l *keyLister) in(p place, declared bool) {
	text, _, err := l.disk.ReadFile(p.certFile(), 1<<20)
	if err != nil {
		l.doubt(p.certFile(), err)
		return
	}
	cert, err := pki.ParseCertificate(text)
	if err != nil {
		l.doubt(p.certFile(), err)
		return
	}
	f := l.add(cert, KeyPlace{Node: l.site.Node.Name, Directory: p.dir})
	f.undeclared = f.undeclared || !declared
}

// user looks where a user's key is declared to be, where it was, and where it is kept for others.
func (l *keyLister) user(k *UserKey) {
	for _, d := range k.dirs {
		l.in(d.place(engine.User{}), true)
	}
	for _, d := range k.leaves {
		l.in(d.place(engine.User{}), false)
	}
}

// issued reads what the authority has signed, and the keys that it keeps for other nodes.
func (l *keyLister) issued() {
	for _, dir := range []string{l.authority.issuedDir(), path.Dir(l.authority.vault("").certFile())} {
		entries, err := l.disk.ReadDir(dir)
		l.doubt(dir, err)
		for _, e := range entries {
			if !strings.HasSuffix(e.Name, ".crt") {
				continue
			}
			text, _, err := l.disk.ReadFile(path.Join(dir, e.Name), 1<<20)
			if err == nil {
				var certs []pki.Certificate
				certs, err = pki.ParseCertificates(text)
				for _, cert := range certs {
					f := l.add(cert)
					f.kept = f.kept || dir != l.authority.issuedDir()
				}
			}
			l.doubt(path.Join(dir, e.Name), err)
		}
	}
}

// others reads what is published for the other nodes.
func (l *keyLister) others(ctx context.Context) {
	if l.site.Delivery == nil {
		return
	}
	signers := l.site.signers(func(n recipe.Node) bool { return hasDatabase(n.Role) })
	for _, n := range l.site.Delivery.Needs {
		if n.Node.Name == l.site.Node.Name {
			continue
		}
		key := nodeEntries + n.Node.Name
		entry, err := l.site.Delivery.Store.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case errors.Is(err, store.ErrNotMade) && !l.everPublished():
			return
		case errors.Is(err, store.ErrUnavailable):
			l.doubt("what is published for other nodes", err)
			return
		case err != nil:
			l.doubt("what is published for "+n.Node.Name, err)
			continue
		}
		l.published(n, entry, bundle.Wanted{Environment: l.site.Environment.Name, Key: key, Signers: signers, Now: l.now})
	}
}

// everPublished says whether this node has had the authority of an environment with others: then there is a store.
func (l *keyLister) everPublished() bool {
	_, err := l.disk.Stat((&CertAuthority{dir: l.authority.dir}).recordFile())
	return err == nil
}

func (l *keyLister) published(n Needs, entry store.Entry, w bundle.Wanted) {
	s, err := bundle.Verify(entry.Value, w)
	var body nodeBody
	if err == nil {
		err = s.Decode(&body)
	}
	if err != nil {
		l.doubt("what is published for "+n.Node.Name, err)
		return
	}
	if cert, err := pki.ParseCertificate([]byte(body.Server)); err == nil {
		l.add(cert, KeyPlace{Node: n.Node.Name, Published: true})
	}
	for _, u := range body.Users {
		cert, err := pki.ParseCertificate([]byte(u.Certificate))
		if err != nil {
			l.doubt("the key of "+u.User+" for "+n.Node.Name, err)
			continue
		}
		l.add(cert, directoriesOn(n, u.User)...)
	}
}

// directoriesOn are the places in which a node is to put a user's key. A home is written as the recipe writes it: it is the
// node's own.
func directoriesOn(n Needs, user string) []KeyPlace {
	var out []KeyPlace
	for _, k := range n.Users {
		if k.user != user {
			continue
		}
		dirs := k.Directories
		if dirs == nil {
			dirs = []string{"~/.postgresql"}
		}
		for _, d := range dirs {
			out = append(out, KeyPlace{Node: n.Node.Name, Directory: d, Published: true})
		}
	}
	return out
}

// list judges and sorts what was found: users before servers, by name; of each, what is in use first.
func (l *keyLister) list() KeyList {
	out := KeyList{Keys: []KeyInfo{}, Unknown: l.unknown}
	for _, f := range l.found {
		out.Keys = append(out.Keys, l.info(f))
	}
	rank := map[KeyState]int{KeyInUse: 0, KeyRevoked: 1, KeyOld: 2, KeyEnded: 3}
	slices.SortFunc(out.Keys, func(a, b KeyInfo) int {
		return cmp.Or(-cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Owner, b.Owner), cmp.Compare(rank[a.State], rank[b.State]), b.Expires.Compare(a.Expires), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return out
}

func (l *keyLister) info(f *keyFound) KeyInfo {
	c := f.cert
	k := KeyInfo{
		Owner: c.Subject.CommonName, Kind: "user", State: KeyOld, Expires: c.NotAfter.UTC(), DaysLeft: int(c.NotAfter.Sub(l.now) / pki.Day),
		Serial: strings.TrimLeft(serialOf(c), "0"), Fingerprint: c.Fingerprint(), Algorithm: string(c.Algorithm()), Authority: c.Issuer.CommonName,
		Places: append([]KeyPlace{}, f.places...),
	}
	if c.Allows(pki.Server) && !c.Allows(pki.Client) {
		k.Kind = "server"
	}
	slices.SortFunc(k.Places, func(a, b KeyPlace) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Directory, b.Directory))
	})
	_, revoked := l.revoked.find(c)
	switch {
	case revoked:
		k.State = KeyRevoked
	case len(f.places) > 0 || f.kept:
		k.State = KeyInUse
	case !l.now.Before(c.NotAfter):
		k.State = KeyEnded
	}
	k.Problem = l.problem(f, revoked)
	return k
}

// problem is what somebody has to see to; "" when there is nothing.
func (l *keyLister) problem(f *keyFound, revoked bool) string {
	c := f.cert
	switch {
	case len(f.places) == 0:
		return ""
	case revoked:
		return "revoked, and still there"
	case !l.now.Before(c.NotAfter):
		return "expired"
	case f.undeclared:
		return "not to be there any more"
	case len(l.roots) > 0 && !slices.ContainsFunc(l.roots, c.IssuedBy):
		return "of an authority that is not trusted"
	case c.NotAfter.Sub(l.now) < pki.RenewBefore(c.NotAfter.Sub(c.NotBefore)):
		return fmt.Sprintf("expires in %d days", int(c.NotAfter.Sub(l.now)/pki.Day))
	}
	return ""
}
