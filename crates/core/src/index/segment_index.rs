//! The index of one segment: what its index frame holds.

use serde::{Deserialize, Serialize};
use walden_pg::wal::PendingBytes;
use walden_pg::{
    Lsn, Oid, PgMajor, RelFileLocator, RelFileNumber, SegmentName, SegmentNumber, WalSegmentSize, Xid,
};

use super::blocks::TouchedBlocks;
use super::blocks_codec;
use super::codec::{Kind, SectionWriter, Sections};
use super::collect::may_matter;
use super::error::{IndexError, Result};
use super::events::{Event, RelationName};
use super::facts::SegmentSummary;
use super::rollup::RollupEntry;

/// Of a record that crosses the border of two segments, at most so many bytes are kept in each one's index.
pub const FRAGMENT_BYTES_MAX: usize = 64 << 10;

/// The index of one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentIndex {
    /// The segment.
    pub segment: SegmentName,
    /// The server's segment size, without which the name says nothing.
    pub segment_size: WalSegmentSize,
    /// The server's major version, where the segment or its caller told it.
    pub major: Option<PgMajor>,
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
    /// The first record that ends in the segment; `None` when none does, or the writer did not tell.
    pub first_record: Option<FirstRecord>,
}

/// Where a record begins, and what it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the record begins that it says comes before it.
    pub previous: Lsn,
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
    /// Transactions with this id and later ones began in WAL that the indexers saw without a gap; `None` when
    /// nothing is known of any. Of earlier ones, a part may have been missed.
    pub complete_from: Option<Xid>,
    /// Databases whose `pg_class` has other files than the first ones, as far as the WAL told it.
    pub class_files: Vec<(Oid, RelFileNumber)>,
    /// Rows of `pg_class` that were seen since the last checkpoint, the newest first.
    pub class_rows: Vec<ClassTuple>,
}

/// A row of `pg_class`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTuple {
    /// The database.
    pub database: Oid,
    /// The block that the row is in.
    pub block: u32,
    /// Its number in that block, from 1.
    pub offset: u16,
    /// Where the record begins that it was last seen in.
    pub seen: Lsn,
    /// Its columns, as they are stored.
    pub columns: Vec<u8>,
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
    /// The CRC-32C of all those bytes behind the record's header of 24, kept or not.
    pub checksum: Option<u32>,
    /// The first of its bytes, at most [`FRAGMENT_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// What a transaction, or a subtransaction under its own id, has done so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Its id.
    pub xid: Xid,
    /// Whether it was prepared: it outlives the server's end.
    pub prepared: bool,
    /// The rows that it deleted and updated, by relation.
    pub rows: Vec<RowCounts>,
    /// Relations whose access-exclusive locks it took.
    pub locked: Vec<Oid>,
    /// Relations that it truncated, where the WAL says so itself (`wal_level = logical`).
    pub truncated: Vec<Oid>,
    /// Files that it created.
    pub created: Vec<CreatedFiles>,
    /// Relations that it made, from rows of `pg_class`.
    pub made: Vec<Oid>,
    /// The files that it gave to relations, from rows of `pg_class`: the relation and the new files' number.
    pub moved: Vec<(Oid, RelFileNumber)>,
    /// Relations that it wrote anew, with the number of their new files, from rows of `pg_class`.
    pub rewritten: Vec<(Oid, RelFileNumber)>,
    /// Databases whose files it removed, with the record that says so: its position and the one after it.
    pub databases: Vec<(Oid, Lsn, Lsn)>,
    /// What it called relations, from rows of `pg_class`.
    pub names: Vec<RelationName>,
    /// Rows of `pg_class` inserted, updated, deleted.
    pub class_rows: [u32; 3],
    /// Whether there was more to note than is kept.
    pub left_out: bool,
}

/// Rows of one relation that a transaction changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// The relation's files.
    pub files: RelFileLocator,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows updated, or moved to another partition.
    pub updated: u64,
}

/// A relation's files that a transaction created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedFiles {
    /// The files.
    pub files: RelFileLocator,
    /// Where the record that created them begins.
    pub lsn: Lsn,
    /// How they were filled.
    pub filling: Filling,
}

/// How new files were filled, as far as that tells one kind of statement from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Filling {
    /// Not at all, or row by row.
    Unknown,
    /// With whole pages: a rebuilt index, or a table that was written anew.
    Pages,
    /// With a sequence's row.
    Sequence,
}

