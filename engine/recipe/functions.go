package recipe

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// pure is the context of expressions without names. No function in it reads a file, the process environment or the
// clock: the same recipe gives the same blocks on the same node, every time.
var pure = &hcl.EvalContext{Functions: map[string]function.Function{
	"ceil":       stdlib.CeilFunc,
	"chomp":      stdlib.ChompFunc,
	"cidrhost":   cidrHost,
	"cidrsubnet": cidrSubnet,
	"coalesce":   stdlib.CoalesceFunc,
	"compact":    stdlib.CompactFunc,
	"concat":     stdlib.ConcatFunc,
	"contains":   stdlib.ContainsFunc,
	"distinct":   stdlib.DistinctFunc,
	"element":    stdlib.ElementFunc,
	"flatten":    stdlib.FlattenFunc,
	"floor":      stdlib.FloorFunc,
	"format":     stdlib.FormatFunc,
	"formatlist": stdlib.FormatListFunc,
	"indent":     stdlib.IndentFunc,
	"join":       stdlib.JoinFunc,
	"jsonencode": stdlib.JSONEncodeFunc,
	"keys":       stdlib.KeysFunc,
	"length":     length,
	"lookup":     stdlib.LookupFunc,
	"lower":      stdlib.LowerFunc,
	"max":        stdlib.MaxFunc,
	"merge":      stdlib.MergeFunc,
	"min":        stdlib.MinFunc,
	"range":      stdlib.RangeFunc,
	"regex":      stdlib.RegexFunc,
	"replace":    stdlib.ReplaceFunc,
	"reverse":    stdlib.ReverseListFunc,
	"setunion":   stdlib.SetUnionFunc,
	"slice":      stdlib.SliceFunc,
	"sort":       stdlib.SortFunc,
	"split":      stdlib.SplitFunc,
	"substr":     stdlib.SubstrFunc,
	"tobool":     stdlib.MakeToFunc(cty.Bool),
	"tolist":     toCollection(cty.List, cty.ListVal),
	"tomap":      stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),
	"tonumber":   stdlib.MakeToFunc(cty.Number),
	"toset":      toCollection(cty.Set, cty.SetVal),
	"tostring":   stdlib.MakeToFunc(cty.String),
	"trimprefix": stdlib.TrimPrefixFunc,
	"trimspace":  stdlib.TrimSpaceFunc,
	"trimsuffix": stdlib.TrimSuffixFunc,
	"upper":      stdlib.UpperFunc,
	"values":     stdlib.ValuesFunc,
	"zipmap":     stdlib.ZipmapFunc,
}}

// toCollection is tolist or toset. What all elements of a literal list have in common is seen at once when they have one
// type; cty compares each with each, which takes minutes for 100,000 of them.
func toCollection(of func(cty.Type) cty.Type, from func([]cty.Value) cty.Value) function.Function {
	general := stdlib.MakeToFunc(of(cty.DynamicPseudoType))
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "v", Type: cty.DynamicPseudoType, AllowNull: true, AllowMarked: true, AllowDynamicType: true}},
		Type: func(args []cty.Value) (cty.Type, error) {
			if element, same := oneType(args[0].Type()); same {
				return of(element), nil
			}
			return general.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			tuple, marks := args[0].Unmark()
			if _, same := oneType(tuple.Type()); same && tuple.IsKnown() && !tuple.IsNull() {
				return from(tuple.AsValueSlice()).WithMarks(marks), nil
			}
			return general.Call(args)
		},
	})
}

// oneType returns the type that all elements of a tuple have, if there is one and it is primitive.
func oneType(t cty.Type) (cty.Type, bool) {
	if !t.IsTupleType() || t.Length() == 0 {
		return cty.NilType, false
	}
	types := t.TupleElementTypes()
	for _, other := range types {
		if other != types[0] {
			return cty.NilType, false
		}
	}
	return types[0], types[0].IsPrimitiveType()
}

// length counts the elements of a list, set, map or object, or the characters of a string.
var length = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		switch t := args[0].Type(); {
		case t == cty.String:
			return stdlib.Strlen(args[0])
		case t.IsObjectType():
			return cty.NumberIntVal(int64(len(t.AttributeTypes()))), nil
		case t.IsCollectionType(), t.IsTupleType():
			return args[0].Length(), nil
		}
		return cty.NilVal, errors.New("a list, set, map, object or string is wanted")
	},
})

// cidrHost returns the address with a number in a network, counted from the network's own address: cidrhost("10.0.0.0/8", 5)
// is "10.0.0.5". A negative number counts from the end.
var cidrHost = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "prefix", Type: cty.String}, {Name: "number", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		network, err := parsePrefix(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		number, accuracy := args[1].AsBigFloat().Int(nil)
		if number == nil || accuracy != big.Exact {
			return cty.NilVal, function.NewArgErrorf(1, "a whole number is wanted")
		}
		size := new(big.Int).Lsh(big.NewInt(1), uint(network.Addr().BitLen()-network.Bits()))
		if number.Sign() < 0 {
			number.Add(number, size)
		}
		if number.Sign() < 0 || number.Cmp(size) >= 0 {
			return cty.NilVal, function.NewArgErrorf(1, "%s has %s addresses only", network, size)
		}
		return cty.StringVal(offset(network, number).String()), nil
	},
})

// cidrSubnet returns a part of a network whose prefix is longer by some bits: cidrsubnet("10.0.0.0/8", 8, 2) is
// "10.2.0.0/16".
var cidrSubnet = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "prefix", Type: cty.String}, {Name: "newbits", Type: cty.Number}, {Name: "number", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		network, err := parsePrefix(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		more, exact := args[1].AsBigFloat().Int64()
		free := network.Addr().BitLen() - network.Bits()
		if exact != big.Exact || more < 0 || more > int64(free) {
			return cty.NilVal, function.NewArgErrorf(1, "%s can be divided by 0 to %d bits", network, free)
		}
		number, accuracy := args[2].AsBigFloat().Int(nil)
		count := new(big.Int).Lsh(big.NewInt(1), uint(more))
		if number == nil || accuracy != big.Exact || number.Sign() < 0 || number.Cmp(count) >= 0 {
			return cty.NilVal, function.NewArgErrorf(2, "a whole number from 0 to %s is wanted", new(big.Int).Sub(count, big.NewInt(1)))
		}
		number.Lsh(number, uint(free)-uint(more))
		return cty.StringVal(netip.PrefixFrom(offset(network, number), network.Bits()+int(more)).String()), nil
	},
})

// parsePrefix wants a network's own address: 10.0.0.1/8 is somebody's slip.
func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network: write ADDRESS/BITS, as in 10.0.0.0/8", text)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its prefix: write %s", text, masked)
	}
	return prefix, nil
}

// offset adds a number to the network's address. It stays within the network when the caller has checked the number.
func offset(network netip.Prefix, number *big.Int) netip.Addr {
	base := network.Addr().AsSlice()
	sum := new(big.Int).Add(new(big.Int).SetBytes(base), number)
	address, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, len(base))))
	return address
}
