use proptest::prelude::*;

use super::*;
use crate::wal::Payload;
use crate::wal::craft::{Crafter, PAGE, SIZE, SYSTEM_ID, Written, encode};

fn options() -> WalScannerOptions {
    WalScannerOptions::new(SIZE)
}

fn resync() -> WalScannerOptions {
    WalScannerOptions { on_damage: OnDamage::Resync, ..options() }
}

fn written(record: &Record<'_>) -> Written {
    assert!(record.is_kept_whole());
    Written { lsn: record.lsn, end: record.end, bytes: record.bytes().to_vec() }
}

/// Scans segments in order, and tells the records and what the segments were.
fn scan(
    options: WalScannerOptions,
    segments: &[(SegmentName, Vec<u8>)],
) -> (Vec<Written>, Vec<SegmentOutcome>) {
    let mut scanner = WalScanner::new(options);
    let mut records = Vec::new();
    let outcomes = segments
        .iter()
        .map(|(name, bytes)| {
            scanner.scan_segment(*name, bytes, |record| records.push(written(record))).unwrap()
        })
        .collect();
    (records, outcomes)
}

fn scan_one(options: WalScannerOptions, name: SegmentName, bytes: &[u8]) -> (Vec<Written>, SegmentOutcome) {
    let (records, mut outcomes) = scan(options, &[(name, bytes.to_vec())]);
    (records, outcomes.remove(0))
}

/// Half a segment of records of different lengths, some over several pages.
fn some_wal() -> Crafter {
    let mut wal = Crafter::new(PgMajor::V18);
    for number in 0..90u32 {
        let length = usize::try_from(number).unwrap() * 211 % 20_000;
        wal.record(number, 10, 0, &vec![number.to_le_bytes()[0]; length]);
    }
    wal
}

fn fault(outcome: &SegmentOutcome) -> &Fault {
    match &outcome.stop {
        Stop::Corrupt(damage) => &damage.fault,
        other => panic!("no damage: {other:?}"),
    }
}

#[test]
fn records_come_out_as_they_went_in() {
    let wal = some_wal();
    let (name, bytes) = wal.segment();
    let (records, outcome) = scan_one(options(), name, &bytes);
    assert_eq!(records, wal.records);
    assert_eq!(outcome.records, 90);
    assert_eq!(outcome.first_record, Some(wal.records[0].lsn));
    assert_eq!(outcome.last_record, Some(wal.previous));
    assert_eq!(outcome.end, Some(wal.at));
    assert_eq!(outcome.stop, Stop::ZeroTail { lsn: wal.at });
    assert_eq!(outcome.header.unwrap().system_id, SystemId::new(SYSTEM_ID));
    assert!(!outcome.joined && !outcome.is_damaged());
}

#[test]
fn a_record_over_several_segments_is_joined() {
    let mut wal = Crafter::new(PgMajor::V15);
    wal.record(1, 10, 0, &[1; 100]);
    wal.record(2, 21, 0, &vec![2; 3_000_000]);
    wal.record(3, 10, 0, &[3; 100]);
    wal.switch();
    wal.record(4, 10, 0, &[4; 100]);
    let segments = wal.segments();
    assert_eq!(segments.len(), 4);
    let (records, outcomes) = scan(options(), &segments);
    assert_eq!(records, wal.records);
    assert_eq!(outcomes[0].pending.unwrap().lsn, wal.records[1].lsn);
    assert_eq!(outcomes[0].stop, Stop::SegmentEnd);
    assert_eq!(outcomes[1].records, 0);
    assert_eq!(outcomes[1].pending.unwrap().total, 3_000_029);
    assert!(matches!(outcomes[2].stop, Stop::SwitchTail { .. }));
    assert_eq!(outcomes[2].end, Some(SIZE.start_of(SegmentNumber::new(4))));
    assert!(outcomes[1..].iter().all(|outcome| outcome.joined));

    // Cold, the rest of the long record is skipped.
    let (records, outcomes) = scan(options(), &segments[1..]);
    assert_eq!(records, wal.records[2..]);
    assert!(!outcomes[0].joined);
    assert_eq!(outcomes[0].skipped_head, 1_048_576 - 40 - 127 * 24);

    // Not in order, nothing is joined.
    let (records, outcomes) = scan(options(), &[segments[0].clone(), segments[3].clone()]);
    assert_eq!(records.len(), 2);
    assert!(!outcomes[1].joined);
}

