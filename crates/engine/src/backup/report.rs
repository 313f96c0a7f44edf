//! What a backup asks for and what it reports.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use walden_core::BackupRecord;
use walden_store::{CompressionLevel, CounterSnapshot};

use super::copy::JOBS_MAX;
use super::wait::WalWait;

/// Longest label, in bytes: the server refuses longer ones (`MAXPGPATH`).
pub const LABEL_BYTES_MAX: usize = 1024;
/// How long the wait for WAL may make no progress, unless asked otherwise.
pub const WAL_TIMEOUT: Duration = Duration::from_hours(1);

/// How the checkpoint that begins a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// At once, with all the I/O that it takes: the backup begins within seconds.
    #[default]
    Fast,
    /// Spread over `checkpoint_completion_target` of `checkpoint_timeout`: the backup begins minutes later.
    Spread,
}

/// How to take a backup.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The data directory; by default the one that the server names.
    pub pgdata: Option<PathBuf>,
    /// The label that the server writes into `backup_label`; one line of at most [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// How the checkpoint at its beginning is made.
    pub checkpoint: Checkpoint,
    /// How many files are read, and how many chunks compressed, at once: 1 to [`JOBS_MAX`].
    pub jobs: usize,
    /// How hard to compress.
    pub level: CompressionLevel,
    /// How long the wait for WAL may make no progress.
    pub wal_timeout: Duration,
    /// Bytes of files read each second at most; no limit unless set. What is sent has a limit of its own, the store's.
    pub max_read_rate: Option<NonZeroU64>,
}

impl Default for BackupRequest {
    /// A fast checkpoint, a job for each core, zstd level 3 (the level of its own choice), an hour for the WAL.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            pgdata: None,
            label: "walden".to_owned(),
            checkpoint: Checkpoint::default(),
            jobs: cores.min(JOBS_MAX),
            level: CompressionLevel::new(3).unwrap_or(CompressionLevel::DEFAULT),
            wal_timeout: WAL_TIMEOUT,
            max_read_rate: None,
        }
    }
}

/// How long each phase took, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BackupSeconds {
    /// Checks and connecting.
    pub checking: f64,
    /// The checkpoint of `pg_backup_start`.
    pub checkpoint: f64,
    /// Looking through the data directory, copying it and storing the packs.
    pub copying: f64,
    /// Of copying, how long reading was held up so that WAL could be archived.
    pub giving_way: f64,
    /// Waiting for WAL to be archived.
    pub waiting: f64,
    /// Manifest, names and record.
    pub finishing: f64,
    /// Everything.
    pub total: f64,
}

/// What `walden backup create` did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The record that was stored: everything that is known of the backup.
    pub backup: BackupRecord,
    /// How long each phase took.
    pub seconds: BackupSeconds,
    /// Plain bytes copied each second of copying.
    pub bytes_per_second: u64,
    /// Bytes stored each second of copying.
    pub stored_bytes_per_second: u64,
    /// The WAL that the backup needs.
    pub wal: WalWait,
    /// Files that were there at the beginning and gone when their turn came: nothing unusual.
    pub vanished_files: u64,
    /// What a person should know, though the backup is good.
    pub warnings: Vec<String>,
    /// What was asked of the store.
    pub store: CounterSnapshot,
}
