package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// private is a key in the form of sshd's host keys.
func private(t testing.TB, key any, passphrase string) []byte {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	check(t, err)
	return pem.EncodeToMemory(block)
}

func ed(t testing.TB) Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	id, err := ParseIdentity(private(t, key, ""))
	check(t, err)
	return id
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	check(t, err)
	return key
}

func rsaID(t testing.TB) Identity {
	t.Helper()
	id, err := ParseIdentity(private(t, rsaKey(t, 2048), ""))
	check(t, err)
	return id
}

type said struct{ Word string }

func header() Header {
	return Header{Environment: "production", Key: "node/app1", From: "db1", Epoch: 2, Version: 7, Made: now, Expires: now.AddDate(0, 0, 90)}
}

func wanted(id Identity) Wanted {
	return Wanted{Environment: "production", Key: "node/app1", Signers: map[string]HostKey{"db1": id.Public()}, Seen: Seen{2, 7}, Now: now}
}

func TestStatement(t *testing.T) {
	for name, id := range map[string]Identity{"ed25519": ed(t), "rsa": rsaID(t)} {
		text, err := Sign(id, header(), said{"hello"})
		check(t, err)
		s, err := Verify(text, wanted(id))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var body said
		check(t, s.Decode(&body))
		if body.Word != "hello" || s.Header != header() {
			t.Errorf("%s: got %+v %+v", name, s.Header, body)
		}
	}
}

// Row 87: each statement that is not the one wanted is refused, with its kind and its reason.
func TestRefused(t *testing.T) {
	id, other := ed(t), ed(t)
	for name, c := range map[string]struct {
		head func(*Header)
		want func(*Wanted)
		kind RefusedKind
		says string
	}{
		"older":             {func(h *Header) { h.Version = 6 }, nil, Replayed, "version 6, and version 7 was seen"},
		"older epoch":       {func(h *Header) { h.Epoch, h.Version = 1, 100 }, nil, Fenced, "db1 is no longer the authority"},
		"other environment": {func(h *Header) { h.Environment = "staging" }, nil, Foreign, `"staging", and this is "production"`},
		"other node's":      {func(h *Header) { h.Key = "node/app2" }, nil, Foreign, "made for node/app2"},
		"unknown signer":    {func(h *Header) { h.From = "app9" }, nil, Foreign, `"app9", which has no say in this: db1 has`},
		"expired":           {func(h *Header) { h.Made, h.Expires = now.AddDate(0, -4, 0), now.AddDate(0, -1, 0) }, nil, Expired, "run converge apply on db1"},
		"of tomorrow":       {func(h *Header) { h.Made, h.Expires = now.AddDate(0, 1, 0), now.AddDate(0, 2, 0) }, nil, Foreign, "mend the clock"},
		"other key":         {nil, func(w *Wanted) { w.Signers["db1"] = other.Public() }, Damaged, "forged or damaged, or the host key of db1 was changed"},
		"no key known":      {nil, func(w *Wanted) { w.Signers["db1"] = HostKey{} }, Foreign, "no host_key is known here"},
	} {
		h, w := header(), wanted(id)
		if c.head != nil {
			c.head(&h)
		}
		if c.want != nil {
			c.want(&w)
		}
		text, err := Sign(id, h, said{"hello"})
		check(t, err)
		_, err = Verify(text, w)
		var r *Refused
		if !errors.As(err, &r) || r.Kind != c.kind || !strings.Contains(r.Reason, c.says) {
			t.Errorf("%s: got %v, want %s: %s", name, err, c.kind, c.says)
		}
	}
	for _, version := range []int64{0, -1, 1<<53 + 1, 1<<63 - 1} {
		h := header()
		h.Version = version
		if _, err := Sign(id, h, said{}); err == nil {
			t.Errorf("version %d was signed", version)
		}
	}
}

// The newest statement is taken again, a newer one too, and one of a later epoch whatever its version.
func TestTaken(t *testing.T) {
	id := ed(t)
	for _, v := range []Seen{{2, 7}, {2, 8}, {3, 1}} {
		h := header()
		h.Epoch, h.Version = v.Epoch, v.Version
		text, err := Sign(id, h, said{})
		check(t, err)
		if _, err := Verify(text, wanted(id)); err != nil {
			t.Errorf("%+v: %v", v, err)
		}
	}
}

