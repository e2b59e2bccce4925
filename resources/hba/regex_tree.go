package hba

import (
	"errors"
	"math/bits"
)

// A back-reference matches what its group matched, so it is no language: what a part of the expression matches depends on
// what others did. PostgreSQL takes the language first, in which a back-reference is anything that its group could match,
// and then divides the match among the parts to see whether all references hold. It does not try every division: of a part
// that could divide its own piece in two ways it sees one only. ^(?:(a*)(a*))b\1c does not match aabc, although (a*) could
// be empty. Whoever wants its answers has to divide as it does, so this is a tree of parts like PostgreSQL's, divided in its
// order.

// A tree is an expression as it is divided.
type tree struct {
	op       treeOp
	language *language
	traits   traits
	group    int     // of (...): its number; else 0
	back     int     // treeBackref: the group
	min, max int     // treeRepeat, treeBackref: how often
	of       []*tree // treeChain has two, treeRepeat and treeGroup one
}

type treeOp int

const (
	treeLeaf    treeOp = iota // nothing to divide
	treeBackref               // what a group matched, min to max times
	treeChain                 // two, one after the other
	treeChoice                // one of them
	treeRepeat                // one, min to max times
	treeGroup                 // a group around a group
)

// traits are what decides how a tree divides.
type traits int

const (
	longer   traits = 1 << iota // it prefers a long match
	shorter                     // it prefers a short one
	mixed                       // both are in it
	captures                    // a group is in it
	refers                      // a back-reference is in it
)

const preference = longer | shorter

// messy tells whether there is something to divide.
func (t traits) messy() bool { return t&(mixed|captures|refers) != 0 }

// up are the traits that what is around takes over: of a preference only that there are two.
func (t traits) up() traits {
	if t&preference == preference {
		t |= mixed
	}
	return t &^ preference
}

// with combines the traits of two that follow each other; the preference is that of the first that has one.
func (t traits) with(next traits) traits {
	prefers := t & preference
	if prefers == 0 {
		prefers = next & preference
	}
	return (t | next).up() | prefers
}

func leaf(l *language, t traits) *tree { return &tree{op: treeLeaf, language: l, traits: t} }

// capturing marks a tree as the group of this number.
func capturing(t *tree, number int) *tree {
	if t.group != 0 {
		t = &tree{op: treeGroup, language: t.language, traits: t.traits, of: []*tree{t}}
	}
	t.traits |= captures
	t.group = number
	return t
}

// choice is one of several branches. An undivided one prefers a long match.
func (l *languages) choice(branches []*tree) *tree {
	if len(branches) == 1 {
		return branches[0]
	}
	t := &tree{op: treeChoice, traits: longer, of: branches}
	of := make([]*language, len(branches))
	for i, b := range branches {
		of[i] = b.language
		t.traits |= (t.traits | b.traits).up()
	}
	t.language = l.oneOf(of)
	if !t.traits.messy() {
		return leaf(t.language, t.traits)
	}
	return t
}

// A term is an atom with its quantifier, or a condition.
type term struct {
	atom      *language
	tree      *tree // of a group or a back-reference
	min, max  int
	prefers   traits // 0: no more than the atom does
	capture   bool   // it is a group with a number
	back      bool   // it is a back-reference
	condition bool
}

func (l *languages) term(p term) *language {
	if p.condition {
		return p.atom
	}
	return l.repeat(p.atom, p.min, p.max)
}

func (l *languages) terms(terms []term) *language {
	of := make([]*language, len(terms))
	for i, p := range terms {
		of[i] = l.term(p)
	}
	return l.sequence(of)
}

// chain is terms that follow each other: those before the first messy one, that one, and the rest.
func (l *languages) chain(terms []term) *tree {
	var before traits
	for i, p := range terms {
		if p.condition || p.max == 0 {
			continue
		}
		now := before | p.prefers
		if p.tree != nil {
			now |= p.tree.traits
		}
		if p.capture || p.back || now.up().messy() {
			return l.divided(terms, i, before)
		}
		before = now
	}
	return leaf(l.terms(terms), before)
}

// divided is a chain whose i-th term is the first messy one. before are the traits of those before it.
func (l *languages) divided(terms []term, i int, before traits) *tree {
	if terms[i].tree == nil {
		terms[i].tree = leaf(terms[i].atom, 0)
	}
	after := terms[i].prefers.with(terms[i].tree.traits)
	t := l.quantified(terms[i])
	rest := terms[i+1:]
	switch {
	case len(rest) == 0 && i == 0:
		return t
	case len(rest) == 0:
		return l.two(leaf(l.terms(terms[:i]), before), t, before|before.with(t.traits))
	}
	last := l.chain(rest)
	after |= after.with(last.traits)
	whole := before | before.with(after)
	if i == 0 {
		return l.two(t, last, whole)
	}
	pair := l.two(t, last, after)
	if t.op == treeLeaf && last.op == treeLeaf && !(t.traits | last.traits).up().messy() {
		pair = leaf(pair.language, t.traits.with(last.traits))
	}
	return l.two(leaf(l.terms(terms[:i]), before), pair, whole)
}

