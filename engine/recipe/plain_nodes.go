package recipe

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// The environment file is one for all nodes, so each node reads what is written of every other. HCL takes some 25
// microseconds for a node, most of them for a syntax tree that nobody looks at. So nodes in the form that nearly all have,
//
//	node "app1" {
//	  role     = "app"
//	  address  = "10.0.1.20"
//	  names    = ["app1.internal"]
//	  host_key = "ssh-ed25519 AAAA..."
//	}
//
// are read here, and HCL reads the rest of the file, in which a marker stands for each run of them. It is HCL that decides
// where a block may stand: a marker that it does not find directly in the environment's block, or anything that is wrong
// with the file, and the whole of it is read by HCL. Both ways give the same environment.

// marker is the kind of block that stands for nodes. A file that has the word in it is not read this way.
const marker = "_plain_nodes"

// setAside takes the plain nodes out of a file. The rest has as many lines, each where it was.
func setAside(name string, text []byte) (rest []byte, nodes []nodeArguments, runs int) {
	if bytes.Contains(text, []byte(marker)) {
		return nil, nil, 0
	}
	s := lineScanner{name: name, text: text}
	nodes = make([]nodeArguments, 0, bytes.Count(text, []byte("node ")))
	kept := 0    // text before it is in rest
	inRun := -1  // where the run of nodes began that goes on; -1: none does
	firstAt := 0 // the run's first line
	endRun := func() {
		rest = append(rest, text[kept:inRun]...)
		rest = fmt.Appendf(rest, "%s %q {} /*", marker, strconv.Itoa(runs))
		for range s.line - 1 - firstAt {
			rest = append(rest, '\n')
		}
		rest = append(rest, "*/\n"...)
		kept, inRun = s.at, -1
		runs++
	}
	for s.at < len(text) {
		before := s
		if n, plain := s.node(); plain {
			if inRun < 0 {
				inRun, firstAt = before.at, before.line
			}
			nodes = append(nodes, n)
			continue
		}
		if s = before; inRun >= 0 {
			endRun()
		}
		s.next()
	}
	if inRun >= 0 {
		endRun()
	}
	return append(rest, text[kept:]...), nodes, runs
}

// A lineScanner reads a file line by line. Of what it is not sure that HCL reads it in the same way, it says that it is not
// plain.
type lineScanner struct {
	name string
	text []byte
	at   int // the first byte of the next line
	line int // the number of lines before it
}

// next returns the next line without its end, and false where there is none, or none with an end.
func (s *lineScanner) next() ([]byte, bool) {
	end := bytes.IndexByte(s.text[s.at:], '\n')
	if end < 0 {
		s.at = len(s.text)
		return nil, false
	}
	line := s.text[s.at : s.at+end]
	s.at += end + 1
	s.line++
	return line, true
}

// node reads a plain block of a node, if one begins at the next line.
func (s *lineScanner) node() (n nodeArguments, plain bool) {
	start := hcl.Pos{Line: s.line + 1, Byte: s.at}
	line, _ := s.next()
	l := words{line}
	l.blanks()
	start.Column = len(line) - len(l.text) + 1
	start.Byte += start.Column - 1
	if !l.take("node") || !l.blanks() || !l.quoted(&n.Name) {
		return n, false
	}
	end := hcl.Pos{Line: start.Line, Column: len(line) - len(l.text) + 1, Byte: s.at - 1 - len(l.text)}
	n.Header = hcl.Range{Filename: s.name, Start: start, End: end}
	if l.blanks(); !l.take("{") || !l.ends() {
		return n, false
	}
	var has struct{ role, address, names, hostKey bool }
	for {
		line, ok := s.next()
		if !ok {
			return n, false
		}
		l := words{line}
		l.blanks()
		switch {
		case l.take("}"):
			l.blanks()
			return n, len(l.text) == 0 && has.role && has.address
		case l.ends():
		case l.argument("role", &has.role):
			ok = l.quoted(&n.Role)
		case l.argument("address", &has.address):
			ok = l.quoted(&n.Address)
		case l.argument("host_key", &has.hostKey):
			ok = l.quoted(&n.HostKey)
		case l.argument("names", &has.names):
			ok = l.list(&n.Names)
		default:
			ok = false
		}
		if !ok || !l.ends() {
			return n, false
		}
	}
}

// words are the rest of a line.
type words struct{ text []byte }

// blanks takes blanks, and tells whether there was one.
func (w *words) blanks() bool {
	n := 0
	for n < len(w.text) && (w.text[n] == ' ' || w.text[n] == '\t') {
		n++
	}
	w.text = w.text[n:]
	return n > 0
}

func (w *words) take(word string) bool {
	rest, ok := bytes.CutPrefix(w.text, []byte(word))
	if ok {
		w.text = rest
	}
	return ok
}

// ends tells whether nothing but a comment is left, and takes it.
func (w *words) ends() bool {
	w.blanks()
	if len(w.text) > 0 && w.text[0] != '#' || slices.ContainsFunc(w.text, odd) {
		return false
	}
	w.text = nil
	return true
}

// argument takes the name of an argument and its equals sign. One that is given twice is not plain.
func (w *words) argument(name string, given *bool) bool {
	before := w.text
	if w.take(name) {
		if w.blanks(); w.take("=") && !*given {
			w.blanks()
			*given = true
			return true
		}
	}
	w.text = before
	return false
}

// quoted takes a text in quotes that means what it says.
func (w *words) quoted(into *string) bool {
	if !w.take(`"`) {
		return false
	}
	end := bytes.IndexByte(w.text, '"')
	if end < 0 || slices.ContainsFunc(w.text[:end], odd) || bytes.ContainsAny(w.text[:end], `\$%`) {
		return false
	}
	*into, w.text = string(w.text[:end]), w.text[end+1:]
	return true
}

// list takes a list of texts on one line.
func (w *words) list(into *[]string) bool {
	if !w.take("[") {
		return false
	}
	*into = []string{}
	for w.blanks(); !w.take("]"); w.blanks() {
		var text string
		if !w.quoted(&text) {
			return false
		}
		*into = append(*into, text)
		if w.blanks(); !w.take(",") && !bytes.HasPrefix(w.text, []byte("]")) {
			return false
		}
	}
	return true
}

// odd says whether a byte could be read in another way than as itself.
func odd(b byte) bool { return b < ' ' && b != '\t' || b > '~' }

// withoutMarkers takes the markers out of the environment's block. It is false when they do not stand as setAside wrote them.
func withoutMarkers(body *hclsyntax.Body, runs int) bool {
	found := 0
	body.Blocks = slices.DeleteFunc(body.Blocks, func(b *hclsyntax.Block) bool {
		if b.Type != marker || len(b.Labels) != 1 || b.Labels[0] != strconv.Itoa(found) {
			return false
		}
		found++
		return true
	})
	return found == runs
}
