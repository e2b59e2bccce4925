package resources

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/pki"
)

// A UserKey keeps a user's client key and certificate, with the authorities that the user trusts, where libpq looks.
type UserKey struct {
	User            *string   `hcl:"user" doc:"The Linux user that owns the key, and the PostgreSQL role that it logs in as. Default: the block's name, or the key of its for_each."`
	UserAt          hcl.Range `hcl:"user,attr_value_range"`
	Authority       cty.Value `hcl:"authority" doc:"The authority that signs it: a cert_authority."`
	AuthorityAt     hcl.Range `hcl:"authority,attr_value_range"`
	Directories     []string  `hcl:"directories,optional" doc:"Where postgresql.key, postgresql.crt and root.crt are; ~ is the user's home. Those in a home belong to the user, others to root. Default: ~/.postgresql."`
	DirectoriesAt   hcl.Range `hcl:"directories,attr_value_range"`
	Algorithm       *string   `hcl:"algorithm" doc:"Kind of the key: ecdsa-p256 (default), ecdsa-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519."`
	AlgorithmAt     hcl.Range `hcl:"algorithm,attr_value_range"`
	ExpireInDays    *int      `hcl:"expire_in_days" doc:"Validity in days. Default: 1825."`
	ExpireAt        hcl.Range `hcl:"expire_in_days,attr_value_range"`
	RenewBeforeDays *int      `hcl:"renew_before_days" doc:"How many days before its end it is renewed. Default: the last third of its life, 30 at the most."`
	RenewAt         hcl.Range `hcl:"renew_before_days,attr_value_range"`
	Rekey           bool      `hcl:"rekey,optional" doc:"Whether it is renewed with a new key. Default: the key stays, and no reader ever sees a key and a certificate that do not match."`
	Formats         []string  `hcl:"formats,optional" doc:"Forms in which the key is installed: pem, which is always one of them, pk8 (postgresql.pk8, PKCS#8 in DER for JDBC) and p12 (postgresql.p12, PKCS#12 with the certificate). One that is taken out of the list is removed. Default: pem."`
	FormatsAt       hcl.Range `hcl:"formats,attr_value_range"`
	State           *string   `hcl:"state" doc:"\"present\" (default), or \"absent\": the key is taken away from this node's directories and from those that it was in, goes to no node any more, and is kept among the old keys."`
	StateAt         hcl.Range `hcl:"state,attr_value_range"`
	Revoke          bool      `hcl:"revoke,optional" doc:"With state = \"absent\": whether the user's certificates are revoked too, for good, in the next run on the node with the authority. Default: false."`
	RevokeAt        hcl.Range `hcl:"revoke,attr_value_range"`

	site   Site
	user   string
	dirs   []userDir // where the key is to be; none when it is absent
	leaves []userDir // where it is not to be any more
	absent bool
	why    string // of an absent one
	leaf   leaf
}

// A userDir is one of the directories: in the user's home, or root's.
type userDir struct {
	path string
	home bool
}

// Prepare checks the arguments.
func (k *UserKey) Prepare(b recipe.Block) hcl.Diagnostics {
	k.user = b.Address.Name
	if b.Address.HasKey {
		k.user = b.Address.Key
	}
	if k.User != nil {
		k.user = *k.User
	}
	ref, diags := recipe.Referenced(k.Authority, "cert_authority", k.AuthorityAt)
	diags = append(diags, checkUserName(k.user, k.UserAt, b)...)
	diags = append(diags, k.setDirs(b)...)
	diags = append(diags, k.setState(b)...)
	diags = append(diags, k.checkFormats(b)...)
	valid, d := validity(k.ExpireInDays, k.ExpireAt, b)
	diags = append(diags, d...)
	before, d := renewBefore(k.RenewBeforeDays, valid, k.RenewAt, b)
	diags = append(diags, d...)
	kind, d := algorithm(k.Algorithm, k.AlgorithmAt, b, func(a pki.Algorithm) error { return pki.CheckLeafAlgorithm(a, pki.Client) })
	diags = append(diags, d...)
	k.leaf = leaf{
		issuer: issuerOf(ref),
		spec:   pki.LeafSpec{CommonName: k.user, Usage: pki.Client, Algorithm: kind, Validity: valid},
		renew:  renewal{before, k.Rekey},
		what:   "the client certificate of " + k.user,
		old:    k.site.oldUserKeys(k.user),
	}
	k.leaf.leave = k.site.Maintenance.leaves(k.user)
	if k.site.Maintenance.user(k.user) {
		k.leaf.asked = k.site.Maintenance
	}
	return diags
}

func (k *UserKey) setDirs(b recipe.Block) hcl.Diagnostics {
	dirs := k.Directories
	if dirs == nil {
		dirs = []string{"~/.postgresql"}
	}
	if len(dirs) == 0 {
		return hcl.Diagnostics{mistake(k.DirectoriesAt, b, "Missing directory", "directories is empty: the key would be nowhere. Leave the argument out for ~/.postgresql.")}
	}
	var diags hcl.Diagnostics
	home := "~" + k.user // stands for a home that is not known; nothing is ever written there
	if k.site.Home != nil {
		if known, ok := k.site.Home(k.user); ok {
			home = known
		}
	}
	for _, d := range dirs {
		if rest, ok := strings.CutPrefix(d, "~/"); ok {
			k.dirs = append(k.dirs, userDir{path.Join(home, rest), true})
			continue
		}
		diags = append(diags, absolute(d, "a directory", k.DirectoriesAt, b)...)
		k.dirs = append(k.dirs, userDir{path.Clean(d), false})
	}
	return diags
}

