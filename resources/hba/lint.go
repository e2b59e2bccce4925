package hba

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Lint is something that the server takes and the operator can hardly want.
type Lint struct {
	File    string // the included file it is in; empty for the file itself
	Line    int
	Name    string // one of the names below
	Message string // what is wrong, and what to do
}

// The names of the lints.
const (
	ClientcertIgnored   = "clientcert-ignored"    // 10, 11: a clientcert that asks for no certificate
	CertificateNotBound = "certificate-not-bound" // any certificate of the CA will do for any user
	CommentSwallowsLine = "comment-swallows-line" // a comment that ends in a backslash
	TrustOverTCP        = "trust-over-tcp"        // no password, no certificate
	NeverMatches        = "never-matches"         // earlier rules take all its connections
	PlaintextAccepted   = "plaintext-accepted"    // a client that prefers TLS may come without
	KeywordCase         = "keyword-case"          // ALL is a name
	QuotedRegex         = "quoted-regex"          // 16: quotes do not make /x a name
	RegexLater          = "regex-from-16"         // 15 and earlier: /x is a name, and will be a regular expression
	OddHostName         = "host-name-odd"         // an address or a method that is read as a host name
	AddressShorthand    = "address-shorthand"     // 10/8 is 0.0.0.10/8
)

// Lints looks at the rules and the comments for what loads and is not meant, in the order of the lines. Lines of included
// files come where they are included.
func (f *File) Lints() []Lint {
	var out []Lint
	cover := newCoverage()
	for i := range f.Rules {
		r := &f.Rules[i]
		add := func(name, format string, args ...any) {
			out = append(out, Lint{File: r.File, Line: r.Line, Name: name, Message: fmt.Sprintf(format, args...)})
		}
		f.certificateLints(r, add)
		f.nameLints(r, add)
		addressLints(r, add)
		f.reachLints(r, cover, add)
		cover.add(r)
	}
	return merge(f.commentLints(), out)
}

// merge puts the lints of comments in their places between those of rules.
func merge(comments, rules []Lint) []Lint {
	out := make([]Lint, 0, len(comments)+len(rules))
	for _, r := range rules {
		for len(comments) > 0 && r.File == "" && comments[0].Line <= r.Line {
			out, comments = append(out, comments[0]), comments[1:]
		}
		out = append(out, r)
	}
	return append(out, comments...)
}

type addLint func(name, format string, args ...any)

func (f *File) commentLints() (out []Lint) {
	for i := range f.Lines {
		l := &f.Lines[i]
		if message := l.swallows(f.Server.Major); message != "" {
			out = append(out, Lint{Line: l.Number, Name: CommentSwallowsLine, Message: message})
		}
	}
	return out
}

