package resources

import (
	"slices"
	"strings"
	"testing"
	"time"

	"converge/engine/recipe"
	"converge/resources/pki"
	"converge/resources/postgres"
)

// judged returns the problems of a status, each with its way out.
func judged(role string, lastRun time.Time, st Status) []string {
	env := &recipe.Environment{Nodes: []recipe.Node{{Name: "db1", Role: "db_master"}, {Name: "app1", Role: "app"}}}
	in := &inspection{now: statusNow, lastRun: lastRun, status: st, site: Site{
		Environment: env, Node: recipe.Node{Name: "here", Role: role}, Server: &postgres.Server{DataDirectory: "/data", Owner: postgres.Owner{Name: "postgres"}},
	}}
	in.judge()
	var out []string
	for _, p := range in.status.Problems {
		out = append(out, p.Text+" -> "+p.Mend)
	}
	return out
}

var statusNow = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// certIn returns a certificate that ends in so many days, and may be renewed in the last thirty.
func certIn(address string, days int) *CertStatus {
	ends := statusNow.Add(time.Duration(days) * pki.Day)
	return &CertStatus{Address: address, Path: "/" + address, Fingerprint: "aaaaaaaaaaaaaaaa", Expires: ends, DaysLeft: days, RenewAfter: ends.Add(-30 * pki.Day)}
}

func running() *ServerStatus { return &ServerStatus{Phase: postgres.Running, Starts: "yes"} }

