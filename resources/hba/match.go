package hba

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Connection is one attempt to connect, as the server sees it. What the client shows of itself (a password, a
// certificate) is not in it: no rule is passed over for want of that. Rule.Demand says what it has to show.
type Connection struct {
	From     netip.Addr // of the client; the zero Addr: through the unix socket
	TLS, GSS bool       // how it is encrypted: by at most one of them
	Database string     // "": the one with the user's name, as the server has it for clients that name none
	User     string

	// Replication is physical replication: Database does not count then. Logical replication connects to a database, and
	// is a connection like any other.
	Replication bool
}

// Facts are what the meaning of a rule depends on outside the file.
type Facts struct {
	// Member tells whether a user is a member of a role, directly or through others, be it with INHERIT or without. A role
	// is a member of itself, a superuser of no role that it was not made a member of, and who does not exist of none.
	// Nil: nobody is a member of anything.
	Member func(user, role string) bool
	// Interfaces are the addresses of the server's machine with the bits of their networks, like 10.0.1.7/24, loopback
	// among them. samehost is these addresses and samenet these networks; nil: neither matches.
	Interfaces []netip.Prefix
	// HostName gives the name of the machine with this address: that of the reverse lookup, if the forward lookup of it
	// leads back to the address, else "". Nil: no address has a name.
	HostName func(netip.Addr) string
}

// Match returns the rule that the server would use for the connection: the first one that fits, for there is no second
// try. Nil says that none fits, and the server turns the connection away.
//
// An error says that a regular expression of the rule takes too long. The server has no limit there and would be busy until
// authentication_timeout ends the attempt.
//
// The rules are those of File.Rules even if the file does not load as a whole. Match may be called from several goroutines.
func (f *File) Match(c Connection, facts Facts) (*Rule, error) {
	m := newMatcher(c, facts)
	for i := range f.Rules {
		r := &f.Rules[i]
		switch ok, err := m.matches(r); {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", r.Line, err)
		case ok:
			return r, nil
		}
	}
	return nil, nil
}

// matcher goes with one connection from rule to rule.
type matcher struct {
	Connection
	facts    Facts
	way      ways
	from     []byte  // the bytes of From
	hostName *string // of From, once a rule asked for it

	databaseText, userText *subject // once a regular expression asked for them
}

func newMatcher(c Connection, facts Facts) *matcher {
	if c.Database == "" {
		c.Database = c.User
	}
	c.Database, c.User = cutName(c.Database), cutName(c.User)
	return &matcher{Connection: c, facts: facts, way: c.way(), from: c.From.AsSlice()}
}

// cutName cuts a name as the server does when it comes with a connection: after 63 bytes, be it in the middle of a
// character. The names in the file stay as long as they are, and match nothing then.
func cutName(name string) string {
	if len(name) > maxName {
		return name[:maxName]
	}
	return name
}

func (c Connection) way() ways {
	switch {
	case !c.From.IsValid():
		return socket
	case c.TLS:
		return tls
	case c.GSS:
		return gss
	}
	return plain
}

func (m *matcher) matches(r *Rule) (bool, error) {
	if r.ways()&m.way == 0 || r.Warning != "" || m.way != socket && !m.comesFrom(&r.network) {
		return false, nil
	}
	if ok, err := m.anyDatabase(r); !ok || err != nil {
		return false, err
	}
	return m.anyUser(r)
}

// comesFrom tells whether the client's address is in the network. The zone of a link-local address does not count.
func (m *matcher) comesFrom(n *network) bool {
	switch n.kind {
	case anyAddress:
		return true
	case numeric:
		return m.within(n)
	case hostName:
		return m.named(n.host)
	}
	return m.near(n.kind)
}

// within compares the bits that the mask has, wherever they are. Addresses of IPv4 and of IPv6 are never the same, not even
// ::ffff:10.0.0.1 and 10.0.0.1.
func (m *matcher) within(n *network) bool {
	if len(m.from) != len(n.mask) {
		return false
	}
	if len(n.mask) == 4 {
		a := n.addr.As4()
		return same(a[:], m.from, n.mask)
	}
	a := n.addr.As16()
	return same(a[:], m.from, n.mask)
}

func same(a, b, mask []byte) bool {
	for i, bits := range mask {
		if (a[i]^b[i])&bits != 0 {
			return false
		}
	}
	return true
}

// near is for samehost and samenet.
func (m *matcher) near(kind networkKind) bool {
	from := m.From.WithZone("")
	for _, p := range m.facts.Interfaces {
		if kind == sameNet && p.Contains(from) || p.Addr() == from {
			return true
		}
	}
	return false
}

// named compares the client's name with a host name, or with a suffix that begins with a dot. Case does not count.
func (m *matcher) named(host string) bool {
	if m.hostName == nil {
		name := ""
		if m.facts.HostName != nil {
			name = m.facts.HostName(m.From)
		}
		m.hostName = &name
	}
	name := *m.hostName
	if strings.HasPrefix(host, ".") && len(name) > len(host) {
		name = name[len(name)-len(host):]
	}
	return name != "" && equalFold(name, host)
}

// equalFold compares names of hosts: only the letters of ASCII have two cases.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func (m *matcher) anyDatabase(r *Rule) (bool, error) {
	for i := range r.Databases {
		if ok, err := m.database(r, i); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// database tells whether the database fits the i-th word of the rule's list. The word replication is for physical
// replication only, and no other word is.
func (m *matcher) database(r *Rule, i int) (bool, error) {
	n := &r.Databases[i]
	switch {
	case m.Replication:
		return n.Keyword("replication"), nil
	case n.Keyword("all"):
		return true, nil
	case n.Keyword("sameuser"):
		return m.Database == m.User, nil
	case n.Keyword("samerole"), n.Keyword("samegroup"):
		return m.member(m.Database), nil
	case n.Keyword("replication"):
		return false, nil
	case r.patterns != nil && r.patterns.databases != nil && r.patterns.databases[i] != nil:
		return r.patterns.databases[i].match(m.databaseSubject())
	}
	return n.Text == m.Database, nil
}

func (m *matcher) anyUser(r *Rule) (bool, error) {
	for i := range r.Users {
		if ok, err := m.user(r, i); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (m *matcher) user(r *Rule, i int) (bool, error) {
	n := &r.Users[i]
	switch {
	case !n.Quoted && strings.HasPrefix(n.Text, "+"):
		return m.member(n.Text[1:]), nil
	case n.Keyword("all"):
		return true, nil
	case r.patterns != nil && r.patterns.users != nil && r.patterns.users[i] != nil:
		return r.patterns.users[i].match(m.userSubject())
	}
	return n.Text == m.User, nil
}

func (m *matcher) member(role string) bool {
	return m.facts.Member != nil && m.facts.Member(m.User, role)
}

func (m *matcher) databaseSubject() *subject {
	if m.databaseText == nil {
		m.databaseText = newSubject(m.Database)
	}
	return m.databaseText
}

func (m *matcher) userSubject() *subject {
	if m.userText == nil {
		m.userText = newSubject(m.User)
	}
	return m.userText
}
