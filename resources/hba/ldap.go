package hba

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// ldapURL is an LDAP URL (RFC 4516) as OpenLDAP takes it apart.
type ldapURL struct {
	scheme, host, dn, attribute, filter string
	hasDN                               bool // a slash stands after the host, be the name after it empty
	port, scope                         int
}

// What OpenLDAP's ldap_url_parse may find wrong. The server prints its codes with the words for other codes, the same
// numbers; the operator will look for those.
const (
	ldapBadScheme    = "Time limit exceeded"
	ldapBadEnclosure = "Size limit exceeded"
	ldapBadURL       = "Compare False"
	ldapBadHost      = "Compare True"
	ldapBadScope     = "Strong(er) authentication required"
)

// ldapScopes are the search scopes of a URL. None means the base alone.
var ldapScopes = map[string]int{"": 0, "base": 0, "one": 1, "onelevel": 1, "sub": 2, "subtree": 2, "subord": 3, "children": 3}

var ldapPorts = map[string]int{"ldap": 389, "ldapi": 0, "cldap": 389, "ldaps": 636}

// parseLDAPURL reads scheme://host:port/dn?attributes?scope?filter?extensions.
func parseLDAPURL(text string) (u ldapURL, bad string) {
	if strings.HasPrefix(text, "<") {
		if !strings.HasSuffix(text, ">") {
			return u, ldapBadEnclosure
		}
		text = text[1 : len(text)-1]
	}
	if len(text) >= 4 && strings.EqualFold(text[:4], "url:") {
		text = text[4:]
	}
	scheme, rest, ok := strings.Cut(text, "://")
	u.scheme = strings.ToLower(scheme)
	port, known := ldapPorts[u.scheme]
	if !ok || !known {
		return u, ldapBadScheme
	}
	u.port = port
	host, rest, slash := strings.Cut(rest, "/")
	if !u.hostPort(host) {
		return u, ldapBadURL
	}
	if !slash {
		return u, ""
	}
	u.hasDN = true
	return u, u.parts(strings.Split(rest, "?"))
}

func (u *ldapURL) hostPort(text string) bool {
	host, port, ok := text, "", false
	if strings.HasPrefix(text, "[") {
		inside, after, closed := strings.Cut(text[1:], "]")
		if !closed || after != "" && after[0] != ':' {
			return false
		}
		host, port, ok = inside, strings.TrimPrefix(after, ":"), after != ""
	} else {
		host, port, ok = strings.Cut(text, ":")
	}
	if ok {
		n, err := strconv.Atoi(port)
		if err != nil {
			return false
		}
		u.port = n
	}
	var err error
	u.host, err = url.PathUnescape(host)
	return err == nil
}

func (u *ldapURL) parts(parts []string) (bad string) {
	if len(parts) > 5 {
		return ldapBadURL
	}
	for i, p := range parts {
		text, err := url.PathUnescape(p)
		if err != nil {
			return ldapBadURL
		}
		switch i {
		case 0:
			u.dn = text
		case 1:
			u.attribute, _, _ = strings.Cut(text, ",")
		case 2:
			scope, ok := ldapScopes[strings.ToLower(text)]
			if !ok {
				return ldapBadScope
			}
			u.scope = scope
		case 3:
			u.filter = text
		}
	}
	return ""
}

// ldapOptions are what the ldap options of a rule came to.
type ldapOptions struct {
	text  settings
	port  int
	scope int
}

// setLDAP takes one ldap option.
func (o *options) setLDAP(name, value string) string {
	switch name {
	case "ldapurl":
		return o.setLDAPURL(value)
	case "ldapport":
		port := cInt(value)
		if port == 0 {
			return fmt.Sprintf("invalid LDAP port number: \"%s\"", value)
		}
		o.ldap.port = port
	default:
		o.ldap.text.set(name, value)
	}
	return ""
}

func (o *options) setLDAPURL(value string) string {
	u, bad := parseLDAPURL(value)
	switch {
	case bad != "":
		return fmt.Sprintf("could not parse LDAP URL \"%s\": %s", value, bad)
	case u.scheme != "ldap" && (o.server.Major < 11 || u.scheme != "ldaps"):
		return fmt.Sprintf("unsupported LDAP URL scheme: %s", u.scheme)
	case u.filter != "" && o.server.Major < 11:
		return "filters not supported in LDAP URLs"
	}
	o.ldap.port, o.ldap.scope = u.port, u.scope
	part := func(name, value string, given bool) {
		if given {
			o.ldap.text.set(name, value)
		}
	}
	part("ldapserver", u.host, u.host != "")
	part("ldapbasedn", u.dn, u.hasDN)
	part("ldapsearchattribute", u.attribute, u.attribute != "")
	part("ldapsearchfilter", u.filter, u.filter != "")
	part("ldapscheme", u.scheme, o.server.Major >= 11)
	return ""
}

func (o *options) checkLDAP() string {
	direct := o.ldap.text.any("ldapprefix", "ldapsuffix")
	search := o.ldap.text.any("ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter")
	switch {
	case o.server.Major == 10 && !o.ldap.text.any("ldapserver"):
		return requires("ldap", "ldapserver")
	case direct && search:
		return mixedLDAP(o.server.Major)
	case !direct && !o.ldap.text.any("ldapbasedn"):
		return "authentication method \"ldap\" requires argument \"ldapbasedn\", \"ldapprefix\", or \"ldapsuffix\" to be set"
	case o.ldap.text.any("ldapsearchattribute") && o.ldap.text.any("ldapsearchfilter"):
		return "cannot use ldapsearchattribute together with ldapsearchfilter"
	}
	return ""
}

func mixedLDAP(major int) string {
	switch {
	case major == 10:
		return "cannot use ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute, or ldapurl together with ldapprefix"
	case major < 17:
		return "cannot use ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute, ldapsearchfilter, or ldapurl together with ldapprefix"
	}
	return "cannot mix options for simple bind and search+bind modes"
}

// print gives the ldap options in the view's order.
func (l ldapOptions) print() (out []string) {
	text := func(names ...string) { out = l.text.print(out, names...) }
	text("ldapserver")
	if l.port != 0 {
		out = append(out, "ldapport="+strconv.Itoa(l.port))
	}
	text("ldapscheme")
	if tls, _ := l.text.get("ldaptls"); tls == "1" {
		out = append(out, "ldaptls=true")
	}
	text("ldapprefix", "ldapsuffix", "ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter")
	if l.scope != 0 {
		out = append(out, "ldapscope="+strconv.Itoa(l.scope))
	}
	return out
}
