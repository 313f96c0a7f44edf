//! What a hot standby needs to know (`src/include/storage/standbydefs.h`).

use crate::ids::{Oid, Xid};
use crate::le::{self, Reader};
use crate::wal::decode::Payload;
use crate::wal::decode::lists::{Invalidations, Xids, list};
use crate::wal::record::Record;

/// An `ACCESS EXCLUSIVE` lock on a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExclusiveLock {
    /// The transaction that holds it, which can be a subtransaction.
    pub xid: Xid,
    /// The relation's database, 0 if it is shared.
    pub database: Oid,
    /// The relation: its OID, not its file number.
    pub relation: Oid,
}

list!(
    /// `ACCESS EXCLUSIVE` locks: one that was just taken, or with a header xid of 0 all that are held.
    ExclusiveLocks,
    12,
    ExclusiveLock,
    |bytes| {
        let at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
        ExclusiveLock { xid: Xid::new(at(0)), database: Oid::new(at(4)), relation: Oid::new(at(8)) }
    }
);

/// The transactions that were running, written with every checkpoint and now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningTransactions<'a> {
    /// The next transaction id.
    pub next_xid: Xid,
    /// The oldest one that was running.
    pub oldest_running: Xid,
    /// The newest one that had ended.
    pub latest_completed: Xid,
    /// The running transactions.
    pub xids: Xids<'a>,
    /// Their subtransactions.
    pub subxacts: Xids<'a>,
    /// Whether there are subtransactions that are not listed.
    pub subxacts_overflowed: bool,
}

pub(super) fn decode<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    Some(match record.header.kind() {
        0x00 => Payload::ExclusiveLocks(ExclusiveLocks(reader.counted_list()?)),
        0x10 => Payload::RunningTransactions(running(&mut reader)?),
        0x20 => {
            // The database, its tablespace, and whether the relation cache file is stale.
            reader.bytes(12)?;
            Payload::Invalidations(Invalidations(reader.counted_list()?))
        }
        _ => Payload::Other,
    })
}

fn running<'a>(reader: &mut Reader<'a>) -> Option<RunningTransactions<'a>> {
    let count = usize::try_from(reader.i32()?).ok()?;
    let subxact_count = usize::try_from(reader.i32()?).ok()?;
    let [overflowed, _, _, _] = reader.array()?;
    let next_xid = Xid::new(reader.u32()?);
    let oldest_running = Xid::new(reader.u32()?);
    let latest_completed = Xid::new(reader.u32()?);
    Some(RunningTransactions {
        next_xid,
        oldest_running,
        latest_completed,
        xids: Xids(reader.list(count)?),
        subxacts: Xids(reader.list(subxact_count)?),
        subxacts_overflowed: overflowed != 0,
    })
}
