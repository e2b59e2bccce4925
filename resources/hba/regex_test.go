package hba_test

import (
	"fmt"
	"strings"
	"testing"

	"converge/resources/hba"
)

// matches asks a rule with this expression for its users.
func matches(t testing.TB, pattern, name string) (bool, error) {
	t.Helper()
	line := fmt.Sprintf("local all \"/%s\" trust\n", strings.ReplaceAll(pattern, `"`, `""`))
	f := hba.Parse([]byte(line), hba.Packaged(16), hba.Files{})
	if !f.Loads() {
		t.Fatalf("%q: %+v", pattern, f.Problems())
	}
	r, err := f.Match(hba.Connection{User: name}, hba.Facts{})
	return r != nil, err
}

// What the servers 16 to 18 answered. fixtures/hba asks them again, and much more.
func TestRegex(t *testing.T) {
	many := strings.Repeat("a", 63)
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{"a"}, nil},
		{"b", []string{"abc"}, []string{"a"}},
		{"^.$", []string{"e", "\n", "\xc3"}, []string{"é"}},
		{"^..$", []string{"é"}, []string{"e"}},
		{"é", []string{"xéx"}, []string{"É", "\xc3"}},
		{"(?i)é", []string{"é"}, []string{"É"}},
		{"[é]", []string{"\xc3", "\xa9"}, []string{"e"}},
		{"[é-à]", []string{"é", "\xb9"}, []string{"e", "\xc4"}},
		{"^a{63}$", []string{many}, []string{many[1:]}},
		{"^(?:(?:a*)*b)*$", []string{"aab"}, []string{many}},
		{"^((a{3}){3}){7}$", []string{many}, []string{many[1:]}},

		{"a$", []string{"ba"}, []string{"a\n"}},
		{"(?n)a$", []string{"a\nb"}, []string{"ab"}},
		{"(?n)a.b", []string{"axb"}, []string{"a\nb"}},
		{`(?n)a\Wb`, []string{"a\nb"}, []string{"axb"}},
		{`(?n)a[^\w]b`, []string{"a b"}, []string{"a\nb"}},
		{`(?n)\Ab`, []string{"b"}, []string{"a\nb"}},
		{"(?w)^b", []string{"a\nb"}, []string{"ab"}},
		{"(?p)^b", []string{"b"}, []string{"a\nb"}},
		{`\mfoo\M`, []string{"a foo b", "foo-bar", "fooé"}, []string{"foo_"}},
		{`\ya\y`, []string{"a b"}, []string{"ba"}},
		{`^\Y$`, nil, []string{"a"}},
		{"^(?!admin)", []string{"user"}, []string{"administrator"}},
		{"(?<=a+)b", []string{"aab"}, []string{"b"}},
		{"(?<!a)b", []string{"abb"}, []string{"ab"}},
		{"(?=(?!b)a)", []string{"a"}, []string{"b"}},
		{"(?x)a b #c", []string{"ab"}, []string{"a b"}},
		{"***=a.c", []string{"xa.c"}, []string{"abc"}},
		{"(?qi)A.c", []string{"a.C"}, []string{"abc"}},
		{`(?e)\d`, []string{"d"}, []string{"1"}},
		{`(?b)a\{2\}`, []string{"aa"}, []string{"a"}},
		{"(?b)^*a", []string{"*a"}, []string{"a"}},
		{"(?b)a|b", []string{"a|b"}, []string{"a"}},
		{"[[.hyphen.]]", []string{"-"}, []string{"h"}},
		{"[[:cntrl:]]", []string{"\x7f", "\x9f"}, []string{"\xa0"}},
		{`[\w-]`, []string{"_", "-"}, []string{"é"}},
		{"(?i)[[:upper:]]", []string{"a"}, []string{"1"}},
		{`\x1234`, nil, []string{"4"}},
		{`(a)\10`, []string{"a\x08"}, []string{"aa0"}},

		{`^(a*)\1$`, []string{"aaaa"}, []string{"aaa", many}},
		{`^(aa+)\1+$`, []string{many}, []string{many[2:], many[4:]}}, // 61 and 59 are primes
		{`(?i)(a)\1`, []string{"aA"}, []string{"ab"}},
		{`(a)?\1`, []string{"aa"}, []string{"a"}},
		{`(^a)\1`, []string{"aa"}, []string{"baa"}},
		{`^(.)(.)(.)?\3?\2\1$`, []string{"abccba", "abcba"}, []string{"abba", "abab"}},
		{`^(a*)(a*)b\1c`, []string{"aabac"}, []string{"aabaaac"}},
		{`^(?:(a*)(a*))b\1c`, []string{"aabaac"}, []string{"aabc", "aabac"}}, // (a*) could be empty: it does not look
		{`^(?:(a)|(b)|\1c){3}$`, nil, []string{"abac"}},                      // a repetition begins anew
		{`(?:^|(a?))\1`, []string{"bb"}, []string{"b"}},                      // the end of the text is not tried
	} {
		for _, want := range []bool{true, false} {
			names := map[bool][]string{true: c.yes, false: c.no}[want]
			for _, name := range names {
				if got, err := matches(t, c.pattern, name); got != want || err != nil {
					t.Errorf("pattern %q, name %q: %v %v", c.pattern, name, got, err)
				}
			}
		}
	}
}