func (l *languages) two(a, b *tree, t traits) *tree {
	return &tree{op: treeChain, language: l.sequence([]*language{a.language, b.language}), traits: t, of: []*tree{a, b}}
}

// quantified is a messy term. Of a group that is to match several times only the last match counts, so that x{m,n} is
// x{m-1,n-1}x as long as no back-reference is in it.
func (l *languages) quantified(p term) *tree {
	t := p.tree
	whole := p.prefers.with(t.traits)
	repeat := l.term(p)
	switch {
	case p.back:
		t.min, t.max, t.language = p.min, p.max, repeat
		t.traits |= whole
		return t
	case p.min == 1 && p.max == 1 && agrees(p.prefers, t.traits):
		return t
	case t.traits&(captures|refers) == 0:
		return leaf(repeat, whole)
	case p.min > 0 && t.traits&refers == 0:
		most := p.max
		if most != unlimited {
			most--
		}
		return l.two(leaf(l.repeat(t.language, p.min-1, most), whole&preference), t, whole)
	}
	return &tree{op: treeRepeat, language: repeat, traits: whole, min: p.min, max: p.max, of: []*tree{t}}
}

// agrees tells whether a quantifier prefers nothing that its atom does not.
func agrees(quantifier, atom traits) bool {
	atom &= preference | mixed
	return quantifier == 0 || atom == 0 || quantifier == atom
}

// errSlow says that a match took too many steps.
var errSlow = errors.New("a regular expression with back-references takes too long to match")

// maxDivisions bounds the divisions tried for one match: a second or two, in which the server comes a third as far.
const maxDivisions = 200_000_000

// A division divides a text among the parts of a tree.
type division struct {
	run
	fold   bool      // upper and lower case are the same
	groups []stretch // what each group matched
	steps  int
}

// A stretch is a piece of the text; ok says that there is one.
type stretch struct {
	from, to int
	ok       bool
}

// anywhere tells whether there is a match somewhere. Like the server it goes from one place where a match may end to the
// next one, and does not try the end of the text on its own when it comes there by going on.
func (d *division) anywhere(t *tree) bool {
	for from := 0; ; {
		end := d.firstEnd(t, from)
		if end < 0 {
			return false
		}
		for begin := from; begin <= end; begin++ {
			if d.beginsAt(t, begin) {
				return true
			}
		}
		if from = end + 1; from >= len(d.text) {
			return false
		}
	}
}

// firstEnd is where a match that begins at from or later ends first; -1: nowhere.
func (d *division) firstEnd(t *tree, from int) int {
	ends := d.ends(t.language, d.all&^(1<<from-1))
	if ends == 0 {
		return -1
	}
	return bits.TrailingZeros64(ends)
}

// beginsAt tries all matches that begin here, in the order that the expression prefers.
func (d *division) beginsAt(t *tree, begin int) bool {
	for end := d.next(t, begin, begin, len(d.text)); end >= 0; {
		if d.divide(t, begin, end) {
			return true
		}
		if t.traits&shorter != 0 {
			end = d.next(t, begin, end+1, len(d.text))
		} else {
			end = d.next(t, begin, begin, end-1)
		}
	}
	return false
}

// next is the end that t prefers among those of matches from begin, not before low and not after high; -1: there is none.
func (d *division) next(t *tree, begin, low, high int) int {
	if t.traits&shorter != 0 {
		return d.shortest(t, begin, low, high)
	}
	return d.longest(t, begin, low, high)
}

func (d *division) longest(t *tree, begin, low, high int) int {
	ends := d.within(t, begin, low, high)
	return bits.Len64(ends) - 1
}

func (d *division) shortest(t *tree, begin, low, high int) int {
	ends := d.within(t, begin, low, high)
	if ends == 0 {
		return -1
	}
	return bits.TrailingZeros64(ends)
}

// within are the ends of matches of t that begin at begin.
func (d *division) within(t *tree, begin, low, high int) places {
	if low > high {
		return 0
	}
	if d.steps++; d.steps > maxDivisions {
		panic(regexFault{errSlow})
	}
	var ends places
	if t.op == treeBackref && d.groups[t.back].ok {
		ends = d.repetitions(t, begin)
	} else {
		ends = d.endsAt(t.language, begin)
	}
	return ends &^ (1<<low - 1) & (2<<high - 1)
}

// repetitions are the ends of a back-reference whose group matched something.
func (d *division) repetitions(t *tree, begin int) places {
	g := d.groups[t.back]
	what := d.text[g.from:g.to]
	if what == "" {
		return 1 << begin
	}
	var ends places
	for n, at := 0, begin; n <= t.max; n++ {
		if n >= t.min {
			ends |= 1 << at
		}
		next := at + len(what)
		if next > len(d.text) || !d.same(d.text[at:next], what) {
			break
		}
		at = next
	}
	return ends
}

func (d *division) same(a, b string) bool {
	if d.fold {
		return equalFold(a, b)
	}
	return a == b
}

