//! PostgreSQL names and on-disk formats, over byte slices.
//!
//! What is here: the domain numbers ([`Lsn`], [`TimelineId`], [`SystemId`], [`PgMajor`],
//! [`WalSegmentSize`], [`SegmentNumber`]), the names of files in the archive ([`ArchiveFileName`] is
//! the only parser of `%f`), and the formats of PostgreSQL 13 to 18.
//!
//! What holds everywhere: no I/O, no clock, no async; no function panics on any bytes; nothing is
//! allocated by a length that was read from the input and not yet seen as data; every number with a
//! meaning has its own type.

mod backup_label;
mod checkpoint;
mod control;
mod crc;
mod error;
mod file_name;
#[cfg(test)]
mod fixtures;
mod hex;
mod history;
mod ids;
mod le;
mod lsn;
mod major;
mod page;
pub mod relation_file;
mod segment;
mod serde_text;
mod system_id;
mod tablespace_map;
mod time;
mod timeline;
pub mod wal;

pub use backup_label::{BackupHistory, BackupLabel, BackupMethod, BackupSource, IncrementalFrom};
pub use checkpoint::{CheckPoint, ParameterMaxima, WalLevel};
pub use control::{ClusterState, ControlFile};
pub use error::{Error, Result};
pub use file_name::ArchiveFileName;
pub use history::{HistoryEntry, TimelineHistory, TimelineRange};
pub use ids::{Fork, FullXid, Oid, RelFileLocator, RelFileNumber, Xid};
pub use lsn::Lsn;
pub use major::PgMajor;
pub use page::{DataPage, PageVerdict};
pub use relation_file::{RelationFile, RelationFileName};
pub use segment::{SegmentId, SegmentName, SegmentNumber, WalSegmentSize};
pub use system_id::SystemId;
pub use tablespace_map::TablespaceMap;
pub use time::{PgTimestamp, UnixSeconds};
pub use timeline::TimelineId;
pub use wal::{PageFlags, PageHeader, SegmentHeader};
