package hba

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Translation is an operator's rules in the words of one major version.
type Translation struct {
	// Text is the rules as they are to be written. What needed no translation has the bytes it had. Nil when there are
	// Problems: nothing is written then.
	Text []byte
	// Changes are the lines that were translated, in their order.
	Changes []Change
	// Problems are what this version cannot take or cannot express, each with its line, its cause and a way out.
	Problems []Problem
}

// A Change is one translated line.
type Change struct {
	Line          int
	Before, After string // the line without its line end
	Why           string
}

// Translate writes the rules of src, a block that is to stand in pg_hba.conf, in the words that the server knows. One line
// says one thing on all versions: clientcert=1 of 10 and 11 and clientcert=verify-ca of 12 and later are the same demand.
// A translation asks at least what the line asked; where the version has no words for that, the line is a problem, and
// never silently something weaker: only a waiver in the line's own comment, which names the weaker demand, lets that be
// written. networks are those of the environment, for the proposal when a rule has no address.
//
// Refused as well is what would spoil the file that the block stands in: a byte order mark, NULs, lone carriage returns,
// bytes that are no UTF-8, and a last line or a comment that ends in a backslash.
//
// The line numbers are those of src, and those of Text: no line is added or removed.
func Translate(src []byte, server Server, files Files, networks []string) Translation {
	t := &translator{server: server, files: files, networks: networks}
	t.refuseBytes(src)
	if len(t.problems) > 0 {
		return Translation{Problems: t.problems}
	}
	var text strings.Builder
	lines := Parse(src, server, files).Lines
	for i := range lines {
		text.WriteString(t.line(&lines[i]))
	}
	t.refuseErrors([]byte(text.String()))
	if len(t.problems) > 0 {
		slices.SortStableFunc(t.problems, func(a, b Problem) int { return a.Line - b.Line })
		return Translation{Problems: t.problems}
	}
	return Translation{Text: []byte(text.String()), Changes: t.changes}
}

type translator struct {
	server   Server
	files    Files
	networks []string

	changes  []Change
	problems []Problem
}

func (t *translator) problem(line int, fix, format string, args ...any) {
	t.problems = append(t.problems, Problem{Line: line, Message: fmt.Sprintf(format, args...), Fix: fix})
}

