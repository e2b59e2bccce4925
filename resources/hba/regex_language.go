package hba

import (
	"math/bits"
	"strings"
)

// A regular expression asks whether a name is in its language somewhere. Names are short: none has more than 63 bytes, so it
// has no more than 64 places, and a set of places is one word. A language leads from a set of places to the set of places
// where a match that began at one of them can end; what an expression can do is all seen at once, and nothing has to be
// tried and taken back. So no expression takes long, however it is nested.

// places is a set of places in a text: bit i is the place before its i-th byte.
type places = uint64

// A language is what a regular expression, or a part of one, matches.
type language struct {
	op       languageOp
	place    place       // atPlace
	kind     lookKind    // lookAround
	nested   bool        // a repetition or a look-around is in it
	kept     int32       // its place among those whose results are kept, from 1 on; 0: they are found again each time
	text     string      // inText
	set      *byteSet    // oneOfBytes
	of       []*language // inSequence, oneOf; repeated and lookAround have one
	min, max int32       // repeated
}

type languageOp uint8

const (
	inText languageOp = iota
	oneOfBytes
	atPlace
	inSequence
	oneOf
	repeated
	lookAround
)

// unlimited is the greatest count of a repetition without one.
const unlimited = 1 << 30

// place is a condition on where in the text something stands.
type place uint8

const (
	atStart place = iota
	atEnd
	atLineStart
	atLineEnd
	atWordStart
	atWordEnd
	atWordEdge
	notAtWordEdge
)

// lookKind is a kind of look-around.
type lookKind uint8

const (
	ahead lookKind = iota
	notAhead
	behind
	notBehind
)

// languages makes languages for one expression.
type languages struct {
	place *slab[language] // where they are kept, close to each other
	kept  int32
	bare  map[*language]*language // what repeatable made
}

func (l *languages) make(e language) *language {
	return &l.place.keep([]language{e})[0]
}

// keep lets the results of a language be kept: it is asked often.
func (l *languages) keep(e *language) *language {
	if e.kept == 0 {
		l.kept++
		e.kept = l.kept
	}
	return e
}

func (l *languages) set(s byteSet) *language {
	if c, ok := s.only(); ok {
		return l.make(language{op: inText, text: string([]byte{c})})
	}
	return l.make(language{op: oneOfBytes, set: &s})
}

func (l *languages) condition(p place) *language { return l.make(language{op: atPlace, place: p}) }

func (l *languages) sequence(of []*language) *language {
	of = l.joinTexts(of)
	if len(of) == 1 {
		return of[0]
	}
	return l.make(language{op: inSequence, of: of, nested: anyNested(of)})
}

// joinTexts makes one text of those that follow each other.
func (l *languages) joinTexts(of []*language) []*language {
	out := make([]*language, 0, len(of))
	for i := 0; i < len(of); {
		n := texts(of[i:])
		if n < 2 {
			out = append(out, of[i])
			i++
			continue
		}
		var text strings.Builder
		for _, e := range of[i : i+n] {
			text.WriteString(e.text)
		}
		out = append(out, l.make(language{op: inText, text: text.String()}))
		i += n
	}
	return out
}

// texts is how many texts there are before something else. Together they are no longer than a name: what back-references
// repeat could double with each of them.
func texts(of []*language) int {
	length := 0
	for i, e := range of {
		if length += len(e.text); e.op != inText || length > maxName {
			return i
		}
	}
	return len(of)
}

func (l *languages) oneOf(of []*language) *language {
	return l.make(language{op: oneOf, of: of, nested: anyNested(of)})
}

func anyNested(of []*language) bool {
	for _, e := range of {
		if e.nested {
			return true
		}
	}
	return false
}

// repeat is e min to max times over. Where repetitions are nested, keeping results keeps the time in bounds.
func (l *languages) repeat(e *language, min, max int) *language {
	switch {
	case max == 0:
		return l.make(language{op: inSequence})
	case min == 1 && max == 1:
		return e
	}
	r := l.make(language{op: repeated, of: []*language{e}, min: int32(min), max: int32(max), nested: true})
	if e.nested {
		l.keep(r)
	}
	return r
}

func (l *languages) look(kind lookKind, e *language) *language {
	return l.keep(l.make(language{op: lookAround, kind: kind, of: []*language{e}, nested: true}))
}

