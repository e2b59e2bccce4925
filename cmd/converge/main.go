// Command converge makes a PostgreSQL environment speak SSL, and keeps it so.
//
// This package reads flags, prints and decides exit codes; nothing else does. site.go gathers what a command is about
// (environment, node, server, recipe) and gives a graph; the commands, one a file, hand it to the engine; print.go shows
// what comes back.
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments. It returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	syscall.Umask(0o077)
	collectLater()
	// A report that nobody reads must not end a run in the middle.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := untilSignal(stderr)
	defer stop()
	a := newApp(stdout, stderr)
	root := a.command()
	root.SetArgs(args)
	return a.exit(root.ExecuteContext(ctx))
}

// collectLater lets the garbage collector begin at 96 MB and go on as usual from there: most runs are short and small, and
// would spend a tenth of their time on collecting what ends with them.
func collectLater() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(96 << 20)
	first := new([16]byte) // found dead by the first collection
	runtime.SetFinalizer(first, func(*[16]byte) {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
	})
}

// untilSignal ends the context at the first SIGINT, SIGTERM or SIGHUP: the step in hand is finished. The second one ends
// the process at once; the next run settles what is half done.
func untilSignal(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s, ok := <-signals
		if !ok {
			return
		}
		fmt.Fprintf(stderr, "converge: %s: finishing the step in hand; once more stops at once\n", s)
		cancel()
		if s, ok = <-signals; ok {
			fmt.Fprintf(stderr, "converge: %s: stopped at once; the next run settles what is half done\n", s)
			os.Exit(exitFailed)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}
