//! Damaged segments, and bytes that are no WAL at all.

use proptest::prelude::*;
use walden_core::index::{SegmentIndexer, WalFlags};
use walden_pg::{PgMajor, SegmentName, TimelineId};

use crate::archive;

#[test]
fn damage_is_told_and_does_not_end_the_index() {
    let (server, dir) = archive::server(PgMajor::V15, "replica").expect("a server; run `cargo xtask setup`");
    server.execute("CREATE TABLE t (i int)").expect("a table");
    server.execute("INSERT INTO t SELECT g FROM generate_series(1, 40000) g").expect("rows");
    server.execute("DELETE FROM t").expect("rows");
    server.archive_current_segment().expect("a segment");
    let mut segments = archive::segments(&dir);
    let whole = archive::index_all(&segments);
    let place = segments.len() / 2;
    // In the middle of a page in the middle of the segment.
    let at = segments[place].1.len() / 2 + 4001;
    segments[place].1[at] ^= 0x10;
    let damaged = archive::index_all(&segments);
    for (number, (whole, damaged)) in whole.iter().zip(&damaged).enumerate() {
        let is_damaged = damaged.summary.facts.flags.any(WalFlags::DAMAGED);
        assert_eq!((is_damaged, damaged.damage_count > 0), (number == place, number == place), "{number}");
        assert_eq!(damaged.summary.wal_end, whole.summary.wal_end, "{number}");
    }
    // Of transactions that were under way, something may be missing.
    assert_ne!(damaged[place].carry.complete_from, whole[place].carry.complete_from);
    let lsn = damaged[place].damage.first().expect("a place").lsn;
    let start = damaged[place].segment.start_lsn(archive::SIZE).expect("a name of this size");
    assert!(lsn.get() > start.get() && lsn.get() <= start.get() + at as u64, "{lsn}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_have_an_index(bytes in proptest::collection::vec(any::<u8>(), 0..30_000), piece in 1usize..9000) {
        let name = SegmentName::new(TimelineId::FIRST, 0, 3);
        let mut indexer = SegmentIndexer::new(archive::options(), name, None).expect("a name of this size");
        bytes.chunks(piece).for_each(|piece| indexer.feed(piece));
        let index = indexer.finish();
        let wrong = WalFlags::DAMAGED.with(WalFlags::ENDS_EARLY);
        prop_assert!(index.summary.facts.flags.any(wrong));
        prop_assert_eq!(index.carry.next, None);
    }
}
