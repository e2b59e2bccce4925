package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"converge/engine"
	"converge/engine/disk"
)

// Where systemd looks for an administrator's units, and what tells that it runs this machine (sd_booted(3)).
const (
	unitDir      = "/etc/systemd/system"
	serviceUnit  = "converge.service"
	timerUnit    = "converge.timer"
	systemdRuns  = "/run/systemd/system"
	unitMarker   = "# Written by converge install-timer"
	defaultEvery = 30 * time.Minute
	defaultSplay = 5 * time.Minute
)

// timerFlags are those of install-timer.
type timerFlags struct {
	every, splay        time.Duration
	dryRun, yes, remove bool
}

func (a *app) installTimerCommand() *cobra.Command {
	f := timerFlags{}
	c := &cobra.Command{
		Use:   "install-timer",
		Short: "Let systemd apply at regular times",
		Long: `Show the systemd units that apply at regular times, and with --yes install and start them. The flags of this command
that say what to apply (--environment, --recipes, --role and the like) are those of the runs.`,
		Example: `  converge install-timer                          # shows the units
  converge install-timer --yes --environment /etc/converge/environment.hcl
  converge install-timer --remove --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.installTimer(cmd, f) },
	}
	c.Flags().DurationVar(&f.every, "every", defaultEvery, "the `TIME` from one run to the next: a part of an hour or of a day, such as 15m or 6h")
	c.Flags().DurationVar(&f.splay, "splay", defaultSplay, "begin up to this `TIME` later, each host at its own time")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the units, and write nothing; so it is without --yes as well")
	c.Flags().BoolVar(&f.yes, "yes", false, "write the units, and start the timer")
	c.Flags().BoolVar(&f.remove, "remove", false, "stop the timer, and remove the units")
	return c
}

// A unitFile is one of the two units as it shall be, and as it is.
type unitFile struct {
	path   string
	want   string // "" to remove it
	before disk.Before
}

func (a *app) installTimer(cmd *cobra.Command, f timerFlags) error {
	if f.dryRun && f.yes {
		return usage("--dry-run and --yes: one of the two")
	}
	d, err := disk.Open("/")
	if err != nil {
		return err
	}
	defer d.Close()
	units, err := a.wantedUnits(cmd, f)
	if err != nil {
		return err
	}
	changes := 0
	for i := range units {
		if err := units[i].read(d); err != nil {
			return err
		}
		if units[i].differs() {
			changes++
		}
	}
	a.showUnits(units, f)
	if !f.yes {
		if !f.dryRun && changes > 0 {
			fmt.Fprintln(a.stderr, "converge: hint: nothing was written; --yes does it")
		}
		return nil
	}
	return a.writeUnits(cmd.Context(), d, units, f, changes)
}

// wantedUnits are the two units: with their text, or to be removed.
func (a *app) wantedUnits(cmd *cobra.Command, f timerFlags) ([]unitFile, error) {
	units := []unitFile{{path: filepath.Join(unitDir, serviceUnit)}, {path: filepath.Join(unitDir, timerUnit)}}
	if f.remove {
		return units, nil
	}
	calendar, err := calendarOf(f.every)
	if err != nil {
		return nil, err
	}
	if f.splay < 0 || f.splay > f.every {
		return nil, usage("--splay %s: between 0 and --every, which is %s", f.splay, f.every)
	}
	command, err := a.applyCommandLine(cmd)
	if err != nil {
		return nil, err
	}
	units[0].want, units[1].want = serviceText(command), timerText(calendar, f)
	return units, nil
}

// calendarOf is an interval as a time of the calendar (systemd.time(7)): only such a timer makes up for a run that fell into
// a time when the machine was off.
func calendarOf(every time.Duration) (string, error) {
	minutes := int(every / time.Minute)
	switch {
	case every <= 0 || every%time.Minute != 0:
	case every == 24*time.Hour:
		return "*-*-* 00:00:00", nil
	case every == time.Hour:
		return "*-*-* *:00:00", nil
	case minutes < 60 && 60%minutes == 0:
		return fmt.Sprintf("*-*-* *:00/%d:00", minutes), nil
	case every%time.Hour == 0 && 24%(minutes/60) == 0:
		return fmt.Sprintf("*-*-* 00/%d:00:00", minutes/60), nil
	}
	return "", usage("--every %s: a timer needs a part of an hour or of a day: 5m, 10m, 15m, 20m, 30m, 1h, 2h, 3h, 4h, 6h, 8h, 12h or 24h; converge apply --every takes any", every)
}

// applyCommandLine is the command that the service runs: this program, with the flags of this invocation that say what to
// apply.
func (a *app) applyCommandLine(cmd *cobra.Command) ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("where this program is: %w", err)
	}
	if strings.HasSuffix(program, " (deleted)") {
		return nil, fmt.Errorf("%s: this program is not on the disk any more, so nothing could start it", program)
	}
	if err := a.roleOfLastRun(); err != nil {
		return nil, err
	}
	words := []string{program, "apply"}
	role := false
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		given, more := carried(f)
		role = role || f.Name == "role" && given
		if given && err == nil {
			words, err = appendFlag(words, f, more)
		}
	})
	if err != nil {
		return nil, err
	}
	source, err := a.environmentSource()
	switch {
	case err != nil:
		return nil, err
	case source == nil && a.flags.role == "":
		return nil, usage("there is no environment file, so the runs have to be told the role of this host: --role ROLE")
	case !role && a.flags.role != "":
		words = append(words, "--role="+a.flags.role) // the one of the last run
	}
	return words, nil
}

// notCarried are the flags that are about this invocation alone.
var notCarried = map[string]bool{"json": true, "no-color": true, "help": true}

// carried says whether a flag was given and is one for the runs, and its values.
func carried(f *pflag.Flag) (bool, []string) {
	if !f.Changed || notCarried[f.Name] {
		return false, nil
	}
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return true, list.GetSlice()
	}
	return true, []string{f.Value.String()}
}

// appendFlag adds a flag with each of its values. Paths become absolute: systemd starts programs in the root directory.
func appendFlag(words []string, f *pflag.Flag, values []string) ([]string, error) {
	for _, v := range values {
		if f.Name == "environment" || f.Name == "recipes" || f.Name == "state" {
			abs, err := absPath(v)
			if err != nil {
				return nil, err
			}
			v = abs
		}
		words = append(words, fmt.Sprintf("--%s=%s", f.Name, v))
	}
	return words, nil
}

// unitWord quotes a word for ExecStart= (systemd.service(5), COMMAND LINES): no specifier and no variable of systemd's
// is meant.
func unitWord(word string) string {
	word = strings.NewReplacer(`%`, `%%`, `$`, `$$`).Replace(word)
	if word != "" && !strings.ContainsAny(word, " \t\n\"'\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(word) + `"`
}

// serviceText is the service of one run. What it may not do a server must be able to do without: one that is not under
// systemd is restarted by the run, and lives on with the limits of the unit, in its control group. So there is no
// namespace, nothing is hidden or made read-only, and only the run's own process is ended with the unit.
func serviceText(command []string) string {
	var words []string
	for _, w := range command {
		words = append(words, unitWord(w))
	}
	return unitMarker + `. It writes this file anew: put changes into a drop-in (systemctl edit converge).
[Unit]
Description=Make this host what its converge recipes say
Documentation=man:systemd.timer(5)
After=network-online.target postgresql.service
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=` + strings.Join(words, " ") + `
# 3: done, and a restart is owed. 5: waits for another node. Neither is a failure.
SuccessExitStatus=3 5
# A run that is told to stop finishes the step in hand; a PostgreSQL that it has restarted is not its to end.
KillMode=process
TimeoutStopSec=5min
UMask=0077
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
`
}

// timerText is the timer. FixedRandomDelay makes the delay of a host the same each time (systemd 247; older ones leave it
// out and draw a new one).
func timerText(calendar string, f timerFlags) string {
	return unitMarker + fmt.Sprintf(`. It writes this file anew: put changes into a drop-in (systemctl edit converge.timer).
[Unit]
Description=Run converge every %s

[Timer]
OnCalendar=%s
RandomizedDelaySec=%d
FixedRandomDelay=true
Persistent=true

[Install]
WantedBy=timers.target
`, shortDuration(f.every), calendar, int(f.splay/time.Second))
}

// shortDuration is 30m, not 30m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// unitLimit is the largest unit, in bytes, that is looked at.
const unitLimit = 1 << 20

// read finds out what stands there. Somebody else's unit of that name is left alone.
func (u *unitFile) read(d *disk.Disk) error {
	old, info, err := d.ReadFile(u.path, unitLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(old, []byte(unitMarker)) {
		return &engine.RefusedError{Reason: fmt.Sprintf("%s is not of converge's making: move it away, or rename your unit", u.path)}
	}
	u.before = disk.BeforeOf(old, info)
	return nil
}

func (u *unitFile) differs() bool {
	if u.want == "" {
		return u.before.Exists
	}
	return string(u.before.Content) != u.want
}

// timerJSON is what install-timer --json prints.
type timerJSON struct {
	Format int        `json:"format"`
	Units  []unitJSON `json:"units"`
}

type unitJSON struct {
	Path   string `json:"path"`
	Action string `json:"action"` // create, update, remove, or none
	Text   string `json:"text,omitempty"`
	Diff   string `json:"diff,omitempty"`
}

func (u *unitFile) action() string {
	switch {
	case !u.differs():
		return "none"
	case u.want == "":
		return "remove"
	case !u.before.Exists:
		return "create"
	}
	return "update"
}

func (a *app) showUnits(units []unitFile, f timerFlags) {
	if a.flags.json {
		j := timerJSON{Format: 1}
		for _, u := range units {
			j.Units = append(j.Units, unitJSON{Path: u.path, Action: u.action(), Text: u.want, Diff: engine.Diff(u.path, u.before.Content, []byte(u.want))})
		}
		a.printJSON(j)
		return
	}
	p := newPrinter(a)
	for _, u := range units {
		switch action := u.action(); action {
		case "none":
			state := "is as it is to be"
			if f.remove {
				state = "is not there"
			}
			p.linef("%s %s", u.path, state)
		default:
			s := signs[action]
			p.linef("%s %s", p.paint(s.color, s.sign), p.paint(bold, u.path))
			p.diff(engine.Diff(u.path, u.before.Content, []byte(u.want)))
		}
	}
	a.out.flush()
}

// writeUnits puts the units in their place and tells systemd; or takes them away.
func (a *app) writeUnits(ctx context.Context, d *disk.Disk, units []unitFile, f timerFlags, changes int) error {
	if info, err := d.Stat(systemdRuns); err != nil || info.Kind != disk.Dir {
		return fmt.Errorf("systemd does not run this machine (there is no %s), and nothing was written: converge apply --every %s --splay %s does the same as a service of its own", systemdRuns, shortDuration(f.every), shortDuration(f.splay))
	}
	if f.remove {
		return a.removeUnits(ctx, d, units, changes)
	}
	for _, u := range units {
		if !u.differs() {
			continue
		}
		if err := putFile(d, u.path, []byte(u.want), 0o644); err != nil {
			return err
		}
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return systemctl(ctx, "enable", "--now", timerUnit)
}

func (a *app) removeUnits(ctx context.Context, d *disk.Disk, units []unitFile, changes int) error {
	if changes == 0 {
		return nil
	}
	if err := systemctl(ctx, "disable", "--now", timerUnit); err != nil {
		return err
	}
	for _, u := range units {
		if !u.before.Exists {
			continue
		}
		if err := d.Remove(u.path, u.before); err != nil {
			return err
		}
	}
	return systemctl(ctx, "daemon-reload")
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s; mend that and run this again", strings.Join(args, " "), err, engine.Redact(strings.TrimSpace(string(out))))
	}
	return nil
}
