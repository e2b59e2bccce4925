package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A confirmBench has two files and a service that runs with one of them.
type confirmBench struct {
	*bench
	served string
}

func newConfirmBench(t *testing.T) *confirmBench {
	t.Helper()
	b := &confirmBench{bench: newBench(t), served: "old\n"}
	b.put("/etc/rules", "old\n")
	b.add("rules", fileToy("/etc/rules", "new\n"))
	b.add("other", fileToy("/etc/other", "made\n"))
	b.addService("server", &toyService{toy: toy{do: func(_ context.Context, h *Host) error {
		rules, err := h.ReadFile("/etc/rules")
		if err != nil {
			return err
		}
		if string(rules) == b.served {
			h.Paid()
			return nil
		}
		h.Act(Action{Kind: OpReload, Service: "server", Do: func(context.Context) error {
			b.served = b.got("/etc/rules")
			return nil
		}})
		return nil
	}}}, "rules")
	return b
}

func (b *confirmBench) applyWithin(ctx context.Context, d time.Duration) *Report {
	b.t.Helper()
	b.events = nil
	r, err := b.engine.Apply(ctx, b.graph(), Options{MaxDisruption: Restart, ConfirmWithin: d})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// onWait does something when the run begins to wait.
func (b *confirmBench) onWait(do func()) {
	b.engine.Observe = func(ev Event) {
		b.events = append(b.events, ev)
		if ev.Event == EventWait {
			do()
		}
	}
}

func (b *confirmBench) wantsAll(rules, other string) {
	b.t.Helper()
	b.wants("/etc/rules", rules)
	b.wants("/etc/other", other)
	if b.served != rules {
		b.t.Errorf("the service runs with %q, and the file holds %q", b.served, rules)
	}
	b.noStrays()
}

func TestConfirmed(t *testing.T) {
	b := newConfirmBench(t)
	b.onWait(func() {
		if _, err := b.engine.State.Confirm(time.Now()); err != nil {
			t.Error(err)
		}
	})
	if r := b.applyWithin(t.Context(), time.Minute); r.Result != ResultOK || len(r.Failures) > 0 {
		t.Fatalf("%+v", r)
	}
	b.wantsAll("new\n", "made\n")
	if _, err := b.engine.State.Confirm(time.Now()); !errors.Is(err, ErrNothingWaits) {
		t.Errorf("a second confirmation: %v", err)
	}
	if r := b.applyWithin(t.Context(), time.Minute); r.Result != ResultOK || len(r.Changes) > 0 || slices.ContainsFunc(b.events, func(e Event) bool { return e.Event == EventWait }) {
		t.Errorf("a run that changes nothing has nothing to wait for: %+v", r)
	}
}

// Who confirms and the run that gives up cannot both have their way.
func TestOneWordCounts(t *testing.T) {
	for range 30 {
		b := newConfirmBench(t)
		said := make(chan error, 1)
		b.onWait(func() {
			go func() {
				var err error
				for {
					if _, err = b.engine.State.Confirm(time.Now()); err == nil || !strings.Contains(err.Error(), "still making") {
						break
					}
				}
				said <- err
			}()
		})
		r := b.applyWithin(t.Context(), time.Millisecond)
		if confirmed := <-said == nil; confirmed != (r.Result == ResultOK) {
			t.Fatalf("converge confirm was told that it worked: %v, and the run ends with %s", confirmed, r.Result)
		}
		if r.Result == ResultOK {
			b.wantsAll("new\n", "made\n")
		} else {
			b.wantsAll("old\n", "absent")
		}
	}
}

// A plan, and so the status, from the session that is to confirm: nothing was killed, and nothing is to be taken back.
func TestPlanWhileWaiting(t *testing.T) {
	b := newConfirmBench(t)
	var p *Plan
	b.onWait(func() {
		p = b.plan()
		if _, err := b.engine.State.Confirm(time.Now()); err != nil {
			t.Error(err)
		}
	})
	if r := b.applyWithin(t.Context(), time.Minute); r.Result != ResultOK {
		t.Errorf("%+v", r)
	}
	if len(p.Changes) > 0 {
		t.Errorf("the plan wants to change %v", addresses(p.Changes))
	}
}

func TestNotConfirmed(t *testing.T) {
	b := newConfirmBench(t)
	r := b.applyWithin(t.Context(), 250*time.Millisecond)
	if r.Result != ResultFailed || len(r.Failures) != 1 || r.Failures[0].Error != "nobody confirmed within 250ms: everything was put back" || len(r.Undone) != 2 {
		t.Errorf("%+v", r)
	}
	b.wantsAll("old\n", "absent")
	if len(r.Owed) > 0 {
		t.Errorf("owed: %+v", r.Owed)
	}
	if r := b.apply(); r.Result != ResultOK {
		t.Errorf("%+v", r)
	}
	b.wantsAll("new\n", "made\n")
}

// A run that is told to stop while it waits puts everything back: nobody has said that all is well.
func TestStoppedWhileWaiting(t *testing.T) {
	b := newConfirmBench(t)
	ctx, stop := context.WithCancel(t.Context())
	b.onWait(stop)
	if r := b.applyWithin(ctx, time.Minute); len(r.Failures) != 1 || !strings.HasPrefix(r.Failures[0].Error, "told to stop before somebody confirmed") {
		t.Errorf("%+v", r)
	}
	b.wantsAll("old\n", "absent")
}

// A run that cannot wait, because its disk is full or its folder spoiled, cannot be confirmed either.
func TestCannotWait(t *testing.T) {
	b := newConfirmBench(t)
	b.onWait(func() {
		w, _, err := b.engine.State.Waiting()
		if err != nil || w == nil {
			t.Fatalf("%v %v", w, err)
		}
		b.put("/state/open/"+w.Run+"/word/in/the/way", "")
	})
	r := b.applyWithin(t.Context(), time.Minute)
	if len(r.Failures) != 1 || !strings.HasPrefix(r.Failures[0].Error, "the wait for a confirmation failed (") || !strings.HasSuffix(r.Failures[0].Error, "everything was put back") {
		t.Errorf("%+v", r.Failures)
	}
	b.wantsAll("old\n", "absent")
}

func TestFailedBeforeWaiting(t *testing.T) {
	b := newConfirmBench(t)
	b.add("broken", &toy{do: func(context.Context, *Host) error { return errors.New("broken") }})
	r := b.applyWithin(t.Context(), time.Minute)
	if len(r.Failures) != 2 || r.Failures[1].Error != "a step has failed: everything was put back" {
		t.Errorf("%+v", r.Failures)
	}
	b.wantsAll("old\n", "absent")
}

// killedWhileWaiting leaves what a killed process would.
func (b *confirmBench) killedWhileWaiting() {
	b.onWait(runtime.Goexit)
	over := make(chan bool)
	go func() {
		defer close(over)
		b.engine.Apply(context.Background(), b.graph(), Options{MaxDisruption: Restart, ConfirmWithin: time.Minute})
	}()
	<-over
	b.engine.Observe = func(ev Event) { b.events = append(b.events, ev) }
}

func TestKilledWhileWaiting(t *testing.T) {
	b := newConfirmBench(t)
	b.killedWhileWaiting()
	b.wantsAll("new\n", "made\n")
	if _, err := b.engine.State.Confirm(time.Now()); !errors.Is(err, ErrNothingWaits) || !strings.Contains(fmt.Sprint(err), "was killed") {
		t.Errorf("the confirmation of a killed run: %v", err)
	}
	if p := b.plan(); len(p.Changes) < 2 || p.Changes[0].Summary != "take back what was not confirmed" {
		t.Errorf("the plan does not begin with what is taken back: %+v", addresses(p.Changes))
	}
	r := b.apply()
	if r.Result != ResultRefused || len(r.Failures) != 1 || !IsRefused(r.Failures[0].Err) {
		t.Errorf("%+v", r)
	}
	b.wantsAll("old\n", "absent")
	if r := b.apply(); r.Result != ResultOK || len(r.Changes) != 3 {
		t.Errorf("%+v", r)
	}
	b.wantsAll("new\n", "made\n")
}
