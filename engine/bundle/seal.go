package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// ErrSealedToOthers is the error of Open for what is sealed to other keys only.
var ErrSealedToOthers = errors.New("it is sealed to another host key")

// Seal encrypts plain so that the holders of these keys, and nobody else, can open it. Each call gives other bytes. It
// says nothing of who sealed it: that is what a Statement's signature is for. The format is age's
// (https://age-encryption.org/v1) with its ssh-ed25519 and ssh-rsa recipients.
func Seal(plain []byte, to ...HostKey) ([]byte, error) {
	recipients := make([]age.Recipient, len(to))
	for i, k := range to {
		r, err := k.recipient()
		if err != nil {
			return nil, fmt.Errorf("seal to the host key %s: %w", k.Fingerprint(), err)
		}
		recipients[i] = r
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out.Bytes(), nil
}

// Open decrypts what was sealed to this key. The error wraps ErrSealedToOthers when it was sealed to others only; for
// bytes that are damaged or no sealed content it is another.
func (i Identity) Open(sealed []byte) ([]byte, error) {
	if i.IsZero() {
		return nil, errors.New("there is no private host key here to open it with")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), i.held().age)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("%w: the one here is %s", ErrSealedToOthers, i.Public().Fingerprint())
	case err != nil:
		return nil, errors.New("what is sealed is damaged")
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, errors.New("what is sealed is damaged")
	}
	return plain, nil
}
