package hba

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A space is the partition of all connections. Each of its dimensions is a list of members; the first so many, the singles,
// are one thing each, and the others are several things at once.
//
// A user is a name, and the roles that the name is in. No rule asks that somebody is not in a role. So whoever meets two
// rules, one in each file, meets them because of one thing each, and no user who is more than two things has to be looked at.
//
// Members stand for real connections: each has a name or an address that the evaluator would decide in the same way.
type space struct {
	bases        []base // who a user can be by the name; the last one is any other
	roles        []string
	users        []user
	userSingles  int32
	numbers      map[user]int32
	called       map[string][]int32 // the users of this name
	inRole       map[string][]int32 // the members of this role
	userPatterns map[string][]int32 // the users whose name matches
	databases    []database         // all of them are single

	databaseNames map[string][]int32
	dbPatterns    map[string][]int32
	from          *addresses
	own           int32 // the database with the user's own name; -1: not told apart
	limits        []string
	slow          map[string]bool // patterns that took too long
}

// A base is a name of users: one that the files have, or one that stands for those that the same patterns match, or for any
// other.
type base struct{ name, label string }

// A user is a member of the dimension of users: a base, by its number, in at most two roles, by theirs.
type user struct {
	base  int32
	roles [2]int32 // none: -1
}

// in is the user as a member of one more role.
func (u user) in(role int32) user {
	if u.roles[0] < 0 {
		u.roles[0] = role
	} else {
		u.roles[1] = role
	}
	return u
}

// A database is a member of the dimension of databases.
type database struct {
	name  string // for any other database, and for one of a role, a name that stands for it
	kind  databaseKind
	label string
}

type databaseKind int

const (
	namedDatabase databaseKind = iota
	ownDatabase                // it has the user's name, and nothing else names it
	roleDatabase               // it has the name of a role that the user is in
)

// newSpace cuts all connections by what the files name.
func newSpace(files []*File, also Names) *space {
	n := collect(files, also)
	s := &space{from: newAddresses(files, also.Networks), own: -1, slow: map[string]bool{}}
	s.limits = append(s.limits, s.from.limits...)
	taken := map[string]bool{}
	for _, name := range slices.Concat(n.users, n.databases, n.roles) {
		taken[name] = true
	}
	s.cutUsers(n, taken)
	s.cutDatabases(n, taken)
	return s
}

// named is what the files name.
type named struct {
	users, roles, databases    []string // sorted
	userPatterns, dbPatterns   map[string]*regex
	ownDatabase, roleDatabases bool // sameuser or samerole is there; samerole is
	roleWords, nameWords       int  // how often a rule is for a role, and for a user by name
}

func collect(files []*File, also Names) *named {
	n := &named{userPatterns: map[string]*regex{}, dbPatterns: map[string]*regex{}}
	n.users, n.databases = slices.Clone(also.Users), slices.Clone(also.Databases)
	for _, f := range files {
		for i := range f.Rules {
			n.add(&f.Rules[i])
		}
	}
	if n.ownDatabase { // what there is to say of the name of a database can be said of a user then
		n.users = append(n.users, n.databases...)
		maps.Copy(n.userPatterns, n.dbPatterns)
	}
	for _, list := range []*[]string{&n.users, &n.roles, &n.databases} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
		*list = slices.DeleteFunc(*list, func(name string) bool { return name == "" || len(name) > maxName })
	}
	return n
}

func (n *named) add(r *Rule) {
	for i, word := range r.Databases {
		switch {
		case word.Keyword("all"), word.Keyword("replication"):
		case word.Keyword("sameuser"):
			n.ownDatabase = true
		case word.Keyword("samerole"), word.Keyword("samegroup"):
			n.ownDatabase, n.roleDatabases = true, true
		case r.databasePattern(i) != nil:
			n.dbPatterns[word.Text] = r.databasePattern(i)
		default:
			n.databases = append(n.databases, word.Text)
		}
	}
	for i, word := range r.Users {
		n.nameWords++
		switch {
		case word.isRole():
			n.roleWords++
			n.roles = append(n.roles, word.Text[1:])
		case word.Keyword("all"):
		case r.userPattern(i) != nil:
			n.userPatterns[word.Text] = r.userPattern(i)
		default:
			n.users = append(n.users, word.Text)
		}
	}
}

