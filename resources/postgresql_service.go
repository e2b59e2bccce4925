package resources

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
	"converge/resources/hba"
	"converge/resources/pki"
	"converge/resources/postgres"
)

// A postgresqlConverger makes the node's server run with what is on disk, and proves it.
type postgresqlConverger struct {
	*ServiceReload
	server *postgres.Server
}

// reloadPatience is how long a server may take to read its files again.
const reloadPatience = 15 * time.Second

func (c postgresqlConverger) converge(ctx context.Context, h *engine.Host) error {
	conf, err := c.server.Conf(hostFiles{h})
	if err != nil {
		return err
	}
	proc, err := c.server.Process()
	if err != nil {
		return err
	}
	h.Observe("postgresql runs", string(proc.Phase))
	if err := c.site.replicationKey(h); err != nil {
		return err
	}
	if proc.Phase != postgres.Running {
		return c.waitForStart(ctx, h, conf, proc)
	}
	ev, err := gather(ctx, h, c.site.Session, c.server, conf)
	switch {
	case err != nil && h.Acted():
		return c.refuse(conf, fmt.Errorf("after postgresql was told to read its files: %w", err))
	case errors.Is(err, postgres.ErrTurnedAway) && c.wouldAdmit(h):
		// It runs with other rules than those on the disk, which were put back after they had locked converge out.
		c.act(h, engine.Reload, "postgresql turns converge away, and the rules on the disk do not", func(ctx context.Context) error { return c.reload(ctx, conf) })
		return nil
	case err != nil:
		return err
	}
	owed, isOwed := h.Owed()
	if isOwed && owed.Action == engine.Reload && !h.Acted() {
		// A reload that is not needed does no harm; one that is missed, because a clock was set back, would.
		ev.stale = append([]string{owed.Reason}, ev.stale...)
	}
	if c.site.ForceRestart && !h.Acted() {
		ev.restart = append(ev.restart, "it was asked for")
	}
	if len(ev.stale) == 0 && len(ev.restart) == 0 {
		if isOwed {
			h.Paid()
		}
		return c.latentOutage(h, ev)
	}
	if h.Acted() && len(ev.stale) > 0 {
		return c.refuse(conf, fmt.Errorf("postgresql was told to read its files again and did not take them: %s%s", strings.Join(ev.stale, "; "), ev.problemsText()))
	}
	most, why := h.AllowedFor(c.restartTime().Needed())
	restarts := c.needsRestart(ev) && most >= engine.Restart
	if len(ev.stale) > 0 || restarts {
		if err := c.wouldStart(ctx, h, conf); err != nil {
			return err
		}
	}
	if restarts {
		if untold := c.untold(ctx, h); untold != nil {
			most, why = engine.Reload, fmt.Sprintf("whether it would start again cannot be told, and without that it is not restarted: %v", untold)
		}
	}
	c.decide(h, ev, most, why, conf)
	return nil
}

// restartTime is what a restart of the server is given.
func (c postgresqlConverger) restartTime() RestartTime {
	return c.site.Restarts.Expect(c.server.DataDirectory)
}

// untold says why the server's own program cannot be asked whether it would start. For a reload that is a warning; a
// restart without a yes could be the end of the service.
func (c postgresqlConverger) untold(ctx context.Context, h *engine.Host) error {
	if err := c.server.TryStart(ctx, hostFiles{h}); errors.Is(err, postgres.ErrCannotTry) {
		return err
	}
	return nil
}

// wouldAdmit tells whether the rules on the disk let converge in.
func (c postgresqlConverger) wouldAdmit(h *engine.Host) bool {
	text, err := h.ReadFile(c.server.HBAFile)
	if err != nil {
		return false
	}
	j := accessJudge{site: c.site}
	rules := hba.Parse(text, c.site.hbaServer(h), hbaFiles(h, c.server.HBAFile))
	return slices.ContainsFunc(j.ownVisits(), func(v visit) bool {
		found, err := j.verdict(rules, v)
		return err == nil && found.in
	})
}

