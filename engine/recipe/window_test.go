package recipe

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	location, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return location
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

var everyDay = []time.Weekday{0, 1, 2, 3, 4, 5, 6}

func TestAWindowAtTheEdges(t *testing.T) {
	night := func(location string, start, duration time.Duration, days ...time.Weekday) Window {
		if days == nil {
			days = everyDay
		}
		return Window{Name: "night", Days: days, Start: start, Duration: duration, Location: zone(t, location)}
	}
	const half = 30 * time.Minute
	for _, c := range []struct {
		name      string
		window    Window
		at        string
		remaining time.Duration
		next      string // "": at itself
	}{
		{"before it opens", night("UTC", 2*time.Hour, 2*time.Hour, time.Sunday), "2026-11-22T01:59:59Z", 0, "2026-11-22T02:00:00Z"},
		{"as it opens", night("UTC", 2*time.Hour, 2*time.Hour, time.Sunday), "2026-11-22T02:00:00Z", 2 * time.Hour, ""},
		{"at its last second", night("UTC", 2*time.Hour, 2*time.Hour, time.Sunday), "2026-11-22T03:59:59Z", time.Second, ""},
		{"as it closes", night("UTC", 2*time.Hour, 2*time.Hour, time.Sunday), "2026-11-22T04:00:00Z", 0, "2026-11-29T02:00:00Z"},
		{"over midnight, the day after", night("UTC", 23*time.Hour, 2*time.Hour, time.Saturday), "2026-11-22T00:30:00Z", half, ""},
		{"over midnight, the day itself before", night("UTC", 23*time.Hour, 2*time.Hour, time.Saturday), "2026-11-21T00:30:00Z", 0, "2026-11-21T23:00:00Z"},
		{"another zone's day", night("Asia/Tokyo", 2*time.Hour, time.Hour, time.Sunday), "2026-11-21T17:30:00Z", half, ""},
		{"touching openings are one", night("UTC", 0, 24*time.Hour, time.Saturday, time.Sunday), "2026-11-21T12:00:00Z", 36 * time.Hour, ""},
		{"02:30 does not exist: it opens at 03:00", night("Europe/Berlin", 2*time.Hour+half, time.Hour), "2026-03-29T01:00:00Z", time.Hour, ""},
		{"02:30 does not exist: a second before", night("Europe/Berlin", 2*time.Hour+half, time.Hour), "2026-03-29T00:59:59Z", 0, "2026-03-29T01:00:00Z"},
		{"02:30 exists twice: the first", night("Europe/Berlin", 2*time.Hour+half, time.Hour), "2026-10-25T00:30:00Z", time.Hour, ""},
		{"02:30 exists twice: not the second", night("Europe/Berlin", 2*time.Hour+half, time.Hour), "2026-10-25T01:30:00Z", 0, "2026-10-26T01:30:00Z"},
		{"two hours of real time over the spring change", night("Europe/Berlin", time.Hour, 2*time.Hour), "2026-03-29T01:59:00Z", time.Minute, ""},
		{"two hours of real time over the autumn change", night("Europe/Berlin", time.Hour, 2*time.Hour), "2026-10-25T01:00:00Z", 0, "2026-10-26T00:00:00Z"},
		{"a change of half an hour", night("Australia/Lord_Howe", 2*time.Hour+15*time.Minute, time.Hour), "2026-10-03T15:30:00Z", time.Hour, ""},
		{"midnight does not exist", night("Africa/Cairo", 0, time.Hour), "2026-04-23T22:00:00Z", time.Hour, ""},
		{"a day that a place left out", night("Pacific/Apia", 12*time.Hour, time.Hour, time.Friday), "2011-12-30T10:00:00Z", 0, "2012-01-05T22:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := instant(t, c.at)
			if got := c.window.Remaining(at); got != c.remaining {
				t.Errorf("%s remain, want %s", got, c.remaining)
			}
			if got := c.window.Open(at); got != (c.remaining > 0) {
				t.Errorf("open: %v", got)
			}
			next := at
			if c.next != "" {
				next = instant(t, c.next)
			}
			if got := c.window.Next(at); !got.Equal(next) {
				t.Errorf("next is %s, want %s", got.UTC(), next.UTC())
			}
		})
	}
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo",
	"America/Havana", "Pacific/Apia", "Antarctica/Troll", "Africa/Casablanca", "Asia/Tehran", "America/Scoresbysund"}

