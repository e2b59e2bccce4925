package recipe

import (
	"container/heap"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// A graph is what refers to what, among local values and the blocks for one role. Locals come first, then blocks in
// declared order, so a node's number is also its turn where the references leave a choice.
type graph struct {
	nodes []node
}

type node struct {
	local *local
	block *Declaration
	needs []edge
}

type edge struct {
	to    int
	place hcl.Range
}

func (n node) String() string {
	if n.local != nil {
		return "local." + n.local.name
	}
	return n.block.Address.String()
}

func (n node) place() hcl.Range {
	if n.local != nil {
		return n.local.place
	}
	return n.block.Range
}

func (r *Recipe) graph(role string) *graph {
	g := &graph{}
	locals, blocks := map[string]int{}, map[Address]int{}
	for _, l := range r.locals {
		locals[l.name] = len(g.nodes)
		g.nodes = append(g.nodes, node{local: l})
	}
	for _, d := range r.Blocks {
		if d.For(role) {
			blocks[d.Address] = len(g.nodes)
			g.nodes = append(g.nodes, node{block: d})
		}
	}
	for i := range g.nodes {
		n := &g.nodes[i]
		uses := []*use(nil)
		if n.local != nil {
			uses = pointers(n.local.expr.uses)
		} else {
			uses = n.block.uses
		}
		for _, u := range uses {
			if len(u.steps) < 2 {
				continue
			}
			name, _ := stepName(u.steps[1])
			to, found := locals[name]
			if u.root() != "local" {
				to, found = blocks[Address{Type: u.root(), Name: name}]
			}
			if found {
				n.needs = append(n.needs, edge{to: to, place: u.place()})
			}
		}
	}
	return g
}

// kept says which nodes are blocks of one of the types, or are needed by such a block. No types: all of them.
func (g *graph) kept(types []string) func(int) bool {
	if len(types) == 0 {
		return func(int) bool { return true }
	}
	keep := make([]bool, len(g.nodes))
	var visit func(i int)
	visit = func(i int) {
		if keep[i] {
			return
		}
		keep[i] = true
		for _, need := range g.nodes[i].needs {
			visit(need.to)
		}
	}
	for i, n := range g.nodes {
		if n.block != nil && slices.Contains(types, n.block.Address.Type) {
			visit(i)
		}
	}
	return func(i int) bool { return keep[i] }
}

// Mentions says whether a top-level name, such as "node", is in anything that decides what the blocks of these types are on
// nodes with a role. When it is not, they are the same on all of them.
func (r *Recipe) Mentions(name, role string, types []string) bool {
	g := r.graph(role)
	kept := g.kept(types)
	for i, n := range g.nodes {
		uses := []*use(nil)
		if n.local != nil {
			uses = pointers(n.local.expr.uses)
		} else {
			uses = n.block.uses
		}
		if kept(i) && slices.ContainsFunc(uses, func(u *use) bool { return u.root() == name }) {
			return true
		}
	}
	return false
}

// order returns the nodes so that each comes after all that it needs, the lowest number first where there is a choice,
// and an error for each circle. Nodes on a circle, and those that need them, are left out.
func (g *graph) order() ([]int, hcl.Diagnostics) {
	waiting := make([]int, len(g.nodes))
	neededBy := make([][]int, len(g.nodes))
	var ready numbers
	for i, n := range g.nodes {
		waiting[i] = len(n.needs)
		for _, need := range n.needs {
			neededBy[need.to] = append(neededBy[need.to], i)
		}
		if len(n.needs) == 0 {
			ready.IntSlice = append(ready.IntSlice, i)
		}
	}
	order := make([]int, 0, len(g.nodes))
	for ready.Len() > 0 {
		next := heap.Pop(&ready).(int)
		order = append(order, next)
		for _, i := range neededBy[next] {
			if waiting[i]--; waiting[i] == 0 {
				heap.Push(&ready, i)
			}
		}
	}
	if len(order) == len(g.nodes) {
		return order, nil
	}
	return order, g.circles(waiting)
}

// numbers is a heap of integers, the least on top. It is filled in ascending order, which is a heap already.
type numbers struct{ sort.IntSlice }

// Push is for package heap.
func (n *numbers) Push(x any) { n.IntSlice = append(n.IntSlice, x.(int)) }

// Pop is for package heap.
func (n *numbers) Pop() any {
	last := n.IntSlice[len(n.IntSlice)-1]
	n.IntSlice = n.IntSlice[:len(n.IntSlice)-1]
	return last
}

// circles walks from each node that still waits along its lowest unfinished need until it meets its own way again. Each
// node is walked once, so there is one error for each circle found and none is told twice.
func (g *graph) circles(waiting []int) hcl.Diagnostics {
	var diags hcl.Diagnostics
	const unseen, onWay, done = 0, 1, 2
	state := make([]int, len(g.nodes))
	for start := range g.nodes {
		var way []edge // way[k] leads from node way[k-1].to to node way[k].to
		at := start
		for waiting[at] > 0 && state[at] == unseen {
			state[at] = onWay
			next := g.firstWaiting(at, waiting)
			way = append(way, next)
			at = next.to
		}
		if waiting[at] > 0 && state[at] == onWay {
			begin := slices.IndexFunc(way, func(e edge) bool { return e.to == at }) + 1
			if begin == len(way) { // the walk began on the circle
				begin = 0
			}
			diags = append(diags, g.circle(at, way[begin:]))
		}
		state[start] = max(state[start], done)
		for _, e := range way {
			state[e.to] = done
		}
	}
	return diags
}

func (g *graph) firstWaiting(from int, waiting []int) edge {
	for _, need := range g.nodes[from].needs {
		if waiting[need.to] > 0 {
			return need
		}
	}
	panic(fmt.Sprintf("recipe: %s waits for nothing", g.nodes[from]))
}

func (g *graph) circle(from int, way []edge) *hcl.Diagnostic {
	if len(way) == 1 {
		return mistake(way[0].place, "Circular reference", "%s refers to itself. Take this reference away.", g.nodes[from])
	}
	var steps []string
	at := from
	for _, e := range way {
		steps = append(steps, fmt.Sprintf("  %s refers to %s at %s", g.nodes[at], g.nodes[e.to], placeText(e.place)))
		at = e.to
	}
	return mistake(g.nodes[from].place(), "Circular reference", "None of these can come first:\n%s\nTake one of the references away.", strings.Join(steps, "\n"))
}

func placeText(place hcl.Range) string { return at(place) }
