//! A scan that goes on with any state at all: a segment is never worse off than when it is begun cold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::wal::{OnDamage, PendingBytes, WalScanner, WalScannerOptions, decode_record};
use walden_pg::{Lsn, PgMajor, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

fuzz_target!(|input: (u16, u32, u32, Option<u32>, Option<u32>, Option<u32>, &[u8], &[u8])| {
    let (piece, before, have, more, last, checksum, kept, bytes) = input;
    let mut options = WalScannerOptions::new(WalSegmentSize::MIN);
    options.on_damage = OnDamage::Resync;
    options.max_head_bytes = 1000;
    let name = SegmentName::new(TimelineId::FIRST, 0, 1);
    let mut cold = Vec::new();
    let outcome = WalScanner::new(options)
        .scan_segment(name, bytes, |record| cold.push(record.lsn))
        .expect("a name of this size");

    let mut scanner = WalScanner::new(options);
    let lsn = Lsn::new(u64::from(before));
    let pending =
        more.map(|more| PendingBytes { lsn, have, total: have.wrapping_add(more), bytes: kept, checksum });
    scanner.resume(SegmentNumber::new(1), last.map(|last| Lsn::new(u64::from(last))), pending);
    scanner.begin_segment(name).expect("a name of this size");
    let mut resumed = Vec::new();
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        scanner.feed(piece, |record| resumed.push(record.lsn));
    }
    let told = scanner.finish_segment(|record| resumed.push(record.lsn));
    assert!(told.joined || (told == outcome && resumed == cold));
    assert!(scanner.head_bytes().len() <= 1000);
    let _ = scanner.pending_bytes();
    let _ = decode_record((lsn, TimelineId::FIRST), kept, PgMajor::V18, WalSegmentSize::MIN, |_| {});
});
