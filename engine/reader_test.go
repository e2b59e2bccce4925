package engine

import (
	"slices"
	"testing"

	"converge/engine/recipe"
)

// A toyReader is a service that knows what it reads.
type toyReader struct {
	toyService
	reads []string
}

func (t *toyReader) Reads() []string { return t.reads }

// A site's recipe is loaded after the standard one, and writes what the standard one's service reads: the service failed
// ("is written by ..., and nothing says that it comes first"), and no recipe of the site's could mend it.
func TestReaderComesBehindWhoeverWritesWhatItReads(t *testing.T) {
	b := newBench(t)
	service := &toyReader{toyService{toy{service: "toyd"}}, []string{"/etc/toyd"}}
	b.add("conf", fileToy("/etc/toyd/conf", "a"))
	b.blocks = append(b.blocks, &recipe.Block{Address: address("service", "toyd"), Config: service})
	b.add("waits", fileToy("/etc/toyd/later", "a"))
	b.blocks[2].After = []recipe.Ref{{To: address("service", "toyd")}}
	b.add("behind", fileToy("/etc/other", "a"), "waits")
	b.add("site", fileToy("/etc/toyd/site", "a"))
	b.add("elsewhere", fileToy("/etc/toyd.conf", "a"))
	g, diags := NewGraph(b.blocks, toyTypes)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var order, takesUp []string
	for i, s := range g.Steps {
		order = append(order, s.Address)
		if s.index != i {
			t.Errorf("%s has the number %d in place %d", s.Address, s.index, i)
		}
		for _, c := range s.OnChange {
			takesUp = append(takesUp, c.Address)
		}
	}
	if want := []string{"toy.conf", "toy.site", "toy.elsewhere", "service.toyd", "toy.waits", "toy.behind"}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, not %v", order, want)
	}
	if want := []string{"toy.conf", "toy.site"}; !slices.Equal(takesUp, want) {
		t.Errorf("the service takes up %v, not %v", takesUp, want)
	}
}