// isRole tells whether the name is a +role.
func (n Name) isRole() bool { return !n.Quoted && strings.HasPrefix(n.Text, "+") }

func (r *Rule) databasePattern(i int) *regex {
	if r.patterns == nil || r.patterns.databases == nil {
		return nil
	}
	return r.patterns.databases[i]
}

func (r *Rule) userPattern(i int) *regex {
	if r.patterns == nil || r.patterns.users == nil {
		return nil
	}
	return r.patterns.users[i]
}

// maxManifold is how many users who are several things at once are told apart.
const maxManifold = 100_000

// cutUsers makes the dimension of users: names, samples of the patterns, any other, members of roles; then those who are
// several of that.
func (s *space) cutUsers(n *named, taken map[string]bool) {
	samples, other := s.sample(n.userPatterns, n.users, taken, "user")
	for _, name := range n.users {
		s.bases = append(s.bases, base{name, label(name)})
	}
	for _, m := range samples {
		s.bases = append(s.bases, base{m.name, m.label()})
	}
	s.bases, s.roles = append(s.bases, base{other, anyOther}), n.roles
	s.called, s.inRole = map[string][]int32{}, map[string][]int32{}
	s.numbers = map[user]int32{}
	for b := range s.bases {
		s.addUser(s.based(b))
	}
	for r := range s.roles {
		s.addUser(s.nobody().in(int32(r)))
	}
	s.userSingles = int32(len(s.users))
	manifold := len(s.roles) * (len(s.bases) + len(s.roles)/2)
	if n.ownDatabase {
		manifold += len(n.databases) * len(s.roles) * len(s.roles) / 2
	}
	if manifold <= maxManifold && n.roleWords*(len(s.bases)+len(s.roles))+n.nameWords*len(s.roles) <= maxSteps/8 {
		s.cutManifold(n)
	} else {
		s.limits = append(s.limits, fmt.Sprintf("so many roles (%d) and users (%d) are named that users who are in one of the roles and named too, or in two of them, were not compared", len(s.roles), len(n.users)))
	}
	s.userPatterns = s.matching(n.userPatterns, s.called)
}

// cutManifold adds users who have a name and are in a role, who are in two roles, and, where sameuser asks for the name
// besides the role, who have the name of a database and are in two roles.
func (s *space) cutManifold(n *named) {
	for r := range s.roles {
		for b := range s.bases[:len(s.bases)-1] {
			s.addUser(s.based(b).in(int32(r)))
		}
		for q := range s.roles[:r] {
			s.addUser(s.nobody().in(int32(q)).in(int32(r)))
		}
	}
	for b, base := range s.bases {
		if _, ok := slices.BinarySearch(n.databases, base.name); !ok || !n.ownDatabase {
			continue
		}
		for r := range s.roles {
			for q := range s.roles[:r] {
				s.addUser(s.based(b).in(int32(q)).in(int32(r)))
			}
		}
	}
}

func (s *space) based(b int) user { return user{int32(b), [2]int32{-1, -1}} }

// nobody is any other user.
func (s *space) nobody() user { return s.based(len(s.bases) - 1) }

func (s *space) addUser(u user) {
	id := int32(len(s.users))
	s.users, s.numbers[u] = append(s.users, u), id
	name := s.bases[u.base].name
	s.called[name] = append(s.called[name], id)
	s.inRole[name] = append(s.inRole[name], id) // a role is a member of itself
	for _, r := range u.roles {
		if r >= 0 && s.roles[r] != name {
			s.inRole[s.roles[r]] = append(s.inRole[s.roles[r]], id)
		}
	}
}

func (s *space) userLabel(id int32) string {
	u := s.users[id]
	text := s.bases[u.base].label
	for i, r := range u.roles {
		switch {
		case r < 0:
		case i == 0 && u.base == s.nobody().base:
			text = "+" + s.roles[r]
		default:
			text += " and +" + s.roles[r]
		}
	}
	return text
}

