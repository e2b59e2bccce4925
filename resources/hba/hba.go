// Package hba reads pg_hba.conf as PostgreSQL 10 to 18 read it.
//
// The file decides who gets into a server, and the server tells little about it: a broken line is a note in its log at a
// reload and the end of it at the next start. This package answers beforehand. Parse gives the server's own verdict, rule
// for rule and line for line, as the view pg_hba_file_rules would show it; Lints says what the server takes but the
// operator can hardly want; Translate writes an operator's rules in the words that the server's major version knows, or
// says why that cannot be done; Quote writes a name so that it is only a name.
//
// The way through the code is the server's way through the file: bytes -> lines (lines.go) -> fields of tokens (tokens.go),
// with the files that they name (include.go) -> rules (rule.go, address.go, options.go, regex.go). Everything is measured
// against real servers of each major; the tests hold it there. The package knows no host: bytes come in, and files that a
// file names are read by the functions handed in.
package hba

import "strings"

// Oldest and Newest are the major versions that the package knows.
const (
	Oldest = 10
	Newest = 18
)

// Server is what a file is judged for: the facts outside pg_hba.conf that the server's verdict depends on.
type Server struct {
	Major int   // 10 to 18
	Build Build // what the server was compiled with

	// SSLOff says that the setting ssl is off. Rules for TLS still load then, with a warning.
	SSLOff bool
	// UserNamespace says that db_user_namespace is on (10 to 16): md5 is refused then.
	UserNamespace bool
	// Validators are the libraries of oauth_validator_libraries (18).
	Validators []string
	// Resolves tells whether a host name of radiusservers has an address. Nil: every name has one.
	Resolves func(name string) bool
	// Interface tells whether a network interface of this name exists, for addresses like fe80::1%eth0. Nil: only lo.
	Interface func(name string) bool
}

// Build is what a server was compiled with.
type Build struct {
	SSL, GSS, LDAP, PAM, BSD bool
}

// Packaged is a server of this major version as Debian and the PostgreSQL project package it: with TLS, GSSAPI, LDAP
// and PAM.
func Packaged(major int) Server {
	return Server{Major: major, Build: Build{SSL: true, GSS: true, LDAP: true, PAM: true}}
}

// Files is how the files are found that a pg_hba.conf names (@file, include). The zero value finds none: naming a file is
// then an error, as a missing file is for the server.
type Files struct {
	// Path is where the file itself stands, from the root on. Relative names in it start in its folder.
	Path string
	// Read gives a file's bytes. Its error should carry the syscall.Errno; a folder is EISDIR.
	Read func(path string) ([]byte, error)
	// List gives the names in a folder, without the folders in it, in any order.
	List func(dir string) ([]string, error)
}

// A File is a parsed pg_hba.conf.
type File struct {
	Server Server
	// Lines are the logical lines of the file itself, comments and blank lines too. Their texts, one after the other, are
	// the file.
	Lines []Line
	// Rules are the rules that the server took, in the order in which it tries them, those of included files among them.
	Rules []Rule
	// Errors are the lines that the server refused, one each, in the file's order. Any of them keeps the whole file from
	// being loaded.
	Errors []Problem

	refused []bool // for each line with something in it, in the order read: whether it is in Errors or in Rules
}

// Parse reads src as this server would. It never fails: what the server would refuse is in Errors.
func Parse(src []byte, server Server, files Files) *File {
	text := string(src)
	lines := 1 + strings.Count(text, "\n")
	f := &File{Server: server, Lines: make([]Line, 0, lines)}
	r := &reader{server: server, files: files, entries: make([]entry, 0, lines)}
	r.file(files.Path, text, 0, &f.Lines)
	f.Rules, f.refused = make([]Rule, 0, len(r.entries)), make([]bool, 0, len(r.entries))
	var kept keeping
	for i := range r.entries {
		e := &r.entries[i]
		rule, message := e.rule(server, &kept)
		f.refused = append(f.refused, message != "")
		if message != "" {
			f.Errors = append(f.Errors, Problem{File: e.file, Line: e.line, Message: message})
			continue
		}
		f.Rules = append(f.Rules, rule)
	}
	return f
}

// Bytes prints the file: the bytes that were parsed.
func (f *File) Bytes() []byte {
	n := 0
	for _, l := range f.Lines {
		n += len(l.Text)
	}
	out := make([]byte, 0, n)
	for _, l := range f.Lines {
		out = append(out, l.Text...)
	}
	return out
}

// A Verdict is what the server makes of one line: a rule or a problem.
type Verdict struct {
	Rule    *Rule
	Problem *Problem
}

// Verdicts are Rules and Errors together in the order of pg_hba_file_rules.
func (f *File) Verdicts() []Verdict {
	rules, errors := 0, 0
	out := make([]Verdict, len(f.refused))
	for i, refused := range f.refused {
		if refused {
			out[i].Problem = &f.Errors[errors]
			errors++
		} else {
			out[i].Rule = &f.Rules[rules]
			rules++
		}
	}
	return out
}

// NoEntries is what the server says of a file without any rule.
const NoEntries = "configuration file contains no entries"

// Problems are the reasons why the server would not load the file: Errors, or the one that has no line, that there is no
// rule at all. Empty: the file loads.
func (f *File) Problems() []Problem {
	if len(f.Errors) == 0 && len(f.Rules) == 0 {
		return []Problem{{Message: NoEntries, Fix: "write at least one rule"}}
	}
	return f.Errors
}

// Loads tells whether the server would load the file.
func (f *File) Loads() bool { return len(f.Problems()) == 0 }

// A Problem is a line that cannot stand, with the cause and, when there is a true one, the way out.
type Problem struct {
	File    string // the included file it is in; empty for the file itself
	Line    int    // 1 for the first line, as the server counts; 0 for the file as a whole
	Message string
	Fix     string
}

// A Rule is one rule as the server took it; its strings are those of pg_hba_file_rules.
type Rule struct {
	File string // the included file it is in; empty for the file itself
	Line int    // where it begins, as the server counts

	Type      string // local, host, hostssl, hostnossl, hostgssenc, hostnogssenc
	Databases []Name
	Users     []Name
	Address   string // an address, a host name, all, samehost, samenet; empty for local
	Netmask   string // empty without a numeric address
	Method    string
	Options   []string // name=value

	// Warning is set on a rule that loads but never matches on this server; the view shows it as an error.
	Warning string

	network    network
	clientcert string    // the option's value as written; "" without one
	patterns   *patterns // nil without regular expressions
}

// patterns are the regular expressions of a rule, beside the names; nil for a name that is none, or for a column without any.
type patterns struct{ databases, users []*regex }

// A Name is one word of a database or user list.
type Name struct {
	Text   string
	Quoted bool // it began with a quote, so that it is no keyword, group or file
}

// Keyword tells whether the name stands for this keyword. Quoted, it is only a name.
func (n Name) Keyword(word string) bool { return !n.Quoted && n.Text == word }

// Group is the role whose members are meant by +role, or "".
func (n Name) Group() string {
	if n.Quoted || len(n.Text) < 2 || n.Text[0] != '+' {
		return ""
	}
	return n.Text[1:]
}

// Regex is the pattern of a /regex (16 and later, quoted or not).
func (n Name) Regex(major int) (pattern string, ok bool) {
	if major < 16 || n.Text == "" || n.Text[0] != '/' {
		return "", false
	}
	return n.Text[1:], true
}

// Texts are the names as pg_hba_file_rules prints them: without their quotes.
func Texts(names []Name) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = n.Text
	}
	return out
}
