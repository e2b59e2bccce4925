package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"converge/engine/recipe"
)

// The rules of the house. What would be said twice in a review is said here.

const houseRoot = "../.."

// A housePackage is what go list says of one package.
type housePackage struct {
	Dir, ImportPath, Name, Doc         string
	GoFiles, IgnoredGoFiles            []string
	TestGoFiles, XTestGoFiles, Imports []string
}

// files are its sources without its tests.
func (p housePackage) files() []string {
	var out []string
	for _, name := range slices.Concat(p.GoFiles, p.IgnoredGoFiles) {
		if !strings.HasSuffix(name, "_test.go") {
			out = append(out, filepath.Join(p.Dir, name))
		}
	}
	return out
}

// below says whether a package is the one at path, or below it.
func below(p, path string) bool { return p == path || strings.HasPrefix(p, path+"/") }

// isFixture says whether a package is for tests alone.
func (p housePackage) isFixture() bool { return below(p.ImportPath, "converge/fixtures") }

func housePackages(t *testing.T) []housePackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,Name,Doc,GoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles,Imports", "./...")
	cmd.Dir = houseRoot
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var packages []housePackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p housePackage
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 8 {
		t.Fatalf("go list knows %d packages only: is this the root of the module?", len(packages))
	}
	return packages
}

// mayImport says, for each part of the house, which other parts it may import. The longest name that fits a package
// decides. What is not listed is forbidden, so a new part has to be put here with its direction.
var mayImport = map[string][]string{
	"converge/cmd/converge":       {"converge/engine", "converge/resources", "converge/recipes"},
	"converge/resources":          {"converge/engine", "converge/resources/hba", "converge/resources/libpq", "converge/resources/pki", "converge/resources/postgres"},
	"converge/resources/libpq":    {},
	"converge/resources/postgres": {"converge/resources/hba"},
	"converge/resources/hba":      {},
	"converge/resources/pki":      {},
	"converge/recipes":            {"converge/engine/recipe"},
	"converge/engine":             {"converge/engine"},
	"converge/engine/recipe":      {},
	"converge/engine/disk":        {"converge/engine/fault"},
	"converge/engine/bundle":      {},
	"converge/engine/store":       {"converge/engine/fault"},
	"converge/engine/fault":       {},
}

func TestHouseImports(t *testing.T) {
	for _, p := range housePackages(t) {
		if p.isFixture() {
			continue
		}
		part := longest(mayImport, p.ImportPath)
		if part == "" {
			t.Errorf("%s: no rule says what it may import: give it one in mayImport", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if !below(imported, "converge") {
				continue
			}
			if !slices.ContainsFunc(mayImport[part], func(allowed string) bool { return below(imported, allowed) }) {
				t.Errorf("%s imports %s: it may import of this module %v", p.ImportPath, imported, mayImport[part])
			}
		}
	}
}

func longest(parts map[string][]string, path string) string {
	best := ""
	for part := range parts {
		if below(path, part) && len(part) > len(best) {
			best = part
		}
	}
	return best
}

// The judges of files and certificates can be read, and taken elsewhere, without anything else.
func TestHouseStandardLibraryOnly(t *testing.T) {
	for _, p := range housePackages(t) {
		if p.ImportPath != "converge/resources/hba" && p.ImportPath != "converge/resources/pki" {
			continue
		}
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: it imports the standard library only", p.ImportPath, imported)
			}
		}
	}
}

func TestHousePackageComments(t *testing.T) {
	for _, p := range housePackages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = ""
		}
		if p.Doc == "" && len(p.GoFiles) == 0 {
			continue // tests only
		}
		if p.Doc == "" || !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s has no package comment that begins with %q", p.ImportPath, want)
		}
	}
}

// A houseFile is one parsed source file.
type houseFile struct {
	name string // below the root
	tree *ast.File
	set  *token.FileSet
	text []byte
}

func (f houseFile) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.name, f.set.Position(n.Pos()).Line)
}

