package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"converge/engine"
	"converge/engine/disk"
	"converge/engine/recipe"
)

// A userRecord is what a node remembers of having installed a user's key: where, and in which forms. By it a key is found
// that no recipe declares any more.
type userRecord struct {
	Places []recordedPlace `json:"places"`
}

type recordedPlace struct {
	Directory string   `json:"directory"`
	Formats   []string `json:"formats,omitempty"` // beside the PEM files
}

// has says whether converge has made a form in a directory.
func (r userRecord) has(dir, format string) bool {
	return slices.ContainsFunc(r.Places, func(p recordedPlace) bool { return p.Directory == dir && slices.Contains(p.Formats, format) })
}

// installedDir has a file for each user whose key is on the node.
func installedDir(authority string) string { return path.Join(authority, "installed") }

func recordFile(authority, user string) string {
	return path.Join(installedDir(authority), user+".json")
}

func parseUserRecord(text []byte) (r userRecord, err error) {
	if err = json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("what was installed: %w", err)
	}
	for _, p := range r.Places {
		if !path.IsAbs(p.Directory) || path.Clean(p.Directory) != p.Directory {
			return r, fmt.Errorf("what was installed: %q is no directory", p.Directory)
		}
	}
	return r, nil
}

// record reads what is remembered of the user's key; nothing where there is nothing.
func (k *UserKey) record(h *engine.Host) (userRecord, error) {
	file := recordFile(k.leaf.issuer.dir, k.user)
	text, err := h.ReadFile(file)
	if engine.IsNotExist(err) {
		return userRecord{}, nil
	}
	if err != nil {
		return userRecord{}, err
	}
	r, err := parseUserRecord(text)
	if err != nil {
		return r, fmt.Errorf("%s: %w; move it away, and it is made anew", file, err)
	}
	return r, nil
}

// remember writes down where the key is. No service reads it.
func (k *UserKey) remember(h *engine.Host) error {
	var r userRecord
	var forms []string
	for _, f := range keyFormats {
		if k.wants(f) {
			forms = append(forms, f.name)
		}
	}
	for _, d := range k.dirs {
		r.Places = append(r.Places, recordedPlace{d.path, forms})
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return h.WriteFile(recordFile(k.leaf.issuer.dir, k.user), append(text, '\n'), rootSecret, engine.NoDiff, engine.Aside)
}

// readRecords reads all that a node remembers. What cannot be read is left out: the step of that user says what is wrong.
func readRecords(d *disk.Disk, authority string) (map[string]userRecord, error) {
	out := map[string]userRecord{}
	for _, user := range namesWith(d, installedDir(authority), ".json") {
		text, _, err := d.ReadFile(recordFile(authority, user), 1<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r, err := parseUserRecord(text); err == nil {
			out[user] = r
		}
	}
	return out, nil
}

// namesWith are the users that have a file with this ending in a directory, sorted; none where there is no directory.
func namesWith(d *disk.Disk, dir, ending string) []string {
	entries, err := d.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if user, ok := strings.CutSuffix(e.Name, ending); ok && recipe.CheckUser(user) == nil {
			out = append(out, user)
		}
	}
	slices.Sort(out)
	return out
}
