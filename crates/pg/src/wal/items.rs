//! The parts of a record: block references with page images and data, and the main data.
//!
//! PostgreSQL source: `DecodeXLogRecord` in `src/backend/access/transam/xlogreader.c`,
//! `src/include/access/xlogrecord.h`.

use crate::ids::{Fork, Oid, RelFileLocator, RelFileNumber, Xid};
use crate::le::Reader;
use crate::major::PgMajor;
use crate::wal::fault::Fault;
use crate::wal::record::RecordHeader;

/// `XLR_MAX_BLOCK_ID`
const MAX_BLOCK_ID: u8 = 32;
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

/// `BLCKSZ`, as far as the length of a hole in a page image needs it.
const BLOCK_SIZE: u16 = 8192;

/// Where in a record something is, counted from the end of the item headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// How a page image in a record is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageCompression {
    /// PostgreSQL's own.
    Pglz,
    /// LZ4, from 15 on.
    Lz4,
    /// Zstandard, from 15 on.
    Zstd,
}

/// A full page image in a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockImage {
    /// Whether replay writes the page. If not, the image is there for consistency checks only.
    pub apply: bool,
    /// How it is compressed, if it is.
    pub compression: Option<ImageCompression>,
    /// Where in the page the bytes that were left out begin.
    pub hole_offset: u16,
    /// How many bytes were left out; they are zero in the page.
    pub hole_length: u16,
    pub(crate) span: Span,
}

impl BlockImage {
    /// How many bytes of the record the image takes.
    pub fn length(&self) -> usize {
        self.span.length as usize
    }
}

/// A block that a record changes or, rarely, only names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// The number by which the record's kind knows the block, 0 to 32.
    pub id: u8,
    /// The relation.
    pub locator: RelFileLocator,
    /// The fork.
    pub fork: Fork,
    /// The number of the block in the fork.
    pub block: u32,
    /// Whether replay makes the page anew, whatever it held.
    pub will_init: bool,
    /// The full page image, if the record has one.
    pub image: Option<BlockImage>,
    pub(crate) data: Span,
}

/// The parts of one record, with their places in it.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) blocks: Vec<BlockRef>,
    /// Where in the record the headers end, and the spans of data begin.
    pub(crate) data_start: usize,
    pub(crate) main: Span,
    pub(crate) origin: Option<u16>,
    pub(crate) toplevel_xid: Option<Xid>,
}

impl Items {
    /// Reads the item headers of a record, of which `record` may be only the beginning.
    #[inline]
    pub(crate) fn parse(
        &mut self,
        record: &[u8],
        header: &RecordHeader,
        major: PgMajor,
    ) -> Result<(), Fault> {
        self.blocks.clear();
        self.origin = None;
        self.toplevel_xid = None;
        let body = header.total_length.saturating_sub(RecordHeader::MIN_RECORD);
        let items = record.get(RecordHeader::SIZE..).unwrap_or_default();
        // Nearly every record of a few bytes is main data and nothing else.
        if let [ID_DATA_SHORT, length, ..] = *items
            && body == 2 + u32::from(length)
        {
            self.main = Span { start: 0, length: u32::from(length) };
            self.data_start = RecordHeader::SIZE + 2;
            return Ok(());
        }
        self.parse_all(Reader::new(items), body, major)
    }

    fn parse_all(&mut self, mut reader: Reader<'_>, body: u32, major: PgMajor) -> Result<(), Fault> {
        // The data follow the headers in the order of the items.
        let mut announced = 0u32;
        let mut main_length = 0u32;
        while body.saturating_sub(reader.consumed_u32()) > announced {
            match reader.u8().ok_or(HEADERS)? {
                id @ 0..=MAX_BLOCK_ID => announced = self.block(id, announced, &mut reader, major)?,
                ID_DATA_SHORT => {
                    main_length = u32::from(reader.u8().ok_or(HEADERS)?);
                    break;
                }
                ID_DATA_LONG => {
                    main_length = reader.u32().ok_or(HEADERS)?;
                    break;
                }
                ID_ORIGIN => self.origin = Some(reader.u16().ok_or(HEADERS)?),
                ID_TOPLEVEL_XID if major >= PgMajor::V14 => {
                    self.toplevel_xid = Some(Xid::new(reader.u32().ok_or(HEADERS)?));
                }
                _ => return Err(layout("unknown item")),
            }
        }
        self.main = Span { start: announced, length: main_length };
        if Some(body.saturating_sub(reader.consumed_u32())) != announced.checked_add(main_length) {
            return Err(layout("lengths"));
        }
        self.data_start = RecordHeader::SIZE + reader.consumed();
        Ok(())
    }

