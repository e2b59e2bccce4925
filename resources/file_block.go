package resources

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
)

// A FileBlock keeps a marked block of lines in a file that somebody else owns. Every other byte of the file, its owner
// and its mode stay as they are.
type FileBlock struct {
	Path       string    `hcl:"path" doc:"The file. It must be there already."`
	PathAt     hcl.Range `hcl:"path,attr_value_range"`
	Content    *string   `hcl:"content" doc:"The lines of the block. With a source as well, they come before those of the source."`
	ContentAt  hcl.Range `hcl:"content,attr_value_range"`
	Source     *string   `hcl:"source" doc:"A file on the node whose lines are the block, after those of content. One of the two has to be given."`
	SourceAt   hcl.Range `hcl:"source,attr_value_range"`
	Optional   bool      `hcl:"optional,optional" doc:"With source: where the source does not exist, the block has the lines of content alone; without any, it is not wanted, and is removed. Default: false, and a missing source is an error."`
	OptionalAt hcl.Range `hcl:"optional,attr_value_range"`
	OnlyWith   *string   `hcl:"only_with" doc:"Another file on the node: the block stands only while that one is there, and else is removed."`
	OnlyWithAt hcl.Range `hcl:"only_with,attr_value_range"`
	Position   *string   `hcl:"position" doc:"\"top\": before every line that is not converge's and not blank or a comment. \"bottom\" (default): after every such line."`
	PositionAt hcl.Range `hcl:"position,attr_value_range"`
	Validate   *string   `hcl:"validate" doc:"How the new file is checked before it is written: \"pg_hba\" and \"postgresql_conf\" for the server's version, or a command with %s for the file, such as \"visudo -cf %s\". pg_hba also translates the block into the words of the server's version."`
	ValidateAt hcl.Range `hcl:"validate,attr_value_range"`
	Comment    *string   `hcl:"comment" doc:"What a comment begins with, for the markers. Default: \"#\"."`
	CommentAt  hcl.Range `hcl:"comment,attr_value_range"`

	site     Site
	name     string // in the markers
	path     string
	position position
	comment  string
	check    check
	secret   bool // the content comes from a sensitive variable
}

// Prepare checks the arguments.
func (f *FileBlock) Prepare(b recipe.Block) hcl.Diagnostics {
	f.name = b.Address.Name
	if b.Address.HasKey {
		f.name += "[" + url.PathEscape(b.Address.Key) + "]"
	}
	f.path = path.Clean(f.Path)
	f.secret = slices.Contains(b.Sensitive, "content")
	diags := absolute(f.Path, "path", f.PathAt, b)
	switch {
	case f.Content == nil && f.Source == nil:
		diags = append(diags, mistake(hcl.Range{}, b, "Missing content", "A file_block needs the lines of its block: content = \"...\", or source = the path of a file that holds them."))
	case f.Source != nil:
		diags = append(diags, absolute(*f.Source, "source", f.SourceAt, b)...)
	case f.Optional:
		diags = append(diags, mistake(f.OptionalAt, b, "Optional content", "optional speaks of a source that may be missing, and there is only content: remove it."))
	}
	if f.OnlyWith != nil {
		diags = append(diags, absolute(*f.OnlyWith, "only_with", f.OnlyWithAt, b)...)
	}
	f.position = bottom
	if f.Position != nil {
		f.position = position(*f.Position)
		if f.position != top && f.position != bottom {
			diags = append(diags, mistake(f.PositionAt, b, "Invalid position", "%q is no position in a file: \"top\" and \"bottom\" are.", *f.Position))
		}
	}
	f.comment = "#"
	if f.Comment != nil {
		f.comment = *f.Comment
		if strings.TrimSpace(f.comment) != f.comment || f.comment == "" || strings.ContainsAny(f.comment, "\n\r\x00\\") || len(f.comment) > 8 {
			diags = append(diags, mistake(f.CommentAt, b, "Invalid comment", "%q cannot begin the marker lines: 1 to 8 characters without blanks at the ends, such as \"#\", \"--\" or \";\".", *f.Comment))
		}
	}
	var err error
	if f.check, err = checkFor(f.Validate, f.site); err != nil {
		diags = append(diags, mistake(f.ValidateAt, b, "Invalid validation", "%s.", sentence(err)))
	}
	if f.Content != nil {
		if err := checkBody(*f.Content, f.comment); err != nil {
			diags = append(diags, mistake(f.ContentAt, b, "Invalid content", "%s.", sentence(err)))
		}
	}
	return diags
}

// Exports returns the path of the file.
func (f *FileBlock) Exports() map[string]cty.Value {
	return map[string]cty.Value{"path": cty.StringVal(f.path)}
}

