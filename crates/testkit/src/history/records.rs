//! The records of a timeline path, as far as recovery targets and stops depend on them.

use walden_pg::wal::{Payload, Record};
use walden_pg::{Lsn, ParameterMaxima, PgTimestamp, SegmentName, TimelineId, WalLevel, Xid};

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// A commit, of a prepared transaction or not.
    Commit {
        /// The transaction.
        xid: Xid,
        /// Its commit time.
        time: PgTimestamp,
        /// Its committed subtransactions.
        subxacts: Vec<Xid>,
    },
    /// An abort, of a prepared transaction or not, or of a subtransaction.
    Abort {
        /// The transaction, or the subtransaction.
        xid: Xid,
        /// The abort's time.
        time: PgTimestamp,
    },
    /// A transaction was prepared.
    Prepare {
        /// The transaction.
        xid: Xid,
    },
    /// A restore point.
    RestorePoint {
        /// Its name.
        name: String,
        /// Its time.
        time: PgTimestamp,
    },
    /// The end of an online backup.
    BackupEnd {
        /// Where the backup began.
        start: Lsn,
    },
    /// The settings that recovery depends on.
    Parameters {
        /// The maxima.
        maxima: ParameterMaxima,
        /// `wal_level`.
        wal_level: WalLevel,
    },
    /// Anything else.
    Other,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRecord {
    /// Where it begins.
    pub start: Lsn,
    /// The position after it.
    pub end: Lsn,
    /// The timeline of the page that it begins in.
    pub timeline: TimelineId,
    /// What it is.
    pub kind: RecordKind,
}

/// Why a path can be read no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEnd {
    /// This segment is not there.
    Missing(SegmentName),
    /// Nothing was written behind this position.
    Ends(Lsn),
    /// It is damaged here.
    Damaged(Lsn, String),
}

/// The records of a path.
#[derive(Debug, Clone)]
pub struct PathWal {
    /// Where reading began.
    pub from: Lsn,
    /// The records, in the order of the WAL.
    pub records: Vec<PathRecord>,
    /// Why there are no more.
    pub end: WalEnd,
}

impl PathRecord {
    pub(super) fn of(record: &Record<'_>) -> Self {
        let kind = match record.payload() {
            Ok(Payload::Commit(end)) => {
                RecordKind::Commit { xid: end.xid, time: end.time, subxacts: end.subxacts.iter().collect() }
            }
            Ok(Payload::Abort(end)) => RecordKind::Abort { xid: end.xid, time: end.time },
            Ok(Payload::Prepare(prepare)) => RecordKind::Prepare { xid: prepare.xid },
            Ok(Payload::RestorePoint(point)) => RecordKind::RestorePoint {
                name: String::from_utf8_lossy(point.name).into_owned(),
                time: point.time,
            },
            Ok(Payload::BackupEnd(start)) => RecordKind::BackupEnd { start },
            Ok(Payload::ParameterChange(change)) => {
                RecordKind::Parameters { maxima: change.maxima, wal_level: change.wal_level }
            }
            _ => RecordKind::Other,
        };
        Self { start: record.lsn, end: record.end, timeline: record.timeline, kind }
    }

    /// Transaction and time of a commit.
    pub fn commit(&self) -> Option<(Xid, PgTimestamp)> {
        match &self.kind {
            RecordKind::Commit { xid, time, .. } => Some((*xid, *time)),
            _ => None,
        }
    }

    /// Transaction and time of a commit or an abort.
    pub fn transaction_end(&self) -> Option<(Xid, PgTimestamp)> {
        match &self.kind {
            RecordKind::Commit { xid, time, .. } | RecordKind::Abort { xid, time } => Some((*xid, *time)),
            _ => None,
        }
    }
}

impl PathWal {
    /// The position after the last record.
    pub fn end_lsn(&self) -> Lsn {
        self.records.last().map_or(self.from, |record| record.end)
    }

    /// The commits, in the order of the WAL.
    pub fn commits(&self) -> impl Iterator<Item = (&PathRecord, Xid, PgTimestamp)> + '_ {
        self.records.iter().filter_map(|record| record.commit().map(|(xid, time)| (record, xid, time)))
    }

    /// The record that ends at a position.
    pub fn ending_at(&self, lsn: Lsn) -> Option<&PathRecord> {
        let at = self.records.partition_point(|record| record.end < lsn);
        self.records.get(at).filter(|record| record.end == lsn)
    }

    /// The first record that ends behind a position.
    pub fn after(&self, lsn: Lsn) -> Option<&PathRecord> {
        self.records.get(self.records.partition_point(|record| record.end <= lsn))
    }
}
