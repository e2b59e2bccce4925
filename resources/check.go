package resources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"converge/engine"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// A check is how a file_block makes sure that the file it is about to write is one that its reader takes. It sees the
// staged file, in a plan as in an apply.
type check interface {
	// translate puts lines of the block into the words of their reader, with notes for the operator.
	translate(h *engine.Host, f *FileBlock, p part) (string, []string, error)
	// whole adds to the lines of the block what the check needs to have there.
	whole(f *FileBlock, body string) string
	// look returns the file before the step changes it, if run will want it.
	look(h *engine.Host, f *FileBlock) ([]byte, error)
	// run judges the file with the block in it; changed says whether the step changes it, and before is what look returned.
	run(ctx context.Context, h *engine.Host, f *FileBlock, before []byte, changed bool) error
}

func checkFor(name *string, site Site) (check, error) {
	switch {
	case name == nil:
		return noCheck{}, nil
	case *name == "pg_hba":
		return hbaCheck{site}, nil
	case *name == "postgresql_conf":
		return confCheck{site}, nil
	}
	words := strings.Fields(*name)
	for i, w := range words {
		if w == "%s" && i > 0 {
			return commandCheck{words}, nil
		}
	}
	return nil, fmt.Errorf("validate is %q: it must be \"pg_hba\", \"postgresql_conf\", or a command with %%s as a word of its own for the file", *name)
}

// A noCheck takes everything.
type noCheck struct{}

func (noCheck) translate(_ *engine.Host, _ *FileBlock, p part) (string, []string, error) {
	return p.text, nil, nil
}
func (noCheck) whole(_ *FileBlock, body string) string                            { return body }
func (noCheck) look(*engine.Host, *FileBlock) ([]byte, error)                     { return nil, nil }
func (noCheck) run(context.Context, *engine.Host, *FileBlock, []byte, bool) error { return nil }

// A confCheck judges postgresql.conf with all that it includes.
type confCheck struct{ site Site }

func (confCheck) translate(_ *engine.Host, _ *FileBlock, p part) (string, []string, error) {
	return p.text, nil, nil
}

func (confCheck) whole(_ *FileBlock, body string) string { return body }

func (confCheck) look(*engine.Host, *FileBlock) ([]byte, error) { return nil, nil }

func (c confCheck) run(ctx context.Context, h *engine.Host, f *FileBlock, _ []byte, changed bool) error {
	s := c.site.Server
	conf, err := postgres.ParseConf(hostFiles{h}, f.path, s.DataDirectory)
	if err != nil {
		return err
	}
	if err := conf.Err(); err != nil {
		return fmt.Errorf("the server would not take %s: %w", f.path, err)
	}
	for _, set := range conf.Settings {
		if exists, known := postgres.SettingExists(s.Major, set.Name); known && !exists {
			return fmt.Errorf("%s line %d: PostgreSQL %d has no setting %q, and a server refuses its whole configuration for one: remove the line", set.File, set.Line, s.Major, set.Name)
		}
	}
	if err := c.counts(h, f, conf); err != nil || !changed {
		return err
	}
	return c.site.tryChange(ctx, h, c.site.trySettings)
}

// counts makes sure that the settings of the block are the ones that count: a later file, postgresql.auto.conf above all,
// may say otherwise.
func (confCheck) counts(h *engine.Host, f *FileBlock, conf *postgres.Conf) error {
	text, err := h.ReadFile(f.path)
	if err != nil {
		return err
	}
	doc, err := parseDocument(text, f.comment)
	if err != nil {
		return err
	}
	first, last := doc.linesOf(f.name)
	var errs []error
	for _, set := range conf.Settings {
		if set.File != f.path || set.Line < first || set.Line > last {
			continue
		}
		by, _ := conf.Get(set.Name)
		if by.File == set.File && doc.blockAt(by.Line) != "" {
			continue // of this block, or of another that the recipes declare: then that one is meant to count
		}
		remedy := "remove that line"
		if path.Base(by.File) == "postgresql.auto.conf" {
			remedy = fmt.Sprintf("it was set by ALTER SYSTEM; take it back with ALTER SYSTEM RESET %s", set.Name)
		}
		errs = append(errs, fmt.Errorf("%s of block %q does not count: %s line %d sets it too, and comes later: %s", set.Name, f.name, by.File, by.Line, remedy))
	}
	return errors.Join(errs...)
}

// A hbaCheck translates a block for pg_hba.conf into the words of the server's version, and judges the whole file.
type hbaCheck struct{ site Site }

func (c hbaCheck) translate(h *engine.Host, f *FileBlock, p part) (string, []string, error) {
	var networks []string
	for _, n := range c.site.Environment.CIDRs {
		networks = append(networks, n.String())
	}
	t := hba.Translate([]byte(p.text), c.site.hbaServer(h), hbaFiles(h, f.path), networks)
	if len(t.Problems) > 0 {
		return "", nil, fmt.Errorf("%s: %w", p.origin, problems(t.Problems, nil))
	}
	var notes []string
	for _, change := range t.Changes {
		after := strconv.Quote(strings.TrimSpace(change.After))
		if f.secret {
			after = "something else"
		}
		notes = append(notes, fmt.Sprintf("line %d is written as %s: %s", change.Line, after, change.Why))
	}
	return string(t.Text), notes, nil
}

