//! One WAL record.

use std::fmt;

use crate::crc::{self, Scratch};
use crate::ids::Xid;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::timeline::TimelineId;
use crate::wal::fault::Fault;
use crate::wal::items::{BlockImage, BlockRef, Items, Span};

/// The part of PostgreSQL that a record belongs to (`src/include/access/rmgrlist.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceManager(u8);

impl ResourceManager {
    /// Checkpoints, switches, restore points and the like.
    pub const XLOG: Self = Self(0);
    /// Commits and aborts.
    pub const TRANSACTION: Self = Self(1);
    /// Files of relations.
    pub const STORAGE: Self = Self(2);
    /// Commit status.
    pub const CLOG: Self = Self(3);
    /// Databases.
    pub const DATABASE: Self = Self(4);
    /// Tablespaces.
    pub const TABLESPACE: Self = Self(5);
    /// Shared row locks.
    pub const MULTIXACT: Self = Self(6);
    /// The file numbers of the catalogs that cannot look theirs up.
    pub const RELMAP: Self = Self(7);
    /// What a hot standby needs to know.
    pub const STANDBY: Self = Self(8);
    /// More of the heap: pruning, visibility, multi-inserts.
    pub const HEAP2: Self = Self(9);
    /// Rows of tables.
    pub const HEAP: Self = Self(10);
    /// Messages for logical decoding.
    pub const LOGICAL_MESSAGE: Self = Self(21);

    const NAMES: [&'static str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];

    /// The resource manager with this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// The number in record headers.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// `pg_waldump`'s name of a built-in one; `None` for those of extensions.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get(usize::from(self.0)).copied()
    }

    /// Whether records of it can occur: 0 to 21, and from 15 on also 128 to 255, for extensions.
    pub const fn exists_in(self, major: PgMajor) -> bool {
        self.0 <= 21 || (self.0 >= 128 && major.number() >= 15)
    }
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

impl fmt::Debug for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceManager({self})")
    }
}

/// The header of a record (`XLogRecord`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    /// The record's length in bytes, with this header.
    pub total_length: u32,
    /// The transaction that wrote it, which can be a subtransaction; invalid if none did.
    pub xid: Xid,
    /// Where the record before begins.
    pub previous: Lsn,
    /// All eight bits; see [`RecordHeader::kind`].
    pub info: u8,
    /// To whom it belongs.
    pub manager: ResourceManager,
    /// The CRC-32C of everything but itself.
    pub crc: u32,
}

impl RecordHeader {
    /// The header's size in bytes.
    pub const SIZE: usize = 24;
    /// The shortest record is a header alone.
    pub(crate) const MIN_RECORD: u32 = 24;
    /// The longest record that PostgreSQL can make is a little shorter than this (`MaxAllocSize`).
    pub(crate) const MAX_RECORD: u32 = 0x3FFF_FFFF;

    #[inline]
    pub(crate) fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let [t0, t1, t2, t3, x0, x1, x2, x3, previous @ .., info, manager, _, _, c0, c1, c2, c3] = *bytes;
        Self {
            total_length: u32::from_le_bytes([t0, t1, t2, t3]),
            xid: Xid::new(u32::from_le_bytes([x0, x1, x2, x3])),
            previous: Lsn::new(u64::from_le_bytes(previous)),
            info,
            manager: ResourceManager::new(manager),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }

    /// The bits of [`RecordHeader::info`] that tell the record's kind among those of its resource
    /// manager.
    pub const fn kind(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether this is the record that ends a segment early.
    pub(crate) fn is_switch(&self) -> bool {
        self.manager == ResourceManager::XLOG && self.kind() == 0x40
    }
}

/// One whole record, its checksum and its link to the record before it checked.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where the record begins.
    pub lsn: Lsn,
    /// The position after it, as PostgreSQL counts it: rounded up to 8 bytes, and after a switch the
    /// start of the next segment.
    pub end: Lsn,
    /// The timeline of the page in which the record begins.
    pub timeline: TimelineId,
    /// The version that wrote it.
    pub major: PgMajor,
    /// The record's header.
    pub header: RecordHeader,
    pub(crate) bytes: &'a [u8],
    pub(crate) items: &'a Items,
}

impl<'a> Record<'a> {
    /// The record's bytes with its header; fewer than its length if it was longer than the scanner
    /// keeps, see [`Record::is_kept_whole`].
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether all bytes are there. The scanner keeps only the beginning of very long records, so that
    /// its memory is bounded; their checksum covers all of them.
    pub const fn is_kept_whole(&self) -> bool {
        self.bytes.len() as u64 == self.header.total_length as u64
    }

