package resources

import (
	"path"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine/recipe"
	"converge/resources/pki"
)

// defaultExpireInDays is how long certificates are valid when nothing is said: five years, as operators are used to.
const defaultExpireInDays = 1825

// validity reads expire_in_days.
func validity(days *int, at hcl.Range, b recipe.Block) (time.Duration, hcl.Diagnostics) {
	if days == nil {
		return defaultExpireInDays * pki.Day, nil
	}
	d := time.Duration(*days) * pki.Day
	if *days < 1 || *days > 36500 {
		return 0, hcl.Diagnostics{mistake(at, b, "Invalid validity", "expire_in_days is %d: a certificate is valid for 1 to 36500 days.", *days)}
	}
	return d, nil
}

// renewBefore reads renew_before_days.
func renewBefore(days *int, valid time.Duration, at hcl.Range, b recipe.Block) (time.Duration, hcl.Diagnostics) {
	if days == nil {
		return pki.RenewBefore(valid), nil
	}
	if *days < 0 || *days > 36500 || time.Duration(*days)*pki.Day*2 > valid {
		return 0, hcl.Diagnostics{mistake(at, b, "Invalid renewal window", "renew_before_days is %d: it must be 0 or more, and not more than half of expire_in_days (%d), or every run would renew.", *days, valid/pki.Day)}
	}
	return time.Duration(*days) * pki.Day, nil
}

// algorithm reads the kind of a key.
func algorithm(name *string, at hcl.Range, b recipe.Block, check func(pki.Algorithm) error) (pki.Algorithm, hcl.Diagnostics) {
	if name == nil {
		return pki.ECDSAP256, nil
	}
	a, err := pki.ParseAlgorithm(*name)
	if err == nil {
		err = check(a)
	}
	if err != nil {
		return "", hcl.Diagnostics{mistake(at, b, "Invalid algorithm", "%s.", sentence(err))}
	}
	return a, nil
}

// sentence is an error as the detail of a diagnostic.
func sentence(err error) string {
	s := err.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// absolute refuses paths that are not clean and absolute.
func absolute(p, argument string, at hcl.Range, b recipe.Block) hcl.Diagnostics {
	switch {
	case strings.ContainsAny(p, "\x00\n\r"):
		return hcl.Diagnostics{mistake(at, b, "Invalid path", "%s holds a control character: %q.", argument, p)}
	case !path.IsAbs(p):
		return hcl.Diagnostics{mistake(at, b, "Invalid path", "%s is %q, and must be an absolute path: one that begins with a slash.", argument, p)}
	case p == "/":
		return hcl.Diagnostics{mistake(at, b, "Invalid path", "%s is the root of the file system.", argument)}
	}
	return nil
}

// inside says whether p lies in dir or is dir.
func inside(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// checkUserName refuses names that no account should have, before any of them reaches a path or a certificate.
func checkUserName(name string, at hcl.Range, b recipe.Block) hcl.Diagnostics {
	if err := recipe.CheckUser(name); err != nil {
		return hcl.Diagnostics{mistake(at, b, "Invalid user", "A client key needs a user, and %s.", err)}
	}
	return nil
}

// listOfStrings is a list as recipes see it.
func listOfStrings(texts []string) cty.Value {
	if len(texts) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	list := make([]cty.Value, len(texts))
	for i, text := range texts {
		list[i] = cty.StringVal(text)
	}
	return cty.ListVal(list)
}

// stringsOf is the reverse.
func stringsOf(list cty.Value) []string {
	var out []string
	if list == cty.NilVal || list.IsNull() {
		return nil
	}
	for _, v := range list.AsValueSlice() {
		out = append(out, v.AsString())
	}
	return out
}
