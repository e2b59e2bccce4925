package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
)

// The bounds of --every.
const (
	everyLeast = time.Second
	everyMost  = 7 * 24 * time.Hour
)

// applyEvery applies again and again until a signal comes. Each run is a program of its own, but for the process: recipes
// and environment are read anew, and what one run fails of the next one does not know. What is worth a word goes out; the
// rest is silence.
func (a *app) applyEvery(cmd *cobra.Command, args []string, f runFlags) error {
	if err := f.checkEvery(args); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("converge reads keys and writes as root: run it with sudo")
	}
	s := service{
		every: f.every, offset: splayOf(f.splay, hostIdentity()), now: now, wait: waitUntil,
		run: func(ctx context.Context) runText { return a.quietRun(ctx, f) },
		say: func(t runText) {
			a.stdout.Write(t.stdout)
			a.out.flush()
			a.stderr.Write(t.stderr)
		},
	}
	return s.loop(cmd.Context())
}

func (f *runFlags) checkEvery(args []string) error {
	switch {
	case f.every == 0:
		return usage("--splay without --every: one run begins at once")
	case f.every < everyLeast || f.every > everyMost:
		return usage("--every %s: between %s and %s", f.every, everyLeast, everyMost)
	case f.splay < 0 || f.splay > f.every:
		return usage("--splay %s: between 0 and --every, which is %s", f.splay, f.every)
	case f.dryRun:
		return usage("--every with --dry-run: a plan is made once")
	case len(args) > 0:
		return usage("--every with a plan file: a plan is good for one run")
	case f.confirmWithin > 0:
		return usage("--every with --confirm-within: nobody is there to confirm")
	case f.detailedExitcode:
		return usage("--every with --detailed-exitcode: there is no exit code until the last run is over")
	}
	return nil
}

// splayOf is how much later this host begins than others: a share of d that its identity decides, so that it is the same
// after each start, and hosts that are started at one moment spread evenly.
func splayOf(d time.Duration, identity string) time.Duration {
	sum := sha256.Sum256([]byte("converge splay " + identity))
	share := float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
	return time.Duration(share * float64(d))
}

// hostIdentity tells this host from others: by systemd's machine id, which clones may share, and the host name.
func hostIdentity() string {
	id, _ := os.ReadFile("/etc/machine-id")
	host, _ := os.Hostname()
	return strings.TrimSpace(string(id)) + " " + host
}

// waitUntil waits for a time, and says whether it came before the context ended.
func waitUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// A runText is what one run came to, and what it printed.
type runText struct {
	stdout, stderr []byte
	locked         bool     // another run was under way
	changed        bool     // and what it changed is told
	causes         []string // what is wrong, or has to wait: each thing once
	end            error    // no further run can come to anything else
}

// A service runs at its times, and says what is news.
type service struct {
	every, offset time.Duration
	now           func() time.Time
	wait          func(context.Context, time.Time) bool
	run           func(context.Context) runText
	say           func(runText)

	known []string // the causes of the last run
	told  []byte   // what the last run printed that changed something, and failed
}

// loop runs until the context ends. The times are those of the first one, plus whole intervals: a run that takes longer
// than an interval is followed by the next time there is, not by those that it missed.
func (s *service) loop(ctx context.Context) error {
	next := s.now().Add(s.offset)
	for s.wait(ctx, next) {
		t := s.run(ctx)
		if t.end != nil {
			return t.end
		}
		s.report(t)
		for next = next.Add(s.every); next.Before(s.now()); next = next.Add(s.every) {
		}
	}
	return nil
}

// report says what is news: a change, a cause that was not there before, a cause that is over. A run that finds another
// one under way is none.
func (s *service) report(t runText) {
	if t.locked {
		return
	}
	over := without(s.known, t.causes)
	news := len(without(t.causes, s.known)) > 0
	switch {
	case t.changed && len(t.causes) > 0:
		// A change that fails and is put back comes again with each run.
		news = news || !bytes.Equal(withoutPassing(t.stdout), s.told)
		s.told = withoutPassing(t.stdout)
	case t.changed:
		news = true
	}
	s.known = t.causes
	out := runText{}
	if news {
		out = t
	}
	for _, cause := range over {
		out.stderr = fmt.Appendf(out.stderr, "converge: over: %s\n", cause)
	}
	if len(out.stdout)+len(out.stderr) > 0 {
		s.say(out)
	}
}

// without returns the texts that are not among others, as causes are told apart.
func without(texts, others []string) []string {
	var out []string
	for _, text := range texts {
		if !slices.ContainsFunc(others, func(o string) bool { return string(withoutPassing([]byte(o))) == string(withoutPassing([]byte(text))) }) {
			out = append(out, text)
		}
	}
	return out
}

// passing are the parts of a message that differ each time although the cause is the same: run names, times, the numbers
// of processes and of ports, temporary names, how long something took.
var passing = regexp.MustCompile(`\d{8}T\d{6}\.\d{3}-[0-9a-f]{6}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?\S*|\b\d\d:\d\d:\d\d\b|\b\d{4,}\b|\b\d+(\.\d+)?(µs|ms|s)\b|\b[0-9a-f]{12,}\b`)

// withoutPassing is a message without them.
func withoutPassing(text []byte) []byte { return passing.ReplaceAll(text, []byte("#")) }

// quietRun is one run, with what it prints kept.
func (a *app) quietRun(ctx context.Context, f runFlags) runText {
	var stdout, stderr bytes.Buffer
	one := newApp(&stdout, &stderr)
	one.flags, one.log = a.flags, a.log
	s, rep, err := one.applyPatiently(ctx, f)
	if s != nil && s.engine != nil {
		s.engine.Disk.Close() // a process would have ended
	}
	t := runText{}
	var wrong *usageError
	switch {
	case errors.Is(err, engine.ErrLocked):
		a.log.Info().Msg("another run is under way: this time is left out")
		return runText{locked: true}
	case errors.As(err, &wrong):
		t.end = err
		return t
	case err != nil && ctx.Err() != nil:
		return t // told to stop before it began
	case err != nil:
		one.brokenOff(s, err)
		one.exit(err)
		t.causes = []string{causeOf(err)}
	default:
		if a.flags.json {
			one.printJSON(done(rep))
		} else {
			newPrinter(one).report(rep)
		}
		one.out.flush()
		t.changed, t.causes = len(rep.Changes) > 0, causes(rep)
	}
	t.stdout, t.stderr = stdout.Bytes(), stderr.Bytes()
	return t
}

// causes are what is wrong after a run, or has to wait.
func causes(rep *engine.Report) []string {
	var out []string
	for _, f := range rep.Failures {
		out = append(out, strings.TrimPrefix(f.Address+": "+f.Error, ": "))
	}
	for _, o := range rep.Owed {
		out = append(out, fmt.Sprintf("a %s of %s is owed: %s", o.Action, o.Service, o.Reason))
	}
	for _, w := range rep.Warnings {
		out = append(out, w.Address+": "+w.Text)
	}
	return out
}

// causeOf is an error in a line.
func causeOf(err error) string {
	text, _, _ := strings.Cut(engine.Redact(err.Error()), "\n")
	return text
}
