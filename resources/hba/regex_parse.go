package hba

import "strings"

// alternatives parses branches with | between them, up to stop.
func (r *regexScanner) alternatives(stop int, look bool) *tree {
	if r.depth++; r.depth > maxNesting {
		r.fail(errNesting)
	}
	branches := []*tree{r.branch(stop, look)}
	for r.token == '|' {
		r.next()
		branches = append(branches, r.branch(stop, look))
	}
	if r.token != stop {
		r.fail(errParens)
	}
	r.depth--
	return r.choice(branches)
}

// branch parses terms that follow each other.
func (r *regexScanner) branch(stop int, look bool) *tree {
	var terms []term
	for r.token != '|' && r.token != stop && r.token != tEnd {
		terms = append(terms, r.term(look))
	}
	return r.chain(terms)
}

// term parses an atom with its quantifier, or a condition, which takes none.
func (r *regexScanner) term(look bool) term {
	switch r.token {
	case '^', '$', tAnchor:
		c := r.anchor()
		r.next()
		return term{atom: c, condition: true}
	case tLook:
		kind := lookKind(r.value)
		r.next()
		c := r.look(kind, r.alternatives(')', true).language)
		r.next()
		return term{atom: c, condition: true}
	}
	p := r.atom(look)
	r.next()
	r.quantifier(&p)
	return p
}

// anchor is what the token at hand asks of a place in the text.
func (r *regexScanner) anchor() *language {
	switch {
	case r.token == '^' && r.lineEnds:
		return r.condition(atLineStart)
	case r.token == '$' && r.lineEnds:
		return r.condition(atLineEnd)
	case r.token == '^' || r.value == 'A':
		return r.condition(atStart)
	case r.token == '$' || r.value == 'Z':
		return r.condition(atEnd)
	}
	return r.condition(map[rune]place{'m': atWordStart, 'M': atWordEnd, 'y': atWordEdge, 'Y': notAtWordEdge}[r.value])
}

func (r *regexScanner) atom(look bool) term {
	switch r.token {
	case '*', '+', '?', '{':
		r.fail(errQuantifier)
	case ')':
		if r.kind != extended {
			r.fail(errParens)
		}
	case '(':
		return r.group(look)
	case '[':
		return term{atom: r.bracketed(r.value == 0)}
	case tBackref:
		return r.backref(look)
	case tClass:
		return term{atom: r.set(classEscape(r.value))}
	case '.':
		return term{atom: r.set(r.anything())}
	}
	return term{atom: r.character(r.value)}
}

// anything is what a dot matches.
func (r *regexScanner) anything() byteSet {
	all := byteSet{}.complement()
	if r.lineStop {
		all.remove('\n')
	}
	return all
}

// group parses (...). Those in a look-around capture nothing and are not counted.
func (r *regexScanner) group(look bool) term {
	number := 0
	if r.value == 1 && !look {
		r.groups++
		number = r.groups
	}
	r.next()
	t := r.alternatives(')', look)
	if number > 0 {
		t = capturing(t, number)
		if r.closed == nil {
			r.closed = map[int]*tree{}
		}
		r.closed[number] = t
	}
	return term{atom: t.language, tree: t, capture: number > 0}
}

func (r *regexScanner) backref(look bool) term {
	group := r.closed[int(r.value)]
	if look || group == nil {
		r.fail(errBackref)
	}
	t := &tree{op: treeBackref, back: int(r.value), traits: refers, language: r.repeatable(group.language)}
	return term{atom: t.language, tree: t, back: true}
}

// quantifier parses how often the atom may stand there.
func (r *regexScanner) quantifier(p *term) {
	p.min, p.max = 1, 1
	switch r.token {
	case '*':
		p.min, p.max = 0, unlimited
	case '+':
		p.max = unlimited
	case '?':
		p.min = 0
	case '{':
		r.next()
		r.counts(p)
		return
	default:
		return
	}
	p.prefers = traits(r.value)
	r.next()
}

// counts parses {m}, {m,} and {m,n}. A single number takes over the preference of its atom.
func (r *regexScanner) counts(p *term) {
	p.min = r.count()
	p.max = p.min
	comma := r.token == ','
	if comma {
		p.max = unlimited
		r.next()
		if r.token == tDigit {
			p.max = r.count()
		}
		if p.min > p.max {
			r.fail(errRepetition)
		}
	}
	if r.token != '}' {
		r.fail(errRepetition)
	}
	if comma {
		p.prefers = traits(r.value)
	}
	r.next()
}

