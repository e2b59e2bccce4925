package recipe

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
)

// sensitive marks the value of a variable that is declared sensitive, and all that is made from it.
const sensitive = mark("sensitive")

type mark string

// values is a body whose expressions are evaluated. What was left out, or is null, is not in it.
type values struct {
	arguments []givenValue
	blocks    []blockValues
}

type givenValue struct {
	argument *argument
	shape    argumentShape
	value    cty.Value
}

type blockValues struct {
	innerBlock
	shape *blockShape
	values
}

// decode fills in a struct from values of its shape; owner is named in messages. The types fit already, so what is left to
// object to is a number that the struct's field cannot hold.
func decode(content *values, s shape, owner string, target any) hcl.Diagnostics {
	return content.fill(s, owner, reflect.ValueOf(target).Elem())
}

func (v *values) fill(s shape, owner string, into reflect.Value) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, given := range v.arguments {
		if err := gocty.FromCtyValue(given.value, into.Field(given.shape.field).Addr().Interface()); err != nil {
			diags = append(diags, given.refused(owner, err))
		}
		if given.shape.place != none {
			setPlace(into.Field(given.shape.place), given.argument.expr.Range())
		}
	}
	for i := range v.blocks {
		block := &v.blocks[i]
		field := into.Field(block.shape.field)
		inner := reflect.New(elementType(field.Type()))
		diags = append(diags, block.fillBlock(quoted(block.kind)+" of "+owner, inner.Elem())...)
		if field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Pointer {
			field.Set(reflect.Append(field, inner))
		} else if field.Kind() == reflect.Slice {
			field.Set(reflect.Append(field, inner.Elem()))
		} else if field.Kind() == reflect.Pointer {
			field.Set(inner)
		} else {
			field.Set(inner.Elem())
		}
	}
	return diags
}

// fillBlock fills in the struct of an inner block, its labels and places included.
func (b *blockValues) fillBlock(owner string, into reflect.Value) hcl.Diagnostics {
	for i, label := range b.shape.labels {
		into.Field(label.field).SetString(b.labels[i])
		if label.place != none {
			setPlace(into.Field(label.place), b.labelPlaces[i])
		}
	}
	if b.shape.header != none {
		setPlace(into.Field(b.shape.header), b.innerBlock.header)
	}
	return b.fill(b.shape.shape, owner, into)
}

func setPlace(field reflect.Value, place hcl.Range) { field.Set(reflect.ValueOf(place)) }

// elementType is the struct in []T, []*T or *T.
func elementType(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func (g givenValue) refused(owner string, err error) *hcl.Diagnostic {
	place := g.argument.expr.Range()
	if strings.Contains(err.Error(), "whole number") {
		return mistake(place, "Value out of range", "%q of %s must be a whole number of at most 18 digits.", g.argument.name, owner)
	}
	return mistake(place, "Wrong value", "%q of %s cannot be used: %s.", g.argument.name, owner, err)
}

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
