package resources

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"converge/engine"
	"converge/engine/disk"
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

	UserKeys  []CertStatus      `json:"user_keys"` // one for each copy
	CRLs      []CRLStatus       `json:"crls"`
	Plaintext []Plaintext       `json:"plaintext"`        // sessions without TLS that the rules on the disk let in with TLS only
	Revoked   []RevokedSessions `json:"revoked_sessions"` // sessions whose certificate is on one of the lists
	Problems  []Trouble         `json:"problems"`
	Unknown   []string          `json:"unknown,omitempty"` // what could not be found out, and why
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

	RestartSeconds  float64 `json:"restart_seconds"`  // what a restart is given
	RestartMeasured int     `json:"restart_measured"` // how many restarts that was learnt from; 0: it is a guess
}

// An SSLStatus is the three states of ssl: "on", "off" or "unknown" each.
type SSLStatus struct {
	Declared string `json:"declared"`
	OnDisk   string `json:"on_disk"`
	Served   string `json:"served"`
	Protocol string `json:"protocol,omitempty"`
	Cipher   string `json:"cipher,omitempty"`
}

// Inspect looks at a node whose last run ended at a time, the zero time for never. It writes nothing.
func Inspect(ctx context.Context, d *disk.Disk, g *engine.Graph, site Site, now, lastRun time.Time) Status {
	in := &inspection{disk: d, site: site, now: now, lastRun: lastRun, status: Status{
		UserKeys: []CertStatus{}, CRLs: []CRLStatus{}, Plaintext: []Plaintext{}, Revoked: []RevokedSessions{}, Problems: []Trouble{},
	}}
	in.server(ctx)
	for _, s := range g.Steps {
		in.step(s)
	}
	in.judge()
	return in.status
}

// An inspection is a Status in the making.
type inspection struct {
	disk    *disk.Disk
	site    Site
	now     time.Time
	lastRun time.Time
	status  Status

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
	restart := in.site.Restarts.Expect(s.DataDirectory)
	in.status.Server = &ServerStatus{Name: s.String(), Starts: "unknown", RestartSeconds: restart.Restart.Seconds(), RestartMeasured: restart.Measured}
	in.status.SSL = &SSLStatus{Declared: "off", OnDisk: "unknown", Served: "unknown"}
	in.status.HBA = &HBAStatus{Path: s.HBAFile, Errors: []string{}, Loaded: "unknown"}
	files := postgres.Root(in.disk.Root())
	var err error
	if in.conf, err = s.Conf(files); err != nil {
		in.unknown("postgresql.conf", err)
	} else {
		in.status.SSL.OnDisk = onOff(isOn(in.conf.Value("ssl", "off")))
	}
	in.hbaOnDisk(files)
	in.revocations()
	proc, err := s.Process()
	if err != nil {
		in.unknown("the server's process", err)
		return
	}
	in.status.Server.Phase = proc.Phase
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

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// running says whether the server runs; false where there is none.
func (in *inspection) running() bool {
	return in.status.Server != nil && in.status.Server.Phase == postgres.Running
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
		in.status.SSL.Protocol, in.status.SSL.Cipher = tls.VersionName(served.Version), served.Cipher
	}
}

// ask looks at what only a connection tells.
func (in *inspection) ask(ctx context.Context) {
	conn, err := in.site.Server.Connect(ctx)
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
	in.hbaServed(ctx, conn, facts)
	in.plaintext(ctx, conn, facts)
	in.revokedSessions(ctx, conn, facts)
}

// step looks at what a step of the graph keeps on the disk.
func (in *inspection) step(s *engine.Step) {
	switch r := s.Resource.(type) {
	case *CertAuthority:
		in.authority(s.Address, r)
	case *ServerKey:
		in.serverKey(s.Address, r)
	case *UserKey:
		in.userKey(s.Address, r)
	}
}
