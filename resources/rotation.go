package resources

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/pki"
)

// One authority takes the place of another in three moves, each in a run of its own, and each only when the one before has
// been proven everywhere:
//
//	begin:   next.key and next.crt are made. Every node trusts both, and every server has both loaded.
//	promote: the next one becomes ca.key and ca.crt, and the one before previous.key and previous.crt. Every certificate
//	         is issued anew, over its key.
//	drop:    when no certificate and no session is of the previous one any more, it goes into the archive, and nobody
//	         trusts it any longer.
//
// What stands in the authority's directory says how far it is, so that any run can go on.

// An AuthorityChange is what a run has found out about a change of authorities.
type AuthorityChange struct {
	Phase Phase     `json:"phase"`           // where it is, when the run has ended
	Moved bool      `json:"moved"`           // this run has taken it on
	Waits []string  `json:"waits,omitempty"` // nodes that hold it back, and why
	Since time.Time `json:"-"`               // of Drain: what servers tell of their sessions has to be later than this
}

// UnderWay says whether there is more of it to come.
func (c *AuthorityChange) UnderWay() bool { return c.Phase != Settled }

// A Phase is how far a change of authorities is.
type Phase string

// The phases there are.
const (
	Settled Phase = ""      // there is one authority
	Trust   Phase = "trust" // a second one is made, and is to be trusted everywhere
	Drain   Phase = "drain" // it issues, and what the previous one issued is on its way out
)

// An authoritySlot is where one authority of a change is.
type authoritySlot struct{ key, cert string }

func (a *CertAuthority) slot(name string) authoritySlot {
	return authoritySlot{path.Join(a.dir, name+".key"), path.Join(a.dir, name+".crt")}
}

func (a *CertAuthority) current() authoritySlot  { return a.slot("ca") }
func (a *CertAuthority) next() authoritySlot     { return a.slot("next") }
func (a *CertAuthority) previous() authoritySlot { return a.slot("previous") }

func (s authoritySlot) targets() []engine.Target {
	return []engine.Target{{Path: s.key}, {Path: s.cert}}
}

// read returns what is there; the zero pair where nothing is. A half or damaged one is an error.
func (s authoritySlot) read(h *engine.Host) (pair, error) {
	p, err := s.look(h)
	switch {
	case err != nil:
		return p, err
	case p.damaged, p.cert.IsZero() != p.key.IsZero(), !p.cert.IsZero() && !p.key.Matches(p.cert):
		return p, fmt.Errorf("%s and %s are of a change of authorities that is under way, and do not belong together or cannot be read: put them back from a backup", s.key, s.cert)
	}
	return p, nil
}

// write puts an authority there.
func (s authoritySlot) write(h *engine.Host, p pair, options ...engine.WriteOption) error {
	if err := h.WriteSecret(s.key, engine.NewSecret(p.key.PEM()), rootSecret, append(options, engine.NoDiff)...); err != nil {
		return err
	}
	return h.WriteFile(s.cert, p.cert.PEM(), rootPublic, append(options, engine.NoDiff)...)
}

func (s authoritySlot) remove(h *engine.Host) error {
	return errors.Join(h.Remove(s.key, engine.NoDiff), h.Remove(s.cert, engine.NoDiff))
}

// A changing is a change of authorities as one run sees it. The zero pairs are those that are not there.
type changing struct{ now, next, previous pair }

func (c changing) phase() Phase {
	switch {
	case !c.next.cert.IsZero():
		return Trust
	case !c.previous.cert.IsZero():
		return Drain
	}
	return Settled
}

// String tells states apart.
func (c changing) String() string {
	return fmt.Sprint(c.now.cert.Fingerprint(), c.next.cert.Fingerprint(), c.previous.cert.Fingerprint())
}

// all are the authorities that have to be trusted, the one that issues first.
func (c changing) all() []pair {
	out := []pair{c.now}
	for _, p := range []pair{c.next, c.previous} {
		if !p.cert.IsZero() {
			out = append(out, p)
		}
	}
	return out
}

func (a *CertAuthority) changing(h *engine.Host) (c changing, err error) {
	if c.now, err = a.current().read(h); err != nil {
		return c, err
	}
	if c.next, err = a.next().read(h); err != nil {
		return c, err
	}
	c.previous, err = a.previous().read(h)
	return c, err
}

