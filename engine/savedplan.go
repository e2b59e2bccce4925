package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A RefusedError is a run that converge will not do, although it could.
type RefusedError struct {
	Reason string
	Detail string // several lines, for below the reason
}

func (e *RefusedError) Error() string { return e.Reason }

// IsRefused says whether an error is a refusal.
func IsRefused(err error) bool {
	var r *RefusedError
	return errors.As(err, &r)
}

// A SavedPlan is a plan in a file: the operations, and what they were decided from. It holds no content of a sensitive
// file.
type SavedPlan struct {
	Format      int                          `json:"format"`
	ID          string                       `json:"id"`
	Created     time.Time                    `json:"created"`
	Environment string                       `json:"environment"`
	Node        string                       `json:"node"`
	Role        string                       `json:"role"`
	Disruption  Disruption                   `json:"disruption"`
	Changes     []*Change                    `json:"changes"`
	Unchanged   int                          `json:"unchanged"`
	Owed        []Owed                       `json:"owed"`
	Inputs      map[string]string            `json:"inputs"` // recipes and environment: name to SHA-256
	Reads       map[string]map[string]string `json:"reads"`  // by step: what stood at each path it looked at
}

// Save gives the plan the form in which it is kept. A plan with failures is not to be saved: it could not be applied.
func (p *Plan) Save(now time.Time) (*SavedPlan, error) {
	if len(p.Failures) > 0 {
		return nil, fmt.Errorf("the plan has failures and is not saved: %s: %s", p.Failures[0].Address, p.Failures[0].Error)
	}
	return &SavedPlan{
		Format: 1, ID: newRunName(now.UTC()), Created: now.UTC().Truncate(time.Second),
		Environment: p.Environment, Node: p.Node, Role: p.Role, Disruption: p.Disruption,
		Changes: p.Changes, Unchanged: p.Unchanged, Owed: p.Owed, Inputs: p.inputs, Reads: p.reads,
	}, nil
}

// ParseSavedPlan reads the file that a plan was saved to.
func ParseSavedPlan(b []byte) (*SavedPlan, error) {
	p := &SavedPlan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("not a saved plan: %w", err)
	}
	if p.Format != 1 || p.ID == "" {
		return nil, fmt.Errorf("not a saved plan of format 1, which this version reads")
	}
	return p, nil
}

// Encode is the content of the plan's file.
func (p *SavedPlan) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

// stillHolds refuses a saved plan when it was for somebody else, was applied before, or when anything that it was
// decided from has changed.
func (e *Engine) stillHolds(ctx context.Context, g *Graph, o Options) error {
	saved := o.Only
	if saved.Environment != g.Environment || saved.Node != g.Node || saved.Role != g.Role {
		return &RefusedError{Reason: fmt.Sprintf("the plan was made for %s %s in %s, and this is %s %s in %s",
			saved.Role, saved.Node, saved.Environment, g.Role, g.Node, g.Environment)}
	}
	used, err := e.State.used(saved)
	if err != nil {
		return err
	}
	if used {
		return &RefusedError{Reason: "the plan was applied before: a plan is good for one run; make a new one"}
	}
	now, err := e.plan(ctx, g, o, true)
	if err != nil {
		return err
	}
	reasons := changedReads(saved.Inputs, now.inputs, "")
	for _, step := range slices.Sorted(maps.Keys(saved.Reads)) {
		reasons = append(reasons, changedReads(saved.Reads[step], now.reads[step], step)...)
	}
	for _, f := range now.Failures {
		reasons = append(reasons, fmt.Sprintf("%s fails now: %s", f.Address, f.Error))
	}
	differs := differingChanges(saved.Changes, now.Changes)
	if len(reasons) == 0 && differs == "" {
		return nil
	}
	return &RefusedError{
		Reason: "something that the plan was made from has changed since: make a new plan",
		Detail: strings.Join(append(reasons, differs), "\n"),
	}
}

// changedReads says what was looked at then and is different now.
func changedReads(then, now map[string]string, step string) []string {
	names := map[string]string{}
	maps.Copy(names, then)
	maps.Copy(names, now)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, is := cmp.Or(then[name], "not looked at"), cmp.Or(now[name], "not looked at")
		if was == is {
			continue
		}
		text := fmt.Sprintf("%s was %s, is %s", name, brief(was), brief(is))
		if step != "" {
			text = step + ": " + text
		}
		out = append(out, text)
	}
	return out
}

// brief is a fingerprint with a sum that people can compare.
func brief(fingerprint string) string {
	i := strings.LastIndexByte(fingerprint, ' ') + 1
	if len(fingerprint)-i != hex.EncodedLen(sha256.Size) {
		return fingerprint
	}
	return fingerprint[:i] + short(fingerprint[i:])
}

// differingChanges shows each step whose operations are others now, both ways.
func differingChanges(then, now []*Change) string {
	a, b := byAddress(then), byAddress(now)
	addresses := slices.Sorted(maps.Keys(a))
	for _, addr := range slices.Sorted(maps.Keys(b)) {
		if _, known := a[addr]; !known {
			addresses = append(addresses, addr)
		}
	}
	var out strings.Builder
	for _, addr := range addresses {
		if was, is := opsText(a[addr]), opsText(b[addr]); was != is {
			fmt.Fprintf(&out, "%s, as planned:\n%s%s, as it would be now:\n%s", addr, was, addr, is)
		}
	}
	return out.String()
}

func byAddress(changes []*Change) map[string][]*Op {
	m := map[string][]*Op{}
	for _, c := range changes {
		m[c.Address] = append(m[c.Address], c.Ops...)
	}
	return m
}

// opsText is all that is known of operations, in a form that can be compared and read.
func opsText(ops []*Op) string {
	if len(ops) == 0 {
		return "  nothing\n"
	}
	var out strings.Builder
	for _, o := range ops {
		j := o.view()
		fmt.Fprintf(&out, "  %s", o)
		if j.Before != j.After {
			fmt.Fprintf(&out, " (%s to %s)", short(j.Before), short(j.After))
		}
		fmt.Fprintln(&out)
		for _, l := range lines(j.Diff) {
			out.WriteString("    " + l)
		}
	}
	return out.String()
}

func short(sum string) string {
	if len(sum) > 12 {
		return sum[:12]
	}
	return "none"
}

// expects refuses a step's operations when they are not those of the plan.
func (p *SavedPlan) expects(address string, ops []*Op) error {
	planned := byAddress(p.Changes)[address]
	if was, is := opsText(planned), opsText(ops); was != is {
		return &RefusedError{
			Reason: "not what the plan says, something has changed in the meantime: make a new plan",
			Detail: fmt.Sprintf("as planned:\n%sas it would be now:\n%s", was, is),
		}
	}
	return nil
}

const plansDir = "plans"

// used says whether a saved plan was applied before.
func (s *State) used(p *SavedPlan) (bool, error) {
	if err := checkID(p.ID); err != nil {
		return false, err
	}
	_, err := s.disk.Stat(s.path(plansDir, p.ID))
	if IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// useUp marks a saved plan as applied.
func (s *State) useUp(p *SavedPlan) error { return s.write(plansDir+"/"+p.ID, nil) }

func checkID(id string) error {
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != 'T' && c != 'Z' && c != '.' && c != '-' {
			return fmt.Errorf("the plan has %q for its name, which converge has not given it", id)
		}
	}
	return nil
}
