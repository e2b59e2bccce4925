package recipe

import (
	"slices"
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

func instant(t interface {
	Helper()
	Fatal(...any)
}, text string) time.Time {
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

// A bruteWalk is a window asked by looking at the clocks of its place minute by minute, and by nothing else: on one of its
// days it opens at the first minute that shows Start or later, once.
type bruteWalk struct {
	window Window
	closes time.Time
	opened time.Time // the day that was opened last, as the clocks show it
}

// look takes the next minute, and says whether the window is open then.
func (b *bruteWalk) look(minute time.Time) bool {
	shown := face(minute.In(b.window.Location))
	day := shown.Truncate(24 * time.Hour)
	wanted := slices.Contains(b.window.Days, day.Weekday()) && !shown.Before(day.Add(b.window.Start))
	if wanted && day.After(b.opened) {
		b.opened = day
		if closes := minute.Add(b.window.Duration); closes.After(b.closes) {
			b.closes = closes
		}
	}
	return minute.Before(b.closes)
}

// changes returns the moments between two times at which the clocks of a place are set.
func changes(place *time.Location, from, until time.Time) []time.Time {
	var out []time.Time
	for at := from; ; {
		_, end := at.In(place).ZoneBounds()
		if end.IsZero() || end.After(until) {
			return out
		}
		out, at = append(out, end), end
	}
}

// drawNearAChange moves a window, and the time at which it is asked, to where the clocks of its place are set: it opens
// within two hours of that, on the clocks' face before or after.
func drawNearAChange(t *rapid.T, w *Window) time.Time {
	set := changes(w.Location, instant(t, "2011-01-01T00:00:00Z"), instant(t, "2012-02-01T00:00:00Z"))
	if len(set) == 0 {
		return anyTime(t)
	}
	change := rapid.SampledFrom(set).Draw(t, "change")
	shown := face(change.Add(-rapid.SampledFrom([]time.Duration{0, time.Nanosecond}).Draw(t, "side")).In(w.Location))
	shown = shown.Add(time.Duration(rapid.IntRange(-120, 120).Draw(t, "minutes from the change")) * time.Minute).Truncate(time.Minute)
	w.Start = shown.Sub(shown.Truncate(24 * time.Hour))
	if !slices.Contains(w.Days, shown.Weekday()) {
		w.Days = []time.Weekday{shown.Weekday()}
	}
	return change.Add(-time.Duration(rapid.IntRange(0, 26*60).Draw(t, "minutes before")) * time.Minute)
}

// Open and Next say what a walk over the minutes says: around changes of the clocks, for windows of days, and anywhere.
func TestOpenAndNextAgreeWithAWalkOverTheMinutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWindow(t)
		at := anyTime(t)
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0, 1:
			at = drawNearAChange(t, &w)
		case 2:
			w.Duration = time.Duration(rapid.IntRange(24*60, 7*24*60).Draw(t, "long")) * time.Minute
			w.Days = w.Days[:1]
		}
		at = at.Truncate(time.Minute)
		walk := bruteWalk{window: w}
		next, first := w.Next(at), time.Time{}
		for m := at.Add(-10 * 24 * time.Hour); first.IsZero() || m.Before(first.Add(min(w.Duration, 24*time.Hour)+2*time.Hour)); m = m.Add(time.Minute) {
			open := walk.look(m)
			if m.Before(at) {
				continue
			}
			if open != w.Open(m) {
				t.Fatalf("at %s open is %v, and the clocks say %v", m.UTC(), w.Open(m), open)
			}
			if open && first.IsZero() {
				first = m
			}
		}
		if !first.Equal(next) {
			t.Fatalf("next after %s is %s, and the clocks say %s", at.UTC(), next.UTC(), first.UTC())
		}
	})
}

