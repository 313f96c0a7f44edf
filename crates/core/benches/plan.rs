//! How fast a plan and the window are made over an archive of a million segments and 400 backups, with everything
//! that they need in the snapshot.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use walden_core::{
    CatalogSnapshot, Listed, Need, Planning, RecoveryAction, RecoveryRates, RecoveryRequest, RecoveryTarget,
    TargetTimeline, Windowing, plan_recovery, recovery_window,
};
use walden_pg::{SegmentId, SegmentNumber, TimelineId};
use walden_testkit::million::{
    BACKUPS, OBJECT_BYTES, SEGMENTS, STOP, TIMELINE, backup, commits, detail, entry, logs, numbers_of,
    record, segment_size, summary,
};

fn list(snapshot: &mut CatalogSnapshot, timeline: TimelineId, log: u32) {
    for number in numbers_of(log) {
        let id = SegmentId::new(timeline, SegmentNumber::new(number));
        snapshot.add_segment(id.name(segment_size()), u64::from(OBJECT_BYTES));
    }
    if let Listed::Some(listed) = &mut snapshot.listed {
        listed.insert((timeline, log));
    }
}

fn satisfy(snapshot: &mut CatalogSnapshot, need: Need) {
    match need {
        Need::Listing { timeline, first_log, last_log } => {
            (first_log..=last_log).for_each(|log| list(snapshot, timeline, log));
        }
        Need::Summaries { timeline, log } => {
            list(snapshot, timeline, log);
            for number in numbers_of(log) {
                let id = SegmentId::new(timeline, SegmentNumber::new(number));
                snapshot.summaries.insert(id, summary(number));
            }
            snapshot.summarized.insert((timeline, log));
        }
        Need::Details { path } => {
            let last = path.last().expect("a segment");
            snapshot.add_detail(detail(last.number.get()));
        }
    }
}

fn overview() -> CatalogSnapshot {
    let mut snapshot = CatalogSnapshot::new(record());
    snapshot.backups = (0..BACKUPS).map(backup).collect();
    snapshot.listed = Listed::Some([].into());
    snapshot.logs = logs(entry).into_iter().map(|log| ((TIMELINE, log.log), log)).collect();
    let newest = SegmentId::new(TIMELINE, SegmentNumber::new(SEGMENTS)).name(segment_size()).log();
    satisfy(&mut snapshot, Need::Summaries { timeline: TIMELINE, log: newest });
    snapshot
}

fn plan_1m_segments(criterion: &mut Criterion) {
    let [first, _] = commits(STOP);
    let target = Timestamp::from_microsecond(first.time.unix_micros() + 1).expect("a time");
    let request = RecoveryRequest {
        target: RecoveryTarget::Time(target),
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: RecoveryAction::Pause,
        backup: None,
        rates: RecoveryRates::default(),
    };
    let now = Timestamp::from_second(4_000_000_000).expect("a time");
    let mut snapshot = overview();
    let mut rounds = 1;
    while let Planning::Needs(needs) = plan_recovery(&snapshot, &request, now) {
        for need in needs {
            satisfy(&mut snapshot, need);
        }
        rounds += 1;
    }
    while let Windowing::Needs(needs) = recovery_window(&snapshot, now) {
        for need in needs {
            satisfy(&mut snapshot, need);
        }
    }
    let name = format!("plan_1m_segments ({rounds} rounds with what they ask for)");
    criterion.bench_function(&name, |bencher| {
        bencher.iter(|| match plan_recovery(black_box(&snapshot), &request, now) {
            Planning::Plan(plan) => plan.stop.lsn,
            other => panic!("{other:?}"),
        });
    });
    criterion.bench_function("window_1m_segments", |bencher| {
        bencher.iter(|| recovery_window(black_box(&snapshot), now));
    });
}

criterion_group!(benches, plan_1m_segments);
criterion_main!(benches);
