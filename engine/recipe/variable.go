package recipe

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A Variable is a value that a recipe asks for: from its default, the environment file, or --var, the last one wins.
type Variable struct {
	Name        string
	Type        cty.Type  // cty.DynamicPseudoType takes any value
	Default     cty.Value // of that type; cty.NilVal when there is none and a value must be given
	Description string
	Sensitive   bool // its value appears in no message
	Range       hcl.Range

	rules  []rule
	broken bool
}

// A rule is a validation block.
type rule struct {
	condition, message expression
	place              hcl.Range
}

var variableShape = shape{
	arguments: map[string]argumentShape{
		"type": {kind: cty.DynamicPseudoType}, "default": {kind: cty.DynamicPseudoType},
		"description": {kind: cty.String}, "sensitive": {kind: cty.Bool},
	},
	blocks: map[string]*blockShape{"validation": {many: true, shape: shape{arguments: map[string]argumentShape{
		"condition": {kind: cty.Bool, required: true}, "error_message": {kind: cty.String, required: true},
	}}}},
}

func (r *Recipe) readVariable(block *hclsyntax.Block) hcl.Diagnostics {
	name, diags := label(block)
	if diags.HasErrors() {
		return diags
	}
	v := Variable{Name: name, Type: cty.DynamicPseudoType, Range: block.DefRange()}
	if first := r.variables[name]; first != nil {
		return hcl.Diagnostics{mistake(v.Range, "Duplicate variable", "var.%s is already declared at %s. Give this one another name, or remove one of them.", name, at(first.Range))}
	}
	b := readBody(block.Body)
	diags = variableShape.check(b, "variable "+name, nil)
	diags = append(diags, v.readArguments(b)...)
	diags = append(diags, v.readRules(b)...)
	v.broken = diags.HasErrors()
	r.Variables = append(r.Variables, v)
	r.variables[name] = &v
	return diags
}

func (v *Variable) readArguments(b *body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if a, given := b.find("type"); given {
		kind, found := typeexpr.TypeConstraint(a.expr.Expression)
		if found.HasErrors() {
			diags = append(diags, mistake(a.expr.Range(), "Invalid type", "The type of var.%s is one of string, number, bool, any, list(...), set(...), map(...), object({...}), without quotes: type = list(string).", v.Name))
		} else {
			v.Type = kind
		}
	}
	if a, given := b.find("description"); given {
		text, found := constant(a, cty.String, "variable "+v.Name)
		diags = append(diags, found...)
		if isText(text) {
			v.Description = text.AsString()
		}
	}
	if a, given := b.find("sensitive"); given {
		yes, found := constant(a, cty.Bool, "variable "+v.Name)
		diags = append(diags, found...)
		v.Sensitive = !found.HasErrors() && !yes.IsNull() && yes.True()
	}
	if a, given := b.find("default"); given && !diags.HasErrors() {
		value, found := constant(a, v.Type, "variable "+v.Name)
		diags = append(diags, found...)
		if !found.HasErrors() {
			v.Default = value
		}
	}
	return diags
}

func (v *Variable) readRules(b *body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, inner := range b.blocks {
		condition, hasCondition := inner.body.find("condition")
		message, hasMessage := inner.body.find("error_message")
		if inner.kind != "validation" || !hasCondition || !hasMessage {
			continue // the shape has it
		}
		for _, u := range slices.Concat(condition.expr.uses, message.expr.uses) {
			if u.root() != "var" || len(u.steps) < 2 || traversalName(u.steps[1]) != v.Name {
				diags = append(diags, mistake(u.place(), "Invalid validation", "A validation can use only the variable it stands in, var.%s.", v.Name))
			}
		}
		v.rules = append(v.rules, rule{condition: condition.expr, message: message.expr, place: condition.expr.Range()})
	}
	return diags
}

// constant evaluates an argument that can use functions and no names.
func constant(a argument, want cty.Type, owner string) (cty.Value, hcl.Diagnostics) {
	if len(a.expr.uses) > 0 {
		return cty.NilVal, hcl.Diagnostics{mistake(a.expr.uses[0].place(), "No names here",
			"%q of %s is read before any name has a value: write the value out.", a.name, owner)}
	}
	value, diags := a.expr.Value(pure)
	if diags.HasErrors() {
		return cty.NilVal, reworded(diags)
	}
	value, wrong := fit(value, want, quoted(a.name)+" of "+owner, a.expr.Range())
	if wrong != nil {
		return cty.NilVal, hcl.Diagnostics{wrong}
	}
	return value, nil
}

// parseVar reads the text of --var NAME=TEXT: as it is for a string, else as an HCL expression, of which JSON is a part.
// The error is a sentence without the text, which can be a secret.
func (v *Variable) parseVar(text string) (cty.Value, string) {
	if v.Type == cty.String {
		return cty.StringVal(text), ""
	}
	fault := "it is no HCL or JSON value of the type " + friendly(v.Type) + ", in which text stands in quotes"
	source := Source{Name: "--var " + v.Name, Bytes: []byte(text)}
	expr, ok := parseText(source)
	if !ok {
		return cty.NilVal, fault
	}
	value, diags := expr.Value(pure) // without names: a bare word is an error
	if diags.HasErrors() {
		return cty.NilVal, fault
	}
	return value, ""
}

func parseText(source Source) (hclsyntax.Expression, bool) {
	if _, limits := checkLimits(source); limits.HasErrors() {
		return nil, false
	}
	expr, diags := hclsyntax.ParseExpression(source.Bytes, source.Name, hcl.InitialPos)
	return expr, !diags.HasErrors()
}

// friendly writes a type as recipes do.
func friendly(t cty.Type) string {
	return strings.ReplaceAll(typeexpr.TypeString(t), "\n", " ")
}
