package hba_test

import (
	"fmt"
	"strings"
	"testing"

	"converge/resources/hba"
)

// Each case gives the lints of a file as "line name", in their order.
func TestLints(t *testing.T) {
	for _, c := range []struct {
		story string
		major int
		text  string
		want  string
	}{
		{"up to 11 verify-ca asks for nothing", 10, "hostssl all all all md5 clientcert=verify-ca\n", "1 clientcert-ignored"},
		{"1 asks, for any certificate", 11, "hostssl all all all md5 clientcert=1\n", "1 certificate-not-bound"},
		{"0 says what it does", 11, "hostssl all all all md5 clientcert=0\n", ""},
		{"verify-ca takes any certificate", 16, "hostssl all all all md5 clientcert=verify-ca\n", "1 certificate-not-bound"},
		{"verify-full ties it", 16, "hostssl all all all md5 clientcert=verify-full\n", ""},
		{"cert ties it", 10, "hostssl all all all cert\n", ""},
		{"a comment swallows a rule", 14, "# C:\\dir\\\nlocal all all reject\nlocal all all peer\n", "1 comment-swallows-line"},
		{"a comment swallows nothing", 14, "# C:\\dir\\\n\nlocal all all peer\n", ""},
		{"a comment will swallow", 13, "# C:\\dir\\\nlocal all all peer\n", "1 comment-swallows-line"},
		{"a comment after a rule", 18, "local a all peer # C:\\\nlocal all all peer\n", "1 comment-swallows-line"},
		{"trust over TCP", 15, "hostssl all all 10.0.0.0/8 trust\n", "1 trust-over-tcp"},
		{"trust on the socket", 15, "local all all trust\n", ""},
		{"covered by all", 15, "hostssl all all all cert\nhostssl db u 10.0.0.0/8 cert\n", "2 never-matches"},
		{"covered by a wider network", 15, "hostssl all u 10.0.0.0/8 cert\nhostssl db u 10.1.0.0 255.255.0.0 cert\n", "2 never-matches"},
		{"not covered by a narrower one", 15, "hostssl all u 10.1.0.0/16 cert\nhostssl db u 10.0.0.0/8 cert\n", ""},
		{"the other family", 15, "hostssl all u 0.0.0.0/0 cert\nhostssl all u ::/0 cert\n", ""},
		{"all does not cover replication", 15, "hostssl all all all cert\nhostssl replication all all cert\n", ""},
		{"all covers a database of that name", 15, "hostssl all all all cert\nhostssl \"replication\" all all cert\n", "2 never-matches"},
		{"host is covered by two halves", 15, "hostssl all all all cert\nhostnossl all all all reject\nhost all all all scram-sha-256\n", "3 never-matches"},
		{"one half is not enough", 15, "hostssl all all all cert\nhost all all all reject\n", ""},
		{"a list is covered by a list", 15, "local a,b,c all peer\nlocal b,c u peer\nlocal b,d u peer\n", "2 never-matches"},
		{"samehost is in samenet", 15, "hostssl all all samenet cert\nhostssl all all samehost cert\n", "2 never-matches"},
		{"a rule that is TLS-only and no TLS", 15, "hostssl all all all cert\n", ""},
		{"plaintext is taken", 15, "host all all 10.0.0.0/8 scram-sha-256\n", "1 plaintext-accepted"},
		{"plaintext is rejected before", 15, "hostnossl all all all reject\nhost all all 10.0.0.0/8 scram-sha-256\n", ""},
		{"plaintext on this host", 15, "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n", ""},
		{"ALL is a name", 15, "local ALL ALL peer\n", "1 keyword-case, 1 keyword-case"},
		{"quoted ALL is meant", 15, "local \"ALL\" all peer\n", ""},
		{"a quoted regular expression", 16, "local \"/^a\" all peer\n", "1 quoted-regex"},
		{"a regular expression", 16, "local /^a all peer\n", ""},
		{"a regular expression of later", 15, "local /^a all peer\n", "1 regex-from-16"},
		{"an address that is none", 15, "hostssl all all 256.1.1.1 cert\nhostssl all all 10.0.0.* cert\nhostssl all all [::1] cert\n", "1 host-name-odd, 2 host-name-odd, 3 host-name-odd"},
		{"a method for an address", 15, "hostssl all deploy md5 cert\n", "1 host-name-odd"},
		{"a keyword in another case", 15, "hostssl all all SameHost cert\n", "1 host-name-odd"},
		{"a host name", 15, "hostssl all all db.example.com cert\nhostssl all all .example.com cert\n", ""},
		{"10/8", 15, "hostssl all all 10/8 cert\nhostssl all all 010.0.0.0/8 cert\nhostssl all all 10.0.0.0/8 cert\n", "1 address-shorthand, 2 address-shorthand"},
		{"comments come in order", 14, "hostssl all all 10/8 cert\n# \\\nlocal all all peer\nhostssl all all 11.1/16 cert\n", "1 address-shorthand, 2 comment-swallows-line, 4 address-shorthand"},
	} {
		var got []string
		for _, l := range parse(c.major, c.text).Lints() {
			got = append(got, fmt.Sprintf("%d %s", l.Line, l.Name))
			if l.Message == "" || strings.Contains(l.Message, "%!") {
				t.Errorf("%s: message %q", c.story, l.Message)
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %q, want %q", c.story, strings.Join(got, ", "), c.want)
		}
	}
}

func TestARuleThatCannotMatchHere(t *testing.T) {
	server := hba.Packaged(15)
	server.SSLOff = true
	lints := hba.Parse([]byte("hostssl all all all cert\n"), server, hba.Files{}).Lints()
	if len(lints) != 1 || lints[0].Name != hba.NeverMatches {
		t.Errorf("lints: %+v", lints)
	}
}
