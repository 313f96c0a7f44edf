//! What was promised, kept by simple means, and what of it was seen to be broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use walden_core::{BackupId, BackupRecord};

/// Files are known by their names and by which server wrote them.
#[derive(Debug, Default)]
struct State {
    /// The bytes that were promised to be in the archive under a name.
    acked: BTreeMap<String, &'static [u8]>,
    /// What was offered under a name, promised or not.
    offered: BTreeMap<String, Vec<&'static [u8]>>,
    /// Backups that an operator was told are pinned.
    pinned: BTreeSet<BackupId>,
    /// What retention was to keep: the latest moment before which everything may go.
    kept_from: Option<Timestamp>,
    backups: Vec<BackupRecord>,
    conflicts: u64,
    violations: Vec<String>,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Model(Mutex<State>);

impl Model {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is broken.
    pub(crate) fn broken(&self, what: String) {
        self.lock().violations.push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A file is about to be pushed.
    pub(crate) fn offer(&self, name: &str, bytes: &'static [u8]) {
        let mut state = self.lock();
        let offered = state.offered.entry(name.to_owned()).or_default();
        if !offered.contains(&bytes) {
            offered.push(bytes);
        }
    }

    /// A push has said that the file is in the archive. `anew` says that one of its name was removed before.
    pub(crate) fn ack(&self, name: &str, bytes: &'static [u8], anew: bool) {
        let mut state = self.lock();
        match state.acked.get(name) {
            Some(before) if *before != bytes && !anew => {
                let what = format!("two different files were acknowledged under one name name={name}");
                state.violations.push(what);
            }
            _ => drop(state.acked.insert(name.to_owned(), bytes)),
        }
    }

    pub(crate) fn conflict(&self, name: &str, bytes: &'static [u8], anew: bool) {
        let mut state = self.lock();
        state.conflicts += 1;
        if state.offered.get(name).is_none_or(|offered| offered.iter().all(|other| *other == bytes)) {
            state.violations.push(format!("a conflict where only one file was offered name={name}"));
        }
        if !anew && state.acked.get(name).is_some_and(|acked| *acked == bytes) {
            state.violations.push(format!("a conflict over what was acknowledged name={name}"));
        }
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.lock().conflicts
    }

    /// What was acknowledged under a name.
    pub(crate) fn acked(&self, name: &str) -> Option<&'static [u8]> {
        self.lock().acked.get(name).copied()
    }

    pub(crate) fn all_acked(&self) -> BTreeMap<String, &'static [u8]> {
        self.lock().acked.clone()
    }

    pub(crate) fn was_offered(&self, name: &str, bytes: &[u8]) -> bool {
        self.lock().offered.get(name).is_some_and(|offered| offered.contains(&bytes))
    }

    pub(crate) fn committed(&self, record: BackupRecord) {
        self.lock().backups.push(record);
    }

    /// A backup was said to be pinned.
    pub(crate) fn pin(&self, backup: BackupId) {
        self.lock().pinned.insert(backup);
    }

    pub(crate) fn pinned(&self) -> BTreeSet<BackupId> {
        self.lock().pinned.clone()
    }

    /// Retention is about to remove what only moments before this one need.
    pub(crate) fn may_forget_before(&self, moment: Timestamp) {
        let mut state = self.lock();
        state.kept_from = state.kept_from.max(Some(moment));
    }

    pub(crate) fn kept_from(&self) -> Option<Timestamp> {
        self.lock().kept_from
    }

    pub(crate) fn backups(&self) -> Vec<BackupRecord> {
        self.lock().backups.clone()
    }
}
