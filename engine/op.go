package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// An OpKind is what an operation does.
type OpKind string

// The operations there are. Their words are part of the JSON contract.
const (
	OpWrite   OpKind = "write" // a file's content, or only its mode or owner
	OpRemove  OpKind = "remove"
	OpMkdir   OpKind = "mkdir" // or a directory's mode or owner
	OpReload  OpKind = "reload"
	OpRestart OpKind = "restart"
	OpRun     OpKind = "run"
	OpPublish OpKind = "publish" // what other nodes are to have, in the store; its path is the key there
	OpSQL     OpKind = "sql"     // a statement that a server carries out
)

// An Op is one operation: data that plan output, JSON, history, saved plans and undo are views of. Only a reload, a
// restart, a run, a publication or a statement carries code, in act.
type Op struct {
	Kind      OpKind
	Path      string
	Mode      fs.FileMode
	Owner     string // user name, or the number where there is no name
	Group     string
	Sensitive bool   // content is never shown
	Generated bool   // the content is made anew by each run (a key, a signature): only its kind can be planned
	Service   string // of a reload or restart
	Statement string // of OpSQL, as the server gets it; there is never a password in it
	Note      string // what the operator should know besides

	uid, gid      int
	was           string
	noDiff        bool
	common        bool // a folder that comes with a file, and that other steps may make or fill as well
	aside         bool // no service reads the file
	before, after node
	splices       []Splice // how before became after, where the resource said so
	act           func(context.Context) error
	first         bool    // act comes before the step's files
	told          *opJSON // set once the contents are let go of
}

// freeze keeps what is told of the operation, and lets go of its contents.
func (o *Op) freeze() {
	if o.told == nil {
		j := o.view()
		*o = Op{Kind: o.Kind, Path: o.Path, Mode: o.Mode, Owner: o.Owner, Group: o.Group, Sensitive: o.Sensitive, Generated: o.Generated, Service: o.Service, Statement: o.Statement, Note: o.Note, told: &j}
	}
}

// Before returns the SHA-256 of the content that the operation replaces, in hex; "" where there is none.
func (o *Op) Before() string {
	if o.told != nil {
		return o.told.Before
	}
	return o.before.content.sum()
}

// After returns the SHA-256 of the content that it leaves, in hex; "" where there is none or where it is generated.
func (o *Op) After() string {
	switch {
	case o.told != nil:
		return o.told.After
	case o.Generated:
		return ""
	}
	return o.after.content.sum()
}

// Diff returns what changes, as unified hunks without neighbouring lines: what stands beside the change belongs to
// others and may hold anything. It is "" for content that is sensitive or generated. Passwords and private keys in it
// are masked.
func (o *Op) Diff() string {
	if o.told != nil {
		return o.told.Diff
	}
	if o.Sensitive || o.Generated || o.noDiff || o.Kind != OpWrite && o.Kind != OpRemove {
		return ""
	}
	if o.splices != nil {
		hunks := ""
		for _, s := range o.splices {
			hunks += s.diff()
		}
		return hunks
	}
	return diffTexts(o.Path, o.before.content.bytes(), o.after.content.bytes())
}

// onlyAttributes says whether the content stays as it is.
func (o *Op) onlyAttributes() bool {
	if o.Kind == OpMkdir {
		return o.before.kind != absent
	}
	return o.Kind == OpWrite && o.before.kind == file && o.before.content == o.after.content
}

// acts says whether the operation is something other than a change of the file system.
func (o *Op) acts() bool { return o.act != nil }

// disruption returns what the operation does to those who use the service.
func (o *Op) disruption() Disruption {
	switch o.Kind {
	case OpReload:
		return Reload
	case OpRestart:
		return Restart
	}
	return None
}

// String is the operation in a few words, without content.
func (o *Op) String() string {
	switch {
	case o.Kind == OpSQL:
		return o.Statement
	case o.Path == "":
		return fmt.Sprintf("%s %s", o.Kind, o.Service)
	case o.Kind == OpPublish:
		return fmt.Sprintf("publish %s", o.Path)
	case o.Kind == OpRemove:
		return fmt.Sprintf("remove %s", o.Path)
	}
	return fmt.Sprintf("%s %s %s:%s %s", o.Kind, modeText(o.Mode), o.Owner, o.Group, o.Path)
}

