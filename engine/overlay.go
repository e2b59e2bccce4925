package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"converge/engine/disk"
)

// A nodeKind is what stands at a path.
type nodeKind int

const (
	absent nodeKind = iota
	file
	directory
	other // a symbolic link that leads nowhere, a FIFO, a socket, a device
)

// A node is what stands at a path, on the disk or staged.
type node struct {
	kind     nodeKind
	info     disk.Info // of what is on the disk
	content  version   // of a file, once it was read
	mode     fs.FileMode
	uid, gid int
	secret   bool
	staged   bool // by this run; not on the disk
	parsed   any  // what a resource made of the content, while the content stays
}

// An overlay is the machine's files as a run sees them: what is on the disk, and over it what was staged. Each path is
// looked at once, so that all decisions of a run are made from one picture, until forget.
type overlay struct {
	disk  *disk.Disk
	mu    sync.Mutex
	nodes map[string]node
}

func newOverlay(d *disk.Disk) *overlay { return &overlay{disk: d, nodes: map[string]node{}} }

// stat returns what stands at path, its content perhaps not read yet.
func (o *overlay) stat(p string) (node, error) {
	o.mu.Lock()
	n, ok := o.nodes[p]
	o.mu.Unlock()
	if ok {
		return n, nil
	}
	info, err := o.disk.Lstat(p)
	if err == nil && info.Kind == disk.Symlink {
		if led, errLed := o.disk.Stat(p); !errors.Is(errLed, fs.ErrNotExist) {
			info, err = led, errLed // else the link itself: one that leads nowhere is not nothing
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return o.keep(p, node{}), nil
	}
	if err != nil {
		return node{}, err
	}
	return o.keep(p, nodeOf(info)), nil
}

// read returns what stands at path, with the content of a file.
func (o *overlay) read(p string, limit int64) (node, error) {
	n, err := o.stat(p)
	if err != nil || n.kind != file || n.content.exists() {
		return n, err
	}
	b, info, err := o.disk.ReadFile(p, limit)
	if err != nil {
		return node{}, err
	}
	n = nodeOf(info)
	n.content = newText(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.nodes[p]; known.content.exists() {
		return known, nil // another step was faster; one picture for all
	}
	o.nodes[p] = n
	return n, nil
}

func nodeOf(info disk.Info) node {
	n := node{info: info, mode: info.Mode, uid: info.UID, gid: info.GID}
	switch info.Kind {
	case disk.Regular:
		n.kind = file
	case disk.Dir:
		n.kind = directory
	default:
		n.kind = other
	}
	return n
}

func (o *overlay) keep(p string, n node) node {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known, ok := o.nodes[p]; ok {
		return known
	}
	o.nodes[p] = n
	return n
}

func (o *overlay) set(p string, n node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nodes[p] = n
}

// stagedIn returns what is staged directly below a directory.
func (o *overlay) stagedIn(dir string) map[string]node {
	o.mu.Lock()
	defer o.mu.Unlock()
	found := map[string]node{}
	for p, n := range o.nodes {
		if n.staged && path.Dir(p) == dir {
			found[p] = n
		}
	}
	return found
}

// forget makes the next look at the paths one at the disk.
func (o *overlay) forget(paths ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range paths {
		delete(o.nodes, p)
	}
}

// kindText says what stands in the way, for errors.
func (n node) kindText() string {
	switch n.kind {
	case absent:
		return "nothing"
	case file:
		return "a file"
	case directory:
		return "a directory"
	}
	return n.info.Kind.String()
}

// checkPath refuses paths that cannot be written in one way only.
func checkPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p {
		return fmt.Errorf("%q is not a clean absolute path", p)
	}
	return nil
}
