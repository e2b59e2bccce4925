package hba

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// A client is who connects in these tests, with all that the rules could ask about.
type client struct {
	Connection
	roles []string
	host  string // the name of the client's machine
	near  networkKind
}

func (c *client) facts() Facts {
	f := Facts{
		Member:   func(user, role string) bool { return user == role || slices.Contains(c.roles, role) },
		HostName: func(netip.Addr) string { return c.host },
	}
	switch c.near {
	case sameHost:
		f.Interfaces = []netip.Prefix{netip.PrefixFrom(c.From, c.From.BitLen())}
	case sameNet:
		other := c.From.Next()
		if !other.IsValid() {
			other = c.From.Prev()
		}
		f.Interfaces = []netip.Prefix{netip.PrefixFrom(other, 0)}
	}
	return f
}

func (c *client) meets(t *testing.T, f *File) *Rule {
	t.Helper()
	r, err := f.Match(c.Connection, c.facts())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *client) String() string {
	return fmt.Sprintf("%+v roles %v host %q near %d", c.Connection, c.roles, c.host, c.near)
}

// decided is what becomes of a client whom two rules meet.
func decided(before, after *Rule) Effect {
	items := [2]*item{}
	for i, r := range []*Rule{before, after} {
		if r != nil {
			items[i] = &item{rule: r}
		}
	}
	return effect(items[0], items[1])
}

// covers tells whether a change speaks of a client. It goes by the labels, as a reader does.
func covers(d *Difference, c *AccessChange, who *client) bool {
	way := map[ways]string{socket: "local", plain: "plaintext", tls: "tls", gss: "gss"}[who.way()]
	if c.Connection != way || c.Replication != who.Replication {
		return false
	}
	database := who.Replication || slices.ContainsFunc(c.Databases, func(l string) bool { return d.isDatabase(l, who) })
	user := slices.ContainsFunc(c.Users, func(l string) bool { return all(l, func(l string) bool { return d.isUser(l, who) }) })
	from := way == "local" || slices.ContainsFunc(c.From, func(l string) bool { return all(l, func(l string) bool { return d.isFrom(l, who) }) })
	return database && user && from
}

func all(label string, is func(string) bool) bool {
	return !slices.ContainsFunc(strings.Split(label, " and "), func(l string) bool { return !is(l) })
}

func (d *Difference) namesUser(name string) bool {
	return slices.ContainsFunc(d.space.bases, func(b base) bool { return b.label == label(name) })
}

func (d *Difference) namesDatabase(name string) bool {
	return slices.ContainsFunc(d.space.databases, func(u database) bool { return u.label == label(name) })
}

func (d *Difference) isUser(l string, who *client) bool {
	switch {
	case l == anyOther:
		return !d.namesUser(who.User)
	case l[0] == '+':
		return who.User == l[1:] || slices.Contains(who.roles, l[1:])
	case l[0] == '/':
		return !d.namesUser(who.User) && patternMatches(l, who.User)
	}
	return l == label(who.User)
}

func (d *Difference) isDatabase(l string, who *client) bool {
	named := d.namesDatabase(who.Database)
	inRole := who.User == who.Database || slices.Contains(who.roles, who.Database)
	switch {
	case l == anyOther:
		return !named
	case l == "sameuser":
		return !named && who.Database == who.User
	case l == "samerole":
		return !named && inRole
	case l == label(who.Database)+" and samerole":
		return inRole
	case l[0] == '/':
		return !named && all(l, func(l string) bool { return patternMatches(l, who.Database) })
	}
	return l == label(who.Database)
}

func patternMatches(pattern, name string) bool {
	f := Parse([]byte("local all \""+pattern+"\" trust\n"), Packaged(16), Files{})
	r, err := f.Match(Connection{User: name}, Facts{})
	return r != nil && err == nil
}

func (d *Difference) isFrom(l string, who *client) bool {
	switch {
	case l == "samehost":
		return who.near == sameHost
	case l == "samenet":
		return who.near == sameHost || who.near == sameNet
	case strings.HasPrefix(l, "host ."):
		return strings.HasSuffix(who.host, l[5:])
	case strings.HasPrefix(l, "host "):
		return who.host == l[5:]
	}
	narrowest := ""
	for _, n := range d.space.from.nets[1:] {
		if n.prefix.Contains(who.From) {
			narrowest = n.prefix.String() // those in others come behind them
		}
	}
	return narrowest == l || narrowest == "" && l == anyOther
}

