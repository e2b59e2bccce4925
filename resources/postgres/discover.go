package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Discover finds the server that o speaks of. The process table is asked too, unless files is a Root other than "/". It looks at the environment file's block first, then at
// /db/postgresql/*/data, then at Debian's /etc/postgresql/*/*, then at what runs. Of several servers of one kind the
// only one that runs is taken; else the error lists them with the block that picks each. A broken postgresql.conf does
// not keep a server from being found: Preflight tells of it.
func Discover(files Files, o Override) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	d := discovery{files: files, override: o}
	found := d.dedupe(append(d.dbLayout(), d.debian()...))
	if o.DataDirectory != "" {
		return d.given(found)
	}
	if o.ConfigFile != "" {
		if c := byConfig(found, o.ConfigFile); c != nil {
			return d.server(*c)
		}
		conf, err := ParseConf(files, o.ConfigFile, "")
		if err != nil {
			return nil, err
		}
		data := conf.Value("data_directory", path.Dir(o.ConfigFile))
		return d.server(candidate{data: data, config: o.ConfigFile, layout: LayoutGiven})
	}
	for _, layout := range []Layout{LayoutDB, LayoutDebian} {
		if set := d.wanted(ofLayout(found, layout)); len(set) > 0 {
			return d.pick(set)
		}
	}
	if set := d.wanted(d.running()); len(set) > 0 {
		return d.pick(set)
	}
	return nil, d.none(found)
}

// ErrNoServer is in the error of a machine where no server was found.
var ErrNoServer = errors.New("no PostgreSQL server was found")

func (d discovery) none(found []candidate) error {
	text := "looked at /db/postgresql/*/data, /etc/postgresql/*/* and the running processes"
	if len(found) > 0 {
		text = "none of those here is what the postgresql block asks for (version, cluster, port): " + describe(found)
	}
	return fmt.Errorf("%w: %s; say where it is in the environment file: postgresql { data_directory = \"...\" }", ErrNoServer, text)
}

// check refuses what cannot be meant, with the name of the argument.
func (o Override) check() error {
	for _, p := range []struct{ name, value string }{
		{"data_directory", o.DataDirectory}, {"bin_directory", o.BinDirectory}, {"config_file", o.ConfigFile},
		{"hba_file", o.HBAFile}, {"ident_file", o.IdentFile}, {"socket_directory", o.SocketDirectory},
	} {
		if p.value != "" && !path.IsAbs(p.value) && !(p.name == "socket_directory" && strings.HasPrefix(p.value, "@")) {
			return fmt.Errorf("postgresql block: %s = %q is not an absolute path", p.name, p.value)
		}
	}
	if o.Port < 0 || o.Port > 65535 {
		return fmt.Errorf("postgresql block: port = %d is not a port (1 to 65535)", o.Port)
	}
	if o.Version != 0 && (o.Version < OldestMajor || o.Version > 99) {
		return fmt.Errorf("postgresql block: version = %d: this program knows %d to %d", o.Version, OldestMajor, NewestMajor)
	}
	return nil
}

// A candidate is a server that may be the one.
type candidate struct {
	data, config string
	layout       Layout
	cluster      string // "15/main"
}

type discovery struct {
	files    Files
	override Override
}

// dbLayout finds /db/postgresql/<version>/data.
func (d discovery) dbLayout() []candidate {
	var out []candidate
	for _, v := range d.names("/db/postgresql") {
		data := path.Join("/db/postgresql", v, "data")
		if _, ok := d.version(data); ok {
			out = append(out, candidate{data: data, config: path.Join(data, "postgresql.conf"), layout: LayoutDB})
		}
	}
	return out
}

// debian finds /etc/postgresql/<version>/<cluster>/postgresql.conf.
func (d discovery) debian() []candidate {
	var out []candidate
	for _, v := range d.names("/etc/postgresql") {
		for _, c := range d.names(path.Join("/etc/postgresql", v)) {
			config := path.Join("/etc/postgresql", v, c, "postgresql.conf")
			conf, err := ParseConf(d.files, config, "")
			if err != nil {
				continue
			}
			data := conf.Value("data_directory", path.Join("/var/lib/postgresql", v, c))
			if _, ok := d.version(data); ok {
				out = append(out, candidate{data: path.Clean(data), config: config, layout: LayoutDebian, cluster: v + "/" + c})
			}
		}
	}
	return out
}

// dedupe joins a data directory that is in both layouts: Debian's configuration for data under /db.
func (d discovery) dedupe(all []candidate) []candidate {
	var out []candidate
	for _, c := range all {
		if i := indexOf(out, c.data); i >= 0 {
			out[i].config, out[i].cluster = c.config, c.cluster
			continue
		}
		out = append(out, c)
	}
	return out
}