#[test]
fn an_end_of_a_transaction_that_is_cut_still_tells_when_and_whose() {
    let options = WalScannerOptions { max_kept_bytes: 10_000, ..options() };
    // Of a prepared one, the id is behind the list.
    for (xid, info, parts) in [(9, 0x80, 1 << 1), (9, 0xA0, 1 << 1), (0, 0xB0, 1 << 1 | 1 << 4)] {
        let mut main = 77i64.to_le_bytes().to_vec();
        main.extend(u32::to_le_bytes(parts));
        main.extend(50_000u32.to_le_bytes());
        main.extend(vec![3; 4 * 50_000]);
        main.extend(9u32.to_le_bytes());
        let mut wal = Crafter::new(PgMajor::V15);
        wal.record(xid, 1, info, &main);
        let (name, bytes) = wal.segment();
        let mut ends = Vec::new();
        let mut take = |record: &Record<'_>| match record.payload() {
            Ok(Payload::Commit(end)) => ends.push((true, end.time.get(), end.xid.get(), end.is_cut)),
            Ok(Payload::Abort(end)) => ends.push((false, end.time.get(), end.xid.get(), end.is_cut)),
            _ => {}
        };
        WalScanner::new(options).scan_segment(name, &bytes, &mut take).unwrap();
        let expected = (xid != 0).then_some((info == 0x80, 77, 9, true));
        assert_eq!(ends, Vec::from_iter(expected));
    }
}

#[test]
fn only_the_beginning_of_a_very_long_record_is_kept() {
    let mut wal = Crafter::new(PgMajor::V15);
    wal.record(2, 21, 0, &vec![2; 300_000]);
    let (name, mut bytes) = wal.segment();
    let options = WalScannerOptions { max_kept_bytes: 10_000, ..options() };
    let mut lengths = Vec::new();
    let mut take = |record: &Record<'_>| {
        assert!(!record.is_kept_whole());
        lengths.push((record.bytes().len(), record.main_data().len(), record.main_data_length()));
    };
    let outcome = WalScanner::new(options).scan_segment(name, &bytes, &mut take).unwrap();
    assert_eq!(outcome.records, 1);
    assert_eq!(lengths, [(10_000, 10_000 - 24 - 5, 300_000)]);
    // Its checksum covers what is not kept.
    bytes[200_000] ^= 1;
    let outcome = WalScanner::new(options).scan_segment(name, &bytes, |_| {}).unwrap();
    assert!(matches!(fault(&outcome), Fault::Checksum { .. }));
}

#[test]
fn a_length_that_lies_costs_nothing() {
    let wal = some_wal();
    let mut lie = encode(wal.previous, 1, 10, 0, &[]);
    lie[..4].copy_from_slice(&0x3FFF_0000u32.to_le_bytes());
    let offset = usize::try_from(SIZE.offset_in_segment(wal.at)).unwrap();
    let (name, mut bytes) = wal.segment();
    bytes[offset..offset + 24].copy_from_slice(&lie);
    let mut scanner = WalScanner::new(options());
    let outcome = scanner.scan_segment(name, &bytes, |_| {}).unwrap();
    assert_eq!(outcome.stop, Stop::ZeroTail { lsn: Lsn::new(wal.at.get().next_multiple_of(PAGE as u64)) });
    assert_eq!(outcome.pending.unwrap().lsn, wal.at);
    assert!(scanner.assembly.take_bytes().capacity() <= 8 * PAGE);
}

#[test]
fn a_cut_off_record_is_not_damage() {
    let mut wal = Crafter::new(PgMajor::V17);
    wal.record(1, 10, 0, &[1; 100]);
    let cut = wal.cut_off_record(30_000, 20_000);
    let next = wal.record(0, 0, 0xD0, &[0; 16]);
    wal.record(2, 10, 0, &[1; 100]);
    let (name, bytes) = wal.segment();
    let (records, outcome) = scan_one(options(), name, &bytes);
    assert_eq!(records, wal.records);
    let page = Lsn::new(next.get() - 24);
    assert_eq!(outcome.overwritten, [Overwritten { record: cut, page }]);
    assert!(!outcome.is_damaged());
}

