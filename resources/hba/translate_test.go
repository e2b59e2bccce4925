package hba_test

import (
	"fmt"
	"strings"
	"testing"

	corpus "converge/fixtures/hba"
	"converge/resources/hba"
)

func TestTheEnforcingFile(t *testing.T) {
	for _, major := range majors {
		written, want, err := corpus.Enforcing(major)
		if err != nil {
			t.Fatal(err)
		}
		got := hba.Translate(written, hba.Packaged(major), hba.Files{}, nil)
		if string(got.Text) != string(want) {
			t.Errorf("%d: %+v\n%s\nwant\n%s", major, got.Problems, got.Text, want)
		}
		changed := 0
		if major >= 12 {
			changed = 4
		}
		if len(got.Changes) != changed {
			t.Errorf("%d: changes %+v", major, got.Changes)
		}
		again := hba.Translate(got.Text, hba.Packaged(major), hba.Files{}, nil)
		if string(again.Text) != string(got.Text) || len(again.Changes) != 0 {
			t.Errorf("%d: translating the translation changes it: %+v", major, again)
		}
		if f := hba.Parse(want, hba.Packaged(major), hba.Files{}); !f.Loads() || len(f.Rules) != 8 {
			t.Errorf("%d: %+v", major, f.Problems())
		}
	}
}

