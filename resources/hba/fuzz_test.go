package hba_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"converge/resources/hba"
)

func seed(f *testing.F) {
	for _, c := range nasty(f) {
		if len(c.HBA) < 4096 {
			f.Add(c.HBA, byte(4))
			f.Add(c.HBA, byte(8))
		}
	}
	for i := range majors {
		f.Add([]byte("hostssl all deploy 10.0.0.0/8 md5 clientcert=1\r\nhostssl all deploy md5 clientcert=0\n"), byte(i))
		f.Add([]byte("hostssl all a all md5 clientcert=verify-full # converge: accept clientcert=verify-ca\nhostssl all b all cert clientname=DN # converge: accept clientname=CN\n"), byte(i))
	}
}

func server(b byte) hba.Server { return hba.Packaged(majors[int(b)%len(majors)]) }

// Printing what was parsed gives the file back, for any bytes; the numbers of lines only grow.
func FuzzParse(f *testing.F) {
	seed(f)
	files := memory(map[string]string{"x": "a b,c\n", "loop": "@loop\ninclude loop\ninclude_dir .\n"})
	f.Fuzz(func(t *testing.T, src []byte, b byte) {
		file := hba.Parse(src, server(b), files)
		if got := file.Bytes(); !bytes.Equal(got, src) {
			t.Fatalf("printed %q of %q", got, src)
		}
		last := 0
		for _, l := range file.Lines {
			if l.Number <= last {
				t.Fatalf("line %d after line %d", l.Number, last)
			}
			last = l.Number
			for _, field := range l.Fields {
				for _, token := range field {
					if token.Start < 0 || token.End > len(l.Text) || token.Start > token.End {
						t.Fatalf("token %+v lies outside %q", token, l.Text)
					}
				}
			}
		}
		file.Lints()
	})
}

// What Translate gives loads on that major; a line that it does not say it changed has the bytes it had; and of a changed
// line only the type and the options differ, it asks for a certificate where the original did, and for less of it only when
// its comment says so.
func FuzzTranslate(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, src []byte, b byte) {
		s := server(b)
		got := hba.Translate(src, s, hba.Files{}, []string{"10.0.0.0/8"})
		if len(got.Problems) > 0 {
			if got.Text != nil {
				t.Fatal("problems and a text")
			}
			return
		}
		after := hba.Parse(got.Text, s, hba.Files{})
		if len(after.Errors) > 0 {
			t.Fatalf("refused on %d: %+v", s.Major, after.Errors)
		}
		before := hba.Parse(src, s, hba.Files{})
		if len(before.Lines) != len(after.Lines) {
			t.Fatalf("%d lines became %d", len(before.Lines), len(after.Lines))
		}
		changed := map[int]bool{}
		for _, c := range got.Changes {
			changed[c.Line] = true
			if weaker := strings.Contains(c.Why, "weaker"); weaker && !waives.MatchString(c.Before) {
				t.Fatalf("%q is weakened without a waiver: %+v", c.Before, c)
			}
		}
		for i, l := range before.Lines {
			if now := after.Lines[i]; changed[l.Number] != (now.Text != l.Text) {
				t.Fatalf("line %d: %q became %q; changes %+v", l.Number, l.Text, now.Text, got.Changes)
			} else if changed[l.Number] {
				sameButOptions(t, l, now)
			}
		}
	})
}

func sameButOptions(t *testing.T, before, after hba.Line) {
	t.Helper()
	for i, field := range before.Fields[:4] {
		if i == 0 {
			continue
		}
		for j, token := range field {
			if after.Fields[i][j].Name != token.Name {
				t.Fatalf("%q became %q", before.Text, after.Text)
			}
		}
	}
	if binds(before) && !binds(after) && !waives.MatchString(before.Text) {
		t.Fatalf("the certificate was to be the user's own: %q became %q", before.Text, after.Text)
	}
	if asks(before) != asks(after) {
		t.Fatalf("the demand for a certificate changed: %q became %q", before.Text, after.Text)
	}
}

// waives matches a line with a waiver in a comment.
var waives = regexp.MustCompile(`(?s)#[ \t\r\v\f\x{85}\pZ]*converge:.*accept.*(clientcert=verify-ca|clientname=CN)`)

// binds tells whether a line asks for the user's own certificate.
func binds(l hba.Line) bool {
	for _, field := range l.Fields[4:] {
		for _, token := range field {
			if token.Text == "cert" || token.Text == "clientcert=verify-full" {
				return true
			}
		}
	}
	return false
}

// asks tells whether a line asks for a certificate, in the words of any version.
func asks(l hba.Line) bool {
	for _, field := range l.Fields {
		for _, token := range field {
			if token.Text == "cert" {
				return true
			}
			if value, ok := strings.CutPrefix(token.Text, "clientcert="); ok && value != "0" && value != "no-verify" {
				return true
			}
		}
	}
	return false
}
