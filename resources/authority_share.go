package resources

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources/pki"
)

// A record is what a node remembers of having the authority.
type record struct {
	Environment string `json:"environment"`
	Epoch       int64  `json:"epoch"` // 0: it never had it
}

func (a *CertAuthority) record(h *engine.Host) (record, error) {
	var r record
	b, err := h.ReadFile(a.recordFile())
	if engine.IsNotExist(err) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("%s, which says in which epoch this node had the authority: %w", a.recordFile(), err)
	}
	return r, nil
}

// remember writes the epoch down.
func (a *CertAuthority) remember(h *engine.Host, epoch int64) error {
	b, err := json.Marshal(record{a.site.Environment.Name, epoch})
	if err != nil {
		return err
	}
	return h.WriteFile(a.recordFile(), append(b, '\n'), rootPublic)
}

// databases are those whose word about who has the authority counts: a former holder has another role by now.
func (a *CertAuthority) databases() map[string]bundle.HostKey {
	return a.site.signers(func(n recipe.Node) bool { return hasDatabase(n.Role) })
}

// mayIssue are the nodes from which others take keys: the one that has the authority by its role, and those that may
// take it over.
func (a *CertAuthority) mayIssue() map[string]bundle.HostKey {
	return a.site.signers(func(n recipe.Node) bool { return issues(n.Role) || slices.Contains(a.Escrow, n.Name) })
}

// share keeps the authority of an environment with other nodes. The store says which authority the environment has and
// which node has it, in which epoch; so there is never a second one.
func (a *CertAuthority) share(ctx context.Context, h *engine.Host) error {
	d := a.site.Delivery
	mine, err := a.record(h)
	if err != nil {
		return err
	}
	d.New = d.New || mine.Epoch == 0
	there, _, err := d.get(ctx, h, bundle.Wanted{Environment: a.site.Environment.Name, Key: authorityEntry, Signers: a.databases()})
	here, localErr := a.local(h)
	switch {
	case localErr != nil:
		return localErr
	case here.damaged:
		return a.keep(h) // which says what is wrong
	case err != nil && here.key.IsZero():
		return fmt.Errorf("whether the environment has an authority already cannot be seen: %w; none is made, for it could be the second one", err)
	case err != nil:
		h.Warn(fmt.Sprintf("this node goes on with the authority that it has: %v", err))
		return a.keep(h)
	case there.refused != nil:
		return fmt.Errorf("what %s says of the environment's authority is not taken: %w. When you know that no other node has taken the authority over, delete the entry %q there, and run again", d.Store, there.refused, authorityEntry)
	}
	if later, is := a.laterElsewhere(ctx, h, there, mine); is {
		return a.replaced(later)
	}
	if there.version == 0 {
		return a.announce(h, mine)
	}
	return a.compare(ctx, h, there, here, mine)
}

// laterElsewhere looks for another node that has taken the authority over where this node's own part of the store does not
// tell: only a store that is in several places has such parts.
func (a *CertAuthority) laterElsewhere(ctx context.Context, h *engine.Host, there stored, mine record) (later bundle.Statement, is bool) {
	parts, ok := a.site.Delivery.Store.(interface {
		Elsewhere(context.Context, string) []store.Entry
	})
	if !ok {
		return later, false
	}
	last := max(there.statement.Epoch, mine.Epoch)
	for _, e := range parts.Elsewhere(ctx, authorityEntry) {
		s, err := bundle.Verify(e.Value, bundle.Wanted{Environment: a.site.Environment.Name, Key: authorityEntry, Signers: a.databases()})
		if err == nil && s.From != a.site.Node.Name && s.Epoch > last {
			later, is, last = s, true, s.Epoch
		}
	}
	return later, is
}

// replaced is what a master says that comes back, and whose own server does not know that another one is the master now.
func (a *CertAuthority) replaced(s bundle.Statement) error {
	return &engine.RefusedError{Reason: fmt.Sprintf("%s has the authority since epoch %d (%s), as the servers of other nodes say, and this node's own server does not know of it: it was replaced while it was away. This node issues nothing any more. Make its server a standby of %s, make it a db_replica in the environment file, and take the old key away (shred -u %s); when it is the right one after all, stop the server of %s first",
		s.From, s.Epoch, s.Made.Format(time.DateTime), s.From, a.keyFile(), s.From)}
}

// A pair is what stands in the authority's directory; zero where nothing does.
type pair struct {
	cert    pki.Certificate
	key     pki.PrivateKey
	damaged bool // a file is there, and cannot be read as what it should be
}

// local reads what stands there. What is damaged is for keep to say.
func (a *CertAuthority) local(h *engine.Host) (pair, error) { return a.current().look(h) }

