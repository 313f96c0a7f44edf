//! Taking base backups: `walden backup create`.
//!
//! A backup is a copy of the data directory, taken while the server works, between `pg_backup_start` and
//! `pg_backup_stop` in one session; WAL replay from the start to the stop makes it whole. Its objects lie in
//! one directory of the repository: packs with the contents of the files, a manifest that says where each byte
//! is, the names of databases and tables, and last the record. Without its record a backup does not exist.
//!
//! Left out, and how links are treated: see `scan` and `exclude`. What happens to files that change: see
//! `reader` and `pages`. Memory is bounded by [`COPY_MEMORY_BYTES`] and, for the list of
//! files and the compressed manifest, some 100 bytes for each file.
//!
//! Not here: incremental backups, backups from a standby, the replication protocol.

mod archived;
mod checks;
mod collect;
mod connection;
mod copy;
mod exclude;
mod late;
mod lines;
mod names;
mod own_directory;
mod pace;
mod packs;
mod pages;
mod postgres;
mod queue;
mod reader;
mod report;
mod run;
mod scan;
mod still_there;
mod upload;
mod wait;

use std::future::Future;

pub use connection::ConnectionOptions;
pub use copy::{JOBS_MAX, MEMORY_BYTES as COPY_MEMORY_BYTES};
pub use names::{NameEntry, ServerNames};
pub use pace::HOLD_MAX;
pub use postgres::{
    ArchiverState, ExportedSnapshot, LivePostgres, PostgresControl, ServerIdentity, StoppedBackup,
};
pub use report::{BackupReport, BackupRequest, BackupSeconds, Checkpoint, LABEL_BYTES_MAX, WAL_TIMEOUT};
pub use run::BackupRunner;
pub use wait::WalWait;

use crate::check::ArchiverFacts;
use crate::context::Context;
use crate::error::Result;

/// Takes a full backup of a running primary. `interrupted` ends it early; dropping the future does too.
///
/// # Errors
/// As [`LivePostgres::connect`] and [`BackupRunner::run`].
pub async fn create(
    ctx: &Context,
    request: BackupRequest,
    connection: ConnectionOptions,
    interrupted: impl Future<Output = ()> + Send,
) -> Result<BackupReport> {
    let runner = BackupRunner::new(ctx, request)?;
    let mut interrupted = std::pin::pin!(interrupted);
    let postgres = tokio::select! {
        connected = LivePostgres::connect(connection) => connected?,
        () = &mut interrupted => return Err(run::interruption()),
    };
    runner.run(postgres, interrupted).await
}

/// Asks a server how it archives, for `walden check`.
///
/// # Errors
/// As [`LivePostgres::connect`], and when the server does not answer.
pub async fn archiver_facts(connection: ConnectionOptions) -> Result<ArchiverFacts> {
    let mut postgres = LivePostgres::connect(connection).await?;
    let server = postgres.identify().await?;
    let state = postgres.archiver().await?;
    Ok(ArchiverFacts {
        archive_mode: server.archive_mode,
        archive_command: server.archive_command,
        archive_library: server.archive_library,
        wal_level: server.settings.wal_level,
        system_id: Some(server.system_id),
        last_archived: state.last_archived.zip(state.last_archived_at),
        last_failed: state.last_failed.zip(state.last_failed_at),
    })
}

#[cfg(test)]
mod tests;
