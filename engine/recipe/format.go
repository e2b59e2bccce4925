package recipe

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format returns a recipe in the canonical style: what is aligned is aligned, what is indented is indented, and not a word
// is changed. Formatting the result again gives the same bytes. A text that is no HCL comes back formatted as far as its
// tokens go; whoever writes files checks it with Load first.
func Format(text []byte) []byte {
	// hclwrite's first pass can leave work for a second one, where it moves a token that it aligned others by.
	for range 8 {
		formatted := hclwrite.Format(text)
		if bytes.Equal(formatted, text) {
			return text
		}
		text = formatted
	}
	return text
}

// FormatSource is Format for a file that is about to be rewritten: a text that is no HCL is refused, with its mistakes.
func FormatSource(source Source) ([]byte, map[string]*hcl.File, hcl.Diagnostics) {
	file, diags := parse(source)
	files := map[string]*hcl.File{source.Name: file}
	if diags.HasErrors() {
		return nil, files, Sorted(diags)
	}
	return Format(source.Bytes), files, nil
}
