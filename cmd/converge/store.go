package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"converge/engine/recipe"
	"converge/engine/store"
	"converge/resources"
	"converge/resources/postgres"
)

// defaultStoreDir is the folder in which an environment without a store block shares its keys: on one machine, or where
// it is mounted from one.
const defaultStoreDir = "/var/lib/converge/store"

// The arguments of the store block, by its kind.
type (
	dirArguments struct {
		Path string `hcl:"path"`
	}
	etcdArguments struct {
		Endpoints    []string `hcl:"endpoints"`
		Prefix       *string  `hcl:"prefix"`
		User         *string  `hcl:"user"`
		PasswordFile *string  `hcl:"password_file"`
		CAFile       *string  `hcl:"ca_file"`
		CertFile     *string  `hcl:"cert_file"`
		KeyFile      *string  `hcl:"key_file"`
	}
	postgresArguments struct {
		Schema       *string `hcl:"schema"`
		Database     *string `hcl:"database"`
		User         *string `hcl:"user"`
		PasswordFile *string `hcl:"password_file"`
	}
)

// openStore opens what the environment's nodes share. Nil: nothing is shared, for the node is alone, or no node has a host
// key that anything could be sealed to.
func (s *site) openStore() (store.Store, error) {
	hasKey := func(n recipe.Node) bool { return n.HostKey != "" }
	if len(s.env.Nodes) < 2 || s.env.Store == nil && !slices.ContainsFunc(s.env.Nodes, hasKey) {
		return nil, nil
	}
	if s.env.Store == nil {
		return store.OpenDir(defaultStoreDir)
	}
	arguments, err := storeArguments(s.env)
	if err != nil {
		return nil, err
	}
	switch a := arguments.(type) {
	case *dirArguments:
		return store.OpenDir(a.Path)
	case *etcdArguments:
		return openEtcd(*a)
	case *postgresArguments:
		return s.openPostgresStore(*a)
	}
	panic("converge: no store of the kind " + s.env.Store.Kind)
}

// storeArguments reads the store block of an environment: a pointer to the arguments of its kind.
func storeArguments(env *recipe.Environment) (any, error) {
	into := map[string]any{"dir": &dirArguments{}, "etcd": &etcdArguments{}, "postgres": &postgresArguments{}}[env.Store.Kind]
	if diags := env.Store.Decode(into); diags.HasErrors() {
		return nil, &diagnosticsError{diags, env.Files}
	}
	return into, nil
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func openEtcd(a etcdArguments) (store.Store, error) {
	c := store.EtcdConfig{Endpoints: a.Endpoints, Prefix: text(a.Prefix), Username: text(a.User)}
	if file := text(a.PasswordFile); file != "" {
		c.Password = func() ([]byte, error) { return readPassword(file) }
	}
	if slices.ContainsFunc(a.Endpoints, func(e string) bool { return strings.HasPrefix(e, "https://") }) {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if file := text(a.CAFile); file != "" {
			pool, err := readPool(file)
			if err != nil {
				return nil, fmt.Errorf("ca_file of the store: %w", err)
			}
			c.TLS.RootCAs = pool
		}
		if cert, key := text(a.CertFile), text(a.KeyFile); cert != "" || key != "" {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("cert_file and key_file of the store: %w", err)
			}
			c.TLS.Certificates = []tls.Certificate{pair}
		}
	}
	return store.OpenEtcd(c)
}