// latentOutage is an error where the server runs with everything, and would not start again: a file was broken after it was
// read. The server's own view of its configuration files has the word on those.
func (c postgresqlConverger) latentOutage(h *engine.Host, ev evidence) error {
	found, err := c.server.Preflight(hostFiles{h})
	if err != nil {
		return err
	}
	var problems []string
	for _, p := range found {
		problems = append(problems, p.String())
	}
	for _, p := range ev.problems {
		problems = append(problems, c.withOwner(h, p))
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("postgresql runs, but would not start again: %s", strings.Join(problems, "; "))
}

// withOwner says whose a broken line of pg_hba.conf is.
func (c postgresqlConverger) withOwner(h *engine.Host, p postgres.FileProblem) string {
	if p.File != c.server.HBAFile {
		return p.String()
	}
	text, err := h.ReadFile(p.File)
	if err != nil {
		return p.String()
	}
	doc, err := parseDocument(text, "#")
	if err != nil {
		return p.String()
	}
	return fmt.Sprintf("%s line %d%s: %s", p.File, p.Line, doc.owner(p.Line), p.Text)
}

func (c postgresqlConverger) needsRestart(ev evidence) bool {
	return c.action == "restart" || c.site.ForceRestart || len(ev.restart) > 0 && c.action != "reload"
}

// decide stages the least that makes the changes count, and no more than is allowed. What has to wait stays owed.
func (c postgresqlConverger) decide(h *engine.Host, ev evidence, most engine.Disruption, why string, conf *postgres.Conf) {
	restart := func(ctx context.Context) error { return c.restart(ctx, conf) }
	reload := func(ctx context.Context) error { return c.reload(ctx, conf) }
	reason := strings.Join(slices.Concat(ev.stale, ev.restart), "; ")
	switch {
	case c.needsRestart(ev) && most >= engine.Restart:
		c.act(h, engine.Restart, reason, restart)
	case c.needsRestart(ev):
		if len(ev.stale) > 0 && most >= engine.Reload && !h.Acted() {
			c.act(h, engine.Reload, reason, reload)
		}
		h.Defer(c.service, engine.Restart, cmp.Or(strings.Join(ev.restart, "; "), reason), why)
	case len(ev.stale) > 0:
		c.act(h, engine.Reload, reason, reload)
	}
}

// waitForStart is about a server that is down or on its way: its files are converged, and it will read them when it
// starts. They must be such that it can.
func (c postgresqlConverger) waitForStart(ctx context.Context, h *engine.Host, conf *postgres.Conf, proc postgres.Process) error {
	if c.site.ForceRestart {
		return fmt.Errorf("postgresql is %s: only a server that runs is restarted; start it yourself: %s", proc.Phase, c.server.StartCommand())
	}
	owed, is := h.Owed()
	if !is {
		return nil
	}
	if err := c.wouldStart(ctx, h, conf); err != nil {
		return err
	}
	if c.site.WasRunning && proc.Phase == postgres.Stopped {
		h.Explain("start postgresql again", "it was running when this run began")
		h.Act(engine.Action{Kind: engine.OpRestart, Service: c.service, Do: func(ctx context.Context) error {
			return c.server.Start(ctx, c.control())
		}})
		return nil
	}
	h.Defer(c.service, engine.Reload, owed.Reason, fmt.Sprintf("postgresql is %s: it reads its files when it starts, and the next run sees to it", proc.Phase))
	return nil
}

// wouldStart asks the server's own program whether it takes the files as they are now, staged or written.
func (c postgresqlConverger) wouldStart(ctx context.Context, h *engine.Host, conf *postgres.Conf) error {
	files := hostFiles{h}
	problems, err := c.server.Preflight(files)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		var errs []error
		for _, p := range problems {
			errs = append(errs, errors.New(p.String()))
		}
		return c.refuse(conf, fmt.Errorf("postgresql would not take its files: %w", errors.Join(errs...)))
	}
	if err := c.site.tryStart(ctx, h); err != nil {
		return c.refuse(conf, err)
	}
	return nil
}

// refuse is a refusal that puts back what this run changed of the files that the server reads.
func (c postgresqlConverger) refuse(conf *postgres.Conf, err error) error {
	paths := append(confFiles(c.server, conf), c.server.HBAFile, c.server.IdentFile)
	for _, name := range []string{"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"} {
		if v := conf.Value(name, ""); v != "" {
			paths = append(paths, c.server.Path(v))
		}
	}
	return &engine.Refusal{Paths: paths, Err: err}
}

func (c postgresqlConverger) control() postgres.Control {
	return postgres.Control{Provider: c.provider}
}

