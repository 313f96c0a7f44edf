use proptest::prelude::*;

use super::*;
use crate::segment::SegmentName;
use crate::wal::craft::{Crafter, SIZE, Written};
use crate::wal::outcome::{SegmentOutcome, Stop};
use crate::wal::scanner::{OnDamage, WalScannerOptions};
use crate::wal::{Record, decode_record};

type Kept = (Lsn, u32, u32, Vec<u8>, Option<u32>);

/// What one process leaves to the next.
#[derive(Debug, Clone, Default)]
struct Left {
    last_record: Option<Lsn>,
    pending: Option<Kept>,
}

impl Left {
    fn pending(&self) -> Option<PendingBytes<'_>> {
        self.pending.as_ref().map(|(lsn, have, total, bytes, checksum)| PendingBytes {
            lsn: *lsn,
            have: *have,
            total: *total,
            bytes,
            checksum: *checksum,
        })
    }

    fn of(scanner: &WalScanner, outcome: &SegmentOutcome, before: &Self) -> Self {
        let pending = scanner.pending_bytes();
        Self {
            last_record: outcome.last_record.or(before.last_record),
            pending: pending.map(|pending| {
                (pending.lsn, pending.have, pending.total, pending.bytes.to_vec(), pending.checksum)
            }),
        }
    }
}

fn options() -> WalScannerOptions {
    WalScannerOptions { on_damage: OnDamage::Resync, max_head_bytes: 1 << 20, ..WalScannerOptions::new(SIZE) }
}

fn written(record: &Record<'_>) -> Written {
    Written { lsn: record.lsn, end: record.end, bytes: record.bytes().to_vec() }
}

/// Scans a segment in pieces, by a scanner of its own that goes on with what was left.
fn scan_next(
    options: WalScannerOptions,
    left: &Left,
    (name, bytes): &(SegmentName, Vec<u8>),
    piece: usize,
) -> (Vec<Written>, SegmentOutcome, Left, Vec<u8>) {
    let mut scanner = WalScanner::new(options);
    scanner.resume(name.id(SIZE).unwrap().number, left.last_record, left.pending());
    let mut records = Vec::new();
    scanner.begin_segment(*name).unwrap();
    for piece in bytes.chunks(piece) {
        scanner.feed(piece, |record| records.push(written(record)));
    }
    let outcome = scanner.finish_segment(|record| records.push(written(record)));
    let left = Left::of(&scanner, &outcome, left);
    (records, outcome, left, scanner.head_bytes().to_vec())
}

/// Two segments with a record over their border, and a record before it and behind it.
fn two_segments() -> (Crafter, Vec<(SegmentName, Vec<u8>)>) {
    let mut wal = Crafter::new(PgMajor::V17);
    wal.record(1, 10, 0, &vec![1; 1_000_000]);
    wal.record(2, 10, 0, &[2; 500]);
    wal.record(3, 21, 0, &vec![3; 80_000]);
    wal.record(4, 10, 0, &[4; 500]);
    let segments = wal.segments();
    assert_eq!(segments.len(), 2);
    (wal, segments)
}

fn left_by_first(segments: &[(SegmentName, Vec<u8>)]) -> Left {
    scan_next(options(), &Left::default(), &segments[0], usize::MAX).2
}

#[test]
fn what_was_left_joins_the_next_segment() {
    let (wal, segments) = two_segments();
    let left = left_by_first(&segments);
    assert_eq!(left.last_record, Some(wal.records[1].lsn));
    let pending = left.pending().unwrap();
    assert_eq!((pending.lsn, pending.total), (wal.records[2].lsn, 80_029));
    assert_eq!(pending.bytes, &wal.records[2].bytes[..pending.have as usize]);
    let (records, outcome, left, head) = scan_next(options(), &left, &segments[1], 1000);
    assert_eq!(records, wal.records[2..]);
    assert!(outcome.joined);
    assert_eq!((outcome.head, outcome.skipped_head, head.len()), (0, 0, 0));
    assert!(left.pending.is_none());
}

