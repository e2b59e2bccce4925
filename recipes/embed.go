// Package recipes holds the standard recipes. They are in the binary; --no-standard-recipes leaves them out.
package recipes

import (
	"embed"
	"io/fs"

	"converge/engine/recipe"
)

//go:embed *.hcl
var files embed.FS

// Standard returns the standard recipes, in the order of their names. They are shown as standard/NAME in messages.
func Standard() []recipe.Source {
	names, err := fs.Glob(files, "*.hcl")
	if err != nil {
		panic("recipes: " + err.Error())
	}
	var out []recipe.Source
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			panic("recipes: " + err.Error())
		}
		out = append(out, recipe.Source{Name: "standard/" + name, Bytes: b})
	}
	return out
}
