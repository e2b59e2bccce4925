package recipe

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"
)

// A shape is which arguments and blocks a body can hold, and in which fields of a struct they end. It is read once from
// the struct's hcl tags, which are gohcl's. This package decodes by itself: so what is wrong with a body can be said in
// its own words and for all arguments at once, and the tags are not read again for each block.
type shape struct {
	arguments map[string]argumentShape
	blocks    map[string]*blockShape
	labels    []labelShape
	header    int // the field for the place of the block's header, or none
}

type argumentShape struct {
	kind     cty.Type
	required bool
	field    int
	place    int // the field for the place of the value, or none
}

type labelShape struct {
	field int
	place int
}

type blockShape struct {
	shape
	field    int
	many     bool
	required bool
}

const none = -1

// shapeOf reads a struct type. It panics on a tag or a field that cannot be filled: that is the programmer's mistake.
func shapeOf(t reflect.Type) shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := shape{arguments: map[string]argumentShape{}, blocks: map[string]*blockShape{}, header: none}
	valuePlaces, labelPlace := map[string]int{}, none
	for i := range t.NumField() {
		field := t.Field(i)
		tag, tagged := field.Tag.Lookup("hcl")
		if !tagged {
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		switch kind {
		case "", "attr", "optional":
			required := kind != "optional" && field.Type.Kind() != reflect.Pointer
			s.arguments[name] = argumentShape{kind: argumentType(field), required: required, field: i, place: none}
		case "attr_value_range":
			valuePlaces[name] = i
		case "block":
			s.blocks[name] = blockShapeOf(field.Type, i)
		case "label":
			s.labels = append(s.labels, labelShape{field: i, place: none})
		case "label_range":
			labelPlace = i
		case "def_range":
			s.header = i
		default:
			panic(fmt.Sprintf("recipe: field %s of %s: the tag %q is not known here", field.Name, t, tag))
		}
	}
	for name, i := range valuePlaces {
		argument := s.arguments[name]
		argument.place = i
		s.arguments[name] = argument
	}
	if len(s.labels) > 0 {
		s.labels[0].place = labelPlace
	}
	return s
}

func argumentType(field reflect.StructField) cty.Type {
	kind, err := gocty.ImpliedType(reflect.New(field.Type).Interface())
	if err != nil {
		panic(fmt.Sprintf("recipe: field %s of type %s: %s", field.Name, field.Type, err))
	}
	return kind
}

func blockShapeOf(t reflect.Type, field int) *blockShape {
	b := &blockShape{required: true, field: field}
	if t.Kind() == reflect.Slice {
		b.many, b.required = true, false
		t = t.Elem()
	}
	if t.Kind() == reflect.Pointer {
		b.required = false
		t = t.Elem()
	}
	b.shape = shapeOf(t)
	return b
}

// check compares a body with its shape; extra are the names of arguments that the language itself takes there. The owner
// is named in messages: user_key.alice.
func (s shape) check(b *body, owner string, extra []string) hcl.Diagnostics {
	known := append(keysOf(s.arguments), extra...)
	var diags hcl.Diagnostics
	for _, a := range b.arguments {
		_, declared := s.arguments[a.name]
		if declared || slices.Contains(extra, a.name) {
			continue
		}
		if _, isBlock := s.blocks[a.name]; isBlock {
			diags = append(diags, mistake(a.namePlace, "Unsupported argument", "%q of %s is a block, not an argument: write %s { ... } without the equals sign.", a.name, owner, a.name))
			continue
		}
		diags = append(diags, mistake(a.namePlace, "Unsupported argument", "%s takes no argument %q.%s", owner, a.name, suggestion(a.name, known)))
	}
	for name, want := range s.arguments {
		if _, given := b.find(name); want.required && !given {
			diags = append(diags, mistake(b.end, "Missing argument", "%s needs the argument %q (%s).", owner, name, typeName(want.kind)))
		}
	}
	return append(diags, s.checkBlocks(b, owner)...)
}

func (s shape) checkBlocks(b *body, owner string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	first := map[string]hcl.Range{}
	for _, inner := range b.blocks {
		want := s.blocks[inner.kind]
		if want == nil {
			diags = append(diags, s.unsupportedBlock(inner, owner))
			continue
		}
		before, again := first[inner.kind]
		if again && !want.many {
			diags = append(diags, mistake(inner.header, "Duplicate block", "%s takes one block %q, and it has one at %s.", owner, inner.kind, at(before)))
		}
		first[inner.kind] = inner.header
		if len(inner.labels) != len(want.labels) {
			diags = append(diags, mistake(inner.header, "Wrong number of names", "A block %q takes %s here, and this one has %d.", inner.kind, plural(len(want.labels), "name"), len(inner.labels)))
		}
		diags = append(diags, want.check(inner.body, fmt.Sprintf("%q of %s", inner.kind, owner), nil)...)
	}
	for name, want := range s.blocks {
		if _, given := first[name]; want.required && !given {
			diags = append(diags, mistake(b.end, "Missing block", "%s needs a block: %s { ... }.", owner, name))
		}
	}
	return diags
}

func (s shape) unsupportedBlock(inner innerBlock, owner string) *hcl.Diagnostic {
	if _, isArgument := s.arguments[inner.kind]; isArgument {
		return mistake(inner.header, "Unsupported block", "%q of %s is an argument, not a block: write %s = ... with an equals sign.", inner.kind, owner, inner.kind)
	}
	return mistake(inner.header, "Unsupported block", "%s takes no block %q.%s", owner, inner.kind, suggestion(inner.kind, keysOf(s.blocks)))
}

func plural(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "one " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
