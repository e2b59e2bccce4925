package recipe

import (
	"fmt"
	"strings"
	"testing"
)

func BenchmarkParseEnvironment(b *testing.B) {
	var text strings.Builder
	text.WriteString("environment \"farm\" {\n")
	for i := range 10000 {
		role := "app"
		if i == 0 {
			role = "db_master"
		}
		fmt.Fprintf(&text, "  node \"n%d\" {\n    role = %q\n    address = \"10.%d.%d.%d\"\n    host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO93oOxAeJ/HwGLmfrztyzLa/CdEHFsoe88Icj4%05d\"\n  }\n", i, role, i>>16, i>>8&255, i&255, i)
	}
	text.WriteString("}\n")
	for b.Loop() {
		if _, diags := ParseEnvironment(Source{Name: "environment.hcl", Bytes: []byte(text.String())}); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}
