package postgres

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"converge/fixtures/pgserver"
)

// plant makes a folder that stands for a machine.
func plant(t *testing.T, files tree) Root {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Root(root)
}

// dbServer is a server of the layout /db/postgresql.
func dbServer(version, conf string) tree {
	data := "/db/postgresql/" + version + "/data/"
	return tree{data + "PG_VERSION": version + "\n", data + "postgresql.conf": conf, data + "pg_hba.conf": ""}
}

func debianServer(version, cluster, conf string) tree {
	data, etc := "/var/lib/postgresql/"+version+"/"+cluster, "/etc/postgresql/"+version+"/"+cluster
	return tree{
		data + "/PG_VERSION":                               version + "\n",
		etc + "/postgresql.conf":                           "data_directory = '" + data + "'\nhba_file = '" + etc + "/pg_hba.conf'\nident_file = '" + etc + "/pg_ident.conf'\n" + conf,
		etc + "/pg_hba.conf":                               "",
		"/usr/lib/postgresql/" + version + "/bin/postgres": "",
	}
}

func join(trees ...tree) tree {
	all := tree{}
	for _, t := range trees {
		for name, content := range t {
			all[name] = content
		}
	}
	return all
}

func TestDiscover(t *testing.T) {
	for _, c := range []struct {
		name  string
		files tree
		given Override
		want  Server
		err   string
	}{
		{
			name: "db layout", files: dbServer("15", "port = 5433\nunix_socket_directories = '/run/pg, /tmp'\n"),
			want: Server{
				Major: 15, Version: "15", Layout: LayoutDB, DataDirectory: "/db/postgresql/15/data", ConfigFile: "/db/postgresql/15/data/postgresql.conf",
				HBAFile: "/db/postgresql/15/data/pg_hba.conf", IdentFile: "/db/postgresql/15/data/pg_ident.conf", Port: 5433, SocketDirectory: "/run/pg",
				SSLDirectory: "/db/postgresql/15/ssl", CustomHBAFile: "/db/postgresql/15/custom_pg_hba.conf", KeygenDirectory: "/db/postgresql/keygen", OldKeysDirectory: "/db/old_keys",
			},
		},
		{
			name: "Debian", files: join(debianServer("15", "main", "include_dir = 'conf.d'\n"), tree{"/etc/postgresql/15/main/conf.d/port.conf": "port = 6000", "/var/run/postgresql/x": ""}),
			want: Server{
				Major: 15, Version: "15", Layout: LayoutDebian, DataDirectory: "/var/lib/postgresql/15/main", ConfigFile: "/etc/postgresql/15/main/postgresql.conf",
				HBAFile: "/etc/postgresql/15/main/pg_hba.conf", IdentFile: "/etc/postgresql/15/main/pg_ident.conf", Port: 6000, SocketDirectory: "/var/run/postgresql",
				BinDirectory: "/usr/lib/postgresql/15/bin", Cluster: "15/main", Unit: "postgresql@15-main.service",
				SSLDirectory: "/etc/postgresql/15/main/ssl", CustomHBAFile: "/etc/postgresql/15/main/custom_pg_hba.conf",
			},
		},
		{
			name: "the db layout goes before Debian's", files: join(debianServer("15", "main", ""), dbServer("14", "")),
			want: Server{
				Major: 14, Version: "14", Layout: LayoutDB, DataDirectory: "/db/postgresql/14/data", ConfigFile: "/db/postgresql/14/data/postgresql.conf",
				HBAFile: "/db/postgresql/14/data/pg_hba.conf", IdentFile: "/db/postgresql/14/data/pg_ident.conf", Port: 5432, SocketDirectory: "/tmp",
				SSLDirectory: "/db/postgresql/14/ssl", CustomHBAFile: "/db/postgresql/14/custom_pg_hba.conf", KeygenDirectory: "/db/postgresql/keygen", OldKeysDirectory: "/db/old_keys",
			},
		},
		{
			name: "Debian's configuration for data under /db", files: tree{
				"/db/postgresql/15/data/PG_VERSION":       "15\n",
				"/etc/postgresql/15/main/postgresql.conf": "data_directory = '/db/postgresql/15/data'\nhba_file = '/etc/postgresql/15/main/pg_hba.conf'\n",
			},
			want: Server{
				Major: 15, Version: "15", Layout: LayoutDB, DataDirectory: "/db/postgresql/15/data", ConfigFile: "/etc/postgresql/15/main/postgresql.conf",
				HBAFile: "/etc/postgresql/15/main/pg_hba.conf", IdentFile: "/etc/postgresql/15/main/pg_ident.conf", Port: 5432, SocketDirectory: "/tmp",
				Cluster: "15/main", Unit: "postgresql@15-main.service",
				SSLDirectory: "/db/postgresql/15/ssl", CustomHBAFile: "/db/postgresql/15/custom_pg_hba.conf", KeygenDirectory: "/db/postgresql/keygen", OldKeysDirectory: "/db/old_keys",
			},
		},
		{
			name: "a given data directory", given: Override{DataDirectory: "/srv/pg/data/", Port: 7000, SocketDirectory: "/srv/pg/run", BinDirectory: "/opt/pg/bin", Unit: "pg.service", AdminUser: "root_role"},
			files: tree{"/srv/pg/data/PG_VERSION": "18\n", "/srv/pg/data/postgresql.conf": "hba_file = 'sub/hba'\n"},
			want: Server{
				Major: 18, Version: "18", Layout: LayoutGiven, DataDirectory: "/srv/pg/data", ConfigFile: "/srv/pg/data/postgresql.conf",
				HBAFile: "/srv/pg/data/sub/hba", IdentFile: "/srv/pg/data/pg_ident.conf", Port: 7000, SocketDirectory: "/srv/pg/run", BinDirectory: "/opt/pg/bin",
				Unit: "pg.service", AdminUser: "root_role", SSLDirectory: "/srv/pg/ssl", CustomHBAFile: "/srv/pg/custom_pg_hba.conf",
			},
		},
		{
			name: "a given data directory of a known layout", given: Override{DataDirectory: "/var/lib/postgresql/14/main"}, files: join(debianServer("15", "main", ""), debianServer("14", "main", "")),
			want: Server{
				Major: 14, Version: "14", Layout: LayoutDebian, DataDirectory: "/var/lib/postgresql/14/main", ConfigFile: "/etc/postgresql/14/main/postgresql.conf",
				HBAFile: "/etc/postgresql/14/main/pg_hba.conf", IdentFile: "/etc/postgresql/14/main/pg_ident.conf", Port: 5432, SocketDirectory: "/tmp",
				BinDirectory: "/usr/lib/postgresql/14/bin", Cluster: "14/main", Unit: "postgresql@14-main.service",
				SSLDirectory: "/etc/postgresql/14/main/ssl", CustomHBAFile: "/etc/postgresql/14/main/custom_pg_hba.conf",
			},
		},
		{
			name: "a given configuration, and the options of the last start", given: Override{ConfigFile: "/etc/pg.conf"},
			files: tree{"/etc/pg.conf": "data_directory = '/data/pg'\nport = 1\nbroken line here\n", "/data/pg/PG_VERSION": "16\n",
				"/data/pg/postmaster.opts": `/opt/pg16/bin/postgres "-D" "/data/pg" "-c" "config_file=/etc/pg.conf" "-p" "2" "--unix-socket-directories=/s, /t"` + "\n"},
			want: Server{
				Major: 16, Version: "16", Layout: LayoutGiven, DataDirectory: "/data/pg", ConfigFile: "/etc/pg.conf", HBAFile: "/etc/pg_hba.conf", IdentFile: "/etc/pg_ident.conf",
				Port: 2, SocketDirectory: "/s", BinDirectory: "/opt/pg16/bin", SSLDirectory: "/data/ssl", CustomHBAFile: "/etc/custom_pg_hba.conf",
			},
		},
		{
			name: "the cluster picks", given: Override{Cluster: "second"}, files: join(debianServer("15", "main", ""), debianServer("15", "second", "port = 5434")),
			want: Server{
				Major: 15, Version: "15", Layout: LayoutDebian, DataDirectory: "/var/lib/postgresql/15/second", ConfigFile: "/etc/postgresql/15/second/postgresql.conf",
				HBAFile: "/etc/postgresql/15/second/pg_hba.conf", IdentFile: "/etc/postgresql/15/second/pg_ident.conf", Port: 5434, SocketDirectory: "/tmp",
				BinDirectory: "/usr/lib/postgresql/15/bin", Cluster: "15/second", Unit: "postgresql@15-second.service",
				SSLDirectory: "/etc/postgresql/15/second/ssl", CustomHBAFile: "/etc/postgresql/15/second/custom_pg_hba.conf",
			},
		},
		{
			name: "several", files: join(dbServer("14", ""), dbServer("15", "")),
			err: "there are 2 PostgreSQL servers here and none of them runs: pick one in the environment file with one of\n" +
				"    postgresql { data_directory = \"/db/postgresql/14/data\" }\n    postgresql { data_directory = \"/db/postgresql/15/data\" }",
		},
		{
			name: "none", files: tree{"/etc/passwd": ""},
			err: "no PostgreSQL server was found: looked at /db/postgresql/*/data, /etc/postgresql/*/* and the running processes; say where it is in the environment file: postgresql { data_directory = \"...\" }",
		},
		{
			name: "none that fits", given: Override{Version: 12}, files: dbServer("15", ""),
			err: "no PostgreSQL server was found: none of those here is what the postgresql block asks for (version, cluster, port): /db/postgresql/15/data; say where it is in the environment file: postgresql { data_directory = \"...\" }",
		},
		{name: "too old", files: dbServer("9.6", ""), err: "the server in /db/postgresql/9.6/data is PostgreSQL 9.6: this program knows 10 to 18"},
		{
			name: "a wrong data directory", given: Override{DataDirectory: "/nowhere"}, files: dbServer("15", ""),
			err: `postgresql block: data_directory = "/nowhere": there is no PG_VERSION of a known server in it; found here: /db/postgresql/15/data`,
		},
		{name: "a relative path", given: Override{HBAFile: "pg_hba.conf"}, err: `postgresql block: hba_file = "pg_hba.conf" is not an absolute path`},
		{name: "a wrong port", given: Override{Port: 70000}, err: "postgresql block: port = 70000 is not a port (1 to 65535)"},
		{
			name: "no configuration", files: tree{"/db/postgresql/15/data/PG_VERSION": "15\n"},
			err: "PostgreSQL 15 in /db/postgresql/15/data has no configuration at /db/postgresql/15/data/postgresql.conf: say where it is in the environment file: postgresql { config_file = \"...\" }",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Discover(plant(t, c.files), c.given)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("got %v\nwant %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want.AdminUser == "" {
				c.want.AdminUser = "postgres"
			}
			if got.Owner.UID != os.Getuid() {
				t.Errorf("owner %+v", got.Owner)
			}
			got.Owner = Owner{}
			if *got != c.want {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

// Of two servers the one that runs is taken; a running server is found with no layout at all.
func TestDiscoverRunning(t *testing.T) {
	ps := pgserver.Start(t, pgserver.Options{Major: 15})
	found := false
	for _, dir := range postmasterDirectories() {
		found = found || dir == ps.DataDirectory
	}
	if !found {
		t.Errorf("%s is not among the running servers: %v", ps.DataDirectory, postmasterDirectories())
	}
	down := pgserver.Start(t, pgserver.Options{Major: 15, Down: true})
	d := discovery{files: Root("/")}
	set := []candidate{{data: down.DataDirectory, config: down.ConfigFile}, {data: ps.DataDirectory, config: ps.ConfigFile}}
	s, err := d.pick(set)
	if err != nil {
		t.Fatal(err)
	}
	if s.DataDirectory != ps.DataDirectory || s.Port != ps.Port || s.SocketDirectory != ps.SocketDirectory || s.BinDirectory != ps.Bin || s.Owner.Name != ps.User {
		t.Errorf("got %+v", s)
	}
	ps.Stop()
	if _, err := d.pick(set); err == nil || !strings.Contains(err.Error(), "none of them runs") {
		t.Errorf("got %v", err)
	}
	// The port of a running server is the one that it has, not the one that its file says by now.
	ps.Start()
	ps.AppendConf("port = 1")
	if s, err := Discover(Root("/"), Override{DataDirectory: ps.DataDirectory}); err != nil || s.Port != ps.Port {
		t.Errorf("got %+v %v", s, err)
	}
}

// Root reads files and nothing else: a FIFO does not make it wait.
func TestRoot(t *testing.T) {
	root := plant(t, tree{"/a/b": "text", "/a/c": ""})
	if b, err := root.ReadFile("/a/b"); err != nil || string(b) != "text" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := root.ReadFile("/a"); err == nil {
		t.Error("a directory was read")
	}
	if _, err := root.ReadFile("/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if names, err := root.ReadDir("/a"); err != nil || strings.Join(names, " ") != "b c" {
		t.Errorf("%v %v", names, err)
	}
	fifo := path.Join(string(root), "fifo")
	if err := mkfifo(fifo); err != nil {
		t.Fatal(err)
	}
	if _, err := root.ReadFile("/fifo"); err == nil {
		t.Error("a FIFO was read")
	}
}
