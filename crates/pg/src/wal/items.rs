//! The parts of a record: block references with page images and data, and the main data.
//!
//! PostgreSQL source: `DecodeXLogRecord` in `src/backend/access/transam/xlogreader.c`,
//! `src/include/access/xlogrecord.h`.

use std::ops::Range;

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
    /// Where in the record the image is.
    pub(crate) range: Range<usize>,
}

impl BlockImage {
    /// How many bytes of the record the image takes.
    pub fn length(&self) -> usize {
        self.range.len()
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
    /// Where in the record the block's data are; empty if it has none.
    pub(crate) data: Range<usize>,
}

/// The parts of one record, with their places in it.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) blocks: Vec<BlockRef>,
    pub(crate) main: Range<usize>,
    pub(crate) origin: Option<u16>,
    pub(crate) toplevel_xid: Option<Xid>,
}

impl Items {
    /// Reads the item headers of a record, of which `record` may be only the beginning.
    pub(crate) fn parse(
        &mut self,
        record: &[u8],
        header: &RecordHeader,
        major: PgMajor,
    ) -> Result<(), Fault> {
        let length = header.total_length as usize;
        self.blocks.clear();
        self.main = 0..0;
        self.origin = None;
        self.toplevel_xid = None;
        let mut reader = Reader::new(record.get(RecordHeader::SIZE..).unwrap_or_default());
        let body = length.saturating_sub(RecordHeader::SIZE);
        let mut announced = 0usize;
        let mut main_length = 0usize;
        while body.saturating_sub(reader.consumed()) > announced {
            match reader.u8().ok_or(HEADERS)? {
                ID_DATA_SHORT => {
                    main_length = usize::from(reader.u8().ok_or(HEADERS)?);
                    announced += main_length;
                    break;
                }
                ID_DATA_LONG => {
                    main_length =
                        usize::try_from(reader.u32().ok_or(HEADERS)?).map_err(|_| layout("main data"))?;
                    announced = announced.saturating_add(main_length);
                    break;
                }
                ID_ORIGIN => self.origin = Some(reader.u16().ok_or(HEADERS)?),
                ID_TOPLEVEL_XID if major >= PgMajor::V14 => {
                    self.toplevel_xid = Some(Xid::new(reader.u32().ok_or(HEADERS)?));
                }
                id @ 0..=MAX_BLOCK_ID => {
                    let block = self.block(id, &mut reader, major)?;
                    announced += block.data.len() + block.image.as_ref().map_or(0, BlockImage::length);
                    self.blocks.push(block);
                }
                _ => return Err(layout("unknown item")),
            }
        }
        if body.saturating_sub(reader.consumed()) != announced {
            return Err(layout("lengths"));
        }
        self.place(length.saturating_sub(announced), main_length);
        Ok(())
    }

    fn block(&self, id: u8, reader: &mut Reader<'_>, major: PgMajor) -> Result<BlockRef, Fault> {
        let last = self.blocks.last();
        if last.is_some_and(|last| id <= last.id) {
            return Err(layout("order of blocks"));
        }
        let flags = reader.u8().ok_or(HEADERS)?;
        let data_length = usize::from(reader.u16().ok_or(HEADERS)?);
        if (flags & HAS_DATA != 0) != (data_length > 0) {
            return Err(layout("block data"));
        }
        let fork = Fork::from_number(flags & FORK_MASK).ok_or(layout("fork"))?;
        let image = if flags & HAS_IMAGE != 0 { Some(image(reader, major)?) } else { None };
        let locator = if flags & SAME_REL == 0 {
            RelFileLocator {
                tablespace: Oid::new(reader.u32().ok_or(HEADERS)?),
                database: Oid::new(reader.u32().ok_or(HEADERS)?),
                relation: RelFileNumber::new(reader.u32().ok_or(HEADERS)?),
            }
        } else {
            last.ok_or(layout("same relation as which"))?.locator
        };
        let block = reader.u32().ok_or(HEADERS)?;
        Ok(BlockRef {
            id,
            locator,
            fork,
            block,
            will_init: flags & WILL_INIT != 0,
            image,
            data: 0..data_length,
        })
    }

    /// Turns lengths into places: the data follow the headers in the order of the blocks.
    fn place(&mut self, start: usize, main_length: usize) {
        let mut at = start;
        for block in &mut self.blocks {
            if let Some(image) = &mut block.image {
                let length = image.range.len();
                image.range = at..at + length;
                at += length;
            }
            let length = block.data.len();
            block.data = at..at + length;
            at += length;
        }
        self.main = at..at + main_length;
    }
}

/// Reads an image's header. Its range is still only a length.
fn image(reader: &mut Reader<'_>, major: PgMajor) -> Result<BlockImage, Fault> {
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
    Ok(BlockImage { apply, compression, hole_offset, hole_length, range: 0..usize::from(length) })
}

/// The headers end early.
const HEADERS: Fault = layout("headers");

const fn layout(what: &'static str) -> Fault {
    Fault::Layout { what }
}