func (r *regexScanner) count() int {
	n := 0
	for r.token == tDigit && n < maxRepeat {
		n = n*10 + int(r.value)
		r.next()
	}
	if r.token == tDigit || n > maxRepeat {
		r.fail(errRepetition)
	}
	return n
}

// bracketed parses [...] up to its end.
func (r *regexScanner) bracketed(negated bool) *language {
	var set byteSet
	r.next()
	for r.token != ']' {
		r.bracketItem(&set)
	}
	if !negated {
		return r.set(set)
	}
	if r.lineStop {
		set.add('\n')
	}
	return r.set(set.complement())
}

// bracketItem adds one character, range, class or collating element.
func (r *regexScanner) bracketItem(set *byteSet) {
	switch r.token {
	case tRange:
		r.fail(errRange)
	case tClass:
		set.addAll(classEscape(r.value))
		r.next()
		return
	case tCclass:
		set.addAll(r.className())
		return
	}
	single := r.token == tCollate && r.value == '='
	low := r.element()
	if single || r.token != tRange {
		r.addRange(set, low, low)
		return
	}
	r.next()
	if r.token != tPlain && r.token != tRange && (r.token != tCollate || r.value != '.') {
		r.fail(errRange)
	}
	high := r.element()
	if low > high {
		r.fail(errRange)
	}
	r.addRange(set, low, high)
}

// addRange adds characters, in both cases if that makes no difference. No name has characters beyond 255.
func (r *regexScanner) addRange(set *byteSet, low, high rune) {
	for c := low; c <= min(high, 255); c++ {
		set.add(byte(c))
		if r.fold {
			set.add(otherCase(byte(c)))
		}
	}
}

// character is the language of one character.
func (r *regexScanner) character(c rune) *language {
	var set byteSet
	r.addRange(&set, c, c)
	return r.set(set)
}

// element reads one end of a range.
func (r *regexScanner) element() rune {
	if r.token != tCollate {
		c := r.value
		r.next()
		return c
	}
	name := r.inside()
	if len(name) == 1 {
		return rune(name[0])
	}
	c, ok := collatingNames[name]
	if !ok {
		r.fail(errCollate)
	}
	return c
}

func (r *regexScanner) className() byteSet {
	name := r.inside()
	if r.fold && (name == "upper" || name == "lower") {
		name = "alpha"
	}
	set, ok := namedClass(name)
	if !ok {
		r.fail(errClass)
	}
	return set
}

// inside reads the text up to the end of [. .] and its like.
func (r *regexScanner) inside() string {
	start := r.pos
	end := start
	for r.next(); r.token == tPlain; r.next() {
		end = r.pos
	}
	r.next()
	name := make([]byte, 0, end-start)
	for _, c := range r.s[start:end] {
		name = append(name, byte(c))
	}
	return string(name)
}

// collatingNames are the names of characters that PostgreSQL knows in [. .], those of POSIX.
var collatingNames = func() map[string]rune {
	names := map[string]rune{
		"alert": 7, "backspace": 8, "tab": 9, "newline": 10, "vertical-tab": 11, "form-feed": 12, "carriage-return": 13,
		"IS4": 28, "IS3": 29, "IS2": 30, "IS1": 31, "hyphen-minus": '-', "full-stop": '.', "solidus": '/',
		"reverse-solidus": '\\', "circumflex-accent": '^', "low-line": '_', "left-curly-bracket": '{',
		"right-curly-bracket": '}', "left-brace": '{', "vertical-line": '|', "right-brace": '}', "tilde": '~', "DEL": 127,
		"left-square-bracket": '[', "backslash": '\\', "right-square-bracket": ']', "circumflex": '^', "underscore": '_',
		"grave-accent": '`', "colon": ':', "semicolon": ';', "less-than-sign": '<', "equals-sign": '=',
		"greater-than-sign": '>', "question-mark": '?', "commercial-at": '@',
	}
	for first, list := range map[rune]string{
		0:   "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US",
		' ': "space exclamation-mark quotation-mark number-sign dollar-sign percent-sign ampersand apostrophe left-parenthesis right-parenthesis asterisk plus-sign comma hyphen period slash zero one two three four five six seven eight nine",
	} {
		for i, name := range strings.Fields(list) {
			names[name] = first + rune(i)
		}
	}
	return names
}()
