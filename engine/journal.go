package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"converge/engine/disk"
	"converge/engine/fault"
)

// A journal is what one run has begun and finished on the disk. Each record is durable before the first of its
// operations happens, with all that is needed to take them back; what they replace lies beside it as backups. When a run
// is killed, the next one finds the records that have no end and finishes them or takes them back.
//
// While a run is under way its folder is open/RUN, with journal.jsonl and backup-NNNN-NAME; it ends as runs/RUN, with
// report.json besides. What lies in open when a run begins was left by a killed one.
type journal struct {
	state *State
	run   string
	waits bool // the run has to be confirmed

	mu      sync.Mutex
	file    *os.File // made at the first record
	backups int
	kept    map[string]bool // paths whose first content of this run is backed up
	records []*record       // of this run, finished or not, in order
}

// A record is the file operations of one step.
type record struct {
	ID   int        `json:"id"`
	Step string     `json:"step"`
	Ops  []opRecord `json:"ops,omitempty"`
	End  string     `json:"end,omitempty"` // "done" or "undone": closes the record with this ID

	run      string
	takeBack bool // the run was not confirmed: what is done is not finished either
}

// An opRecord is one operation on the disk with both of its sides.
type opRecord struct {
	Kind   OpKind  `json:"kind"`
	Path   string  `json:"path"`
	Temp   string  `json:"temp,omitempty"` // name of the temporary file, beside the path
	Before side    `json:"before"`
	After  side    `json:"after"`
	Backup string  `json:"backup,omitempty"` // name in the run's folder of what was replaced
	Splice *Splice `json:"splice,omitempty"` // or the change alone, which can be reverted
	Secret bool    `json:"secret,omitempty"`
	Common bool    `json:"common,omitempty"` // a folder that other steps may have made, or filled
}

// A side is what stands at a path before or after an operation.
type side struct {
	Kind nodeKind    `json:"kind"`
	Sum  string      `json:"sum,omitempty"` // SHA-256 of a file's content
	Mode fs.FileMode `json:"mode,omitempty"`
	UID  int         `json:"uid,omitempty"`
	GID  int         `json:"gid,omitempty"`
}

func sideOf(n node) side {
	return side{Kind: n.kind, Sum: n.content.sum(), Mode: n.mode, UID: n.uid, GID: n.gid}
}

// sameContent compares what stands there, apart from its attributes.
func (s side) sameContent(o side) bool { return s.Kind == o.Kind && s.Sum == o.Sum }

const (
	openDir     = "open"
	runsDir     = "runs"
	journalFile = "journal.jsonl"
	reportFile  = "report.json"
)

func (j *journal) tempPrefix() string { return ".converge-" + j.run + "-" }

// begin makes a step's operations durable as an intention. Afterwards they may happen.
func (j *journal) begin(step string, ops []*Op) (*record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.open(); err != nil {
		return nil, err
	}
	rec := &record{ID: len(j.records) + 1, Step: step, run: j.run}
	for i, o := range ops {
		r := opRecord{Kind: o.Kind, Path: o.Path, Before: sideOf(o.before), After: sideOf(o.after), Secret: o.Sensitive, Common: o.common}
		if o.Kind == OpWrite && !o.onlyAttributes() {
			r.Temp = fmt.Sprintf("%s%d-%d", j.tempPrefix(), rec.ID, i)
		}
		if err := j.backUp(o, &r); err != nil {
			return nil, err
		}
		rec.Ops = append(rec.Ops, r)
	}
	if err := j.append(rec); err != nil {
		return nil, err
	}
	j.records = append(j.records, rec)
	return rec, nil
}

// backUp keeps what an operation replaces: the first time in a run as a file, for people too; later changes of the same
// file by their splices alone.
func (j *journal) backUp(o *Op, r *opRecord) error {
	if o.before.kind != file || o.onlyAttributes() {
		return nil
	}
	if len(o.splices) == 1 {
		r.Splice = &o.splices[0]
		if j.kept[o.Path] {
			return nil
		}
	}
	j.backups++
	r.Backup = fmt.Sprintf("backup-%04d-%s", j.backups, path.Base(o.Path))
	if err := j.state.write(filepath.Join(openDir, j.run, r.Backup), o.before.content.bytes()); err != nil {
		return fmt.Errorf("back up %s: %w", o.Path, err)
	}
	j.kept[o.Path] = true
	return nil
}

