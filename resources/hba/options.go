package hba

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// options are the options of one rule: what was set, and what follows from it.
type options struct {
	server Server
	rule   *Rule

	text       settings // as written
	realm      bool     // include_realm
	clientcert string   // "", verify-ca, verify-full; on 10 and 11 "", true
	clientname string   // "" or DN
	ldap       ldapOptions
	servers    int // radiusservers
	secrets    int
	ports      int
	ids        int
	delegate   bool
}

// settings are values by name. A rule has few of them, so they are a list.
type settings []struct{ name, value string }

// set sets a value; the last one counts.
func (s *settings) set(name, value string) {
	for i := range *s {
		if (*s)[i].name == name {
			(*s)[i].value = value
			return
		}
	}
	*s = append(*s, struct{ name, value string }{name, value})
}

func (s settings) get(name string) (value string, ok bool) {
	for _, x := range s {
		if x.name == name {
			return x.value, true
		}
	}
	return "", false
}

// any tells whether one of these names is set.
func (s settings) any(names ...string) bool {
	for _, x := range s {
		if slices.Contains(names, x.name) {
			return true
		}
	}
	return false
}

// print adds name=value for those of these names that are set.
func (s settings) print(out []string, names ...string) []string {
	if len(s) == 0 {
		return out
	}
	for _, name := range names {
		if value, ok := s.get(name); ok {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// option is what the server asks of one option before it looks at the value.
type option struct {
	since   int
	methods []string // the methods that it goes with; nil: any
	listed  string   // those methods as the message lists them
}

// knownOptions are the options of all versions.
var knownOptions = map[string]option{
	"map":                    {0, []string{"ident", "peer", "gss", "sspi", "cert"}, "ident, peer, gssapi, sspi, and cert"},
	"clientcert":             {0, nil, ""},
	"clientname":             {14, nil, ""},
	"pamservice":             {0, []string{"pam"}, "pam"},
	"pam_use_hostname":       {0, []string{"pam"}, "pam"},
	"ldapurl":                {0, []string{"ldap"}, "ldap"},
	"ldaptls":                {0, []string{"ldap"}, "ldap"},
	"ldapscheme":             {11, []string{"ldap"}, "ldap"},
	"ldapserver":             {0, []string{"ldap"}, "ldap"},
	"ldapport":               {0, []string{"ldap"}, "ldap"},
	"ldapbinddn":             {0, []string{"ldap"}, "ldap"},
	"ldapbindpasswd":         {0, []string{"ldap"}, "ldap"},
	"ldapsearchattribute":    {0, []string{"ldap"}, "ldap"},
	"ldapsearchfilter":       {11, []string{"ldap"}, "ldap"},
	"ldapbasedn":             {0, []string{"ldap"}, "ldap"},
	"ldapprefix":             {0, []string{"ldap"}, "ldap"},
	"ldapsuffix":             {0, []string{"ldap"}, "ldap"},
	"krb_realm":              {0, []string{"gss", "sspi"}, "gssapi and sspi"},
	"include_realm":          {0, []string{"gss", "sspi"}, "gssapi and sspi"},
	"compat_realm":           {0, []string{"sspi"}, "sspi"},
	"upn_username":           {0, []string{"sspi"}, "sspi"},
	"radiusservers":          {0, []string{"radius"}, "radius"},
	"radiusports":            {0, []string{"radius"}, "radius"},
	"radiussecrets":          {0, []string{"radius"}, "radius"},
	"radiusidentifiers":      {0, []string{"radius"}, "radius"},
	"issuer":                 {18, []string{"oauth"}, "oauth"},
	"scope":                  {18, []string{"oauth"}, "oauth"},
	"validator":              {18, []string{"oauth"}, "oauth"},
	"delegate_ident_mapping": {18, []string{"oauth"}, "oauth"},
}

// known finds an option as this version has it.
func (s Server) known(name string) (option, bool) {
	o, ok := knownOptions[name]
	if name == "map" && s.Major >= 18 {
		o.methods, o.listed = append(o.methods[:len(o.methods):len(o.methods)], "oauth"), "ident, peer, gssapi, sspi, cert, and oauth"
	}
	return o, ok && o.since <= s.Major
}

func (o *options) start() {
	o.realm = o.rule.Method == "gss"
}

// set takes one name=value and gives the server's message when it would refuse it.
func (o *options) set(name, value string) string {
	known, ok := o.server.known(name)
	if !ok {
		return fmt.Sprintf("unrecognized authentication option name: \"%s\"", name)
	}
	if known.methods != nil && !slices.Contains(known.methods, o.rule.Method) {
		return fmt.Sprintf("authentication option \"%s\" is only valid for authentication methods %s", name, known.listed)
	}
	o.text.set(name, value)
	o.ldap.scope = 2 // the server starts every option so: a scope from a URL lasts until the next option
	return o.value(name, value)
}

// value looks at the value of an option.
func (o *options) value(name, value string) string {
	switch name {
	case "clientcert":
		return o.setClientcert(value)
	case "clientname":
		return o.setClientname(value)
	case "include_realm":
		o.realm = value == "1"
	case "delegate_ident_mapping":
		o.delegate = value == "1"
	}
	if strings.HasPrefix(name, "ldap") {
		return o.setLDAP(name, value)
	}
	if strings.HasPrefix(name, "radius") {
		return o.setRADIUS(name, value)
	}
	return ""
}

// setClientcert is the matrix of postgres-facts 4.3.
func (o *options) setClientcert(value string) string {
	if o.rule.Type != "hostssl" {
		return "clientcert can only be configured for \"hostssl\" rows"
	}
	cert := o.rule.Method == "cert"
	switch major := o.server.Major; {
	case major < 12:
		o.clientcert = ""
		if value == "1" {
			o.clientcert = "true"
		} else if cert {
			return "clientcert can not be set to 0 when using \"cert\" authentication"
		}
	case value == "verify-full":
		o.clientcert = value
	case value == "verify-ca":
		if cert && major >= 14 {
			return "clientcert can only be set to \"verify-full\" when using \"cert\" authentication"
		}
		o.clientcert = value
	case major < 14 && value == "1":
		o.clientcert = "verify-ca"
	case major < 14 && (value == "0" || value == "no-verify"):
		if cert {
			return canNot(major) + " be set to \"no-verify\" when using \"cert\" authentication"
		}
		o.clientcert = ""
	default:
		return fmt.Sprintf("invalid value for clientcert: \"%s\"", value)
	}
	return ""
}

// canNot is spelled in two words up to 12.
func canNot(major int) string {
	if major < 13 {
		return "clientcert can not"
	}
	return "clientcert cannot"
}

func (o *options) setClientname(value string) string {
	if o.rule.Type != "hostssl" {
		return "clientname can only be configured for \"hostssl\" rows"
	}
	if value != "CN" && value != "DN" {
		return fmt.Sprintf("invalid value for clientname: \"%s\"", value)
	}
	o.clientname = value
	return ""
}

// setRADIUS reads the lists of the radius options.
func (o *options) setRADIUS(name, value string) string {
	list, ok := splitList(value)
	if !ok {
		return fmt.Sprintf("could not parse RADIUS %s list \"%s\"", radiusLists[name], value)
	}
	switch name {
	case "radiusservers":
		for _, server := range list {
			if !o.server.resolves(server) {
				return fmt.Sprintf("could not translate RADIUS server name \"%s\" to address: Name or service not known", server)
			}
		}
		o.servers = len(list)
	case "radiusports":
		for _, port := range list {
			if cInt(port) == 0 {
				return fmt.Sprintf("invalid RADIUS port number: \"%s\"", value)
			}
		}
		o.ports = len(list)
	case "radiussecrets":
		o.secrets = len(list)
	case "radiusidentifiers":
		o.ids = len(list)
	}
	return ""
}

var radiusLists = map[string]string{
	"radiusservers": "server", "radiusports": "port", "radiussecrets": "secret", "radiusidentifiers": "identifiers",
}

func (s Server) resolves(name string) bool {
	if _, ok := s.numericAddress(name); ok {
		return true
	}
	return name != "" && (s.Resolves == nil || s.Resolves(name))
}

// cInt reads a number as atoi(3) does: what it can, 0 when that is nothing.
func cInt(text string) int {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	end := 0
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || end == 0 && (text[0] == '-' || text[0] == '+')) {
		end++
	}
	n, err := strconv.ParseInt(text[:end], 10, 64)
	if err != nil && end < 19 {
		return 0
	}
	return int(int32(n))
}

// splitList splits a list the way the server splits list settings: by commas, blanks around them skipped, names in quotes
// where they hold blanks or commas. An empty list is a list; an empty name is none.
func splitList(text string) (list []string, ok bool) {
	const blanks = " \t\n\r\f\v"
	text = strings.TrimLeft(text, blanks)
	if text == "" {
		return nil, true
	}
	for {
		name, rest, ok := listName(text)
		if !ok {
			return nil, false
		}
		list = append(list, name)
		text = strings.TrimLeft(rest, blanks)
		if text == "" {
			return list, true
		}
		if text[0] != ',' {
			return nil, false
		}
		text = strings.TrimLeft(text[1:], blanks)
	}
}

// listName takes one name off the front of a list.
func listName(text string) (name, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ", \t\n\r\f\v")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], end > 0
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			b.WriteByte(text[i])
			continue
		}
		if i+1 == len(text) || text[i+1] != '"' {
			return b.String(), text[i+1:], true
		}
		b.WriteByte('"')
		i++
	}
	return "", "", false
}