func TestTranslate(t *testing.T) {
	for _, c := range []struct {
		story      string
		from, to   int // the majors it is so for
		text, want string
	}{
		{"1 is verify-ca", 12, 18, "hostssl a b all md5 clientcert=1", "hostssl a b all md5 clientcert=verify-ca"},
		{"1 stays", 10, 11, "hostssl a b all md5 clientcert=1", "hostssl a b all md5 clientcert=1"},
		{"verify-ca is 1", 10, 11, "hostssl a b all md5 clientcert=verify-ca", "hostssl a b all md5 clientcert=1"},
		{"verify-ca stays", 12, 18, "hostssl a b all md5 clientcert=verify-ca", "hostssl a b all md5 clientcert=verify-ca"},
		{"0 asks for nothing", 14, 18, "hostssl a b all md5 clientcert=0 # old", "hostssl a b all md5 # old"},
		{"no-verify asks for nothing", 14, 18, "hostssl a b all md5 clientcert=no-verify", "hostssl a b all md5"},
		{"0 stays", 10, 13, "hostssl a b all md5 clientcert=0", "hostssl a b all md5 clientcert=0"},
		{"columns, tabs and comments stay", 12, 18, "\thostssl\t a ,  b\tall  md5\tclientcert=1   # because \r\n\n # x\r\n", ""},
		{"in a list", 14, 18, "hostssl a b all gss map=m,clientcert=0,krb_realm=r", "hostssl a b all gss map=m,krb_realm=r"},
		{"before a comma that parts nothing", 14, 18, "hostssl a b all gss clientcert=0 , map=m", "hostssl a b all gss , map=m"},
		{"first of a list with a comma", 14, 18, "hostssl a b all gss clientcert=0,map=m", "hostssl a b all gss map=m"},
		{"in quotes", 14, 18, `hostssl a b all md5 "clientcert=1"`, "hostssl a b all md5 clientcert=verify-ca"},
		{"value in quotes", 14, 18, `hostssl a b all md5 clientcert="1"`, "hostssl a b all md5 clientcert=verify-ca"},
		{"with a mask", 14, 18, "hostssl a b 10.0.0.0 255.0.0.0 md5 clientcert=1", "hostssl a b 10.0.0.0 255.0.0.0 md5 clientcert=verify-ca"},
		{"continued", 14, 18, "hostssl a b all md5 \\\n  clientcert=1 \\\n  # x\n", "hostssl a b all md5 \\\n  clientcert=verify-ca \\\n  # x\n"},
		{"continued and dropped", 14, 18, "hostssl a b all md5 \\\n  clientcert=0\nlocal all all peer\n", "hostssl a b all md5 \\\n  \nlocal all all peer\n"},
		{"given twice alike", 14, 18, "hostssl a b all md5 clientcert=1 clientcert=1", "hostssl a b all md5 clientcert=verify-ca clientcert=verify-ca"},
		{"cert and 1", 12, 18, "hostssl a b all cert clientcert=1", "hostssl a b all cert clientcert=verify-full"},
		{"cert and verify-ca", 14, 18, "hostssl a b all cert clientcert=verify-ca", "hostssl a b all cert clientcert=verify-full"},
		{"cert and verify-ca stays", 12, 13, "hostssl a b all cert clientcert=verify-ca", "hostssl a b all cert clientcert=verify-ca"},
		{"cert and verify-full", 10, 11, "hostssl a b all cert clientcert=verify-full", "hostssl a b all cert clientcert=1"},
		{"CN is what is compared anyway", 12, 13, "hostssl a b all cert clientname=CN", "hostssl a b all cert"},
		{"CN and verify-ca", 10, 11, "hostssl a b all md5 clientcert=verify-ca clientname=CN", "hostssl a b all md5 clientcert=1"},
		{"no GSSAPI encryption to refuse", 10, 11, "hostnogssenc a b all md5", "host a b all md5"},
		{"hostnogssenc stays", 12, 18, "hostnogssenc a b all md5", "hostnogssenc a b all md5"},
		{"a waiver", 10, 11, "hostssl a b all md5 clientcert=verify-full # converge: accept clientcert=verify-ca\n", "hostssl a b all md5 clientcert=1 # converge: accept clientcert=verify-ca\n"},
		{"a waiver that is not needed", 12, 18, "hostssl a b all md5 clientcert=verify-full # converge: accept clientcert=verify-ca\n", "hostssl a b all md5 clientcert=verify-full # converge: accept clientcert=verify-ca\n"},
		{"a waiver that is never needed", 10, 18, "host a b all md5 # converge: accept clientcert=verify-ca clientname=CN", "host a b all md5 # converge: accept clientcert=verify-ca clientname=CN"},
		{"a waiver does not weaken what the version can", 10, 11, "hostssl a b all cert clientcert=verify-full # converge: accept clientcert=verify-ca", "hostssl a b all cert clientcert=1 # converge: accept clientcert=verify-ca"},
		{"a waiver behind a comment, and a reason behind it", 10, 11, "hostssl a b all md5 clientcert=verify-full#apps #converge:  accept clientcert=verify-ca # until June", "hostssl a b all md5 clientcert=1#apps #converge:  accept clientcert=verify-ca # until June"},
		{"a waiver for distinguished names", 10, 13, "hostssl a b all cert clientname=DN # converge: accept clientname=CN", "hostssl a b all cert # converge: accept clientname=CN"},
		{"two demands in one waiver", 10, 11, "hostssl a b all md5 clientname=DN clientcert=verify-full # converge: accept clientcert=verify-ca clientname=CN", "hostssl a b all md5 clientcert=1 # converge: accept clientcert=verify-ca clientname=CN"},
		{"a waiver on a continued line", 14, 18, "hostssl a b all md5 \\\n clientcert=1 # converge: accept clientcert=verify-ca\n", ""},
		{"no waiver: a comment of its own", 10, 18, "# converge: put here by hand\nlocal all all peer\n", "# converge: put here by hand\nlocal all all peer\n"},
		{"no waiver: a word of the rule", 10, 18, `local "# converge: all" all peer`, `local "# converge: all" all peer`},
		{"no final newline", 12, 18, "# a\nhostssl a b all md5 clientcert=1", "# a\nhostssl a b all md5 clientcert=verify-ca"},
		{"a file of comments", 10, 18, "# nothing yet\n", "# nothing yet\n"},
		{"an empty file", 10, 18, "", ""},
	} {
		for major := c.from; major <= c.to; major++ {
			want := c.want
			if want == "" {
				want = strings.Replace(c.text, "clientcert=1", "clientcert=verify-ca", 1)
			}
			got := hba.Translate([]byte(c.text), hba.Packaged(major), hba.Files{}, nil)
			if len(got.Problems) > 0 || string(got.Text) != want {
				t.Errorf("%s, on %d: %+v\n%q, want\n%q", c.story, major, got.Problems, got.Text, want)
			}
			if (len(got.Changes) > 0) != (c.text != want) {
				t.Errorf("%s, on %d: changes %+v", c.story, major, got.Changes)
			}
		}
	}
}

func TestTranslateSaysWhatItChanged(t *testing.T) {
	got := hba.Translate([]byte("# a\r\nhostssl a b all md5 clientcert=1\r\n"), hba.Packaged(16), hba.Files{}, nil)
	want := hba.Change{
		Line: 2, Before: "hostssl a b all md5 clientcert=1", After: "hostssl a b all md5 clientcert=verify-ca",
		Why: "clientcert=1 is the word of PostgreSQL 10 and 11 for verify-ca; 14 and later refuse it",
	}
	if len(got.Changes) != 1 || got.Changes[0] != want {
		t.Errorf("changes %+v", got.Changes)
	}
}

