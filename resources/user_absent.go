package resources

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/pki"
)

// A key that is declared absent, or no longer declared, is taken away from this node. What is taken away is what converge
// has put there: a certificate of the user that one of the environment's authorities has issued, with its key. It goes
// into the archive first. What else lies there stays, and is named.

// Formerly returns the blocks that the recipe had: for each user whose key this node remembers to have installed, or to keep
// for others, and that no block declares any more, one that takes it away. Blocks that are there learn where their user's
// key was besides. It reads the machine, so it finds nothing where Site.Disk is nil.
func Formerly(site Site, blocks []*recipe.Block) ([]*recipe.Block, error) {
	i := slices.IndexFunc(blocks, func(b *recipe.Block) bool { _, ok := b.Config.(*CertAuthority); return ok })
	if site.Disk == nil || i < 0 {
		return nil, nil
	}
	authority := blocks[i]
	a := authority.Config.(*CertAuthority)
	records, err := readRecords(site.Disk, a.dir)
	if err != nil {
		return nil, err
	}
	declared, claimed := map[string]bool{}, map[string]bool{}
	for _, b := range blocks {
		if k, ok := b.Config.(*UserKey); ok {
			declared[k.user] = true
			for _, d := range append(slices.Clone(k.dirs), k.leaves...) {
				claimed[d.path] = true
			}
		}
	}
	for _, b := range blocks {
		if k, ok := b.Config.(*UserKey); ok {
			k.leave(records[k.user], claimed)
		}
	}
	var out []*recipe.Block
	for _, user := range a.forgotten(records, declared) {
		k := &UserKey{site: site, user: user, absent: true, why: "no recipe declares it for this node any more"}
		k.leaf = leaf{issuer: a.issuer(), what: "the client certificate of " + user, old: site.oldUserKeys(user)}
		k.leave(records[user], claimed)
		out = append(out, &recipe.Block{
			Address: freeAddress(blocks, user), Config: k, Range: authority.Range,
			After: []recipe.Ref{{To: authority.Address, Range: authority.Range}},
		})
	}
	return out, nil
}

// forgotten are the users that have a key here, or one that waits for other nodes, and that nobody declares, sorted. What a
// node still has from the time when it had the authority is not its own to take away: leftUsers names it.
func (a *CertAuthority) forgotten(records map[string]userRecord, declared map[string]bool) []string {
	users := map[string]bool{}
	for user := range records {
		users[user] = true
	}
	for _, user := range namesWith(a.site.Disk, a.usersDir(), ".crt") {
		switch {
		case !issues(a.site.Node.Role):
			delete(users, user)
		case a.site.Delivery != nil && !a.users()[user]:
			users[user] = true
		}
	}
	maps.DeleteFunc(users, func(user string, _ bool) bool { return declared[user] })
	return slices.Sorted(maps.Keys(users))
}

// freeAddress is an address for a block that no recipe has.
func freeAddress(blocks []*recipe.Block, user string) recipe.Address {
	a := recipe.Address{Type: "user_key", Name: user}
	if slices.ContainsFunc(blocks, func(b *recipe.Block) bool { return b.Address.Type == a.Type && b.Address.Name == a.Name }) {
		a.Key, a.HasKey = "removed", true
	}
	return a
}

// leave adds the directories that the key was in and is not declared to be in any more. One that another block has by now is
// that block's.
func (k *UserKey) leave(r userRecord, claimed map[string]bool) {
	for _, p := range r.Places {
		if !claimed[p.Directory] {
			k.leaves = append(k.leaves, userDir{path: p.Directory, home: true})
		}
	}
}

var userStates = []string{"present", "absent"}

// setState reads state.
func (k *UserKey) setState(b recipe.Block) hcl.Diagnostics {
	if k.Revoke && (k.State == nil || *k.State == "present") {
		return hcl.Diagnostics{mistake(k.RevokeAt, b, "Revoked and present", `A certificate that is revoked opens nothing, and %s is to have one: give the block state = "absent", or, when a key has leaked and another one is to take its place, run converge revoke %s.`, k.user, k.user)}
	}
	if k.State == nil {
		return nil
	}
	if !slices.Contains(userStates, *k.State) {
		return hcl.Diagnostics{mistake(k.StateAt, b, "Invalid state", "state is %q: %s are states.", *k.State, list(userStates))}
	}
	if *k.State == "absent" {
		k.absent, k.why = true, "it is declared absent"
		if k.Revoke {
			k.why = "it is declared absent, and its certificates are revoked"
		}
		// The account may be gone, and nobody knows where its home was.
		k.leaves = slices.DeleteFunc(k.dirs, func(d userDir) bool { return !path.IsAbs(d.path) })
		k.dirs = nil
	}
	return nil
}

// leaveTargets are the files that may be taken away.
func (k *UserKey) leaveTargets() []engine.Target {
	var out []engine.Target
	for _, d := range k.leaves {
		p := d.place(engine.User{})
		for _, t := range append(p.targets(), formTargets(p)...) {
			if !t.Dir {
				out = append(out, t)
			}
		}
	}
	if k.emptiesVault() {
		for _, t := range k.leaf.issuer.vault(k.user).targets() {
			if !t.Dir {
				out = append(out, t)
			}
		}
	}
	return out
}

