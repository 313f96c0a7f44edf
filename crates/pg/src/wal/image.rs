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