func indexOf(all []candidate, data string) int {
	for i, c := range all {
		if c.data == path.Clean(data) {
			return i
		}
	}
	return -1
}

func ofLayout(all []candidate, l Layout) []candidate {
	var out []candidate
	for _, c := range all {
		if c.layout == l {
			out = append(out, c)
		}
	}
	return out
}

func byConfig(all []candidate, config string) *candidate {
	for i, c := range all {
		if c.config == path.Clean(config) {
			return &all[i]
		}
	}
	return nil
}

// running finds servers by the process table: a postmaster works in its data directory.
func (d discovery) running() []candidate {
	if !d.hasProcesses() {
		return nil
	}
	var out []candidate
	for _, data := range postmasterDirectories() {
		if _, ok := d.version(data); ok {
			out = append(out, candidate{data: data, config: path.Join(data, "postgresql.conf"), layout: LayoutGiven})
		}
	}
	return out
}

// hasProcesses is false for a folder that stands for a machine.
func (d discovery) hasProcesses() bool {
	r, ok := d.files.(Root)
	return !ok || r == machine
}

// given is the server of the data directory that the operator named.
func (d discovery) given(found []candidate) (*Server, error) {
	data := path.Clean(d.override.DataDirectory)
	if _, ok := d.version(data); !ok {
		return nil, fmt.Errorf("postgresql block: data_directory = %q: there is no PG_VERSION of a known server in it%s", data, others(found))
	}
	if i := indexOf(found, data); i >= 0 {
		return d.server(found[i])
	}
	return d.server(candidate{data: data, config: path.Join(data, "postgresql.conf"), layout: LayoutGiven})
}

func others(found []candidate) string {
	if len(found) == 0 {
		return ""
	}
	return "; found here: " + describe(found)
}

func describe(found []candidate) string {
	var parts []string
	for _, c := range found {
		parts = append(parts, c.data)
	}
	return strings.Join(parts, ", ")
}

// wanted keeps those that fit the version, the cluster and the port that the operator named.
func (d discovery) wanted(all []candidate) []candidate {
	var out []candidate
	for _, c := range all {
		if d.fits(c) {
			out = append(out, c)
		}
	}
	return out
}

func (d discovery) fits(c candidate) bool {
	o := d.override
	if v, _ := d.version(c.data); o.Version != 0 && majorOf(v) != o.Version {
		return false
	}
	if o.Cluster != "" && o.Cluster != c.cluster && o.Cluster != path.Base(c.cluster) {
		return false
	}
	if o.Port != 0 && d.several() {
		s, err := (discovery{files: d.files}).server(c)
		return err == nil && s.Port == o.Port
	}
	return true
}

// several says whether the port has to pick a server, rather than correct what was found out about the only one.
func (d discovery) several() bool {
	return len(d.dedupe(append(d.dbLayout(), d.debian()...))) > 1
}

// pick takes the only candidate, or the only one that runs.
func (d discovery) pick(set []candidate) (*Server, error) {
	if len(set) == 1 {
		return d.server(set[0])
	}
	var running []candidate
	for _, c := range set {
		s, err := d.server(c)
		if err != nil {
			continue
		}
		if d.hasProcesses() && s.runs() {
			running = append(running, c)
		}
	}
	if len(running) == 1 {
		return d.server(running[0])
	}
	var b strings.Builder
	for _, c := range set {
		fmt.Fprintf(&b, "\n    postgresql { data_directory = %q }", c.data)
	}
	state := "none of them runs"
	if len(running) > 0 {
		state = fmt.Sprintf("%d of them run", len(running))
	}
	return nil, fmt.Errorf("there are %d PostgreSQL servers here and %s: pick one in the environment file with one of%s", len(set), state, b.String())
}

func (s *Server) runs() bool {
	p, err := s.Process()
	return err == nil && p.Phase != Stopped
}

func (d discovery) names(dir string) []string {
	names, err := d.files.ReadDir(dir)
	if err != nil {
		return nil
	}
	return names
}

// version returns the text of PG_VERSION, and whether it is one.
func (d discovery) version(data string) (string, bool) {
	b, err := d.files.ReadFile(path.Join(data, "PG_VERSION"))
	if err != nil {
		return "", false
	}
	v := strings.TrimSpace(string(b))
	return v, majorOf(v) > 0
}

// majorOf returns the major version of "15" or "9.6" (9), or 0.
func majorOf(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(first)
	if err != nil || n < 1 || n > 999 {
		return 0
	}
	return n
}

