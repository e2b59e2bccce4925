package hba

import (
	"errors"
	"strings"
)

// PostgreSQL compiles the regular expressions of names (16 and later) when it reads the file, and refuses a file with a bad
// one. They are of its own kind, "advanced regular expressions" after Henry Spencer, whose grammar is in the chapter
// "Pattern Matching" of the manual. This file scans a pattern into tokens, and regex_parse.go is the grammar; together they say
// which ones are bad. What comes of a good one is a language (regex_language.go) and, for back-references, a tree
// (regex_tree.go).
//
// A character is a byte, as it is for the server when it loads the file and when somebody connects: it does not know yet
// which encoding the names are in. Only the view, asked in a UTF-8 database, looks at characters; so it refuses [é-à], which
// loads, and takes [[.é.]], which does not.
//
// A limit: an expression that is good and too large for the server (((a{255}){255}){255}) is taken here.

// What PostgreSQL says of a bad expression.
var (
	errPattern    = errors.New("invalid regexp (reg version 0.8)")
	errCollate    = errors.New("invalid collating element")
	errClass      = errors.New("invalid character class")
	errEscape     = errors.New("invalid escape \\ sequence")
	errBackref    = errors.New("invalid backreference number")
	errBrackets   = errors.New("brackets [] not balanced")
	errParens     = errors.New("parentheses () not balanced")
	errBraces     = errors.New("braces {} not balanced")
	errRepetition = errors.New("invalid repetition count(s)")
	errRange      = errors.New("invalid character range")
	errQuantifier = errors.New("quantifier operand invalid")
	errOption     = errors.New("invalid embedded option")
	errNesting    = errors.New("regular expression is too complex")
)

// maxRepeat is the greatest count in braces.
const maxRepeat = 255

// maxNesting bounds nested parentheses; the server's stack ends somewhere too.
const maxNesting = 5000

// regexKind is the dialect: an expression may choose an older one by (?e), (?b) or (?q).
type regexKind int

const (
	advanced regexKind = iota
	extended
	basic
	literal
)

// tokens of an expression; those of one character are that character.
const (
	tEnd     = -1 - iota // the end of the expression
	tNone                // before the first token
	tPlain               // a character; value is it
	tLook                // (?= (?! (?<= (?<!
	tBackref             // value is its number
	tClass               // \d and the like
	tAnchor              // \A \Z \m \M \y \Y [[:<:]]
	tDigit
	tRange   // the - of a range in brackets
	tCollate // [. and [=; value says which
	tCclass  // [:
	tClosed  // .] =] :]
)

// regexContext is where the scanner is: the same character means other things in braces or brackets.
type regexContext int

const (
	inRegex regexContext = iota
	inBraces
	inBrackets
	inCollating // value of the opening character in regexScanner.closer
)

// A regexScanner scans an expression and parses it on the way.
type regexScanner struct {
	s        []rune // the bytes of the pattern
	pos      int
	kind     regexKind
	expanded bool
	fold     bool // upper and lower case are the same
	lineStop bool // . and [^a] do not match a newline
	lineEnds bool // ^ and $ match at newlines as well
	context  regexContext
	closer   rune // ends [. [= [:
	groups   int
	closed   map[int]*tree // groups that are closed: a back-reference may name them
	depth    int

	token int // the token at hand
	value rune
	last  int // the one before it

	languages // made on the way
}

// parseRegex reads a pattern, and keeps what it makes of it in place. Its error is the one that PostgreSQL gives.
func parseRegex(pattern string, place *slab[language]) (re *regex, err error) {
	defer func() {
		if e := caught(recover()); e != nil {
			re, err = nil, e
		}
	}()
	r := &regexScanner{s: bytesOf(pattern), token: tNone, languages: languages{place: place}}
	r.prefix()
	if r.kind == literal {
		return r.finish(r.literal()), nil
	}
	r.next()
	return r.finish(r.alternatives(tEnd, false)), nil
}

func bytesOf(pattern string) []rune {
	out := make([]rune, len(pattern))
	for i := range len(pattern) {
		out[i] = rune(pattern[i])
	}
	return out
}

// literal is for (?q) and ***=: the rest is a text.
func (r *regexScanner) literal() *tree {
	var text []*language
	for _, c := range r.s[r.pos:] {
		text = append(text, r.character(c))
	}
	return leaf(r.sequence(text), 0)
}

// regexFault carries the first fault out of the recursion.
type regexFault struct{ error }

// caught gives the fault of a recovered panic. Any other goes on.
func caught(recovered any) error {
	switch e := recovered.(type) {
	case nil:
		return nil
	case regexFault:
		return e.error
	default:
		panic(e)
	}
}

func (r *regexScanner) fail(err error) { panic(regexFault{err}) }

func (r *regexScanner) more(n int) bool { return len(r.s)-r.pos >= n }

func (r *regexScanner) see(text string) bool {
	return r.more(len(text)) && string(r.s[r.pos:r.pos+len(text)]) == text
}

func (r *regexScanner) eat(text string) bool {
	if r.see(text) {
		r.pos += len(text)
		return true
	}
	return false
}