// Targets returns the file, which other blocks may be in too.
func (f *FileBlock) Targets() []engine.Target {
	return []engine.Target{{Path: f.path, Shared: true}}
}

// checkBody refuses lines that would not stay inside a block.
func checkBody(body, comment string) error {
	if err := checkText([]byte(body)); err != nil {
		return err
	}
	if endsInBackslash(body) {
		return errors.New("the last line ends in a backslash, which would swallow the line after the block: remove the backslash")
	}
	n := 0
	for l := range strings.Lines(body) {
		n++
		l = strings.TrimRight(l, "\r\n")
		if strings.HasPrefix(l, beginMarker(comment, "")) || strings.HasPrefix(l, endMarker(comment, "")) {
			return fmt.Errorf("line %d is a marker of converge itself (%q): a block cannot hold another", n, l)
		}
	}
	return nil
}

// Converge makes the block stand in the file.
func (f *FileBlock) Converge(ctx context.Context, h *engine.Host) error {
	parts, err := f.parts(h)
	if err != nil {
		return err
	}
	doc, err := engine.Parsed(h, f.path, func(b []byte) (*document, error) { return parseDocument(b, f.comment) })
	if engine.IsNotExist(err) {
		return fmt.Errorf("%s does not exist: a block goes into a file that somebody else owns; create it first", f.path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	before, err := f.check.look(h, f)
	if err != nil {
		return err
	}
	absent, err := f.unwanted(h, parts)
	if err != nil {
		return err
	}
	var edits []edit
	if absent == "" {
		body, notes, err := f.translated(h, parts)
		if err != nil {
			return err
		}
		edits = doc.setBlock(f.comment, f.name, body, f.position)
		f.explain(h, doc, edits, notes)
	} else if edits = doc.removeBlock(f.name); len(edits) > 0 {
		h.Explain(fmt.Sprintf("remove block %q from %s", f.name, f.path), absent+" does not exist")
	}
	var options []engine.WriteOption
	if f.secret {
		options = append(options, engine.Sensitive)
	}
	for _, e := range edits {
		if err := h.Splice(f.path, e.splice, e.next, options...); err != nil {
			return err
		}
	}
	return f.check.run(ctx, h, f, before, len(edits) > 0)
}

// unwanted names the file without which the block is not to stand; "" when it is.
func (f *FileBlock) unwanted(h *engine.Host, parts []part) (string, error) {
	if f.OnlyWith != nil {
		if _, err := h.Stat(*f.OnlyWith); err != nil {
			return *f.OnlyWith, unlessMissing(err)
		}
	}
	if len(parts) == 0 {
		return *f.Source, nil
	}
	return "", nil
}

// A part is lines of the block that come from one place. Messages about them count the lines of that place.
type part struct {
	origin string
	text   string
}

// parts returns the lines of the block: those of content, then those of source. None: the block is not wanted.
func (f *FileBlock) parts(h *engine.Host) (parts []part, err error) {
	if f.Content != nil && (*f.Content != "" || f.Source == nil) {
		parts = append(parts, part{"the content", *f.Content})
	}
	if f.Source == nil {
		return parts, nil
	}
	b, err := h.ReadFile(*f.Source)
	if engine.IsNotExist(err) && f.Optional {
		return parts, nil
	}
	if err != nil {
		return nil, err
	}
	if err := checkBody(string(b), f.comment); err != nil {
		return nil, fmt.Errorf("%s: %w", *f.Source, err)
	}
	return append(parts, part{*f.Source, string(b)}), nil
}

// translated puts all parts into the words of the file's reader, each by itself, and finds what is wrong with any of them.
func (f *FileBlock) translated(h *engine.Host, parts []part) (body string, notes []string, err error) {
	var errs []error
	for _, p := range parts {
		text, said, err := f.check.translate(h, f, p)
		errs = append(errs, err)
		if body != "" && !strings.HasSuffix(body, "\n") {
			body += "\n"
		}
		body += text
		for _, note := range said {
			if len(parts) > 1 {
				note = p.origin + ", " + note
			}
			notes = append(notes, note)
		}
	}
	return f.check.whole(f, body), notes, errors.Join(errs...)
}

func (f *FileBlock) explain(h *engine.Host, doc *document, edits []edit, notes []string) {
	what, why := "put", "it is not there yet"
	switch {
	case len(edits) == 0:
		return
	case len(edits) > 1:
		what, why = "move", "it is not at the "+string(f.position)
	case doc.find(f.name) >= 0:
		what, why = "rewrite", "its lines are not as declared"
	}
	h.Explain(fmt.Sprintf("%s block %q at the %s of %s", what, f.name, f.position, f.path), strings.Join(append([]string{why}, notes...), "; "))
}
