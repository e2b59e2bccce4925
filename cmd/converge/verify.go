package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"converge/engine"
	"converge/engine/disk"
	"converge/engine/recipe"
	"converge/resources"
	"converge/resources/libpq"
	"converge/resources/postgres"
)

// verifyFlags say which connections, and how they are made.
type verifyFlags struct {
	database     string
	databaseYML  string
	railsEnv     string
	url          string
	user         string
	timeout      time.Duration
	requireLogin bool
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify",
		Short: "Connect for real with the keys that this node holds",
		Long: `Connect for real, with each key that the recipe keeps on this node, to the master and every replica of the environment, as
a client with sslmode=verify-full does; without an environment file, to this host's own server. Each line of what is printed
comes from the connection. When it fails, one of the usual reasons is named, with the command that mends it.

--database-yml and --url take the connection from an application instead, and the files from the home of the user that it
runs as. Nothing is written anywhere. No ERB is run.

A server that asks for a password, when none is in the user's ~/.pgpass, has taken TLS and the client's certificate by then:
that is said, and is no failure without --require-login.

The exit code is 0 when all is well, 2 when something needs the operator, 1 when it could not be told.`,
		Example: `  converge verify
  converge verify --database app --json
  converge verify --database-yml /srv/app/config/database.yml
  converge verify --url postgres://deploy@db1.internal/app --user deploy`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verify(cmd, f) },
	}
	fs := c.Flags()
	fs.StringVar(&f.database, "database", "postgres", "the `NAME` of the database that the keys of this node ask for")
	fs.StringVar(&f.databaseYML, "database-yml", "", "take the connection from a Rails database.yml (`FILE`)")
	fs.StringVar(&f.railsEnv, "rails-env", "production", "the environment in it (`NAME`)")
	fs.StringVar(&f.url, "url", "", "take the connection from libpq's `URL` or NAME=VALUE string; each of several hosts is tried")
	fs.StringVar(&f.user, "user", "", "the Linux `USER` whose files --database-yml and --url take (default: the app_user of the environment)")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long one attempt may take (`DURATION`)")
	fs.BoolVar(&f.requireLogin, "require-login", false, "a connection that ends where a password is asked for needs the operator, too")
	return c
}

func (f verifyFlags) check(given func(string) bool) error {
	application := f.databaseYML != "" || f.url != ""
	switch {
	case f.databaseYML != "" && f.url != "":
		return usage("--database-yml and --url: the connection comes from one of them")
	case given("rails-env") && f.databaseYML == "":
		return usage("--rails-env %s goes with --database-yml", f.railsEnv)
	case given("user") && !application:
		return usage("--user %s goes with --database-yml or --url: the keys of the recipe have their users", f.user)
	case given("database") && application:
		return usage("--database %s: --database-yml and --url say that themselves", f.database)
	case given("url") && f.url == "" || given("database-yml") && f.databaseYML == "":
		return usage("--url and --database-yml say where to: an empty one says nothing")
	case f.timeout <= 0:
		return usage("--timeout %s: an attempt needs some time", f.timeout)
	}
	return nil
}

// verifyJSON is what verify --json prints.
type verifyJSON struct {
	Format      int                      `json:"format"`
	Environment string                   `json:"environment"`
	Node        string                   `json:"node"`
	Role        string                   `json:"role"`
	Connections []resources.ClientResult `json:"connections"`
}

func (a *app) verify(cmd *cobra.Command, f verifyFlags) error {
	if err := f.check(cmd.Flags().Changed); err != nil {
		return err
	}
	open := a.declaredChecks
	if f.url != "" || f.databaseYML != "" {
		open = a.applicationChecks
	}
	s, checks, err := open(f)
	if err != nil {
		return err
	}
	verifier := resources.Verifier{
		Site: s.types, Now: s.engine.Now, Timeout: f.timeout, Parallelism: a.flags.parallelism, Passfile: os.Getenv("PGPASSFILE"),
		RequireTLS: a.requiresTLS(s.env), Disk: s.engine.Disk,
	}
	doc := verifyJSON{Format: 1, Environment: s.env.Name, Node: s.node.Name, Role: s.node.Role, Connections: verifier.Verify(cmd.Context(), checks)}
	if err := context.Cause(cmd.Context()); err != nil {
		return err
	}
	a.code = verifyExit(doc.Connections, f.requireLogin)
	if a.flags.json {
		return a.printJSON(doc)
	}
	newPrinter(a).verified(&doc, f.requireLogin)
	return nil
}

