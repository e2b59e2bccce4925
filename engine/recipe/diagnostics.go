package recipe

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/hashicorp/hcl/v2"
)

// maxPrinted is how many diagnostics are printed. A file of a mebibyte can hold some hundred thousand mistakes, and each
// costs a pass over the file.
const maxPrinted = 100

// WriteDiagnostics prints diagnostics for a human: sorted, each with its file, line and source text, details wrapped at
// width columns (0: not wrapped). After the first 100 it says how many more there are. Its error is the writer's.
func WriteDiagnostics(w io.Writer, diags hcl.Diagnostics, files map[string]*hcl.File, width uint, color bool) error {
	sorted := Sorted(diags)
	shown := sorted[:min(len(sorted), maxPrinted)]
	var text, one bytes.Buffer
	writer := hcl.NewDiagnosticTextWriter(&one, files, width, color)
	for _, d := range shown {
		one.Reset()
		if err := writer.WriteDiagnostic(d); err != nil {
			return err
		}
		for line := range bytes.Lines(one.Bytes()) {
			text.Write(shortened(line, color))
		}
	}
	if more := len(sorted) - len(shown); more > 0 {
		fmt.Fprintf(&text, "... and %d more.\n", more)
	}
	_, err := w.Write(text.Bytes())
	return err
}

// maxLine is how many bytes of a line are printed: a source of one line would otherwise be printed whole, each time.
const maxLine = 400

func shortened(line []byte, color bool) []byte {
	if len(line) <= maxLine {
		return line
	}
	end := "...\n"
	if color {
		end = "\x1b[0m" + end // the cut can fall into the highlighted part
	}
	return append(bytes.ToValidUTF8(slices.Clone(line[:maxLine]), nil), end...)
}

// Sorted returns the diagnostics in the order of file, line, column and text, each once. Those without a place come
// first. Go's maps give them in any order; nothing leaves this package unsorted.
func Sorted(diags hcl.Diagnostics) hcl.Diagnostics {
	sorted := slices.SortedStableFunc(slices.Values(diags), compareDiagnostics)
	return slices.CompactFunc(sorted, func(a, b *hcl.Diagnostic) bool { return compareDiagnostics(a, b) == 0 })
}

func compareDiagnostics(a, b *hcl.Diagnostic) int {
	at, bt := placeOf(a), placeOf(b)
	return cmp.Or(
		cmp.Compare(at.Filename, bt.Filename),
		cmp.Compare(at.Start.Line, bt.Start.Line),
		cmp.Compare(at.Start.Column, bt.Start.Column),
		cmp.Compare(at.End.Byte, bt.End.Byte),
		cmp.Compare(a.Summary, b.Summary),
		cmp.Compare(a.Detail, b.Detail),
		cmp.Compare(a.Severity, b.Severity),
	)
}

func placeOf(d *hcl.Diagnostic) hcl.Range {
	if d.Subject == nil {
		return hcl.Range{}
	}
	return *d.Subject
}

// mistake makes an error that points at a place.
func mistake(place hcl.Range, summary, detail string, args ...any) *hcl.Diagnostic {
	d := general(summary, detail, args...)
	d.Subject = &place
	return d
}

// general makes an error that has no place in a file.
func general(summary, detail string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(detail, args...)}
}

// at writes a place for the middle of a sentence: recipes/a.hcl:12.
func at(place hcl.Range) string {
	return fmt.Sprintf("%s:%d", place.Filename, place.Start.Line)
}
