package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// readLimit is the largest file, in bytes, that a resource can read or edit.
const readLimit = 64 << 20

// A Host is the machine as one step sees it. Reading gives what earlier steps and this one have staged, and else what is
// on the disk. Writing stages: nothing reaches the disk until the engine commits the step.
type Host struct {
	run    *run
	step   *Step
	staged map[string]node
	ops    []*Op
	reads  map[string]node

	summary, reason string
	warnings        []string
	access          []Access
	deferred        *Owed
	paid            bool
	afterwards      error
}

// An Attr is who owns a path and who may do what with it.
type Attr struct {
	Mode     fs.FileMode // permission bits
	UID, GID int
}

// A Stat is what stands at a path.
type Stat struct {
	Dir bool
	Attr
	Size    int64     // of what is on the disk
	Staged  bool      // changed by this run, and not on the disk yet
	Changed time.Time // when content, mode or owner changed last; zero when staged
}

// Now is the time that the run goes by.
func (h *Host) Now() time.Time { return h.run.engine.Now() }

// Rand is the source for keys and serial numbers.
func (h *Host) Rand() io.Reader { return h.run.engine.Rand }

// Root is the folder that stands for the machine's root: "/" but for tests.
func (h *Host) Root() string { return h.run.engine.Disk.Root() }

// User looks up an account of the machine. The error of one that is not there wraps ErrNoUser.
func (h *Host) User(name string) (User, error) { return h.run.accounts.User(name) }

// UserName returns the name of a user by number, or the number in digits where it has none.
func (h *Host) UserName(uid int) string { return h.run.accounts.userName(uid) }

// Explain says for the plan what the step's change is, and why it has to be.
func (h *Host) Explain(summary, reason string) { h.summary, h.reason = summary, reason }

// Stat returns what stands at path. The error for nothing wraps fs.ErrNotExist; a symbolic link that leads nowhere, a
// FIFO, a socket or a device is an error as well.
func (h *Host) Stat(path string) (Stat, error) {
	n, err := h.look(path)
	if err != nil {
		return Stat{}, err
	}
	s := Stat{Dir: n.kind == directory, Attr: n.attr(), Size: n.info.Size, Staged: n.staged}
	if !n.staged {
		s.Changed = time.Unix(n.info.Ident.Ctime.Unix())
	}
	return s, nil
}

func (n node) attr() Attr { return Attr{Mode: n.mode, UID: n.uid, GID: n.gid} }

// look is Stat before it is told to others.
func (h *Host) look(path string) (node, error) {
	n, err := h.find(path, h.run.files.stat)
	if err != nil {
		return node{}, err
	}
	return n, present(n, path)
}

func present(n node, path string) error {
	switch n.kind {
	case absent:
		return &fs.PathError{Op: "look at", Path: path, Err: fs.ErrNotExist}
	case other:
		return notAFile(n, path)
	}
	return nil
}

func notAFile(n node, path string) error {
	return fmt.Errorf("%s is %s, not a file: move it away and run again", path, n.kindText())
}

// find gives what the step sees at path: its own staged state, else what look tells.
func (h *Host) find(path string, look func(string) (node, error)) (node, error) {
	if err := checkPath(path); err != nil {
		return node{}, err
	}
	if n, ok := h.staged[path]; ok {
		return n, nil
	}
	if w := h.run.graph.notBefore(h.step, path); w != nil {
		return node{}, fmt.Errorf("%s is written by %s, and nothing says that it comes first: add depends_on = [%s]", path, w.Address, w.Address)
	}
	n, err := look(path)
	if err != nil {
		return node{}, err
	}
	if _, known := h.reads[path]; !known || n.content.exists() {
		h.reads[path] = n
	}
	return n, nil
}

// ReadFile returns the content of the file at path. The caller must not change it. The error for nothing wraps
// fs.ErrNotExist.
func (h *Host) ReadFile(path string) ([]byte, error) {
	n, err := h.readNode(path)
	if err != nil {
		return nil, err
	}
	return n.content.bytes(), nil
}

// ReadBefore is ReadFile as it was before this run's later steps: for a decision about what earlier runs have left there.
// What this run's steps have staged or written there is not looked at, and it makes no order between them.
func (h *Host) ReadBefore(path string) ([]byte, error) {
	b, _, err := h.run.engine.Disk.ReadFile(path, readLimit)
	h.Observe("before: "+path, string(b))
	return b, err
}

