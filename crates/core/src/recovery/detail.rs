//! The records of one segment that decide where a recovery stops.

use walden_pg::{Lsn, ParameterMaxima, PgTimestamp, SegmentId, SegmentNumber, WalLevel, Xid};

use crate::index::{CommitMark, DamageNote};

/// Where a record begins, and the position after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordSpan {
    /// Where it begins; in an earlier segment, if it began there.
    pub start: Lsn,
    /// The position after it, as PostgreSQL counts it.
    pub end: Lsn,
}

/// A commit or an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEndMark {
    /// The record.
    pub span: RecordSpan,
    /// The transaction; for a prepared one its own id, for a rolled-back subtransaction the subtransaction's.
    pub xid: Xid,
    /// The time that recovery compares with a target time.
    pub time: PgTimestamp,
    /// True for a commit.
    pub commit: bool,
}

impl TransactionEndMark {
    /// The transaction, its time and its place.
    #[must_use]
    pub fn mark(&self) -> CommitMark {
        CommitMark { lsn: self.span.start, xid: self.xid, time: self.time }
    }
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePointMark {
    /// The record.
    pub span: RecordSpan,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub time: PgTimestamp,
}

/// A change of the settings that recovery depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterMark {
    /// The record.
    pub span: RecordSpan,
    /// The settings; `None` when the record tells the level alone (checkpoints and recovery ends, from 17 on).
    pub maxima: Option<ParameterMaxima>,
    /// `wal_level`.
    pub wal_level: WalLevel,
}

/// How the WAL in a segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentEnd {
    /// It goes on in the next segment.
    GoesOn,
    /// It was switched: it goes on at the start of the next segment.
    Switched,
    /// Nothing was written behind this position.
    Ends(Lsn),
    /// Nothing can be read from here on.
    Damaged {
        /// Where.
        lsn: Lsn,
        /// What is wrong.
        what: String,
    },
}

/// The records of one segment as recovery sees them: those that *end* in it, in the order of the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDetail {
    /// The segment.
    pub segment: SegmentId,
    /// The first segment that was read for it: this one, or one before it on the path, so that a record which
    /// reaches in is read whole.
    pub read_from: SegmentNumber,
    /// Whether the segment before was read with it, so that a record which reaches in is here, and the first record's
    /// link was checked. If not, a record that reaches in is missing here.
    pub joined: bool,
    /// All records.
    pub records: Vec<RecordSpan>,
    /// Commits and aborts.
    pub ends: Vec<TransactionEndMark>,
    /// Restore points.
    pub restore_points: Vec<RestorePointMark>,
    /// Changes of settings.
    pub parameters: Vec<ParameterMark>,
    /// Ends of online backups, with the position where the backup began.
    pub backup_ends: Vec<(RecordSpan, Lsn)>,
    /// Damaged places that were gone past, in the order of the WAL; the records right behind one may be missing.
    /// Recovery that began before one ends there. When there are very many, the first of them.
    pub damage: Vec<DamageNote>,
    /// How many damaged places there are, told or not.
    pub damage_count: u64,
    /// How it ends.
    pub end: SegmentEnd,
}
