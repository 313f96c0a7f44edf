//! What must hold before a backup begins: better refused in a second than useless after an hour.

use std::path::{Path, PathBuf};

use walden_core::{ErrorKind, Incarnation};
use walden_pg::ControlFile;

use super::postgres::ServerIdentity;
use crate::authority::Authority;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// Commands that say "archived" and archive nothing.
const EMPTY_COMMANDS: [&str; 5] = ["true", "/bin/true", "/usr/bin/true", ":", "exit 0"];

/// What the checks found.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) data: DataDirectory,
    pub(super) control: ControlFile,
    pub(super) authority: Authority,
    pub(super) warnings: Vec<String>,
}

/// Makes sure that this server can be backed up into this repository.
///
/// # Errors
/// Kinds `config`, `unsupported`, `wrong_server`, `not_found` with what to do about it; and what reading the data
/// directory and the store can give.
pub(super) async fn check(ctx: &Context, server: &ServerIdentity, pgdata: Option<&Path>) -> Result<Checked> {
    if server.in_recovery {
        return Err(EngineError::failed(
            ErrorKind::Unsupported,
            "the server is a standby, and backups from a standby are not supported",
        )
        .with_hint("run walden backup create against the primary"));
    }
    check_archiving(ctx, server)?;
    let data = open_data_directory(server, pgdata)?;
    let control = data.control()?;
    if (control.system_id, control.major) != (server.system_id, server.major) {
        return Err(EngineError::failed(
            ErrorKind::WrongServer,
            format!(
                "the data directory belongs to another server than the connection path={} system_id={} \
                 server_system_id={}",
                data.path().display(),
                control.system_id,
                server.system_id
            ),
        )
        .with_hint("check --pgdata against PGHOST and PGPORT"));
    }
    let incarnation = Incarnation { system_id: control.system_id, major: control.major };
    let authority = Authority::obtain(ctx, incarnation).await?;
    if authority.record.segment_size != control.wal_segment_size {
        return Err(EngineError::failed(
            ErrorKind::WrongServer,
            format!(
                "the WAL segment size is not that of the archive archive={} server={}",
                authority.record.segment_size, control.wal_segment_size
            ),
        )
        .with_hint("pg_resetwal --wal-segsize breaks the history: archive under another --server"));
    }
    refuse_restored(ctx, &data, &authority)?;
    let warnings = warnings(server, &data);
    Ok(Checked { data, control, authority, warnings })
}

