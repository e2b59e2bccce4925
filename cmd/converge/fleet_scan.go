package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"converge/engine/bundle"
	"converge/engine/recipe"
)

func (a *app) fleetScanCommand() *cobra.Command {
	var f fleetFlags
	var files []string
	c := &cobra.Command{
		Use:   "scan",
		Short: "Collect the nodes' host keys for the environment file",
		Long: `Collect the host keys of the nodes, and hold them against those of the environment file: from known_hosts, and for nodes
that are not in it from the network with ssh-keyscan. It prints the lines host_key = "..." that are missing. Whoever pastes
one vouches for it: what is sealed to a node, that key opens.

The exit code is 0 when every key is known and the same, 2 when something is to be done, 1 when a node could not be asked.`,
		Example: `  converge fleet scan -e environment.hcl
  converge fleet scan -e environment.hcl --only db2 --known-hosts ./known_hosts
  converge fleet scan --json | jq '.nodes[] | select(.result != "same")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.fleetScan(cmd, f, files) },
	}
	f.chooseFlags(c)
	c.Flags().StringArrayVar(&files, "known-hosts", nil, "look into this `FILE`; repeatable (default: those that ssh uses)")
	return c
}

// A scanResult says how a node's host key is. Its words are part of the JSON contract.
type scanResult string

const (
	scanSame        scanResult = "same"     // it is in the environment file already
	scanMissing     scanResult = "missing"  // the environment file has none
	scanDiffers     scanResult = "differs"  // the environment file has another one
	scanConflict    scanResult = "conflict" // known_hosts has two
	scanCloned      scanResult = "cloned"   // another node has it too
	scanUnusable    scanResult = "unusable" // revoked, or of a kind to which nothing can be sealed
	scanUnreachable scanResult = "unreachable"
)

// A scanNode is one object in nodes of fleet scan --json.
type scanNode struct {
	Node        string     `json:"node"`
	Address     string     `json:"address"`
	Result      scanResult `json:"result"`
	HostKey     string     `json:"host_key,omitempty"` // to be pasted, once it is confirmed
	Fingerprint string     `json:"fingerprint,omitempty"`
	Source      string     `json:"source,omitempty"`   // known_hosts or ssh-keyscan
	Under       string     `json:"under,omitempty"`    // the name or address it was found under
	Declared    string     `json:"declared,omitempty"` // fingerprint of the one in the environment file
	Note        string     `json:"note,omitempty"`

	keys []bundle.HostKey // all of the node's that are known, and the one declared
}

// scanJSON is what fleet scan --json prints.
type scanJSON struct {
	Format      int         `json:"format"`
	Environment string      `json:"environment"`
	Nodes       []*scanNode `json:"nodes"`
}

func (a *app) fleetScan(cmd *cobra.Command, f fleetFlags, files []string) error {
	fl, err := a.openFleet(cmd, f)
	if err != nil {
		return err
	}
	s, err := newScanner(cmd.Context(), files)
	if err != nil {
		return err
	}
	nodes := inParallel(a.flags.parallelism, fl.nodes, func(n recipe.Node) *scanNode {
		found, why := s.keysOf(n)
		return judgeKeys(n, found, why)
	})
	markClones(nodes, fl.env.Nodes)
	a.code = scanExit(nodes)
	if a.flags.json {
		return a.printJSON(scanJSON{Format: 1, Environment: fl.env.Name, Nodes: nodes})
	}
	newPrinter(a).scan(fl, nodes)
	return nil
}

func scanExit(nodes []*scanNode) int {
	code := exitDone
	for _, n := range nodes {
		switch n.Result {
		case scanUnreachable:
			return exitFailed
		case scanSame:
		default:
			code = exitChanges
		}
	}
	return code
}

// A foundKey is a host key, and where it was found.
type foundKey struct {
	key    bundle.HostKey
	source string // known_hosts or ssh-keyscan
	under  string // name or address
	bad    error  // why it cannot be used; then there is no key
}

const (
	fromKnownHosts = "known_hosts"
	fromKeyscan    = "ssh-keyscan"
)

// A scanner asks OpenSSH's own programs.
type scanner struct {
	ctx             context.Context
	keygen, keyscan string   // paths; keyscan is "" where it is not installed
	ssh             string   // "" where it is not
	files           []string // --known-hosts
}

func newScanner(ctx context.Context, files []string) (*scanner, error) {
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("--known-hosts: %w", err)
		}
	}
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		return nil, errors.New("there is no ssh-keygen on this machine, which reads known_hosts: install openssh-client")
	}
	s := &scanner{ctx: ctx, keygen: keygen, files: files}
	s.ssh, _ = exec.LookPath("ssh")
	s.keyscan, _ = exec.LookPath("ssh-keyscan")
	return s, nil
}

// keysOf finds a node's host keys. When there is none, the error says why.
func (s *scanner) keysOf(n recipe.Node) ([]foundKey, error) {
	way := s.wayTo(n)
	found, err := s.known(way)
	if err != nil {
		return nil, err
	}
	if !mustScan(n, found) {
		return found, nil
	}
	scanned, err := s.scan(n, way.port)
	for _, k := range scanned {
		if k.bad != nil || !hasKind(found, kindOf(k.key)) { // known_hosts has the word where it knows this kind
			found = append(found, k)
		}
	}
	if len(found) > 0 {
		err = nil
	}
	return found, err
}

// mustScan says whether known_hosts leaves something open: it has no key that can be used, or none of the kind that the
// environment file has.
func mustScan(n recipe.Node, found []foundKey) bool {
	if declared, err := bundle.ParseHostKey(n.HostKey); err == nil && !hasKind(found, kindOf(declared)) {
		return true
	}
	return !slices.ContainsFunc(found, func(k foundKey) bool { return k.bad == nil })
}

func hasKind(found []foundKey, kind string) bool {
	return slices.ContainsFunc(found, func(k foundKey) bool { return k.bad == nil && kindOf(k.key) == kind })
}

// kindOf is the first word of a public key: ssh-ed25519.
func kindOf(k bundle.HostKey) string {
	kind, _, _ := strings.Cut(k.String(), " ")
	return kind
}

// A way is what ssh_config says of a node: under which names its key is known, where, and at which port sshd listens.
type way struct {
	names []string
	files []string // of known_hosts
	port  string
}

// wayTo asks ssh -G, which connects to nothing.
func (s *scanner) wayTo(n recipe.Node) way {
	config := map[string]string{}
	if s.ssh != "" {
		out, _ := exec.CommandContext(s.ctx, s.ssh, "-G", "--", n.Name).Output()
		for l := range strings.Lines(string(out)) {
			key, value, _ := strings.Cut(strings.TrimSpace(l), " ")
			config[key] = value
		}
	}
	w := way{port: "22", files: s.files}
	if p, err := strconv.ParseUint(config["port"], 10, 16); err == nil && p != 0 {
		w.port = config["port"]
	}
	if len(w.files) == 0 {
		user, global := config["userknownhostsfile"], config["globalknownhostsfile"]
		if user == "" && global == "" { // there is no ssh to ask
			user, global = "~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"
		}
		w.files = readable(strings.Fields(user + " " + global))
	}
	for _, name := range append([]string{n.Name, config["hostname"], n.Address.String()}, n.Names...) {
		if w.port != "22" && name != "" {
			name = "[" + name + "]:" + w.port // sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"
		}
		w.names = append(w.names, name)
	}
	w.names = distinct(append(w.names, config["hostkeyalias"]))
	return w
}

// distinct leaves out empty words and those that came before.
func distinct(words []string) []string {
	var out []string
	for _, w := range words {
		if w != "" && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// readable are the files that there are. Older versions of ssh -G print the home directory as ~.
func readable(files []string) []string {
	var out []string
	for _, f := range files {
		if rest, ok := strings.CutPrefix(f, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				continue
			}
			f = filepath.Join(home, rest)
		}
		if _, err := os.Stat(f); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// known looks a node's names up in known_hosts. ssh-keygen knows how names are hashed there.
func (s *scanner) known(w way) ([]foundKey, error) {
	var found []foundKey
	for _, name := range w.names {
		for _, file := range w.files {
			out, err := exec.CommandContext(s.ctx, s.keygen, "-F", name, "-f", file).Output()
			var ended *exec.ExitError
			if errors.As(err, &ended) && ended.ExitCode() == 1 {
				continue // it is not there
			}
			if err != nil {
				return nil, fmt.Errorf("look up %s in %s: %w", name, file, err)
			}
			found = append(found, parseKeys(out, fromKnownHosts, name)...)
		}
	}
	return found, nil
}

// scan asks the node's address. Nobody vouches for what comes back.
func (s *scanner) scan(n recipe.Node, port string) ([]foundKey, error) {
	if s.keyscan == "" {
		return nil, errors.New("it is not in known_hosts, and there is no ssh-keyscan on this machine: install openssh-client")
	}
	address := n.Address.String()
	cmd := exec.CommandContext(s.ctx, s.keyscan, "-T", "5", "-p", port, "-t", "ed25519,rsa,ecdsa", "--", address)
	stderr := &tailWriter{}
	cmd.Stderr = stderr
	out, err := cmd.Output()
	found := parseKeys(out, fromKeyscan, address)
	if len(found) > 0 {
		return found, nil
	}
	said := answer{stderr: string(stderr.kept)}.reason()
	if said == "" && err != nil {
		said = err.Error()
	}
	if said != "" {
		said = " (" + said + ")"
	}
	return nil, fmt.Errorf("it is not in known_hosts, and nothing answers ssh-keyscan at %s%s. ssh-keyscan knows no ProxyJump: log in once with ssh %s, confirm its key, and scan again", address, said, n.Name)
}

// parseKeys reads lines of known_hosts. A key of an authority is nobody's host key.
func parseKeys(out []byte, source, under string) []foundKey {
	var found []foundKey
	for l := range strings.Lines(string(out)) {
		words := strings.Fields(l)
		revoked := len(words) > 0 && words[0] == "@revoked"
		if revoked {
			words = words[1:]
		}
		if len(words) < 3 || strings.HasPrefix(words[0], "#") || strings.HasPrefix(words[0], "@") {
			continue
		}
		k := foundKey{source: source, under: under}
		k.key, k.bad = bundle.ParseHostKey(words[1] + " " + words[2])
		if revoked && k.bad == nil {
			k = foundKey{source: source, under: under, bad: fmt.Errorf("the key %s is marked as revoked in known_hosts", k.key.Fingerprint())}
		}
		found = append(found, k)
	}
	return found
}

// judgeKeys holds what was found of a node against the environment file. why is the reason when nothing was.
func judgeKeys(n recipe.Node, found []foundKey, why error) *scanNode {
	out := &scanNode{Node: n.Name, Address: n.Address.String()}
	declared, wrong := bundle.ParseHostKey(n.HostKey)
	if n.HostKey != "" && wrong == nil {
		out.Declared = declared.Fingerprint()
		out.keys = append(out.keys, declared)
	}
	for _, k := range found {
		if k.bad == nil {
			out.keys = append(out.keys, k.key)
		}
	}
	best := bestKey(found, declared)
	switch {
	case best == nil && why != nil:
		out.Result, out.Note = scanUnreachable, why.Error()
		return out
	case best == nil:
		out.Result, out.Note = scanUnusable, badKeys(found)
		return out
	}
	out.HostKey, out.Fingerprint, out.Source, out.Under = best.key.String(), best.key.Fingerprint(), best.source, best.under
	other := otherOfKind(found, *best)
	switch {
	case other != nil:
		out.Result, out.HostKey = scanConflict, ""
		out.Note = fmt.Sprintf("known_hosts has %s under %s and %s under %s: one of them is old, or another machine; find out which, and take the other out with ssh-keygen -R NAME",
			best.key.Fingerprint(), best.under, other.key.Fingerprint(), other.under)
	case n.HostKey == "":
		out.Result = scanMissing
	case wrong != nil:
		out.Result, out.Note = scanUnusable, "the host_key in the environment file: "+wrong.Error()
	case best.key.Equal(declared):
		out.Result, out.HostKey = scanSame, declared.String()
	default:
		out.Result = scanDiffers
		out.Note = fmt.Sprintf("ROTATED, OR ANOTHER MACHINE: the environment file has %s, and %s has %s. Find out why before you believe either",
			out.Declared, best.where(), best.key.Fingerprint())
	}
	return out
}

func (k foundKey) where() string { return k.source + " (" + k.under + ")" }

// bestKey is the key to take, or nil: the one declared where it was found; else one that somebody has logged in with
// before one from the network, and ed25519 before RSA. Where the environment file has a key of the kind, only that
// kind is compared.
func bestKey(found []foundKey, declared bundle.HostKey) *foundKey {
	rank := func(k foundKey) int {
		r := 0
		if k.source == fromKnownHosts {
			r += 2
		}
		if kindOf(k.key) == "ssh-ed25519" {
			r++
		}
		if !declared.IsZero() && kindOf(k.key) == kindOf(declared) {
			r += 4
		}
		if k.key.Equal(declared) {
			r += 8
		}
		return r
	}
	var best *foundKey
	for i, k := range found {
		if k.bad == nil && (best == nil || rank(k) > rank(*best)) {
			best = &found[i]
		}
	}
	return best
}

// otherOfKind is a key of the same kind, from known_hosts too, that is not this one.
func otherOfKind(found []foundKey, best foundKey) *foundKey {
	for i, k := range found {
		if k.bad == nil && k.source == fromKnownHosts && best.source == fromKnownHosts && kindOf(k.key) == kindOf(best.key) && !k.key.Equal(best.key) {
			return &found[i]
		}
	}
	return nil
}

// badKeys says why no key of a node can be used, and what to do on it.
func badKeys(found []foundKey) string {
	var reasons []string
	for _, k := range found {
		if text := k.bad.Error(); !slices.Contains(reasons, text) {
			reasons = append(reasons, text)
		}
	}
	return strings.Join(reasons, "; ") + `; make one there with: ssh-keygen -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key`
}

// markClones marks nodes that share a key: copies of one machine, each of which could open what is sealed to the other.
// Nodes that were not scanned count with what the environment file says.
func markClones(nodes []*scanNode, all []recipe.Node) {
	holders := map[string][]string{} // key to nodes
	hold := func(key bundle.HostKey, node string) {
		if k := key.String(); !slices.Contains(holders[k], node) {
			holders[k] = append(holders[k], node)
		}
	}
	for _, n := range all {
		if declared, err := bundle.ParseHostKey(n.HostKey); err == nil {
			hold(declared, n.Name)
		}
	}
	for _, n := range nodes {
		for _, k := range n.keys {
			hold(k, n.Node)
		}
	}
	for _, n := range nodes {
		for _, k := range n.keys {
			others := slices.DeleteFunc(slices.Clone(holders[k.String()]), func(name string) bool { return name == n.Node })
			if len(others) == 0 {
				continue
			}
			n.Result, n.HostKey, n.Fingerprint = scanCloned, "", k.Fingerprint()
			n.Note = fmt.Sprintf("cloned host key: %s has it too. Make new ones on the copy: rm /etc/ssh/ssh_host_*_key*, ssh-keygen -A, and restart sshd", strings.Join(others, ", "))
			break
		}
	}
}
