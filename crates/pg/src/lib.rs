//! PostgreSQL names and on-disk formats, over byte slices.
//!
//! What is here: the domain numbers ([`Lsn`], [`TimelineId`], [`SystemId`], [`PgMajor`],
//! [`WalSegmentSize`], [`SegmentNumber`]), the names of files in the archive ([`ArchiveFileName`] is
//! the only parser of `%f`), and the formats of PostgreSQL 13 to 18.
//!
//! What holds everywhere: no I/O, no clock, no async; no function panics on any bytes; nothing is
//! allocated by a length that was read from the input and not yet seen as data; every number with a
//! meaning has its own type.

mod error;
mod file_name;
mod hex;
mod lsn;
mod major;
mod segment;
mod serde_text;
mod system_id;
mod timeline;

pub use error::{Error, Result};
pub use file_name::ArchiveFileName;
pub use lsn::Lsn;
pub use major::PgMajor;
pub use segment::{SegmentId, SegmentName, SegmentNumber, WalSegmentSize};
pub use system_id::SystemId;
pub use timeline::TimelineId;
