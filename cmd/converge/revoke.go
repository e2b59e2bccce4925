package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"converge/engine"
	"converge/resources"
)

type revokeFlags struct {
	serials   []string
	reason    string
	reissue   bool
	terminate bool
	dryRun    bool
	yes       bool
}

func (a *app) revokeCommand() *cobra.Command {
	var f revokeFlags
	c := &cobra.Command{
		Use:   "revoke USER...",
		Short: "Make the keys of users count no longer",
		Long: `Make the keys of users count no longer, because they are in the wrong hands: every certificate of theirs that has not
ended is put on a revocation list, which the servers of the environment load, and it is proven that the server of this node
refuses them. Run it on the node that has the authority; the other servers take the list with their next run.

The users' files stay where they are, and open nothing any more. The next converge apply gives another key to each user whom
a user_key declares; with --reissue this run does. To keep a user out, take the user_key away, or give it state = "absent".

Sessions that are open stay open, for a server looks at a certificate when a connection begins. They are counted, and
--terminate ends them. What is revoked stays revoked.`,
		Example: `  converge revoke alice                        # all of her keys
  converge revoke alice --reissue --terminate  # she gets another one, and her sessions end
  converge rotate deploy                       # without a gap: first the new key, on all nodes,
  converge revoke deploy --serial 4f1c...      # then the old one`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, users []string) error {
			s, err := a.revoke(cmd, users, f)
			a.brokenOff(s, err)
			return err
		},
	}
	c.Flags().StringArrayVar(&f.serials, "serial", nil, "only the certificate with this serial number, `HEX`, and all others over its key; repeatable")
	c.Flags().StringVar(&f.reason, "reason", "", "why, for the record (`TEXT`)")
	c.Flags().BoolVar(&f.reissue, "reissue", false, "give the users another key in the same run")
	c.Flags().BoolVar(&f.terminate, "terminate", false, "end the sessions that were opened with the revoked certificates")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be done; write nothing")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask on a terminal whether to go on")
	return c
}

// maintenance is what a run is to do of it. Each run has one of its own: it remembers what it has chosen.
func (f revokeFlags) maintenance(users []string) (*resources.Maintenance, error) {
	m := &resources.Maintenance{Revoke: slices.Compact(slices.Sorted(slices.Values(users))), Reason: f.reason, Reissue: f.reissue}
	if len(f.reason) > 200 || strings.ContainsFunc(f.reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, usage("--reason: one line of at most 200 bytes")
	}
	for _, text := range f.serials {
		serial, err := resources.ParseSerial(text)
		if err != nil {
			return nil, usage("--serial: %w", err)
		}
		m.Serials = append(m.Serials, serial)
	}
	return m, nil
}

func (a *app) revoke(cmd *cobra.Command, users []string, f revokeFlags) (s *site, err error) {
	if a.maintenance, err = f.maintenance(users); err != nil {
		return nil, err
	}
	if err := a.roleOfLastRun(); err != nil {
		return nil, err
	}
	users = a.maintenance.Revoke
	a.checkSite = mayRevoke
	s, agreed, err := a.revokePlan(cmd, users, f)
	if err != nil || !agreed {
		return s, err
	}
	if a.maintenance, err = f.maintenance(users); err != nil {
		return s, err
	}
	s, rep, _, err := a.applyOnce(cmd.Context(), cmd.Context(), nil, runFlags{maxDisruption: engine.Reload.String()})
	if err != nil {
		return s, err
	}
	return s, a.revoked(cmd, s, rep, users, f)
}

// mayRevoke refuses what is not for this node to do.
func mayRevoke(s *site) error {
	if !resources.Issues(s.node.Role) {
		return &engine.RefusedError{Reason: fmt.Sprintf("certificates are revoked on %s, which has the authority, and this node is %s: run it there", resources.AuthorityNode(s.env), s.node.Role)}
	}
	return nil
}

// revokePlan shows what would be done, with what it means for the users, and asks. It says whether to go on.
func (a *app) revokePlan(cmd *cobra.Command, users []string, f revokeFlags) (*site, bool, error) {
	s, err := a.openSite(cmd.Context())
	defer s.close()
	if err != nil {
		return s, false, err
	}
	a.followLong(s.engine)
	plan, err := s.engine.Plan(cmd.Context(), s.graph, s.options())
	if err != nil {
		return s, false, err
	}
	if f.dryRun || !a.flags.json || len(plan.Failures) > 0 {
		if err := a.showPlan(plan, s); err != nil {
			return s, false, err
		}
	}
	if slices.ContainsFunc(plan.Failures, ofAuthority) {
		return s, false, failuresExit(plan.Failures)
	}
	fresh := resources.RevokedUsers(a.maintenance.Revoked)
	for _, line := range consequences(s, fresh, f) {
		fmt.Fprintf(a.stderr, "converge: note: %s\n", line)
	}
	a.out.flush()
	if f.dryRun || len(fresh) == 0 || f.yes || !isatty.IsTerminal(os.Stdin.Fd()) {
		return s, !f.dryRun, nil
	}
	return s, a.goesOn(fmt.Sprintf("Revoke the keys of %s?", strings.Join(fresh, ", "))), nil
}

