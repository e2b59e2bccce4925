package libpq

import "testing"

func TestPassword(t *testing.T) {
	const file = `# db1:5432:app:deploy:comment
db1:5432:app:alice:one
db1:*:app:deploy:two
*:*:*:bob:with\:colon\\ and space 
*:*:*:carol:three:ignored
db\:x:5432:*:*:four
fd00\:\:1:5432:*:*:five
broken
*:5432
::::empty
`
	for _, c := range []struct{ host, port, database, user, want string }{
		{"db1", "5432", "app", "alice", "one"},
		{"db1", "5433", "app", "deploy", "two"},
		{"db2", "5432", "app", "deploy", ""},
		{"any", "1", "x", "bob", `with:colon\ and space `},
		{"any", "1", "x", "carol", "three"},
		{"db:x", "5432", "x", "y", "four"},
		{"fd00::1", "5432", "x", "y", "five"},
		{"db1", "5432", "ap", "alice", ""},
		{"db1", "5432", "appx", "alice", ""},
		{"", "", "", "", "empty"},
	} {
		if got, _ := Password(file, c.host, c.port, c.database, c.user); got != c.want {
			t.Errorf("%v: %q", c, got)
		}
	}
	if got, ok := Password("a:1:b:c:crlf\r\n", "a", "1", "b", "c"); got != "crlf" || !ok {
		t.Errorf("%q", got)
	}
}