// repeatable is what a back-reference to e can match, as far as that can be said without knowing what e matched: the
// conditions in e do not hold again.
func (l *languages) repeatable(e *language) *language {
	switch e.op {
	case inText, oneOfBytes:
		return e
	case atPlace, lookAround:
		return l.make(language{op: inSequence})
	}
	if bare := l.bare[e]; bare != nil {
		return bare
	}
	bare := l.make(language{op: e.op, min: e.min, max: e.max, nested: true})
	for _, part := range e.of {
		bare.of = append(bare.of, l.repeatable(part))
	}
	if l.bare == nil {
		l.bare = map[*language]*language{}
	}
	l.bare[e], l.bare[bare] = l.keep(bare), bare
	return bare
}

// A subject is a text to be matched. It serves many expressions.
type subject struct {
	text string
	all  places
	at   [256]places // where each byte stands
}

// newSubject takes a text of at most 63 bytes.
func newSubject(text string) *subject {
	s := &subject{text: text, all: 1<<(len(text)+1) - 1}
	for i := range len(text) {
		s.at[text[i]] |= 1 << i
	}
	return s
}

// run matches one expression against one subject.
type run struct {
	*subject
	kept []results
}

// results are where matches of a kept language end, for each place where one may begin.
type results struct {
	known places
	ends  [maxName + 1]places
}

// ends tells where a match can end that begins at one of these places.
func (r *run) ends(e *language, from places) places {
	if e.kept == 0 {
		return r.find(e, from)
	}
	var out places
	for ; from != 0; from &= from - 1 {
		out |= r.endsAt(e, bits.TrailingZeros64(from))
	}
	return out
}

// endsAt is ends for one place. What was found is kept for languages that are to be kept.
func (r *run) endsAt(e *language, from int) places {
	if e.kept == 0 {
		return r.find(e, 1<<from)
	}
	k := &r.kept[e.kept]
	if k.known>>from&1 == 0 {
		k.ends[from] = r.find(e, 1<<from)
		k.known |= 1 << from
	}
	return k.ends[from]
}

func (r *run) find(e *language, from places) places {
	switch e.op {
	case inText:
		for i := 0; i < len(e.text) && from != 0; i++ {
			from = from & r.at[e.text[i]] << 1
		}
		return from
	case oneOfBytes:
		return r.step(e.set, from)
	case atPlace:
		return from & r.where(e.place)
	case lookAround:
		return r.lookAround(e, from)
	case repeated:
		return r.repeat(e, from)
	case oneOf:
		var out places
		for _, part := range e.of {
			out |= r.ends(part, from)
		}
		return out
	}
	for _, part := range e.of {
		if from == 0 {
			break
		}
		from = r.ends(part, from)
	}
	return from
}

// step goes over one byte of the set.
func (r *run) step(set *byteSet, from places) places {
	var out places
	for from &= r.all >> 1; from != 0; from &= from - 1 {
		if i := bits.TrailingZeros64(from); set.has(r.text[i]) {
			out |= 2 << i
		}
	}
	return out
}

// repeat goes the least number of times, or until nothing changes any more, and then as often as it may, minding only places
// that are new: who comes to a place sooner can go on from it further.
func (r *run) repeat(e *language, from places) places {
	for range e.min {
		next := r.ends(e.of[0], from)
		if next == from {
			break
		}
		from = next
	}
	out := from
	for n := e.min; n < e.max && from != 0; n++ {
		from = r.ends(e.of[0], from) &^ out
		out |= from
	}
	return out
}

// lookAround keeps those of the places that have, or do not have, a match that begins or ends there.
func (r *run) lookAround(e *language, from places) places {
	var met places
	if e.kind == behind || e.kind == notBehind {
		met = r.ends(e.of[0], r.all)
	} else {
		for rest := from; rest != 0; rest &= rest - 1 {
			if i := bits.TrailingZeros64(rest); r.endsAt(e.of[0], i) != 0 {
				met |= 1 << i
			}
		}
	}
	if e.kind == notAhead || e.kind == notBehind {
		return from &^ met
	}
	return from & met
}

// where tells the places of a kind.
func (r *run) where(p place) places {
	end := places(1) << len(r.text)
	switch p {
	case atStart:
		return 1
	case atEnd:
		return end
	case atLineStart:
		return 1 | r.at['\n']<<1
	case atLineEnd:
		return end | r.at['\n']
	}
	var before, after places // places with a word's byte before or after them
	for i := range len(r.text) {
		if isWord(r.text[i]) {
			after |= 1 << i
		}
	}
	before = after << 1
	switch p {
	case atWordStart:
		return after &^ before
	case atWordEnd:
		return before &^ after
	case atWordEdge:
		return before ^ after
	}
	return r.all &^ (before ^ after)
}
