package engine

import (
	"context"

	"converge/engine/recipe"
)

// A Type is one kind of resource.
type Type struct {
	Name    string
	Summary string
	New     func() Resource
	Service bool // takes on_change, and is what reloads and restarts are owed to
}

// A Resource makes one thing true.
type Resource interface {
	recipe.Config

	// Targets returns every file and directory that Converge may write, known before the machine is looked at: the order
	// of steps follows from them. Writing anything else is refused.
	Targets() []Target

	// Converge reads the machine, decides, and writes through h. It stages nothing when all is as it should be. It may be
	// called several times, by a plan or an apply, and keeps nothing between calls.
	Converge(ctx context.Context, h *Host) error
}

// A Service is a resource that reloads and restarts are owed to.
type Service interface {
	Resource
	ServiceName() string // as operators call it: "postgresql"
}

// A Reader knows which files it reads. A step that writes one of them comes before it, unless the step itself waits for
// the reader. A reader that is a service is owed what follows from their changes, as if it named them in on_change.
type Reader interface {
	Resource
	Reads() []string // files, and folders with all that is in them
}

// A Target is a path that a step writes.
type Target struct {
	Path   string
	Dir    bool // a directory that the step makes
	Shared bool // the step changes only its own part of the file: others may too, one after the other
	Below  bool // of a directory: and whatever the step puts there under names that only it uses, such as an archive's
}

// RecipeTypes returns the types as the recipe language knows them.
func RecipeTypes(types []Type) []recipe.Type {
	out := make([]recipe.Type, len(types))
	for i, t := range types {
		out[i] = recipe.Type{
			Name:    t.Name,
			Summary: t.Summary,
			New:     func() recipe.Config { return t.New() },
			Service: t.Service,
		}
	}
	return out
}
