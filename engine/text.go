package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
)

// A Splice is one change inside a text: at Offset, Removed gives way to Inserted.
type Splice struct {
	Offset   int    // in bytes, from the start of the text before the change
	Line     int    // the line at Offset, from 1
	Removed  string // what stands there before
	Inserted string // what stands there afterwards
}

// apply returns b with the change made. b itself stays as it is.
func (s Splice) apply(b []byte) []byte {
	out := make([]byte, 0, len(b)-len(s.Removed)+len(s.Inserted))
	out = append(out, b[:s.Offset]...)
	out = append(out, s.Inserted...)
	return append(out, b[s.Offset+len(s.Removed):]...)
}

// revert returns the text before the change, given the text after it.
func (s Splice) revert(b []byte) ([]byte, error) {
	end := s.Offset + len(s.Inserted)
	if s.Offset < 0 || end > len(b) || string(b[s.Offset:end]) != s.Inserted {
		return nil, fmt.Errorf("the change is not where it was made")
	}
	return Splice{Offset: s.Offset, Removed: s.Inserted, Inserted: s.Removed}.apply(b), nil
}

// A text is one file's content through the changes that a run makes to it: a base and the splices that follow. A
// thousand blocks staged in one file are a thousand splices, not a thousand copies of the file.
type text struct {
	mu      sync.Mutex
	splices []Splice
	base    []byte
	flat    []byte // the content after flatN splices
	flatN   int
	sums    map[int]string
}

func newText(base []byte) version {
	return version{text: &text{base: base, flat: base}}
}

// A version is a text after its first n splices.
type version struct {
	text *text
	n    int
}

func (v version) exists() bool { return v.text != nil }

// splice returns the version that follows from v by s. A text grows in one line only: what a step staged after v, and
// then failed, is dropped.
func (v version) splice(s Splice) version {
	t := v.text
	t.mu.Lock()
	defer t.mu.Unlock()
	if v.n < len(t.splices) {
		t.splices = t.splices[:v.n]
		t.flat, t.flatN, t.sums = t.base, 0, nil
	}
	t.splices = append(t.splices, s)
	return version{t, v.n + 1}
}

func (v version) bytes() []byte {
	if v.text == nil {
		return nil
	}
	v.text.mu.Lock()
	defer v.text.mu.Unlock()
	return v.text.at(v.n)
}

// at brings the flat content to version n, forward where it can.
func (t *text) at(n int) []byte {
	if n < t.flatN {
		t.flat, t.flatN = t.base, 0
	}
	for ; t.flatN < n; t.flatN++ {
		t.flat = t.splices[t.flatN].apply(t.flat)
	}
	return t.flat
}

// sum returns the SHA-256 of the content in hex; "" when there is none.
func (v version) sum() string {
	if v.text == nil {
		return ""
	}
	v.text.mu.Lock()
	defer v.text.mu.Unlock()
	if s, ok := v.text.sums[v.n]; ok {
		return s
	}
	if v.text.sums == nil {
		v.text.sums = map[int]string{}
	}
	s := sumOf(v.text.at(v.n))
	v.text.sums[v.n] = s
	return s
}

func (v version) equal(b []byte) bool { return v.text != nil && bytes.Equal(v.bytes(), b) }

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
