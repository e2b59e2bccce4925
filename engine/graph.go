package engine

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"

	"converge/engine/recipe"
)

// A Graph is all that one run has to do on one node, in an order in which each step comes after those it needs.
type Graph struct {
	Environment string
	Node        string
	Role        string
	Steps       []*Step

	writers   map[string][]*Step // for each file, the steps that write it, in order
	providers map[string]*Step   // for each thing that is no file, the step that makes it
}

// A Step is a place in the graph: one resource.
type Step struct {
	Address  string
	Range    hcl.Range // the block's header in its recipe
	Resource Resource
	Service  bool
	After    []Edge  // what must be done before it; no duplicates
	OnChange []*Step // services: whose changes they have to take up

	index    int // in Graph.Steps
	services []*Step
	targets  map[string]Target
	known    map[*Step]bool // the steps in After

	closeOnce sync.Once
	before    map[*Step]bool // all that comes before it, made when asked for
}

// An Edge leads from a step to one that comes before it.
type Edge struct {
	Step *Step
	Why  EdgeKind
	Path string // of SameFile and Directory
}

// An EdgeKind is the reason for an order.
type EdgeKind string

// The reasons there are. A step does not run when one that it refers to, or takes up the changes of, has failed; the
// others are about order only.
const (
	Reference EdgeKind = "reference"
	OnChange  EdgeKind = "on_change"
	SameFile  EdgeKind = "same file"
	Directory EdgeKind = "directory"
	AtTheEnd  EdgeKind = "at the end"
)

func (e Edge) needed() bool { return e.Why == Reference || e.Why == OnChange }

// NewGraph joins the evaluated blocks of a recipe to a graph: an edge for each reference, and one wherever two steps
// write the same file or one makes the directory the other writes in. blocks come in an order that references allow;
// where a file alone decides, the order stays that of the blocks. It fails with diagnostics where two steps claim one
// file for themselves.
func NewGraph(blocks []*recipe.Block, types []Type) (*Graph, hcl.Diagnostics) {
	service := map[string]bool{}
	for _, t := range types {
		service[t.Name] = t.Service
	}
	g := &Graph{writers: map[string][]*Step{}, providers: map[string]*Step{}}
	byAddress := make(map[recipe.Address]*Step, len(blocks))
	for _, b := range blocks {
		s := &Step{
			Address:  b.Address.String(),
			Range:    b.Range,
			Resource: b.Config.(Resource),
			Service:  service[b.Address.Type],
			targets:  map[string]Target{},
			known:    map[*Step]bool{},
		}
		for _, ref := range b.OnChange {
			changed := byAddress[ref.To]
			s.takeUp(changed)
		}
		for _, ref := range b.After {
			s.follow(byAddress[ref.To], Reference, "")
		}
		byAddress[b.Address] = s
		g.Steps = append(g.Steps, s)
	}
	if diags := g.orderProviders(); diags.HasErrors() {
		return g, diags
	}
	readersLast(g.Steps)
	diags := g.orderByTargets()
	g.orderReaders()
	g.orderLast()
	return g, diags
}

// orderLast puts those that come last behind all steps before them.
func (g *Graph) orderLast() {
	for i, s := range g.Steps {
		if last, ok := s.Resource.(Last); ok && last.ComesLast() {
			for _, earlier := range g.Steps[:i] {
				s.follow(earlier, AtTheEnd, "")
			}
		}
	}
}

// waitsForOthers says whether a step is moved behind the others: a reader, or one that comes last.
func (s *Step) waitsForOthers() bool {
	if last, ok := s.Resource.(Last); ok && last.ComesLast() {
		return true
	}
	_, ok := s.Resource.(Reader)
	return ok
}

// orderProviders puts each step behind those that make what it needs.
func (g *Graph) orderProviders() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, s := range g.Steps {
		p, ok := s.Resource.(Provider)
		if !ok || p.Provides() == "" {
			continue
		}
		if other := g.providers[p.Provides()]; other != nil {
			diags = append(diags, oneProvider(s, other, p.Provides()))
		} else {
			g.providers[p.Provides()] = s
		}
	}
	needed := false
	for _, s := range g.Steps {
		d, ok := s.Resource.(Dependent)
		if !ok {
			continue
		}
		for _, name := range d.Needs() {
			if maker := g.providers[name]; maker != nil {
				s.follow(maker, Reference, "")
				needed = true
			}
		}
	}
	if needed {
		diags = append(diags, g.sort()...)
	}
	return diags
}

