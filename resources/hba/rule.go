package hba

import (
	"fmt"
	"slices"
	"strings"
)

// methods are the authentication methods a server can know, with the version that brought the younger ones.
var methods = map[string]int{
	"trust": 0, "reject": 0, "md5": 0, "password": 0, "scram-sha-256": 0, "ident": 0, "peer": 0, "cert": 0,
	"gss": 0, "sspi": 0, "pam": 0, "bsd": 0, "ldap": 0, "radius": 0, "oauth": 18,
}

// has tells whether a server of this build can do the method.
func (b Build) has(method string) bool {
	switch method {
	case "gss":
		return b.GSS
	case "pam":
		return b.PAM
	case "bsd":
		return b.BSD
	case "ldap":
		return b.LDAP
	case "cert":
		return b.SSL
	case "sspi":
		return false // Windows only
	}
	return true
}

// rule parses the fields of one line. Like the server it stops at the first fault and gives its message.
func (e *entry) rule(server Server, kept *keeping) (Rule, string) {
	if e.message != "" {
		return Rule{}, e.message
	}
	p := &ruleParser{server: server, fields: e.fields, kept: kept, rule: Rule{File: e.file, Line: e.line}}
	message := p.connection()
	for _, step := range []func(*ruleParser) string{(*ruleParser).names, (*ruleParser).address, (*ruleParser).method, (*ruleParser).options} {
		if message == "" {
			message = step(p)
		}
	}
	return p.rule, message
}

// keeping is where the small things of all rules of a file are kept.
type keeping struct {
	names     slab[Name]
	languages slab[language]
}

// ruleParser goes through the fields of a line from left to right.
type ruleParser struct {
	server Server
	fields []Field
	kept   *keeping
	rule   Rule
	opts   options
}

// column takes the next field, which has to hold one token.
func (p *ruleParser) column(missing, many string) (Token, string) {
	if len(p.fields) == 0 {
		return Token{}, missing
	}
	field := p.fields[0]
	p.fields = p.fields[1:]
	if len(field) > 1 {
		return Token{}, many
	}
	return field[0], ""
}

func (p *ruleParser) connection() string {
	t, message := p.column("", "multiple values specified for connection type")
	if message != "" {
		return message
	}
	p.rule.Type = t.Text
	switch t.Text {
	case "local", "host", "hostnossl":
		return ""
	case "hostssl":
		p.rule.Warning = p.server.sslWarning()
		return ""
	case "hostgssenc", "hostnogssenc":
		if p.server.Major < 12 {
			break
		}
		if t.Text == "hostgssenc" && !p.server.Build.GSS {
			p.rule.Warning = "hostgssenc record cannot match because GSSAPI is not supported by this build"
		}
		return ""
	}
	return fmt.Sprintf("invalid connection type \"%s\"", t.Text)
}

// sslWarning is what the server says of a hostssl rule that it takes and never uses.
func (s Server) sslWarning() string {
	switch {
	case !s.Build.SSL:
		return "hostssl record cannot match because SSL is not supported by this build"
	case s.SSLOff:
		return "hostssl record cannot match because SSL is disabled"
	}
	return ""
}

// names reads the database and the user lists.
func (p *ruleParser) names() (message string) {
	var found patterns
	p.rule.Databases, found.databases, message = p.list("end-of-line before database specification")
	if message == "" {
		p.rule.Users, found.users, message = p.list("end-of-line before role specification")
	}
	if found.databases != nil || found.users != nil {
		p.rule.patterns = &found
	}
	return message
}

func (p *ruleParser) list(missing string) ([]Name, []*regex, string) {
	if len(p.fields) == 0 {
		return nil, nil, missing
	}
	var few [8]Name
	names := few[:0]
	for _, t := range p.fields[0] {
		names = append(names, t.Name)
	}
	patterns, message := p.patterns(names)
	if message != "" {
		return nil, nil, message
	}
	p.fields = p.fields[1:]
	return p.kept.names.keep(names), patterns, ""
}

// patterns parses the regular expressions among the names of a column.
func (p *ruleParser) patterns(names []Name) (patterns []*regex, message string) {
	for i, n := range names {
		pattern, ok := n.Regex(p.server.Major)
		if !ok {
			continue
		}
		re, err := parseRegex(pattern, &p.kept.languages)
		if err != nil {
			return nil, fmt.Sprintf("invalid regular expression \"%s\": %s", pattern, err)
		}
		if patterns == nil {
			patterns = make([]*regex, len(names))
		}
		patterns[i] = re
	}
	return patterns, ""
}

func (p *ruleParser) address() string {
	if p.rule.Type == "local" {
		return ""
	}
	t, message := p.column("end-of-line before IP address specification", "multiple values specified for host address")
	if message != "" {
		return message
	}
	written := t.Text
	n, done, message := p.server.parseAddress(t)
	if message == "" && !done {
		t, message = p.column("end-of-line before netmask specification", "multiple values specified for netmask")
		if message == "" {
			n, message = p.server.parseMask(n, t)
		}
	}
	if message != "" {
		return message
	}
	n.written = written
	p.rule.network = n
	p.rule.Address, p.rule.Netmask = n.columns()
	return ""
}

func (p *ruleParser) method() string {
	t, message := p.column("end-of-line before authentication method", "multiple values specified for authentication type")
	if message != "" {
		return message
	}
	since, ok := methods[t.Text]
	switch {
	case !ok || since > p.server.Major:
		return fmt.Sprintf("invalid authentication method \"%s\"", t.Text)
	case t.Text == "md5" && p.server.UserNamespace && p.server.Major < 17:
		return "MD5 authentication is not supported when \"db_user_namespace\" is enabled"
	case !p.server.Build.has(t.Text):
		return fmt.Sprintf("invalid authentication method \"%s\": not supported by this build", t.Text)
	}
	p.rule.Method = t.Text
	if p.rule.Type == "local" && t.Text == "ident" {
		p.rule.Method = "peer"
	}
	return p.methodFits()
}

// methodFits tells which methods go with which connections.
func (p *ruleParser) methodFits() string {
	local := p.rule.Type == "local"
	switch method := p.rule.Method; {
	case local && method == "gss":
		return "gssapi authentication is not supported on local sockets"
	case !local && method == "peer":
		return "peer authentication is only supported on local sockets"
	case p.rule.Type != "hostssl" && method == "cert":
		return "cert authentication is only supported on hostssl connections"
	}
	return ""
}

func (p *ruleParser) options() string {
	p.opts = options{server: p.server, rule: &p.rule}
	p.opts.start()
	for _, field := range p.fields {
		for _, t := range field {
			name, value, ok := strings.Cut(t.Text, "=")
			if !ok {
				return fmt.Sprintf("authentication option not in name=value format: %s", t.Text)
			}
			if message := p.opts.set(name, value); message != "" {
				return message
			}
		}
	}
	if message := p.opts.check(); message != "" {
		return message
	}
	p.rule.Options = slices.Clip(p.opts.print())
	p.rule.clientcert, _ = p.opts.text.get("clientcert")
	return ""
}