// change takes a change of authorities one move on, or begins one: when it is asked for, or the authority is near its end.
func (a *CertAuthority) change(ctx context.Context, h *engine.Host) error {
	c, err := a.changing(h)
	if err != nil {
		return err
	}
	if a.began == "" {
		a.began = c.String()
	}
	found := a.site.Change
	if found == nil {
		found = &AuthorityChange{}
	}
	found.Phase = c.phase()
	if a.began != c.String() {
		found.Moved = true
		return nil // one move a run: what it has changed is to be seen first
	}
	if m := a.site.Maintenance; m.authority() && m.back() && m.pending("the authority", c.String()) {
		return a.changeBack(h, c)
	}
	switch c.phase() {
	case Trust:
		if found.Waits, err = a.untrusted(ctx, h, c); err != nil || len(found.Waits) > 0 {
			return a.held(h, found.Waits, "every node and every server trusts both", err)
		}
		return a.promote(h, c)
	case Drain:
		if found.Waits, err = a.undrained(ctx, h, c, found); err != nil || len(found.Waits) > 0 {
			return a.held(h, found.Waits, "no certificate and no session is of the old one", err)
		}
		return a.drop(h, c)
	}
	if a.site.Maintenance.authority() && a.site.Maintenance.pending("the authority", c.String()) {
		return a.begin(h, c, "asked for")
	}
	left := c.now.cert.NotAfter.Sub(h.Now())
	if a.renewBefore == 0 || left > a.renewBefore {
		return nil
	}
	why := fmt.Sprintf("the authority ends on %s, in %d days", c.now.cert.NotAfter.Format(time.DateOnly), left/pki.Day)
	if err := a.canProve(); err != nil {
		h.Warn(why + ": " + err.Error()) // nobody has asked for it, and the rest of the run does not need it today
		return nil
	}
	return a.begin(h, c, why)
}

// held says who holds a change back.
func (a *CertAuthority) held(h *engine.Host, waits []string, until string, err error) error {
	if err == nil {
		h.Warn(fmt.Sprintf("the change of the authority waits until %s: %s", until, strings.Join(waits, "; ")))
	}
	return err
}

// begin makes the second authority.
func (a *CertAuthority) begin(h *engine.Host, c changing, why string) error {
	if err := a.canProve(); err != nil {
		return err
	}
	cert, key, err := pki.NewAuthority(h.Rand(), h.Now(), a.spec)
	if err != nil {
		return err
	}
	return a.beginWith(h, c, pair{cert: cert, key: key}, why, engine.Generated)
}

func (a *CertAuthority) beginWith(h *engine.Host, c changing, next pair, why string, options ...engine.WriteOption) error {
	if err := a.next().write(h, next, options...); err != nil {
		return err
	}
	c.next = next
	h.Explain(fmt.Sprintf("begin to change the authority: %q is trusted beside %q from now on", next.cert.Subject.CommonName, c.now.cert.Subject.CommonName), why)
	return a.trustAll(h, c, pki.Certificate{})
}

// canProve refuses a change where nothing would show what other nodes trust.
func (a *CertAuthority) canProve() error {
	if n := len(a.site.Environment.Nodes) - 1; n > 0 && a.site.Delivery == nil {
		return fmt.Errorf("the authority is not changed: nothing shows what the %d other nodes trust; give every node its host_key in the environment file (converge fleet scan proposes them)", n)
	}
	return nil
}

// promote makes the next authority the one that issues.
func (a *CertAuthority) promote(h *engine.Host, c changing) error {
	after := changing{now: c.next, previous: c.now}
	err := errors.Join(a.previous().write(h, c.now), a.current().write(h, c.next), a.next().remove(h))
	if err != nil {
		return err
	}
	h.Explain(fmt.Sprintf("issue with the authority %q, and no longer with %q", c.next.cert.Subject.CommonName, c.now.cert.Subject.CommonName), "every node and every server trusts both")
	return a.trustAll(h, after, pki.Certificate{})
}

// drop ends the change: nobody trusts the previous authority any longer. Its key is kept.
func (a *CertAuthority) drop(h *engine.Host, c changing) error {
	if err := a.keepOld(h, a.previous()); err != nil {
		return err
	}
	if err := a.previous().remove(h); err != nil {
		return err
	}
	h.Explain(fmt.Sprintf("trust the authority %q no longer", c.previous.cert.Subject.CommonName), "no certificate and no session is of it any more")
	return a.trustAll(h, changing{now: c.now}, c.previous.cert)
}

func (a *CertAuthority) keepOld(h *engine.Host, s authoritySlot) error {
	key, err := oldFileAt(h, s.key, true)
	if err != nil {
		return err
	}
	cert, err := oldFileAt(h, s.cert, false)
	if err != nil {
		return err
	}
	old := a.site.oldAuthorities()
	for i := range key {
		key[i].name = old.key
	}
	for i := range cert {
		cert[i].name = old.cert
	}
	return old.put(h, append(key, cert...))
}

