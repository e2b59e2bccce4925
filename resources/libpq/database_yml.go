package libpq

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Database is one connection that a Rails application has by its database.yml.
type Database struct {
	Name     string // "production", or "production.primary" where an environment has several
	Replica  bool   // the application only reads there
	Settings Settings
	Notes    []string // what was left out, and why
}

// ParseDatabaseYML reads the connections of an environment of Rails ("production") from a database.yml called name. Anchors,
// merge keys, a url key and several databases are taken as Rails takes them. ERB is not run: a value that is needed and has
// <% in it is an error. No error repeats a value.
// https://guides.rubyonrails.org/configuring.html#configuring-a-database
func ParseDatabaseYML(name string, text []byte, environment string) ([]Database, error) {
	y := ymlFile{name: name, budget: ymlBudget}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, y.broken(text, err)
	}
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("%s: the file is empty", name)
	}
	all, err := y.mapping(document.Content[0], 0)
	if err != nil {
		return nil, err
	}
	own, there := all[environment]
	if !there {
		return nil, fmt.Errorf("%s: there is no environment %q in it: --rails-env names one of %s", name, environment, strings.Join(ymlEnvironments(all), ", "))
	}
	values, err := y.mapping(own, 0)
	if err != nil {
		return nil, err
	}
	return y.databases(environment, values)
}

// ymlBudget is how many keys are read of a file in all, aliases counted as often as they are used: a few lines of them can
// stand for billions.
const ymlBudget = 100_000

// A ymlFile is a database.yml that is being read.
type ymlFile struct {
	name   string
	budget int
}

func (y *ymlFile) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", y.name, n.Line) }

// broken is the error of a file that is no YAML. One with ERB in it mostly is none because of that.
func (y *ymlFile) broken(text []byte, err error) error {
	reason := strings.TrimPrefix(err.Error(), "yaml: ")
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if strings.HasPrefix(strings.TrimSpace(line), "<%") {
			return fmt.Errorf("%s:%d: the file has ERB in it, which is not run, and is no YAML with it (%s): give the connection by --url", y.name, number, reason)
		}
	}
	return fmt.Errorf("%s: it is no YAML: %s", y.name, reason)
}

