package hba

import (
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"
	"syscall"
)

// maxDepth is how deep files may name files (16 and later).
const maxDepth = 10

// maxOpened bounds the files opened for one Parse, so that files naming each other many times over end soon. The server has
// no such bound; it would be busy for years. Reading ends at the file that is one too many.
const maxOpened = 10000

// reader reads a file with those that it names.
type reader struct {
	server Server
	files  Files
	opened int
	within []string // the files being read, outermost first

	entries []entry // the lines read so far, without the empty ones

	tokens  slab[Token]
	fields  slab[Field]
	scratch []Token // the fields being read, the innermost last
}

// A slab cuts small slices that last as long as each other from large ones.
type slab[T any] struct{ free []T }

// keep copies items to a place of their own.
func (s *slab[T]) keep(items []T) []T {
	if len(s.free) < len(items) {
		s.free = make([]T, max(1024, len(items)))
	}
	out := s.free[:len(items):len(items)]
	s.free = s.free[len(items):]
	copy(out, items)
	return out
}

// An entry is one line with something in it: fields for a rule, or the server's message.
type entry struct {
	file    string
	line    int
	fields  []Field
	message string
}

// file reads the lines of one file and adds what is in them to entries. lines, when not nil, gets all of them.
func (r *reader) file(name, src string, depth int, lines *[]Line) {
	r.within = append(r.within, name)
	defer func() { r.within = r.within[:len(r.within)-1] }()

	in := newLineReader(src, r.server.Major)
	for {
		line, message, ok := in.next()
		if !ok || lines == nil && r.opened > maxOpened {
			return
		}
		if message == "" {
			message = r.split(&line, name, depth)
		}
		if lines != nil {
			*lines = append(*lines, line)
		}
		if len(line.Fields) > 0 || message != "" {
			r.add(&line, message, name, depth)
		}
	}
}

// add adds what one line comes to: itself, or the lines of the files that it includes.
func (r *reader) add(line *Line, message, name string, depth int) {
	included := false
	if message == "" && r.server.Major >= 16 && len(line.Fields) == 2 {
		switch directive, target := line.Fields[0][0].Text, line.Fields[1][0].Text; directive {
		case "include":
			included, message = true, r.include(name, target, depth+1, false)
		case "include_if_exists":
			included, message = true, r.include(name, target, depth+1, true)
		case "include_dir":
			included, message = true, r.includeDir(name, target, depth+1)
		}
	}
	if included && message == "" {
		return
	}
	e := entry{line: line.Number, fields: line.Fields, message: message}
	if depth > 0 {
		e.file = name
	}
	r.entries = append(r.entries, e)
}

// split splits a line into its fields and gives the server's message when that fails.
func (r *reader) split(line *Line, name string, depth int) (message string) {
	var few [8]Field
	fields := few[:0]
	s := &scanner{s: line.content, max: maxToken(r.server.Major), comment: -1}
	for s.pos < len(s.s) && message == "" {
		base := len(r.scratch)
		message = r.field(s, line, name, depth)
		if len(r.scratch) > base {
			fields = append(fields, r.tokens.keep(r.scratch[base:]))
			r.scratch = r.scratch[:base]
		}
	}
	if len(fields) > 0 {
		line.Fields = r.fields.keep(fields)
	}
	if message == "" {
		line.comment = s.comment
	}
	return message
}

// field reads one field to scratch: tokens with commas between them, and those of the files that they name.
func (r *reader) field(s *scanner, line *Line, name string, depth int) (message string) {
	for {
		w, ok := s.next()
		if !ok {
			return s.message
		}
		t := Token{Name: w.Name, Start: line.raw(w.start), End: line.raw(w.end)}
		if t.Quoted || len(t.Text) < 2 || t.Text[0] != '@' {
			r.scratch = append(r.scratch, t)
		} else if message = r.expand(t, name, depth); message != "" {
			return message
		}
		if !w.comma {
			return ""
		}
	}
}

