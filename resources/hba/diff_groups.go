package hba

import (
	"fmt"
	"slices"
	"strings"
)

// A Group is connections that two files decide differently, in words. Unlike an AccessChange it holds all those for which
// the same method becomes the same other one, whatever lines say so.
type Group struct {
	Effect Effect
	// Users, Databases, From and Connections say who: "everyone but alice", "all databases", "10.0.0.0/8 but not
	// 10.1.0.0/16", "over TLS". From is empty for the unix socket.
	Users, Databases, From, Connections string
	// Before and After are the lines that decide, in the order of their files. They all ask for the same. Without any no line
	// matches.
	Before, After []*Rule
}

// Groups puts the changes together as far as they go, losses first.
func (d *Difference) Groups() []Group {
	boxes := d.boxes
	for before := -1; len(boxes) != before; {
		before = len(boxes)
		for _, along := range []direction{alongWays, alongUsers, alongDatabases, alongFrom} {
			boxes = merged(boxes, along, (*box).asks)
		}
	}
	out := make([]Group, 0, len(boxes))
	for i := range boxes {
		out = append(out, d.space.group(&boxes[i]))
	}
	slices.SortStableFunc(out, func(a, b Group) int { return int(a.Effect - b.Effect) })
	return out
}

// asks is the key of what two rules ask for, whichever rules they are.
func (b *box) asks() string { return b.before.asks() + "\x00" + b.after.asks() + "\x00" }

func (it *item) asks() string {
	if it == nil {
		return ""
	}
	return it.rule.Method + "\x01" + strings.Join(it.rule.Options, "\x01")
}

func (s *space) group(b *box) Group {
	g := Group{
		Effect: effect(b.before, b.after), Connections: b.way.words(),
		Users:     allBut("everyone", b.users, s.userSingles, s.userLabel),
		Databases: "replication",
	}
	if !b.replication {
		g.Databases = allBut("all databases", b.databases, int32(len(s.databases)), func(d int32) string { return s.databases[d].label })
	}
	if b.way != socket {
		g.From = few(s.from.words(b.from), ", ")
	}
	var before, after []*item
	for _, pair := range append(b.joined, [2]*item{b.before, b.after}) {
		before, after = append(before, pair[0]), append(after, pair[1])
	}
	g.Before, g.After = rulesOf(before), rulesOf(after)
	return g
}

// rulesOf are the rules of items, each once, in order.
func rulesOf(items []*item) (out []*Rule) {
	slices.SortFunc(items, func(a, b *item) int { return a.place() - b.place() })
	for _, it := range slices.Compact(items) {
		if it != nil {
			out = append(out, it.rule)
		}
	}
	return out
}

var wayWords = map[ways]string{
	socket: "through the unix socket", plain: "in plaintext", tls: "over TLS", gss: "with GSSAPI encryption",
	plain | gss: "without TLS", plain | tls: "without GSSAPI encryption", tls | gss: "encrypted", plain | tls | gss: "over TCP",
}

func (w ways) words() string {
	if text, ok := wayWords[w]; ok {
		return text
	}
	if w&^socket == plain|tls|gss {
		return "over any connection"
	}
	return wayWords[socket] + " and " + wayWords[w&^socket]
}

// maxFew is how many members of a list are printed.
const maxFew = 20

// few is a list that is cut where it becomes long, and says so.
func few(list []string, between string) string {
	more := ""
	if n := len(list) - maxFew; n > 1 {
		list, more = list[:maxFew], fmt.Sprintf("%sand %d more", between, n)
	}
	return strings.Join(list, between) + more
}

// allBut is a list of members. With "any other" among them it is all but those who are not, if they are not very many.
func allBut(all string, members []int32, singles int32, label func(int32) string) string {
	var in, out []string
	other := false
	for m := range singles {
		if _, ok := slices.BinarySearch(members, m); !ok {
			out = append(out, label(m))
			continue
		}
		in = append(in, label(m))
		other = other || label(m) == anyOther
	}
	var manifold []string
	for _, m := range members {
		if m >= singles {
			manifold = append(manifold, label(m))
		}
	}
	switch {
	case len(out) == 0:
		in = []string{all}
	case other && (len(out) <= maxFew || len(out) < len(in)):
		in = []string{all + " but " + few(out, ", ")}
	}
	return few(append(in, manifold...), ", ")
}

// words are the members in some intervals, a network with all below it as one.
func (a *addresses) words(in []interval) (out []string) {
	n := int32(len(a.nets))
	for _, s := range in {
		for id := s.low; id < s.high; id++ {
			block, net := a.place(id)
			switch {
			case block > 0 && a.there[id]:
				out = append(out, a.texts[id])
			case block > 0 || net > 0 && has(in, a.nets[net].above):
				// nobody, or told by the network above
			case a.nets[net].high <= s.high:
				out = append(out, a.net(net))
				id = min(a.nets[net].high, n) - 1
			default:
				out = append(out, a.net(net)+" but not "+few(a.missing(net, in), " or "))
			}
		}
	}
	return out
}

// missing are the networks below one that are not in some intervals, of those in each other the widest.
func (a *addresses) missing(net int32, in []interval) (out []string) {
	for below := net + 1; below < a.nets[net].high; below = a.nets[below].high {
		switch {
		case !has(in, below):
			out = append(out, a.net(below))
		default:
			out = append(out, a.missing(below, in)...)
		}
	}
	return out
}

func has(in []interval, id int32) bool {
	i, found := slices.BinarySearchFunc(in, id, func(s interval, id int32) int { return int(s.low - id) })
	if !found {
		i--
	}
	return i >= 0 && id < in[i].high
}

func (a *addresses) net(net int32) string {
	if net == 0 {
		return "any address"
	}
	return a.texts[net]
}
