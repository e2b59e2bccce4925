// Package bundle makes and judges what nodes hand to each other through a store that nobody trusts.
//
// A Statement is what one node says: signed by its SSH host key, and bound to the environment and to the key of the
// store at which it lies, with a version that only grows and a time at which it ends. So who can write to the store can
// withhold a statement, and can do nothing else: not forge one, not move it, not bring an old one back to a node that
// has seen a newer one.
//
// What is private in a statement is sealed (Seal) to the host keys of exactly the nodes that need it. The package knows
// no host and no certificates; what a statement is about is for package resources to say.
package bundle

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Header says what a statement is, who makes it, and how long it holds.
type Header struct {
	Environment string    `json:"environment"`
	Key         string    `json:"key"`     // where it lies in the store: elsewhere it is refused
	From        string    `json:"from"`    // the node that makes and signs it
	Epoch       int64     `json:"epoch"`   // of the authority: 1 for the first node that had it, one more with each takeover
	Version     int64     `json:"version"` // 1 for the first at this key; it grows with each
	Made        time.Time `json:"made"`
	Expires     time.Time `json:"expires"`
}

// A Statement is a header with what is said, as JSON.
type Statement struct {
	Header
	Body json.RawMessage `json:"body"`
}

// preamble begins every statement, and is signed with it. sshd signs hashes of 64 bytes or less with the same key
// (RFC 4253, 8), so none of its signatures can be passed off as one of these, nor the reverse.
const preamble = "converge statement 1\n"

const signatureLine = "signature "

// Sign makes a statement: the text that goes into the store.
func Sign(id Identity, h Header, body any) ([]byte, error) {
	if id.IsZero() {
		return nil, errors.New("there is no private host key here to sign with")
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	h.Made, h.Expires = h.Made.UTC().Truncate(time.Second), h.Expires.UTC().Truncate(time.Second)
	payload, err := json.Marshal(Statement{h, b})
	if err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	signer, ok := id.held().signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("this host key cannot sign")
	}
	sig, err := signer.SignWithAlgorithm(rand.Reader, append([]byte(preamble), payload...), id.Public().signatureFormat())
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return envelope(sig.Blob, payload), nil
}

// envelope is the one form that a statement has: Verify takes no other.
func envelope(signature, payload []byte) []byte {
	out := []byte(preamble + signatureLine + base64.StdEncoding.EncodeToString(signature) + "\n\n")
	return append(append(out, payload...), '\n')
}

// largest is the largest version and epoch: JSON's numbers are exact up to there, and nobody counts so far.
const largest = 1 << 53

func (h Header) check() error {
	switch {
	case h.Version < 1 || h.Version > largest:
		return fmt.Errorf("its version is %d, which none has", h.Version)
	case h.Epoch < 0 || h.Epoch > largest:
		return fmt.Errorf("its epoch is %d, which none has", h.Epoch)
	case h.Environment == "" || h.Key == "" || h.From == "":
		return errors.New("it does not say what it is about")
	case !h.Expires.After(h.Made):
		return errors.New("it ends before it begins")
	}
	return nil
}

// A Seen is what a node remembers of the last statement that it took at a key.
type Seen struct {
	Epoch, Version int64
}

// A Wanted is what a statement has to be for a node to take it.
type Wanted struct {
	Environment string
	Key         string
	Signers     map[string]HostKey // the nodes that may make it, by name
	Seen        Seen               // the zero Seen: none yet
	Now         time.Time          // the zero Time: that it has expired is overlooked
}

// clockSlack is by how much the clock of the node that made a statement may be ahead.
const clockSlack = 24 * time.Hour

// A Refused is a statement that is not taken. What the node has stays as it is.
type Refused struct {
	Reason string
	Kind   RefusedKind
}

// A RefusedKind is a sort of reason.
type RefusedKind string

// The kinds there are.
const (
	Damaged  RefusedKind = "damaged"  // no statement, or not as it was signed
	Foreign  RefusedKind = "foreign"  // of another environment, for another place, by a node that has no say
	Replayed RefusedKind = "replayed" // older than what was seen
	Fenced   RefusedKind = "fenced"   // by a node that is no longer the authority
	Expired  RefusedKind = "expired"
)

func (r *Refused) Error() string { return r.Reason }

