//! What crosses the border of two segments, or breaks there, in WAL that was written for it.

use walden_core::index::{
    EventKind, IndexerOptions, LogSummary, RollupEntry, SegmentIndex, SegmentIndexer, WalFlags,
    resolve_border,
};
use walden_pg::wal::{OnDamage, Stop, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, PgMajor, PgTimestamp, SegmentName, SegmentNumber, WalSegmentSize, Xid};

use crate::craft::{Crafter, SIZE};

type Segment = (SegmentName, Vec<u8>);

const TIME: i64 = 5_000_000;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;

fn index_with(size: WalSegmentSize, segment: &Segment, previous: Option<&SegmentIndex>) -> SegmentIndex {
    let mut indexer = SegmentIndexer::new(IndexerOptions::new(size), segment.0, previous).expect("a name");
    indexer.feed(&segment.1);
    let index = indexer.finish();
    assert_eq!(SegmentIndex::decode(&index.encode()).expect("its own bytes"), index);
    index
}

fn index(segment: &Segment, previous: Option<&SegmentIndex>) -> SegmentIndex {
    index_with(SIZE, segment, previous)
}

/// The second index without its writer's memory, and whether both together tell of the border.
fn resolved(previous: &SegmentIndex, segment: &Segment) -> (bool, SegmentIndex) {
    let mut alone = index(segment, None);
    assert!(!alone.summary.joined);
    let joined = resolve_border(previous, &mut alone);
    assert_eq!(alone.summary.joined, joined);
    (joined, alone)
}

/// A commit with so many subtransactions.
fn commit(crafter: &mut Crafter, xid: u32, subxacts: u32) -> Lsn {
    let mut main = TIME.to_le_bytes().to_vec();
    main.extend(HAS_SUBXACTS.to_le_bytes());
    main.extend(subxacts.to_le_bytes());
    (0..subxacts).for_each(|place| main.extend((xid + 1 + place).to_le_bytes()));
    crafter.record(xid, 1, 0x80, &main)
}

/// Fills the segment until about so many bytes are left.
fn fill_to(crafter: &mut Crafter, left: u64) {
    loop {
        let end = SIZE.end_of(SIZE.segment_of(crafter.at)).get();
        let room = end - crafter.at.get();
        if room <= left + 4096 {
            break;
        }
        let length = (room - left - 2048).min(3000);
        crafter.record(0, 0, 0x20, &vec![0; usize::try_from(length).expect("a small number")]);
    }
}

fn directory_is_incomplete(indexes: &[&SegmentIndex]) -> bool {
    let entries: Vec<RollupEntry> = indexes
        .iter()
        .map(|index| RollupEntry {
            number: index.segment.id(SIZE).expect("a name").number,
            object_bytes: 1,
            index_bytes: 1,
            summary: Some(index.summary),
        })
        .collect();
    LogSummary::of(0, &entries).incomplete
}

#[test]
fn a_commit_of_which_more_than_is_kept_is_before_the_border_is_not_called_joined() {
    for invalidations in [false, true] {
        let mut crafter = Crafter::new(PgMajor::V17);
        fill_to(&mut crafter, 100_000);
        if invalidations {
            // As of a schema with some hundred tables that is dropped.
            let mut main = TIME.to_le_bytes().to_vec();
            main.extend(HAS_INVALIDATIONS.to_le_bytes());
            main.extend(7000u32.to_le_bytes());
            main.extend(vec![0; 7000 * 16]);
            crafter.record(1000, 1, 0x80, &main);
        } else {
            commit(&mut crafter, 1000, 40_000);
        }
        crafter.record(0, 0, 0x20, &[]);
        crafter.record(7, 1, 0, &(TIME + 1).to_le_bytes());
        let segments = crafter.segments();
        let one = index(&segments[0], None);
        assert!(one.summary.straddler.expect("a record goes on").matters);
        assert!(
            one.carry.pending.as_ref().is_some_and(|pending| pending.have as usize > pending.bytes.len())
        );
        let two = index(&segments[1], Some(&one));
        assert!(!two.summary.joined);
        // Its own records are there.
        assert_eq!(two.summary.facts.commits, 1);
        assert!(directory_is_incomplete(&[&one, &two]));
        let (joined, _) = resolved(&one, &segments[1]);
        assert!(!joined);
    }
}