func (h *Host) readNode(path string) (node, error) {
	n, err := h.find(path, func(p string) (node, error) { return h.run.files.read(p, readLimit) })
	if err != nil {
		return node{}, err
	}
	if err := present(n, path); err != nil {
		return node{}, err
	}
	if n.kind != file {
		return node{}, notAFile(n, path)
	}
	return n, nil
}

// ReadDir returns the names in the directory at path, sorted, with what is staged there. The error for nothing wraps
// fs.ErrNotExist.
func (h *Host) ReadDir(dir string) ([]string, error) {
	n, err := h.look(dir)
	if err != nil {
		return nil, err
	}
	if n.kind != directory {
		return nil, fmt.Errorf("%s is %s, not a directory", dir, n.kindText())
	}
	entries, err := h.run.engine.Disk.ReadDir(dir)
	if err != nil && !(IsNotExist(err) && n.staged) {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name] = true
	}
	for p, n := range h.run.files.stagedIn(dir) {
		there[path.Base(p)] = n.kind != absent
	}
	for p, n := range h.staged {
		if path.Dir(p) == dir {
			there[path.Base(p)] = n.kind != absent
		}
	}
	maps.DeleteFunc(there, func(_ string, is bool) bool { return !is })
	names := slices.Sorted(maps.Keys(there))
	h.reads["names in "+dir] = node{kind: file, content: newText([]byte(strings.Join(names, "\n")))}
	return names, nil
}

// Warn tells the operator something that is no failure.
func (h *Host) Warn(text string) { h.warnings = append(h.warnings, text) }

// Parsed returns what parse makes of the file at path. The result is kept while the content stays, so that a thousand
// steps that share a file parse it once; nobody may change it.
func Parsed[T any](h *Host, path string, parse func([]byte) (T, error)) (T, error) {
	var none T
	n, err := h.readNode(path)
	if err != nil {
		return none, err
	}
	if t, ok := n.parsed.(T); ok {
		return t, nil
	}
	t, err := parse(n.content.bytes())
	if err != nil {
		return none, err
	}
	n.parsed = t
	h.run.files.keepParsed(path, n)
	return t, nil
}

// keepParsed stores what was made of a content, if the content is still the one.
func (o *overlay) keepParsed(path string, n node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.nodes[path]; known.content == n.content {
		known.parsed = n.parsed
		o.nodes[path] = known
	}
}

// A WriteOption says more about a file that is written.
type WriteOption func(*Op)

// Foretold says whether a plan can know what is at path: not when this run makes it anew. What is copied from there is
// to be marked Generated too.
func (h *Host) Foretold(path string) bool {
	h.run.mu.Lock()
	defer h.run.mu.Unlock()
	return !h.run.generated[path]
}

// Generated marks content that each run makes anew, such as a key: a plan cannot foretell it.
func Generated(o *Op) { o.Generated = true }

// Sensitive marks content that no output may show although the file is not a secret as a whole.
func Sensitive(o *Op) { o.Sensitive = true }

// NoDiff marks content that is no text for people, such as a certificate.
func NoDiff(o *Op) { o.noDiff = true }

// Aside marks a file that no service reads, such as a key that waits for its certificate: nothing is owed for it.
func Aside(o *Op) { o.aside = true }

// Note adds what the operator should know about the change.
func Note(text string) WriteOption { return func(o *Op) { o.Note = text } }

// WriteFile stages a file with this content and these attributes. What is there already is no operation.
func (h *Host) WriteFile(path string, content []byte, a Attr, options ...WriteOption) error {
	return h.write(path, content, a, false, nil, nil, options)
}

// WriteSecret stages a file whose content no output may show.
func (h *Host) WriteSecret(path string, content Secret, a Attr, options ...WriteOption) error {
	return h.write(path, content.Reveal(), a, true, nil, nil, options)
}

// Splice stages one change inside the file at path, and keeps its attributes. parsed is what the caller's parser would
// make of the new content; the next Parsed gets it.
func (h *Host) Splice(path string, s Splice, parsed any, options ...WriteOption) error {
	n, err := h.readNode(path)
	if err != nil {
		return err
	}
	return h.write(path, nil, n.attr(), n.secret, &s, parsed, options)
}

