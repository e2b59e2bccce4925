package resources

import (
	"context"
	"errors"
	"fmt"
	"path"
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

	site Site
	user string
	dirs []userDir
	leaf leaf
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
	if len(k.dirs) == 0 {
		return nil
	}
	p := k.dirs[0].place(engine.User{})
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
	}
	if k.vaulted() {
		out = append(out, k.leaf.issuer.vault(k.user).targets()...)
	}
	if issues(k.site.Node.Role) {
		out = append(out, k.leaf.issuer.targets()...)
	}
	return append(out, k.leaf.old.targets()...)
}

// vaulted says whether other nodes get the key from here.
func (k *UserKey) vaulted() bool { return k.site.Delivery != nil && issues(k.site.Node.Role) }

// Converge issues the certificate where it is missing or not as declared; on a node without the authority it takes what
// has come from there.
func (k *UserKey) Converge(_ context.Context, h *engine.Host) error {
	u, err := k.account(h)
	if err != nil {
		return err
	}
	l := k.leaf
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
		return k.take(h, l)
	}
	return l.converge(h)
}

// take installs the key that the authority issued.
func (k *UserKey) take(h *engine.Host, l leaf) error {
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
	return l.deliver(h, cert, func() (pki.PrivateKey, error) {
		return k.site.open(h, u.Key, r.body.HostKey, "the key of "+k.user)
	})
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