func anyWindow(t *rapid.T) Window {
	location, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "place"))
	if err != nil {
		t.Fatal(err)
	}
	w := Window{Start: time.Duration(rapid.IntRange(0, 24*60-1).Draw(t, "start")) * time.Minute, Location: location,
		Duration: time.Duration(rapid.IntRange(1, 24*60).Draw(t, "duration")) * time.Minute}
	mask := rapid.IntRange(1, 127).Draw(t, "days")
	for _, day := range everyDay {
		if mask&(1<<day) != 0 {
			w.Days = append(w.Days, day)
		}
	}
	return w
}

func anyTime(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(1_000_000_000, 2_200_000_000).Draw(t, "at"), 0) // 2001 to 2039
}

// While a window is open it stays open until Remaining is over, and is then closed, unless it has run for a week.
func TestRemainingEndsWhereTheWindowCloses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, at := anyWindow(t), anyTime(t)
		left := w.Remaining(at)
		if left == 0 {
			return
		}
		share := time.Duration(rapid.Int64Range(0, int64(left)-1).Draw(t, "share"))
		if !w.Open(at.Add(share)) {
			t.Fatalf("closed after %s of %s", share, left)
		}
		if w.Open(at.Add(left)) && left < 7*24*time.Hour {
			t.Fatalf("still open after %s", left)
		}
	})
}

// Next is never before its time, the window is open then, and at no moment between.
func TestNextIsTheFirstMomentOfBeingOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, at := anyWindow(t), anyTime(t)
		next := w.Next(at)
		if next.Before(at) || !w.Open(next) {
			t.Fatalf("next after %s is %s, open: %v", at, next, w.Open(next))
		}
		if gap := next.Sub(at); gap > 0 {
			between := at.Add(time.Duration(rapid.Int64Range(0, int64(gap)-1).Draw(t, "between")))
			if w.Open(between) {
				t.Fatalf("open at %s, before next", between)
			}
			if gap > 15*24*time.Hour {
				t.Fatalf("closed for %s", gap)
			}
		}
	})
}

// An opening is never before the clocks show Start, nor after they have first shown it: asked minute by minute.
func TestAnOpeningIsWhenTheClocksFirstShowStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, at := anyWindow(t), anyTime(t)
		w.Days = everyDay
		opens, ok := w.opening(at, 0)
		year, month, day := at.In(w.Location).Date()
		var first time.Time
		wanted := time.Date(year, month, day, 0, int(w.Start/time.Minute), 0, 0, time.UTC)
		start := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Add(-15 * time.Hour)
		for minute := range 56 * 60 { // the day, as the zones from +14 to -12 have it
			now := start.Add(time.Duration(minute) * time.Minute).In(w.Location)
			y, m, d := now.Date()
			if y == year && m == month && d == day && !face(now).Before(wanted) {
				first = now
				break
			}
		}
		if ok != !first.IsZero() || ok && !first.Equal(opens) {
			t.Fatalf("opens at %s (%v), want %s", opens, ok, first)
		}
	})
}

func TestWindowsAreReadFromARecipe(t *testing.T) {
	p := program(t, "app", `
		variable "day" { default = "monday" }
		maintenance_window "a" {
			days     = ["sunday", var.day, "sunday"]
			start    = "02:30"
			duration = "1h30m"
			timezone = "Europe/Berlin"
		}
		maintenance_window "b" {
			start    = "23:59"
			duration = "24h"
		}
	`)
	if len(p.Windows) != 2 {
		t.Fatalf("got %d windows", len(p.Windows))
	}
	a, b := p.Windows[0], p.Windows[1]
	if a.Name != "a" || len(a.Days) != 2 || a.Days[1] != time.Monday || a.Start != 150*time.Minute || a.Duration != 90*time.Minute || a.Location.String() != "Europe/Berlin" {
		t.Errorf("got %+v", a)
	}
	if len(b.Days) != 7 || b.Start != 24*time.Hour-time.Minute || b.Location != time.UTC {
		t.Errorf("got %+v", b)
	}
}