func (hbaCheck) whole(f *FileBlock, body string) string {
	if f.position == top {
		return withBeacon(body)
	}
	return body
}

// look reads the file: who gets in by it is compared.
func (hbaCheck) look(h *engine.Host, f *FileBlock) ([]byte, error) { return h.ReadFile(f.path) }

func (c hbaCheck) parse(h *engine.Host, f *FileBlock, text []byte) *hba.File {
	return hba.Parse(text, c.site.hbaServer(h), hbaFiles(h, f.path))
}

func (c hbaCheck) run(ctx context.Context, h *engine.Host, f *FileBlock, before []byte, changed bool) error {
	text, err := h.ReadFile(f.path)
	if err != nil {
		return err
	}
	parsed := c.parse(h, f, text)
	found := parsed.Problems()
	if len(found) == 0 && !changed {
		return nil
	}
	doc, err := parseDocument(text, f.comment)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("PostgreSQL %d would not load %s: %w", c.site.Server.Major, f.path, problems(found, doc))
	}
	if err := c.access(ctx, h, f, before, parsed, doc); err != nil {
		return err
	}
	return c.site.tryChange(ctx, h, c.site.tryFiles)
}

// problems joins what is wrong with a file, and says whose line each is.
func problems(found []hba.Problem, doc *document) error {
	var errs []error
	for _, p := range found {
		where := fmt.Sprintf("line %d", p.Line)
		switch {
		case p.File != "":
			where = fmt.Sprintf("%s line %d", p.File, p.Line)
		case doc != nil:
			where += doc.owner(p.Line)
		}
		err := fmt.Errorf("%s: %s", where, p.Message)
		if p.Fix != "" {
			err = fmt.Errorf("%w (%s)", err, p.Fix)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// linesOf returns the first and the last line of a block, or 0, 0.
func (d *document) linesOf(name string) (first, last int) {
	n := 1
	for _, s := range d.segments {
		if s.block == name {
			return n, n + strings.Count(strings.TrimSuffix(s.text, "\n"), "\n")
		}
		n += s.lines
	}
	return 0, 0
}

// owner says whose a line is.
func (d *document) owner(line int) string {
	if name := d.blockAt(line); name != "" {
		return fmt.Sprintf(" (block %q)", name)
	}
	return " (not converge's)"
}

// blockAt returns the name of the block that a line stands in; "" for a line that is not ours.
func (d *document) blockAt(line int) string {
	n := 1
	for _, s := range d.segments {
		if n += s.lines; line < n {
			return s.block
		}
	}
	if last := len(d.segments) - 1; last >= 0 && line == n {
		return d.segments[last].block // a last line without a newline
	}
	return ""
}

// A commandCheck asks a program. It sees the staged file through a descriptor, so that nothing is written for it.
type commandCheck struct{ words []string }

func (commandCheck) translate(_ *engine.Host, _ *FileBlock, p part) (string, []string, error) {
	return p.text, nil, nil
}

func (commandCheck) whole(_ *FileBlock, body string) string { return body }

func (commandCheck) look(*engine.Host, *FileBlock) ([]byte, error) { return nil, nil }

func (c commandCheck) run(ctx context.Context, h *engine.Host, f *FileBlock, _ []byte, changed bool) error {
	if !changed {
		return nil
	}
	text, err := h.ReadFile(f.path)
	if err != nil {
		return err
	}
	file, err := inMemory(path.Base(f.path), text)
	if err != nil {
		return err
	}
	defer file.Close()
	words := make([]string, len(c.words))
	for i, w := range c.words {
		words[i] = strings.ReplaceAll(w, "%s", "/proc/self/fd/3")
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not take the new %s: %w: %s", c.words[0], f.path, err, engine.Redact(string(bytes.TrimSpace(out))))
	}
	return nil
}

// inMemory is a file that is on no disk (memfd_create(2)).
func inMemory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err = file.Write(content); err == nil {
		_, err = file.Seek(0, 0)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return file, nil
}

// hbaServer is the server that a pg_hba.conf is judged for: as distributions build it, with those of its settings that decide
// which lines it takes.
func (s Site) hbaServer(h *engine.Host) hba.Server {
	server := hba.Packaged(s.Server.Major)
	conf, err := s.Server.Conf(hostFiles{h})
	if err != nil {
		return server
	}
	server.UserNamespace = isOn(conf.Value("db_user_namespace", "off"))
	for v := range strings.SplitSeq(conf.Value("oauth_validator_libraries", ""), ",") {
		if v = strings.TrimSpace(v); v != "" {
			server.Validators = append(server.Validators, v)
		}
	}
	return server
}

// hbaFiles shows it to the hba package, for the files that a pg_hba.conf names.
func hbaFiles(h *engine.Host, path string) hba.Files {
	return hba.Files{Path: path, Read: h.ReadFile, List: h.ReadDir}
}

// hostFiles shows the staged machine to the postgres and hba packages.
type hostFiles struct{ h *engine.Host }

func (f hostFiles) ReadFile(path string) ([]byte, error)  { return f.h.ReadFile(path) }
func (f hostFiles) ReadDir(path string) ([]string, error) { return f.h.ReadDir(path) }
func (f hostFiles) Stat(path string) (postgres.FileInfo, error) {
	s, err := f.h.Stat(path)
	return postgres.FileInfo{Dir: s.Dir, Mode: s.Mode, UID: s.UID, GID: s.GID}, err
}
