package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources/hba"
)

func (a *app) hbaCheckCommand() *cobra.Command {
	var v hbaVersion
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Say whether a pg_hba.conf would load, and what in it is hardly meant",
		Long: `Say whether the server would load a pg_hba.conf, with each line that it would refuse in the server's own words, and what
it would load but can hardly be meant (lints). Files that the file names are read from the disk, relative to it.

The exit code is 0 when all files would load, lints or not, and 1 when one would not or cannot be read.`,
		Example: `  converge hba check /etc/postgresql/15/main/pg_hba.conf
  converge hba check --pg-version 16 --json pg_hba.conf | jq '.errors[]'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.hbaCheck(cmd, args, v) },
	}
	v.flag(c)
	return c
}

func (a *app) hbaCheck(cmd *cobra.Command, names []string, v hbaVersion) error {
	if err := a.chooseVersion(cmd, &v); err != nil {
		return err
	}
	p := newPrinter(a)
	if !p.json {
		p.linef("%s", v.forWhich())
	}
	for _, name := range names {
		f, err := v.parseHBA(cmd.Context(), name)
		if err != nil {
			a.printError(err)
		}
		if err != nil || !f.Loads() {
			a.code = exitFailed
		}
		switch {
		case p.json:
			if err := a.printJSON(checkOf(name, f, err)); err != nil {
				return err
			}
		case err == nil:
			p.hbaCheck(name, f)
		}
	}
	return nil
}

// hbaCheckJSON is what hba check --json prints of one file.
type hbaCheckJSON struct {
	File   string         `json:"file"`
	Rules  []hbaRuleJSON  `json:"rules"`
	Errors []hbaErrorJSON `json:"errors"`
	Lints  []hbaLintJSON  `json:"lints"`
}

// hbaRuleJSON is a rule in the words of pg_hba_file_rules.
type hbaRuleJSON struct {
	File      string   `json:"file,omitempty"` // the included file that it is in
	Line      int      `json:"line"`
	Type      string   `json:"type"`
	Databases []string `json:"databases"`
	Users     []string `json:"users"`
	Address   string   `json:"address"`
	Netmask   string   `json:"netmask"`
	Method    string   `json:"method"`
	Options   []string `json:"options"`
}

type hbaErrorJSON struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line"` // 0: the file as a whole
	Message string `json:"message"`
}

type hbaLintJSON struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line"`
	Name    string `json:"name"`
	Message string `json:"message"`
}

// checkOf is a file as the contract prints it. One that could not be read has that for an error.
func checkOf(name string, f *hba.File, unread error) hbaCheckJSON {
	out := hbaCheckJSON{File: name, Rules: []hbaRuleJSON{}, Errors: []hbaErrorJSON{}, Lints: []hbaLintJSON{}}
	if unread != nil {
		out.Errors = append(out.Errors, hbaErrorJSON{Message: unread.Error()})
		return out
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		out.Rules = append(out.Rules, hbaRuleJSON{
			File: r.File, Line: r.Line, Type: r.Type, Databases: hba.Texts(r.Databases), Users: hba.Texts(r.Users),
			Address: r.Address, Netmask: r.Netmask, Method: r.Method, Options: notNil(r.Options),
		})
	}
	for _, e := range f.Problems() {
		out.Errors = append(out.Errors, hbaErrorJSON{e.File, e.Line, e.Message})
	}
	for _, l := range f.Lints() {
		out.Lints = append(out.Lints, hbaLintJSON{l.File, l.Line, l.Name, l.Message})
	}
	return out
}

// A finding is one line of what hba check says of a file.
type finding struct{ place, name, color, text string }

// hbaCheck shows what is to say of a file, in columns, and its verdict.
func (p *printer) hbaCheck(name string, f *hba.File) {
	problems, lints := f.Problems(), f.Lints()
	var found []finding
	for _, e := range problems {
		found = append(found, finding{lineAt(name, e.File, e.Line), "error", red, e.Message})
	}
	for _, l := range lints {
		found = append(found, finding{lineAt(name, l.File, l.Line), l.Name, yellow, l.Message})
	}
	p.linef("\n%s", p.paint(bold, printable(name)))
	p.findings(found)
	verdict := fmt.Sprintf("would load on PostgreSQL %d", f.Server.Major)
	color := green
	if len(problems) > 0 {
		verdict, color = fmt.Sprintf("would NOT load on PostgreSQL %d", f.Server.Major), red
	}
	p.linef("  %s: %s, %s, %s", p.paint(color, verdict), count(len(f.Rules), "rule", "rules"), count(len(problems), "error", "errors"), count(len(lints), "lint", "lints"))
	if len(problems) > 0 {
		p.linef("  %s", p.paint(dim, "a running server would keep its old rules at a reload, and would not start again"))
	}
}

func (p *printer) findings(found []finding) {
	places, names := 0, 0
	for _, f := range found {
		places, names = max(places, len(f.place)), max(names, len(f.name))
	}
	for _, f := range found {
		p.linef("  %-*s  %s  %s", places, f.place, p.paint(f.color, fmt.Sprintf("%-*s", names, f.name)), engine.Redact(oneLine(f.text)))
	}
}

// oneLine is a message in one line. A folder that is included has one with a line for each file.
func oneLine(message string) string { return strings.ReplaceAll(printable(message), "\n", "; ") }
