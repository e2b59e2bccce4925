package resources

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"converge/engine"
)

// A document is a text file with marked blocks in it: ours, and all the rest, which belongs to others and of which every
// byte is kept.
//
// A document does not change: an edit makes another one. Those that grow at the end, block by block, share their array
// and their index, so that a thousand blocks do not cost a thousand copies.
type document struct {
	eol         string // "\n" or "\r\n": what most lines end with
	segments    []*segment
	size, lines int    // of all segments: bytes and newlines
	first, last int    // the first and the last segment that is somebody else's line: -1 without one
	index       *index // nil: not made for this document
}

// An index says where the blocks are, for all documents that share an array.
type index struct {
	blocks map[string]int
	used   int // how many places of the array are taken, by whichever document
}

func newDocument(eol string, segments []*segment) *document {
	d := &document{eol: eol, first: -1, last: -1, segments: segments}
	for i, s := range segments {
		d.count(i, s)
	}
	return d
}

// count adds a segment to what is known of all.
func (d *document) count(i int, s *segment) {
	d.size += len(s.text)
	d.lines += s.lines
	if s.block == "" && !s.bare {
		if d.first < 0 {
			d.first = i
		}
		d.last = i
	}
}

// indexed says where the blocks are.
func indexed(segments []*segment) *index {
	x := &index{blocks: make(map[string]int, len(segments)), used: len(segments)}
	for i, s := range segments {
		if s.block != "" {
			x.blocks[s.block] = i
		}
	}
	return x
}

// A segment is a run of lines.
type segment struct {
	text  string
	block string // name of the block; "" for what is not ours
	lines int    // newlines in text
	bare  bool   // not ours, and nothing but blank lines and comments
}

func newSegment(text, block, comment string) *segment {
	return &segment{text: text, block: block, lines: strings.Count(text, "\n"), bare: block == "" && isBare(text, comment)}
}

func isBare(text, comment string) bool {
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, comment) {
			return false
		}
	}
	return true
}

func beginMarker(comment, name string) string { return comment + " BEGIN converge " + name }
func endMarker(comment, name string) string   { return comment + " END converge " + name }

// parseDocument finds the blocks of a text whose comments begin with comment. It refuses what a block cannot be kept in
// safely: bytes that are no text, a byte order mark, a lone carriage return, and markers that do not pair.
func parseDocument(text []byte, comment string) (*document, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	var segments []*segment
	marker := sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^` + regexp.QuoteMeta(comment) + ` (BEGIN|END) converge (\S+)$`)
	})
	other := sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^\s*` + regexp.QuoteMeta(comment) + `+\s*(BEGIN|END)\b\s*(.*)$`)
	})
	var start, open, openLine int
	var openName, foreign string
	begun := map[string]int{}
	at, n := 0, 0
	for l := range strings.Lines(string(text)) {
		n++
		bare := strings.TrimRight(l, "\r\n")
		if !strings.Contains(bare, "BEGIN") && !strings.Contains(bare, "END") {
			at += len(l)
			continue
		}
		m := marker().FindStringSubmatch(bare)
		switch {
		case m == nil:
			if o := other().FindStringSubmatch(bare); o != nil {
				if strings.HasPrefix(o[2], "converge ") {
					return nil, fmt.Errorf("line %d is almost, but not quite, a marker of converge (%q): restore it or remove the block", n, bare)
				}
				foreign = foreignBlock(foreign, o[1], o[2])
			}
		case m[1] == "BEGIN" && openName != "":
			return nil, fmt.Errorf("line %d begins block %q inside block %q, which began in line %d and has not ended: restore the END marker of %q", n, m[2], openName, openLine, openName)
		case m[1] == "BEGIN" && begun[m[2]] > 0:
			return nil, fmt.Errorf("line %d begins block %q a second time, it was there in line %d already: remove one of the two", n, m[2], begun[m[2]])
		case m[1] == "BEGIN" && foreign != "":
			return nil, fmt.Errorf("line %d begins block %q inside the block %q of another tool, which would wipe it out: move it out of there", n, m[2], foreign)
		case m[1] == "BEGIN":
			if at > start {
				segments = append(segments, newSegment(string(text[start:at]), "", comment))
			}
			open, openLine, openName = at, n, m[2]
			begun[m[2]] = n
		case openName != m[2]:
			return nil, fmt.Errorf("line %d ends block %q, which has not begun: restore its BEGIN marker, or remove the line", n, m[2])
		default:
			end := at + len(l)
			segments = append(segments, newSegment(string(text[open:end]), openName, comment))
			start, openName = end, ""
		}
		at += len(l)
	}
	if openName != "" {
		return nil, fmt.Errorf("block %q begins in line %d and does not end: restore its END marker, or remove the BEGIN line", openName, openLine)
	}
	if at > start {
		segments = append(segments, newSegment(string(text[start:at]), "", comment))
	}
	d := newDocument(lineEnding(text), segments)
	d.index = indexed(segments)
	return d, nil
}

