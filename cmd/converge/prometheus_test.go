package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"converge/engine"
	"converge/resources"
	"converge/resources/postgres"
)

// aStatus has something of everything, and names that have to be quoted.
func aStatus() *statusJSON {
	day := func(n int) time.Time { return time.Date(2027, 1, n, 0, 0, 0, 0, time.UTC) }
	started, served, window := day(1), day(8), day(3)
	return &statusJSON{
		Format: 1, Environment: "production", Node: "db1", Role: "db_master",
		Status: resources.Status{
			Server:    &resources.ServerStatus{Version: "15.18", Phase: postgres.Running, Started: &started, Starts: "yes"},
			SSL:       &resources.SSLStatus{Served: "on"},
			HBA:       &resources.HBAStatus{Loaded: "no", Errors: []string{"line 3"}},
			Authority: &resources.CertStatus{Address: "cert_authority.environment", Path: "/a/ca.crt", Expires: day(9)},
			ServerKey: &resources.CertStatus{Address: "server_key.postgresql", Path: "/s/server.crt", Expires: day(7), Served: "no", ServedExpires: &served},
			UserKeys: []resources.CertStatus{
				{User: "deploy", Path: "/home/deploy/.postgresql/postgresql.crt", Expires: day(6)},
				{User: "de\"pl\\oy", Path: "/b\n/postgresql.crt", Missing: true},
				{User: "de\"pl\\oy", Path: "/c\n/postgresql.crt", Expires: day(5)},
			},
			CRLs:      []resources.CRLStatus{{Path: "/s/ca.crl", Issuer: "CN=production CA 1", NextUpdate: day(4)}},
			Plaintext: []resources.Plaintext{{User: "deploy", Sessions: 2}},
			Revoked:   []resources.RevokedSessions{{User: "alice", Sessions: 1}, {User: "bob", Sessions: 2}},
			Problems:  []resources.Trouble{{Text: "a"}, {Text: "b"}},
		},
		Drift:      []drift{{Address: "file_block.a"}},
		Owed:       []engine.Owed{{Service: "postgresql", Action: engine.Restart, Since: day(2)}},
		NextWindow: &window,
		LastRun:    &lastRun{Result: engine.ResultFailed, Finished: day(2), Changed: 3},
	}
}

// parsed reads metrics as node_exporter does, and returns the values by name and labels.
func parsed(t *testing.T, text []byte) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	out := map[string]float64{}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.Metric {
			key := name
			for _, l := range m.Label {
				if l.GetName() != "node" {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			if _, twice := out[key]; twice {
				t.Errorf("%s is there twice", key)
			}
			out[key] = m.Gauge.GetValue()
		}
	}
	return out
}

func TestMetricsOfAStatus(t *testing.T) {
	now := time.Date(2027, 1, 2, 12, 0, 0, 0, time.UTC)
	text, err := statusMetrics(aStatus(), now).text()
	if err != nil {
		t.Fatal(err)
	}
	got := parsed(t, text)
	day := func(n int) float64 { return float64(time.Date(2027, 1, n, 0, 0, 0, 0, time.UTC).Unix()) }
	for key, want := range map[string]float64{
		"converge_status_success": 1, "converge_healthy": 0, "converge_problems": 2, "converge_drifted_resources": 1, "converge_server_up": 1,
		"converge_server_would_start": 1, "converge_server_tls": 1, "converge_server_certificate_current": 0, "converge_hba_errors": 1,
		"converge_hba_loaded": 0, "converge_plaintext_sessions": 2, "converge_revoked_sessions": 3, "converge_user_key_copies": 3, "converge_user_key_copies_broken": 1,
		"converge_expiry_timestamp_seconds kind=authority name=cert_authority.environment path=/a/ca.crt":      day(9),
		"converge_expiry_timestamp_seconds kind=server name=server_key.postgresql path=/s/server.crt":          day(7),
		"converge_expiry_timestamp_seconds kind=served name=server_key.postgresql path=":                       day(8),
		"converge_expiry_timestamp_seconds kind=user name=deploy path=/home/deploy/.postgresql/postgresql.crt": day(6),
		"converge_expiry_timestamp_seconds kind=user name=de\"pl\\oy path=/c\n/postgresql.crt":                 day(5),
		"converge_expiry_timestamp_seconds kind=crl name=CN=production CA 1 path=/s/ca.crl":                    day(4),
		"converge_owed_actions": 1, "converge_owed_since_timestamp_seconds action=restart service=postgresql": day(2),
		"converge_next_maintenance_window_timestamp_seconds": day(3), "converge_maintenance_window_open": 0,
		"converge_last_run_timestamp_seconds": day(2), "converge_last_run_changed_resources": 3,
		"converge_last_run_result result=failed": 1, "converge_last_run_result result=ok": 0,
	} {
		if value, there := got[key]; !there || value != want {
			t.Errorf("%q is %v (%v), want %v", key, value, there, want)
		}
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
	if !strings.HasSuffix(string(text), "\n") {
		t.Error("the last line does not end")
	}
}

func TestMetricsOfANodeThatCannotBeTold(t *testing.T) {
	text, err := untoldMetrics(time.Unix(1800000000, 0)).text()
	if err != nil {
		t.Fatal(err)
	}
	if got := parsed(t, text); len(got) != 2 || got["converge_status_success"] != 0 || got["converge_status_timestamp_seconds"] != 1800000000 {
		t.Errorf("got %v", got)
	}
}