// prefix reads the *** directors and the (?xyz) options that may begin an expression.
func (r *regexScanner) prefix() {
	if r.eat("***") {
		switch {
		case r.eat("="):
			r.kind = literal
			return
		case r.eat(":"):
		case r.see("?"):
			r.fail(errPattern)
		default:
			r.fail(errQuantifier)
		}
	}
	if r.more(3) && r.see("(?") && isLetter(r.s[r.pos+2]) {
		r.pos += 2
		r.embedded()
	}
}

func (r *regexScanner) embedded() {
	for ; r.more(1) && isLetter(r.s[r.pos]); r.pos++ {
		switch r.s[r.pos] {
		case 'b':
			r.kind = basic
		case 'e':
			r.kind = extended
		case 'q':
			r.kind = literal
		default:
			r.option(r.s[r.pos])
		}
	}
	if !r.eat(")") {
		r.fail(errOption)
	}
}

// option sets one of the options that do not choose a dialect.
func (r *regexScanner) option(c rune) {
	switch c {
	case 't', 'x':
		r.expanded = c == 'x'
	case 'c', 'i':
		r.fold = c == 'i'
	case 'm', 'n', 'p', 's', 'w':
		r.lineStop = c == 'm' || c == 'n' || c == 'p'
		r.lineEnds = c == 'm' || c == 'n' || c == 'w'
	default:
		r.fail(errOption)
	}
}

func isLetter(c rune) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c rune) bool  { return c >= '0' && c <= '9' }

// next scans a token.
func (r *regexScanner) next() {
	r.last = r.token
	if r.expanded && (r.context == inRegex || r.context == inBraces) {
		r.skip()
	}
	if !r.more(1) {
		r.atEnd()
		return
	}
	c := r.s[r.pos]
	r.pos++
	r.value = c
	switch {
	case r.context == inBraces:
		r.brace(c)
	case r.context == inBrackets:
		r.bracket(c)
	case r.context == inCollating:
		r.collating(c)
	case r.kind == basic:
		r.basic(c)
	default:
		r.plain(c)
	}
}

func (r *regexScanner) atEnd() {
	switch r.context {
	case inRegex:
		r.token = tEnd
	case inBraces:
		r.fail(errBraces)
	default:
		r.fail(errBrackets)
	}
}

// skip goes over blanks and comments of the expanded syntax.
func (r *regexScanner) skip() {
	for {
		before := r.pos
		for r.more(1) && strings.ContainsRune(" \t\n\v\f\r", r.s[r.pos]) {
			r.pos++
		}
		if r.more(1) && r.s[r.pos] == '#' {
			for r.more(1) && r.s[r.pos] != '\n' {
				r.pos++
			}
		}
		if r.pos == before {
			return
		}
	}
}

// plain scans outside braces and brackets, in an advanced or extended expression.
func (r *regexScanner) plain(c rune) {
	r.token = int(c)
	switch c {
	case '*', '+', '?':
		r.preference()
	case '|', '.', '^', '$', ')':
	case '{':
		r.openBrace()
	case '(':
		r.openParen()
	case '[':
		r.openBracket()
	case '\\':
		r.backslash()
	default:
		r.token = tPlain
	}
}

// preference makes the value of a quantifier tell whether it prefers few.
func (r *regexScanner) preference() {
	r.value = rune(longer)
	if r.kind == advanced && r.eat("?") {
		r.value = rune(shorter)
	}
}

func (r *regexScanner) openBrace() {
	if r.expanded {
		r.skip()
	}
	if !r.more(1) || !isDigit(r.s[r.pos]) {
		r.token = tPlain
		return
	}
	r.context = inBraces
}

func (r *regexScanner) openParen() {
	r.value = 1
	if r.kind != advanced || !r.eat("?") {
		return
	}
	switch {
	case r.eat(":"):
		r.value = 0
	case r.eat("#"):
		for r.more(1) && r.s[r.pos] != ')' {
			r.pos++
		}
		r.eat(")")
		r.token = r.last
		r.next()
	case r.eat("="):
		r.token, r.value = tLook, rune(ahead)
	case r.eat("!"):
		r.token, r.value = tLook, rune(notAhead)
	case r.eat("<="):
		r.token, r.value = tLook, rune(behind)
	case r.eat("<!"):
		r.token, r.value = tLook, rune(notBehind)
	default:
		r.fail(errQuantifier)
	}
}

func (r *regexScanner) openBracket() {
	switch {
	case r.eat("[:<:]]"):
		r.token, r.value = tAnchor, 'm'
		return
	case r.eat("[:>:]]"):
		r.token, r.value = tAnchor, 'M'
		return
	}
	r.context, r.token, r.value = inBrackets, '[', 1
	if r.eat("^") {
		r.value = 0
	}
}

func (r *regexScanner) backslash() {
	if !r.more(1) {
		r.fail(errEscape)
	}
	if r.kind != advanced {
		r.token, r.value = tPlain, r.s[r.pos]
		r.pos++
		return
	}
	r.escape()
}

