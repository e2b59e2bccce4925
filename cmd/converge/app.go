package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources"
)

// The exit codes are part of the contract.
const (
	exitDone    = 0
	exitFailed  = 1
	exitChanges = 2 // only with --detailed-exitcode; of status: something needs the operator
	exitOwed    = 3 // only with --detailed-exitcode: done, and a restart is owed
	exitRefused = 4
	exitNotYet  = 5 // waits for another node's run
	exitUsage   = 64
	exitBug     = 70 // a panic inside a resource: EX_SOFTWARE of sysexits.h
)

// An app is one invocation of the program.
type app struct {
	stdout, stderr io.Writer
	out            *checkedWriter
	flags          globalFlags
	log            zerolog.Logger
	code           int // what the command found, when it did not fail

	maintenance *resources.Maintenance // what the command asks of the keys
	planned     time.Time              // when the plan was made that the command applies; zero: it applies none
	checkSite   func(*site) error      // what has to be true of the site before anything is done; nil: nothing

	looksOnly    bool // the command writes nothing to the node, and tells what does not fit
	forceRestart bool // of restart
}

// globalFlags are those that every command takes.
type globalFlags struct {
	environment       string
	recipes           []string
	noStandardRecipes bool
	vars              []string
	role, node        string
	state             string
	json              bool
	noColor           bool
	logLevel          string
	logFormat         string
	parallelism       int
	acceptLockout     bool // of plan and apply
}

func newApp(stdout, stderr io.Writer) *app {
	out := &checkedWriter{w: stdout}
	return &app{stdout: out, stderr: stderr, out: out, log: zerolog.Nop()}
}

// A checkedWriter gathers what is printed, and remembers the first error: a report may be lost, the run goes on.
type checkedWriter struct {
	w      io.Writer
	buffer []byte
	err    error
}

// writeAt is how many bytes are gathered.
const writeAt = 64 << 10

func (c *checkedWriter) Write(b []byte) (int, error) {
	c.buffer = append(c.buffer, b...)
	if len(c.buffer) >= writeAt {
		c.flush()
	}
	return len(b), nil
}

// flush prints what was gathered.
func (c *checkedWriter) flush() {
	if c.err == nil && len(c.buffer) > 0 {
		_, c.err = c.w.Write(c.buffer)
	}
	c.buffer = c.buffer[:0]
}

// command builds the tree of commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "converge",
		Short: "Make a PostgreSQL environment speak SSL, and keep it so",
		Long: `converge makes true what its recipes say of a node, and proves it: an authority, server and client keys,
ssl settings, the operator's rules on top of pg_hba.conf, and a server that really serves them.

Read the plan, then apply it; a second apply finds nothing to do.`,
		Example: `  converge plan --role db_master
  converge apply --role db_master
  converge status`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.start(cmd) },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	f := root.PersistentFlags()
	f.StringVarP(&a.flags.environment, "environment", "e", "", "environment `FILE` (default "+defaultEnvironmentFile+", if it is there)")
	f.StringArrayVar(&a.flags.recipes, "recipes", nil, "folder of the site's own recipes, beside "+defaultRecipesDir+"; repeatable (`DIR`)")
	f.BoolVar(&a.flags.noStandardRecipes, "no-standard-recipes", false, "leave the standard recipes out")
	f.StringArrayVar(&a.flags.vars, "var", nil, "value of a variable of a recipe; repeatable (`NAME=VALUE`)")
	f.StringVar(&a.flags.role, "role", "", "role of this node: "+strings.Join(recipe.Roles, ", ")+" (`ROLE`)")
	f.StringVar(&a.flags.node, "node", "", "`NAME` of this node in the environment (default: the host name)")
	f.StringVar(&a.flags.state, "state", engine.DefaultStateDir, "folder (`DIR`) for the ledger, the journals and the history")
	f.BoolVar(&a.flags.json, "json", false, "print JSON")
	f.BoolVar(&a.flags.noColor, "no-color", false, "print without colours")
	f.StringVar(&a.flags.logLevel, "log-level", "warn", "what to log to stderr: debug, info, warn or error (`L`)")
	f.StringVar(&a.flags.logFormat, "log-format", "console", "form of the log: console or json (`F`)")
	f.IntVar(&a.flags.parallelism, "parallelism", 4, "how many steps may be under way at once (`N`)")
	root.AddCommand(
		a.planCommand(), a.applyCommand(), a.statusCommand(), a.keysCommand(), a.graphCommand(), a.validateCommand(), a.fmtCommand(),
		a.historyCommand(), a.hbaCommand(), a.verifyCommand(), a.confirmCommand(), a.rotateCommand(), a.revokeCommand(), a.restartCommand(), a.installTimerCommand(), a.fleetCommand(),
		a.versionCommand(),
	)
	root.Args = cobra.ArbitraryArgs
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0])
	}
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	root.SetHelpCommand(helpCommand())
	return root
}