// expand reads the tokens of an @file to scratch.
func (r *reader) expand(at Token, name string, depth int) (message string) {
	full := beside(name, at.Text[1:])
	src, err := r.open(full, depth+1)
	switch {
	case err != nil && r.server.Major < 16:
		return fmt.Sprintf("could not open secondary authentication file \"%s\" as \"%s\": %s", at.Text, full, reason(err))
	case err != nil:
		return openMessage(full, err)
	case src.folder && r.server.Major < 14:
		return fmt.Sprintf("could not read file \"%s\": %s", full, reason(syscall.EISDIR))
	}
	for _, e := range r.listed(full, src.text, depth+1) {
		if e.message != "" {
			return e.message
		}
		for _, f := range e.fields {
			for _, t := range f {
				t.From, t.Start, t.End = full, at.Start, at.End
				r.scratch = append(r.scratch, t)
			}
		}
	}
	return ""
}

// listed reads the lines of an @file, which are no entries of their own.
func (r *reader) listed(name, src string, depth int) []entry {
	before := r.entries
	r.entries = nil
	r.file(name, src, depth, nil)
	lines := r.entries
	r.entries = before
	return lines
}

// include reads an included file. missing says that it need not be there.
func (r *reader) include(name, target string, depth int, missing bool) string {
	full := beside(name, target)
	src, err := r.open(full, depth)
	switch {
	case err != nil && missing && errors.Is(err, syscall.ENOENT):
		return ""
	case err != nil:
		return openMessage(full, err)
	}
	r.file(full, src.text, depth, nil)
	return ""
}

// includeDir reads the *.conf files of a folder, in the order of their bytes.
func (r *reader) includeDir(name, target string, depth int) string {
	if strings.Trim(target, " \t\r\n") == "" {
		return "empty configuration directory name"
	}
	dir := beside(name, target)
	names, err := r.list(dir)
	if err != nil {
		return fmt.Sprintf("could not open directory \"%s\"", dir)
	}
	var messages []string
	for _, n := range confFiles(names) {
		if m := r.include(name, path.Join(dir, n), depth, false); m != "" {
			messages = append(messages, m)
		}
	}
	return strings.Join(messages, "\n")
}

func confFiles(names []string) []string {
	var out []string
	for _, n := range names {
		if len(n) >= 6 && n[0] != '.' && strings.HasSuffix(n, ".conf") {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

func (r *reader) list(dir string) ([]string, error) {
	if r.files.List == nil {
		return nil, syscall.ENOENT
	}
	return r.files.List(dir)
}

// source is an opened file; a folder opens as an empty one.
type source struct {
	text   string
	folder bool
}

var (
	errDepth  = errors.New("maximum nesting depth exceeded")
	errItself = errors.New("the file names itself")
	errMany   = errors.New("too many files name each other")
)

func (r *reader) open(full string, depth int) (source, error) {
	if err := r.mayOpen(full, depth); err != nil {
		return source{}, err
	}
	if r.files.Read == nil {
		return source{}, syscall.ENOENT
	}
	src, err := r.files.Read(full)
	if errors.Is(err, syscall.EISDIR) {
		return source{folder: true}, nil
	}
	return source{text: string(src)}, err
}

// mayOpen refuses what would not end. Up to 15 a file that names itself runs the server out of files (11 to 13: it dies).
func (r *reader) mayOpen(full string, depth int) error {
	if r.server.Major >= 16 && depth > maxDepth {
		return errDepth
	}
	if r.opened++; r.opened > maxOpened {
		return errMany
	}
	if r.server.Major < 16 {
		for _, w := range r.within {
			if w == full {
				return errItself
			}
		}
	}
	return nil
}

func openMessage(full string, err error) string {
	return fmt.Sprintf("could not open file \"%s\": %s", full, reason(err))
}

// reason is the error as the C library words it.
func reason(err error) string {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err.Error()
	}
	text := no.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// beside is where a name in this file leads: relative ones start in its folder.
func beside(file, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(file), name)
}