func oneProvider(s, other *Step, name string) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  "Two resources make one thing",
		Detail: fmt.Sprintf("%s makes the %s, and so does %s (%s:%d). Join the two, or leave one of them out for this role.",
			s.Address, name, other.Address, other.Range.Filename, other.Range.Start.Line),
		Subject: s.Range.Ptr(),
	}
}

// sort puts every step behind those that it follows, and else leaves the order as it is.
func (g *Graph) sort() hcl.Diagnostics {
	sorting := &sorting{state: map[*Step]sortState{}}
	for _, s := range g.Steps {
		if circle := sorting.visit(s); circle != nil {
			return hcl.Diagnostics{circular(circle)}
		}
	}
	g.Steps = sorting.sorted
	return nil
}

type sortState int

const (
	sortUnderWay sortState = iota + 1
	sortDone
)

type sorting struct {
	state  map[*Step]sortState
	sorted []*Step
}

// visit puts a step after those that it follows. Where these follow the step itself it returns the circle.
func (o *sorting) visit(s *Step) []*Step {
	switch o.state[s] {
	case sortUnderWay:
		return []*Step{s}
	case sortDone:
		return nil
	}
	o.state[s] = sortUnderWay
	for _, e := range s.After {
		circle := o.visit(e.Step)
		if n := len(circle); n > 1 && circle[0] == circle[n-1] {
			return circle // closed already
		}
		if circle != nil {
			return append(circle, s)
		}
	}
	o.state[s] = sortDone
	o.sorted = append(o.sorted, s)
	return nil
}

// circular says which steps need each other. The first of them stands at the end again.
func circular(circle []*Step) *hcl.Diagnostic {
	slices.Reverse(circle)
	text := "None of these can come first:"
	for i, s := range circle[:len(circle)-1] {
		text += fmt.Sprintf("\n  %s needs %s (%s:%d)", s.Address, circle[i+1].Address, s.Range.Filename, s.Range.Start.Line)
	}
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Circular reference", Detail: text, Subject: circle[0].Range.Ptr()}
}

// takeUp puts a service behind a step whose changes it has to take up.
func (s *Step) takeUp(changed *Step) {
	s.follow(changed, OnChange, "")
	if !slices.Contains(changed.services, s) {
		s.OnChange = append(s.OnChange, changed)
		changed.services = append(changed.services, s)
	}
}

// readersLast moves each reader behind all steps that do not wait for it, so that a recipe loaded later can write what it
// reads. Otherwise the order stays. It numbers the steps.
func readersLast(steps []*Step) {
	for i, s := range slices.Backward(steps) {
		if !s.waitsForOthers() {
			continue
		}
		var others, waiting []*Step
		waits := map[*Step]bool{s: true}
		for _, later := range steps[i:] {
			if waits[later] || slices.ContainsFunc(later.After, func(e Edge) bool { return waits[e.Step] }) {
				waits[later] = true
				waiting = append(waiting, later)
			} else {
				others = append(others, later)
			}
		}
		copy(steps[i:], append(others, waiting...))
	}
	for i, s := range steps {
		s.index = i
	}
}

// orderReaders puts each reader behind the steps before it that write what it reads.
func (g *Graph) orderReaders() {
	for i, s := range g.Steps {
		r, ok := s.Resource.(Reader)
		if !ok {
			continue
		}
		reads := r.Reads()
		for _, earlier := range g.Steps[:i] {
			switch p := earlier.writesBelow(reads); {
			case p == "":
			case s.Service:
				s.takeUp(earlier)
			default:
				s.follow(earlier, SameFile, p)
			}
		}
	}
}

// writesBelow returns the one of the places, files or folders, that the step writes or writes in; "" for none.
func (s *Step) writesBelow(places []string) string {
	for _, t := range s.targets {
		for _, p := range places {
			if !t.Dir && (t.Path == p || strings.HasPrefix(t.Path, strings.TrimSuffix(p, "/")+"/")) {
				return p
			}
		}
	}
	return ""
}

// follow adds an edge, once.
func (s *Step) follow(earlier *Step, why EdgeKind, path string) {
	if earlier == s || s.known[earlier] {
		return
	}
	s.known[earlier] = true
	s.After = append(s.After, Edge{earlier, why, path})
}

