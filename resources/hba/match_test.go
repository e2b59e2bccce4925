package hba_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"converge/resources/hba"
)

// from gives an address; local gives the unix socket's.
func from(text string) netip.Addr {
	if text == "local" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(text)
}

var memberOf = map[string][]string{"alice": {"ops", "admins"}, "bob": {"db1"}}

// town is a small world of roles, interfaces and names.
var town = hba.Facts{
	Member: func(user, role string) bool {
		return user == role && user != "ghost" || slices.Contains(memberOf[user], role)
	},
	Interfaces: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("10.0.1.7/24"), netip.MustParsePrefix("fe80::1/64")},
	HostName: func(a netip.Addr) string {
		return map[string]string{"10.0.1.9": "db-2.Example.com", "10.0.1.10": "example.com"}[a.String()]
	},
}

// lineOf is the line that matches, 0 for none.
func lineOf(t testing.TB, f *hba.File, c hba.Connection, facts hba.Facts) int {
	t.Helper()
	r, err := f.Match(c, facts)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return 0
	}
	return r.Line
}

func TestMatch(t *testing.T) {
	long := strings.Repeat("l", 63)
	for _, c := range []struct {
		why  string
		text string
		from string
		c    hba.Connection
		want int
	}{
		{"the first one counts", "local all bob trust\nlocal all all reject\nlocal all all trust\n", "local", hba.Connection{User: "alice", Database: "x"}, 2},
		{"none", "local all all trust\n", "127.0.0.1", hba.Connection{User: "alice"}, 0},
		{"socket", "host all all all trust\nlocal all all trust\n", "local", hba.Connection{User: "alice"}, 2},

		{"hostssl with TLS", "hostnossl all all all trust\nhostssl all all all trust\n", "10.0.0.1", hba.Connection{User: "a", TLS: true}, 2},
		{"hostssl without", "hostssl all all all trust\nhostnossl all all all trust\n", "10.0.0.1", hba.Connection{User: "a"}, 2},
		{"host either way", "host all all all trust\n", "10.0.0.1", hba.Connection{User: "a", TLS: true}, 1},
		{"GSS is no TLS", "hostssl all all all trust\nhostnogssenc all all all trust\nhostnossl all all all trust\n", "10.0.0.1", hba.Connection{User: "a", GSS: true}, 3},
		{"hostgssenc", "hostgssenc all all all trust\n", "10.0.0.1", hba.Connection{User: "a", GSS: true}, 1},
		{"hostgssenc without", "hostgssenc all all all trust\nhostnogssenc all all all trust\n", "10.0.0.1", hba.Connection{User: "a", TLS: true}, 2},

		{"a network", "host all all 10.0.1.0/24 trust\nhost all all 10.0.0.0/16 trust\n", "10.0.2.1", hba.Connection{User: "a"}, 2},
		{"bits outside the mask", "host all all 10.1.2.3/8 trust\n", "10.9.9.9", hba.Connection{User: "a"}, 1},
		{"a mask with holes", "host all all 10.0.0.9 255.0.0.255 trust\n", "10.7.7.9", hba.Connection{User: "a"}, 1},
		{"a mask with holes, outside", "host all all 10.0.0.9 255.0.0.255 trust\n", "10.7.7.8", hba.Connection{User: "a"}, 0},
		{"an IPv4 rule and a mapped client", "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n", "::ffff:10.0.0.1", hba.Connection{User: "a"}, 2},
		{"a mapped rule and an IPv4 client", "host all all ::ffff:10.0.0.1/128 trust\nhost all all 10.0.0.1/32 trust\n", "10.0.0.1", hba.Connection{User: "a"}, 2},
		{"a zone does not count", "host all all fe80::1/128 trust\n", "fe80::1%eth0", hba.Connection{User: "a"}, 1},

		{"samehost", "host all all samehost trust\n", "10.0.1.7", hba.Connection{User: "a"}, 1},
		{"a neighbour is no samehost", "host all all samehost trust\nhost all all samenet trust\n", "10.0.1.8", hba.Connection{User: "a"}, 2},
		{"samenet ends", "host all all samenet trust\n", "10.0.2.8", hba.Connection{User: "a"}, 0},
		{"samehost with a zone", "host all all samehost trust\n", "fe80::1%eth0", hba.Connection{User: "a"}, 1},
		{"samenet with a zone", "host all all samenet trust\n", "fe80::2%eth1", hba.Connection{User: "a"}, 1},

		{"a name in any case", "host all all DB-2.example.COM trust\n", "10.0.1.9", hba.Connection{User: "a"}, 1},
		{"a suffix", "host all all .EXAMPLE.com trust\n", "10.0.1.9", hba.Connection{User: "a"}, 1},
		{"a suffix needs something before it", "host all all .example.com trust\nhost all all example.com trust\n", "10.0.1.10", hba.Connection{User: "a"}, 2},
		{"no name", "host all all .example.com trust\n", "10.0.1.11", hba.Connection{User: "a"}, 0},

		{"the database of the user's name", "local alice all trust\n", "local", hba.Connection{User: "alice"}, 1},
		{"sameuser", "local sameuser all trust\n", "local", hba.Connection{User: "alice", Database: "alice"}, 1},
		{"sameuser is another", "local sameuser all trust\n", "local", hba.Connection{User: "alice", Database: "bob"}, 0},
		{"quoted sameuser", "local \"sameuser\" all trust\n", "local", hba.Connection{User: "alice", Database: "sameuser"}, 1},
		{"samerole", "local samerole all trust\n", "local", hba.Connection{User: "bob", Database: "db1"}, 1},
		{"samegroup", "local samegroup all trust\n", "local", hba.Connection{User: "alice", Database: "admins"}, 1},
		{"samerole of a stranger", "local samerole all trust\n", "local", hba.Connection{User: "ghost", Database: "ghost"}, 0},
		{"a group", "local all +admins trust\n", "local", hba.Connection{User: "alice"}, 1},
		{"a group itself", "local all +bob trust\n", "local", hba.Connection{User: "bob"}, 1},
		{"a quoted group is a name", "local all \"+admins\" trust\nlocal all all trust\n", "local", hba.Connection{User: "+admins"}, 1},
		{"half quoted", "local all +\"admins\" trust\n", "local", hba.Connection{User: "alice"}, 1},
		{"half quoted the other way", "local all \"+\"admins trust\n", "local", hba.Connection{User: "alice"}, 0},
		{"a plus is nobody", "local all + trust\n", "local", hba.Connection{User: "+"}, 0},
		{"quoted all", "local \"all\" \"all\" trust\n", "local", hba.Connection{User: "all", Database: "all"}, 1},
		{"case counts", "local all Alice trust\n", "local", hba.Connection{User: "alice"}, 0},

		{"replication", "local all all trust\nlocal replication all trust\n", "local", hba.Connection{User: "a", Database: "x", Replication: true}, 2},
		{"quoted replication", "local \"replication\",/replication all trust\n", "local", hba.Connection{User: "a", Database: "replication", Replication: true}, 0},
		{"replication is no database", "local replication all trust\nlocal \"replication\" all trust\n", "local", hba.Connection{User: "a", Database: "replication"}, 2},
		{"replication with sameuser", "local sameuser,samerole a trust\n", "local", hba.Connection{User: "a", Database: "a", Replication: true}, 0},

		{"a long name is cut", "local all " + long + "l trust\nlocal all " + long + " trust\n", "local", hba.Connection{User: long + "llll"}, 2},
		{"within a character", "local all /^m{62}.$ trust\n", "local", hba.Connection{User: strings.Repeat("m", 62) + "é"}, 1},
		{"both are cut the same", "local sameuser all trust\n", "local", hba.Connection{User: long + "x", Database: long + "y"}, 1},

		{"an expression", "local /^db[0-9]$ all trust\n", "local", hba.Connection{User: "a", Database: "db7"}, 1},
		{"an expression of the user", "local all bob,/^a trust\n", "local", hba.Connection{User: "alice"}, 1},
		{"a quoted expression", "local all \"/^a,b$\" trust\n", "local", hba.Connection{User: "a,b"}, 1},
	} {
		t.Run(c.why, func(t *testing.T) {
			f := parse(18, c.text)
			c.c.From = from(c.from)
			if got := lineOf(t, f, c.c, town); got != c.want {
				t.Errorf("line %d, want %d of\n%s", got, c.want, c.text)
			}
		})
	}
}

