package resources

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"converge/engine"
	"converge/engine/disk"
	"converge/engine/recipe"
	"converge/resources/libpq"
	"converge/resources/postgres"
)

// A ClientCheck is one connection that a client of this host makes, and that is to be proven.
type ClientCheck struct {
	Name     string         // user_key.app, the name of a database in database.yml, or --url
	Declared bool           // a recipe declares the key: it has to be there, and the server has to ask for it
	Account  libpq.Account  // under whom the client runs
	Paths    libpq.Paths    // of its files
	Settings libpq.Settings // user, dbname, password, sslmode ...
	Endpoint libpq.Endpoint // the server
	Node     *recipe.Node   // that the environment has there; nil: none that is known
	Notes    []string       // what has to be said of it beforehand
}

// A ClientResult is what became of a ClientCheck.
type ClientResult struct {
	Host       string             `json:"host"`
	Port       int                `json:"port"`
	Database   string             `json:"database"`
	User       string             `json:"user"`
	Node       string             `json:"node,omitempty"`
	Key        string             `json:"key"`
	KeyFile    string             `json:"-"`
	Result     Outcome            `json:"result"`
	LoggedInAs string             `json:"logged_in_as,omitempty"`
	Protocol   string             `json:"protocol"`
	Cipher     string             `json:"cipher"`
	Bits       int                `json:"bits"`
	InRecovery *bool              `json:"in_recovery"` // nil: not known
	Declared   bool               `json:"-"`           // the role of the server's node says whether it is to be
	Server     *ServerCertificate `json:"server_certificate"`
	HBA        *HBALine           `json:"hba"` // the line that decided; nil: it is not known, or none is for the client
	HBAUnknown string             `json:"-"`   // why it is not known; "": it is, or none is for the client
	Plaintext  PlaintextResult    `json:"plaintext"`
	Reason     Reason             `json:"reason"`
	Text       string             `json:"text"`
	Mend       string             `json:"mend"`
	Notes      []string           `json:"notes,omitempty"`
}

// An Outcome is what a connection comes to.
type Outcome string

const (
	ClientOK             Outcome = "ok"
	ClientFailed         Outcome = "failed"
	ClientPasswordNeeded Outcome = "password_needed" // TLS and the certificate are proven; the server then wanted a password
)

// A ServerCertificate is what a server showed.
type ServerCertificate struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"` // SHA-256
	Expires     time.Time `json:"expires"`
	Names       []string  `json:"names"`
}

// Short is the beginning of the fingerprint.
func (c ServerCertificate) Short() string { return shortSum(c.Fingerprint) }

// An HBALine is a line of a server's pg_hba.conf.
type HBALine struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Rule string `json:"rule"`
}

func (l HBALine) String() string { return fmt.Sprintf("line %d of %s: %s", l.Line, l.File, l.Rule) }

// A PlaintextResult is what a server does with the same client without TLS: "refused", "admitted" or "unknown".
type PlaintextResult struct {
	Result string `json:"result"`
	Text   string `json:"text"`
}

// A Verifier proves connections. Nothing is written, on this host or on another.
type Verifier struct {
	Site        Site
	Now         func() time.Time
	Timeout     time.Duration // for one attempt to connect
	Parallelism int           // how many connections are under way at once
	Passfile    string        // PGPASSFILE; "": each user's own
	RequireTLS  bool          // the recipe lets nobody in without TLS
	Disk        *disk.Disk

	once sync.Once
	own  *ownServer
}

// DeclaredChecks are the connections with the keys that the steps of a graph keep here, each to every server. database is
// the one that is asked for.
func DeclaredChecks(g *engine.Graph, account func(string) (libpq.Account, error), servers []CheckedServer, database string) ([]ClientCheck, error) {
	var out []ClientCheck
	for _, s := range g.Steps {
		k, ok := s.Resource.(*UserKey)
		if !ok || len(k.dirs) == 0 { // declared absent
			continue
		}
		a, err := account(k.user)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Address, err)
		}
		p := k.dirs[0].place(engine.User{})
		settings := libpq.Settings{"user": k.user, "dbname": database, "sslmode": "verify-full", "sslcert": p.certFile(), "sslkey": p.keyFile(), "sslrootcert": p.rootFile()}
		for _, server := range servers {
			out = append(out, ClientCheck{
				Name: s.Address, Declared: true, Account: a, Paths: a.Paths(settings), Settings: settings, Endpoint: server.Endpoint, Node: server.Node,
			})
		}
	}
	return out, nil
}

