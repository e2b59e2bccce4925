package hba

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// told is a difference in the words for people, a line a group.
func told(d *Difference) string {
	var b strings.Builder
	for _, g := range d.Groups() {
		fmt.Fprintf(&b, "%s: %s; %s; %s; %s: %s, %s\n", g.Effect, g.Users, g.Databases, g.From, g.Connections, lines(g.Before), lines(g.After))
	}
	return b.String()
}

func lines(rules []*Rule) string {
	if len(rules) == 0 {
		return "none"
	}
	text := rules[0].Method
	for _, r := range rules {
		text += fmt.Sprintf(" %d", r.Line)
	}
	return text
}

func TestDiffInWords(t *testing.T) {
	for _, c := range []struct{ story, before, after, want string }{
		{"the same", "local all all peer\n", "# a comment\nlocal all all peer\n", ""},
		{"other words", "host all a 10.0.0.0/8 md5\n", "hostssl all a 10.0.0.0 255.0.0.0 md5\nhostnossl all a 10.0.0.0/8 md5\n", ""},
		{"rejected or not named is the same", "host all all all reject\n", "local all all reject\n", ""},
		{"a line moves behind one that takes all", "host all a all md5\nhost all all all reject\n", "host all all all reject\nhost all a all md5\n",
			"loses: a; all databases; any address; over TCP: md5 1, reject 1\n"},
		{"everybody loses plaintext", "host all all all md5\n", "hostssl all all all md5\n",
			"loses: everyone; all databases; any address; without TLS: md5 1, none\n"},
		{"all but one", "local all all peer\n", "local all a peer\nlocal all all reject\n",
			"loses: everyone but a; all databases; ; through the unix socket: peer 1, reject 2\n"},
		{"a network in a network", "host all all 10.0.0.0/8 md5\n", "host all all 10.1.0.0/16 md5\n",
			"loses: everyone; all databases; 10.0.0.0/8 but not 10.1.0.0/16; over TCP: md5 1, none\n"},
		{"networks in the rest and in the exception", "host all all 10.0.0.0/8 md5\nhost x all 10.2.0.0/16 md5\n",
			"host all all 10.1.1.0/24 reject\nhost all all 10.1.0.0/16 md5\nhost all all 10.0.0.0/8 reject\n",
			"loses: everyone; all databases; 10.0.0.0/8 but not 10.1.0.0/16, 10.1.1.0/24; over TCP: md5 1, reject 1 3\n"},
		{"a network that is full of others", "host all all 10.0.0.0/8 md5\n", "host all all 10.0.0.0/9 md5\nhost all all 10.128.0.0/9 reject\n",
			"loses: everyone; all databases; 10.128.0.0/9; over TCP: md5 1, reject 2\n"},
		{"two lines say the same for two", "host all a all md5\nhost all b all md5\n", "host all a,b all scram-sha-256\n",
			"method: a, b; all databases; any address; over TCP: md5 1 2, scram-sha-256 1\n"},
		{"options count", "hostssl all a all md5\n", "hostssl all a all md5 clientcert=verify-ca\n",
			"method: a; all databases; any address; over TLS: md5 1, md5 1\n"},
		{"replication", "host all,replication r all md5\n", "host all r all md5\n",
			"loses: r; replication; any address; over TCP: md5 1, none\n"},
		{"losses first", "local all a peer\nlocal all b peer\n", "local all b md5\nlocal all c peer\n",
			"loses: a; all databases; ; through the unix socket: peer 1, none\n" +
				"gains: c; all databases; ; through the unix socket: none, peer 2\n" +
				"method: b; all databases; ; through the unix socket: peer 2, md5 1\n"},
		{"a role", "local all +g peer\n", "local all +g,a peer\n", "gains: a; all databases; ; through the unix socket: none, peer 1\n"},
		{"nobody who is one thing is concerned", "local all a md5\n", "local all +g reject\nlocal all a md5\n",
			"loses: a and +g; all databases; ; through the unix socket: md5 1, reject 1\n"},
		{"two roles", "local all +g md5\n", "local all +h reject\nlocal all +g md5\n",
			"loses: +g and +h; all databases; ; through the unix socket: md5 1, reject 1\n"},
		{"the own database", "local all all peer\n", "local sameuser all peer\n",
			"loses: everyone; all databases but sameuser; ; through the unix socket: peer 1, none\n"},
		{"an own database that is named", "local all all peer\n", "local sameuser all peer\nlocal a b peer\n",
			"loses: everyone but a, b; a; ; through the unix socket: peer 1, none\n" +
				"loses: everyone; all databases but a, sameuser; ; through the unix socket: peer 1, none\n"},
		{"a regular expression", "local all all peer\n", "local all /^app_ reject\nlocal all all peer\n",
			"loses: /^app_; all databases; ; through the unix socket: peer 1, reject 1\n"},
		{"one that matches all", "local all all peer\n", "local all / reject\nlocal all all peer\n",
			"loses: everyone; all databases; ; through the unix socket: peer 1, reject 1\n"},
		{"a name of a host", "host all all h.example md5\n", "host all all .example md5\n",
			"gains: everyone; all databases; host .example; over TCP: none, md5 1\n"},
		{"this host", "host all all samenet md5\n", "host all all samehost md5\n",
			"loses: everyone; all databases; samenet; over TCP: md5 1, none\n"},
		{"a network and this host", "host all all 10.0.0.0/8 md5\nhost all all samenet reject\n", "host all all 10.0.0.0/8 trust\nhost all all samehost reject\n",
			"method: everyone; all databases; 10.0.0.0/8; over TCP: md5 1, trust 1\n"},
		{"only this host in a network", "host all all 10.0.0.0/8 md5\n", "host all all samehost reject\nhost all all 10.0.0.0/8 md5\n",
			"loses: everyone; all databases; 10.0.0.0/8 and samehost; over TCP: md5 1, reject 1\n"},
		{"a host, wherever it is", "host all all h.example md5\nhost all all 10.0.0.0/8 md5\n", "host all all h.example reject\nhost all all 10.0.0.0/8 md5\n",
			"loses: everyone; all databases; host h.example; over TCP: md5 1, reject 1\n"},
		{"this network, whatever the host", "host all all samenet md5\nhost all all h.example md5\n", "host all all samenet reject\nhost all all h.example md5\n",
			"loses: everyone; all databases; samenet; over TCP: md5 1, reject 1\n"},
		{"three things at once", "local sameuser +g md5\n", "local a +h reject\nlocal sameuser +g md5\n",
			"loses: a and +g and +h; a; ; through the unix socket: md5 1, reject 1\n"},
		{"a regular expression and the own name", "local all all md5\nlocal sameuser all md5\n", "local /^a all reject\nlocal all all md5\nlocal sameuser all md5\n",
			"loses: everyone; /^a; ; through the unix socket: md5 1, reject 1\nloses: /^a; sameuser; ; through the unix socket: md5 1, reject 1\n"},
		{"the families are apart", "host all all 0.0.0.0/0 md5\n", "host all all all md5\n",
			"gains: everyone; all databases; any address but not 0.0.0.0/0; over TCP: none, md5 1\n"},
		{"names that look like words", "local \"all\" \"+g\" peer\nlocal b \"any other\" peer\n", "local b \"/x\" peer\n",
			"loses: \"+g\"; \"all\"; ; through the unix socket: peer 1, none\n" +
				"loses: \"any other\"; b; ; through the unix socket: peer 2, none\n" +
				"gains: \"/x\"; b; ; through the unix socket: none, peer 1\n"},
	} {
		major := 16
		if strings.Contains(c.story, "look like words") {
			major = 15 // "/x" is a name
		}
		d := Diff(Parse([]byte(c.before), Packaged(major), Files{}), Parse([]byte(c.after), Packaged(major), Files{}), Names{})
		if got := told(d); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.story, got, c.want)
		}
		if len(d.Limits) > 0 {
			t.Errorf("%s: %q", c.story, d.Limits)
		}
	}
}

