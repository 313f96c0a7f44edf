//! One rule at a time: WAL, timelines, histories, and the order of deletion.

use walden_pg::{ArchiveFileName, TimelineId};

use super::model::{DAY, Effect, Model, effects, goes, gone, keeps, name, warned};
use super::rules::{archive, days};
use crate::layout::BackupId;
use crate::recovery::tests::world::{SEGMENT, at, timeline};
use crate::retention::*;

/// Timeline 1 for ten days, with a full backup on day 0; timeline 2 from the middle of a segment of day 8 on.
fn promoted() -> Model {
    let mut model = Model::new();
    model.full(1, 0);
    for day in 0..8 {
        model.commit(1, day * DAY + 60);
    }
    let fork = model.world.commit(1, 900, 8 * DAY);
    model.world.commit(1, 901, 8 * DAY + 60);
    model.world.fill(1);
    model.settle(8 * DAY + 60);
    model.commit(1, 9 * DAY);
    model.world.fork(1, 2, fork + 64);
    for day in 10..20 {
        model.commit(2, day * DAY);
    }
    model
}

#[test]
fn only_the_wal_that_makes_it_consistent_stays_with_a_pinned_backup() {
    let (mut model, backups) = archive(30, 5);
    model.pins.push(Pin { backup: backups[1].clone(), until: None, reason: "test".into() });
    let plan = model.retain(&days(1), 30 * DAY);
    let number = model.record(&backups[1]).start_lsn.get() / SEGMENT;
    let stays: Vec<u64> = (1..=30).filter(|number| !gone(&plan, 1).contains(number)).collect();
    assert_eq!(stays, [number]);
    let [window] = &plan.windows[..] else { panic!("{:?}", plan.windows) };
    assert_eq!((window.before.len(), window.after.len()), (1, 2));
    let lost: Vec<(bool, bool)> = window.lost.iter().map(|lost| (lost.from_stays, lost.to_stays)).collect();
    assert_eq!(lost, [(false, true), (true, true)]);
    assert_eq!(window.lost[0].from.time, Some(at(0)));
    assert_eq!(window.lost[0].to.time, Some(at(5 * DAY)));
    assert_eq!(window.lost[1].from.time, Some(at(5 * DAY)));
    assert_eq!(window.lost[1].to.time, Some(at(25 * DAY)));
    assert!(plan.loses_moments());
}

#[test]
fn the_way_to_a_timeline_is_kept_from_the_parents_backup_on() {
    let model = promoted();
    let fork = 9 + 1;
    // Timeline 1 went on for two days: it is kept as long as the window reaches there.
    let plan = model.retain(&days(14), 20 * DAY);
    assert!(plan.is_empty(), "{:?}", plan.deletions);
    // Then only what leads to the fork is; the segment of the fork is the child's.
    let plan = model.retain(&days(14), 24 * DAY);
    assert_eq!(gone(&plan, 1), [fork, fork + 1]);
    assert!(gone(&plan, 2).is_empty());
    assert_eq!(check_plan(&plan, &model.inventory()), Ok(()));
    let held = RetentionPolicy { dead_timelines: HowLong::days(30), ..days(14) };
    assert!(model.retain(&held, 24 * DAY).is_empty());
}

#[test]
fn a_timeline_goes_with_its_history_when_nothing_needs_it() {
    let mut model = promoted();
    let newer = model.full(2, 21 * DAY);
    model.commit(2, 22 * DAY);
    let plan = model.retain(&days(1), 30 * DAY);
    assert!(!goes(&plan, &newer));
    assert_eq!(gone(&plan, 1), (1..=11).collect::<Vec<u64>>());
    let histories = |plan: &RetentionPlan| {
        let steps = effects(plan).into_iter();
        steps.filter(|effect| matches!(effect, Effect::History(_))).collect::<Vec<_>>()
    };
    // Timeline 2 is the lowest that stays, and its own history leads to it.
    assert_eq!(histories(&plan), []);
    let end = model.world.end(2);
    model.world.fork(2, 3, end);
    model.full(3, 40 * DAY);
    model.commit(3, 41 * DAY);
    let plan = model.retain(&days(1), 60 * DAY);
    assert_eq!(histories(&plan), [Effect::History(2)]);
    assert!(matches!(plan.deletions.last(), Some(Deletion::History { .. })));
    let mut after = model.clone();
    after.carry_out(&plan);
    assert!(after.retain(&days(1), 60 * DAY).is_empty());
}

#[test]
fn wal_of_a_timeline_without_a_history_stays() {
    let mut model = promoted();
    model.full(2, 21 * DAY);
    for day in 22..30 {
        model.commit(2, day * DAY);
    }
    model.gone_histories.insert(2);
    let plan = model.retain(&days(1), 100 * DAY);
    assert!(gone(&plan, 2).is_empty());
    assert!(warned(&plan, RetentionWarningKind::Unreadable));
    model.gone_histories.clear();
    model.damaged_histories.insert(2);
    let plan = model.retain(&days(1), 100 * DAY);
    assert!(gone(&plan, 2).is_empty());
    assert!(!effects(&plan).contains(&Effect::History(2)));
}