// escape reads what follows a backslash of an advanced expression.
func (r *regexScanner) escape() {
	c := r.s[r.pos]
	r.pos++
	r.token, r.value = tPlain, c
	switch {
	case strings.ContainsRune("AZmMyY", c):
		r.token = tAnchor
	case strings.ContainsRune("dDsSwW", c):
		r.token = tClass
	case isDigit(c):
		r.number(c)
	case !isLetter(c):
	default:
		r.letter(c)
	}
}

// letter reads the escapes that stand for one character.
func (r *regexScanner) letter(c rune) {
	const simple = "abBefnrtv"
	values := []rune{7, 8, '\\', 27, 12, 10, 13, 9, 11}
	switch {
	case strings.ContainsRune(simple, c):
		r.value = values[strings.IndexRune(simple, c)]
	case c == 'c':
		if !r.more(1) {
			r.fail(errEscape)
		}
		r.value = r.s[r.pos] & 0x1f
		r.pos++
	case c == 'u':
		r.value = r.code(16, 4, 4)
	case c == 'U':
		r.value = r.code(16, 8, 8)
	case c == 'x':
		r.value = r.code(16, 1, 255)
	default:
		r.fail(errEscape)
	}
}

// number reads \1: a back-reference, or an octal code when it has more digits than there are groups.
func (r *regexScanner) number(c rune) {
	save := r.pos
	r.pos--
	if c != '0' {
		n := r.code(10, 1, 255)
		if r.pos == save || n > 0 && int(n) <= r.groups {
			r.token, r.value = tBackref, n
			return
		}
		r.pos = save - 1
	}
	n := r.code(8, 1, 3)
	if n > 0xff {
		r.pos--
		n >>= 3
	}
	r.value = n
}

// code reads a number of min to max digits.
func (r *regexScanner) code(base, min, max int) rune {
	var n uint32
	i := 0
	for ; i < max && r.more(1); i++ {
		d := digitValue(r.s[r.pos])
		if d < 0 || d >= base {
			break
		}
		n = n*uint32(base) + uint32(d)
		r.pos++
	}
	if i < min || n > 0x7ffffffe {
		r.fail(errEscape)
	}
	return rune(n)
}

func digitValue(c rune) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// basic scans a basic expression, outside braces and brackets.
func (r *regexScanner) basic(c rune) {
	start := r.last == tNone || r.last == '(' || r.last == '|' || r.last == '^'
	r.token = tPlain
	switch {
	case c == '*' && !start:
		r.token = int(c)
		r.preference()
	case c == '.':
		r.token = int(c)
	case c == '^' && (r.last == tNone || r.last == '('):
		r.token = int(c)
	case c == '$' && (!r.more(1) || r.see(`\)`)):
		r.token = int(c)
	case c == '[':
		r.openBracket()
	case c == '\\':
		r.basicEscape()
	}
}

func (r *regexScanner) basicEscape() {
	if !r.more(1) {
		r.fail(errEscape)
	}
	c := r.s[r.pos]
	r.pos++
	r.value = c
	switch {
	case c == '{':
		r.context, r.token = inBraces, '{'
	case c == '(':
		r.token, r.value = '(', 1
	case c == ')':
		r.token = ')'
	case c == '<':
		r.token, r.value = tAnchor, 'm'
	case c == '>':
		r.token, r.value = tAnchor, 'M'
	case c >= '1' && c <= '9':
		r.token, r.value = tBackref, c-'0'
	}
}

// brace scans inside {m,n}.
func (r *regexScanner) brace(c rune) {
	switch {
	case isDigit(c):
		r.token, r.value = tDigit, c-'0'
	case c == ',':
		r.token = ','
	case c == '}' && r.kind != basic:
		r.context, r.token = inRegex, '}'
		r.preference()
	case c == '\\' && r.kind == basic && r.eat("}"):
		r.context, r.token = inRegex, '}'
		r.preference()
	default:
		r.fail(errRepetition)
	}
}

// bracket scans inside [...].
func (r *regexScanner) bracket(c rune) {
	r.token = tPlain
	switch c {
	case '\\':
		if r.kind == advanced {
			r.bracketEscape()
		}
	case '-':
		if r.last != '[' && !r.see("]") {
			r.token = tRange
		}
	case ']':
		if r.last != '[' {
			r.context, r.token = inRegex, ']'
		}
	case '[':
		r.openCollating()
	}
}

func (r *regexScanner) bracketEscape() {
	if !r.more(1) {
		r.fail(errEscape)
	}
	r.escape()
	if r.token != tPlain && r.token != tClass {
		r.fail(errEscape)
	}
}

func (r *regexScanner) openCollating() {
	if !r.more(1) {
		r.fail(errBrackets)
	}
	c := r.s[r.pos]
	switch c {
	case '.', '=':
		r.token = tCollate
	case ':':
		r.token = tCclass
	default:
		return
	}
	r.pos++
	r.context, r.closer, r.value = inCollating, c, c
}

// collating scans inside [. .] and its like.
func (r *regexScanner) collating(c rune) {
	r.token = tPlain
	if c == r.closer && r.eat("]") {
		r.context, r.token = inBrackets, tClosed
	}
}
