package disk

import (
	"errors"
	"fmt"
)

// What an error of this package can be told by, with errors.Is. A missing file is fs.ErrNotExist, and the errno of a
// failed system call is in the chain too.
var (
	// ErrChanged: what stands at the path is not what the decision was made from. Nothing was written.
	ErrChanged = errors.New("it is not what it was when this change was decided")
	// ErrUntrustedLink: the path leads through a symbolic link that someone other than root could have put there.
	ErrUntrustedLink = errors.New("is a symbolic link that someone other than root could have put there")
	// ErrHardLinked: the file has other names, and writing it would take them apart or change what they show.
	ErrHardLinked = errors.New("has more than one name")
	// ErrKind: a FIFO, socket, device, folder or link stands where a file or folder of another kind is needed.
	ErrKind = errors.New("is not of the kind that is needed")
	// ErrDangling: the path is a symbolic link to something that does not exist.
	ErrDangling = errors.New("is a symbolic link to a file that does not exist")
	// ErrTooLarge: the file is larger than the caller is ready to read.
	ErrTooLarge = errors.New("is too large")
	// ErrInUse: someone was writing to the file each time that it was read.
	ErrInUse = errors.New("is being written by another process")
	// ErrNotDurable: the change is made and visible, but the folder could not be synced, so that a power cut may undo it.
	ErrNotDurable = errors.New("the change is made, but a power cut may undo it")
)

// Error is what went wrong with one path. It never holds a file's content.
type Error struct {
	Op     string // what was being done: "read", "write", "remove"
	Path   string // the path as it was asked for
	Real   string // where its links lead, when that is another path
	Cause  string // the reason in words; empty: that of Err
	Remedy string // what the operator can do, when there is something
	Err    error
}

// Error says operation, path, cause and, when there is one, the remedy.
func (e *Error) Error() string {
	text := e.Op + " " + e.Path
	if e.Real != "" && e.Real != e.Path {
		text += " (really " + e.Real + ")"
	}
	cause := e.Cause
	if cause == "" {
		cause = e.Err.Error()
	}
	text += ": " + cause
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// untrustedLink is the doubt about one link; see ErrUntrustedLink.
type untrustedLink struct {
	path  string
	doubt doubt
}

func (e *untrustedLink) Error() string {
	return fmt.Sprintf("%q is a symbolic link that %s could have put there; not followed", e.path, e.doubt)
}

func (e *untrustedLink) Is(target error) bool { return target == ErrUntrustedLink }

// changed says in which way the path is not what it was.
func (p *place) changed(op, how string) error {
	return &Error{Op: op, Path: p.asked, Real: p.real, Err: ErrChanged,
		Cause:  how + ": " + ErrChanged.Error(),
		Remedy: "look at what changed it and plan again"}
}