// look reads what stands there, whatever it is.
func (s authoritySlot) look(h *engine.Host) (p pair, err error) {
	cert, err := h.ReadFile(s.cert)
	if err := unlessMissing(err); err != nil {
		return p, err
	}
	key, err := h.ReadFile(s.key)
	if err := unlessMissing(err); err != nil {
		return p, err
	}
	var errCert, errKey error
	p.cert, errCert = pki.ParseCertificate(cert)
	p.key, errKey = pki.ParsePrivateKey(key)
	p.damaged = cert != nil && errCert != nil || key != nil && errKey != nil
	return p, nil
}

// announce tells the environment of the authority, the first time.
func (a *CertAuthority) announce(h *engine.Host, mine record) error {
	id, err := a.site.identity(h)
	if err != nil {
		return err
	}
	if err := a.keep(h); err != nil {
		return err
	}
	epoch := max(mine.Epoch, 1)
	if err := a.remember(h, epoch); err != nil {
		return err
	}
	text, err := a.statement(h, id, stored{}, epoch)
	if err != nil {
		return err
	}
	d := a.site.Delivery
	h.Act(engine.Action{Kind: engine.OpPublish, Path: authorityEntry, Note: fmt.Sprintf("epoch %d", epoch), Do: func(ctx context.Context) error {
		_, err := d.put(ctx, authorityEntry, 0, text)
		if errors.Is(err, store.ErrExists) {
			return &engine.Refusal{Paths: []string{a.keyFile(), a.recordFile()}, Err: fmt.Errorf("%w: the environment has an authority already, and this node's own is taken back", err)}
		}
		return err
	}})
	return nil
}

// statement is what the store is to say: that this node has the authority.
func (a *CertAuthority) statement(h *engine.Host, id bundle.Identity, old stored, epoch int64) ([]byte, error) {
	cert, err := engine.Parsed(h, a.certFile(), pki.ParseCertificate)
	if err != nil {
		return nil, err
	}
	return a.site.sign(h, id, message{authorityEntry, epoch, old.statement.Version, authorityBody{string(cert.PEM())}})
}

// compare holds what is here against what the store says.
func (a *CertAuthority) compare(ctx context.Context, h *engine.Host, there stored, here pair, mine record) error {
	var body authorityBody
	if err := there.statement.Decode(&body); err != nil {
		return err
	}
	cert, err := pki.ParseCertificate([]byte(body.Certificate))
	if err != nil {
		return fmt.Errorf("the authority that %s names: %w", a.site.Delivery.Store, err)
	}
	holder, epoch := there.statement.From, there.statement.Epoch
	if holder != a.site.Node.Name && mine.Epoch > 0 && mine.Epoch <= epoch && !here.key.IsZero() {
		return a.fenced(there, mine)
	}
	changes, err := a.ofOneChange(h, here, cert, holder)
	if err != nil {
		return err
	}
	if !here.cert.IsZero() && here.cert.Fingerprint() != cert.Fingerprint() && !changes {
		return fmt.Errorf("this node's authority is %s, and the environment's is %s, which %s has: there must not be two; nothing is issued. When this node's is the stray one, move %s away and run again; the environment's is not replaced by itself",
			here.cert, cert, holder, a.dir)
	}
	switch {
	case holder == a.site.Node.Name && here.key.IsZero():
		return a.takeOver(ctx, h, there, here, cert, epoch)
	case holder == a.site.Node.Name, mine.Epoch > epoch:
		return a.hold(ctx, h, there, cert, max(epoch, mine.Epoch))
	}
	return a.takeOver(ctx, h, there, here, cert, epoch+1)
}

// ofOneChange says whether this node's authority and the one that the store names are the two of a change: the store was not
// told of the last move yet, or this node, which has not had the authority so far, has not heard of it.
func (a *CertAuthority) ofOneChange(h *engine.Host, here pair, named pki.Certificate, holder string) (bool, error) {
	if here.key.IsZero() {
		roots, err := h.ReadFile(a.bundleFile())
		if err := unlessMissing(err); err != nil {
			return false, err
		}
		certs, _ := pki.ParseCertificates(roots) // of what cannot be read, nothing is trusted
		return slices.ContainsFunc(certs, func(c pki.Certificate) bool { return c.Fingerprint() == named.Fingerprint() }), nil
	}
	previous, err := a.previous().look(h)
	return err == nil && holder == a.site.Node.Name && !previous.cert.IsZero() && previous.cert.Fingerprint() == named.Fingerprint(), err
}

// hold goes on having the authority. told is the one that the store names.
func (a *CertAuthority) hold(ctx context.Context, h *engine.Host, there stored, told pki.Certificate, epoch int64) error {
	if err := a.keep(h); err != nil {
		return err
	}
	if err := a.change(ctx, h); err != nil {
		return err
	}
	if err := a.remember(h, epoch); err != nil {
		return err
	}
	now, err := a.local(h)
	if err != nil {
		return err
	}
	same := now.cert.Fingerprint() == told.Fingerprint()
	if same && there.statement.From == a.site.Node.Name && there.statement.Epoch == epoch && !due(there.statement, h.Now()) {
		return nil
	}
	id, err := a.site.identity(h)
	if err != nil {
		return err
	}
	text, err := a.statement(h, id, there, epoch)
	if err != nil {
		return err
	}
	a.site.Delivery.publish(h, authorityEntry, there.version, text, fmt.Sprintf("epoch %d", epoch))
	return nil
}