#[test]
fn the_head_of_a_segment_begun_cold_completes_the_record() {
    let (wal, segments) = two_segments();
    let left = left_by_first(&segments);
    let (records, outcome, _, head) = scan_next(options(), &Left::default(), &segments[1], 1000);
    assert_eq!(records, wal.records[3..]);
    assert!(!outcome.joined);
    assert_eq!((outcome.head, outcome.head as usize), (outcome.skipped_head, head.len()));
    let pending = left.pending().unwrap();
    assert_eq!(pending.have + outcome.head, pending.total);
    let mut bytes = [pending.bytes, &head].concat();
    let mut found = Vec::new();
    let decode = |bytes: &[u8], found: &mut Vec<Written>| {
        decode_record((pending.lsn, segments[0].0.timeline()), bytes, PgMajor::V17, SIZE, |record| {
            found.push(written(record));
        })
    };
    assert_eq!(decode(&bytes, &mut found), Ok(()));
    assert_eq!(found, wal.records[2..3]);
    assert!(matches!(decode(&bytes[..80_000], &mut found), Err(Fault::RecordLength { found: 80_029 })));
    bytes[70_000] ^= 1;
    assert!(matches!(decode(&bytes, &mut found), Err(Fault::Checksum { .. })));
    assert_eq!(found.len(), 1);

    // No more of it is kept than was asked for.
    let few = WalScannerOptions { max_head_bytes: 1000, ..options() };
    let (_, outcome, _, few) = scan_next(few, &Left::default(), &segments[1], 1000);
    assert_eq!((few.as_slice(), outcome.head as usize), (&head[..1000], head.len()));
}

#[test]
fn what_does_not_agree_costs_the_segment_nothing() {
    let (wal, segments) = two_segments();
    let good = left_by_first(&segments);
    let (_, cold, _, cold_head) = scan_next(options(), &Left::default(), &segments[1], 4096);
    let with = |change: &dyn Fn(&mut Kept)| {
        let mut left = good.clone();
        change(left.pending.as_mut().unwrap());
        left
    };
    let before = |left: &Left, last_record| Left { last_record, ..left.clone() };
    let none = Left { pending: None, ..good.clone() };
    let second = Some(wal.records[0].lsn);
    let lefts = [
        // Nothing, or nothing that can be.
        before(&none, None),
        with(&|pending| pending.0 = SIZE.start_of(SegmentNumber::new(2))),
        with(&|pending| pending.1 = 0),
        with(&|pending| pending.1 = pending.2),
        with(&|pending| pending.2 = u32::MAX),
        before(&good, Some(good.pending.as_ref().unwrap().0)),
        // The first page tells.
        none.clone(),
        with(&|pending| pending.2 += 1),
        with(&|pending| {
            pending.3.pop();
            pending.1 -= 1;
        }),
        // The joined record tells.
        with(&|pending| pending.3[20] ^= 1),
        with(&|pending| pending.3[100] ^= 1),
        with(&|pending| pending.3[0] ^= 1),
        before(&good, second),
        // Not all of it was kept, and no checksum of the rest.
        with(&|pending| {
            pending.3.truncate(100);
            pending.4 = None;
        }),
        with(&|pending| pending.3.truncate(10)),
    ];
    for left in lefts {
        for piece in [usize::MAX, 777] {
            let (records, outcome, _, head) = scan_next(options(), &left, &segments[1], piece);
            assert_eq!(records, wal.records[3..], "{left:?}");
            assert_eq!(outcome, cold);
            assert_eq!(head, cold_head);
        }
    }
}

