//! Hostile histories of real servers, and what PostgreSQL itself recovers from them.
//!
//! - [`Script`]: the steps of a history, drawn from a seed.
//! - [`Live`]: carries them out on a server that archives through an [`Archive`].
//! - [`WalFiles`]: the archived files as recovery gets them, and the records on a timeline path.
//! - [`Recovery`]: one recovery by a real server, and where it ended.
//!
//! The same seed gives the same steps. What concurrent clients make of them differs from run to run, so whoever
//! finds a difference keeps the archive, too.

mod archive;
mod clock;
mod dice;
mod live;
mod records;
mod recovery;
mod script;
mod turns;
mod wal_files;
mod work;

#[cfg(test)]
mod tests;

pub use archive::{Archive, BackupTaken};
pub use clock::SteppedClock;
pub use dice::Dice;
pub use live::{Live, LiveHistory, Mark};
pub use records::{PathRecord, PathWal, RecordKind, WalEnd};
pub use recovery::{Ending, LastCommit, Recovery, StopLine, Stopped};
pub use script::{Script, Step, Turn};
pub use wal_files::WalFiles;