// The two changes of a year in four places, as a person with a calendar has them.
func TestWindowsOverTheTwoChangesOfAYear(t *testing.T) {
	const hour, minute = time.Hour, time.Minute
	for _, c := range []struct {
		name            string
		place           string
		days            []time.Weekday
		start, duration time.Duration
		asked           string // the window is asked for its next opening from here on
		opens, closes   string
	}{
		// Europe/Berlin: on 29 March 2026 02:00 is followed by 03:00, on 25 October 03:00 by 02:00.
		{"Berlin, in the skipped hour", "Europe/Berlin", []time.Weekday{0}, 2*hour + 30*minute, 2 * hour, "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T03:00:00Z"},
		{"Berlin, in the doubled hour", "Europe/Berlin", []time.Weekday{0}, 2*hour + 30*minute, 2 * hour, "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z"},
		{"Berlin, over midnight into spring", "Europe/Berlin", []time.Weekday{6}, 23 * hour, 4 * hour, "2026-03-28T12:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T02:00:00Z"},
		{"Berlin, over midnight into autumn", "Europe/Berlin", []time.Weekday{6}, 23 * hour, 4 * hour, "2026-10-24T12:00:00Z", "2026-10-24T21:00:00Z", "2026-10-25T01:00:00Z"},
		{"Berlin, longer than a day", "Europe/Berlin", []time.Weekday{6}, 12 * hour, 36 * hour, "2026-03-28T00:00:00Z", "2026-03-28T11:00:00Z", "2026-03-29T23:00:00Z"},
		// America/New_York: 8 March and 1 November 2026.
		{"New York, in the skipped hour", "America/New_York", []time.Weekday{0}, 2*hour + 30*minute, hour, "2026-03-07T12:00:00Z", "2026-03-08T07:00:00Z", "2026-03-08T08:00:00Z"},
		{"New York, in the doubled hour", "America/New_York", []time.Weekday{0}, hour + 30*minute, hour, "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"},
		{"New York, over midnight", "America/New_York", []time.Weekday{6}, 23*hour + 30*minute, 3 * hour, "2026-10-31T12:00:00Z", "2026-11-01T03:30:00Z", "2026-11-01T06:30:00Z"},
		{"New York, longer than a day", "America/New_York", []time.Weekday{6}, 0, 30 * hour, "2026-10-30T12:00:00Z", "2026-10-31T04:00:00Z", "2026-11-01T10:00:00Z"},
		// Australia/Lord_Howe goes from +10:30 to +11 on 4 October 2026 (02:00 is followed by 02:30), and back on 5 April.
		{"Lord Howe, in the skipped half hour", "Australia/Lord_Howe", []time.Weekday{0}, 2*hour + 15*minute, hour, "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z", "2026-10-03T16:30:00Z"},
		{"Lord Howe, in the doubled half hour", "Australia/Lord_Howe", []time.Weekday{0}, hour + 45*minute, hour, "2026-04-04T00:00:00Z", "2026-04-04T14:45:00Z", "2026-04-04T15:45:00Z"},
		{"Lord Howe, over midnight", "Australia/Lord_Howe", []time.Weekday{6}, 23 * hour, 4 * hour, "2026-10-03T00:00:00Z", "2026-10-03T12:30:00Z", "2026-10-03T16:30:00Z"},
		// Pacific/Apia had no 30 December 2011, a Friday: Thursday was followed by Saturday.
		{"Apia, on the day that was not", "Pacific/Apia", []time.Weekday{5}, 12 * hour, hour, "2011-12-29T12:00:00Z", "2012-01-05T22:00:00Z", "2012-01-05T23:00:00Z"},
		{"Apia, over the midnight before it", "Pacific/Apia", []time.Weekday{4}, 23 * hour, 2 * hour, "2011-12-29T12:00:00Z", "2011-12-30T09:00:00Z", "2011-12-30T11:00:00Z"},
		{"UTC, most of a week", "UTC", []time.Weekday{0}, 0, 6 * 24 * hour, "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-28T00:00:00Z"},
		{"Apia, longer than a day", "Pacific/Apia", []time.Weekday{4}, 12 * hour, 30 * hour, "2011-12-29T12:00:00Z", "2011-12-29T22:00:00Z", "2011-12-31T04:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := Window{Name: "w", Days: c.days, Start: c.start, Duration: c.duration, Location: zone(t, c.place)}
			opens, closes := instant(t, c.opens), instant(t, c.closes)
			if got := w.Next(instant(t, c.asked)); !got.Equal(opens) {
				t.Errorf("opens at %s, want %s", got.UTC(), opens)
			}
			if w.Open(opens.Add(-time.Second)) || !w.Open(opens) || !w.Open(closes.Add(-time.Second)) || w.Open(closes) {
				t.Errorf("is not open from %s to %s", opens, closes)
			}
			if got := w.Remaining(opens); got != closes.Sub(opens) {
				t.Errorf("%s remain as it opens, want %s", got, closes.Sub(opens))
			}
		})
	}
}

// The next window for something that takes its time is one that stays open for so long.
func TestTheNextWindowIsLongEnough(t *testing.T) {
	short := Window{Name: "short", Days: everyDay, Start: 2 * time.Hour, Duration: 10 * time.Minute, Location: time.UTC}
	long := Window{Name: "long", Days: []time.Weekday{time.Sunday}, Start: 3 * time.Hour, Duration: 2 * time.Hour, Location: time.UTC}
	monday := instant(t, "2026-11-23T02:05:00Z")
	for _, c := range []struct {
		name    string
		lasting time.Duration
		at      time.Time
		want    string // "": none
		next    string
	}{
		{"it is open, and has that much left", 5 * time.Minute, monday, "short", "2026-11-23T02:05:00Z"},
		{"it is open, and closes too soon", 6 * time.Minute, monday, "short", "2026-11-24T02:00:00Z"},
		{"only the other one is long enough", time.Hour, monday, "long", "2026-11-29T03:00:00Z"},
		{"none is", 3 * time.Hour, monday, "", "0001-01-01T00:00:00Z"},
	} {
		w, at := NextWindow([]Window{short, long}, c.at, c.lasting)
		if w.Name != c.want || !at.Equal(instant(t, c.next)) {
			t.Errorf("%s: %q at %s", c.name, w.Name, at.UTC())
		}
	}
	if _, at := NextWindow(nil, monday, 0); !at.IsZero() {
		t.Errorf("without windows: %s", at)
	}
}
