package recipe

import (
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// What once was a stack overflow, or minutes of work, is one line in a moment. A megabyte is allowed for a file.
func TestHugeRecipesAreALimitError(t *testing.T) {
	debug.SetMaxStack(64 << 20) // a deep recursion fails here before it does elsewhere
	defer debug.SetMaxStack(1 << 30)
	const mega = MaxFileBytes - 64
	fill := func(unit string) string { return strings.Repeat(unit, mega/len(unit)) }
	for _, c := range []struct{ name, text, summary string }{
		{"3 million brackets", strings.Repeat("[", 3_000_000), "File too large"},
		{"100,000 interpolations", "locals { a = " + strings.Repeat(`"${`, 100_000) + "1" + strings.Repeat(`}"`, 100_000) + "}", "Nested too deeply"},
		{"a megabyte of brackets", "locals { a = " + fill("["), "Nested too deeply"},
		{"a megabyte of braces", fill("a {\n"), "Nested too deeply"},
		{"a megabyte of parentheses", "locals { a = " + fill("("), "Nested too deeply"},
		{"brackets closed by others", fill("a {\n)\n"), "Nested too deeply"},
		{"negations", "locals { a = " + fill("!") + "true }", "Expression too long"},
		{"minus signs", "locals { a = " + fill("-") + "1 }", "Expression too long"},
		{"a long sum", "locals { a = 1" + fill("+1") + " }", "Expression too long"},
		{"conditions", "locals { a = " + fill("true ? 1 : ") + "2 }", "Expression too long"},
		{"conditions within", "locals { a = " + fill("true ? ") + "2 }", "Expression too long"},
		{"indexes", "locals { a = x" + fill("[0]") + " }", "Expression too long"},
		{"splats", "locals { a = x" + fill("[*]") + " }", "Expression too long"},
		{"dots", "locals { a = x" + fill(".a") + " }", "Expression too long"},
		{"directives", "locals { a = \"" + fill("%{ if true }") + "\" }", "Nested too deeply"},
		{"directives in a heredoc", "locals {\na = <<EOT\n" + fill("%{ for a in b }\n") + "EOT\n}", "Nested too deeply"},
		{"heredocs in heredocs", "locals {\na = " + fill("<<A\n${"), "Nested too deeply"},
		{"comments never closed", fill("/* "), "Unclosed comment"},
		{"a sum in a text", `locals { a = "${1` + fill("+1") + `}" }`, "Expression too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			r, diags := Load([]Source{source("a.hcl", c.text)}, toyTypes)
			if len(diags) != 1 || diags[0].Summary != c.summary {
				t.Errorf("got %.300v, want %q", diags, c.summary)
			}
			if p, more := r.For(scopeFor(t, "app")); len(p.Blocks)+len(more) > 0 {
				t.Errorf("it is evaluated all the same: %v", more)
			}
			if env, diags := ParseEnvironment(source("a.hcl", c.text)); len(diags) != 1 || env == nil {
				t.Errorf("as an environment: %.300v", diags)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestWhatIsJustWithinTheLimitsIsRead(t *testing.T) {
	debug.SetMaxStack(64 << 20)
	defer debug.SetMaxStack(1 << 30)
	deep := MaxNesting - 1 // one is the block
	for name, text := range map[string]string{
		"brackets":       "locals {\n a = " + strings.Repeat("[", deep) + strings.Repeat("]", deep) + "\n}",
		"interpolations": "locals {\n a = " + strings.Repeat(`"${`, deep) + "1" + strings.Repeat(`}"`, deep) + "\n}",
		"operators":      "locals {\n a = 1" + strings.Repeat("+1", MaxOperators) + "\n}",
		"both":           "locals {\n a = " + strings.Repeat("(1"+strings.Repeat("+1", MaxOperators-1)+"+", deep) + "1" + strings.Repeat(")", deep) + "\n}",
		"wide":           "locals {\n a = [" + strings.Repeat("-1,[],", 20_000) + "]\n}",
		"many":           strings.Repeat("# a comment with ( and [ and { and ${ and \"\n", 20_000),
		"escaped":        "locals {\n a = \"" + strings.Repeat(`$${ %%{ \" [ ( {`, 1000) + "\"\n}",
		"heredoc":        "locals {\n a = <<EOT\n" + strings.Repeat("[({ $${ %%{ \" ' # /* <<X\n", 1000) + "EOT\n}",
	} {
		t.Run(name, func(t *testing.T) {
			r, diags := Load([]Source{source("a.hcl", text)}, toyTypes)
			_, more := r.For(scopeFor(t, "app"))
			if len(diags)+len(more) > 0 {
				t.Errorf("got %.500v %.500v", diags, more)
			}
		})
	}
}

// The quick look may say no to anything, and yes only to what the tokens say yes to as well.
func FuzzPiecesAreNeverWronglySure(f *testing.F) {
	for _, seed := range []string{
		`a { b = "${x["y"]}" }`, `"$${`, `"$$${"`, `"%%{"`, `"\${["`, `"\\${["`, "# [\n[", "/*/ [ */[", `"a
b"[`, `"${"}"}[`, `"${ [ }" [`, "a = {}\n}", `"$"[`, `"%"[`, `"${{}}[`, "<<A\n[\nA\n", `"\`, "'[", "`[", `"${~ 1 ~}"[`, "a-b.c[0]==!=>=<==>", "\xef\xbb\xbf[", `"` + "\xff" + `"[`,
	} {
		f.Add([]byte(seed), 60)
	}
	f.Fuzz(func(t *testing.T, text []byte, times int) {
		if len(text) > 2000 {
			return
		}
		text = []byte(strings.Repeat(string(text), 1+max(times, 0)%80))
		cuts, sure, _ := pieces(text)
		if !sure {
			return
		}
		tokens := tokensOf(Source{Name: "a", Bytes: text})
		if diags := checkNesting(tokens); diags.HasErrors() {
			t.Errorf("%.200q is taken for shallow: %v", text, diags)
		}
		for _, cut := range cuts {
			if !slices.ContainsFunc(tokens, func(token hclsyntax.Token) bool { return token.Range.End.Byte == cut && token.Range.Start.Byte < cut }) {
				t.Errorf("%.200q is cut within a token, at %d", text, cut)
			}
		}
		if place := openComment(tokens, len(text)); place != nil {
			t.Errorf("%.200q has an open comment", text)
		}
	})
}

// Load and For answer any text with blocks or with errors.
func FuzzLoadAndFor(f *testing.F) {
	for _, seed := range []string{
		"", "file_block \"a\" { path = \"/a\" }", `variable "x" { default = 1 }`, "locals { a = local.a }", `file_block "a" { for_each = toset(["x"]) 
 path = each.key }`, `maintenance_window "a" { start = "02:00" 
 duration = "2h" }`, "locals { a = 1/0 - 1/0 }", "locals { a = [for x in {}: x...] }", `file_block "a" {
 for_each = { x = 1 }
 path = "/${file_block.b[each.value].path}"
 depends_on = [file_block.b[each.key], file_block.b["x"], file_block.b[0], file_block.b.*]
 mode { owner = node[each.key] }
}
file_block "b" { 
 for_each = null 
 path = "/" }`, `service_reload "s" { on_change = [file_block.a, file_block[0], each.key] }`, "locals { a = var[0].b }\nvariable \"b\" { type = object({a=optional(string)}) }",
		`cert_authority "x" { expire_in_days = 1e999999999 }`, "locals { a = environment.nodes[*].name }", `user_key "a" { authority = cert_authority["x"] }`,
		`variable "v" {
 default = 1
 validation {
  condition = var.v
  error_message = [var.v]
 }
}`, `locals { a = "%{ for x in [1] }${x}%{ endfor }" }`, `locals { f = format("%s %d", "a", {}) }`,
	} {
		f.Add([]byte(seed), "1")
	}
	scope := scopeFor(f, "db_master")
	f.Fuzz(func(t *testing.T, text []byte, given string) {
		if len(text) > 10_000 {
			return
		}
		scope := scope
		scope.Vars = map[string]string{"v": given}
		r, diags := Load([]Source{{Name: "a.hcl", Bytes: text}}, toyTypes)
		p, more := r.For(scope)
		if p == nil {
			t.Fatal("no program")
		}
		all := append(diags, more...)
		if !all.HasErrors() {
			here := 0
			for _, d := range r.Blocks {
				if d.For("db_master") && !d.ForEach {
					here++
				}
			}
			if len(p.Blocks) < here {
				t.Errorf("%d blocks of %d, and no error", len(p.Blocks), here)
			}
		}
		for _, d := range all {
			if d.Detail == "" || strings.Contains(d.Detail, "goroutine") || strings.Contains(d.Detail, "runtime error") {
				t.Errorf("a poor message: %s: %s", d.Summary, d.Detail)
			}
		}
		var printed strings.Builder
		if err := WriteDiagnostics(&printed, all, r.Files, 80, false); err != nil {
			t.Error(err)
		}
		ParseEnvironment(Source{Name: "a.hcl", Bytes: text})
	})
}

// Formatting what is formatted changes nothing.
func FuzzFormatTwiceIsFormatOnce(f *testing.F) {
	f.Add([]byte("a   {\nb=1\n  ccc = [ 1,2 ]\n}\n"))
	f.Add([]byte("a {\n#x\n\tb = <<EOT\n x\n EOT\n}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, diags := parse(Source{Name: "a.hcl", Bytes: text}); diags.HasErrors() {
			return
		}
		once := Format(text)
		if twice := Format(once); string(twice) != string(once) {
			t.Errorf("once:\n%s\ntwice:\n%s", once, twice)
		}
		if _, diags := parse(Source{Name: "a.hcl", Bytes: once}); diags.HasErrors() {
			t.Errorf("the result does not parse: %v", diags)
		}
	})
}

func TestPlacesNameTheLimit(t *testing.T) {
	_, diags := Load([]Source{source("a.hcl", "\n\nlocals {\n a = "+strings.Repeat("[\n", 70))}, nil)
	if want := (hcl.Pos{Line: 67, Column: 1, Byte: 138}); len(diags) != 1 || diags[0].Subject.Start.Line != want.Line || !strings.Contains(diags[0].Detail, "a.hcl:3") {
		t.Errorf("got %v", diags)
	}
}
