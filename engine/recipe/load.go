package recipe

import (
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A Recipe is all files of a recipe, read and checked as far as that goes without knowing the node.
type Recipe struct {
	Files     map[string]*hcl.File // by source name, for WriteDiagnostics
	Variables []Variable           // in declared order
	Blocks    []*Declaration       // in declared order, those for all roles

	kinds      map[string]*kind
	variables  map[string]*Variable
	locals     []*local
	localNamed map[string]*local
	declared   map[Address]*Declaration
	windows    []*windowBlock
	unread     bool // a file could not be parsed, so references may miss what it declares
}

// A Declaration is one block as it stands in a file: before for_each makes instances of it, and whatever role it is for.
type Declaration struct {
	Address Address  // never with a key
	Roles   []string // the roles it is for; nil: every role
	ForEach bool
	Range   hcl.Range // the block's header
	Type    Type

	kind      *kind
	body      *body
	forEach   *expression
	dependsOn []use
	onChange  []use
	uses      []*use // all names in it
	broken    bool   // its mistakes are reported
}

// For tells whether the block is for a role.
func (d *Declaration) For(role string) bool { return d.Roles == nil || slices.Contains(d.Roles, role) }

// A kind is a Type and the shape of its Config.
type kind struct {
	Type
	shape
}

// A local is one named value of a locals block.
type local struct {
	name  string
	place hcl.Range
	expr  expression
}

// A windowBlock is a maintenance_window before it is evaluated.
type windowBlock struct {
	name   string
	place  hcl.Range
	body   *body
	broken bool
}

// The names of top-level blocks and of roots that belong to the language.
const (
	variableBlock   = "variable"
	localsBlock     = "locals"
	windowBlockName = "maintenance_window"
)

// Roles are what a node can be, in the order in which messages name them.
var Roles = []string{"db_master", "db_replica", "solo", "app_master", "app", "util"}

// Load reads the sources of one recipe and checks all that does not depend on a node. The order of the sources is the
// declared order. The recipe is never nil: its Files serve to print the diagnostics, and For can be called even after
// mistakes, to find more of them. The diagnostics are sorted and hold every mistake found.
func Load(sources []Source, types []Type) (*Recipe, hcl.Diagnostics) {
	r := &Recipe{
		Files: map[string]*hcl.File{}, kinds: map[string]*kind{}, variables: map[string]*Variable{},
		localNamed: map[string]*local{}, declared: map[Address]*Declaration{},
	}
	for _, t := range types {
		r.kinds[t.Name] = &kind{Type: t, shape: shapeOf(reflect.TypeOf(t.New()))}
	}
	var diags hcl.Diagnostics
	for _, source := range sources {
		parsed, found := parse(source)
		r.Files[source.Name] = parsed
		diags = append(diags, found...)
		if found.HasErrors() {
			r.unread = true // half a body would be full of mistakes that nobody made
		} else {
			diags = append(diags, r.readFile(parsed.Body.(*hclsyntax.Body))...)
		}
	}
	if !r.unread {
		diags = append(diags, r.checkNames()...)
	}
	return r, Sorted(diags)
}

func (r *Recipe) readFile(file *hclsyntax.Body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, a := range file.Attributes {
		diags = append(diags, mistake(a.NameRange, "Argument outside a block",
			"%q stands outside any block. Values of your own go in a block: locals { %s = ... }.", a.Name, a.Name))
	}
	for _, block := range file.Blocks {
		switch block.Type {
		case variableBlock:
			diags = append(diags, r.readVariable(block)...)
		case localsBlock:
			diags = append(diags, r.readLocals(block)...)
		case windowBlockName:
			diags = append(diags, r.readWindow(block)...)
		default:
			diags = append(diags, r.readBlock(block)...)
		}
	}
	return diags
}

func (r *Recipe) readBlock(block *hclsyntax.Block) hcl.Diagnostics {
	k := r.kinds[block.Type]
	if k == nil {
		known := append(keysOf(r.kinds), variableBlock, localsBlock, windowBlockName)
		return hcl.Diagnostics{mistake(block.TypeRange, "Unknown kind of block", "There is no kind of block %q.%s", block.Type, suggestion(block.Type, known))}
	}
	name, diags := label(block)
	if diags.HasErrors() {
		return diags
	}
	d := &Declaration{Address: Address{Type: block.Type, Name: name}, Range: block.DefRange(), Type: k.Type, kind: k, body: readBody(block.Body)}
	if first := r.declared[d.Address]; first != nil {
		return hcl.Diagnostics{mistake(d.Range, "Duplicate block", "%s is already declared at %s. Give this one another name, or remove one of them.", d.Address, at(first.Range))}
	}
	if len(r.Blocks) == MaxInstances {
		return hcl.Diagnostics{mistake(d.Range, "Too many blocks", "A recipe may have %d blocks, and this is one more.", MaxInstances)}
	}
	r.declared[d.Address] = d
	r.Blocks = append(r.Blocks, d)
	diags = d.readMeta()
	diags = append(diags, k.check(d.body, d.Address.String(), d.metaNames())...)
	d.broken = diags.HasErrors()
	d.uses = usesOf(d.body, d)
	return diags
}

// label returns the one name of a block.
func label(block *hclsyntax.Block) (string, hcl.Diagnostics) {
	switch len(block.Labels) {
	case 0:
		return "", hcl.Diagnostics{mistake(block.DefRange(), "Missing name", `This block needs a name: %s "NAME" { ... }.`, block.Type)}
	case 1:
		if err := checkLabel(block.Labels[0]); err != nil {
			return "", hcl.Diagnostics{mistake(block.LabelRanges[0], "Invalid name", "%q cannot name a block: %s.", block.Labels[0], err)}
		}
		return block.Labels[0], nil
	}
	return "", hcl.Diagnostics{mistake(block.LabelRanges[1], "Too many names", "A block %q has one name, and this one has %d.", block.Type, len(block.Labels))}
}

func (r *Recipe) readLocals(block *hclsyntax.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if len(block.Labels) > 0 {
		diags = append(diags, mistake(block.LabelRanges[0], "Too many names", "A locals block has no name: locals { ... }."))
	}
	for _, inner := range block.Body.Blocks {
		diags = append(diags, mistake(inner.DefRange(), "Unsupported block", "A locals block holds values only: write %s = { ... } with an equals sign.", inner.Type))
	}
	for _, a := range readBody(&hclsyntax.Body{Attributes: block.Body.Attributes}).arguments {
		if first := r.localNamed[a.name]; first != nil {
			diags = append(diags, mistake(a.namePlace, "Duplicate local", "local.%s is already set at %s. Give this one another name, or remove one of them.", a.name, at(first.place)))
			continue
		}
		l := &local{name: a.name, place: a.namePlace, expr: a.expr}
		r.localNamed[a.name] = l
		r.locals = append(r.locals, l)
	}
	return diags
}

// usesOf collects the names in a body, those in its inner blocks included, and the references of the meta-arguments.
func usesOf(b *body, d *Declaration) []*use {
	var all []*use
	for i := range b.arguments {
		a := &b.arguments[i]
		if d != nil && (a.name == "depends_on" || a.name == "on_change" && d.Type.Service) {
			continue
		}
		for j := range a.expr.uses {
			all = append(all, &a.expr.uses[j])
		}
	}
	for _, inner := range b.blocks {
		all = append(all, usesOf(inner.body, nil)...)
	}
	if d != nil {
		for i := range d.dependsOn {
			all = append(all, &d.dependsOn[i])
		}
		for i := range d.onChange {
			all = append(all, &d.onChange[i])
		}
	}
	return all
}

// checkNames finds every variable, local and block that is named and not declared, for whatever role it is.
func (r *Recipe) checkNames() hcl.Diagnostics {
	var diags hcl.Diagnostics
	check := func(uses []*use, each bool) {
		for _, u := range uses {
			if d := r.checkUse(u, each); d != nil {
				u.wrong = true
				diags = append(diags, d)
			}
		}
	}
	for _, l := range r.locals {
		check(pointers(l.expr.uses), false)
	}
	for _, d := range r.Blocks {
		check(d.uses, d.ForEach)
	}
	for _, w := range r.windows {
		check(usesOf(w.body, nil), false)
	}
	return diags
}

func pointers(uses []use) []*use {
	all := make([]*use, len(uses))
	for i := range uses {
		all[i] = &uses[i]
	}
	return all
}

func (r *Recipe) checkUse(u *use, each bool) *hcl.Diagnostic {
	root := u.root()
	name, named := "", false
	if len(u.steps) > 1 {
		name, named = stepName(u.steps[1])
	}
	switch {
	case root == "var":
		if !named {
			return mistake(u.place(), "Incomplete reference", "var is no value of its own: name one variable, as in var.NAME.%s", suggestion("", keysOf(r.variables)))
		}
		if r.variables[name] == nil {
			return mistake(u.place(), "Unknown variable", "No variable %q is declared.%s", name, suggestion(name, keysOf(r.variables)))
		}
	case root == "local":
		if !named {
			return mistake(u.place(), "Incomplete reference", "local is no value of its own: name one, as in local.NAME.%s", suggestion("", keysOf(r.localNamed)))
		}
		if r.localNamed[name] == nil {
			return mistake(u.place(), "Unknown local", "No local value %q is set.%s", name, suggestion(name, keysOf(r.localNamed)))
		}
	case root == "each" && !each:
		return mistake(u.place(), "No for_each here", "each.key and each.value exist in blocks that have for_each; there is none here.")
	case r.kinds[root] != nil:
		if !named {
			return mistake(u.place(), "Incomplete reference", "%s is a kind of block: name one block, as in %s.NAME.%s", root, root, suggestion("", r.namesOf(root)))
		}
		if r.declared[Address{Type: root, Name: name}] == nil {
			return mistake(u.place(), "Unknown block", "No block %s.%s is declared.%s", root, name, r.suggestBlock(root, name))
		}
	}
	return nil
}

func (r *Recipe) namesOf(kind string) []string {
	var names []string
	for _, d := range r.Blocks {
		if d.Address.Type == kind {
			names = append(names, d.Address.Name)
		}
	}
	return names
}

// suggestBlock looks for the name among blocks of the same kind first, then for the same name in another kind.
func (r *Recipe) suggestBlock(kind, name string) string {
	names := r.namesOf(kind)
	if near := didYouMean(name, names); near != "" {
		return near
	}
	for _, d := range r.Blocks {
		if d.Address.Name == name {
			return didYouMean(d.Address.String(), []string{d.Address.String()})
		}
	}
	return suggestion(name, names)
}
