package resources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources/pki"
)

// A KeyDelivery hands out, on the node that has the authority, what the other nodes are to have by the recipe: to each its
// own statement in the store, with every private key sealed to its host key.
type KeyDelivery struct {
	Authority   cty.Value `hcl:"authority" doc:"The authority whose keys are handed out: a cert_authority."`
	AuthorityAt hcl.Range `hcl:"authority,attr_value_range"`

	site   Site
	issuer issuer
	places []place // where the keys of this node are
	escrow []string
	needs  []Needs          // of the other nodes
	vault  map[string]leaf  // by user: the keys that no step of this node's own makes
	odd    map[string]error // by user: declared in two ways
}

// Prepare checks the arguments.
func (k *KeyDelivery) Prepare(recipe.Block) hcl.Diagnostics {
	ref, diags := recipe.Referenced(k.Authority, "cert_authority", k.AuthorityAt)
	k.issuer, k.escrow = issuerOf(ref), stringsOf(ref.Value("escrow"))
	k.vault, k.odd = map[string]leaf{}, map[string]error{}
	if k.site.Delivery == nil {
		return diags
	}
	specs, seen := map[string]pki.LeafSpec{}, map[*UserKey]bool{}
	for _, n := range k.site.Delivery.Needs {
		own := n.Node.Name == k.site.Node.Name
		if !own {
			k.needs = append(k.needs, n)
		}
		for _, u := range n.Users {
			if seen[u] {
				continue // nodes of a role share it
			}
			seen[u] = true
			if spec, twice := specs[u.user]; twice && (spec.Algorithm != u.leaf.spec.Algorithm || spec.Validity != u.leaf.spec.Validity) {
				k.odd[u.user] = fmt.Errorf("the key of %s is declared in two ways (on %s another algorithm or expire_in_days than before it): a user has one key, give its blocks the same arguments", u.user, n.Node.Name)
			}
			specs[u.user] = u.leaf.spec
			l := u.leaf
			l.issuer, l.places, l.old = k.issuer, []place{k.issuer.vault(u.user)}, k.site.oldUserKeys(u.user)
			if k.site.Maintenance.user(u.user) {
				l.asked = k.site.Maintenance
			}
			k.vault[u.user] = l
		}
	}
	for _, n := range k.site.Delivery.Needs {
		if n.Node.Name == k.site.Node.Name {
			for _, u := range n.Users {
				delete(k.vault, u.user)
			}
		}
	}
	return diags
}

// Exports returns nothing.
func (k *KeyDelivery) Exports() map[string]cty.Value { return nil }

// ComesLast says that a node tells the authority what it has when all else is done.
func (k *KeyDelivery) ComesLast() bool { return !issues(k.site.Node.Role) }

// Targets returns the files of the keys that it makes itself.
func (k *KeyDelivery) Targets() []engine.Target {
	if !issues(k.site.Node.Role) {
		return nil
	}
	out := append(k.site.oldAuthorities().targets(), k.issuer.targets()...)
	for _, user := range slices.Sorted(maps.Keys(k.vault)) {
		out = append(out, k.issuer.vault(user).targets()...)
	}
	return out
}

// Reads returns where the keys of all users are.
func (k *KeyDelivery) Reads() []string { return []string{k.issuer.dir} }

