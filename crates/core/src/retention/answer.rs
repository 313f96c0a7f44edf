//! What planning a retention run answers.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walden_pg::{ArchiveFileName, SegmentId, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use super::inventory::RecordRole;
use super::policy::RetentionPolicy;
use super::reasons::Fate;
use crate::layout::{BackupId, Incarnation, ObjectKey, ServerLayout, ServerName};
use crate::records::BackupKind;
use crate::recovery::{Moment, Need, RestorableRange};

/// What a group of objects is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum GroupKind {
    /// A base backup with its commit record.
    Backup {
        /// Its name.
        id: BackupId,
        /// Whether it stands alone.
        incremental: bool,
        /// The backup it stands on.
        parent: Option<BackupId>,
        /// When it ended, by the source's clock.
        finished_at: Timestamp,
        /// Whether it can be restored now.
        restorable: bool,
    },
    /// A backup without a commit record, or with one that can't be read.
    UnfinishedBackup {
        /// Its name.
        id: BackupId,
    },
    /// Consecutive segments of one timeline.
    Segments {
        /// The timeline.
        timeline: TimelineId,
        /// The first.
        first: SegmentName,
        /// The last.
        last: SegmentName,
        /// The size that makes numbers of names.
        segment_size: WalSegmentSize,
    },
    /// A partial segment or a backup history file.
    File {
        /// Its name.
        #[serde(serialize_with = "as_text")]
        name: ArchiveFileName,
    },
    /// The rollup of a LOG directory.
    Rollup {
        /// The timeline.
        timeline: TimelineId,
        /// The directory.
        log: u32,
    },
    /// The copy of all commit records.
    BackupRollup,
    /// The history file of a timeline.
    History {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Evidence, an audit record or a lease.
    Record {
        /// Which of them.
        role: RecordRole,
        /// Its key.
        key: ObjectKey,
    },
    /// An upload that was never completed.
    Upload {
        /// The key that it would have.
        key: ObjectKey,
        /// The store's name of it.
        upload: String,
    },
    /// What is not known here.
    Foreign {
        /// Its key.
        key: String,
    },
}

fn as_text<S: serde::Serializer>(name: &ArchiveFileName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

impl GroupKind {
    /// A backup's group.
    pub(super) fn of_backup(record: &crate::records::BackupRecord, restorable: bool) -> Self {
        Self::Backup {
            id: record.id.clone(),
            incremental: record.kind == BackupKind::Incremental,
            parent: record.parent.clone(),
            finished_at: record.finished_at,
            restorable,
        }
    }
}

/// Objects that stay or go together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectGroup {
    /// The incarnation; `None` for what lies beside all of them.
    pub incarnation: Option<Incarnation>,
    /// What they are.
    #[serde(flatten)]
    pub kind: GroupKind,
    /// Whether they stay, and why, for machines.
    #[serde(flatten)]
    pub fate: Fate,
    /// Why, for people.
    pub message: String,
    /// How many objects.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl ObjectGroup {
    /// A group whose message is that of its reasons.
    pub(super) fn new(incarnation: Option<Incarnation>, kind: GroupKind, fate: Fate, totals: Totals) -> Self {
        let Totals { objects, bytes } = totals;
        Self { incarnation, kind, message: fate.words().join("; "), fate, objects, bytes }
    }
}

/// Objects and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// How many objects.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, group: &ObjectGroup) {
        self.objects += group.objects;
        self.bytes += group.bytes;
    }
}

/// One step of carrying a plan out. Steps are done in their order; after each of them, and in the middle of each, the
/// archive is usable and everything kept is whole. Doing a step again does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Deletion {
    /// The copy of the commit records: it would tell of backups that go. To be made again at the end.
    BackupRollup {
        /// Whose.
        incarnation: Incarnation,
    },
    /// The commit record of a backup: from here on the backup does not exist.
    CommitRecord {
        /// Whose.
        incarnation: Incarnation,
        /// The backup.
        backup: BackupId,
    },
    /// Everything else in the directory of a backup without a commit record. To be left alone should a commit record
    /// be there.
    BackupObjects {
        /// Whose.
        incarnation: Incarnation,
        /// The backup.
        backup: BackupId,
    },
    /// The rollup of a LOG directory of which segments go. To be made again where some stay.
    Rollup {
        /// Whose.
        incarnation: Incarnation,
        /// The timeline.
        timeline: TimelineId,
        /// The directory.
        log: u32,
    },
    /// Consecutive segments, the oldest first.
    Segments {
        /// Whose.
        incarnation: Incarnation,
        /// The timeline.
        timeline: TimelineId,
        /// The first.
        first: SegmentNumber,
        /// How many.
        count: u64,
        /// The size that makes names of numbers.
        segment_size: WalSegmentSize,
    },
    /// A partial segment or a backup history file.
    File {
        /// Whose.
        incarnation: Incarnation,
        /// Its name.
        #[serde(serialize_with = "as_text")]
        name: ArchiveFileName,
    },
    /// A history file.
    History {
        /// Whose.
        incarnation: Incarnation,
        /// The timeline.
        timeline: TimelineId,
    },
    /// Evidence or an audit record.
    Record {
        /// Its key.
        key: ObjectKey,
    },
    /// The parts of an upload that was never completed.
    Upload {
        /// The key that it would have.
        key: ObjectKey,
        /// The store's name of it.
        upload: String,
    },
}