// changeBack is what undoing a change means in each phase: before anything was issued, the second authority is dropped;
// while both are trusted, the two change places; afterwards the old one, from the archive, is the next.
func (a *CertAuthority) changeBack(h *engine.Host, c changing) error {
	switch c.phase() {
	case Trust:
		if err := a.keepOld(h, a.next()); err != nil {
			return err
		}
		if err := a.next().remove(h); err != nil {
			return err
		}
		h.Explain(fmt.Sprintf("trust the authority %q no longer", c.next.cert.Subject.CommonName), "the change is taken back")
		return a.trustAll(h, changing{now: c.now}, c.next.cert)
	case Drain:
		err := errors.Join(a.current().write(h, c.previous), a.previous().write(h, c.now))
		if err != nil {
			return err
		}
		h.Explain(fmt.Sprintf("issue with the authority %q again", c.previous.cert.Subject.CommonName), "the change is taken back")
		return a.trustAll(h, changing{now: c.previous, previous: c.now}, pki.Certificate{})
	}
	dir, files, err := a.site.oldAuthorities().newest(h, "ca.key", "ca.crt")
	if err != nil {
		return err
	}
	if dir == "" {
		return fmt.Errorf("no old authority is in %s: nothing can be brought back", path.Join(a.site.oldKeys(), "authority"))
	}
	old := pair{}
	if old.key, err = pki.ParsePrivateKey(files[0]); err == nil {
		old.cert, err = pki.ParseCertificate(files[1])
	}
	if err != nil {
		return fmt.Errorf("the old authority in %s: %w", dir, err)
	}
	for _, r := range pki.WrongAuthority(old.cert, old.key, a.spec, h.Now()) {
		if r.Broken || r.Kind == pki.InWindow {
			return fmt.Errorf("the old authority in %s cannot come back: %s", dir, r)
		}
	}
	if err := a.canProve(); err != nil {
		return err
	}
	return a.beginWith(h, c, old, "it is brought back from "+dir)
}

// trustAll writes the bundle of the authorities to trust: those of the change, the one that issues first, and then what
// else an operator has put there.
func (a *CertAuthority) trustAll(h *engine.Host, c changing, gone pki.Certificate) error {
	old, err := h.ReadFile(a.bundleFile())
	if err != nil {
		return err
	}
	certs, err := pki.ParseCertificates(old)
	if err != nil {
		return fmt.Errorf("the bundle %s: %w", a.bundleFile(), err)
	}
	var all []pki.Certificate
	for _, p := range c.all() {
		all = append(all, p.cert)
	}
	for _, other := range certs {
		if other.Fingerprint() != gone.Fingerprint() && !slices.ContainsFunc(all, func(c pki.Certificate) bool { return c.Fingerprint() == other.Fingerprint() }) {
			all = append(all, other)
		}
	}
	options := []engine.WriteOption{engine.NoDiff}
	if c.phase() == Trust && !h.Foretold(a.next().cert) {
		options = append(options, engine.Generated)
	}
	return h.WriteFile(a.bundleFile(), pki.Bundle(all...), rootPublic, options...)
}

// untrusted names the nodes that do not trust the next authority yet.
func (a *CertAuthority) untrusted(ctx context.Context, h *engine.Host, c changing) ([]string, error) {
	fp := c.next.cert.Fingerprint()
	return a.lagging(ctx, h, c, func(node string, r receiptBody, _ time.Time) string { return r.lacks(fp) })
}

// undrained names the nodes that still have something of the previous authority.
func (a *CertAuthority) undrained(ctx context.Context, h *engine.Host, c changing, found *AuthorityChange) ([]string, error) {
	now, previous := c.now.cert.Fingerprint(), c.previous.cert.Fingerprint()
	waits, err := a.lagging(ctx, h, c, func(node string, r receiptBody, made time.Time) string {
		if r.Since.After(found.Since) {
			found.Since = r.Since
		}
		return r.holds(now)
	})
	if err != nil || len(waits) > 0 {
		return waits, err
	}
	// Every certificate is of the new one, since then. Sessions that servers told of before do not count.
	return a.lagging(ctx, h, c, func(node string, r receiptBody, made time.Time) string {
		if r.Server != nil && node != a.site.Node.Name && made.Before(found.Since) {
			return "has not told yet which sessions are left; run converge apply there"
		}
		return r.sessions(previous)
	})
}

// lagging asks what each node has told, and what is seen here, and names those with which something is wrong.
func (a *CertAuthority) lagging(ctx context.Context, h *engine.Host, c changing, wrong func(node string, r receiptBody, made time.Time) string) ([]string, error) {
	var roots []pki.Certificate
	for _, p := range c.all() {
		roots = append(roots, p.cert)
	}
	var out []string
	own, err := a.site.observe(ctx, h, h.ReadBefore, a.places, roots, a.certFile())
	if err != nil {
		// It is no reason to fail: what keeps the server from answering may be what this run mends.
		out = append(out, fmt.Sprintf("%s: %v", a.site.Node.Name, err))
	} else if w := wrong(a.site.Node.Name, own, time.Time{}); w != "" {
		out = append(out, a.site.Node.Name+" "+w)
	}
	if a.site.Delivery == nil {
		return out, nil
	}
	for _, n := range a.site.Environment.Nodes {
		if n.Name == a.site.Node.Name {
			continue
		}
		r, made, err := a.site.receipt(ctx, h, n.Name)
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("%s: %v", n.Name, err))
		case made.IsZero():
			out = append(out, n.Name+" has not told what it trusts: run converge apply there (its recipe needs key_delivery for its role)")
		default:
			if w := wrong(n.Name, r, made); w != "" {
				out = append(out, n.Name+" "+w)
			}
		}
	}
	return out, nil
}