// Who is to be told apart from any other can be said besides the files.
func TestDiffTellsMoreApart(t *testing.T) {
	f := parseTexts("host all all all md5\n", "hostssl all all all md5\n")
	d := Diff(f[0], f[1], Names{Users: []string{"u"}, Databases: []string{"d"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.1.7/32")}})
	c := d.Changes[0]
	if !slices.Equal(c.Users, []string{"u", anyOther}) || !slices.Equal(c.Databases, []string{"d", anyOther}) || !slices.Equal(c.From, []string{anyOther, "10.0.1.7/32"}) {
		t.Errorf("%+v", c)
	}
}

// What is not compared is said, and what is listed is true even then.
func TestDiffSaysWhereItEnds(t *testing.T) {
	p := pools["names"]
	for seed := range 20 {
		r := newRand(seed)
		before, after := p.file(r, 40), p.file(r, 40)
		f := parseTexts(before, after)
		for steps := 1; ; steps *= 3 {
			d := diff(f[0], f[1], Names{}, steps)
			back(t, d, before, after)
			if len(d.Limits) == 0 {
				break
			}
		}
	}
	f := parseTexts("local all /(?=a)b peer\n", "local all all reject\n")
	if d := Diff(f[0], f[1], Names{}); len(d.Limits) != 1 || !strings.Contains(d.Limits[0], "/(?=a)b") {
		t.Errorf("an expression that matches nothing: %q", d.Limits)
	}
}

// A mask need not be that of a network.
func TestDiffOfOddMasks(t *testing.T) {
	files := []string{
		"host all all 10.0.0.5 255.0.0.255 md5\n",
		"host all all 10.0.0.0/8 reject\nhost all all 10.0.0.5 255.0.0.255 md5\n",
		"host all all 10.1.0.5/32 reject\nhost all all 10.1.0.6/32 reject\nhost all all 10.0.0.5 255.0.0.255 md5\n",
		"host all all 10.0.0.5 255.0.0.255 md5\nhost all all 10.1.0.5/32 trust\nhost all all 10.0.0.0/8 trust\n",
		"host all all 10.0.0.5 255.0.0.255 reject\nhost all all all md5\n",
	}
	addresses := []string{"10.0.0.5", "10.1.0.5", "10.1.0.6", "10.9.9.9", "10.9.9.5", "11.0.0.5", "::1"}
	for _, before := range files {
		for _, after := range files {
			d := diffOf(t, before, after)
			back(t, d, before, after)
			f := parseTexts(before, after)
			for _, a := range addresses {
				who := &client{Connection: Connection{User: "u", Database: "d", From: netip.MustParseAddr(a)}}
				was, is := who.meets(t, f[0]), who.meets(t, f[1])
				said := slices.ContainsFunc(d.Changes, func(c AccessChange) bool {
					return c.Connection == "plaintext" && sameLine(c.Before, was) && sameLine(c.After, is)
				})
				if decided(was, is) != noEffect && !said {
					t.Errorf("%s met %s and meets %s; no change says so\n%s", a, line(was), line(is), show(d, before, after))
				}
			}
		}
	}
}

// The same files give the same words, whatever the order of maps is.
func TestDiffIsStable(t *testing.T) {
	for name, p := range pools {
		r := newRand(7)
		before, after := p.file(r, 12), p.file(r, 12)
		first := ""
		for range 5 {
			d := diffOf(t, before, after)
			if now := show(d, before, after) + told(d); first == "" {
				first = now
			} else if now != first {
				t.Errorf("%s: once\n%s\nand once\n%s", name, first, now)
			}
		}
	}
}
