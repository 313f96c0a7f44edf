//! Rows of tables (`src/include/access/heapam_xlog.h`).

use crate::ids::{Fork, Oid, RelFileLocator};
use crate::le::Reader;
use crate::wal::decode::Payload;
use crate::wal::decode::lists::Oids;
use crate::wal::record::Record;

/// What was done to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowChange {
    /// Rows were inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// A row was moved to another partition, where it is inserted: an update in the eyes of the user.
    MoveAway,
    /// An insertion was undone because of a conflict: not a deletion in the eyes of the user.
    UndoInsert,
}

/// A change of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeapChange {
    /// What was done.
    pub change: RowChange,
    /// The table, or a table's TOAST table.
    pub table: RelFileLocator,
    /// The block of the row: of the old version for an update or a deletion, of the new one for an
    /// insertion.
    pub block: u32,
    /// The row's number in that block, from 1; `None` if there are several rows.
    pub offset: Option<u16>,
    /// How many rows.
    pub rows: u16,
}

/// Tables that were truncated; written at `wal_level=logical` only, and never replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapTruncate<'a> {
    /// The database.
    pub database: Oid,
    /// The tables.
    pub tables: Oids<'a>,
}

const KIND_MASK: u8 = 0x70;
const DELETE_IS_SUPER: u8 = 1 << 3;
const DELETE_IS_PARTITION_MOVE: u8 = 1 << 4;

pub(super) fn decode<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    match record.header.info & KIND_MASK {
        0x00 => change(record, RowChange::Insert, 0, Some(reader.u16()?), 1),
        0x10 => {
            reader.u32()?;
            let offset = reader.u16()?;
            reader.u8()?;
            let flags = reader.u8()?;
            let kind = if flags & DELETE_IS_SUPER != 0 {
                RowChange::UndoInsert
            } else if flags & DELETE_IS_PARTITION_MOVE != 0 {
                RowChange::MoveAway
            } else {
                RowChange::Delete
            };
            change(record, kind, 0, Some(offset), 1)
        }
        0x20 | 0x40 => {
            reader.u32()?;
            let offset = reader.u16()?;
            // Block 0 has the new version, block 1 the old one if it is in another block. Some minor
            // versions add blocks of the visibility map.
            let old = u8::from(record.block(1).is_some_and(|block| block.fork == Fork::Main));
            change(record, RowChange::Update, old, Some(offset), 1)
        }
        0x30 => {
            let database = Oid::new(reader.u32()?);
            let count = usize::try_from(reader.u32()?).ok()?;
            // Flags, and padding.
            reader.u32()?;
            Some(Payload::HeapTruncate(HeapTruncate { database, tables: Oids(reader.list(count)?) }))
        }
        _ => Some(Payload::Other),
    }
}

pub(super) fn decode_more<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    if record.header.info & KIND_MASK != 0x50 {
        return Some(Payload::Other);
    }
    let mut reader = Reader::new(record.main_data());
    // Flags, and padding.
    reader.u16()?;
    let rows = reader.u16()?;
    change(record, RowChange::Insert, 0, None, rows)
}

fn change<'a>(
    record: &Record<'a>,
    change: RowChange,
    block: u8,
    offset: Option<u16>,
    rows: u16,
) -> Option<Payload<'a>> {
    let block = record.block(block)?;
    Some(Payload::HeapChange(HeapChange { change, table: block.locator, block: block.block, offset, rows }))
}