// verifyExit is 2 when something needs the operator, and 1 when all that is wrong is that it could not be told.
func verifyExit(list []resources.ClientResult, requireLogin bool) int {
	code := exitDone
	for _, r := range list {
		untold := r.Reason == resources.KeyEncrypted || r.Reason == resources.OtherMethod
		switch {
		case r.Result == resources.ClientFailed && !untold, r.Result == resources.ClientPasswordNeeded && requireLogin:
			return exitChanges
		case untold:
			code = exitFailed
		}
	}
	return code
}

// requiresTLS says whether the standard recipe's require_ssl lets nobody in without TLS.
func (a *app) requiresTLS(env *recipe.Environment) bool {
	value := "off"
	if given, ok := env.Variables["require_ssl"]; ok && given.Value.Type().FriendlyName() == "string" && given.Value.IsKnown() && !given.Value.IsNull() {
		value = given.Value.AsString()
	}
	if vars, err := a.vars(); err == nil && vars["require_ssl"] != "" {
		value = vars["require_ssl"]
	}
	return value != "off" && !a.flags.noStandardRecipes
}

// declaredChecks are the connections with the keys of the recipe. Unlike a run it opens no store, and takes a server that is
// down, or in another role than declared, as one more thing to tell.
func (a *app) declaredChecks(f verifyFlags) (*site, []resources.ClientCheck, error) {
	if os.Geteuid() != 0 {
		return nil, nil, errors.New("converge reads every user's key as that user: run it with sudo (a connection of your own: --url)")
	}
	if err := a.roleOfLastRun(); err != nil {
		return nil, nil, err
	}
	s, err := siteToLookAt()
	if err != nil {
		return nil, nil, err
	}
	if err := a.readEnvironment(s); err != nil {
		return nil, nil, err
	}
	port, err := s.environmentPort()
	if err == nil && isDatabase(s.node.Role) {
		port, err = s.findOwnServer()
	}
	if err != nil {
		return nil, nil, err
	}
	if err := a.verifiedGraph(s); err != nil {
		return nil, nil, err
	}
	servers := s.types.Servers(port)
	if len(servers) == 0 {
		return nil, nil, fmt.Errorf("no database server is known to this node, which is %s: describe the nodes in an environment file, or give a connection by --url", s.node.Role)
	}
	checks, err := resources.DeclaredChecks(s.graph, s.account, servers, f.database)
	if err == nil && len(checks) == 0 {
		err = fmt.Errorf("the recipes keep no user_key on a node of the role %s: there is no key to verify; --url and --database-yml take a connection from elsewhere", s.node.Role)
	}
	return s, checks, err
}

// siteToLookAt is a site without the state of a run: there is none to be made.
func siteToLookAt() (*site, error) {
	d, err := disk.Open("/")
	if err != nil {
		return nil, err
	}
	return &site{inputs: map[string]string{}, engine: &engine.Engine{Disk: d, Now: now}}, nil
}

// verifiedGraph evaluates the recipes for the node as far as they say which keys it holds.
func (a *app) verifiedGraph(s *site) error {
	sources, err := a.recipeSources()
	if err != nil {
		return err
	}
	s.types.Server, s.types.Environment, s.types.Node = s.server, s.env, s.node
	s.types.Trials, s.types.Home = &resources.Trials{}, homes(s.engine.Disk)
	if s.types.Interfaces, err = interfaces(); err != nil {
		return err
	}
	s.graph, _, err = a.graphOf(sources, s.types)
	return err
}

// environmentPort is the port of the environment's servers, where no server of this host says another one.
func (s *site) environmentPort() (int, error) {
	override, err := s.override()
	if override.Port == 0 {
		override.Port = 5432
	}
	return override.Port, err
}

// override is what the environment file says of the server.
func (s *site) override() (postgres.Override, error) {
	override := postgres.Override{AdminUser: s.env.AdminUser}
	if s.env.PostgreSQL != nil {
		if diags := s.env.PostgreSQL.Decode(&override); diags.HasErrors() {
			return override, &diagnosticsError{diags, s.env.Files}
		}
	}
	return override, nil
}

// findOwnServer finds the server of this host, and the port that it listens at.
func (s *site) findOwnServer() (int, error) {
	override, err := s.override()
	if err != nil {
		return 0, err
	}
	if s.server, err = postgres.Discover(postgres.Root("/"), override); err != nil {
		return 0, err
	}
	if p, err := s.server.Process(); err == nil && p.Port != 0 {
		return p.Port, nil
	}
	return s.server.Port, nil
}

