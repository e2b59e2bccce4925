// Package libpq knows what a client program that uses libpq would do: what its connection strings and Rails' database.yml
// mean, which files of the user's home it takes and when it refuses them, which password it finds, and whether it would
// take a server's certificate.
//
// It makes no connection and judges no server. Where libpq's versions differ, it follows 15 and later.
// https://www.postgresql.org/docs/current/libpq-connect.html
package libpq

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Settings are the parameters of a connection under libpq's names. What was not given is not in it.
type Settings map[string]string

// known are the parameters that libpq 10 to 18 takes.
var known = []string{
	"application_name", "authtype", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name", "gssdelegation",
	"gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
	"load_balance_hosts", "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope",
	"options", "passfile", "password", "port", "replication", "require_auth", "requirepeer", "requiressl", "scram_client_key", "scram_server_key",
	"service", "servicefile", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir",
	"sslkey", "sslkeylogfile", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
}

// modes are the values of sslmode, from the weakest to the strongest.
var modes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// ParseConninfo reads a connection string as libpq does, a URI or keywords with values. A parameter that libpq does not
// know is an error, as it is there. No error repeats a value: any of them may be a password in the wrong place.
func ParseConninfo(text string) (Settings, error) {
	s, err := parseConninfo(text)
	if err != nil {
		return nil, err
	}
	for _, name := range sortedNames(s) {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("libpq has no parameter %q", name)
		}
	}
	return s, s.check()
}

func parseConninfo(text string) (Settings, error) {
	switch {
	case strings.ContainsRune(text, 0):
		return nil, errors.New("it has a NUL in it")
	case isURI(text):
		_, rest, _ := strings.Cut(text, "://")
		return parseURI(rest)
	}
	return parseKeywords(text)
}