// server fills in all that is known of a candidate: the postmaster's own word first, then the configuration, then the
// layout. What the operator said goes over all of it.
func (d discovery) server(c candidate) (*Server, error) {
	version, _ := d.version(c.data)
	s := &Server{
		Major: majorOf(version), Version: version, Layout: c.layout, DataDirectory: c.data, ConfigFile: c.config,
		Cluster: c.cluster, AdminUser: first(d.override.AdminUser, "postgres"),
	}
	if s.Major < OldestMajor {
		return nil, fmt.Errorf("the server in %s is PostgreSQL %s: this program knows %d to %d", s.DataDirectory, version, OldestMajor, NewestMajor)
	}
	info, err := d.files.Stat(c.data)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", c.data, err)
	}
	s.Owner = d.owner(info)
	d.fromOptions(s)
	s.ConfigFile = first(d.override.ConfigFile, s.ConfigFile)
	if err := d.fromConf(s); err != nil {
		return nil, err
	}
	d.fromProcess(s)
	d.overrides(s)
	d.layout(s)
	return s, nil
}

// fromOptions takes what the command line of the last start said: the binaries, and where the configuration is.
func (d discovery) fromOptions(s *Server) {
	b, err := d.files.ReadFile(path.Join(s.DataDirectory, "postmaster.opts"))
	if err != nil {
		return
	}
	words := splitOptions(string(b))
	if len(words) == 0 {
		return
	}
	if path.IsAbs(words[0]) {
		s.BinDirectory = path.Dir(words[0])
	}
	set := optionSettings(words[1:])
	if config := set["config_file"]; path.IsAbs(config) {
		s.ConfigFile = config
	}
	s.HBAFile, s.IdentFile = set["hba_file"], set["ident_file"]
	s.Port = portOf(set["port"])
	s.SocketDirectory = firstSocketDirectory(set["unix_socket_directories"])
}

// fromConf takes what the configuration says and the command line did not.
func (d discovery) fromConf(s *Server) error {
	conf, err := ParseConf(d.files, s.ConfigFile, s.DataDirectory)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no configuration at %s: say where it is in the environment file: postgresql { config_file = \"...\" }", s, s.ConfigFile)
	}
	if err != nil {
		return err
	}
	dir := path.Dir(s.ConfigFile)
	s.HBAFile = s.absolute(first(s.HBAFile, conf.Value("hba_file", path.Join(dir, "pg_hba.conf"))))
	s.IdentFile = s.absolute(first(s.IdentFile, conf.Value("ident_file", path.Join(dir, "pg_ident.conf"))))
	if s.Port == 0 {
		s.Port = portOf(conf.Value("port", "5432"))
	}
	if s.SocketDirectory == "" {
		s.SocketDirectory = firstSocketDirectory(conf.Value("unix_socket_directories", defaultSocketDirectory(d.files)))
	}
	return nil
}

// fromProcess takes what a running postmaster wrote down about itself: the port and the socket that it really has.
func (d discovery) fromProcess(s *Server) {
	if !d.hasProcesses() {
		return
	}
	p, err := s.Process()
	if err != nil || p.Phase == Stopped {
		return
	}
	s.Port, s.SocketDirectory = p.Port, p.SocketDirectory
	if p.BinDirectory != "" {
		s.BinDirectory = p.BinDirectory
	}
	if strings.Contains(p.Unit, "postgres") {
		s.Unit = p.Unit // else it was started by hand, from some other unit
	}
}

func (d discovery) overrides(s *Server) {
	o := d.override
	s.HBAFile = first(o.HBAFile, s.HBAFile)
	s.IdentFile = first(o.IdentFile, s.IdentFile)
	s.SocketDirectory = first(o.SocketDirectory, s.SocketDirectory)
	s.Unit = first(o.Unit, s.Unit)
	s.BinDirectory = first(o.BinDirectory, s.BinDirectory)
	if o.Port != 0 {
		s.Port = o.Port
	}
	if s.BinDirectory == "" {
		s.BinDirectory = d.binaries(s.Version)
	}
}

// layout says where this program's own files go.
func (d discovery) layout(s *Server) {
	above := path.Dir(s.DataDirectory)
	switch s.Layout {
	case LayoutDB:
		s.SSLDirectory = path.Join(above, "ssl")
		s.CustomHBAFile = path.Join(above, "custom_pg_hba.conf")
		s.KeygenDirectory = path.Join(path.Dir(above), "keygen")
		s.OldKeysDirectory = path.Join(path.Dir(path.Dir(above)), "old_keys")
	case LayoutDebian:
		s.SSLDirectory = path.Join(path.Dir(s.ConfigFile), "ssl")
		s.CustomHBAFile = path.Join(path.Dir(s.HBAFile), "custom_pg_hba.conf")
	default:
		s.SSLDirectory = path.Join(above, "ssl")
		s.CustomHBAFile = path.Join(path.Dir(s.HBAFile), "custom_pg_hba.conf")
		if within(s.HBAFile, s.DataDirectory) {
			s.CustomHBAFile = path.Join(above, "custom_pg_hba.conf")
		}
	}
	if s.Unit == "" && s.Cluster != "" {
		s.Unit = "postgresql@" + strings.ReplaceAll(s.Cluster, "/", "-") + ".service"
	}
}