// check tells whether the options together are enough for the method, and draws the conclusions.
func (o *options) check() string {
	switch o.rule.Method {
	case "ldap":
		return o.checkLDAP()
	case "radius":
		return o.checkRADIUS()
	case "oauth":
		return o.checkOAuth()
	case "cert":
		o.clientcert = "verify-full"
		if o.server.Major < 12 {
			o.clientcert = "true"
		}
	}
	return ""
}

func requires(method, argument string) string {
	return fmt.Sprintf("authentication method \"%s\" requires argument \"%s\" to be set", method, argument)
}

func (o *options) checkRADIUS() string {
	switch {
	case o.servers == 0:
		return requires("radius", "radiusservers")
	case o.secrets == 0:
		return requires("radius", "radiussecrets")
	}
	for _, l := range []struct {
		name string
		n    int
	}{{"secrets", o.secrets}, {"ports", o.ports}, {"identifiers", o.ids}} {
		if l.n > 1 && l.n != o.servers {
			return fmt.Sprintf("the number of RADIUS %s (%d) must be 1 or the same as the number of RADIUS servers (%d)", l.name, l.n, o.servers)
		}
	}
	return ""
}

func (o *options) checkOAuth() string {
	for _, name := range []string{"scope", "issuer"} {
		if !o.text.any(name) {
			return requires("oauth", name)
		}
	}
	if message := o.checkValidator(); message != "" {
		return message
	}
	if o.text.any("map") && o.delegate {
		return "map cannot be used in combination with delegate_ident_mapping"
	}
	return ""
}

