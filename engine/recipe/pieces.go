package recipe

import (
	"bytes"
	"unicode/utf8"
)

// pieces tells at once of most files that they are far from every limit, without making tokens: these take five hundred
// times the room of the text. It counts at least what checkNesting counts, so its yes can be relied on; its no means only
// that the tokens have to be looked at: first those up to the byte that it returns, where the doubt arose. A heredoc, text
// that is not UTF-8 and whatever is unclosed are a no. With a yes it returns also the bytes after which the text can be
// cut: each ends a line outside all blocks.
func pieces(text []byte) (cuts []int, sure bool, doubt int) {
	if !utf8.Valid(text) {
		return nil, false, 0
	}
	s := scan{text: text, modes: []mode{{}}, open: []counter{{}}}
	last := 0
	for s.at < len(text) {
		step := s.code
		if s.top().quoted {
			step = s.quoted
		}
		if !step() {
			return nil, false, min(s.at+1, len(text))
		}
		if s.at-last >= pieceBytes && text[s.at-1] == '\n' && len(s.modes) == 1 && len(s.open) == 1 && s.modes[0].braces == 0 {
			cuts, last = append(cuts, s.at), s.at
		}
	}
	return cuts, len(s.modes) == 1, 0
}

// A scan goes through a text byte by byte, in code or in a quoted text. The modes are those of HCL's own scanner.
type scan struct {
	text  []byte
	at    int
	modes []mode
	open  []counter // brackets and interpolations, and the text around them
}

type mode struct {
	quoted bool
	braces int // open in this piece of code: the brace that closes none of them ends the interpolation
}

type counter struct {
	close     byte
	operators int
}

func (s *scan) top() *mode { return &s.modes[len(s.modes)-1] }

func (s *scan) has(prefix string) bool { return bytes.HasPrefix(s.text[s.at:], []byte(prefix)) }

func (s *scan) code() bool {
	switch c := s.text[s.at]; {
	case c == '#' || s.has("//"):
		return s.skipTo("\n")
	case s.has("/*"):
		s.at += 2
		return s.skipTo("*/")
	case s.has("<<"):
		return false
	case c == '"':
		s.modes = append(s.modes, mode{quoted: true})
	case c == '{':
		s.top().braces++
		return s.push('}')
	case c == '[':
		return s.count() && s.push(']') // x[0][0] is as deep a tree as x+0+0
	case c == '(':
		return s.push(')')
	case c == '}':
		return s.closeBrace()
	case c == ']' || c == ')':
		s.pop(c)
	case c == ',' || c == '=' && s.aloneEqual():
		s.open[len(s.open)-1].operators = 0
	case bytes.IndexByte([]byte("+-*/%!?&|<>.="), c) >= 0:
		return s.operator()
	}
	s.at++
	return true
}

func (s *scan) closeBrace() bool {
	if s.top().braces == 0 && len(s.modes) > 1 {
		s.modes = s.modes[:len(s.modes)-1]
	} else if s.top().braces--; s.top().braces < 0 {
		return false // closes more than was opened
	}
	s.pop('}')
	s.at++
	return true
}

func (s *scan) quoted() bool {
	switch c := s.text[s.at]; {
	case c == '\\' && s.at+1 < len(s.text) && s.text[s.at+1] != '\n' && s.text[s.at+1] != '\r':
		s.at += 2
	case s.has("$${") || s.has("%%{"):
		s.at += 3
	case s.has("%{"):
		return false // a directive holds what follows it; the tokens tell how far
	case s.has("${"):
		s.modes = append(s.modes, mode{})
		s.at++
		return s.push('}')
	case c == '"':
		s.modes = s.modes[:len(s.modes)-1]
		s.at++
	default:
		s.at++
	}
	return true
}

func (s *scan) skipTo(end string) bool {
	length := bytes.Index(s.text[s.at:], []byte(end))
	if length < 0 {
		return false
	}
	s.at += length + len(end)
	return true
}

func (s *scan) push(closer byte) bool {
	s.open = append(s.open, counter{close: closer})
	s.at++
	return len(s.open) <= MaxNesting+1
}

func (s *scan) pop(closer byte) {
	if last := len(s.open) - 1; s.open[last].close == closer {
		s.open = s.open[:last]
	}
}

// aloneEqual tells whether the equals sign is none of ==, !=, <=, >= and =>.
func (s *scan) aloneEqual() bool {
	before, after := byte(0), byte(0)
	if s.at > 0 {
		before = s.text[s.at-1]
	}
	if s.at+1 < len(s.text) {
		after = s.text[s.at+1]
	}
	return before != '=' && before != '!' && before != '<' && before != '>' && after != '=' && after != '>'
}

// operator counts one more in the innermost bracket. The text outside all brackets, where no expression belongs, counts
// as one expression.
func (s *scan) operator() bool {
	s.at++
	return s.count()
}

func (s *scan) count() bool {
	top := &s.open[len(s.open)-1]
	top.operators++
	return top.operators <= MaxOperators
}