// emptiesVault says whether no node is to have the key any more.
func (k *UserKey) emptiesVault() bool {
	if !k.absent || !k.vaulted() {
		return false
	}
	return !slices.ContainsFunc(k.site.Delivery.Needs, func(n Needs) bool {
		return slices.ContainsFunc(n.Users, func(u *UserKey) bool { return u.user == k.user })
	})
}

// takeAway takes the key from the places where it is not to be any more.
func (k *UserKey) takeAway(h *engine.Host, before userRecord) error {
	var taken []string
	places := []place{}
	for _, d := range k.leaves {
		places = append(places, d.place(engine.User{}))
	}
	if k.emptiesVault() {
		places = append(places, k.leaf.issuer.vault(k.user))
	}
	for _, p := range places {
		did, err := k.takeFrom(h, p, before)
		if err != nil {
			return err
		}
		if did {
			taken = append(taken, p.dir)
		}
	}
	if len(taken) > 0 {
		why := k.why
		if why == "" {
			why = "directories does not name it any more"
		}
		h.Explain(fmt.Sprintf("take the key of %s away from %s", k.user, list(taken)), why+"; it is kept in "+path.Join(k.site.oldKeys(), k.leaf.old.kind))
	}
	if !k.absent {
		return nil
	}
	return h.Remove(recordFile(k.leaf.issuer.dir, k.user), engine.NoDiff, engine.Aside)
}

// takeFrom takes what converge has put into a place, and says whether that was anything.
func (k *UserKey) takeFrom(h *engine.Host, p place, before userRecord) (bool, error) {
	keyFile, err := oldFileAt(h, p.keyFile(), true)
	if err != nil {
		return false, err
	}
	certFile, err := oldFileAt(h, p.certFile(), false)
	if err != nil {
		return false, err
	}
	if len(keyFile) == 0 && len(certFile) == 0 {
		return false, nil
	}
	roots, err := h.ReadFile(k.leaf.issuer.bundleFile)
	if err != nil {
		return false, fmt.Errorf("whether the key of %s in %s comes from this environment cannot be seen: %w", k.user, p.dir, err)
	}
	f, foreign := k.own(keyFile, certFile, roots)
	if foreign != "" {
		h.Warn(fmt.Sprintf("%s stays in %s: %s", k.user, p.dir, foreign))
		return false, nil
	}
	for i, name := range []string{k.leaf.old.key, k.leaf.old.cert} {
		files := [][]oldFile{keyFile, certFile}[i]
		for j := range files {
			files[j].name = name
		}
	}
	if err := k.leaf.old.put(h, append(keyFile, certFile...)); err != nil {
		return false, err
	}
	return true, errors.Join(h.Remove(p.certFile(), engine.NoDiff), h.Remove(p.keyFile(), engine.Sensitive), k.takeForms(h, p, f, roots, before), takeRoots(h, p, roots))
}

// own reads the pair, or says why it is not one that converge has put there.
func (k *UserKey) own(keyFile, certFile []oldFile, roots []byte) (f found, foreign string) {
	var err error
	if len(certFile) == 0 {
		return f, "there is a key without a certificate, so nothing says whose it is"
	}
	if f.cert, err = pki.ParseCertificate(certFile[0].content); err != nil {
		return f, "its certificate cannot be read: " + err.Error()
	}
	switch {
	case f.cert.Subject.CommonName != k.user:
		return f, fmt.Sprintf("the certificate there is for %q", f.cert.Subject.CommonName)
	case !trusted(roots, f.cert):
		return f, "no authority of this environment has issued the certificate there"
	case len(keyFile) == 0:
		return f, ""
	}
	if f.key, err = pki.ParsePrivateKey(keyFile[0].content); err != nil || !f.key.Matches(f.cert) {
		return f, "the key there is not the certificate's"
	}
	return f, ""
}

// takeForms removes the other forms of the pair.
func (k *UserKey) takeForms(h *engine.Host, p place, f found, roots []byte, before userRecord) error {
	if p.root == "" {
		return nil
	}
	authorities, err := pki.ParseCertificates(roots)
	if err != nil {
		return err
	}
	for _, form := range keyFormats {
		file := path.Join(p.dir, form.file)
		there, err := oldFileAt(h, file, true)
		if err != nil || len(there) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		same := false
		if !f.key.IsZero() {
			content, err := form.make(f, authorities)
			same = err == nil && string(content) == string(there[0].content)
		}
		if !same && !before.has(p.dir, form.name) {
			h.Warn(fmt.Sprintf("%s stays: converge has not made it", file))
			continue
		}
		if err := h.Remove(file, engine.Sensitive); err != nil {
			return err
		}
	}
	return nil
}

// takeRoots removes root.crt where it holds nothing but the environment's authorities.
func takeRoots(h *engine.Host, p place, roots []byte) error {
	if p.root == "" {
		return nil
	}
	there, err := h.ReadFile(p.rootFile())
	if engine.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	certs, err := pki.ParseCertificates(there)
	for _, c := range certs {
		if !strings.Contains(string(roots), string(c.PEM())) {
			err = errors.New("another authority")
		}
	}
	if err != nil {
		h.Warn(fmt.Sprintf("%s stays: it holds something else than this environment's authorities", p.rootFile()))
		return nil
	}
	return h.Remove(p.rootFile(), engine.NoDiff)
}
