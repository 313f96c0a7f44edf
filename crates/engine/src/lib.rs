//! The verbs of Walden against Postgres, disk and store.
//!
//! Each verb is one type with one method that carries it out and returns a serialisable report. Nothing here
//! prints, reads the command line, or assumes a terminal, one server per process, or a process that ends.

pub mod agent;
mod archiver;
mod authority;
pub mod backup;
mod catalog;
mod check;
mod clock;
mod context;
mod data_directory;
pub mod drill;
mod error;
mod fetcher;
mod find;
pub mod fs;
mod indexing;
mod init;
mod lease;
mod planning;
mod pressure;
mod priority;
mod progress;
mod rebuild;
pub mod restore;
pub mod retention;
mod rollup;
mod server;
pub mod verify;
mod wal;

pub use archiver::{
    Archiver, FileIdentity, Pipeline, PipelineLimits, PipelineLoad, PushDamage, PushOutcome, PushReport,
    Pushed, STAMPS_SETTLED_AFTER, SegmentTimings,
};
pub use authority::Authority;
pub use catalog::{
    Amount, CatalogReport, IncarnationContents, ServerContents, catalog_report, load_overview, load_snapshot,
    read_backup_record, satisfy,
};
pub use check::{ArchiverFacts, Check, CheckReport, CheckStatus, check};
pub use clock::{Clock, SystemClock};
pub use context::Context;
pub use data_directory::{DataDirectory, RESTORED_MARKER, RecoveryMode, RestoredMarker};
pub use error::{EngineError, Result};
pub use fetcher::{
    FetchOutcome, FetchReport, Fetcher, GetAnswer, PrefetchNumbers, PrefetchOptions, Prefetcher, Taken,
    take_prefetched,
};
pub use find::{FindReport, find};
pub use init::{InitReport, InitRequest, init};
pub use planning::{plan, plan_from, window, window_from};
pub use pressure::{PressureWatch, WalDirectory, wal_pressure};
pub use priority::Niceness;
pub use progress::{NoProgress, Progress, Unit};
pub use rebuild::{
    CatalogRebuildReport, Difference, DifferenceKind, RebuildReport, RebuildRequest, catalog_rebuild,
    index_rebuild,
};
pub use server::{
    AdoptReport, ServerReport, adopt, find_incarnation, read_incarnation, read_repository, read_server,
    server_report,
};
pub use wal::{TimelineWal, WalListReport, WalRun, WalShowReport, wal_list, wal_show};
