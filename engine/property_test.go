package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A scene is a generated machine and recipe.
type scene struct {
	files map[string]string // on the machine beforehand
	steps []sceneStep
}

type sceneStep struct {
	kind   string // "write", "copy", "key", "remove", "fail", "read-unordered"
	target string
	source int // of a copy: the step whose file is copied
	text   string
	after  []int
}

// drawScene makes up to 12 steps, each on a file of its own or, for blocks, on a shared one.
func drawScene(t *rapid.T) scene {
	sc := scene{files: map[string]string{}}
	n := rapid.IntRange(1, 12).Draw(t, "steps")
	for i := range n {
		s := sceneStep{
			kind:   rapid.SampledFrom([]string{"write", "copy", "key", "remove", "splice", "splice", "fail"}).Draw(t, "kind"),
			target: fmt.Sprintf("/f%02d", i),
			text:   rapid.SampledFrom([]string{"a\n", "b\n", "ab", ""}).Draw(t, "text"),
		}
		if s.kind == "splice" {
			s.target = rapid.SampledFrom([]string{"/shared1", "/shared2"}).Draw(t, "shared")
		}
		for j := range i {
			if rapid.IntRange(0, 4).Draw(t, "edge") == 0 {
				s.after = append(s.after, j)
			}
		}
		if s.kind == "copy" {
			if len(s.after) == 0 {
				s.kind = "write"
			} else {
				s.source = s.after[0]
			}
		}
		sc.steps = append(sc.steps, s)
		if rapid.Bool().Draw(t, "exists") && s.kind != "splice" && s.kind != "key" {
			sc.files[s.target] = rapid.SampledFrom([]string{"a\n", "old\n"}).Draw(t, "old")
		}
	}
	sc.files["/shared1"], sc.files["/shared2"] = "one\ntwo\n", ""
	return sc
}

// build puts the scene on a machine.
func (sc scene) build(b *bench) {
	for path, content := range sc.files {
		if err := os.WriteFile(filepath.Join(b.root, path), []byte(content), 0o644); err != nil {
			panic(err)
		}
	}
	for i, s := range sc.steps {
		var after []string
		for _, j := range s.after {
			after = append(after, fmt.Sprintf("s%02d", j))
		}
		b.add(fmt.Sprintf("s%02d", i), s.resource(sc), after...)
	}
}

func (s sceneStep) resource(sc scene) *toy {
	mark := fmt.Sprintf("[%s]\n", s.text+s.kind)
	switch s.kind {
	case "key":
		return keyToy(s.target)
	case "remove":
		return &toy{targets: []Target{{Path: s.target}}, do: func(_ context.Context, h *Host) error { return h.Remove(s.target) }}
	case "fail":
		return &toy{do: func(context.Context, *Host) error { return fmt.Errorf("no") }}
	case "copy":
		from := sc.steps[s.source].target
		return &toy{targets: []Target{{Path: s.target}}, do: func(_ context.Context, h *Host) error {
			content, err := h.ReadFile(from)
			if err != nil {
				content = []byte("nothing there")
			}
			return h.WriteFile(s.target, content, mine(0o600))
		}}
	case "splice":
		return &toy{targets: []Target{{Path: s.target, Shared: true}}, do: func(_ context.Context, h *Host) error {
			content, err := h.ReadFile(s.target)
			if err != nil || strings.Contains(string(content), mark) {
				return err
			}
			return h.Splice(s.target, Splice{Line: 1, Inserted: mark}, nil)
		}}
	}
	return fileToy(s.target, s.text)
}

func sceneBench(t *rapid.T, sc scene, dir string, parallelism int) *bench {
	b := &bench{root: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.engine = benchEngine(nopTB{}, dir)
	b.engine.Rand = rand.Reader
	b.engine.Parallelism = parallelism
	b.engine.Observe = func(ev Event) { b.events = append(b.events, ev) }
	sc.build(b)
	return b
}

// nopTB lets the bench be built inside a property.
type nopTB struct{ testing.TB }

func (nopTB) Helper()           {}
func (nopTB) Cleanup(func())    {}
func (nopTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Whatever the recipe: a plan lists exactly the operations that the apply performs, whatever the parallelism, and after
// the apply there is nothing left to plan but what failed.
func TestPlanIsWhatApplyDoes(t *testing.T) {
	base := t.TempDir()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		sc := drawScene(t)
		var texts []string
		for _, parallelism := range []int{1, 8} {
			dir := filepath.Join(base, fmt.Sprint(round), fmt.Sprint(parallelism))
			b := sceneBench(t, sc, dir, parallelism)
			g, diags := NewGraph(b.blocks, toyTypes)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			plan, err := b.engine.Plan(context.Background(), g, Options{MaxDisruption: Restart})
			if err != nil {
				t.Fatal(err)
			}
			planned := changesText(plan.Changes) + fmt.Sprint(plan.Unchanged) + failuresText(plan.Failures)
			b.events = nil
			g, _ = NewGraph(b.blocks, toyTypes)
			rep, err := b.engine.Apply(context.Background(), g, Options{MaxDisruption: Restart})
			if err != nil {
				t.Fatal(err)
			}
			applied := changesText(rep.Changes) + fmt.Sprint(rep.Unchanged) + failuresText(rep.Failures)
			if planned != applied {
				t.Fatalf("planned\n%s\napplied\n%s", planned, applied)
			}
			g, _ = NewGraph(b.blocks, toyTypes)
			again, err := b.engine.Plan(context.Background(), g, Options{MaxDisruption: Restart})
			if err != nil {
				t.Fatal(err)
			}
			if len(again.Changes) > 0 {
				t.Fatalf("after the apply there is still\n%s", changesText(again.Changes))
			}
			texts = append(texts, applied+eventsText(b.events))
			os.RemoveAll(dir)
		}
		if texts[0] != texts[1] {
			t.Fatalf("one at a time\n%s\neight at a time\n%s", texts[0], texts[1])
		}
	})
}

func changesText(changes []*Change) string {
	var out strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&out, "%s %s %s %s\n%s", c.Address, c.Action, c.Summary, c.Reason, opsText(c.Ops))
	}
	return out.String()
}

func failuresText(failures []Failure) string {
	var out strings.Builder
	for _, f := range failures {
		fmt.Fprintf(&out, "%s: %s %v\n", f.Address, f.Error, f.Consequences)
	}
	return out.String()
}
