package hba_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"converge/resources/hba"
)

// Match gives the first rule that fits when each is looked at for itself and without haste, and a rule that stands in the
// file.
func FuzzMatch(f *testing.F) {
	for _, c := range nasty(f) {
		if len(c.HBA) < 4096 {
			f.Add(c.HBA, byte(4), "alice", "db1", "127.0.0.1", byte(0))
			f.Add(c.HBA, byte(8), "a", "a", "", byte(1))
		}
	}
	f.Add([]byte("host all +admins samenet trust\nhost samerole /^(.)\\1$ .example.com trust\n"), byte(7), "aa", "admins", "10.0.1.9", byte(2))
	f.Fuzz(func(t *testing.T, src []byte, b byte, user, database, address string, ways byte) {
		file := hba.Parse(src, server(b), memory(map[string]string{"x": "a b,c\n", "d/a.conf": "local @x all trust\n"}))
		from, _ := netip.ParseAddr(address)
		c := hba.Connection{From: from, User: user, Database: database, TLS: ways&3 == 1, GSS: ways&3 == 2, Replication: ways&4 != 0}
		got, err := file.Match(c, town)
		if err != nil {
			return // no server would come to an end with it either
		}
		want := plainly(t, file, c)
		if got != want {
			t.Fatalf("%+v on %d: %+v, want %+v", c, file.Server.Major, got, want)
		}
		if got != nil && got.File == "" && !slices.ContainsFunc(file.Lines, func(l hba.Line) bool { return l.Number == got.Line }) {
			t.Fatalf("there is no line %d", got.Line)
		}
	})
}

// plainly is Match again, from what the rules show.
func plainly(t *testing.T, f *hba.File, c hba.Connection) *hba.Rule {
	t.Helper()
	if c.Database == "" {
		c.Database = c.User
	}
	c.User, c.Database = c.User[:min(63, len(c.User))], c.Database[:min(63, len(c.Database))]
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Warning == "" && plainType(r, c) && plainAddress(f, r, c) && plainDatabase(t, f, r, c) && plainUser(t, f, r, c) {
			return r
		}
	}
	return nil
}

func plainType(r *hba.Rule, c hba.Connection) bool {
	if r.Type == "local" || !c.From.IsValid() {
		return r.Type == "local" && !c.From.IsValid()
	}
	return map[string]bool{"host": true, "hostssl": c.TLS, "hostnossl": !c.TLS, "hostgssenc": c.GSS, "hostnogssenc": !c.GSS}[r.Type]
}

func plainAddress(f *hba.File, r *hba.Rule, c hba.Connection) bool {
	bare := c.From.WithZone("")
	name := strings.ToLower(town.HostName(c.From))
	host := strings.ToLower(r.Address)
	switch {
	case r.Type == "local" || r.Netmask == "" && r.Address == "all" && plainKeyword(f, r):
		return true
	case r.Netmask != "":
		return plainMask(netip.MustParseAddr(r.Address).WithZone(""), netip.MustParseAddr(r.Netmask), bare)
	case plainKeyword(f, r):
		return slices.ContainsFunc(town.Interfaces, func(p netip.Prefix) bool {
			return p.Addr() == bare || r.Address == "samenet" && p.Masked().Contains(bare)
		})
	case strings.HasPrefix(host, "."):
		return name != "" && (name == host || strings.HasSuffix(name, host))
	}
	return name != "" && name == host
}

// plainKeyword tells whether the address column holds a keyword: in quotes it would be the name of a host.
func plainKeyword(f *hba.File, r *hba.Rule) bool {
	if r.Address != "all" && r.Address != "samehost" && r.Address != "samenet" {
		return false
	}
	return !slices.ContainsFunc(f.Lines, func(l hba.Line) bool {
		return r.File == "" && l.Number == r.Line && l.Fields[3][0].Quoted
	})
}

