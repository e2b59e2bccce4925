package main

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strconv"

	"converge/engine"
)

// graphText lists the steps in their order, each with those that it waits for.
func graphText(w io.Writer, g *engine.Graph) {
	for _, s := range g.Steps {
		fmt.Fprintf(w, "%s  (%s)\n", s.Address, place(s))
		for _, e := range s.After {
			fmt.Fprintf(w, "    after %s: %s\n", e.Step.Address, why(e))
		}
	}
}

func why(e engine.Edge) string {
	if e.Path != "" {
		return fmt.Sprintf("%s %s", e.Why, e.Path)
	}
	return string(e.Why)
}

// graphDot writes the graph in Graphviz's language.
func graphDot(w io.Writer, g *engine.Graph) {
	fmt.Fprintf(w, "digraph converge {\n  rankdir=LR\n  node [shape=box]\n")
	for _, s := range g.Steps {
		fmt.Fprintf(w, "  %s\n", strconv.Quote(s.Address))
		for _, e := range s.After {
			fmt.Fprintf(w, "  %s -> %s [label=%s]\n", strconv.Quote(e.Step.Address), strconv.Quote(s.Address), strconv.Quote(string(e.Why)))
		}
	}
	fmt.Fprintln(w, "}")
}

// The measures of a drawing, in pixels.
const (
	boxHeight, boxGap, columnGap, margin, letter = 30, 16, 70, 20, 7.3
)

// A box is a step in a drawing.
type box struct {
	step       *engine.Step
	column     int
	x, y, w, h float64
}

// graphSVG draws the graph in columns: a step stands one column right of the last of those that it waits for. Graphviz as
// a library would draw it better and costs every command of the program a second at its start (measured), and dot the
// program is one pipe away: converge graph --format dot | dot -Tsvg.
func graphSVG(w io.Writer, g *engine.Graph) {
	boxes, width, height := layout(g)
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="monospace" font-size="12">`+"\n", width, height)
	fmt.Fprintln(w, `<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z"/></marker></defs>`)
	for _, s := range g.Steps {
		to := boxes[s]
		for _, e := range s.After {
			drawEdge(w, boxes[e.Step], to, e)
		}
	}
	for _, s := range g.Steps {
		b := boxes[s]
		fmt.Fprintf(w, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="4" fill="white" stroke="black"/><text x="%.0f" y="%.0f">%s</text>`+"\n",
			b.x, b.y, b.w, b.h, b.x+10, b.y+b.h/2+4, html.EscapeString(s.Address))
	}
	fmt.Fprintln(w, "</svg>")
}

func drawEdge(w io.Writer, from, to *box, e engine.Edge) {
	dash := ""
	if e.Path != "" {
		dash = ` stroke-dasharray="4 3"`
	}
	x1, y1, x2, y2 := from.x+from.w, from.y+from.h/2, to.x, to.y+to.h/2
	bend := (x2 - x1) / 2
	fmt.Fprintf(w, `<path d="M%.0f %.0fC%.0f %.0f %.0f %.0f %.0f %.0f" fill="none" stroke="gray"%s marker-end="url(#arrow)"><title>%s</title></path>`+"\n",
		x1, y1, x1+bend, y1, x2-bend, y2, x2, y2, dash, html.EscapeString(why(e)))
}

// layout gives each step its box. Within a column the boxes are in the order of the middles of those that they wait for.
func layout(g *engine.Graph) (boxes map[*engine.Step]*box, width, height float64) {
	boxes = map[*engine.Step]*box{}
	var columns [][]*box
	for _, s := range g.Steps {
		b := &box{step: s, w: float64(len(s.Address))*letter + 20, h: boxHeight}
		for _, e := range s.After {
			b.column = max(b.column, boxes[e.Step].column+1)
		}
		boxes[s] = b
		for len(columns) <= b.column {
			columns = append(columns, nil)
		}
		columns[b.column] = append(columns[b.column], b)
	}
	x := float64(margin)
	for _, column := range columns {
		slices.SortStableFunc(column, func(a, b *box) int { return int(middle(a, boxes) - middle(b, boxes)) })
		y, widest := float64(margin), 0.0
		for _, b := range column {
			b.x, b.y = x, y
			y += boxHeight + boxGap
			widest = max(widest, b.w)
		}
		height = max(height, y)
		x += widest + columnGap
	}
	return boxes, x - columnGap + margin, height - boxGap + margin
}

// middle is where the lines into a box come from.
func middle(b *box, boxes map[*engine.Step]*box) float64 {
	sum := 0.0
	for _, e := range b.step.After {
		sum += boxes[e.Step].y
	}
	return sum / max(1, float64(len(b.step.After)))
}
