package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/disk"
	"converge/engine/recipe"
	"converge/recipes"
	"converge/resources"
	"converge/resources/postgres"
)

const (
	defaultEnvironmentFile = "/etc/converge/environment.hcl"
	defaultRecipesDir      = "/etc/converge/recipes"
)

// A site is what a command that looks at the machine is about.
type site struct {
	env    *recipe.Environment
	node   recipe.Node
	server *postgres.Server // nil on nodes without a database
	engine *engine.Engine
	graph  *engine.Graph
	types  resources.Site

	windows []recipe.Window
	inputs  map[string]string // recipes and environment: name to SHA-256

	looksOnly bool      // what does not fit is kept, not refused: nothing will be written
	misfit    *mismatch // of the role and the server
}

// options are those that every run has.
func (s *site) options() engine.Options {
	return engine.Options{MaxDisruption: engine.Restart, Windows: s.windows, Inputs: s.inputs}
}

// close ends what the site holds open. A nil site holds nothing.
func (s *site) close() {
	if s != nil {
		s.types.Session.Close(context.Background())
		s.closeStore()
	}
}

// databaseRoles are the roles of nodes with a PostgreSQL server.
var databaseRoles = []string{"db_master", "db_replica", "solo"}

// openSite reads environment and recipes, finds node and server, and evaluates the recipe for them. With an error it
// returns what it knew so far, or nil.
func (a *app) openSite(ctx context.Context) (*site, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("converge reads keys and writes as root: run it with sudo")
	}
	s := &site{inputs: map[string]string{}, looksOnly: a.looksOnly}
	if err := a.openEngine(s); err != nil {
		return s, err
	}
	if err := a.readEnvironment(s); err != nil {
		return s, err
	}
	if isDatabase(s.node.Role) {
		if err := s.findServer(ctx); err != nil {
			return s, err
		}
	}
	return s, a.evaluate(s)
}

func (a *app) openEngine(s *site) error {
	d, err := disk.Open("/")
	if err != nil {
		return err
	}
	state, err := engine.OpenState(d, a.flags.state)
	if err != nil {
		return err
	}
	s.engine = &engine.Engine{Disk: d, State: state, Now: now, Rand: rand.Reader, Parallelism: a.flags.parallelism}
	return nil
}

// now is the clock of the program.
func now() time.Time { return time.Now() }

// readEnvironment finds out which environment and which node this is.
func (a *app) readEnvironment(s *site) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	source, err := a.environmentSource()
	if err != nil {
		return err
	}
	if source == nil {
		return a.singleNode(s, host)
	}
	s.inputs[source.Name] = sum(source.Bytes)
	env, diags := recipe.ParseEnvironment(*source)
	if diags.HasErrors() {
		return &diagnosticsError{diags, env.Files}
	}
	s.env = env
	s.node, err = env.Choose(a.flags.node, a.flags.role, host)
	if _, without := env.Choose(a.flags.node, "", host); err != nil && a.flags.role != "" && without == nil {
		err = &engine.RefusedError{Reason: err.Error()} // it is the role that does not fit
	}
	if err == nil && len(env.Nodes) == 0 {
		return s.describeHost(s.node)
	}
	return err
}

// environmentSource reads the environment file; nil when none is given and none stands at the usual place.
func (a *app) environmentSource() (*recipe.Source, error) {
	name := a.flags.environment
	if name == "" {
		if _, err := os.Lstat(defaultEnvironmentFile); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		name = defaultEnvironmentFile
	}
	source, err := recipe.ReadEnvironmentFile(name)
	if err != nil {
		return nil, err
	}
	return &source, nil
}

// singleNode is the environment of a host that nobody has described.
func (a *app) singleNode(s *site, host string) error {
	if a.flags.node != "" && a.flags.node != host {
		return usage("--node %s: there is no environment file, so the only node is this host, %s", a.flags.node, host)
	}
	env, err := recipe.Single(host, a.flags.role, netip.Addr{})
	if err != nil {
		return &usageError{err}
	}
	s.env = env
	return s.describeHost(env.Nodes[0])
}

// roleOfLastRun takes, where neither an environment file nor --role says what this host is, the role that it had last.
func (a *app) roleOfLastRun() error {
	if a.flags.role != "" || os.Geteuid() != 0 {
		return nil
	}
	if source, err := a.environmentSource(); source != nil || err != nil {
		return err
	}
	s := &site{}
	if err := a.openEngine(s); err != nil {
		return err
	}
	r, err := s.engine.State.Latest()
	if err == nil && r != nil {
		a.flags.role = r.Role
	}
	return err
}

// describeHost makes a node of the site's with what the host itself knows of its names and addresses.
func (s *site) describeHost(node recipe.Node) (err error) {
	if s.types.Addresses, err = interfaceAddresses(); err != nil {
		return err
	}
	for _, a := range s.types.Addresses {
		if !node.Address.IsValid() && a.Is4() {
			node.Address = a
		}
	}
	node.Names = aliases(node.Name)
	s.node = node
	return nil
}

