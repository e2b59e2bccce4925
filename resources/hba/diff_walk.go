package hba

import (
	"slices"
	"strconv"
)

// An item is a rule with whom it is for, in the numbers of the space.
type item struct {
	rule    *Rule
	index   int  // among the rules of its file
	changed bool // the other file does not have it in this place

	databases ids
	related   ids // databases to which only some of its users come: those of sameuser and samerole
	users     ids
	from      []interval
}

func (it *item) decides() *Rule {
	if it == nil {
		return nil
	}
	return it.rule
}

func (it *item) admits() bool { return it != nil && it.rule.Method != "reject" }

// place orders items; no item comes last.
func (it *item) place() int {
	if it == nil {
		return int(^uint(0) >> 1)
	}
	return it.index
}

// A claim is an item among those that compete for some connections: with those of its users and of its addresses that can
// be among them.
type claim struct {
	*item
	users *ids
	from  []interval
}

// A contest is the claims of both files to the same connections, each in the order of its file.
type contest [2][]*claim

func (c *contest) changed() bool {
	changed := func(c *claim) bool { return c.changed }
	return slices.ContainsFunc(c[0], changed) || slices.ContainsFunc(c[1], changed)
}

// fewer tells whether a claim has other users than its item.
func (c *contest) fewer() bool {
	fewer := func(c *claim) bool { return c.users != &c.item.users }
	return slices.ContainsFunc(c[0], fewer) || slices.ContainsFunc(c[1], fewer)
}

// key is the same for the same claims.
func (c *contest) key() string {
	var b []byte
	for _, claims := range c {
		for _, c := range claims {
			b = append(strconv.AppendInt(b, int64(c.index), 36), ' ')
		}
		b = append(b, ';')
	}
	return string(b)
}

// only keeps the claims that f gives users for.
func (c *contest) only(f func(*claim) *ids) (out contest) {
	for side, claims := range c {
		for _, c := range claims {
			if users := f(c); users != nil && !users.empty() {
				out[side] = append(out[side], &claim{c.item, users, c.from})
			}
		}
	}
	return out
}

// walk goes through the connections that two files may decide differently.
type walk struct {
	space *space
	steps int     // how many may still be taken
	at    []int32 // for split: where the claims to a member are, from 1 on; 0: nowhere
}

// spend takes steps. False: none are left, and the walk ends.
func (w *walk) spend(n int) bool {
	w.steps -= n
	return w.steps >= 0
}

// all walks the kinds of connection.
func (w *walk) all(before, after *File) []box {
	rules := w.items(before, after)
	known := map[string][]box{}
	var out []box
	for _, way := range []ways{socket, plain, tls, gss} {
		c := rules.only(func(c *claim) *ids {
			if c.rule.ways()&way == 0 || c.rule.Warning != "" {
				return nil
			}
			return c.users
		})
		key := c.key()
		if _, ok := known[key]; !ok {
			known[key] = w.way(c)
		}
		for _, b := range known[key] {
			b.way = way
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b box) int { return order(&a, &b) })
	return out
}

// items makes the items of both files. Rules that both have, in the same order at the beginning or at the end, are not
// changed. A connection that meets only such rules meets the same one in both files.
func (w *walk) items(before, after *File) (out contest) {
	first, last := sameEnds(before.Rules, after.Rules)
	files := [2]*File{before, after}
	var changed []*Rule
	for _, f := range files {
		for i := first; i < len(f.Rules)-last; i++ {
			changed = append(changed, &f.Rules[i])
		}
	}
	for side, f := range files {
		for i := range f.Rules {
			r := &f.Rules[i]
			same := i < first || i >= len(f.Rules)-last
			if same && !r.meetsAny(changed) {
				continue
			}
			it := w.space.item(r)
			it.index, it.changed = i, !same
			out[side] = append(out[side], &claim{it, &it.users, it.from})
			if !w.spend(len(it.users.list) + len(it.from)) {
				return contest{}
			}
		}
	}
	return out
}

// maxMeetings is for how many changed rules it pays to look whether others have to do with them.
const maxMeetings = 32

// meetsAny tells whether a connection can fit this rule and one of the changed ones. It may say so where none can.
func (r *Rule) meetsAny(changed []*Rule) bool {
	return len(changed) > maxMeetings || slices.ContainsFunc(changed, func(c *Rule) bool {
		return r.ways()&c.ways() != 0 && r.network.meets(&c.network) && wordsMeet(r.Databases, c.Databases) && wordsMeet(r.Users, c.Users)
	})
}

func (n *network) meets(o *network) bool {
	if n.kind != numeric || o.kind != numeric {
		return true
	}
	p, plain := n.prefix()
	q, too := o.prefix()
	return !plain || !too || p.Overlaps(q)
}

// wordsMeet tells whether a name can fit two lists.
func wordsMeet(a, b []Name) bool {
	open := func(n Name) bool { return n.Text == "" || n.Text[0] == '/' || n.Text[0] == '+' || isKeyword(n.Text) }
	return slices.ContainsFunc(a, open) || slices.ContainsFunc(b, open) ||
		slices.ContainsFunc(a, func(n Name) bool { return slices.ContainsFunc(b, func(m Name) bool { return n.Text == m.Text }) })
}

