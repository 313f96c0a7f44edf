//! The effective configuration: one struct, filled by layers, each value with where it came from.
//!
//! Weakest first: built in, `/etc/walden/walden.toml`, `$XDG_CONFIG_HOME/walden/walden.toml` (or the one file that
//! is named), the environment, the command line. A layer is a TOML table; an unknown setting in any of them is an
//! error, because a setting that is silently ignored is the worst kind.

mod agent;
mod drill;
mod load;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use walden_core::{ErrorKind, RecoveryRates, RetentionPolicy, ServerName};
use walden_engine::backup::WAL_TIMEOUT;
use walden_store::{
    CONNECT_TIMEOUT, CompressionLevel, OPERATION_TIMEOUT, REQUEST_TIMEOUT, StoreConfig, StoreUrl,
};

use crate::failure::Failure;

pub(crate) use self::agent::{AgentConfig, AgentStart, MaxRate};
pub(crate) use self::drill::DrillConfig;
pub(crate) use self::load::{Flags, load};
pub(crate) use self::values::{Jobs, Level, Rate, Size, Span};

/// The system's configuration file.
pub(crate) const SYSTEM_FILE: &str = "/etc/walden/walden.toml";
/// Name of the server unless another is given.
const DEFAULT_SERVER: &str = "main";
/// How long a push may take with all its retries: PostgreSQL waits for it and then tries again by itself.
const PUSH_DEADLINE: Duration = Duration::from_mins(2);
/// How long a fetch may take with all its retries before recovery is stopped.
const GET_DEADLINE: Duration = Duration::from_mins(2);
/// zstd's level for files of a backup, which are read once and kept for long.
const BACKUP_LEVEL: i32 = 3;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the repository is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repo: Option<StoreUrl>,
    /// The server's name in the repository.
    pub(crate) server: ServerName,
    /// The data directory of the server at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pgdata: Option<PathBuf>,
    /// A directory for what may be lost without harm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state_directory: Option<PathBuf>,
    /// Files read or written at once, 1 to 256.
    pub(crate) jobs: Jobs,
    /// For `wal push` and `wal get`.
    pub(crate) wal: WalConfig,
    /// For the agent.
    pub(crate) agent: AgentConfig,
    /// For backups.
    pub(crate) backup: BackupConfig,
    /// What has to stay; nothing is removed without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<RetentionPolicy>,
    /// For plans.
    pub(crate) recovery: RecoveryConfig,
    /// For drills.
    pub(crate) drill: DrillConfig,
    /// For the store.
    pub(crate) store: StoreConfig,
}

/// Settings of `wal push` and `wal get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WalConfig {
    /// How long a push may take with all its retries.
    pub(crate) push_deadline: Span,
    /// How long a fetch may take with all its retries.
    pub(crate) get_deadline: Span,
    /// zstd's level for segments, -7 to 19.
    pub(crate) compression_level: Level,
}

/// Settings of backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackupConfig {
    /// zstd's level for files, -7 to 19.
    pub(crate) compression_level: Level,
    /// How long a backup waits without progress for its WAL to be archived.
    pub(crate) wal_timeout: Span,
}

/// Settings of plans: how fast recoveries are here, in MB/s, which estimates are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecoveryConfig {
    /// Plain bytes of a backup written in a second.
    pub(crate) restore_rate: Rate,
    /// Plain bytes of WAL fetched and replayed in a second.
    pub(crate) replay_rate: Rate,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        let rates = RecoveryRates::default();
        Self {
            restore_rate: Rate::of(rates.restore_bytes_per_second),
            replay_rate: Rate::of(rates.replay_bytes_per_second),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            repo: None,
            server: default_server(),
            pgdata: None,
            state_directory: None,
            jobs: Jobs::default(),
            wal: WalConfig::default(),
            agent: AgentConfig::default(),
            backup: BackupConfig::default(),
            retention: None,
            recovery: RecoveryConfig::default(),
            drill: DrillConfig::default(),
            store: built_in_store(),
        }
    }
}

