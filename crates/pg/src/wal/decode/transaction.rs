//! Commits, aborts, two-phase commits (`src/include/access/xact.h`,
//! `src/backend/access/transam/{xact.c,twophase.c}`).

use crate::ids::{Oid, Xid};
use crate::le::Reader;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::time::PgTimestamp;
use crate::wal::decode::Payload;
use crate::wal::decode::lists::{DroppedObjects, Invalidations, Locators, Xids};
use crate::wal::record::Record;

const KIND_MASK: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_FILES: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_EXCLUSIVE_LOCKS: u32 = 1 << 6;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// A commit or an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd<'a> {
    /// When the transaction ended, by the clock of the session. Taken before the record's place in the
    /// WAL, so that times need not ascend from record to record.
    pub time: PgTimestamp,
    /// The transaction. For a prepared one this is its own id, not the record header's, which is 0.
    /// An abort can be a subtransaction's.
    pub xid: Xid,
    /// Whether the transaction had been prepared.
    pub was_prepared: bool,
    /// The database, where the record tells it.
    pub database: Option<Oid>,
    /// The subtransactions that end with it. They have no commit records of their own.
    pub subxacts: Xids<'a>,
    /// The relations whose files are deleted: a commit's were dropped, truncated or rewritten, an
    /// abort's were made in vain.
    pub deleted_files: Locators<'a>,
    /// The objects whose statistics are dropped, from 15 on: those that were dropped.
    pub dropped: DroppedObjects<'a>,
    /// What other sessions must forget. Only in commits.
    pub invalidations: Invalidations<'a>,
    /// Whether the transaction held `ACCESS EXCLUSIVE` locks.
    pub held_exclusive_locks: bool,
    /// The name that a prepared transaction was given (`wal_level=logical` only).
    pub gid: Option<&'a [u8]>,
    /// The position and the time at the origin of a replicated transaction.
    pub origin: Option<(Lsn, PgTimestamp)>,
    /// Whether the record was so long that not all of it was kept: time and transaction are right, the lists may
    /// be missing.
    pub is_cut: bool,
}

/// A transaction that was prepared. It ends with a commit or an abort of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// The transaction.
    pub xid: Xid,
    /// The database.
    pub database: Oid,
    /// When it was prepared.
    pub time: PgTimestamp,
    /// The name that it was given.
    pub gid: &'a [u8],
    /// Its subtransactions.
    pub subxacts: Xids<'a>,
    /// The relations whose files a commit will delete.
    pub files_deleted_on_commit: Locators<'a>,
    /// The relations whose files an abort will delete.
    pub files_deleted_on_abort: Locators<'a>,
}

/// Subtransactions and the transaction that they belong to, told after every 64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// The top-level transaction.
    pub toplevel: Xid,
    /// Its subtransactions.
    pub subxacts: Xids<'a>,
}

pub(super) fn decode<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    Some(match record.header.info & KIND_MASK {
        0x00 | 0x30 => Payload::Commit(end(record, &mut reader, true)?),
        0x20 | 0x40 => Payload::Abort(end(record, &mut reader, false)?),
        0x10 => Payload::Prepare(prepare(record)?),
        0x50 => Payload::Assignment(Assignment {
            toplevel: Xid::new(reader.u32()?),
            subxacts: Xids(reader.counted_list()?),
        }),
        0x60 => Payload::Invalidations(Invalidations(reader.counted_list()?)),
        _ => Payload::Other,
    })
}

fn end<'a>(record: &Record<'a>, reader: &mut Reader<'a>, commits: bool) -> Option<TransactionEnd<'a>> {
    let time = PgTimestamp::new(reader.i64()?);
    let info = if record.header.info & HAS_INFO != 0 { reader.u32()? } else { 0 };
    let mut end = TransactionEnd {
        time,
        xid: record.header.xid,
        was_prepared: false,
        database: None,
        subxacts: Xids::default(),
        deleted_files: Locators::default(),
        dropped: DroppedObjects::default(),
        invalidations: Invalidations::default(),
        held_exclusive_locks: info & HAS_EXCLUSIVE_LOCKS != 0,
        gid: None,
        origin: None,
        is_cut: false,
    };
    if read_parts(&mut end, reader, record.major, (info, commits)).is_some() {
        return Some(end);
    }
    // A prepared transaction's id is behind the lists, and the header has none.
    end.is_cut = !record.is_kept_whole() && info & HAS_TWO_PHASE == 0 && end.xid.is_valid();
    end.is_cut.then_some(end)
}

/// Reads what is behind the time, in the order of the record; `None` where the record ends early.
fn read_parts<'a>(
    end: &mut TransactionEnd<'a>,
    reader: &mut Reader<'a>,
    major: PgMajor,
    (info, commits): (u32, bool),
) -> Option<()> {
    let has = |bit| info & bit != 0;
    if has(HAS_DATABASE) {
        end.database = Some(Oid::new(reader.u32()?));
        let _default_tablespace = reader.u32()?;
    }
    if has(HAS_SUBXACTS) {
        end.subxacts = Xids(reader.counted_list()?);
    }
    if has(HAS_FILES) {
        end.deleted_files = Locators(reader.counted_list()?);
    }
    if has(HAS_DROPPED_STATS) {
        end.dropped = DroppedObjects::read(reader, major)?;
    }
    if commits && has(HAS_INVALIDATIONS) {
        end.invalidations = Invalidations(reader.counted_list()?);
    }
    if has(HAS_TWO_PHASE) {
        end.xid = Xid::new(reader.u32()?);
        end.was_prepared = true;
        if has(HAS_GID) {
            end.gid = Some(reader.c_string()?);
        }
    }
    if has(HAS_ORIGIN) {
        end.origin = Some((Lsn::new(reader.u64()?), PgTimestamp::new(reader.i64()?)));
    }
    Some(())
}

/// Reads the state that PREPARE also writes to `pg_twophase` (`TwoPhaseFileHeader`): a header, then
/// lists that begin at multiples of 8 bytes.
fn prepare<'a>(record: &Record<'a>) -> Option<Prepare<'a>> {
    let data = record.main_data();
    let count = |offset: usize| usize::try_from(crate::le::i32_at(data, offset)?).ok();
    let has_stats = record.major >= PgMajor::V15;
    let (header_size, gid_length_at) = if has_stats { (72, 54) } else { (64, 46) };
    let mut reader = Reader::new(data);
    reader.bytes(8)?;
    let xid = Xid::new(reader.u32()?);
    let database = Oid::new(reader.u32()?);
    let time = PgTimestamp::new(reader.i64()?);
    let mut lists = Reader::new(data);
    lists.bytes(header_size)?;
    let gid = lists.bytes(usize::from(crate::le::u16_at(data, gid_length_at)?))?;
    align(&mut lists)?;
    let subxacts = lists.list(count(28)?)?;
    align(&mut lists)?;
    let on_commit = lists.list(count(32)?)?;
    align(&mut lists)?;
    let on_abort = lists.list(count(36)?)?;
    Some(Prepare {
        xid,
        database,
        time,
        gid: gid.strip_suffix(b"\0").unwrap_or(gid),
        subxacts: Xids(subxacts),
        files_deleted_on_commit: Locators(on_commit),
        files_deleted_on_abort: Locators(on_abort),
    })
}

fn align(reader: &mut Reader<'_>) -> Option<()> {
    let at = reader.consumed();
    reader.bytes(at.next_multiple_of(8) - at).map(|_| ())
}
