package recipe

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// didYouMean returns ` Did you mean "x"?` for the known word nearest to the given one, or "" when none is near. Known
// words are compared in sorted order, so the answer does not depend on how they were collected.
func didYouMean(given string, known []string) string {
	best, least := "", min(len(given)/3+2, len(given)) // a third of the letters may be wrong, and one more; never all
	for _, word := range slices.Sorted(slices.Values(known)) {
		if abs(len(word)-len(given)) >= least {
			continue
		}
		if d := distance(given, word); d < least {
			best, least = word, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}

// choices lists known words for a message, at most twelve of them.
func choices(known []string) string {
	words := slices.Sorted(slices.Values(known))
	if len(words) > 12 {
		return strings.Join(words[:12], ", ") + fmt.Sprintf(" and %d more", len(words)-12)
	}
	return strings.Join(words, ", ")
}

// suggestion proposes the nearest word, or lists what there is when none is near.
func suggestion(given string, known []string) string {
	if near := didYouMean(given, known); near != "" {
		return near
	}
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf(" Known: %s.", choices(known))
}

// distance counts the letters to insert, delete or replace (Levenshtein), or to swap with their neighbour, which is the
// commonest slip of all. Words longer than 64 bytes are compared by their first 64.
func distance(a, b string) int {
	a, b = strings.ToLower(a[:min(len(a), 64)]), strings.ToLower(b[:min(len(b), 64)])
	var before, above []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(above[j+1]+1, row[j]+1, above[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

func abs(n int) int {
	return max(n, -n)
}

func keysOf[V any](m map[string]V) []string {
	return slices.Collect(maps.Keys(m))
}

// choicesInOrder lists all words as they come.
func choicesInOrder(words []string) string { return strings.Join(words, ", ") }
