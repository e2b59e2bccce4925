package engine

import (
	"strings"
	"testing"

	"converge/engine/recipe"
)

// A toyThing makes one thing that is no file, and needs others.
type toyThing struct {
	toy
	makes string
	needs []string
}

func (t *toyThing) Provides() string { return t.makes }
func (t *toyThing) Needs() []string  { return t.needs }

func thing(makes string, needs ...string) *recipe.Block {
	return &recipe.Block{Address: recipe.Address{Type: "toy", Name: makes}, Config: &toyThing{makes: makes, needs: needs}}
}

func order(g *Graph) string {
	var out []string
	for _, s := range g.Steps {
		out = append(out, strings.TrimPrefix(s.Address, "toy."))
	}
	return strings.Join(out, " ")
}

// What a step needs comes before it wherever it stands, and everything else stays where it was.
func TestProvidersComeFirst(t *testing.T) {
	for want, blocks := range map[string][]*recipe.Block{
		"a b c":   {thing("a"), thing("b"), thing("c")},
		"c b a d": {thing("a", "b"), thing("b", "c", "unknown"), thing("c"), thing("d")},
		"b a":     {thing("a", "b"), thing("b")},
	} {
		g, diags := NewGraph(blocks, toyTypes)
		if diags.HasErrors() {
			t.Errorf("%s: %v", want, diags)
		} else if got := order(g); got != want {
			t.Errorf("got %s, wanted %s", got, want)
		}
	}
	g, _ := NewGraph([]*recipe.Block{thing("a", "b"), thing("b")}, toyTypes)
	if e := g.Steps[1].After; len(e) != 1 || !e[0].needed() {
		t.Errorf("a would run although b has failed: %v", e)
	}
}

func TestProvidersThatCannotBe(t *testing.T) {
	_, diags := NewGraph([]*recipe.Block{thing("x"), thing("a", "b"), thing("b", "c"), thing("c", "a")}, toyTypes)
	if !diags.HasErrors() || !strings.Contains(diags.Error(), "Circular reference") || strings.Contains(diags.Error(), "toy.x") || strings.Count(diags[0].Detail, "needs") != 3 {
		t.Errorf("a circle: %v", diags)
	}
	_, diags = NewGraph([]*recipe.Block{thing("a"), {Address: recipe.Address{Type: "toy", Name: "again"}, Config: &toyThing{makes: "a"}}}, toyTypes)
	if !diags.HasErrors() || !strings.Contains(diags.Error(), "Two resources make one thing") {
		t.Errorf("twice: %v", diags)
	}
}