// foreignBlock follows the blocks of other tools: "# BEGIN ANSIBLE MANAGED BLOCK" and the like.
func foreignBlock(open, word, name string) string {
	name = strings.TrimSpace(name)
	switch {
	case open == "" && word == "BEGIN" && name != "":
		return name
	case open == name && word == "END":
		return ""
	}
	return open
}

// checkText refuses what is no text in which a line can be added safely.
func checkText(b []byte) error {
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return errors.New("line 1 begins with a byte order mark (BOM), which PostgreSQL takes for part of the first word: save the file without it")
	case bytes.IndexByte(b, 0) >= 0:
		return fmt.Errorf("line %d holds a NUL byte: this is no text file", lineAt(b, bytes.IndexByte(b, 0)))
	case !utf8.Valid(b):
		return fmt.Errorf("line %d is not valid UTF-8: this is no text file, or one in another encoding; convert it with iconv first", lineAt(b, invalidAt(b)))
	}
	for i := bytes.IndexByte(b, '\r'); i >= 0; {
		if i+1 >= len(b) || b[i+1] != '\n' {
			return fmt.Errorf("line %d holds a carriage return that does not end a line: remove it (tr -d '\\r')", lineAt(b, i))
		}
		next := bytes.IndexByte(b[i+1:], '\r')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return nil
}

func lineAt(b []byte, offset int) int { return 1 + bytes.Count(b[:offset], []byte("\n")) }

