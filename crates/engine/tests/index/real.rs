//! Pushes of real segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use walden_core::index::WalFlags;
use walden_core::{Need, SegmentEnd};
use walden_engine::{
    CheckStatus, Context, PushOutcome, RebuildRequest, check, index_rebuild, load_overview, satisfy,
};
use walden_pg::{SegmentId, TimelineId};
use walden_store::{CompressionLevel, HeaderFields, HeaderRead, IdentityHash, seal_bytes};
use walden_testkit::fault::{Crash, FaultRates, FaultStore};

use super::support::{Bench, Wal, real_wal};

const FIRST: TimelineId = TimelineId::FIRST;

/// Something of the facts that must not depend on how the segments came into the archive.
async fn facts(bench: &Bench) -> BTreeMap<SegmentId, walden_core::index::WalFacts> {
    let snapshot = bench.summarized().await;
    snapshot.summaries.iter().map(|(id, summary)| (*id, summary.facts)).collect()
}

fn size() -> walden_pg::WalSegmentSize {
    walden_pg::WalSegmentSize::new(1 << 20).unwrap()
}

#[tokio::test]
async fn pushes_know_of_each_other_and_complete_a_rollup() {
    let wal = real_wal(false);
    let bench = Bench::with(&wal).await;
    let mut known = Vec::new();
    for (at, name) in wal.segments.iter().enumerate() {
        let (index, summary) = bench.index(*name).await;
        assert_eq!(index.segment, *name);
        assert_eq!(index.summary, summary);
        assert!(at == 0 || summary.joined, "{name}");
        if wal.segments[at.saturating_sub(1)].log() != name.log() {
            known.clear();
        }
        let siblings: Vec<_> = index.siblings.iter().map(|entry| (entry.number, entry.summary)).collect();
        assert_eq!(siblings, known, "{name}");
        known.push((name.id(size()).unwrap().number, Some(summary)));
    }
    let rollup = bench.rollup(FIRST, 0).await.unwrap();
    let first_log = wal.segments.iter().filter(|name| name.log() == 0).count();
    assert_eq!(rollup.segments.len(), first_log);
    assert_eq!(bench.rollup(FIRST, 1).await, None);
    // The state can be lost: what is made from the archive is the same.
    let record = bench.record().await;
    let file = bench.rollup_file(&bench.layout().await, FIRST, 0);
    for all in [false, true] {
        std::fs::remove_file(&file).unwrap();
        let report =
            index_rebuild(&bench.ctx, &record, RebuildRequest { timeline: None, all }).await.unwrap();
        assert_eq!((report.directories, report.unfinished, report.written), (2, 1, 1));
        assert_eq!((report.segments, report.scanned), (first_log as u64, 0));
        assert_eq!(bench.rollup(FIRST, 0).await.unwrap(), rollup);
        let again = index_rebuild(&bench.ctx, &record, RebuildRequest::default()).await.unwrap();
        assert_eq!(again.written, 0);
    }
}