#[test]
fn a_record_that_cannot_matter_is_joined_whatever_its_length() {
    let mut crafter = Crafter::new(PgMajor::V17);
    fill_to(&mut crafter, 100_000);
    // A message for logical decoding.
    crafter.record(9, 21, 0, &vec![7; 200_000]);
    commit(&mut crafter, 1000, 3);
    let segments = crafter.segments();
    let one = index(&segments[0], None);
    let two = index(&segments[1], Some(&one));
    assert!(two.summary.joined);
    assert_eq!(two.summary.facts.commits, 1);
    assert!(!two.summary.facts.flags.any(WalFlags::NOT_UNDERSTOOD));
}

#[test]
fn a_commit_that_fits_is_joined_with_and_without_memory() {
    let mut crafter = Crafter::new(PgMajor::V17);
    fill_to(&mut crafter, 20_000);
    let lsn = commit(&mut crafter, 1000, 10_000);
    crafter.record(0, 0, 0x20, &[]);
    let segments = crafter.segments();
    let one = index(&segments[0], None);
    let two = index(&segments[1], Some(&one));
    let (joined, alone) = resolved(&one, &segments[1]);
    assert!(two.summary.joined && joined);
    assert_eq!(two.summary, alone.summary);
    assert_eq!(two.first_record, alone.first_record);
    assert_eq!(alone.summary.facts.last_commit.map(|mark| (mark.lsn, mark.xid)), Some((lsn, Xid::new(1000))));
}

#[test]
fn a_commit_longer_than_the_indexer_keeps_tells_its_time_and_transaction() {
    let mut crafter = Crafter::of_size(WalSegmentSize::DEFAULT, PgMajor::V17);
    crafter.record(0, 0, 0x20, &[]);
    let lsn = commit(&mut crafter, 1000, 2_200_000);
    crafter.record(0, 0, 0x20, &[]);
    let index = in_one_segment(&crafter);
    let mark = index.summary.facts.last_commit.expect("the commit");
    assert_eq!((mark.lsn, mark.xid, mark.time), (lsn, Xid::new(1000), PgTimestamp::new(TIME)));
    assert!(index.summary.facts.flags.any(WalFlags::EVENTS_LEFT_OUT));
    assert!(!index.summary.facts.flags.any(WalFlags::NOT_UNDERSTOOD));
}

#[test]
fn a_prepared_commit_longer_than_the_indexer_keeps_makes_one_look_inside() {
    let mut crafter = Crafter::of_size(WalSegmentSize::DEFAULT, PgMajor::V17);
    crafter.record(0, 0, 0x20, &[]);
    let mut main = TIME.to_le_bytes().to_vec();
    main.extend((HAS_SUBXACTS | HAS_TWO_PHASE).to_le_bytes());
    main.extend(2_200_000u32.to_le_bytes());
    main.extend(vec![0; 4 * 2_200_000]);
    main.extend(1000u32.to_le_bytes());
    crafter.record(0, 1, 0x80 | 0x30, &main);
    crafter.record(0, 0, 0x20, &[]);
    let index = in_one_segment(&crafter);
    assert_eq!(index.summary.facts.commits, 0);
    assert!(index.summary.facts.flags.any(WalFlags::NOT_UNDERSTOOD));
}

/// The index of all that was written, which is in one segment of 16 MiB.
fn in_one_segment(crafter: &Crafter) -> SegmentIndex {
    let segments = crafter.segments();
    assert_eq!(segments.len(), 1);
    index_with(WalSegmentSize::DEFAULT, &segments[0], None)
}

#[test]
fn the_first_record_of_a_joined_segment_links_to_the_last_one_before() {
    let mut crafter = Crafter::new(PgMajor::V17);
    crafter.record(0, 0, 0x20, &[]);
    let last = crafter.switch();
    crafter.record(7, 1, 0, &TIME.to_le_bytes());
    let segments = crafter.segments();
    let one = index(&segments[0], None);
    let two = index(&segments[1], Some(&one));
    assert!(two.summary.joined);
    assert_eq!(two.first_record.map(|first| first.previous), Some(last));
    let (joined, _) = resolved(&one, &segments[1]);
    assert!(joined);
    // Of the first segment nobody knows what came before.
    assert!(!one.summary.joined);
}

