package resources

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

var updateReference = flag.Bool("update", false, "write the generated part of docs/recipes.md")

const reference = "../docs/recipes.md"

// exportDocs says what each export is.
var exportDocs = map[string]string{
	"cert_authority.directory":     "the directory",
	"cert_authority.cert_file":     "the authority's certificate, `ca.crt`",
	"cert_authority.key_file":      "its private key, `ca.key`; mode 0600, root's",
	"cert_authority.bundle_file":   "the certificates to trust, `bundle.crt`",
	"cert_authority.crl_file":      "what is revoked, `crl.pem`; there only when something was",
	"cert_authority.received_file": "what a node without the authority had from it last",
	"cert_authority.escrow":        "the nodes that may take it over",
	"server_key.directory":         "the directory",
	"server_key.cert_file":         "for `ssl_cert_file`",
	"server_key.key_file":          "for `ssl_key_file`",
	"server_key.root_file":         "for `ssl_ca_file`",
	"server_key.crl_file":          "for `ssl_crl_file`; there only when something was revoked",
	"user_key.user":                "the user",
	"user_key.cert_file":           "`postgresql.crt` in the first of its directories",
	"user_key.key_file":            "`postgresql.key` there",
	"user_key.root_file":           "`root.crt` there",
	"file_block.path":              "the file",
	"pg_role.name":                 "the role",
	"service_reload.service":       "the service",
}

// referenceRecipe has one block of each type, so that all exports have values. A new type gets its block here.
const referenceRecipe = `
cert_authority "r" {}
server_key "r" { authority = cert_authority.r }
user_key "r" { authority = cert_authority.r }
key_delivery "r" { authority = cert_authority.r }
file_block "r" {
  path    = "/etc/r.conf"
  content = "a"
}
pg_role "r" {}
service_reload "r" { on_change = [file_block.r] }
`

// The reference of the types in docs/recipes.md is made from the types: their summaries, the hcl and doc tags of their
// arguments, and their exports.
func TestReferenceTypes(t *testing.T) {
	site := referenceSite()
	exports := exportsOf(t, site)
	var out strings.Builder
	for _, kind := range Types(site) {
		fmt.Fprintf(&out, "### %s\n\n%s\n\n| argument | type | what it is |\n|---|---|---|\n", kind.Name, kind.Summary)
		for _, a := range referenceArguments(t, kind) {
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", a.name, a.kind, strings.ReplaceAll(a.doc, "|", `\|`))
		}
		if kind.Service {
			out.WriteString("| `on_change` | list of references | The blocks whose changes the service has to take up. |\n")
		}
		if len(exports[kind.Name]) > 0 {
			out.WriteString("\n| export | what it is |\n|---|---|\n")
		}
		for _, name := range exports[kind.Name] {
			doc := exportDocs[kind.Name+"."+name]
			if doc == "" {
				t.Errorf("the export %s.%s has no words in exportDocs", kind.Name, name)
			}
			fmt.Fprintf(&out, "| `%s` | %s |\n", name, doc)
		}
		out.WriteString("\n")
	}
	generatedPart(t, "types", out.String())
}

type referenceArgument struct{ name, kind, doc string }

func referenceArguments(t *testing.T, kind engine.Type) []referenceArgument {
	t.Helper()
	var out []referenceArgument
	for field := range reflect.TypeOf(kind.New()).Elem().Fields() {
		name, how, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		if name == "" || strings.HasSuffix(how, "_range") {
			continue
		}
		a := referenceArgument{name: name, kind: argumentKind(field.Type), doc: field.Tag.Get("doc")}
		if a.doc == "" || !strings.HasSuffix(a.doc, ".") {
			t.Errorf("%s: the argument %s has no doc tag that is a sentence", kind.Name, name)
		}
		if how != "optional" && field.Type.Kind() != reflect.Pointer {
			a.kind += ", required"
		}
		out = append(out, a)
	}
	return out
}

func argumentKind(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[cty.Value]():
		return "reference"
	case t.Kind() == reflect.Int:
		return "number"
	case t.Kind() == reflect.Slice:
		return "list of " + argumentKind(t.Elem()) + "s"
	}
	return t.Kind().String()
}

func referenceSite() Site {
	env, err := recipe.Single("db1", "db_master", netip.Addr{})
	if err != nil {
		panic(err)
	}
	return Site{
		Trials:      &Trials{},
		Environment: env, Node: env.Nodes[0],
		Server: &postgres.Server{Major: 15, DataDirectory: "/db/postgresql/15/data", SSLDirectory: "/db/postgresql/15/ssl"},
	}
}

// exportsOf returns the names that each type exports, sorted.
func exportsOf(t *testing.T, site Site) map[string][]string {
	t.Helper()
	source := recipe.Source{Name: "reference.hcl", Bytes: []byte(referenceRecipe)}
	loaded, diags := recipe.Load([]recipe.Source{source}, engine.RecipeTypes(Types(site)))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	program, diags := loaded.For(recipe.Scope{Environment: site.Environment, Node: site.Node})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	out := map[string][]string{}
	for _, b := range program.Blocks {
		out[b.Address.Type] = append([]string{}, slices.Sorted(maps.Keys(b.Config.Exports()))...)
	}
	for _, kind := range Types(site) {
		if out[kind.Name] == nil {
			t.Errorf("%s has no block in referenceRecipe", kind.Name)
		}
	}
	return out
}

// generatedPart compares what stands in the reference between the markers of a part with what is worked out.
func generatedPart(t *testing.T, part, want string) {
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
	case *updateReference:
		if err := os.WriteFile(reference, slices.Concat(head, begin, []byte(want), end, tail), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the part %q of %s is not what the code says; go test ./resources -run TestReference -update writes it:\n%s", part, reference, want)
	}
}

// The reference names every argument of the environment file's postgresql block, and every name in postgresql.*.
func TestReferenceNamesTheServer(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for field := range reflect.TypeFor[postgres.Override]().Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("hcl"), ","); name != "" {
			names = append(names, "`"+name+"`")
		}
	}
	for name := range Values(&postgres.Server{}).Type().AttributeTypes() {
		names = append(names, "`postgresql."+name+"`")
	}
	slices.Sort(names)
	for _, name := range names {
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("%s does not speak of %s", reference, name)
		}
	}
}