#[test]
fn old_contents_of_a_file_used_again_are_not_damage() {
    let wal = some_wal();
    let (name, bytes) = wal.segment();
    let end = usize::try_from(SIZE.offset_in_segment(wal.at)).unwrap();
    // The pages behind the last one are those of an older segment.
    let mut recycled = bytes.clone();
    let next_page = end.next_multiple_of(PAGE);
    let mut old = Crafter::new(PgMajor::V18);
    old.at = SIZE.start_of(SegmentNumber::new(0));
    old.record(1, 10, 0, &vec![9; 1_040_000]);
    let (_, old) = old.segment();
    recycled[next_page..].copy_from_slice(&old[next_page..]);
    let (records, outcome) = scan_one(options(), name, &recycled);
    assert_eq!(records, wal.records);
    assert_eq!(outcome.stop, Stop::ZeroTail { lsn: wal.at });
    // And so is the rest of the last one.
    recycled[end..].copy_from_slice(&old[end..]);
    let (records, outcome) = scan_one(options(), name, &recycled);
    assert_eq!(records, wal.records);
    assert_eq!(outcome.stop, Stop::RecycledTail { lsn: wal.at });
    // A file that was only prepared.
    let (records, outcome) = scan_one(options(), name, &old);
    assert_eq!(
        (records.len(), outcome.stop),
        (0, Stop::RecycledTail { lsn: SIZE.start_of(SegmentNumber::new(1)) })
    );
}

#[test]
fn a_hole_is_damage() {
    let mut wal = Crafter::new(PgMajor::V18);
    while wal.at < Lsn::new(0x11_0000) {
        wal.record(1, 10, 0, &[5; 500]);
    }
    let (name, mut bytes) = wal.segment();
    // From within page 3 to the end of page 4.
    let hole = wal.records.iter().find(|record| record.lsn.get() > 0x10_6000 + 1000).unwrap();
    let offset = usize::try_from(SIZE.offset_in_segment(hole.lsn)).unwrap();
    bytes[offset..5 * PAGE].fill(0);
    let (_, outcome) = scan_one(options(), name, &bytes);
    let resumes_at = Lsn::new(0x10_0000 + 5 * PAGE as u64);
    assert_eq!(outcome.stop, Stop::Corrupt(Damage { lsn: hole.lsn, fault: Fault::Hole { resumes_at } }));
    let (records, outcome) = scan_one(resync(), name, &bytes);
    assert_eq!(outcome.damage.len(), 1);
    assert_eq!(outcome.damage_count, 1);
    assert!(outcome.is_damaged());
    assert_eq!(records.last(), wal.records.last());
    assert!(records.len() > wal.records.len() - 40);
}

#[test]
fn other_ends_are_told() {
    let wal = some_wal();
    let (name, bytes) = wal.segment();
    let zero = vec![0; bytes.len()];
    let start = SIZE.start_of(SegmentNumber::new(1));
    assert_eq!(scan_one(options(), name, &zero).1.stop, Stop::ZeroTail { lsn: start });
    assert_eq!(scan_one(options(), name, &[]).1.stop, Stop::Truncated { lsn: start });
    assert_eq!(
        scan_one(options(), name, &bytes[..39]).1.stop,
        Stop::Truncated { lsn: start.saturating_add(39) }
    );
    let (records, outcome) = scan_one(options(), name, &bytes[..100_001]);
    assert_eq!(outcome.stop, Stop::Truncated { lsn: start.saturating_add(100_001) });
    let whole = wal.records.iter().take_while(|record| record.end.get() <= 0x10_0000 + 100_001).count();
    assert_eq!(records, wal.records[..whole]);

    let mut wal = some_wal();
    wal.switch();
    let (name, mut bytes) = wal.segment();
    assert!(matches!(scan_one(options(), name, &bytes).1.stop, Stop::SwitchTail { .. }));
    bytes.push(0);
    assert_eq!(fault(&scan_one(options(), name, &bytes).1), &Fault::TooLong);
    let wrong: SegmentName = "000000010000000000001000".parse().unwrap();
    assert!(WalScanner::new(options()).scan_segment(wrong, &bytes, |_| {}).is_err());
    let unstarted = WalScanner::new(options()).finish_segment(|_| {});
    assert_eq!(unstarted.stop, Stop::Truncated { lsn: Lsn::INVALID });
}

