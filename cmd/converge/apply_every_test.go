package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A played service has a clock and runs that a test plays: what they said, and when they began.
type played struct {
	said  []string
	began []time.Duration
	err   error
}

// play lets a service have these runs, each of which takes so long, and stops it.
func play(every, offset, took time.Duration, runs ...runText) (p played) {
	start := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	clock := start
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s := service{
		every: every, offset: offset, now: func() time.Time { return clock },
		wait: func(ctx context.Context, t time.Time) bool {
			clock = t
			return ctx.Err() == nil
		},
		run: func(context.Context) runText {
			p.began = append(p.began, clock.Sub(start))
			clock = clock.Add(took)
			if len(p.began) == len(runs) {
				stop()
			}
			return runs[len(p.began)-1]
		},
		say: func(t runText) { p.said = append(p.said, string(t.stdout)+string(t.stderr)) },
	}
	p.err = s.loop(ctx)
	return p
}

func idle() runText { return runText{stdout: []byte("Nothing to do.\n")} }

func failing(causes ...string) runText {
	return runText{stderr: []byte(strings.Join(causes, "\n") + "\n"), causes: causes}
}

func changing(text string, causes ...string) runText {
	return runText{stdout: []byte(text), causes: causes, changed: true}
}

func TestAServiceSaysWhatIsNews(t *testing.T) {
	broken := "file_block.a: open /etc/a: permission denied"
	for _, c := range []struct {
		name string
		runs []runText
		want []string
	}{
		{"nothing to do is silence", []runText{idle(), idle()}, nil},
		{"a change is told", []runText{idle(), changing("~ a\n"), idle()}, []string{"~ a\n"}},
		{"a cause is told once, and that it is over", []runText{failing(broken), failing(broken), idle(), idle()},
			[]string{broken + "\n", "converge: over: " + broken + "\n"}},
		{"it comes again", []runText{failing(broken), idle(), failing(broken)}, []string{broken + "\n", "converge: over: " + broken + "\n", broken + "\n"}},
		{"what differs each time is the same cause", []runText{
			failing("b: process 4711 holds it since 2026-11-29T00:00:01Z"), failing("b: process 4788 holds it since 2026-11-29T00:30:01Z")},
			[]string{"b: process 4711 holds it since 2026-11-29T00:00:01Z\n"}},
		{"another line is another cause", []runText{failing("pg_hba.conf line 14: x"), failing("pg_hba.conf line 15: x")},
			[]string{"pg_hba.conf line 14: x\n", "pg_hba.conf line 15: x\nconverge: over: pg_hba.conf line 14: x\n"}},
		{"one of two is over", []runText{failing("a", "b"), failing("b"), failing("b")}, []string{"a\nb\n", "converge: over: a\n"}},
		{"a change that is put back each time is told once", []runText{changing("~ a, then back\n", broken), changing("~ a, then back\n", broken)},
			[]string{"~ a, then back\n"}},
		{"another run under way is nothing, and ends nothing", []runText{failing(broken), {locked: true}, failing(broken)}, []string{broken + "\n"}},
	} {
		if got := play(time.Hour, 0, 0, c.runs...).said; !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q, want\n%q", c.name, got, c.want)
		}
	}
}

func TestAServiceKeepsItsTimes(t *testing.T) {
	p := play(30*time.Minute, 4*time.Minute, time.Minute, idle(), idle(), idle())
	if want := []time.Duration{4 * time.Minute, 34 * time.Minute, 64 * time.Minute}; !slices.Equal(p.began, want) {
		t.Errorf("began at %v, want %v", p.began, want)
	}
}

// A run that takes longer than the interval is followed by the next time there is, not by those that it missed.
func TestALongRunIsNotMadeUpFor(t *testing.T) {
	p := play(30*time.Minute, 0, 70*time.Minute, idle(), idle(), idle())
	if want := []time.Duration{0, 90 * time.Minute, 180 * time.Minute}; !slices.Equal(p.began, want) {
		t.Errorf("began at %v, want %v", p.began, want)
	}
}

func TestAServiceEndsWhereNoRunCanComeToAnything(t *testing.T) {
	if p := play(time.Hour, 0, 0, runText{end: usage("--var x: no")}, idle()); p.err == nil || len(p.began) != 1 {
		t.Errorf("it goes on: %v, %v", p.err, p.began)
	}
}

// A host begins at the same moment after each start, and hosts of one make spread over all of the time.
func TestSplayIsStableAndSpread(t *testing.T) {
	const most = 5 * time.Minute
	if first := splayOf(most, "a"); splayOf(most, "a") != first || splayOf(most, "b") == first || splayOf(0, "a") != 0 {
		t.Error("it is not the host's own, and stable")
	}
	var quarters [4]int
	for i := range 400 {
		d := splayOf(most, fmt.Sprintf("id app%d", i))
		if d < 0 || d >= most {
			t.Fatalf("app%d begins after %s", i, d)
		}
		quarters[d*4/most]++
	}
	for _, n := range quarters {
		if n < 60 || n > 140 {
			t.Errorf("400 hosts fall into the quarters as %v", quarters)
			break
		}
	}
}
