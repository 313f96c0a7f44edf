//! What a listing shows of the WAL that backups waited for, and of packs that were written anew.

use jiff::Timestamp;
use walden_core::{CatalogSnapshot, ServerLayout, Subject, VerifyLevel};
use walden_store::Listed;
use walden_testkit::million;

use super::*;

/// The first segment of the backup, which ends three segments later.
const START: u64 = 100;

fn layout() -> IncarnationLayout {
    let record = million::record();
    ServerLayout::new(record.server.clone()).incarnation(record.incarnation())
}

fn backup() -> BackupRecord {
    let size = million::segment_size();
    let at = |number: u64, offset: u64| size.start_of(SegmentNumber::new(number)).saturating_add(offset);
    BackupRecord {
        start_lsn: at(START, 40),
        checkpoint_lsn: at(START, 40),
        stop_lsn: at(START + 3, 80),
        packs: 1,
        ..million::backup(0)
    }
}

/// An archive with a backup and these segments.
fn listing(segments: impl IntoIterator<Item = u64>, now: Timestamp) -> Listing {
    let record = million::record();
    let mut listing = Listing::empty(CatalogSnapshot::new(record));
    let (layout, backup) = (layout(), backup());
    let mut add = |key: String, bytes: u64| listing.add(&layout, &Listed { key, bytes, modified: now });
    add(layout.marker().to_string(), 100);
    for number in segments {
        let id = SegmentId::new(backup.timeline, SegmentNumber::new(number));
        let name = walden_pg::ArchiveFileName::Segment(id.name(million::segment_size()));
        add(layout.archive_file(name).to_string(), 1000);
    }
    let at = layout.backup(&backup.id);
    add(at.commit().to_string(), 100);
    add(at.manifest().to_string(), backup.manifest.object_bytes);
    add(at.pack(0).to_string(), backup.stored_bytes - backup.manifest.object_bytes);
    listing.snapshot.backups.push(backup);
    listing
}

fn harm(segments: impl IntoIterator<Item = u64>, wal: WalScope) -> (Vec<(u64, u64)>, usize) {
    let now = Timestamp::UNIX_EPOCH;
    let scope = VerifyScope { wal, ..VerifyScope::everything() };
    let (findings, losses) = presence(&layout(), &listing(segments, now), &scope, now);
    let missing = losses.missing.iter().map(|(first, count)| (first.number.get(), *count)).collect();
    (missing, findings.iter().filter(|finding| finding.is_harm()).count())
}

#[test]
fn the_wal_of_a_backup_is_missed_wherever_it_is_missing() {
    let whole = START..=START + 9;
    assert_eq!(harm(whole.clone(), WalScope::All), (vec![], 0));
    assert_eq!(harm(START..=START + 3, WalScope::All), (vec![], 0));
    assert_eq!(harm(START - 5..=START + 3, WalScope::All), (vec![], 0));
    // Before the first segment, behind the last, all of it, and in the middle, where it is told once and is not late.
    assert_eq!(harm(START + 2..=START + 9, WalScope::All), (vec![(START, 2)], 1));
    assert_eq!(harm(START - 5..=START + 1, WalScope::All), (vec![(START + 2, 2)], 1));
    assert_eq!(harm([], WalScope::All), (vec![(START, 4)], 1));
    assert_eq!(harm(whole.filter(|number| *number != START + 1), WalScope::All), (vec![(START + 1, 1)], 1));
    assert_eq!(harm([], WalScope::None), (vec![], 0));
    let elsewhere = (backup().timeline, SegmentNumber::new(1), SegmentNumber::new(START - 1));
    assert_eq!(harm([], WalScope::Ranges(vec![elsewhere])), (vec![], 0));
}

#[test]
fn a_pack_that_was_written_anew_leaves_no_part_proven() {
    let parts = |listing: &Listing| -> Vec<u64> {
        let objects = listing.inventory(&layout(), VerifyLevel::Deep).objects;
        let parts = objects.iter().filter(|object| matches!(object.subject, Subject::Part(..)));
        parts.map(|part| part.fingerprint).collect()
    };
    let now = Timestamp::UNIX_EPOCH;
    let (mut before, after) = (listing([], now), listing([], now));
    assert_eq!(parts(&before), parts(&after));
    let pack = layout().backup(&backup().id).pack(0).to_string();
    let bytes = backup().stored_bytes - backup().manifest.object_bytes;
    let modified = now + std::time::Duration::from_secs(1);
    before.add(&layout(), &Listed { key: pack, bytes, modified });
    let pairs: Vec<(u64, u64)> = parts(&before).into_iter().zip(parts(&after)).collect();
    assert!(!pairs.is_empty() && pairs.iter().all(|(before, after)| before != after));
}
