//! What a stretch of WAL holds, in a few numbers: the same for one segment, one LOG directory or a whole timeline.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use walden_pg::{Lsn, ParameterMaxima, PgTimestamp, Xid};

/// One transaction's end in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitMark {
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// The transaction; for a prepared one its own id.
    pub xid: Xid,
    /// The commit time. Times need not ascend with positions.
    pub time: PgTimestamp,
}

/// The smallest and the largest of some times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// The smallest.
    pub min: PgTimestamp,
    /// The largest.
    pub max: PgTimestamp,
}

impl TimeRange {
    /// The range of one time.
    #[must_use]
    pub fn of(time: PgTimestamp) -> Self {
        Self { min: time, max: time }
    }

    /// The range of both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The smallest and the largest of some transaction ids, compared as plain 32-bit numbers: where they wrap around,
/// the range is nearly everything, which only costs a look more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XidRange {
    /// The smallest.
    pub min: Xid,
    /// The largest.
    pub max: Xid,
}

impl XidRange {
    /// The range of one id.
    #[must_use]
    pub fn of(xid: Xid) -> Self {
        Self { min: xid, max: xid }
    }

    /// The range of both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Whether an id may be among them.
    #[must_use]
    pub fn may_hold(self, xid: Xid) -> bool {
        (self.min..=self.max).contains(&xid)
    }
}

/// What kinds of records are in a stretch of WAL, and what is wrong with it. In JSON a list of names, in binary
/// form a number of 32 bits; a bit that is not known is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalFlags(u32);

impl WalFlags {
    /// A named restore point.
    pub const RESTORE_POINT: Self = Self(1 << 0);
    /// A checkpoint.
    pub const CHECKPOINT: Self = Self(1 << 1);
    /// Settings that recovery depends on were changed.
    pub const PARAMETER_CHANGE: Self = Self(1 << 2);
    /// `wal_level = minimal` was in force: recovery can't go through.
    pub const WAL_LEVEL_MINIMAL: Self = Self(1 << 3);
    /// `full_page_writes` was off.
    pub const FULL_PAGE_WRITES_OFF: Self = Self(1 << 4);
    /// A timeline begins.
    pub const TIMELINE_BEGINS: Self = Self(1 << 5);
    /// An online backup ended.
    pub const BACKUP_END: Self = Self(1 << 6);
    /// The segment was ended early by a switch.
    pub const SWITCHED: Self = Self(1 << 7);
    /// The WAL ends inside the segment without a switch: the proper end of a timeline, and else as bad as damage.
    pub const ENDS_EARLY: Self = Self(1 << 8);
    /// Recovery stops inside: a record or a page is damaged.
    pub const DAMAGED: Self = Self(1 << 9);
    /// A crash cut a record off; not damage.
    pub const OVERWRITTEN_RECORD: Self = Self(1 << 10);
    /// A committed transaction dropped relations.
    pub const DROP: Self = Self(1 << 11);
    /// A committed transaction truncated relations.
    pub const TRUNCATE: Self = Self(1 << 12);
    /// A committed transaction rewrote relations.
    pub const REWRITE: Self = Self(1 << 13);
    /// A database was dropped.
    pub const DATABASE_DROP: Self = Self(1 << 14);
    /// A committed transaction deleted or updated many rows of one relation.
    pub const MASS_CHANGE: Self = Self(1 << 15);
    /// Relations were named: rows of `pg_class` were written.
    pub const NAMES: Self = Self(1 << 16);
    /// Events were left out of the index because there were too many.
    pub const EVENTS_LEFT_OUT: Self = Self(1 << 17);
    /// A record that facts are made of was not understood: the facts may lack it, and only the segment itself tells.
    pub const NOT_UNDERSTOOD: Self = Self(1 << 18);

    const NAMES_OF_FLAGS: [&'static str; 19] = [
        "restore_point",
        "checkpoint",
        "parameter_change",
        "wal_level_minimal",
        "full_page_writes_off",
        "timeline_begins",
        "backup_end",
        "switched",
        "ends_early",
        "damaged",
        "overwritten_record",
        "drop",
        "truncate",
        "rewrite",
        "database_drop",
        "mass_change",
        "names",
        "events_left_out",
        "not_understood",
    ];

    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether any of `flags` is among these.
    #[must_use]
    pub const fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Adds flags.
    pub fn add(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// The names of the flags that are known.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES_OF_FLAGS.into_iter().enumerate().filter_map(move |(bit, name)| {
            (self.0 & 1u32.checked_shl(u32::try_from(bit).ok()?)? != 0).then_some(name)
        })
    }
}

