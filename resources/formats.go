package resources

import (
	"fmt"
	"path"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/pki"
)

// A keyFormat is a form in which a client key is installed beside the PEM files, for programs that do not read those. Such
// a file is made of the PEM files, on the node where they are, so it always holds the same key and certificate.
type keyFormat struct {
	name, file string
	make       func(found, []pki.Certificate) ([]byte, error)
}

// pemFormat is the one that is always there: converge reads its own keys in it, and so does libpq.
const pemFormat = "pem"

var keyFormats = []keyFormat{
	{"pk8", "postgresql.pk8", makePK8},
	{"p12", "postgresql.p12", makeP12},
}

// makePK8 is PKCS#8 in DER, which the JDBC driver looks for.
func makePK8(f found, _ []pki.Certificate) ([]byte, error) { return f.key.DER(), nil }

// makeP12 has the certificate of the authority that issued as well.
func makeP12(f found, roots []pki.Certificate) ([]byte, error) {
	if i := slices.IndexFunc(roots, f.cert.IssuedBy); i >= 0 {
		return pki.PKCS12(f.key, f.cert, roots[i])
	}
	return pki.PKCS12(f.key, f.cert)
}

// formatNames are the words that formats takes.
func formatNames() []string {
	out := []string{pemFormat}
	for _, f := range keyFormats {
		out = append(out, f.name)
	}
	return out
}

// checkFormats refuses words that are no format, and a list that leaves the PEM files out.
func (k *UserKey) checkFormats(b recipe.Block) hcl.Diagnostics {
	if k.Formats == nil {
		return nil
	}
	var diags hcl.Diagnostics
	for _, f := range k.Formats {
		if !slices.Contains(formatNames(), f) {
			diags = append(diags, mistake(k.FormatsAt, b, "Unknown format", "formats names %q: %s are formats.", f, list(formatNames())))
		}
	}
	if !slices.Contains(k.Formats, pemFormat) {
		diags = append(diags, mistake(k.FormatsAt, b, "Missing format", "formats leaves \"pem\" out: the other forms are made of the PEM files, and libpq, root.crt's readers and converge itself need those. Add \"pem\"."))
	}
	return diags
}

// wants says whether a form is to be there.
func (k *UserKey) wants(f keyFormat) bool { return slices.Contains(k.Formats, f.name) }

// formTargets are the files of all forms in a place, declared or not: one that is taken out of the list is removed.
func formTargets(p place) []engine.Target {
	var out []engine.Target
	for _, f := range keyFormats {
		out = append(out, engine.Target{Path: path.Join(p.dir, f.file)})
	}
	return out
}

// keepForms makes the declared forms of the pair stand in a place, and removes those that are declared no longer.
func (k *UserKey) keepForms(h *engine.Host, p place, f found, roots []byte, before userRecord, options []engine.WriteOption) error {
	authorities, err := pki.ParseCertificates(roots)
	if err != nil {
		return err
	}
	for _, form := range keyFormats {
		file := path.Join(p.dir, form.file)
		mine := before.has(p.dir, form.name)
		switch {
		case k.wants(form):
			err = k.keepForm(h, form, p, f, authorities, mine, options)
		case mine:
			err = h.Remove(file, engine.Sensitive)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepForm writes one form. A file of that name that converge has not made goes into the archive first.
func (k *UserKey) keepForm(h *engine.Host, form keyFormat, p place, f found, roots []pki.Certificate, mine bool, options []engine.WriteOption) error {
	content, err := form.make(f, roots)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", form.name, k.user, err)
	}
	file := path.Join(p.dir, form.file)
	there, err := oldFileAt(h, file, true)
	if err != nil {
		return err
	}
	if len(there) > 0 && !mine && string(there[0].content) != string(content) {
		if err := k.leaf.old.put(h, there); err != nil {
			return err
		}
	}
	return h.WriteSecret(file, engine.NewSecret(content), p.keyMode, append([]engine.WriteOption{engine.NoDiff}, options...)...)
}