// parts are the users who are one thing less.
func (s *space) parts(id int32) (out []int32) {
	u := s.users[id]
	if id < s.userSingles {
		return nil
	}
	less := []user{{s.nobody().base, u.roles}, {u.base, [2]int32{u.roles[0], -1}}, {u.base, [2]int32{u.roles[1], -1}}}
	for _, p := range less {
		if part := s.numbers[p]; part != id {
			out = append(out, part)
		}
	}
	return out
}

// cutDatabases makes the dimension of databases.
func (s *space) cutDatabases(n *named, taken map[string]bool) {
	samples, other := s.sample(n.dbPatterns, n.databases, taken, "database")
	s.databaseNames = map[string][]int32{}
	for _, name := range n.databases {
		s.addDatabase(database{name: name, label: label(name)})
	}
	for _, m := range samples {
		s.addDatabase(database{name: m.name, label: m.label()})
	}
	s.addDatabase(database{name: other, label: anyOther})
	if n.ownDatabase {
		s.own = int32(len(s.databases))
		s.databases = append(s.databases, database{kind: ownDatabase, label: "sameuser"})
	}
	if n.roleDatabases {
		s.addDatabase(database{name: unused("role", taken), kind: roleDatabase, label: "samerole"})
		for _, name := range n.databases {
			s.addDatabase(database{name: name, kind: roleDatabase, label: label(name) + " and samerole"})
		}
	}
	s.dbPatterns = s.matching(n.dbPatterns, s.databaseNames)
}

func (s *space) addDatabase(d database) {
	s.databaseNames[d.name] = append(s.databaseNames[d.name], int32(len(s.databases)))
	s.databases = append(s.databases, d)
}

// matching gives for each pattern the members with one of these names that it matches.
func (s *space) matching(patterns map[string]*regex, members map[string][]int32) map[string][]int32 {
	out := map[string][]int32{}
	for name, ids := range members {
		subject := newSubject(name)
		for text, re := range patterns {
			if s.matches(text, re, subject) {
				out[text] = append(out[text], ids...)
			}
		}
	}
	return out
}

// matches tells whether a pattern matches a name, as far as that can be found out.
func (s *space) matches(text string, re *regex, name *subject) bool {
	ok, err := re.match(name)
	if err != nil {
		s.slow[text] = true
	}
	return ok && err == nil
}

const anyOther = "any other"

