//! The format of the WAL: pages, records, and the scanner that reads them.
//!
//! PostgreSQL source: `src/include/access/{xlog_internal.h,xlogrecord.h}` and
//! `src/backend/access/transam/xlogreader.c`.

mod assembly;
#[cfg(test)]
mod craft;
pub mod decode;
mod fault;
mod image;
mod items;
mod outcome;
mod page;
mod pglz;
mod record;
mod scanner;
mod whole;

pub use decode::Payload;
pub use fault::Fault;
pub use items::{BlockImage, BlockRef, ImageCompression};
pub use outcome::{Damage, Overwritten, PendingRecord, SegmentOutcome, Stop};
pub use page::{PageFlags, PageHeader, SegmentHeader};
pub use record::{Record, RecordHeader, ResourceManager};
pub use scanner::{OnDamage, PendingBytes, WalScanner, WalScannerOptions};
pub use whole::decode_record;
