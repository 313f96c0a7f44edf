//! How fast a retention plan is made and checked over an archive of a million segments and 400 backups, all of them
//! listed, with everything else that it needs in the inventory.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use walden_core::{
    CatalogSnapshot, HowLong, IncarnationInventory, Inventory, Listed, Need, Pin, PromisedWindow, Retaining,
    RetentionPlan, RetentionPolicy, check_plan, plan_retention,
};
use walden_pg::{SegmentId, SegmentNumber};
use walden_testkit::million::{
    BACKUPS, BEGIN, OBJECT_BYTES, SEGMENTS, TIMELINE, backup, detail, entry, logs, numbers_of, record,
    segment_size, summary,
};

fn at(number: u64) -> Timestamp {
    Timestamp::from_second(BEGIN + i64::try_from(number).expect("a second")).expect("a time")
}

/// Everything listed; every `pinned`th backup pinned.
fn inventory(pinned: u64) -> Inventory {
    let mut catalog = CatalogSnapshot::new(record());
    catalog.backups = (0..BACKUPS).map(backup).collect();
    catalog.listed = Listed::All;
    catalog.logs = logs(entry).into_iter().map(|log| ((TIMELINE, log.log), log)).collect();
    let mut life = IncarnationInventory::new(catalog);
    for number in 1..=SEGMENTS {
        let name = SegmentId::new(TIMELINE, SegmentNumber::new(number)).name(segment_size());
        life.catalog.add_segment(name, u64::from(OBJECT_BYTES));
        life.note_written(TIMELINE, name.log(), at(number));
        if number % 256 == 255 {
            life.rollups.insert((TIMELINE, name.log()), 50_000);
        }
    }
    let pins = (0..BACKUPS).filter(|n| n % pinned == 0);
    let pins = pins.map(|n| Pin { backup: backup(n).id, until: None, reason: "kept".to_owned() });
    Inventory {
        server: record().server,
        current: record().incarnation(),
        incarnations: vec![life],
        pins: pins.collect(),
        running: Vec::new(),
        strays: Vec::new(),
    }
}

fn satisfy(catalog: &mut CatalogSnapshot, need: Need) {
    match need {
        Need::Listing { .. } => panic!("everything is listed"),
        Need::Summaries { timeline, log } => {
            for number in numbers_of(log) {
                let id = SegmentId::new(timeline, SegmentNumber::new(number));
                catalog.summaries.insert(id, summary(number));
            }
            catalog.summarized.insert((timeline, log));
        }
        Need::Details { path } => catalog.add_detail(detail(path.last().expect("a segment").number.get())),
    }
}

/// Plans until everything needed is known; says in how many rounds and for how many needs.
fn prepare(
    inventory: &mut Inventory,
    policy: &RetentionPolicy,
    now: Timestamp,
) -> (RetentionPlan, u32, usize) {
    let (mut rounds, mut asked) = (1, 0);
    loop {
        match plan_retention(inventory, policy, now) {
            Retaining::Plan(plan) => return (*plan, rounds, asked),
            Retaining::Refused(refusal) => panic!("{refusal}"),
            Retaining::Needs(needs) => {
                rounds += 1;
                asked += needs.len();
                for need in needs {
                    let life = inventory.incarnations.first_mut().expect("an incarnation");
                    satisfy(&mut life.catalog, need.need);
                }
            }
        }
    }
}

fn retention_1m_segments(criterion: &mut Criterion) {
    let now = at(SEGMENTS + 60);
    let window = PromisedWindow::Last(HowLong::days(3));
    let policy = RetentionPolicy { window, daily: 7, weekly: 4, ..RetentionPolicy::default() };
    for pinned in [400, 1] {
        let mut inventory = inventory(pinned);
        let (plan, rounds, asked) = prepare(&mut inventory, &policy, now);
        check_plan(&plan, &inventory).expect("a good plan");
        let pins = BACKUPS.div_ceil(pinned);
        let name = format!(
            "retention_1m_segments, {pins} pinned ({rounds} rounds, {asked} needs, {} of {} objects go)",
            plan.removed.objects,
            plan.removed.objects + plan.kept.objects
        );
        criterion.bench_function(&name, |bencher| {
            bencher.iter(|| plan_retention(black_box(&inventory), &policy, now));
        });
        criterion.bench_function(&format!("retention_check_1m_segments, {pins} pinned"), |bencher| {
            bencher.iter(|| check_plan(black_box(&plan), &inventory));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = retention_1m_segments
}
criterion_main!(benches);