    /// Reads a block's header. `start` is where its data are, behind the headers; returns where the next
    /// data are.
    #[inline]
    fn block(&mut self, id: u8, start: u32, reader: &mut Reader<'_>, major: PgMajor) -> Result<u32, Fault> {
        let last = self.blocks.last();
        if last.is_some_and(|last| id <= last.id) {
            return Err(layout("order of blocks"));
        }
        let [flags, length @ ..] = reader.array::<3>().ok_or(HEADERS)?;
        let length = u32::from(u16::from_le_bytes(length));
        if (flags & HAS_DATA != 0) != (length > 0) {
            return Err(layout("block data"));
        }
        let fork = Fork::from_number(flags & FORK_MASK).ok_or(layout("fork"))?;
        let image = if flags & HAS_IMAGE != 0 { Some(image(reader, start, major)?) } else { None };
        let locator = if flags & SAME_REL == 0 {
            let [t0, t1, t2, t3, d0, d1, d2, d3, r0, r1, r2, r3] = reader.array().ok_or(HEADERS)?;
            RelFileLocator {
                tablespace: Oid::new(u32::from_le_bytes([t0, t1, t2, t3])),
                database: Oid::new(u32::from_le_bytes([d0, d1, d2, d3])),
                relation: RelFileNumber::new(u32::from_le_bytes([r0, r1, r2, r3])),
            }
        } else {
            last.ok_or(layout("same relation as which"))?.locator
        };
        let block = reader.u32().ok_or(HEADERS)?;
        // At most 33 blocks, with less than 128 KiB each.
        let data = Span { start: start + image.as_ref().map_or(0, |image| image.span.length), length };
        self.blocks.push(BlockRef {
            id,
            locator,
            fork,
            block,
            will_init: flags & WILL_INIT != 0,
            image,
            data,
        });
        Ok(data.start + length)
    }
}

/// Reads an image's header. `start` is where the image is, behind the headers.
fn image(reader: &mut Reader<'_>, start: u32, major: PgMajor) -> Result<BlockImage, Fault> {
    let length = reader.u16().ok_or(HEADERS)?;
    let hole_offset = reader.u16().ok_or(HEADERS)?;
    let info = reader.u8().ok_or(HEADERS)?;
    let has_hole = info & 0x01 != 0;
    // The same bits mean other things from 15 on.
    let (apply, compression) = if major >= PgMajor::V15 {
        let compression = match info & 0x1C {
            0 => None,
            0x04 => Some(ImageCompression::Pglz),
            0x08 => Some(ImageCompression::Lz4),
            0x10 => Some(ImageCompression::Zstd),
            _ => return Err(layout("image compression")),
        };
        (info & 0x02 != 0, compression)
    } else {
        (info & 0x04 != 0, (info & 0x02 != 0).then_some(ImageCompression::Pglz))
    };
    let hole_length = match (compression, has_hole) {
        (Some(_), true) => reader.u16().ok_or(HEADERS)?,
        (Some(_), false) => 0,
        (None, _) => BLOCK_SIZE.saturating_sub(length),
    };
    let span = Span { start, length: u32::from(length) };
    Ok(BlockImage { apply, compression, hole_offset, hole_length, span })
}

/// The headers end early.
const HEADERS: Fault = layout("headers");

const fn layout(what: &'static str) -> Fault {
    Fault::Layout { what }
}