func plainMask(a, mask, from netip.Addr) bool {
	if a.BitLen() != from.BitLen() {
		return false
	}
	x, y, m := a.AsSlice(), from.AsSlice(), mask.AsSlice()
	for i := range x {
		for bit := 0; bit < 8; bit++ {
			if m[i]>>bit&1 == 1 && x[i]>>bit&1 != y[i]>>bit&1 {
				return false
			}
		}
	}
	return true
}

func plainDatabase(t *testing.T, f *hba.File, r *hba.Rule, c hba.Connection) bool {
	for _, n := range r.Databases {
		word := n.Text
		if n.Quoted {
			word = "name"
		}
		switch {
		case c.Replication:
			if word == "replication" {
				return true
			}
		case word == "all", word == "sameuser" && c.User == c.Database:
			return true
		case word == "samerole" || word == "samegroup":
			if town.Member(c.User, c.Database) {
				return true
			}
		case word == "sameuser", word == "replication":
		case plainName(t, f, n, c.Database):
			return true
		}
	}
	return false
}

func plainUser(t *testing.T, f *hba.File, r *hba.Rule, c hba.Connection) bool {
	for _, n := range r.Users {
		group := !n.Quoted && strings.HasPrefix(n.Text, "+")
		switch {
		case n.Keyword("all"), group && town.Member(c.User, n.Text[1:]), !group && plainName(t, f, n, c.User):
			return true
		}
	}
	return false
}

// plainName looks at an expression in a file of its own.
func plainName(t *testing.T, f *hba.File, n hba.Name, name string) bool {
	pattern, ok := n.Regex(f.Server.Major)
	if !ok {
		return n.Text == name
	}
	line := fmt.Sprintf("local all \"/%s\" trust\n", strings.ReplaceAll(pattern, `"`, `""`))
	alone := hba.Parse([]byte(line), f.Server, hba.Files{})
	r, err := alone.Match(hba.Connection{User: name}, hba.Facts{})
	if err != nil {
		t.Skip(err)
	}
	return r != nil
}

// Any expression is refused or matched in good time; where Go's own expressions mean the same, they give the same answer.
func FuzzRegex(f *testing.F) {
	for _, pattern := range []string{
		"", "^$", "a|b", "^(a|ab)*b$", "(?:a?){20}a{20}", "((a*)*)*b", "[^]a-c]", "a{2,3}b{0}", ".*.*.*=.*", "(((a{9}){9}){9}){9}", `^(a+)\1$`, `(a*)(a*)(a*)(a*)\1\2\3\4b`,
		`^(?:(a)|\1b)*$`, `(?i)[[:alpha:]]\y`, "(?<=a)(?!b)", "***=a.c", "(?b)\\(a\\)*\\1", "a(?#x)b", `((((a|b)\4)\3)\2)\1`, `(?n)^\Z`, "(?:(?:(?:(?:a*)*)*)*)*$",
	} {
		f.Add(pattern, "aab")
		f.Add(pattern, strings.Repeat("a", 63))
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.ContainsAny(pattern, "\x00\n") || text == "" {
			return // no line can hold it, or no role have the name
		}
		text = text[:min(63, len(text))]
		file := hba.Parse(fmt.Appendf(nil, "local all \"/%s\" trust\n", strings.ReplaceAll(pattern, `"`, `""`)), hba.Packaged(16), hba.Files{})
		r, err := file.Match(hba.Connection{User: text}, hba.Facts{})
		if len(file.Errors) > 0 || err != nil {
			return
		}
		if want, ok := goMatches(pattern, text); ok && want != (r != nil) {
			t.Fatalf("pattern %q, text %q: %v, and %v in Go", pattern, text, r != nil, want)
		}
	})
}

var common = regexp.MustCompile(`^[abc.*+?|()^$]*$`)

// goMatches asks Go, if the pattern has only what means the same there.
func goMatches(pattern, text string) (matches, ok bool) {
	if !common.MatchString(pattern) || strings.Contains(pattern, "(?") || strings.ContainsFunc(text, func(r rune) bool { return r > 126 }) {
		return false, false
	}
	re, err := regexp.Compile("(?s)" + pattern)
	if err != nil {
		return false, false
	}
	return re.MatchString(text), true
}