// What begins like a character of several bytes is none for the server when it loads the file.
func TestRegexIsOfBytes(t *testing.T) {
	for pattern, loads := range map[string]bool{"[[.é.]]": false, "[[=é=]]": false, "[é-à]": true, "[à-é]": true, "[é-a]": false} {
		if got := parse(16, "local all /"+pattern+" trust\n").Loads(); got != loads {
			t.Errorf("%s loads: %v", pattern, got)
		}
	}
}

// No expression keeps Match busy: what divides endlessly ends with an error, and all else ends by itself.
func TestEveryRegexEnds(t *testing.T) {
	many := strings.Repeat("a", 63)
	for _, c := range []struct {
		pattern string
		slow    bool
	}{
		{"((((((a*)*)*)*)*)*)*b", false},
		{"^(?:(?:(?:a{1,255}){1,255}){1,255}){1,255}$", false},
		{"(((((a{255}){255}){255}){255}){255}){255}", false},
		{strings.Repeat("(a?)", 200) + strings.Repeat("a", 63) + "b", false},
		{strings.Repeat("(?=", 100) + "a" + strings.Repeat(".*)", 100) + "b", false},
		{strings.Repeat("(?=.*", 20) + "b" + strings.Repeat(")", 20), false},
		{strings.Repeat("(", 200) + "a" + strings.Repeat(")*", 200) + "b", false},
		{doubling(60), false},
		{`(a*)(a*)(a*)(a*)(a*)\1\2\3\4\5b`, false},
		{`^(a*)(a*)(a*)(a*)(a*)(a*)(?:\1\2\3\4\5\6|b)x?[^a]*(?:b|\1\2\3ab)?\6\6\6$`, false},
		{`^(a*)(a*)(a*)(a*)(a*)(a*)(a*)(a*)(?:\1\2\3\4\5\6|b)x?[^a]*(?:b|\1\2\3ab)?\6\7\8\7\8\7b?$`, true},
	} {
		got, err := matches(t, c.pattern, many)
		if (err != nil) != c.slow {
			t.Errorf("%.60q: %v %v", c.pattern, got, err)
		}
	}
}

// doubling is ((((a)\n)...\3)\2)\1: what it matches doubles with every level.
func doubling(levels int) string {
	var b strings.Builder
	b.WriteString(strings.Repeat("(", levels) + "a")
	for n := levels; n > 1; n-- {
		fmt.Fprintf(&b, `)\%d`, n)
	}
	return b.String() + ")"
}
