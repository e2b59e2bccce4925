package recipe

import (
	"bytes"
	"maps"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// pieceBytes is how much text is parsed at a time. HCL makes all tokens of a text before it looks at the first: for a
// mebibyte that is more work than all the rest.
const pieceBytes = 32 << 10

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
	start := hcl.InitialPos
	for _, end := range append(cuts, len(source.Bytes)) {
		text := source.Bytes[start.Byte:end]
		piece, found := hclsyntax.ParseConfig(text, source.Name, start)
		diags = append(diags, found...)
		body := piece.Body.(*hclsyntax.Body)
		maps.Copy(whole.Attributes, body.Attributes)
		whole.Blocks = append(whole.Blocks, body.Blocks...)
		navigation = append(navigation, place{end, piece.Nav})
		start = hcl.Pos{Byte: end, Line: start.Line + bytes.Count(text, []byte("\n")), Column: 1}
	}
	return &hcl.File{Body: whole, Bytes: source.Bytes, Nav: navigation}, reworded(diags)
}

// places finds which piece of a file a byte lies in. It is what HCL's printer asks for the block that a mistake is in.
type places []place

type place struct {
	end int
	nav any
}

// ContextString returns the header of the block at a byte, as HCL's own files do.
func (p places) ContextString(offset int) string {
	for _, piece := range p {
		if offset < piece.end {
			return piece.nav.(interface{ ContextString(int) string }).ContextString(offset)
		}
	}
	return ""
}
