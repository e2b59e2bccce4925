package resources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"converge/resources/hba"
	"converge/resources/postgres"
)

// A beacon is a rule that rejects connections to a database that does not exist and is named for the rules below it. No
// view of a server shows which rules it has loaded. Whether it turns such a connection away by that rule does. Blocks at the
// top of the file have one; below the rules of others it would be met by nobody.

const beaconPrefix = "converge_gen_"

// beaconFor is the beacon of a block with these rules.
func beaconFor(rules string) string {
	sum := sha256.Sum256([]byte(strings.TrimRight(rules, "\r\n")))
	return "local " + beaconPrefix + hex.EncodeToString(sum[:6]) + " all reject"
}

// withBeacon puts the beacon above the rules.
func withBeacon(rules string) string { return beaconFor(rules) + "\n" + rules }

// unloaded says which of the blocks' rules in a pg_hba.conf, which is on the disk, the server does not run with. Where that
// cannot be told, it calls warn. Beacons below another rule for the unix socket are left out: that one may be met first.
func unloaded(ctx context.Context, text []byte, s *postgres.Server, warn func(string)) ([]string, error) {
	rules := hba.Parse(text, hba.Packaged(s.Major), hba.Files{Path: s.HBAFile})
	var out []string
	for i := range rules.Rules {
		name := beaconName(&rules.Rules[i])
		switch {
		case name == "" && rules.Rules[i].Type == "local":
			return out, nil
		case name == "":
			continue
		}
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

// beaconName is the database of a beacon, or "" for another rule.
func beaconName(r *hba.Rule) string {
	if r.Type != "local" || r.Method != "reject" || len(r.Databases) != 1 || !strings.HasPrefix(r.Databases[0].Text, beaconPrefix) {
		return ""
	}
	return r.Databases[0].Text
}

// withoutBeacons is the file without them, for comparing who gets in.
func withoutBeacons(f *hba.File) *hba.File {
	bare := *f
	bare.Rules = slices.DeleteFunc(slices.Clone(f.Rules), func(r hba.Rule) bool {
		return beaconName(&r) != ""
	})
	return &bare
}