#[test]
fn a_broken_link_at_a_border_is_never_joined() {
    for previous in [Lsn::INVALID, Lsn::new(0x12345)] {
        let mut crafter = Crafter::new(PgMajor::V17);
        crafter.record(0, 0, 0x20, &[]);
        crafter.switch();
        // As after pg_resetwal.
        crafter.jump(2, previous);
        crafter.record(7, 1, 0, &TIME.to_le_bytes());
        crafter.switch();
        check_break(&crafter.segments());
    }
}

#[test]
fn a_record_that_goes_on_nowhere_is_a_break() {
    let mut crafter = Crafter::new(PgMajor::V17);
    fill_to(&mut crafter, 3000);
    let lsn = commit(&mut crafter, 1000, 2000);
    // Even if the next record links to the one that is cut off, or the one before it.
    for previous in [Lsn::INVALID, lsn] {
        let mut other = Crafter::new(PgMajor::V17);
        other.jump(2, previous);
        other.record(7, 1, 0, &TIME.to_le_bytes());
        other.switch();
        let mut segments = crafter.segments();
        segments.truncate(1);
        segments.extend(other.segments());
        check_break(&segments);
    }
}

#[test]
fn a_record_that_a_crash_cut_off_is_no_break() {
    let mut crafter = Crafter::new(PgMajor::V17);
    fill_to(&mut crafter, 3000);
    let lost = crafter.cut_off_record(9000, 7000);
    let mut main = lost.get().to_le_bytes().to_vec();
    main.extend(TIME.to_le_bytes());
    crafter.record(0, 0, 0xD0, &main);
    crafter.record(7, 1, 0, &TIME.to_le_bytes());
    let segments = crafter.segments();
    assert_eq!(segments.len(), 2);
    let one = index(&segments[0], None);
    let two = index(&segments[1], Some(&one));
    assert!(two.summary.joined);
    assert!(two.events.iter().any(|event| event.kind == EventKind::OverwrittenRecord(lost)));
    let (joined, alone) = resolved(&one, &segments[1]);
    assert!(joined, "{:?} {:?}", alone.events, one.carry);
}

/// Two segments of which the second does not follow the first.
fn check_break(segments: &[Segment]) {
    assert_eq!(segments.len(), 2);
    let one = index(&segments[0], None);
    let two = index(&segments[1], Some(&one));
    assert!(!two.summary.joined);
    assert!(directory_is_incomplete(&[&one, &two]));
    let mut mended = two;
    assert!(!resolve_border(&one, &mut mended));
    let (joined, _) = resolved(&one, &segments[1]);
    assert!(!joined);
    // Whoever reads both, as recovery does, sees it.
    let options = WalScannerOptions { on_damage: OnDamage::Resync, ..WalScannerOptions::new(SIZE) };
    let mut scanner = WalScanner::new(options);
    let mut scan = |segment: &Segment| scanner.scan_segment(segment.0, &segment.1, |_| {}).expect("a name");
    scan(&segments[0]);
    let outcome = scan(&segments[1]);
    let start = SIZE.start_of(SegmentNumber::new(2));
    let end = match &outcome.stop {
        Stop::ZeroTail { lsn } | Stop::RecycledTail { lsn } => Some(*lsn),
        Stop::Corrupt(damage) => Some(damage.lsn),
        _ => None,
    };
    let at = outcome.damage.first().map(|damage| damage.lsn).or(end);
    assert!(at.is_some_and(|at| at <= start.saturating_add(40)), "{outcome:?}");
}

#[test]
fn a_record_that_goes_through_a_segment_is_missed_by_all_three() {
    let mut crafter = Crafter::new(PgMajor::V17);
    crafter.record(0, 0, 0x20, &[]);
    commit(&mut crafter, 1000, 700_000);
    crafter.record(0, 0, 0x20, &[]);
    let segments = crafter.segments();
    assert_eq!(segments.len(), 3);
    let mut last: Option<SegmentIndex> = None;
    for segment in &segments {
        let next = index(segment, last.as_ref());
        assert!(!next.summary.joined);
        assert_eq!(next.summary.facts.commits, 0);
        last = Some(next);
    }
}
