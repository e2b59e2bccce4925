package resources

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"converge/engine"
	"converge/engine/disk"
	"converge/resources/pki"
	"converge/resources/postgres"
)

// A Status is what a node shows of itself: what is on disk, and what is served. What is declared and differs is told by a
// plan.
type Status struct {
	Server    *ServerStatus `json:"server,omitempty"`
	SSL       *SSLStatus    `json:"ssl,omitempty"`
	Authority *CertStatus   `json:"authority,omitempty"`
	ServerKey *CertStatus   `json:"server_certificate,omitempty"`
	HBA       *HBAStatus    `json:"hba,omitempty"`

	Replication *postgres.Replication `json:"replication,omitempty"`

	UserKeys []CertStatus `json:"user_keys"`
	Problems []Trouble    `json:"problems"`
	Unknown  []string     `json:"unknown,omitempty"` // what could not be found out, and why
}

// A Trouble is something that needs the operator, with the command that mends it.
type Trouble struct {
	Text string `json:"text"`
	Mend string `json:"mend,omitempty"`
}

// A ServerStatus is the node's server.
type ServerStatus struct {
	Name    string         `json:"name"`
	Version string         `json:"version,omitempty"`
	Phase   postgres.Phase `json:"phase"`
	Started *time.Time     `json:"started,omitempty"`
	Starts  string         `json:"would_start"` // "yes", or why not, or "unknown"
}

// An SSLStatus is the three states of ssl: "on", "off" or "unknown" each.
type SSLStatus struct {
	Declared string `json:"declared"`
	OnDisk   string `json:"on_disk"`
	Served   string `json:"served"`
	Protocol string `json:"protocol,omitempty"`
}