impl Deletion {
    /// The objects of this step, as far as their keys are known without a listing: of
    /// [`Self::BackupObjects`] none, because its directory is listed when its turn comes; of [`Self::Upload`] none,
    /// because it is no object.
    pub fn keys(&self, layout: &ServerLayout) -> Box<dyn Iterator<Item = ObjectKey> + Send> {
        let one =
            |key: ObjectKey| -> Box<dyn Iterator<Item = ObjectKey> + Send> { Box::new(std::iter::once(key)) };
        match self {
            Self::BackupRollup { incarnation } => {
                one(layout.incarnation(*incarnation).backup_rollup().key().clone())
            }
            Self::CommitRecord { incarnation, backup } => {
                one(layout.incarnation(*incarnation).backup(backup).commit())
            }
            Self::Rollup { incarnation, timeline, log } => {
                one(layout.incarnation(*incarnation).rollup(*timeline, *log).key().clone())
            }
            Self::File { incarnation, name } => one(layout.incarnation(*incarnation).archive_file(*name)),
            Self::History { incarnation, timeline } => {
                one(layout.incarnation(*incarnation).archive_file(ArchiveFileName::History(*timeline)))
            }
            Self::Record { key } => one(key.clone()),
            Self::Segments { incarnation, timeline, first, count, segment_size } => {
                let layout = layout.incarnation(*incarnation);
                let (timeline, size, first) = (*timeline, *segment_size, first.get());
                let numbers = first..first.saturating_add(*count);
                Box::new(numbers.map(move |number| {
                    let name = SegmentId::new(timeline, SegmentNumber::new(number)).name(size);
                    layout.archive_file(ArchiveFileName::Segment(name))
                }))
            }
            Self::BackupObjects { .. } | Self::Upload { .. } => Box::new(std::iter::empty()),
        }
    }
}

/// Moments of a timeline that can be restored before the plan and not after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LostMoments {
    /// The first of them; or, with `from_stays`, the last one before them, which stays.
    pub from: Moment,
    /// Whether `from` itself stays restorable.
    pub from_stays: bool,
    /// The last of them; or, with `to_stays`, the first one after them, which stays.
    pub to: Moment,
    /// Whether `to` itself stays restorable.
    pub to_stays: bool,
}

/// What can be restored of a timeline before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowChange {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The timeline.
    pub timeline: TimelineId,
    /// What can be restored now.
    pub before: Vec<RestorableRange>,
    /// What can be restored when the plan is carried out.
    pub after: Vec<RestorableRange>,
    /// What stops being restorable.
    pub lost: Vec<LostMoments>,
}

/// A LOG directory of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LogDirectory {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The timeline.
    pub timeline: TimelineId,
    /// The directory.
    pub log: u32,
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionWarning {
    /// What it is, for machines.
    pub kind: RetentionWarningKind,
    /// What it is, for people.
    pub message: String,
}

/// What a person should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionWarningKind {
    /// Nothing can be restored.
    NothingRestorable,
    /// There are fewer restorable full backups than the policy asks for.
    FewerFulls,
    /// No backup serves the beginning of the window.
    WindowNotReached,
    /// A backup by whose clock it ended in the future.
    FromTheFuture,
    /// A backup came to the store long after it ended by its server's clock: a copy, or a wrong clock.
    LateInStore,
    /// Nothing was written for longer than the window: archiving stands still, or this clock is wrong.
    NothingNew,
    /// Something was written in the future: this clock is wrong, or the store's.
    ClockBehind,
    /// A record or history that can't be read, or a timeline without a history.
    Unreadable,
    /// A kept backup that can't be restored.
    NotRestorable,
    /// A pin of a backup that is not there, or that has ended.
    Pin,
    /// Objects that do not belong here.
    Foreign,
    /// An old incarnation that would go by its age stays, because the current one has nothing restorable.
    OldIncarnationHeld,
}

/// What goes and what stays, and why; nothing is decided later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation that is archived now.
    pub current: Incarnation,
    /// The moment that the plan is for.
    pub at: Timestamp,
    /// The policy.
    pub policy: RetentionPolicy,
    /// The backups that an operator named: nothing else goes, and the policy's promises do not hold them. Empty when
    /// the policy decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<BackupId>,
    /// Everything that is there.
    pub groups: Vec<ObjectGroup>,
    /// What is done, in this order.
    pub deletions: Vec<Deletion>,
    /// What goes.
    pub removed: Totals,
    /// What stays.
    pub kept: Totals,
    /// What can be restored before and after, by incarnation and timeline.
    pub windows: Vec<WindowChange>,
    /// Directories of which some segments go and some stay: what rollups tell of them, the newest one of their timeline
    /// included, is to be made again afterwards.
    pub stale_directories: Vec<LogDirectory>,
    /// What a person should look at.
    pub warnings: Vec<RetentionWarning>,
}

impl RetentionPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deletions.is_empty()
    }

    /// Whether any moment stops being restorable.
    #[must_use]
    pub fn loses_moments(&self) -> bool {
        self.windows.iter().any(|window| !window.lost.is_empty())
    }
}

/// Why no plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionRefusalReason {
    /// The policy can't be meant.
    InvalidPolicy,
    /// Not everything was listed.
    IncompleteListing,
    /// The current incarnation is not among those that were listed.
    UnknownIncarnation,
    /// No backup of this name is there.
    UnknownBackup,
    /// The backup that was named must stay.
    MustStay,
}

/// No plan: nothing may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionRefusal {
    /// Why, for machines.
    pub reason: RetentionRefusalReason,
    /// Why, for people.
    pub message: String,
}

impl fmt::Display for RetentionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What must be known of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetentionNeed {
    /// Whose catalog.
    pub incarnation: Incarnation,
    /// What.
    pub need: Need,
}

/// The answer to what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retaining {
    /// This.
    Plan(Box<RetentionPlan>),
    /// No plan.
    Refused(Box<RetentionRefusal>),
    /// More must be known: bring it into the catalogs and ask again. The inventory stays as it is.
    Needs(Vec<RetentionNeed>),
}