#[tokio::test]
async fn no_order_and_no_loss_changes_what_is_known_of_the_wal() {
    let wal = real_wal(false);
    let expected = facts(&Bench::with(&wal).await).await;
    let commits: u64 = expected.values().map(|facts| facts.commits).sum();
    assert!(commits > 10 && expected.len() == wal.segments.len(), "{commits}");

    let forgetful = Bench::new();
    forgetful.init(&wal).await;
    for name in &wal.segments {
        forgetful.push(&wal, name).await;
        forgetful.forget_state();
    }
    assert_eq!(facts(&forgetful).await, expected, "with the state lost after each push");

    let stateless = Bench::new();
    let without = Bench {
        ctx: Context { state_directory: None, ..stateless.ctx.clone() },
        directory: stateless.directory,
    };
    without.init(&wal).await;
    without.push_all(&wal, &wal.segments).await;
    assert_eq!(facts(&without).await, expected, "without a state directory");

    for (name, order) in orders(&wal) {
        let bench = Bench::new();
        bench.init(&wal).await;
        bench.push_all(&wal, &order).await;
        assert_eq!(facts(&bench).await, expected, "{name}");
        let rollup = bench.rollup(FIRST, 0).await.unwrap();
        let numbers: Vec<_> = rollup.segments.iter().map(|entry| entry.number).collect();
        let first_log = wal.segments.iter().filter(|name| name.log() == 0);
        assert_eq!(
            numbers,
            first_log.map(|name| name.id(size()).unwrap().number).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

fn orders(wal: &Wal) -> Vec<(&'static str, Vec<walden_pg::SegmentName>)> {
    let mut backwards = wal.segments.clone();
    backwards.reverse();
    let mut swapped = wal.segments.clone();
    swapped.chunks_mut(2).for_each(<[_]>::reverse);
    let (even, odd): (Vec<_>, Vec<_>) = wal.segments.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let halves = even.into_iter().chain(odd).map(|(_, name)| *name).collect();
    vec![("backwards", backwards), ("pairs swapped", swapped), ("even before odd", halves)]
}

#[tokio::test]
async fn a_push_killed_before_its_state_is_written_loses_nothing() {
    let wal = real_wal(false);
    let bench = Bench::new();
    bench.init(&wal).await;
    let (before, after) = wal.segments.split_at(3);
    bench.push_all(&wal, before).await;
    let file = bench.state_files("index-").pop().unwrap();
    let old = std::fs::read(&file).unwrap();
    bench.push(&wal, after[0]).await;
    std::fs::write(&file, old).unwrap();
    // PostgreSQL got no answer and asks again.
    assert_eq!(bench.push(&wal, after[0]).await.outcome, PushOutcome::AlreadyStored);
    bench.push(&wal, after[1]).await;
    let (index, summary) = bench.index(after[1]).await;
    assert!(summary.joined);
    assert_eq!(index.siblings.len(), 4);
    // The remembered sizes are those of the objects.
    let record = bench.record().await;
    let snapshot = walden_engine::load_snapshot(&bench.ctx, &record).await.unwrap();
    for entry in &index.siblings {
        assert_eq!(snapshot.segment_bytes(SegmentId::new(FIRST, entry.number)), Some(entry.object_bytes));
    }
    // Half a file, or another one, is no state.
    std::fs::write(&file, b"WALDENP1 and rubbish").unwrap();
    assert_eq!(bench.push(&wal, after[2]).await.outcome, PushOutcome::Stored);
}

#[tokio::test]
async fn a_timeline_goes_on_where_its_parent_was_left() {
    let wal = real_wal(true);
    let second = TimelineId::new(2).unwrap();
    let bench = Bench::with(&wal).await;
    let first = wal.segments.iter().find(|name| name.timeline() == second).unwrap();
    let (_, summary) = bench.index(*first).await;
    assert!(summary.joined, "{first}");
    let record = bench.record().await;
    let snapshot = load_overview(&bench.ctx, &record).await.unwrap();
    assert_eq!(snapshot.timelines(), [FIRST, second]);
    let expected = facts(&bench).await;
    let forgetful = Bench::new();
    forgetful.init(&wal).await;
    for name in &wal.segments {
        forgetful.push(&wal, name).await;
        forgetful.forget_state();
    }
    assert_eq!(facts(&forgetful).await, expected);
}

#[tokio::test]
async fn details_agree_with_the_index() {
    let wal = real_wal(false);
    let bench = Bench::with(&wal).await;
    let mut snapshot = bench.summarized().await;
    let path: Vec<SegmentId> = wal.segments.iter().map(|name| name.id(size()).unwrap()).collect();
    let before = bench.ctx.store.counters();
    let needs = [Need::Details { path: path.clone() }, Need::Details { path: path[..2].to_vec() }];
    satisfy(&bench.ctx, &mut snapshot, &needs).await.unwrap();
    let gets = bench.ctx.store.counters().since(&before).get.requests;
    assert_eq!(gets, path.len() as u64, "each segment is fetched once");
    for id in path {
        let (detail, summary) = (&snapshot.details[&id], &snapshot.summaries[&id]);
        let commits = detail.ends.iter().filter(|end| end.commit).count() as u64;
        assert_eq!(commits, summary.facts.commits, "{id:?}");
        let last = detail.ends.iter().rfind(|end| end.commit).map(|end| (end.span.start, end.xid, end.time));
        assert_eq!(last, summary.facts.last_commit.map(|mark| (mark.lsn, mark.xid, mark.time)));
        assert_eq!(detail.records.last().map(|record| record.end), Some(summary.wal_end), "{id:?}");
        assert_eq!(summary.facts.flags.any(WalFlags::RESTORE_POINT), !detail.restore_points.is_empty());
    }
    // An object that is damaged in the store is a finding.
    let id = wal.segments[1].id(size()).unwrap();
    let key = bench.layout().await.archive_file(wal.segments[1].to_string().parse().unwrap());
    let object = bench.directory.path().join("repo").join(key.to_string());
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    snapshot.details.clear();
    satisfy(&bench.ctx, &mut snapshot, &[Need::Details { path: vec![id] }]).await.unwrap();
    assert!(
        matches!(&snapshot.details[&id].end, SegmentEnd::Damaged { what, .. } if what.contains("object"))
    );
}

#[tokio::test]
async fn a_damaged_segment_is_archived_and_told_of() {
    let wal = real_wal(false).copy();
    let bench = Bench::new();
    bench.init(&wal).await;
    let broken = wal.segments[2];
    let mut bytes = std::fs::read(wal.file(broken)).unwrap();
    let at = 300_000;
    bytes[at..at + 64].fill(0x5A);
    std::fs::write(wal.file(broken), bytes).unwrap();
    for name in &wal.segments[..5] {
        let report = bench.push(&wal, name).await;
        assert_eq!(report.outcome, PushOutcome::Stored);
        assert_eq!(report.damage.is_some(), *name == broken, "{name}: {:?}", report.damage);
    }
    let (index, summary) = bench.index(broken).await;
    assert!(summary.facts.flags.any(WalFlags::DAMAGED));
    let start = size().start_of(broken.id(size()).unwrap().number);
    let lsn = index.damage[0].lsn.bytes_since(start).unwrap();
    assert!((290_000..=300_064).contains(&lsn), "{:?}", index.damage);
    let report = check(&bench.ctx, None, None, std::time::Duration::from_mins(5)).await.unwrap();
    let found = report.checks.iter().find(|check| check.name == "WAL").unwrap();
    assert_eq!(found.status, CheckStatus::Failure, "{found:?}");
    assert!(found.detail.contains(&broken.to_string()), "{found:?}");
}

/// Stores a segment anew as writers did that made no index.
async fn without_index(bench: &Bench, wal: &Wal, name: walden_pg::SegmentName) {
    let key = bench.layout().await.archive_file(name.to_string().parse().unwrap());
    let HeaderRead::Found { header, .. } =
        bench.ctx.store.get_header(&key, &bench.ctx.budget()).await.unwrap()
    else {
        panic!("{name} is missing")
    };
    let fields = HeaderFields {
        kind: header.kind,
        name: header.name,
        server: header.server,
        incarnation: header.incarnation,
        writer: header.writer,
        wal: header.wal.map(|wal| walden_core::WalIdentity { summary: None, ..wal }),
    };
    let plain = std::fs::read(wal.file(name)).unwrap();
    let object = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, &plain, None).unwrap();
    std::fs::write(bench.directory.path().join("repo").join(key.to_string()), object.to_vec()).unwrap();
}

#[tokio::test]
async fn a_push_fetches_no_segments_for_its_rollup() {
    let wal = real_wal(false);
    let bench = Bench::new();
    bench.init(&wal).await;
    let last = wal.segments.iter().rposition(|name| name.log() == 0).unwrap();
    bench.push_all(&wal, &wal.segments[..last]).await;
    without_index(&bench, &wal, wal.segments[last - 2]).await;
    bench.forget_state();
    bench.push(&wal, wal.segments[last]).await;
    assert_eq!(bench.rollup(FIRST, 0).await, None);
    let record = bench.record().await;
    let report = index_rebuild(&bench.ctx, &record, RebuildRequest::default()).await.unwrap();
    assert_eq!((report.written, report.scanned), (1, 1));
}

#[tokio::test]
async fn a_rollup_that_can_not_be_written_fails_no_push() {
    let wal = real_wal(false);
    let bench = Bench::new();
    bench.init(&wal).await;
    let last = wal.segments.iter().rposition(|name| name.log() == 0).unwrap();
    bench.push_all(&wal, &wal.segments[..last]).await;
    // The segment is the first effect, its rollup the second.
    let fail = Arc::new(|number: u64, _: &str| if number == 0 { Ok(()) } else { Err(Crash) });
    let store = bench
        .ctx
        .store
        .wrapped(|inner| Arc::new(FaultStore::new(inner, FaultRates::default(), 1).with_crash_hook(fail)));
    let failing = Context { store, ..bench.ctx.clone() };
    let report =
        walden_engine::Archiver::new(failing).push(&wal.file(wal.segments[last]), &wal.data()).await.unwrap();
    assert_eq!(report.outcome, PushOutcome::Stored);
    assert_eq!(bench.rollup(FIRST, 0).await, None);
    let record = bench.record().await;
    let report = index_rebuild(&bench.ctx, &record, RebuildRequest::default()).await.unwrap();
    assert_eq!((report.written, report.scanned), (1, 0));
}