func sameEnds(a, b []Rule) (first, last int) {
	for first < len(a) && first < len(b) && a[first].sameAs(&b[first]) {
		first++
	}
	a, b = a[first:], b[first:]
	for last < len(a) && last < len(b) && a[len(a)-1-last].sameAs(&b[len(b)-1-last]) {
		last++
	}
	return first, last
}

// sameAs tells whether two rules are for the same connections and ask for the same.
func (r *Rule) sameAs(o *Rule) bool {
	return r.Type == o.Type && r.Warning == o.Warning && slices.Equal(r.Databases, o.Databases) && slices.Equal(r.Users, o.Users) &&
		r.network.key() == o.network.key() && r.asksTheSame(o)
}

// way walks the connections of one kind: by databases, then users, then addresses, or by addresses first, where that takes
// fewer steps. A file that names many networks and says all of most databases and users is an example.
func (w *walk) way(c contest) []box {
	if !c.changed() {
		return nil
	}
	if !w.space.from.plain() {
		return w.databases(c)
	}
	g := newGaps(c)
	if 4*g.coverage(c) > w.spread(c) { // by databases the walk ends sooner, at lines that take all
		return w.databases(c)
	}
	return w.gaps(c, g)
}

// spread is how many steps it takes to split claims by their databases.
func (w *walk) spread(c contest) (steps int) {
	named, all := map[int32]bool{}, 0
	for _, claims := range c {
		for _, c := range claims {
			steps += len(c.databases.list) + len(c.related.list)
			for _, id := range c.databases.list {
				named[id] = true
			}
			if c.databases.all {
				all++
			}
		}
	}
	return steps + all*(len(named)+1)
}

// gaps walks the addresses first: all that lies between two bounds is decided alike.
func (w *walk) gaps(c contest, g gaps) []box {
	if !w.spend(g.coverage(c)) {
		return nil
	}
	between := make([]contest, len(g)-1)
	everywhere := []interval{{0, w.space.from.count()}}
	for side, claims := range c {
		for _, c := range claims {
			here := claim{c.item, c.users, everywhere}
			for _, s := range c.from {
				low, high := g.of(s)
				for i := low; i < high; i++ {
					between[i][side] = append(between[i][side], &here)
				}
			}
		}
	}
	known := map[string][]box{}
	var out []box
	for i := range between {
		if !between[i].changed() {
			continue
		}
		key := between[i].key()
		if _, ok := known[key]; !ok {
			known[key] = w.databases(between[i])
		}
		if here := (interval{g[i], g[i+1]}); w.space.from.somebody(here) {
			for _, b := range known[key] {
				b.from = []interval{here}
				out = append(out, b)
			}
		}
	}
	return merged(out, alongFrom, (*box).lines)
}

// gaps are what lies between the bounds of the addresses of claims, by these bounds.
type gaps []int32

func newGaps(c contest) gaps {
	var bounds []int32
	for _, claims := range c {
		for _, c := range claims {
			for _, s := range c.from {
				bounds = append(bounds, s.low, s.high)
			}
		}
	}
	slices.Sort(bounds)
	return slices.Compact(bounds)
}

// of are the gaps in an interval of a claim.
func (g gaps) of(s interval) (low, high int) {
	low, _ = slices.BinarySearch(g, s.low)
	high, _ = slices.BinarySearch(g, s.high)
	return low, high
}

// coverage is how often a claim covers a gap.
func (g gaps) coverage(c contest) (n int) {
	for _, claims := range c {
		for _, c := range claims {
			for _, s := range c.from {
				low, high := g.of(s)
				n += high - low
			}
		}
	}
	return n
}

// databases walks the databases, and physical replication, which is to none.
func (w *walk) databases(c contest) []box {
	if !c.changed() {
		return nil
	}
	known := map[string][]box{}
	var out []box
	parts := w.split(c, int32(len(w.space.databases)),
		func(c *claim) ids { return c.databases.with(c.related) },
		func(c *claim, m int32) bool {
			return c.databases.has(m) && c.users.all && w.space.from.everywhere(c.from)
		})
	for _, p := range w.space.apart(parts) {
		in := p.claims.only(func(c *claim) *ids { return w.space.usersIn(c.item, p.members[0]) })
		if !in.changed() {
			continue
		}
		key := in.key()
		if in.fewer() || w.space.databases[p.members[0]].kind != namedDatabase {
			key += strconv.Itoa(int(p.members[0])) // the same claims have other users in other databases
		}
		if _, ok := known[key]; !ok {
			known[key] = w.users(in, p.members[0])
		}
		for _, b := range known[key] {
			b.databases = p.members
			out = append(out, b)
		}
	}
	physical := c.only(func(c *claim) *ids {
		if !c.rule.forReplication() {
			return nil
		}
		return &c.item.users
	})
	for _, b := range w.users(physical, -1) {
		b.replication = true
		out = append(out, b)
	}
	return merged(out, alongDatabases, (*box).lines)
}