// Up to 15 a slash begins a name.
func TestExpressionsAreNamesBefore16(t *testing.T) {
	text := "local all /^a trust\n"
	for _, major := range majors {
		got := lineOf(t, parse(major, text), hba.Connection{User: "/^a"}, hba.Facts{})
		other := lineOf(t, parse(major, text), hba.Connection{User: "alice"}, hba.Facts{})
		if name := major < 16; name != (got == 1) || name == (other == 1) {
			t.Errorf("%d: /^a matches the user /^a: %v, alice: %v", major, got == 1, other == 1)
		}
	}
}

// Without facts nothing that depends on them matches.
func TestMatchWithoutFacts(t *testing.T) {
	f := parse(16, "host samerole all all trust\nhost all +a all trust\nhost all all samehost trust\nhost all all samenet trust\nhost all all localhost trust\nhost all all .example trust\n")
	if got := lineOf(t, f, hba.Connection{From: from("127.0.0.1"), User: "a", Database: "a"}, hba.Facts{}); got != 0 {
		t.Errorf("line %d", got)
	}
}

// A rule that cannot match on this server is passed over, whatever the connection is said to be.
func TestRulesThatCannotMatchDoNot(t *testing.T) {
	server := hba.Server{Major: 15, Build: hba.Build{SSL: true}, SSLOff: true}
	f := hba.Parse([]byte("hostssl all all all md5\nhostgssenc all all all md5\nhost all all all md5\n"), server, hba.Files{})
	for _, c := range []hba.Connection{{TLS: true}, {GSS: true}, {}} {
		c.From, c.User = from("10.0.0.1"), "a"
		if got := lineOf(t, f, c, hba.Facts{}); got != 3 {
			t.Errorf("line %d for %+v", got, c)
		}
	}
}

