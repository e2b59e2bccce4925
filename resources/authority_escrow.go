package resources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"converge/engine"
	"converge/engine/bundle"
	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources/pki"
)

// An escrowBody is what a node needs to take the authority over: the authority's key, and those of the users, so that no
// client has to be given another one.
type escrowBody struct {
	Fingerprint string `json:"fingerprint"`     // of the authority's certificate
	HostKey     string `json:"host_key"`        // the fingerprint of the host key that the keys are sealed to; "": it was taken back
	Key         []byte `json:"key"`             // sealed
	Of          string `json:"of,omitempty"`    // a sum of the users' certificates
	Users       []byte `json:"users,omitempty"` // sealed: a list of deliveredUser with plain keys; none where they were too many, or an earlier version put it there

	Revoked string   `json:"revoked,omitempty"` // revoked.json; "" where nothing was ever revoked
	Issued  []Issued `json:"issued,omitempty"`  // what there is to revoke

	Others []string `json:"others,omitempty"` // during a change of authorities: each with a sum of its certificate
	Change []byte   `json:"change,omitempty"` // sealed: a list of changingAuthority
	Roots  string   `json:"roots,omitempty"`  // PEM: the authorities that are trusted
}

// deposit puts the authority's key in escrow for the nodes that may take over, and takes it back from others.
func (p *publisher) deposit(ctx context.Context) error {
	known, err := p.site.Delivery.list(ctx, p.h, escrowEntries)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range p.escrow {
		if name != p.site.Node.Name {
			errs = append(errs, p.depositFor(ctx, name))
		}
	}
	for _, k := range known {
		name := strings.TrimPrefix(k.Name, escrowEntries)
		if !slices.Contains(p.escrow, name) && name != p.site.Node.Name {
			errs = append(errs, p.takeBack(ctx, k.Name, name))
		}
	}
	return errors.Join(errs...)
}

func (p *publisher) depositFor(ctx context.Context, name string) error {
	node := p.site.Environment.Nodes[slices.IndexFunc(p.site.Environment.Nodes, func(n recipe.Node) bool { return n.Name == name })]
	to, err := hostKey(node)
	if err != nil {
		return err
	}
	there, err := p.there(ctx, escrowEntries+name)
	if err != nil {
		return err
	}
	var old escrowBody
	if there.version != 0 && there.refused == nil {
		if err := there.statement.Decode(&old); err != nil {
			return err
		}
	}
	users := p.users()
	body := escrowBody{Fingerprint: p.cert.Fingerprint(), HostKey: to.Fingerprint()}
	if err := p.addRevocations(&body); err != nil {
		return err
	}
	if err := p.addChange(&body); err != nil {
		return err
	}
	body.Of = sumOf(users, body)
	same := old.Fingerprint == body.Fingerprint && old.HostKey == body.HostKey && old.Of == body.Of
	if same && there.statement.Epoch == p.epoch && !due(there.statement, p.h.Now()) {
		p.escrowed[name] = there.statement.Version
		return nil
	}
	if err := p.seal(&body, to, users); err != nil {
		return err
	}
	why := "the authority's key in escrow"
	if old.Fingerprint == body.Fingerprint && old.HostKey == body.HostKey && old.Of != body.Of {
		why = "the keys of users in escrow"
	}
	p.escrowed[name], err = p.say(escrowEntries+name, there, body, name, why, "")
	return err
}

// users are those whose keys this node has for the others, with their certificates, sorted. One whose key is not made is
// told of where it is made.
func (p *publisher) users() []deliveredUser {
	names := map[string]bool{}
	for _, n := range p.site.Delivery.Needs {
		for _, u := range n.Users {
			names[u.user] = true
		}
	}
	var out []deliveredUser
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if one, err := p.user(name); err == nil {
			out = append(out, one)
		}
	}
	return out
}

