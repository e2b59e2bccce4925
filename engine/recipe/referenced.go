package recipe

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// A Reference is another block as an argument names it: authority = cert_authority.environment.
type Reference struct {
	Address Address
	exports cty.Value
}

// String returns an exported attribute, or "" when the block exports none of that name or it is no string.
func (r Reference) String(name string) string {
	value := r.Value(name)
	if !isText(value) {
		return ""
	}
	return value.AsString()
}

// Value returns an exported attribute, or cty.NilVal when the block exports none of that name.
func (r Reference) Value(name string) cty.Value {
	if r.exports == cty.NilVal || !r.exports.Type().HasAttribute(name) {
		return cty.NilVal
	}
	value, _ := r.exports.GetAttr(name).Unmark()
	return value
}

// Referenced reads an argument that must name a block of one type. The diagnostics say what was given and what is
// wanted; place is that of the argument's value.
func Referenced(value cty.Value, wantType string, place hcl.Range) (Reference, hcl.Diagnostics) {
	fault := func(given string) (Reference, hcl.Diagnostics) {
		return Reference{}, hcl.Diagnostics{mistake(place, "Wrong reference", "A reference to a block %s is wanted here (%s.NAME), and this is %s.", wantType, wantType, given)}
	}
	if value == cty.NilVal || value.IsNull() {
		return fault("null")
	}
	value, _ = value.UnmarkDeep()
	t := value.Type()
	if isText(value) {
		if address, err := ParseAddress(value.AsString()); err == nil && address.Type == wantType {
			return fault(fmt.Sprintf("a string. Write %s without quotes", address))
		}
	}
	if !t.IsObjectType() || !value.IsKnown() {
		return fault(typeName(t))
	}
	if !t.HasAttribute("address") || !t.HasAttribute("type") || !isText(value.GetAttr("address")) || !isText(value.GetAttr("type")) {
		return fault("no block. A block with for_each needs a key: " + wantType + `.NAME["KEY"]`)
	}
	address, err := ParseAddress(value.GetAttr("address").AsString())
	if err != nil {
		return fault("no block")
	}
	if given := value.GetAttr("type").AsString(); given != wantType || address.Type != wantType {
		return fault(fmt.Sprintf("%s, a block %s", address, given))
	}
	return Reference{Address: address, exports: value}, nil
}
