//! The format of the WAL.
//!
//! PostgreSQL source: `src/include/access/{xlog_internal.h,xlogrecord.h}`.

mod page;

pub use page::{PageFlags, PageHeader, SegmentHeader};
