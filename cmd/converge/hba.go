package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/hba"
	"converge/resources/postgres"
)

func (a *app) hbaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "hba",
		Short: "Judge pg_hba.conf files: check, explain, diff",
		Long: `Judge pg_hba.conf files as PostgreSQL 10 to 18 do, without a server: check says whether a file would load, explain says
which line a connection meets, and diff says who gains and who loses access between two files. Nothing is written, and
root is needed only for files that are root's.`,
		Example: `  converge hba check /etc/postgresql/15/main/pg_hba.conf
  converge hba explain pg_hba.conf --user deploy --database app --from 10.0.1.7 --ssl
  converge hba diff pg_hba.conf.old pg_hba.conf`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(a.hbaCheckCommand(), a.hbaExplainCommand(), a.hbaDiffCommand())
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
	return c
}

// hbaVersion is for which version files are judged.
type hbaVersion struct {
	asked int    // --pg-version; 0: not given
	major int    // what it came to
	why   string // why this one, after "PostgreSQL 15, "
}

func (v *hbaVersion) flag(c *cobra.Command) {
	c.Flags().IntVar(&v.asked, "pg-version", 0, fmt.Sprintf("judge for this major version of PostgreSQL, %d to %d (`N`; default: that of the server here)", hba.Oldest, hba.Newest))
}

// chooseVersion decides for which version files are judged: the one that was asked for, else that of the server here, else
// the newest, with a word on stderr.
func (a *app) chooseVersion(c *cobra.Command, v *hbaVersion) error {
	if c.Flags().Changed("pg-version") {
		if v.asked < hba.Oldest || v.asked > hba.Newest {
			return usage("--pg-version %d: %d to %d are known", v.asked, hba.Oldest, hba.Newest)
		}
		v.major, v.why = v.asked, "as --pg-version says"
		return nil
	}
	server, err := a.serverHere()
	switch {
	case err == nil && server.Major <= hba.Newest:
		v.major, v.why = server.Major, "the version of the server in "+server.DataDirectory
		return nil
	case err == nil:
		err = fmt.Errorf("the server in %s is PostgreSQL %d", server.DataDirectory, server.Major)
	}
	var diags *diagnosticsError
	if errors.As(err, &diags) || a.flags.environment != "" && !errors.Is(err, postgres.ErrNoServer) {
		return err
	}
	if major := installedMajor(postgres.Root("/")); major != 0 {
		v.major, v.why = major, "the only version with a folder in /etc/postgresql or /db/postgresql"
		return nil
	}
	v.major, v.why = hba.Newest, "the newest that is known"
	fmt.Fprintf(a.stderr, "converge: note: judged for PostgreSQL %d, %s, because %s; --pg-version says another one\n", v.major, v.why, engine.Redact(err.Error()))
	return nil
}

// serverHere finds the server of this host from its files. It need not run.
func (a *app) serverHere() (*postgres.Server, error) {
	source, err := a.environmentSource()
	if err != nil {
		return nil, err
	}
	var override postgres.Override
	if source != nil {
		env, diags := recipe.ParseEnvironment(*source)
		if !diags.HasErrors() && env.PostgreSQL != nil {
			diags = env.PostgreSQL.Decode(&override)
		}
		if diags.HasErrors() {
			return nil, &diagnosticsError{diags, env.Files}
		}
	}
	return postgres.Discover(postgres.Root("/"), override)
}

// installedMajor is the version of the folders in which servers of this host lie, when there is only one. Unlike
// PG_VERSION in the data directory everybody may read their names.
func installedMajor(files postgres.Files) int {
	var found []int
	for _, dir := range []string{"/db/postgresql", "/etc/postgresql"} {
		names, err := files.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			if major, err := strconv.Atoi(name); err == nil && major >= hba.Oldest && major <= hba.Newest && !slices.Contains(found, major) {
				found = append(found, major)
			}
		}
	}
	if len(found) != 1 {
		return 0
	}
	return found[0]
}

// lookupTime is how long the name service may take for one answer.
const lookupTime = 2 * time.Second

// server is what a file is judged for: the version, built as distributions build it. Names of RADIUS servers and of
// network interfaces are looked up on this host, as the server would when it reads the file.
func (v *hbaVersion) server(ctx context.Context) hba.Server {
	s := hba.Packaged(v.major)
	s.Resolves = func(name string) bool {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		_, err := net.DefaultResolver.LookupHost(ctx, name)
		return err == nil
	}
	s.Interface = func(name string) bool {
		_, err := net.InterfaceByName(name)
		return err == nil
	}
	return s
}

// parseHBA reads a pg_hba.conf with all that it names.
func (v *hbaVersion) parseHBA(ctx context.Context, name string) (*hba.File, error) {
	files := &hbaFiles{room: hbaLimit}
	src, err := files.read(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, cause(err))
	}
	path, err := filepath.Abs(name) // as the server has it, and names included files after it
	if err != nil {
		return nil, err
	}
	return hba.Parse(src, v.server(ctx), hba.Files{Path: path, Read: files.read, List: files.list}), nil
}

// loadHBA is parseHBA for what only makes sense with a file that the server would take.
func (v *hbaVersion) loadHBA(ctx context.Context, name string) (*hba.File, error) {
	f, err := v.parseHBA(ctx, name)
	if err != nil {
		return nil, err
	}
	problems := f.Problems()
	if len(problems) == 0 {
		return f, nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, "PostgreSQL %d would not load %s", v.major, name)
	for _, p := range problems {
		fmt.Fprintf(&text, "\n  %s: %s", lineAt(name, p.File, p.Line), oneLine(p.Message))
	}
	return nil, errors.New(text.String())
}

// lineAt is where a line stands: file:line, or the file alone for what concerns all of it.
func lineAt(name, included string, line int) string {
	if included != "" {
		name = included
	}
	if line == 0 {
		return printable(name)
	}
	return fmt.Sprintf("%s:%d", printable(name), line)
}

// forWhich says for which version files are judged.
func (v *hbaVersion) forWhich() string { return fmt.Sprintf("For PostgreSQL %d, %s", v.major, v.why) }
