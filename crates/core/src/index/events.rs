//! What happened in the WAL that a person may look for.

use serde::{Deserialize, Serialize};
use walden_pg::{Lsn, Oid, ParameterMaxima, PgTimestamp, RelFileLocator, TimelineId, WalLevel, Xid};

/// One event, in the order of the WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where its record begins; a transaction's event is at its commit record.
    pub lsn: Lsn,
    /// The position after the record.
    pub end_lsn: Lsn,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A named restore point; bytes of the name that are no UTF-8 are replaced.
    RestorePoint {
        /// Its name.
        name: String,
        /// When.
        time: PgTimestamp,
    },
    /// A checkpoint.
    Checkpoint {
        /// At shutdown or while running.
        shutdown: bool,
        /// Where replay from it starts.
        redo: Lsn,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before; another one only in the first checkpoint after a recovery.
        previous_timeline: TimelineId,
        /// The next transaction id with its epoch.
        next_xid: u64,
        /// Seconds since 1970.
        time: i64,
    },
    /// A promotion.
    EndOfRecovery {
        /// The timeline that begins.
        timeline: TimelineId,
        /// The one before.
        previous_timeline: TimelineId,
        /// When.
        time: PgTimestamp,
    },
    /// Settings that recovery depends on.
    ParameterChange {
        /// The settings.
        maxima: ParameterMaxima,
        /// `wal_level`.
        wal_level: WalLevel,
    },
    /// `full_page_writes` was switched.
    FullPageWrites(bool),
    /// An online backup ended that began there.
    BackupEnd(Lsn),
    /// A crash had cut off the record that began there.
    OverwrittenRecord(Lsn),
    /// A database was dropped. The event is at the record that removes its files, which replay does before it comes to
    /// the commit.
    DatabaseDropped {
        /// The database.
        database: Oid,
        /// The transaction.
        xid: Xid,
        /// Its commit time.
        time: PgTimestamp,
    },
    /// A committed transaction did something notable.
    Transaction(NotableTransaction),
    /// What a relation is called from this commit on, which wrote its row of `pg_class`.
    RelationNamed(RelationName),
}

/// A committed transaction that dropped, truncated, rewrote or changed much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotableTransaction {
    /// The top-level transaction.
    pub xid: Xid,
    /// Its commit time.
    pub time: PgTimestamp,
    /// Its database, where known.
    pub database: Option<Oid>,
    /// What it did, one entry a relation.
    pub changes: Vec<RelationChange>,
    /// Whether it began before the WAL that the indexer knew of: counts are then lower bounds.
    pub began_earlier: bool,
    /// Entries left out because there were too many.
    pub left_out: u32,
}

/// What a transaction did to one relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationChange {
    /// What was done.
    pub operation: RelationOperation,
    /// The relation's OID, where the WAL tells it.
    pub relation: Option<Oid>,
    /// Its files; those that were deleted, for a drop, a truncation or a rewrite.
    pub files: Option<RelFileLocator>,
    /// Its new files after a truncation or a rewrite, where known.
    pub new_files: Option<RelFileLocator>,
    /// Rows, for mass changes.
    pub rows: u64,
}

/// Kinds of change, in the words of `walden wal find --op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelationOperation {
    /// The relation was dropped.
    Drop,
    /// It was emptied by TRUNCATE.
    Truncate,
    /// Its files were written anew: VACUUM FULL, CLUSTER, some forms of ALTER TABLE.
    Rewrite,
    /// Many rows were deleted.
    MassDelete,
    /// Many rows were updated.
    MassUpdate,
}

/// What `pg_class` says of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationName {
    /// The database.
    pub database: Oid,
    /// Its OID.
    pub relation: Oid,
    /// Its name.
    pub name: String,
    /// The OID of its schema.
    pub schema: Oid,
    /// Its files' number; 0 for mapped catalogs and what has no files.
    pub file_number: u32,
    /// Its tablespace; 0 for the database's own.
    pub tablespace: Oid,
    /// `relkind`, such as `r`.
    pub kind: char,
    /// The transaction.
    pub xid: Xid,
}
