package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"converge/engine"
)

func absPath(name string) (string, error) { return filepath.Abs(name) }

// A printer shows plans, events and reports to people.
type printer struct {
	w      io.Writer
	errors io.Writer
	color  bool
	json   bool
}

func newPrinter(a *app) *printer {
	return &printer{w: a.stdout, errors: a.stderr, color: a.colors(a.stdout), json: a.flags.json}
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	bold   = "1"
	dim    = "2"
)

func (p *printer) paint(code, text string) string {
	if !p.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) linef(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

// signs are how a change looks in the margin.
var signs = map[string]struct{ sign, color string }{
	"create":  {"+", green},
	"update":  {"~", yellow},
	"remove":  {"-", red},
	"reload":  {">", cyan},
	"restart": {"!", red},
	"run":     {">", cyan},
}

// plan shows a whole plan.
func (p *printer) plan(plan *engine.Plan, s *site) {
	p.linef("%s", p.paint(bold, title(plan.Environment, plan.Node, plan.Role, s)))
	p.linef("")
	for _, c := range plan.Changes {
		p.change(c)
	}
	p.access(plan.Access)
	p.warnings(plan.Warnings)
	p.failures(plan.Failures)
	if len(plan.Changes) == 0 && len(plan.Failures) == 0 {
		p.linef("%s", nothingToDo(plan.Role, plan.Unchanged))
	} else {
		p.linef("%s to change, %d unchanged. Disruption: %s.", count(len(plan.Changes), "resource", "resources"), plan.Unchanged, p.disruption(plan.Disruption))
	}
	p.owed(plan.Owed)
}

func nothingToDo(role string, unchanged int) string {
	if unchanged == 0 {
		return fmt.Sprintf("Nothing to do: the recipes declare nothing for the role %s.", role)
	}
	return fmt.Sprintf("Nothing to do: all %s as declared.", count(unchanged, "resource is", "resources are"))
}

func title(environment, node, role string, s *site) string {
	t := fmt.Sprintf("%s: %s as %s", environment, node, role)
	if s.server != nil {
		t += ", " + s.server.String()
	}
	return t
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (p *printer) disruption(d engine.Disruption) string {
	switch d {
	case engine.Restart:
		return p.paint(red, d.String())
	case engine.Reload:
		return p.paint(cyan, d.String())
	}
	return d.String()
}

// change shows one step's operations.
func (p *printer) change(c *engine.Change) {
	s := signs[c.Action]
	p.linef("%s %s: %s", p.paint(s.color, s.sign), p.paint(bold, c.Address), c.Summary)
	if c.Reason != "" {
		p.linef("    because %s", c.Reason)
	}
	width := 0
	for _, o := range c.Ops {
		width = max(width, len(o.Path))
	}
	for _, o := range c.Ops {
		switch {
		case o.Kind == engine.OpSQL:
			p.statement(o)
		case o.Path != "":
			p.op(o, width)
		}
	}
	p.linef("")
}

// opSign is the sign of one operation.
func opSign(o *engine.Op) string {
	switch {
	case o.Kind == engine.OpRemove:
		return "remove"
	case !o.Existed():
		return "create"
	}
	return "update"
}

func (p *printer) op(o *engine.Op, width int) {
	s := signs[opSign(o)]
	attributes := ""
	if o.Kind == engine.OpPublish {
		attributes = "published"
	} else if o.Kind != engine.OpRemove {
		attributes = fmt.Sprintf("%s %s:%s", o.ModeText(), o.Owner, o.Group)
	}
	if was := o.Was(); was != "" {
		attributes += " (was " + was + ")"
	}
	var more []string
	if o.Sensitive {
		more = append(more, "secret")
	}
	if o.Generated {
		more = append(more, "new in each run")
	}
	if o.Note != "" {
		more = append(more, o.Note)
	}
	text := fmt.Sprintf("    %s %-*s  %s", s.sign, width, o.Path, attributes)
	if len(more) > 0 {
		text += p.paint(dim, "  ("+strings.Join(more, "; ")+")")
	}
	p.linef("%s", p.paint(s.color, text))
	p.diff(o.Diff())
}

// statement shows what a server is asked to do.
func (p *printer) statement(o *engine.Op) {
	s := signs["update"]
	if o.Creates() {
		s = signs["create"]
	}
	text := fmt.Sprintf("    %s %s", s.sign, printable(o.Statement))
	if o.Note != "" {
		text += p.paint(dim, "  ("+o.Note+")")
	}
	p.linef("%s", p.paint(s.color, text))
}

func (p *printer) diff(diff string) {
	for l := range strings.Lines(diff) {
		l = strings.TrimRight(printable(l), "\n")
		color := dim
		switch {
		case strings.HasPrefix(l, "@@"):
			color = cyan
		case strings.HasPrefix(l, "+"):
			color = green
		case strings.HasPrefix(l, "-"):
			color = red
		}
		p.linef("      %s", p.paint(color, l))
	}
}

// printable keeps a file's control characters from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\ufffd'
		}
		return r
	}, s)
}

