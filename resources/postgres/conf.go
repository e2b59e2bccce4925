package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// A Conf is a postgresql.conf with all that it includes, and postgresql.auto.conf on top, as a server reads them.
type Conf struct {
	File     string
	Settings []Setting    // every one that the server would take, in the order in which they are read; the last of a name counts
	Errors   []*ConfError // what the server would refuse; it applies nothing at all while there is one

	effective map[string]int
}

// A Setting is one `name = value` of a configuration file.
type Setting struct {
	Name  string // as it stands in the file
	Value string // without its quotes
	File  string
	Line  int
}

// A ConfError is a line that a server cannot read. It never quotes the line: values may be secret.
type ConfError struct {
	File    string
	Line    int // 0 when it is the file itself
	Problem string
}

func (e *ConfError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Problem)
	}
	return fmt.Sprintf("%s line %d: %s", e.File, e.Line, e.Problem)
}

// Get returns the setting of this name that counts. Names are the same in any case, and old names stand for new ones.
func (c *Conf) Get(name string) (Setting, bool) {
	i, ok := c.effective[foldName(name)]
	if !ok {
		return Setting{}, false
	}
	return c.Settings[i], true
}

// Value returns the value of the setting of this name that counts, or otherwise when there is none.
func (c *Conf) Value(name, otherwise string) string {
	if s, ok := c.Get(name); ok {
		return s.Value
	}
	return otherwise
}

