package recipe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

func addresses(p *Program) []string {
	var all []string
	for _, b := range p.Blocks {
		all = append(all, b.Address.String())
	}
	return all
}

func targets(refs []Ref) []string {
	var all []string
	for _, r := range refs {
		all = append(all, r.To.String())
	}
	return all
}

func wantStrings(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestBlocksComeAfterWhatTheyReferToAndElseInDeclaredOrder(t *testing.T) {
	p := program(t, "db_master", `
		file_block "a" {
			path    = "/a"
			content = file_block.c.path
		}
		file_block "b" { path = "/b" }
		file_block "c" { path = "/c" }
	`)
	wantStrings(t, "order", addresses(p), "file_block.b", "file_block.c", "file_block.a")
	var declared []int
	for _, b := range p.Blocks {
		declared = append(declared, b.Declared)
	}
	if !slices.Equal(declared, []int{1, 2, 0}) {
		t.Errorf("declared numbers are %v, want [1 2 0]", declared)
	}
}

func TestReferencesAreKeptInOrderOfAppearanceAndOnce(t *testing.T) {
	p := program(t, "db_master", `
		locals { both = "${file_block.b.path} ${file_block.a.path}" }
		file_block "a" { path = "/a" }
		file_block "b" { path = "/b" }
		file_block "c" { path = "/c" }
		file_block "d" {
			depends_on = [file_block.c]
			path       = "/d"
			content    = "${file_block.a.path}${file_block.a.path}${local.both}"
			mode { owner = file_block.c.path }
		}
	`)
	last := p.Blocks[len(p.Blocks)-1]
	wantStrings(t, "after", targets(last.After), "file_block.c", "file_block.a", "file_block.b")
	if content := *last.Config.(*toyFile).Content; content != "/a/a/b /a" {
		t.Errorf("content is %q", content)
	}
	if line := last.After[0].Range.Start.Line; line != 7 {
		t.Errorf("the first reference is at line %d, want 7", line)
	}
}

func TestForEachMakesOneBlockForEachKeyInOrder(t *testing.T) {
	p := program(t, "db_master", `
		cert_authority "environment" {}
		user_key "staff" {
			for_each       = { bob = 10, alice = 20 }
			authority      = cert_authority.environment
			expire_in_days = each.value
		}
		file_block "of" {
			for_each = toset(["bob", "alice"])
			path     = user_key.staff[each.key].cert_file
		}
		file_block "all" {
			path    = "/all"
			content = join(",", [for key in values(user_key.staff) : key.user])
		}
		file_block "one" { path = user_key.staff["bob"].cert_file }
		file_block "waits" {
			path       = "/waits"
			depends_on = [user_key.staff]
		}
		service_reload "postgresql" { on_change = [user_key.staff["alice"], file_block.of] }
	`)
	wantStrings(t, "order", addresses(p), "cert_authority.environment", `user_key.staff["alice"]`, `user_key.staff["bob"]`,
		`file_block.of["alice"]`, `file_block.of["bob"]`, "file_block.all", "file_block.one", "file_block.waits", "service_reload.postgresql")
	if days := *p.Blocks[1].Config.(*toyKey).ExpireInDays; days != 20 {
		t.Errorf("alice's key lasts %d days, want 20", days)
	}
	wantStrings(t, "one by computed key", targets(p.Blocks[3].After), `user_key.staff["alice"]`)
	wantStrings(t, "all", targets(p.Blocks[5].After), `user_key.staff["alice"]`, `user_key.staff["bob"]`)
	wantStrings(t, "one", targets(p.Blocks[6].After), `user_key.staff["bob"]`)
	wantStrings(t, "depends_on", targets(p.Blocks[7].After), `user_key.staff["alice"]`, `user_key.staff["bob"]`)
	wantStrings(t, "on_change", targets(p.Blocks[8].OnChange), `user_key.staff["alice"]`, `file_block.of["alice"]`, `file_block.of["bob"]`)
	wantStrings(t, "after", targets(p.Blocks[8].After), targets(p.Blocks[8].OnChange)...)
	if content := *p.Blocks[5].Config.(*toyFile).Content; content != "alice,bob" {
		t.Errorf("content is %q", content)
	}
	if key := p.Blocks[1].EachKey; key != cty.StringVal("alice") || p.Blocks[0].EachKey != cty.NilVal {
		t.Errorf("each.key is %#v, and without for_each %#v", key, p.Blocks[0].EachKey)
	}
}

func TestAKeyInAForLoopMeansAllInstances(t *testing.T) {
	p := program(t, "db_master", `
		file_block "of" {
			for_each = toset(["x", "y"])
			path     = "/${each.key}"
		}
		file_block "sum" {
			for_each = toset(["x"])
			path     = "/sum"
			lines    = [for each in [{ key = "y" }] : file_block.of[each.key].path]
		}
	`)
	last := p.Blocks[2]
	wantStrings(t, "after", targets(last.After), `file_block.of["x"]`, `file_block.of["y"]`)
	wantStrings(t, "lines", last.Config.(*toyFile).Lines, "/y")
}

func TestARecipeHasForARoleOnlyItsBlocks(t *testing.T) {
	text := `
		locals { client = file_block.client.path }
		file_block "client" {
			roles = ["app", "app_master"]
			path  = "/client"
		}
		file_block "copy" {
			roles   = ["app"]
			path    = "/copy"
			content = local.client
		}
		file_block "hba" {
			roles = ["db_master"]
			path  = postgresql.hba_file
		}
		service_reload "postgresql" { on_change = [file_block.client, file_block.hba] }
	`
	wantStrings(t, "db_master", addresses(program(t, "db_master", text)), "file_block.hba", "service_reload.postgresql")
	app := program(t, "app", text)
	wantStrings(t, "app", addresses(app), "file_block.client", "file_block.copy", "service_reload.postgresql")
	wantStrings(t, "on_change", targets(app.Blocks[2].OnChange), "file_block.client")
	wantStrings(t, "util", addresses(program(t, "util", text)), "service_reload.postgresql")
}

func TestAVariableTakesTheLastValueGiven(t *testing.T) {
	text := `
		variable "days" {
			type    = number
			default = 1
		}
		variable "names" {
			type    = list(string)
			default = []
		}
		variable "word" {
			type    = string
			default = null
		}
		variable "open" { default = true }
		file_block "a" {
			path    = "/a"
			content = jsonencode([var.days, var.names, var.word, var.open])
		}
	`
	given := map[string]Given{"days": {Value: cty.NumberIntVal(2)}, "word": {Value: cty.StringVal("env")}}
	for _, c := range []struct {
		name string
		env  map[string]Given
		vars map[string]string
		want string
	}{
		{"defaults", nil, nil, `[1,[],null,true]`},
		{"environment", given, nil, `[2,[],"env",true]`},
		{"var over environment", given, map[string]string{"days": "3", "names": `["a"]`, "word": `"x" ${y}`, "open": "false"}, `[3,["a"],"\"x\" ${y}",false]`},
		{"converted", nil, map[string]string{"days": `"4"`, "open": `{"a": [1, null]}`}, `[4,[],null,{"a":[1,null]}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, diags := Load([]Source{source("a.hcl", text)}, toyTypes)
			scope := scopeFor(t, "app")
			scope.Environment.Variables, scope.Vars = c.env, c.vars
			p, more := r.For(scope)
			if len(diags)+len(more) > 0 {
				t.Fatal(diags, more)
			}
			if got := *p.Blocks[0].Config.(*toyFile).Content; strings.ReplaceAll(got, `\u0022`, `\"`) != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestASensitiveValueIsKnownByItsArgumentAndNeverPrinted(t *testing.T) {
	text := `
		variable "secret" {
			type      = string
			sensitive = true
			default   = ""
		}
		file_block "a" {
			path    = "/a"
			content = "x${var.secret}"
		}
		file_block "b" {
			path    = "/b"
			content = file_block.a.content
		}
		file_block "c" { path = var.secret }
		cert_authority "d" { expire_in_days = var.secret }
		file_block "e" {
			path  = "/e"
			lines = [tonumber(var.secret), regex("a(", var.secret), var.secret[3]]
		}
	`
	r, diags := Load([]Source{source("a.hcl", text)}, toyTypes)
	scope := scopeFor(t, "app")
	scope.Vars = map[string]string{"secret": "hunter2"}
	p, more := r.For(scope)
	if diags.HasErrors() || !more.HasErrors() {
		t.Fatal(diags, more)
	}
	for _, b := range p.Blocks {
		wantStrings(t, b.Address.String(), b.Sensitive, "content")
	}
	var printed strings.Builder
	if err := WriteDiagnostics(&printed, more, r.Files, 0, false); err != nil {
		t.Fatal(err)
	}
	if text := printed.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "(sensitive)") {
		t.Errorf("the messages hold the secret, or nothing in its place:\n%s", text)
	}
}

func TestNullMeansLeftOut(t *testing.T) {
	p := program(t, "app", `
		file_block "a" {
			path    = "/a"
			content = null
			lines   = null
		}
	`)
	if c := p.Blocks[0].Config.(*toyFile); c.Content != nil || c.Lines != nil {
		t.Errorf("got %v %v, want both nil", c.Content, c.Lines)
	}
}

func TestAFailedBlockDoesNotMakeMistakesOfThoseThatReferToIt(t *testing.T) {
	r, _ := Load([]Source{source("a.hcl", `
		file_block "a" { path = "relative" }
		locals { p = file_block.a.path }
		file_block "b" {
			path       = local.p
			depends_on = [file_block.a]
			lines      = [for l in [file_block.a.content] : l]
		}
		file_block "c" { path = file_block.b.nothing }
		file_block "d" { path = "/d" }
	`)}, toyTypes)
	p, diags := r.For(scopeFor(t, "app"))
	if len(diags) != 1 || diags[0].Summary != "Invalid path" {
		t.Errorf("got %v, want the one mistake", diags)
	}
	wantStrings(t, "what could be evaluated", addresses(p), "file_block.d")
}

func TestAChainOfTenThousandIsNoCycleAndClosedItIs(t *testing.T) {
	var text strings.Builder
	const n = 10_000
	for i := range n {
		fmt.Fprintf(&text, "file_block \"f%d\" {\n path = \"/f\"\n content = file_block.f%d.path\n}\n", i, i+1)
	}
	open := text.String() + fmt.Sprintf("file_block \"f%d\" { path = \"/f\" }\n", n)
	p := program(t, "app", open)
	if len(p.Blocks) != n+1 || p.Blocks[0].Address.Name != "f10000" {
		t.Errorf("got %d blocks, the first %s", len(p.Blocks), p.Blocks[0].Address)
	}
	closed := text.String() + fmt.Sprintf("file_block \"f%d\" {\n path = \"/f\"\n content = file_block.f0.path\n}\n", n)
	r, _ := Load([]Source{source("a.hcl", closed)}, toyTypes)
	p, diags := r.For(scopeFor(t, "app"))
	if len(p.Blocks) != 0 || len(diags) != 1 || strings.Count(diags[0].Detail, "refers to") != n+1 {
		t.Errorf("got %d blocks and %d diagnostics", len(p.Blocks), len(diags))
	}
}

func TestTooManyInstancesAreALimitError(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100,000 blocks")
	}
	text := `
		locals {
			ten  = range(10)
			many = toset(flatten([for a in local.ten : [for b in local.ten : [for c in local.ten : [for d in local.ten : [for e in local.ten : "${a}${b}${c}${d}${e}"]]]]]))
		}
		file_block "a" {
			for_each = local.many
			path     = "/a"
		}
		file_block "b" { path = "/b" }
	`
	r, diags := Load([]Source{source("a.hcl", text)}, toyTypes)
	_, more := r.For(scopeFor(t, "app"))
	if diags.HasErrors() || len(more) != 1 || more[0].Summary != "Too many blocks" {
		t.Errorf("got %v %v, want one limit error", diags, more)
	}
}

// Whatever refers to whatever, blocks come after what they refer to; a circle is an error.
func TestOrderHoldsForAnyGraph(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "blocks")
		var text strings.Builder
		needs := make([][]int, n)
		for i := range n {
			needs[i] = rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 2).Draw(t, "needs")
			var refs []string
			for _, to := range needs[i] {
				refs = append(refs, fmt.Sprintf("file_block.f%d", to))
			}
			fmt.Fprintf(&text, "file_block \"f%d\" {\n path = \"/f\"\n depends_on = [%s]\n}\n", i, strings.Join(refs, ", "))
		}
		r, diags := Load([]Source{source("a.hcl", text.String())}, toyTypes)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		env, err := Single("db1", "app", netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		p, diags := r.For(Scope{Environment: env, Node: env.Nodes[0]})
		if cyclic := hasCircle(needs); cyclic != diags.HasErrors() {
			t.Fatalf("circle: %v, diagnostics: %v", cyclic, diags)
		}
		seen := map[Address]bool{}
		for _, b := range p.Blocks {
			for _, ref := range b.After {
				if !seen[ref.To] {
					t.Fatalf("%s comes before %s", b.Address, ref.To)
				}
			}
			seen[b.Address] = true
		}
		if !diags.HasErrors() && len(p.Blocks) != n {
			t.Fatalf("got %d blocks of %d", len(p.Blocks), n)
		}
	})
}

