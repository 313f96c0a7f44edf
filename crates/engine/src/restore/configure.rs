//! What the restored server is told: settings composed from the plan, the request and what the backup has.

use std::path::Path;

use walden_core::{BackupRecord, ErrorKind, RecoveryAction, RecoveryPlan, RecoveryTarget, Setting};
use walden_pg::{ControlFile, ParameterMaxima, PgMajor};

use super::archiving::Archiving;
use super::originals::Originals;
use super::request::{ArchiveMode, RestoreRequest};
use super::settings::{Rewritten, render, rewrite_auto_conf, value_of};
use crate::error::{EngineError, Result};

/// The configuration of a restored server, not yet written.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) auto_conf: Rewritten,
    /// The settings of our block, in order.
    pub(super) settings: Vec<Setting>,
    /// Files that the backup did not have: name and contents.
    pub(super) generated: Vec<(&'static str, Vec<u8>)>,
    pub(super) warnings: Vec<String>,
}

fn setting(name: &str, value: impl Into<String>) -> Setting {
    Setting { name: name.to_owned(), value: value.into() }
}

/// Refuses what would give a configuration that no server reads.
///
/// # Errors
/// Of kind `config`.
pub(super) fn check_request(request: &RestoreRequest) -> Result<()> {
    let refuse = |message: String| Err(EngineError::failed(ErrorKind::Config, message));
    let command = &request.restore_command;
    if !command.contains("%f") || !command.contains("%p") {
        return refuse(format!("restore_command needs %f and %p value={command:?}"));
    }
    let started = request.start.iter().flat_map(|start| &start.settings);
    let values = request.settings.iter().chain(started);
    for Setting { name, value } in values {
        let later = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(later) {
            return refuse(format!("a setting has an impossible name name={name:?}"));
        }
        if value.contains(['\0', '\n', '\r']) {
            return refuse(format!("a setting has an impossible value name={name:?}"));
        }
    }
    if command.contains(['\0', '\n', '\r']) {
        return refuse("restore_command must be one line".to_owned());
    }
    Ok(())
}

