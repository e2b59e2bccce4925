package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"converge/engine/disk"
	"converge/engine/fault"
)

// commit makes a step's staged operations real: all of its files together, or none of them, and then its actions. It is
// the only place from which a run writes on the machine.
//
// In this order: the actions that come first; what follows from the step is owed; the intention is in the journal; every new file lies complete
// beside its target; each target still is what the decision was made from; the targets are switched. An error before
// the first switch leaves the machine as it was, one after it takes the step back.
func (r *run) commit(ctx context.Context, s *Step, ops []*Op) ([]Event, error) {
	var events []Event
	if err := r.actions(ctx, s, ops, true); err != nil {
		return nil, err
	}
	if files := fileOps(ops); len(files) > 0 {
		files, err := r.withFolders(s, files)
		if err != nil {
			return nil, err
		}
		if concernsServices(files) {
			owed, err := r.ledger.owe(s)
			if err != nil {
				return nil, err
			}
			for _, o := range owed {
				events = append(events, Event{Event: EventOwe, Address: s.Address, Owed: &o})
			}
		}
		if err := r.commitFiles(s.Address, files); err != nil {
			return events, err
		}
	}
	return events, r.actions(ctx, s, ops, false)
}

// actions carries out the step's actions: those that come before its files, or the others.
func (r *run) actions(ctx context.Context, s *Step, ops []*Op, first bool) error {
	for _, o := range ops {
		if !o.acts() || o.first != first {
			continue
		}
		fault.Point("before " + string(o.Kind))
		r.setActed(s, true)
		if err := o.act(ctx); err != nil {
			return err
		}
		fault.Point("after " + string(o.Kind))
	}
	return nil
}

func fileOps(ops []*Op) []*Op {
	var files []*Op
	for _, o := range ops {
		if !o.acts() {
			files = append(files, o)
		}
	}
	return files
}

// withFolders puts what makes folders first, from the top down, and adds those that come with the step's files. Other steps
// may make the same ones meanwhile.
func (r *run) withFolders(s *Step, files []*Op) ([]*Op, error) {
	var folders, rest []*Op
	seen := map[string]bool{}
	for _, o := range files {
		if o.Kind != OpMkdir {
			rest = append(rest, o)
			continue
		}
		folders, seen[o.Path] = append(folders, o), true
	}
	for _, o := range rest {
		if o.Kind != OpWrite || !s.below(o.Path) {
			continue
		}
		for dir := path.Dir(o.Path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			now, err := r.files.stat(dir)
			if err != nil {
				return nil, err
			}
			if now.kind != absent {
				break
			}
			after := node{kind: directory, mode: 0o700, uid: os.Geteuid(), gid: os.Getegid()}
			folders = append(folders, &Op{Kind: OpMkdir, Path: dir, Mode: after.mode, uid: after.uid, gid: after.gid, before: now, after: after, aside: true, common: true})
		}
	}
	slices.SortStableFunc(folders, func(a, b *Op) int { return strings.Count(a.Path, "/") - strings.Count(b.Path, "/") })
	return append(folders, rest...), nil
}

func (r *run) commitFiles(step string, ops []*Op) error {
	defer func() {
		for _, o := range ops {
			r.files.forget(o.Path)
		}
	}()
	rec, err := r.journal.begin(step, ops)
	if err != nil {
		return err
	}
	staged, err := r.prepare(rec, ops)
	for i := 0; i < len(ops) && err == nil; {
		n := together(ops[i:], staged[i:])
		err = r.switchOps(ops[i:i+n], staged[i:i+n])
		i += n
	}
	if err == nil {
		return r.journal.end(rec, "done")
	}
	for _, t := range staged {
		if t != nil {
			err = errors.Join(err, t.Discard()) // of one that was switched nothing is left to discard
		}
	}
	return r.takeBack(rec, err)
}

// prepare makes folders, for the files of the others may go there, and lays every new file beside its target. Folders that
// several steps may make are made by one at a time, and not removed before they hold something.
func (r *run) prepare(rec *record, ops []*Op) (staged []*disk.Staged, err error) {
	if slices.ContainsFunc(ops, func(o *Op) bool { return o.common }) {
		r.folders.Lock()
		defer r.folders.Unlock()
	}
	staged = make([]*disk.Staged, len(ops))
	for _, o := range ops {
		if err == nil && o.Kind == OpMkdir {
			err = r.switchOp(o, nil)
		}
	}
	for i, o := range ops {
		if err == nil && rec.Ops[i].Temp != "" {
			staged[i], err = r.stageOp(o, rec.Ops[i].Temp)
		}
	}
	return staged, err
}

// together returns how many of the first operations are switched as one: files side by side in a folder, such as a key and
// its certificate.
func together(ops []*Op, staged []*disk.Staged) int {
	n := 1
	for n < len(ops) && n < mostTogether && staged[n] != nil && staged[n-1] != nil && path.Dir(ops[n].Path) == path.Dir(ops[0].Path) {
		n++
	}
	return n
}

// mostTogether keeps what is between the comparison of a file and its rename short.
const mostTogether = 8