// hasCircle takes away what needs nothing that is left, until nothing more can be taken.
func hasCircle(needs [][]int) bool {
	gone := make([]bool, len(needs))
	for range needs {
		for i := range needs {
			gone[i] = gone[i] || !slices.ContainsFunc(needs[i], func(to int) bool { return !gone[to] })
		}
	}
	return slices.Contains(gone, false)
}

func TestReferencedWantsABlockOfItsType(t *testing.T) {
	authority := cty.ObjectVal(map[string]cty.Value{"address": cty.StringVal("cert_authority.e"), "type": cty.StringVal("cert_authority"), "cert_file": cty.StringVal("/c")})
	got, diags := Referenced(authority, "cert_authority", hcl.Range{})
	if diags.HasErrors() || got.Address != (Address{Type: "cert_authority", Name: "e"}) || got.String("cert_file") != "/c" || got.String("no") != "" {
		t.Errorf("got %v %v", got, diags)
	}
	for name, value := range map[string]cty.Value{
		"nothing": cty.NilVal, "null": cty.NullVal(cty.DynamicPseudoType), "text": cty.StringVal("x"), "number": cty.NumberIntVal(1),
		"object": cty.EmptyObjectVal, "unknown": cty.DynamicVal, "other type": authority, "instances": cty.ObjectVal(map[string]cty.Value{"a": authority}),
	} {
		if _, diags := Referenced(value, "file_block", hcl.Range{Filename: "x"}); len(diags) != 1 || diags[0].Subject.Filename != "x" {
			t.Errorf("%s: got %v, want one error with its place", name, diags)
		}
	}
}

func TestAddressesAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Address{Type: "user_key", Name: rapid.StringMatching(`[a-z_][a-z0-9_-]{0,20}`).Draw(t, "name"), HasKey: rapid.Bool().Draw(t, "has key")}
		if want.HasKey {
			want.Key = rapid.String().Draw(t, "key")
		}
		got, err := ParseAddress(want.String())
		if err != nil || got != want {
			t.Fatalf("%q is read as %v, %v", want, got, err)
		}
	})
	for _, wrong := range []string{"", "a", "a.", ".a", "a.b.c", `a.b[c]`, `a.b["c"`, `a.b["c"]x`, "a.b[`c`]", "a b.c", `a.b["c"]["d"]`} {
		if got, err := ParseAddress(wrong); err == nil {
			t.Errorf("%q is read as %v", wrong, got)
		}
	}
}

func TestFunctionsOfNetworks(t *testing.T) {
	p := program(t, "app", `
		file_block "a" {
			path  = "/a"
			lines = [
				cidrhost("10.0.0.0/8", 5), cidrhost("10.0.0.0/24", -1), cidrhost("fd00::/64", 16), cidrhost("10.1.2.3/32", 0),
				cidrsubnet("10.0.0.0/8", 8, 2), cidrsubnet("fd00::/48", 16, 65535), cidrsubnet("10.0.0.0/8", 0, 0), cidrsubnet("0.0.0.0/0", 32, 4294967295),
			]
		}
	`)
	wantStrings(t, "addresses", p.Blocks[0].Config.(*toyFile).Lines, "10.0.0.5", "10.0.0.255", "fd00::10", "10.1.2.3",
		"10.2.0.0/16", "fd00:0:0:ffff::/64", "10.0.0.0/8", "255.255.255.255/32")
}

