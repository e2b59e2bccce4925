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

// A Last is a resource that may want to see what all others have done: it comes after every step that does not wait for it,
// services among them.
type Last interface {
	Resource
	ComesLast() bool
}

// A Provider makes a thing that is no file, such as a role of a server, under a name by which others need it. A graph has
// one Provider of each name.
type Provider interface {
	Resource
	Provides() string // `role "readers"`; "" for nothing
}

// A Dependent needs such things. It comes after the steps of its graph that make them, wherever they stand in the recipe,
// and does not run when one of them has failed. What no step makes is for the resource to judge.
type Dependent interface {
	Resource
	Needs() []string
}

// A Target is a path that a step writes.
type Target struct {
	Path   string
	Dir    bool // a directory that the step makes
	Shared bool // the step changes only its own part of the file: others may too, one after the other
	Below  bool // whatever the step puts below it, under names that only it uses: an archive; folders come with their files
	Handed bool // the step puts the file there for another one to keep, which refers to it: it is no second writer
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
