//! The headers of WAL pages.
//!
//! PostgreSQL source: `XLogPageHeaderData` and `XLogLongPageHeaderData` in
//! `src/include/access/xlog_internal.h`.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::le;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::segment::WalSegmentSize;
use crate::system_id::SystemId;
use crate::timeline::TimelineId;

const WHAT: &str = "a WAL page header";

/// The flags of a WAL page (`xlp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageFlags(u16);

impl PageFlags {
    const CONTINUES_RECORD: u16 = 0x0001;
    const LONG_HEADER: u16 = 0x0002;
    const REMOVABLE: u16 = 0x0004;
    const OVERWRITES_RECORD: u16 = 0x0008;
    const ALL: u16 = 0x000F;

    /// The flags as stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The page goes on with a record that began on an earlier page.
    pub const fn continues_record(self) -> bool {
        self.0 & Self::CONTINUES_RECORD != 0
    }

    /// The header is a long one, as on the first page of every segment.
    pub const fn has_long_header(self) -> bool {
        self.0 & Self::LONG_HEADER != 0
    }

    /// No backup was running when the page was begun, so that full page images may be left out of a
    /// copy (`XLP_BKP_REMOVABLE`).
    pub const fn is_removable(self) -> bool {
        self.0 & Self::REMOVABLE != 0
    }

    /// The page takes the place of the rest of a record that a crash cut off
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    pub const fn overwrites_record(self) -> bool {
        self.0 & Self::OVERWRITES_RECORD != 0
    }
}

/// The header of any WAL page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PageHeader {
    /// The major version, by the page's magic number.
    pub major: PgMajor,
    /// The page's flags.
    pub flags: PageFlags,
    /// The timeline of the page's first byte. Up to and including the page with the fork this is the
    /// older timeline, even in the newer timeline's segment.
    pub timeline: TimelineId,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// How many bytes of a record that began earlier are still to come, from this page on.
    pub remaining: u32,
}

impl PageHeader {
    /// The size of a short header in bytes, with its padding.
    pub const SHORT_SIZE: usize = 24;
    /// The size of a long header in bytes.
    pub const LONG_SIZE: usize = 40;

    /// Parses the header at the start of `page`. Only the fields that all headers have are read.
    ///
    /// # Errors
    /// [`Error::TooShort`] below [`PageHeader::SHORT_SIZE`] bytes; [`Error::UnknownPageMagic`] if this
    /// is no page of a supported version; [`Error::ImpossibleValue`] for unknown flags or timeline 0.
    pub fn parse(page: &[u8]) -> Result<Self, Error> {
        let bytes = page.first_chunk::<{ Self::SHORT_SIZE }>().ok_or(Error::TooShort {
            what: WHAT,
            need: Self::SHORT_SIZE,
            have: page.len(),
        })?;
        let [m0, m1, i0, i1, t0, t1, t2, t3, address @ .., r0, r1, r2, r3, _, _, _, _] = *bytes;
        let magic = u16::from_le_bytes([m0, m1]);
        let info = u16::from_le_bytes([i0, i1]);
        let timeline = u32::from_le_bytes([t0, t1, t2, t3]);
        let impossible = |field, value| Error::ImpossibleValue { what: WHAT, field, value };
        let major = major_of(magic).ok_or(Error::UnknownPageMagic { magic })?;
        if info & !PageFlags::ALL != 0 {
            return Err(impossible("xlp_info", u64::from(info)));
        }
        Ok(Self {
            major,
            flags: PageFlags(info),
            timeline: TimelineId::new(timeline).map_err(|_| impossible("xlp_tli", 0))?,
            address: Lsn::new(u64::from_le_bytes(address)),
            remaining: u32::from_le_bytes([r0, r1, r2, r3]),
        })
    }

    /// The header's size in bytes, 24 or 40.
    pub const fn size(&self) -> usize {
        if self.flags.has_long_header() { Self::LONG_SIZE } else { Self::SHORT_SIZE }
    }
}

/// The long header on the first page of a segment. It says to which server the segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The fields that every page has. `page.address` is the segment's first position.
    pub page: PageHeader,
    /// The system identifier of the server that wrote the segment.
    pub system_id: SystemId,
    /// The size of the server's segments.
    pub segment_size: WalSegmentSize,
    /// The size of WAL pages in bytes, 8192 unless PostgreSQL was built otherwise.
    pub block_size: u32,
}