// swallows tells what a comment that ends in a backslash does.
func (l *Line) swallows(major int) string {
	if l.comment < 0 {
		return ""
	}
	if major < 14 {
		if strings.HasSuffix(l.content, `\`) {
			return "this comment ends in a backslash: from PostgreSQL 14 on it swallows the next line; write something after the backslash"
		}
		return ""
	}
	for _, p := range l.pieces {
		if p.at > l.comment && p.at < len(l.content) && strings.TrimSpace(l.content[p.at:]) != "" {
			return fmt.Sprintf("this comment ends in a backslash, so the next line is a part of it and no rule: %q; write something after the backslash", strings.TrimSpace(l.content[p.at:]))
		}
	}
	return ""
}

func (f *File) certificateLints(r *Rule, add addLint) {
	major := f.Server.Major
	if major < 12 && r.Method != "cert" {
		switch r.clientcert {
		case "", "0", "1", "no-verify":
		default:
			add(ClientcertIgnored, "PostgreSQL %d asks for no certificate here: clientcert=%s counts as off, as any value but 1; write clientcert=1", major, r.clientcert)
		}
	}
	if !r.certificateUnbound() {
		return
	}
	if major < 12 {
		add(CertificateNotBound, "any certificate of the CA opens this line for any user; the method cert ties it to the user")
		return
	}
	add(CertificateNotBound, "any certificate of the CA opens this line for any user; clientcert=verify-full ties it to the user")
}

// certificateUnbound tells whether the rule asks for a certificate without looking whose it is.
func (r *Rule) certificateUnbound() bool {
	if r.Method == "cert" || r.Method == "reject" {
		return false
	}
	return slices.Contains(r.Options, "clientcert=verify-ca") || slices.Contains(r.Options, "clientcert=true")
}

func (f *File) nameLints(r *Rule, add addLint) {
	for _, n := range r.Databases {
		keywordLint(n, []string{"all", "sameuser", "samerole", "samegroup", "replication"}, "database", add)
		f.regexLint(n, "database", add)
	}
	for _, n := range r.Users {
		keywordLint(n, []string{"all"}, "user", add)
		f.regexLint(n, "user", add)
	}
}

func keywordLint(n Name, keywords []string, what string, add addLint) {
	for _, k := range keywords {
		if !n.Quoted && n.Text != k && strings.EqualFold(n.Text, k) {
			add(KeywordCase, "%s is the name of a %s here: keywords are in lower case; write %s", n.Text, what, k)
		}
	}
}

func (f *File) regexLint(n Name, what string, add addLint) {
	switch _, regex := n.Regex(f.Server.Major); {
	case regex && n.Quoted:
		add(QuotedRegex, "%q is a regular expression, quoted or not (literal before PostgreSQL 16), and matches anywhere in the name of a %s", n.Text, what)
	case !regex && strings.HasPrefix(n.Text, "/"):
		add(RegexLater, "%q is the name of a %s up to PostgreSQL 15 and a regular expression from 16 on", n.Text, what)
	}
}

func addressLints(r *Rule, add addLint) {
	n := r.network
	switch {
	case r.Type == "local":
	case n.kind == hostName && n.oddName() != "":
		add(OddHostName, "%q is read as a host name; %s", n.host, n.oddName())
	case n.kind == numeric && n.addr.Is4() && n.shorthand():
		add(AddressShorthand, "%s is read as %s; write all four numbers, without leading zeros", n.written, n.addr)
	}
}

// oddName says what a host name was probably meant to be.
func (n network) oddName() string {
	if _, ok := methods[n.host]; ok {
		return "it looks like a method whose address is missing before it"
	}
	for _, k := range []string{"all", "samehost", "samenet"} {
		if strings.EqualFold(n.host, k) {
			return "keywords are in lower case and without quotes: write " + k
		}
	}
	if n.host != "" && strings.Trim(n.host, "0123456789.*:[]") == "" {
		return "it looks like an address and is none"
	}
	return ""
}

// shorthand tells whether an address is not written the usual way.
func (n network) shorthand() bool {
	text, _, _ := strings.Cut(n.written, "/")
	a, err := netip.ParseAddr(text)
	return err != nil || a != n.addr
}

func (f *File) reachLints(r *Rule, cover *coverage, add addLint) {
	if r.Warning != "" {
		add(NeverMatches, "%s", r.Warning)
		return
	}
	ways := r.ways()
	taken, by := cover.taken(r)
	switch {
	case ways&^taken == 0:
		add(NeverMatches, "no connection comes this far: %s them all; move this line up or remove it", takers(by))
		return
	case r.Method == "trust" && r.Type != "local":
		add(TrustOverTCP, "trust asks nothing of who comes over the network: write scram-sha-256, or cert")
	}
	if r.Method != "reject" && ways&plain != 0 && taken&plain == 0 && !r.network.loopback() {
		add(PlaintextAccepted, "a client with sslmode=prefer whose TLS fails comes in here in plaintext; write hostssl, or a line hostnossl ... reject before it")
	}
}

// loopback tells whether only this host is meant.
func (n network) loopback() bool {
	return n.kind == sameHost || n.kind == numeric && n.addr.IsLoopback() && n.mask[0] == 0xff
}

// ways are the kinds of connection that a rule is for.
type ways int

const (
	socket ways = 1 << iota
	plain
	tls
	gss
)

func (r *Rule) ways() ways {
	switch r.Type {
	case "local":
		return socket
	case "hostssl":
		return tls
	case "hostnossl":
		return plain | gss
	case "hostgssenc":
		return gss
	case "hostnogssenc":
		return plain | tls
	}
	return plain | tls | gss
}
