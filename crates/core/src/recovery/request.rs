//! What a person asks for: PostgreSQL's recovery targets under PostgreSQL's names.

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, TimelineId};

use super::answer::RecoveryRates;
use crate::layout::BackupId;

/// Where recovery shall stop (`recovery_target*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// At the end of the archive.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// At a moment, in microseconds as PostgreSQL counts.
    Time(Timestamp),
    /// At a position in the WAL.
    Lsn(Lsn),
    /// At the end of a transaction; PostgreSQL compares the low 32 bits.
    Xid(u64),
    /// At a restore point made with `pg_create_restore_point`.
    Name(String),
}

/// Which timeline recovery follows (`recovery_target_timeline`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetTimeline {
    /// The newest one that is reached by asking for one history after the other.
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Id(TimelineId),
}

/// What the server does when the target is reached (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAction {
    /// Stay read-only, so that a person can look before the decision is final.
    Pause,
    /// Open for writing on a new timeline.
    Promote,
    /// Stop the server.
    Shutdown,
}

impl RecoveryAction {
    /// PostgreSQL's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A request for a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryRequest {
    /// Where to stop.
    pub target: RecoveryTarget,
    /// Stop just before the target instead of just after (`recovery_target_inclusive = off`).
    pub exclusive: bool,
    /// Which timeline to follow.
    pub timeline: TargetTimeline,
    /// What to do when the target is reached.
    pub action: RecoveryAction,
    /// Use this backup and no other.
    pub backup: Option<BackupId>,
    /// How fast this place is.
    pub rates: RecoveryRates,
}

impl RecoveryTarget {
    /// A target as a person would say it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Latest => "the end of the archive".to_owned(),
            Self::Immediate => "the end of the backup".to_owned(),
            Self::Time(time) => format!("time {}", postgres_time(*time)),
            Self::Lsn(lsn) => format!("LSN {lsn}"),
            Self::Xid(xid) => format!("transaction {xid}"),
            Self::Name(name) => format!("restore point {name:?}"),
        }
    }
}

/// A moment as `recovery_target_time` takes it: UTC as `+00` (PostgreSQL refuses `Z` there), microseconds. The form of
/// moments in messages.
#[must_use]
pub fn postgres_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}