#[test]
fn each_check_of_pages_and_records_is_made() {
    let wal = some_wal();
    let (name, bytes) = wal.segment();
    let second = |offset: usize| PAGE + offset;
    let with = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        let (records, outcome) = scan_one(options(), name, &bytes);
        assert!(records.len() < wal.records.len());
        assert_eq!(records, wal.records[..records.len()]);
        fault(&outcome).clone()
    };
    assert!(matches!(with(second(0), &[0x17]), Fault::PageHeader(Error::UnknownPageMagic { .. })));
    assert!(matches!(with(second(3), &[1]), Fault::PageHeader(Error::ImpossibleValue { .. })));
    assert_eq!(with(second(0), &[0x16]), Fault::PageMajor { found: 17 });
    assert_eq!(with(second(2), &[3]), Fault::PageHeaderLength);
    assert_eq!(with(second(2), &[0]), Fault::MissingContinuation);
    assert_eq!(with(second(4), &[2]), Fault::PageTimeline { found: TimelineId::new(2).unwrap() });
    assert_eq!(with(second(14), &[1]), Fault::PageAddress { found: Lsn::new(0x1_0000_0010_2000) });
    assert!(matches!(with(second(16), &[0, 0]), Fault::ContinuationLength { found: 0, .. }));
    assert!(matches!(with(32, &[0, 0, 0, 1]), Fault::SegmentSize { found: 0x100_0000 }));

    // The second record begins at 40 + 24, and has 211 bytes of main data.
    let at = 64;
    assert!(matches!(with(at + 30, &[9]), Fault::Checksum { .. }));
    assert!(matches!(with(at + 16, &[9]), Fault::Checksum { .. }));
    assert_eq!(with(at + 17, &[99]), Fault::ResourceManager { found: 99 });
    assert_eq!(with(at, &[23, 0, 0, 0]), Fault::RecordLength { found: 23 });
    let expected = wal.records[0].lsn;
    assert_eq!(with(at + 8, &[0, 0, 0, 0]), Fault::PreviousRecord { expected, found: Lsn::INVALID });
    assert_eq!(with(40 + 14, &[1]), Fault::PreviousRecord { expected, found: Lsn::new(0x1_0000_000F_FF00) });
}

#[test]
fn another_servers_segment_is_not_read_at_all() {
    let wal = some_wal();
    let (name, bytes) = wal.segment();
    for options in [
        WalScannerOptions { system_id: Some(SystemId::new(1)), ..resync() },
        WalScannerOptions { major: Some(PgMajor::V17), ..resync() },
        WalScannerOptions { segment_size: WalSegmentSize::new(2 << 20).unwrap(), ..resync() },
    ] {
        let name = SegmentName::new(name.timeline(), 0, u32::from(options.segment_size == SIZE));
        let (records, outcome) = scan_one(options, name, &bytes);
        assert_eq!(records, []);
        assert!(matches!(
            fault(&outcome),
            Fault::SystemIdentifier { .. } | Fault::PageMajor { .. } | Fault::SegmentSize { .. }
        ));
    }
    let known = WalScannerOptions {
        system_id: Some(SystemId::new(SYSTEM_ID)),
        major: Some(PgMajor::V18),
        ..options()
    };
    assert_eq!(scan_one(known, name, &bytes).0, wal.records);
    // Of a newer timeline's segment, pages before the fork are of the older one.
    let newer = SegmentName::new(TimelineId::new(5).unwrap(), 0, 1);
    assert_eq!(scan_one(known, newer, &bytes).0, wal.records);
}

