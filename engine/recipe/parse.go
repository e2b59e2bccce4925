package recipe

import (
	"bytes"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// pieceBytes is how much text is parsed at a time. HCL makes all tokens of a text before it looks at the first: for a
// mebibyte that is more work than all the rest.
const pieceBytes = 4 << 10

// parse returns a file with its bytes in any case; its Body is nil where the limits forbid parsing.
func parse(source Source) (*hcl.File, hcl.Diagnostics) {
	cuts, diags := checkLimits(source)
	if diags.HasErrors() {
		return &hcl.File{Bytes: source.Bytes}, diags
	}
	if len(cuts) == 0 {
		file, diags := hclsyntax.ParseConfig(source.Bytes, source.Name, hcl.InitialPos)
		return file, reworded(diags)
	}
	whole := &hclsyntax.Body{Attributes: hclsyntax.Attributes{}}
	var navigation places
	for _, p := range parsePieces(source, append(cuts, len(source.Bytes))) {
		diags = append(diags, p.diags...)
		body := p.file.Body.(*hclsyntax.Body)
		maps.Copy(whole.Attributes, body.Attributes)
		whole.Blocks = append(whole.Blocks, body.Blocks...)
		navigation = append(navigation, place{p.end, p.file.Nav})
	}
	return &hcl.File{Body: whole, Bytes: source.Bytes, Nav: navigation}, reworded(diags)
}

// A piece is a part of a file that begins and ends outside all blocks.
type piece struct {
	start hcl.Pos
	end   int
	file  *hcl.File
	diags hcl.Diagnostics
}

// parsePieces parses the pieces that end at the given bytes, as many at a time as there are processors.
func parsePieces(source Source, ends []int) []piece {
	all := make([]piece, len(ends))
	start := hcl.InitialPos
	for i, end := range ends {
		all[i].start, all[i].end = start, end
		lines := bytes.Count(source.Bytes[start.Byte:end], []byte("\n"))
		start = hcl.Pos{Byte: end, Line: start.Line + lines, Column: 1}
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				p := &all[i]
				p.file, p.diags = hclsyntax.ParseConfig(source.Bytes[p.start.Byte:p.end], source.Name, p.start)
			}
		})
	}
	workers.Wait()
	return all
}

// places finds which piece of a file a byte lies in. It is what HCL's printer asks for the block that a mistake is in.
type places []place

type place struct {
	end int
	nav any
}

// ContextString returns the header of the block at a byte, as HCL's own files do.
func (p places) ContextString(offset int) string {
	for _, at := range p {
		if offset < at.end {
			return at.nav.(interface{ ContextString(int) string }).ContextString(offset)
		}
	}
	return ""
}
