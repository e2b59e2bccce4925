package resources

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/hcl/v2"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources/pki"
)

// A Delivery is how a node shares with the others of its environment: the authority hands keys out, the others take
// theirs and ask for what they need.
type Delivery struct {
	Store store.Store
	Needs []Needs // on the authority: what each node is to have, by the recipe; in declared order
	New   bool    // on the authority: it never had a store, so one that is not there yet is one to be made

	away  atomic.Pointer[unreachable] // what this run has found out about the store
	admit sync.Once                   // before the authority's first write

	Published *Published // what the authority remembers of the statements that it made; nil: nothing
}

// Published is what the authority remembers of the statements in the store: which version said what. It saves reading
// them; a version that is not known is read.
type Published struct {
	mutex   sync.Mutex
	Entries map[string]PublishedEntry
	Changed bool // since it was read
}

// A PublishedEntry is one statement.
type PublishedEntry struct {
	Version store.Version `json:"version"`
	Epoch   int64         `json:"epoch"`
	Number  int64         `json:"number"` // its own version, which nodes remember: none after it may be lower
	Says    string        `json:"says"`   // a sum of what it says
	Due     time.Time     `json:"due"`    // when it has to be made anew
}

// known says whether the statement at key has this version, says this, and is not due.
func (p *Published) known(key string, v store.Version, says string, now time.Time) bool {
	if p == nil || v == 0 {
		return false
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	e := p.Entries[key]
	return e.Version == v && e.Says == says && now.Before(e.Due)
}

// last is what was published at key, as nodes may have seen it.
func (p *Published) last(key string) bundle.Seen {
	if p == nil {
		return bundle.Seen{}
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	e := p.Entries[key]
	return bundle.Seen{Epoch: e.Epoch, Version: e.Number}
}

func (p *Published) remember(key string, e PublishedEntry) {
	if p == nil {
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.Entries == nil {
		p.Entries = map[string]PublishedEntry{}
	}
	if p.Entries[key] != e {
		p.Entries[key], p.Changed = e, true
	}
}

// Needs is what one node is to have from the authority.
type Needs struct {
	Node   recipe.Node
	Users  []*UserKey
	Gone   []*UserKey // declared absent
	Server *ServerKey // nil for a node without a database
}

// Where statements lie in the store.
const (
	authorityEntry = "authority" // who has the authority, and which it is: authorityBody
	nodeEntries    = "node/"     // what a node is to have: nodeBody
	requestEntries = "request/"  // what a node asks for: requestBody
	escrowEntries  = "escrow/"   // the authority's key, for who may take it over: escrowBody
)

// Requests is what the keys begin with at which nodes ask the authority: a node without it writes no others.
const Requests = requestEntries

// NodeEntry is the key of the store at which the authority has what is for a node.
func NodeEntry(node string) string { return nodeEntries + node }

// An authorityBody says which authority the environment has.
type authorityBody struct {
	Certificate string `json:"certificate"` // PEM
}

// A nodeBody is what the authority has for one node. Certificates are public; keys are sealed to the node's host key.
type nodeBody struct {
	Roots   string          `json:"roots"`    // PEM: the authorities to trust, the one that issues first
	HostKey string          `json:"host_key"` // the fingerprint of the host key that the keys are sealed to
	Users   []deliveredUser `json:"users"`
	Server  string          `json:"server,omitempty"` // PEM: the server's certificate, for the key of its request

	Lists *deliveredLists `json:"revocation_lists,omitempty"` // for a node with a server; nil: nothing was ever revoked

	TellAfter *time.Time `json:"tell_after,omitempty"` // during a change of authorities: what the node has told has to be later
	Escrow    int64      `json:"escrow,omitempty"`     // the version of what is in escrow for the node: an older one was brought back; 0: nothing is
}

// A deliveredUser is a user's key on its way.
type deliveredUser struct {
	User        string `json:"user"`
	Certificate string `json:"certificate"` // PEM
	Key         []byte `json:"key"`         // sealed
}

// A requestBody is what a database node asks of the authority.
type requestBody struct {
	Server      string `json:"server"`                // PKCS#10 in PEM
	Certificate string `json:"certificate,omitempty"` // PEM: the one that it has for this key, which will do as long as it is right
}

// KeyTypes are the types of blocks that say which keys a node is to have.
var KeyTypes = []string{"user_key", "server_key"}

// needsOf gathers from the blocks that were evaluated for a node which keys it is to have.
func needsOf(n recipe.Node, blocks []recipe.Block) Needs {
	out := Needs{Node: n}
	for _, b := range blocks {
		switch k := b.Config.(type) {
		case *UserKey:
			if k.absent {
				out.Gone = append(out.Gone, k)
			} else {
				out.Users = append(out.Users, k)
			}
		case *ServerKey:
			out.Server = k
		}
	}
	return out
}

// AllNeeds evaluates the recipe for every node of the environment, as far as it says which keys the node is to have. Where
// that depends on the role alone, it is evaluated once for each role. The diagnostics are those of the first node that has
// any.
func AllNeeds(r *recipe.Recipe, env *recipe.Environment, scope func(recipe.Node) recipe.Scope) ([]Needs, hcl.Diagnostics) {
	shared := map[string]*Needs{}
	out := make([]Needs, 0, len(env.Nodes))
	for _, n := range env.Nodes {
		if known := shared[n.Role]; known != nil {
			out = append(out, Needs{n, known.Users, known.Gone, known.Server})
			continue
		}
		sc := scope(n)
		sc.Types = KeyTypes
		program, diags := r.For(sc)
		if diags.HasErrors() {
			return nil, diags
		}
		needs := needsOf(n, program.Blocks)
		if !r.Mentions("node", n.Role, KeyTypes) {
			shared[n.Role] = &needs
		}
		out = append(out, needs)
	}
	return out, nil
}

// Issues says whether nodes with a role have the authority.
func Issues(role string) bool { return issues(role) }

func issues(role string) bool { return role == "db_master" || role == "solo" }

// hasDatabase says whether nodes with a role have a server.
func hasDatabase(role string) bool { return issues(role) || role == "db_replica" }

// authorityNode names the node that has the authority, for people.
func (s Site) authorityNode() string {
	for _, n := range s.Environment.Nodes {
		if issues(n.Role) {
			return n.Name
		}
	}
	return "the db_master"
}

// noHostKey is the way out of a node without a host key.
const noHostKey = "has no host_key in the environment file: converge fleet scan proposes it"

// hostKey is the public host key of a node.
func hostKey(n recipe.Node) (bundle.HostKey, error) {
	if n.HostKey == "" {
		return bundle.HostKey{}, fmt.Errorf("the node %s %s", n.Name, noHostKey)
	}
	k, err := bundle.ParseHostKey(n.HostKey)
	if err != nil {
		return k, fmt.Errorf("host_key of the node %s: %w", n.Name, err)
	}
	return k, nil
}

// signers are the nodes that fits wants, with their host keys: those whose statements count.
func (s Site) signers(fits func(recipe.Node) bool) map[string]bundle.HostKey {
	out := map[string]bundle.HostKey{}
	for _, n := range s.Environment.Nodes {
		if fits(n) {
			out[n.Name], _ = hostKey(n) // of one without, nothing is taken
		}
	}
	return out
}

const sshDirectory = "/etc/ssh"

// identity finds the private half of this node's host key among those of its sshd.
func (s Site) identity(h *engine.Host) (bundle.Identity, error) {
	want, err := hostKey(s.Node)
	if err != nil {
		return bundle.Identity{}, err
	}
	names, err := h.ReadDir(sshDirectory)
	if err := unlessMissing(err); err != nil {
		return bundle.Identity{}, err
	}
	var found []string
	for _, name := range names {
		if ok, _ := path.Match("ssh_host_*_key", name); !ok {
			continue
		}
		file := path.Join(sshDirectory, name)
		b, err := h.ReadFile(file)
		if err != nil {
			return bundle.Identity{}, err
		}
		id, err := bundle.ParseIdentity(b)
		switch {
		case err != nil:
			found = append(found, fmt.Sprintf("%s: %v", file, err))
		case id.Public().Equal(want):
			return id, nil
		default:
			found = append(found, fmt.Sprintf("%s is %s", file, id.Public().Fingerprint()))
		}
	}
	if len(found) == 0 {
		found = []string{"there is none in " + sshDirectory}
	}
	return bundle.Identity{}, fmt.Errorf("the host_key of %s in the environment file is %s, and this host does not have it (%s): the host's key was changed, or this is another machine; when it was changed on purpose, mend host_key in the environment file on every node (converge fleet scan shows it), and run converge apply on %s, then here",
		s.Node.Name, want.Fingerprint(), strings.Join(found, "; "), s.authorityNode())
}

// A stored is what lies at a key of the store.
type stored struct {
	statement bundle.Statement
	version   store.Version // 0: nothing is there
	refused   error         // what is there is not taken, and why
}

// An unreachable is why the store could not be asked.
type unreachable struct{ err error }

// asked remembers that the store could not be reached: each further call of the same run would wait as long as that one did.
func (d *Delivery) asked(err error) error {
	if errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrNotMade) {
		d.away.CompareAndSwap(nil, &unreachable{err})
	}
	return err
}

// get reads and judges a statement. The error is about the store. What is there is among what a saved plan was made from.
func (d *Delivery) get(ctx context.Context, h *engine.Host, w bundle.Wanted) (stored, []byte, error) {
	if u := d.away.Load(); u != nil {
		return stored{}, nil, u.err
	}
	e, err := d.Store.Get(ctx, w.Key)
	h.Observe("in the store: "+w.Key, fmt.Sprint(e.Version))
	switch d.asked(err); {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrNotMade) && d.New:
		return stored{}, nil, nil
	case err != nil:
		return stored{}, nil, err
	}
	s, err := bundle.Verify(e.Value, w)
	return stored{s, e.Version, err}, e.Value, nil
}

// list returns the keys that begin with prefix.
func (d *Delivery) list(ctx context.Context, h *engine.Host, prefix string) ([]store.Key, error) {
	if u := d.away.Load(); u != nil {
		return nil, u.err
	}
	keys, err := d.Store.List(ctx, prefix)
	h.Observe("in the store: "+prefix, fmt.Sprint(keys))
	d.asked(err)
	if errors.Is(err, store.ErrNotMade) && d.New {
		return nil, nil
	}
	return keys, err
}

// statementLife is how long a statement is good for. The authority makes it anew when half of that is over.
const statementLife = 90 * pki.Day

// due says whether a statement has to be made anew because it ends.
func due(s bundle.Statement, now time.Time) bool { return s.Expires.Sub(now) < statementLife/2 }

// A message is a statement to be made.
type message struct {
	key   string
	epoch int64
	after int64 // the version of the statement that it takes the place of; 0 where there is none, or none that can be read
	body  any
}

// sign makes the text of a statement. Versions are the milliseconds of the clock, or one more than the last where that is
// greater: who has lost the last one still makes a later one.
func (s Site) sign(h *engine.Host, id bundle.Identity, m message) ([]byte, error) {
	text, _, err := s.statement(h, id, m)
	return text, err
}

// statement is sign with the header that the statement has.
func (s Site) statement(h *engine.Host, id bundle.Identity, m message) ([]byte, bundle.Header, error) {
	now := h.Now()
	head := bundle.Header{
		Environment: s.Environment.Name, Key: m.key, From: s.Node.Name, Epoch: m.epoch,
		Version: max(m.after+1, now.UnixMilli()), Made: now, Expires: now.Add(statementLife),
	}
	text, err := bundle.Sign(id, head, m.body)
	return text, head, err
}

// ready makes the store where there was none, and has one that was made by an earlier version keep nodes out of what is not
// theirs to write. Only the authority does either.
func (d *Delivery) ready(ctx context.Context) error {
	if maker, ok := d.Store.(interface{ Init(context.Context) error }); ok && d.New {
		if err := maker.Init(ctx); err != nil {
			return fmt.Errorf("make the store: %w", err)
		}
	}
	var err error
	if keeper, ok := d.Store.(interface{ Admit(context.Context) error }); ok && len(d.Needs) > 0 {
		d.admit.Do(func() { err = keeper.Admit(ctx) })
	}
	if err != nil {
		return fmt.Errorf("who may write to the store: %w", err)
	}
	return nil
}

// put is how a statement gets into the store, if what was there still is.
func (d *Delivery) put(ctx context.Context, key string, old store.Version, text []byte) (v store.Version, err error) {
	if err := d.ready(ctx); err != nil {
		return 0, err
	}
	if old == 0 {
		v, err = d.Store.Create(ctx, key, text)
	} else {
		v, err = d.Store.Swap(ctx, key, old, text)
	}
	if err != nil {
		return 0, fmt.Errorf("publish: %w", err)
	}
	return v, nil
}

// publish stages a statement.
func (d *Delivery) publish(h *engine.Host, key string, old store.Version, text []byte, note string) {
	h.Act(engine.Action{Kind: engine.OpPublish, Path: key, Note: note, Do: func(ctx context.Context) error {
		_, err := d.put(ctx, key, old, text)
		return err
	}})
}

// A received is what the authority had for this node when a run last took it.
type received struct {
	statement bundle.Statement
	body      nodeBody
	roots     []pki.Certificate
}

// parseReceived reads the file in which it is kept. The file is root's own: its signature was checked when it came.
func parseReceived(text []byte) (*received, error) {
	s, err := bundle.Parse(text)
	if err != nil {
		return nil, err
	}
	r := &received{statement: s}
	if err := s.Decode(&r.body); err != nil {
		return nil, err
	}
	if r.roots, err = pki.ParseCertificates([]byte(r.body.Roots)); err != nil {
		return nil, fmt.Errorf("the authorities in it: %w", err)
	}
	return r, nil
}

// authority is the one that issues.
func (r *received) authority() pki.Certificate { return r.roots[0] }

// trusts says whether the certificate is one of the authorities.
func (r *received) trusts(c pki.Certificate) bool {
	return slices.ContainsFunc(r.roots, func(root pki.Certificate) bool { return root.Fingerprint() == c.Fingerprint() })
}

// user returns what is there for a user.
func (r *received) user(name string) (deliveredUser, bool) {
	i := slices.IndexFunc(r.body.Users, func(u deliveredUser) bool { return u.User == name })
	if i < 0 {
		return deliveredUser{}, false
	}
	return r.body.Users[i], true
}

// open unseals a private key.
func (s Site) open(h *engine.Host, sealed []byte, to, what string) (pki.PrivateKey, error) {
	id, err := s.identity(h)
	if err != nil {
		return pki.PrivateKey{}, err
	}
	plain, err := id.Open(sealed)
	if errors.Is(err, bundle.ErrSealedToOthers) {
		return pki.PrivateKey{}, fmt.Errorf("%s is sealed to the host key %s, and this host's is %s: the host key was changed; mend host_key of %s in the environment file on every node, and run converge apply on %s, then here",
			what, to, id.Public().Fingerprint(), s.Node.Name, s.authorityNode())
	}
	if err != nil {
		return pki.PrivateKey{}, fmt.Errorf("%s: %w", what, err)
	}
	key, err := pki.ParsePrivateKey(plain)
	if err != nil {
		return pki.PrivateKey{}, fmt.Errorf("%s: %w", what, err)
	}
	return key, nil
}