func (r *run) switchOps(ops []*Op, staged []*disk.Staged) error {
	if len(ops) > 1 {
		before := make([]disk.Before, len(ops))
		for i, o := range ops {
			before[i] = beforeOf(o.before)
		}
		return disk.SwitchTogether(staged, before)
	}
	if ops[0].Kind == OpMkdir {
		return nil // made already
	}
	return r.switchOp(ops[0], staged[0])
}

// stageOp writes the new content beside its target.
func (r *run) stageOp(o *Op, temp string) (*disk.Staged, error) {
	return r.engine.Disk.Stage(disk.File{
		Path: o.Path, Content: o.after.content.bytes(), Mode: o.after.mode, UID: o.uid, GID: o.gid,
		Secret: o.Sensitive, Temp: temp,
	})
}

// switchOp makes one operation real, if its target is still what the decision was made from.
func (r *run) switchOp(o *Op, staged *disk.Staged) error {
	d := r.engine.Disk
	switch {
	case staged != nil:
		return staged.Switch(beforeOf(o.before))
	case o.onlyAttributes():
		return d.SetAttr(o.Path, o.before.info, o.after.mode, o.uid, o.gid)
	case o.Kind == OpMkdir:
		err := d.Mkdir(o.Path, o.after.mode, o.uid, o.gid)
		if o.common && errors.Is(err, fs.ErrExist) {
			return nil // another step was faster
		}
		return err
	case o.Kind == OpRemove && o.before.kind == directory && o.common:
		r.folders.Lock()
		defer r.folders.Unlock()
		if err := d.RemoveDir(o.Path); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		return nil // another step has something there
	case o.Kind == OpRemove && o.before.kind == directory:
		return d.RemoveDir(o.Path)
	case o.Kind == OpRemove:
		return d.Remove(o.Path, beforeOf(o.before))
	}
	panic("engine: nobody knows how to " + o.String())
}

// takeBack undoes what a failed commit has done so far. When even that fails, the record stays open, and the next run
// tries again.
func (r *run) takeBack(rec *record, cause error) error {
	for _, o := range rec.Ops {
		r.files.forget(o.Path)
	}
	ops, err := r.engine.State.back(rec, r.files)
	if err == nil {
		err = r.perform(ops)
	}
	if err != nil {
		return errors.Join(cause, fmt.Errorf("taking back the first half of it: %w; the next run tries again", err))
	}
	if err := r.journal.end(rec, "undone"); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// recoverTemp begins the names of temporary files of recoveries. Only one run at a time writes, so no name of another
// run can be in use.
const recoverTemp = ".converge-recover-"

// perform carries operations out that finish or take back a record. The record stays open until they are done, so they
// need no record of their own: after a crash they are worked out again from what is on the disk.
func (r *run) perform(ops []*Op) error {
	for i, o := range ops {
		var staged *disk.Staged
		if o.Kind == OpWrite && !o.onlyAttributes() {
			var err error
			if staged, err = r.stageOp(o, fmt.Sprintf("%s%d", recoverTemp, i)); err != nil {
				return err
			}
		}
		if err := r.switchOp(o, staged); err != nil {
			if staged != nil {
				staged.Discard()
			}
			return err
		}
		r.files.forget(o.Path)
	}
	return nil
}

// recover settles what killed runs have left half done, before anything else happens.
func (r *run) recover() ([]*Change, error) {
	state := r.engine.State
	records, runs, err := state.unfinished()
	if err != nil {
		return nil, err
	}
	var changes []*Change
	for _, rec := range records {
		ops, forward, err := state.settle(rec, r.files)
		if err == nil {
			err = r.removeRecoveryTemps(rec)
		}
		if err == nil && !forward {
			err = state.removeTemps(rec) // they stand in the way of removing a folder that the step had made
		}
		if err != nil {
			return nil, fmt.Errorf("%s, left half done by run %s: %w", rec.Step, rec.run, err)
		}
		r.nameOwners(ops)
		if err := r.perform(ops); err != nil {
			return nil, fmt.Errorf("%s, left half done by run %s: %w", rec.Step, rec.run, err)
		}
		if rec.takeBack {
			r.tookBack = rec.run
		}
		if len(ops) > 0 {
			c := recoveryChange(rec, ops, forward)
			c.freeze()
			changes = append(changes, c)
		}
		if err := state.removeTemps(rec); err != nil {
			return nil, err
		}
	}
	for _, run := range runs {
		if err := r.engine.Disk.RemoveTemps(state.path(openDir, run), stateTemp); err != nil {
			return nil, err
		}
		if err := state.finish(run, &Report{Format: 1, Run: run, Result: ResultInterrupted}); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// removeRecoveryTemps removes what an earlier attempt to settle the record left lying when it was killed itself.
func (r *run) removeRecoveryTemps(rec *record) error {
	for _, o := range rec.Ops {
		err := r.engine.Disk.RemoveTemps(path.Dir(o.Path), recoverTemp)
		if err != nil && !IsNotExist(err) {
			return err
		}
	}
	return nil
}
