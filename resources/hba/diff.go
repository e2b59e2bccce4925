package hba

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Diff compares who gets in by two files. It does not compare their lines: it walks the connections that there can be, cut
// into as many kinds as the files can tell apart, and asks for each kind which line it meets in the one and in the other.
//
// The kinds are the members of a partition (diff_space.go, diff_addresses.go): what the files name, and any other.
// diff_walk.go goes through their combinations. Most are never looked at: a connection can be decided differently only if
// it meets, in one of the files, a line that the other does not have, and a line that takes all that is left ends the
// search. diff_groups.go brings the result into a form for people.

// An Effect is what becomes of the clients of an AccessChange.
type Effect int

// The effects, the worst first.
const (
	Loses       Effect = iota // they got in, and are refused now
	Gains                     // they were refused, and can get in now
	OtherMethod               // they can get in as before, by another method or other options of it
	noEffect
)

func (e Effect) String() string {
	return [...]string{Loses: "loses", Gains: "gains", OtherMethod: "method", noEffect: "none"}[e]
}

// An AccessChange is a set of connections that the two files decide differently, all in the same way: each of the users to
// each of the databases from each of the addresses.
//
// The lists hold members of the partition. A user is a name; +role is a member of the role who is not named otherwise; /re
// is one whose name matches; "a and +b" is a as a member of b, listed only where neither of the two alone tells of the
// change; "any other" is one who is none of these. A database is a name, /re or "any other"; "sameuser" has the user's own
// name and "samerole" that of a role that the user is in, where the files name neither, and "a and samerole" is a for
// members of the role a. An address is a network, which stands for what is in it and in no narrower one of the partition;
// "samehost", "samenet" or "host name", with " and " between them; or "any other". A name that could be taken for one of
// these words is in quotes.
type AccessChange struct {
	Effect      Effect
	Connection  string // local, plaintext, tls or gss
	Replication bool   // physical replication; the database is "replication" then
	Databases   []string
	Users       []string
	From        []string // "local" for the unix socket
	Before      *Rule    // the line that decides in the file before; nil: no line matches
	After       *Rule
}

// A Difference is all that two files decide differently.
type Difference struct {
	// Changes do not overlap but where a user or an address is several things at once. Losses come first, then it goes by
	// the lines that decide.
	Changes []AccessChange
	// Limits say what was not compared, a sentence each. Without any the changes are all that there are.
	Limits []string

	space *space
	boxes []box
}

// Names are members of the partition besides those that the files name: who is to be told apart from any other.
type Names struct {
	Users, Databases []string
	Networks         []netip.Prefix
}

// maxSteps bounds the work to a few seconds, and memory with it.
const maxSteps = 1 << 24

// Diff tells what the file after decides differently from the file before. Both are parsed for the same server, and both
// should load. It takes no facts: role memberships, names of hosts, samehost and samenet are members of the partition.
func Diff(before, after *File, also Names) *Difference { return diff(before, after, also, maxSteps) }

func diff(before, after *File, also Names, steps int) *Difference {
	s := newSpace([]*File{before, after}, also)
	w := &walk{space: s, steps: steps}
	d := &Difference{space: s, boxes: w.all(before, after), Limits: s.limits}
	for _, text := range slices.Sorted(maps.Keys(s.slow)) {
		d.Limits = append(d.Limits, fmt.Sprintf("%s takes too long: it was taken to match no name", text))
	}
	if w.steps < 0 {
		d.Limits = append(d.Limits, "the files combine too many users, databases and addresses: what is listed is true, and not everything was compared")
	}
	l := &labels{space: s, members: map[*int32][]string{}, from: map[*interval][]string{}}
	for i := range d.boxes {
		if l.count > maxListed {
			d.Limits = append(d.Limits, fmt.Sprintf("%d more changes are not listed, so long is the list", len(d.boxes)-i))
			break
		}
		d.Changes = append(d.Changes, l.change(&d.boxes[i]))
	}
	return d
}

// maxListed is how many members the lists of all changes have together, about.
const maxListed = 1 << 24

// labels puts boxes into words. Many have lists in common.
type labels struct {
	space   *space
	members map[*int32][]string
	from    map[*interval][]string
	count   int
}

func (l *labels) change(b *box) AccessChange {
	c := AccessChange{
		Effect: effect(b.before, b.after), Connection: b.way.word(), Replication: b.replication,
		Databases: []string{"replication"}, From: []string{"local"}, Before: b.before.decides(), After: b.after.decides(),
	}
	c.Users = l.list(b.users, l.space.userLabel)
	if !b.replication {
		c.Databases = l.list(b.databases, func(d int32) string { return l.space.databases[d].label })
	}
	if b.way != socket {
		if _, ok := l.from[&b.from[0]]; !ok {
			l.from[&b.from[0]] = l.space.from.labels(b.from)
		}
		c.From = l.from[&b.from[0]]
	}
	l.count += len(c.Users) + len(c.Databases) + len(c.From)
	return c
}

func (l *labels) list(of []int32, label func(int32) string) []string {
	if out, ok := l.members[&of[0]]; ok {
		return out
	}
	out := make([]string, len(of))
	for i, id := range of {
		out[i] = label(id)
	}
	l.members[&of[0]] = out
	return out
}

// word names one kind of connection.
func (w ways) word() string {
	return map[ways]string{socket: "local", plain: "plaintext", tls: "tls", gss: "gss"}[w]
}

// effect is what becomes of clients that met one rule and meet another. Nil is no rule.
func effect(before, after *item) Effect {
	was, is := before.admits(), after.admits()
	switch {
	case was && !is:
		return Loses
	case !was && is:
		return Gains
	case was && is && !before.rule.asksTheSame(after.rule):
		return OtherMethod
	}
	return noEffect
}

// asksTheSame tells whether two rules ask the same of a client.
func (r *Rule) asksTheSame(o *Rule) bool {
	return r.Method == o.Method && slices.Equal(r.Options, o.Options)
}

// order is the order of the changes.
func order(a, b *box) int {
	return cmp.Or(
		cmp.Compare(effect(a.before, a.after), effect(b.before, b.after)), cmp.Compare(a.before.place(), b.before.place()),
		cmp.Compare(a.after.place(), b.after.place()), cmp.Compare(a.way, b.way), slices.Compare(a.databases, b.databases),
		slices.Compare(a.users, b.users), slices.CompareFunc(a.from, b.from, interval.compare),
	)
}