    /// The blocks that the record refers to, in the order of their ids.
    pub fn blocks(&self) -> &'a [BlockRef] {
        &self.items.blocks
    }

    /// The block with this id.
    #[inline]
    pub fn block(&self, id: u8) -> Option<&'a BlockRef> {
        // Nearly always every id up to the last one is there.
        match self.items.blocks.get(usize::from(id)) {
            Some(block) if block.id == id => Some(block),
            _ => self.items.blocks.iter().find(|block| block.id == id),
        }
    }

    /// The data that go with a block, as far as they were kept.
    pub fn block_data(&self, block: &BlockRef) -> &'a [u8] {
        self.part(block.data)
    }

    /// The stored bytes of a page image, without its hole and possibly compressed, as far as they were
    /// kept.
    pub fn image_bytes(&self, image: &BlockImage) -> &'a [u8] {
        self.part(image.span)
    }

    /// The data that do not go with a block, as far as they were kept.
    pub fn main_data(&self) -> &'a [u8] {
        self.part(self.items.main)
    }

    /// How long the main data are, kept or not.
    pub fn main_data_length(&self) -> usize {
        self.items.main.length as usize
    }

    /// The replication origin that the record came by, if it has one.
    pub const fn origin(&self) -> Option<u16> {
        self.items.origin
    }

    /// The top-level transaction of the record's subtransaction, where the record tells it:
    /// `wal_level=logical` and 14 or later.
    pub const fn toplevel_xid(&self) -> Option<Xid> {
        self.items.toplevel_xid
    }

    /// How many of the record's bytes are page images.
    pub fn image_length(&self) -> usize {
        self.items.blocks.iter().filter_map(|block| block.image.as_ref()).map(BlockImage::length).sum()
    }

    #[inline]
    fn part(&self, span: Span) -> &'a [u8] {
        let start = self.items.data_start + span.start as usize;
        let end = (start + span.length as usize).min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }
}

/// Checks what a record's header says of itself, before its bytes are looked at.
#[inline]
pub(crate) fn check_header(
    header: &RecordHeader,
    lsn: Lsn,
    previous: Option<Lsn>,
    major: PgMajor,
) -> Result<(), Fault> {
    check_length(header.total_length)?;
    if !header.manager.exists_in(major) {
        return Err(Fault::ResourceManager { found: header.manager.number() });
    }
    match previous {
        Some(previous) if previous == header.previous => Ok(()),
        Some(previous) => Err(Fault::PreviousRecord { expected: previous, found: header.previous }),
        None if header.previous < lsn => Ok(()),
        None => Err(Fault::PreviousRecord { expected: lsn, found: header.previous }),
    }
}

/// Whether the header is all right and links to the record before: what [`check_header`] says of nearly
/// every record, in less time.
#[inline]
pub(crate) fn is_next(header: &RecordHeader, previous: Option<Lsn>, major: PgMajor) -> bool {
    previous == Some(header.previous)
        && (RecordHeader::MIN_RECORD..=RecordHeader::MAX_RECORD).contains(&header.total_length)
        && header.manager.exists_in(major)
}

/// Checks a record's length, which is known before the rest of its header.
#[inline]
pub(crate) fn check_length(total_length: u32) -> Result<(), Fault> {
    if (RecordHeader::MIN_RECORD..=RecordHeader::MAX_RECORD).contains(&total_length) {
        return Ok(());
    }
    Err(Fault::RecordLength { found: total_length })
}

/// Checks the checksum of a record of which all bytes are there.
#[inline]
pub(crate) fn check_crc(header: &RecordHeader, bytes: &[u8], scratch: &mut Scratch) -> Result<(), Fault> {
    let rest = bytes.get(RecordHeader::SIZE..).unwrap_or_default();
    compare_crc(header, bytes.first_chunk().map_or(0, |head| crc::of_record(head, rest, scratch)))
}

/// Checks the checksum of a record of which that of the bytes behind the header is known.
pub(crate) fn check_rest(header: &RecordHeader, bytes: &[u8], crc_of_rest: u32) -> Result<(), Fault> {
    compare_crc(header, crc::append(crc_of_rest, bytes.get(..20).unwrap_or_default()))
}

#[inline]
fn compare_crc(header: &RecordHeader, computed: u32) -> Result<(), Fault> {
    if computed == header.crc {
        return Ok(());
    }
    Err(Fault::Checksum { stored: header.crc, computed })
}
