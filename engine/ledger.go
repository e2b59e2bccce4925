package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Owed is a reload or restart that a service needs and has not had.
type Owed struct {
	Service string     `json:"service"`
	Action  Disruption `json:"action"` // Reload until the service says that it takes a restart
	Reason  string     `json:"reason"`
	Waits   string     `json:"waits,omitempty"` // why it has not happened yet
	Since   time.Time  `json:"since"`
}

// A ledger holds what is owed. In an apply each debt is on the disk before the change that it follows from; in a plan it
// stays in memory. A debt is struck out only when the service shows that it runs with what is on disk.
type ledger struct {
	mu    sync.Mutex
	owed  map[string]Owed // by service
	now   func() time.Time
	store func([]Owed) error // nil in a plan
}

const ledgerFile = "ledger.json"

type ledgerJSON struct {
	Format int    `json:"format"`
	Owed   []Owed `json:"owed"`
}

// Owed returns what is owed on this machine, by service.
func (s *State) Owed() ([]Owed, error) {
	b, err := s.read(ledgerFile)
	if IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j ledgerJSON
	if err := json.Unmarshal(b, &j); err != nil || j.Format != 1 {
		return nil, fmt.Errorf("%s is not a ledger that this version reads: it says what reloads and restarts are owed; move it away only when you have reloaded the services yourself", s.path(ledgerFile))
	}
	return j.Owed, nil
}

func (s *State) storeOwed(owed []Owed) error {
	b, err := json.MarshalIndent(ledgerJSON{Format: 1, Owed: owed}, "", "  ")
	if err != nil {
		return err
	}
	return s.write(ledgerFile, append(b, '\n'))
}

func newLedger(owed []Owed, now func() time.Time, store func([]Owed) error) *ledger {
	l := &ledger{owed: map[string]Owed{}, now: now, store: store}
	for _, o := range owed {
		l.owed[o.Service] = o
	}
	return l
}

func serviceName(step *Step) string {
	if s, ok := step.Resource.(Service); ok {
		return s.ServiceName()
	}
	return step.Address
}

// of returns what is owed to a service's step.
func (l *ledger) of(step *Step) (Owed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.owed[serviceName(step)]
	return o, ok
}

// owe records, before a step's operations reach the disk, that each service which takes up its changes needs them. A
// debt that is open already is not written again: it says enough, and a thousand changes must not cost a thousand
// ledgers.
func (l *ledger) owe(step *Step) ([]Owed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var added []Owed
	for _, service := range step.services {
		name := serviceName(service)
		if _, open := l.owed[name]; open {
			continue
		}
		o := Owed{Service: name, Action: Reload, Reason: step.Address + " changed", Since: l.now().UTC().Truncate(time.Second)}
		l.owed[name] = o
		added = append(added, o)
	}
	if len(added) == 0 {
		return nil, nil
	}
	return added, l.save()
}

// keep holds on to a debt that has to wait. Its first reason stays, unless it takes more than was known. It reports whether
// there is news.
func (l *ledger) keep(o Owed) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, open := l.owed[o.Service]
	o.Since = known.Since
	switch {
	case !open:
		o.Since = l.now().UTC().Truncate(time.Second)
	case known.Action >= o.Action:
		known.Waits = o.Waits
		l.owed[o.Service] = known // on the disk it may be the old word: what is owed is the same
		return false, nil
	}
	l.owed[o.Service] = o
	return true, l.save()
}

// strike takes a debt out. It returns the debt there was.
func (l *ledger) strike(step *Step) (Owed, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := serviceName(step)
	o, open := l.owed[name]
	if !open {
		return Owed{}, false, nil
	}
	delete(l.owed, name)
	return o, true, l.save()
}

func (l *ledger) save() error {
	if l.store == nil {
		return nil
	}
	return l.store(l.sorted())
}

// all returns the debts in the order of the services' names.
func (l *ledger) all() []Owed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sorted()
}

func (l *ledger) sorted() []Owed {
	out := make([]Owed, 0, len(l.owed))
	for _, o := range l.owed {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Owed) int { return strings.Compare(a.Service, b.Service) })
	return out
}
