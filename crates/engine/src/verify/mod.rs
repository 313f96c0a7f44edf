//! `walden verify`: is what is archived still what was stored, and what can't be restored if not?
//!
//! What holds:
//! - Only what was read is called good, and only what stayed wrong when it was read again is called damaged. What the store
//!   would not give is neither: it is not proven.
//! - What vanished meanwhile is looked for in the catalog again: an archiver, a backup or retention may be at work.
//! - Nothing is written, but for the memory of what was proven and, when asked for, one record.
//! - Memory grows by about a hundred bytes for each object listed, and is bounded in everything that is read.

mod confirm;
mod inventory;
mod memory;
mod objects;
mod options;
mod parts;
mod presence;
mod record;
mod report;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod verdict;
mod wal;

pub use options::{VerifyOptions, VerifyTarget};
pub use report::{FindingCounts, MemoryReport, PresenceTotals, StopReason, Verdict, VerifyReport};
pub use run::verify;

pub(crate) use record::newest_record;