// A waived demand is written as the weaker one, and the change says so.
func TestTranslateSaysWhatIsWaived(t *testing.T) {
	got := hba.Translate([]byte("local all all peer\nhostssl a b all md5 clientcert=verify-full # converge: accept clientcert=verify-ca\n"), hba.Packaged(11), hba.Files{}, nil)
	want := hba.Change{
		Line: 2, Before: "hostssl a b all md5 clientcert=verify-full # converge: accept clientcert=verify-ca", After: "hostssl a b all md5 clientcert=1 # converge: accept clientcert=verify-ca",
		Why: "PostgreSQL 11 cannot compare the certificate with the user beside md5, and takes any certificate of the CA: weaker than what the rule asks, and the line accepts it (# converge: accept clientcert=verify-ca)",
	}
	if len(got.Changes) != 1 || got.Changes[0] != want {
		t.Errorf("%+v", got)
	}
	again := hba.Translate(got.Text, hba.Packaged(11), hba.Files{}, nil)
	if string(again.Text) != string(got.Text) || len(again.Changes) != 0 {
		t.Errorf("translating the translation changes it: %+v", again)
	}
}

type refusal struct {
	story    string
	from, to int // the majors it is so for
	text     string
	line     int    // of the first problem
	message  string // a part of it
	fix      string // a part of it
}

// most is how many problems there may be: a rule broken over lines is several to a server that does not join them.
func (r refusal) most() int {
	if r.story == "continuation" {
		return 2
	}
	return 1
}

// Each refusal has its line, and words that name cause and way out.
func TestTranslateRefuses(t *testing.T) {
	networks := []string{"10.0.0.0/8", "fd00::/8"}
	for _, c := range []refusal{
		{"no address", 12, 18, "hostssl all deploy md5 clientcert=1 # app\n", 1, "no address", "hostssl all deploy 10.0.0.0/8 md5 clientcert=verify-ca\nand hostssl all deploy fd00::/8 md5 clientcert=verify-ca"},
		{"no address, old", 10, 11, "# x\n  hostssl all deploy md5 clientcert=1\n", 2, "no address", "hostssl all deploy 10.0.0.0/8 md5 clientcert=1"},
		{"no address, no option", 10, 18, "host  all\tdeploy  scram-sha-256\n", 1, "no address", "write host  all\tdeploy  10.0.0.0/8 scram-sha-256"},
		{"verify-full beside a password", 10, 11, "hostssl a b all md5 clientcert=verify-full\n", 1, "cannot ask", "method cert"},
		{"verify-full, and how to waive it", 10, 11, "hostssl a b all md5 clientcert=verify-full # x\n", 1, "cannot ask", "at the end of the line: # converge: accept clientcert=verify-ca"},
		{"a waiver of something else", 10, 11, "hostssl a b all md5 clientcert=verify-full # converge: accept clientname=CN\n", 1, "cannot ask", "accept clientcert=verify-ca"},
		{"a waiver in the line above", 10, 11, "# converge: accept clientcert=verify-ca\nhostssl a b all md5 clientcert=verify-full\n", 2, "cannot ask", "accept clientcert=verify-ca"},
		{"a waiver for one of two demands", 10, 11, "hostssl a b all md5 clientname=DN clientcert=verify-full # converge: accept clientcert=verify-ca\n", 1, "common name", "accept clientname=CN"},
		{"a waiver of a contradiction", 10, 18, "hostssl a b all md5 clientcert=verify-full clientcert=1 # converge: accept clientcert=verify-ca\n", 1, "both", "keep one"},
		{"a waiver of a value that nobody knows", 10, 11, "hostssl a b all md5 clientcert=full # converge: accept clientcert=verify-ca\n", 1, "counts as off", "clientcert=1"},
		{"a waiver of a name that nobody knows", 10, 13, "hostssl a b all cert clientname=UID # converge: accept clientname=CN\n", 1, "common name", "map"},
		{"a waiver without an address", 10, 11, "hostssl a b md5 clientcert=verify-full # converge: accept clientcert=verify-ca\n", 1, "no address", "10.0.0.0/8 md5 clientcert=verify-full # converge: accept clientcert=verify-ca"},
		{"an empty waiver", 10, 18, "local all all peer # converge:\n", 1, "nothing follows", "accept clientcert=verify-ca"},
		{"a waiver of another word", 10, 18, "local all all peer\nlocal all all md5 # converge: allow clientcert=verify-ca\n", 2, `says "allow"`, "accept clientcert=verify-ca"},
		{"a waiver of nothing", 10, 18, "local all all peer # converge: accept\n", 1, "accepts nothing", "accept clientcert=verify-ca"},
		{"a waiver of everything", 10, 18, "hostssl a b all md5 clientcert=verify-full # converge: accept clientcert=no-verify\n", 1, `accepts "clientcert=no-verify"`, "accept clientcert=verify-ca"},
		{"a waiver with its reason in it", 10, 18, "hostssl a b all md5 # converge: accept clientcert=verify-ca for now\n", 1, `accepts "for"`, "another #"},
		{"a value that counts as off", 10, 11, "hostssl a b all md5 clientcert=yes\n", 1, "counts as off", "clientcert=1"},
		{"a value that nobody knows", 12, 18, "hostssl a b all md5 clientcert=yes\n", 1, "invalid value for clientcert", ""},
		{"contradiction", 10, 18, "hostssl a b all md5 clientcert=1 clientcert=0\n", 1, "both", "keep one"},
		{"distinguished names", 10, 13, "hostssl a b all cert clientname=DN\n", 1, "common name", "map"},
		{"GSSAPI encryption", 10, 11, "hostgssenc a b all gss\n", 1, "came with 12", "remove"},
		{"include", 10, 15, "include x\n", 1, "came with 16", "here"},
		{"regular expression", 10, 15, "host /a b all reject\n", 1, "came with 16", "list"},
		{"continuation", 10, 13, "local all all \\\npeer\n", 1, "does not join", "one line"},
		{"comment in a backslash", 10, 18, "# a\\\nlocal all all peer\n", 1, "comment ends in a backslash", "backslash"},
		{"last line in a backslash", 10, 18, "local all all peer\n# a\\\n", 2, "last line", "backslash"},
		{"last rule in a backslash", 10, 18, "local all all peer \\", 1, "last line", "backslash"},
		{"byte order mark", 10, 18, "\ufefflocal all all peer\n", 1, "byte order mark", "UTF-8"},
		{"NUL", 10, 18, "local all all peer\n\x00\n", 2, "NUL", "remove"},
		{"lone CR", 10, 18, "local all all peer\rlocal all all peer\n", 1, "carriage return", "newline"},
		{"Latin-1", 10, 18, "# f\xfcr\nlocal all all peer\n", 1, "not UTF-8", "UTF-8"},
		{"a method nobody knows", 10, 18, "host a b all certificate\n", 1, "invalid authentication method", `"cert"`},
		{"an upper case method", 10, 18, "host a b all MD5\n", 1, "invalid authentication method", "md5"},
		{"a method of later", 10, 17, "host a b all oauth\n", 1, "invalid authentication method", "18"},
		{"a missing mask", 10, 18, "host a b 10.0.0.0\n", 1, "netmask", "bits"},
		{"an unknown type", 10, 18, "hosts a b all md5\n", 1, "invalid connection type", "hostssl"},
	} {
		for major := c.from; major <= c.to; major++ {
			got := hba.Translate([]byte(c.text), hba.Packaged(major), hba.Files{}, networks)
			if got.Text != nil || len(got.Problems) == 0 || len(got.Problems) > c.most() {
				t.Errorf("%s, on %d: %+v", c.story, major, got)
				continue
			}
			p := got.Problems[0]
			if p.Line != c.line || !strings.Contains(p.Message, c.message) || !strings.Contains(p.Fix, c.fix) || c.fix != "" && p.Fix == "" {
				t.Errorf("%s, on %d: %+v", c.story, major, p)
			}
		}
	}
}

