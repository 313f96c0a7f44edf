//! What planning a recovery answers: a plan, a refusal, or what else must be known.

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, ParameterMaxima, SegmentId, SegmentName, TimelineId, Xid};

use super::path::PathStep;
use super::request::RecoveryRequest;
use crate::layout::{BackupId, Incarnation, ServerName};

/// Most missing segments that a plan or a refusal lists by name; the count is always exact.
const MISSING_LISTED_MAX: usize = 100;

/// The backup that a plan starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupChoice {
    /// Its name.
    pub id: BackupId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Recovery reads WAL from here.
    pub start_lsn: Lsn,
    /// Recovery is consistent from here.
    pub stop_lsn: Lsn,
    /// When it ended, by the source's clock.
    pub finished_at: Timestamp,
    /// Plain bytes that the restored data directory will have.
    pub bytes: u64,
    /// Bytes to fetch.
    pub stored_bytes: u64,
    /// Why this one.
    pub reason: String,
    /// How long a recovery with it will take, in seconds.
    pub expected_seconds: u64,
}

/// Why a backup was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupRejection {
    /// The request names another.
    NotRequested,
    /// It ends after the target.
    EndsAfterTarget,
    /// It is not on the path to the target timeline.
    NotOnPath,
    /// WAL that it needs is missing.
    MissingSegments,
    /// WAL that it needs is damaged.
    DamagedWal,
    /// WAL that it needs was written with `wal_level = minimal`.
    WalLevelMinimal,
    /// The target is not in the WAL that follows it.
    TargetNotFound,
    /// Recovery would meet the target before the backup is consistent.
    StopsBeforeConsistency,
    /// A newer version wrote it, with something that this version does not know.
    Unsupported,
    /// Another backup serves better.
    Outranked,
    /// The history of the target timeline is missing or can't be followed.
    MissingHistory,
    /// Its commit record can't be read.
    Unreadable,
}

/// A backup that was looked at and not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedBackup {
    /// Its name.
    pub id: BackupId,
    /// Why, for machines.
    pub reason: BackupRejection,
    /// Why, for people.
    pub message: String,
    /// How long a recovery with it would take, in seconds, when it could serve.
    pub expected_seconds: Option<u64>,
}

/// The segments that a plan reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SegmentNeeds {
    /// How many.
    pub count: u64,
    /// Their bytes in the store.
    pub bytes: u64,
    /// The first.
    pub first: Option<SegmentName>,
    /// The last.
    pub last: Option<SegmentName>,
    /// The missing ones, at most 100 of them; a plan has none.
    pub missing: Vec<SegmentName>,
    /// How many are missing.
    pub missing_count: u64,
}

/// A transaction's commit in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// The transaction.
    pub xid: Xid,
    /// Its commit time.
    pub time: Timestamp,
    /// Where its commit record begins.
    pub lsn: Lsn,
}

/// A moment that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// The position: recovering to it (`--target-lsn`) gives this moment.
    pub lsn: Lsn,
    /// The time of the last commit up to there, or of a backup's end where no commit is known.
    pub time: Option<Timestamp>,
    /// The last transaction committed up to there.
    pub xid: Option<Xid>,
}

/// How PostgreSQL will come to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopKind {
    /// Just before a commit or an abort whose time is past the target.
    BeforeTransactionEnd,
    /// Just before the commit or abort of the target transaction.
    BeforeTransaction,
    /// Just after the commit or abort of the target transaction.
    AfterTransaction,
    /// Just before the first record at or after the target position.
    BeforeLsn,
    /// Just after the first record at or after the target position.
    AfterLsn,
    /// Just after a restore point.
    AfterRestorePoint,
    /// As soon as the backup is consistent.
    AtConsistency,
    /// At the end of the archived WAL.
    EndOfWal,
}

/// Where PostgreSQL will stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Where the record begins that recovery stops before or after; at the end of the WAL, where the next record
    /// would begin.
    pub lsn: Lsn,
    /// The position up to which WAL is replayed: the end of the last record applied
    /// (`pg_last_wal_replay_lsn()`).
    pub replayed_to: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// How.
    pub kind: StopKind,
    /// The last commit that will be there; `None` when none lies between the backup's start and the stop.
    pub last_kept: Option<Commit>,
    /// The first commit that will not be there; `None` when the WAL holds none.
    pub first_left_out: Option<Commit>,
    /// How many commits will not be there, of those that are archived on the way behind the stop.
    pub commits_left_out: u64,
    /// Whether all of the WAL behind the stop was looked through for them; if not there may be more.
    pub commits_left_out_exact: bool,
}

/// How long a recovery will take, and how that was reckoned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// In all, in seconds.
    pub seconds: u64,
    /// To fetch and write the backup.
    pub restore_seconds: u64,
    /// To fetch and replay the WAL.
    pub replay_seconds: u64,
    /// Plain bytes of WAL to replay.
    pub wal_bytes: u64,
    /// The arithmetic in words.
    pub basis: String,
}

/// How fast this place restores and replays; what the estimates are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryRates {
    /// Plain bytes of a backup written in a second.
    pub restore_bytes_per_second: u64,
    /// Plain bytes of WAL fetched and replayed in a second.
    pub replay_bytes_per_second: u64,
    /// Where these come from.
    pub source: String,
}