// example is a client of one combination of a change's members.
func (d *Difference) example(b *box, database, user int32, block, net int32) *client {
	c := &client{Connection: Connection{TLS: b.way == tls, GSS: b.way == gss, Replication: b.replication}}
	u := d.space.users[user]
	c.User = d.space.bases[u.base].name
	for _, r := range u.roles {
		if r >= 0 {
			c.roles = append(c.roles, d.space.roles[r])
		}
	}
	if !b.replication {
		db := d.space.databases[database]
		c.Database = db.name
		switch db.kind {
		case ownDatabase:
			c.Database = c.User
		case roleDatabase:
			c.roles = append(slices.Clone(c.roles), db.name)
		}
	}
	if b.way != socket {
		c.From = d.space.from.example(block, net)
		_, m := d.space.from.markOf(block)
		_, n := d.space.from.nearOf(block)
		c.host, c.near = m.name, networkKind(n)
	}
	return c
}

// A pool is what random files are made of.
type pool struct {
	times                                       int
	types, databases, users, addresses, methods []string
}

var pools = map[string]pool{
	"names": {
		1000,
		[]string{"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"},
		[]string{"all", "a", "b", "c", "a,b", "replication", "all,replication", `"all"`},
		[]string{"all", "u", "v", "w", "u,v", "v,w", `"+g"`},
		[]string{"all", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32", "11.0.0.0/8", "0.0.0.0/0", "::/0", "fe80::/10", "128.0.0.0/1", "0.0.0.0/1"},
		[]string{"reject", "trust", "md5", "scram-sha-256", "ldap ldapserver=h ldapprefix=x", "scram-sha-256"},
	},
	"roles": {
		1000,
		[]string{"local", "host", "hostssl"},
		[]string{"all", "a", "sameuser", "samerole", "u", "g", "a,sameuser", "g,samerole"},
		[]string{"all", "u", "a", "+g", "+h", "+u", "u,+h", "+a"},
		[]string{"all", "10.0.0.0/8"},
		[]string{"reject", "md5", "scram-sha-256"},
	},
	"addresses": {
		1000,
		[]string{"host", "hostssl"},
		[]string{"all"},
		[]string{"all", "u"},
		[]string{"all", "samehost", "samenet", "h.example", ".example", ".sub.example", "x.sub.example", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.0.5/32", "::1/128"},
		[]string{"reject", "md5", "scram-sha-256"},
	},
	"patterns": {
		80,
		[]string{"local"},
		[]string{"all", "/^a", "/b$", "ab", "/^ab$", "sameuser", "/.", "/^[^a]"},
		[]string{"all", "/^a", "/^a.*b$", "ab", "ax", "+g", "/^(x|y)[0-9]{2}$", "/z"},
		nil,
		[]string{"reject", "peer", "md5"},
	},
}

func (p *pool) file(r *rand.Rand, rules int) string {
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	var b strings.Builder
	for range rules {
		kind := pick(p.types)
		address := ""
		if kind != "local" {
			address = pick(p.addresses)
		}
		fmt.Fprintln(&b, kind, pick(p.databases), pick(p.users), address, pick(p.methods))
	}
	return b.String()
}

// edited is the text after one line came, went, moved or changed.
func (p *pool) edited(r *rand.Rand, text string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	at := r.IntN(len(lines))
	switch r.IntN(3) {
	case 0:
		lines = slices.Delete(lines, at, at+1)
	case 1:
		lines = slices.Insert(lines, at, p.file(r, 1))
	default:
		lines[at] = p.file(r, 1)
	}
	return strings.Join(lines, "")
}

func (p *pool) client(r *rand.Rand) *client {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	c := &client{Connection: Connection{Replication: r.IntN(6) == 0}}
	c.User = pick("u", "v", "w", "a", "g", "ab", "ax", "axb", "x12", "y1", "zz", "unknown", "+g", "all", "h")
	c.Database = pick("a", "b", "c", "u", "g", "ab", "axb", "bb", "all", "unknown", "q", c.User)
	for _, role := range []string{"g", "h", "u", "a", "q"} {
		if r.IntN(4) == 0 {
			c.roles = append(c.roles, role)
		}
	}
	if slices.Contains(p.types, "local") && (r.IntN(3) == 0 || p.addresses == nil) {
		return c
	}
	c.From = netip.MustParseAddr(pick("10.0.0.1", "10.1.0.1", "10.1.1.9", "10.1.1.1", "11.2.3.4", "200.1.1.1", "::1", "fe80::1", "10.200.0.1", "10.0.0.5"))
	switch r.IntN(3) {
	case 0:
		c.TLS = true
	case 1:
		c.GSS = true
	}
	c.host = pick("", "", "h.example", "y.example", "x.sub.example", "y.sub.example", "other")
	c.near = []networkKind{anyAddress, anyAddress, sameHost, sameNet}[r.IntN(4)]
	return c
}

// No connection is decided differently without a change that says so, and no change says so of a connection that is not.
func TestDiffAgreesWithTheEvaluator(t *testing.T) {
	for name, p := range pools {
		t.Run(name, func(t *testing.T) {
			r := newRand(1)
			differ, found := 0, 0
			for range p.times {
				before := p.file(r, 1+r.IntN(8))
				after := p.edited(r, before)
				if r.IntN(4) == 0 {
					after = p.file(r, 1+r.IntN(8))
				}
				d := diffOf(t, before, after)
				if len(d.Limits) > 0 {
					t.Fatalf("limits: %q", d.Limits)
				}
				found += len(d.Changes)
				differ += forth(t, d, &p, r, before, after)
				back(t, d, before, after)
				if t.Failed() {
					return
				}
			}
			t.Logf("%d connections decided differently, %d changes", differ, found)
		})
	}
}

func newRand(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 2)) }

