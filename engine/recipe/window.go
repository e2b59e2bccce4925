package recipe

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a server image without zoneinfo must know what 02:00 in Berlin is

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A Window is a time of the week in which a restart may happen. On each of its days it opens when the clocks of its
// Location show Start, and stays open for Duration of real time, also over midnight and over a change of the clocks. When
// the clocks jump over Start, it opens as they land; when they show Start twice, it opens the first time. A day that a
// place skips whole, or on which the clocks jump over Start into the next day, has no opening.
type Window struct {
	Name     string
	Days     []time.Weekday // ascending, Sunday first; never empty
	Start    time.Duration  // since midnight on the clocks' face, whole minutes, less than 24 h
	Duration time.Duration  // at most a week
	Location *time.Location
}

// Open tells whether the window is open at t. The end does not belong to it.
func (w Window) Open(t time.Time) bool { return w.Remaining(t) > 0 }

// longest is the longest that an opening lasts.
const longest = 7 * 24 * time.Hour

// Remaining returns how long the window stays open from t on, and 0 when it is closed. Openings that touch or overlap
// count as one, up to eight days ahead: a window that never closes always has at least a week left.
func (w Window) Remaining(t time.Time) time.Duration {
	end := t
	for day := -2 - int(w.Duration/(24*time.Hour)); day <= 8; day++ {
		opens, ok := w.opening(t, day)
		if closes := opens.Add(w.Duration); ok && !opens.After(end) && closes.After(end) {
			end = closes
		}
	}
	return end.Sub(t)
}

// Next returns the first time from t on at which the window is open: t itself when it is open. It is the zero time for
// a window that does not open within a month, which only a Window without Days can be.
func (w Window) Next(t time.Time) time.Time {
	if w.Open(t) {
		return t
	}
	for day := -1; day <= 31; day++ {
		if opens, ok := w.opening(t, day); ok && opens.After(t) {
			return opens
		}
	}
	return time.Time{}
}

// NextWindow returns the window that is the first, from t on, to be open for at least so long, and since when: t itself
// where one is open and has that much left. The zero time: none of them ever is, among the openings of two months.
func NextWindow(windows []Window, t time.Time, lasting time.Duration) (first Window, at time.Time) {
	for _, w := range windows {
		if next := w.nextLasting(t, lasting); !next.IsZero() && (at.IsZero() || next.Before(at)) {
			first, at = w, next
		}
	}
	return first, at
}

func (w Window) nextLasting(t time.Time, lasting time.Duration) time.Time {
	for range 62 {
		next := w.Next(t)
		if next.IsZero() {
			return next
		}
		left := w.Remaining(next)
		if left >= lasting {
			return next
		}
		t = next.Add(left)
	}
	return time.Time{}
}

// opening returns when the window opens on the day that lies a number of days after t's, and false when it does not.
func (w Window) opening(t time.Time, days int) (time.Time, bool) {
	year, month, day := t.In(w.Location).Date()
	date := time.Date(year, month, day+days, 12, 0, 0, 0, time.UTC) // a calendar without changes of the clocks
	if !slices.Contains(w.Days, date.Weekday()) {
		return time.Time{}, false
	}
	year, month, day = date.Date()
	opens := firstShowing(year, month, day, w.Start, w.Location)
	y, m, d := opens.Date()
	return opens, y == year && m == month && d == day
}

// firstShowing returns the first instant at which the clocks of a place show a time of a day; when they never do, the
// instant at which they have jumped over it. time.Date alone promises neither.
func firstShowing(year int, month time.Month, day int, clock time.Duration, place *time.Location) time.Time {
	t := time.Date(year, month, day, 0, int(clock/time.Minute), 0, 0, place)
	from, until := t.ZoneBounds()
	wanted := time.Date(year, month, day, 0, int(clock/time.Minute), 0, 0, time.UTC)
	if shown := face(t); shown.After(wanted) {
		return from
	} else if shown.Before(wanted) {
		return until
	}
	if from.IsZero() {
		return t
	}
	_, offset := t.Zone()
	_, before := from.Add(-time.Nanosecond).Zone()
	if earlier := t.Add(-time.Duration(before-offset) * time.Second); before > offset && earlier.Before(from) {
		return earlier // the clocks went back, and showed this an hour ago
	}
	return t
}