func (h *Host) write(path string, content []byte, a Attr, secret bool, s *Splice, parsed any, options []WriteOption) error {
	if err := h.mayWrite(path, false); err != nil {
		return err
	}
	before, err := h.find(path, func(p string) (node, error) { return h.run.files.read(p, readLimit) })
	if err != nil {
		return err
	}
	if err := writable(before, path); err != nil {
		return err
	}
	if err := h.parentStands(path); err != nil {
		return err
	}
	after := node{kind: file, mode: a.Mode, uid: a.UID, gid: a.GID, secret: secret, info: before.info, staged: true}
	switch {
	case s != nil && s.Inserted != s.Removed:
		after.content, after.parsed = before.content.splice(*s), parsed
	case s != nil || before.content.equal(content):
		after.content, after.parsed, s = before.content, before.parsed, nil
	default:
		after.content = newText(content)
	}
	if before.kind == file && after.content == before.content && after.attr() == before.attr() {
		return nil
	}
	h.stage(OpWrite, path, before, after, s, options)
	return nil
}

// writable refuses what a file cannot take the place of.
func writable(n node, path string) error {
	switch {
	case n.kind == directory || n.kind == other:
		return notAFile(n, path)
	case n.kind == file && n.info.Links > 1:
		return fmt.Errorf("%s has %d names (hard links): writing would separate them; give it a copy of its own first (cp -p, then mv)", path, n.info.Links)
	}
	return nil
}

// parentStands makes sure that the directory of a file is there, or will be.
func (h *Host) parentStands(p string) error {
	if h.step.below(p) {
		return nil // it comes with the file
	}
	dir := path.Dir(p)
	n, err := h.find(dir, h.run.files.stat)
	switch {
	case err != nil:
		return err
	case n.kind == absent:
		return fmt.Errorf("the directory %s does not exist", dir)
	case n.kind != directory:
		return fmt.Errorf("%s is %s, not a directory", dir, n.kindText())
	}
	return nil
}

// mayWrite holds a step to the targets that it declared: the order of steps was made from them.
func (h *Host) mayWrite(path string, dir bool) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if t, ok := h.step.targets[path]; (!ok || t.Dir != dir) && !h.step.below(path) {
		panic(fmt.Sprintf("engine: %s writes %s, which is not among its targets", h.step.Address, path))
	}
	return nil
}

// Mkdir stages the directory at path with these attributes. The directory above must stand or be staged.
func (h *Host) Mkdir(path string, a Attr) error {
	if err := h.mayWrite(path, true); err != nil {
		return err
	}
	before, err := h.find(path, h.run.files.stat)
	if err != nil {
		return err
	}
	switch before.kind {
	case absent:
		if err := h.parentStands(path); err != nil {
			return err
		}
	case directory:
		if before.attr() == a {
			return nil
		}
	default:
		return fmt.Errorf("%s is %s, not a directory: move it away and run again", path, before.kindText())
	}
	h.stage(OpMkdir, path, before, node{kind: directory, mode: a.Mode, uid: a.UID, gid: a.GID, staged: true}, nil, nil)
	return nil
}

// Remove stages the removal of the file at path. Where nothing is, there is nothing to do.
func (h *Host) Remove(path string, options ...WriteOption) error {
	if err := h.mayWrite(path, false); err != nil {
		return err
	}
	before, err := h.find(path, func(p string) (node, error) { return h.run.files.read(p, readLimit) })
	if err != nil || before.kind == absent {
		return err
	}
	if before.kind != file {
		return fmt.Errorf("%s is %s, not a file: it is not removed", path, before.kindText())
	}
	h.stage(OpRemove, path, before, node{staged: true}, nil, options)
	return nil
}