// A waiver speaks of its own line, and not of the file that an option stands in.
func TestWaiverOfAnOptionInAFile(t *testing.T) {
	files := memory(map[string]string{"opts": "clientcert=verify-full\n"})
	got := hba.Translate([]byte("hostssl a b all md5 @opts # converge: accept clientcert=verify-ca\n"), hba.Packaged(10), files, nil)
	if len(got.Problems) != 1 || !strings.Contains(got.Problems[0].Message, "/etc/opts") || got.Problems[0].Fix != "write the option in the line" {
		t.Errorf("%+v", got)
	}
}

func TestTranslateNamesTheFileOfAnOption(t *testing.T) {
	files := memory(map[string]string{"opts": "clientcert=1\n"})
	got := hba.Translate([]byte("hostssl a b all md5 @opts\n"), hba.Packaged(14), files, nil)
	if len(got.Problems) != 1 || !strings.Contains(got.Problems[0].Message, "/etc/opts") {
		t.Errorf("%+v", got)
	}
}

// All problems of a file come at once, in the order of the lines.
func TestTranslateRefusesAllAtOnce(t *testing.T) {
	got := hba.Translate([]byte("hosts a b\nhostssl a b all md5 clientcert=1 clientcert=0\nlocal x\n"), hba.Packaged(14), hba.Files{}, nil)
	var lines []string
	for _, p := range got.Problems {
		lines = append(lines, fmt.Sprint(p.Line))
	}
	if strings.Join(lines, " ") != "1 2 3" {
		t.Errorf("%+v", got.Problems)
	}
}
