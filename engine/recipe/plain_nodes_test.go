package recipe

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

const plainNode = "  node \"db1\" {\n    role = \"db_master\"\n    address = \"10.0.1.10\"\n  }\n"

// plainSeeds are files with nodes in and beside the plain form, and where a node is none.
func plainSeeds() []string {
	in := func(body string) string { return "environment \"e\" {\n" + body + "}\n" }
	node := func(header, body string) string { return in("  node " + header + " {\n" + body + "  }\n") }
	right := "role = \"app\"\naddress = \"10.0.0.1\"\n"
	return []string{
		production,
		in(plainNode), in(plainNode + plainNode), in(plainNode + "\n# between\n" + strings.ReplaceAll(strings.ReplaceAll(plainNode, "db", "app"), ".10", ".11")),
		plainNode, in("postgresql {\n" + plainNode + "}\n"), in("cidrs = [\n" + plainNode + "]\n"), in("variables = { x = <<EOT\n" + plainNode + "EOT\n}\n"),
		in("/*\n" + plainNode + "*/\n"), in("/*\n" + plainNode), in("app_user =\n" + plainNode), in("variables = {\n" + plainNode + "}\n"), in("variables = { x = \"${\n" + plainNode + "}\" }\n"),
		in(plainNode) + in(plainNode), in(plainNode) + plainNode, strings.ReplaceAll(in(plainNode), "\n", "\r\n"), "\ufeff" + in(plainNode),
		in(plainNode + "app_user = \"root\"\n"), in(plainNode + "app_usr = \"x\"\n"), in(plainNode + "}\n"), in(marker + " \"0\" {}\n" + plainNode),
		in(marker + " \"0\" {} # " + "\n"), strings.TrimSuffix(in(plainNode), "\n"), "environment \"e\" {\n" + strings.TrimSuffix(plainNode, "\n"),
		node(`"a"`, right), node("a", right), node(`"a" "b"`, right), node(`"a" # c`, right), node(`"a b"`, right), node(`"a\n"`, right), node(`"$${a}"`, right), node(`"é"`, right),
		node(`"a"`, right+right), node(`"a"`, right+"names = []\n"), node(`"a"`, right+"names = [\"b\", \"c.d\",]\n"), node(`"a"`, right+"names = [,]\n"), node(`"a"`, right+"names = [\"b\" \"c\"]\n"),
		node(`"a"`, right+"names = [\"b\",, \"c\"]\n"), node(`"a"`, right+"names = [\"-\"]\n"), node(`"a"`, right+"names = \"b\"\n"), node(`"a"`, right+"names = [\n\"b\"]\n"),
		node(`"a"`, right+"host_key = \"ssh-ed25519 AAAA/+= x\" # why\n"), node(`"a"`, right+"host_key = \"ssh\"\n"), node(`"a"`, right+"host_key = \"${1}\"\n"), node(`"a"`, right+"host_key = null\n"),
		node(`"a"`, "role = \"app\"\n"), node(`"a"`, "role = \"ap\"\naddress = \"10.0.0.1\"\n"), node(`"a"`, "role = \"app\"\naddress = \"10.0.0.1/8\"\n"), node(`"a"`, "role = \"solo\"\naddress = \"::1\"\n"),
		node(`"a"`, "role: \"app\"\naddress = \"10.0.0.1\"\n"), node(`"a"`, "role = \"app\" address = \"10.0.0.1\"\n"), node(`"a"`, "rolex = \"app\"\n"+right), node(`"a"`, "// c\n\n\t# d é\n"+right),
	}
}

// A file with plain nodes says the same as HCL alone says of it, be it right or wrong.
func FuzzPlainNodes(f *testing.F) {
	for _, seed := range plainSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := source("environment.hcl", text)
		got, gotDiags := ParseEnvironment(s)
		s.environment = true
		want, wantDiags := parseEnvironment(s, nil, 0)
		if g, w := printed(gotDiags), printed(wantDiags); g != w {
			t.Fatalf("%q\ngives %s\nby HCL %s", text, g, w)
		}
		if wantDiags.HasErrors() {
			return
		}
		if g, w := said(got), said(want); g != w {
			t.Fatalf("%q\ngives  %s\nby HCL %s", text, g, w)
		}
	})
}

func printed(diags hcl.Diagnostics) string {
	var all []string
	for _, d := range diags {
		all = append(all, d.Error())
	}
	return strings.Join(all, "\n")
}

// said is an environment without what differs by where the bytes are counted from.
func said(env *Environment) string {
	out := fmt.Sprintln(env.Name, env.AppUser, env.AdminUser, env.CIDRs, env.Range.Start.Line, env.PostgreSQL != nil, env.Store != nil)
	for _, n := range env.Nodes {
		n.Range.Start.Byte, n.Range.End.Byte = 0, 0
		out += fmt.Sprintf("%#v\n", n)
	}
	for _, name := range slices.Sorted(maps.Keys(env.Variables)) {
		given := env.Variables[name]
		out += fmt.Sprintf("%s %#v %d\n", name, given.Value, given.Range.Start.Line)
	}
	return out
}

// The plain form is read without HCL, wherever nodes may stand, and nowhere else.
func TestPlainNodesAreSetAside(t *testing.T) {
	for text, want := range map[string]int{
		production: 3,
		"environment \"e\" {\n" + plainNode + "}\n":                                           1,
		"environment \"e\" {\n" + strings.Replace(plainNode, "10.0", "10\\u002e0", 1) + "}\n": 0,
		"environment \"e\" { # " + marker + "\n" + plainNode + "}\n":                          0,
	} {
		rest, nodes, _ := setAside("environment.hcl", []byte(text))
		if len(nodes) != want {
			t.Errorf("%s\nhas %d plain nodes, not %d", text, len(nodes), want)
		}
		if want > 0 && (strings.Contains(string(rest), "address") || strings.Count(string(rest), "\n") != strings.Count(text, "\n")) {
			t.Errorf("%s\nis left as\n%s", text, rest)
		}
	}
	got := environment(t, production)
	if !reflect.DeepEqual(got.Nodes[0].Names, []string{"db1.internal"}) || got.Nodes[2].Range.Start.Line != 23 || got.Nodes[2].Range.Start.Column != 3 {
		t.Errorf("got %+v", got.Nodes)
	}
}
