package recipe

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// An Environment is the site: its nodes, its users, and what its recipes are given. Every node reads the same file.
type Environment struct {
	Name       string
	AppUser    string // OS user on the app hosts and PostgreSQL role
	AdminUser  string
	Nodes      []Node         // in declared order; empty when the file names none: then a run's node is its host
	CIDRs      []netip.Prefix // the networks of its nodes: as given, else each node's address alone
	Variables  map[string]Given
	PostgreSQL *Section  // nil when left out
	Store      *Section  // nil when left out
	Range      hcl.Range // of the header; the zero range without a file
	Files      map[string]*hcl.File

	aside   []nodeArguments // while it is read: the nodes that were set aside, in so many runs
	runs    int
	misread bool // they stand where HCL reads no blocks

	once  sync.Once
	nodes cty.Value // what expressions see of Nodes
}

// A Given is the value of a variable as the environment file gives it.
type Given struct {
	Value     cty.Value
	Range     hcl.Range // of the value
	NameRange hcl.Range
}

// A Section is a block of the environment file that belongs to another package, kept as it stands.
type Section struct {
	Kind  string // the label: "dir", "postgres" or "etcd" for a store; "" for postgresql
	Body  hcl.Body
	Range hcl.Range // of the header

	body *body
	what string
}

// A Node is one machine of an environment.
type Node struct {
	Name    string
	Role    string     // one of Roles
	Address netip.Addr // the zero Addr when it is not known
	Names   []string   // further host names
	HostKey string     // "ssh-ed25519 AAAA..."; "" when it is not known
	Range   hcl.Range  // of the header
}

// The names used where the environment does not say.
const (
	DefaultAppUser   = "deploy"
	DefaultAdminUser = "postgres"
)

// Stores are the kinds of store block.
var Stores = []string{"dir", "postgres", "etcd"}

type environmentArguments struct {
	AppUser     *string         `hcl:"app_user"`
	AppUserAt   hcl.Range       `hcl:"app_user,attr_value_range"`
	AdminUser   *string         `hcl:"admin_user"`
	AdminUserAt hcl.Range       `hcl:"admin_user,attr_value_range"`
	CIDRs       []string        `hcl:"cidrs,optional"`
	CIDRsAt     hcl.Range       `hcl:"cidrs,attr_value_range"`
	Nodes       []nodeArguments `hcl:"node,block"`
}

type nodeArguments struct {
	Name      string    `hcl:"name,label"`
	NameAt    hcl.Range `hcl:"name,label_range"`
	Header    hcl.Range `hcl:",def_range"`
	Role      string    `hcl:"role"`
	RoleAt    hcl.Range `hcl:"role,attr_value_range"`
	Address   string    `hcl:"address"`
	AddressAt hcl.Range `hcl:"address,attr_value_range"`
	Names     []string  `hcl:"names,optional"`
	NamesAt   hcl.Range `hcl:"names,attr_value_range"`
	HostKey   string    `hcl:"host_key,optional"`
	HostKeyAt hcl.Range `hcl:"host_key,attr_value_range"`
}

var environmentShape = shapeOf(reflect.TypeFor[environmentArguments]())

// ParseEnvironment reads an environment file. The environment is never nil: its Files serve to print the diagnostics,
// which are sorted and hold every mistake found. With errors the rest of it must not be used.
func ParseEnvironment(source Source) (*Environment, hcl.Diagnostics) {
	source.environment = true
	if rest, nodes, runs := setAside(source.Name, source.Bytes); runs > 0 && len(source.Bytes) <= MaxEnvironmentBytes {
		source := source
		source.Bytes = rest
		env, diags := parseEnvironment(source, nodes, runs)
		if len(diags) == 0 && !env.misread {
			return env, nil
		}
	}
	return parseEnvironment(source, nil, 0)
}

func parseEnvironment(source Source, aside []nodeArguments, runs int) (*Environment, hcl.Diagnostics) {
	env := &Environment{AppUser: DefaultAppUser, AdminUser: DefaultAdminUser, Variables: map[string]Given{}, aside: aside, runs: runs}
	file, diags := parse(source)
	env.Files = map[string]*hcl.File{source.Name: file}
	if !diags.HasErrors() {
		diags = append(diags, env.readFile(file.Body.(*hclsyntax.Body), source.Name)...)
	}
	env.aside = nil
	return env, Sorted(diags)
}

