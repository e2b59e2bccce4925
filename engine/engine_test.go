package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"converge/engine/recipe"
)

// snapshot is all that can be seen of a tree from outside: names, inodes, times, modes, contents.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = string(b)
		}
		seen[p] = fmt.Sprintf("%v %v %v %q", info.Mode(), info.ModTime().UnixNano(), reflect.ValueOf(info.Sys()).Elem().FieldByName("Ino"), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestPlanWritesNothingAndForetellsTheApply(t *testing.T) {
	b := newBench(t)
	b.put("/etc/motd", "hello\n")
	b.add("motd", fileToy("/etc/motd", "welcome\n"))
	b.add("keys", keyToy("/etc/keys"))
	b.add("copy", &toy{targets: []Target{{Path: "/etc/copy"}}, do: func(_ context.Context, h *Host) error {
		key, err := h.ReadFile("/etc/keys/key") // staged by an earlier step
		if err != nil {
			return err
		}
		return h.WriteSecret("/etc/copy", NewSecret(key), mine(0o600), Generated)
	}}, "keys")

	before := snapshot(t, b.root)
	planned := b.plan()
	if after := snapshot(t, b.root); !reflect.DeepEqual(before, after) {
		t.Fatalf("the plan changed the machine: %v, then %v", before, after)
	}
	if len(planned.Failures) > 0 {
		t.Fatal(planned.Failures)
	}
	applied := b.apply()
	if applied.Result != ResultOK {
		t.Fatal(applied.Failures)
	}
	if p, a := mustJSON(t, planned.Changes), mustJSON(t, applied.Changes); p != a {
		t.Errorf("planned\n%s\napplied\n%s", p, a)
	}
	b.wants("/etc/motd", "welcome\n")
	b.wants("/etc/copy", b.got("/etc/keys/key"))
	if again := b.plan(); len(again.Changes) != 0 || again.Unchanged != 3 {
		t.Errorf("after the apply a plan has %v", addresses(again.Changes))
	}
	state := snapshot(t, filepath.Join(b.root, "etc"))
	if again := b.apply(); len(again.Changes) != 0 {
		t.Errorf("a second apply did %v", addresses(again.Changes))
	}
	if !reflect.DeepEqual(state, snapshot(t, filepath.Join(b.root, "etc"))) {
		t.Error("a second apply touched files")
	}
	b.noStrays()
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A step may make several directories and write in each (found by a key in two places).
func TestSeveralDirectoriesInOneStep(t *testing.T) {
	b := newBench(t)
	one, two := keyToy("/one"), keyToy("/two")
	b.add("both", &toy{targets: append(one.targets, two.targets...), do: func(ctx context.Context, h *Host) error {
		return errors.Join(one.do(ctx, h), two.do(ctx, h))
	}})
	if rep := b.apply(); rep.Result != ResultOK {
		t.Fatal(rep.Failures)
	}
	b.wants("/two/cert", "for "+b.got("/two/key"))
}

func TestSensitiveContentIsNeverTold(t *testing.T) {
	b := newBench(t)
	b.put("/key", "old-canary")
	b.add("key", &toy{targets: []Target{{Path: "/key"}}, do: func(_ context.Context, h *Host) error {
		return h.WriteSecret("/key", NewSecret([]byte("new-canary")), mine(0o600))
	}})
	told := mustJSON(t, b.plan().Changes)
	rep := b.apply()
	told += mustJSON(t, rep) + fmt.Sprintf("%v %+v", rep.Changes[0].Ops[0], *rep.Changes[0])
	if strings.Contains(told, "canary") {
		t.Errorf("the secret is in %s", told)
	}
}

func TestAttributesAreMendedWithoutRewriting(t *testing.T) {
	b := newBench(t)
	b.put("/key", "k")
	os.Chmod(filepath.Join(b.root, "key"), 0o666)
	b.add("key", &toy{targets: []Target{{Path: "/key"}}, do: func(_ context.Context, h *Host) error {
		return h.WriteSecret("/key", NewSecret([]byte("k")), mine(0o600))
	}})
	rep := b.apply()
	if rep.Result != ResultOK || len(rep.Changes) != 1 {
		t.Fatalf("%+v", rep)
	}
	if was := rep.Changes[0].Ops[0].Was(); !strings.HasPrefix(was, "0666 ") {
		t.Errorf("the change says it was %q", was)
	}
	info, err := os.Stat(filepath.Join(b.root, "key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// Somebody writes the file between the decision and the switch.
func TestChangedInBetweenIsRefusedNotOverwritten(t *testing.T) {
	b := newBench(t)
	b.put("/a", "old")
	b.add("pair", &toy{targets: []Target{{Path: "/new"}, {Path: "/a"}}, do: func(_ context.Context, h *Host) error {
		if err := h.WriteFile("/new", []byte("first of the pair"), mine(0o644)); err != nil {
			return err
		}
		err := h.WriteFile("/a", []byte("ours"), mine(0o644))
		if h.run.journal != nil {
			b.put("/a", "theirs")
		}
		return err
	}})
	rep := b.apply()
	if rep.Result != ResultFailed || !strings.Contains(rep.Failures[0].Error, "/a") {
		t.Fatalf("%+v", rep.Failures)
	}
	b.wants("/a", "theirs")
	b.wants("/new", "absent") // switched first, and taken back
	b.noStrays()
}

func TestStillDiffersAfterApplyIsAFailure(t *testing.T) {
	b := newBench(t)
	n := 0
	b.add("restless", &toy{targets: []Target{{Path: "/n"}}, do: func(_ context.Context, h *Host) error {
		n++
		return h.WriteFile("/n", fmt.Append(nil, n), mine(0o644))
	}})
	rep := b.apply()
	if rep.Result != ResultFailed || !strings.Contains(rep.Failures[0].Error, "still differs after apply") {
		t.Errorf("%+v", rep.Failures)
	}
}

func TestFailureStopsOnlyWhatDependsOnIt(t *testing.T) {
	b := newBench(t)
	b.add("bad", &toy{do: func(context.Context, *Host) error { return errors.New("no") }})
	b.add("needs", fileToy("/needs", "x"), "bad")
	b.add("needs_that", fileToy("/needs_that", "x"), "needs")
	b.add("free", fileToy("/free", "x"))
	b.add("panics", &toy{do: func(context.Context, *Host) error { panic("password=canary") }})
	rep := b.apply()
	want := []Failure{
		{Address: "toy.bad", Error: "no", Consequences: []string{"toy.needs", "toy.needs_that"}},
		{Address: "toy.panics", Error: "internal error, which is a bug in converge: password=(masked)"},
	}
	for i := range rep.Failures {
		rep.Failures[i].Err = nil
	}
	if !reflect.DeepEqual(rep.Failures, want) {
		t.Errorf("got %+v", rep.Failures)
	}
	b.wants("/free", "x")
	b.wants("/needs", "absent")
	unlock, err := b.engine.State.Lock(time.Now())
	if err != nil {
		t.Fatal("the lock is not free:", err)
	}
	unlock()
}

// serviceToy loads a file when it is owed to; broken makes it refuse what it finds.
func serviceToy(path string, loaded *string, broken *bool) *toyService {
	return &toyService{toy{do: func(_ context.Context, h *Host) error {
		now, err := h.ReadFile(path)
		if err != nil {
			return err
		}
		if _, owed := h.Owed(); !owed {
			return nil
		}
		if string(now) == *loaded {
			h.Paid()
			return nil
		}
		content := string(now)
		h.Act(Action{Kind: OpReload, Service: "toyd", Do: func(context.Context) error {
			if *broken && content != "good" {
				return &Refusal{Paths: []string{path}, Err: errors.New("toyd does not take " + content)}
			}
			*loaded = content
			return nil
		}})
		return nil
	}}}
}

func TestReloadIsOwedUntilEvidenceShowsIt(t *testing.T) {
	b := newBench(t)
	loaded, broken := "", false
	b.add("conf", fileToy("/conf", "v1"))
	b.addService("toyd", serviceToy("/conf", &loaded, &broken), "conf")
	if p := b.plan(); p.Disruption != Reload || len(p.Owed) != 0 {
		t.Errorf("plan: disruption %s, owed %v", p.Disruption, p.Owed)
	}
	rep := b.apply()
	if loaded != "v1" || len(rep.Owed) != 0 || rep.Result != ResultOK {
		t.Fatalf("loaded %q, %+v", loaded, rep)
	}
	if got, want := eventsText(b.events), "owe toy.conf\nstart toy.conf\nchange toy.conf\nstart service.toyd\nchange service.toyd\npay service.toyd\n"; sortedLines(got) != sortedLines(want) {
		t.Errorf("events:\n%s", got)
	}
}

func sortedLines(s string) string {
	l := strings.Split(s, "\n")
	slices.Sort(l)
	return strings.Join(l, "\n")
}

func TestFailedRunNeverForgetsAReload(t *testing.T) {
	b := newBench(t)
	loaded, broken := "", false
	good := b.blocks
	b.add("conf", fileToy("/conf", "v1"))
	b.add("bad", &toy{do: func(context.Context, *Host) error { return errors.New("no") }})
	b.addService("toyd", serviceToy("/conf", &loaded, &broken), "conf", "bad")
	rep := b.apply()
	if loaded != "" || len(rep.Owed) != 1 || rep.Owed[0].Service != "toyd" {
		t.Fatalf("loaded %q, owed %v", loaded, rep.Owed)
	}
	b.blocks = good
	b.add("conf", fileToy("/conf", "v1"))
	b.addService("toyd", serviceToy("/conf", &loaded, &broken), "conf")
	if p := b.plan(); p.Disruption != Reload || len(p.Changes) != 1 {
		t.Errorf("a plan does not show what is owed: %v", addresses(p.Changes))
	}
	rep = b.apply()
	if loaded != "v1" || len(rep.Owed) != 0 {
		t.Errorf("the fixed run: loaded %q, owed %v", loaded, rep.Owed)
	}
}

func TestRefusedChangeIsPutBack(t *testing.T) {
	b := newBench(t)
	loaded, broken := "good", true
	b.put("/conf", "good")
	b.add("conf", fileToy("/conf", "bad"))
	b.add("elsewhere", fileToy("/elsewhere", "x"))
	b.addService("toyd", serviceToy("/conf", &loaded, &broken), "conf", "elsewhere")
	rep := b.apply()
	if rep.Result != ResultFailed || !reflect.DeepEqual(rep.Undone, []string{"toy.conf"}) {
		t.Fatalf("%+v", rep)
	}
	b.wants("/conf", "good")
	b.wants("/elsewhere", "x")
	if len(rep.Owed) != 0 {
		t.Errorf("the service runs with what is on disk, and is owed %v", rep.Owed)
	}
}

// Two services must not be in one apply: the second is told who is first.
func TestSecondRunIsToldWhoHoldsTheLock(t *testing.T) {
	b := newBench(t)
	b.add("other", &toy{do: func(ctx context.Context, h *Host) error {
		_, err := benchEngine(t, b.root).Apply(ctx, b.graph(), Options{})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("the second run got %v", err)
		}
		return nil
	}})
	b.apply()
}

func TestStopBetweenSteps(t *testing.T) {
	b := newBench(t)
	b.engine.Parallelism = 1
	ctx, stop := context.WithCancel(context.Background())
	b.add("first", &toy{targets: []Target{{Path: "/first"}}, do: func(ctx context.Context, h *Host) error {
		stop()
		if ctx.Err() != nil {
			t.Error("the step in hand was told to stop in the middle")
		}
		return h.WriteFile("/first", []byte("x"), mine(0o644))
	}})
	b.add("second", fileToy("/second", "x"), "first")
	rep, err := b.engine.Apply(ctx, b.graph(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Result != ResultStopped || !reflect.DeepEqual(rep.NotRun, []string{"toy.second"}) {
		t.Errorf("%+v", rep)
	}
	b.wants("/first", "x")
	b.wants("/second", "absent")
}

func TestSavedPlanIsAppliedOnceAndExactly(t *testing.T) {
	b := newBench(t)
	b.put("/in", "one")
	b.add("out", &toy{targets: []Target{{Path: "/out"}}, do: func(_ context.Context, h *Host) error {
		in, err := h.ReadFile("/in")
		if err != nil {
			return err
		}
		return h.WriteFile("/out", append([]byte("got "), in...), mine(0o644))
	}})
	saved := b.save()
	b.put("/in", "two")
	_, err := b.engine.Apply(context.Background(), b.graph(), Options{Only: saved})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Detail, "+got one") || !strings.Contains(refused.Detail, "+got two") {
		t.Fatalf("a stale plan: %v", err)
	}
	b.wants("/out", "absent")
	b.put("/in", "one")
	saved = b.save()
	rep, err := b.engine.Apply(context.Background(), b.graph(), Options{Only: saved})
	if err != nil || rep.Result != ResultOK {
		t.Fatal(rep, err)
	}
	b.wants("/out", "got one")
	if _, err := b.engine.Apply(context.Background(), b.graph(), Options{Only: saved}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "applied before") {
		t.Errorf("the second time: %v", err)
	}
}

// save plans, and takes the plan through its file.
func (b *bench) save() *SavedPlan {
	b.t.Helper()
	saved, err := b.plan().Save(time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	content, err := saved.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	saved, err = ParseSavedPlan(content)
	if err != nil {
		b.t.Fatal(err)
	}
	return saved
}

func TestReadingWhatAnUnorderedStepWritesIsAnError(t *testing.T) {
	b := newBench(t)
	b.add("writer", fileToy("/a", "x"))
	b.add("reader", &toy{do: func(_ context.Context, h *Host) error {
		_, err := h.ReadFile("/a")
		return err
	}})
	p := b.plan()
	if len(p.Failures) != 1 || !strings.Contains(p.Failures[0].Error, "depends_on = [toy.writer]") {
		t.Errorf("%+v", p.Failures)
	}
}

func TestTwoWritersOfOneFile(t *testing.T) {
	b := newBench(t)
	b.add("one", fileToy("/a", "x"))
	b.add("two", fileToy("/a", "y"))
	_, diags := NewGraph(b.blocks, toyTypes)
	if !diags.HasErrors() || !strings.Contains(diags.Error(), "toy.two writes /a, and so does toy.one") {
		t.Error(diags)
	}
}

func TestWhatStandsInTheWayIsNamed(t *testing.T) {
	b := newBench(t)
	os.Mkdir(filepath.Join(b.root, "dir"), 0o755)
	b.put("/linked", "x")
	os.Link(filepath.Join(b.root, "linked"), filepath.Join(b.root, "second"))
	os.Symlink("/nowhere", filepath.Join(b.root, "dangling"))
	for path, want := range map[string]string{
		"/dir":         "a directory, not a file",
		"/linked":      "2 names (hard links)",
		"/no/such/dir": "the directory /no/such does not exist",
		"/dangling":    "/dangling",
	} {
		b.blocks = nil
		b.add("x", fileToy(path, "y"))
		p := b.plan()
		if len(p.Failures) != 1 || !strings.Contains(p.Failures[0].Error, want) {
			t.Errorf("%s: %+v", path, p.Failures)
		}
	}
	b.wants("/second", "x")
}

func TestRestartWaitsForItsWindow(t *testing.T) {
	sunday := recipe.Window{Name: "sunday", Days: []time.Weekday{time.Sunday}, Start: 2 * time.Hour, Duration: 2 * time.Hour, Location: time.UTC}
	inside := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	outside := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		o    Options
		at   time.Time
		want Disruption
		why  string
	}{
		{"inside", Options{MaxDisruption: Restart, Windows: []recipe.Window{sunday}}, inside, Restart, ""},
		{"outside", Options{MaxDisruption: Restart, Windows: []recipe.Window{sunday}}, outside, Reload, "2026-11-29T02:00:00Z"},
		{"no window", Options{MaxDisruption: Restart}, inside, Reload, "--allow-restart"},
		{"allowed", Options{MaxDisruption: Restart, AllowRestart: true}, outside, Restart, ""},
		{"limited", Options{MaxDisruption: None, AllowRestart: true}, inside, None, "--max-disruption"},
	} {
		got, why := c.o.allowed(c.at)
		if got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %s, %q", c.name, got, why)
		}
	}
}

// A restart that is known to take its time begins only in a window that is open long enough for it.
func TestRestartBeginsOnlyWhereItFits(t *testing.T) {
	sunday := recipe.Window{Name: "sunday", Days: []time.Weekday{time.Sunday}, Start: 2 * time.Hour, Duration: 2 * time.Hour, Location: time.UTC}
	o := Options{MaxDisruption: Restart, Windows: []recipe.Window{sunday}}
	at := time.Date(2026, 11, 29, 3, 58, 30, 0, time.UTC)
	for _, c := range []struct {
		name  string
		o     Options
		takes time.Duration
		want  Disruption
		why   string
	}{
		{"it fits", o, 90 * time.Second, Restart, ""},
		{"it does not", o, 90*time.Second + 1, Reload, `a restart is given 1m31s, and the maintenance window "sunday" closes in 1m30s; a restart waits for the maintenance window "sunday", next at 2026-12-06T02:00:00Z`},
		{"it never does", o, 3 * time.Hour, Reload, "no maintenance window is long enough for a restart, which is given 3h0m0s: converge restart pays it at once"},
		{"it is allowed", Options{MaxDisruption: Restart, AllowRestart: true, Windows: o.Windows}, 3 * time.Hour, Restart, ""},
	} {
		if got, why := c.o.allowedFor(at, c.takes); got != c.want || why != c.why {
			t.Errorf("%s: %s, %q", c.name, got, why)
		}
	}
}

// A step may fill a directory that it declared for that, and nothing beside it. Folders come with the files, also when
// several steps bring them at once, and go with the last of them.
func TestBelow(t *testing.T) {
	b := newBench(t)
	old := []Target{{Path: "/old", Below: true}}
	for _, user := range []string{"alice", "bob", "carol", "dave"} {
		b.add(user, &toy{targets: old, do: func(_ context.Context, h *Host) error {
			return h.WriteFile("/old/2026/"+user+"/key", []byte(user), mine(0o600))
		}})
	}
	b.add("other", &toy{targets: append(old, Target{Path: "/missing/file"}), do: func(_ context.Context, h *Host) error {
		return errors.Join(h.WriteFile("/old/2027/key", []byte("new"), mine(0o600)), h.WriteFile("/missing/file", nil, mine(0o600)))
	}})
	if rep := b.apply(); len(rep.Failures) != 1 || len(rep.Changes) != 4 {
		t.Errorf("%+v", rep)
	}
	for _, user := range []string{"alice", "bob", "carol", "dave"} {
		b.wants("/old/2026/"+user+"/key", user)
	}
	if _, err := os.Stat(filepath.Join(b.root, "old/2027")); err == nil {
		t.Error("a folder came without its file")
	}
	b.noStrays()
	b = newBench(t)
	b.add("astray", &toy{targets: old, do: func(_ context.Context, h *Host) error {
		return h.WriteFile("/older", []byte("old"), mine(0o600))
	}})
	if rep := b.apply(); len(rep.Failures) != 1 || !strings.Contains(rep.Failures[0].Error, "not among its targets") {
		t.Errorf("a step wrote what it had not declared: %+v", rep.Failures)
	}
}
