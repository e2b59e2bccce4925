package hba

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// large are pairs of files that combine what they name in many ways.
func large(n int) map[string][2]string {
	r := newRand(3)
	lines := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintln(&b, f(i))
		}
		return b.String()
	}
	net := func(i int) string { return fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255) }
	other := func(text string) string { return strings.ReplaceAll(text, "md5", "scram-sha-256") }
	each := lines(n, func(i int) string { return fmt.Sprintf("host db%d user%d %s md5", i, i, net(i)) })
	twoWays := lines(n, func(i int) string {
		if i%2 == 0 {
			return fmt.Sprintf("host db%d all %s md5", i, net(i))
		}
		return fmt.Sprintf("hostssl all user%d %s md5", i, net(i))
	})
	threeWays := lines(n, func(i int) string {
		return []string{fmt.Sprintf("host db%d all all md5", i), fmt.Sprintf("hostssl all user%d all md5", i), fmt.Sprintf("hostnossl all all %s reject", net(i))}[i%3]
	})
	mixed := lines(n, func(int) string {
		return fmt.Sprintf("host db%d user%d %s md5", r.IntN(30), r.IntN(30), net(r.IntN(30)))
	})
	roles := lines(n, func(i int) string {
		if i%10 == 0 {
			return fmt.Sprintf("host all +role%d %s reject", i, net(i%50))
		}
		return fmt.Sprintf("host all user%d %s md5", i, net(i%70))
	})
	const last, lastNow = "host all all all md5\n", "host all all all reject\n"
	return map[string][2]string{
		"each":             {each, other(each)},
		"each, last":       {each + last, each + lastNow},
		"each, first":      {"host all all all reject\n" + each, each},
		"two ways":         {twoWays, other(twoWays)},
		"two ways, last":   {twoWays + last, twoWays + lastNow},
		"three ways":       {threeWays + last, other(threeWays) + last},
		"three ways, last": {threeWays + last, threeWays + lastNow},
		"mixed":            {mixed, other(mixed)},
		"mixed, another": {mixed, lines(n, func(int) string {
			return fmt.Sprintf("host db%d user%d %s md5", r.IntN(30), r.IntN(30), net(r.IntN(30)))
		})},
		"roles":              {roles, other(roles)},
		"roles, last":        {roles + last, roles + lastNow},
		"mixed, middle gone": {mixed, mixed[:len(mixed)/2] + mixed[strings.Index(mixed[len(mixed)/2:], "\n")+len(mixed)/2+1:]},
	}
}

// BenchmarkDiff compares files of a thousand rules, in full, and brings the differences into words.
func BenchmarkDiff(b *testing.B) {
	pairs := large(1000)
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		b.Run(name, func(b *testing.B) {
			f := parseTexts(pairs[name][0], pairs[name][1])
			for b.Loop() {
				if d := Diff(f[0], f[1], Names{}); len(d.Limits) > 0 || len(d.Groups()) == 0 {
					b.Fatalf("limits %q", d.Limits)
				}
			}
		})
	}
}