// end closes a record. It need not be durable: a record whose operations are all to be seen on the disk counts as done.
func (j *journal) end(rec *record, how string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	rec.End = how
	_, err := j.file.Write(line(&record{ID: rec.ID, Step: rec.Step, End: how}))
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// open makes the run's folder and its journal. The folder is converge's own and only root writes there, so the file can
// be appended to by its name.
func (j *journal) open() error {
	if j.file != nil {
		return nil
	}
	dir := j.state.path(openDir, j.run)
	if err := j.state.makeDir(dir); err != nil {
		return err
	}
	if j.waits {
		if err := j.state.storeWaiting(Waiting{Run: j.run}); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(j.state.disk.Root(), dir, journalFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := syncDir(filepath.Dir(f.Name())); err != nil {
		f.Close()
		return fmt.Errorf("journal: %w", err)
	}
	j.file = f
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (j *journal) append(rec *record) error {
	fault.Point("journal: before " + rec.Step)
	_, err := j.file.Write(line(rec))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	fault.Point("journal: after " + rec.Step)
	return nil
}

func line(rec *record) []byte {
	b, err := json.Marshal(rec)
	if err != nil {
		panic("engine: a record of plain data does not encode: " + err.Error())
	}
	return append(b, '\n')
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
	}
}

// unfinished returns the records of killed runs that have no end, the newest first, and the names of those runs.
func (s *State) unfinished() (records []*record, runs []string, err error) {
	entries, err := s.disk.ReadDir(s.path(openDir))
	if IsNotExist(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, e := range slices.Backward(entries) {
		open, err := s.openRecords(e.Name)
		if err != nil {
			return nil, nil, err
		}
		records = append(records, open...)
		runs = append(runs, e.Name)
	}
	return records, runs, nil
}

// openRecords returns the records of a run that have no end. A last line that the crash has cut off never became an
// intention.
func (s *State) openRecords(run string) ([]*record, error) {
	b, err := s.read(filepath.Join(openDir, run, journalFile))
	if IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	waiting, err := s.waiting(run)
	if err != nil {
		return nil, err
	}
	open := map[int]*record{}
	for l := range bytes.Lines(b) {
		if !bytes.HasSuffix(l, []byte("\n")) {
			break
		}
		rec := &record{run: run}
		if err := json.Unmarshal(l, rec); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; it says what a killed run left half done: compare the files it names with the backups beside it, then move the folder away", s.path(openDir, run, journalFile), err)
		}
		rec.takeBack = waiting != nil
		switch {
		case rec.End == "done" && rec.takeBack:
			continue
		case rec.End != "":
			delete(open, rec.ID)
			continue
		}
		open[rec.ID] = rec
	}
	out := make([]*record, 0, len(open))
	for _, rec := range open {
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b *record) int { return b.ID - a.ID })
	return out, nil
}

// errForeign is in the error for a path that is neither as it was before a record nor as it was to be.
var errForeign = errors.New("somebody else has changed it since")

// settle returns the operations that finish an open record, when all that is missing lies ready in temporary files, or
// else take it back. Nothing is to be done where the machine is as it was before, or all is done.
func (s *State) settle(rec *record, files *overlay) (ops []*Op, forward bool, err error) {
	if rec.takeBack {
		ops, err := s.back(rec, files)
		return ops, false, err
	}
	done := make([]bool, len(rec.Ops))
	all, some := true, false
	for i, o := range rec.Ops {
		now, err := files.read(o.Path, readLimit)
		if err != nil {
			return nil, false, err
		}
		done[i] = sideOf(now) == o.After
		all, some = all && done[i], some || done[i]
	}
	if all || !some {
		return nil, all, nil
	}
	for i, o := range rec.Ops {
		if done[i] {
			continue
		}
		op, err := s.forward(rec, o, files)
		if err != nil {
			ops, err := s.back(rec, files)
			return ops, false, err
		}
		ops = append(ops, op)
	}
	return ops, true, nil
}

// forward is the operation that still has to happen.
func (s *State) forward(rec *record, o opRecord, files *overlay) (*Op, error) {
	now, err := files.read(o.Path, readLimit)
	if err != nil {
		return nil, err
	}
	if !sideOf(now).sameContent(o.Before) {
		return nil, fmt.Errorf("%s: %w", o.Path, errForeign)
	}
	after := node{kind: o.After.Kind, mode: o.After.Mode, uid: o.After.UID, gid: o.After.GID, secret: o.Secret, content: now.content}
	if o.Temp != "" {
		b, _, err := s.disk.ReadFile(path.Join(path.Dir(o.Path), o.Temp), readLimit)
		if err != nil {
			return nil, err
		}
		if sumOf(b) != o.After.Sum {
			return nil, fmt.Errorf("%s is not the file that was prepared", o.Temp)
		}
		after.content = newText(b)
	}
	if o.After.Kind != file {
		after.content = version{}
	}
	return restored(o, o.Kind, now, after), nil
}

// back returns the operations that take a record back, in reverse. A path that is neither as it was before nor as it was
// to be is left alone: somebody else has changed it, and what stands there is not ours to remove.
func (s *State) back(rec *record, files *overlay) ([]*Op, error) {
	var ops []*Op
	for _, o := range slices.Backward(rec.Ops) {
		now, err := files.read(o.Path, readLimit)
		if err != nil {
			return nil, err
		}
		is := sideOf(now)
		switch {
		case is == o.Before, !is.sameContent(o.After) && !is.sameContent(o.Before):
			continue
		}
		content, err := s.contentBefore(rec, o, now)
		if err != nil {
			return nil, err
		}
		before := node{kind: o.Before.Kind, mode: o.Before.Mode, uid: o.Before.UID, gid: o.Before.GID, secret: o.Secret, content: content}
		kind := o.Kind
		switch {
		case before.kind == absent:
			kind = OpRemove
		case before.kind == file:
			kind = OpWrite
		}
		ops = append(ops, restored(o, kind, now, before))
	}
	return ops, nil
}

// contentBefore gives what a file held before the operation.
func (s *State) contentBefore(rec *record, o opRecord, now node) (version, error) {
	switch {
	case o.Before.Kind != file:
		return version{}, nil
	case now.content.sum() == o.Before.Sum:
		return now.content, nil
	}
	var b []byte
	var err error
	if o.Backup != "" {
		b, err = s.read(filepath.Join(openDir, rec.run, o.Backup))
	} else if o.Splice != nil {
		b, err = o.Splice.revert(now.content.bytes())
	} else {
		err = errors.New("nothing was kept of it")
	}
	if err != nil {
		return version{}, fmt.Errorf("restore %s: %w", o.Path, err)
	}
	if sumOf(b) != o.Before.Sum {
		return version{}, fmt.Errorf("restore %s: the backup in %s is not what was replaced", o.Path, s.path(openDir, rec.run))
	}
	return newText(b), nil
}

func restored(o opRecord, kind OpKind, before, after node) *Op {
	return &Op{
		Kind: kind, Path: o.Path, Mode: after.mode, Sensitive: o.Secret,
		uid: after.uid, gid: after.gid, before: before, after: after, common: o.Common,
	}
}

// removeTemps removes what a settled record left lying beside its files.
func (s *State) removeTemps(rec *record) error {
	var errs []error
	for _, o := range rec.Ops {
		if o.Temp == "" {
			continue
		}
		if err := s.disk.RemoveTemps(path.Dir(o.Path), o.Temp); err != nil && !IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// beforeOf is what the disk must still hold for a decision to be good.
func beforeOf(n node) disk.Before {
	return disk.Before{Exists: n.kind != absent, Content: n.content.bytes(), Mode: n.mode, UID: n.uid, GID: n.gid}
}
