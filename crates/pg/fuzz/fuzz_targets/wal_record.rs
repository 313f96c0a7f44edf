//! Records with arbitrary contents behind a header and a checksum that are right: items and payloads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::wal::decode::Payload;
use walden_pg::wal::{WalScanner, WalScannerOptions};
use walden_pg::{SegmentName, TimelineId, WalSegmentSize};

const MAGIC: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

fuzz_target!(|input: (u8, u8, u8, &[u8])| {
    let (which, manager, info, body) = input;
    let body = &body[..body.len().min(8000)];
    let mut page = Vec::with_capacity(8192);
    page.extend_from_slice(&MAGIC[usize::from(which) % 6].to_le_bytes());
    page.extend_from_slice(&2u16.to_le_bytes());
    page.extend_from_slice(&1u32.to_le_bytes());
    page.extend_from_slice(&0x10_0000u64.to_le_bytes());
    page.extend_from_slice(&[0; 8]);
    page.extend_from_slice(&7u64.to_le_bytes());
    page.extend_from_slice(&0x10_0000u32.to_le_bytes());
    page.extend_from_slice(&8192u32.to_le_bytes());
    let mut header = Vec::with_capacity(24);
    header.extend_from_slice(&u32::try_from(24 + body.len()).expect("short").to_le_bytes());
    header.extend_from_slice(&[0; 12]);
    header.extend_from_slice(&[info, manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &header);
    header.extend_from_slice(&crc.to_le_bytes());
    page.extend_from_slice(&header);
    page.extend_from_slice(body);
    page.resize(8192, 0);

    let mut scanner = WalScanner::new(WalScannerOptions::new(WalSegmentSize::MIN));
    let name = SegmentName::new(TimelineId::FIRST, 0, 1);
    let _ = scanner.scan_segment(name, &page, |record| {
        assert_eq!(record.bytes().len(), 24 + body.len());
        for block in record.blocks() {
            let _ = (record.block_data(block), block.image.as_ref().map(|image| record.image_bytes(image)));
            let page = block.image.as_ref().and_then(|image| record.restore_image(image));
            assert!(page.is_none_or(|page| page.len() == 8192));
            let _ = record.class_rows(block.locator.relation);
        }
        match record.payload() {
            Ok(Payload::Commit(end) | Payload::Abort(end)) => {
                assert_eq!(end.subxacts.iter().count(), end.subxacts.len());
                let _ = (end.deleted_files.iter().count(), end.dropped.iter().count());
                let _ = end.invalidations.iter().count();
            }
            Ok(Payload::RelationMap(map)) => drop(map.entries().count()),
            _ => {}
        }
    });
});
