package resources

import (
	"fmt"

	"converge/engine"
	"converge/resources/postgres"
)

// replicationKey says, of a standby, whether its connection to the master is made with the key that it was given: with
// sslmode=verify-full and from libpq's own places. The connection is the operator's to change.
func (s Site) replicationKey(h *engine.Host) error {
	if s.Node.Role != "db_replica" || s.Server == nil {
		return nil
	}
	text, err := s.Server.PrimaryConninfo(hostFiles{h})
	if err != nil || text == "" {
		return err
	}
	info, err := postgres.ParseConninfo(text)
	if err != nil {
		h.Warn("primary_conninfo: " + err.Error())
		return nil
	}
	if mode := info["sslmode"]; mode != "verify-full" {
		if mode == "" {
			mode = "prefer, which is what libpq takes where nothing is said,"
		}
		h.Warn(fmt.Sprintf("this standby follows its master with sslmode=%s: whoever is between the two could be taken for the master; write sslmode=verify-full into primary_conninfo (host has to be a name or an address of the master's certificate)", mode))
	}
	for _, name := range []string{"sslcert", "sslkey", "sslrootcert"} {
		if value := info[name]; value != "" {
			h.Warn(fmt.Sprintf("primary_conninfo has %s=%s: the key of this node is not used from there; leave it out, and libpq finds the one in ~/.postgresql", name, value))
		}
	}
	return nil
}