// accessColors are those of who gains and who loses.
var accessColors = map[engine.AccessKind]string{engine.AccessLoses: red, engine.AccessGains: green, engine.AccessMethod: yellow}

// access shows who gets in, and who does not any more.
func (p *printer) access(list []engine.Access) {
	if len(list) == 0 {
		return
	}
	p.linef("%s", p.paint(bold, "Access:"))
	for _, a := range list {
		if a.Text == "" {
			continue
		}
		p.linef("    %s", p.paint(accessColors[a.Change], printable(a.Text)))
	}
	p.linef("")
}

func (p *printer) warnings(list []engine.Warning) {
	for _, w := range list {
		fmt.Fprintf(p.errors, "converge: warning: %s: %s\n", w.Address, w.Text)
	}
}

// failures shows causes, and below each what could not run because of it.
func (p *printer) failures(list []engine.Failure) {
	for _, f := range list {
		where := f.Address
		if where != "" {
			where += ": "
		}
		what := "error"
		if f.NotYet {
			what = "not yet"
		}
		fmt.Fprintf(p.errors, "converge: %s: %s%s\n", what, where, f.Error)
		if len(f.Consequences) > 0 {
			fmt.Fprintf(p.errors, "  not run because of it: %s\n", strings.Join(f.Consequences, ", "))
		}
	}
}

func (p *printer) owed(list []engine.Owed) {
	for _, o := range list {
		p.linef("%s", p.paint(yellow, fmt.Sprintf("Owed: %s of %s since %s: %s", o.Action, o.Service, o.Since.Local().Format("2006-01-02 15:04"), o.Reason)))
		if o.Waits != "" {
			p.linef("    %s", o.Waits)
		}
	}
}

// event shows what an apply has just done.
func (p *printer) event(ev engine.Event) {
	switch ev.Event {
	case engine.EventChange:
		p.change(ev.Change)
		p.access(ev.Change.Access)
	case engine.EventUndo:
		p.linef("%s %s: put back, because %s\n", p.paint(red, "-"), p.paint(bold, ev.Address), ev.Cause)
	case engine.EventWait:
		p.linef("%s\n", p.paint(yellow, fmt.Sprintf("Everything is put back at %s, unless somebody runs: converge confirm", ev.Until.Local().Format("15:04:05"))))
	}
}

// report ends an apply.
func (p *printer) report(rep *engine.Report) {
	p.warnings(rep.Warnings)
	p.failures(rep.Failures)
	took := rep.Finished.Sub(rep.Started).Round(time.Millisecond)
	switch {
	case rep.Result == engine.ResultStopped:
		p.linef("Stopped by a signal: %s changed, %d unchanged, not run: %s.", count(len(rep.Changes), "resource", "resources"), rep.Unchanged, strings.Join(rep.NotRun, ", "))
	case onlyLate(rep):
		p.linef("%s: %s changed, %d unchanged, %d waiting for another node.", p.paint(yellow, "Not yet"), count(len(rep.Changes), "resource", "resources"), rep.Unchanged, len(rep.Failures))
	case rep.Result != engine.ResultOK:
		p.linef("%s: %s changed, %d unchanged, %d failed.", p.paint(red, "Failed"), count(len(rep.Changes), "resource", "resources"), rep.Unchanged, len(rep.Failures))
	case len(rep.Changes) == 0:
		p.linef("%s", nothingToDo(rep.Role, rep.Unchanged))
	default:
		p.linef("Done in %s: %s changed, %d unchanged. Disruption: %s.", took, count(len(rep.Changes), "resource", "resources"), rep.Unchanged, p.disruption(rep.Disruption))
	}
	p.owed(rep.Owed)
}

// followLong tells on stderr what a run is busy with, when that takes longer than people like to wait without a word.
func (a *app) followLong(e *engine.Engine) {
	if !isTerminal(a.stderr) {
		return
	}
	var mu sync.Mutex
	timers := map[string]*time.Timer{}
	e.Working = func(address string, busy bool) {
		mu.Lock()
		defer mu.Unlock()
		if t := timers[address]; t != nil {
			t.Stop()
			delete(timers, address)
		}
		if busy {
			timers[address] = time.AfterFunc(2*time.Second, func() {
				fmt.Fprintf(a.stderr, "converge: still at %s\n", address)
			})
		}
	}
}