// Converge publishes what nodes do not have as it should be. What is wrong with one node keeps no other from its own, and
// what is wrong with one user's key no other key from its nodes.
func (k *KeyDelivery) Converge(ctx context.Context, h *engine.Host) error {
	d := k.site.Delivery
	if !issues(k.site.Node.Role) {
		if d == nil {
			return nil
		}
		return k.site.tell(ctx, h, k.issuer, k.places)
	}
	if d == nil {
		if n := len(k.site.Environment.Nodes) - 1; n > 0 {
			h.Warn(fmt.Sprintf("no key goes to the %d other nodes: give every node its host_key in the environment file (converge fleet scan proposes them)", n))
		}
		return nil
	}
	for _, user := range slices.Sorted(maps.Keys(k.vault)) {
		if err := k.vault[user].converge(h); err != nil {
			h.Fail(err)
		}
	}
	id, err := k.site.identity(h)
	if err != nil {
		return err
	}
	p := publisher{KeyDelivery: k, h: h, id: id, handouts: map[**UserKey]handout{}, told: map[string]bool{}, versions: map[string]store.Version{}, batch: &batch{}, escrowed: map[string]int64{}}
	if p.cert, err = k.issuer.cert(h); err != nil {
		return err
	}
	if p.roots, err = h.ReadFile(k.issuer.bundleFile); err != nil {
		return err
	}
	if p.lists, err = k.issuer.listsToDeliver(h); err != nil {
		return err
	}
	record, err := (&CertAuthority{dir: k.issuer.dir}).record(h)
	if err != nil {
		return err
	}
	p.epoch = record.Epoch
	known, err := d.list(ctx, h, nodeEntries)
	if err != nil {
		return fmt.Errorf("nothing is delivered: %w", err)
	}
	for _, key := range known {
		p.versions[key.Name] = key.Version
	}
	// First what is in escrow, for the nodes are told which they have to expect.
	if err := p.deposit(ctx); engine.IsRefused(err) {
		return err
	} else if err != nil {
		h.Fail(err)
	}
	p.batch = &batch{}
	for _, n := range k.needs {
		err := p.node(ctx, n)
		if engine.IsRefused(err) {
			return err
		}
		if err != nil {
			h.Fail(fmt.Errorf("%s gets nothing: %w", n.Node.Name, err))
		}
	}
	if err := p.removed(ctx, known); engine.IsRefused(err) {
		return err
	} else if err != nil {
		h.Fail(err)
	}
	if len(p.done) > 0 {
		h.Explain("publish what is new for "+list(p.done), strings.Join(p.why, "; "))
	}
	return nil
}

// A publisher is one run of a KeyDelivery.
type publisher struct {
	*KeyDelivery
	h     *engine.Host
	id    bundle.Identity
	cert  pki.Certificate
	roots []byte
	lists *deliveredLists // nil: nothing was ever revoked
	epoch int64

	signers   map[string]bundle.HostKey // the nodes that can have had the authority
	handouts  map[**UserKey]handout     // by the first of its users
	told      map[string]bool           // users of whom it was told that there is no key of theirs
	versions  map[string]store.Version  // of what there is for nodes
	escrowed  map[string]int64          // by node: the version of what is in escrow for it
	batch     *batch                    // what is published at the same time; batches, one after the other
	done, why []string
}

// there reads the statement of this authority, or an earlier holder's, at a key.
func (p *publisher) there(ctx context.Context, key string) (stored, error) {
	if p.signers == nil {
		p.signers = p.site.signers(func(n recipe.Node) bool { return hasDatabase(n.Role) })
	}
	w := bundle.Wanted{Environment: p.site.Environment.Name, Key: key, Signers: p.signers, Seen: p.site.Delivery.Published.last(key), Now: p.h.Now()}
	s, _, err := p.site.Delivery.get(ctx, p.h, w)
	var r *bundle.Refused
	if errors.As(s.refused, &r) && r.Kind == bundle.Expired {
		s.refused = nil // it is due
	}
	if s.refused == nil && s.statement.Epoch > p.epoch {
		return s, &engine.RefusedError{Reason: fmt.Sprintf("%s has published %s in epoch %d, and this node had the authority in epoch %d: it was taken over while this run was under way, and this node issues nothing any more", s.statement.From, key, s.statement.Epoch, p.epoch)}
	}
	if s.refused != nil {
		p.h.Warn(fmt.Sprintf("%s in %s was not what this node, or one that had the authority before, put there (%v): it is made anew", key, p.site.Delivery.Store, s.refused))
		s.statement = bundle.Statement{}
	}
	return s, err
}

