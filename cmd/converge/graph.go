package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"converge/engine"
)

func (a *app) graphCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "graph",
		Short: "Show the steps of this node and their order",
		Example: `  converge graph
  converge graph --format svg > graph.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.openSite(cmd.Context())
			defer s.close()
			if err != nil {
				return err
			}
			return a.showGraph(s.graph, format)
		},
	}
	c.Flags().StringVar(&format, "format", "text", "text, dot, svg or json (`F`)")
	return c
}

func (a *app) showGraph(g *engine.Graph, format string) error {
	if a.flags.json {
		format = "json"
	}
	switch format {
	case "text":
		graphText(a.stdout, g)
	case "dot":
		graphDot(a.stdout, g)
	case "svg":
		graphSVG(a.stdout, g)
	case "json":
		return a.printJSON(graphJSON(g))
	default:
		return usage("--format %q: text, dot, svg and json are formats", format)
	}
	return nil
}

// A graphNode is a step as graph --format json prints it.
type graphNode struct {
	Address string      `json:"address"`
	Place   string      `json:"place"` // FILE:LINE of its block
	After   []graphEdge `json:"after"`
}

type graphEdge struct {
	Address string          `json:"address"`
	Why     engine.EdgeKind `json:"why"`
	Path    string          `json:"path,omitempty"`
}

func graphJSON(g *engine.Graph) any {
	nodes := []graphNode{}
	for _, s := range g.Steps {
		n := graphNode{Address: s.Address, Place: place(s), After: []graphEdge{}}
		for _, e := range s.After {
			n.After = append(n.After, graphEdge{e.Step.Address, e.Why, e.Path})
		}
		nodes = append(nodes, n)
	}
	return map[string]any{"format": 1, "environment": g.Environment, "node": g.Node, "role": g.Role, "steps": nodes}
}

func place(s *engine.Step) string { return fmt.Sprintf("%s:%d", s.Range.Filename, s.Range.Start.Line) }
