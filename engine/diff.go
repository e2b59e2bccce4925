package engine

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
)

// diffLimit is the largest content, in bytes, that a diff is made of.
const diffLimit = 1 << 20

// diffTexts compares two contents line by line.
func diffTexts(path string, before, after []byte) string {
	switch {
	case len(before) > diffLimit || len(after) > diffLimit:
		return fmt.Sprintf("(%s: %d bytes become %d; too large for a diff)\n", path, len(before), len(after))
	case !isText(before) || !isText(after):
		return fmt.Sprintf("(%s: %d bytes become %d; not text)\n", path, len(before), len(after))
	}
	a, b := Redact(string(before)), Redact(string(after))
	hunks, err := udiff.ToUnified("a"+path, "b"+path, a, udiff.Strings(a, b), 0)
	if err != nil {
		panic("engine: a diff of its own texts does not apply: " + err.Error())
	}
	return withoutHeader(hunks)
}

// withoutHeader drops the lines that name the files: the operation names its path already.
func withoutHeader(diff string) string {
	if i := strings.Index(diff, "\n@@"); i >= 0 {
		return diff[i+1:]
	}
	return ""
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

// diff is the hunk of one splice. A splice that a resource makes begins and ends at the ends of lines.
func (s Splice) diff() string {
	if s.Inserted == s.Removed {
		return ""
	}
	removed, inserted := lines(s.Removed), lines(s.Inserted)
	line, added := s.Line, s.Line
	for len(removed) > 0 && len(inserted) > 0 && removed[0] == inserted[0] {
		removed, inserted, line, added = removed[1:], inserted[1:], line+1, added+1
	}
	for len(removed) > 0 && len(inserted) > 0 && removed[len(removed)-1] == inserted[len(inserted)-1] {
		removed, inserted = removed[:len(removed)-1], inserted[:len(inserted)-1]
	}
	if len(removed) == 0 {
		line--
	}
	if len(inserted) == 0 {
		added--
	}
	var out strings.Builder
	fmt.Fprintf(&out, "@@ -%s +%s @@\n", span(line, len(removed)), span(added, len(inserted)))
	writeLines(&out, "-", removed)
	writeLines(&out, "+", inserted)
	return out.String()
}

func span(line, n int) string {
	if n == 1 {
		return fmt.Sprint(line)
	}
	return fmt.Sprintf("%d,%d", line, n)
}

func writeLines(out *strings.Builder, sign string, lines []string) {
	for _, l := range strings.SplitAfter(Redact(strings.Join(lines, "")), "\n") {
		if l == "" {
			continue
		}
		out.WriteString(sign + l)
		if !strings.HasSuffix(l, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// lines splits after each newline; the last line may have none.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	l := strings.SplitAfter(s, "\n")
	if l[len(l)-1] == "" {
		l = l[:len(l)-1]
	}
	return l
}

const (
	masked     = "(masked)"
	secretWord = `(?:passw(?:or)?d|passphrase|secret|token|api_?key|pgpass)`
)

// A secretPattern is something that must not be shown of a text, from postgresql.conf, pg_hba.conf, connection strings and
// PEM files. Its first group stays, the rest is masked.
type secretPattern struct {
	pattern func() *regexp.Regexp
	hints   []string // in lower case: a text without any of them cannot match; none: it always may
}

var (
	secretWords    = []string{"passw", "passphrase", "secret", "token", "apikey", "api_key", "pgpass"}
	secretPatterns = []secretPattern{
		{lazily(`(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), []string{"private key"}},
		{lazily(`(?i)([\w.-]*` + secretWord + `[\w.-]*["']?\s*(?:=>|[=:])\s*)(?:"(?:[^"\n]|"")*"?|'(?:[^'\n]|'')*'?|[^\s,;'"]+)`), secretWords},
		{lazily(`(?i)(\b[\w.-]*` + secretWord + `\b[ \t]+)[^=:\s][^\n]*`), secretWords},
		{lazily(`(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@`), []string{"://"}},
		{lazily(`(?m)(^|[\s"'=:])(?:[A-Za-z0-9+/]{64,}={0,2}|(?:[0-9a-fA-F]{2}){32,})`), nil},
	}
)

// lazily compiles a pattern when it is first wanted: most runs want none, and every run would wait for all.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// Redact masks what may be a secret in a text that is about to be shown: the values of words such as password, the
// passwords of URLs, private keys in PEM, and long runs of base64 or hex.
func Redact(s string) string {
	lower := strings.ToLower(s)
	for _, p := range secretPatterns {
		if p.mayMatch(lower) {
			s = p.pattern().ReplaceAllString(s, "${1}"+masked)
		}
	}
	return s
}

// mayMatch is a quick look: most texts hold nothing of the kind.
func (p secretPattern) mayMatch(lower string) bool {
	if p.hints == nil {
		return longRun(lower)
	}
	for _, h := range p.hints {
		if strings.Contains(lower, h) {
			return true
		}
	}
	return false
}

// longRun tells whether 64 characters of base64 or hex follow one another.
func longRun(lower string) bool {
	run := 0
	for i := 0; i < len(lower); i++ {
		c := lower[i]
		if run++; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/') {
			run = 0
		}
		if run == 64 {
			return true
		}
	}
	return false
}

// Diff compares two contents of a file line by line, as a plan shows it.
func Diff(path string, before, after []byte) string { return diffTexts(path, before, after) }
