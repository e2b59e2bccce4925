package engine

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// askToy asks another node for something: it writes a request once, publishes it, and waits for the answer.
func askToy(store map[string]string, order *[]string) *toy {
	return &toy{targets: []Target{{Path: "/request"}, {Path: "/answer"}}, do: func(_ context.Context, h *Host) error {
		if err := h.WriteFile("/request", []byte("please"), mine(0o600)); err != nil {
			return err
		}
		if _, there := store["request"]; !there {
			h.Act(Action{Kind: OpPublish, Path: "request", Do: func(context.Context) error {
				_, err := os.Stat(filepath.Join(h.Root(), "request"))
				*order = append(*order, "publish, with the file there: "+errText(err))
				store["request"] = "please"
				return nil
			}})
		}
		answer, there := store["answer"]
		if !there {
			h.Wait("other has not answered: run apply there")
			return nil
		}
		return h.WriteFile("/answer", []byte(answer), mine(0o600))
	}}
}

func errText(err error) string {
	if err != nil {
		return "no"
	}
	return "yes"
}

// A step that waits for another node commits what it has for that node, fails with the reason, and what needs it does not
// run; what does not need it does. A plan shows the same and publishes nothing.
func TestWait(t *testing.T) {
	b := newBench(t)
	store, order := map[string]string{}, []string{}
	b.add("ask", askToy(store, &order))
	b.add("needs", fileToy("/needs", "a"), "ask")
	b.add("else", fileToy("/else", "a"))
	p := b.plan()
	if len(store) > 0 || len(p.Changes) != 2 || p.Changes[0].Action != "create" || len(p.Failures) != 1 || !p.Failures[0].NotYet {
		t.Errorf("plan: %+v, store %v", p, store)
	}
	rep := b.apply()
	if len(rep.Failures) != 1 || !rep.Failures[0].NotYet || !slices.Equal(rep.Failures[0].Consequences, []string{"toy.needs"}) || len(rep.Changes) != 2 {
		t.Errorf("apply: %+v", rep)
	}
	if want := []string{"publish, with the file there: yes"}; !slices.Equal(order, want) || store["request"] != "please" {
		t.Errorf("got %v %v", order, store)
	}
	rep = b.apply()
	if len(rep.Changes) != 0 || len(rep.Failures) != 1 || !IsNotYet(rep.Failures[0].Err) {
		t.Errorf("second apply: %+v", rep)
	}
	store["answer"] = "here"
	rep = b.apply()
	if rep.Result != ResultOK || len(rep.Changes) != 2 {
		t.Errorf("third apply: %+v", rep)
	}
}

// What is published first stands before the step's files are there, and when that fails they never are.
func TestPublishFirst(t *testing.T) {
	for _, fails := range []bool{false, true} {
		b := newBench(t)
		store, seen := map[string]bool{}, "not called"
		b.add("claim", &toy{targets: []Target{{Path: "/key"}}, do: func(_ context.Context, h *Host) error {
			if !store["claim"] {
				h.Act(Action{Kind: OpPublish, Path: "claim", First: true, Do: func(context.Context) error {
					_, err := os.Stat(filepath.Join(h.Root(), "key"))
					seen = errText(err)
					if fails {
						return errors.New("another node was first")
					}
					store["claim"] = true
					return nil
				}})
			}
			return h.WriteFile("/key", []byte("k"), mine(0o600))
		}})
		rep := b.apply()
		_, err := os.Stat(filepath.Join(b.root, "key"))
		if seen != "no" || fails != (len(rep.Failures) == 1) || fails != (err != nil) {
			t.Errorf("fails %v: the file was there: %s; %+v, %v, %v", fails, seen, rep, err, slices.Collect(maps.Keys(store)))
		}
	}
}

// A reader that is no service comes behind whoever writes what it reads, and runs even when one of them fails.
func TestReaderThatIsNoService(t *testing.T) {
	b := newBench(t)
	b.add("reads", &readingToy{toy{targets: []Target{{Path: "/sum"}}, do: func(_ context.Context, h *Host) error {
		names, err := h.ReadDir("/vault")
		if err != nil {
			return err
		}
		return h.WriteFile("/sum", []byte(names[0]), mine(0o600))
	}}})
	b.add("dir", &toy{targets: []Target{{Path: "/vault", Dir: true}}, do: func(_ context.Context, h *Host) error {
		return h.Mkdir("/vault", mine(0o700))
	}})
	b.add("one", fileToy("/vault/one", "a"), "dir")
	b.add("fails", &toy{targets: []Target{{Path: "/vault/two"}}, do: func(context.Context, *Host) error { return errors.New("no") }}, "dir")
	rep := b.apply()
	if len(rep.Failures) != 1 || rep.Failures[0].Address != "toy.fails" || len(rep.Failures[0].Consequences) != 0 || len(rep.Changes) != 3 {
		t.Errorf("got %+v", rep)
	}
}

type readingToy struct{ toy }

func (readingToy) Reads() []string { return []string{"/vault"} }

// A file that no service reads makes nobody owe anything; with another one beside it the step does.
func TestAside(t *testing.T) {
	for content, owed := range map[string]int{"": 0, "x": 1} {
		b := newBench(t)
		b.add("key", &toy{targets: []Target{{Path: "/next"}, {Path: "/key"}}, do: func(_ context.Context, h *Host) error {
			if err := h.WriteFile("/next", []byte("n"), mine(0o600), Aside); err != nil || content == "" {
				return err
			}
			return h.WriteFile("/key", []byte(content), mine(0o600))
		}})
		b.addService("toyd", &toyService{toy{do: func(context.Context, *Host) error { return nil }}}, "key")
		if p := b.plan(); len(p.Owed) != owed {
			t.Errorf("%q: a plan owes %v", content, p.Owed)
		}
		if rep := b.apply(); len(rep.Owed) != owed || len(rep.Changes) != 1 {
			t.Errorf("%q: %+v", content, rep)
		}
	}
}