// account finds a Linux user, with the groups that /etc/group gives it.
func (s *site) account(name string) (libpq.Account, error) {
	u, err := engine.NewAccounts(s.engine.Disk).User(name)
	if err != nil {
		return libpq.Account{}, fmt.Errorf("%w: create the account, or name another one", err)
	}
	a := libpq.Account{Name: u.Name, UID: u.UID, GID: u.GID, Home: u.Home}
	known, err := user.LookupId(strconv.Itoa(u.UID))
	if err != nil {
		return a, nil // a directory service's: it has its own group only
	}
	groups, err := known.GroupIds()
	if err != nil {
		return a, nil
	}
	for _, g := range groups {
		if id, err := strconv.Atoi(g); err == nil {
			a.Groups = append(a.Groups, id)
		}
	}
	return a, nil
}

// applicationChecks are the connections of an application, from its database.yml or a URL.
func (a *app) applicationChecks(f verifyFlags) (*site, []resources.ClientCheck, error) {
	s, err := siteToLookAt()
	if err != nil {
		return nil, nil, err
	}
	if err := a.applicationSite(s); err != nil {
		return nil, nil, err
	}
	account, err := s.clientAccount(f.user)
	if err != nil {
		return nil, nil, err
	}
	databases, err := f.databases()
	if err != nil {
		return nil, nil, err
	}
	var checks []resources.ClientCheck
	for _, d := range databases {
		list, err := s.types.ApplicationChecks(d, account)
		if err != nil {
			return nil, nil, err
		}
		checks = append(checks, list...)
	}
	return s, checks, nil
}

// databases are the connections that the flags give.
func (f verifyFlags) databases() ([]libpq.Database, error) {
	if f.url != "" {
		settings, err := libpq.ParseConninfo(f.url)
		if err != nil {
			return nil, usage("--url: %w", err)
		}
		return []libpq.Database{{Name: "--url", Settings: settings}}, nil
	}
	file, err := openRegular(f.databaseYML)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.databaseYML, cause(err))
	}
	defer file.Close()
	const limit = 1 << 20
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", f.databaseYML, cause(err))
	case len(text) > limit:
		return nil, fmt.Errorf("%s is larger than %d KB: this is no database.yml", f.databaseYML, limit>>10)
	}
	return libpq.ParseDatabaseYML(f.databaseYML, text, f.railsEnv)
}

// applicationSite is what is known here of the environment. An application's connection needs none of it.
func (a *app) applicationSite(s *site) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	s.env, s.node = &recipe.Environment{AppUser: recipe.DefaultAppUser, AdminUser: recipe.DefaultAdminUser}, recipe.Node{Name: host, Role: a.flags.role}
	source, err := a.environmentSource()
	if err != nil {
		return err
	}
	if source != nil {
		env, diags := recipe.ParseEnvironment(*source)
		if diags.HasErrors() {
			return &diagnosticsError{diags, env.Files}
		}
		s.env = env
		if n, err := env.Choose(a.flags.node, a.flags.role, host); err == nil {
			s.node = n
		}
	}
	if os.Geteuid() == 0 {
		// Without one, or with several of which none is chosen, the rules are those of others.
		if _, err := s.findOwnServer(); err != nil {
			s.server = nil
		}
	}
	s.types.Server, s.types.Environment, s.types.Node = s.server, s.env, s.node
	s.types.Interfaces, err = interfaces()
	return err
}

// clientAccount is the Linux user whose files the application takes. Whoever is not root can only be that user.
func (s *site) clientAccount(name string) (libpq.Account, error) {
	if os.Geteuid() == 0 {
		if name == "" {
			name = s.env.AppUser
		}
		account, err := s.account(name)
		if err != nil {
			return account, fmt.Errorf("--user: %w", err)
		}
		return account, nil
	}
	me, err := user.Current()
	if err != nil {
		return libpq.Account{}, fmt.Errorf("who am I: %w", err)
	}
	if name != "" && name != me.Username {
		return libpq.Account{}, fmt.Errorf("--user %s: the files of another user are read with sudo only", name)
	}
	return libpq.Account{Name: me.Username, UID: os.Geteuid(), GID: os.Getegid(), Home: me.HomeDir}, nil
}