func (r *Rule) forReplication() bool {
	return slices.ContainsFunc(r.Databases, func(n Name) bool { return n.Keyword("replication") })
}

// users walks the users who come to one database.
func (w *walk) users(c contest, database int32) []box {
	if !c.changed() {
		return nil
	}
	known, found := map[string][]shift{}, map[int32][]shift{}
	var rest []shift
	parts := w.split(c, w.space.userSingles,
		func(c *claim) ids { return *c.users },
		func(c *claim, _ int32) bool { return w.space.from.everywhere(c.from) })
	for _, p := range parts {
		key := p.claims.key()
		if _, ok := known[key]; !ok {
			known[key] = w.space.from.told(w.addresses(p.claims))
		}
		if p.one {
			found[p.members[0]] = known[key]
		} else {
			rest = known[key]
		}
	}
	var out []box
	for _, p := range parts {
		shifts := rest
		if p.one {
			shifts = w.space.untold(p.members[0], found, rest)
		}
		if members := w.space.comingTo(database, p.members); len(members) > 0 {
			out = appendBoxes(out, shifts, members)
		}
	}
	return merged(out, alongUsers, (*box).lines)
}

// A part is members of a dimension with the claims to them: one that claims name, or all the others, which only claims
// to everybody reach.
type part struct {
	members []int32
	one     bool
	claims  contest
}

// split takes a dimension apart. The first so many of its members, the singles, are one thing each; named are those that a
// claim is to, and takesAll tells whether nobody of a member comes past it. Parts without a changed claim have no claims.
func (w *walk) split(c contest, singles int32, named func(*claim) ids, takesAll func(*claim, int32) bool) []part {
	all, members, each := w.sort(c, named)
	changed := all.changed()
	var others []int32
	for m := range singles {
		if w.at[m] == 0 {
			others = append(others, m)
		}
	}
	parts := make([]part, 0, len(members)+1)
	for _, m := range members {
		mine := &each[w.at[m]-1]
		p := part{members: []int32{m}, one: true}
		if changed || mine.changed() {
			for side := range p.claims {
				p.claims[side] = w.merge(mine[side], all[side], func(c *claim) bool { return takesAll(c, m) })
			}
		}
		parts = append(parts, p)
	}
	for _, m := range members {
		w.at[m] = 0
	}
	if changed && len(others) > 0 {
		parts = append(parts, part{members: others, claims: all})
	}
	return parts
}

// sort finds the claims to everybody, the members that others name, in order, and the claims to each of these.
func (w *walk) sort(c contest, named func(*claim) ids) (all contest, members []int32, each []contest) {
	if w.at == nil {
		w.at = make([]int32, max(len(w.space.users), len(w.space.databases)))
	}
	for side, claims := range c {
		for _, c := range claims {
			to := named(c)
			if to.all {
				all[side] = append(all[side], c)
			}
			if !w.spend(len(to.list) + 1) {
				continue
			}
			for _, m := range to.list {
				if w.at[m] == 0 {
					members, each = append(members, m), append(each, contest{})
					w.at[m] = int32(len(each))
				}
				mine := &each[w.at[m]-1][side]
				*mine = append(*mine, c)
			}
		}
	}
	slices.Sort(members)
	return all, members, each
}

// merge puts two lists of claims into one, in the order of the file, up to one that takes all.
func (w *walk) merge(a, b []*claim, takesAll func(*claim) bool) []*claim {
	out := make([]*claim, 0, len(a)+min(len(b), 16))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].index < a[0].index {
			from = &b
		}
		c := (*from)[0]
		*from = (*from)[1:]
		if !w.spend(1) {
			return nil
		}
		out = append(out, c)
		if takesAll(c) {
			break
		}
	}
	return out
}

// A shift is addresses from which clients meet one rule before and another one after, with an effect.
type shift struct {
	interval
	before, after *item
}

// addresses walks the addresses from which one user comes to one database.
func (w *walk) addresses(c contest) []shift {
	if !c.changed() {
		return nil
	}
	g := newGaps(c)
	if !w.spend(8 * len(g)) {
		return nil
	}
	before, after := g.firsts(c[0]), g.firsts(c[1])
	var out []shift
	for i := range before {
		if effect(before[i], after[i]) != noEffect {
			out = append(out, shift{interval{g[i], g[i+1]}, before[i], after[i]})
		}
	}
	return out
}

// firsts gives for each gap the first claim to it.
func (g gaps) firsts(claims []*claim) []*item {
	out := make([]*item, len(g)-1)
	next := make([]int, len(g)) // the next gap, from this one on, that nobody has claimed
	for i := range next {
		next[i] = i
	}
	free := func(i int) int {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	for _, c := range claims {
		for _, s := range c.from {
			low, high := g.of(s)
			for i := free(low); i < high; i = free(i) {
				out[i], next[i] = c.item, i+1
			}
		}
	}
	return out
}