// Row 86: a statement that is cut off anywhere, or has one bit changed anywhere, or a byte more, is refused.
func TestEveryBit(t *testing.T) {
	for _, id := range []Identity{ed(t), rsaID(t)} {
		text, err := Sign(id, header(), said{"hello"})
		check(t, err)
		refused := func(b []byte, what string) {
			if _, err := Verify(b, wanted(id)); err == nil {
				t.Errorf("%s was taken", what)
			}
		}
		for n := range len(text) {
			refused(text[:n], fmt.Sprintf("cut off at %d", n))
			for bit := range 8 {
				b := bytes.Clone(text)
				b[n] ^= 1 << bit
				refused(b, fmt.Sprintf("with bit %d of byte %d changed", bit, n))
			}
		}
		for _, more := range []string{"\n", " ", "x", "{}"} {
			refused(append(bytes.Clone(text), more...), "with more behind it")
			refused(append([]byte(more), text...), "with more before it")
		}
	}
}

// A signature by the same key over other bytes, as sshd makes them for every connection, is none over a statement.
func TestSignatureOfSSHD(t *testing.T) {
	id := ed(t)
	h := header()
	payload, err := json.Marshal(Statement{h, json.RawMessage(`{"Word":"x"}`)})
	check(t, err)
	sig, err := id.held().signer.Sign(rand.Reader, payload)
	check(t, err)
	if _, err := Verify(envelope(sig.Blob, payload), wanted(id)); err == nil {
		t.Error("a signature without the preamble was taken")
	}
}

func TestUnknownFields(t *testing.T) {
	id := ed(t)
	text, err := Sign(id, header(), map[string]string{"Word": "x", "More": "y"})
	check(t, err)
	s, err := Verify(text, wanted(id))
	check(t, err)
	if err := s.Decode(&said{}); err == nil || !strings.Contains(err.Error(), "this version of converge") {
		t.Errorf("got %v", err)
	}
}

func TestSeal(t *testing.T) {
	a, b, stranger := ed(t), rsaID(t), ed(t)
	sealed, err := Seal([]byte("private"), a.Public(), b.Public())
	check(t, err)
	for _, id := range []Identity{a, b} {
		plain, err := id.Open(sealed)
		if err != nil || string(plain) != "private" {
			t.Errorf("got %q %v", plain, err)
		}
	}
	if _, err := stranger.Open(sealed); !errors.Is(err, ErrSealedToOthers) || !strings.Contains(err.Error(), stranger.Public().Fingerprint()) {
		t.Errorf("a stranger got %v", err)
	}
	if _, err := (Identity{}).Open(sealed); err == nil {
		t.Error("nobody opened it")
	}
	for n := range len(sealed) {
		cut := sealed[:n]
		changed := bytes.Clone(sealed)
		changed[n] ^= 1
		for _, damaged := range [][]byte{cut, changed} {
			if plain, err := a.Open(damaged); err == nil {
				t.Fatalf("byte %d: opened to %q", n, plain)
			}
		}
	}
}

// Row 89: host keys that cannot be used are named, with the fix.
func TestHostKeysThatCannotBeUsed(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	short := rsaKey(t, 1024)
	public := func(key any) string {
		p, err := ssh.NewPublicKey(key)
		check(t, err)
		return string(ssh.MarshalAuthorizedKey(p))
	}
	for name, c := range map[string]struct{ line, says string }{
		"ecdsa":     {public(&curve.PublicKey), "kind ecdsa-sha2-nistp256 cannot open"},
		"short rsa": {public(&short.PublicKey), "RSA key of less than 2048 bits"},
		"nonsense":  {"ssh-ed25519 AAAA", "no public host key"},
		"empty":     {"", "no public host key"},
		"two":       {public(edKey.Public()) + public(edKey.Public()), "no public host key"},
	} {
		if _, err := ParseHostKey(c.line); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "ssh_host_ed25519_key.pub") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		pem  []byte
		says string
	}{
		"ecdsa":      {private(t, curve, ""), "ecdsa-sha2-nistp256"},
		"passphrase": {private(t, edKey, "secret"), "it has a passphrase"},
		"nonsense":   {[]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), "no private SSH key"},
	} {
		if _, err := ParseIdentity(c.pem); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestIdentityIsNotPrinted(t *testing.T) {
	id := ed(t)
	for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{id, &id, struct{ I Identity }{id}} {
			if got := fmt.Sprintf(form, v); len(got) > 60 {
				t.Errorf("%s: %s", form, got)
			}
		}
	}
	b, err := json.Marshal(struct{ I Identity }{id})
	check(t, err)
	if string(b) != `{"I":"(host key)"}` {
		t.Errorf("got %s", b)
	}
}

// Whatever the bytes, Verify takes only what the signer signed.
func FuzzVerify(f *testing.F) {
	id := ed(f)
	text, err := Sign(id, header(), said{"hello"})
	check(f, err)
	f.Add(text)
	f.Add([]byte(preamble + signatureLine + "AAAA\n\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Verify(b, wanted(id)); err == nil && !bytes.Equal(b, text) {
			t.Fatalf("%q was taken", b)
		}
	})
}