// interfaces are the host's addresses with the bits of their networks.
func interfaces() ([]netip.Prefix, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("the addresses of this host: %w", err)
	}
	var out []netip.Prefix
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// interfaceAddresses are the addresses by which others can reach the host, sorted.
func interfaceAddresses() ([]netip.Addr, error) {
	all, err := interfaces()
	var out []netip.Addr
	for _, p := range all {
		if p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), err
}

// aliases are the other names of the host with a dot in them: its full name, from /etc/hosts.
func aliases(host string) []string {
	b, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 || !slices.Contains(words[1:], host) {
			continue
		}
		for _, w := range words[1:] {
			if w != host && strings.Contains(w, ".") && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	slices.Sort(out)
	return out
}

// findServer discovers the node's server, and refuses a role that does not fit it.
func (s *site) findServer(ctx context.Context) error {
	override := postgres.Override{AdminUser: s.env.AdminUser}
	if s.env.PostgreSQL != nil {
		if diags := s.env.PostgreSQL.Decode(&override); diags.HasErrors() {
			return &diagnosticsError{diags, s.env.Files}
		}
	}
	server, err := postgres.Discover(postgres.Root("/"), override)
	if err != nil {
		return err
	}
	s.server = server
	proc, err := server.Process()
	if err != nil {
		return err
	}
	s.types.WasRunning = proc.Phase == postgres.Running
	return s.roleFits(ctx, proc)
}

// roleFits holds the role against what the server is: a server that follows another is no master, and the reverse.
func (s *site) roleFits(ctx context.Context, proc postgres.Process) error {
	standby := proc.Standby
	if proc.Phase == postgres.Running {
		session, err := resources.OpenSession(ctx, s.server)
		switch {
		case errors.Is(err, postgres.ErrTurnedAway), err != nil && s.looksOnly:
			// Its rules lock this program out. To mend them is what a run is for; what the files say of its role has to do.
		case err != nil:
			return err
		default:
			s.types.Session = session
			standby = session.Facts.InRecovery
		}
	}
	switch m := s.roleMisfit(standby); {
	case m != nil && s.looksOnly:
		s.misfit = m
	case m != nil:
		return &engine.RefusedError{Reason: m.what + "; nothing was written. " + strings.ToUpper(m.mend[:1]) + m.mend[1:]}
	}
	return nil
}

// A mismatch is why a role does not fit a server, and what mends it.
type mismatch struct{ what, mend string }

// roleMisfit is nil when the role fits.
func (s *site) roleMisfit(standby bool) *mismatch {
	inFile := len(s.env.Files) > 0 && len(s.env.Nodes) > 0
	switch {
	case standby && s.node.Role != "db_replica":
		m := &mismatch{fmt.Sprintf("the role of this node is %s, and %s is in recovery: it follows another server", s.node.Role, s.server), "run it with the role db_replica, or promote the server first"}
		if inFile {
			m.mend = "promote the server first, or give the node the role db_replica in the environment file"
		}
		return m
	case !standby && s.node.Role == "db_replica":
		m := &mismatch{fmt.Sprintf("the role of this node is db_replica, and %s is not in recovery: it follows nobody", s.server), "run it with the role db_master if it was promoted, or make it a standby of its master first"}
		if inFile {
			master := resources.AuthorityNode(s.env)
			m.mend = fmt.Sprintf("if %s has taken its place, make it a standby of %s (pg_rewind, or pg_basebackup -R); if it was promoted, give it the role db_master in the environment file", master, master)
		}
		return m
	}
	return nil
}

// evaluate reads the recipes and makes the graph.
func (a *app) evaluate(s *site) error {
	sources, err := a.recipeSources()
	if err != nil {
		return err
	}
	for _, src := range sources {
		s.inputs[src.Name] = sum(src.Bytes)
	}
	s.types.Server, s.types.Environment, s.types.Node = s.server, s.env, s.node
	s.types.Trials, s.types.AcceptLockout = &resources.Trials{}, a.flags.acceptLockout
	s.types.Restarts, s.types.ForceRestart = &resources.Restarts{}, a.forceRestart
	s.engine.State.ReadCache(restartsCache, s.types.Restarts)
	s.types.Started, s.types.Change = s.engine.Now(), &resources.AuthorityChange{}
	s.types.Maintenance = a.maintenance
	if !a.planned.IsZero() {
		s.types.Started = a.planned // the names in its archive are those that the plan has foretold
	}
	if s.types.Interfaces, err = interfaces(); err != nil {
		return err
	}
	s.types.Home, s.types.Disk = homes(s.engine.Disk), s.engine.Disk
	shared, err := s.openStore()
	if err != nil {
		return err
	}
	if shared != nil {
		s.types.Delivery = &resources.Delivery{Store: shared}
	}
	if s.types.Delivery != nil && resources.Issues(s.node.Role) {
		s.types.Delivery.Published = &resources.Published{}
		s.engine.State.ReadCache(publishedCache, &s.types.Delivery.Published.Entries)
		if s.types.Delivery.Needs, err = a.needs(sources, s.types); err != nil {
			return err
		}
	}
	graph, windows, err := a.graphOf(sources, s.types)
	if err != nil {
		return err
	}
	s.graph, s.windows = graph, windows
	if a.checkSite != nil {
		return a.checkSite(s)
	}
	return nil
}

// needs evaluates the recipes for each node of the environment, as far as they say which keys it is to have.
func (a *app) needs(sources []recipe.Source, site resources.Site) ([]resources.Needs, error) {
	loaded, diags := recipe.Load(sources, engine.RecipeTypes(resources.Types(site)))
	if diags.HasErrors() {
		return nil, nil // to be told when the recipes are evaluated for this node
	}
	vars, err := a.vars()
	if err != nil {
		return nil, err
	}
	needs, diags := resources.AllNeeds(loaded, site.Environment, func(n recipe.Node) recipe.Scope { return scopeOf(site, n, vars) })
	if diags.HasErrors() {
		return nil, &diagnosticsError{recipe.Sorted(diags), loaded.Files}
	}
	return needs, nil
}

// scopeOf is what recipes are evaluated for: a node. Of another node's server nothing is known, and this one's has to do.
func scopeOf(site resources.Site, n recipe.Node, vars map[string]string) recipe.Scope {
	scope := recipe.Scope{Environment: site.Environment, Node: n, Vars: vars}
	if site.Server != nil && isDatabase(n.Role) {
		scope.Values = map[string]cty.Value{"postgresql": resources.Values(site.Server)}
	} else {
		scope.Missing = map[string]string{"postgresql": "which only nodes with a database have, and this node is " + n.Role + ". Give the block that uses it the roles " + strings.Join(databaseRoles, ", ") + "."}
	}
	return scope
}

// graphOf evaluates recipes for one node.
func (a *app) graphOf(sources []recipe.Source, site resources.Site) (*engine.Graph, []recipe.Window, error) {
	types := resources.Types(site)
	loaded, diags := recipe.Load(sources, engine.RecipeTypes(types))
	vars, err := a.vars()
	if err != nil {
		return nil, nil, err
	}
	scope := scopeOf(site, site.Node, vars)
	program, more := loaded.For(scope)
	diags = append(diags, more...)
	files := loaded.Files
	if diags.HasErrors() {
		return nil, nil, &diagnosticsError{recipe.Sorted(diags), files}
	}
	blocks := make([]*recipe.Block, len(program.Blocks))
	for i := range program.Blocks {
		blocks[i] = &program.Blocks[i]
	}
	former, err := resources.Formerly(site, blocks)
	if err != nil {
		return nil, nil, err
	}
	graph, diags := engine.NewGraph(append(blocks, former...), types)
	if diags.HasErrors() {
		return nil, nil, &diagnosticsError{recipe.Sorted(diags), files}
	}
	graph.Environment, graph.Node, graph.Role = site.Environment.Name, site.Node.Name, site.Node.Role
	if diags := resources.Link(graph); diags.HasErrors() {
		return nil, nil, &diagnosticsError{recipe.Sorted(diags), files}
	}
	return graph, program.Windows, nil
}

// recipeSources are the standard recipes, the site's own, and those of the folders given.
func (a *app) recipeSources() ([]recipe.Source, error) {
	var sources []recipe.Source
	if !a.flags.noStandardRecipes {
		sources = recipes.Standard()
	}
	dirs := a.flags.recipes
	if _, err := os.Lstat(defaultRecipesDir); err == nil {
		dirs = append([]string{defaultRecipesDir}, dirs...)
	}
	for _, dir := range dirs {
		own, err := recipe.ReadFolder(dir)
		if err != nil {
			return nil, err
		}
		sources = append(sources, own...)
	}
	return sources, nil
}

func (a *app) vars() (map[string]string, error) {
	vars := map[string]string{}
	for _, v := range a.flags.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usage("--var %q: write --var NAME=VALUE", v)
		}
		vars[name] = value
	}
	return vars, nil
}

// homes looks up home directories.
func homes(d *disk.Disk) func(string) (string, bool) {
	accounts := engine.NewAccounts(d)
	return func(user string) (string, bool) {
		u, err := accounts.User(user)
		return u.Home, err == nil && strings.HasPrefix(u.Home, "/")
	}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func isDatabase(role string) bool { return slices.Contains(databaseRoles, role) }
