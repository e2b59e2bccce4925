package postgres

import (
	"context"
	"fmt"
	"strings"
)

// A Replication is how a server takes part in streaming replication.
type Replication struct {
	InRecovery bool      `json:"in_recovery"`
	Streaming  bool      `json:"streaming"`           // of a standby: its WAL receiver streams
	Sender     string    `json:"sender,omitempty"`    // of a standby: "db1:5432"
	Lag        *int64    `json:"lag_bytes,omitempty"` // of a standby: received and not replayed yet
	Standbys   []Standby `json:"standbys,omitempty"`  // of the others
}

// A Standby is a connection of pg_stat_replication.
type Standby struct {
	Name    string `json:"name"` // application_name
	Address string `json:"address,omitempty"`
	State   string `json:"state"`
	TLS     bool   `json:"tls"`
}

// Replication asks the server. Columns that a version does not have are read as none (sender_host is there from 11 on).
func (c *Conn) Replication(ctx context.Context, f Facts) (Replication, error) {
	r := Replication{InRecovery: f.InRecovery}
	if f.InRecovery {
		return r, c.receiver(ctx, &r)
	}
	rows, err := c.Query(ctx, `select application_name, coalesce(host(client_addr), ''), coalesce(state, ''), coalesce(s.ssl, false)
		from pg_stat_replication r left join pg_stat_ssl s using (pid) order by 1, 2, pid`)
	if err != nil {
		return r, c.questionError("ask for its standbys", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s Standby
		if err := rows.Scan(&s.Name, &s.Address, &s.State, &s.TLS); err != nil {
			return r, c.questionError("ask for its standbys", err)
		}
		r.Standbys = append(r.Standbys, s)
	}
	if err := rows.Err(); err != nil {
		return r, c.questionError("ask for its standbys", err)
	}
	return r, nil
}

// receiver asks a standby for its WAL receiver: no row while there is none.
func (c *Conn) receiver(ctx context.Context, r *Replication) error {
	var status, host, port string
	err := c.QueryRow(ctx, `select coalesce(w->>'status', ''), coalesce(w->>'sender_host', ''), coalesce(w->>'sender_port', ''),
		pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint
		from (select 1) one left join (select to_jsonb(v) w from pg_stat_wal_receiver v) x on true`).Scan(&status, &host, &port, &r.Lag)
	if err != nil {
		return c.questionError("ask for its WAL receiver", err)
	}
	r.Streaming = status == "streaming"
	if host != "" {
		r.Sender = fmt.Sprintf("%s:%s", host, port)
	}
	return nil
}

// A Conninfo is a connection string of libpq: its parameters. The password is left out.
type Conninfo map[string]string

// ParseConninfo reads "host=db1 user='post gres'" (libpq's documentation, 34.1.1.1). An error repeats nothing of it.
func ParseConninfo(text string) (Conninfo, error) {
	out := Conninfo{}
	rest := strings.TrimLeft(text, " \t\n\r")
	for rest != "" {
		name, tail, found := strings.Cut(rest, "=")
		name = strings.TrimSpace(name)
		if !found || name == "" || strings.ContainsAny(name, " \t\n'") {
			return nil, fmt.Errorf("it is no list of NAME=VALUE")
		}
		value, tail, ok := conninfoValue(strings.TrimLeft(tail, " \t\n\r"))
		if !ok {
			return nil, fmt.Errorf("a quote of the value of %s does not end", name)
		}
		if name != "password" && name != "sslpassword" {
			out[name] = value
		}
		rest = strings.TrimLeft(tail, " \t\n\r")
	}
	return out, nil
}

func conninfoValue(s string) (value, rest string, ok bool) {
	var b strings.Builder
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:], true
		case !quoted && strings.IndexByte(" \t\n\r", c) >= 0:
			return b.String(), s[i:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", !quoted
}

// PrimaryConninfo is how a standby connects to the server that it follows: from recovery.conf up to 11, later from the
// settings. "" where nothing says it.
func (s *Server) PrimaryConninfo(files Files) (string, error) {
	if s.Major < 12 {
		text, err := files.ReadFile(s.DataDirectory + "/recovery.conf")
		if err != nil {
			return "", nil
		}
		return recoverySetting(string(text), "primary_conninfo"), nil
	}
	conf, err := s.Conf(files)
	if err != nil {
		return "", err
	}
	return conf.Value("primary_conninfo", ""), nil
}
