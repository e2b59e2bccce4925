package postgres

import (
	"maps"
	"strings"
	"testing"
)

func TestParseConninfo(t *testing.T) {
	for text, want := range map[string]Conninfo{
		"":                        {},
		"host=db1 port=5432":      {"host": "db1", "port": "5432"},
		" host = 'db 1'  user=x ": {"host": "db 1", "user": "x"},
		`application_name='it\'s' sslmode=verify-full password=secret`: {"application_name": "it's", "sslmode": "verify-full"},
		`a=b\ c`:     {"a": "b c"},
		"a='' b=x":   {"a": "", "b": "x"},
		"a=1 a=2":    {"a": "2"},
		"host=db1\n": {"host": "db1"},
		"a='b'c=d":   {"a": "b", "c": "d"},
	} {
		got, err := ParseConninfo(text)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: got %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"host", "host='x", "=x", "'a'=b", "postgres://u:secret@h/d"} {
		if _, err := ParseConninfo(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