// stage records an operation. A second one on the same path in one step joins the first.
func (h *Host) stage(kind OpKind, path string, before, after node, s *Splice, options []WriteOption) {
	h.staged[path] = after
	var splices []Splice
	if s != nil {
		splices = []Splice{*s}
	}
	if i := slices.IndexFunc(h.ops, func(o *Op) bool { return o.Path == path && !o.acts() }); i >= 0 {
		first := h.ops[i]
		if splices = append(first.splices, splices...); s == nil || first.splices == nil {
			splices = nil
		}
		before = first.before
		h.ops = slices.Delete(h.ops, i, i+1)
	}
	op := &Op{
		Kind: kind, Path: path, Mode: after.mode, Sensitive: before.secret || after.secret,
		Owner: h.run.accounts.userName(after.uid), Group: h.run.accounts.groupName(after.gid),
		uid: after.uid, gid: after.gid, before: before, after: after, splices: splices,
	}
	if before.kind != absent {
		op.was = fmt.Sprintf("%s %s:%s", modeText(before.mode), h.run.accounts.userName(before.uid), h.run.accounts.groupName(before.gid))
	}
	for _, set := range options {
		set(op)
	}
	if op.Generated {
		h.run.mu.Lock()
		h.run.generated[path] = true
		h.run.mu.Unlock()
	}
	h.ops = append(h.ops, op)
}

// An Action is an operation on something that runs.
type Action struct {
	Kind      OpKind // OpReload, OpRestart, OpRun, OpPublish or OpSQL
	Service   string // of a reload, a restart or a run
	Path      string // of a publication: the key in the store
	Statement string // of OpSQL; it is shown, so no secret may be in it
	Note      string
	First     bool                        // before the step's files are committed, not after
	Do        func(context.Context) error // called by an apply only
}

// Act stages an action.
func (h *Host) Act(a Action) {
	h.ops = append(h.ops, &Op{Kind: a.Kind, Service: a.Service, Path: a.Path, Statement: a.Statement, Note: a.Note, act: a.Do, first: a.First})
}

// Staged says whether the step has staged anything so far.
func (h *Host) Staged() bool { return len(h.ops) > 0 }

// Provided says whether a step of the graph makes the thing of that name (see Provider). Such a step comes before this one.
func (h *Host) Provided(name string) bool { return h.run.graph.providers[name] != nil }

// Owed returns what is owed to the step's service and why, and whether anything is: by this run so far, and by earlier
// ones that did not get to it.
func (h *Host) Owed() (Owed, bool) { return h.run.ledger.of(h.step) }

// Acted says whether an action of this step was carried out in this run already: what it was for must now be seen.
func (h *Host) Acted() bool {
	h.run.mu.Lock()
	defer h.run.mu.Unlock()
	return h.run.acted[h.step]
}

// Paid says that evidence shows that the service runs with what is on disk. Nothing is owed to it any more.
func (h *Host) Paid() { h.paid, h.deferred = true, nil }

// Defer says that an action is needed, and what it waits for: it stays owed.
func (h *Host) Defer(service string, d Disruption, reason, waits string) {
	h.deferred = &Owed{Service: service, Action: d, Reason: reason, Waits: waits}
}

// Allowed returns the greatest disruption that this run may cause now, and why no greater one.
func (h *Host) Allowed() (Disruption, string) { return h.run.options.allowed(h.Now()) }

// AllowedFor is Allowed for a service that knows how long a restart of it, and to take it back, would last: in a
// maintenance window there has to be that much left.
func (h *Host) AllowedFor(restart time.Duration) (Disruption, string) {
	return h.run.options.allowedFor(h.Now(), restart)
}

// Observe records a fact of the running machine that the step's decision rests on, such as a served certificate. A saved
// plan is refused when it has changed.
func (h *Host) Observe(name, value string) {
	h.reads["fact:"+name] = node{kind: file, content: newText([]byte(value))}
}

// Wait says that the step cannot come to its end before another node has done something, and for what it waits. What it
// has staged is committed all the same: it may be what the other node waits for.
func (h *Host) Wait(format string, args ...any) {
	h.Fail(&NotYetError{fmt.Sprintf(format, args...)})
}

// Fail says that the step has failed although it has done a part: what it has staged is committed all the same, because it
// is good for others.
func (h *Host) Fail(err error) { h.afterwards = errors.Join(h.afterwards, err) }

// A NotYetError is what a step waits for: another node's run. It is no fault of this node.
type NotYetError struct{ Waits string }

func (e *NotYetError) Error() string { return e.Waits }

// IsNotYet says whether an error is about waiting for another node, and about nothing else.
func IsNotYet(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !IsNotYet(e) })
	}
	var e *NotYetError
	return errors.As(err, &e)
}

// A Refusal is the error of a service that does not take what was committed. The engine undoes this run's changes of
// these paths and converges the service again.
type Refusal struct {
	Paths []string
	Err   error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// IsNotExist says whether an error means that there is nothing at a path.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