// face returns what the clocks show, as if it were UTC.
func face(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// windowArguments is the body of a maintenance_window block.
type windowArguments struct {
	Days       []string  `hcl:"days,optional"`
	DaysAt     hcl.Range `hcl:"days,attr_value_range"`
	Start      string    `hcl:"start"`
	StartAt    hcl.Range `hcl:"start,attr_value_range"`
	Duration   string    `hcl:"duration"`
	DurationAt hcl.Range `hcl:"duration,attr_value_range"`
	Timezone   string    `hcl:"timezone,optional"`
	TimezoneAt hcl.Range `hcl:"timezone,attr_value_range"`
}

var windowShape = shapeOf(reflect.TypeFor[windowArguments]())

func (r *Recipe) readWindow(block *hclsyntax.Block) hcl.Diagnostics {
	name, diags := label(block)
	if diags.HasErrors() {
		return diags
	}
	w := &windowBlock{name: name, place: block.DefRange(), body: readBody(block.Body)}
	for _, other := range r.windows {
		if other.name == name {
			return hcl.Diagnostics{mistake(w.place, "Duplicate window", "maintenance_window.%s is already declared at %s. Give this one another name, or remove one of them.", name, at(other.place))}
		}
	}
	diags = windowShape.check(w.body, w.address(), nil)
	w.broken = diags.HasErrors()
	r.windows = append(r.windows, w)
	return diags
}

func (w *windowBlock) address() string { return windowBlockName + "." + w.name }

func (e *evaluation) evaluateWindows() []Window {
	var windows []Window
	for _, w := range e.recipe.windows {
		f := found{ok: true}
		content := e.fill(w.body, windowShape, w.address(), nil, nil, &f)
		if !f.ok || w.broken {
			continue
		}
		var arguments windowArguments
		diags := decode(content, windowShape, w.address(), &arguments)
		if !diags.HasErrors() {
			var window Window
			if window, diags = arguments.window(w.name); !diags.HasErrors() {
				windows = append(windows, window)
			}
		}
		e.report(diags...)
	}
	return windows
}

func (a *windowArguments) window(name string) (Window, hcl.Diagnostics) {
	w := Window{Name: name}
	var diags hcl.Diagnostics
	var err error
	if w.Days, err = parseDays(a.Days, a.DaysAt != hcl.Range{}); err != nil {
		diags = append(diags, mistake(a.DaysAt, "Invalid days", "%s.", err))
	}
	if w.Start, err = parseClock(a.Start); err != nil {
		diags = append(diags, mistake(a.StartAt, "Invalid start", "%s.", err))
	}
	w.Duration, err = time.ParseDuration(a.Duration)
	if err != nil || w.Duration < time.Minute || w.Duration > longest {
		diags = append(diags, mistake(a.DurationAt, "Invalid duration", `%q is not a duration from a minute to a week: write "90m", "2h30m" or "36h".`, a.Duration))
	}
	zone := a.Timezone
	if zone == "" {
		zone = "UTC"
	}
	if w.Location, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		diags = append(diags, mistake(a.TimezoneAt, "Unknown time zone", `%q is not in the time zone database: write "UTC" or AREA/CITY, as in "Europe/Berlin".`, zone))
	}
	return w, diags
}

// parseDays returns the days in ascending order; all seven when the argument is left out.
func parseDays(words []string, given bool) ([]time.Weekday, error) {
	var known []string
	for day := time.Sunday; day <= time.Saturday; day++ {
		known = append(known, strings.ToLower(day.String()))
	}
	if !given {
		words = known
	}
	if len(words) == 0 {
		return nil, errors.New("[] holds no day, so the window never opens: leave days out for every day")
	}
	var days []time.Weekday
	for _, word := range words {
		day := slices.Index(known, word)
		if day < 0 {
			return nil, fmt.Errorf("%q is no day of the week: write one of %s", word, choicesInOrder(known))
		}
		days = append(days, time.Weekday(day))
	}
	slices.Sort(days)
	return slices.Compact(days), nil
}

// parseClock reads HH:MM.
func parseClock(text string) (time.Duration, error) {
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		return 0, fmt.Errorf("%q is no time of day: write HH:MM from 00:00 to 23:59", text)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}