func TestDiagnosticsArePrintedInOneOrderAndNotWithoutEnd(t *testing.T) {
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "file_block \"f%d\" { pth = \"/\" }\n", i)
	}
	src := []Source{source("b.hcl", text.String()), source("a.hcl", `x = 1`)}
	r, diags := Load(src, toyTypes)
	slices.Reverse(diags)
	var printed strings.Builder
	if err := WriteDiagnostics(&printed, diags, r.Files, 80, false); err != nil {
		t.Fatal(err)
	}
	if got := printed.String(); !strings.HasPrefix(got, "Error: Argument outside a block\n\n  on a.hcl line 1:") || !strings.HasSuffix(got, "... and 501 more.\n") {
		t.Errorf("begins %.80q and ends %q", got, got[len(got)-40:])
	}
	if err := WriteDiagnostics(full{}, diags, r.Files, 80, true); !errors.Is(err, errFull) {
		t.Errorf("the writer's error is %v", err)
	}
}

var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// The promise is half a second and a straight line; ten times as long for ten times as many, with room for a busy machine.
func TestTenThousandBlocksAreReadInHalfASecond(t *testing.T) {
	if testing.Short() {
		t.Skip("measures time")
	}
	least := func(n int) time.Duration {
		sources, best := manyBlocks(n), time.Hour
		for range 3 {
			start := processorTime(t)
			readAll(t, sources)
			best = min(best, processorTime(t)-start)
		}
		return best
	}
	few, many := least(1000), least(10_000)
	t.Logf("processor time of 1,000 blocks: %s, of 10,000: %s", few, many)
	if many > 25*few {
		t.Errorf("1,000 blocks take %s and 10,000 take %s: that is no straight line", few, many)
	}
}

