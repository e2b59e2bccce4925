package engine

import "fmt"

const secretText = "(secret)"

// A Secret holds bytes that no output may ever show: a private key, a file with a password. Printed, logged or encoded
// in any way it is the word "(secret)". Only Reveal gives the bytes, and only the code that writes them to a file calls
// it. They are held behind a function: fmt prints through unexported fields, and through pointers, of the values around
// a Secret, where no method of it is asked.
type Secret struct{ reveal func() []byte }

// NewSecret takes over b; the caller must not change it afterwards.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// Reveal returns the bytes themselves; nil for the zero Secret.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

func (Secret) String() string               { return secretText }
func (Secret) GoString() string             { return secretText }
func (Secret) MarshalText() ([]byte, error) { return []byte(secretText), nil }
func (Secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, secretText) }