// node publishes what one node is to have, if that is not there already.
func (p *publisher) node(ctx context.Context, n Needs) error {
	key := nodeEntries + n.Node.Name
	same := p.handout(n.Users)
	body := nodeBody{Roots: string(p.roots), Users: same.users, Escrow: p.escrowed[n.Node.Name]}
	if n.Server != nil {
		body.Lists = p.lists
	}
	if c := p.site.Change; c != nil && c.Phase == Drain && !c.Since.IsZero() && n.Server != nil {
		body.TellAfter = &c.Since
	}
	if n.Server == nil && p.site.Delivery.Published.known(key, p.versions[key], same.says(n.Node, body), p.h.Now()) {
		return nil
	}
	to, err := hostKey(n.Node)
	if err != nil {
		return err
	}
	body.HostKey = to.Fingerprint()
	there, err := p.there(ctx, key)
	if err != nil {
		return err
	}
	var old nodeBody
	if there.version != 0 && there.refused == nil {
		if err := there.statement.Decode(&old); err != nil {
			return err
		}
	}
	if body.Server, err = p.server(ctx, n, old.Server); err != nil {
		p.h.Fail(fmt.Errorf("%s gets no server certificate: %w", n.Node.Name, err))
		body.Server = old.Server
	}
	body.Users = slices.Clone(same.users)
	for _, u := range old.Users {
		if slices.Contains(same.without, u.User) && old.HostKey == body.HostKey && there.statement.From == p.site.Node.Name {
			body.Users = append(body.Users, u)
		}
	}
	why := difference(old, body, there)
	switch {
	case why != "":
	case there.statement.From != p.site.Node.Name:
		why = "it was put there by " + there.statement.From
	case there.statement.Epoch != p.epoch:
		why = fmt.Sprintf("epoch %d", p.epoch)
	case due(there.statement, p.h.Now()):
		why = "it ends on " + there.statement.Expires.Format("2006-01-02")
	default:
		p.site.Delivery.Published.remember(key, PublishedEntry{there.version, there.statement.Epoch, there.statement.Version, same.says(n.Node, body), dueAt(there.statement.Expires)})
		return nil
	}
	says := same.says(n.Node, body)
	for i := range body.Users {
		u := &body.Users[i]
		if u.Key != nil {
			continue // it is sealed, and stays as it is
		}
		plain, err := p.h.ReadFile(p.issuer.vault(u.User).keyFile())
		if err != nil {
			return fmt.Errorf("the key of %s: %w", u.User, err)
		}
		if u.Key, err = bundle.Seal(plain, to); err != nil {
			return err
		}
	}
	_, err = p.say(key, there, body, n.Node.Name, why, says)
	return err
}

// A handout is what all nodes with the same users get alike.
type handout struct {
	users   []deliveredUser // without the keys, which are sealed to each node
	without []string        // users whose keys are not as they should be: a node keeps what it has of them
	sum     string          // of that, of the authorities, and of who hands it out
}

func (p *publisher) handout(users []*UserKey) handout {
	var list **UserKey
	if len(users) > 0 {
		list = &users[0] // AllNeeds gives the nodes of a role one and the same list
	}
	if known, ok := p.handouts[list]; ok {
		return known
	}
	out := handout{users: []deliveredUser{}}
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %q %q\n", p.epoch, p.site.Node.Name, p.roots)
	for _, u := range users {
		one, err := p.user(u.user)
		if err != nil {
			p.lacks(u.user, err)
			out.without = append(out.without, u.user)
			continue
		}
		fmt.Fprintf(sum, "%q %q\n", one.User, one.Certificate)
		out.users = append(out.users, one)
	}
	fmt.Fprintf(sum, "without %q\n", out.without)
	out.sum = hex.EncodeToString(sum.Sum(nil))
	p.handouts[list] = out
	return out
}

