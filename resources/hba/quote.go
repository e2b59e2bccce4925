package hba

import (
	"fmt"
	"regexp"
	"strings"
)

// maxName is how long a name of a role or a database can be; the server cuts longer ones.
const maxName = 63

// plainName is a name that may stand without quotes.
var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// Quote writes the name of a role or of a database so that this major version reads it as that name and nothing else:
// all, replication, +x, @x and "a b" lose their special meaning in quotes. From 16 on a name that begins with a slash is
// a regular expression even in quotes; it is written as the one that only this name matches.
//
// It refuses what no name can be (empty, longer than 63 bytes, with a NUL), what a line cannot hold (line ends), and a name
// that ends in a backslash, which one misplaced quote would turn into the end of the next line.
func Quote(name string, major int) (string, error) {
	switch {
	case name == "":
		return "", fmt.Errorf("an empty name cannot be written to pg_hba.conf")
	case len(name) > maxName:
		return "", fmt.Errorf("the name %q is longer than %d bytes: PostgreSQL has no such name", name, maxName)
	case strings.ContainsAny(name, "\x00\n\r"):
		return "", fmt.Errorf("the name %q holds a line end or a NUL: it cannot be written to pg_hba.conf", name)
	case strings.HasSuffix(name, `\`):
		return "", fmt.Errorf("the name %q ends in a backslash: it cannot be written to pg_hba.conf safely", name)
	case plainName.MatchString(name) && !isKeyword(name):
		return name, nil
	case name[0] == '/' && major >= 16:
		name = "/^" + literalRegex(name) + "$"
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}

func isKeyword(name string) bool {
	switch name {
	case "all", "sameuser", "samerole", "samegroup", "replication":
		return true
	}
	return false
}

// literalRegex is a regular expression for this text: every character that could mean something has a backslash before it.
func literalRegex(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if strings.IndexByte(`\^$.|?*+()[]{}`, text[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
