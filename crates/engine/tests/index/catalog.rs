//! `walden catalog`: what is there, what is foreign, and what is derived made again.

use bytes::Bytes;
use walden_core::{IncarnationEntry, RecordKind, ServerRecord, encode_envelope};
use walden_engine::{
    DifferenceKind, RebuildRequest, catalog_rebuild, catalog_report, index_rebuild, load_overview,
};
use walden_pg::{ArchiveFileName, TimelineId};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, seal_bytes};

use super::large::{FIRST, PER_LOG, archive, layout, record};
use super::support::Bench;

/// So many whole LOG directories, and one that is not.
const LOGS: u64 = 20;

async fn add_server(bench: &Bench) {
    let record = record();
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
    let bytes = Bytes::from(encode_envelope(RecordKind::Server, &server).unwrap());
    let key = bench.ctx.layout().revision(1);
    bench.ctx.store.create_record_once(&key, &bytes, &bench.ctx.budget()).await.unwrap();
}

/// A history file as walden would have archived it.
async fn add_history(bench: &Bench, timeline: u32) {
    let name = ArchiveFileName::History(TimelineId::new(timeline).unwrap());
    let record = record();
    let fields = HeaderFields {
        kind: walden_core::ObjectKind::TimelineHistory,
        name: name.to_string(),
        server: record.server.clone(),
        incarnation: record.incarnation(),
        writer: record.created_by.clone(),
        wal: None,
    };
    let lines: Vec<String> =
        (1..timeline).map(|parent| format!("{parent}\t{parent}/0\tno reason\n")).collect();
    let text = lines.concat();
    let object =
        seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, text.as_bytes(), None).unwrap();
    let key = layout(record.incarnation(), bench).archive_file(name);
    bench.ctx.store.create_once(&key, &object, &bench.ctx.budget()).await.unwrap();
}

fn plant(bench: &Bench, key: &str) {
    let path = bench.directory.path().join("repo").join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, b"foreign").unwrap();
}

#[tokio::test]
async fn everything_is_counted_in_few_requests_and_what_is_foreign_is_named() {
    let last = LOGS * PER_LOG + 10;
    let bench = archive(5..=last).await;
    add_server(&bench).await;
    add_history(&bench, 2).await;
    index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    let own = layout(record().incarnation(), &bench);
    let prefix = own.prefix();
    let planted = [
        "main/notes.txt".to_owned(),
        "main/strange/a".to_owned(),
        format!("{prefix}README"),
        format!("{prefix}elsewhere/b"),
        format!("{prefix}history/junk"),
        format!("{prefix}wal/c"),
        format!("{prefix}drill/d"),
    ];
    for key in &planted {
        plant(&bench, key);
    }
    let damaged = own.archive_file(ArchiveFileName::History(TimelineId::new(3).unwrap())).to_string();
    plant(&bench, &damaged);
    let before = bench.ctx.store.counters();
    let report = catalog_report(&bench.ctx, false).await.unwrap();
    let cost = bench.ctx.store.counters().since(&before);
    let [server] = report.servers.as_slice() else { panic!("{report:?}") };
    let [incarnation] = server.incarnations.as_slice() else { panic!("{server:?}") };
    assert!(incarnation.current);
    assert_eq!(incarnation.segments.count, last - 4);
    // All but the first directory, which begins late, and the unfinished one.
    assert_eq!(incarnation.segments_by_rollup, (LOGS - 1) * PER_LOG);
    let files = bench.directory.path().join("repo").join(own.timeline_prefix(FIRST));
    let bytes: u64 = std::fs::read_dir(files)
        .unwrap()
        .flat_map(|log| std::fs::read_dir(log.unwrap().path()).unwrap())
        .map(Result::unwrap)
        .filter(|file| file.file_name() != "rollup")
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert_eq!(incarnation.segments.bytes, bytes);
    assert_eq!(incarnation.histories.count, 2);
    assert_eq!(incarnation.backups.count, 0);
    let second = |at: Option<jiff::Timestamp>| at.unwrap().as_second() - 946_684_800;
    assert_eq!(second(incarnation.first_commit), 5);
    assert_eq!(second(incarnation.last_commit), i64::try_from(last).unwrap());
    let mut named: Vec<&str> = server.foreign.iter().map(|stray| stray.key.as_str()).collect();
    assert_eq!(named, ["main/notes.txt", "main/strange/"]);
    named = incarnation.foreign.iter().map(|stray| stray.key.as_str()).collect();
    let mut expected = vec![
        format!("{prefix}README"),
        format!("{prefix}drill/d"),
        format!("{prefix}elsewhere/"),
        format!("{prefix}history/junk"),
        damaged,
        format!("{prefix}wal/c"),
    ];
    expected.sort();
    assert_eq!(named, expected);
    // Not one request for each of 20 directories, let alone 1,300 segments.
    assert!(cost.requests() <= 24, "{cost:?}");
    for key in &planted {
        assert!(bench.directory.path().join("repo").join(key).try_exists().unwrap(), "{key}");
    }
}