func parseTexts(texts ...string) (out []*File) {
	for _, text := range texts {
		out = append(out, Parse([]byte(text), Packaged(16), Files{}))
	}
	return out
}

func diffOf(t *testing.T, before, after string) *Difference {
	t.Helper()
	f := parseTexts(before, after)
	for _, f := range f {
		if len(f.Errors) > 0 {
			t.Fatalf("%+v", f.Errors)
		}
	}
	return Diff(f[0], f[1], Names{})
}

// forth asks the evaluator about many clients, and looks for those whom it decides differently.
func forth(t *testing.T, d *Difference, p *pool, r *rand.Rand, before, after string) (differ int) {
	f := parseTexts(before, after)
	for range 60 {
		who := p.client(r)
		was, is := who.meets(t, f[0]), who.meets(t, f[1])
		if decided(was, is) == noEffect {
			continue
		}
		differ++
		if !slices.ContainsFunc(d.Changes, func(c AccessChange) bool {
			return covers(d, &c, who) && sameLine(c.Before, was) && sameLine(c.After, is)
		}) {
			t.Errorf("%v\nmet %s and meets %s; no change says so\n%s", who, line(was), line(is), show(d, before, after))
			return differ
		}
	}
	return differ
}

// back asks the evaluator about an example of every combination in every change.
func back(t *testing.T, d *Difference, before, after string) {
	f := parseTexts(before, after)
	for i, b := range d.boxes {
		databases, places := b.databases, []int32{0}
		if b.replication {
			databases = []int32{0}
		}
		if b.way != socket {
			places = nil
			for _, s := range b.from {
				for id := s.low; id < s.high; id++ {
					if d.space.from.there[id] {
						places = append(places, id)
					}
				}
			}
		}
		c := d.Changes[i]
		if len(databases)*len(b.users)*len(places) == 0 {
			t.Errorf("an empty change: %+v", c)
		}
		for _, db := range databases {
			for _, u := range b.users {
				for _, id := range places {
					block, net := d.space.from.place(id)
					who := d.example(&b, db, u, block, net)
					was, is := who.meets(t, f[0]), who.meets(t, f[1])
					if decided(was, is) != c.Effect || !sameLine(was, c.Before) || !sameLine(is, c.After) {
						t.Errorf("%+v\nis said of %v\nwhich met %s and meets %s\n%s", c, who, line(was), line(is), show(d, before, after))
						return
					}
				}
			}
		}
	}
}

func sameLine(a, b *Rule) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Line == b.Line)
}

func line(r *Rule) string {
	if r == nil {
		return "no line"
	}
	return fmt.Sprintf("line %d (%s)", r.Line, r.Method)
}

func show(d *Difference, before, after string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "before:\n%safter:\n%s", before, after)
	for _, c := range d.Changes {
		fmt.Fprintf(&b, "%s %s replication=%v %q %q %q: %s, %s\n", c.Effect, c.Connection, c.Replication, c.Users, c.Databases, c.From, line(c.Before), line(c.After))
	}
	return b.String()
}
