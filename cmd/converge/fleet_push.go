package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"converge/engine/recipe"
)

// binaryPath is where a push puts converge.
const binaryPath = "/usr/local/bin/converge"

// A pusher brings this program, the environment file and recipes to nodes. The nil pusher pushes nothing.
type pusher struct {
	fleet   *fleet
	program []byte
	folders []string   // of recipes
	files   []pushFile // environment and recipes
}

// A pushFile is one file and where it goes.
type pushFile struct {
	path    string
	mode    string
	content []byte
	keep    bool // what is replaced stays beside it, as PATH.old
}

// pusher reads what is to be pushed; nil when nothing is.
func (fl *fleet) pusher(wanted bool) (*pusher, error) {
	if !wanted {
		return nil, nil
	}
	p := &pusher{fleet: fl, folders: fl.recipeFolders(), files: []pushFile{{path: defaultEnvironmentFile, mode: "0644", content: fl.source.Bytes, keep: true}}}
	var err error
	// Not by its name: the file may have been replaced since this process began.
	if p.program, err = os.ReadFile("/proc/self/exe"); err != nil {
		return nil, fmt.Errorf("--push: read this program: %w", err)
	}
	for _, dir := range p.folders {
		sources, err := recipe.ReadFolder(dir)
		if err != nil {
			return nil, err
		}
		for _, s := range sources {
			f := pushFile{path: defaultRecipesDir + "/" + path.Base(s.Name), mode: "0644", content: s.Bytes, keep: true}
			if slices.ContainsFunc(p.files, func(other pushFile) bool { return other.path == f.path }) {
				return nil, usage("--push: two folders of --recipes have a file %s, and a node has one folder for them", path.Base(s.Name))
			}
			p.files = append(p.files, f)
		}
	}
	return p, nil
}

// recipeFolders are those of --recipes, or else this host's own.
func (fl *fleet) recipeFolders() []string {
	if given := fl.app.flags.recipes; len(given) > 0 {
		return given
	}
	if _, err := os.Lstat(defaultRecipesDir); err != nil {
		return nil
	}
	return []string{defaultRecipesDir}
}

// lookScript says what a node is and what it has: its system, and the SHA-256 of what a push may replace. It is one line,
// like every script.
const lookScript = `printf "%s\n" ` + beginMark + `; printf "system %s\n" "$(uname -sm)"; ` +
	`for f in ` + binaryPath + ` ` + defaultEnvironmentFile + ` ` + defaultRecipesDir + `/*.hcl; do ` +
	`[ -f "$f" ] || continue; printf "file %s %s\n" "$(sha256sum < "$f" | cut -c 1-64)" "$f"; done`

// putScript puts what comes on its standard input at a path: into a file beside it, which takes the path's place when its
// SHA-256 is right and it is on the disk. Its arguments: path, mode, SHA-256, "keep" or "".
const putScript = `set -eu; umask 022; printf "%s\n" ` + beginMark + `; path=$1 mode=$2 want=$3 keep=$4; dir=${path%/*}; ` +
	`if [ -d "$path" ]; then echo "$path is a folder" >&2; exit 1; fi; ` +
	`[ -d "$dir" ] || mkdir -p "$dir"; ` +
	`new=$(mktemp "$dir/.converge-push.XXXXXX"); trap 'rm -f "$new"' EXIT; cat > "$new"; ` +
	`got=$(sha256sum < "$new" | cut -c 1-64); ` +
	`if [ "$got" != "$want" ]; then echo "what arrived for $path has the SHA-256 $got, not $want" >&2; exit 1; fi; ` +
	`chown 0:0 "$new"; chmod "$mode" "$new"; sync "$new" 2>/dev/null || sync; ` +
	`if [ "$keep" = keep ] && [ -f "$path" ]; then cp -p "$path" "$path.old"; fi; ` +
	`mv -f "$new" "$path"; sync "$dir" 2>/dev/null || sync; trap - EXIT; ` +
	`printf "file %s %s\n" "$(sha256sum < "$path" | cut -c 1-64)" "$path"`

