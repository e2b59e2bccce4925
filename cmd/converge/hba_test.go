package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documentation has a line for each lint, in the order of the code, and no other.
func TestHouseDocumentedLints(t *testing.T) {
	text, err := os.ReadFile(houseRoot + "/docs/hba.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n### Lints\n")
	table, _, also := strings.Cut(table, "\n## ")
	if !ok || !also {
		t.Fatal("docs/hba.md has no part ### Lints")
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| ").FindAllStringSubmatch(table, -1) {
		documented = append(documented, m[1])
	}
	if names := lintNames(t); !slices.Equal(documented, names) {
		t.Errorf("docs/hba.md documents the lints\n%q, and there are\n%q", documented, names)
	}
}

// lintNames are the constants of lint.go: the names of the lints.
func lintNames(t *testing.T) (out []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), houseRoot+"/resources/hba/lint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range tree.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			for _, v := range spec.(*ast.ValueSpec).Values {
				if text, ok := v.(*ast.BasicLit); ok && text.Kind == token.STRING {
					out = append(out, strings.Trim(text.Value, `"`))
				}
			}
		}
	}
	if len(out) < 5 {
		t.Fatalf("lint.go has the lints %q only", out)
	}
	return out
}