impl Default for RecoveryRates {
    /// Cautious ones: 100 MB/s and 50 MB/s.
    fn default() -> Self {
        Self {
            restore_bytes_per_second: 100_000_000,
            replay_bytes_per_second: 50_000_000,
            source: "assumed; measure your own with a restore".to_owned(),
        }
    }
}

/// A setting for the restored server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// PostgreSQL's name of it.
    pub name: String,
    /// Its value, unquoted.
    pub value: String,
}

/// How the target will be met: every choice with its reason. Executors carry it out and decide nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryPlan {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The moment of planning.
    pub planned_at: Timestamp,
    /// What was asked for.
    pub request: RecoveryRequest,
    /// Where to start.
    pub backup: BackupChoice,
    /// The backups not taken, newest first.
    pub rejected: Vec<RejectedBackup>,
    /// The timeline that recovery follows.
    pub target_timeline: TimelineId,
    /// The timelines on the way, oldest first.
    pub timeline_path: Vec<PathStep>,
    /// The segments on the way.
    pub segments: SegmentNeeds,
    /// Where PostgreSQL will stop, read from the WAL.
    pub stop: Stop,
    /// Commits with a time at or before the target that come after the stop in the WAL: recovery by time leaves
    /// them out. At most 100 of them.
    pub left_out_by_order: Vec<Commit>,
    /// How many there are; at least, where [`Self::left_out_by_order_exact`] is false.
    pub left_out_by_order_count: u64,
    /// Whether all of the WAL behind the stop was looked through for them.
    pub left_out_by_order_exact: bool,
    /// All restore points of the target's name that were met, in the order of the WAL; the first counts.
    pub same_name: Vec<Moment>,
    /// The settings that a recovering server must not have lower, up to the stop.
    pub required: ParameterMaxima,
    /// How long it will take.
    pub estimate: Estimate,
    /// Requests to the store, about.
    pub requests: u64,
    /// Bytes to fetch: backup and segments.
    pub bytes: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The recovery settings that restore writes; `restore_command` is added by it.
    pub settings: Vec<Setting>,
}

/// Why a request can't be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// There is no backup at all.
    NoBackup,
    /// The backup asked for does not exist.
    UnknownBackup,
    /// The target timeline has no history in the archive.
    UnknownTimeline,
    /// Every backup ends after the target.
    TargetBeforeBackups,
    /// No backup lies on the path to the target timeline.
    NoBackupOnPath,
    /// WAL between every backup and the target is missing.
    MissingSegments,
    /// WAL between every backup and the target is damaged.
    DamagedWal,
    /// WAL between every backup and the target was written with `wal_level = minimal`.
    WalLevelMinimal,
    /// The archive was read up to its end and nothing in it meets the target: no such restore point or
    /// transaction, or nothing that ended after the target time.
    TargetNotFound,
    /// The target lies beyond the end of the archive.
    TargetAfterArchive,
    /// Backups exist that only a newer version can read.
    Unsupported,
    /// The request contradicts itself.
    InvalidRequest,
}

/// The answer no, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, for machines.
    pub reason: RefusalReason,
    /// Why, for people.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The nearest moment before the target that can be reached.
    pub nearest_before: Option<Moment>,
    /// The nearest moment after the target that can be reached.
    pub nearest_after: Option<Moment>,
    /// The backups looked at, newest first.
    pub rejected: Vec<RejectedBackup>,
}

impl SegmentNeeds {
    pub(super) fn add_missing(&mut self, name: SegmentName) {
        self.missing_count += 1;
        if self.missing.len() < MISSING_LISTED_MAX {
            self.missing.push(name);
        }
    }
}

impl Refusal {
    pub(super) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message, hint: None, nearest_before: None, nearest_after: None, rejected: Vec::new() }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What else a planner must know before it can answer: bring it into the snapshot and ask again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The objects of consecutive LOG directories of one timeline, by listing: into
    /// [`CatalogSnapshot::segments`](crate::CatalogSnapshot::segments) and
    /// [`CatalogSnapshot::listed`](crate::CatalogSnapshot::listed).
    Listing {
        /// The timeline.
        timeline: TimelineId,
        /// The first directory.
        first_log: u32,
        /// The last directory.
        last_log: u32,
    },
    /// The summaries of one LOG directory's segments: into
    /// [`CatalogSnapshot::summaries`](crate::CatalogSnapshot::summaries) and
    /// [`CatalogSnapshot::summarized`](crate::CatalogSnapshot::summarized). The directory is listed for it, too.
    Summaries {
        /// The timeline.
        timeline: TimelineId,
        /// The directory.
        log: u32,
    },
    /// The records of the last of these consecutive segments of a path. The ones before it are read first, in this
    /// order and by one scanner, so that a record which reaches in is whole; their own records are not asked for.
    /// Through [`CatalogSnapshot::add_detail`](crate::CatalogSnapshot::add_detail).
    Details {
        /// The segments.
        path: Vec<SegmentId>,
    },
}

/// The answer of a planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planning {
    /// It can be done, thus.
    Plan(Box<RecoveryPlan>),
    /// More must be known.
    Needs(Vec<Need>),
    /// It can't be done.
    Refused(Box<Refusal>),
}