impl SegmentHeader {
    /// Parses the header at the start of a segment.
    ///
    /// # Errors
    /// Those of [`PageHeader::parse`], [`Error::TooShort`] below [`PageHeader::LONG_SIZE`] bytes,
    /// [`Error::ImpossibleValue`] if the header is not a long one or the block size is impossible, and
    /// [`Error::InvalidSegmentSize`].
    pub fn parse(segment: &[u8]) -> Result<Self, Error> {
        let page = PageHeader::parse(segment)?;
        let impossible = |field, value| Error::ImpossibleValue { what: WHAT, field, value };
        if !page.flags.has_long_header() {
            return Err(impossible("xlp_info", u64::from(page.flags.bits())));
        }
        let (Some(system_id), Some(segment_size), Some(block_size)) =
            (le::u64_at(segment, 24), le::u32_at(segment, 32), le::u32_at(segment, 36))
        else {
            return Err(Error::TooShort { what: WHAT, need: PageHeader::LONG_SIZE, have: segment.len() });
        };
        // XLOG_BLCKSZ can be 1 to 64 KiB.
        if !block_size.is_power_of_two() || !(1024..=64 * 1024).contains(&block_size) {
            return Err(impossible("xlp_xlog_blcksz", u64::from(block_size)));
        }
        Ok(Self {
            page,
            system_id: SystemId::new(system_id),
            segment_size: WalSegmentSize::new(u64::from(segment_size))?,
            block_size,
        })
    }
}

/// The major version that writes pages with this magic number (`XLOG_PAGE_MAGIC`).
const fn major_of(magic: u16) -> Option<PgMajor> {
    match magic {
        0xD106 => Some(PgMajor::V13),
        0xD10D => Some(PgMajor::V14),
        0xD110 => Some(PgMajor::V15),
        0xD113 => Some(PgMajor::V16),
        0xD116 => Some(PgMajor::V17),
        0xD118 => Some(PgMajor::V18),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::ControlFile;
    use crate::fixtures;

    #[test]
    fn real_first_pages_of_all_majors() {
        for ((major, name, bytes), (_, control)) in
            fixtures::SEGMENT_PAGES.into_iter().zip(fixtures::CONTROL_IN_PRODUCTION)
        {
            let header = SegmentHeader::parse(bytes).unwrap();
            let control = ControlFile::parse(control).unwrap();
            let name: crate::SegmentName = name.parse().unwrap();
            assert_eq!(header.page.major, major);
            assert_eq!(header.page.timeline, TimelineId::FIRST);
            assert_eq!(header.system_id, control.system_id);
            assert_eq!(header.segment_size, control.wal_segment_size);
            assert_eq!(header.block_size, 8192);
            assert_eq!(Ok(header.page.address), name.start_lsn(header.segment_size));
            assert!(header.page.flags.has_long_header());
            assert_eq!(header.page.size(), 40);
            assert_eq!(header.page.remaining, 0, "made after a switch");
            assert!(!header.page.flags.continues_record() && !header.page.flags.overwrites_record());
        }
    }

    #[test]
    fn each_field_is_checked() {
        let page = fixtures::SEGMENT_PAGES[0].2;
        let with = |at: usize, byte: u8| {
            let mut bytes = page.to_vec();
            bytes[at] = byte;
            SegmentHeader::parse(&bytes)
        };
        assert_eq!(with(0, 0x05), Err(Error::UnknownPageMagic { magic: 0xD105 }));
        assert!(matches!(with(2, 0x10), Err(Error::ImpossibleValue { field: "xlp_info", .. })));
        assert!(matches!(with(2, 0x01), Err(Error::ImpossibleValue { field: "xlp_info", .. })));
        assert!(matches!(with(4, 0), Err(Error::ImpossibleValue { field: "xlp_tli", .. })));
        assert!(matches!(with(32, 1), Err(Error::InvalidSegmentSize { .. })));
        assert!(matches!(with(36, 1), Err(Error::ImpossibleValue { field: "xlp_xlog_blcksz", .. })));
        assert!(matches!(SegmentHeader::parse(&page[..39]), Err(Error::TooShort { need: 40, .. })));
        assert!(matches!(SegmentHeader::parse(&page[..23]), Err(Error::TooShort { need: 24, .. })));
        assert!(matches!(SegmentHeader::parse(&[0; 8192]), Err(Error::UnknownPageMagic { magic: 0 })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = SegmentHeader::parse(&bytes);
            let _ = PageHeader::parse(&bytes);
        }

        #[test]
        fn mutated_headers_are_taken_or_refused(which in 0usize..6, noise: [(u8, u8); 3]) {
            let mut bytes = fixtures::SEGMENT_PAGES[which].2.to_vec();
            for (at, byte) in noise {
                bytes[usize::from(at) % 40] = byte;
            }
            let _ = SegmentHeader::parse(&bytes);
        }
    }
}