// mapping reads the keys of a mapping as Ruby's reader does: in their order, a later one over an earlier one, be it from a
// merge key.
func (y *ymlFile) mapping(n *yaml.Node, depth int) (map[string]*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode || depth > 32 {
		return nil, fmt.Errorf("%s: keys with values are expected here", y.at(n))
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if y.budget--; y.budget < 0 {
			return nil, fmt.Errorf("%s: the file stands for too much: it has aliases of aliases", y.name)
		}
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag != "!!merge" {
			out[key.Value] = value
			continue
		}
		if err := y.merge(out, value, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// merge takes the keys of another mapping, or of several, of which the first counts most.
func (y *ymlFile) merge(into map[string]*yaml.Node, from *yaml.Node, depth int) error {
	sources := []*yaml.Node{from}
	if from.Kind == yaml.SequenceNode {
		sources = slices.Clone(from.Content)
		slices.Reverse(sources)
	}
	for _, source := range sources {
		values, err := y.mapping(source, depth+1)
		if err != nil {
			return err
		}
		for key, value := range values {
			into[key] = value
		}
	}
	return nil
}

// ymlEnvironments are the keys at the top that can be an environment, sorted.
func ymlEnvironments(all map[string]*yaml.Node) []string {
	var out []string
	for key, value := range all {
		if isMapping(value) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func isMapping(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode || n.Kind == yaml.AliasNode && n.Alias.Kind == yaml.MappingNode
}

// databases are the connections of an environment. One of which all values are mappings has several, each with its name.
func (y *ymlFile) databases(environment string, values map[string]*yaml.Node) ([]Database, error) {
	names := ymlEnvironments(values)
	if len(names) == 0 || len(names) < len(values) {
		d, err := y.database(environment, values)
		return []Database{d}, err
	}
	var out []Database
	var errs []error
	for _, name := range names {
		one, err := y.mapping(values[name], 0)
		if err != nil {
			return nil, err
		}
		d, err := y.database(environment+"."+name, one)
		switch {
		case errors.As(err, new(otherAdapter)):
			errs = append(errs, err)
		case err != nil:
			return nil, err
		default:
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// otherAdapter is the error of a database that is not PostgreSQL's.
type otherAdapter struct{ text string }

func (e otherAdapter) Error() string { return e.text }

// database reads one connection: Rails calls user username, and dbname database, and a url counts more than the keys beside
// it.
func (y *ymlFile) database(name string, values map[string]*yaml.Node) (Database, error) {
	d := Database{Name: name, Settings: Settings{}}
	if n := values["replica"]; n != nil {
		d.Replica = n.Value == "true"
	}
	for _, key := range ymlKeys(values) {
		if err := y.take(&d, key, values[key]); err != nil {
			return d, err
		}
	}
	if err := y.takeURL(&d, values["url"]); err != nil {
		return d, err
	}
	adapter := d.Settings["adapter"]
	delete(d.Settings, "adapter")
	if adapter != "" && !slices.Contains([]string{"postgresql", "postgres", "postgis"}, adapter) {
		return d, otherAdapter{fmt.Sprintf("%s: the adapter of %s is not postgresql", y.name, name)}
	}
	if err := d.Settings.check(); err != nil {
		return d, fmt.Errorf("%s: %s: %w", y.name, name, err)
	}
	return d, nil
}

// ymlKeys are the keys that Rails hands to libpq, sorted.
func ymlKeys(values map[string]*yaml.Node) []string {
	var out []string
	for key := range values {
		if key == "adapter" || ymlName(key) != "" {
			out = append(out, key)
		}
	}
	slices.Sort(out) // user before username, which counts more
	return out
}

// ymlName is libpq's name of a key; "" for one that is Rails' own.
func ymlName(key string) string {
	switch key {
	case "username":
		return "user"
	case "database":
		return "dbname"
	case "adapter":
		return key
	}
	if slices.Contains(known, key) {
		return key
	}
	return ""
}

func (y *ymlFile) take(d *Database, key string, n *yaml.Node) error {
	value, err := y.scalar(key, n)
	var erb erbError
	switch {
	case errors.As(err, &erb) && key == "password":
		d.Notes = append(d.Notes, fmt.Sprintf("%s: the password is ERB, which is not run: it is taken as not known", erb.place))
		return nil
	case errors.As(err, &erb) && !slices.Contains(ymlNeeded, ymlName(key)):
		return nil
	case err != nil:
		return err
	}
	if value != "" {
		d.Settings[ymlName(key)] = value
	}
	return nil
}

// ymlNeeded are the parameters that decide where the connection goes and what it shows.
var ymlNeeded = []string{"adapter", "host", "hostaddr", "port", "user", "dbname", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcertmode", "passfile", "service"}

// An erbError is a value that only Ruby knows.
type erbError struct{ place, key string }

func (e erbError) Error() string {
	return fmt.Sprintf("%s: %s is ERB (<%%), which is not run: write the value in its place, or give the connection by --url", e.place, e.key)
}

// scalar is the text of a value; "" for none.
func (y *ymlFile) scalar(key string, n *yaml.Node) (string, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", fmt.Errorf("%s: %s is not a single value", y.at(n), key)
	case n.Tag == "!!null":
		return "", nil
	case strings.Contains(n.Value, "<%"):
		return "", erbError{y.at(n), key}
	}
	return n.Value, nil
}

// takeURL lets the parts of a url key count more than the keys beside it.
func (y *ymlFile) takeURL(d *Database, n *yaml.Node) error {
	if n == nil {
		return nil
	}
	text, err := y.scalar("url", n)
	switch {
	case err != nil:
		return err
	case text == "" || strings.HasPrefix(text, "jdbc:") || strings.HasPrefix(text, "http:") || strings.HasPrefix(text, "https:"):
		return nil // Rails passes these over
	}
	scheme, rest, found := strings.Cut(text, "://")
	scheme = strings.Replace(scheme, "postgis", "postgres", 1)
	if !found || scheme != "postgres" && scheme != "postgresql" {
		return otherAdapter{fmt.Sprintf("%s: url of %s is none of PostgreSQL (postgres://USER@HOST/DATABASE)", y.at(n), d.Name)}
	}
	given, err := parseURI(rest)
	if err != nil {
		return fmt.Errorf("%s: url: %w", y.at(n), err)
	}
	d.Settings["adapter"] = "postgresql"
	for key, value := range given {
		if name := ymlName(key); name != "" {
			d.Settings[name] = value
		}
	}
	return nil
}
