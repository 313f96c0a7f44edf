//! The index of one segment: what its index frame holds.

use serde::{Deserialize, Serialize};
use walden_pg::{Lsn, RelFileLocator, SegmentName, SegmentNumber, Xid};

use super::blocks::TouchedBlocks;
use super::events::{Event, RelationChange};
use super::facts::SegmentSummary;
use super::rollup::RollupEntry;

/// Of a record that crosses the border of two segments, at most so many bytes are kept in each one's index.
pub const FRAGMENT_BYTES_MAX: usize = 64 << 10;

/// The index of one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentIndex {
    /// The segment.
    pub segment: SegmentName,
    /// The same that the header of the object tells.
    pub summary: SegmentSummary,
    /// What a person may look for, in the order of the WAL.
    pub events: Vec<Event>,
    /// The blocks that the segment's records touch.
    pub blocks: TouchedBlocks,
    /// What is damaged, at most 64 places.
    pub damage: Vec<DamageNote>,
    /// How many places are damaged.
    pub damage_count: u64,
    /// The bytes of a record that began in the segment before, when it was not joined: at most
    /// [`FRAGMENT_BYTES_MAX`] of them.
    pub head: Vec<u8>,
    /// How many bytes of that record are in this segment.
    pub head_bytes: u32,
    /// What the next segment's indexer must know.
    pub carry: Carry,
    /// The segments before in the same LOG directory, as far as the writer remembered them: one read of the newest
    /// segment's index then tells of all of them.
    pub siblings: Vec<RollupEntry>,
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageNote {
    /// Where.
    pub lsn: Lsn,
    /// What is wrong.
    pub what: String,
}

/// What goes over from one segment to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Carry {
    /// The segment that it is for; `None` when the WAL ended or was damaged, so that nothing can be joined.
    pub next: Option<SegmentNumber>,
    /// Where the last whole record begins: the next record must link to it.
    pub last_record: Option<Lsn>,
    /// The record that goes on.
    pub pending: Option<Fragment>,
    /// The transactions that did something worth noting and have not ended.
    pub open: Vec<OpenTransaction>,
    /// Transactions left out of that list because there were too many.
    pub open_left_out: u32,
}

/// The beginning of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Where the record begins.
    pub lsn: Lsn,
    /// How many of its bytes are in the segments up to here.
    pub have: u32,
    /// How many bytes it has.
    pub total: u32,
    /// The first of its bytes, at most [`FRAGMENT_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// What a transaction, or a subtransaction under its own id, has done so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Its id.
    pub xid: Xid,
    /// Its parent, where the WAL told it.
    pub parent: Option<Xid>,
    /// Relations whose access-exclusive locks it took.
    pub locked: Vec<walden_pg::Oid>,
    /// Files that it created.
    pub created: Vec<RelFileLocator>,
    /// Rows that it changed, and rows of `pg_class`.
    pub changes: Vec<RelationChange>,
    /// Rows of `pg_class` inserted, updated, deleted.
    pub class_rows: [u32; 3],
}