func parseHouse(t *testing.T, p housePackage) []houseFile {
	t.Helper()
	root, err := filepath.Abs(houseRoot)
	if err != nil {
		t.Fatal(err)
	}
	var out []houseFile
	for _, name := range p.files() {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f := houseFile{set: token.NewFileSet(), text: text}
		if f.name, err = filepath.Rel(root, name); err != nil {
			t.Fatal(err)
		}
		if f.tree, err = parser.ParseFile(f.set, name, text, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// uses calls do for every PACKAGE.NAME of an import in the file.
func (f houseFile) uses(do func(path, name string, n ast.Node)) {
	imported := map[string]string{}
	for _, spec := range f.tree.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imported[name] = path
	}
	ast.Inspect(f.tree, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && imported[x.Name] != "" {
			do(imported[x.Name], sel.Sel.Name, sel)
		}
		return true
	})
}

// Only the command prints and exits: everything else returns what there is to say.
func TestHouseOnlyTheCommandPrints(t *testing.T) {
	forbidden := map[string][]string{
		"os":  {"Stdout", "Stderr", "Exit"},
		"fmt": {"Print", "Println", "Printf"},
		"log": {"Print", "Println", "Printf", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
	}
	for _, p := range housePackages(t) {
		if p.isFixture() || p.ImportPath == "converge/cmd/converge" {
			continue
		}
		for _, f := range parseHouse(t, p) {
			f.uses(func(path, name string, n ast.Node) {
				if slices.Contains(forbidden[path], name) {
					t.Errorf("%s: %s.%s: only cmd/converge prints or exits; return it", f.at(n), path, name)
				}
			})
		}
	}
}

// Time comes in as an argument where it decides.
func TestHouseNoClock(t *testing.T) {
	for _, p := range housePackages(t) {
		if p.ImportPath != "converge/resources/hba" && p.ImportPath != "converge/resources/pki" && p.ImportPath != "converge/engine/recipe" {
			continue
		}
		for _, f := range parseHouse(t, p) {
			f.uses(func(path, name string, n ast.Node) {
				if path == "time" && slices.Contains([]string{"Now", "Since", "Until"}, name) {
					t.Errorf("%s: time.%s: the time is an argument here", f.at(n), name)
				}
			})
		}
	}
}

// Nothing happens because a package is imported, and every helper has an owner.
func TestHouseNoInitNoUtil(t *testing.T) {
	for _, p := range housePackages(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "misc"}, p.Name) {
			t.Errorf("%s: a package is named for what is in it, not %q", p.ImportPath, p.Name)
		}
		for _, f := range parseHouse(t, p) {
			for _, d := range f.tree.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil {
					t.Errorf("%s: func init: let the caller call it", f.at(fn))
				}
			}
			for _, spec := range f.tree.Imports {
				if spec.Name != nil && spec.Name.Name == "_" && spec.Path.Value != `"embed"` && spec.Path.Value != `"time/tzdata"` {
					t.Errorf("%s: a blank import of %s: name what is used", f.at(spec), spec.Path.Value)
				}
			}
		}
	}
}

