package hba_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corpus "converge/fixtures/hba"
	"converge/resources/hba"
)

var majors = []int{10, 11, 12, 13, 14, 15, 16, 17, 18}

// memory gives the files of a map, beside a pg_hba.conf in /etc.
func memory(files map[string]string) hba.Files {
	return hba.Files{
		Path: "/etc/pg_hba.conf",
		Read: func(path string) ([]byte, error) {
			text, ok := files[strings.TrimPrefix(path, "/etc/")]
			if !ok {
				return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
			}
			return []byte(text), nil
		},
		List: func(dir string) ([]string, error) {
			var names []string
			for name := range files {
				if full := filepath.Join("/etc", name); filepath.Dir(full) == dir {
					names = append(names, filepath.Base(full))
				}
			}
			return names, nil
		},
	}
}

func parse(major int, text string) *hba.File {
	return hba.Parse([]byte(text), hba.Packaged(major), hba.Files{})
}

func nasty(t testing.TB) []corpus.Case {
	t.Helper()
	cases, err := corpus.Nasty()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestPrintGivesTheFileBack(t *testing.T) {
	for _, c := range nasty(t) {
		for _, major := range majors {
			f := hba.Parse(c.HBA, hba.Packaged(major), hba.Files{})
			if got := f.Bytes(); !bytes.Equal(got, c.HBA) {
				t.Errorf("%s on %d: printed\n%q\nof\n%q", c.Name, major, got, c.HBA)
			}
		}
	}
}

// A token's place is where it stands in the line, also over continued lines.
func TestTokensHavePlaces(t *testing.T) {
	f := parse(14, "local all \\\n  \"a b\",c \\\n trust # x\n")
	var got []string
	for _, field := range f.Lines[0].Fields {
		for _, token := range field {
			got = append(got, f.Lines[0].Text[token.Start:token.End])
		}
	}
	if want := []string{"local", "all", `"a b"`, "c", "trust"}; !slices.Equal(got, want) {
		t.Errorf("places give %q, want %q", got, want)
	}
}

func TestIncludedRulesNameTheirFile(t *testing.T) {
	files := memory(map[string]string{"d/b.conf": "local b all trust\n", "d/a.conf": "local a all bad\nlocal a all trust\n"})
	f := hba.Parse([]byte("include_dir d\nlocal all all reject\n"), hba.Packaged(16), files)
	if len(f.Rules) != 3 || f.Rules[0].File != "/etc/d/a.conf" || f.Rules[0].Line != 2 || f.Rules[2].File != "" {
		t.Errorf("rules: %+v", f.Rules)
	}
	if len(f.Errors) != 1 || f.Errors[0].File != "/etc/d/a.conf" || f.Errors[0].Line != 1 {
		t.Errorf("errors: %+v", f.Errors)
	}
}

// A file that includes itself many times over must not keep us busy: the server would be, for years.
func TestFilesThatNameEachOtherEnd(t *testing.T) {
	files := memory(map[string]string{"a": strings.Repeat("include a\n", 5), "b": strings.Repeat("@b ", 50)})
	src := []byte("include a\ninclude a\nlocal all all peer\n")
	if f := hba.Parse(src, hba.Packaged(16), files); f.Loads() || !bytes.Equal(f.Bytes(), src) {
		t.Error("a file that includes itself loads, or lost its lines")
	}
	for _, major := range []int{10, 15, 18} {
		f := hba.Parse([]byte("local @b all trust\n"), hba.Packaged(major), files)
		if f.Loads() {
			t.Errorf("%d: a file that names itself loads", major)
		}
	}
}

func TestAFileWithoutRulesDoesNotLoad(t *testing.T) {
	f := parse(15, "# nothing\n")
	if f.Loads() || f.Problems()[0].Message != hba.NoEntries {
		t.Errorf("problems: %+v", f.Problems())
	}
}

func TestWarningsLoad(t *testing.T) {
	server := hba.Server{Major: 15, Build: hba.Build{SSL: true}, SSLOff: true}
	f := hba.Parse([]byte("hostssl all all all md5\nhostgssenc all all all md5\n"), server, hba.Files{})
	if !f.Loads() || f.Rules[0].Warning == "" || f.Rules[1].Warning == "" {
		t.Errorf("rules %+v, errors %+v", f.Rules, f.Errors)
	}
}

// The matrix of postgres-facts 4.3: what each value of clientcert comes to.
func TestClientcertMatrix(t *testing.T) {
	const refused = "refused"
	for _, c := range []struct {
		value         string
		old, mid, now string // 10 and 11; 12 and 13; 14 and later
	}{
		{"1", "clientcert=true", "clientcert=verify-ca", refused},
		{"0", "", "", refused},
		{"no-verify", "", "", refused},
		{"verify-ca", "", "clientcert=verify-ca", "clientcert=verify-ca"},
		{"verify-full", "", "clientcert=verify-full", "clientcert=verify-full"},
		{"VERIFY-CA", "", refused, refused},
	} {
		for _, major := range majors {
			want := c.now
			if major < 12 {
				want = c.old
			} else if major < 14 {
				want = c.mid
			}
			f := parse(major, "hostssl all all all md5 clientcert="+c.value+"\n")
			got := refused
			if f.Loads() {
				got = strings.Join(f.Rules[0].Options, " ")
			}
			if got != want {
				t.Errorf("clientcert=%s on %d: %q, want %q", c.value, major, got, want)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	for _, c := range []struct {
		name         string
		upTo15, from string // from 16 on; empty: refused
	}{
		{"deploy", "deploy", "deploy"},
		{"all", `"all"`, `"all"`},
		{"replication", `"replication"`, `"replication"`},
		{"Deploy", `"Deploy"`, `"Deploy"`},
		{"+x", `"+x"`, `"+x"`},
		{"@x", `"@x"`, `"@x"`},
		{"/x", `"/x"`, `"/^/x$"`},
		{"/x.y(", `"/x.y("`, `"/^/x\.y\($"`},
		{"a,b", `"a,b"`, `"a,b"`},
		{"a#b", `"a#b"`, `"a#b"`},
		{"a b", `"a b"`, `"a b"`},
		{`a"b`, `"a""b"`, `"a""b"`},
		{`"`, `""""`, `""""`},
		{`a\b`, `"a\b"`, `"a\b"`},
		{"müller", `"müller"`, `"müller"`},
		{strings.Repeat("a", 63), strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a", 64), "", ""},
		{`a\`, "", ""},
		{"a\nhost all all all trust", "", ""},
		{"a\rb", "", ""},
		{"a\x00", "", ""},
		{"", "", ""},
	} {
		for _, major := range majors {
			want := c.upTo15
			if major >= 16 {
				want = c.from
			}
			got, err := hba.Quote(c.name, major)
			if got != want || (err == nil) != (want != "") {
				t.Errorf("Quote(%q, %d) = %q, %v; want %q", c.name, major, got, err, want)
			}
			if err != nil || strings.HasPrefix(c.name, "/") && major >= 16 {
				continue
			}
			f := parse(major, fmt.Sprintf("local %s %s trust\n", got, got))
			if !f.Loads() || !literally(f.Rules[0].Databases, c.name) || !literally(f.Rules[0].Users, c.name) {
				t.Errorf("Quote(%q, %d) = %s is not read as that name: %+v", c.name, major, got, f)
			}
		}
	}
}

func literally(names []hba.Name, want string) bool {
	return len(names) == 1 && names[0].Text == want && names[0].Group() == "" && !names[0].Keyword("all") && !names[0].Keyword("replication")
}

func manyRules(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "hostssl  db%d,other  user%d,+group  10.%d.%d.%d/32  scram-sha-256  clientcert=verify-full # rule %d\n", i%7, i%1000, i>>16, i>>8&255, i&255, i)
	}
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	src := manyRules(100_000)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		hba.Parse(src, hba.Packaged(16), hba.Files{})
	}
}

func BenchmarkLints(b *testing.B) {
	f := hba.Parse(manyRules(100_000), hba.Packaged(16), hba.Files{})
	for b.Loop() {
		f.Lints()
	}
}

func BenchmarkTranslate(b *testing.B) {
	src := bytes.ReplaceAll(manyRules(100_000), []byte("verify-full"), []byte("1"))
	for b.Loop() {
		hba.Translate(src, hba.Packaged(16), hba.Files{}, nil)
	}
}
