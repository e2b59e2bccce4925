package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"converge/engine"
	"converge/engine/disk"
	"converge/resources"
	"converge/resources/postgres"
)

// A metricSet gathers metrics for one text. It is a collector of Prometheus' own client library, whose registry refuses what
// node_exporter would.
type metricSet struct {
	metrics []prometheus.Metric
	node    string
}

// A metricLabel is a label of a metric. The node's is added to all of them.
type metricLabel struct{ name, value string }

// gauge adds one value. A name that comes again belongs to the same metric.
func (m *metricSet) gauge(name, help string, value float64, labels ...metricLabel) {
	if m.node != "" {
		labels = append([]metricLabel{{"node", m.node}}, labels...)
	}
	names, values := make([]string, len(labels)), make([]string, len(labels))
	for i, l := range labels {
		names[i], values[i] = l.name, l.value
	}
	desc := prometheus.NewDesc(name, help, names, nil)
	metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, values...)
	if err != nil {
		metric = prometheus.NewInvalidMetric(desc, err) // which the registry tells
	}
	m.metrics = append(m.metrics, metric)
}

// Describe says nothing in advance: which metrics there are depends on the node.
func (m *metricSet) Describe(chan<- *prometheus.Desc) {}

// Collect gives the metrics to the registry.
func (m *metricSet) Collect(to chan<- prometheus.Metric) {
	for _, metric := range m.metrics {
		to <- metric
	}
}

func (m *metricSet) flag(name, help string, is bool, labels ...metricLabel) {
	value := 0.0
	if is {
		value = 1
	}
	m.gauge(name, help, value, labels...)
}

// at adds a time, in seconds since 1970. A zero time is not there.
func (m *metricSet) at(name, help string, t time.Time, labels ...metricLabel) {
	if !t.IsZero() {
		m.gauge(name, help, float64(t.Unix()), labels...)
	}
}

// text is what node_exporter reads: sorted by name and labels.
func (m *metricSet) text() ([]byte, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(m); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, fmt.Errorf("write metric %s: %w", f.GetName(), err)
		}
	}
	return b.Bytes(), nil
}

const (
	successHelp = "Whether the status of the node could be found out."
	writtenHelp = "When these metrics were written."
)

// untoldMetrics are those of a node whose status could not be found out at all. Old figures would look like good ones.
func untoldMetrics(now time.Time) *metricSet {
	m := &metricSet{}
	m.flag("converge_status_success", successHelp, false)
	m.at("converge_status_timestamp_seconds", writtenHelp, now)
	return m
}

// statusMetrics are the metrics of a status.
func statusMetrics(st *statusJSON, now time.Time) *metricSet {
	m := &metricSet{node: st.Node}
	m.flag("converge_status_success", successHelp, true)
	m.at("converge_status_timestamp_seconds", writtenHelp, now)
	version := ""
	if st.Server != nil {
		version = st.Server.Version
	}
	m.gauge("converge_info", "What this node is.", 1, metricLabel{"environment", st.Environment}, metricLabel{"role", st.Role},
		metricLabel{"version", versionText()}, metricLabel{"server_version", version})
	m.flag("converge_healthy", "Whether nothing needs the operator.", st.Healthy)
	m.gauge("converge_problems", "How many things need the operator.", float64(len(st.Problems)))
	m.gauge("converge_unknowns", "How many things could not be found out.", float64(len(st.Unknown)))
	m.gauge("converge_drifted_resources", "How many resources are not as declared.", float64(len(st.Drift)))
	m.server(&st.Status)
	m.expiries(&st.Status)
	m.owed(st)
	m.lastRun(st.LastRun)
	return m
}

func (m *metricSet) server(st *resources.Status) {
	s := st.Server
	if s == nil {
		return
	}
	m.flag("converge_server_up", "Whether the PostgreSQL server runs.", s.Phase == postgres.Running)
	if s.Starts != "unknown" {
		m.flag("converge_server_would_start", "Whether the server would start again with the files as they are.", s.Starts == "yes")
	}
	if s.Started != nil {
		m.at("converge_server_start_timestamp_seconds", "When the server was started.", *s.Started)
	}
	if st.SSL != nil && st.SSL.Served != "unknown" {
		m.flag("converge_server_tls", "Whether the server answers with TLS.", st.SSL.Served == "on")
	}
	if k := st.ServerKey; k != nil && (k.Served == "yes" || k.Served == "no") {
		m.flag("converge_server_certificate_current", "Whether the server serves the certificate that is on the disk.", k.Served == "yes")
	}
	if h := st.HBA; h != nil {
		m.gauge("converge_hba_errors", "How many lines of pg_hba.conf the server would refuse.", float64(len(h.Errors)))
		if h.Loaded != "unknown" {
			m.flag("converge_hba_loaded", "Whether the server runs with pg_hba.conf as it is on the disk.", h.Loaded == "yes")
		}
	}
	sessions := 0
	for _, p := range st.Plaintext {
		sessions += p.Sessions
	}
	m.gauge("converge_plaintext_sessions", "How many sessions are without TLS although the rules ask for it.", float64(sessions))
	sessions = 0
	for _, r := range st.Revoked {
		sessions += r.Sessions
	}
	m.gauge("converge_revoked_sessions", "How many sessions came in with a certificate that is revoked now.", float64(sessions))
}

