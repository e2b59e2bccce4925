package recipe

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

const reference = "../../docs/recipes.md"

// Each function of the language has an example here; what it gives is worked out.
var examples = map[string]struct{ call, what string }{
	"ceil":       {`ceil(1.2)`, "the whole number above"},
	"chomp":      {`chomp("a\n")`, "without newlines at the end"},
	"cidrhost":   {`cidrhost("10.0.0.0/8", 5)`, "an address of a network, by number; from the end when negative"},
	"cidrsubnet": {`cidrsubnet("10.0.0.0/8", 8, 2)`, "a part of a network: so many bits longer, by number"},
	"coalesce":   {`coalesce(null, "a", "b")`, "the first that is not null"},
	"compact":    {`compact(["a", "", "b"])`, "without empty strings"},
	"concat":     {`concat(["a"], ["b", "c"])`, "lists, one after the other"},
	"contains":   {`contains(["a", "b"], "b")`, "whether a value is in a list or set"},
	"distinct":   {`distinct(["a", "b", "a"])`, "each value once"},
	"element":    {`element(["a", "b"], 1)`, "the element at a place, from 0"},
	"flatten":    {`flatten([["a"], ["b", ["c"]]])`, "lists in lists as one list"},
	"floor":      {`floor(1.8)`, "the whole number below"},
	"format":     {`format("%s-%03d", "a", 7)`, "text from a pattern"},
	"formatlist": {`formatlist("%s:5432", ["a", "b"])`, "a text from a pattern for each element"},
	"indent":     {`indent(2, "a\nb")`, "lines after the first moved in"},
	"join":       {`join(", ", ["a", "b"])`, "elements as one text, with something between"},
	"jsonencode": {`jsonencode({ a = [1, true] })`, "a value as JSON"},
	"keys":       {`keys({ b = 1, a = 2 })`, "the keys of a map, sorted"},
	"length":     {`length(["a", "b"])`, "how many elements, or characters of a string"},
	"lookup":     {`lookup({ a = 1 }, "b", 0)`, "the value of a key, or else the default"},
	"lower":      {`lower("DB1")`, "in small letters"},
	"max":        {`max(3, 5)`, "the largest number"},
	"merge":      {`merge({ a = 1 }, { a = 2, b = 3 })`, "maps as one; the last one wins"},
	"min":        {`min(3, 5)`, "the smallest number"},
	"range":      {`range(1, 4)`, "numbers from one up to below another"},
	"regex":      {`regex("[0-9]+", "db12")`, "what a regular expression matches; nothing is an error"},
	"replace":    {`replace("a-b", "-", "_")`, "a text with one part in place of another"},
	"reverse":    {`reverse(["a", "b"])`, "the other way round"},
	"setunion":   {`setunion(["a"], ["b"])`, "what is in any of the sets"},
	"slice":      {`slice(["a", "b", "c"], 1, 3)`, "elements from a place up to below another"},
	"sort":       {`sort(["b", "a"])`, "in the order of their bytes"},
	"split":      {`split(",", "a,b")`, "a text as a list of its parts"},
	"substr":     {`substr("abcd", 1, 2)`, "so many characters from a place on"},
	"tobool":     {`tobool("true")`, "as a boolean"},
	"tolist":     {`tolist(["b", "a"])`, "as a list: elements of one type"},
	"tomap":      {`tomap({ a = "b" })`, "as a map: values of one type"},
	"tonumber":   {`tonumber("15")`, "as a number"},
	"toset":      {`toset(["b", "a", "b"])`, "as a set: each once, without order; for for_each"},
	"tostring":   {`tostring(15)`, "as a string"},
	"trimprefix": {`trimprefix("pg_hba", "pg_")`, "without this beginning"},
	"trimspace":  {`trimspace("  a ")`, "without blanks at both ends"},
	"trimsuffix": {`trimsuffix("db1.internal", ".internal")`, "without this end"},
	"upper":      {`upper("db1")`, "in capital letters"},
	"values":     {`values({ b = 1, a = 2 })`, "the values of a map, in the order of the keys"},
	"zipmap":     {`zipmap(["a", "b"], [1, 2])`, "a map from keys and values"},
}

// The list of functions in the reference is that of the language, and every example gives what it says.
func TestReferenceFunctions(t *testing.T) {
	var out strings.Builder
	out.WriteString("| example | gives | what it is |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(pure.Functions)) {
		e, ok := examples[name]
		if !ok || !strings.HasPrefix(e.call, name+"(") {
			t.Errorf("the function %s has no example", name)
			continue
		}
		expr, diags := hclsyntax.ParseExpression([]byte(e.call), name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		v, diags := expr.Value(pure)
		if diags.HasErrors() {
			t.Errorf("%s: %v", e.call, diags)
			continue
		}
		b, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "| `%s` | `%s` | %s |\n", e.call, b, e.what)
	}
	for name := range examples {
		if _, ok := pure.Functions[name]; !ok {
			t.Errorf("there is no function %s any more: remove its example", name)
		}
	}
	generated(t, "functions", out.String())
}

// generated compares what stands in the reference between the markers of a part with what is worked out.
func generated(t *testing.T, part, want string) {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := []byte("<!-- begin "+part+" -->\n"), []byte("<!-- end "+part+" -->\n")
	head, rest, ok := bytes.Cut(text, begin)
	have, tail, also := bytes.Cut(rest, end)
	switch {
	case !ok || !also:
		t.Fatalf("%s has no markers of the part %q", reference, part)
	case string(have) == want:
	case *update:
		if err := os.WriteFile(reference, slices.Concat(head, begin, []byte(want), end, tail), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the part %q of %s is not what the code says; go test -run TestReference -update writes it:\n%s", part, reference, want)
	}
}

// The reference names every argument that the language itself and the environment file take, each root of names, each
// role, and the limits.
func TestReferenceNamesTheLanguage(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Concat([]string{"roles", "for_each", "depends_on", "on_change"}, Roles, Stores, keysOf(variableShape.arguments), keysOf(variableShape.blocks["validation"].arguments),
		argumentsOf(reflect.TypeFor[windowArguments]()), argumentsOf(reflect.TypeFor[environmentArguments]()), argumentsOf(reflect.TypeFor[nodeArguments]()))
	for attribute := range (&Environment{}).value().Type().AttributeTypes() {
		names = append(names, "environment."+attribute)
	}
	for attribute := range (&Node{}).value().Type().AttributeTypes() {
		names = append(names, "node."+attribute)
	}
	names = append(names, fmt.Sprint(MaxNesting), fmt.Sprint(MaxOperators), "100,000", "1 MiB")
	for _, name := range names {
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("%s does not speak of %q", reference, name)
		}
	}
}

func argumentsOf(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		name, kind, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		if name != "" && kind != "label" && !strings.HasSuffix(kind, "_range") {
			names = append(names, name)
		}
	}
	return names
}