// A CheckedServer is one that clients of the environment connect to.
type CheckedServer struct {
	Endpoint libpq.Endpoint
	Node     *recipe.Node
}

// Servers are the master and the replicas of the environment, by their addresses; without any, the server of this host by
// the names and addresses that its certificate is issued for.
func (s Site) Servers(port int) []CheckedServer {
	var out []CheckedServer
	for i := range s.Environment.Nodes {
		n := &s.Environment.Nodes[i]
		if hasDatabase(n.Role) && n.Address.IsValid() {
			out = append(out, CheckedServer{libpq.Endpoint{Host: n.Address.String(), Port: port}, n})
		}
	}
	if len(out) > 0 && s.described() {
		return out
	}
	if s.Server == nil {
		return nil
	}
	for _, host := range s.clientHosts() {
		out = append(out, CheckedServer{libpq.Endpoint{Host: host, Port: port}, &s.Node})
	}
	return out
}

// described says whether an environment file names the nodes.
func (s Site) described() bool { return s.Environment.Range.Filename != "" }

// clientHosts are localhost, and what other machines have for this one where the server listens on more than that.
func (s Site) clientHosts() []string {
	hosts := []string{"localhost"}
	p, err := s.Server.Process()
	if err != nil || p.ListenAddress == "localhost" {
		return hosts
	}
	if ip, err := netip.ParseAddr(p.ListenAddress); err == nil && !ip.IsUnspecified() {
		return []string{ip.String()}
	}
	for _, a := range s.Addresses {
		hosts = append(hosts, a.String())
	}
	return append(hosts, s.Node.Names...)
}

// Verify makes the connections, several at once, and returns what became of them in their order.
func (v *Verifier) Verify(ctx context.Context, checks []ClientCheck) []ClientResult {
	out := make([]ClientResult, len(checks))
	slots := make(chan struct{}, v.Parallelism)
	var all sync.WaitGroup
	for i := range checks {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			out[i] = v.verify(ctx, checks[i])
		})
	}
	all.Wait()
	return out
}

// A proof is a ClientResult in the making.
type proof struct {
	v      *Verifier
	check  ClientCheck
	client credentials
	login  postgres.Login
	plain  postgres.Plaintext
	result *ClientResult
}

func (v *Verifier) verify(ctx context.Context, c ClientCheck) ClientResult {
	r := ClientResult{
		Host: c.Endpoint.Host, Port: c.Endpoint.Port, Database: c.Settings["dbname"], User: c.Settings["user"], Key: c.Name, KeyFile: c.Paths.Cert,
		Notes: slices.Clone(c.Notes), Plaintext: PlaintextResult{Result: "unknown"},
	}
	if c.Node != nil {
		r.Node, r.Declared = c.Node.Name, hasDatabase(c.Node.Role)
	}
	p := &proof{v: v, check: c, result: &r}
	if c.Endpoint.Socket {
		r.fail(socketOnly)
		r.Plaintext.Text = "through the unix socket everything is plaintext, and stays on this host"
		return p.finish()
	}
	missing := p.load()
	p.plaintext(ctx)
	if missing != nil {
		r.fail(*missing)
		return p.finish()
	}
	p.logIn(ctx)
	p.describe(ctx)
	p.judge()
	return p.finish()
}

// finish is the last that a result goes through before somebody sees it. What servers say is shown as it is, but for the
// password, should one repeat it.
func (p *proof) finish() ClientResult {
	r := p.result
	secret := p.client.password
	if secret == "" || secret == r.User || secret == r.Database || secret == r.Host {
		return *r
	}
	for _, text := range []*string{&r.Text, &r.Mend, &r.Plaintext.Text, &r.HBAUnknown} {
		*text = strings.ReplaceAll(*text, secret, "(masked)")
	}
	for i := range r.Notes {
		r.Notes[i] = strings.ReplaceAll(r.Notes[i], secret, "(masked)")
	}
	return *r
}

func (r *ClientResult) fail(f fault) {
	r.Result, r.Reason, r.Text, r.Mend = ClientFailed, f.reason, f.text, f.mend
}

