package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"converge/engine/disk"
)

// A run can be told to wait for somebody's word that all is well, and to put everything back when it does not come: the
// change of who may log in that shuts out the one who makes it. The word is a file beside the journal, which is made once:
// by converge confirm, or by the run itself when it puts everything back, so that only one of them has its way. While nothing
// is confirmed the run's records count as not finished: what a killed run leaves is taken back as well.

// The files of a run's folder that say that it waits, and what became of that.
const (
	unconfirmedFile = "unconfirmed.json"
	wordFile        = "word"
)

// The words.
const (
	wordConfirmed = "confirmed"
	wordWithdrawn = "withdrawn" // nobody may confirm any more: everything is put back
)

// confirmPoll is how often a waiting run looks for the word.
const confirmPoll = 100 * time.Millisecond

// A Waiting run has made its changes, and puts them back at its time unless somebody confirms them.
type Waiting struct {
	Run   string    `json:"run"`
	Until time.Time `json:"until"` // zero while its changes are still being made
}

// ErrNothingWaits says that no run waits for a confirmation.
var ErrNothingWaits = errors.New("no run waits for a confirmation")

// Waiting returns the run that waits, if there is one, and whether it is alive: the changes of one that was killed are taken
// back by the next apply.
func (s *State) Waiting() (w *Waiting, alive bool, err error) {
	entries, err := s.disk.ReadDir(s.path(openDir))
	if IsNotExist(err) {
		return nil, false, nil
	}
	for i := 0; err == nil && w == nil && i < len(entries); i++ {
		w, err = s.waiting(entries[i].Name)
	}
	return w, w != nil && s.busy(), err
}

// waiting reads what an open run's folder says; nil when the run need not be confirmed or is so already.
func (s *State) waiting(run string) (*Waiting, error) {
	b, err := s.read(filepath.Join(openDir, run, unconfirmedFile))
	if IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if word, err := s.word(run); err != nil || word == wordConfirmed {
		return nil, err
	}
	w := &Waiting{}
	if err := json.Unmarshal(b, w); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", s.path(openDir, run, unconfirmedFile), err)
	}
	return w, nil
}

func (s *State) storeWaiting(w Waiting) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return s.write(filepath.Join(openDir, w.Run, unconfirmedFile), append(b, '\n'))
}

