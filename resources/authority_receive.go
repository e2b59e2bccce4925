package resources

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"converge/engine"
	"converge/engine/bundle"
	"converge/resources/pki"
)

// receive takes what the authority has for this node, and keeps it: the next steps read it there, and so do later runs
// when the store is away.
func (a *CertAuthority) receive(ctx context.Context, h *engine.Host) error {
	if err := a.noKeyHere(h); err != nil {
		return err
	}
	if a.site.Delivery == nil {
		return fmt.Errorf("the keys of this node come from the authority on %s, and nothing says how: describe the environment in a file, with every node, its host_key (converge fleet scan proposes them) and a store", a.site.authorityNode())
	}
	old, kept, err := a.kept(h)
	if err != nil {
		return err
	}
	mine, err := a.record(h)
	if err != nil {
		return err
	}
	text, err := a.fetch(ctx, h, old, mine)
	if err != nil {
		return err
	}
	if text == nil {
		text = kept
	}
	if text == nil {
		return nil // it waits
	}
	now, err := parseReceived(text)
	if err != nil {
		return err
	}
	if err := a.sameAuthority(old, now); err != nil {
		return err
	}
	if err := a.strayKeys(h, now.roots); err != nil {
		return err
	}
	if err := a.leftUsers(h, now); err != nil {
		return err
	}
	if _, err := a.site.identity(h); err != nil {
		h.Warn(err.Error()) // nothing has to be opened today, and the next key could not be
	}
	h.Explain(fmt.Sprintf("take what %s has issued for this node", now.statement.From), fmt.Sprintf("it is of %s", now.statement.Made.Format("2006-01-02 15:04:05")))
	if err := h.WriteFile(a.receivedFile(), text, engine.Attr{Mode: 0o600}, engine.NoDiff); err != nil {
		return err
	}
	if err := h.WriteFile(a.certFile(), now.authority().PEM(), rootPublic, engine.NoDiff); err != nil {
		return err
	}
	if err := h.WriteFile(a.bundleFile(), pki.Bundle(now.roots...), rootPublic, engine.NoDiff); err != nil {
		return err
	}
	return a.issuer().keepDelivered(h, now.body.Lists)
}

// noKeyHere refuses to go on where an authority's key lies and does not belong: the one that issues, or another one of a
// change of authorities.
func (a *CertAuthority) noKeyHere(h *engine.Host) error {
	for _, slot := range []authoritySlot{a.current(), a.next(), a.previous()} {
		_, err := h.Stat(slot.key)
		if err == nil {
			return fmt.Errorf("the authority's private key is here, as %s, and the role of this node is %s, where it does not belong: whoever reads this disk can make keys for everybody. When another node has the authority by now, take it away (shred -u %s); when this node is to have it, its role is db_master", slot.key, a.site.Node.Role, slot.key)
		}
		if err := unlessMissing(err); err != nil {
			return err
		}
	}
	return nil
}

// kept reads what an earlier run took.
func (a *CertAuthority) kept(h *engine.Host) (*received, []byte, error) {
	text, err := h.ReadFile(a.receivedFile())
	if engine.IsNotExist(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := parseReceived(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; move it away, and it is fetched anew", a.receivedFile(), err)
	}
	return r, text, nil
}

// fetch gets a statement from the store, and nil where it has none that is newer or better than the one that is kept.
func (a *CertAuthority) fetch(ctx context.Context, h *engine.Host, old *received, mine record) ([]byte, error) {
	d := a.site.Delivery
	w := bundle.Wanted{Environment: a.site.Environment.Name, Key: nodeEntries + a.site.Node.Name, Signers: a.mayIssue(), Now: h.Now()}
	if old != nil {
		w.Seen = bundle.Seen{Epoch: old.statement.Epoch, Version: old.statement.Version}
	}
	if mine.Epoch > w.Seen.Epoch {
		w.Seen = bundle.Seen{Epoch: mine.Epoch}
	}
	there, text, err := d.get(ctx, h, w)
	switch {
	case err != nil && old == nil:
		return nil, err
	case err != nil:
		h.Warn(fmt.Sprintf("this node goes on with what it has of %s: %v", old.statement.Made.Format("2006-01-02"), err))
		return nil, nil
	case there.version == 0 && old == nil:
		h.Wait("%s has nothing for this node yet: run converge apply on %s, then here", d.Store, a.site.authorityNode())
		return nil, nil
	case there.version == 0:
		h.Warn(fmt.Sprintf("%s has nothing for this node any more; it goes on with what it has of %s", d.Store, old.statement.Made.Format("2006-01-02")))
		return nil, nil
	case there.refused != nil && old != nil && expiredOnly(there, old):
		h.Warn(fmt.Sprintf("what %s has for this node: %v; it goes on with what it has", d.Store, there.refused))
		return nil, nil
	case there.refused != nil:
		return nil, fmt.Errorf("what %s has for this node is not taken, and what is here stays: %w", d.Store, there.refused)
	}
	return text, nil
}

// expiredOnly says that the statement is the one that was taken already, and has ended since.
func expiredOnly(there stored, old *received) bool {
	r, ok := there.refused.(*bundle.Refused)
	return ok && r.Kind == bundle.Expired && there.statement.Epoch == old.statement.Epoch && there.statement.Version == old.statement.Version
}

// sameAuthority holds the authority against the one that is known here. Another one is taken only when the statement
// trusts both: that is how authorities are replaced.
func (a *CertAuthority) sameAuthority(old, now *received) error {
	if old == nil || now.trusts(old.authority()) {
		return nil
	}
	return fmt.Errorf("what %s issued comes from another authority, %s, and this node knows %s: nothing of it is taken. When the authority was made anew on purpose, move %s away, and run again", now.statement.From, now.authority(), old.authority(), a.receivedFile())
}

// keysIn are the files of a directory that could be keys, by their names, sorted. The names of the others do not matter to
// anybody's decision, so they are not looked up through the host.
func keysIn(root, dir string) []string {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode()&fs.ModeType != 0 || info.Size() > 64<<10 {
			continue
		}
		if name := strings.ToLower(e.Name()); slices.Contains([]string{".key", ".pem", ".p8"}, path.Ext(name)) {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out
}