// label is a name as it is printed: in quotes where it could be taken for something else.
func label(name string) string {
	special := name == "all" || name == anyOther || name == "sameuser" || name == "samerole" || name == "local" || strings.Contains(name, " and ")
	if special || strings.ContainsAny(name[:1], `+/"`) {
		return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return name
}

// item puts a rule into the numbers of the space.
func (s *space) item(r *Rule) *item {
	it := &item{rule: r, from: s.from.intervals(r)}
	var users, databases, related []int32
	for i, word := range r.Users {
		switch {
		case word.isRole():
			users = append(users, s.inRole[word.Text[1:]]...)
		case word.Keyword("all"):
			it.users.all = true
		case r.userPattern(i) != nil:
			users = append(users, s.userPatterns[word.Text]...)
		default:
			users = append(users, s.called[word.Text]...)
		}
	}
	for i, word := range r.Databases {
		switch {
		case word.Keyword("all"):
			it.databases.all = true
		case word.Keyword("replication"):
		case word.Keyword("sameuser"), word.Keyword("samerole"), word.Keyword("samegroup"):
			related = append(related, s.relatedTo(word.Text != "sameuser")...)
		case r.databasePattern(i) != nil:
			databases = append(databases, s.dbPatterns[word.Text]...)
			if s.own >= 0 {
				related = append(related, s.own)
			}
		default:
			databases = append(databases, s.databaseNames[word.Text]...)
		}
	}
	if it.users.all {
		users = nil
	}
	if it.databases.all {
		databases, related = nil, nil
	}
	it.users, it.databases, it.related = newIDs(it.users.all, users), newIDs(it.databases.all, databases), newIDs(false, related)
	return it
}

// relatedTo are the databases that can be one's own, or, with roles, one of a role that one is in.
func (s *space) relatedTo(roles bool) (out []int32) {
	for id, d := range s.databases {
		if roles || d.kind != roleDatabase {
			out = append(out, int32(id))
		}
	}
	return out
}

// usersIn are the users whom a rule is for when they come to a database.
func (s *space) usersIn(it *item, database int32) *ids {
	d := &s.databases[database]
	users := &it.users
	if d.kind == roleDatabase && it.forRole(d.name) {
		users = &ids{all: true} // whoever comes is in the role
	}
	if it.databases.has(database) {
		return users
	}
	var here []int32
	for i, word := range it.rule.Databases {
		own, role := word.Keyword("sameuser"), word.Keyword("samerole") || word.Keyword("samegroup")
		switch {
		case d.kind == ownDatabase && (own || role), d.kind == roleDatabase && role:
			return users
		case d.kind == ownDatabase && it.rule.databasePattern(i) != nil:
			here = append(here, s.nameMatches(word.Text, it.rule.databasePattern(i))...)
		case d.kind == namedDatabase && role:
			here = append(here, s.inRole[d.name]...)
		case d.kind == namedDatabase && own:
			here = append(here, s.called[d.name]...)
		}
	}
	list := newIDs(false, here)
	return users.within(list.list)
}

// apart gives each database that not everybody comes to a part of its own.
func (s *space) apart(parts []part) (out []part) {
	for _, p := range parts {
		var plain []int32
		for _, m := range p.members {
			if s.databases[m].kind == namedDatabase {
				plain = append(plain, m)
			} else {
				out = append(out, part{[]int32{m}, true, p.claims})
			}
		}
		if p.members = plain; len(plain) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// forRole tells whether the rule is for the members of a role.
func (it *item) forRole(role string) bool {
	return slices.ContainsFunc(it.rule.Users, func(n Name) bool { return n.isRole() && n.Text[1:] == role })
}

// nameMatches are the users whose own name, as the name of a database, matches a pattern.
func (s *space) nameMatches(text string, re *regex) (out []int32) {
	for name, users := range s.called {
		if s.matches(text, re, newSubject(name)) {
			out = append(out, users...)
		}
	}
	return out
}

// comingTo leaves out the users who cannot come to a database, or are told of elsewhere: who has a database that is a
// member by its name has no own one, and that somebody is in the role of a database the database says itself.
func (s *space) comingTo(database int32, users []int32) []int32 {
	if database < 0 || s.databases[database].kind == namedDatabase {
		return users
	}
	d := s.databases[database]
	in := s.inRole[d.name]
	return slices.DeleteFunc(slices.Clone(users), func(id int32) bool {
		name := s.bases[s.users[id].base].name
		return d.kind == roleDatabase && contains(in, id) || d.kind == ownDatabase && s.databaseNames[name] != nil
	})
}

func contains(sorted []int32, id int32) bool {
	_, ok := slices.BinarySearch(sorted, id)
	return ok
}

// untold are the shifts of a user who is several things at once that none of these things alone tells of.
func (s *space) untold(u int32, found map[int32][]shift, rest []shift) []shift {
	shifts := found[u]
	for _, part := range s.parts(u) {
		alone, one := found[part]
		if !one {
			alone = rest
		}
		shifts = without(shifts, alone)
	}
	return shifts
}

// without takes away what is in the shifts of told too, with the same rules. Both are in the order of the addresses.
func without(shifts, told []shift) []shift {
	var out []shift
	for _, p := range shifts {
		for len(told) > 0 && told[0].high <= p.low {
			told = told[1:]
		}
		for _, t := range told {
			if t.low >= p.high || p.low >= p.high {
				break
			}
			if t.before != p.before || t.after != p.after || t.high <= p.low {
				continue
			}
			if t.low > p.low {
				out = append(out, shift{interval{p.low, t.low}, p.before, p.after})
			}
			p.low = t.high
		}
		if p.low < p.high {
			out = append(out, p)
		}
	}
	return out
}