#[test]
fn the_first_records_link_is_checked() {
    let mut wal = Crafter::new(PgMajor::V14);
    wal.record(1, 10, 0, &[1; 1000]);
    let first = wal.switch();
    wal.record(2, 10, 0, &[2; 500]);
    wal.record(3, 10, 0, &[2; 500]);
    let segments = wal.segments();
    let left = left_by_first(&segments);
    assert_eq!((left.last_record, left.pending()), (Some(first), None));
    let (records, outcome, ..) = scan_next(options(), &left, &segments[1], 100);
    assert_eq!((records.as_slice(), outcome.joined), (&wal.records[2..], true));
    let wrong = Left { last_record: Some(wal.records[0].lsn), pending: None };
    let (records, outcome, ..) = scan_next(options(), &wrong, &segments[1], 100);
    assert_eq!((records.as_slice(), outcome.joined), (&wal.records[2..], false));
    assert!(!outcome.is_damaged());
    // Where a record should go on, but none does.
    let wrong = Left { pending: Some((first, 24, 100, vec![0; 24], None)), ..wrong };
    let (records, outcome, ..) = scan_next(options(), &wrong, &segments[1], 100);
    assert_eq!((records.as_slice(), outcome.joined), (&wal.records[2..], false));
    assert!(!outcome.is_damaged());
    // Damage of the segment itself stays damage.
    let mut damaged = segments[1].clone();
    damaged.1[300] ^= 1;
    let (records, outcome, ..) = scan_next(options(), &left, &damaged, 100);
    assert_eq!((records.as_slice(), outcome.joined), (&wal.records[3..], true));
    assert_eq!(outcome.damage_count, 1);
}

#[test]
fn a_cut_off_record_at_the_border() {
    let mut wal = Crafter::new(PgMajor::V18);
    wal.record(1, 10, 0, &vec![1; 1_040_000]);
    let last = wal.record(1, 10, 0, &[]);
    let lost = wal.cut_off_record(8_000, 6_000);
    let page = wal.at;
    wal.record(0, 0, 0xD0, &[0; 16]);
    assert_eq!(page, SIZE.start_of(SegmentNumber::new(2)).saturating_add(40));
    let segments = wal.segments();
    let left = left_by_first(&segments);
    assert_eq!((left.last_record, left.pending().map(|pending| pending.lsn)), (Some(last), Some(lost)));
    let (records, outcome, ..) = scan_next(options(), &left, &segments[1], 100);
    assert_eq!((records.len(), outcome.joined, outcome.overwritten.len()), (1, true, 1));
    let wrong = Left { last_record: Some(Lsn::new(0x10_0008)), ..left };
    let (records, outcome, ..) = scan_next(options(), &wrong, &segments[1], 100);
    assert_eq!((records.len(), outcome.joined, outcome.overwritten.len()), (1, false, 0));
    assert!(!outcome.is_damaged());
}