func (env *Environment) readFile(file *hclsyntax.Body, name string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, a := range file.Attributes {
		diags = append(diags, mistake(a.NameRange, "Argument outside a block", `%q stands outside any block: move it into environment "NAME" { ... }.`, a.Name))
	}
	var first *hclsyntax.Block
	for _, block := range file.Blocks {
		switch {
		case block.Type != "environment":
			diags = append(diags, mistake(block.TypeRange, "Unknown kind of block", `An environment file has one block environment "NAME" { ... }, and recipes are in files of their own. There is no %q here.%s`, block.Type, didYouMean(block.Type, []string{"environment"})))
		case first != nil:
			diags = append(diags, mistake(block.DefRange(), "Duplicate environment", "One file describes one environment, and the first one is at %s. Put this one into a file of its own.", at(first.DefRange())))
		default:
			first = block
		}
	}
	if first == nil {
		if !diags.HasErrors() {
			top := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
			diags = append(diags, mistake(top, "Missing environment", `The file describes no environment: write environment "NAME" { ... }.`))
		}
		return diags
	}
	return append(diags, env.readBlock(first)...)
}

func (env *Environment) readBlock(block *hclsyntax.Block) hcl.Diagnostics {
	name, diags := label(block)
	env.Name, env.Range = name, block.DefRange()
	owner := "environment " + name
	env.misread = env.runs > 0 && !withoutMarkers(block.Body, env.runs)
	all := readBody(block.Body)
	diags = append(diags, env.takeSections(all, block.Body)...)
	diags = append(diags, env.takeVariables(all, owner)...)
	shaped := environmentShape.check(all, owner, []string{"variables"})
	diags = append(diags, shaped...)
	var arguments environmentArguments
	diags = append(diags, decodeConstants(all, environmentShape, owner, &arguments, shaped.HasErrors())...)
	arguments.Nodes = inOrder(arguments.Nodes, env.aside)
	if !diags.HasErrors() || len(arguments.Nodes) > 0 {
		diags = append(diags, env.fill(&arguments)...)
	}
	return diags
}

// takeSections moves the blocks that other packages decode out of the body.
func (env *Environment) takeSections(all *body, from *hclsyntax.Body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	var rest []innerBlock
	for i, inner := range all.blocks {
		section := &Section{Body: from.Blocks[i].Body, Range: inner.header, body: inner.body, what: inner.kind}
		switch inner.kind {
		case "postgresql":
			if len(inner.labels) > 0 {
				diags = append(diags, mistake(inner.header, "Wrong number of names", "A block postgresql has no name: postgresql { ... }."))
			}
			diags = append(diags, takeSection(&env.PostgreSQL, section)...)
		case "store":
			if len(inner.labels) != 1 || !slices.Contains(Stores, inner.labels[0]) {
				diags = append(diags, mistake(inner.header, "Unknown store", `A store has one of these kinds as its name: %s. Write store "dir" { ... }.%s`, choicesInOrder(Stores), didYouMean(strings.Join(inner.labels, " "), Stores)))
				continue
			}
			section.Kind = inner.labels[0]
			section.what = "store " + section.Kind
			diags = append(diags, takeSection(&env.Store, section)...)
		default:
			rest = append(rest, inner)
		}
	}
	all.blocks = rest
	return diags
}

func takeSection(place **Section, section *Section) hcl.Diagnostics {
	if *place != nil {
		return hcl.Diagnostics{mistake(section.Range, "Duplicate block", "An environment has one block of this kind, and the first one is at %s. Remove one of them.", at((*place).Range))}
	}
	*place = section
	return nil
}

// Decode fills a struct with gohcl's tags from the section. Its messages are those of the rest of the file.
func (s *Section) Decode(target any) hcl.Diagnostics {
	want := shapeOf(reflect.TypeOf(target))
	diags := want.check(s.body, s.what, nil)
	return Sorted(append(diags, decodeConstants(s.body, want, s.what, target, diags.HasErrors())...))
}

