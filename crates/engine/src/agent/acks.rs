//! What was archived before PostgreSQL asked for it.
//!
//! An ack is the agent's own memory of a push that succeeded, and it is nowhere else: no file holds one, so nothing stale
//! outlives the process. It is used for the very file that was read and for no other: same file system, same inode, same
//! length, same dates of contents and of inode, as the hook and the agent both see them now. What is not equal is pushed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::archiver::{FileIdentity, PushReport};

/// So many files may be archived ahead of PostgreSQL: more than it takes in a second, less than would be a burden to
/// have archived for nothing.
pub const ACKS_MAX: usize = 64;
/// An ack is used for this long. The repository may be another one by then; a push finds out.
pub const ACK_AGE_MAX: Duration = Duration::from_mins(15);

#[derive(Debug, Clone)]
struct Ack {
    file: FileIdentity,
    report: PushReport,
    /// By a clock that never goes back and does not stop when the machine sleeps.
    at: Duration,
}

/// The acks, by name.
#[derive(Debug, Default)]
pub(super) struct Acks(BTreeMap<String, Ack>);

impl Acks {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is one for the name that could be used now.
    pub(super) fn has(&self, name: &str, now: Duration) -> bool {
        self.0.get(name).is_some_and(|ack| is_fresh(ack, now))
    }

    /// Notes that a file is in the archive; the oldest ack makes room. A report of another file is not noted, nor one of a
    /// file whose dates may be too coarse to tell a later write.
    pub(super) fn insert(&mut self, file: FileIdentity, report: PushReport, now: Duration) {
        if report.bytes != file.bytes || has_coarse_stamps(&file) {
            return;
        }
        if self.len() >= ACKS_MAX && !self.0.contains_key(&report.name) {
            let oldest = self.0.iter().min_by_key(|(_, ack)| ack.at).map(|(name, _)| name.clone());
            if let Some(name) = oldest {
                self.0.remove(&name);
            }
        }
        self.0.insert(report.name.clone(), Ack { file, report, at: now });
    }

    /// The report of the push of this very file. An ack that does not fit is forgotten.
    pub(super) fn take_fitting(
        &mut self,
        name: &str,
        file: &FileIdentity,
        now: Duration,
    ) -> Option<PushReport> {
        let ack = self.0.get(name)?;
        if ack.file == *file && is_fresh(ack, now) {
            return Some(ack.report.clone());
        }
        self.0.remove(name);
        None
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Keeps only those with these names, and of those only what may still be used.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool, now: Duration) {
        self.0.retain(|name, ack| keep(name) && is_fresh(ack, now));
    }

    /// Forgets all: something is not as it was.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn is_fresh(ack: &Ack, now: Duration) -> bool {
    // One from the future is from another boot's clock; there can't be any.
    now.checked_sub(ack.at).is_some_and(|age| age < ACK_AGE_MAX)
}

/// Some file systems keep dates to the second only: a second write within it would not show.
fn has_coarse_stamps(file: &FileIdentity) -> bool {
    const SECOND: i64 = 1_000_000_000;
    file.mtime_ns % SECOND == 0 && file.ctime_ns % SECOND == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archiver::PushOutcome;

    pub(super) fn report(name: &str) -> PushReport {
        PushReport {
            schema: 1,
            name: name.to_owned(),
            outcome: PushOutcome::Stored,
            key: format!("key/{name}"),
            bytes: 16,
            stored_bytes: 4,
            sha256: "00".repeat(32),
            damage: None,
        }
    }

    fn file() -> FileIdentity {
        FileIdentity { device: 1, inode: 2, bytes: 16, mtime_ns: 3_000_000_001, ctime_ns: 4_000_000_001 }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn an_ack_is_for_the_very_file_that_was_read() {
        let others = [
            FileIdentity { device: 9, ..file() },
            FileIdentity { inode: 9, ..file() },
            FileIdentity { bytes: 9, ..file() },
            FileIdentity { mtime_ns: 9, ..file() },
            FileIdentity { ctime_ns: 9, ..file() },
        ];
        for other in others {
            let mut acks = Acks::default();
            acks.insert(file(), report("a"), NOW);
            assert_eq!(acks.take_fitting("a", &file(), NOW), Some(report("a")));
            assert_eq!(acks.take_fitting("b", &file(), NOW), None);
            assert_eq!(acks.take_fitting("a", &other, NOW), None);
            assert_eq!(acks.take_fitting("a", &file(), NOW), None, "forgotten with the first doubt");
        }
    }

    #[test]
    fn an_ack_gets_old_by_a_clock_that_nobody_sets() {
        let mut acks = Acks::default();
        acks.insert(file(), report("a"), NOW);
        let last = NOW + ACK_AGE_MAX.saturating_sub(Duration::from_nanos(1));
        assert!(acks.take_fitting("a", &file(), last).is_some());
        assert!(acks.has("a", last) && !acks.has("a", NOW + ACK_AGE_MAX));
        assert!(acks.take_fitting("a", &file(), NOW + ACK_AGE_MAX).is_none());
        acks.insert(file(), report("a"), NOW);
        assert!(acks.take_fitting("a", &file(), Duration::ZERO).is_none());
    }

    #[test]
    fn what_can_not_be_told_apart_later_is_not_noted() {
        let mut acks = Acks::default();
        acks.insert(FileIdentity { bytes: 17, ..file() }, report("a"), NOW);
        let coarse = FileIdentity { mtime_ns: 3_000_000_000, ctime_ns: 4_000_000_000, ..file() };
        acks.insert(coarse, report("b"), NOW);
        assert_eq!(acks.len(), 0);
    }

    #[test]
    fn there_are_never_more_than_allowed() {
        let mut acks = Acks::default();
        for number in 0..ACKS_MAX as u64 + 5 {
            acks.insert(file(), report(&format!("{number:03}")), NOW + Duration::from_secs(number));
        }
        assert_eq!(acks.len(), ACKS_MAX);
        let later = NOW + Duration::from_secs(100);
        assert!(!acks.has("004", later) && acks.has("005", later));
        acks.retain(|name| name < "010", later);
        assert_eq!(acks.len(), 5);
        acks.clear();
        assert_eq!(acks.len(), 0);
    }
}