func (r *ClientResult) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (p *proof) address() string {
	e := p.check.Endpoint
	return net.JoinHostPort(e.Dial(), strconv.Itoa(e.Port))
}

// plaintext tries the same without TLS.
func (p *proof) plaintext(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.v.Timeout)
	defer cancel()
	p.plain = postgres.TryPlaintext(ctx, postgres.Client{Address: p.address(), User: p.result.User, Database: p.result.Database})
	p.result.Plaintext = p.plaintextResult(ctx)
}

func (p *proof) plaintextResult(ctx context.Context) PlaintextResult {
	by := ""
	if line, why := p.ownLine(ctx, p.plain.Local, false); line != nil {
		by = ", by " + line.String()
	} else if why == noLine {
		by = ", for no line is for it"
	}
	switch {
	case p.plain.Err != nil:
		return PlaintextResult{"unknown", shortError(p.plain.Err)}
	case p.plain.Refusal != nil:
		return PlaintextResult{"refused", p.plain.Refusal.String() + by}
	case p.plain.Asks != "":
		return PlaintextResult{"admitted", "gets in without TLS, with " + p.plain.Asks + by}
	}
	return PlaintextResult{"admitted", "gets in without TLS and without a password" + by}
}

// logIn makes the connection, as the client with its files would.
func (p *proof) logIn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.v.Timeout)
	defer cancel()
	p.login = postgres.TryLogin(ctx, postgres.Client{
		Address: p.address(), ServerName: p.check.Endpoint.Host, Database: p.result.Database, User: p.result.User,
		Password: p.client.password, Certificate: p.client.certificate, Verify: p.verifyServer,
	})
}

// describe tells what was seen, whatever came of it.
func (p *proof) describe(ctx context.Context) {
	r, l := p.result, p.login
	if len(l.Served.Certificates) > 0 {
		c := l.Served.Certificates[0]
		r.Server = &ServerCertificate{Subject: c.Subject.String(), Fingerprint: l.Served.Fingerprint, Expires: c.NotAfter.UTC(), Names: libpq.NamesOf(c)}
		r.Protocol = libpq.Protocol(l.Served.Version)
		r.Cipher, r.Bits = libpq.Cipher(l.CipherID)
	}
	if l.Session != nil {
		r.LoggedInAs, r.InRecovery = l.Session.User, &l.Session.InRecovery
	}
	if l.Stage < postgres.Answered {
		r.HBAUnknown = "the server did not come so far"
		return
	}
	line, why := p.ownLine(ctx, l.Local, true)
	if why == notOwn {
		line, why = p.remoteLine()
	}
	if r.HBA = line; why != noLine {
		r.HBAUnknown = why
	}
	if own := p.ownServer(ctx, l.Remote); own != nil && own.err == nil && r.InRecovery == nil {
		r.InRecovery = &own.facts.InRecovery
	}
}

// reachesOwn says whether an address is one of this host's.
func (v *Verifier) reachesOwn(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(v.Site.Interfaces, func(p netip.Prefix) bool { return p.Addr() == a })
}

// ApplicationChecks are the connections of an application that runs as an account: one to each of its hosts.
func (s Site) ApplicationChecks(d libpq.Database, account libpq.Account) ([]ClientCheck, error) {
	endpoints, err := d.Settings.Endpoints()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	settings := maps.Clone(d.Settings)
	if settings["user"] == "" {
		settings["user"] = account.Name
	}
	if settings["dbname"] == "" {
		settings["dbname"] = settings["user"]
	}
	var out []ClientCheck
	for _, e := range endpoints {
		out = append(out, ClientCheck{
			Name: d.Name, Account: account, Paths: account.Paths(settings), Settings: settings, Endpoint: e, Node: s.nodeAt(e.Dial()), Notes: d.Notes,
		})
	}
	return out, nil
}

// nodeAt is the node of the environment with a name or an address; nil: none.
func (s Site) nodeAt(host string) *recipe.Node {
	for i := range s.Environment.Nodes {
		n := &s.Environment.Nodes[i]
		if n.Name == host || n.Address.IsValid() && n.Address.String() == host || slices.Contains(n.Names, host) {
			return n
		}
	}
	return nil
}