func (o *options) checkValidator() string {
	libraries := o.server.Validators
	validator, given := o.text.get("validator")
	switch {
	case len(libraries) == 0:
		return "oauth_validator_libraries must be set for authentication method oauth"
	case !given && len(libraries) == 1:
		o.text.set("validator", libraries[0])
		return ""
	case !given:
		return "authentication method \"oauth\" requires argument \"validator\" to be set when oauth_validator_libraries contains multiple options"
	case !slices.Contains(libraries, validator):
		return fmt.Sprintf("validator \"%s\" is not permitted by oauth_validator_libraries", validator)
	}
	return ""
}

// print gives the options as the view does: those that count for the method, in its order.
func (o *options) print() []string {
	var out []string
	add := func(name, value string) { out = append(out, name+"="+value) }
	text := func(names ...string) { out = o.text.print(out, names...) }
	if o.realm {
		add("include_realm", "true")
	}
	text("krb_realm", "map")
	if o.clientcert != "" {
		add("clientcert", o.clientcert)
	}
	text("pamservice")
	if o.rule.Method == "ldap" {
		out = append(out, o.ldap.print()...)
	}
	text("radiusservers", "radiussecrets", "radiusidentifiers", "radiusports")
	text("issuer", "scope", "validator")
	if o.delegate {
		add("delegate_ident_mapping", "true")
	}
	return out
}
