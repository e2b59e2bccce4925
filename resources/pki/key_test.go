package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestPrivateKeyIsNeverPrinted looks for the key in everything that formats it, whole or in pieces, in four spellings.
func TestPrivateKeyIsNeverPrinted(t *testing.T) {
	for _, algorithm := range []Algorithm{ECDSAP256, ECDSAP384, RSA2048, Ed25519} {
		key := makeKey(t, algorithm)
		secret := key.DER()
		inside := struct{ key PrivateKey }{key} // fmt asks no method of an unexported field
		outside := struct {
			Key  PrivateKey
			Keys map[string]PrivateKey
		}{key, map[string]PrivateKey{"a": key}}
		var said bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T", "%!", "%w", "% x", "%10s"} {
			for _, value := range []any{key, &key, []PrivateKey{key}, inside, &inside, outside, &outside, struct{ a, b any }{key, &key}} {
				fmt.Fprintf(&said, verb+"\n", value)
			}
		}
		fmt.Fprintln(&said, key, fmt.Errorf("with %v: %w", key, errors.New("x")), key.String(), key.GoString())
		for _, handler := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
			slog.New(handler).Info("made", "key", key, "in", inside, "out", outside)
		}
		for _, value := range []any{key, &key, outside, inside} {
			data, _ := json.Marshal(value)
			said.Write(data)
			data, _ = xml.Marshal(value)
			said.Write(data)
			gob.NewEncoder(&said).Encode(value)
		}
		for at := 0; at+12 <= len(secret); at++ {
			piece := secret[at : at+12]
			for _, spelling := range [][]byte{piece, []byte(hex.EncodeToString(piece)), []byte(strings.ToUpper(hex.EncodeToString(piece))),
				[]byte(base64.StdEncoding.EncodeToString(piece)), []byte(strings.Trim(fmt.Sprint(piece), "[]")), fmt.Appendf(nil, "% x", piece)} {
				if bytes.Contains(said.Bytes(), spelling) {
					t.Fatalf("%s: %q of the key is in the output", algorithm, spelling)
				}
			}
		}
		if data, err := json.Marshal(outside); err != nil || string(data) != `{"Key":"(private key)","Keys":{"a":"(private key)"}}` {
			t.Errorf("JSON is %s, %v", data, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if got := fmt.Sprintf(verb, key); got != "(private key)" {
				t.Errorf("%s gives %s", verb, got)
			}
			if got := fmt.Sprintf(verb, PrivateKey{}); got != "(private key)" {
				t.Errorf("%s of no key gives %s", verb, got)
			}
		}
	}
}

func TestNoKey(t *testing.T) {
	var none PrivateKey
	if !none.IsZero() || none.PEM() != nil || none.DER() != nil || none.Algorithm() != "" || none.Matches(Certificate{}) {
		t.Error("the zero key is something")
	}
	var cert Certificate
	if !cert.IsZero() || cert.PEM() != nil || cert.Fingerprint() != "" || cert.Algorithm() != "" || cert.String() != "no certificate" {
		t.Error("the zero certificate is something")
	}
	ca, caKey := makeAuthority(t, noon, production)
	if none.Matches(ca) || !caKey.Matches(ca) || makeKey(t, RSA2048).Matches(ca) || makeKey(t, Ed25519).Matches(ca) {
		t.Error("a key matches what it should not")
	}
	before := caKey.DER()
	clear(caKey.DER())
	if !bytes.Equal(before, caKey.DER()) {
		t.Error("DER gives its own bytes away")
	}
}