// Err returns all that the server would refuse as one error, or nil.
func (c *Conf) Err() error {
	errs := make([]error, len(c.Errors))
	for i, e := range c.Errors {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// ParseConf reads a postgresql.conf the way a server does: guc-file.l is the grammar. postgresql.auto.conf is read from
// dataDirectory, or, when that is "", from the data_directory that the file sets, or else from the file's own folder.
// The error is for a main file that cannot be read; everything wrong inside is in Conf.Errors.
func ParseConf(files Files, file, dataDirectory string) (*Conf, error) {
	content, err := files.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	p := confParser{files: files, conf: &Conf{File: file, effective: map[string]int{}}}
	p.parse(file, content, 0)
	if dataDirectory == "" {
		dataDirectory = p.conf.Value("data_directory", path.Dir(file))
	}
	auto := path.Join(dataDirectory, "postgresql.auto.conf")
	switch content, err := files.ReadFile(auto); {
	case err == nil:
		p.parse(auto, content, 0)
	case !errors.Is(err, fs.ErrNotExist):
		p.fail(auto, 0, "cannot be read: "+err.Error())
	}
	return p.conf, nil
}

// The depth of includes that a server takes: CONF_FILE_MAX_DEPTH.
const maxIncludeDepth = 10

// After how many syntax errors a file is given up, as guc-file.l does, and how many files are read in all: files that
// include one another ten levels deep could keep a reader busy for ever.
const (
	maxSyntaxErrors = 100
	maxConfFiles    = 10_000
)

type confParser struct {
	files Files
	conf  *Conf
	read  int // files so far
}

func (p *confParser) fail(file string, line int, problem string) {
	p.conf.Errors = append(p.conf.Errors, &ConfError{file, line, problem})
}

func (p *confParser) parse(file string, content []byte, depth int) {
	if p.read++; p.read > maxConfFiles {
		if p.read == maxConfFiles+1 {
			p.fail(file, 0, fmt.Sprintf("more than %d files are included: the rest is not read", maxConfFiles))
		}
		return
	}
	errors := 0
	lex := confLexer{text: string(content), line: 1}
	for !lex.done() && errors < maxSyntaxErrors {
		line := lex.line
		name, value, problem := lex.setting()
		switch {
		case problem != "":
			errors++
			p.fail(file, line, problem)
		case name == "":
		default:
			p.take(Setting{name, value, file, line}, depth)
		}
	}
}

// take adds a setting, or follows an include.
func (p *confParser) take(s Setting, depth int) {
	switch foldName(s.Name) {
	case "include":
		p.include(s, s.Value, depth, false)
	case "include_if_exists":
		p.include(s, s.Value, depth, true)
	case "include_dir":
		p.includeDir(s, depth)
	default:
		p.conf.effective[foldName(s.Name)] = len(p.conf.Settings)
		p.conf.Settings = append(p.conf.Settings, s)
	}
}

func (p *confParser) include(from Setting, file string, depth int, mayLack bool) {
	if strings.Trim(file, " \t\r\n") == "" {
		p.fail(from.File, from.Line, "empty file name in "+from.Name)
		return
	}
	if p.read > maxConfFiles {
		return
	}
	file = besides(from.File, file)
	if depth+1 > maxIncludeDepth {
		p.fail(from.File, from.Line, fmt.Sprintf("%s is included more than %d levels deep", file, maxIncludeDepth))
		return
	}
	if file == from.File {
		p.fail(from.File, from.Line, "the file includes itself")
		return
	}
	content, err := p.files.ReadFile(file)
	switch {
	case err == nil:
		p.parse(file, content, depth+1)
	case mayLack && errors.Is(err, fs.ErrNotExist):
	default:
		p.fail(from.File, from.Line, fmt.Sprintf("cannot read %s: %v", file, cause(err)))
	}
}

func (p *confParser) includeDir(from Setting, depth int) {
	if strings.Trim(from.Value, " \t\r\n") == "" {
		p.fail(from.File, from.Line, "empty directory name in "+from.Name)
		return
	}
	dir := besides(from.File, from.Value)
	names, err := p.files.ReadDir(dir)
	if err != nil {
		p.fail(from.File, from.Line, fmt.Sprintf("cannot read the directory %s: %v", dir, cause(err)))
		return
	}
	for _, name := range names {
		if !includedName(name) {
			continue
		}
		file := path.Join(dir, name)
		if info, err := p.files.Stat(file); err == nil && info.Dir {
			continue
		}
		p.include(from, file, depth, false)
	}
}

// includedName says whether include_dir takes a file of this name.
func includedName(name string) bool {
	return len(name) >= 6 && name[0] != '.' && strings.HasSuffix(name, ".conf")
}

// besides resolves a name that stands in a file: relative names start at the file's folder.
func besides(file, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(path.Dir(file), name)
}

// cause returns the error without the path that a message names already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// foldName makes one spelling of a setting's name: lower case in ASCII, and the present name of an old one.
func foldName(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// A confLexer cuts a configuration file into lines and tokens.
type confLexer struct {
	text string
	at   int
	line int
}

type confToken int

const (
	tokenEnd confToken = iota // of the file
	tokenLine
	tokenID
	tokenQualified
	tokenString
	tokenUnquoted
	tokenNumber
	tokenEquals
	tokenError
)

func (l *confLexer) done() bool { return l.at >= len(l.text) }

// setting reads one line. name is "" for a line without a setting. A line that cannot be read is skipped to its end.
func (l *confLexer) setting() (name, value, problem string) {
	kind, text := l.next()
	if kind == tokenLine || kind == tokenEnd {
		return "", "", ""
	}
	if kind != tokenID && kind != tokenQualified {
		return "", "", l.skip("a setting's name was expected")
	}
	name = text
	if kind, text = l.next(); kind == tokenEquals {
		kind, text = l.next()
	}
	switch kind {
	case tokenString:
		value = unquote(text)
	case tokenID, tokenUnquoted, tokenNumber:
		value = text
	case tokenLine, tokenEnd:
		return "", "", name + " has no value"
	default:
		return "", "", l.skip("the value of " + name + " cannot be read: put it in single quotes")
	}
	if kind, _ = l.next(); kind != tokenLine && kind != tokenEnd {
		return "", "", l.skip("something follows the value of " + name)
	}
	return name, value, ""
}

// skip moves to the start of the next line and returns problem. The token that could not be read was on this line.
func (l *confLexer) skip(problem string) string {
	for {
		if kind, _ := l.next(); kind == tokenLine || kind == tokenEnd {
			return problem
		}
	}
}

// next returns the longest token at the place, as flex does.
func (l *confLexer) next() (confToken, string) {
	for l.at < len(l.text) && (l.text[l.at] == ' ' || l.text[l.at] == '\t' || l.text[l.at] == '\r') {
		l.at++
	}
	if l.at < len(l.text) && l.text[l.at] == '#' {
		for l.at < len(l.text) && l.text[l.at] != '\n' {
			l.at++
		}
	}
	if l.done() {
		return tokenEnd, ""
	}
	rest := l.text[l.at:]
	kind, n := tokenError, 1
	switch c := rest[0]; {
	case c == '\n':
		l.line++
		kind = tokenLine
	case c == '=':
		kind = tokenEquals
	case c == '\'':
		if m := quotedLen(rest); m > 0 {
			kind, n = tokenString, m
		}
	case isLetter(c):
		kind, n = wordToken(rest)
	default:
		if m := numberLen(rest); m > 0 {
			kind, n = tokenNumber, m
		}
	}
	l.at += n
	return kind, rest[:n]
}

func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isUnit(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// span counts the bytes at the start of s that are in a class.
func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

func inID(c byte) bool { return isLetter(c) || isDigit(c) }

// wordToken reads a name, a name with a dot, or an unquoted value, whichever is longest.
func wordToken(s string) (confToken, int) {
	id := span(s, inID)
	word := span(s, func(c byte) bool { return inID(c) || strings.IndexByte("-._:/", c) >= 0 })
	qualified := 0
	if id+1 < len(s) && s[id] == '.' && isLetter(s[id+1]) {
		qualified = id + 1 + span(s[id+1:], inID)
	}
	switch {
	case id >= word:
		return tokenID, id
	case qualified >= word:
		return tokenQualified, qualified
	}
	return tokenUnquoted, word
}

// quotedLen returns the length of the quoted string at the start of s with its quotes, and 0 when it does not end.
// The longest match counts: two quotes together are one quote inside.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\n':
			return 0
		case '\\':
			if i++; i >= len(s) || s[i] == '\n' {
				return 0
			}
		case '\'':
			if i+1 >= len(s) || s[i+1] != '\'' {
				return i + 1
			}
			i++
		}
	}
	return 0
}

// numberLen returns the length of the integer with its unit, or of the real number, at the start of s.
func numberLen(s string) int {
	sign := 0
	if s[0] == '-' || s[0] == '+' {
		sign = 1
	}
	digits := span(s[sign:], isDigit)
	integer := 0
	if digits > 0 {
		integer = sign + digits
		integer += span(s[integer:], isUnit)
	}
	if rest := s[sign:]; strings.HasPrefix(rest, "0x") {
		if hex := span(rest[2:], isHex); hex > 0 {
			integer = max(integer, sign+2+hex+span(rest[2+hex:], isUnit))
		}
	}
	real := sign + digits
	if real >= len(s) || s[real] != '.' {
		return integer
	}
	real++
	real += span(s[real:], isDigit)
	return max(integer, real+exponentLen(s[real:]))
}

func exponentLen(s string) int {
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return 0
	}
	sign := 1
	if len(s) > 1 && (s[1] == '-' || s[1] == '+') {
		sign = 2
	}
	if digits := span(s[sign:], isDigit); digits > 0 {
		return sign + digits
	}
	return 0
}

// unquote is DeescapeQuotedString of guc-file.l: backslash escapes, octal ones of up to three digits, doubled quotes.
func unquote(s string) string {
	s = s[1 : len(s)-1]
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			if strings.IndexByte("01234567", s[i]) >= 0 {
				value, n := octal(s[i:])
				out = append(out, value)
				i += n - 1
				continue
			}
			out = append(out, escaped(s[i]))
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			out = append(out, '\'')
			i++
		default:
			out = append(out, s[i])
		}
	}
	return untilNUL(out)
}

// untilNUL cuts a value at a NUL, where C ends a string.
func untilNUL(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func escaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

func octal(s string) (value byte, n int) {
	var v int
	for n < len(s) && n < 3 && '0' <= s[n] && s[n] <= '7' {
		v = v<<3 + int(s[n]-'0')
		n++
	}
	return byte(v), n
}
