package postgres

// An Effect is what a change of a setting needs before it counts.
type Effect string

const (
	EffectReload  Effect = "reload"
	EffectRestart Effect = "restart"
	EffectUnknown Effect = "" // a setting that this program does not know: ask the server (ServerSetting.Context)
)

// Settings that need a restart, in every version from 10 to 18. Source: pg_settings.context of those servers.
var restartSettings = map[string]bool{
	"hba_file": true, "ident_file": true, "data_directory": true, "config_file": true, "external_pid_file": true,
	"listen_addresses": true, "port": true, "unix_socket_directories": true, "unix_socket_group": true,
	"unix_socket_permissions": true, "bonjour": true, "bonjour_name": true, "max_connections": true,
	"superuser_reserved_connections": true, "shared_preload_libraries": true, "cluster_name": true,
	"logging_collector": true, "max_wal_senders": true, "wal_level": true, "hot_standby": true,
}

// The settings of TLS and authentication that a reload brings, with the versions that have them. Until 9.6 they
// needed a restart.
var reloadSettings = map[string]struct{ from, to int }{
	"ssl": {10, 0}, "ssl_ca_file": {10, 0}, "ssl_cert_file": {10, 0}, "ssl_key_file": {10, 0}, "ssl_crl_file": {10, 0},
	"ssl_ciphers": {10, 0}, "ssl_prefer_server_ciphers": {10, 0}, "ssl_ecdh_curve": {10, 0}, "ssl_dh_params_file": {10, 0},
	"ssl_passphrase_command": {11, 0}, "ssl_passphrase_command_supports_reload": {11, 0},
	"ssl_min_protocol_version": {12, 0}, "ssl_max_protocol_version": {12, 0},
	"ssl_crl_dir": {14, 0},
	"ssl_groups":  {18, 0}, "ssl_tls13_ciphers": {18, 0},
	"authentication_timeout": {10, 0}, "krb_server_keyfile": {10, 0}, "krb_caseins_users": {10, 0}, "db_user_namespace": {10, 16},
	"log_connections": {10, 0}, "log_disconnections": {10, 0}, "log_hostname": {10, 0}, "log_min_messages": {10, 0},
	"password_encryption": {10, 0}, "md5_password_warnings": {18, 0}, "oauth_validator_libraries": {18, 0},
}

// SettingExists says whether servers of a major version know a setting, and whether this program knows that. A server
// refuses its whole configuration for one name that it does not know, and does not start with it.
func SettingExists(major int, name string) (exists, known bool) {
	name = foldName(name)
	if restartSettings[name] {
		return true, true
	}
	v, ok := reloadSettings[name]
	return ok && v.from <= major && (v.to == 0 || major <= v.to), ok
}

// SettingEffect says what a change of a setting needs on servers of a major version, when the server cannot be asked.
func SettingEffect(major int, name string) Effect {
	name = foldName(name)
	if restartSettings[name] {
		return EffectRestart
	}
	if exists, _ := SettingExists(major, name); exists {
		return EffectReload
	}
	return EffectUnknown
}