// processorTime is what this process has used. The time on the wall says more about what else the machine does.
func processorTime(t *testing.T) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// A file that is parsed in pieces has the same blocks at the same places as one that is not.
func TestPiecesOfAFileAreWhereTheyWere(t *testing.T) {
	filler := strings.Repeat("# a comment, with an opening brace { in it\n", 1000)
	text := "file_block \"a\" {\n path = \"/a\"\n}\n" + filler + "file_block \"b\" {\n pth = \"ä\"\n}\n" + filler + "locals {\n x = 1\n\n\n}\n" + filler + "file_block \"a\" {}\n"
	var printed [2]strings.Builder
	for i, text := range []string{text, text + "locals {\n h = <<EOT\n a heredoc makes it be parsed at once\nEOT\n}\n"} {
		src := source("a.hcl", text)
		file, _ := parse(src)
		if _, cut := file.Nav.(places); cut != (i == 0) {
			t.Errorf("text %d is cut: %v", i, cut)
		}
		r, diags := Load([]Source{src}, toyTypes)
		if len(diags) != 3 {
			t.Errorf("got %v", diags)
		}
		if err := WriteDiagnostics(&printed[i], diags, r.Files, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := printed[0].String(), printed[1].String(); a != b || !strings.Contains(a, "on a.hcl line 1004, in file_block \"b\":") {
		t.Errorf("in pieces:\n%s\nat once:\n%s", a, b)
	}
}

// manyBlocks is a chain of files, of which each also uses a variable, a local and the node.
func manyBlocks(n int) []Source {
	var sources []Source
	var text strings.Builder
	text.WriteString("variable \"dir\" { default = \"/etc\" }\nlocals { dir = \"${var.dir}/x\" }\nfile_block \"f0\" { path = \"/f\" }\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&text, "file_block \"f%d\" {\n  path    = \"${local.dir}/f%d\"\n  content = \"${node.name} ${file_block.f%d.path}\"\n}\n", i, i, i-1)
		if text.Len() > MaxFileBytes*9/10 {
			sources = append(sources, source(fmt.Sprintf("%d.hcl", len(sources)), text.String()))
			text.Reset()
		}
	}
	return append(sources, source(fmt.Sprintf("%d.hcl", len(sources)), text.String()))
}

func readAll(t testing.TB, sources []Source) {
	r, diags := Load(sources, toyTypes)
	p, more := r.For(scopeFor(t, "app"))
	if len(diags)+len(more) > 0 || len(p.Blocks) != len(r.Blocks) {
		t.Fatal(diags, more)
	}
}

func BenchmarkLoadAndFor(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 50_000} {
		sources := manyBlocks(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				readAll(b, sources)
			}
		})
	}
}

