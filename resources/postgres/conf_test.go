package postgres

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"converge/fixtures/pgserver"
)

// A tree is a machine's files in a map. Paths that end in / are directories.
type tree map[string]string

func (t tree) ReadFile(p string) ([]byte, error) {
	if c, ok := t[p]; ok {
		return []byte(c), nil
	}
	return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
}

func (t tree) Stat(p string) (FileInfo, error) {
	if _, ok := t[p]; ok {
		return FileInfo{Mode: 0o600, UID: 101, GID: 104}, nil
	}
	for name := range t {
		if within(name, p) || p == "/" {
			return FileInfo{Dir: true, Mode: 0o755, UID: 101, GID: 104}, nil
		}
	}
	return FileInfo{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
}

func (t tree) ReadDir(p string) ([]string, error) {
	seen := map[string]bool{}
	for name := range t {
		if within(name, p) {
			first, _, _ := strings.Cut(strings.TrimPrefix(name, p+"/"), "/")
			seen[first] = first != ""
		}
	}
	if len(seen) == 0 {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

func TestParseConf(t *testing.T) {
	for _, c := range []struct {
		line, name, value, problem string
	}{
		{line: "port = 5433", name: "port", value: "5433"},
		{line: "port=5433#x", name: "port", value: "5433"},
		{line: "port 5433", name: "port", value: "5433"},
		{line: "  Port\t=\t5433 \t# (change requires restart)\r", name: "port", value: "5433"},
		{line: "ssl on", name: "ssl", value: "on"},
		{line: "ssl_ca_file = ''", name: "ssl_ca_file"},
		{line: "ssl_ca_file = 'a''b'", name: "ssl_ca_file", value: "a'b"},
		{line: `ssl_ca_file = 'a\'b\\c\101\n'`, name: "ssl_ca_file", value: "a'b\\cA\n"},
		{line: `ssl_ca_file = 'a\'`, problem: "the value of ssl_ca_file cannot be read: put it in single quotes"},
		{line: "ssl_ca_file = server.crt", problem: "the value of ssl_ca_file cannot be read: put it in single quotes"},
		{line: "ssl_ca_file = /etc/ssl/x.crt", problem: "the value of ssl_ca_file cannot be read: put it in single quotes"},
		{line: "ssl_ca_file = etc/ssl/x-1.crt", name: "ssl_ca_file", value: "etc/ssl/x-1.crt"},
		{line: "work_mem = 4MB", name: "work_mem", value: "4MB"},
		{line: "work_mem = 4 MB", problem: "something follows the value of work_mem"},
		{line: "geqo_selection_bias = 1.5e3", name: "geqo_selection_bias", value: "1.5e3"},
		{line: "geqo_selection_bias = -.5", name: "geqo_selection_bias", value: "-.5"},
		{line: "unix_socket_permissions = 0777", name: "unix_socket_permissions", value: "0777"},
		{line: "x.y = 0x1F", name: "x.y", value: "0x1F"},
		{line: "port", problem: "port has no value"},
		{line: "port =", problem: "port has no value"},
		{line: "port = = 5", problem: "the value of port cannot be read: put it in single quotes"},
		{line: "= 5", problem: "a setting's name was expected"},
		{line: "5 = 5", problem: "a setting's name was expected"},
		{line: "# port = 5433"},
		{line: ""},
		{line: "primary_conninfo = 'password=secret' 'x'", problem: "something follows the value of primary_conninfo"},
	} {
		files := tree{"/d/postgresql.conf": "\n" + c.line + "\nlast = 1"}
		conf, err := ParseConf(files, "/d/postgresql.conf", "")
		if err != nil {
			t.Fatal(err)
		}
		if last, ok := conf.Get("LAST"); !ok || last.Line != 3 || last.File != "/d/postgresql.conf" {
			t.Errorf("%q: the line after it is lost: %+v", c.line, last)
		}
		if c.problem != "" {
			if len(conf.Errors) != 1 || conf.Errors[0].Problem != c.problem || conf.Errors[0].Line != 2 {
				t.Errorf("%q: got %v, want line 2: %s", c.line, conf.Errors, c.problem)
			}
			continue
		}
		if err := conf.Err(); err != nil {
			t.Errorf("%q: %v", c.line, err)
		}
		if s, ok := conf.Get(c.name); ok != (c.name != "") || s.Value != c.value {
			t.Errorf("%q: got %q (%v), want %q", c.line, s.Value, ok, c.value)
		}
	}
}

func TestParseConfIncludes(t *testing.T) {
	files := tree{
		"/etc/pg/postgresql.conf":       "data_directory = '/data'\nport = 1\ninclude 'a.conf'\ninclude_if_exists = 'missing.conf'\ninclude_dir = 'conf.d'\n",
		"/etc/pg/a.conf":                "port = 2\nssl = off\n",
		"/etc/pg/conf.d/20.conf":        "port = 4\ninclude '../b.conf'\n",
		"/etc/pg/conf.d/10.conf":        "port = 3\n",
		"/etc/pg/conf.d/.hidden.conf":   "port = 9\n",
		"/etc/pg/conf.d/30.conf.bak":    "port = 9\n",
		"/etc/pg/conf.d/sub.conf/x":     "port = 9\n",
		"/etc/pg/b.conf":                "work_mem = '1MB'\n",
		"/data/postgresql.auto.conf":    "# Do not edit\nssl = 'on'\n",
		"/etc/pg/postgresql.auto.conf":  "port = 9\n",
		"/wrong/postgresql.conf":        "include 'missing.conf'\ninclude_dir 'missing'\ninclude ''\ninclude 'postgresql.conf'\nport = 7\n",
		"/deep/postgresql.conf":         "include 'one.conf'\n",
		"/deep/one.conf":                "include 'two.conf'\n",
		"/deep/two.conf":                "include 'one.conf'\n",
		"/deep/sub/unrelated.conf":      "port = 1\n",
		"/data/unrelated/elsewhere.txt": "",
	}
	conf, err := ParseConf(files, "/etc/pg/postgresql.conf", "")
	if err != nil || conf.Err() != nil {
		t.Fatal(err, conf.Err())
	}
	for name, want := range map[string]Setting{
		"port":     {"port", "4", "/etc/pg/conf.d/20.conf", 1},
		"work_mem": {"work_mem", "1MB", "/etc/pg/b.conf", 1},
		"ssl":      {"ssl", "on", "/data/postgresql.auto.conf", 2},
	} {
		if got, _ := conf.Get(name); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	conf, err = ParseConf(files, "/wrong/postgresql.conf", "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range conf.Errors {
		got = append(got, e.Error())
	}
	want := []string{
		"/wrong/postgresql.conf line 1: cannot read /wrong/missing.conf: file does not exist",
		"/wrong/postgresql.conf line 2: cannot read the directory /wrong/missing: file does not exist",
		"/wrong/postgresql.conf line 3: empty file name in include",
		"/wrong/postgresql.conf line 4: the file includes itself",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if conf.Value("port", "") != "7" {
		t.Error("what follows the errors is lost")
	}
	conf, err = ParseConf(files, "/deep/postgresql.conf", "")
	if err != nil || len(conf.Errors) != 1 || !strings.Contains(conf.Errors[0].Problem, "levels deep") {
		t.Errorf("a circle of includes: %v %v", err, conf.Errors)
	}
	if _, err := ParseConf(files, "/none/postgresql.conf", ""); err == nil {
		t.Error("a missing file is no error")
	}
}

// A real server's reading of the files, by pg_file_settings.
type fileSetting struct {
	File  string
	Line  int
	Name  string
	Value string
	Error string
}

func serverReads(t *testing.T, c *Conn) []fileSetting {
	t.Helper()
	rows, err := c.Query(t.Context(), `SELECT coalesce(sourcefile, ''), coalesce(sourceline, 0), coalesce(name, ''), coalesce(setting, ''), coalesce(error, '')
		FROM pg_file_settings ORDER BY seqno`)
	if err != nil {
		t.Fatal(err)
	}
	var out []fileSetting
	for rows.Next() {
		var f fileSetting
		if err := rows.Scan(&f.File, &f.Line, &f.Name, &f.Value, &f.Error); err != nil {
			t.Fatal(err)
		}
		if f.Error != "syntax error" {
			f.Error = ""
		} else {
			f.Name, f.Value = "", ""
		}
		out = append(out, f)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return out
}

func parserReads(conf *Conf) []fileSetting {
	var out []fileSetting
	for _, s := range conf.Settings {
		out = append(out, fileSetting{s.File, s.Line, s.Name, s.Value, ""})
	}
	for _, e := range conf.Errors {
		out = append(out, fileSetting{e.File, e.Line, "", "", "syntax error"})
	}
	return out
}

// compareReadings writes texts into files that the server includes and compares what the two read. The view shows the
// first error of each file only.
func compareReadings(t *testing.T, ps *pgserver.Server, s *Server, c *Conn, texts []string) {
	t.Helper()
	var includes strings.Builder
	byFile := map[string][]string{}
	for i, text := range texts {
		file := path.Join(ps.DataDirectory, fmt.Sprintf("odd%d", i))
		// An error in a last line without an end is reported by the server for the line before it.
		ps.WriteFile(file, []byte(text+"\n"), 0o600)
		fmt.Fprintf(&includes, "include '%s'\n", path.Base(file))
		byFile[file] = strings.Split(text, "\n")
	}
	ps.WriteFile(path.Join(ps.DataDirectory, "odd.conf"), []byte(includes.String()), 0o600)
	conf, err := s.Conf(Root("/"))
	if err != nil {
		t.Fatal(err)
	}
	firstError := map[string]int{}
	for _, e := range conf.Errors {
		if n, ok := firstError[e.File]; !ok || e.Line < n {
			firstError[e.File] = e.Line
		}
	}
	read := func(all []fileSetting) map[string]bool {
		out := map[string]bool{}
		for _, f := range all {
			lines, ours := byFile[f.File]
			if n, ok := firstError[f.File]; !ours || ok && f.Line > n {
				continue
			}
			text := "(no such line)"
			if f.Line >= 1 && f.Line <= len(lines) {
				text = lines[f.Line-1]
			}
			out[fmt.Sprintf("%s line %d %q: %q = %q %s", path.Base(f.File), f.Line, text, f.Name, f.Value, f.Error)] = true
		}
		return out
	}
	want, got := read(serverReads(t, c)), read(parserReads(conf))
	for w := range want {
		if !got[w] {
			t.Errorf("the server reads, and this parser does not: %s", w)
		}
	}
	for g := range got {
		if !want[g] {
			t.Errorf("this parser reads, and the server does not: %s", g)
		}
	}
}

var nastyLines = []string{
	`a.b = 'x'`, `a.b 'x'`, `a.b='x'`, `a.b=x#c`, `a.b = x # c`, `  a.b	=	x	`, "a.b = x\r", `a.b = 'it''s'`, `a.b = 'it\'s'`, `a.b = 'a\\b'`,
	`a.b = 'a\nb'`, `a.b = 'a\101b'`, `a.b = 'a\1b'`, `a.b = 'a\18b'`, `a.b = 'a\777b'`, `a.b = 'a\qb'`, `a.b = '# no comment'`, `a.b = ''`,
	`a.b = ''''`, `a.b = '''`, `a.b = 'x`, `a.b = x'`, `a.b = 'x' 'y'`, `a.b = 'x'y`, `a.b = x y`, `a.b = 1 MB`, `a.b = 1MB`, `a.b = 1.5MB`, `a.b = 1.5`,
	`a.b = .5`, `a.b = 5.`, `a.b = .`, `a.b = 1e5`, `a.b = 1.e5`, `a.b = 1.0e+5`, `a.b = 1.0e`, `a.b = -1`, `a.b = +1`, `a.b = --1`, `a.b = 0x1F`, `a.b = 0xZZ`, `a.b = 0x`,
	`a.b = 10min`, `a.b = 10 min`, `a.b = x-y`, `a.b = x/y:z.w`, `a.b = /x`, `a.b = x,y`, `a.b = x.y`, `a.b = x.1`, `a.b = _x`, `a.b = $x`, `a.b = "x"`, `a.b = 10.0.0.1`,
	`a.b == x`, `a.b = = x`, `a.b =`, `a.b`, `= x`, `1a.b = x`, `.b = x`, `a. = x`, `a.b.c = x`, `A.B = x`, `é.b = ü`, `a.b = ü-ö`, `a-b = x`, `work_mem = 4MB`, `WORK_MEM = '8MB'`,
	`#a.b = x`, ``, `   `, `;`, `a.b = x;`, `a.b = true`, `a.b = on off`, "a.b = \x0bx", "\x0ca.b = x", `a.b = 'x\`, `a.b = 'ends \`, `y'`, `a.b = 1_000`, `a.b = 1__`, `a.b:c = x`, `a.b = x\`, `a.b = x..y`, `a.b = x.y.z`,
	`a.b = 08`, `a.b = 1.2.3`, `a.b = 1x2`, `a.b = 'tab	inside'`, `a.b = 1e`, `include = x y`, `include_dir`,
}

// The parser reads what the server reads: line by line, the same names, values and errors, in every version.
func TestConfAgainstServers(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		ps.AppendConf("include_if_exists = 'odd.conf'")
		s := found(t, ps)
		c := connect(t, s)
		texts := append(slices.Clone(nastyLines), strings.Join(nastyLines[:12], "\n"))
		random := rand.New(rand.NewPCG(1, uint64(major)))
		pieces := []string{"a.b", "a", "=", " ", "\t", "'", "''", `\`, "#", "x", "1", ".", "-", "+", "e", "0x", "MB", "/", ":", "ü", ",", "\r", `\'`, `"`, "_", "'x'"}
		for range 400 {
			var b strings.Builder
			for range 1 + random.IntN(4) {
				b.WriteString([]string{"a.b = ", "c.d", "", "a.b "}[random.IntN(4)])
				for range random.IntN(8) {
					b.WriteString(pieces[random.IntN(len(pieces))])
				}
				b.WriteString("\n")
			}
			texts = append(texts, b.String())
		}
		compareReadings(t, ps, s, c, texts)
	})
}

// A setting that is written with its value quoted is read back as it was, whatever the text.
func FuzzParseConf(f *testing.F) {
	for _, line := range nastyLines {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		conf, err := ParseConf(tree{"/d/postgresql.conf": text}, "/d/postgresql.conf", "")
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, s := range conf.Settings {
			b.WriteString(quoteSetting(s.Name, s.Value))
		}
		again, err := ParseConf(tree{"/d/postgresql.conf": b.String()}, "/d/postgresql.conf", "")
		if err != nil || again.Err() != nil || len(again.Settings) != len(conf.Settings) {
			t.Fatalf("%q: %v %v", b.String(), err, again.Err())
		}
		for i, s := range again.Settings {
			if s.Name != conf.Settings[i].Name || s.Value != conf.Settings[i].Value {
				t.Errorf("%q became %q", conf.Settings[i].Value, s.Value)
			}
		}
	})
}
