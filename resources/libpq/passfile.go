package libpq

import "strings"

// Password finds the password for a connection in the text of a password file (~/.pgpass): the first line that fits counts.
// host is the name that the client has, or localhost for the unix socket.
// https://www.postgresql.org/docs/current/libpq-pgpass.html
func Password(passfile, host, port, database, user string) (string, bool) {
	for line := range strings.Lines(passfile) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		fits := true
		for _, want := range []string{host, port, database, user} {
			var this bool
			if line, this = field(line, want); !this {
				fits = false
				break
			}
		}
		if fits {
			return unescape(line), true
		}
	}
	return "", false
}

// field takes the first field of a line off it, if it is a lone star or the text.
func field(line, want string) (rest string, fits bool) {
	if after, star := strings.CutPrefix(line, "*:"); star {
		return after, true
	}
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == ':':
			return line[i+1:], want == ""
		case line[i] == '\\' && i+1 < len(line):
			i++
		}
		if want == "" || want[0] != line[i] {
			return "", false
		}
		want = want[1:]
	}
	return "", false
}

// unescape reads the last field: a backslash takes the meaning of a colon or a backslash, and a bare colon ends it.
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text) && text[i] != ':'; i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
