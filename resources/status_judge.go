package resources

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"converge/resources/pki"
	"converge/resources/postgres"
)

// The commands that mend most of what there is.
const (
	mendApply    = "converge apply"
	mendRotateCA = "converge rotate ca"
)

// judge names what needs the operator: what is out of service first, then what will be.
func (in *inspection) judge() {
	in.judgeServer()
	in.judgeSSL()
	in.judgeHBA()
	for _, c := range in.certificates() {
		in.judgeCert(*c)
	}
	in.judgeCRLs()
	for _, p := range in.status.Plaintext {
		in.problem(fmt.Sprintf(`psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE NOT ssl AND usename = '%s' AND client_addr = '%s'"`, p.User, p.From),
			"%d open %s of %s from %s without TLS, which the rules ask for: they came before the rules, and stay until they end", p.Sessions, plural(p.Sessions, "session", "sessions"), p.User, p.From)
	}
	for _, r := range in.status.Revoked {
		in.problem(fmt.Sprintf(`psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE client_serial = %s"`, r.decimal),
			"%d open %s of %s with a certificate that is revoked (serial number %s): a server looks at it when a connection begins", r.Sessions, plural(r.Sessions, "session", "sessions"), r.User, r.Serial)
	}
	if r := in.status.Replication; r != nil && r.InRecovery && !r.Streaming {
		in.problem("look at the server's log, at primary_conninfo and at primary_slot_name", "this standby does not stream: it has no connection to the server that it follows")
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func (in *inspection) certificates() []*CertStatus {
	var out []*CertStatus
	for _, c := range []*CertStatus{in.status.Authority, in.status.ServerKey} {
		if c != nil {
			out = append(out, c)
		}
	}
	for i := range in.status.UserKeys {
		out = append(out, &in.status.UserKeys[i])
	}
	return out
}

func (in *inspection) judgeServer() {
	st := in.status.Server
	if st == nil {
		return
	}
	fit := st.Starts == "yes" || st.Starts == "unknown"
	why := strings.TrimPrefix(st.Starts, postgres.ErrWouldNotStart.Error()+": ")
	switch {
	case st.Phase == postgres.Stopped && fit:
		in.problem(in.site.Server.StartCommand(), "the server is stopped")
	case st.Phase == postgres.Stopped:
		in.problem("mend what it names, then "+in.site.Server.StartCommand(), "the server is stopped, and would not start: %s", why)
	case !fit:
		in.problem("mend what it names before the next restart; converge apply mends what is converge's", "the server would not start again: %s", why)
	case st.Phase != postgres.Running && st.Phase != "":
		in.problem("converge status again in a moment, and the server's log", "the server is %s", st.Phase)
	}
}

func (in *inspection) judgeSSL() {
	ssl := in.status.SSL
	if ssl == nil || ssl.Declared != "on" {
		return
	}
	switch {
	case ssl.OnDisk == "off":
		in.problem(mendApply, "ssl is declared on, and off in the configuration on disk")
	case ssl.Served == "off" && in.running():
		in.problem(mendApply, "ssl is on in the configuration, and the server answers that it has no TLS, whatever SHOW ssl says")
	}
}

func (in *inspection) judgeHBA() {
	h := in.status.HBA
	if h == nil {
		return
	}
	for _, e := range h.Errors {
		in.problem(fmt.Sprintf("edit the line (converge hba check %s shows the way out), then converge apply", h.Path),
			"%s; with it, reloads of pg_hba.conf are ignored and a restart fails", e)
	}
	if h.Loaded == "no" && len(h.Errors) == 0 && in.running() {
		in.problem(mendApply, "pg_hba.conf was changed, and the server has not read it since")
	}
}

// judgeCert judges a certificate where it lies, and where it is served.
func (in *inspection) judgeCert(c CertStatus) {
	switch {
	case c.Missing:
		in.problem(mendApply, "%s: %s does not exist", c.Address, c.Path)
	case c.Error != "":
		in.problem(cmp.Or(c.mend, mendApply), "%s: %s", c.Address, c.Error)
	case !c.Expires.After(in.now):
		in.problem(in.mendRenewal(c), "%s: %s expired on %s", c.Address, c.Path, c.Expires.Format(time.DateOnly))
	case !in.now.Before(c.RenewAfter):
		in.judgeRenewal(c)
	}
	if c.Key != "" {
		in.problem(mendApply, "%s: %s", c.Address, c.Key)
	}
	if e := c.ServedExpires; e != nil && !e.After(in.now) && c.Expires.After(in.now) {
		in.problem(mendApply, "%s: the certificate that the server serves expired on %s; the one on disk is good", c.Address, e.Format(time.DateOnly))
	}
	switch {
	case c.Served != "no" || !in.running():
	case c.ServedFingerprint != "":
		in.problem(mendApply, "%s: the server does not serve %s: it serves %s, and %s is on disk", c.Address, c.Path, shortSum(c.ServedFingerprint), shortSum(c.Fingerprint))
	default:
		in.problem(mendApply, "%s: the server does not serve %s", c.Address, c.Path)
	}
}

// judgeRenewal judges a certificate inside its renewal window. That the window has begun is no fault; that a run has come
// and gone since is one. An authority has half of it: its place is taken step by step, by runs of every node.
func (in *inspection) judgeRenewal(c CertStatus) {
	ends := fmt.Sprintf("%s: %s expires in %d days, on %s", c.Address, c.Path, c.DaysLeft, c.Expires.Format(time.DateOnly))
	switch {
	case in.isAuthority(c) && c.changes && c.Expires.Sub(in.now) > c.Expires.Sub(c.RenewAfter)/2:
	case in.isAuthority(c) && c.changes:
		in.problem(in.mendRenewal(c), "%s, and no other authority has taken its place", ends)
	case in.isAuthority(c):
		in.problem(in.mendRenewal(c), "%s, and nothing that it signs lasts longer", ends)
	case c.final:
		in.problem(in.mendRenewal(c), "%s, because its authority does: no run can renew it", ends)
	case !in.lastRun.Before(c.RenewAfter):
		in.problem(in.mendRenewal(c), "%s, and the last run (%s) did not renew it", ends, in.lastRun.Format(time.DateOnly))
	}
}

func (in *inspection) isAuthority(c CertStatus) bool {
	return in.status.Authority != nil && in.status.Authority.Address == c.Address
}

// mendRenewal is where a new certificate comes from: this node, or the one with the authority.
func (in *inspection) mendRenewal(c CertStatus) string {
	elsewhere := !issues(in.site.Node.Role)
	a := in.status.Authority
	switch {
	case (in.isAuthority(c) || c.final) && a != nil && a.changes:
		return "converge apply on every node, the one with the authority first"
	case (in.isAuthority(c) || c.final) && elsewhere:
		return fmt.Sprintf("%s on %s, then converge apply here", mendRotateCA, in.site.authorityNode())
	case in.isAuthority(c) || c.final:
		return mendRotateCA
	case elsewhere:
		return fmt.Sprintf("converge apply on %s, then here", in.site.authorityNode())
	}
	return mendApply
}

// judgeCRLs judges the lists of revoked certificates. One that has ended is no small thing: the server then refuses every
// client that shows a certificate of its issuer.
func (in *inspection) judgeCRLs() {
	var issuers []string
	whole := true
	for _, c := range in.status.CRLs {
		issuers = append(issuers, c.Issuer)
		whole = whole && c.Error == ""
		in.judgeCRL(c)
	}
	if len(issuers) == 0 || !whole || in.conf == nil {
		return
	}
	for _, a := range in.trusted() {
		if !slices.Contains(issuers, a.Subject.String()) {
			in.problem(mendApply, "no revocation list is of the authority %q: the server refuses every client with a certificate of it", a.Subject.CommonName)
		}
	}
}

func (in *inspection) judgeCRL(c CRLStatus) {
	const closed = "the server refuses every client that shows a certificate of"
	switch {
	case c.Error != "":
		in.problem("converge apply, where the list is converge's; else put it back, or take ssl_crl_file out of postgresql.conf", "revocation list %s: %s", c.Path, c.Error)
	case c.NextUpdate.IsZero():
	case !c.NextUpdate.After(in.now):
		in.problem(mendApply, "revocation list %s expired on %s: %s %s", c.Path, c.NextUpdate.Format(time.DateOnly), closed, c.Issuer)
	default:
		renew := c.NextUpdate.Add(-pki.RenewBefore(c.NextUpdate.Sub(c.ThisUpdate)))
		if !in.now.Before(renew) && !in.lastRun.Before(renew) {
			in.problem(mendApply, "revocation list %s expires in %d days, on %s, and the last run (%s) did not renew it: from then on %s %s",
				c.Path, c.DaysLeft, c.NextUpdate.Format(time.DateOnly), in.lastRun.Format(time.DateOnly), closed, c.Issuer)
		}
	}
}

// trusted are the authorities of ssl_ca_file on the disk.
func (in *inspection) trusted() []pki.Certificate {
	v := in.conf.Value("ssl_ca_file", "")
	if v == "" {
		return nil
	}
	b, _, err := in.disk.ReadFile(in.site.Server.Path(v), certLimit)
	if err != nil {
		in.unknown("ssl_ca_file", err)
		return nil
	}
	certs, err := pki.ParseCertificates(b)
	if err != nil {
		in.unknown("ssl_ca_file", fmt.Errorf("%s: %w", v, err))
	}
	return certs
}
