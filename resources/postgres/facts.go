package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Facts are what a running server says about itself.
type Facts struct {
	Version    string // "15.18"
	Number     int    // 150018
	InRecovery bool   // it follows another server
	Started    time.Time
	Loaded     time.Time // when the configuration was last read. It advances with a reload that is refused, too.
}

// Facts asks the server about itself.
func (c *Conn) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	err := c.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(), pg_postmaster_start_time(), pg_conf_load_time()`).
		Scan(&f.Version, &f.Number, &f.InRecovery, &f.Started, &f.Loaded)
	if err != nil {
		return Facts{}, c.questionError("ask for the version", err)
	}
	f.Version, _, _ = strings.Cut(f.Version, " ")
	return f, nil
}

func (c *Conn) questionError(doing string, err error) error {
	return fmt.Errorf("%s: %s: %s", c.Server, doing, redact(err.Error()))
}

// A ServerSetting is one setting as the server has it. After a refused reload of TLS files it shows the new value although
// the old one is served: only Handshake tells.
type ServerSetting struct {
	Name           string
	Value          string
	Context        string // "sighup", "postmaster" ...
	PendingRestart bool   // as the server says; ask WaitsForRestart
	Source         string // "configuration file", "default", "command line" ...
	SourceFile     string // "" unless from a file
	SourceLine     int
	BootValue      string // what it is when nothing sets it
}

// WaitsForRestart says whether a restart would bring another value, given the files as they are on the disk. The server's
// own word, PendingRestart, stays true when the only line of a setting has come and gone again.
func (s ServerSetting) WaitsForRestart(conf *Conf) bool {
	if _, inFiles := conf.Get(s.Name); !inFiles && s.Source != "configuration file" {
		return false
	}
	return s.PendingRestart
}

// Settings returns the settings of these names by name in lower case. One that this version does not have is not in the
// map.
func (c *Conn) Settings(ctx context.Context, names ...string) (map[string]ServerSetting, error) {
	lower := make([]string, len(names))
	for i, n := range names {
		lower[i] = foldName(n)
	}
	rows, err := c.Query(ctx, `SELECT lower(name), setting, context, pending_restart, source, coalesce(sourcefile, ''), coalesce(sourceline, 0), coalesce(boot_val, '')
		FROM pg_settings WHERE lower(name) = ANY($1)`, lower)
	if err != nil {
		return nil, c.questionError("ask for settings", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ServerSetting])
	if err != nil {
		return nil, c.questionError("ask for settings", err)
	}
	out := make(map[string]ServerSetting, len(list))
	for _, s := range list {
		out[s.Name] = s
	}
	return out, nil
}

// A FileProblem is a line of the configuration files on the disk that the server would not take.
type FileProblem struct {
	File string
	Line int
	Name string // the setting, or ""
	Text string // the server's words

	// Fatal: the server refuses all of the files while the line stands, and does not start with it. Otherwise it
	// takes the others and leaves this setting as it is.
	Fatal bool
	// Restart: nothing is wrong with the line. It changes a setting that only a restart can change.
	Restart bool
}

func (p FileProblem) String() string {
	if p.Name == "" {
		return fmt.Sprintf("%s line %d: %s", p.File, p.Line, p.Text)
	}
	return fmt.Sprintf("%s line %d: %s: %s", p.File, p.Line, p.Name, p.Text)
}

// The server's words for a value that it does not take, and for a change that has to wait for a restart.
const notApplied = "setting could not be applied"

// FileProblems judges the configuration files as they are on the disk now, before or after a reload. Lines that wait for a
// restart are among them, marked.
func (c *Conn) FileProblems(ctx context.Context) ([]FileProblem, error) {
	rows, err := c.Query(ctx, `SELECT coalesce(sourcefile, ''), coalesce(sourceline, 0), coalesce(name, ''), error, error <> '`+notApplied+`', false
		FROM pg_file_settings WHERE error IS NOT NULL ORDER BY seqno`)
	if err != nil {
		return nil, c.questionError("ask for pg_file_settings", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[FileProblem])
	if err != nil {
		return nil, c.questionError("ask for pg_file_settings", err)
	}
	var names []string
	for _, p := range list {
		if p.Text == notApplied {
			names = append(names, p.Name)
		}
	}
	if names == nil {
		return list, nil
	}
	// Having looked at the files, this session marks the settings that only wait for a restart. A wrong value of such a
	// setting is not marked.
	settings, err := c.Settings(ctx, names...)
	if err != nil {
		return nil, err
	}
	for i, p := range list {
		list[i].Restart = p.Text == notApplied && settings[foldName(p.Name)].PendingRestart
	}
	return list, nil
}

// An HBARule is one row of pg_hba_file_rules: the file on the disk now, which is not always what is loaded.
type HBARule struct {
	Number    int    // 0 for a line that makes no rule, and on 15 and before
	File      string // "" before 16: the hba file itself
	Line      int
	Type      string // "" when the line is broken
	Databases []string
	Users     []string
	Address   string
	Netmask   string
	Method    string
	Options   []string
	Error     string
}

// Broken says whether the server would refuse the file for this line. A line is taken exactly when the view shows its
// type. Its error column does not tell: invalid clientcert values have neither type nor error (12 and up), and a
// hostssl line has an error while ssl is off, and is taken all the same.
func (r HBARule) Broken() bool { return r.Type == "" }

// reason is what the server says of a broken line. That TLS is off is no reason: it only hides the one there is.
func (r HBARule) reason() string {
	if strings.Contains(r.Error, "cannot match because") {
		return ""
	}
	return r.Error
}

// Warning is what the server says of a line that it takes and that cannot match.
func (r HBARule) Warning() string {
	if r.Broken() {
		return ""
	}
	return r.Error
}

// HBARules judges pg_hba.conf and its includes as they are on the disk now.
func (c *Conn) HBARules(ctx context.Context) ([]HBARule, error) {
	number, file := "0", "''"
	if c.Server.Major >= 16 {
		number, file = "coalesce(rule_number, 0)", "coalesce(file_name, '')"
	}
	rows, err := c.Query(ctx, `SELECT `+number+`, `+file+`, coalesce(line_number, 0), coalesce(type, ''), coalesce(database, '{}'), coalesce(user_name, '{}'),
		coalesce(address, ''), coalesce(netmask, ''), coalesce(auth_method, ''), coalesce(options, '{}'), coalesce(error, '') FROM pg_hba_file_rules`)
	if err != nil {
		return nil, c.questionError("ask for pg_hba_file_rules", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[HBARule])
	if err != nil {
		return nil, c.questionError("ask for pg_hba_file_rules", err)
	}
	return list, nil
}

// HBAProblems returns what keeps a server from taking the file whose rules these are: the broken lines, with their file
// and the server's words where it has some.
func (s *Server) HBAProblems(rules []HBARule) []FileProblem {
	var out []FileProblem
	for _, r := range rules {
		if r.Broken() {
			out = append(out, FileProblem{File: first(r.File, s.HBAFile), Line: r.Line, Fatal: true,
				Text: first(r.reason(), "the server refuses this line and does not say why: a value of an option is not one that it knows")})
		}
	}
	if len(rules) == 0 {
		out = append(out, FileProblem{File: s.HBAFile, Fatal: true, Text: "there is no rule in it: the server does not take such a file"})
	}
	return out
}

// IdentProblems judges pg_ident.conf as it is on the disk now. Servers before 15 have no view of it: nothing is found.
func (c *Conn) IdentProblems(ctx context.Context) ([]FileProblem, error) {
	if c.Server.Major < 15 {
		return nil, nil
	}
	file := "''"
	if c.Server.Major >= 16 {
		file = "coalesce(file_name, '')"
	}
	rows, err := c.Query(ctx, `SELECT `+file+`, coalesce(line_number, 0), '', error, true, false FROM pg_ident_file_mappings WHERE error IS NOT NULL`)
	if err != nil {
		return nil, c.questionError("ask for pg_ident_file_mappings", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[FileProblem])
	if err != nil {
		return nil, c.questionError("ask for pg_ident_file_mappings", err)
	}
	for i := range list {
		list[i].File = first(list[i].File, c.Server.IdentFile)
	}
	return list, nil
}