#[tokio::test]
async fn all_servers_are_shown_and_what_lies_beside_them() {
    let bench = archive(1..3).await;
    add_server(&bench).await;
    plant(&bench, "repository.json");
    plant(&bench, "photos/holiday.jpg");
    plant(&bench, "stray.txt");
    let report = catalog_report(&bench.ctx, true).await.unwrap();
    assert_eq!(report.servers.len(), 1);
    assert_eq!(report.servers[0].incarnations[0].segments.count, 2);
    let named: Vec<&str> = report.foreign.iter().map(|stray| stray.key.as_str()).collect();
    assert_eq!(named, ["stray.txt", "photos/"]);
}

#[tokio::test]
async fn a_damaged_marker_is_told_and_a_way_out_named() {
    let bench = archive(1..3).await;
    add_server(&bench).await;
    let marker = layout(record().incarnation(), &bench).marker();
    std::fs::write(bench.directory.path().join("repo").join(marker.as_str()), b"{}").unwrap();
    let report = catalog_report(&bench.ctx, false).await.unwrap();
    let foreign = &report.servers[0].incarnations[0].foreign;
    assert_eq!(foreign[0].key, marker.as_str());
    let error = walden_engine::find_incarnation(&bench.ctx, None).await.unwrap_err();
    assert!(error.hint().unwrap().contains("run walden init"), "{error:?}");
}

#[tokio::test]
async fn a_rebuild_writes_what_differs_and_nothing_else() {
    let bench = archive(0..=4 * PER_LOG + 3).await;
    let first = catalog_rebuild(&bench.ctx, &record()).await.unwrap().derived;
    assert_eq!((first.written, first.same, first.unfinished), (4, 0, 1));
    assert!(first.differences.iter().all(|difference| difference.what == DifferenceKind::Missing));
    let before = bench.ctx.store.counters();
    let again = catalog_rebuild(&bench.ctx, &record()).await.unwrap().derived;
    assert_eq!((again.written, again.same, again.differences.len()), (0, 4, 0));
    assert_eq!(bench.ctx.store.counters().since(&before).put.requests, 0);
    let own = layout(record().incarnation(), &bench);
    std::fs::remove_file(bench.rollup_file(&own, FIRST, 1)).unwrap();
    std::fs::write(bench.rollup_file(&own, FIRST, 2), b"rubbish").unwrap();
    // One that is sound and tells of another time.
    std::fs::remove_file(bench.rollup_file(&own, FIRST, 3)).unwrap();
    let segment = record().segment_size;
    let late = walden_pg::SegmentId::new(FIRST, walden_pg::SegmentNumber::new(3 * PER_LOG + 5)).name(segment);
    let late = own.archive_file(ArchiveFileName::Segment(late)).to_string();
    let late = bench.directory.path().join("repo").join(late);
    let bytes = std::fs::read(&late).unwrap();
    std::fs::remove_file(&late).unwrap();
    index_rebuild(&bench.ctx, &record(), RebuildRequest::default()).await.unwrap();
    std::fs::write(&late, bytes).unwrap();
    std::fs::remove_file(bench.rollup_file(&own, FIRST, 1)).unwrap();
    std::fs::write(bench.rollup_file(&own, FIRST, 2), b"rubbish").unwrap();
    let mended = catalog_rebuild(&bench.ctx, &record()).await.unwrap().derived;
    let told: Vec<_> = mended.differences.iter().map(|difference| difference.what).collect();
    assert_eq!(told, [DifferenceKind::Missing, DifferenceKind::Unusable, DifferenceKind::Different]);
    assert_eq!((mended.written, mended.same), (3, 1));
    assert_eq!(catalog_rebuild(&bench.ctx, &record()).await.unwrap().derived.same, 4);
}

#[tokio::test]
async fn histories_are_fetched_once_and_the_listing_decides_what_is_there() {
    let bench = archive(1..3).await;
    for timeline in 2..=6 {
        add_history(&bench, timeline).await;
    }
    let load = async || {
        let before = bench.ctx.store.counters();
        let snapshot = load_overview(&bench.ctx, &record()).await.unwrap();
        (snapshot.histories.len(), bench.ctx.store.counters().since(&before).get.requests)
    };
    let (found, first) = load().await;
    let (again, second) = load().await;
    assert_eq!((found, again, first - second), (5, 5, 5));
    // Damaged in the cache: fetched again, and kept again.
    let kept = bench.directory.path().join("state/catalog");
    let file = std::fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, b"rubbish").unwrap();
    assert_eq!(load().await, (5, second + 1));
    assert_eq!(load().await, (5, second));
    // Gone in the repository: gone, whatever is kept.
    let name = ArchiveFileName::History(TimelineId::new(4).unwrap());
    let key = layout(record().incarnation(), &bench).archive_file(name);
    std::fs::remove_file(bench.directory.path().join("repo").join(key.as_str())).unwrap();
    assert_eq!(load().await, (4, second));
    let report = catalog_rebuild(&bench.ctx, &record()).await.unwrap();
    assert_eq!(report.forgotten, 5);
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 4);
}
