//! Archives that are too large to be listed.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;
use walden_core::index::{
    Carry, CommitMark, LogSummary, RollupEntry, SegmentIndex, SegmentSummary, TimeRange, TouchedBlocks,
    WalFacts,
};
use walden_core::{
    BackupRecord, Incarnation, IncarnationEntry, IncarnationRecord, Listed, Need, ObjectKind, RecordKind,
    ServerRecord, WalIdentity, Writer, encode_envelope,
};
use walden_engine::{
    CheckStatus, RebuildRequest, check, index_rebuild, load_overview, load_snapshot, satisfy, window,
};
use walden_pg::{
    ArchiveFileName, Lsn, PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineId,
    WalSegmentSize, Xid,
};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, seal_bytes};

use super::support::Bench;

const SIZE: u64 = 64 << 20;
pub(crate) const PER_LOG: u64 = 64;
pub(crate) const FIRST: TimelineId = TimelineId::FIRST;

pub(crate) fn record() -> IncarnationRecord {
    IncarnationRecord {
        server: "main".parse().unwrap(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7),
        major: PgMajor::new(17).unwrap(),
        segment_size: WalSegmentSize::new(SIZE).unwrap(),
        created_by: Writer::new("db1", "", Timestamp::UNIX_EPOCH),
    }
}

fn summary(number: u64) -> SegmentSummary {
    let size = record().segment_size;
    let (start, end) = (size.start_of(SegmentNumber::new(number)), size.end_of(SegmentNumber::new(number)));
    let time = PgTimestamp::new(i64::try_from(number).unwrap() * 1_000_000);
    let mark = CommitMark { lsn: start, xid: Xid::new(u32::try_from(number).unwrap()), time };
    let facts = WalFacts {
        commits: 1,
        first_commit: Some(mark),
        last_commit: Some(mark),
        commit_times: Some(TimeRange::of(time)),
        end_times: Some(TimeRange::of(time)),
        ..WalFacts::default()
    };
    SegmentSummary { facts, wal_end: end, joined: true, straddler: None }
}

/// Stores an object that has the header and the index of a segment, and contents that nobody is to look at.
fn store(bench: &Bench, timeline: TimelineId, number: u64, siblings: &mut Vec<RollupEntry>) {
    let record = record();
    let id = SegmentId::new(timeline, SegmentNumber::new(number));
    let name = id.name(record.segment_size);
    let index = SegmentIndex {
        segment: name,
        segment_size: record.segment_size,
        major: Some(record.major),
        summary: summary(number),
        events: Vec::new(),
        blocks: TouchedBlocks::default(),
        damage: Vec::new(),
        damage_count: 0,
        head: Vec::new(),
        head_bytes: 0,
        carry: Carry::default(),
        siblings: siblings.clone(),
        first_record: None,
    };
    let fields = HeaderFields {
        kind: ObjectKind::Segment,
        name: name.to_string(),
        server: record.server.clone(),
        incarnation: record.incarnation(),
        writer: record.created_by.clone(),
        wal: Some(WalIdentity {
            system_id: record.system_id,
            timeline,
            segment_size: record.segment_size,
            start_lsn: record.segment_size.start_of(id.number),
            end_lsn: record.segment_size.end_of(id.number),
            summary: Some(index.summary),
        }),
    };
    let encoded = index.encode();
    let object = seal_bytes(
        CompressionLevel::DEFAULT,
        IdentityHash::Plain,
        fields,
        &number.to_le_bytes(),
        Some(&encoded),
    );
    let object = object.unwrap();
    let key = layout(record.incarnation(), bench).archive_file(ArchiveFileName::Segment(name));
    // Written directly: a thousand flushes of the disk take their time.
    let path = bench.directory.path().join("repo").join(key.to_string());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, object.to_vec()).unwrap();
    siblings.push(RollupEntry {
        number: id.number,
        object_bytes: u32::try_from(object.object_bytes()).unwrap(),
        index_bytes: u32::try_from(object.header().index_bytes).unwrap(),
        summary: Some(index.summary),
    });
}

pub(crate) fn layout(incarnation: Incarnation, bench: &Bench) -> walden_core::IncarnationLayout {
    bench.ctx.layout().incarnation(incarnation)
}