// TestKeysByOpenSSL reads every form that openssl writes.
func TestKeysByOpenSSL(t *testing.T) {
	dir := t.TempDir()
	openssl(t, dir, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec")
	openssl(t, dir, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa")
	openssl(t, dir, "genpkey", "-algorithm", "ED25519", "-out", "ed")
	openssl(t, dir, "genpkey", "-algorithm", "X25519", "-out", "x25519")
	openssl(t, dir, "ec", "-in", "ec", "-out", "sec1")
	openssl(t, dir, "rsa", "-in", "rsa", "-traditional", "-out", "pkcs1")
	openssl(t, dir, "ecparam", "-name", "prime256v1", "-genkey", "-out", "params")
	openssl(t, dir, "ecparam", "-name", "prime256v1", "-genkey", "-param_enc", "explicit", "-out", "explicit")
	openssl(t, dir, "pkcs8", "-topk8", "-in", "ec", "-passout", "pass:x", "-out", "pkcs8enc")
	openssl(t, dir, "rsa", "-in", "rsa", "-traditional", "-aes128", "-passout", "pass:x", "-out", "rsaenc")
	openssl(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "ec", "-outform", "DER", "-out", "der")
	openssl(t, dir, "pkey", "-in", "ec", "-pubout", "-out", "pub")
	openssl(t, dir, "genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt", "dsa_paramgen_bits:1024", "-out", "dsaparam")
	openssl(t, dir, "genpkey", "-paramfile", "dsaparam", "-out", "dsa")
	openssl(t, dir, "req", "-x509", "-key", "ec", "-subj", "/CN=x", "-out", "crt")
	openssl(t, dir, "req", "-new", "-key", "ec", "-subj", "/CN=x", "-out", "csr")
	put(t, dir, "both", append(get(t, dir, "ec"), get(t, dir, "crt")...))
	put(t, dir, "twice", append(get(t, dir, "ec"), get(t, dir, "rsa")...))
	put(t, dir, "empty", nil)
	put(t, dir, "blank", []byte(" \n"))
	put(t, dir, "text", []byte("hello\n"))
	put(t, dir, "big", bytes.Repeat([]byte("x"), 1<<20))
	put(t, dir, "cut", get(t, dir, "rsa")[:900])
	put(t, dir, "junk", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("junk")}))
	put(t, dir, "headers", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{"A": "b"}, Bytes: []byte("junk")}))
	put(t, dir, "ssh", pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("junk")}))
	tests := map[string]string{
		"ec": "ecdsa-p256", "rsa": "rsa-2048", "ed": "ed25519", "sec1": "ecdsa-p256", "pkcs1": "rsa-2048", "params": "ecdsa-p256", "both": "ecdsa-p256",
		"x25519":   "expected a private key, found a damaged private key, or one of an unknown kind",
		"dsa":      "expected a private key, found a damaged private key, or one of an unknown kind",
		"explicit": "expected a private key, found a damaged private key, or one of an unknown kind",
		"junk":     "expected a private key, found a damaged private key, or one of an unknown kind",
		"pkcs8enc": "expected a private key, found a key with a passphrase",
		"rsaenc":   "expected a private key, found a key with a passphrase",
		"der":      "expected a private key, found a private key in DER form; PEM is needed",
		"pub":      "expected a private key, found a public key",
		"crt":      "expected a private key, found a certificate",
		"csr":      "expected a private key, found a certificate request",
		"twice":    "expected a private key, found 2 private keys",
		"empty":    "expected a private key, found an empty file",
		"blank":    "expected a private key, found nothing but white space",
		"text":     "expected a private key, found text without a PEM block",
		"big":      "expected a private key, found 1048576 bytes, more than a key can have",
		"cut":      "expected a private key, found a damaged PEM block",
		"headers":  "expected a private key, found a private key with PEM headers",
		"ssh":      "expected a private key, found a private key in OpenSSH's own form",
	}
	for name, want := range tests {
		key, err := ParsePrivateKey(get(t, dir, name))
		got := string(key.Algorithm())
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, wanted is %s", name, got, want)
		}
		if errors.Is(err, ErrEncrypted) != strings.HasSuffix(name, "enc") {
			t.Errorf("%s: is encrypted is %v", name, errors.Is(err, ErrEncrypted))
		}
		if err == nil {
			again, err := ParsePrivateKey(key.PEM())
			if err != nil || !bytes.Equal(again.PEM(), key.PEM()) {
				t.Errorf("%s: it is another key when written and read: %v", name, err)
			}
		}
	}
}
