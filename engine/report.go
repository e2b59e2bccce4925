package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"converge/engine/fault"
)

// An EventKind says what an event of an apply tells.
type EventKind string

// The events there are. Their words are part of the JSON contract.
const (
	EventStart  EventKind = "start"
	EventChange EventKind = "change"
	EventOwe    EventKind = "owe"
	EventPay    EventKind = "pay"
	EventFail   EventKind = "fail"
	EventSkip   EventKind = "skip"
	EventUndo   EventKind = "undo"
	EventWait   EventKind = "wait" // for converge confirm
	EventDone   EventKind = "done"
)

// An Event is one thing that happened in an apply. Events come in the order of the graph, whatever the parallelism.
type Event struct {
	Event   EventKind  `json:"event"`
	Address string     `json:"address,omitempty"`
	Change  *Change    `json:"change,omitempty"`
	Owed    *Owed      `json:"owed,omitempty"`
	Error   string     `json:"error,omitempty"`
	NotYet  bool       `json:"not_yet,omitempty"` // of a fail: the step waits for another node
	Cause   string     `json:"cause,omitempty"`   // of a skip: the step that failed
	Until   *time.Time `json:"until,omitempty"`   // of a wait
	Stack   string     `json:"-"`                 // of a bug
}

// A Result is how an apply ended.
type Result string

// The results there are.
const (
	ResultOK          Result = "ok"
	ResultFailed      Result = "failed"
	ResultRefused     Result = "refused"
	ResultStopped     Result = "stopped"     // by a signal, between two steps
	ResultInterrupted Result = "interrupted" // killed; found out by a later run
)

// A Report is what one apply did: what history keeps.
type Report struct {
	Format      int        `json:"format"`
	Run         string     `json:"run"`
	Started     time.Time  `json:"started"`
	Finished    time.Time  `json:"finished"`
	Environment string     `json:"environment"`
	Node        string     `json:"node"`
	Role        string     `json:"role"`
	Result      Result     `json:"result"`
	Disruption  Disruption `json:"disruption"`
	Changes     []*Change  `json:"changes"`
	Unchanged   int        `json:"unchanged"`
	Undone      []string   `json:"undone,omitempty"` // addresses whose changes were put back
	Failures    []Failure  `json:"failures,omitempty"`
	Warnings    []Warning  `json:"warnings,omitempty"`
	Access      []Access   `json:"access,omitempty"`
	NotRun      []string   `json:"not_run,omitempty"` // stopped before they began
	Owed        []Owed     `json:"owed"`
	Plan        string     `json:"plan,omitempty"` // the saved plan that was applied
}

// freeze turns the operations into what is told of them, and lets go of the contents: a thousand changes of one file
// must not keep a thousand copies of it.
func (c *Change) freeze() {
	for _, o := range c.Ops {
		o.freeze()
	}
}

// History returns the reports of past runs, the latest first.
func (s *State) History() ([]*Report, error) {
	entries, err := s.disk.ReadDir(s.path(runsDir))
	if IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var reports []*Report
	for _, e := range slices.Backward(entries) {
		r, err := s.Report(e.Name)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// Latest returns the report of the last run, or nil when there was none.
func (s *State) Latest() (*Report, error) {
	entries, err := s.disk.ReadDir(s.path(runsDir))
	if IsNotExist(err) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Report(entries[len(entries)-1].Name)
}

// Report returns the report of one run. A run without one was killed, or is under way.
func (s *State) Report(run string) (*Report, error) {
	if run == "" || filepath.Base(run) != run || run == ".." {
		return nil, fmt.Errorf("%q is not the name of a run", run)
	}
	if _, err := s.disk.Stat(s.path(runsDir, run)); err != nil {
		if IsNotExist(err) {
			return nil, fmt.Errorf("there is no run %q: converge history lists them", run)
		}
		return nil, err
	}
	b, err := s.read(filepath.Join(runsDir, run, reportFile))
	if IsNotExist(err) {
		return &Report{Format: 1, Run: run, Result: ResultInterrupted}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", s.path(runsDir, run, reportFile), err)
	}
	return r, nil
}

// finish ends a run: its report is written, and its folder leaves those of the runs that are under way.
func (s *State) finish(run string, r *Report) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := s.write(filepath.Join(openDir, run, reportFile), append(b, '\n')); err != nil {
		return err
	}
	if err := s.makeDir(s.path(runsDir)); err != nil {
		return err
	}
	root := s.disk.Root()
	fault.Point("before the run is closed")
	if err := os.Rename(filepath.Join(root, s.path(openDir, run)), filepath.Join(root, s.path(runsDir, run))); err != nil {
		return fmt.Errorf("close run %s: %w", run, err)
	}
	return s.prune()
}

// keepIdle is how many runs that changed nothing the history keeps. Those that changed something stay: their backups are
// what an operator looks for years later.
const keepIdle = 200

// prune removes the oldest runs that changed nothing. It looks at no more of them than there are too many.
func (s *State) prune() error {
	dir := filepath.Join(s.disk.Root(), s.path(runsDir))
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if len(names) <= 2*keepIdle {
		return nil
	}
	slices.Sort(names)
	for _, name := range names[:len(names)-keepIdle] {
		r, err := s.Report(name)
		if err != nil || len(r.Changes) > 0 || r.Result != ResultOK {
			continue // what cannot be read is not thrown away
		}
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	return nil
}
