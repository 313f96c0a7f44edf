//! What the scanner reads, in a form to compare.

use std::fs;

use walden_pg::wal::{Record, SegmentOutcome, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, RelFileLocator};

use crate::describe::facts_of;
use crate::workload::Archive;

/// A block reference: relation, fork, block, and whether there is an image.
pub(crate) type Block = (RelFileLocator, String, u32, bool);

/// One record, as both sides can tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) lsn: Lsn,
    pub(crate) previous: Lsn,
    pub(crate) xid: u32,
    pub(crate) manager: String,
    pub(crate) total_length: u32,
    pub(crate) image_length: u32,
    pub(crate) blocks: Vec<Block>,
    /// What the record says, for the kinds that the scanner decodes.
    pub(crate) facts: Option<String>,
    /// The position after it, which only one of the tools tells.
    pub(crate) end: Option<Lsn>,
}

/// Everything that was read from an archive.
pub(crate) struct Scan {
    pub(crate) records: Vec<Seen>,
    pub(crate) outcomes: Vec<SegmentOutcome>,
}

impl Scan {
    /// Scans every segment of the archive's path, whole and in odd pieces by turns.
    pub(crate) fn of(archive: &Archive) -> Self {
        let mut scanner = WalScanner::new(WalScannerOptions::new(archive.size));
        let mut records = Vec::new();
        let mut outcomes = Vec::new();
        for (index, segment) in archive.segments.iter().enumerate() {
            let bytes = fs::read(archive.dir.join(segment.to_string())).expect("read a segment");
            scanner.begin_segment(*segment).expect("a name of this size");
            let piece = if index % 2 == 0 { bytes.len() } else { 12_345 };
            for piece in bytes.chunks(piece) {
                scanner.feed(piece, |record| records.push(seen(record)));
            }
            let outcome = scanner.finish_segment(|record| records.push(seen(record)));
            assert_eq!(outcome.joined, index > 0, "{outcome:?}");
            assert!(!outcome.is_damaged(), "{outcome:?}");
            outcomes.push(outcome);
        }
        let scan = Self { records, outcomes };
        scan.compare_with_one_scanner_each(archive);
        scan
    }

    /// A scanner for each segment, which is told what the one before left, reads the same.
    fn compare_with_one_scanner_each(&self, archive: &Archive) {
        let mut before = WalScanner::new(WalScannerOptions::new(archive.size));
        let mut last_record = None;
        let mut records = self.records.iter();
        for (segment, outcome) in archive.segments.iter().zip(&self.outcomes) {
            let bytes = fs::read(archive.dir.join(segment.to_string())).expect("read a segment");
            let mut scanner = WalScanner::new(WalScannerOptions::new(archive.size));
            let number = segment.id(archive.size).expect("a name of this size").number;
            scanner.resume(number, last_record, before.pending_bytes());
            let take = |record: &Record<'_>| assert_eq!(records.next(), Some(&seen(record)));
            let resumed = scanner.scan_segment(*segment, &bytes, take).expect("a name of this size");
            assert_eq!(&resumed, outcome);
            last_record = resumed.last_record.or(last_record);
            before = scanner;
        }
        assert_eq!(records.next(), None);
    }

    /// What the records say that begin with `kind`.
    pub(crate) fn facts<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.records
            .iter()
            .filter_map(|record| record.facts.as_deref())
            .filter(move |text| text.starts_with(kind))
    }
}

fn seen(record: &Record<'_>) -> Seen {
    let blocks = record
        .blocks()
        .iter()
        .map(|block| (block.locator, block.fork.name().to_owned(), block.block, block.image.is_some()));
    Seen {
        lsn: record.lsn,
        previous: record.header.previous,
        xid: record.header.xid.get(),
        manager: record.header.manager.to_string(),
        total_length: record.header.total_length,
        image_length: u32::try_from(record.image_length()).expect("a length"),
        blocks: blocks.collect(),
        facts: facts_of(record),
        end: Some(record.end),
    }
}

/// Compares record by record, and returns how many there were. A tool that does not know every kind of
/// record may have nothing to say of some.
pub(crate) fn compare(scan: &Scan, expected: &[Seen], tool: &str, knows_every_kind: bool) -> usize {
    let mut with_facts = 0;
    for (ours, theirs) in scan.records.iter().zip(expected) {
        let mut ours = ours.clone();
        if theirs.end.is_none() {
            ours.end = None;
        }
        if theirs.facts.is_none() && !knows_every_kind {
            ours.facts = None;
        }
        assert_eq!(&ours, theirs, "the scanner (left) against {tool} (right)");
        with_facts += usize::from(ours.facts.is_some());
    }
    assert_eq!(scan.records.len(), expected.len(), "the number of records by {tool}");
    assert!(with_facts > 1000, "{with_facts} records with contents to compare");
    expected.len()
}