// reload tells the server to read its files, and waits until it has.
func (c postgresqlConverger) reload(ctx context.Context, conf *postgres.Conf) error {
	before, err := facts(ctx, c.server)
	if err != nil && !errors.Is(err, postgres.ErrTurnedAway) {
		return err
	}
	control := c.control()
	control.Command = c.ReloadCommand
	if err := c.server.Reload(ctx, control); err != nil {
		return err
	}
	deadline := time.Now().Add(reloadPatience)
	for {
		now, err := facts(ctx, c.server)
		if errors.Is(err, postgres.ErrTurnedAway) && before.Loaded.IsZero() && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond) // it was locked out before, and the rules that let it in are on their way
			continue
		}
		if err != nil {
			return c.refuse(conf, fmt.Errorf("after postgresql was told to read its files: %w", err))
		}
		if !now.Loaded.Equal(before.Loaded) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("postgresql was told to reload, and has not read its files for %s", reloadPatience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// facts asks over a connection of its own: what a new session says is what the postmaster has.
func facts(ctx context.Context, s *postgres.Server) (postgres.Facts, error) {
	conn, err := s.Connect(ctx)
	if err != nil {
		return postgres.Facts{}, err
	}
	defer conn.Close(ctx)
	return conn.Facts(ctx)
}

func (c postgresqlConverger) restart(ctx context.Context, conf *postgres.Conf) error {
	control := c.control()
	control.Command = c.RestartCommand
	if control.Provider == postgres.Signal {
		control.Provider = postgres.Auto // a signal cannot restart
	}
	took, err := c.server.Restart(ctx, control)
	if err != nil {
		return c.refuse(conf, err)
	}
	c.site.Restarts.add(c.server.DataDirectory, took)
	return nil
}

// evidence is what a running server shows of what it runs with.
type evidence struct {
	facts    postgres.Facts
	served   postgres.Served
	problems []postgres.FileProblem // lines on the disk that the server would not take

	stale   []string // why the server has to read its files again
	restart []string // what only a restart brings
}

func (e evidence) problemsText() string {
	var out strings.Builder
	for _, p := range e.problems {
		out.WriteString("\n" + p.String())
	}
	return out.String()
}

// gather compares what the server shows with the files as the host has them, staged or written.
func gather(ctx context.Context, h *engine.Host, session *Session, s *postgres.Server, conf *postgres.Conf) (evidence, error) {
	var ev evidence
	conn, facts, err := session.take(ctx, s)
	if err != nil {
		return ev, err
	}
	defer conn.Close(ctx)
	ev.facts = facts
	rules, err := conn.HBARules(ctx)
	if err != nil {
		return ev, err
	}
	lines, err := conn.FileProblems(ctx)
	if err != nil {
		return ev, err
	}
	ev.problems = s.HBAProblems(rules)
	for _, p := range lines {
		if p.Restart {
			ev.restart = append(ev.restart, fmt.Sprintf("%s is changed in %s line %d, and takes a restart", p.Name, p.File, p.Line))
		} else {
			ev.problems = append(ev.problems, p)
		}
	}
	if ev.stale, err = newerFiles(h, append(confFiles(s, conf), s.HBAFile, s.IdentFile), ev.facts.Loaded); err != nil {
		return ev, err
	}
	staged, err := stagedRestarts(ctx, h, conn, s, conf)
	if err != nil {
		return ev, err
	}
	ev.restart = append(ev.restart, staged...)
	if _, owed := h.Owed(); len(ev.stale) == 0 && (owed || h.Acted()) {
		// The times of the files do not tell of a reload that was refused. Asking leaves two lines in the server's log.
		if ev.stale, err = unloadedRules(ctx, h, s); err != nil {
			return ev, err
		}
	}
	return ev, ev.compareTLS(ctx, h, s, conf)
}

// unloadedRules asks which rules the server runs with. That it cannot be told is worth a word after a reload.
func unloadedRules(ctx context.Context, h *engine.Host, s *postgres.Server) ([]string, error) {
	text, err := h.ReadFile(s.HBAFile)
	if err != nil {
		return nil, err
	}
	return unloaded(ctx, text, s, func(text string) {
		if h.Acted() {
			h.Warn(text)
		}
	})
}

// confFiles are the configuration files that hold settings, in the order in which they are read.
func confFiles(s *postgres.Server, conf *postgres.Conf) []string {
	files := []string{s.ConfigFile}
	for _, set := range conf.Settings {
		if !slices.Contains(files, set.File) {
			files = append(files, set.File)
		}
	}
	return files
}

// newerFiles names the files that were changed after the server read them.
func newerFiles(h *engine.Host, files []string, loaded time.Time) ([]string, error) {
	var newer []string
	for _, f := range files {
		st, err := h.Stat(f)
		if engine.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if st.Staged || st.Changed.After(loaded) || loaded.After(h.Now().Add(time.Minute)) {
			newer = append(newer, path.Base(f)+" is newer than what the server has read")
		}
	}
	return newer, nil
}

// stagedRestarts names the settings that the staged configuration changes and that only a restart brings. Of what is
// written already the server itself tells.
func stagedRestarts(ctx context.Context, h *engine.Host, conn *postgres.Conn, s *postgres.Server, staged *postgres.Conf) ([]string, error) {
	var names []string
	files := map[string]bool{}
	for _, set := range staged.Settings {
		if st, err := h.Stat(set.File); err == nil && st.Staged && !files[set.Name] {
			files[set.Name] = true
			names = append(names, set.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	written, err := s.Conf(postgres.Root(h.Root()))
	if err != nil {
		return nil, err
	}
	settings, err := conn.Settings(ctx, names...)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		set, _ := staged.Get(name)
		now := settings[strings.ToLower(name)]
		if now.Context == "postmaster" && set.Value != written.Value(name, "") && set.Value != now.Value {
			out = append(out, fmt.Sprintf("%s is changed in %s line %d, and takes a restart", name, set.File, set.Line))
		}
	}
	return out, nil
}

// compareTLS shakes hands with the server: nothing else tells what it really serves.
func (e *evidence) compareTLS(ctx context.Context, h *engine.Host, s *postgres.Server, conf *postgres.Conf) error {
	served, err := s.Served(ctx)
	if errors.Is(err, postgres.ErrNoTCP) {
		newer, err := newerFiles(h, tlsFiles(s, conf), e.facts.Loaded)
		e.stale = append(e.stale, newer...)
		return err
	}
	if err != nil {
		return err
	}
	e.served = served
	h.Observe("served certificate", served.Fingerprint)
	on := isOn(conf.Value("ssl", "off"))
	switch {
	case on && !served.TLS:
		e.stale = append(e.stale, "ssl is on in the configuration, and the server answers that it has no TLS")
		return nil
	case !on && served.TLS:
		e.stale = append(e.stale, "ssl is off in the configuration, and the server has TLS")
		return nil
	case !on:
		return nil
	}
	certs, err := certsIn(h, s, conf, "ssl_cert_file", "server.crt")
	if err != nil {
		return err
	}
	if certs[0].Fingerprint() != served.Fingerprint {
		e.stale = append(e.stale, fmt.Sprintf("the server shows another certificate (%s) than ssl_cert_file holds", shortSum(served.Fingerprint)))
	}
	authorities, err := certsIn(h, s, conf, "ssl_ca_file", "")
	if err != nil {
		return err
	}
	var held []*x509.Certificate
	for _, a := range authorities {
		held = append(held, a.Certificate)
	}
	switch {
	case slices.ContainsFunc(held, func(c *x509.Certificate) bool { return !served.Accepts(c) }):
		e.stale = append(e.stale, "the server does not trust an authority that ssl_ca_file holds")
	case served.AcceptsOthers(held):
		e.stale = append(e.stale, "the server trusts an authority that ssl_ca_file holds no longer")
	}
	return e.compareRevocations(ctx, h, s, conf)
}

func tlsFiles(s *postgres.Server, conf *postgres.Conf) []string {
	var files []string
	for _, name := range []string{"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"} {
		if v := conf.Value(name, ""); v != "" {
			files = append(files, s.Path(v))
		}
	}
	return files
}

// certsIn reads the certificates that a setting names; none when it names none.
func certsIn(h *engine.Host, s *postgres.Server, conf *postgres.Conf, setting, otherwise string) ([]pki.Certificate, error) {
	value := conf.Value(setting, otherwise)
	if value == "" {
		return nil, nil
	}
	b, err := h.ReadFile(s.Path(value))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	certs, err := pki.ParseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", setting, s.Path(value), err)
	}
	return certs, nil
}

// isOn reads a boolean as postgresql.conf has it: any prefix of a word that is not ambiguous, in any case.
func isOn(value string) bool {
	v := strings.ToLower(strings.TrimSpace(value))
	return v == "1" || v == "on" || v != "" && (strings.HasPrefix("true", v) || strings.HasPrefix("yes", v))
}

func shortSum(sum string) string {
	if len(sum) > 12 {
		return sum[:12]
	}
	return sum
}
