package postgres

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
)

// Start starts a server that was running and is down, as the same provider that a restart would take, and waits until it
// takes connections. It is for the case that a restart has left it down and its files were put back.
func (s *Server) Start(ctx context.Context, c Control) error {
	if c.Provider == Auto || c.Provider == "" || c.Provider == Signal {
		c.Provider = s.startProvider()
	}
	timeout := orDefault(c.Timeout, RestartTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var none Process
	// pg_ctl, pg_ctlcluster and systemctl all start a server that their restart does not find running.
	err := s.restart(ctx, c, none, timeout)
	if err == nil {
		err = s.awaitNew(ctx, none)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", s, err)
	}
	return nil
}

func (s *Server) startProvider() Provider {
	_, err := os.Stat("/run/systemd/system")
	switch {
	case err == nil && s.Unit != "":
		return Systemd
	case s.Cluster != "" && isExecutable("/usr/bin/pg_ctlcluster"):
		return PgCtlCluster
	}
	return PgCtl
}

// StartCommand is what an operator types to start a server that is down.
func (s *Server) StartCommand() string {
	switch s.startProvider() {
	case Systemd:
		return "systemctl start " + s.Unit
	case PgCtlCluster:
		version, name, _ := strings.Cut(s.Cluster, "/")
		return fmt.Sprintf("pg_ctlcluster %s %s start", version, name)
	}
	program := "pg_ctl"
	if s.BinDirectory != "" {
		program = path.Join(s.BinDirectory, program)
	}
	return fmt.Sprintf("setpriv --reuid=%s --regid=%s --init-groups %s start -D %s", s.Owner.Name, s.Owner.Name, program, s.DataDirectory)
}