// decodeConstants evaluates a body that can use functions and no names, and decodes it when it has no mistakes.
func decodeConstants(b *body, s shape, owner string, target any, broken bool) hcl.Diagnostics {
	e := &evaluation{}
	e.reportNames(b)
	f := found{ok: true}
	content := e.fill(b, s, owner, nil, nil, &f)
	if f.ok && !broken && !e.diags.HasErrors() {
		e.report(decode(content, s, owner, target)...)
	}
	return e.diags
}

func (e *evaluation) reportNames(b *body) {
	for _, u := range usesOf(b, nil) {
		u.wrong = true
		e.report(mistake(u.place(), "No names here", "The environment file is read before any name has a value: write the value out."))
	}
}

// takeVariables reads variables = { NAME = VALUE }, each with its place.
func (env *Environment) takeVariables(all *body, owner string) hcl.Diagnostics {
	a, given := all.find("variables")
	if !given {
		return nil
	}
	all.arguments = slices.DeleteFunc(slices.Clone(all.arguments), func(a argument) bool { return a.name == "variables" })
	pairs, diags := hcl.ExprMap(a.expr.Expression)
	if diags.HasErrors() {
		return hcl.Diagnostics{mistake(a.expr.Range(), "Invalid variables", "Variables are names with values: variables = { NAME = VALUE }.")}
	}
	var found hcl.Diagnostics
	for _, pair := range pairs {
		key, keyDiags := pair.Key.Value(nil)
		if keyDiags.HasErrors() || !isText(key) {
			found = append(found, mistake(pair.Key.Range(), "Invalid variables", "The name of a variable is a bare word."))
			continue
		}
		name := key.AsString()
		if before, twice := env.Variables[name]; twice {
			found = append(found, mistake(pair.Key.Range(), "Duplicate variable", "The variable %q already has a value at %s. Remove one of them.", name, at(before.NameRange)))
			continue
		}
		expr := readExpression(pair.Value.(hclsyntax.Expression))
		value, valueDiags := constant(argument{name: name, expr: expr}, cty.DynamicPseudoType, owner)
		found = append(found, valueDiags...)
		if !valueDiags.HasErrors() {
			env.Variables[name] = Given{Value: value, Range: pair.Value.Range(), NameRange: pair.Key.Range()}
		}
	}
	return found
}

// inOrder puts nodes into the order of their lines, in which both lists are.
func inOrder(some, others []nodeArguments) []nodeArguments {
	if len(some) == 0 {
		return others
	}
	all := append(some, others...)
	slices.SortFunc(all, func(a, b nodeArguments) int { return cmp.Compare(a.Header.Start.Line, b.Header.Start.Line) })
	return all
}

func (env *Environment) fill(a *environmentArguments) hcl.Diagnostics {
	var diags hcl.Diagnostics
	user := func(name string, given *string, place hcl.Range, into *string) {
		if given == nil {
			return
		}
		*into = *given
		if err := CheckUser(*given); err != nil {
			diags = append(diags, mistake(place, "Invalid user name", "%q cannot be used: %s.", name, err))
		}
	}
	user("app_user", a.AppUser, a.AppUserAt, &env.AppUser)
	user("admin_user", a.AdminUser, a.AdminUserAt, &env.AdminUser)
	env.Nodes = make([]Node, 0, len(a.Nodes))
	for i := range a.Nodes {
		node, found := a.Nodes[i].node()
		diags = append(diags, found...)
		env.Nodes = append(env.Nodes, node)
	}
	diags = append(diags, env.checkNodes(a.Nodes)...)
	if a.CIDRs == nil {
		env.CIDRs = addressesOf(env.Nodes)
	}
	for _, text := range a.CIDRs {
		prefix, err := parsePrefix(text)
		if err != nil {
			diags = append(diags, mistake(a.CIDRsAt, "Invalid network", "%s.", err))
			continue
		}
		env.CIDRs = append(env.CIDRs, prefix)
	}
	return diags
}

