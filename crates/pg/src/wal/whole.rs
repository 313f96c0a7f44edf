//! One record by itself, put together from fragments.

use crate::crc::Scratch;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::segment::WalSegmentSize;
use crate::timeline::TimelineId;
use crate::wal::fault::Fault;
use crate::wal::items::Items;
use crate::wal::page::PageHeader;
use crate::wal::record::{Record, RecordHeader, check_crc, check_header};

/// The size of WAL pages unless PostgreSQL was built otherwise.
const PAGE_SIZE: u64 = 8192;

/// Checks a record whose bytes were put together without page headers, and hands it to `sink`.
///
/// `lsn` is where the record begins, and `timeline` that of the page in which it does. Checked are the
/// header, the checksum and the parts; its link to the record before is only known to be below `lsn`,
/// see [`RecordHeader::previous`]. The record's end is counted as if pages were of the usual 8 KiB.
///
/// # Errors
/// What is wrong with the record: [`Fault::RecordLength`] if it is not as long as it says,
/// [`Fault::ResourceManager`], [`Fault::PreviousRecord`], [`Fault::Checksum`] or [`Fault::Layout`].
pub fn decode_record(
    (lsn, timeline): (Lsn, TimelineId),
    bytes: &[u8],
    major: PgMajor,
    segment_size: WalSegmentSize,
    sink: impl FnOnce(&Record<'_>),
) -> Result<(), Fault> {
    let found = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header = bytes.first_chunk().map(RecordHeader::parse).ok_or(Fault::RecordLength { found })?;
    check_header(&header, lsn, None, major)?;
    if header.total_length != found {
        return Err(Fault::RecordLength { found: header.total_length });
    }
    check_crc(&header, bytes, &mut Scratch::new())?;
    let mut items = Items::default();
    items.parse(bytes, &header, major)?;
    let end = if header.is_switch() {
        let last = end_of(lsn, found, segment_size).get().saturating_sub(1);
        segment_size.end_of(segment_size.segment_of(Lsn::new(last)))
    } else {
        end_of(lsn, found, segment_size)
    };
    sink(&Record { lsn, end, timeline, major, header, bytes, items: &items });
    Ok(())
}

/// Where a record ends that begins here and has this length.
fn end_of(lsn: Lsn, length: u32, segment_size: WalSegmentSize) -> Lsn {
    let mut at = lsn;
    let mut rest = u64::from(length);
    loop {
        let room = PAGE_SIZE - at.get() % PAGE_SIZE;
        if rest <= room {
            return at.saturating_add(rest).align_up();
        }
        rest -= room;
        let page = at.saturating_add(room);
        let is_first = segment_size.offset_in_segment(page) == 0;
        let header = if is_first { PageHeader::LONG_SIZE } else { PageHeader::SHORT_SIZE };
        at = page.saturating_add(header as u64);
    }
}