// place returns the files in a directory.
func (d userDir) place(u engine.User) place {
	if !d.home {
		u = engine.User{}
	}
	return newPlace(d.path, "postgresql.key", "postgresql.crt", u.UID, u.GID)
}

// Exports returns where its first directory's files are.
func (k *UserKey) Exports() map[string]cty.Value {
	dirs := append(slices.Clone(k.dirs), k.leaves...)
	if len(dirs) == 0 {
		return nil
	}
	p := dirs[0].place(engine.User{})
	return map[string]cty.Value{
		"user":      cty.StringVal(k.user),
		"cert_file": cty.StringVal(p.certFile()),
		"key_file":  cty.StringVal(p.keyFile()),
		"root_file": cty.StringVal(p.rootFile()),
	}
}

// Targets returns its files and directories, with the directory above each that is not in a home.
func (k *UserKey) Targets() []engine.Target {
	var out []engine.Target
	for _, d := range k.dirs {
		if !d.home {
			out = append(out, engine.Target{Path: path.Dir(d.path), Dir: true})
		}
		out = append(out, d.place(engine.User{}).targets()...)
		out = append(out, formTargets(d.place(engine.User{}))...)
	}
	out = append(out, k.leaveTargets()...)
	out = append(out, engine.Target{Path: installedDir(k.leaf.issuer.dir), Below: true})
	if k.vaulted() && !k.absent {
		out = append(out, k.leaf.issuer.vault(k.user).targets()...)
	}
	if issues(k.site.Node.Role) {
		out = append(out, k.leaf.issuer.targets()...)
	}
	return append(out, k.leaf.old.targets()...)
}

// held is where its key is, on this node.
func (k *UserKey) held() []place {
	var out []place
	for _, d := range k.dirs {
		out = append(out, d.place(engine.User{}))
	}
	return out
}

// vaulted says whether other nodes get the key from here.
func (k *UserKey) vaulted() bool { return k.site.Delivery != nil && issues(k.site.Node.Role) }

// Converge issues the certificate where it is missing or not as declared; on a node without the authority it takes what
// has come from there.
func (k *UserKey) Converge(_ context.Context, h *engine.Host) error {
	before, err := k.record(h)
	if err != nil {
		return err
	}
	if k.absent {
		return k.takeAway(h, before)
	}
	u, err := k.account(h)
	if err != nil {
		return err
	}
	l := k.leaf
	l.also = func(h *engine.Host, p place, f found, roots []byte, options []engine.WriteOption) error {
		return k.keepForms(h, p, f, roots, before, options)
	}
	if k.vaulted() {
		l.places = append(l.places, k.leaf.issuer.vault(k.user))
	}
	for _, d := range k.dirs {
		if !d.home {
			if err := makeParent(h, d.path); err != nil {
				return err
			}
		}
		l.places = append(l.places, d.place(u))
	}
	if !issues(k.site.Node.Role) {
		return k.take(h, l, before)
	}
	if err := l.converge(h); err != nil {
		return err
	}
	return k.settle(h, before)
}

// settle takes the key from the directories that it has left, and remembers where it is.
func (k *UserKey) settle(h *engine.Host, before userRecord) error {
	if err := k.takeAway(h, before); err != nil {
		return err
	}
	return k.remember(h)
}

// take installs the key that the authority issued.
func (k *UserKey) take(h *engine.Host, l leaf, before userRecord) error {
	r, err := l.issuer.received(h)
	if err != nil {
		return err
	}
	u, there := r.user(k.user)
	if !there {
		h.Wait("%s has issued no key of %s for this node yet: run converge apply on %s, then here", r.statement.From, k.user, r.statement.From)
		return nil
	}
	cert, err := pki.ParseCertificate([]byte(u.Certificate))
	if err != nil {
		return fmt.Errorf("the certificate of %s that %s issued: %w", k.user, r.statement.From, err)
	}
	h.Explain("install "+l.what, fmt.Sprintf("%s has issued it, valid until %s", r.statement.From, cert.NotAfter.Format("2006-01-02")))
	err = l.deliver(h, cert, func() (pki.PrivateKey, error) {
		return k.site.open(h, u.Key, r.body.HostKey, "the key of "+k.user)
	})
	if err != nil {
		return err
	}
	return k.settle(h, before)
}

// account finds the user on the machine.
func (k *UserKey) account(h *engine.Host) (engine.User, error) {
	u, err := h.User(k.user)
	switch {
	case errors.Is(err, engine.ErrNoUser):
		return u, fmt.Errorf("the Linux user %q does not exist on this host: create the account (useradd --create-home %s), or leave the key out for this role", k.user, k.user)
	case err != nil:
		return u, err
	case u.UID == 0:
		return u, fmt.Errorf("the Linux user %q has UID 0, so it is root by another name: root gets no client key", k.user)
	}
	for _, d := range k.dirs {
		if d.home && (u.Home == "" || u.Home == "/") {
			return u, fmt.Errorf("the Linux user %q has no home directory of its own (%q in /etc/passwd): give directories, or the user a home", k.user, u.Home)
		}
	}
	return u, nil
}