impl Serialize for WalFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_seq(self.names());
        }
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for WalFlags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u32::deserialize(deserializer).map(Self);
        }
        let names = Vec::<String>::deserialize(deserializer)?;
        let bit = |name: &String| Self::NAMES_OF_FLAGS.iter().position(|known| known == name);
        Ok(Self(names.iter().filter_map(bit).fold(0, |bits, bit| bits | 1 << bit)))
    }
}

/// What a stretch of WAL holds. A record belongs to the segment in which it *ends*, because it can't be read
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WalFacts {
    /// Commits, also of prepared transactions.
    pub commits: u64,
    /// Aborts, also of subtransactions and of prepared transactions: they stop a recovery by time as commits do.
    pub aborts: u64,
    /// The first commit by position.
    pub first_commit: Option<CommitMark>,
    /// The last commit by position.
    pub last_commit: Option<CommitMark>,
    /// The earliest and latest commit time.
    pub commit_times: Option<TimeRange>,
    /// The earliest and latest time of a commit or an abort: what recovery compares with a target time.
    pub end_times: Option<TimeRange>,
    /// The ids of the transactions and subtransactions whose commit or abort records are here.
    pub xids: Option<XidRange>,
    /// What else is here.
    pub flags: WalFlags,
    /// The largest values of the settings that a recovering server must not have lower, from parameter changes.
    pub maxima: Option<ParameterMaxima>,
}

impl WalFacts {
    /// Adds the facts of the WAL that follows.
    pub fn append(&mut self, next: &Self) {
        self.commits = self.commits.saturating_add(next.commits);
        self.aborts = self.aborts.saturating_add(next.aborts);
        self.first_commit = self.first_commit.or(next.first_commit);
        self.last_commit = next.last_commit.or(self.last_commit);
        self.commit_times = joined(self.commit_times, next.commit_times, TimeRange::join);
        self.end_times = joined(self.end_times, next.end_times, TimeRange::join);
        self.xids = joined(self.xids, next.xids, XidRange::join);
        self.flags.add(next.flags);
        self.maxima = joined(self.maxima, next.maxima, larger);
    }
}

fn joined<T>(a: Option<T>, b: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(join(a, b)),
        (a, b) => a.or(b),
    }
}

/// The larger of each setting.
#[must_use]
pub fn larger(a: ParameterMaxima, b: ParameterMaxima) -> ParameterMaxima {
    ParameterMaxima {
        max_connections: a.max_connections.max(b.max_connections),
        max_worker_processes: a.max_worker_processes.max(b.max_worker_processes),
        max_wal_senders: a.max_wal_senders.max(b.max_wal_senders),
        max_prepared_transactions: a.max_prepared_transactions.max(b.max_prepared_transactions),
        max_locks_per_transaction: a.max_locks_per_transaction.max(b.max_locks_per_transaction),
    }
}

/// A record that begins in a segment and ends in a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Straddler {
    /// Where it begins.
    pub lsn: Lsn,
    /// Whether it may be of a kind that facts are made of (a transaction's end, a restore point, a parameter
    /// change). If not, nothing is lost when it is not seen whole.
    pub matters: bool,
}

/// What a planner knows of one segment without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSummary {
    /// What is in it.
    pub facts: WalFacts,
    /// The position after the last whole record in it; its first byte's address when there is none.
    pub wal_end: Lsn,
    /// Whether the WAL is known to go on from the segment before without a break: its first record links to the
    /// last one there, and a record that reaches in was read whole, so that the facts tell of it too. False where
    /// the segment before was not known.
    pub joined: bool,
    /// The record that goes on in the next segment. Also `None` when the whole segment lies within a record whose
    /// beginning was not seen: then the segment is not joined, and no record ends in it.
    pub straddler: Option<Straddler>,
}
