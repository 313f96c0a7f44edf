//! The scanner on segments in pieces: it must not depend on where they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::wal::{OnDamage, Record, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, SegmentName, TimelineId, WalSegmentSize};

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (piece, resync, bytes) = input;
    let mut options = WalScannerOptions::new(WalSegmentSize::MIN);
    options.on_damage = if resync { OnDamage::Resync } else { OnDamage::Stop };
    options.max_kept_bytes = 0;
    let name = SegmentName::new(TimelineId::FIRST, 0, 1);

    let mut whole: Vec<Lsn> = Vec::new();
    let mut scanner = WalScanner::new(options);
    let mut take = |record: &Record<'_>| {
        whole.push(record.lsn);
        let _ = record.payload();
        for block in record.blocks() {
            let _ = record.block_data(block);
            let _ = block.image.as_ref().map(|image| record.image_bytes(image));
        }
    };
    let outcome = scanner.scan_segment(name, bytes, &mut take).expect("a name of this size");
    assert_eq!(outcome.records, whole.len() as u64);
    assert!(whole.is_sorted());

    let mut pieces: Vec<Lsn> = Vec::new();
    let mut scanner = WalScanner::new(options);
    scanner.begin_segment(name).expect("a name of this size");
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        scanner.feed(piece, |record| pieces.push(record.lsn));
    }
    assert_eq!(scanner.finish_segment(|record| pieces.push(record.lsn)), outcome);
    assert_eq!(pieces, whole);
});