func isURI(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

func sortedNames(s Settings) []string {
	var names []string
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// check refuses values that libpq refuses before it connects.
func (s Settings) check() error {
	if m := s["sslmode"]; m != "" && !slices.Contains(modes, m) {
		return fmt.Errorf("sslmode is none of %s", strings.Join(modes, ", "))
	}
	if s["service"] != "" {
		return errors.New("service is not followed: pg_service.conf is not read; write host, port, user and dbname out")
	}
	_, err := s.Endpoints()
	return err
}

// SSLMode is what the client demands of the connection. Without a word from anybody libpq prefers TLS, and does without.
func (s Settings) SSLMode() string {
	switch {
	case s["sslmode"] != "":
		return s["sslmode"]
	case s["sslrootcert"] == "system":
		return "verify-full"
	case s["requiressl"] == "1":
		return "require"
	}
	return "prefer"
}

// An Endpoint is one of the servers that a client tries.
type Endpoint struct {
	Host    string // as the client has it: what the certificate is held against
	Address string // hostaddr: where to go instead of looking the host up; "" without one
	Port    int
	Socket  bool // the unix socket, where there is no TLS
}

// Dial is where the client connects to.
func (e Endpoint) Dial() string {
	if e.Address != "" {
		return e.Address
	}
	return e.Host
}

// The port of a server when nothing says otherwise.
const defaultPort = 5432

// Endpoints are the servers in the order in which libpq tries them. hosts, addresses and ports are lists of the same length,
// or there is one port for all.
func (s Settings) Endpoints() ([]Endpoint, error) {
	hosts, addresses, ports := split(s["host"]), split(s["hostaddr"]), split(s["port"])
	n := max(len(hosts), len(addresses), 1)
	switch {
	case len(hosts) > 0 && len(addresses) > 0 && len(hosts) != len(addresses):
		return nil, fmt.Errorf("host names %d servers and hostaddr %d", len(hosts), len(addresses))
	case len(ports) > 1 && len(ports) != n:
		return nil, fmt.Errorf("there are %d ports for %d hosts", len(ports), n)
	}
	out := make([]Endpoint, n)
	for i := range out {
		e := Endpoint{Host: nth(hosts, i), Address: nth(addresses, i)}
		port, err := parsePort(nth(ports, min(i, max(len(ports)-1, 0))))
		if err != nil {
			return nil, err
		}
		if _, err := netip.ParseAddr(e.Address); e.Address != "" && err != nil {
			return nil, errors.New("hostaddr is no address")
		}
		if e.Host == "" {
			e.Host = e.Address
		}
		e.Port, e.Socket = port, e.Host == "" || e.Address == "" && strings.ContainsAny(e.Host[:1], "/@")
		out[i] = e
	}
	return out, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func nth(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// parsePort does not repeat what is no number: in postgres://name:pass:word@host it is half of a password.
func parsePort(text string) (int, error) {
	if text = strings.Trim(text, blanks); text == "" {
		return defaultPort, nil
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return 0, errors.New("a port is no number from 1 to 65535 (in a URI an @, : or / in a password is written %40, %3A or %2F)")
	}
	return port, nil
}

// parseURI reads what follows postgres://, as libpq's conninfo_uri_parse_options does.
func parseURI(rest string) (Settings, error) {
	s := Settings{}
	// Only a slash ends the search for the @: a password may have a ? in it.
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		rest = rest[i+1:]
		if err := s.decode("user", user); err != nil {
			return nil, err
		}
		if err := s.decode("password", password); err != nil {
			return nil, err
		}
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if err := s.servers(authority); err != nil {
		return nil, err
	}
	if err := s.decode("dbname", path); err != nil {
		return nil, err
	}
	if !hasQuery {
		return s, nil
	}
	return s, s.query(query)
}

// servers reads HOST[:PORT],... into the lists that libpq keeps.
func (s Settings) servers(authority string) error {
	var hosts, ports []string
	for one := range strings.SplitSeq(authority, ",") {
		host, port, err := hostPort(one)
		if err != nil {
			return err
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if err := s.decode("host", strings.Join(hosts, ",")); err != nil {
		return err
	}
	if strings.Join(ports, "") == "" {
		return nil // each has the usual one
	}
	return s.decode("port", strings.Join(ports, ","))
}

func hostPort(text string) (host, port string, err error) {
	bracketed, isBracketed := strings.CutPrefix(text, "[")
	if !isBracketed {
		host, port, _ = strings.Cut(text, ":")
		return host, port, nil
	}
	host, after, closed := strings.Cut(bracketed, "]")
	if !closed || host == "" {
		return "", "", errors.New("an IPv6 address in a URI is written [::1]")
	}
	port, isPort := strings.CutPrefix(after, ":")
	if after != "" && !isPort {
		return "", "", errors.New("after the ] of an address comes :PORT, or the end")
	}
	return host, port, nil
}

// query reads the parameters of a URI. ssl=true is what JDBC writes for sslmode=require.
func (s Settings) query(text string) error {
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		rawName, value, found := strings.Cut(pair, "=")
		if !found || strings.Contains(value, "=") {
			return errors.New("a parameter after the ? of a URI is NAME=VALUE, with one =")
		}
		name, err := decodePercent(rawName)
		if err != nil {
			return err
		}
		if name == "ssl" && value == "true" {
			name, value = "sslmode", "require"
		}
		delete(s, name)
		if err := s.decode(name, value); err != nil {
			return err
		}
	}
	return nil
}

// decode sets a parameter to a part of a URI; an empty part sets nothing.
func (s Settings) decode(name, raw string) error {
	value, err := decodePercent(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if value != "" {
		s[name] = value
	}
	return nil
}

// decodePercent is libpq's decoding: a plus stays a plus, %00 is refused, and so are blanks but around the whole.
func decodePercent(raw string) (string, error) {
	if raw = strings.Trim(raw, " "); strings.Contains(raw, " ") {
		return "", errors.New("a blank in a URI is written %20")
	}
	var out strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			out.WriteByte(raw[i])
			continue
		}
		if len(raw) < i+3 {
			return "", errors.New("a % is not followed by two hex digits: write %25 for the sign itself")
		}
		b, err := strconv.ParseUint(raw[i+1:i+3], 16, 8)
		if err != nil || b == 0 {
			return "", errors.New("a % is not followed by two hex digits: write %25 for the sign itself")
		}
		out.WriteByte(byte(b))
		i += 2
	}
	return out.String(), nil
}

const blanks = " \t\n\r\v\f"

// parseKeywords reads NAME=VALUE pairs: a value with blanks stands in single quotes, and a backslash takes the meaning of
// what follows.
func parseKeywords(text string) (Settings, error) {
	s := Settings{}
	for rest := strings.Trim(text, blanks); rest != ""; rest = strings.TrimLeft(rest, blanks) {
		name, after, found := strings.Cut(rest, "=")
		name = strings.Trim(name, blanks)
		if !found || name == "" || strings.ContainsAny(name, blanks) {
			return nil, errors.New("it is neither a URI (postgres://USER@HOST/DATABASE) nor a list of NAME=VALUE")
		}
		value, left, err := keywordValue(strings.TrimLeft(after, blanks))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		rest = left
		delete(s, name)
		if value != "" {
			s[name] = value
		}
	}
	return s, nil
}

func keywordValue(text string) (value, rest string, err error) {
	inner, quoted := strings.CutPrefix(text, "'")
	end := blanks
	if quoted {
		text, end = inner, "'"
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		case text[i] == '\\' && !quoted:
			// At the very end it escapes nothing.
		case strings.IndexByte(end, text[i]) >= 0:
			return out.String(), text[i+1:], nil
		default:
			out.WriteByte(text[i])
		}
	}
	if quoted {
		return "", "", errors.New("the value has no closing quote")
	}
	return out.String(), "", nil
}
