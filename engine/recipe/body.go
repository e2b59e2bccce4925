package recipe

import (
	"cmp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A body is what stands between the braces of a block, in the order of the text, each expression with the names it uses.
type body struct {
	arguments []argument
	blocks    []innerBlock
	end       hcl.Range // where a missing argument would go
}

type argument struct {
	name      string
	place     hcl.Range // all of name = expression
	namePlace hcl.Range
	expr      expression
}

type innerBlock struct {
	kind        string
	labels      []string
	labelPlaces []hcl.Range
	kindPlace   hcl.Range
	header      hcl.Range
	body        *body
}

// An expression is HCL's, with every name from outside that it uses.
type expression struct {
	hclsyntax.Expression
	uses []use
}

// A use is one name in an expression, with the steps that follow it: file_block.pg_hba.path.
type use struct {
	steps hcl.Traversal
	key   *expression   // the computed key in user_key.staff[each.key]
	after hcl.Traversal // the steps after the computed key
	wrong bool          // reported when the recipe was loaded; not to be reported again
}

func (u use) root() string     { return u.steps.RootName() }
func (u use) place() hcl.Range { return u.steps.SourceRange() }

func readBody(from *hclsyntax.Body) *body {
	b := &body{end: from.MissingItemRange()}
	for _, a := range from.Attributes {
		b.arguments = append(b.arguments, argument{name: a.Name, place: a.SrcRange, namePlace: a.NameRange, expr: readExpression(a.Expr)})
	}
	slices.SortFunc(b.arguments, func(x, y argument) int { return cmp.Compare(x.place.Start.Byte, y.place.Start.Byte) })
	for _, inner := range from.Blocks {
		b.blocks = append(b.blocks, innerBlock{
			kind: inner.Type, kindPlace: inner.TypeRange, header: inner.DefRange(),
			labels: inner.Labels, labelPlaces: inner.LabelRanges, body: readBody(inner.Body),
		})
	}
	return b
}

func readExpression(expr hclsyntax.Expression) expression {
	names := hclsyntax.Variables(expr)
	if len(names) == 0 {
		return expression{Expression: expr}
	}
	keys := computedKeys(expr)
	e := expression{Expression: expr, uses: make([]use, len(names))}
	for i, steps := range names {
		e.uses[i] = keys[steps.SourceRange().Start.Byte]
		e.uses[i].steps = steps
	}
	return e
}

// computedKeys finds NAME.NAME[EXPRESSION].STEPS, by the byte at which the first name begins: HCL's own list of variables
// ends before the bracket.
func computedKeys(expr hclsyntax.Expression) map[int]use {
	finder := keyFinder{found: map[int]use{}}
	hclsyntax.Walk(expr, &finder)
	return finder.found
}

type keyFinder struct {
	found map[int]use
	loops int // inside a for expression a key can use the loop's own names, and stands for many keys
}

// Enter is called for each node before what is below it.
func (f *keyFinder) Enter(node hclsyntax.Node) hcl.Diagnostics {
	var after hcl.Traversal
	switch n := node.(type) {
	case *hclsyntax.ForExpr:
		f.loops++
	case *hclsyntax.RelativeTraversalExpr:
		node, after = n.Source, n.Traversal
	}
	index, ok := node.(*hclsyntax.IndexExpr)
	if !ok || f.loops > 0 {
		return nil
	}
	name, ok := index.Collection.(*hclsyntax.ScopeTraversalExpr)
	if !ok {
		return nil
	}
	start := name.SrcRange.Start.Byte
	if known := f.found[start]; known.key == nil {
		key := readExpression(index.Key)
		f.found[start] = use{key: &key, after: after}
	}
	return nil
}

// Exit is called for each node after what is below it.
func (f *keyFinder) Exit(node hclsyntax.Node) hcl.Diagnostics {
	if _, ok := node.(*hclsyntax.ForExpr); ok {
		f.loops--
	}
	return nil
}

func (b *body) find(name string) (argument, bool) {
	i := slices.IndexFunc(b.arguments, func(a argument) bool { return a.name == name })
	if i < 0 {
		return argument{}, false
	}
	return b.arguments[i], true
}

// stepName returns the name in .name or ["name"].
func stepName(step hcl.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl.TraverseRoot:
		return s.Name, true
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if isText(s.Key) {
			return s.Key.AsString(), true
		}
	}
	return "", false
}
