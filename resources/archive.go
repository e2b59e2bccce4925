package resources

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"converge/engine"
)

// DefaultOldKeys is where keys go that are in use no longer, where no layout has a place for them.
const DefaultOldKeys = "/etc/converge/old_keys"

// oldKeys is where this node keeps keys that are in use no longer.
func (s Site) oldKeys() string {
	if s.Server != nil && s.Server.OldKeysDirectory != "" {
		return s.Server.OldKeysDirectory
	}
	return DefaultOldKeys
}

// An archive is where the old keys of one kind go: <old keys>/<kind>/<time of the run>/. Nothing in it is ever written
// over or removed.
type archive struct {
	site Site
	kind string // "server", "user" or "authority"
	of   string // a folder of its own for each user; ""

	key, cert string // the names of the two files
}

func (s Site) oldServerKeys() archive { return archive{s, "server", "", "server.key", "server.crt"} }

func (s Site) oldUserKeys(user string) archive {
	return archive{s, "user", user, "postgresql.key", "postgresql.crt"}
}

func (s Site) oldAuthorities() archive { return archive{s, "authority", "", "ca.key", "ca.crt"} }

// targets are the directory that a step with an archive may fill.
func (a archive) targets() []engine.Target {
	return []engine.Target{{Path: a.site.oldKeys(), Below: true}}
}

// oldFile is a file on its way into the archive, or out of it.
type oldFile struct {
	name    string // in the archive
	content []byte
	attr    engine.Attr
	secret  bool
}

// oldFileAt reads a file that is to be kept; nothing where nothing is.
func oldFileAt(h *engine.Host, file string, secret bool) ([]oldFile, error) {
	content, err := h.ReadFile(file)
	if engine.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := h.Stat(file)
	if err != nil {
		return nil, err
	}
	return []oldFile{{path.Base(file), content, st.Attr, secret}}, nil
}

// put keeps files, with their owners and modes. The same files are kept once, however many copies of them there are.
func (a archive) put(h *engine.Host, files []oldFile) error {
	if len(files) == 0 {
		return nil
	}
	dir := path.Join(a.site.oldKeys(), a.kind, a.site.Started.UTC().Format(archiveTime), a.of)
	for n := 1; ; n++ {
		at := dir
		if n > 1 {
			at = fmt.Sprintf("%s-%d", dir, n)
		}
		there, same, err := compareArchive(h, at, files)
		switch {
		case err != nil || same:
			return err
		case !there:
			return a.fill(h, at, files)
		}
	}
}

// archiveTime names the folder of a run; sorted by name they are sorted by time.
const archiveTime = "20060102T150405Z"

func isArchiveTime(name string) bool {
	_, err := time.Parse(archiveTime, name)
	return err == nil
}

// compareArchive says whether a folder of the archive has one of these files already, and whether it has just these.
func compareArchive(h *engine.Host, dir string, files []oldFile) (there, same bool, err error) {
	same = true
	for _, f := range files {
		old, err := h.ReadFile(path.Join(dir, f.name))
		switch {
		case engine.IsNotExist(err):
			same = false
		case err != nil:
			return there, false, err
		default:
			there, same = true, same && bytes.Equal(old, f.content)
		}
	}
	return there, there && same, nil
}

func (a archive) fill(h *engine.Host, dir string, files []oldFile) error {
	for _, f := range files {
		file := path.Join(dir, f.name)
		var err error
		if f.secret {
			err = h.WriteSecret(file, engine.NewSecret(f.content), f.attr, engine.NoDiff, engine.Aside)
		} else {
			err = h.WriteFile(file, f.content, f.attr, engine.NoDiff, engine.Aside)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newest returns the files of the newest folder of the archive that has all these names, in their order.
func (a archive) newest(h *engine.Host, names ...string) (dir string, files [][]byte, err error) {
	root := path.Join(a.site.oldKeys(), a.kind)
	times, err := h.ReadDir(root)
	if err := unlessMissing(err); err != nil {
		return "", nil, err
	}
	for _, t := range slices.Backward(times) {
		if stamp, _, _ := strings.Cut(t, "-"); !isArchiveTime(stamp) {
			continue // an operator's own
		}
		if dir, files, err = a.folder(h, path.Join(root, t, a.of), names); err != nil || files != nil {
			return dir, files, err
		}
	}
	return "", nil, nil
}

// folder reads the files of one folder; nil when one of them is not there.
func (a archive) folder(h *engine.Host, dir string, names []string) (string, [][]byte, error) {
	var files [][]byte
	for _, name := range names {
		b, err := h.ReadFile(path.Join(dir, name))
		if engine.IsNotExist(err) {
			return "", nil, nil
		}
		if err != nil {
			return "", nil, err
		}
		files = append(files, b)
	}
	return dir, files, nil
}
