package hba

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// coverage knows the rules so far and finds those that take all connections of a later one. It is careful: it says so only
// where it is certain from the file alone, so role memberships, host names against addresses and regular expressions
// against names are not weighed.
type coverage struct {
	rules map[coverKey][]*Rule
	masks []string // all masks met, as bytes
	order map[*Rule]int
}

// A coverKey is one combination of a database, a user and a network.
type coverKey struct{ database, user, network string }

// maxCombinations is how many names a rule may combine to be looked for as a covering one; it keeps large files fast.
const maxCombinations = 64

func newCoverage() *coverage {
	return &coverage{rules: map[coverKey][]*Rule{}, order: map[*Rule]int{}}
}

// add makes a rule known. One that is wholly covered adds nothing.
func (c *coverage) add(r *Rule) {
	if r.Warning != "" || len(r.Databases)*len(r.Users) > maxCombinations {
		return
	}
	if taken, _ := c.taken(r); r.ways()&^taken == 0 {
		return
	}
	c.order[r] = len(c.order)
	if m := string(r.network.mask); r.network.kind == numeric && len(c.masks) < maxCombinations && !slices.Contains(c.masks, m) {
		c.masks = append(c.masks, m)
	}
	for _, d := range r.Databases {
		for _, u := range r.Users {
			k := coverKey{databaseKey(d), userKey(u), r.network.key()}
			c.rules[k] = append(c.rules[k], r)
		}
	}
}

// taken gives the kinds of connection that earlier rules take from all that r is for, and those rules, first come first.
func (c *coverage) taken(r *Rule) (taken ways, by []*Rule) {
	for _, k := range c.keys(r) {
		for _, e := range c.rules[k] {
			if fresh := e.ways() & r.ways() &^ taken; fresh != 0 && e.covers(r) {
				taken |= fresh
				by = append(by, e)
			}
		}
	}
	slices.SortFunc(by, func(a, b *Rule) int { return c.order[a] - c.order[b] })
	return taken, by
}

// keys are the places where a rule that covers r can be found: it has to cover the first database and the first user.
func (c *coverage) keys(r *Rule) []coverKey {
	databases := []string{databaseKey(r.Databases[0])}
	if databases[0] != keyAll && databases[0] != keyReplication {
		databases = append(databases, keyAll)
	}
	users := []string{userKey(r.Users[0])}
	if users[0] != keyAll {
		users = append(users, keyAll)
	}
	var keys []coverKey
	for _, n := range c.networks(r.network) {
		for _, d := range databases {
			for _, u := range users {
				keys = append(keys, coverKey{d, u, n})
			}
		}
	}
	return keys
}

// networks are the keys of all networks that hold this one.
func (c *coverage) networks(n network) []string {
	keys := []string{n.key()}
	if n.kind != anyAddress {
		keys = append(keys, network{}.key())
	}
	if n.kind == sameHost {
		keys = append(keys, network{kind: sameNet}.key())
	}
	if n.kind != numeric {
		return keys
	}
	for _, m := range c.masks {
		wider := network{kind: numeric, addr: n.addr, mask: []byte(m)}
		if m != string(n.mask) && wider.holds(n) {
			keys = append(keys, wider.key())
		}
	}
	return keys
}

// holds tells whether every address of the narrower network is in this one.
func (n network) holds(narrower network) bool {
	if len(n.mask) != len(narrower.mask) {
		return false
	}
	for i, m := range n.mask {
		if m&^narrower.mask[i] != 0 {
			return false
		}
	}
	return masked(n.addr, n.mask) == masked(narrower.addr, n.mask)
}

func masked(a netip.Addr, mask []byte) string {
	b := a.AsSlice()
	for i := range b {
		b[i] &= mask[i]
	}
	return string(b)
}

func (n network) key() string {
	switch n.kind {
	case anyAddress:
		return "all"
	case sameHost:
		return "samehost"
	case sameNet:
		return "samenet"
	case hostName:
		return "name " + strings.ToLower(n.host)
	}
	return "net " + masked(n.addr, n.mask) + string(n.mask)
}

// covers tells whether r is for no database and no user that e is not for; the network is known to be held.
func (e *Rule) covers(r *Rule) bool {
	return coverNames(e.Databases, r.Databases, databaseKey) && coverNames(e.Users, r.Users, userKey)
}

func coverNames(wide, narrow []Name, key func(Name) string) bool {
	for _, n := range narrow {
		if !coverName(wide, key(n), key) {
			return false
		}
	}
	return true
}

func coverName(wide []Name, want string, key func(Name) string) bool {
	for _, w := range wide {
		if k := key(w); k == want || k == keyAll && want != keyReplication {
			return true
		}
	}
	return false
}

const (
	keyAll         = "keyword all"
	keyReplication = "keyword replication"
)

// databaseKey is one string for what a name in the database column means.
func databaseKey(n Name) string {
	if !n.Quoted {
		switch n.Text {
		case "all", "sameuser", "samerole", "replication":
			return "keyword " + n.Text
		case "samegroup":
			return "keyword samerole"
		}
	}
	return "name " + n.Text
}

// userKey is one string for what a name in the user column means.
func userKey(n Name) string {
	switch group := n.Group(); {
	case n.Keyword("all"):
		return keyAll
	case group != "":
		return "group " + group
	}
	return "name " + n.Text
}

// takers says which rules take all connections of another.
func takers(rules []*Rule) string {
	places := make([]string, len(rules))
	for i, r := range rules {
		places[i] = "line " + strconv.Itoa(r.Line)
		if r.File != "" {
			places[i] += " of " + r.File
		}
	}
	if len(places) == 1 {
		return places[0] + " takes"
	}
	return strings.Join(places, " and ") + " take"
}