#[test]
fn a_record_of_which_only_the_beginning_was_kept_is_still_checked() {
    let (wal, segments) = two_segments();
    let few = WalScannerOptions { max_kept_bytes: 4096, ..options() };
    let left = scan_next(few, &Left::default(), &segments[0], 100).2;
    let pending = left.pending().unwrap();
    assert!(pending.have > 4096);
    assert_eq!(pending.bytes.len(), 4096);
    let (records, outcome, ..) = scan_next(few, &left, &segments[1], 100);
    assert!(outcome.joined);
    assert_eq!(records[0].bytes, wal.records[2].bytes[..4096]);
    // Also when this process would keep more.
    let (records, outcome, ..) = scan_next(options(), &left, &segments[1], 100);
    assert!(outcome.joined);
    assert_eq!(records[0].bytes, wal.records[2].bytes[..4096]);
    // Wrong bytes among those not kept are found.
    let mut wrong = left.clone();
    wrong.pending.as_mut().unwrap().4 = Some(1);
    let (records, outcome, ..) = scan_next(few, &wrong, &segments[1], 100);
    assert_eq!((records.len(), outcome.joined), (1, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_process_per_segment_reads_what_one_scanner_does(
        which in 0usize..6,
        lengths in prop::collection::vec(
            prop_oneof![8 => 0usize..300, 2 => 0usize..30_000, 2 => 0usize..1_500_000], 1..40),
        switch_after in 0usize..60,
        piece in 1usize..100_000,
        keep in prop_oneof![Just(4096usize), Just(usize::MAX)],
    ) {
        let mut wal = Crafter::new(PgMajor::ALL[which]);
        for (index, &length) in lengths.iter().enumerate() {
            let number = u32::try_from(index).unwrap();
            wal.record(number, 10, 0, &vec![number.to_le_bytes()[0]; length]);
            if index == switch_after {
                wal.switch();
            }
        }
        let options = WalScannerOptions { max_kept_bytes: keep, ..options() };
        let mut scanner = WalScanner::new(options);
        let mut left = Left::default();
        for segment in wal.segments() {
            let mut expected = Vec::new();
            let whole = scanner.scan_segment(segment.0, &segment.1, |record| expected.push(written(record))).unwrap();
            let (records, outcome, next, _) = scan_next(options, &left, &segment, piece);
            prop_assert_eq!(records, expected);
            prop_assert_eq!(&outcome, &whole);
            prop_assert_eq!(next.pending(), scanner.pending_bytes());
            left = next;
        }
    }

    #[test]
    fn any_state_left_costs_the_segment_nothing(
        lengths in prop::collection::vec(
            prop_oneof![4 => 0usize..300, 4 => 0usize..300_000, 1 => 0usize..1_500_000], 20..40),
        piece in 1usize..100_000,
        noise in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
        last_record in prop::option::of(any::<prop::sample::Index>()),
        (forget_pending, grow, cut) in (any::<bool>(), -2i64..3, 0usize..3),
        damage in prop::option::of((any::<prop::sample::Index>(), 1u8..)),
    ) {
        let mut wal = Crafter::new(PgMajor::V16);
        for &length in &lengths {
            wal.record(1, 10, 0, &vec![1; length]);
        }
        let mut segments = wal.segments();
        prop_assume!(segments.len() > 1);
        if let Some((at, change)) = damage {
            segments[1].1[at.index(100_000)] ^= change;
        }
        let mut left = left_by_first(&segments);
        if let Some(index) = last_record {
            left.last_record = Some(wal.records[index.index(wal.records.len())].lsn);
        }
        if let Some((_, have, total, bytes, checksum)) = &mut left.pending {
            for (at, byte) in noise {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            *checksum = None;
            *have = u32::try_from(i64::from(*have) + grow).unwrap_or(0);
            *total = u32::try_from(i64::from(*total) + grow).unwrap_or(0);
        }
        if forget_pending {
            left.pending = None;
        }
        let (cold, cold_outcome, ..) = scan_next(options(), &Left::default(), &segments[1], usize::MAX);
        let (records, outcome, ..) = scan_next(options(), &left, &segments[1], piece);
        prop_assert!(damage.is_some() || !outcome.is_damaged(), "{:?}", outcome);
        prop_assert!(records.ends_with(&cold));
        if outcome.joined {
            // A segment within one record has none.
            let all = wal.records.windows(records.len().max(1));
            prop_assert!(damage.is_some() || records.is_empty() || all.into_iter().any(|window| window == records));
        } else {
            prop_assert_eq!(outcome, cold_outcome);
        }
    }

    #[test]
    fn any_fragments_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), lsn: u64) {
        let timeline = crate::TimelineId::FIRST;
        let _ = decode_record((Lsn::new(lsn), timeline), &bytes, PgMajor::V18, SIZE, |_| {});
    }
}

#[test]
fn nothing_pending_where_the_wal_ends() {
    let mut wal = Crafter::new(PgMajor::V18);
    wal.record(1, 10, 0, &[1; 100]);
    let (name, bytes) = wal.segment();
    let mut scanner = WalScanner::new(options());
    let outcome = scanner.scan_segment(name, &bytes, |_| {}).unwrap();
    assert!(matches!(outcome.stop, Stop::ZeroTail { .. }));
    assert_eq!(scanner.pending_bytes(), None);
}