// word reads what was said of a run; "" while nothing was.
func (s *State) word(run string) (string, error) {
	b, err := s.read(filepath.Join(openDir, run, wordFile))
	if IsNotExist(err) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// say says a word of a run, unless another was said before, and returns the one that counts.
func (s *State) say(run, word string) (string, error) {
	name := s.path(openDir, run, wordFile)
	staged, err := s.disk.Stage(disk.File{Path: name, Content: []byte(word + "\n"), Mode: 0o600, UID: s.euid, GID: os.Getegid(), Secret: true,
		Temp: fmt.Sprintf("%s%s-%d", stateTemp, word, os.Getpid())})
	if err != nil {
		return "", err
	}
	if err := staged.Switch(disk.Before{}); err != nil {
		if said, errRead := s.word(run); said != "" {
			return said, errRead
		}
		return "", err
	}
	return word, nil
}

// Confirm gives the waiting run the word. The error of none wraps ErrNothingWaits: there is none, its time is over, or it
// was killed, and the next apply takes its changes back.
func (s *State) Confirm(now time.Time) (*Waiting, error) {
	w, alive, err := s.Waiting()
	switch {
	case err != nil:
		return nil, err
	case w == nil:
		return nil, ErrNothingWaits
	case !alive:
		return nil, fmt.Errorf("%w: run %s was killed while it waited; converge apply takes its changes back", ErrNothingWaits, w.Run)
	case w.Until.IsZero():
		return nil, fmt.Errorf("%w: run %s is still making its changes; it says when it waits", ErrNothingWaits, w.Run)
	case now.After(w.Until):
		return nil, tooLate(w)
	}
	said, err := s.say(w.Run, wordConfirmed)
	if err == nil && said != wordConfirmed {
		return nil, tooLate(w)
	}
	return w, err
}

func tooLate(w *Waiting) error {
	return fmt.Errorf("%w: run %s puts its changes back: its time was over at %s, or it was told to stop", ErrNothingWaits, w.Run, w.Until.Format(time.RFC3339))
}

// confirmed ends a run that has to be confirmed: it waits, and puts everything back when the word does not come, when the
// run is told to stop, or when a step has failed.
func (r *run) confirmed(ctx context.Context, rep *Report) {
	if r.options.ConfirmWithin == 0 || len(r.journal.records) == 0 {
		return
	}
	why := "a step has failed"
	if rep.Result == ResultOK {
		yes, err := r.awaitWord(ctx)
		switch {
		case err != nil:
			why = fmt.Sprintf("the wait for a confirmation failed (%s)", Redact(err.Error()))
		case yes:
			return
		case ctx.Err() != nil:
			why = "told to stop before somebody confirmed"
		default:
			why = fmt.Sprintf("nobody confirmed within %s", r.options.ConfirmWithin)
		}
	}
	r.takeAllBack(context.WithoutCancel(ctx), rep, why)
}

// awaitWord waits. The run's own clock may be a test's; the waiting goes by the machine's.
func (r *run) awaitWord(ctx context.Context) (bool, error) {
	state, w := r.engine.State, Waiting{Run: r.journal.run, Until: r.engine.Now().UTC().Add(r.options.ConfirmWithin)}
	if err := state.storeWaiting(w); err != nil {
		return false, err
	}
	r.engine.observe(Event{Event: EventWait, Until: &w.Until})
	timer, tick := time.NewTimer(r.options.ConfirmWithin), time.NewTicker(confirmPoll)
	defer timer.Stop()
	defer tick.Stop()
	for waits := true; waits; {
		select {
		case <-ctx.Done():
			waits = false
		case <-timer.C:
			waits = false
		case <-tick.C:
			said, err := state.word(w.Run)
			if err != nil {
				return false, err
			}
			waits = said == ""
		}
	}
	said, err := state.say(w.Run, wordWithdrawn)
	return said == wordConfirmed, err
}

// takeAllBack undoes everything that the run has done, and lets its services take up what is on the disk again.
func (r *run) takeAllBack(ctx context.Context, rep *Report, why string) {
	var done []*record
	for _, rec := range r.journal.records {
		if rec.End == "done" {
			done = append(done, rec)
		}
	}
	undone, err := r.undoRecords(done)
	for _, address := range undone {
		r.engine.observe(Event{Event: EventUndo, Address: address, Cause: why})
	}
	if err == nil {
		err = r.serveAll(ctx)
	}
	rep.Undone, rep.Result = undone, ResultFailed
	text := why + ": everything was put back"
	if err != nil {
		text = fmt.Sprintf("%s, and putting everything back failed: %s", why, Redact(err.Error()))
	}
	rep.Failures = append(rep.Failures, Failure{Error: text, Err: errors.Join(errors.New(text), err)})
	rep.Owed = r.ledger.all()
}

// notConfirmed ends a run that took back what a killed one had left unconfirmed: the services serve what is on the disk
// again, and making the changes once more is for the operator to say. nil: nothing of the kind was there.
func (r *run) notConfirmed(ctx context.Context) error {
	if r.tookBack == "" {
		return nil
	}
	refused := &RefusedError{Reason: fmt.Sprintf("run %s was killed before somebody confirmed it: its changes are taken back, and nothing else is done; look at converge plan, then apply again", r.tookBack)}
	if err := r.serveAll(ctx); err != nil {
		return fmt.Errorf("%w; and afterwards: %w", refused, err)
	}
	return refused
}

// serveAll lets every service take up what is on the disk.
func (r *run) serveAll(ctx context.Context) error {
	var errs []error
	for _, s := range r.graph.Steps {
		if _, is := s.Resource.(Service); !is {
			continue
		}
		if err := r.serveAgain(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Address, err))
		}
	}
	return errors.Join(errs...)
}
