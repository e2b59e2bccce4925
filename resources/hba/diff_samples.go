package hba

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A sample is a name that stands for all names that the same patterns match.
type sample struct {
	name    string
	matches []string
}

func (s *sample) label() string { return strings.Join(s.matches, " and ") }

// maxMatches bounds the search for names that patterns match.
const maxMatches = 1 << 21

// sample finds names for the patterns of a column, and one for any other name: one that as few of them match as can be.
// named are the names that the files have in the column, taken those that stand for somebody already. The search is not
// complete: two patterns that match the same names only where these have a certain form are not seen to do so.
func (s *space) sample(patterns map[string]*regex, named []string, taken map[string]bool, what string) (samples []sample, other string) {
	texts := slices.Sorted(maps.Keys(patterns))
	found := []sample{{name: unused(what, taken)}}
	found[0].matches = s.matched(found[0].name, texts, patterns)
	for _, name := range candidates(texts, patterns) {
		if !slices.Contains(named, name) {
			found = append(found, sample{name, s.matched(name, texts, patterns)})
		}
	}
	// What the other column names stands for others only when nothing else does.
	slices.SortStableFunc(found, func(a, b sample) int { return compareBool(taken[a.name], taken[b.name]) })
	rest := slices.MinFunc(found, func(a, b sample) int { return len(a.matches) - len(b.matches) })
	taken[rest.name] = true
	known, met := map[string]bool{rest.label(): true}, slices.Clone(rest.matches)
	for _, f := range found {
		if !known[f.label()] && len(f.matches) > 0 {
			known[f.label()], taken[f.name] = true, true
			samples, met = append(samples, f), append(met, f.matches...)
		}
	}
	for _, name := range named {
		met = append(met, s.matched(name, texts, patterns)...)
	}
	for _, text := range texts {
		if !slices.Contains(met, text) {
			s.limits = append(s.limits, fmt.Sprintf("no name of a %s was found that %s matches: those whom it is for were not compared", what, text))
		}
	}
	return samples, rest.name
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// matched are the patterns that match a name.
func (s *space) matched(name string, texts []string, patterns map[string]*regex) (out []string) {
	subject := newSubject(name)
	for _, text := range texts {
		if s.matches(text, patterns[text], subject) {
			out = append(out, text)
		}
	}
	return out
}

// unused is a name that nothing has.
func unused(word string, taken map[string]bool) string {
	name := "other_" + word
	for taken[name] {
		name += "_"
	}
	taken[name] = true
	return name
}

// candidates are names that the patterns could match: what each is made of, alone and with more around it, and what two of
// them are made of.
func candidates(texts []string, patterns map[string]*regex) []string {
	if len(texts) == 0 {
		return nil
	}
	t := &trial{most: maxMatches / len(texts), seen: map[string]bool{}}
	t.add("a", "x", "Zz", "0", "~", "q-q", strings.Repeat("Q", 40))
	words := make([][]string, len(texts))
	for i, text := range texts {
		words[i] = patterns[text].language.words()
		t.add(words[i]...)
	}
	for _, around := range []string{"x", "a", "0"} {
		for i := range words {
			for _, w := range words[i] {
				t.add(w+around, around+w, around+w+around, around+around+w)
			}
		}
	}
	for i := range words {
		for j := range words {
			if len(t.names) >= t.most {
				return t.names
			}
			t.add(joined(words[i], words[j])...)
			t.add(joined(joined(words[i], []string{"x", "_0"}), words[j])...)
		}
	}
	return t.names
}

// trial gathers names, each once.
type trial struct {
	most  int
	names []string
	seen  map[string]bool
}

func (t *trial) add(names ...string) {
	for _, name := range names {
		if name != "" && len(name) <= maxName && len(t.names) < t.most && !t.seen[name] {
			t.seen[name] = true
			t.names = append(t.names, name)
		}
	}
}

// maxWords is how many words are made of one language.
const maxWords = 16

// words are some texts of a language, without regard to its conditions.
func (l *language) words() []string {
	switch l.op {
	case inText:
		return []string{l.text}
	case oneOfBytes:
		return l.set.some()
	case inSequence:
		out := []string{""}
		for _, part := range l.of {
			out = joined(out, part.words())
		}
		return out
	case oneOf:
		var out []string
		for _, branch := range l.of {
			out = append(out, branch.words()...)
		}
		return out[:min(len(out), maxWords)]
	case repeated:
		return l.repetitions()
	}
	return []string{""} // a condition
}

// repetitions are as few as may be, and one more.
func (l *language) repetitions() []string {
	once := l.of[0].words()
	fewest := []string{""}
	for range min(int(l.min), maxName) {
		fewest = joined(fewest, once)
	}
	if l.max > l.min {
		fewest = append(joined(fewest, once), fewest...)
	}
	return fewest[:min(len(fewest), maxWords)]
}

// joined are pairs of words; there are enough of each, not all combinations.
func joined(a, b []string) []string {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	out := make([]string, 0, max(len(a), len(b)))
	for i := range max(len(a), len(b)) {
		if word := a[i%len(a)] + b[i%len(b)]; len(word) <= maxName {
			out = append(out, word)
		}
	}
	return out
}

// some are one or two bytes of a set, letters and digits first.
func (s *byteSet) some() (out []string) {
	for _, c := range []byte("ab0_X-") {
		if s.has(c) {
			out = append(out, string([]byte{c}))
		}
	}
	for c := byte(1); c != 0 && len(out) < 2; c++ {
		if s.has(c) {
			out = append(out, string([]byte{c}))
		}
	}
	return out[:min(len(out), 2)]
}