/// A repository with segments of one timeline, and an incarnation of its own.
pub(crate) async fn archive(numbers: impl Iterator<Item = u64>) -> Bench {
    let bench = Bench::new();
    let marker = encode_envelope(RecordKind::Incarnation, &record()).unwrap();
    let key = layout(record().incarnation(), &bench).marker();
    let (marker, budget) = (Bytes::from(marker), bench.ctx.budget());
    bench.ctx.store.create_record_once(&key, &marker, &budget).await.unwrap();
    let mut siblings = Vec::new();
    for number in numbers {
        if number % PER_LOG == 0 {
            siblings.clear();
        }
        store(&bench, FIRST, number, &mut siblings);
    }
    bench
}

#[tokio::test]
async fn a_large_archive_is_told_of_by_its_newest_rollup() {
    let last = 20 * PER_LOG + 10;
    let bench = archive(5..=last).await;
    let report = index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    assert_eq!((report.directories, report.unfinished, report.written, report.scanned), (21, 1, 20, 0));
    let before = bench.ctx.store.counters();
    let overview = load_overview(&bench.ctx, &record()).await.unwrap();
    let cost = bench.ctx.store.counters().since(&before);
    // The first page, the timelines, the LOG directories, the newest and the first of them (which begins late), histories
    // and backups; the rollups of the last two full directories are one, the newest index is the other.
    assert!(cost.list.requests <= 7 && cost.get.requests <= 2, "{cost:?}");
    assert_eq!(overview.listed, Listed::Some(BTreeSet::from([(FIRST, 0), (FIRST, 20)])));
    assert_eq!(overview.logs.len(), 20);
    assert_eq!(overview.strays, []);
    let whole = load_snapshot(&bench.ctx, &record()).await.unwrap();
    for number in 0..last + 5 {
        let id = SegmentId::new(FIRST, SegmentNumber::new(number));
        assert_eq!(overview.has_segment(id), whole.has_segment(id), "{number}");
    }
    assert_eq!(overview.last_known_segment(FIRST), Some(SegmentNumber::new(last)));
    let layout = layout(record().incarnation(), &bench);
    let third: Vec<RollupEntry> = bench.rollup_of(&layout, FIRST, 3).unwrap().segments;
    assert_eq!(overview.logs[&(FIRST, 3)], LogSummary::of(3, &third));
    assert_eq!(overview.logs[&(FIRST, 3)].facts.commits, PER_LOG);
    // The unfinished directory is known to its last segment.
    let newest = SegmentId::new(FIRST, SegmentNumber::new(last));
    assert_eq!(overview.summaries[&newest], summary(last));
    assert_eq!(overview.summarized, BTreeSet::from([(FIRST, 20)]));
}

#[tokio::test]
async fn what_no_rollup_tells_of_is_listed() {
    let last = 20 * PER_LOG + 3;
    let bench = archive(0..=last).await;
    let bare = load_overview(&bench.ctx, &record()).await.unwrap();
    assert_eq!((bare.logs.len(), bare.segment_totals().0), (0, last + 1));
    index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    let layout = layout(record().incarnation(), &bench);
    // A rollup that is lost or damaged hides nothing: older ones tell, or listings do.
    for (log, damage) in [(19, false), (18, true), (17, false)] {
        let file = bench.rollup_file(&layout, FIRST, log);
        if damage {
            std::fs::write(file, b"rubbish").unwrap();
        } else {
            std::fs::remove_file(file).unwrap();
        }
        let overview = load_overview(&bench.ctx, &record()).await.unwrap();
        assert_eq!(overview.logs.len(), usize::try_from(log).unwrap());
        for number in 0..=last {
            assert!(overview.has_segment(SegmentId::new(FIRST, SegmentNumber::new(number))), "{number}");
        }
    }
    let report = index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    assert_eq!(report.written, 3, "two that are missing and one that is damaged");
    let overview = load_overview(&bench.ctx, &record()).await.unwrap();
    assert_eq!(overview.logs.len(), 20);
}

