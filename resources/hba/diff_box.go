package hba

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// ids are members of a dimension of the space, by their numbers.
type ids struct {
	all  bool
	list []int32 // sorted; besides all, those that all does not tell of
}

func (s *ids) empty() bool { return !s.all && len(s.list) == 0 }

func (s *ids) has(id int32) bool {
	if s.all {
		return true
	}
	_, ok := slices.BinarySearch(s.list, id)
	return ok
}

// with is the union of two sets.
func (s ids) with(o ids) ids {
	switch {
	case o.empty():
		return s
	case s.empty():
		return o
	}
	return newIDs(s.all || o.all, slices.Concat(s.list, o.list))
}

// within is the intersection with a list.
func (s *ids) within(list []int32) *ids {
	var out []int32
	for _, id := range list {
		if s.has(id) {
			out = append(out, id)
		}
	}
	return &ids{list: out}
}

func newIDs(all bool, list []int32) ids {
	slices.Sort(list)
	return ids{all, slices.Compact(list)}
}

// An interval is the addresses from low up to, and not, high, by their numbers.
type interval struct{ low, high int32 }

func (s interval) compare(o interval) int {
	return cmp.Or(cmp.Compare(s.low, o.low), cmp.Compare(s.high, o.high))
}

// A box is connections that are decided differently in the same way: all combinations of its members.
type box struct {
	way         ways
	replication bool
	databases   []int32
	users       []int32
	from        []interval
	before      *item
	after       *item
	joined      [][2]*item // of joined boxes: what decided each of the others
}

// appendBoxes adds the shifts of some users, those of the same two rules together.
func appendBoxes(out []box, shifts []shift, users []int32) []box {
	first := len(out)
	at := map[[2]*item]int{}
	for _, p := range shifts {
		pair := [2]*item{p.before, p.after}
		i, ok := at[pair]
		if !ok {
			i = len(out) - first
			at[pair] = i
			out = append(out, box{users: users, before: p.before, after: p.after})
		}
		b := &out[first+i]
		b.from = addInterval(b.from, p.interval)
	}
	return out
}

// addInterval adds a interval that comes after all the others.
func addInterval(intervals []interval, s interval) []interval {
	if last := len(intervals) - 1; last >= 0 && intervals[last].high == s.low {
		intervals[last].high = s.high
		return intervals
	}
	return append(intervals, s)
}

// lines is the key of the two rules that decide.
func (b *box) lines() string {
	key := binary.AppendVarint(nil, int64(b.before.place()))
	return string(binary.AppendVarint(key, int64(b.after.place())))
}

// A direction is a dimension along which boxes can lie side by side.
type direction int

const (
	alongWays direction = iota
	alongDatabases
	alongUsers
	alongFrom
)

// merged puts together boxes that lie side by side: those that are the same in all but one dimension. decides is the key of
// what they are decided by.
func merged(boxes []box, along direction, decides func(*box) string) []box {
	at, joined := map[string]int{}, map[int]bool{}
	var out []box
	for i := range boxes {
		b := &boxes[i]
		key := decides(b) + b.key(along)
		j, ok := at[key]
		switch {
		case !ok:
			at[key] = len(out)
			out = append(out, *b)
			continue
		case !joined[j]:
			joined[j] = true
			out[j].own(along)
		}
		out[j].join(b, along)
	}
	for j := range joined {
		out[j].settle(along)
	}
	return out
}

// key is the same for boxes with the same members in all dimensions but one.
func (b *box) key(but direction) string {
	var key []byte
	if but != alongWays {
		key = append(key, byte(b.way))
	}
	if b.replication {
		key = append(key, 'r')
	}
	add := func(d direction, numbers []int32) {
		if d == but {
			return
		}
		key = binary.AppendVarint(key, int64(len(numbers)))
		for _, n := range numbers {
			key = binary.AppendVarint(key, int64(n))
		}
	}
	add(alongDatabases, b.databases)
	add(alongUsers, b.users)
	if but != alongFrom {
		for _, s := range b.from {
			key = binary.AppendVarint(binary.AppendVarint(key, int64(s.low)), int64(s.high))
		}
	}
	return string(key)
}

// own gives the box a list of its own in one dimension.
func (b *box) own(along direction) {
	b.joined = slices.Clone(b.joined)
	switch along {
	case alongDatabases:
		b.databases = slices.Clone(b.databases)
	case alongUsers:
		b.users = slices.Clone(b.users)
	case alongFrom:
		b.from = slices.Clone(b.from)
	}
}

func (b *box) join(o *box, along direction) {
	b.joined = append(append(b.joined, [2]*item{o.before, o.after}), o.joined...)
	switch along {
	case alongWays:
		b.way |= o.way
	case alongDatabases:
		b.databases = append(b.databases, o.databases...)
	case alongUsers:
		b.users = append(b.users, o.users...)
	case alongFrom:
		b.from = append(b.from, o.from...)
	}
}

// settle puts the members in order after joins.
func (b *box) settle(along direction) {
	switch along {
	case alongDatabases:
		slices.Sort(b.databases)
	case alongUsers:
		slices.Sort(b.users)
	case alongFrom:
		slices.SortFunc(b.from, interval.compare)
		from := b.from[:0]
		for _, s := range b.from {
			from = addInterval(from, s)
		}
		b.from = from
	}
}