// addressesOf returns each node's address as a network of one, sorted.
func addressesOf(nodes []Node) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nodes {
		if n.Address.IsValid() {
			all = append(all, netip.PrefixFrom(n.Address, n.Address.BitLen()))
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(all)
}

func (a *nodeArguments) node() (Node, hcl.Diagnostics) {
	n := Node{Name: a.Name, Role: a.Role, Names: a.Names, HostKey: a.HostKey, Range: a.Header}
	var diags hcl.Diagnostics
	if err := checkHostName(a.Name); err != nil {
		diags = append(diags, mistake(a.NameAt, "Invalid node name", "%s.", err))
	}
	if !slices.Contains(Roles, a.Role) {
		diags = append(diags, mistake(a.RoleAt, "Unknown role", "There is no role %q.%s", a.Role, suggestion(a.Role, Roles)))
	}
	address, err := netip.ParseAddr(a.Address)
	if err != nil || address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() {
		diags = append(diags, mistake(a.AddressAt, "Invalid address", `%q is not the IP address of a machine: write it as in "10.0.1.10" or "fd00::10", without a port or a prefix. Host names go into names.`, a.Address))
	}
	n.Address = address.Unmap()
	for _, name := range a.Names {
		if err := checkHostName(name); err != nil {
			diags = append(diags, mistake(a.NamesAt, "Invalid host name", "%s.", err))
		}
	}
	if a.HostKey != "" && secondWord(a.HostKey) == "" || strings.ContainsAny(a.HostKey, "\n\r") {
		diags = append(diags, mistake(a.HostKeyAt, "Invalid host key", `This is no public host key: write the line of /etc/ssh/ssh_host_ed25519_key.pub, "ssh-ed25519 AAAA...".`))
	}
	return n, diags
}

func (env *Environment) checkNodes(arguments []nodeArguments) hcl.Diagnostics {
	var diags hcl.Diagnostics
	names, addresses := make(map[string]*Node, len(env.Nodes)), make(map[netip.Addr]*Node, len(env.Nodes))
	hostKeys := make(map[string]*Node, len(env.Nodes))
	var master *Node
	for i := range env.Nodes {
		n := &env.Nodes[i]
		if first, twice := names[n.Name]; twice {
			diags = append(diags, mistake(n.Range, "Duplicate node", "The node %q is already declared at %s. Give this one another name, or remove one of them.", n.Name, at(first.Range)))
		} else {
			names[n.Name] = n
		}
		if first, twice := addresses[n.Address]; twice && n.Address.IsValid() {
			diags = append(diags, mistake(arguments[i].AddressAt, "Duplicate address", "The node at %s has the same address. Two machines cannot share one.", at(first.Range)))
		} else {
			addresses[n.Address] = n
		}
		if key := secondWord(n.HostKey); key != "" {
			if first, twice := hostKeys[key]; twice {
				diags = append(diags, mistake(arguments[i].HostKeyAt, "Cloned host key", "The node at %s has the same host key: one of the two was copied from the other, and could open what is meant for it. Make a new one on the copy (rm /etc/ssh/ssh_host_*; ssh-keygen -A; restart sshd), and write it here.", at(first.Range)))
			} else {
				hostKeys[key] = n
			}
		}
		if n.Role == "solo" && len(env.Nodes) > 1 {
			diags = append(diags, mistake(arguments[i].RoleAt, "Solo with others", `A node with the role "solo" is alone in its environment, and there are %d nodes. With others it is a "db_master".`, len(env.Nodes)))
		}
		if n.Role != "db_master" {
			continue
		}
		if master != nil {
			diags = append(diags, mistake(arguments[i].RoleAt, "Two masters", `An environment has one db_master, and it is at %s. Make this one a "db_replica".`, at(master.Range)))
		} else {
			master = n
		}
	}
	return diags
}

// secondWord is the key itself in the line of a public key; "" where there is none.
func secondWord(line string) string {
	first := true
	for word := range strings.FieldsSeq(line) {
		if !first {
			return word
		}
		first = false
	}
	return ""
}

// checkHostName wants a name that can stand in a certificate: letters, digits, - and _, in parts divided by dots.
func checkHostName(name string) error {
	if isHostName(name) {
		return nil
	}
	return fmt.Errorf("%q is not a host name: letters, digits, - and _, in parts divided by dots, at most 253 bytes", name)
}

func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, r := range part {
			letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
			if !letter && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}

// CheckUser says why a name is refused for a user that is at once a user of the operating system and a PostgreSQL role,
// or returns nil. Such names reach paths, argument lists, SQL and pg_hba.conf, so only what is harmless in all of them
// is taken: letters, digits, _, - and dots, beginning with a letter or _, at most 63 bytes (PostgreSQL cuts off the rest).
func CheckUser(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > 63:
		return fmt.Errorf("%q has %d bytes, and PostgreSQL keeps 63", name[:20]+"...", len(name))
	case name == "root":
		return fmt.Errorf("%q is the machine's own administrator: give a user of its own", name)
	case name == "public" || name == "none" || strings.HasPrefix(name, "pg_"):
		return fmt.Errorf("PostgreSQL keeps the name %q for itself", name)
	}
	for i, r := range name {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		later := r == '-' || r == '.' || '0' <= r && r <= '9'
		if !letter && (!later || i == 0) {
			return fmt.Errorf("%q has %q in it: a name has letters, digits, _, - and dots, and begins with a letter or _", name, r)
		}
	}
	return nil
}