#[tokio::test]
async fn a_rollup_is_believed_only_as_far_as_the_listing_agrees() {
    let bench = archive(0..PER_LOG * 2).await;
    index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    let layout = layout(record().incarnation(), &bench);
    let size = record().segment_size;
    // One segment goes, and another is replaced by something that is no segment.
    let path = |number: u64| {
        let name = SegmentId::new(FIRST, SegmentNumber::new(number)).name(size);
        let key = layout.archive_file(ArchiveFileName::Segment(name));
        bench.directory.path().join("repo").join(key.to_string())
    };
    std::fs::remove_file(path(3)).unwrap();
    std::fs::write(path(4), b"rubbish").unwrap();
    let mut snapshot = load_overview(&bench.ctx, &record()).await.unwrap();
    satisfy(&bench.ctx, &mut snapshot, &[Need::Summaries { timeline: FIRST, log: 0 }]).await.unwrap();
    let of = |number: u64| snapshot.summaries.get(&SegmentId::new(FIRST, SegmentNumber::new(number)));
    assert_eq!(of(2), Some(&summary(2)));
    assert_eq!(of(3), None);
    assert!(of(4).unwrap().facts.flags.any(walden_core::index::WalFlags::DAMAGED));
    assert_eq!(of(5), Some(&summary(5)));
    assert_eq!(Lsn::new(5 * SIZE), size.start_of(SegmentNumber::new(5)));
}

/// A server record, and backups that begin and end in a segment each.
async fn with_backups(bench: &Bench, numbers: [u64; 2]) {
    let record = record();
    let backups = numbers.into_iter().zip(0..).map(|(number, n)| backup(number, n));
    let server = ServerRecord {
        revision: 1,
        server: record.server.clone(),
        repository_id: record.repository_id.clone(),
        current: record.incarnation(),
        incarnations: vec![IncarnationEntry {
            incarnation: record.incarnation(),
            added_by: record.created_by.clone(),
        }],
        adoptions: Vec::new(),
    };
    let server = (bench.ctx.layout().revision(1), encode_envelope(RecordKind::Server, &server).unwrap());
    let backups = backups.map(|backup| {
        let key = layout(record.incarnation(), bench).backup(&backup.id).commit();
        (key, encode_envelope(RecordKind::Backup, &backup).unwrap())
    });
    for (key, text) in backups.chain([server]) {
        let text = Bytes::from(text);
        bench.ctx.store.create_record_once(&key, &text, &bench.ctx.budget()).await.unwrap();
    }
}

fn backup(number: u64, n: u64) -> BackupRecord {
    let record = record();
    let start = record.segment_size.start_of(SegmentNumber::new(number));
    BackupRecord {
        start_lsn: start.saturating_add(40),
        checkpoint_lsn: start.saturating_add(40),
        stop_lsn: start.saturating_add(80),
        segment_size: record.segment_size,
        incarnation: record.incarnation(),
        server: record.server,
        ..walden_testkit::million::backup(n)
    }
}

#[tokio::test]
async fn a_check_takes_no_rollups_word_and_a_window_says_where_it_does() {
    let last = 20 * PER_LOG + 10;
    let bench = archive(0..=last).await;
    with_backups(&bench, [2, 15 * PER_LOG + 3]).await;
    index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    let lose = |number: u64| {
        let name = SegmentId::new(FIRST, SegmentNumber::new(number)).name(record().segment_size);
        let key = layout(record().incarnation(), &bench).archive_file(ArchiveFileName::Segment(name));
        std::fs::remove_file(bench.directory.path().join("repo").join(key.to_string())).unwrap();
    };
    let seen = async || {
        let report = check(&bench.ctx, None, None, std::time::Duration::from_mins(5)).await.unwrap();
        let coverage = report.checks.iter().find(|check| check.name == "coverage").unwrap().status;
        let window = window(&bench.ctx, &record()).await.unwrap();
        (coverage, window.newest.unwrap().lsn, window.by_rollup, window.timelines[0].gaps.len())
    };
    let commit = |number: u64| summary(number).facts.last_commit.unwrap().lsn;
    assert_eq!(seen().await, (CheckStatus::Ok, commit(last), 15 * PER_LOG, 0));
    // Before the newest backup, where a window does not look.
    lose(6 * PER_LOG + 5);
    assert_eq!(seen().await, (CheckStatus::Warning, commit(last), 15 * PER_LOG, 0));
    lose(17 * PER_LOG + 9);
    assert_eq!(seen().await, (CheckStatus::Failure, commit(17 * PER_LOG + 8), 15 * PER_LOG, 1));
}
