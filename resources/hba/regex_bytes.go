package hba

import (
	"math/bits"
	"strings"
)

// A byteSet is a set of bytes.
type byteSet [4]uint64

func (s *byteSet) add(c byte)      { s[c>>6] |= 1 << (c & 63) }
func (s *byteSet) remove(c byte)   { s[c>>6] &^= 1 << (c & 63) }
func (s *byteSet) has(c byte) bool { return s[c>>6]>>(c&63)&1 != 0 }

func (s *byteSet) addAll(other byteSet) {
	for i := range s {
		s[i] |= other[i]
	}
}

// only gives the byte of a set that has no other.
func (s *byteSet) only() (c byte, ok bool) {
	n, at := 0, 0
	for i, w := range s {
		n += bits.OnesCount64(w)
		if w != 0 {
			at = 64*i + bits.TrailingZeros64(w)
		}
	}
	return byte(at), n == 1
}

func (s byteSet) complement() byteSet {
	for i := range s {
		s[i] = ^s[i]
	}
	return s
}

// where is the set of the bytes of which f holds.
func where(f func(c byte) bool) byteSet {
	var s byteSet
	for c := range 256 {
		if f(byte(c)) {
			s.add(byte(c))
		}
	}
	return s
}

func between(low, high byte) byteSet {
	return where(func(c byte) bool { return c >= low && c <= high })
}

// namedClass is what [:name:] stands for. The server compiles the expressions of pg_hba.conf with the collation C, so that
// no byte beyond ASCII is in a class, except in cntrl, which ends at 159.
func namedClass(name string) (s byteSet, ok bool) {
	switch name {
	case "alnum":
		return where(isAlnum), true
	case "alpha":
		return where(isAlpha), true
	case "ascii":
		return between(0, 127), true
	case "blank":
		return where(func(c byte) bool { return c == ' ' || c == '\t' }), true
	case "cntrl":
		return where(func(c byte) bool { return c < ' ' || c >= 127 && c < 160 }), true
	case "digit":
		return between('0', '9'), true
	case "graph":
		return between('!', '~'), true
	case "lower":
		return between('a', 'z'), true
	case "print":
		return between(' ', '~'), true
	case "punct":
		return where(func(c byte) bool { return c > ' ' && c < 127 && !isAlnum(c) }), true
	case "space":
		return where(func(c byte) bool { return strings.IndexByte(" \t\n\v\f\r", c) >= 0 }), true
	case "upper":
		return between('A', 'Z'), true
	case "xdigit":
		return where(func(c byte) bool { return digitValue(rune(c)) >= 0 }), true
	case "word":
		return where(isWord), true
	}
	return s, false
}

func isAlpha(c byte) bool { return isLetter(rune(c)) }
func isAlnum(c byte) bool { return isAlpha(c) || isDigit(rune(c)) }
func isWord(c byte) bool  { return isAlnum(c) || c == '_' }

// classEscape is what \d, \D and their like stand for.
func classEscape(letter rune) byteSet {
	name := map[rune]string{'d': "digit", 's': "space", 'w': "word", 'D': "digit", 'S': "space", 'W': "word"}[letter]
	set, _ := namedClass(name)
	if letter < 'a' {
		return set.complement()
	}
	return set
}

// otherCase is the letter in its other case; any other byte is itself.
func otherCase(c byte) byte {
	if isAlpha(c) {
		return c ^ ('a' ^ 'A')
	}
	return c
}
