package recipe

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// metaNames are the arguments that the language takes in a block, beside those of its type.
func (d *Declaration) metaNames() []string {
	if d.Type.Service {
		return []string{"roles", "for_each", "depends_on", "on_change"}
	}
	return []string{"roles", "for_each", "depends_on"}
}

func (d *Declaration) isMeta(name string) bool {
	return name == "roles" || name == "for_each" || name == "depends_on" || name == "on_change" && d.Type.Service
}

func (d *Declaration) readMeta() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for i := range d.body.arguments {
		a := &d.body.arguments[i]
		var found hcl.Diagnostics
		switch {
		case a.name == "roles":
			d.Roles, found = readRoles(a)
		case a.name == "for_each":
			d.ForEach, d.forEach = true, &a.expr
			found = checkForEachNames(a)
		case a.name == "depends_on":
			d.dependsOn, found = readReferences(a)
		case a.name == "on_change" && d.Type.Service:
			d.onChange, found = readReferences(a)
		}
		diags = append(diags, found...)
	}
	return diags
}

// readRoles takes words only: which nodes a block is for is plain to see in the file, and known before any node is.
func readRoles(a *argument) ([]string, hcl.Diagnostics) {
	elements, diags := hcl.ExprList(a.expr.Expression)
	if diags.HasErrors() || len(elements) == 0 {
		return nil, hcl.Diagnostics{mistake(a.expr.Range(), "Invalid roles", `"roles" is a list of one role or more, written out: roles = ["db_master", "app"]. Leave it out for every role.`)}
	}
	var roles []string
	var found hcl.Diagnostics
	for _, element := range elements {
		value, diags := element.Value(nil)
		if diags.HasErrors() || !isText(value) {
			found = append(found, mistake(element.Range(), "Invalid roles", "Each role is a word in quotes: one of %s.", choicesInOrder(Roles)))
			continue
		}
		role := value.AsString()
		if !slices.Contains(Roles, role) {
			found = append(found, mistake(element.Range(), "Unknown role", "There is no role %q.%s", role, suggestion(role, Roles)))
			continue
		}
		if slices.Contains(roles, role) {
			found = append(found, mistake(element.Range(), "Duplicate role", "The role %q stands twice in this list. Remove one of them.", role))
			continue
		}
		roles = append(roles, role)
	}
	return roles, found
}

func checkForEachNames(a *argument) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for i := range a.expr.uses {
		if u := &a.expr.uses[i]; u.root() == "each" {
			u.wrong = true
			diags = append(diags, mistake(u.place(), "No for_each here", "for_each cannot use each.key or each.value: it is what they come from."))
		}
	}
	return diags
}

// readReferences reads a list of references to blocks: TYPE.NAME, TYPE.NAME["key"] or TYPE.NAME[each.key].
func readReferences(a *argument) ([]use, hcl.Diagnostics) {
	elements, diags := hcl.ExprList(a.expr.Expression)
	if diags.HasErrors() {
		return nil, hcl.Diagnostics{mistake(a.expr.Range(), "Invalid references", "%q is a list of references to blocks, in brackets: %s = [TYPE.NAME].", a.name, a.name)}
	}
	var references []use
	var found hcl.Diagnostics
	for _, element := range elements {
		reference, d := readReference(element.(hclsyntax.Expression))
		if d != nil {
			found = append(found, d)
			continue
		}
		references = append(references, reference)
	}
	return references, found
}

func readReference(element hclsyntax.Expression) (use, *hcl.Diagnostic) {
	e := readExpression(element)
	switch node := element.(type) {
	case *hclsyntax.ScopeTraversalExpr:
		u := e.uses[0]
		if len(u.steps) == 2 {
			return u, nil
		}
		if _, index := u.steps[len(u.steps)-1].(hcl.TraverseIndex); index && len(u.steps) == 3 {
			return u, nil
		}
		if len(u.steps) < 2 {
			return use{}, mistake(element.Range(), "Invalid reference", "A reference to a block has a kind and a name: TYPE.NAME.")
		}
		return use{}, mistake(element.Range(), "Invalid reference", "Here a whole block is named, not one of its attributes: write %s.%s.", u.root(), traversalName(u.steps[1]))
	case *hclsyntax.IndexExpr:
		if name, ok := node.Collection.(*hclsyntax.ScopeTraversalExpr); ok && len(name.Traversal) == 2 {
			return e.uses[0], nil
		}
	case *hclsyntax.TemplateExpr:
		if value, diags := node.Value(nil); !diags.HasErrors() && isText(value) {
			return use{}, mistake(element.Range(), "Invalid reference", "A reference is written without quotes: %s.", value.AsString())
		}
	}
	return use{}, mistake(element.Range(), "Invalid reference", `Only references to blocks can stand here: TYPE.NAME, or TYPE.NAME["key"] for one instance of a block with for_each.`)
}

func traversalName(step hcl.Traverser) string {
	name, _ := stepName(step)
	return name
}
