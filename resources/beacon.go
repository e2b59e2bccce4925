package resources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"converge/resources/hba"
	"converge/resources/postgres"
)

// A beacon is a rule that rejects connections to a database that does not exist and is named for the rules below it. No
// view of a server shows which rules it has loaded. Whether it turns such a connection away by that rule does.

const beaconPrefix = "converge_gen_"

// beaconFor is the beacon of a block with these rules.
func beaconFor(rules string) string {
	sum := sha256.Sum256([]byte(strings.TrimRight(rules, "\r\n")))
	return "local " + beaconPrefix + hex.EncodeToString(sum[:6]) + " all reject"
}

// withBeacon puts the beacon above the rules.
func withBeacon(rules string) string { return beaconFor(rules) + "\n" + rules }

var beaconLine = regexp.MustCompile(`^local (` + beaconPrefix + `[0-9a-f]{12}) all reject$`)

// beacons are the names in the first lines of the document's blocks.
func (d *document) beacons() []string {
	var names []string
	for _, s := range d.segments {
		if s.block == "" {
			continue
		}
		_, rest, _ := strings.Cut(s.text, "\n")
		first, _, _ := strings.Cut(rest, "\n")
		if m := beaconLine.FindStringSubmatch(strings.TrimRight(first, "\r")); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// unloaded says which of the blocks' rules in the file, as it is on the disk, the server does not run with. Where that
// cannot be told, it calls warn.
func unloaded(ctx context.Context, text []byte, s *postgres.Server, warn func(string)) ([]string, error) {
	doc, err := parseDocument(text, "#")
	if err != nil {
		return nil, nil // whoever writes the file refuses it and says why
	}
	var out []string
	for _, name := range doc.beacons() {
		loaded, err := s.RuleLoaded(ctx, name)
		if errors.Is(err, postgres.ErrCannotTell) {
			warn(err.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		if !loaded {
			out = append(out, fmt.Sprintf("the server does not run with the rules of %s: it lets a connection past the line for %s", s.HBAFile, name))
		}
	}
	return out, nil
}

// withoutBeacons is the file without them, for comparing who gets in.
func withoutBeacons(f *hba.File) *hba.File {
	bare := *f
	bare.Rules = slices.DeleteFunc(slices.Clone(f.Rules), func(r hba.Rule) bool {
		return r.Type == "local" && r.Method == "reject" && len(r.Databases) == 1 && strings.HasPrefix(r.Databases[0].Text, beaconPrefix)
	})
	return &bare
}