func within(file, dir string) bool { return strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/") }

// binaries looks where packages of this version put theirs.
func (d discovery) binaries(version string) string {
	for _, dir := range []string{
		"/usr/lib/postgresql/" + version + "/bin",     // Debian
		"/usr/pgsql-" + version + "/bin",              // PGDG's RPMs
		"/usr/lib/postgresql-" + version + "/bin",     // Gentoo
		"/usr/lib64/postgresql-" + version + "/bin",   // Gentoo
		"/usr/local/pgsql/bin", "/opt/postgresql/bin", // built from source
	} {
		if _, err := d.files.Stat(path.Join(dir, "postgres")); err == nil {
			return dir
		}
	}
	return ""
}

// owner names the account of a data directory.
func (d discovery) owner(info FileInfo) Owner {
	o := Owner{Name: strconv.Itoa(info.UID), UID: info.UID, GID: info.GID}
	passwd, err := d.files.ReadFile("/etc/passwd")
	if err != nil {
		return o
	}
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 4 && f[2] == o.Name {
			o.Name = f[0]
			if gid, err := strconv.Atoi(f[3]); err == nil {
				o.GID = gid // the account's own group, whatever group the directory is in
			}
			return o
		}
	}
	return o
}

// absolute resolves a name in the configuration: a server starts at its data directory.
func (s *Server) absolute(name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(s.DataDirectory, name)
}

// Conf reads the server's configuration as it stands, or as it is staged.
func (s *Server) Conf(files Files) (*Conf, error) {
	return ParseConf(files, s.ConfigFile, s.DataDirectory)
}

// Path resolves a file named in the server's configuration.
func (s *Server) Path(value string) string { return s.absolute(value) }

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// portOf returns a port number, or 0.
func portOf(value string) int {
	n, err := strconv.ParseInt(value, 0, 32)
	if err != nil || n < 1 || n > 65535 {
		return 0
	}
	return int(n)
}

// firstSocketDirectory takes the first of a comma-separated list, which may be quoted.
func firstSocketDirectory(list string) string {
	name, _, _ := strings.Cut(list, ",")
	return strings.Trim(strings.TrimSpace(name), `"`)
}

// defaultSocketDirectory is where a server puts its socket unless told: Debian builds them with another place.
func defaultSocketDirectory(files Files) string {
	if info, err := files.Stat("/var/run/postgresql"); err == nil && info.Dir {
		return "/var/run/postgresql"
	}
	return "/tmp"
}

// splitOptions cuts the line of postmaster.opts: the program, then each argument in double quotes.
func splitOptions(line string) []string {
	line = strings.TrimRight(line, "\n")
	program, rest, more := strings.Cut(line, ` "`)
	words := []string{program}
	for more {
		var word string
		if word, rest, more = strings.Cut(rest, `" "`); !more {
			word = strings.TrimSuffix(word, `"`)
		}
		words = append(words, word)
	}
	return words
}

// optionSettings reads the settings of a postmaster's command line.
func optionSettings(args []string) map[string]string {
	set := map[string]string{}
	value := func(i int, flag string) (string, int) {
		if rest := args[i][len(flag):]; rest != "" {
			return rest, i
		}
		if i+1 < len(args) {
			return args[i+1], i + 1
		}
		return "", i
	}
	assign := func(text string) {
		if name, v, ok := strings.Cut(text, "="); ok {
			set[foldName(strings.ReplaceAll(name, "-", "_"))] = v
		}
	}
	for i := 0; i < len(args); i++ {
		var v string
		switch a := args[i]; {
		case strings.HasPrefix(a, "--"):
			assign(a[2:])
		case strings.HasPrefix(a, "-c"):
			v, i = value(i, "-c")
			assign(v)
		case strings.HasPrefix(a, "-p"):
			set["port"], i = value(i, "-p")
		case strings.HasPrefix(a, "-k"):
			set["unix_socket_directories"], i = value(i, "-k")
		case strings.HasPrefix(a, "-h"):
			set["listen_addresses"], i = value(i, "-h")
		case a == "-i":
			set["listen_addresses"] = "*"
		case a == "-l":
			set["ssl"] = "on"
		case a == "-D":
			i++
		}
	}
	return set
}