/// A backup whose WAL is not archived can't be restored.
fn check_archiving(ctx: &Context, server: &ServerIdentity) -> Result<()> {
    let command = format!("walden --repo {} --server {} wal push %p", ctx.store.url(), ctx.server);
    let mut missing = Vec::new();
    if server.settings.wal_level == "minimal" {
        missing.push("wal_level = replica".to_owned());
    }
    if !matches!(server.archive_mode.as_str(), "on" | "always") {
        missing.push("archive_mode = on".to_owned());
    }
    let does_nothing = EMPTY_COMMANDS.contains(&server.archive_command.trim());
    if server.archive_library.is_empty() && (server.archive_command.is_empty() || does_nothing) {
        missing.push(format!("archive_command = '{command}'"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    // All but the command take effect at a start only.
    let then =
        if missing.iter().all(|line| line.starts_with("archive_command")) { "reload" } else { "restart" };
    Err(EngineError::failed(
        ErrorKind::Config,
        format!(
            "the server does not archive its WAL, without which no backup can be restored archive_mode={}",
            {
                let mode = server.archive_mode.as_str();
                if mode.is_empty() { "unknown" } else { mode }
            }
        ),
    )
    .with_hint(format!("set {} in postgresql.conf and {then} the server", missing.join(" and "))))
}

fn open_data_directory(server: &ServerIdentity, pgdata: Option<&Path>) -> Result<DataDirectory> {
    let path = pgdata.map(PathBuf::from).or_else(|| server.data_directory.as_ref().map(PathBuf::from));
    let Some(path) = path else {
        return Err(EngineError::failed(
            ErrorKind::Config,
            "the server does not tell its data directory to this user",
        )
        .with_hint("name it with --pgdata or PGDATA, or grant the user pg_read_all_settings"));
    };
    let data = DataDirectory::open(&path)?;
    // Readable to its end: the contents of a directory whose names can be listed may still be closed to us.
    let version = data.path().join("PG_VERSION");
    std::fs::read(&version).map_err(|source| EngineError::local("read", &version, source))?;
    Ok(data)
}

/// A restored copy may not archive here, so its backup would wait for its WAL in vain.
fn refuse_restored(ctx: &Context, data: &DataDirectory, authority: &Authority) -> Result<()> {
    let marker = data.restored_marker()?;
    let ours = marker.filter(|marker| {
        marker.server == ctx.server && marker.repository_id == authority.record.repository_id
    });
    match ours {
        None => Ok(()),
        Some(marker) => Err(EngineError::failed(
            ErrorKind::WrongServer,
            format!(
                "this data directory was restored from the archive of this very server at {} and may not archive \
                 into it path={}",
                walden_core::postgres_time(marker.restored_at),
                data.path().display()
            ),
        )
        .with_hint("if it replaces the server for good: walden server adopt; if it is a copy: another --server")),
    }
}

fn warnings(server: &ServerIdentity, data: &DataDirectory) -> Vec<String> {
    let mut warnings = Vec::new();
    let outside = server.config_file.as_ref().filter(|file| !Path::new(file).starts_with(data.path()));
    if let Some(file) = outside {
        warnings.push(format!(
            "the configuration lies outside of the data directory and is not in the backup config_file={file}"
        ));
    }
    if !server.full_page_writes {
        warnings.push(
            "full_page_writes is off: the server turns it on for the time of a backup, but is not safe in a crash"
                .to_owned(),
        );
    }
    warnings
}

/// Made-up servers for the tests of this module's siblings too.
#[cfg(test)]
pub(super) mod tests {
    use walden_core::ServerSettings;
    use walden_pg::{PgMajor, SystemId};

    use super::super::tests::context;
    use super::*;

    pub(in super::super) fn identity() -> ServerIdentity {
        ServerIdentity {
            major: PgMajor::V17,
            system_id: SystemId::new(7_401_234_567_890_123_456),
            in_recovery: false,
            data_directory: None,
            config_file: None,
            archive_mode: "on".into(),
            archive_command: "walden wal push %p".into(),
            archive_library: String::new(),
            full_page_writes: true,
            stats_temp_directory: None,
            settings: ServerSettings {
                server_version: "17.10".into(),
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
                wal_level: "replica".into(),
                data_checksums: false,
            },
        }
    }

    fn refusal(change: impl FnOnce(&mut ServerIdentity)) -> String {
        let store = tempfile::tempdir().unwrap();
        let mut server = identity();
        change(&mut server);
        let error = check_archiving(&context(store.path()), &server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.hint().unwrap()
    }

    #[test]
    fn a_server_that_archives_is_let_through() {
        let store = tempfile::tempdir().unwrap();
        check_archiving(&context(store.path()), &identity()).unwrap();
        let library = ServerIdentity {
            archive_library: "basic_archive".into(),
            archive_command: String::new(),
            archive_mode: "always".into(),
            ..identity()
        };
        check_archiving(&context(store.path()), &library).unwrap();
    }

    #[test]
    fn what_is_missing_is_said_as_it_must_be_written() {
        let hint = refusal(|server| server.archive_mode = "off".into());
        assert_eq!(hint, "set archive_mode = on in postgresql.conf and restart the server");
        for command in ["", "/bin/true", " exit 0 "] {
            let hint = refusal(|server| server.archive_command = command.into());
            assert!(hint.starts_with("set archive_command = 'walden --repo file://"), "{hint}");
            assert!(
                hint.ends_with("--server main wal push %p' in postgresql.conf and reload the server"),
                "{hint}"
            );
        }
        let hint = refusal(|server| server.settings.wal_level = "minimal".into());
        assert!(hint.contains("wal_level = replica"), "{hint}");
    }

    #[tokio::test]
    async fn a_standby_is_refused() {
        let store = tempfile::tempdir().unwrap();
        let server = ServerIdentity { in_recovery: true, ..identity() };
        let error = check(&context(store.path()), &server, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn an_unknown_data_directory_is_asked_for() {
        let store = tempfile::tempdir().unwrap();
        let error = check(&context(store.path()), &identity(), None).await.unwrap_err();
        assert!(error.hint().unwrap().contains("--pgdata"), "{error}");
        let error = check(&context(store.path()), &identity(), Some(store.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "no data directory");
    }
}