// sumOf tells whether users or their certificates have changed, or what is revoked.
func sumOf(users []deliveredUser, body escrowBody) string {
	sum := sha256.New()
	if body.Revoked != "" {
		fmt.Fprintf(sum, "%q\n", body.Revoked)
	}
	for _, i := range body.Issued {
		fmt.Fprintf(sum, "%q %q\n", i.Serial, i.Issuer)
	}
	fmt.Fprintf(sum, "trusted %q, others %q\n", body.Roots, body.Others)
	for _, u := range users {
		fmt.Fprintf(sum, "%q %q\n", u.User, u.Certificate)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// escrowRoom is how large the users' keys in escrow may be before they are sealed: a statement has them in base64, beside
// the authority's.
const escrowRoom = (store.MaxValue - 16<<10) / 4 * 3

// seal puts the keys into what is to be in escrow. The authority's comes first: users' keys that are too many are left out.
func (p *publisher) seal(body *escrowBody, to bundle.HostKey, users []deliveredUser) error {
	plain, err := p.h.ReadFile(p.issuer.keyFile)
	if err != nil {
		return err
	}
	if body.Key, err = bundle.Seal(plain, to); err != nil {
		return err
	}
	if err := p.sealChange(body, to); err != nil {
		return err
	}
	for i := range users {
		if users[i].Key, err = p.h.ReadFile(p.issuer.vault(users[i].User).keyFile()); err != nil {
			return fmt.Errorf("the key of %s: %w", users[i].User, err)
		}
	}
	if plain, err = json.Marshal(users); err != nil {
		return err
	}
	if room := escrowRoom - body.public(); len(plain) > room {
		p.h.Warn(fmt.Sprintf("the keys of %d users are too many for escrow (%d bytes, and there is room for %d): only the authority's is there, and after a takeover users get new keys", len(users), len(plain), room))
		return nil
	}
	body.Users, err = bundle.Seal(plain, to)
	return err
}

// A changingAuthority is one of the authorities of a change that is under way, with its key.
type changingAuthority struct {
	Slot        string `json:"slot"`        // "ca", "next" or "previous"
	Certificate string `json:"certificate"` // PEM
	Key         []byte `json:"key"`         // PEM
}

// changing are the authorities of a change that is under way; none when none is.
func (p *publisher) changing() ([]changingAuthority, error) {
	a := &CertAuthority{dir: p.issuer.dir}
	var out []changingAuthority
	for _, slot := range []string{"ca", "next", "previous"} {
		pair, err := a.slot(slot).read(p.h)
		if err != nil {
			return nil, err
		}
		if !pair.cert.IsZero() {
			out = append(out, changingAuthority{slot, string(pair.cert.PEM()), pair.key.PEM()})
		}
	}
	if len(out) < 2 {
		return nil, nil
	}
	return out, nil
}

// addChange puts the authorities that are trusted, and a change that is under way, into what is to be in escrow.
func (p *publisher) addChange(body *escrowBody) error {
	body.Roots = string(p.roots)
	all, err := p.changing()
	if err != nil {
		return err
	}
	for _, c := range all {
		body.Others = append(body.Others, c.Slot+" "+sumOfText(c.Certificate))
	}
	return nil
}

func (p *publisher) sealChange(body *escrowBody, to bundle.HostKey) error {
	all, err := p.changing()
	if err != nil || len(all) == 0 {
		return err
	}
	plain, err := json.Marshal(all)
	if err == nil {
		body.Change, err = bundle.Seal(plain, to)
	}
	return err
}

// takeChange goes on with a change of authorities that was under way when the authority was lost. issues is the one that
// the environment has by the store; where escrow was left behind by the last move, it is not the one that escrow has as
// issuing. It returns the key of the one that issues, and the certificates of all.
func (a *CertAuthority) takeChange(h *engine.Host, sealed []byte, issues pki.Certificate, key pki.PrivateKey) (pki.PrivateKey, []pki.Certificate, error) {
	all := []pki.Certificate{issues}
	if len(sealed) == 0 {
		return key, all, nil
	}
	id, err := a.site.identity(h)
	if err != nil {
		return key, all, err
	}
	plain, err := id.Open(sealed)
	if err != nil {
		return key, all, err
	}
	var list []changingAuthority
	if err := json.Unmarshal(plain, &list); err != nil {
		return key, all, errors.New("it cannot be read by this version of converge")
	}
	for _, c := range list {
		other := pair{}
		if other.cert, err = pki.ParseCertificate([]byte(c.Certificate)); err == nil {
			other.key, err = pki.ParsePrivateKey(c.Key)
		}
		switch {
		case err != nil:
			return key, all, err
		case other.cert.Fingerprint() == issues.Fingerprint():
			key = other.key
			continue
		case c.Slot == "ca":
			c.Slot = "previous" // it has issued, and the one that the store names does now
		case c.Slot != "next" && c.Slot != "previous":
			return key, all, fmt.Errorf("it has a %q", c.Slot)
		}
		if err := a.slot(c.Slot).write(h, other); err != nil {
			return key, all, err
		}
		all = append(all, other.cert)
	}
	return key, all, nil
}

func (p *publisher) takeBack(ctx context.Context, key, name string) error {
	there, err := p.there(ctx, key)
	var old escrowBody
	if err == nil && there.refused == nil {
		err = there.statement.Decode(&old)
	}
	if err != nil || there.refused == nil && old.HostKey == "" {
		return err
	}
	p.h.Warn(fmt.Sprintf("%s is no longer in escrow: the authority's key that lies there for it is taken back, but it could open it until now, and the keys of users with it", name))
	_, err = p.say(key, there, escrowBody{Fingerprint: p.cert.Fingerprint()}, name, "no longer in escrow", "")
	return err
}

var errNoEscrow = errors.New("its key was not put in escrow for this node")

// fromEscrow opens what was sealed to this node: the authority's key, and the users' where holder, who has the authority by
// the store, has put them there. What is older than what holder has told this node of is not taken.
func (a *CertAuthority) fromEscrow(ctx context.Context, h *engine.Host, holder string) (pki.PrivateKey, inEscrow, error) {
	byHand := fmt.Sprintf("bring it here from %s, or from a backup, as %s (mode 0600, owner root), and run again", holder, a.keyFile())
	w := bundle.Wanted{Environment: a.site.Environment.Name, Key: escrowEntries + a.site.Node.Name, Signers: a.databases()}
	kept, _, err := a.kept(h)
	if err != nil {
		return pki.PrivateKey{}, inEscrow{}, err
	}
	if kept != nil && kept.body.Escrow != 0 {
		w.Seen = bundle.Seen{Epoch: kept.statement.Epoch, Version: kept.body.Escrow}
	}
	there, _, err := a.site.Delivery.get(ctx, h, w)
	if err != nil {
		return pki.PrivateKey{}, inEscrow{}, fmt.Errorf("the authority's key in escrow: %w", err)
	}
	var body escrowBody
	if err = there.refused; err == nil && there.version != 0 {
		err = there.statement.Decode(&body)
	}
	if err != nil {
		return pki.PrivateKey{}, inEscrow{}, fmt.Errorf("the authority's key in escrow is not taken, and nothing is issued: %w; %s", err, byHand)
	}
	if len(body.Key) == 0 {
		return pki.PrivateKey{}, inEscrow{}, fmt.Errorf("%s has the environment's authority, and %w: %s; to have it in escrow the next time, name this node in escrow of the cert_authority", holder, errNoEscrow, byHand)
	}
	key, err := a.site.open(h, body.Key, body.HostKey, "the authority's key in escrow")
	if err == nil && there.statement.From == holder {
		err = a.inherit(h, body)
	}
	found := inEscrow{change: body.Change, roots: []byte(body.Roots)}
	if err != nil || len(body.Users) == 0 || there.statement.From != holder {
		return key, found, err
	}
	if found.users, err = a.site.openUsers(h, body.Users); err != nil {
		return key, found, fmt.Errorf("the keys of users in escrow: %w; %s", err, byHand)
	}
	return key, found, nil
}

// inEscrow is what there was beside the authority's key.
type inEscrow struct {
	users  []deliveredUser
	change []byte // sealed: a change of authorities that was under way
	roots  []byte // the authorities that were trusted; none where an earlier version put it there
}

// openUsers unseals the users' keys.
func (s Site) openUsers(h *engine.Host, sealed []byte) ([]deliveredUser, error) {
	id, err := s.identity(h)
	if err != nil {
		return nil, err
	}
	plain, err := id.Open(sealed)
	if err != nil {
		return nil, err
	}
	var users []deliveredUser
	if err := json.Unmarshal(plain, &users); err != nil {
		return nil, errors.New("they cannot be read by this version of converge")
	}
	return users, nil
}

// takeUsers puts the users' keys from escrow where the authority's node has them, for the steps that keep them there. A user
// whose key is not as it should be gets another one from that step, like a user who has none.
func (a *CertAuthority) takeUsers(h *engine.Host, authorities []pki.Certificate, users []deliveredUser) error {
	has := a.users()
	for _, u := range users {
		if !has[u.User] {
			continue // by the recipe nobody is to have it any more
		}
		cert, errCert := pki.ParseCertificate([]byte(u.Certificate))
		key, errKey := pki.ParsePrivateKey(u.Key)
		if errCert != nil || errKey != nil || !key.Matches(cert) || !slices.ContainsFunc(authorities, cert.IssuedBy) || cert.Subject.CommonName != u.User {
			h.Warn(fmt.Sprintf("the key of %q in escrow is no key of this authority's, and is not taken: the user gets another one", u.User))
			continue
		}
		p := a.vault(u.User)
		if err := h.Mkdir(p.dir, rootPrivate); err != nil {
			return err
		}
		if err := h.WriteFile(p.certFile(), cert.PEM(), p.owner, engine.NoDiff); err != nil {
			return err
		}
		if err := h.WriteSecret(p.keyFile(), engine.NewSecret(key.PEM()), p.keyMode, engine.NoDiff); err != nil {
			return err
		}
	}
	return nil
}

// users are those whose keys the authority's node has for others.
func (a *CertAuthority) users() map[string]bool {
	out := map[string]bool{}
	if a.site.Delivery != nil && issues(a.site.Node.Role) {
		for _, n := range a.site.Delivery.Needs {
			for _, u := range n.Users {
				out[u.user] = true
			}
		}
	}
	return out
}

// vaultTargets are the files that a takeover brings from escrow, and other steps keep.
func (a *CertAuthority) vaultTargets() []engine.Target {
	var out []engine.Target
	for _, user := range slices.Sorted(maps.Keys(a.users())) {
		for _, t := range a.vault(user).targets() {
			t.Handed = !t.Dir
			out = append(out, t)
		}
	}
	return out
}

// vault is where this authority keeps a user's key for the nodes that are to have it.
func (a *CertAuthority) vault(user string) place { return issuer{dir: a.dir}.vault(user) }

// usersDir is the directory of all of them.
func (a *CertAuthority) usersDir() string { return a.vault("").dir }

// leftUsers warns of the keys that a node still has from the time when it had the authority: of all users for the others,
// and of those for itself that it does not get in its role of today.
func (a *CertAuthority) leftUsers(h *engine.Host, now *received) error {
	names, err := h.ReadDir(a.usersDir())
	if err != nil {
		return unlessMissing(err)
	}
	var left []string
	for _, name := range names {
		user, isKey := strings.CutSuffix(name, ".key")
		if !isKey || recipe.CheckUser(user) != nil {
			continue
		}
		left = append(left, a.vault(user).keyFile())
		if _, gets := now.user(user); gets {
			continue
		}
		for _, file := range a.ownKeys(user) {
			if same, err := sameKeys(h, a.vault(user).keyFile(), file); err != nil {
				return err
			} else if same {
				left = append(left, file)
			}
		}
	}
	if len(left) > 0 {
		h.Warn(fmt.Sprintf("this node does not have the authority, and still has keys from when it had it: whoever reads its disk can log in with them; take them away (shred -u %s)", strings.Join(left, " ")))
	}
	return nil
}

// ownKeys is where the standard recipe puts a user's key on a database host.
func (a *CertAuthority) ownKeys(user string) []string {
	var out []string
	if a.site.Home != nil {
		if home, ok := a.site.Home(user); ok {
			out = append(out, path.Join(home, ".postgresql/postgresql.key"))
		}
	}
	if s := a.site.Server; s != nil && s.KeygenDirectory != "" {
		out = append(out, path.Join(s.KeygenDirectory, user, "postgresql.key"))
	}
	return out
}

// sameKeys says whether one private key lies in two files.
func sameKeys(h *engine.Host, file, other string) (bool, error) {
	one, err := h.ReadFile(file)
	if err != nil {
		return false, err
	}
	two, err := h.ReadFile(other)
	if err != nil {
		return false, unlessMissing(err)
	}
	k1, err1 := pki.ParsePrivateKey(one)
	k2, err2 := pki.ParsePrivateKey(two)
	return err1 == nil && err2 == nil && string(k1.PEM()) == string(k2.PEM()), nil
}

// sumOfText tells texts apart.
func sumOfText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