func TestAStatusIsJudged(t *testing.T) {
	yesterday, lastYear := statusNow.Add(-pki.Day), statusNow.Add(-365*pki.Day)
	with := func(c *CertStatus, change func(*CertStatus)) *CertStatus {
		change(c)
		return c
	}
	for _, c := range []struct {
		name    string
		role    string
		lastRun time.Time
		status  Status
		want    []string // what each problem begins with, and its way out
	}{
		{"all is well", "db_master", yesterday, Status{Server: running(), Authority: certIn("ca", 1000), ServerKey: certIn("server", 100)}, nil},
		{"in its renewal window, and no run has come since", "db_master", lastYear, Status{ServerKey: certIn("server", 20)}, nil},
		{"in its renewal window, and a run has come", "db_master", yesterday, Status{ServerKey: certIn("server", 20)},
			[]string{"server: /server expires in 20 days, on 2027-03-21, and the last run (2027-02-28) did not renew it -> converge apply"}},
		{"the same on a node without the authority", "app", yesterday, Status{UserKeys: []CertStatus{*certIn("user", 20)}},
			[]string{"user: /user expires in 20 days, on 2027-03-21, and the last run (2027-02-28) did not renew it -> converge apply on db1, then here"}},
		{"it ends with its authority", "db_master", lastYear, Status{Authority: certIn("ca", 20), ServerKey: with(certIn("server", 20), func(c *CertStatus) { c.final = true })},
			[]string{
				"ca: /ca expires in 20 days, on 2027-03-21, and nothing that it signs lasts longer -> converge rotate ca",
				"server: /server expires in 20 days, on 2027-03-21, because its authority does: no run can renew it -> converge rotate ca",
			}},
		{"the authority's end, elsewhere", "app", yesterday, Status{Authority: certIn("ca", 20)},
			[]string{"ca: /ca expires in 20 days, on 2027-03-21, and nothing that it signs lasts longer -> converge rotate ca on db1, then converge apply here"}},
		{"an authority whose place is taken by itself has half of its window", "db_master", yesterday,
			Status{Authority: with(certIn("ca", 20), func(c *CertStatus) { c.changes = true })}, nil},
		{"and then it is late", "db_master", yesterday, Status{Authority: with(certIn("ca", 14), func(c *CertStatus) { c.changes = true })},
			[]string{"ca: /ca expires in 14 days, on 2027-03-15, and no other authority has taken its place -> converge apply on every node, the one with the authority first"}},
		{"expired a moment ago", "db_master", yesterday, Status{ServerKey: certIn("server", 0)}, []string{"server: /server expired on 2027-03-01 -> converge apply"}},
		{"a copy is missing", "app", yesterday, Status{UserKeys: []CertStatus{{Address: "user", Path: "/a", Missing: true}}}, []string{"user: /a does not exist -> converge apply"}},
		{"another certificate is served", "db_master", yesterday,
			Status{Server: running(), ServerKey: with(certIn("server", 100), func(c *CertStatus) { c.Served, c.ServedFingerprint = "no", "bbbbbbbbbbbbbbbb" })},
			[]string{"server: the server does not serve /server: it serves bbbbbbbbbbbb, and aaaaaaaaaaaa is on disk -> converge apply"}},
		{"the served one is over, and the one on disk is not", "db_master", yesterday,
			Status{Server: running(), ServerKey: with(certIn("server", 100), func(c *CertStatus) { c.ServedExpires = &lastYear })},
			[]string{"server: the certificate that the server serves expired on 2026-03-01; the one on disk is good -> converge apply"}},
		{"a server that is down serves nothing, and that is one problem", "db_master", yesterday,
			Status{Server: &ServerStatus{Phase: postgres.Stopped, Starts: "yes"}, ServerKey: with(certIn("server", 100), func(c *CertStatus) { c.Served = "no" }), HBA: &HBAStatus{Loaded: "no"}},
			[]string{"the server is stopped -> setpriv --reuid=postgres --regid=postgres --init-groups pg_ctl start -D /data"}},
		{"a standby that does not stream", "db_replica", yesterday, Status{Replication: &postgres.Replication{InRecovery: true}}, []string{"this standby does not stream: it has no connection to the server that it follows -> look at the server's log, at primary_conninfo and at primary_slot_name"}},
		{"a list near its end, and a run has come", "db_master", yesterday,
			Status{CRLs: []CRLStatus{{Path: "/crl", Issuer: "CN=ca", ThisUpdate: statusNow.Add(-25 * pki.Day), NextUpdate: statusNow.Add(5 * pki.Day), DaysLeft: 5}}},
			[]string{"revocation list /crl expires in 5 days, on 2027-03-06, and the last run (2027-02-28) did not renew it: from then on the server refuses every client that shows a certificate of CN=ca -> converge apply"}},
		{"a list without an end", "db_master", yesterday, Status{CRLs: []CRLStatus{{Path: "/crl", Issuer: "CN=ca"}}}, nil},
		{"never a run", "db_master", time.Time{}, Status{ServerKey: certIn("server", 20)}, nil},
	} {
		if got := judged(c.role, c.lastRun, c.status); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestARestartIsGivenWhatWasMeasured(t *testing.T) {
	var none *Restarts
	r := &Restarts{}
	for _, got := range []RestartTime{none.Expect("/data"), r.Expect("/data")} {
		if got.Restart != firstGuess || got.Measured != 0 || got.Needed() != 2*firstGuess || !strings.Contains(got.String(), "first guess") {
			t.Errorf("without a measurement: %v, %s needed", got, got.Needed())
		}
	}
	none.add("/data", time.Second) // nobody keeps it
	r.add("/data", 300*time.Millisecond)
	if got := r.Expect("/data"); got.Needed() != 2*leastRestart || got.String() != "about 300ms (as the last one did)" || !r.Fresh() {
		t.Errorf("after a short one: %v, %s needed", got, got.Needed())
	}
	r.add("/data", 90*time.Second)
	if got := r.Expect("/data"); got.Needed() != 3*time.Minute || got.String() != "about 1m30s (the longest of the last 2)" {
		t.Errorf("after a long one: %v, %s needed", got, got.Needed())
	}
	if got := r.Expect("/another"); got.Measured != 0 {
		t.Errorf("another server is given %v", got)
	}
	for range restartsKept {
		r.add("/data", time.Second)
	}
	if got := r.Expect("/data"); got.Restart != time.Second || got.Measured != restartsKept {
		t.Errorf("an old one still counts: %v", got)
	}
}