#[test]
fn parts_that_do_not_add_up_are_damage() {
    // Every body has a right checksum.
    let bodies: [&[u8]; 9] = [
        &[255, 4, 1, 2, 3],
        &[255, 2, 1, 2, 3],
        &[254, 0xFF, 0xFF, 0xFF, 0xFF],
        &[33, 0, 0, 0],
        &[0, 0x20, 0, 0],
        &[0, 0x80, 0, 0, 1, 0, 0, 0],
        &[0, 0x05, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[0, 0x10, 0, 0, 5, 0, 0, 0, 0x1C, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[253, 1],
    ];
    for body in bodies {
        let mut wal = Crafter::new(PgMajor::V18);
        wal.record_with_body(1, 10, 0, body);
        let (name, bytes) = wal.segment();
        let (records, outcome) = scan_one(options(), name, &bytes);
        assert_eq!(records, [], "{body:?}");
        assert!(matches!(fault(&outcome), Fault::Layout { .. }), "{body:?}");
    }
}

#[test]
fn damage_is_listed_up_to_a_limit() {
    let mut wal = Crafter::new(PgMajor::V18);
    while wal.at < Lsn::new(0x1F_0000) {
        wal.record(1, 10, 0, &[5; 500]);
    }
    let (name, mut bytes) = wal.segment();
    for page in bytes.chunks_mut(PAGE) {
        page[4000] ^= 1;
    }
    let (_, outcome) = scan_one(resync(), name, &bytes);
    assert_eq!(outcome.damage.len(), SegmentOutcome::MAX_DAMAGE);
    assert!(outcome.damage_count > 100);
}

fn wal_of(major: PgMajor, lengths: &[usize], switch_after: usize) -> Crafter {
    let mut wal = Crafter::new(major);
    for (index, &length) in lengths.iter().enumerate() {
        let number = u32::try_from(index).unwrap();
        wal.record(number, 10, 0, &vec![number.to_le_bytes()[0]; length]);
        if index == switch_after {
            wal.switch();
        }
    }
    wal
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![8 => 0usize..300, 2 => 0usize..30_000, 1 => 0usize..1_500_000];
    prop::collection::vec(length, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_in_any_pieces(
        which in 0usize..6,
        lengths in lengths(),
        switch_after in 0usize..100,
        piece in 1usize..100_000,
    ) {
        let wal = wal_of(PgMajor::ALL[which], &lengths, switch_after);
        let mut scanner = WalScanner::new(options());
        let mut records = Vec::new();
        for (name, bytes) in wal.segments() {
            scanner.begin_segment(name).unwrap();
            for piece in bytes.chunks(piece) {
                scanner.feed(piece, |record| records.push(written(record)));
            }
            let outcome = scanner.finish_segment(|record| records.push(written(record)));
            prop_assert!(!outcome.is_damaged(), "{:?}", outcome);
        }
        prop_assert_eq!(records, wal.records);
    }

    #[test]
    fn a_changed_byte_never_makes_another_record(
        lengths in lengths(),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let wal = wal_of(PgMajor::V18, &lengths, 20);
        let mut segments = wal.segments();
        let used = usize::try_from(wal.at.get() - 0x10_0000).unwrap();
        let at = at.index(used);
        segments[at >> 20].1[at & 0xF_FFFF] ^= change;
        let (records, _) = scan(options(), &segments[..=at >> 20]);
        prop_assert_eq!(&records, &wal.records[..records.len()]);

        // Going on after the damage finds nothing but records that are there.
        let (records, outcomes) = scan(resync(), &segments);
        let mut all = wal.records.iter();
        for record in &records {
            prop_assert!(all.any(|written| written == record), "{record:?}");
        }
        let foreign = outcomes.iter().any(|outcome| matches!(outcome.stop, Stop::Corrupt(_)));
        let damaged_page = Lsn::new(0x10_0000 + (at & !(PAGE - 1)) as u64);
        let behind = |record: &&Written| record.lsn > damaged_page.saturating_add(2 * PAGE as u64);
        let lost = wal.records.iter().filter(behind).count() - records.iter().filter(behind).count();
        prop_assert!(foreign || lost <= 1, "{} records lost, {:?}", lost, outcomes);
    }

    #[test]
    fn any_bytes_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..30_000),
        piece in 1usize..10_000,
    ) {
        let mut scanner = WalScanner::new(resync());
        scanner.begin_segment(SegmentName::new(TimelineId::FIRST, 0, 1)).unwrap();
        for piece in bytes.chunks(piece) {
            scanner.feed(piece, |_| {});
        }
        let _ = scanner.finish_segment(|_| {});
    }

    #[test]
    fn any_payload_is_taken_or_refused(
        which in 0usize..6,
        manager in 0u8..22,
        info: u8,
        main in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut wal = Crafter::new(PgMajor::ALL[which]);
        wal.record(1, manager, info & !if manager == 0 { 0xF0 } else { 0 }, &main);
        let (name, bytes) = wal.segment();
        let mut scanner = WalScanner::new(options());
        let outcome = scanner.scan_segment(name, &bytes, |record| drop(record.payload())).unwrap();
        prop_assert_eq!(outcome.records, 1);
    }
}