// A CertStatus is one certificate.
type CertStatus struct {
	Address     string    `json:"address"`
	Subject     string    `json:"subject,omitempty"`
	Path        string    `json:"path"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256
	Expires     time.Time `json:"expires,omitzero"`
	DaysLeft    int       `json:"days_left"`
	Served      string    `json:"served,omitempty"` // "yes", "no" or "unknown"; "" where it is not for serving
	Missing     bool      `json:"missing,omitempty"`
	Error       string    `json:"error,omitempty"`
}

// An HBAStatus is pg_hba.conf.
type HBAStatus struct {
	Path   string   `json:"path"`
	Rules  int      `json:"rules"`
	Errors []string `json:"errors"`
	Loaded string   `json:"loaded"` // "yes": read since it was last changed, and without a broken line; "no"; "unknown"
}

// Inspect looks at a node. It writes nothing.
func Inspect(ctx context.Context, d *disk.Disk, g *engine.Graph, site Site, now time.Time) Status {
	in := &inspection{disk: d, site: site, now: now, status: Status{UserKeys: []CertStatus{}, Problems: []Trouble{}}}
	in.server(ctx)
	for _, s := range g.Steps {
		in.step(s)
	}
	in.judge()
	return in.status
}

// An inspection is a Status in the making.
type inspection struct {
	disk   *disk.Disk
	site   Site
	now    time.Time
	status Status

	conf   *postgres.Conf
	served *postgres.Served
}

func (in *inspection) unknown(what string, err error) {
	in.status.Unknown = append(in.status.Unknown, what+": "+engine.Redact(err.Error()))
}

func (in *inspection) problem(mend, format string, args ...any) {
	in.status.Problems = append(in.status.Problems, Trouble{engine.Redact(fmt.Sprintf(format, args...)), mend})
}

// server asks the server, as far as it answers.
func (in *inspection) server(ctx context.Context) {
	s := in.site.Server
	if s == nil {
		return
	}
	st := &ServerStatus{Name: s.String(), Starts: "unknown"}
	in.status.Server = st
	in.status.SSL = &SSLStatus{Declared: "off", OnDisk: "unknown", Served: "unknown"}
	files := postgres.Root(in.disk.Root())
	var err error
	if in.conf, err = s.Conf(files); err != nil {
		in.unknown("postgresql.conf", err)
	} else {
		in.status.SSL.OnDisk = onOff(isOn(in.conf.Value("ssl", "off")))
	}
	proc, err := s.Process()
	if err != nil {
		in.unknown("the server's process", err)
		return
	}
	st.Phase = proc.Phase
	in.wouldStart(ctx, files)
	if proc.Phase != postgres.Running {
		in.status.SSL.Served = "off"
		return
	}
	in.handshake(ctx)
	in.ask(ctx)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// wouldStart asks the server's own program about the files as they stand.
func (in *inspection) wouldStart(ctx context.Context, files postgres.Files) {
	err := in.site.Server.TryStart(ctx, files)
	switch {
	case err == nil:
		in.status.Server.Starts = "yes"
	case errors.Is(err, postgres.ErrCannotTry):
		in.unknown("would the server start", err)
	default:
		in.status.Server.Starts = engine.Redact(err.Error())
	}
}

func (in *inspection) handshake(ctx context.Context) {
	served, err := in.site.Server.Served(ctx)
	if err != nil {
		in.unknown("what the server serves", err)
		return
	}
	in.served = &served
	in.status.SSL.Served = onOff(served.TLS)
	if served.TLS {
		in.status.SSL.Protocol = tls.VersionName(served.Version)
	}
}

// ask looks at what only a connection tells.
func (in *inspection) ask(ctx context.Context) {
	s := in.site.Server
	in.status.HBA = &HBAStatus{Path: s.HBAFile, Errors: []string{}, Loaded: "unknown"}
	conn, err := s.Connect(ctx)
	if err != nil {
		in.unknown("the server's answers", err)
		return
	}
	defer conn.Close(ctx)
	facts, err := conn.Facts(ctx)
	if err != nil {
		in.unknown("the server's answers", err)
		return
	}
	in.status.Server.Version, in.status.Server.Started = facts.Version, &facts.Started
	if r, err := conn.Replication(ctx, facts); err != nil {
		in.unknown("replication", err)
	} else {
		in.status.Replication = &r
	}
	rules, err := conn.HBARules(ctx)
	if err != nil {
		in.unknown("pg_hba_file_rules", err)
		return
	}
	for _, r := range rules {
		if !r.Broken() {
			in.status.HBA.Rules++
		}
	}
	for _, p := range s.HBAProblems(rules) {
		in.status.HBA.Errors = append(in.status.HBA.Errors, engine.Redact(p.String()))
	}
	info, err := in.disk.Stat(s.HBAFile)
	switch {
	case err != nil:
		in.unknown("pg_hba.conf", err)
	case len(in.status.HBA.Errors) > 0 || time.Unix(info.Ident.Ctime.Unix()).After(facts.Loaded):
		in.status.HBA.Loaded = "no"
	default:
		in.status.HBA.Loaded = in.loaded(ctx)
	}
}

// loaded asks the server by the beacons which rules it runs with.
func (in *inspection) loaded(ctx context.Context) string {
	s := in.site.Server
	text, _, err := in.disk.ReadFile(s.HBAFile, hbaLimit)
	if err != nil {
		in.unknown("pg_hba.conf", err)
		return "unknown"
	}
	told := true
	missing, err := unloaded(ctx, text, s, func(string) { told = false })
	switch {
	case err != nil:
		in.unknown("which rules are loaded", err)
		return "unknown"
	case !told:
		return "unknown"
	}
	for _, m := range missing {
		in.problem("converge apply", "%s", m)
	}
	return yesNo(len(missing) == 0)
}

// hbaLimit is the largest pg_hba.conf, in bytes, that is looked at.
const hbaLimit = 64 << 20

// step looks at what a step of the graph keeps on the disk.
func (in *inspection) step(s *engine.Step) {
	switch r := s.Resource.(type) {
	case *CertAuthority:
		c := in.cert(s.Address, r.certFile())
		if in.served != nil && in.served.TLS && !c.none() {
			c.Served = yesNo(in.trusts(r.certFile()))
		}
		in.status.Authority = &c
	case *ServerKey:
		c := in.cert(s.Address, r.leaf.places[0].certFile())
		if in.served != nil && !c.none() {
			c.Served = yesNo(in.served.TLS && in.served.Fingerprint == c.Fingerprint)
		}
		in.status.ServerKey = &c
		if in.status.SSL != nil {
			in.status.SSL.Declared = "on"
		}
	case *UserKey:
		for _, d := range r.dirs {
			in.status.UserKeys = append(in.status.UserKeys, in.cert(s.Address, d.place(engine.User{}).certFile()))
		}
	}
}

func (c CertStatus) none() bool { return c.Missing || c.Error != "" }

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func (in *inspection) trusts(file string) bool {
	c, err := in.read(file)
	return err == nil && in.served.Accepts(c.Certificate)
}

func (in *inspection) read(file string) (pki.Certificate, error) {
	b, _, err := in.disk.ReadFile(file, 1<<20)
	if err != nil {
		return pki.Certificate{}, err
	}
	return pki.ParseCertificate(b)
}

func (in *inspection) cert(address, file string) CertStatus {
	st := CertStatus{Address: address, Path: file}
	c, err := in.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		st.Missing = true
	case err != nil:
		st.Error = engine.Redact(err.Error())
	default:
		st.Subject, st.Fingerprint, st.Expires = c.Subject.String(), c.Fingerprint(), c.NotAfter.UTC()
		st.DaysLeft = int(c.NotAfter.Sub(in.now) / pki.Day)
	}
	return st
}

// judge names what needs the operator.
func (in *inspection) judge() {
	st := &in.status
	const apply = "converge apply"
	if st.Server != nil {
		switch {
		case st.Server.Starts != "yes" && st.Server.Starts != "unknown":
			in.problem("mend the line that it names before the next restart", "the server would not start again: %s", st.Server.Starts)
		case st.Server.Phase != postgres.Running && st.Server.Phase != "":
			in.problem("", "the server is %s", st.Server.Phase)
		}
	}
	if ssl := st.SSL; ssl != nil && ssl.Declared == "on" {
		switch {
		case ssl.OnDisk == "off":
			in.problem(apply, "ssl is declared on, and off in the configuration on disk")
		case ssl.Served == "off" && st.Server.Phase == postgres.Running:
			in.problem(apply, "ssl is on in the configuration, and the server answers that it has no TLS, whatever SHOW ssl says")
		}
	}
	for _, c := range append([]*CertStatus{st.Authority, st.ServerKey}, pointers(st.UserKeys)...) {
		if c != nil {
			in.judgeCert(*c)
		}
	}
	if r := st.Replication; r != nil && r.InRecovery && !r.Streaming {
		in.problem("look at the server's log, and at primary_conninfo", "this standby does not stream: it has no connection to the server that it follows")
	}
	if h := st.HBA; h != nil {
		for _, e := range h.Errors {
			in.problem("mend the line; until then reloads of pg_hba.conf are ignored and a restart fails", "pg_hba.conf: %s", e)
		}
		if h.Loaded == "no" && len(h.Errors) == 0 {
			in.problem(apply, "pg_hba.conf was changed, and the server has not read it since")
		}
	}
}

func pointers(list []CertStatus) []*CertStatus {
	var out []*CertStatus
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}

func (in *inspection) judgeCert(c CertStatus) {
	const apply = "converge apply"
	switch {
	case c.Missing:
		in.problem(apply, "%s: %s does not exist", c.Address, c.Path)
	case c.Error != "":
		in.problem(apply, "%s: %s", c.Address, c.Error)
	case c.DaysLeft < 0 || !c.Expires.After(in.now):
		in.problem(apply, "%s: %s expired on %s", c.Address, c.Path, c.Expires.Format(time.DateOnly))
	case c.Served == "no":
		in.problem(apply, "%s: the server does not serve %s", c.Address, c.Path)
	}
}

// Short is a certificate in a few words.
func (c CertStatus) Short() string {
	switch {
	case c.Missing:
		return "missing"
	case c.Error != "":
		return "unreadable"
	}
	return fmt.Sprintf("%s, %d days left", shortSum(c.Fingerprint), c.DaysLeft)
}