func TestMatchFindsIncludedRules(t *testing.T) {
	files := memory(map[string]string{"b.conf": "\nlocal all @users trust\n", "users": "alice, \"+x\"\n"})
	f := hba.Parse([]byte("include b.conf\nlocal all all reject\n"), hba.Packaged(16), files)
	r, err := f.Match(hba.Connection{User: "alice"}, hba.Facts{})
	if err != nil || r == nil || r.File != "/etc/b.conf" || r.Line != 2 {
		t.Errorf("rule %+v, error %v", r, err)
	}
}

// The lookup of a client's name takes time: it is asked for once, and only when a rule needs it.
func TestHostNameIsAskedOnce(t *testing.T) {
	asked := 0
	facts := hba.Facts{HostName: func(netip.Addr) string { asked++; return "" }}
	f := parse(15, "host all all 10.0.0.0/8 trust\nhost all all a.example trust\nhost all all .example trust\n")
	lineOf(t, f, hba.Connection{From: from("10.0.0.1"), User: "a"}, facts)
	if asked != 0 {
		t.Errorf("asked %d times before a rule needed it", asked)
	}
	lineOf(t, f, hba.Connection{From: from("11.0.0.1"), User: "a"}, facts)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestDemand(t *testing.T) {
	for _, c := range []struct {
		major  int
		rule   string
		want   string
		admits [3]bool // without a certificate, with another's, with the user's own
	}{
		{16, "hostssl all all all reject", "rejected", [3]bool{}},
		{16, "hostssl all all all reject clientcert=verify-ca", "rejected", [3]bool{}},
		{16, "host all all all trust", "nothing", [3]bool{true, true, true}},
		{16, "host all all all scram-sha-256", "a password", [3]bool{true, true, true}},
		{16, "local all all peer", "the system user", [3]bool{true, true, true}},
		{16, "hostssl all all all cert", "the user's own certificate", [3]bool{false, false, true}},
		{11, "hostssl all all all cert", "the user's own certificate", [3]bool{false, false, true}},
		{16, "hostssl all all all trust clientcert=verify-ca", "any certificate of the CA", [3]bool{false, true, true}},
		{16, "hostssl all all all md5 clientcert=verify-ca", "a password and any certificate of the CA", [3]bool{false, true, true}},
		{16, "hostssl all all all md5 clientcert=verify-full", "a password and the user's own certificate", [3]bool{false, false, true}},
		{13, "hostssl all all all md5 clientcert=1", "a password and any certificate of the CA", [3]bool{false, true, true}},
		{13, "hostssl all all all md5 clientcert=no-verify", "a password", [3]bool{true, true, true}},
		{11, "hostssl all all all md5 clientcert=1", "a password and any certificate of the CA", [3]bool{false, true, true}},
		{11, "hostssl all all all md5 clientcert=verify-full", "a password", [3]bool{true, true, true}},
		{15, "hostssl all all all gss", "a Kerberos ticket", [3]bool{true, true, true}},
	} {
		f := parse(c.major, c.rule+"\n")
		if !f.Loads() {
			t.Fatalf("%q: %+v", c.rule, f.Problems())
		}
		d := f.Rules[0].Demand()
		if d.String() != c.want {
			t.Errorf("%q on %d asks for %q, want %q", c.rule, c.major, d, c.want)
		}
		for i, shown := range []hba.Certificate{hba.NoCertificate, hba.TrustedByTheCA, hba.CertifiesTheUser} {
			if got := d.Admits(shown); got != c.admits[i] {
				t.Errorf("%q on %d admits %v with certificate %d, want %v", c.rule, c.major, got, shown, c.admits[i])
			}
		}
	}
}

// manyKinds are n rules of all kinds; none matches the connection of lastOfMany but the last.
func manyKinds(n int) []byte {
	var b bytes.Buffer
	for i := range n - 1 {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "hostssl db%d,other user%d,+group 10.%d.%d.%d/32 scram-sha-256\n", i%7, i%1000, i>>16, i>>8&255, i&255)
		case 1:
			fmt.Fprintf(&b, "host all +group%d 192.0.2.0/24 scram-sha-256\n", i%100)
		case 2:
			fmt.Fprintf(&b, "host \"/^(db|x)_[0-9]{1,3}_%d$\" /^app.*%d$ all scram-sha-256\n", i, i)
		case 3:
			fmt.Fprintf(&b, "host samerole,sameuser \"/^(.)\\1%d\" .example%d.com scram-sha-256\n", i, i)
		}
	}
	fmt.Fprintln(&b, "host all all all reject")
	return b.Bytes()
}

var lastOfMany = hba.Connection{From: netip.MustParseAddr("192.0.2.1"), TLS: true, User: "app_server_1", Database: "db_17_x"}

func BenchmarkMatch(b *testing.B) {
	f := hba.Parse(manyRules(100_000), hba.Packaged(16), hba.Files{})
	c := hba.Connection{From: from("10.1.134.159"), TLS: true, User: "user999", Database: "db4"}
	for b.Loop() {
		lineOf(b, f, c, town)
	}
}

func BenchmarkMatchManyKinds(b *testing.B) {
	f := hba.Parse(manyKinds(100_000), hba.Packaged(16), hba.Files{})
	for b.Loop() {
		lineOf(b, f, lastOfMany, town)
	}
}

func BenchmarkMatchBatch(b *testing.B) {
	f := hba.Parse(manyKinds(200), hba.Packaged(16), hba.Files{})
	for b.Loop() {
		for range 1000 {
			lineOf(b, f, lastOfMany, town)
		}
	}
}