#[test]
fn without_a_backup_that_serves_the_window_all_wal_stays() {
    let (model, _) = archive(10, 20);
    let plan = model.retain(&days(14), 12 * DAY);
    assert!(plan.is_empty() && warned(&plan, RetentionWarningKind::WindowNotReached));
    let mut nothing = model.clone();
    nothing.world.backups.clear();
    let plan = nothing.retain(&days(1), 400 * DAY);
    assert!(plan.is_empty() && warned(&plan, RetentionWarningKind::NothingRestorable));
}

#[test]
fn files_beside_segments_go_with_them() {
    let (mut model, _) = archive(30, 5);
    let backup = |number| ArchiveFileName::BackupHistory { segment: name(1, number), offset: 40 };
    model.partials.extend([
        (backup(1), 0),
        (backup(31), 25 * DAY),
        (ArchiveFileName::Partial(name(1, 2)), DAY),
    ]);
    let plan = model.retain(&days(1), 30 * DAY);
    let files = effects(&plan).into_iter().filter(|effect| matches!(effect, Effect::File(_)));
    let files: Vec<Effect> = files.collect();
    assert_eq!(files, [Effect::File(ArchiveFileName::Partial(name(1, 2))), Effect::File(backup(1))]);
}

#[test]
fn a_partial_segment_does_not_keep_its_timeline_young() {
    let mut model = promoted();
    model.partials.insert(ArchiveFileName::Partial(name(1, 40)), 23 * DAY);
    let plan = model.retain(&days(14), 24 * DAY);
    assert_eq!(gone(&plan, 1), [10, 11]);
    model.carry_out(&plan);
    assert!(model.retain(&days(14), 24 * DAY).is_empty());
}

#[test]
fn rollups_of_touched_directories_go_before_their_segments() {
    let (mut model, _) = archive(30, 5);
    model.world.rolled_up.extend([(1, 0), (1, 6), (1, 7), (1, 8)]);
    let plan = model.retain(&days(14), 30 * DAY);
    let all = effects(&plan);
    // Segments 1 to 18 go: directories 0 to 3 whole, of directory 4 three.
    let place = |effect: &Effect| all.iter().position(|other| other == effect);
    assert!(place(&Effect::Rollup(1, 0)) < place(&Effect::Segment(1, 1)));
    assert_eq!(place(&Effect::Rollup(1, 6)), None);
    let stale: Vec<u32> = plan.stale_directories.iter().map(|directory| directory.log).collect();
    assert_eq!(stale, [4]);
    assert_eq!(gone(&plan, 1), (1..=18).collect::<Vec<u64>>());
}

#[test]
fn the_check_looks_again_at_what_came_since() {
    let (model, backups) = archive(30, 5);
    let plan = model.retain(&days(14), 30 * DAY);
    let check = |model: &Model| check_plan(&plan, &model.inventory()).unwrap_err().to_string();
    let mut pinned = model.clone();
    pinned.pins.push(Pin { backup: backups[0].clone(), until: None, reason: "test".into() });
    assert!(check(&pinned).ends_with("would go, and it is pinned"), "{}", check(&pinned));
    let mut child = model.clone();
    child.incremental(1, 31 * DAY, &backups[0]);
    assert!(check(&child).ends_with("a backup that stays stands on it"), "{}", check(&child));
    let mut running = model.clone();
    running.unfinished.insert(BackupId::new(at(2 * DAY), 1), 30 * DAY);
    assert!(check(&running).contains("not older than a backup that runs"), "{}", check(&running));
    let mut lost = model.clone();
    let number = lost.record(&backups[3]).start_lsn.get() / SEGMENT;
    lost.world.lost.insert((1, number));
    assert!(check(&lost).contains("serves the beginning"), "{}", check(&lost));
    let mut inventory = model.inventory();
    inventory.incarnations.clear();
    assert!(matches!(check_plan(&plan, &inventory), Err(Broken::Listing { .. })));
    let mut turned = plan.clone();
    turned.deletions.reverse();
    assert!(matches!(check_plan(&turned, &model.inventory()), Err(Broken::Order { .. })));
}

#[test]
fn what_has_no_known_age_stays_where_age_decides() {
    let model = promoted();
    let mut inventory = model.inventory();
    inventory.incarnations[0].wal_written.remove(&(TimelineId::FIRST, 0));
    let plan = super::model::retain(&mut inventory, &[&model], &days(1), 24 * DAY);
    assert!(gone(&plan, 1).is_empty());
    assert_eq!(plan.windows.len(), 2);
    assert_eq!(plan.windows[1].timeline, timeline(2));
}