// to pushes to one node what it does not have. Only the result of a push that did not come to its end is broken.
func (p *pusher) to(n recipe.Node) *fleetNode {
	if p == nil {
		return nil
	}
	node := newFleetNode(n)
	has, ok := p.look(n, node)
	if !ok {
		return node
	}
	files := append([]pushFile{{path: binaryPath, mode: "0755", content: p.program}}, p.files...)
	for _, f := range files {
		if has[f.path] == sum(f.content) {
			continue
		}
		if !p.put(n, node, f) {
			return node
		}
		text := fmt.Sprintf("pushed %s", f.path)
		if has[f.path] != "" && f.keep {
			text += fmt.Sprintf(" (it was another one, which is %s.old now)", f.path)
		}
		p.fleet.tell(n.Name, "%s", text)
		node.Pushed = append(node.Pushed, f.path)
	}
	p.warnOfOthers(node, has)
	node.Result = fleetOK
	return node
}

// look asks what the node is and has: path to SHA-256. Not to be of this program's kind ends the push.
func (p *pusher) look(n recipe.Node, node *fleetNode) (map[string]string, bool) {
	system, has := "", map[string]string{}
	a := p.fleet.ssh.run(n, remoteCommand(asRoot, lookScript), nil, func(l []byte) {
		word, rest, _ := strings.Cut(string(l), " ")
		switch word {
		case "system":
			system = rest
		case "file":
			digest, name, _ := strings.Cut(rest, " ")
			has[name] = digest
		}
	})
	if !p.done(n, node, a, "look at what is there") {
		return nil, false
	}
	here := runtime.GOOS + "/" + runtime.GOARCH
	if there := platform(system); there != here {
		node.fail("push: it is %s (%s), and this program is for %s: run the fleet with a converge for it", there, system, here)
		return nil, false
	}
	return has, true
}

// put sends one file, and wants its SHA-256 back.
func (p *pusher) put(n recipe.Node, node *fleetNode, f pushFile) bool {
	keep := ""
	if f.keep {
		keep = "keep"
	}
	digest := sum(f.content)
	there := ""
	a := p.fleet.ssh.run(n, remoteCommand(asRoot, putScript, f.path, f.mode, digest, keep), content(f), func(l []byte) {
		there = string(l)
	})
	if !p.done(n, node, a, "put "+f.path) {
		return false
	}
	if there != "file "+digest+" "+f.path {
		node.fail("push: put %s: it is not what was sent: %s", f.path, printable(there))
		return false
	}
	return true
}

func content(f pushFile) io.Reader { return bytes.NewReader(f.content) }

// done judges the end of a push's command.
func (p *pusher) done(n recipe.Node, node *fleetNode, a answer, what string) bool {
	if a.err == nil && a.began && a.code == 0 {
		return true
	}
	node.Exit = &a.code
	if a.unreachable() {
		node.Result, node.Error = fleetUnreachable, a.reason()+unreachableHint(a.stderr)
	} else if a.err != nil {
		node.fail("push: %s: %v", what, a.err)
	} else {
		node.fail("push: %s: exit status %d%s%s", what, a.code, a.because(), sudoHint(a.stderr))
	}
	return false
}

// warnOfOthers names recipes that stand on the node and not in the folders that are pushed: they count there.
func (p *pusher) warnOfOthers(node *fleetNode, has map[string]string) {
	if len(p.folders) == 0 {
		return
	}
	for name := range has {
		ours := slices.ContainsFunc(p.files, func(f pushFile) bool { return f.path == name })
		if !ours && strings.HasPrefix(name, defaultRecipesDir+"/") {
			node.warn("%s is there and not in %s here: it stays, and counts", name, strings.Join(p.folders, " or "))
		}
	}
	slices.Sort(node.Warnings)
}

// platform is what uname -sm says in the words of Go, or as it is.
func platform(uname string) string {
	system, machine, _ := strings.Cut(strings.ToLower(uname), " ")
	known := map[string]string{"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armv6l": "arm", "armv7l": "arm"}
	if m := known[machine]; m != "" {
		machine = m
	}
	return system + "/" + machine
}
