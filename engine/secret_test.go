package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A Secret shows in no way of printing, alone or inside other values.
func TestSecretIsNeverPrinted(t *testing.T) {
	const canary = "canary-0123456789"
	s := NewSecret([]byte(canary))
	hidden := struct {
		s  Secret
		p  *Secret
		in []Secret
	}{s, &s, []Secret{s}}
	var told strings.Builder
	for _, v := range []any{s, &s, hidden, &hidden, []any{s}, map[string]any{"k": s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T", "%w"} {
			fmt.Fprintf(&told, verb+"\n", v)
		}
		b, err := json.Marshal(v)
		if err != nil && !strings.Contains(err.Error(), "unsupported") {
			t.Fatal(err)
		}
		told.Write(b)
	}
	fmt.Fprint(&told, errors.Join(fmt.Errorf("write %v", s)))
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), "99 97 110 97 114 121", "Y2FuYXJ5"} {
		if strings.Contains(told.String(), form) {
			t.Errorf("%q is in %s", form, told.String())
		}
	}
	if string(s.Reveal()) != canary {
		t.Error("Reveal does not reveal")
	}
}

func TestRedact(t *testing.T) {
	for _, c := range []struct{ name, text, gone string }{
		{"conninfo", "primary_conninfo = 'host=db1 user=rep password=canary port=5432'", "canary"},
		{"quoted in conninfo", `password='can ary' host=x`, "can ary"},
		{"ldap", `host all all 0/0 ldap ldapserver=x ldapbindpasswd="ca,nary" ldapbasedn="dc"`, "ca,nary"},
		{"radius", `radiussecrets="canary"`, "canary"},
		{"url", "postgres://deploy:canary@db1/app", "canary"},
		{"environment", "PGPASSWORD=canary psql", "canary"},
		{"yaml", "  password: canary", "canary"},
		{"comment", "# the admin password is canary", "canary"},
		{"passphrase command", "ssl_passphrase_command = 'echo canary'", "canary"},
		{"pem", "-----BEGIN EC PRIVATE KEY-----\ncanary\nxx\n-----END EC PRIVATE KEY-----\n", "canary"},
		{"pem cut off", "a\n-----BEGIN PRIVATE KEY-----\ncanary\n", "canary"},
		{"base64", strings.Repeat("canary12", 8), "canary12"},
	} {
		if got := Redact(c.text); strings.Contains(got, c.gone) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	for _, plain := range []string{"hostssl all deploy 10.0.0.0/8 scram-sha-256 clientcert=verify-full", "/etc/postgresql/15/main/ssl/server.key", "password_encryption is not here"} {
		if got := Redact(plain); got != plain && !strings.Contains(plain, "password") {
			t.Errorf("%q became %q", plain, got)
		}
	}
}