// divide tells whether t can match just this piece of the text, in whose language it is, and notes what its groups matched.
// Of groups in a tree that cannot it leaves nothing.
func (d *division) divide(t *tree, begin, end int) bool {
	ok := true
	switch t.op {
	case treeBackref:
		ok = d.groups[t.back].ok && d.reaches(t, begin, end)
	case treeChain:
		ok = d.chain(t.of[0], t.of[1], begin, end)
	case treeChoice:
		ok = d.choice(t.of, begin, end)
	case treeRepeat:
		ok = d.repeatedly(t, begin, end)
	case treeGroup:
		ok = d.divide(t.of[0], begin, end)
	}
	if ok && t.group > 0 {
		d.groups[t.group] = stretch{begin, end, true}
	}
	return ok
}

// reaches tells whether a match of t from begin can end there.
func (d *division) reaches(t *tree, begin, end int) bool {
	return d.within(t, begin, end, end) != 0
}

// chain looks for a place between a and b. Once a took the piece before a place, it is not asked for another way to do so.
func (d *division) chain(a, b *tree, begin, end int) bool {
	for middle := d.next(a, begin, begin, end); middle >= 0; {
		if d.reaches(b, middle, end) && d.divide(a, begin, middle) {
			if d.divide(b, middle, end) {
				return true
			}
			d.forget(a)
		}
		if a.traits&shorter != 0 {
			middle = d.next(a, begin, middle+1, end)
		} else {
			middle = d.next(a, begin, begin, middle-1)
		}
	}
	return false
}

func (d *division) choice(branches []*tree, begin, end int) bool {
	for _, b := range branches {
		if d.reaches(b, begin, end) && d.divide(b, begin, end) {
			return true
		}
	}
	return false
}

// forget lets the groups of t have matched nothing.
func (d *division) forget(t *tree) {
	if t.group > 0 {
		d.groups[t.group] = stretch{}
	}
	for _, part := range t.of {
		d.forget(part)
	}
}

// repeatedly divides a piece into matches of one tree.
func (d *division) repeatedly(t *tree, begin, end int) bool {
	it := &iteration{division: d, one: t.of[0], end: end, least: max(t.min, 1), failed: map[[2]int]bool{}}
	it.most = max(min(end-begin, t.max), it.least)
	short := it.one.traits&shorter != 0
	switch {
	case short && t.min == 0 && begin == end:
		return true
	case short && it.short(1, begin), !short && it.long(1, begin):
		return true
	}
	return !short && t.min == 0 && begin == end
}

// An iteration looks for places that divide a piece of the text into matches of one tree. Empty matches are taken only
// where the least number of them could not be reached otherwise. Which groups one match leaves does not matter to the next.
type iteration struct {
	*division
	one         *tree
	end         int
	least, most int
	failed      map[[2]int]bool // number of a match, and where it begins: it was tried in vain
}

// takes tells whether the tree can match from one place to another. Only what the last one of its groups matched is kept.
func (it *iteration) takes(from, to int) bool {
	it.forget(it.one)
	if it.divide(it.one, from, to) {
		return true
	}
	it.forget(it.one)
	return false
}

// long puts the k-th and all further matches after from, long ones first.
func (it *iteration) long(k, from int) bool {
	key := [2]int{k, from}
	if it.failed[key] {
		return false
	}
	it.failed[key] = true
	limit := it.end
	for {
		to := it.longest(it.one, from, from, limit)
		if to < 0 || to != it.end && (k >= it.most || to == from && !it.emptyHelps(k, to)) {
			return false
		}
		if it.goesOn(k, from, to) {
			return true
		}
		limit = to - 1
		if limit < from || limit == from && !(k < it.least && it.least-k >= it.end-from) {
			return false
		}
	}
}

// emptyHelps tells whether the k-th match has to be empty for there to be enough of them.
func (it *iteration) emptyHelps(k, at int) bool {
	return k < it.least && it.least-k >= it.end-at
}

// goesOn takes the k-th match and looks for those after it.
func (it *iteration) goesOn(k, from, to int) bool {
	if to != it.end {
		return it.takes(from, to) && it.further(k+1, to)
	}
	return k >= it.least && it.takes(from, to)
}

func (it *iteration) further(k, from int) bool {
	if it.one.traits&shorter != 0 {
		return it.short(k, from)
	}
	return it.long(k, from)
}

// short is long for a tree that prefers short matches.
func (it *iteration) short(k, from int) bool {
	key := [2]int{k, from}
	if it.failed[key] {
		return false
	}
	it.failed[key] = true
	for limit := from; ; {
		if limit == from && limit != it.end && !it.emptyHelps(k, limit) {
			limit++
		}
		if k >= it.most {
			limit = it.end
		}
		to := it.shortest(it.one, from, limit, it.end)
		if to < 0 || to != it.end && k >= it.most {
			return false
		}
		if it.goesOn(k, from, to) {
			return true
		}
		if to >= it.end {
			return false
		}
		limit = to + 1
	}
}
