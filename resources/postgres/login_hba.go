package postgres

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// remoteHBA reads pg_hba_file_rules as the role that is logged in, if it may. Nil: it may not, or the view is not what the
// server runs with, because the file was changed since it was read or has a broken line.
func remoteHBA(ctx context.Context, conn *pgconn.PgConn, version int) (*RemoteHBA, error) {
	rows, err := ask(ctx, conn, `SELECT pg_catalog.has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')
		AND pg_catalog.has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')
		AND pg_catalog.has_function_privilege('pg_catalog.pg_stat_file(text)', 'EXECUTE'),
		coalesce((SELECT setting FROM pg_catalog.pg_settings WHERE name = 'hba_file'), '')`)
	if err != nil || len(rows) != 1 || rows[0][0] != "t" || rows[0][1] == "" {
		return nil, err
	}
	h := &RemoteHBA{File: rows[0][1]}
	file := "''"
	if version >= 160000 {
		file = "coalesce(file_name, '')"
	}
	rows, err = ask(ctx, conn, `SELECT `+file+`, coalesce(line_number, 0), coalesce(type, ''), coalesce(database, '{}'), coalesce(user_name, '{}'),
		coalesce(address, ''), coalesce(netmask, ''), coalesce(auth_method, ''), coalesce(options, '{}'), coalesce(error, ''),
		(SELECT max((pg_catalog.pg_stat_file(f)).change) <= pg_catalog.pg_conf_load_time()
			FROM (SELECT pg_catalog.current_setting('hba_file') UNION SELECT `+file+` FROM pg_catalog.pg_hba_file_rules) AS files (f) WHERE f <> '')
		FROM pg_catalog.pg_hba_file_rules`)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	for _, row := range rows {
		rule, err := hbaRow(row)
		if err != nil || rule.Broken() || row[10] != "t" {
			return nil, err
		}
		h.Rules = append(h.Rules, rule)
	}
	return h, h.memberships(ctx, conn)
}

func hbaRow(row []string) (HBARule, error) {
	r := HBARule{File: row[0], Type: row[2], Address: row[5], Netmask: row[6], Method: row[7], Error: row[9]}
	r.Line, _ = strconv.Atoi(row[1])
	m := pgtype.NewMap()
	for _, list := range []struct {
		text string
		into *[]string
	}{{row[3], &r.Databases}, {row[4], &r.Users}, {row[8], &r.Options}} {
		if err := m.Scan(pgtype.TextArrayOID, pgtype.TextFormatCode, []byte(list.text), list.into); err != nil {
			return r, fmt.Errorf("read pg_hba_file_rules: %w", err)
		}
	}
	return r, nil
}

// memberships asks which roles the one that is logged in is a member of, whatever the grants say of inheritance.
func (h *RemoteHBA) memberships(ctx context.Context, conn *pgconn.PgConn) error {
	rows, err := ask(ctx, conn, `WITH RECURSIVE m (role) AS (
			SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user
			UNION SELECT g.roleid FROM m JOIN pg_catalog.pg_auth_members AS g ON g.member = m.role)
		SELECT rolname FROM m JOIN pg_catalog.pg_roles AS r ON r.oid = m.role`)
	if err != nil {
		return err
	}
	roles := map[string]bool{}
	for _, row := range rows {
		roles[row[0]] = true
	}
	h.Member = func(role string) bool { return roles[role] }
	return nil
}

// Text is the rule as a line of a pg_hba.conf. The view does not show what was in quotes: a name that is a keyword is taken
// for the keyword.
func (r HBARule) Text() string {
	words := []string{r.Type, nameList(r.Databases), nameList(r.Users)}
	if r.Address != "" {
		words = append(words, r.network())
	}
	words = append(words, r.Method)
	for _, o := range r.Options {
		words = append(words, quoteWord(o))
	}
	return strings.Join(words, " ")
}

// network is the address as people write it: the view tells a network by address and mask.
func (r HBARule) network() string {
	if r.Netmask == "" {
		return r.Address
	}
	address, errAddress := netip.ParseAddr(r.Address)
	mask, errMask := netip.ParseAddr(r.Netmask)
	ones, bits := net.IPMask(mask.AsSlice()).Size()
	if errAddress != nil || errMask != nil || bits == 0 || address.Zone() != "" {
		return r.Address + " " + r.Netmask // of a mask with holes there is no shorter form
	}
	return fmt.Sprintf("%s/%d", address, ones)
}

// nameList is a column of names. The plus of a group stays outside the quotes, where it keeps its meaning.
func nameList(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		group, isGroup := strings.CutPrefix(n, "+")
		if out[i] = quoteWord(n); isGroup {
			out[i] = "+" + quoteWord(group)
		}
	}
	return strings.Join(out, ",")
}

// quoteWord puts into quotes what a line would not take as one word.
func quoteWord(word string) string {
	if strings.ContainsAny(word, " \t,#\"@") {
		return `"` + strings.ReplaceAll(word, `"`, `""`) + `"`
	}
	return word
}
