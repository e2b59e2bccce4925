package hba

import "strings"

// A Field is one column of a line: a list of tokens, one mostly.
type Field []Token

// A Token is one word of a list.
type Token struct {
	Name
	// From is the @file that the token was read from; empty for a token of the line itself.
	From string
	// Start and End are its place in the line's Text, quotes included; for a token of an @file, the place of the @file.
	Start, End int
}

// maxToken is the longest token that the version takes; 0: any.
func maxToken(major int) int {
	switch {
	case major == 10:
		return 255
	case major < 16:
		return 10239
	}
	return 0
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// scanner reads the tokens of one line.
type scanner struct {
	s       string
	pos     int
	max     int
	comment int // where the comment begins, or -1
	message string
}

// word is a token as it was scanned.
type word struct {
	Name
	start, end int
	comma      bool // a comma ended it: the list goes on
}

// next reads a token. It gives false at the end of the line, or when message is set.
//
// The rules are those of the server: blanks and commas before a token are skipped, a # outside quotes ends the line, a
// quote may open and close anywhere in a token, and two quotes inside quotes are one.
func (s *scanner) next() (word, bool) {
	for s.pos < len(s.s) && (isBlank(s.s[s.pos]) || s.s[s.pos] == ',') {
		s.pos++
	}
	w := word{start: s.pos}
	if plain, ok := s.plain(w); ok {
		return plain, true
	}
	return s.quoted(w)
}

// plain reads a token without quotes, the usual one, without copying it.
func (s *scanner) plain(w word) (word, bool) {
	i := strings.IndexAny(s.s[s.pos:], " \t\r,#\"")
	end := len(s.s)
	if i >= 0 {
		end = s.pos + i
	}
	if end == s.pos || end < len(s.s) && s.s[end] == '"' || s.max > 0 && end-s.pos >= s.max {
		return w, false
	}
	w.Text, w.end = s.s[s.pos:end], end
	s.finish(&w, end)
	return w, true
}

// finish notes what ended the token.
func (s *scanner) finish(w *word, end int) {
	s.pos = end
	if end == len(s.s) {
		return
	}
	switch s.s[end] {
	case ',':
		w.comma = true
	case '#':
		s.comment = end
		s.pos = len(s.s)
	}
}

func (s *scanner) quoted(w word) (word, bool) {
	var buf []byte
	var inQuote, wasQuote, sawQuote bool
	i := s.pos
	for ; i < len(s.s); i++ {
		c := s.s[i]
		if !inQuote && (isBlank(c) || c == '#') {
			break
		}
		if s.max > 0 && len(buf) >= s.max {
			s.message, s.pos = "authentication file token too long", len(s.s)
			return w, false
		}
		if !inQuote && c == ',' {
			break
		}
		if c != '"' || wasQuote {
			buf = append(buf, c)
		}
		wasQuote = inQuote && c == '"' && !wasQuote
		if c == '"' {
			inQuote, sawQuote = !inQuote, true
			w.Quoted = w.Quoted || len(buf) == 0
		}
	}
	w.Text, w.end = string(buf), i
	s.finish(&w, i)
	return w, sawQuote || len(buf) > 0
}
