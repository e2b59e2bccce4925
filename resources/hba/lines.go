package hba

import (
	"sort"
	"strings"
)

// A Line is one logical line: what the server reads as one, be it several lines of the file joined by backslashes (14 and
// later) or a piece of one that is too long (13 and earlier).
type Line struct {
	Number int     // where it begins, as the server counts
	Text   string  // its bytes in the file, line ends included
	Fields []Field // what stands in it, comments left out

	content string // what the server parses: joined, without line ends
	pieces  []piece
	comment int // where its comment begins in content, or -1
}

// A piece says that content from at on stands in the text from raw on.
type piece struct{ at, raw int }

// raw is the offset in Text of an offset in content.
func (l *Line) raw(at int) int {
	after := sort.Search(len(l.pieces), func(i int) bool { return l.pieces[i].at > at })
	if after == 0 {
		return at
	}
	p := l.pieces[after-1]
	return p.raw + at - p.at
}

// lineReader cuts a file into logical lines as the major version does.
type lineReader struct {
	src    string
	pos    int
	number int
	major  int
	room   int // size of the server's line buffer; it grows and is never given back
}

func newLineReader(src string, major int) *lineReader {
	return &lineReader{src: src, major: major, number: 1, room: 1024}
}

// next gives the next line. message is the server's when the line is too long for it.
func (r *lineReader) next() (line Line, message string, ok bool) {
	if r.pos >= len(r.src) {
		return Line{}, "", false
	}
	if r.major < 14 {
		line, message = r.cut()
	} else {
		line = r.join()
	}
	line.comment = -1
	return line, message, true
}

// maxLine is the size of the line buffer up to 13; a line that fills it is an error, and its rest is read as the next line.
func maxLine(major int) int {
	if major == 10 {
		return 8192
	}
	return 20480
}

// cut reads one line of a fixed buffer. A NUL ends what the server sees of it.
func (r *lineReader) cut() (line Line, message string) {
	max := maxLine(r.major) - 1
	text := r.chunk(max)
	content := upToNUL(text)
	if len(content) == max {
		message = "authentication file line too long"
	}
	line = Line{Number: r.number, Text: text, content: strings.TrimRight(content, "\r\n")}
	r.number++
	return line, message
}

// chunk takes up to max bytes, not beyond the next newline.
func (r *lineReader) chunk(max int) string {
	rest := r.src[r.pos:]
	if len(rest) > max {
		rest = rest[:max]
	}
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i+1]
	}
	r.pos += len(rest)
	return rest
}

func upToNUL(s string) string {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return s[:i]
	}
	return s
}

// join reads one line with those that its backslashes join to it.
func (r *lineReader) join() Line {
	start, number := r.pos, r.number
	if line, ok := r.plain(); ok {
		return line
	}
	var buf []byte
	var pieces []piece
	joined := 0 // where the last backslash was: another one has to come after it
	for {
		before := len(buf)
		r.get(&buf, &pieces, start)
		r.number++
		if len(buf) == before {
			break
		}
		buf = trimLineEnd(buf)
		if len(buf) <= joined || buf[len(buf)-1] != '\\' {
			break
		}
		buf = buf[:len(buf)-1]
		joined = len(buf)
	}
	return Line{Number: number, Text: r.src[start:r.pos], content: string(buf), pieces: pieces}
}

// plain reads a line without anything special in it, the usual one, without copying it.
func (r *lineReader) plain() (Line, bool) {
	text := r.src[r.pos:]
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i+1]
	}
	content := strings.TrimRight(text, "\r\n")
	if strings.HasSuffix(content, `\`) || strings.IndexByte(text, 0) >= 0 {
		return Line{}, false
	}
	for r.room <= len(text) {
		r.grow(len(text))
	}
	line := Line{Number: r.number, Text: text, content: content}
	r.pos += len(text)
	r.number++
	return line, true
}

// get appends a line to the buffer as the server does: in chunks of the room that is left, each up to its NUL, until one
// ends in a newline. So a NUL swallows the newline after it.
func (r *lineReader) get(buf *[]byte, pieces *[]piece, start int) {
	for r.pos < len(r.src) {
		at := r.pos
		seen := upToNUL(r.chunk(r.room - len(*buf) - 1))
		if seen != "" {
			*pieces = append(*pieces, piece{at: len(*buf), raw: at - start})
		}
		*buf = append(*buf, seen...)
		if strings.HasSuffix(seen, "\n") {
			return
		}
		r.grow(len(*buf))
	}
}

// grow makes room for 128 more bytes, doubling.
func (r *lineReader) grow(used int) {
	for r.room < used+128+1 {
		r.room *= 2
	}
}

func trimLineEnd(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}
