//! What the listings of a repository show of one server: all that retention decides over.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{ArchiveFileName, Lsn, TimelineId};

use crate::layout::{BackupId, Incarnation, ObjectKey, ServerName};
use crate::snapshot::{CatalogSnapshot, Stray};

/// Everything under one server's prefix.
///
/// Write times are the store's, as its listings show them. `None` means unknown, and what has an unknown age is kept
/// wherever age decides.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The server.
    pub server: ServerName,
    /// The incarnation that is archived now.
    pub current: Incarnation,
    /// All incarnations of the server's record, in any order.
    pub incarnations: Vec<IncarnationInventory>,
    /// What operators pinned.
    pub pins: Vec<Pin>,
    /// Backups that are known to run. Those without a commit record are taken for running while they are young, so
    /// that this may be empty.
    pub running: Vec<RunningBackup>,
    /// Objects under the server's prefix that belong to no incarnation and are not known.
    pub strays: Vec<Stray>,
}

/// One incarnation's objects.
#[derive(Debug, Clone)]
pub struct IncarnationInventory {
    /// The archive as recovery sees it. Every directory must have been listed
    /// ([`Listed::All`](crate::Listed::All)): nothing is removed on the word of a rollup.
    pub catalog: CatalogSnapshot,
    /// For each LOG directory of a timeline when its oldest and its newest segment were written.
    pub wal_written: BTreeMap<(TimelineId, u32), Written>,
    /// Partial segments and backup history files.
    pub files: Vec<FileObject>,
    /// Rollups of LOG directories, with their bytes.
    pub rollups: BTreeMap<(TimelineId, u32), u64>,
    /// The copy of all commit records, with its bytes.
    pub backup_rollup: Option<u64>,
    /// History files, readable or not, with their bytes.
    pub histories: BTreeMap<TimelineId, u64>,
    /// What lies in each backup's directory, with a commit record or without.
    pub backups: BTreeMap<BackupId, BackupObjects>,
    /// Backups whose removal was begun, by the audit records of runs: without a commit record they are not under way,
    /// however young they are.
    pub leftovers: BTreeSet<BackupId>,
    /// Evidence of drills, audit records of retention runs, records of verifications.
    pub records: Vec<RecordObject>,
    /// Uploads that were begun and not completed.
    pub uploads: Vec<OpenUpload>,
}

impl IncarnationInventory {
    /// An archive of which nothing is known but the catalog.
    #[must_use]
    pub fn new(catalog: CatalogSnapshot) -> Self {
        Self {
            catalog,
            wal_written: BTreeMap::new(),
            files: Vec::new(),
            rollups: BTreeMap::new(),
            backup_rollup: None,
            histories: BTreeMap::new(),
            backups: BTreeMap::new(),
            leftovers: BTreeSet::new(),
            records: Vec::new(),
            uploads: Vec::new(),
        }
    }

    /// The incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.catalog.incarnation.incarnation()
    }

    /// Notes when a segment was written, by the name of its directory.
    pub fn note_written(&mut self, timeline: TimelineId, log: u32, at: Timestamp) {
        let written = self.wal_written.entry((timeline, log)).or_insert(Written { oldest: at, newest: at });
        written.oldest = written.oldest.min(at);
        written.newest = written.newest.max(at);
    }
}

/// When the objects of a group were written, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The first.
    pub oldest: Timestamp,
    /// The last.
    pub newest: Timestamp,
}

/// A partial segment or a backup history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileObject {
    /// Its name, as PostgreSQL archived it.
    pub name: ArchiveFileName,
    /// Its bytes in the store.
    pub bytes: u64,
    /// When it was written.
    pub written: Option<Timestamp>,
}

/// The directory of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupObjects {
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the commit record was written; `None` without one.
    pub committed: Option<Timestamp>,
    /// When the oldest object was written; `None` when that is not known.
    pub oldest: Option<Timestamp>,
    /// When the newest object was written.
    pub newest: Option<Timestamp>,
}

/// What a small record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordRole {
    /// Evidence of a drill.
    Evidence,
    /// What a retention run did.
    Audit,
    /// What a verification found.
    Verification,
    /// What an operator said about keeping a backup that is not there any more.
    Pin,
    /// Who may remove now. Leases are their holders' business and never removed here.
    Lease,
}

/// A small record beside the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordObject {
    /// What it is about.
    pub role: RecordRole,
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written.
    pub written: Option<Timestamp>,
}

/// An upload that was begun and not completed: the store keeps its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The key that it would have.
    pub key: ObjectKey,
    /// The store's name of the upload.
    pub upload: String,
    /// When it was begun.
    pub started: Option<Timestamp>,
    /// Bytes of its parts, where the store tells.
    pub bytes: u64,
}

/// An operator's word that a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// The backup. What it needs stays with it.
    pub backup: BackupId,
    /// The first moment at which the pin does not count any more; `None` for never.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

impl Pin {
    /// Whether it counts at a moment.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// A backup that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningBackup {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The backup.
    pub id: BackupId,
    /// When it began.
    pub started_at: Timestamp,
    /// Where its WAL begins, once that is known.
    pub start: Option<(TimelineId, Lsn)>,
    /// The backup that it will stand on, if it is incremental.
    pub parent: Option<BackupId>,
}