// refuseBytes refuses bytes that no operator means, each kind once.
func (t *translator) refuseBytes(src []byte) {
	lineOf := func(at int) int { return 1 + bytes.Count(src[:at], []byte("\n")) }
	if bytes.HasPrefix(src, []byte("\ufeff")) {
		t.problem(1, "save the file as UTF-8 without it", "the file begins with a byte order mark, which the server reads as part of the first word")
	}
	if i := bytes.IndexByte(src, 0); i >= 0 {
		t.problem(lineOf(i), "remove it", "the line holds a NUL")
	}
	if i := loneCR(src); i >= 0 {
		t.problem(lineOf(i), "end lines with a newline", "the line holds a carriage return that ends no line")
	}
	if i := invalidUTF8(src); i >= 0 {
		t.problem(lineOf(i), "save the file as UTF-8", "the line holds a byte that is not UTF-8")
	}
	if bytes.HasSuffix(bytes.TrimRight(src, "\r\n"), []byte(`\`)) {
		t.problem(lineOf(len(bytes.TrimRight(src, "\r\n"))), "remove the backslash",
			"the last line ends in a backslash: from PostgreSQL 14 on it swallows the line after the block")
	}
}

func loneCR(src []byte) int {
	for i, c := range src {
		if c == '\r' && (i+1 == len(src) || src[i+1] != '\n') {
			return i
		}
	}
	return -1
}

func invalidUTF8(src []byte) int {
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// line translates one logical line and gives its text.
func (t *translator) line(l *Line) string {
	t.refuseBackslash(l)
	if len(l.Fields) == 0 {
		return l.Text
	}
	before := len(t.problems)
	t.refuseRegex(l)
	t.refuseContradiction(l)
	t.refuseWaiver(l)
	if len(t.problems) > before {
		return l.Text
	}
	now, why := l, []string(nil)
	for {
		e, ok := t.edit(now)
		if !ok {
			break
		}
		why = append(why, e.why)
		now = t.again(l, now.Text[:e.start]+e.text+now.Text[e.end:])
	}
	if now.Text != l.Text {
		t.changes = append(t.changes, Change{Line: l.Number, Before: bare(l.Text), After: bare(now.Text), Why: strings.Join(why, "; ")})
	}
	return now.Text
}

// again parses a line whose text was edited.
func (t *translator) again(l *Line, text string) *Line {
	in := newLineReader(text, t.server.Major)
	line, _, _ := in.next()
	r := &reader{server: t.server, files: t.files}
	r.split(&line, t.files.Path, 0)
	line.Number = l.Number
	return &line
}

func bare(text string) string { return strings.TrimRight(text, "\r\n") }

func (t *translator) refuseBackslash(l *Line) {
	text := bare(l.Text)
	switch message := l.swallows(t.server.Major); {
	case message != "":
		t.problem(l.Number, "write something after the backslash, or remove it", "%s", message)
	case t.server.Major < 14 && strings.HasSuffix(text, `\`):
		t.problem(l.Number, "write the rule in one line", "PostgreSQL %d does not join lines that end in a backslash; 14 and later do", t.server.Major)
	}
}

// refuseRegex refuses what is a regular expression from 16 on and the name of nobody before.
func (t *translator) refuseRegex(l *Line) {
	if t.server.Major >= 16 || len(l.Fields) < 3 {
		return
	}
	for _, field := range l.Fields[1:3] {
		for _, token := range field {
			if strings.HasPrefix(token.Text, "/") {
				t.problem(l.Number, "list the names, or use +role for the users", "PostgreSQL %d takes %q for a name; regular expressions came with 16", t.server.Major, token.Text)
			}
		}
	}
}

// refuseContradiction refuses a rule that asks for a certificate in two ways: the last one would count.
func (t *translator) refuseContradiction(l *Line) {
	first := ""
	for _, token := range t.options(l) {
		if !strings.HasPrefix(token.Text, "clientcert=") {
			continue
		}
		if first != "" && token.Text != first {
			t.problem(l.Number, "keep one of them", "the rule says both %s and %s", first, token.Text)
			return
		}
		first = token.Text
	}
}

// methodColumn is the index of the method in a line's fields, or -1.
func (t *translator) methodColumn(l *Line) int {
	at := 3
	if l.Fields[0][0].Text != "local" {
		if len(l.Fields) < 4 || len(l.Fields[3]) != 1 {
			return -1
		}
		at = 4
		if _, done, _ := t.server.parseAddress(l.Fields[3][0]); !done {
			at = 5
		}
	}
	if len(l.Fields) <= at {
		return -1
	}
	return at
}

// options are the tokens after the method.
func (t *translator) options(l *Line) []Token {
	at := t.methodColumn(l)
	if at < 0 {
		return nil
	}
	var out []Token
	for _, field := range l.Fields[at+1:] {
		out = append(out, field...)
	}
	return out
}

// An edit replaces a piece of a line's text.
type edit struct {
	start, end int
	text, why  string
}

// edit finds the first thing in a line to be said in other words.
func (t *translator) edit(l *Line) (edit, bool) {
	kind := l.Fields[0][0]
	if kind.Text == "hostnogssenc" && t.server.Major < 12 && kind.From == "" {
		return edit{kind.Start, kind.End, "host", "PostgreSQL " + t.version() + " has no GSSAPI encryption, so host says the same as hostnogssenc"}, true
	}
	method := t.methodColumn(l)
	if method < 0 || kind.Text != "hostssl" {
		return edit{}, false
	}
	for _, token := range t.options(l) {
		w, ok := t.option(l.Fields[method][0].Text, token.Text)
		if !ok {
			continue
		}
		w = w.waived(l)
		if w.problem != "" || token.From != "" {
			t.refuseOption(l, token, w)
			return edit{}, false
		}
		if w.text == "" {
			start, end := removal(l, token)
			return edit{start, end, "", w.why}, true
		}
		return edit{token.Start, token.End, w.text, w.why}, true
	}
	return edit{}, false
}

func (t *translator) version() string { return fmt.Sprint(t.server.Major) }

func (t *translator) refuseOption(l *Line, token Token, w wording) {
	if w.problem != "" {
		if w.weaker != "" {
			w.fix += "; or accept less here with a comment at the end of the line: " + waiverOf(w.weaker)
		}
		t.problem(l.Number, w.fix, "%s", w.problem)
		return
	}
	t.problem(l.Number, "write the option in the line", "%s needs other words on PostgreSQL %d, and stands in the file %s", token.Text, t.server.Major, token.From)
}

// removal is what to cut so that an option is gone: it with what parts it from the word before, or from the next of its
// list when it is the first. Line ends stay.
func removal(l *Line, token Token) (start, end int) {
	start, end = token.Start, token.End
	for _, field := range l.Fields {
		for i, other := range field {
			if other.Start == token.Start && i == 0 && len(field) > 1 {
				return keepLineEnds(l, token, token.Start, field[1].Start)
			}
			if other.End < token.End {
				start = other.End
			}
		}
	}
	return keepLineEnds(l, token, start, end)
}

func keepLineEnds(l *Line, token Token, start, end int) (int, int) {
	if strings.Contains(l.Text[start:end], "\n") {
		return token.Start, token.End
	}
	return start, end
}

// A wording is what an option is to be on this version: other words, none (it says nothing), or a problem. Of a problem that
// can be waived, weaker is the demand that the waiver has to name, and text and why are what is written then.
type wording struct{ text, why, problem, fix, weaker string }

// option tells how an option of a hostssl rule is to be written; false: as it is. The matrix is that of postgres-facts 4.3
// and 4.8: up to 11 only clientcert=1 asks for a certificate, and every other value silently does not.
func (t *translator) option(method, text string) (wording, bool) {
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return wording{}, false
	case name == "clientname" && t.server.Major < 14:
		return t.clientname(value)
	case name == "clientcert" && t.server.Major < 12:
		return t.oldClientcert(method, value)
	case name == "clientcert":
		return t.newClientcert(method, value)
	}
	return wording{}, false
}

func (t *translator) clientname(value string) (wording, bool) {
	if value == "CN" {
		return wording{why: "PostgreSQL " + t.version() + " compares the common name always, and has no word for it"}, true
	}
	w := wording{
		problem: fmt.Sprintf("PostgreSQL %d compares the common name of a certificate only; clientname=%s came with 14", t.server.Major, value),
		fix:     "map common names with map= and pg_ident.conf",
	}
	if value == "DN" {
		w.weaker, w.why = "clientname=CN", "PostgreSQL "+t.version()+" compares the common name only, and not the whole distinguished name"
	}
	return w, true
}

// oldClientcert is for 10 and 11.
func (t *translator) oldClientcert(method, value string) (wording, bool) {
	switch {
	case value == "1", value == "0", value == "no-verify" && method != "cert":
		return wording{}, false
	case value == "verify-ca", value == "verify-full" && method == "cert":
		return wording{text: "clientcert=1", why: fmt.Sprintf("PostgreSQL %d would ask for no certificate on clientcert=%s; clientcert=1 is its word for it", t.server.Major, value)}, true
	case value == "verify-full":
		return wording{
			problem: fmt.Sprintf("PostgreSQL %d cannot ask for the user's own certificate beside %s: it would take clientcert=verify-full for off, and clientcert=1 takes any certificate of the CA", t.server.Major, method),
			fix:     "write the method cert, which asks for no password",
			weaker:  "clientcert=verify-ca",
			text:    "clientcert=1",
			why:     fmt.Sprintf("PostgreSQL %d cannot compare the certificate with the user beside %s, and takes any certificate of the CA", t.server.Major, method),
		}, true
	}
	return wording{
		problem: fmt.Sprintf("clientcert=%s asks for no certificate on PostgreSQL %d: every value but 1 counts as off", value, t.server.Major),
		fix:     "write clientcert=1, or leave the option out",
	}, true
}

// newClientcert is for 12 and later. The old words still load on 12 and 13; they are replaced there too, so that the file
// is good for the next version.
func (t *translator) newClientcert(method, value string) (wording, bool) {
	major := t.server.Major
	switch {
	case method == "cert" && (value == "1" || value == "verify-ca" && major >= 14):
		return wording{text: "clientcert=verify-full", why: "the method cert always compares the certificate with the user: clientcert=" + value + " means verify-full there, and from PostgreSQL 14 on has to say so"}, true
	case value == "1":
		return wording{text: "clientcert=verify-ca", why: "clientcert=1 is the word of PostgreSQL 10 and 11 for verify-ca; 14 and later refuse it"}, true
	case method != "cert" && major >= 14 && (value == "0" || value == "no-verify"):
		return wording{why: "clientcert=" + value + " asks for nothing, and PostgreSQL 14 and later refuse it"}, true
	}
	return wording{}, false
}

// refuseErrors refuses what the server would refuse in the translated text.
func (t *translator) refuseErrors(text []byte) {
	known := map[int]bool{}
	for _, p := range t.problems {
		known[p.Line] = true
	}
	f := Parse(text, t.server, t.files)
	lines := map[int]*Line{}
	for i := range f.Lines {
		lines[f.Lines[i].Number] = &f.Lines[i]
	}
	for _, p := range f.Errors {
		if p.File == "" && known[p.Line] {
			continue
		}
		if l := lines[p.Line]; p.File == "" && l != nil && len(l.Fields) > 0 {
			p.Message, p.Fix = t.explain(l, p.Message)
		}
		t.problems = append(t.problems, p)
	}
}

// explain gives the server's message for a line and a way out, or better words where the server's mislead.
func (t *translator) explain(l *Line, message string) (better, fix string) {
	kind := l.Fields[0][0].Text
	switch method, ok := t.missingAddress(l, message); {
	case ok:
		return fmt.Sprintf("the rule has no address: %q stands where it should, and would be read as a host name", method.Text), t.proposal(l, method)
	case kind == "hostgssenc" && t.server.Major < 12:
		return fmt.Sprintf("PostgreSQL %d has no GSSAPI encryption; hostgssenc came with 12", t.server.Major), "remove the rule: no connection could meet it"
	case strings.HasPrefix(kind, "include") && t.server.Major < 16:
		return fmt.Sprintf("PostgreSQL %d cannot include files; %s came with 16", t.server.Major, kind), "write the rules here"
	case strings.HasPrefix(message, "invalid authentication method"):
		return message, t.methodHint(l)
	}
	for _, r := range remedies {
		if strings.Contains(message, r.message) {
			return message, r.fix
		}
	}
	return message, ""
}

// remedies are ways out by what the server says.
var remedies = []struct{ message, fix string }{
	{"invalid connection type", "write local, host, hostssl or hostnossl"},
	{"end-of-line before netmask", "write the network with its bits, like 10.0.0.0/8"},
	{"end-of-line before", "write all columns: type, database, user, address (not for local), method"},
	{"invalid value for clientcert", "write clientcert=verify-ca or clientcert=verify-full"},
	{"invalid value for clientname", "write clientname=CN or clientname=DN"},
	{"for \"hostssl\" rows", "write hostssl"},
	{"only supported on hostssl", "write hostssl"},
	{"multiple values specified for host address", "write one rule for each network"},
	{"multiple values", "write one rule for each"},
	{"not in name=value format", "write options as name=value"},
	{"is only valid for authentication methods", "remove the option"},
	{"host name and CIDR", "write an address before the bits, or the host name alone"},
	{"invalid CIDR mask", "write 0 to 32 bits for IPv4, 0 to 128 for IPv6"},
	{"could not open", "put the file there, or name another"},
	{"too long", "write shorter lists in several rules"},
}

// missingAddress tells whether a refused rule lacks its address column: a method stands in it.
func (t *translator) missingAddress(l *Line, message string) (method Token, ok bool) {
	if !strings.HasPrefix(l.Fields[0][0].Text, "host") || len(l.Fields) < 4 || len(l.Fields[3]) != 1 {
		return Token{}, false
	}
	if !strings.HasPrefix(message, "invalid authentication method") && !strings.HasPrefix(message, "end-of-line before authentication method") {
		return Token{}, false
	}
	method = l.Fields[3][0]
	since, ok := methods[method.Text]
	return method, ok && since <= t.server.Major && method.From == ""
}

// proposal is a refused rule with the environment's networks put in.
func (t *translator) proposal(l *Line, method Token) string {
	rest := method.Text
	for _, field := range l.Fields[4:] {
		for _, token := range field {
			text := token.Text
			if w, ok := t.option(method.Text, text); ok && w.problem == "" {
				text = w.text
			}
			if text != "" {
				rest += " " + text
			}
		}
	}
	if accepted, err := l.waivers(); err == nil && len(accepted) > 0 {
		rest += " " + waiverOf(accepted...)
	}
	networks := t.networks
	if len(networks) == 0 {
		networks = []string{"ADDRESS"}
	}
	var lines []string
	for _, n := range networks {
		lines = append(lines, strings.TrimLeft(l.Text[:method.Start], " \t")+n+" "+rest)
	}
	return "write " + strings.Join(lines, "\nand ")
}

// methodHint proposes the method that was probably meant.
func (t *translator) methodHint(l *Line) string {
	at := t.methodColumn(l)
	if at < 0 {
		return ""
	}
	word := strings.ToLower(l.Fields[at][0].Text)
	if right, ok := misspelt[word]; ok {
		return fmt.Sprintf("did you mean %q?", right)
	}
	if since, ok := methods[word]; ok && since <= t.server.Major && word != l.Fields[at][0].Text {
		return fmt.Sprintf("methods are in lower case: write %s", word)
	}
	if since, ok := methods[word]; ok && since > t.server.Major {
		return fmt.Sprintf("%s came with PostgreSQL %d", word, since)
	}
	return ""
}

// misspelt are words met in the wild for methods.
var misspelt = map[string]string{
	"certificate": "cert", "scram": "scram-sha-256", "scram-sha256": "scram-sha-256", "sha256": "scram-sha-256",
	"scram_sha_256": "scram-sha-256", "gssapi": "gss", "deny": "reject", "crypt": "md5", "pwd": "password",
}