// A Config's fields of every form are filled in, the places of values and headers beside them.
func TestAStructIsFilledInFromItsTags(t *testing.T) {
	type port struct {
		Name   string    `hcl:"name,label"`
		NameAt hcl.Range `hcl:"name,label_range"`
		Header hcl.Range `hcl:",def_range"`
		Number int       `hcl:"number"`
	}
	var got struct {
		Text     string            `hcl:"text"`
		TextAt   hcl.Range         `hcl:"text,attr_value_range"`
		Missing  *string           `hcl:"missing"`
		MissAt   hcl.Range         `hcl:"missing,attr_value_range"`
		Flag     *bool             `hcl:"flag"`
		Tags     map[string]string `hcl:"tags,optional"`
		Any      cty.Value         `hcl:"any,optional"`
		Ports    []port            `hcl:"port,block"`
		Pointers []*port           `hcl:"pointer,block"`
		One      *port             `hcl:"one,block"`
		NotOne   *port             `hcl:"not_one,block"`
	}
	env := environment(t, `environment "e" {
		postgresql {
			text = "x"
			flag = true
			tags = { a = "b", c = 1 }
			any  = [1, "x"]
			port "p" { number = 1 }
			port "q" { number = 2 }
			pointer "r" { number = 3 }
			one "s" { number = 4 }
		}
	}`)
	if diags := env.PostgreSQL.Decode(&got); len(diags) > 0 {
		t.Fatal(diags)
	}
	if got.Text != "x" || got.TextAt.Start.Line != 3 || got.Missing != nil || got.MissAt != (hcl.Range{}) || !*got.Flag || got.Tags["c"] != "1" || got.Any.LengthInt() != 2 {
		t.Errorf("got %+v", got)
	}
	if len(got.Ports) != 2 || got.Ports[1].Name != "q" || got.Ports[1].Number != 2 || got.Ports[1].Header.Start.Line != 8 || got.Ports[1].NameAt.Start.Column != 9 {
		t.Errorf("got %+v", got.Ports)
	}
	if len(got.Pointers) != 1 || got.Pointers[0].Number != 3 || got.One.Name != "s" || got.NotOne != nil {
		t.Errorf("got %+v %+v %+v", got.Pointers, got.One, got.NotOne)
	}
}
