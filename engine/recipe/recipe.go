// Package recipe is the language: it reads recipe files and the environment file, and evaluates a recipe for one node.
//
// Evaluation needs no host. What comes out is a list of blocks in an order in which each comes after all that it refers
// to, every argument decoded and checked. Everything that is wrong with the text is an HCL diagnostic with a place, the
// source line and a way out; all mistakes of all files are reported at once and in a stable order.
package recipe

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// A Type is one kind of block that a recipe can hold.
type Type struct {
	Name    string        // "user_key"
	Summary string        // one sentence for the reference and for messages
	New     func() Config // an empty one, to be filled in
	Service bool          // takes on_change
}

// A Config is the body of one block: a pointer to a struct with hcl tags. Arguments that may be left out are pointers,
// slices, maps or "optional" fields; `hcl:"path,attr_value_range"` fields beside them keep their places for messages.
type Config interface {
	// Prepare checks the arguments and fills in those that were left out. It sees the block's own place and name, and no
	// host. Its diagnostics carry the range of the argument they speak of.
	Prepare(Block) hcl.Diagnostics

	// Exports returns what other blocks can refer to as TYPE.NAME.attribute: arguments with their final values, and paths
	// that follow from them. "address" and "type" are added by the language.
	Exports() map[string]cty.Value
}

// A Block is one instance of a block in a recipe: one for each key where it has for_each.
type Block struct {
	Address   Address
	Config    Config
	Range     hcl.Range // the block's header
	After     []Ref     // all that it refers to, depends_on included; no duplicates; in order of appearance
	OnChange  []Ref     // services only; references to blocks for other roles are left out
	Declared  int       // its place among all instances of the recipe, from 0, in the order of files and lines
	EachKey   cty.Value // cty.NilVal without for_each
	EachValue cty.Value
	Sensitive []string // the arguments whose value comes from a sensitive variable, sorted
}

// A Ref is a reference from one block to another, and where it stands.
type Ref struct {
	To    Address
	Range hcl.Range
}

// An Address names a block: file_block.pg_hba, or user_key.staff["alice"] for one instance of a for_each block.
type Address struct {
	Type, Name string
	Key        string // of for_each
	HasKey     bool
}