// Single is the environment of one host without an environment file. The role must be one of Roles; the address may be
// the zero Addr when it is not known.
func Single(hostName, role string, address netip.Addr) (*Environment, error) {
	if err := checkRole(role); err != nil {
		return nil, err
	}
	env := &Environment{Name: "default", AppUser: DefaultAppUser, AdminUser: DefaultAdminUser, Variables: map[string]Given{}, Files: map[string]*hcl.File{}}
	env.Nodes = []Node{{Name: hostName, Role: role, Address: address}}
	env.CIDRs = addressesOf(env.Nodes)
	return env, nil
}

func checkRole(role string) error {
	if slices.Contains(Roles, role) {
		return nil
	}
	if role == "" {
		return fmt.Errorf("there is no environment file to say what this node is: give --role, one of %s", choicesInOrder(Roles))
	}
	return fmt.Errorf("there is no role %q.%s", role, suggestion(role, Roles))
}

// Choose returns the node of a run: the one named by nodeName (--node); else the one whose name is the host name; else
// the only one with the role (--role). Where a role is given, the node must have it. Of an environment without nodes the
// host is the only node, with the role given. The error says which nodes there are.
func (env *Environment) Choose(nodeName, role, hostName string) (Node, error) {
	if role != "" {
		if err := checkRole(role); err != nil {
			return Node{}, err
		}
	}
	if len(env.Nodes) == 0 {
		return env.chooseHost(nodeName, role, hostName)
	}
	node, err := env.find(nodeName, role, hostName)
	if err != nil {
		return Node{}, err
	}
	if role != "" && node.Role != role {
		return Node{}, fmt.Errorf("--role %s: the environment says that %s is %s; leave --role out, or mend %s", role, node.Name, node.Role, at(node.Range))
	}
	return node, nil
}

func (env *Environment) chooseHost(nodeName, role, hostName string) (Node, error) {
	if role == "" {
		return Node{}, fmt.Errorf("environment %q names no nodes: add node blocks to it, or give --role", env.Name)
	}
	if nodeName != "" && nodeName != hostName {
		return Node{}, fmt.Errorf("--node %s: environment %q names no nodes, so the only one is this host, %s", nodeName, env.Name, hostName)
	}
	return Node{Name: hostName, Role: role}, nil
}

func (env *Environment) find(nodeName, role, hostName string) (Node, error) {
	names := make([]string, len(env.Nodes))
	var withRole []Node
	for i, n := range env.Nodes {
		if names[i] = n.Name; n.Role == role {
			withRole = append(withRole, n)
		}
	}
	if nodeName != "" {
		if i := slices.Index(names, nodeName); i >= 0 {
			return env.Nodes[i], nil
		}
		return Node{}, fmt.Errorf("--node %s: environment %q has no such node.%s", nodeName, env.Name, suggestion(nodeName, names))
	}
	if i := slices.Index(names, hostName); i >= 0 {
		return env.Nodes[i], nil
	}
	switch {
	case len(withRole) == 1:
		return withRole[0], nil
	case len(withRole) > 1:
		return Node{}, fmt.Errorf("environment %q has %d nodes with the role %s: choose one with --node", env.Name, len(withRole), role)
	case role != "":
		return Node{}, fmt.Errorf("environment %q has no node with the role %s, and none named %s like this host: choose one with --node (%s)", env.Name, role, hostName, choices(names))
	}
	return Node{}, fmt.Errorf("environment %q has no node named %s like this host: choose one with --node (%s)", env.Name, hostName, choices(names))
}
