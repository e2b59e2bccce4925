package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine/disk"
	"converge/engine/recipe"
)

// A toy is a resource that does what its function says.
type toy struct {
	targets []Target
	do      func(ctx context.Context, h *Host) error
	service string
}

func (t *toy) Prepare(recipe.Block) hcl.Diagnostics { return nil }
func (t *toy) Exports() map[string]cty.Value        { return nil }
func (t *toy) Targets() []Target                    { return t.targets }
func (t *toy) Converge(ctx context.Context, h *Host) error {
	return t.do(ctx, h)
}

type toyService struct{ toy }

func (t *toyService) ServiceName() string { return t.service }

var toyTypes = []Type{
	{Name: "toy", New: func() Resource { return &toy{} }},
	{Name: "service", New: func() Resource { return &toyService{} }, Service: true},
}

// mine is what the tests write as: they own their folder, whoever runs them.
func mine(mode fs.FileMode) Attr { return Attr{Mode: mode, UID: os.Geteuid(), GID: os.Getegid()} }

// fileToy keeps a file with one content.
func fileToy(path, content string) *toy {
	return &toy{targets: []Target{{Path: path}}, do: func(_ context.Context, h *Host) error {
		return h.WriteFile(path, []byte(content), mine(0o644))
	}}
}

// keyToy makes a folder with a key and a certificate once, and finds them right as long as they fit together.
func keyToy(dir string) *toy {
	key, cert := dir+"/key", dir+"/cert"
	return &toy{
		targets: []Target{{Path: dir, Dir: true}, {Path: key}, {Path: cert}},
		do: func(_ context.Context, h *Host) error {
			if err := h.Mkdir(dir, mine(0o700)); err != nil {
				return err
			}
			k, errK := h.ReadFile(key)
			c, errC := h.ReadFile(cert)
			if errK == nil && errC == nil && "for "+string(k) == string(c) {
				return nil
			}
			if err := errors.Join(ignoreNotExist(errK), ignoreNotExist(errC)); err != nil {
				return err
			}
			b := make([]byte, 8)
			rand.Read(b)
			fresh := fmt.Sprintf("%x", b)
			if err := h.WriteSecret(key, NewSecret([]byte(fresh)), mine(0o600), Generated); err != nil {
				return err
			}
			return h.WriteFile(cert, []byte("for "+fresh), mine(0o644), Generated)
		},
	}
}

func ignoreNotExist(err error) error {
	if IsNotExist(err) {
		return nil
	}
	return err
}

// A bench is a machine with an engine, and the steps that a test puts on it.
type bench struct {
	t      *testing.T
	root   string
	engine *Engine
	blocks []*recipe.Block
	events []Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir()}
	b.engine = benchEngine(t, b.root)
	b.engine.Observe = func(ev Event) { b.events = append(b.events, ev) }
	return b
}

func benchEngine(t testing.TB, root string) *Engine {
	t.Helper()
	d, err := disk.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	state, err := OpenState(d, "/state")
	if err != nil {
		t.Fatal(err)
	}
	return &Engine{Disk: d, State: state, Now: time.Now, Rand: rand.Reader, Parallelism: 4}
}

func address(typ, name string) recipe.Address { return recipe.Address{Type: typ, Name: name} }

// add puts a step on the bench, behind the named toys.
func (b *bench) add(name string, r Resource, after ...string) {
	block := &recipe.Block{Address: address("toy", name), Config: r, Declared: len(b.blocks)}
	for _, a := range after {
		block.After = append(block.After, recipe.Ref{To: address("toy", a)})
	}
	b.blocks = append(b.blocks, block)
}

// addService puts a service on the bench that takes up the changes of the named toys.
func (b *bench) addService(name string, r *toyService, onChange ...string) {
	r.service = name
	block := &recipe.Block{Address: address("service", name), Config: r, Declared: len(b.blocks)}
	for _, a := range onChange {
		block.OnChange = append(block.OnChange, recipe.Ref{To: address("toy", a)})
	}
	b.blocks = append(b.blocks, block)
}

func (b *bench) graph() *Graph {
	b.t.Helper()
	g, diags := NewGraph(b.blocks, toyTypes)
	if diags.HasErrors() {
		b.t.Fatal(diags)
	}
	return g
}

func (b *bench) plan() *Plan {
	b.t.Helper()
	p, err := b.engine.Plan(context.Background(), b.graph(), Options{MaxDisruption: Restart})
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) apply() *Report {
	b.t.Helper()
	b.events = nil
	r, err := b.engine.Apply(context.Background(), b.graph(), Options{MaxDisruption: Restart})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) put(path, content string) {
	b.t.Helper()
	name := filepath.Join(b.root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// got returns a file's content, or "absent".
func (b *bench) got(path string) string {
	b.t.Helper()
	c, err := os.ReadFile(filepath.Join(b.root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return string(c)
}

func (b *bench) wants(path, content string) {
	b.t.Helper()
	if got := b.got(path); got != content {
		b.t.Errorf("%s holds %q, want %q", path, got, content)
	}
}

func (b *bench) noStrays() {
	b.t.Helper()
	filepath.WalkDir(b.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			b.t.Error(err)
		} else if len(d.Name()) > 9 && d.Name()[:10] == ".converge-" {
			b.t.Errorf("stray temporary file %s", p)
		}
		return nil
	})
}

func addresses(changes []*Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, c.Address)
	}
	return out
}

func eventsText(events []Event) string {
	s := ""
	for _, ev := range events {
		s += string(ev.Event) + " " + ev.Address + "\n"
	}
	return s
}
