# SSL for the PostgreSQL server of a database host: an authority, the server's key, the client keys of the admin and the
# application user, the settings, the rules on top of pg_hba.conf, and a server that serves all of it.

variable "expire_in_days" {
  type        = number
  default     = 1825
  description = "Validity of the authority and of the certificates, in days."

  validation {
    condition     = var.expire_in_days >= 1 && var.expire_in_days <= 36500
    error_message = "A certificate is valid for 1 to 36500 days."
  }
}

variable "authority_directory" {
  type        = string
  default     = "/etc/converge/authority"
  description = "Where the authority's key and certificate are. Never in a data directory."
}

variable "custom_hba_file" {
  type        = string
  default     = null
  description = "The operator's own rules, which go on top of pg_hba.conf. Left out: where the layout of the server has them."
}

variable "require_ssl" {
  type        = string
  default     = "off"
  description = "What it takes to get in from the environment's networks: \"ssl\" or \"client_cert\". With \"off\" nothing but what pg_hba.conf and custom_hba_file say."

  validation {
    condition     = contains(["off", "ssl", "client_cert"], var.require_ssl)
    error_message = "require_ssl is \"off\", \"ssl\" (TLS and the password) or \"client_cert\" (TLS, the user's own certificate and the password)."
  }
}

variable "escrow" {
  type        = list(string)
  default     = []
  description = "Replicas that may take the authority over when the master is lost. Each can then open the authority's key, and so can whoever has its disk and the store."
}

locals {
  ssl_settings = [
    "ssl = on",
    "ssl_cert_file = '${replace(server_key.postgresql.cert_file, "'", "''")}'",
    "ssl_key_file = '${replace(server_key.postgresql.key_file, "'", "''")}'",
    "ssl_ca_file = '${replace(server_key.postgresql.root_file, "'", "''")}'",
  ]

  # The setting is there from PostgreSQL 12 on; before 13 its default still allows TLS 1.0.
  protocol_settings = postgresql.version >= 12 ? ["ssl_min_protocol_version = 'TLSv1.2'"] : []

  # Names as pg_hba.conf takes them for names: in quotes where they are not plain, and all for all.
  hba_user = {
    for user in distinct([environment.app_user, environment.admin_user]) :
    user => user != "all" && regex("^[a-z0-9_]*", user) == user ? user : "\"${user}\""
  }

  # The networks that require_ssl is about. Without an environment file none is known, and it is about the host itself.
  hba_networks = length(environment.cidrs) > 0 ? environment.cidrs : ["samehost"]

  # md5 takes the SCRAM verifiers of today as well as the old ones: who has a password stays in, however it is stored.
  #
  # PostgreSQL 10 and 11 can ask for a certificate beside the password, and cannot ask that it is the user's own; the waiver
  # accepts that there. The method cert would compare the name, and ask for no password.
  hba_method = {
    off         = ""
    ssl         = "md5"
    client_cert = "md5 clientcert=verify-full${postgresql.version < 12 ? " # converge: accept clientcert=verify-ca" : ""}"
  }[var.require_ssl]

  # Nothing is said of the socket: it is where converge itself and the operator on the host come in.
  ssl_rules = flatten([
    for network in local.hba_networks : concat(
      [for user in values(local.hba_user) : "hostssl    all          ${user}  ${network}  ${local.hba_method}"],
      [
        "hostssl    replication  ${local.hba_user[environment.admin_user]}  ${network}  ${local.hba_method}",
        "hostnossl  replication  all  ${network}  reject",
        "hostnossl  all          all  ${network}  reject",
      ],
    ) if var.require_ssl != "off"
  ])
}

# On the authority's node, db_master, it is made once; the other nodes take from it what is theirs.
cert_authority "environment" {
  directory      = var.authority_directory
  expire_in_days = var.expire_in_days
  escrow         = var.escrow
}

server_key "postgresql" {
  roles          = ["db_master", "db_replica", "solo"]
  authority      = cert_authority.environment
  expire_in_days = var.expire_in_days
}

# The copies below keygen, where the layout has it, are for operators who look there.
user_key "admin" {
  roles          = ["db_master", "db_replica", "solo"]
  user           = environment.admin_user
  authority      = cert_authority.environment
  expire_in_days = var.expire_in_days
  directories = concat(
    ["~/.postgresql"],
    postgresql.keygen_directory == "" ? [] : ["${postgresql.keygen_directory}/${environment.admin_user}"],
  )
}

user_key "app" {
  roles          = ["db_master", "solo"]
  user           = environment.app_user
  authority      = cert_authority.environment
  expire_in_days = var.expire_in_days
  directories = concat(
    ["~/.postgresql"],
    postgresql.keygen_directory == "" ? [] : ["${postgresql.keygen_directory}/${environment.app_user}"],
  )
}

# The same key, on the hosts that connect with it. They never see the admin user's.
user_key "app_host" {
  roles          = ["app_master", "app", "util"]
  user           = environment.app_user
  authority      = cert_authority.environment
  expire_in_days = var.expire_in_days
}

# Only where there is anybody to deliver to. The others tell what has arrived: an authority is changed by that.
key_delivery "environment" {
  for_each  = length(environment.nodes) > 1 ? toset(["nodes"]) : toset([])
  authority = cert_authority.environment
}

file_block "postgresql_conf" {
  roles    = ["db_master", "db_replica", "solo"]
  path     = postgresql.config_file
  position = "bottom"
  validate = "postgresql_conf"
  content  = join("\n", concat(local.ssl_settings, local.protocol_settings))
}

# Only when a certificate was revoked (converge revoke): a server whose list is missing lets nobody in.
file_block "postgresql_crl" {
  roles     = ["db_master", "db_replica", "solo"]
  path      = postgresql.config_file
  position  = "bottom"
  validate  = "postgresql_conf"
  only_with = cert_authority.environment.crl_file
  content   = "ssl_crl_file = '${replace(server_key.postgresql.crl_file, "'", "''")}'"
}

file_block "pg_hba" {
  roles    = ["db_master", "db_replica", "solo"]
  path     = postgresql.hba_file
  position = "top"
  validate = "pg_hba"
  content  = join("\n", local.ssl_rules)
  source   = coalesce(var.custom_hba_file, postgresql.custom_hba_file)
  optional = true
}

service_reload "postgresql" {
  roles = ["db_master", "db_replica", "solo"]
  on_change = [
    server_key.postgresql,
    file_block.postgresql_conf,
    file_block.postgresql_crl,
    file_block.pg_hba,
  ]
}
