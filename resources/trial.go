package resources

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"converge/engine"
	"converge/resources/hba"
	"converge/resources/postgres"
)

// Trials remembers which files the server's own program has taken in this run, so that it is asked once about each state.
type Trials struct {
	mutex sync.Mutex
	taken map[[sha256.Size]byte]bool
}

func (t *Trials) has(state [sha256.Size]byte) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.taken[state]
}

func (t *Trials) add(state [sha256.Size]byte) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.taken == nil {
		t.taken = map[[sha256.Size]byte]bool{}
	}
	t.taken[state] = true
}

// tryStart asks the server's own program whether it would start with the files as they are now, staged or written. That it
// cannot be asked is a warning.
func (s Site) tryStart(ctx context.Context, h *engine.Host) error {
	if err := s.trySettings(ctx, h); err != nil {
		return err
	}
	return s.tryFiles(ctx, h)
}

// trySettings is the half of it that is about the settings.
func (s Site) trySettings(ctx context.Context, h *engine.Host) error {
	conf, err := s.Server.Conf(hostFiles{h})
	if err != nil {
		return err
	}
	return s.try(ctx, h, confFiles(s.Server, conf), s.Server.TrySettings)
}

// tryFiles is the half that is about TLS and authentication.
func (s Site) tryFiles(ctx context.Context, h *engine.Host) error {
	conf, err := s.Server.Conf(hostFiles{h})
	if err != nil {
		return err
	}
	files := append(confFiles(s.Server, conf), s.Server.HBAFile, s.Server.IdentFile)
	return s.try(ctx, h, append(files, tlsFiles(s.Server, conf)...), s.Server.TryFiles)
}

func (s Site) try(ctx context.Context, h *engine.Host, files []string, ask func(context.Context, postgres.Files) error) error {
	state := stateOf(h, files)
	if s.Trials.has(state) {
		return nil
	}
	err := ask(ctx, hostFiles{h})
	if errors.Is(err, postgres.ErrCannotTry) {
		h.Warn(err.Error())
		return nil
	}
	if err == nil {
		s.Trials.add(state)
	}
	return err
}

// tryChange asks about the file that a step changes. What is wrong with the others is not its fault, and may be about to be
// mended: the step of the service judges all of them.
func (s Site) tryChange(ctx context.Context, h *engine.Host, ask func(context.Context, *engine.Host) error) error {
	problems, err := s.wouldNotStart(h)
	if err != nil || len(problems) > 0 {
		return nil
	}
	return ask(ctx, h)
}

// wouldNotStart is what this program itself finds that would keep the server from starting. It costs no child.
func (s Site) wouldNotStart(h *engine.Host) ([]string, error) {
	found, err := s.Server.Preflight(hostFiles{h})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range found {
		out = append(out, p.String())
	}
	text, err := h.ReadFile(s.Server.HBAFile)
	if engine.IsNotExist(err) {
		return append(out, s.Server.HBAFile+" does not exist"), nil
	}
	if err != nil {
		return nil, err
	}
	parsed := hba.Parse(text, s.hbaServer(h), hbaFiles(h, s.Server.HBAFile))
	if lines := parsed.Problems(); len(lines) > 0 {
		doc, _ := parseDocument(text, "#")
		out = append(out, fmt.Sprintf("%s: %s", s.Server.HBAFile, problems(lines, doc)))
	}
	return out, nil
}

// stateOf is a sum of the files with their owners and modes.
func stateOf(h *engine.Host, files []string) (sum [sha256.Size]byte) {
	state := sha256.New()
	for _, f := range files {
		b, err := h.ReadFile(f)
		st, _ := h.Stat(f)
		fmt.Fprintf(state, "%s %d %v %v %d:%d\n", f, len(b), err, st.Mode, st.UID, st.GID)
		state.Write(b)
	}
	state.Sum(sum[:0])
	return sum
}