// fenced is what a node says that had the authority before another one took it over.
func (a *CertAuthority) fenced(there stored, mine record) error {
	s := there.statement
	return &engine.RefusedError{Reason: fmt.Sprintf("%s has the authority since epoch %d (%s), and this node had it in epoch %d: it issues nothing any more. Make it a db_replica in the environment file, and take the old key away (shred -u %s); to give the authority back to it on purpose, promote it and remove %s first",
		s.From, s.Epoch, s.Made.Format(time.DateTime), mine.Epoch, a.keyFile(), a.recordFile())}
}

// takeOver makes this node the one that has the authority, with the same key: the one that lies here, brought by hand, or
// the one in escrow. The claim stands in the store before the key stands on the disk, so that of two nodes that take over
// at once only one gets there.
func (a *CertAuthority) takeOver(ctx context.Context, h *engine.Host, there stored, here pair, cert pki.Certificate, epoch int64) error {
	id, err := a.site.identity(h)
	if err != nil {
		return err
	}
	key, escrow := here.key, inEscrow{}
	if key.IsZero() {
		key, escrow, err = a.fromEscrow(ctx, h, there.statement.From)
		if errors.Is(err, errNoEscrow) && there.statement.From == a.site.Node.Name {
			if !here.cert.IsZero() {
				return a.keep(h) // which says what is missing
			}
			return fmt.Errorf("this node has the environment's authority, %s, and %s and %s are missing: put them back from a backup; none is made in its place", cert, a.keyFile(), a.certFile())
		}
		if err != nil {
			return err
		}
	}
	key, authorities, err := a.takeChange(h, escrow.change, cert, key)
	if err != nil {
		return fmt.Errorf("the change of authorities in escrow: %w", err)
	}
	if !key.Matches(cert) {
		return fmt.Errorf("the key does not belong to the environment's authority %s: put the right one into %s, from a backup or from %s", cert, a.keyFile(), there.statement.From)
	}
	if err := h.WriteSecret(a.keyFile(), engine.NewSecret(key.PEM()), rootSecret, engine.NoDiff); err != nil {
		return err
	}
	if err := h.WriteFile(a.certFile(), cert.PEM(), rootPublic, engine.NoDiff); err != nil {
		return err
	}
	if len(escrow.roots) > 0 {
		if err := h.WriteFile(a.bundleFile(), escrow.roots, rootPublic, engine.NoDiff); err != nil {
			return err
		}
	}
	if err := a.keepBundle(h, cert); err != nil {
		return err
	}
	c, err := a.changing(h)
	if err != nil {
		return err
	}
	if err := a.trustAll(h, c, pki.Certificate{}); err != nil {
		return err
	}
	if err := a.takeUsers(h, authorities, escrow.users); err != nil {
		return err
	}
	if err := a.remember(h, epoch); err != nil {
		return err
	}
	h.Explain(fmt.Sprintf("take over the authority %q, as epoch %d", cert.Subject.CommonName, epoch), fmt.Sprintf("%s had it in epoch %d", there.statement.From, there.statement.Epoch))
	if epoch == there.statement.Epoch {
		h.Explain("put the authority's key back from escrow", "it is not in "+a.keyFile()+", and this node has the authority")
		return nil
	}
	text, err := a.statement(h, id, there, epoch)
	if err != nil {
		return err
	}
	d := a.site.Delivery
	h.Act(engine.Action{Kind: engine.OpPublish, Path: authorityEntry, Note: fmt.Sprintf("epoch %d", epoch), First: true, Do: func(ctx context.Context) error {
		_, err := d.put(ctx, authorityEntry, there.version, text)
		if errors.Is(err, store.ErrChanged) {
			return fmt.Errorf("%w: another node took the authority over at the same time, and this one does not; make it what it is in the environment file", err)
		}
		return err
	}})
	return nil
}

// strayKeys finds the authority's private key where it must not be, among the files that copies of the data directory
// take along.
func (a *CertAuthority) strayKeys(h *engine.Host, roots []pki.Certificate) error {
	if a.site.Server == nil {
		return nil
	}
	for _, file := range keysIn(h.Root(), a.site.Server.DataDirectory) {
		b, err := h.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte("PRIVATE KEY")) {
			continue
		}
		key, err := pki.ParsePrivateKey(b)
		if err == nil && slices.ContainsFunc(roots, key.Matches) {
			return fmt.Errorf("the authority's private key is in the data directory, as %s: every backup and every replica takes it along. Take it away (shred -u %s); copies that were made meanwhile have it too, and whoever has one can make keys: think of a new authority", file, file)
		}
	}
	return nil
}