// helpCommand is cobra's, but for a command that is not there: that is wrong usage.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: "  converge help plan",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(c, rest[0])
			}
			return c.Help()
		},
	}
}

// wrapArgs makes wrong arguments of a command a usage error.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err}
			}
			return nil
		}
	}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("there is no command %q", name)
	if s := cmd.SuggestionsFor(name); len(s) > 0 {
		msg += fmt.Sprintf("; did you mean %q?", s[0])
	}
	return &usageError{errors.New(msg)}
}

// A usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// start reads the flags that concern the program as a whole.
func (a *app) start(*cobra.Command) error {
	level, err := zerolog.ParseLevel(a.flags.logLevel)
	if err != nil || level == zerolog.NoLevel {
		return usage("--log-level %q: debug, info, warn and error are levels", a.flags.logLevel)
	}
	switch a.flags.logFormat {
	case "json":
		a.log = zerolog.New(a.stderr).Level(level).With().Timestamp().Logger()
	case "console":
		w := zerolog.ConsoleWriter{Out: a.stderr, NoColor: !a.colors(a.stderr)}
		a.log = zerolog.New(w).Level(level).With().Timestamp().Logger()
	default:
		return usage("--log-format %q: console and json are formats", a.flags.logFormat)
	}
	if a.flags.parallelism < 1 || a.flags.parallelism > 256 {
		return usage("--parallelism %d: 1 to 256 steps can be under way at once", a.flags.parallelism)
	}
	return nil
}

// colors says whether what goes to w is read on a terminal by somebody who has not switched colours off.
func (a *app) colors(w io.Writer) bool {
	if a.flags.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	return isTerminal(w)
}

func isTerminal(w io.Writer) bool {
	if c, ok := w.(*checkedWriter); ok {
		w = c.w
	}
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// A diagnosticsError is what is wrong with recipes or the environment file.
type diagnosticsError struct {
	diags hcl.Diagnostics
	files map[string]*hcl.File
}

func (e *diagnosticsError) Error() string { return e.diags.Error() }

// exit prints an error with its hint and gives the exit code.
func (a *app) exit(err error) int {
	a.out.flush()
	code := a.codeOf(err)
	a.out.flush()
	if a.out.err != nil {
		fmt.Fprintf(a.stderr, "converge: warning: the output could not be written: %v\n", a.out.err)
	}
	return code
}

func (a *app) codeOf(err error) int {
	if err == nil {
		return a.code
	}
	var silent silentError
	if errors.As(err, &silent) {
		return int(silent)
	}
	var diags *diagnosticsError
	if errors.As(err, &diags) {
		recipe.WriteDiagnostics(a.stderr, diags.diags, diags.files, 0, a.colors(a.stderr))
		return exitFailed
	}
	a.printError(err)
	var wrong *usageError
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case engine.IsRefused(err), errors.Is(err, engine.ErrLocked):
		return exitRefused
	case engine.IsNotYet(err):
		return exitNotYet
	}
	return exitFailed
}

func (a *app) printError(err error) {
	fmt.Fprintf(a.stderr, "converge: error: %s\n", engine.Redact(err.Error()))
	var refused *engine.RefusedError
	if errors.As(err, &refused) && refused.Detail != "" {
		fmt.Fprintln(a.stderr, engine.Redact(strings.TrimRight(refused.Detail, "\n")))
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(a.stderr, "converge: hint: %s\n", hint)
	}
}

// hintFor gives the way out of an error, where there is a true one.
func hintFor(err error) string {
	var wrong *usageError
	switch {
	case errors.As(err, &wrong):
		return "converge --help lists commands and flags"
	case errors.Is(err, engine.ErrLocked):
		return "wait for it to end; a plan can be made meanwhile"
	case errors.Is(err, context.Canceled):
		return "run it again: it goes on where it stopped"
	}
	return ""
}

// A silentError ends the program with its code; what there was to say is said.
type silentError int

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
