package recipe

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// sensitive marks the value of a variable that is declared sensitive, and all that is made from it.
const sensitive = mark("sensitive")

type mark string

// values is a body whose expressions are evaluated: what gohcl decodes a Config from. It implements hcl.Body.
type values struct {
	arguments hcl.Attributes
	blocks    hcl.Blocks
	end       hcl.Range
}

func (v *values) set(a argument, value cty.Value) {
	if v.arguments == nil {
		v.arguments = hcl.Attributes{}
	}
	v.arguments[a.name] = &hcl.Attribute{
		Name: a.name, Range: a.place, NameRange: a.namePlace, Expr: hcl.StaticExpr(value, a.expr.Range()),
	}
}

// argumentAt names the argument whose value stands at a place, in this body or in one inside it.
func (v *values) argumentAt(place *hcl.Range) string {
	for name, argument := range v.arguments {
		if place != nil && argument.Expr.Range() == *place {
			return name
		}
	}
	for _, block := range v.blocks {
		if name := block.Body.(*values).argumentAt(place); name != "" {
			return name
		}
	}
	return ""
}

// Content returns everything: the shape was checked before.
func (v *values) Content(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Diagnostics) {
	content, _, diags := v.PartialContent(schema)
	return content, diags
}

// PartialContent splits the body into what the schema names and the rest.
func (v *values) PartialContent(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Body, hcl.Diagnostics) {
	content := &hcl.BodyContent{Attributes: hcl.Attributes{}, MissingItemRange: v.end}
	rest := &values{arguments: hcl.Attributes{}, end: v.end}
	for name, argument := range v.arguments {
		rest.arguments[name] = argument
	}
	for _, want := range schema.Attributes {
		if argument := v.arguments[want.Name]; argument != nil {
			content.Attributes[want.Name] = argument
			delete(rest.arguments, want.Name)
		}
	}
	for _, block := range v.blocks {
		wanted := false
		for _, want := range schema.Blocks {
			wanted = wanted || want.Type == block.Type
		}
		if wanted {
			content.Blocks = append(content.Blocks, block)
		} else {
			rest.blocks = append(rest.blocks, block)
		}
	}
	return content, rest, nil
}

// JustAttributes returns the arguments.
func (v *values) JustAttributes() (hcl.Attributes, hcl.Diagnostics) { return v.arguments, nil }

// MissingItemRange returns the place of the closing brace.
func (v *values) MissingItemRange() hcl.Range { return v.end }

// fit converts a value to the type an argument wants and refuses what no argument can use. Null is the caller's to judge.
func fit(value cty.Value, want cty.Type, what string, place hcl.Range) (cty.Value, *hcl.Diagnostic) {
	if infinite(value) {
		return cty.DynamicVal, mistake(place, "Number out of range", "%s is infinite: a number was divided by zero, or has too large an exponent. Write a finite number.", what)
	}
	fitted, err := convert.Convert(value, want)
	if err != nil {
		return cty.DynamicVal, mistake(place, "Wrong type", "%s must be %s, and this is %s%s.", what, typeName(want), typeName(value.Type()), reason(value.Type(), err))
	}
	return fitted, nil
}

// reason adds what cty says where it says more than the two types do: which element or attribute is at fault.
func reason(given cty.Type, err error) string {
	if given.IsPrimitiveType() {
		return ""
	}
	return ": " + err.Error()
}

// infinite tells whether there is an infinite number anywhere in the value.
func infinite(value cty.Value) bool {
	if value.Type().IsPrimitiveType() && value.Type() != cty.Number {
		return false
	}
	found := false
	_ = cty.Walk(value, func(_ cty.Path, v cty.Value) (bool, error) {
		v, _ = v.Unmark()
		if v.Type() == cty.Number && v.IsKnown() && !v.IsNull() && v.AsBigFloat().IsInf() {
			found = true
		}
		return !found, nil
	})
	return found
}

func isText(v cty.Value) bool {
	return v != cty.NilVal && v.Type() == cty.String && !v.IsMarked() && v.IsKnown() && !v.IsNull()
}

// typeName names a type with its article, for the middle of a sentence.
func typeName(t cty.Type) string {
	switch {
	case t == cty.String:
		return "a string"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "true or false"
	case t == cty.DynamicPseudoType:
		return "a value"
	case t.IsListType():
		return "a list of " + many(t.ElementType())
	case t.IsSetType():
		return "a set of " + many(t.ElementType())
	case t.IsMapType():
		return "a map of " + many(t.ElementType())
	case t.IsTupleType():
		return "a list"
	case t.IsObjectType():
		return "an object"
	}
	return t.FriendlyName()
}

func many(t cty.Type) string {
	switch t {
	case cty.String:
		return "strings"
	case cty.Number:
		return "numbers"
	case cty.Bool:
		return "booleans"
	case cty.DynamicPseudoType:
		return "values"
	}
	return fmt.Sprintf("%ss", t.FriendlyName())
}