// orderByTargets adds the edges that follow from paths. All of them point from a later step to an earlier one of
// g.Steps, so they cannot close a circle.
func (g *Graph) orderByTargets() hcl.Diagnostics {
	var diags hcl.Diagnostics
	made := map[string]bool{}
	for _, s := range g.Steps {
		for _, t := range s.Resource.Targets() {
			s.targets[t.Path] = t
			if t.Dir {
				made[t.Path] = true
			}
		}
	}
	maker := map[string]*Step{}    // the first step that makes a directory
	inside := map[string][]*Step{} // steps so far that write below a directory which somebody makes
	for _, s := range g.Steps {
		for _, t := range s.Resource.Targets() {
			for dir := path.Dir(t.Path); ; dir = path.Dir(dir) {
				if m := maker[dir]; m != nil {
					s.follow(m, Directory, dir)
				}
				if made[dir] {
					inside[dir] = append(inside[dir], s)
				}
				if dir == "/" || dir == "." {
					break
				}
			}
			switch {
			case t.Dir:
				g.orderMaker(s, t, maker, inside)
				continue
			case t.Below:
				continue
			}
			diags = append(diags, g.orderWriter(s, t)...)
		}
	}
	return diags
}

// orderMaker puts a step that makes a directory after the first one that does, and, when it is the first itself, after
// those that already write inside.
func (g *Graph) orderMaker(s *Step, t Target, maker map[string]*Step, inside map[string][]*Step) {
	if first := maker[t.Path]; first != nil {
		s.follow(first, Directory, t.Path)
		return
	}
	maker[t.Path] = s
	for _, w := range inside[t.Path] {
		s.follow(w, Directory, t.Path)
	}
}

func (g *Graph) orderWriter(s *Step, t Target) hcl.Diagnostics {
	if t.Handed {
		return nil
	}
	earlier := g.writers[t.Path]
	g.writers[t.Path] = append(earlier, s)
	if len(earlier) == 0 {
		return nil
	}
	last := earlier[len(earlier)-1]
	if !t.Shared || !last.targets[t.Path].Shared {
		return hcl.Diagnostics{oneWriter(s, last, t.Path)}
	}
	s.follow(last, SameFile, t.Path)
	return nil
}

func oneWriter(s, other *Step, path string) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  "Two resources write one file",
		Detail: fmt.Sprintf("%s writes %s, and so does %s (%s:%d). A file has one writer: give one of the two another directory or name, or leave it out for this role.",
			s.Address, path, other.Address, other.Range.Filename, other.Range.Start.Line),
		Subject: s.Range.Ptr(),
	}
}

// Services returns the graph of the services alone, which wait for nothing: what is owed to them is paid with the files as
// they are.
func (g *Graph) Services() *Graph {
	out := &Graph{Environment: g.Environment, Node: g.Node, Role: g.Role, writers: map[string][]*Step{}}
	for _, s := range g.Steps {
		if s.Service {
			out.Steps = append(out.Steps, &Step{
				Address: s.Address, Range: s.Range, Resource: s.Resource, Service: true,
				targets: s.targets, known: map[*Step]bool{}, index: len(out.Steps),
			})
		}
	}
	return out
}

// below says whether the path lies in a directory of the step's own making that it may fill as it likes.
func (s *Step) below(p string) bool {
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		if s.targets[dir].Below {
			return true
		}
		if dir == "/" || dir == "." {
			return false
		}
	}
}

// comesAfter says whether s is ordered behind other.
func (s *Step) comesAfter(other *Step) bool {
	s.closeOnce.Do(func() {
		s.before = map[*Step]bool{}
		todo := []*Step{s}
		for len(todo) > 0 {
			next := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, e := range next.After {
				if !s.before[e.Step] {
					s.before[e.Step] = true
					todo = append(todo, e.Step)
				}
			}
		}
	})
	return s.before[other]
}

// notBefore returns a step that writes path and is not ordered before s, or nil. What s reads there would be out of date
// at the end of the run, or depend on which of the two happens to be first. Steps that share a file are exempt: each
// looks at its own part.
func (g *Graph) notBefore(s *Step, path string) *Step {
	if _, own := s.targets[path]; own {
		return nil
	}
	for _, w := range g.writers[path] {
		if w.index > s.index || !s.comesAfter(w) {
			return w
		}
	}
	return nil
}