#[test]
fn a_plan_reads_well() {
    let (mut model, backups) = archive(12, 5);
    model.pins.push(Pin { backup: backups[0].clone(), until: None, reason: "before the migration".into() });
    let plan = model.retain(&days(1), 12 * DAY);
    let lines = plan.groups.iter().map(|group| {
        let fate = if group.fate.is_removal() { "remove" } else { "keep" };
        let kind = serde_json::to_value(&group.kind).unwrap();
        let what = kind["id"].as_str().or(kind["first"].as_str()).unwrap_or_default().to_owned();
        let (objects, bytes) = (group.objects, group.bytes);
        format!("{fate} {} {what} {objects} {bytes}: {}", kind["what"].as_str().unwrap(), group.message)
    });
    let lines: Vec<String> = lines.collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    keep backup 20261118T110630Z-0000 4 2000: pinned: before the migration
    remove backup 20261123T110630Z-0001 4 2000: before the window, which a newer backup serves
    keep backup 20261128T110630Z-0002 4 2000: the window of timeline 1 begins with it: it is the newest that ended before
    keep segments 000000010000000000000001 1 1000: WAL that makes backup 20261118T110630Z-0000 consistent
    remove segments 000000010000000000000002 11 11000: no kept backup needs it
    keep segments 000000010000000300000001 3 3000: WAL of the window of timeline 1, from backup 20261128T110630Z-0002 on
    remove backup_rollup  1 50: it tells of objects that go
    ");
    let json = serde_json::to_string(&plan.groups[1]).unwrap();
    insta::assert_snapshot!(json, @r#"{"incarnation":"7-17","what":"backup","id":"20261123T110630Z-0001","incremental":false,"parent":null,"finished_at":"2026-11-23T11:06:40Z","restorable":true,"fate":"remove","reasons":[{"kind":"before_window"}],"message":"before the window, which a newer backup serves","objects":4,"bytes":2000}"#);
    assert!(
        serde_json::to_string(&plan)
            .unwrap()
            .starts_with(r#"{"schema":1,"server":"main","current":"7-17","at":"2026-"#)
    );
}

#[test]
fn backups_on_a_timeline_without_a_history_stay() {
    let mut model = promoted();
    let newer = model.full(2, 21 * DAY);
    for day in 22..30 {
        model.commit(2, day * DAY);
    }
    for damaged in [false, true] {
        let mut model = model.clone();
        if damaged { &mut model.damaged_histories } else { &mut model.gone_histories }.insert(2);
        for now in [30, 100] {
            let plan = model.retain(&days(1), now * DAY);
            let unknown = KeepReason::UnknownHistory { timeline: timeline(2) };
            assert!(keeps(&plan, &newer).contains(&unknown), "damaged={damaged} now={now}");
            // A plan that does not know it is stopped.
            let mut whole = model.clone();
            (whole.gone_histories, whole.damaged_histories) = Default::default();
            whole.full(2, 40 * DAY);
            let plan = whole.retain(&days(1), 100 * DAY);
            assert!(goes(&plan, &newer));
            assert!(check_plan(&plan, &model.inventory()).is_err());
        }
    }
}

#[test]
fn a_backup_of_which_objects_are_missing_serves_nothing_and_stays() {
    let (mut model, backups) = archive(30, 5);
    let plan = model.retain(&days(7), 30 * DAY);
    assert!(goes(&plan, &backups[3]) && !goes(&plan, &backups[4]), "{:?}", plan.deletions);
    // The record of the one that serves the window tells of more objects than are listed.
    model.record(&backups[4]).packs = 9;
    let again = model.retain(&days(7), 30 * DAY);
    assert!(!goes(&again, &backups[3]));
    assert!(matches!(keeps(&again, &backups[4])[..], [.., KeepReason::Unreadable { .. }]));
    assert!(check_plan(&plan, &model.inventory()).is_err());
    assert_eq!(check_plan(&again, &model.inventory()), Ok(()));
    let much_later = model.retain(&days(1), 30 * DAY);
    assert!(!goes(&much_later, &backups[4]), "what can't be read is never touched");
}

#[test]
fn a_running_backup_holds_from_its_first_object_on_when_its_clock_was_ahead() {
    let (mut model, backups) = archive(30, 5);
    let id = BackupId::new(at(40 * DAY), 9);
    model.unfinished.insert(id, 16 * DAY);
    let policy = RetentionPolicy { unfinished_backups: HowLong::days(20), ..days(1) };
    let plan = model.retain(&policy, 30 * DAY);
    assert!(goes(&plan, &backups[3]) && !goes(&plan, &backups[4]), "{:?}", plan.deletions);
    assert!(gone(&plan, 1).iter().all(|number| model.written[&(1, *number)] < 16 * DAY));
    assert_eq!(check_plan(&plan, &model.inventory()), Ok(()));
}