/// Composes the configuration; nothing is written.
pub(super) fn compose(
    plan: &RecoveryPlan,
    record: &BackupRecord,
    originals: &Originals,
    request: &RestoreRequest,
    pgdata: &Path,
) -> Configuration {
    let conf = originals.conf.as_deref().map(String::from_utf8_lossy);
    let auto_conf = String::from_utf8_lossy(&originals.auto_conf);
    let generated_conf = conf.is_none().then(|| generate_conf(record, &originals.control, &plan.required));
    let effective = |name: &str| {
        let in_auto_conf = value_of(&auto_conf, name);
        in_auto_conf
            .or_else(|| value_of(conf.as_deref().unwrap_or_default(), name))
            .filter(|value| !value.is_empty())
    };
    let mut warnings = Vec::new();
    let mut settings = plan.settings.clone();
    settings.push(setting("restore_command", &request.restore_command));
    // Run by the source's configuration, these would work on the source's archive, or hold recovery back.
    for (name, value) in
        [("recovery_end_command", ""), ("archive_cleanup_command", ""), ("recovery_min_apply_delay", "0")]
    {
        settings.push(setting(name, value));
    }
    if plan.request.action == RecoveryAction::Pause {
        // Without it PostgreSQL shuts down where it should pause; an included file may say so unseen.
        settings.push(setting("hot_standby", "on"));
    }
    if generated_conf.is_none() {
        raise_maxima(&originals.control, &plan.required, effective, &mut settings, &mut warnings);
    }
    match request.archive_mode {
        ArchiveMode::Off => settings.push(setting("archive_mode", "off")),
        ArchiveMode::Auto => {
            let archiving = Archiving::of(&auto_conf, conf.as_deref());
            if !archiving.is_harmless() {
                settings.push(setting("archive_mode", "off"));
            }
            warnings.extend(archiving.warning());
        }
        ArchiveMode::Preserve => {
            warnings.extend(Archiving::of(&auto_conf, conf.as_deref()).warning_when_preserved());
        }
    }
    settings.extend(request.settings.iter().cloned());
    let settings = last_of_each(settings);
    warnings.extend(too_low(&originals.control, &plan.required, &request.settings));
    warnings.extend(other_warnings(effective, plan, pgdata));
    let title =
        format!("Written by walden restore of backup {}: the target and how its WAL is fetched.", record.id);
    let mut generated: Vec<(&'static str, Vec<u8>)> = Vec::new();
    if let Some(conf) = generated_conf {
        warnings.push(
            "postgresql.conf lay outside of the source's data directory and is not in the backup: a minimal one was \
             generated; put the source's in its place, or start with -c config_file=..."
                .to_owned(),
        );
        generated.push(("postgresql.conf", conf));
    }
    if !originals.has_hba && effective("hba_file").is_none() {
        generated.push(("pg_hba.conf", GENERATED_HBA.as_bytes().to_vec()));
    }
    if !originals.has_ident && effective("ident_file").is_none() {
        generated.push(("pg_ident.conf", GENERATED_IDENT.as_bytes().to_vec()));
    }
    let auto_conf = rewrite_auto_conf(&originals.auto_conf, &title, &settings);
    Configuration { auto_conf, settings, generated, warnings }
}

const GENERATED_HBA: &str = "\
# Generated by walden restore: the source's pg_hba.conf is not in the backup.
# Lets every local user in under its own name, and nobody from elsewhere.
local   all             all                                     peer
";

const GENERATED_IDENT: &str =
    "# Generated by walden restore: the source's pg_ident.conf is not in the backup.\n";

/// The settings that a recovering server must have no lower than its source had them when the backup began and in the
/// WAL up to the stop (`CheckRequiredParameterValues` in `src/backend/access/transam/xlogrecovery.c`), and
/// PostgreSQL's own defaults.
fn maxima(control: &ControlFile, required: &ParameterMaxima) -> [(&'static str, u32, u32); 5] {
    let begun = &control.maxima;
    [
        ("max_connections", begun.max_connections.max(required.max_connections), 100),
        ("max_worker_processes", begun.max_worker_processes.max(required.max_worker_processes), 8),
        ("max_wal_senders", begun.max_wal_senders.max(required.max_wal_senders), 10),
        (
            "max_prepared_transactions",
            begun.max_prepared_transactions.max(required.max_prepared_transactions),
            0,
        ),
        (
            "max_locks_per_transaction",
            begun.max_locks_per_transaction.max(required.max_locks_per_transaction),
            64,
        ),
    ]
}

/// Where the files of the backup say less than the running source had (set on its command line, in a file elsewhere,
/// or raised after the backup), the source's value is set: recovery would not start without it, or pause on the way.
fn raise_maxima(
    control: &ControlFile,
    required: &ParameterMaxima,
    effective: impl Fn(&str) -> Option<String>,
    settings: &mut Vec<Setting>,
    warnings: &mut Vec<String>,
) {
    for (name, needed, default) in maxima(control, required) {
        let configured = effective(name).and_then(|value| value.parse().ok()).unwrap_or(default);
        if configured < needed {
            settings.push(setting(name, needed.to_string()));
            warnings.push(format!(
                "{name} is set to {needed}, as the source ran with it: the files of the backup say {configured}, with \
                 which recovery would not get to its target"
            ));
        }
    }
}

/// Settings of the request with which recovery does not get to its target.
fn too_low(control: &ControlFile, required: &ParameterMaxima, asked: &[Setting]) -> Vec<String> {
    let lower = |(name, needed, _): (&str, u32, u32)| {
        let asked = asked.iter().rev().find(|setting| setting.name.eq_ignore_ascii_case(name))?;
        let value: u32 = asked.value.parse().ok()?;
        (value < needed).then(|| {
            format!("{name} is set to {value}, as asked for: the source ran with {needed}, and recovery needs that")
        })
    };
    maxima(control, required).into_iter().filter_map(lower).collect()
}

fn other_warnings(
    effective: impl Fn(&str) -> Option<String>,
    plan: &RecoveryPlan,
    pgdata: &Path,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(elsewhere) = effective("data_directory").filter(|path| Path::new(path) != pgdata) {
        warnings.push(format!(
            "postgresql.conf names another data directory, which a server started here would take: change it, or start \
             with -c data_directory={} data_directory={elsewhere}",
            pgdata.display()
        ));
    }
    for name in ["hba_file", "ident_file"] {
        if let Some(elsewhere) = effective(name).filter(|path| path.starts_with('/')) {
            warnings.push(format!(
                "{name} lies outside of the data directory and is not in the backup path={elsewhere}"
            ));
        }
    }
    if let Some(names) = effective("synchronous_standby_names") {
        warnings.push(format!(
            "synchronous_standby_names is set: once promoted, commits wait for standbys that are not there value={names:?}"
        ));
    }
    if plan.request.target == RecoveryTarget::Latest && plan.request.action != RecoveryAction::Promote {
        warnings.push(format!(
            "without a target the server promotes itself at the end of the archive: --target-action {} has no effect",
            plan.request.action.as_str()
        ));
    }
    warnings
}

/// The last setting of each name, in the order of those.
fn last_of_each(settings: Vec<Setting>) -> Vec<Setting> {
    let mut kept: Vec<Setting> = Vec::with_capacity(settings.len());
    for setting in settings {
        kept.retain(|earlier| !earlier.name.eq_ignore_ascii_case(&setting.name));
        kept.push(setting);
    }
    kept
}

/// A configuration that recovers what the source wrote.
fn generate_conf(record: &BackupRecord, control: &ControlFile, required: &ParameterMaxima) -> Vec<u8> {
    let settings = &record.settings;
    let recorded = [
        settings.max_connections,
        settings.max_worker_processes,
        settings.max_wal_senders,
        settings.max_prepared_transactions,
        settings.max_locks_per_transaction,
    ];
    let mut lines = vec![setting("hot_standby", "on"), setting("listen_addresses", "localhost")];
    if ["replica", "logical"].contains(&settings.wal_level.as_str()) {
        lines.push(setting("wal_level", &settings.wal_level));
    }
    for ((name, in_control, _), recorded) in maxima(control, required).into_iter().zip(recorded) {
        lines.push(setting(name, in_control.max(recorded).to_string()));
    }
    let mut text = format!(
        "# Generated by walden restore: the backup of PostgreSQL {} has no postgresql.conf.\n\
         # These are the settings that recovery depends on.\n",
        settings.server_version
    )
    .into_bytes();
    text.extend_from_slice(&render(&lines));
    text
}

/// The name of the signal file that makes the server recover from the archive.
pub(super) const RECOVERY_SIGNAL: &[u8] = b"recovery.signal";

/// Directories without which no server starts, parents first.
pub(super) fn needed_directories(major: PgMajor) -> Vec<&'static str> {
    let mut directories = vec![
        "base",
        "global",
        "pg_commit_ts",
        "pg_dynshmem",
        "pg_logical",
        "pg_logical/mappings",
        "pg_logical/snapshots",
        "pg_multixact",
        "pg_multixact/members",
        "pg_multixact/offsets",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_tblspc",
        "pg_twophase",
        "pg_wal",
        "pg_wal/archive_status",
    ];
    if major >= PgMajor::V17 {
        directories.push("pg_wal/summaries");
    }
    directories.push("pg_xact");
    directories
}
