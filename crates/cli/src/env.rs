//! Every environment variable that walden reads, and no other file names one.
//!
//! Credentials are not here: they come from the variables and files that the vendors' own tools read
//! (`docs/cli.md`), and walden keeps no copy of them.

/// The kind of value that a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false` (also `1`, `0`, `yes`, `no`, `on`, `off`).
    Boolean,
}

/// A variable that holds one setting of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SettingVariable {
    /// The variable's name.
    pub(crate) name: &'static str,
    /// The setting's path in the configuration file.
    pub(crate) path: &'static str,
    /// How its text is read.
    pub(crate) kind: ValueKind,
}

const fn text(name: &'static str, path: &'static str) -> SettingVariable {
    SettingVariable { name, path, kind: ValueKind::Text }
}

const fn integer(name: &'static str, path: &'static str) -> SettingVariable {
    SettingVariable { name, path, kind: ValueKind::Integer }
}

const fn boolean(name: &'static str, path: &'static str) -> SettingVariable {
    SettingVariable { name, path, kind: ValueKind::Boolean }
}

/// The configuration file.
pub(crate) const CONFIG: &str = "WALDEN_CONFIG";
/// What hooks do about the agent: `auto`, `never` or `off`.
pub(crate) const AGENT: &str = "WALDEN_AGENT";
/// A filter for diagnostic messages on stderr, such as `debug` or `walden_store=trace`.
pub(crate) const LOG: &str = "WALDEN_LOG";
/// Set to anything: no colours (the convention of no-color.org).
pub(crate) const NO_COLOR: &str = "NO_COLOR";
/// PostgreSQL's own variable for the data directory; weaker than `WALDEN_PGDATA`.
pub(crate) const PGDATA: &str = "PGDATA";
/// The user's configuration directory; `~/.config` unless set.
pub(crate) const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The user's state directory; `~/.local/state` unless set.
pub(crate) const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// The variables that say in which characters the terminal writes, strongest first (POSIX).
pub(crate) const LOCALE: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];
/// The terminal's width, for output that goes through another program (POSIX).
pub(crate) const COLUMNS: &str = "COLUMNS";
/// The user's home directory.
pub(crate) const HOME: &str = "HOME";

/// libpq's variables that say which server is meant. Others of libpq's are read by the engine.
pub(crate) const CONNECTION: &[&str] = &["PGHOST", "PGHOSTADDR", "PGSERVICE"];

/// The prefix of walden's own variables.
pub(crate) const PREFIX: &str = "WALDEN_";

/// The prefix of the agent's own.
pub(crate) const AGENT_PREFIX: &str = "WALDEN_AGENT_";

