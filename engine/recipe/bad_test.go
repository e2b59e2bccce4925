package recipe

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite what the fixtures want")

const badRecipes = "../../fixtures/recipes/bad"

// Each fixture is a recipe with one kind of mistake, and the whole text that its author reads.
func TestBadRecipesAreAnsweredWithAPlaceACauseAndAWayOut(t *testing.T) {
	fixtures, err := filepath.Glob(badRecipes + "/*.txt")
	if err != nil || len(fixtures) < 45 {
		t.Fatalf("found %d fixtures in %s, want 45 at least (%v)", len(fixtures), badRecipes, err)
	}
	for _, path := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Comment) == 0 {
				t.Error("the fixture does not begin with its story")
			}
			got := judge(t, archive)
			if again := judge(t, archive); again != got {
				t.Errorf("a second run says something else:\n%s", again)
			}
			if got == "" {
				t.Error("the recipe is accepted")
			}
			if *update {
				rewrite(t, path, archive, got)
				return
			}
			if want := member(archive, "want"); want != got {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// judge runs what converge validate runs, and returns what it prints.
func judge(t *testing.T, archive *txtar.Archive) string {
	scope := scopeFor(t, "db_master")
	files := map[string]bool{}
	var sources []Source
	env := scope.Environment
	var text bytes.Buffer
	for _, f := range archive.Files {
		files[f.Name] = true
		switch {
		case f.Name == "environment.hcl":
			parsed, diags := ParseEnvironment(Source{Name: f.Name, Bytes: f.Data})
			if err := WriteDiagnostics(&text, diags, parsed.Files, 100, false); err != nil {
				t.Fatal(err)
			}
			if !diags.HasErrors() {
				env = parsed
			}
		case strings.HasSuffix(f.Name, ".hcl"):
			sources = append(sources, Source{Name: f.Name, Bytes: f.Data})
		}
	}
	scope.Environment = env
	for line := range strings.Lines(member(archive, "run")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "role":
			scope.Node.Role = rest
		case "var":
			name, value, _ := strings.Cut(rest, "=")
			if scope.Vars == nil {
				scope.Vars = map[string]string{}
			}
			scope.Vars[name] = value
		}
	}
	r, diags := Load(sources, toyTypes)
	_, more := r.For(scope)
	for name, file := range env.Files {
		r.Files[name] = file
	}
	if err := WriteDiagnostics(&text, append(diags, more...), r.Files, 100, false); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func member(archive *txtar.Archive, name string) string {
	for _, f := range archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func rewrite(t *testing.T, path string, archive *txtar.Archive, want string) {
	for i, f := range archive.Files {
		if f.Name == "want" {
			archive.Files = archive.Files[:i]
			break
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(want)})
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}
