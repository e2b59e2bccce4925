package postgres

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// answering is a listener that gives this answer to whoever connects.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 8))
			conn.Write([]byte(answer))
			if answer != "silence" {
				conn.Close()
			}
		}
	}()
	return l.Addr().String()
}

func errorPacket(t *testing.T, code, message string) string {
	t.Helper()
	b, err := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: message}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What answers at a port need not be a PostgreSQL server, nor let anybody in.
func TestTryLoginOfOthers(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		stage        Stage
		text         string
		not          bool // no PostgreSQL server
	}{
		{"no TLS", "N", WithoutTLS, "", false},
		{"a mail server", "220 mail ESMTP\r\n", Greeted, `this is no PostgreSQL server: it answers "2" to the request for TLS`, true},
		{"nothing", "", Greeted, "the server closed the connection", false},
		{"TLS, and then nothing", "S", Handshaking, "the server closed the connection", false},
		{"an error that is none", "E\x00\x00\x00\x05x", Greeted, "this is no PostgreSQL server: it answers with an error that is none of PostgreSQL's", true},
	} {
		l := TryLogin(t.Context(), Client{Address: answering(t, c.answer), User: "u", Database: "d"})
		if l.Stage != c.stage || c.text != "" && (l.Err == nil || l.Err.Error() != c.text) || errors.Is(l.Err, ErrNotPostgreSQL) != c.not {
			t.Errorf("%s: stage %d, %v", c.name, l.Stage, l.Err)
		}
	}
	l := TryLogin(t.Context(), Client{Address: answering(t, errorPacket(t, "53300", "sorry, too many clients already")), User: "u", Database: "d"})
	if l.Stage != Greeted || l.Refusal == nil || l.Refusal.Code != "53300" || l.Err != nil {
		t.Errorf("too many: %+v", l)
	}
}

// Whoever says nothing is waited for as long as the context says, and no longer.
func TestTryLoginOfTheSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	login := TryLogin(ctx, Client{Address: l.Addr().String(), User: "u", Database: "d"})
	plain := TryPlaintext(ctx, Client{Address: l.Addr().String(), User: "u", Database: "d"})
	if !errors.Is(login.Err, ErrNoAnswer) || login.Stage != Greeted || !errors.Is(plain.Err, ErrNoAnswer) || plain.Admitted {
		t.Errorf("%+v, %+v", login, plain)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
}

// Names come out of the view as names, groups and keywords, whatever is in them.
func TestHBARuleText(t *testing.T) {
	r := HBARule{Type: "hostssl", Databases: []string{"all", "a b"}, Users: []string{"+staff", "+old staff", `q"t`, "@x"}, Address: "10.0.0.0", Netmask: "255.0.0.0", Method: "cert", Options: []string{"clientcert=verify-full", "map=a b"}}
	if got, want := r.Text(), `hostssl all,"a b" +staff,+"old staff","q""t","@x" 10.0.0.0/8 cert clientcert=verify-full "map=a b"`; got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	for want, address := range map[string][2]string{
		"samenet":                  {"samenet", ""},
		"10.0.1.7/32":              {"10.0.1.7", "255.255.255.255"},
		"0.0.0.0/0":                {"0.0.0.0", "0.0.0.0"},
		"10.0.0.0 255.0.255.0":     {"10.0.0.0", "255.0.255.0"},
		"2001:db8::/32":            {"2001:db8::", "ffff:ffff::"},
		"fe80::1%eth0 ffff:ffff::": {"fe80::1%eth0", "ffff:ffff::"},
	} {
		r := HBARule{Type: "host", Databases: []string{"all"}, Users: []string{"all"}, Address: address[0], Netmask: address[1], Method: "md5"}
		if got, want := r.Text(), "host all all "+want+" md5"; got != want {
			t.Errorf("%s\nnot\n%s", got, want)
		}
	}
}
