package resources

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// apply makes the edits on a text, one after the other, and checks that each splice says the truth about it.
func applyEdits(t *testing.T, text string, edits []edit) string {
	t.Helper()
	for _, e := range edits {
		s := e.splice
		if !strings.HasPrefix(text[s.Offset:], s.Removed) {
			t.Fatalf("the splice removes %q at %d, and there is %q", s.Removed, s.Offset, text[s.Offset:])
		}
		text = text[:s.Offset] + s.Inserted + text[s.Offset+len(s.Removed):]
		if text != e.next.text() {
			t.Fatalf("the splice gives %q, the document says %q", text, e.next.text())
		}
	}
	return text
}

func set(t *testing.T, text, name, body string, where position) string {
	t.Helper()
	d, err := parseDocument([]byte(text), "#")
	if err != nil {
		t.Fatal(err)
	}
	out := applyEdits(t, text, d.setBlock("#", name, body, where))
	d, err = parseDocument([]byte(out), "#")
	if err != nil {
		t.Fatalf("the result does not parse: %v\n%s", err, out)
	}
	if again := d.setBlock("#", name, body, where); again != nil {
		t.Errorf("a second time changes %q to %q", out, applyEdits(t, out, again))
	}
	if back := applyEdits(t, out, d.removeBlock(name)); !strings.Contains(text, "BEGIN") && back != text && !strings.HasSuffix(strings.TrimRight(text, "\r\n"), `\`) {
		t.Errorf("removing the block gives %q, and not %q", back, text)
	}
	return out
}

func TestSetBlock(t *testing.T) {
	for _, c := range []struct{ name, text, body, want string }{
		{"empty", "", "x", "# BEGIN converge b\nx\n# END converge b\n"},
		{"bottom", "a\n", "x\ny\n", "a\n# BEGIN converge b\nx\ny\n# END converge b\n"},
		{"no final newline", "a", "x", "a\n# BEGIN converge b\nx\n# END converge b"},
		{"crlf", "a\r\nb\r\n", "x\ny", "a\r\nb\r\n# BEGIN converge b\r\nx\r\ny\r\n# END converge b\r\n"},
		{"crlf without the last", "a\r\nb", "x", "a\r\nb\r\n# BEGIN converge b\r\nx\r\n# END converge b"},
		{"mixed endings stay", "a\r\nb\nc\n", "x", "a\r\nb\nc\n# BEGIN converge b\nx\n# END converge b\n"},
		{"backslash before", "a \\\n", "x", "a \\\n\n# BEGIN converge b\nx\n# END converge b\n"},
		{"rewrite", "a\n# BEGIN converge b\nold\n# END converge b\n# mine\n", "new", "a\n# BEGIN converge b\nnew\n# END converge b\n# mine\n"},
		{"rewrite in crlf", "a\r\n# BEGIN converge b\r\nold\r\n# END converge b\r\n", "new", "a\r\n# BEGIN converge b\r\nnew\r\n# END converge b\r\n"},
		{"lines after it: to the bottom", "# BEGIN converge b\nx\n# END converge b\nlater = 1\n", "x", "later = 1\n# BEGIN converge b\nx\n# END converge b\n"},
		{"others' blocks stay", "# BEGIN converge a\n1\n# END converge a\n", "x", "# BEGIN converge a\n1\n# END converge a\n# BEGIN converge b\nx\n# END converge b\n"},
		{"foreign markers stay", "# BEGIN ANSIBLE MANAGED BLOCK\ny\n# END ANSIBLE MANAGED BLOCK\n", "x", "# BEGIN ANSIBLE MANAGED BLOCK\ny\n# END ANSIBLE MANAGED BLOCK\n# BEGIN converge b\nx\n# END converge b\n"},
		{"a marker inside a line is none", "x '# BEGIN converge b'\n", "x", "x '# BEGIN converge b'\n# BEGIN converge b\nx\n# END converge b\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := set(t, c.text, "b", c.body, bottom); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestSetBlockAtTheTop(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"first line", "a\n", "# BEGIN converge b\nx\n# END converge b\na\n"},
		{"before the comments", "# about\na\n", "# BEGIN converge b\nx\n# END converge b\n# about\na\n"},
		{"behind other blocks", "# BEGIN converge a\n1\n# END converge a\nz\n", "# BEGIN converge a\n1\n# END converge a\n# BEGIN converge b\nx\n# END converge b\nz\n"},
		{"comments may come before", "# about\n\n# BEGIN converge b\nx\n# END converge b\na\n", "# about\n\n# BEGIN converge b\nx\n# END converge b\na\n"},
		{"a rule before it: up", "host all all all trust\n# BEGIN converge b\nx\n# END converge b\n", "# BEGIN converge b\nx\n# END converge b\nhost all all all trust\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := set(t, c.text, "b", "x", top); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestParseDocumentRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"begin without end", "# BEGIN converge b\nx\n", `block "b" begins in line 1 and does not end`},
		{"end without begin", "x\n# END converge b\n", `line 2 ends block "b", which has not begun`},
		{"another's end", "# BEGIN converge b\n# END converge c\n", `line 2 ends block "c", which has not begun`},
		{"twice", "# BEGIN converge b\n# END converge b\n# BEGIN converge b\n# END converge b\n", `line 3 begins block "b" a second time`},
		{"nested", "# BEGIN converge a\n# BEGIN converge b\n# END converge b\n# END converge a\n", `line 2 begins block "b" inside block "a"`},
		{"inside another tool's", "# BEGIN ANSIBLE MANAGED BLOCK\n# BEGIN converge b\n# END converge b\n# END ANSIBLE MANAGED BLOCK\n", `inside the block "ANSIBLE MANAGED BLOCK" of another tool`},
		{"almost a marker", "#BEGIN converge b\n", "almost, but not quite, a marker"},
		{"blank after a marker", "# BEGIN converge b \n", "almost, but not quite, a marker"},
		{"byte order mark", "\xef\xbb\xbfx\n", "byte order mark"},
		{"lone carriage return", "a\nb\rc\n", "line 2 holds a carriage return"},
		{"carriage return at the end", "a\r", "line 1 holds a carriage return"},
		{"NUL", "a\n\x00\n", "line 2 holds a NUL"},
		{"another encoding", "a\nb\xe9\n", "line 2 is not valid UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseDocument([]byte(c.text), "#")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Whatever the file, a block can be put in, changed and taken out, and every byte of the rest is as it was.
func FuzzBlock(f *testing.F) {
	f.Add("a\nb\n", "x", "y", true)
	f.Add("a\r\nb", "x\ny\n", "", false)
	f.Add("# BEGIN converge other\n1\n# END converge other", "x", "z", true)
	f.Fuzz(func(t *testing.T, text, body, later string, atTop bool) {
		d, err := parseDocument([]byte(text), "#")
		if err != nil || checkBody(body, "#") != nil || checkBody(later, "#") != nil || d.find("b") >= 0 {
			return
		}
		where := bottom
		if atTop {
			where = top
		}
		with := applyEdits(t, text, d.setBlock("#", "b", body, where))
		d, err = parseDocument([]byte(with), "#")
		if err != nil {
			t.Fatalf("%q does not parse: %v", with, err)
		}
		changed := applyEdits(t, with, d.setBlock("#", "b", later, where))
		d, err = parseDocument([]byte(changed), "#")
		if err != nil {
			t.Fatalf("%q does not parse: %v", changed, err)
		}
		back := applyEdits(t, changed, d.removeBlock("b"))
		if back != text && back != text+d.eol {
			t.Fatalf("%q became %q", text, back)
		}
	})
}

// Documents that grow out of the same one do not disturb each other, whatever is done to them and in whichever order.
func TestDocumentsDoNotChange(t *testing.T) {
	type state struct {
		doc  *document
		text string
	}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		first, err := parseDocument([]byte("# a comment\na line of somebody\n"), "#")
		if err != nil {
			t.Fatal(err)
		}
		states := []state{{first, first.text()}}
		for range 60 {
			from := states[random.IntN(len(states))]
			name := fmt.Sprintf("block%d", random.IntN(8))
			edits := from.doc.setBlock("#", name, fmt.Sprint(random.IntN(3)), []position{top, bottom}[random.IntN(2)])
			if random.IntN(4) == 0 {
				edits = from.doc.removeBlock(name)
			}
			if len(edits) == 0 {
				continue
			}
			states = append(states, state{edits[len(edits)-1].next, applyEdits(t, from.text, edits)})
			for _, s := range states {
				compareDocuments(t, s.doc, s.text)
			}
		}
	}
}

// compareDocuments holds a document that came of edits against one that is read from its text.
func compareDocuments(t *testing.T, d *document, text string) {
	t.Helper()
	read, err := parseDocument([]byte(text), "#")
	if err != nil {
		t.Fatal(err)
	}
	if d.text() != text || d.size != read.size || d.lines != read.lines {
		t.Fatalf("the document says %q (%d bytes, %d lines), its edits lead to %q", d.text(), d.size, d.lines, text)
	}
	for i := range 8 {
		name := fmt.Sprintf("block%d", i)
		at, want := d.find(name), read.find(name)
		if (at < 0) != (want < 0) {
			t.Fatalf("%s is found at %d, and at %d in %q", name, at, want, text)
		}
		for _, where := range []position{top, bottom} {
			if at >= 0 && d.rightPlace(at, where) != read.rightPlace(want, where) {
				t.Fatalf("the place of %s in %q is judged differently", name, text)
			}
		}
	}
}