// ofAuthority says that nothing can be revoked. What else fails has to wait: a key has leaked.
func ofAuthority(f engine.Failure) bool { return strings.HasPrefix(f.Address, "cert_authority.") }

// goesOn asks somebody on a terminal.
func (a *app) goesOn(question string) bool {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	fmt.Fprintln(a.stderr, "converge: nothing is revoked")
	return false
}

// consequences is what the operator should know before it is done.
func consequences(s *site, users []string, f revokeFlags) []string {
	var out []string
	declared := resources.UsersOf(s.graph)
	for _, u := range users {
		switch {
		case !slices.Contains(declared, u):
			out = append(out, fmt.Sprintf("no user_key declares %s, who gets no other key", u))
		case f.reissue:
			out = append(out, fmt.Sprintf("%s gets another key in this run, and on other nodes with their next run; until then connections of %s from there fail", u, u))
		default:
			out = append(out, fmt.Sprintf("%s has no key that opens anything until the next converge apply, which makes another one (--reissue: this run does); to keep %s out, take the user_key away, or give it state = \"absent\"", u, u))
		}
		if u == s.env.AdminUser && len(resources.Servers(s.types)) > 0 {
			out = append(out, fmt.Sprintf("%s is the admin user: replicas that connect with its key cannot connect again before they have another one; without a gap: converge rotate %s, converge apply on every node, then converge revoke %s --serial of the old one", u, u, u))
		}
	}
	return out
}

// revokeJSON is the last line of revoke --json.
type revokeJSON struct {
	doneJSON
	Revoked    []resources.Revocation `json:"revoked"` // of the users named, by this run and earlier ones
	Proof      string                 `json:"proof,omitempty"`
	Sessions   int                    `json:"sessions"` // still open on this node's server
	Terminated int                    `json:"terminated"`
	Servers    []string               `json:"other_servers,omitempty"` // nodes that take the list with their next run
}

// revoked tells what has become of it.
func (a *app) revoked(cmd *cobra.Command, s *site, rep *engine.Report, users []string, f revokeFlags) error {
	found, err := resources.InspectRevoked(cmd.Context(), s.engine.Disk, s.graph, s.types, users)
	if err != nil {
		a.toldReport(rep, revokeJSON{doneJSON: done(rep), Revoked: notNil(found.Revoked)})
		return cmp.Or(a.applyExit(rep, runFlags{}), err)
	}
	j := revokeJSON{doneJSON: done(rep), Revoked: notNil(found.Revoked), Proof: found.Proof, Sessions: len(found.Sessions), Servers: resources.Servers(s.types)}
	if f.terminate && len(found.Sessions) > 0 {
		if err := found.Terminate(cmd.Context(), s.server); err != nil {
			return err
		}
		j.Terminated, j.Sessions = j.Sessions, 0
	}
	a.toldReport(rep, j)
	if !a.flags.json {
		newPrinter(a).aftermath(j, found, users)
	}
	return a.applyExit(rep, runFlags{})
}

// toldReport ends the run's output.
func (a *app) toldReport(rep *engine.Report, j revokeJSON) {
	if a.flags.json {
		a.printJSON(j)
	} else {
		newPrinter(a).report(rep)
	}
}

// aftermath shows what is revoked, the proof, and what is left to be done.
func (p *printer) aftermath(j revokeJSON, found resources.Aftermath, users []string) {
	p.linef("")
	for _, r := range found.Revoked {
		why := ""
		if r.Reason != "" {
			why = ": " + printable(r.Reason)
		}
		p.linef("Revoked since %s: %s%s", r.At.Local().Format("2006-01-02 15:04"), r.Short(), why)
	}
	switch {
	case found.Proof != "":
		p.linef("Proof: %s.", found.Proof)
	default:
		p.linef("%s", p.paint(yellow, "No proof: the server does not run; it loads the list when it starts."))
	}
	if len(j.Servers) > 0 {
		p.linef("The servers of %s take the list with their next converge apply, and let the old keys in until then.", strings.Join(j.Servers, ", "))
	}
	if j.Terminated > 0 {
		p.linef("%s ended.", count(j.Terminated, "session was", "sessions were"))
	}
	if j.Sessions > 0 {
		kind := ""
		if found.Guessed {
			kind = " (this version of PostgreSQL does not tell which certificate a session has: those with a newer one are among them)"
		}
		p.linef("%s of %s still open%s. To end: converge revoke %s --terminate, or", count(j.Sessions, "session", "sessions"), strings.Join(users, ", "), kind, strings.Join(users, " "))
		p.linef("    %s", found.SQL)
	}
}
