//! What records say: those that recovery planning needs.
//!
//! PostgreSQL source: `src/backend/access/rmgrdesc/*desc.c` and the headers of the structures.

mod class;
mod database;
mod heap;
mod lists;
mod standby;
mod storage;
mod transaction;
mod xlog;

pub use class::ClassRow;
pub use database::{DatabaseCreate, DatabaseDrop, RelationMap, TablespaceCreate};
pub use heap::{HeapChange, HeapTruncate, RowChange};
pub use lists::{DroppedObject, DroppedObjects, Invalidation, Invalidations, Locators, Oids, Xids};
pub use standby::{ExclusiveLock, ExclusiveLocks, RunningTransactions};
pub use storage::{StorageCreate, StorageTruncate};
pub use transaction::{Assignment, Prepare, TransactionEnd};
pub use xlog::{CheckpointKind, EndOfRecovery, OverwrittenRecord, ParameterChange, RestorePoint};

use crate::checkpoint::{CheckPoint, WalLevel};
use crate::ids::Oid;
use crate::lsn::Lsn;
use crate::wal::fault::Fault;
use crate::wal::record::{Record, ResourceManager};

/// What a record says. Lists stay in the record's bytes and are read as they are walked through.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// A transaction committed.
    Commit(TransactionEnd<'a>),
    /// A transaction or a subtransaction was rolled back.
    Abort(TransactionEnd<'a>),
    /// A transaction was prepared for a two-phase commit.
    Prepare(Prepare<'a>),
    /// Subtransactions were told to belong to a transaction.
    Assignment(Assignment<'a>),
    /// A command within a transaction changed catalogs (`wal_level=logical`, from 14 on).
    Invalidations(Invalidations<'a>),
    /// A checkpoint.
    Checkpoint(CheckpointKind, CheckPoint),
    /// The place where an online checkpoint's redo begins (from 17 on).
    CheckpointRedo(Option<WalLevel>),
    /// A named restore point.
    RestorePoint(RestorePoint<'a>),
    /// A recovery ended by promotion without a checkpoint.
    EndOfRecovery(EndOfRecovery),
    /// Settings that recovery depends on were changed.
    ParameterChange(ParameterChange),
    /// `full_page_writes` was switched.
    FullPageWrites(bool),
    /// An online backup ended that began at this position.
    BackupEnd(Lsn),
    /// The rest of the segment is not used.
    Switch,
    /// A crash had cut off a record, which never took effect.
    OverwrittenRecord(OverwrittenRecord),
    /// OIDs were set aside up to this one.
    NextOid(Oid),
    /// Which transactions were running.
    RunningTransactions(RunningTransactions<'a>),
    /// `ACCESS EXCLUSIVE` locks were taken, or are held.
    ExclusiveLocks(ExclusiveLocks<'a>),
    /// A relation's fork was created.
    StorageCreate(StorageCreate),
    /// A relation was cut short.
    StorageTruncate(StorageTruncate),
    /// A database was created.
    DatabaseCreate(DatabaseCreate),
    /// A database was dropped.
    DatabaseDrop(DatabaseDrop<'a>),
    /// A tablespace was created.
    TablespaceCreate(TablespaceCreate<'a>),
    /// A tablespace was dropped.
    TablespaceDrop(Oid),
    /// The file numbers of mapped catalogs changed.
    RelationMap(RelationMap<'a>),
    /// Rows of a table were inserted, updated or deleted.
    HeapChange(HeapChange),
    /// Tables were truncated (`wal_level=logical` only).
    HeapTruncate(HeapTruncate<'a>),
    /// Something that recovery planning does not look into. The block references tell what it touched.
    Other,
}

impl<'a> Record<'a> {
    /// What the record says.
    ///
    /// # Errors
    /// [`Fault::Layout`] if the record is shorter than its kind needs. The checksum has been checked,
    /// so this means another minor version's format, or a record so long that not all of it was kept
    /// (of a commit or an abort that still gives the time and, unless prepared, the transaction:
    /// [`TransactionEnd::is_cut`]).
    pub fn payload(&self) -> Result<Payload<'a>, Fault> {
        let (what, payload) = match self.header.manager {
            ResourceManager::XLOG => ("an XLOG record", xlog::decode(self)),
            ResourceManager::TRANSACTION => ("a transaction record", transaction::decode(self)),
            ResourceManager::STORAGE => ("a storage record", storage::decode(self)),
            ResourceManager::DATABASE => ("a database record", database::decode_database(self)),
            ResourceManager::TABLESPACE => ("a tablespace record", database::decode_tablespace(self)),
            ResourceManager::RELMAP => ("a relation map record", database::decode_relation_map(self)),
            ResourceManager::STANDBY => ("a standby record", standby::decode(self)),
            ResourceManager::HEAP => ("a heap record", heap::decode(self)),
            ResourceManager::HEAP2 => ("a heap record", heap::decode_more(self)),
            _ => return Ok(Payload::Other),
        };
        payload.ok_or(Fault::Layout { what })
    }
}
