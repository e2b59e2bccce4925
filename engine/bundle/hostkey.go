package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// A HostKey is the public half of a node's SSH host key: what is sealed to it only that node opens, and what it signed
// only that node can have made.
type HostKey struct{ key ssh.PublicKey }

// minRSA is the shortest RSA key, in bits, that anything is sealed to. age has the same limit.
const minRSA = 2048

// makeOne is the way out of a host key that cannot be used.
const makeOne = "take the host's ed25519 key, /etc/ssh/ssh_host_ed25519_key.pub; where there is none, ssh-keygen -A makes it"

// ParseHostKey reads a line of a .pub or known_hosts file, "ssh-ed25519 AAAA...". Ed25519 and RSA keys can sign and open;
// the error for another kind, or one that is too short, says so.
func ParseHostKey(line string) (HostKey, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return HostKey{}, fmt.Errorf("it is no public host key, which looks like \"ssh-ed25519 AAAA...\": %s", makeOne)
	}
	return newHostKey(key)
}

func newHostKey(key ssh.PublicKey) (HostKey, error) {
	switch key.Type() {
	case ssh.KeyAlgoED25519:
	case ssh.KeyAlgoRSA:
		if public, ok := key.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey); !ok || public.N.BitLen() < minRSA {
			return HostKey{}, fmt.Errorf("it is an RSA key of less than %d bits, which protects nothing: %s", minRSA, makeOne)
		}
	default:
		return HostKey{}, fmt.Errorf("a key of the kind %s cannot open what is sealed: %s", key.Type(), makeOne)
	}
	return HostKey{key}, nil
}

// IsZero says whether there is no key at all.
func (k HostKey) IsZero() bool { return k.key == nil }

// Equal says whether two keys are one.
func (k HostKey) Equal(other HostKey) bool {
	return !k.IsZero() && !other.IsZero() && bytes.Equal(k.key.Marshal(), other.key.Marshal())
}

// Fingerprint is the key as ssh-keygen -l prints it: "SHA256:..."; "none" for the zero HostKey.
func (k HostKey) Fingerprint() string {
	if k.IsZero() {
		return "none"
	}
	return ssh.FingerprintSHA256(k.key)
}

// String is the key as a .pub file has it, without a comment.
func (k HostKey) String() string {
	if k.IsZero() {
		return "none"
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.key)))
}

func (k HostKey) recipient() (age.Recipient, error) {
	if k.key.Type() == ssh.KeyAlgoED25519 {
		return agessh.NewEd25519Recipient(k.key)
	}
	return agessh.NewRSARecipient(k.key)
}

// signatureFormat is the only form of a signature that is taken from the key: RSA with SHA-1 (RFC 4253) is not.
func (k HostKey) signatureFormat() string {
	if k.key.Type() == ssh.KeyAlgoED25519 {
		return ssh.KeyAlgoED25519
	}
	return ssh.KeyAlgoRSASHA512
}

// An Identity is the private half of a host key. It cannot be printed.
type Identity struct{ held func() held }

type held struct {
	public HostKey
	signer ssh.Signer
	age    age.Identity
}

const identityText = "(host key)"

func (Identity) String() string               { return identityText }
func (Identity) GoString() string             { return identityText }
func (Identity) Format(f fmt.State, _ rune)   { io.WriteString(f, identityText) }
func (Identity) MarshalText() ([]byte, error) { return []byte(identityText), nil }

// ParseIdentity reads a private host key as sshd has it (/etc/ssh/ssh_host_ed25519_key). One with a passphrase, or of a
// kind that ParseHostKey refuses, is an error that says so. No error has anything of the key in it.
func ParseIdentity(pem []byte) (Identity, error) {
	raw, err := ssh.ParseRawPrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return Identity{}, errors.New("it has a passphrase, and nobody is there to type it: take it off (ssh-keygen -p -N '' -f FILE); sshd itself cannot use it either")
	case err != nil:
		return Identity{}, errors.New("it is no private SSH key")
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return Identity{}, fmt.Errorf("a key of this kind cannot be used: %s", makeOne)
	}
	public, err := newHostKey(signer.PublicKey())
	if err != nil {
		return Identity{}, err
	}
	var opener age.Identity
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		opener, err = agessh.NewEd25519Identity(*key)
	case ed25519.PrivateKey:
		opener, err = agessh.NewEd25519Identity(key)
	case *rsa.PrivateKey:
		opener, err = agessh.NewRSAIdentity(key)
	default:
		return Identity{}, fmt.Errorf("a key of this kind cannot be used: %s", makeOne)
	}
	if err != nil {
		return Identity{}, errors.New("it cannot open what is sealed")
	}
	h := held{public, signer, opener}
	return Identity{func() held { return h }}, nil
}

// IsZero says whether there is no key at all.
func (i Identity) IsZero() bool { return i.held == nil }

// Public returns the public half; the zero HostKey for the zero Identity.
func (i Identity) Public() HostKey {
	if i.IsZero() {
		return HostKey{}
	}
	return i.held().public
}