func refuse(kind RefusedKind, format string, args ...any) *Refused {
	return &Refused{fmt.Sprintf(format, args...), kind}
}

// Verify judges the text of a statement. The error is a *Refused.
func Verify(text []byte, w Wanted) (Statement, error) {
	signature, payload, ok := split(text)
	if !ok {
		return Statement{}, refuse(Damaged, "it is damaged: no statement of converge has this form")
	}
	var s Statement
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Statement{}, refuse(Damaged, "it is damaged: what it says cannot be read")
	}
	key, known := w.Signers[s.From]
	switch {
	case !known:
		return Statement{}, refuse(Foreign, "it says that it comes from %q, which has no say in this: %s", s.From, saying(w.Signers))
	case key.IsZero():
		return Statement{}, refuse(Foreign, "it comes from %s, of which no host_key is known here: give the node its host_key in the environment file", s.From)
	case key.key.Verify(append([]byte(preamble), payload...), &ssh.Signature{Format: key.signatureFormat(), Blob: signature}) != nil:
		return Statement{}, refuse(Damaged, "its signature is not that of %s with the host key %s: it is forged or damaged, or the host key of %s was changed and host_key in the environment file is out of date", s.From, key.Fingerprint(), s.From)
	}
	return s, s.judge(w)
}

// judge looks at what a statement with a good signature says of itself.
func (s Statement) judge(w Wanted) error {
	switch {
	case s.check() != nil:
		return refuse(Damaged, "%s", s.check())
	case s.Environment != w.Environment:
		return refuse(Foreign, "it is of the environment %q, and this is %q", s.Environment, w.Environment)
	case s.Key != w.Key:
		return refuse(Foreign, "it was made for %s: somebody has moved it", s.Key)
	case s.Epoch < w.Seen.Epoch:
		return refuse(Fenced, "it is of epoch %d, and epoch %d was seen: %s is no longer the authority", s.Epoch, w.Seen.Epoch, s.From)
	case s.Epoch == w.Seen.Epoch && s.Version < w.Seen.Version:
		return refuse(Replayed, "it is version %d, and version %d was seen: an old one was brought back", s.Version, w.Seen.Version)
	case w.Now.IsZero():
		return nil
	case s.Made.After(w.Now.Add(clockSlack)):
		return refuse(Foreign, "it was made on %s, which is yet to come: mend the clock of %s, or of this node", s.Made.Format(time.DateTime), s.From)
	case w.Now.After(s.Expires):
		return refuse(Expired, "it has expired on %s: run converge apply on %s", s.Expires.Format(time.DateOnly), s.From)
	}
	return nil
}

func saying(signers map[string]HostKey) string {
	if len(signers) == 1 {
		for name := range signers {
			return name + " has"
		}
	}
	return fmt.Sprintf("%d other nodes have", len(signers))
}

// split takes an envelope apart. Only the one form that Sign gives is taken, so that no byte of it is free to change.
func split(text []byte) (signature, payload []byte, ok bool) {
	rest, found := bytes.CutPrefix(text, []byte(preamble+signatureLine))
	if !found {
		return nil, nil, false
	}
	line, rest, found := bytes.Cut(rest, []byte("\n\n"))
	if !found || len(rest) == 0 {
		return nil, nil, false
	}
	payload = rest[:len(rest)-1]
	signature, err := base64.StdEncoding.Strict().DecodeString(string(line))
	if err != nil || !bytes.Equal(envelope(signature, payload), text) {
		return nil, nil, false
	}
	return signature, payload, true
}

// Decode reads what a statement says into body. What body does not know is an error: a newer version of the program may
// mean something by it.
func (s Statement) Decode(body any) error {
	d := json.NewDecoder(bytes.NewReader(s.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(body); err != nil {
		return refuse(Damaged, "what it says cannot be read by this version of converge: %v", err)
	}
	return nil
}

// Parse reads a statement without judging it: one that was judged before, and lies in a file that only root can write.
func Parse(text []byte) (Statement, error) {
	_, payload, ok := split(text)
	var s Statement
	if !ok || json.Unmarshal(payload, &s) != nil {
		return s, refuse(Damaged, "it is damaged: no statement of converge has this form")
	}
	return s, nil
}