/// The variables that hold settings. Later entries win over earlier ones of the same path.
pub(crate) const SETTINGS: &[SettingVariable] = &[
    text("WALDEN_REPO", "repo"),
    text("WALDEN_SERVER", "server"),
    text(PGDATA, "pgdata"),
    text("WALDEN_PGDATA", "pgdata"),
    text("WALDEN_STATE_DIRECTORY", "state_directory"),
    integer("WALDEN_JOBS", "jobs"),
    text("WALDEN_WAL_PUSH_DEADLINE", "wal.push_deadline"),
    text("WALDEN_WAL_GET_DEADLINE", "wal.get_deadline"),
    integer("WALDEN_WAL_COMPRESSION_LEVEL", "wal.compression_level"),
    text(AGENT, "agent.start"),
    text("WALDEN_AGENT_IDLE", "agent.idle"),
    text("WALDEN_AGENT_MEMORY", "agent.memory"),
    integer("WALDEN_AGENT_IN_FLIGHT", "agent.in_flight"),
    text("WALDEN_AGENT_MAX_RATE", "agent.max_rate"),
    text("WALDEN_AGENT_METRICS", "agent.metrics"),
    text("WALDEN_AGENT_UNHEALTHY_AFTER", "agent.unhealthy_after"),
    text("WALDEN_AGENT_PREFETCH", "agent.prefetch"),
    text("WALDEN_RETENTION_WINDOW", "retention.window"),
    integer("WALDEN_RETENTION_MINIMUM_FULLS", "retention.minimum_fulls"),
    integer("WALDEN_RETENTION_DAILY", "retention.daily"),
    integer("WALDEN_RETENTION_WEEKLY", "retention.weekly"),
    integer("WALDEN_RETENTION_MONTHLY", "retention.monthly"),
    integer("WALDEN_RETENTION_YEARLY", "retention.yearly"),
    text("WALDEN_RETENTION_ZONE", "retention.zone"),
    text("WALDEN_RETENTION_DEAD_TIMELINES", "retention.dead_timelines"),
    text("WALDEN_RETENTION_OLD_INCARNATIONS", "retention.old_incarnations"),
    text("WALDEN_RETENTION_UNFINISHED_BACKUPS", "retention.unfinished_backups"),
    text("WALDEN_RETENTION_UPLOADS", "retention.uploads"),
    text("WALDEN_RETENTION_EVIDENCE", "retention.evidence"),
    text("WALDEN_RETENTION_AUDIT", "retention.audit"),
    integer("WALDEN_RECOVERY_RESTORE_RATE", "recovery.restore_rate"),
    integer("WALDEN_RECOVERY_REPLAY_RATE", "recovery.replay_rate"),
    text("WALDEN_DRILL_DIRECTORY", "drill.directory"),
    text("WALDEN_DRILL_PG_BIN", "drill.pg_bin"),
    text("WALDEN_DRILL_SQL", "drill.sql"),
    text("WALDEN_DRILL_DATABASE", "drill.database"),
    text("WALDEN_DRILL_USER", "drill.user"),
    text("WALDEN_DRILL_ROLE", "drill.role"),
    text("WALDEN_DRILL_TIMEOUT", "drill.timeout"),
    text("WALDEN_DRILL_MAX_AGE", "drill.max_age"),
    integer("WALDEN_BACKUP_COMPRESSION_LEVEL", "backup.compression_level"),
    text("WALDEN_BACKUP_WAL_TIMEOUT", "backup.wal_timeout"),
    text("WALDEN_STORE_REQUEST_TIMEOUT", "store.request_timeout"),
    text("WALDEN_STORE_CONNECT_TIMEOUT", "store.connect_timeout"),
    text("WALDEN_STORE_OPERATION_TIMEOUT", "store.operation_timeout"),
    integer("WALDEN_STORE_THROUGHPUT_MIN", "store.throughput_min"),
    text("WALDEN_STORE_CA_BUNDLE", "store.ca_bundle"),
    boolean("WALDEN_STORE_ALLOW_HTTP", "store.allow_http"),
    text("WALDEN_S3_ENDPOINT", "store.s3.endpoint"),
    text("WALDEN_S3_REGION", "store.s3.region"),
    boolean("WALDEN_S3_PATH_STYLE", "store.s3.path_style"),
    text("WALDEN_S3_SSE", "store.s3.sse"),
    text("WALDEN_S3_KMS_KEY_ID", "store.s3.kms_key_id"),
    boolean("WALDEN_S3_BUCKET_KEY", "store.s3.bucket_key"),
    text("WALDEN_S3_STORAGE_CLASS", "store.s3.storage_class"),
    text("WALDEN_S3_PROFILE", "store.s3.profile"),
    boolean("WALDEN_S3_UNSIGNED_PAYLOAD", "store.s3.unsigned_payload"),
    text("WALDEN_S3_CHECKSUM", "store.s3.checksum"),
    text("WALDEN_AZURE_ACCOUNT", "store.azure.account"),
    text("WALDEN_AZURE_ENDPOINT", "store.azure.endpoint"),
    boolean("WALDEN_AZURE_USE_EMULATOR", "store.azure.use_emulator"),
    text("WALDEN_AZURE_ACCESS_TIER", "store.azure.access_tier"),
    text("WALDEN_GCS_ENDPOINT", "store.gcs.endpoint"),
    text("WALDEN_GCS_SERVICE_ACCOUNT", "store.gcs.service_account"),
    text("WALDEN_GCS_STORAGE_CLASS", "store.gcs.storage_class"),
];

/// The variables with walden's prefix that are not settings of the configuration file.
pub(crate) const OTHERS: &[&str] = &[CONFIG, LOG];