// expiries are the ends of everything that ends, in one metric: one alert is enough.
func (m *metricSet) expiries(st *resources.Status) {
	add := func(kind, name, path string, ends time.Time) {
		m.at("converge_expiry_timestamp_seconds", "When a certificate, or a list of revoked ones, expires: kind is authority, server, served, user or crl.",
			ends, metricLabel{"kind", kind}, metricLabel{"name", name}, metricLabel{"path", path})
	}
	if c := st.Authority; c != nil {
		add("authority", c.Address, c.Path, c.Expires)
	}
	if c := st.ServerKey; c != nil {
		add("server", c.Address, c.Path, c.Expires)
		if c.ServedExpires != nil {
			add("served", c.Address, "", *c.ServedExpires)
		}
	}
	for _, c := range st.UserKeys {
		add("user", c.User, c.Path, c.Expires)
	}
	for _, c := range st.CRLs {
		add("crl", c.Issuer, c.Path, c.NextUpdate)
	}
	broken := 0
	for _, c := range st.UserKeys {
		if c.Missing || c.Error != "" || c.Key != "" {
			broken++
		}
	}
	m.gauge("converge_user_key_copies", "How many copies of users' keys this node is to have.", float64(len(st.UserKeys)))
	m.gauge("converge_user_key_copies_broken", "How many of them are missing, or cannot be read.", float64(broken))
}

func (m *metricSet) owed(st *statusJSON) {
	m.gauge("converge_owed_actions", "How many reloads and restarts are owed.", float64(len(st.Owed)))
	for _, o := range st.Owed {
		m.at("converge_owed_since_timestamp_seconds", "Since when a reload or a restart is owed.", o.Since,
			metricLabel{"service", o.Service}, metricLabel{"action", o.Action.String()})
	}
	if st.NextWindow != nil {
		m.at("converge_next_maintenance_window_timestamp_seconds", "When the next maintenance window opens; now, while one is open.", *st.NextWindow)
		m.flag("converge_maintenance_window_open", "Whether a maintenance window is open.", st.WindowCloses != nil)
	}
}

// runResults are how a run can have ended.
var runResults = []engine.Result{engine.ResultOK, engine.ResultFailed, engine.ResultRefused, engine.ResultStopped, engine.ResultInterrupted}

func (m *metricSet) lastRun(r *lastRun) {
	if r == nil {
		return
	}
	m.at("converge_last_run_timestamp_seconds", "When the last run ended.", r.Finished)
	m.gauge("converge_last_run_changed_resources", "How many resources the last run changed.", float64(r.Changed))
	for _, result := range runResults {
		m.flag("converge_last_run_result", "How the last run ended: 1 at the result that it had.", r.Result == result, metricLabel{"result", string(result)})
	}
}

// writeMetrics puts metrics into a file, whole or not at all. node_exporter, which is somebody else, may read it.
func (a *app) writeMetrics(name string, m *metricSet) error {
	text, err := m.text()
	if err != nil {
		return err
	}
	if name, err = absPath(name); err != nil {
		return err
	}
	if !strings.HasSuffix(name, ".prom") {
		fmt.Fprintf(a.stderr, "converge: warning: node_exporter reads files whose names end in .prom, and %s does not\n", name)
	}
	d, err := disk.Open("/")
	if err != nil {
		return err
	}
	defer d.Close()
	dir := filepath.Dir(name)
	if info, err := d.Stat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && info.Kind != disk.Dir {
		return fmt.Errorf("--prometheus %s: the directory %s does not exist: give a file in the one that node_exporter has as --collector.textfile.directory", name, dir)
	}
	return putFile(d, name, text, 0o644)
}

// putFile writes a file of root's for others to read, whole or not at all, over whatever stands there.
func putFile(d *disk.Disk, name string, content []byte, mode fs.FileMode) error {
	before := disk.Before{}
	old, info, err := d.ReadFile(name, planLimit)
	switch {
	case err == nil:
		before = disk.BeforeOf(old, info)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	temp := ".converge-put-" + filepath.Base(name)
	if err := d.RemoveTemps(filepath.Dir(name), temp); err != nil {
		return err
	}
	staged, err := d.Stage(disk.File{Path: name, Content: content, Mode: mode, UID: os.Geteuid(), GID: os.Getegid(), Temp: fmt.Sprintf("%s-%d", temp, os.Getpid())})
	if err != nil {
		return err
	}
	if err := staged.Switch(before); err != nil {
		return errors.Join(err, staged.Discard())
	}
	return nil
}
