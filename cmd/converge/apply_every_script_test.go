package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"converge/engine"
)

// theService is the one of this script: a script has a process of its own.
var theService struct {
	cmd    *exec.Cmd
	output string
}

// serve ARG...: converge apply stays with these arguments, until the script ends or says quit.
func scriptServe(ts *testscript.TestScript, _ bool, args []string) {
	theService.output = ts.MkAbs("service.txt")
	out, err := os.Create(theService.output)
	ts.Check(err)
	program := ""
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		if p := filepath.Join(dir, "converge"); program == "" && exec.Command(p, "version").Run() == nil {
			program = p
		}
	}
	cmd := exec.Command(program, append([]string{"apply"}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, ts.Getenv("WORK")
	ts.Check(cmd.Start())
	ts.Check(out.Close())
	theService.cmd = cmd
	ts.Defer(func() { cmd.Process.Kill() })
}

// until waits for something that is to come.
func until(ts *testscript.TestScript, what string, is func() bool) {
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s does not come; the service said:\n%s", what, ts.ReadFile(theService.output))
		}
	}
}

func countRuns(ts *testscript.TestScript) int {
	names, err := os.ReadDir(engine.DefaultStateDir + "/runs")
	ts.Check(err)
	return len(names)
}

// runs N: so many more of them have ended.
func scriptRuns(ts *testscript.TestScript, _ bool, args []string) {
	n := 0
	_, err := fmt.Sscan(args[0], &n)
	ts.Check(err)
	before := countRuns(ts)
	until(ts, args[0]+" more runs", func() bool { return countRuns(ts) >= before+n })
}

// said TEXT: the service says it, now or soon. With !: it has not so far.
func scriptSaid(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		if strings.Contains(ts.ReadFile(theService.output), args[0]) {
			ts.Fatalf("the service said %q:\n%s", args[0], ts.ReadFile(theService.output))
		}
		return
	}
	until(ts, args[0], func() bool { return strings.Contains(ts.ReadFile(theService.output), args[0]) })
}

// times N TEXT: the service has said it so often.
func scriptTimes(ts *testscript.TestScript, _ bool, args []string) {
	if got := strings.Count(ts.ReadFile(theService.output), args[1]); fmt.Sprint(got) != args[0] {
		ts.Fatalf("the service said %q %d times:\n%s", args[1], got, ts.ReadFile(theService.output))
	}
}

// silent: the service has said nothing.
func scriptSilent(ts *testscript.TestScript, _ bool, _ []string) {
	if text := ts.ReadFile(theService.output); text != "" {
		ts.Fatalf("the service said:\n%s", text)
	}
}

// besides: another run is under way, until the service has seen it.
func scriptBesides(ts *testscript.TestScript, _ bool, _ []string) {
	a := newApp(os.Stdout, os.Stderr)
	a.flags.state = engine.DefaultStateDir
	s := &site{}
	ts.Check(a.openEngine(s))
	var unlock func()
	until(ts, "the lock", func() (got bool) {
		var err error
		unlock, err = s.engine.State.Lock(time.Now())
		return err == nil
	})
	scriptSaid(ts, false, []string{"another run is under way"})
	unlock()
}

// descriptors: the service holds nothing more open after some runs than before.
func scriptDescriptors(ts *testscript.TestScript, _ bool, _ []string) {
	least := func() int {
		least, before := 1<<20, countRuns(ts)
		until(ts, "a run", func() bool {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", theService.cmd.Process.Pid))
			ts.Check(err)
			least = min(least, len(open))
			return countRuns(ts) > before
		})
		return least
	}
	before := least()
	scriptRuns(ts, false, []string{"3"})
	if after := least(); after > before {
		ts.Fatalf("it has %d files open, and had %d", after, before)
	}
}

// quit: the service is told to stop, and ends well.
func scriptQuit(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(theService.cmd.Process.Signal(syscall.SIGTERM))
	ts.Check(theService.cmd.Wait())
}

// window NAME DURATION SINCE: a recipe in the folder of this name has a maintenance window that opened so long ago, to the
// minute, each day.
func scriptWindow(ts *testscript.TestScript, _ bool, args []string) {
	since, err := time.ParseDuration(args[2])
	ts.Check(err)
	start := time.Now().UTC().Truncate(time.Minute).Add(-since)
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+"/window.hcl"), fmt.Appendf(nil, "maintenance_window %q {\n  start    = %q\n  duration = %q\n}\n", args[0], start.Format("15:04"), args[1]), 0o644))
}