/// The store's settings as they are when nothing is said.
fn built_in_store() -> StoreConfig {
    StoreConfig {
        request_timeout: Some(REQUEST_TIMEOUT),
        connect_timeout: Some(CONNECT_TIMEOUT),
        operation_timeout: Some(OPERATION_TIMEOUT),
        ..StoreConfig::default()
    }
}

#[expect(clippy::expect_used, reason = "a constant that a test reads")]
fn default_server() -> ServerName {
    DEFAULT_SERVER.parse().expect("the default server name is a server name")
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            push_deadline: Span(PUSH_DEADLINE),
            get_deadline: Span(GET_DEADLINE),
            compression_level: Level(CompressionLevel::DEFAULT),
        }
    }
}

impl Default for BackupConfig {
    fn default() -> Self {
        let level = CompressionLevel::new(BACKUP_LEVEL).unwrap_or(CompressionLevel::DEFAULT);
        Self { compression_level: Level(level), wal_timeout: Span(WAL_TIMEOUT) }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Nothing else was said.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The configuration in effect.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    /// The values.
    pub(crate) config: Config,
    /// Where those come from that are not built in, by their path (`wal.push_deadline`).
    origins: BTreeMap<String, Origin>,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
    /// What looks like a mistake and is none for sure.
    pub(crate) warnings: Vec<String>,
}

/// One setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ShownSetting {
    /// Its path.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: serde_json::Value,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

impl Effective {
    /// The repository.
    ///
    /// # Errors
    /// Kind `config` when none is named.
    pub(crate) fn repo(&self) -> Result<&StoreUrl, Failure> {
        self.config.repo.as_ref().ok_or_else(|| {
            Failure::new(ErrorKind::Config, "no repository is named").with_hint(
                "give --repo file:///dir, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix, or set WALDEN_REPO",
            )
        })
    }

    /// The data directory.
    ///
    /// # Errors
    /// Kind `config` when none is named.
    pub(crate) fn pgdata(&self) -> Result<&Path, Failure> {
        self.config.pgdata.as_deref().ok_or_else(|| {
            Failure::new(ErrorKind::Config, "no data directory is named")
                .with_hint("give --pgdata DIR or set PGDATA")
        })
    }

    /// How fast recoveries are here, and who says so.
    pub(crate) fn rates(&self) -> RecoveryRates {
        let recovery = &self.config.recovery;
        let origins = ["restore_rate", "replay_rate"].map(|name| self.origin(&format!("recovery.{name}")));
        let assumed = RecoveryRates::default();
        let source = match &origins {
            [Origin::BuiltIn, Origin::BuiltIn] => assumed.source,
            [restore, replay] if restore == replay => format!("as set by {restore}"),
            [restore, replay] => format!("restore: {restore}; replay: {replay}"),
        };
        RecoveryRates {
            restore_bytes_per_second: recovery.restore_rate.bytes_per_second(),
            replay_bytes_per_second: recovery.replay_rate.bytes_per_second(),
            source,
        }
    }

    /// What of [`Self::warnings`] is meant for the agent.
    pub(crate) fn agent_warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().map(String::as_str).filter(|warning| warning.contains(crate::env::AGENT_PREFIX))
    }

    /// Where the value at a path comes from.
    pub(crate) fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::BuiltIn)
    }

    /// Every setting that has a value, by its path.
    pub(crate) fn shown(&self) -> Vec<ShownSetting> {
        let value = serde_json::to_value(&self.config).unwrap_or_default();
        let mut leaves = Vec::new();
        flatten("", &value, &mut leaves);
        let shown = |(name, value): (String, serde_json::Value)| {
            let origin = self.origin(&name);
            ShownSetting { name, value, origin }
        };
        leaves.into_iter().map(shown).collect()
    }
}

fn flatten(prefix: &str, value: &serde_json::Value, leaves: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}