// modeText is a mode as chmod has it: "0600", "2750".
func modeText(m fs.FileMode) string {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return fmt.Sprintf("%04o", bits)
}

// opJSON is an operation as the contract prints it.
type opJSON struct {
	Op        OpKind `json:"op"`
	Path      string `json:"path,omitempty"`
	Mode      string `json:"mode,omitempty"`
	Owner     string `json:"owner,omitempty"`
	Group     string `json:"group,omitempty"`
	Sensitive bool   `json:"sensitive"`
	Generated bool   `json:"generated,omitempty"`
	Service   string `json:"service,omitempty"`
	Statement string `json:"statement,omitempty"`
	Note      string `json:"note,omitempty"`
	Was       string `json:"was,omitempty"` // mode and owner before, where they change
	Existed   bool   `json:"existed,omitempty"`
	Before    string `json:"before,omitempty"`
	After     string `json:"after,omitempty"`
	Diff      string `json:"diff,omitempty"`
}

// view is the operation as the contract prints it.
func (o *Op) view() opJSON {
	if o.told != nil {
		return *o.told
	}
	j := opJSON{
		Op: o.Kind, Path: o.Path, Sensitive: o.Sensitive, Generated: o.Generated, Service: o.Service, Statement: o.Statement, Note: o.Note,
		Before: o.Before(), After: o.After(), Diff: o.Diff(), Existed: o.Existed(),
	}
	if o.Path != "" && o.Kind != OpRemove && o.Kind != OpPublish {
		j.Mode, j.Owner, j.Group = modeText(o.Mode), o.Owner, o.Group
		j.Was = o.Was()
	}
	return j
}

// MarshalJSON prints the operation as the contract has it.
func (o *Op) MarshalJSON() ([]byte, error) { return json.Marshal(o.view()) }

// UnmarshalJSON reads what was printed. Such an operation can be shown and compared; it cannot be carried out.
func (o *Op) UnmarshalJSON(b []byte) error {
	var j opJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	mode, err := strconv.ParseUint(cmp.Or(j.Mode, "0"), 8, 32)
	if err != nil {
		return fmt.Errorf("mode %q of %s: %w", j.Mode, j.Path, err)
	}
	*o = Op{Kind: j.Op, Path: j.Path, Mode: fs.FileMode(mode), Owner: j.Owner, Group: j.Group, Sensitive: j.Sensitive, Generated: j.Generated, Service: j.Service, Statement: j.Statement, Note: j.Note, told: &j}
	return nil
}

// ModeText is the mode as chmod has it: "0600".
func (o *Op) ModeText() string { return modeText(o.Mode) }

// Creates says whether a statement makes something that was not there.
func (o *Op) Creates() bool { return o.Kind == OpSQL && strings.HasPrefix(o.Statement, "CREATE ") }

// Existed says whether something stood at the path before.
func (o *Op) Existed() bool {
	if o.told != nil {
		return o.told.Existed
	}
	return o.before.kind != absent
}

// Was returns mode and owner before the operation, where they change: "0644 root:root".
func (o *Op) Was() string {
	switch {
	case o.told != nil:
		return o.told.Was
	case o.Kind == OpRemove || o.before.kind == absent || o.before.attr() == o.after.attr():
		return ""
	}
	return o.was
}

// A Disruption is what a change does to those who use the service.
type Disruption int

// From the least to the most.
const (
	None Disruption = iota
	Reload
	Restart
)

var disruptionNames = [...]string{"none", "reload", "restart"}

func (d Disruption) String() string { return disruptionNames[d] }

// MarshalText gives the word of the contract.
func (d Disruption) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the word of the contract.
func (d *Disruption) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDisruption(string(b))
	return err
}

// ParseDisruption reads "none", "reload" or "restart".
func ParseDisruption(s string) (Disruption, error) {
	for i, name := range disruptionNames {
		if s == name {
			return Disruption(i), nil
		}
	}
	return None, fmt.Errorf("%q is not a disruption: none, reload and restart are", s)
}
