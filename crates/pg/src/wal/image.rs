//! Full page images: what a page was when the record was written.
//!
//! PostgreSQL source: `RestoreBlockImage` in `src/backend/access/transam/xlogreader.c`.

use crate::wal::items::{BlockImage, ImageCompression};
use crate::wal::pglz;
use crate::wal::record::Record;

/// `BLCKSZ`
const PAGE_SIZE: usize = 8192;

impl Record<'_> {
    /// The page that an image in this record holds, of 8 KiB, with zeros in its hole.
    ///
    /// `None` if the image is compressed with Zstandard, is not kept whole, or is not what its header
    /// says; a server with other pages than of 8 KiB writes such images.
    pub fn restore_image(&self, image: &BlockImage) -> Option<Vec<u8>> {
        let stored = self.image_bytes(image);
        let (offset, hole) = (usize::from(image.hole_offset), usize::from(image.hole_length));
        let length = PAGE_SIZE.checked_sub(hole)?;
        if stored.len() != image.length() || offset > length {
            return None;
        }
        let mut page = vec![0; PAGE_SIZE];
        let bytes = page.get_mut(..length)?;
        match image.compression {
            None if stored.len() == length => bytes.copy_from_slice(stored),
            None | Some(ImageCompression::Zstd) => return None,
            Some(ImageCompression::Pglz) => pglz::decompress(stored, bytes)?,
            Some(ImageCompression::Lz4) => {
                let filled = lz4_flex::block::decompress_into(stored, bytes).ok()?;
                if filled != length {
                    return None;
                }
            }
        }
        page.copy_within(offset..length, offset + hole);
        page.get_mut(offset..offset + hole)?.fill(0);
        Some(page)
    }
}

/// The tuple at a line pointer, its header included (`ItemIdData` in `src/include/storage/itemid.h`).
pub(crate) fn tuple_on_page(page: &[u8], offset: u16) -> Option<&[u8]> {
    /// `SizeOfPageHeaderData`
    const HEADER: usize = 24;
    const NORMAL: u32 = 1;
    let at = HEADER + usize::from(offset.checked_sub(1)?) * 4;
    let lower = usize::from(crate::le::u16_at(page, 12)?);
    let pointer = crate::le::u32_at(page, at).filter(|_| at + 4 <= lower)?;
    // 15 bits of offset, 2 of state, 15 of length: each fits.
    let (start, state, length) = (pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17);
    if state != NORMAL {
        return None;
    }
    page.get(start as usize..)?.get(..length as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::major::PgMajor;
    use crate::wal::craft::{Crafter, SIZE};
    use crate::wal::scanner::{WalScanner, WalScannerOptions};

    /// The page that a record's only image gives, of 18 or of 13.
    fn restored(major: PgMajor, stored: &[u8], hole: Option<(u16, u16)>, info: u8) -> Option<Vec<u8>> {
        let (offset, length) = hole.unwrap_or_default();
        let mut body = vec![0, 0x10, 0, 0];
        body.extend_from_slice(&u16::try_from(stored.len()).unwrap().to_le_bytes());
        body.extend_from_slice(&offset.to_le_bytes());
        body.push(info | u8::from(hole.is_some()));
        if hole.is_some() && info & 0x1C != 0 {
            body.extend_from_slice(&length.to_le_bytes());
        }
        body.extend_from_slice(&[9; 16]);
        body.extend_from_slice(stored);
        let mut wal = Crafter::new(major);
        wal.record_with_body(1, 0, 0xB0, &body);
        let (name, bytes) = wal.segment();
        let mut page = None;
        let outcome = WalScanner::new(WalScannerOptions::new(SIZE)).scan_segment(name, &bytes, |record| {
            let image = record.blocks()[0].image.as_ref().unwrap();
            assert_eq!(record.image_bytes(image), stored);
            page = record.restore_image(image);
        });
        assert_eq!(outcome.unwrap().records, 1);
        page
    }

    #[test]
    fn images_with_and_without_holes() {
        let page: Vec<u8> =
            (0..8192u32).map(|index| index.to_le_bytes()[1] ^ index.to_le_bytes()[0]).collect();
        assert_eq!(restored(PgMajor::V18, &page, None, 0x02), Some(page.clone()));
        let mut holed = page.clone();
        holed[100..3100].fill(0);
        let rest = [&page[..100], &page[3100..]].concat();
        assert_eq!(restored(PgMajor::V18, &rest, Some((100, 3000)), 0x02), Some(holed.clone()));
        let mut packed = vec![0; 9000];
        let length = lz4_flex::block::compress_into(&rest, &mut packed).unwrap();
        packed.truncate(length);
        assert_eq!(restored(PgMajor::V18, &packed, Some((100, 3000)), 0x0A), Some(holed.clone()));
        assert_eq!(restored(PgMajor::V18, &packed, Some((100, 2999)), 0x0A), None, "too short");
        assert_eq!(restored(PgMajor::V18, &packed, Some((100, 3001)), 0x0A), None, "too long");
        assert_eq!(restored(PgMajor::V18, &packed, None, 0x12), None, "Zstandard");
        // Every byte as it is.
        let packed: Vec<u8> = rest.chunks(8).flat_map(|chunk| [&[0], chunk].concat()).collect();
        assert_eq!(restored(PgMajor::V18, &packed, Some((100, 3000)), 0x06), Some(holed));
        assert_eq!(restored(PgMajor::V18, &packed, Some((8000, 3000)), 0x06), None, "a hole past the end");
    }

    #[test]
    fn line_pointers() {
        let mut page = vec![0; PAGE_SIZE];
        page[12..14].copy_from_slice(&32u16.to_le_bytes());
        let pointer = |start: u32| (start + (1 << 15) + (40 << 17)).to_le_bytes();
        page[24..28].copy_from_slice(&pointer(8000));
        page[28..32].copy_from_slice(&pointer(8190));
        page[8000] = 7;
        assert_eq!(tuple_on_page(&page, 1).map(|tuple| (tuple.len(), tuple[0])), Some((40, 7)));
        assert_eq!(tuple_on_page(&page, 2), None, "past the end");
        assert_eq!(tuple_on_page(&page, 3), None, "behind the last");
        assert_eq!(tuple_on_page(&page, 0), None);
        page[25] ^= 0x80 | 0x40;
        page[26] ^= 1;
        assert_eq!(tuple_on_page(&page, 1), None, "not in use");
        assert_eq!(tuple_on_page(&[], 1), None);
    }

    proptest! {
        #[test]
        fn any_image_is_taken_or_refused(
            old: bool,
            stored in prop::collection::vec(any::<u8>(), 0..300),
            hole in prop::option::of(any::<(u16, u16)>()),
            kind in 0usize..5,
        ) {
            let (major, info) = if old { (PgMajor::V13, [0, 0x02][kind % 2]) } else { (PgMajor::V18, [0, 4, 8, 16, 2][kind]) };
            // In 13 a hole's length is only there for a compressed image, by another bit.
            prop_assume!(!old || hole.is_none());
            let page = restored(major, &stored, hole, info);
            prop_assert!(page.is_none_or(|page| page.len() == PAGE_SIZE));
        }
    }
}