func readPool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// readPassword reads a file that only root may read, and takes one newline off its end. Its errors say what they have to say
// without the word password before a blank or a colon: what follows there is masked where errors are shown.
func readPassword(file string) ([]byte, error) {
	wrong := func(err error) error {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err // the path is told already
		}
		return fmt.Errorf("the file %q, with which the store's user logs in: %w", file, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, wrong(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the file %q, with which the store's user logs in, can be read by others: chmod 600 %q", file, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, wrong(err)
	}
	return []byte(strings.TrimSuffix(string(b), "\n")), nil
}

// openPostgresStore reads from the server beside this node where there is one, so that replication brings what is new, and
// else from the master. Writes go to the master.
func (s *site) openPostgresStore(a postgresArguments) (store.Store, error) {
	c := store.PostgresConfig{Schema: text(a.Schema), Reader: text(a.User), Asks: resources.Requests, Name: "the environment's PostgreSQL"}
	master, known := s.masterAddress()
	remote := func(ctx context.Context) (*pgx.Conn, error) {
		if !known {
			return nil, errors.New("the environment has no db_master to write to")
		}
		return s.dialStore(ctx, a, master)
	}
	local := func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := s.server.Connect(ctx)
		if err != nil {
			return nil, err
		}
		return conn.Conn, nil
	}
	switch {
	case s.server == nil:
		c.Read, c.Write = remote, remote
	case s.node.Role == "db_replica":
		c.Read, c.Write = local, remote
	default:
		c.Read, c.Write, c.Others = local, local, s.otherServers(a)
	}
	return store.OpenPostgres(c)
}

// otherServers are those of the environment's other database nodes. Without a role to connect as there are none.
func (s *site) otherServers(a postgresArguments) []store.Server {
	var out []store.Server
	for _, n := range s.env.Nodes {
		if a.User == nil || !isDatabase(n.Role) || n.Name == s.node.Name {
			continue
		}
		out = append(out, store.Server{Address: n.Address, Connect: func(ctx context.Context) (*pgx.Conn, error) { return s.dialStore(ctx, a, n.Address) }})
	}
	return out
}

func (s *site) masterAddress() (netip.Addr, bool) {
	for _, n := range s.env.Nodes {
		if n.Role == "db_master" {
			return n.Address, true
		}
	}
	return netip.Addr{}, false
}

// dialStore connects to a server as the store's own role. Until this node knows the environment's authority the server
// is not verified: what comes from it is signed and sealed, and its password is given by SCRAM alone, which shows it to
// nobody.
func (s *site) dialStore(ctx context.Context, a postgresArguments, server netip.Addr) (*pgx.Conn, error) {
	user := text(a.User)
	if user == "" {
		return nil, fmt.Errorf("the store needs a role to connect to %s as: give its block user and password_file, and create the role there (createuser --pwprompt NAME)", server)
	}
	var password []byte
	if file := text(a.PasswordFile); file != "" {
		var err error
		if password, err = readPassword(file); err != nil {
			return nil, err
		}
	}
	database := text(a.Database)
	if database == "" {
		database = "postgres"
	}
	var roots *x509.CertPool
	if pool, err := readPool(path.Join(resources.DefaultAuthorityDirectory, "bundle.crt")); err == nil {
		roots = pool
	}
	port := 5432
	if s.env.PostgreSQL != nil {
		var o postgres.Override
		if diags := s.env.PostgreSQL.Decode(&o); !diags.HasErrors() && o.Port != 0 {
			port = o.Port
		}
	}
	return postgres.Dial(ctx, postgres.Remote{Address: server, Port: port, Database: database, User: user, Password: password, Roots: roots})
}

// publishedCache is the name of what the authority remembers of what it published.
const publishedCache = "published"

// rememberPublished keeps, after an apply, what the authority knows of the statements in the store. Without it the next
// run reads more, and that is all.
func (a *app) rememberPublished(s *site) {
	d := s.types.Delivery
	if d == nil || d.Published == nil || !d.Published.Changed {
		return
	}
	if err := s.engine.State.WriteCache(publishedCache, d.Published.Entries); err != nil {
		fmt.Fprintf(a.stderr, "converge: warning: what was published is not remembered, and the next run takes longer: %v\n", err)
	}
}

// closeStore ends the store's connections.
func (s *site) closeStore() {
	if d := s.types.Delivery; d != nil {
		if err := d.Store.Close(); err != nil {
			return // what was to be written is written
		}
	}
}