// user is a user's key that is here for other nodes, with its certificate and without the key itself.
func (p *publisher) user(name string) (deliveredUser, error) {
	if err := p.odd[name]; err != nil {
		return deliveredUser{}, err
	}
	vault := p.issuer.vault(name)
	cert, err := engine.Parsed(p.h, vault.certFile(), pki.ParseCertificate)
	if err != nil {
		return deliveredUser{}, err
	}
	if _, err := p.h.Stat(vault.keyFile()); err != nil {
		return deliveredUser{}, err
	}
	return deliveredUser{User: name, Certificate: string(cert.PEM())}, nil
}

// lacks tells, once, of a user whose key goes to no node. Why there is none, the step that makes it has told.
func (p *publisher) lacks(user string, err error) {
	if p.told[user] {
		return
	}
	p.told[user] = true
	if engine.IsNotExist(err) {
		p.h.Warn(fmt.Sprintf("no other node gets a new key of %s: none was made", user))
		return
	}
	p.h.Fail(fmt.Errorf("no other node gets a new key of %s: %w", user, err))
}

// says is a sum of all that decides whether a node's statement is still the right one. It is made for every node in every
// run.
func (o handout) says(n recipe.Node, b nodeBody) string {
	text := fmt.Appendf(nil, "%s %q %q %d\n", o.sum, n.HostKey, b.Server, b.Escrow)
	if b.TellAfter != nil {
		text = fmt.Appendf(text, "tell after %v\n", b.TellAfter)
	}
	if b.Lists != nil {
		text = fmt.Appendf(text, "revocation lists %q %q\n", b.Lists.Lists, b.Lists.Probe)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// A batch is statements that are published together, several at a time: each waits for the store's disks.
type batch struct {
	once sync.Once
	all  []func(context.Context) error
	errs []error
}

// add takes a statement in, and returns what publishes it, with all the others of the batch.
func (b *batch) add(put func(context.Context) error) func(context.Context) error {
	i := len(b.all)
	b.all = append(b.all, put)
	return func(ctx context.Context) error {
		b.once.Do(func() { b.run(ctx) })
		return b.errs[i]
	}
}

// atOnce is how many statements are under way at a time.
const atOnce = 16

func (b *batch) run(ctx context.Context) {
	b.errs = make([]error, len(b.all))
	next, workers := make(chan int), sync.WaitGroup{}
	for range min(atOnce, len(b.all)) {
		workers.Go(func() {
			for i := range next {
				b.errs[i] = b.all[i](ctx)
			}
		})
	}
	for i := range b.all {
		next <- i
	}
	close(next)
	workers.Wait()
}

// say stages a statement, and returns its version.
func (p *publisher) say(key string, there stored, body any, node, why, says string) (int64, error) {
	d := p.site.Delivery
	m := message{key, p.epoch, max(there.statement.Version, d.Published.last(key).Version), body}
	text, head, err := p.site.statement(p.h, p.id, m)
	if err != nil {
		return 0, err
	}
	if len(text) > store.MaxValue {
		return 0, fmt.Errorf("what is to be published has %d bytes, and a store takes %d: give the node fewer keys", len(text), store.MaxValue)
	}
	entry := PublishedEntry{Epoch: p.epoch, Number: head.Version, Says: says, Due: dueAt(head.Expires)}
	p.h.Act(engine.Action{Kind: engine.OpPublish, Path: key, Note: why, Do: p.batch.add(func(ctx context.Context) error {
		v, err := d.put(ctx, key, there.version, text)
		if err == nil {
			entry.Version = v
			d.Published.remember(key, entry)
		}
		return err
	})})
	p.done, p.why = append(p.done, node), append(p.why, node+": "+why)
	return head.Version, nil
}

// dueAt is when a statement that ends then has to be made anew.
func dueAt(expires time.Time) time.Time { return expires.Add(-statementLife / 2) }

// difference says what a node does not have yet; "" when it has all of it.
func difference(old, now nodeBody, there stored) string {
	if there.version == 0 {
		return "it has nothing yet"
	}
	var out []string
	if old.HostKey != now.HostKey {
		out = append(out, "its host key is another one")
	}
	if old.Roots != now.Roots {
		out = append(out, "other authorities")
	}
	had := map[string]string{}
	for _, u := range old.Users {
		had[u.User] = u.Certificate
	}
	for _, u := range now.Users {
		if had[u.User] != u.Certificate {
			out = append(out, "the key of "+u.User)
		}
		delete(had, u.User)
	}
	for _, user := range slices.Sorted(maps.Keys(had)) {
		out = append(out, "no key of "+user+" any more")
	}
	if old.Server != now.Server {
		out = append(out, "its server certificate")
	}
	if now.TellAfter != nil && (old.TellAfter == nil || !old.TellAfter.Equal(*now.TellAfter)) {
		out = append(out, "what it tells of its sessions has to be newer")
	}
	if !old.Lists.equal(now.Lists) {
		out = append(out, "what is revoked")
	}
	if old.Escrow != now.Escrow {
		out = append(out, "what is in escrow for it")
	}
	return strings.Join(out, ", ")
}

// server returns the certificate that a database node's server is to have: "" as long as it has not asked. Names are this
// authority's to say: those of the environment file, whatever the request has.
func (p *publisher) server(ctx context.Context, n Needs, old string) (string, error) {
	if n.Server == nil {
		return "", nil
	}
	self := p.site.signers(func(other recipe.Node) bool { return other.Name == n.Node.Name })
	s, _, err := p.site.Delivery.get(ctx, p.h, bundle.Wanted{Environment: p.site.Environment.Name, Key: requestEntries + n.Node.Name, Signers: self})
	if err != nil || s.version == 0 {
		return old, err
	}
	if s.refused != nil {
		return old, fmt.Errorf("its request is not taken: %w", s.refused)
	}
	var body requestBody
	if err := s.statement.Decode(&body); err != nil {
		return old, err
	}
	request, err := pki.ParseRequest([]byte(body.Server))
	if err != nil {
		return old, err
	}
	spec := n.Server.specFor(n.Node)
	if old == "" {
		old = body.Certificate
	}
	if cert, err := pki.ParseCertificate([]byte(old)); err == nil && len(pki.Wrong(cert, request, p.cert, spec, p.h.Now(), n.Server.leaf.renew.before)) == 0 {
		return string(cert.PEM()), nil
	}
	cert, err := p.issuer.issue(p.h, p.cert, request, spec)
	if err != nil {
		return old, err
	}
	return string(cert.PEM()), nil
}

// removed takes back what lies there for nodes that are no longer in the environment, and says what they could open.
func (p *publisher) removed(ctx context.Context, known []store.Key) error {
	var errs []error
	nodes := make(map[string]bool, len(p.needs))
	for _, n := range p.site.Environment.Nodes {
		nodes[n.Name] = n.Name != p.site.Node.Name
	}
	for _, k := range known {
		name := strings.TrimPrefix(k.Name, nodeEntries)
		if nodes[name] {
			continue
		}
		there, err := p.there(ctx, k.Name)
		var old nodeBody
		if err == nil && there.refused == nil {
			err = there.statement.Decode(&old)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(old.Users) == 0 && old.Server == "" && there.refused == nil {
			continue
		}
		if name != p.site.Node.Name {
			p.h.Warn(fmt.Sprintf("%s is no longer a node of the environment: what lies there for it is taken back%s", name, couldOpen(old)))
		}
		_, err = p.say(k.Name, there, nodeBody{Roots: string(p.roots), Users: []deliveredUser{}}, name, "it is no longer a node that gets keys", "")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// couldOpen says what a node that is gone has all the same, and what to do if it is out of the operator's hands.
func couldOpen(had nodeBody) string {
	var out string
	if len(had.Users) > 0 {
		users := make([]string, len(had.Users))
		for i, u := range had.Users {
			users[i] = u.User
		}
		out = fmt.Sprintf(", but it has, or could open, the keys of %s: if it is out of your hands, converge revoke %s --reissue", list(users), strings.Join(users, " "))
	}
	if had.Server != "" {
		out += "; clients trust its server certificate until that ends, or until converge rotate ca"
	}
	return out
}