// A note has an owner, who can be asked: TODO(name).
var houseNote = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b(\([a-z][a-z0-9-]*\))?`)

func TestHouseNotesHaveOwners(t *testing.T) {
	for _, p := range housePackages(t) {
		for _, f := range parseHouse(t, p) {
			for _, group := range f.tree.Comments {
				for _, m := range houseNote.FindAllStringSubmatch(group.Text(), -1) {
					if m[2] == "" {
						t.Errorf("%s: %s without an owner: write %s(NAME), or do it", f.at(group), m[1], m[1])
					}
				}
			}
		}
	}
}

func TestHouseRecipesAreFormatted(t *testing.T) {
	names, err := filepath.Glob(houseRoot + "/recipes/*.hcl")
	if err != nil || len(names) == 0 {
		t.Fatalf("no recipes: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		formatted, _, diags := recipe.FormatSource(recipe.Source{Name: name, Bytes: text})
		if diags.HasErrors() {
			t.Errorf("%s: %v", name, diags)
		} else if !bytes.Equal(formatted, text) {
			t.Errorf("%s is not in its usual form: converge fmt recipes", name)
		}
	}
}

// The standard recipe is valid on every node of every role.
func TestHouseRecipesAreValid(t *testing.T) {
	var stdout, stderr bytes.Buffer
	a := newApp(&stdout, &stderr)
	root := a.command()
	root.SetArgs([]string{"validate", "--environment", houseRoot + "/fixtures/demo/environment.hcl"})
	if code := a.exit(root.Execute()); code != exitDone {
		t.Errorf("exit code %d: %s", code, stderr.Bytes())
	}
}

// The documents name files that there are.
func TestHouseDocumentsNameFiles(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(houseRoot, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Name() == ".git" {
			return filepath.SkipDir
		}
		there[e.Name()] = true
		rel, err := filepath.Rel(houseRoot, path)
		there[rel] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([A-Za-z0-9_./-]+\\.(?:go|sh|hcl|md))`")
	for _, doc := range []string{"README.md", "CHANGELOG.md", "docs/architecture.md", "docs/recipes.md", "docs/hba.md", "docs/access.md", "docs/environment.md", "docs/fleet.md", "docs/performance.md", "docs/status.md", "docs/windows.md", "docs/verify.md", "docs/users.md", "docs/revocation.md", "docs/keys.md"} {
		text, err := os.ReadFile(filepath.Join(houseRoot, doc))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range named.FindAllSubmatch(text, -1) {
			name := string(m[1])
			if !there[name] && !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "./") && name != "environment.hcl" {
				t.Errorf("%s names %s, which is not there", doc, name)
			}
		}
	}
}

// The walk through the code names things that there are: each `name` or `Type.name` with a call or a capital letter.
func TestHouseArchitectureNamesCode(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(houseRoot, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, p := range housePackages(t) {
		for _, f := range parseHouse(t, p) {
			declareIn(declared, p.Name, f.tree)
		}
	}
	named := regexp.MustCompile("`((?:[A-Za-z]+\\.)?[A-Za-z]+)\\(\\)`")
	found := named.FindAllSubmatch(text, -1)
	if len(found) < 20 {
		t.Errorf("docs/architecture.md names %d routines only: write them as `name()`", len(found))
	}
	for _, m := range found {
		if name := string(m[1]); !declared[name] {
			t.Errorf("docs/architecture.md names %s(), which is not declared anywhere", name)
		}
	}
}

// declareIn notes the routines of a file: function, package.Function, method, Type.method.
func declareIn(declared map[string]bool, pkg string, tree *ast.File) {
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			declared[d.Name.Name] = true
			if d.Recv == nil {
				declared[pkg+"."+d.Name.Name] = true
				continue
			}
			if owner := typeName(d.Recv.List[0].Type); owner != "" {
				declared[owner+"."+d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				declareMethods(declared, spec)
			}
		}
	}
}

// declareMethods notes the methods of an interface.
func declareMethods(declared map[string]bool, spec ast.Spec) {
	ts, ok := spec.(*ast.TypeSpec)
	if !ok {
		return
	}
	if it, ok := ts.Type.(*ast.InterfaceType); ok {
		for _, m := range it.Methods.List {
			for _, name := range m.Names {
				declared[name.Name], declared[ts.Name.Name+"."+name.Name] = true, true
			}
		}
	}
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// The README names every command, every flag that all commands take, and every exit code.
func TestHouseReadme(t *testing.T) {
	text, err := os.ReadFile(houseRoot + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	root := newApp(io.Discard, io.Discard).command()
	root.InitDefaultCompletionCmd()
	var want []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			want = append(want, "`converge "+c.Name())
		}
	}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { want = append(want, "`--"+f.Name) })
	for _, code := range []int{exitDone, exitFailed, exitChanges, exitOwed, exitRefused, exitNotYet, exitUsage, exitBug} {
		want = append(want, fmt.Sprintf("\n| %d | ", code))
	}
	for _, w := range want {
		if !bytes.Contains(text, []byte(w)) {
			t.Errorf("README.md does not speak of %q", w)
		}
	}
}