func invalidAt(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

// lineEnding is what most lines of a text end with.
func lineEnding(b []byte) string {
	crlf := bytes.Count(b, []byte("\r\n"))
	if crlf*2 > bytes.Count(b, []byte("\n")) {
		return "\r\n"
	}
	return "\n"
}

// A position is where in a file a block stands.
type position string

const (
	top    position = "top"    // before every line that is not ours and not blank or a comment
	bottom position = "bottom" // after every such line
)

// find returns the index of a block's segment, or -1.
func (d *document) find(name string) int {
	if d.index != nil {
		i, ok := d.index.blocks[name]
		if ok && i < len(d.segments) && d.segments[i].block == name {
			return i
		}
		return -1
	}
	for i, s := range d.segments {
		if s.block == name {
			return i
		}
	}
	return -1
}

// rightPlace says whether a segment stands where its block belongs.
func (d *document) rightPlace(i int, where position) bool {
	if where == bottom {
		return d.last < i
	}
	return d.first < 0 || d.first > i
}

// blockText is a block with its markers, in the document's line endings. The last line has no newline when final is
// false.
func (d *document) blockText(comment, name, body string, final bool) string {
	body = strings.TrimRight(strings.ReplaceAll(body, "\r\n", "\n"), "\n")
	if body != "" {
		body += "\n"
	}
	text := beginMarker(comment, name) + "\n" + body + endMarker(comment, name)
	if final {
		text += "\n"
	}
	return strings.ReplaceAll(text, "\n", d.eol)
}

// An edit is a splice with the document that it leads to.
type edit struct {
	splice engine.Splice
	next   *document
}

// setBlock makes the named block stand at its place with body. It returns nil where it does already.
func (d *document) setBlock(comment, name, body string, where position) []edit {
	i := d.find(name)
	switch {
	case i < 0:
		return []edit{d.insert(comment, name, body, where)}
	case !d.rightPlace(i, where):
		out := d.removeAt(i)
		return []edit{out, out.next.insert(comment, name, body, where)}
	}
	old := d.segments[i].text
	fresh := d.blockText(comment, name, body, strings.HasSuffix(old, "\n"))
	if old == fresh {
		return nil
	}
	return []edit{d.replace(i, newSegment(fresh, name, comment))}
}

// removeBlock takes the named block out. It returns nil where there is none.
func (d *document) removeBlock(name string) []edit {
	if i := d.find(name); i >= 0 {
		return []edit{d.removeAt(i)}
	}
	return nil
}

// insert puts a new block behind the blocks that stand at the top, or at the end of the file. A file whose last line has
// no newline keeps that: the newline goes before the block.
func (d *document) insert(comment, name, body string, where position) edit {
	i := 0
	if where == bottom {
		i = len(d.segments)
	} else {
		for i < len(d.segments) && d.segments[i].block != "" {
			i++
		}
	}
	lead, final := "", true
	if i > 0 {
		before := d.segments[i-1].text
		if !strings.HasSuffix(before, "\n") {
			lead, final = d.eol, false
		}
		if endsInBackslash(before) {
			lead += d.eol // a blank line, for the backslash to swallow
		}
	}
	s := newSegment(d.blockText(comment, name, body, final), name, comment)
	if lead == "" {
		return d.splice(i, 0, s)
	}
	return d.splice(i, 0, newSegment(lead, "", comment), s)
}

// endsInBackslash says whether the last line of a text would swallow the line after it (PostgreSQL 14 and later).
func endsInBackslash(text string) bool {
	return strings.HasSuffix(strings.TrimRight(text, "\r\n"), `\`)
}

func (d *document) replace(i int, s *segment) edit { return d.splice(i, 1, s) }

// removeAt takes a segment out. The newline that was put before a block at the end of the file goes with it.
func (d *document) removeAt(i int) edit {
	if i > 0 && i == len(d.segments)-1 && !strings.HasSuffix(d.segments[i].text, "\n") {
		before := d.segments[i-1]
		if trimmed := strings.TrimSuffix(strings.TrimSuffix(before.text, "\n"), "\r"); trimmed != before.text {
			return d.splice(i-1, 2, newSegment(trimmed, before.block, "#"))
		}
	}
	return d.splice(i, 1)
}

// splice replaces n segments from i on.
func (d *document) splice(i, n int, fresh ...*segment) edit {
	if i == len(d.segments) {
		return d.grow(fresh)
	}
	s := engine.Splice{Line: 1}
	for _, before := range d.segments[:i] {
		s.Offset += len(before.text)
		s.Line += before.lines
	}
	for _, old := range d.segments[i : i+n] {
		s.Removed += old.text
	}
	segments := make([]*segment, 0, len(d.segments)-n+len(fresh))
	segments = append(segments, d.segments[:i]...)
	for _, f := range fresh {
		if f.text != "" {
			s.Inserted += f.text
			segments = append(segments, f)
		}
	}
	segments = append(segments, d.segments[i+n:]...)
	return edit{splice: s, next: newDocument(d.eol, segments)}
}

// grow adds segments at the end. The array is shared with d, unless another document has grown out of d before.
func (d *document) grow(fresh []*segment) edit {
	next := *d
	if d.index == nil || d.index.used != len(d.segments) {
		next.segments = slices.Clone(d.segments)
		next.index = indexed(next.segments)
	}
	s := engine.Splice{Offset: d.size, Line: 1 + d.lines}
	for _, f := range fresh {
		s.Inserted += f.text
		next.count(len(next.segments), f)
		if f.block != "" {
			next.index.blocks[f.block] = len(next.segments)
		}
		next.segments = append(next.segments, f)
	}
	next.index.used = len(next.segments)
	return edit{splice: s, next: &next}
}

// text is the whole document.
func (d *document) text() string {
	var b strings.Builder
	for _, s := range d.segments {
		b.WriteString(s.text)
	}
	return b.String()
}