const KIND: Kind = Kind { magic: *b"WSIX", what: "the index of a segment" };
const HEAD: u8 = 1;
const EVENTS: u8 = 2;
const BLOCKS: u8 = 3;
const DAMAGE: u8 = 4;
const HEAD_BYTES: u8 = 5;
const CARRY: u8 = 6;
const SIBLINGS: u8 = 7;
const FIRST_RECORD: u8 = 8;

/// More events than any indexer writes.
const EVENTS_READ_MAX: usize = 1 << 16;
/// More damaged places than any indexer tells one by one.
const DAMAGE_READ_MAX: usize = 1 << 10;
/// More segments than any LOG directory has.
const SIBLINGS_READ_MAX: usize = 1 << 13;

/// The first section.
#[derive(Serialize, Deserialize)]
struct Head {
    segment: SegmentName,
    segment_size: WalSegmentSize,
    major: Option<PgMajor>,
    summary: SegmentSummary,
    damage_count: u64,
    fragment_bytes: u32,
}

impl SegmentIndex {
    /// The index as bytes, to be compressed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut sections = SectionWriter::new(KIND);
        sections.structure(
            HEAD,
            &Head {
                segment: self.segment,
                segment_size: self.segment_size,
                major: self.major,
                summary: self.summary,
                damage_count: self.damage_count,
                fragment_bytes: self.head_bytes,
            },
        );
        sections.list(EVENTS, &self.events);
        sections.raw(BLOCKS, &blocks_codec::encode(&self.blocks));
        sections.list(DAMAGE, &self.damage);
        sections.raw(HEAD_BYTES, &self.head);
        if let Some(first) = &self.first_record {
            sections.structure(FIRST_RECORD, first);
        }
        sections.structure(CARRY, &self.carry);
        sections.list(SIBLINGS, &self.siblings);
        sections.finish()
    }

    /// Reads what [`SegmentIndex::encode`] wrote.
    ///
    /// # Errors
    /// [`IndexError::Foreign`](super::IndexError::Foreign),
    /// [`IndexError::Unsupported`](super::IndexError::Unsupported),
    /// [`IndexError::TooLarge`](super::IndexError::TooLarge) or
    /// [`IndexError::Damaged`](super::IndexError::Damaged) for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let sections = Sections::read(KIND, bytes)?;
        let head: Head = sections.structure(HEAD, "the index's head")?;
        let fragment = sections.raw(HEAD_BYTES);
        if fragment.len() > FRAGMENT_BYTES_MAX {
            let (what, bytes) = ("the index's fragment", fragment.len());
            return Err(IndexError::TooLarge { what, bytes, max: FRAGMENT_BYTES_MAX });
        }
        let first_record = match sections.raw(FIRST_RECORD) {
            [] => None,
            _ => Some(sections.structure(FIRST_RECORD, "the first record's place")?),
        };
        Ok(Self {
            first_record,
            segment: head.segment,
            segment_size: head.segment_size,
            major: head.major,
            summary: head.summary,
            events: sections.list(EVENTS, "the list of events", EVENTS_READ_MAX)?,
            blocks: blocks_codec::decode(sections.raw(BLOCKS))?,
            damage: sections.list(DAMAGE, "the list of damaged places", DAMAGE_READ_MAX)?,
            damage_count: head.damage_count,
            head: fragment.to_vec(),
            head_bytes: head.fragment_bytes,
            carry: sections.structure(CARRY, "what goes over to the next segment")?,
            siblings: sections.list(SIBLINGS, "the list of earlier segments", SIBLINGS_READ_MAX)?,
        })
    }
}

impl Fragment {
    /// Whether the next segment's indexer can go on with the record and lose nothing: all its bytes so far are kept,
    /// or no facts are made of its kind.
    pub(super) fn can_be_joined(&self) -> bool {
        self.bytes.len() == self.have as usize || !may_matter(&self.bytes)
    }

    /// The same for a scanner.
    pub(super) fn as_pending(&self) -> PendingBytes<'_> {
        PendingBytes {
            lsn: self.lsn,
            have: self.have,
            total: self.total,
            bytes: &self.bytes,
            checksum: self.checksum,
        }
    }
}
