//! Plans over small archives made by hand.

use proptest::prelude::*;
use walden_pg::{Lsn, PgMajor, TimelineHistory, TimelineId, WalLevel};

use super::world::{SEGMENT, What, World, at, request, timeline};
use crate::layout::BackupId;
use crate::recovery::path::TimelinePath;
use crate::recovery::*;

fn plan(world: &World, target: RecoveryTarget) -> Result<RecoveryPlan, Refusal> {
    world.plan(&request(target))
}

fn refused(world: &World, target: RecoveryTarget) -> RefusalReason {
    plan(world, target).unwrap_err().reason
}

/// A backup ended at second 100, commits every ten seconds, one to a segment, from 110 to 200.
fn plain() -> World {
    let mut world = World::new();
    world.backup(1, 100);
    for commit in 1..=10 {
        world.commit(1, 700 + commit, 100 + i64::from(commit) * 10);
        world.fill(1);
    }
    world.add(1, 64, What::Other);
    world
}

fn kept(plan: &RecoveryPlan) -> Option<u32> {
    plan.stop.last_kept.map(|commit| commit.xid.get())
}

fn left_out(plan: &RecoveryPlan) -> Option<u32> {
    plan.stop.first_left_out.map(|commit| commit.xid.get())
}

#[test]
fn a_time_stops_before_the_first_commit_past_it() {
    let world = plain();
    let plan = plan(&world, RecoveryTarget::Time(at(155))).unwrap();
    assert_eq!((kept(&plan), left_out(&plan)), (Some(705), Some(706)));
    assert_eq!(plan.stop.kind, StopKind::BeforeTransactionEnd);
    assert_eq!((plan.left_out_by_order_count, plan.left_out_by_order_exact), (0, true));
    let exactly = RecoveryRequest { exclusive: true, ..request(RecoveryTarget::Time(at(150))) };
    let plan = world.plan(&exactly).unwrap();
    assert_eq!((kept(&plan), left_out(&plan)), (Some(704), Some(705)));
}

#[test]
fn what_the_order_of_the_wal_leaves_out_is_told() {
    let mut world = plain();
    world.commit(1, 801, 300);
    world.commit(1, 802, 250);
    world.fill(1);
    world.commit(1, 803, 260);
    world.commit(1, 804, 310);
    let plan = plan(&world, RecoveryTarget::Time(at(299))).unwrap();
    assert_eq!((kept(&plan), left_out(&plan)), (Some(710), Some(801)));
    let late: Vec<u32> = plan.left_out_by_order.iter().map(|commit| commit.xid.get()).collect();
    assert_eq!(late, [802, 803]);
    assert!(plan.warnings[0].contains("--target-xid 803"), "{:?}", plan.warnings);
}

#[test]
fn an_abort_stops_as_a_commit_does() {
    let mut world = plain();
    world.add(1, 64, What::Abort { xid: 900, second: 400 });
    let plan = plan(&world, RecoveryTarget::Time(at(399))).unwrap();
    assert_eq!((kept(&plan), left_out(&plan)), (Some(710), None));
}

#[test]
fn a_time_with_nothing_after_it_is_refused_with_the_last_moment() {
    let world = plain();
    let refusal = plan(&world, RecoveryTarget::Time(at(200))).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::TargetAfterArchive);
    let last = refusal.nearest_before.unwrap();
    assert_eq!((last.xid.map(walden_pg::Xid::get), last.time), (Some(710), Some(at(200))));
    // And that moment can be had.
    let there = plan(&world, RecoveryTarget::Lsn(last.lsn)).unwrap();
    assert_eq!((kept(&there), left_out(&there)), (Some(710), None));
    insta::assert_snapshot!(refusal.message, @"no transaction in the archive ended after time 2026-11-18 11:10:00.000000+00: PostgreSQL would replay everything, not find it, and end with an error");
}

#[test]
fn a_time_before_the_backups_end_is_refused_although_postgresql_would_go_on() {
    let world = plain();
    let refusal = plan(&world, RecoveryTarget::Time(at(99))).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::TargetBeforeBackups);
    assert_eq!(refusal.nearest_after.and_then(|moment| moment.time), Some(at(100)));
}

#[test]
fn targets_outside_the_archive_are_refused() {
    let world = plain();
    assert_eq!(refused(&world, RecoveryTarget::Lsn(Lsn::new(0x28))), RefusalReason::TargetBeforeBackups);
    assert_eq!(refused(&world, RecoveryTarget::Xid(999)), RefusalReason::TargetNotFound);
    assert_eq!(refused(&world, RecoveryTarget::Name("none".into())), RefusalReason::TargetNotFound);
    assert_eq!(refused(&world, RecoveryTarget::Time(at(2_000_000))), RefusalReason::TargetAfterArchive);
    assert_eq!(refused(&world, RecoveryTarget::Lsn(Lsn::new(u64::MAX))), RefusalReason::TargetAfterArchive);
    assert_eq!(refused(&World::new(), RecoveryTarget::Latest), RefusalReason::NoBackup);
}

#[test]
fn contradictions_are_refused() {
    let exclusive = RecoveryRequest { exclusive: true, ..request(RecoveryTarget::Latest) };
    assert_eq!(plain().plan(&exclusive).unwrap_err().reason, RefusalReason::InvalidRequest);
    let unknown =
        RecoveryRequest { backup: Some(BackupId::new(at(0), 9)), ..request(RecoveryTarget::Latest) };
    assert_eq!(plain().plan(&unknown).unwrap_err().reason, RefusalReason::UnknownBackup);
}

#[test]
fn settings_leave_no_room_for_an_older_target() {
    let mut world = World::new();
    world.backup(1, 100);
    world.commit(1, 700, 1200);
    let time = "2026-11-18T11:25:58.204113Z".parse().unwrap();
    let planned = plan(&world, RecoveryTarget::Time(time)).unwrap();
    let settings: Vec<String> =
        planned.settings.iter().map(|s| format!("{} = '{}'", s.name, s.value)).collect();
    insta::assert_snapshot!(settings.join("\n"), @r"
    recovery_target = ''
    recovery_target_lsn = ''
    recovery_target_xid = ''
    recovery_target_name = ''
    recovery_target_time = '2026-11-18 11:25:58.204113+00'
    recovery_target_inclusive = 'on'
    recovery_target_timeline = '1'
    recovery_target_action = 'pause'
    ");
}

#[test]
fn a_gap_is_refused_with_what_is_missing_and_how_far_one_can_get() {
    let mut world = plain();
    world.lost.extend([(1, 5), (1, 6)]);
    let refusal = plan(&world, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
    insta::assert_snapshot!(refusal.message, @"backup 20261118T110810Z-0000: WAL is missing: segment 000000010000000100000001 and 1 after it");
    assert_eq!(refusal.nearest_before.and_then(|moment| moment.time), Some(at(140)));
    // What lies before the gap can be had, and exactly.
    let before = plan(&world, RecoveryTarget::Time(at(135))).unwrap();
    assert_eq!((kept(&before), left_out(&before)), (Some(703), Some(704)));
    assert_eq!((before.segments.count, before.segments.missing_count), (4, 0));
    // A time whose record lies behind the gap can't.
    assert_eq!(refused(&world, RecoveryTarget::Time(at(145))), RefusalReason::MissingSegments);
    // A backup behind the gap serves the end.
    world.backup(1, 500);
    assert_eq!(plan(&world, RecoveryTarget::Latest).unwrap().backup.id, world.backups[1].id);
}

#[test]
fn damage_on_the_way_is_refused_and_before_the_way_is_not() {
    let mut world = World::new();
    let first = world.add(1, 64, What::Other);
    world.backup(1, 100);
    world.commit(1, 700, 110);
    let second = world.add(1, 64, What::Other);
    world.commit(1, 701, 120);
    world.damaged.insert((1, first));
    assert_eq!(kept(&plan(&world, RecoveryTarget::Latest).unwrap()), Some(701));
    world.damaged.insert((1, second));
    let refusal = plan(&world, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::DamagedWal);
    assert_eq!(refusal.nearest_before.and_then(|moment| moment.xid).map(walden_pg::Xid::get), Some(700));
    assert_eq!(world.window().timelines[0].damaged.len(), 1);
}

#[test]
fn minimal_wal_is_a_wall_on_every_major() {
    let mut world = World::new();
    world.backup(1, 100);
    world.commit(1, 700, 110);
    world.add(1, 64, What::Parameters { connections: 100, level: WalLevel::Minimal });
    world.commit(1, 701, 120);
    for major in [PgMajor::V13, PgMajor::V14, PgMajor::V17] {
        world.major = major;
        assert_eq!(refused(&world, RecoveryTarget::Latest), RefusalReason::WalLevelMinimal, "{major}");
    }
}

#[test]
fn settings_that_grew_before_the_stop_are_required_and_later_ones_are_not() {
    let mut world = World::new();
    world.backup(1, 100);
    world.add(1, 64, What::Parameters { connections: 300, level: WalLevel::Replica });
    world.commit(1, 700, 110);
    world.fill(1);
    world.commit(1, 701, 120);
    world.add(1, 64, What::Parameters { connections: 500, level: WalLevel::Replica });
    world.commit(1, 702, 130);
    assert_eq!(plan(&world, RecoveryTarget::Time(at(115))).unwrap().required.max_connections, 300);
    assert_eq!(plan(&world, RecoveryTarget::Latest).unwrap().required.max_connections, 500);
}

#[test]
fn the_first_restore_point_of_a_name_after_the_backup_counts_and_all_are_told() {
    let mut world = World::new();
    world.backup(1, 100);
    world.add(1, 64, What::Point("here".into()));
    world.commit(1, 700, 110);
    world.fill(1);
    let second = world.add(1, 64, What::Point("here".into()));
    let planned = plan(&world, RecoveryTarget::Name("here".into())).unwrap();
    assert_eq!((kept(&planned), left_out(&planned), planned.same_name.len()), (None, Some(700), 2));
    assert!(planned.warnings[0].contains(&Lsn::new(second).to_string()), "{:?}", planned.warnings);
}

#[test]
fn a_parent_that_goes_on_after_the_fork_is_told() {
    let mut world = plain();
    let fork = world.streams[&1][6].start;
    world.fork(1, 2, fork);
    world.commit(2, 900, 400);
    let planned = plan(&world, RecoveryTarget::Time(at(115))).unwrap();
    let told = |warning: &String| warning.contains("--target-timeline 1 only");
    assert!(planned.warnings.iter().any(told), "{:?}", planned.warnings);
}

#[test]
fn the_childs_fork_segment_must_be_there() {
    let mut world = plain();
    let fork = world.streams[&1].last().unwrap().end;
    world.fork(1, 2, fork);
    // Nothing of the child has arrived: it is not passed over.
    world.lost.insert((2, fork / SEGMENT));
    assert_eq!(refused(&world, RecoveryTarget::Latest), RefusalReason::MissingSegments);
    world.commit(2, 900, 400);
    world.fill(2);
    world.commit(2, 901, 410);
    // The parent's segment of that number is there and PostgreSQL would take it: the plan must not.
    let refusal = plan(&world, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
    assert!(refusal.message.contains("segment 00000002"), "{}", refusal.message);
    let gap = &world.window().timelines[1].gaps[0];
    assert!(gap.cause.contains("timeline begins"), "{}", gap.cause);
    world.lost.clear();
    let latest = plan(&world, RecoveryTarget::Latest).unwrap();
    assert_eq!((latest.target_timeline, latest.timeline_path.len()), (timeline(2), 2));
    assert_eq!(kept(&latest), Some(901));
    let current = RecoveryRequest { timeline: TargetTimeline::Current, ..request(RecoveryTarget::Latest) };
    assert_eq!(kept(&world.plan(&current).unwrap()), Some(710));
}

#[test]
fn a_backup_on_another_branch_is_not_taken() {
    let mut world = plain();
    let fork = world.streams[&1][6].start;
    world.fork(1, 2, fork);
    world.commit(2, 900, 400);
    // The newer backup was taken on timeline 1 after the fork.
    world.backup(1, 500);
    let latest = plan(&world, RecoveryTarget::Latest).unwrap();
    assert_eq!(latest.backup.id, world.backups[0].id);
    assert_eq!(latest.rejected[0].reason, BackupRejection::NotOnPath);
    let told = |warning: &String| warning.contains("--target-timeline 1");
    assert!(latest.warnings.iter().any(told), "{:?}", latest.warnings);
}

#[test]
fn latest_is_refused_while_a_newer_timeline_cannot_be_followed() {
    let mut world = plain();
    let fork = world.streams[&1].last().unwrap().end;
    world.fork(1, 2, fork);
    world.commit(2, 900, 400);
    let mut snapshot = world.snapshot();
    snapshot.histories.clear();
    let refused = |snapshot: &crate::CatalogSnapshot| match plan_recovery(
        snapshot,
        &request(RecoveryTarget::Latest),
        at(100_000),
    ) {
        Planning::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&snapshot), RefusalReason::UnknownTimeline);
    snapshot.segments.remove(&timeline(2));
    snapshot.damaged_histories.insert(timeline(2), "torn".into());
    assert_eq!(refused(&snapshot), RefusalReason::UnknownTimeline);
}

#[test]
fn of_two_backups_the_one_that_is_faster_is_taken_and_the_arithmetic_shown() {
    let mut world = plain();
    world.backup(1, 500);
    world.commit(1, 800, 510);
    let newest = plan(&world, RecoveryTarget::Latest).unwrap();
    assert_eq!(newest.backup.id, world.backups[1].id);
    assert_eq!(newest.rejected[0].reason, BackupRejection::Outranked);
    // The older one is much smaller: rolling forward is less work than writing the newer one.
    world.backups[1].bytes = 1 << 50;
    let older = plan(&world, RecoveryTarget::Latest).unwrap();
    assert_eq!(older.backup.id, world.backups[0].id);
    assert!(older.rejected[0].expected_seconds.unwrap() > older.backup.expected_seconds);
    assert!(older.estimate.basis.contains("MB of WAL at 50 MB/s"), "{}", older.estimate.basis);
}

#[test]
fn speed_does_not_decide_what_one_gets() {
    let mut world = World::new();
    world.backup(1, 100);
    world.commit(1, 700, 110);
    // A clock that was ahead for a moment.
    world.commit(1, 701, 900);
    world.commit(1, 702, 120);
    world.backup(1, 200);
    world.commit(1, 703, 300);
    world.commit(1, 704, 400);
    let target = RecoveryTarget::Time(at(350));
    assert_eq!(kept(&plan(&world, target.clone()).unwrap()), Some(703));
    world.backups[1].bytes = 1 << 50;
    let slower = plan(&world, target).unwrap();
    assert_eq!((kept(&slower), &slower.backup.id), (Some(703), &world.backups[1].id));
    assert!(slower.rejected[0].message.contains("elsewhere"), "{:?}", slower.rejected);
}

#[test]
fn a_target_met_before_the_backup_is_consistent_is_refused_in_its_own_words() {
    let mut world = World::new();
    let start = world.add(1, 64, What::Other);
    world.commit(1, 700, 400);
    world.add(1, 64, What::BackupEnd(start));
    world.record_backup(1, start, 300);
    world.commit(1, 701, 500);
    let refusal = plan(&world, RecoveryTarget::Time(at(350))).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::TargetBeforeBackups);
    assert!(refusal.message.contains("is consistent only from"), "{}", refusal.message);
    assert_eq!(refusal.nearest_before, None);
    assert_eq!(refusal.nearest_after.map(|moment| moment.lsn), Some(world.backups[0].stop_lsn));
}

#[test]
fn a_stop_before_the_fork_is_on_the_parent() {
    let mut world = plain();
    let fork = world.streams[&1][6].start;
    world.fork(1, 2, fork);
    world.commit(2, 900, 400);
    let last = plan(&world, RecoveryTarget::Lsn(world.backups[0].stop_lsn)).unwrap();
    assert_eq!((last.stop.timeline, last.target_timeline), (timeline(1), timeline(2)));
    assert_eq!(plan(&world, RecoveryTarget::Latest).unwrap().stop.timeline, timeline(2));
}

#[test]
fn a_standbys_backup_is_consistent_at_its_position() {
    let mut world = plain();
    world.backups[0].source = crate::records::BackupSource::Standby;
    let commit = &world.streams[&1][4];
    world.backups[0].stop_lsn = Lsn::new(commit.end);
    let consistent = plan(&world, RecoveryTarget::Immediate).unwrap();
    assert_eq!(consistent.stop.replayed_to, Lsn::new(commit.end));
}

#[test]
fn what_is_on_another_timeline_or_before_the_backup_is_told() {
    let mut world = plain();
    let fork = world.streams[&1][6].start;
    world.add(1, 64, What::Point("old".into()));
    world.commit(1, 750, 290);
    world.commit(1, 751, 310);
    world.fork(1, 2, fork);
    world.commit(2, 900, 400);
    world.commit(2, 901, 500);
    for target in [RecoveryTarget::Xid(750), RecoveryTarget::Name("old".into())] {
        let refusal = plan(&world, target).unwrap_err();
        assert!(refusal.message.contains("it is on timeline 1"), "{}", refusal.message);
        assert_eq!(refusal.hint.as_deref(), Some("--target-timeline 1"));
    }
    // At second 300 the server was on timeline 1, and transaction 750 is not on the way to timeline 2.
    let planned = plan(&world, RecoveryTarget::Time(at(300))).unwrap();
    assert!(planned.warnings[0].contains("was on timeline 1"), "{:?}", planned.warnings);
    assert!(planned.warnings[0].contains("transaction 750"), "{:?}", planned.warnings);
    let later = plan(&world, RecoveryTarget::Time(at(450))).unwrap();
    assert!(
        !later.warnings.iter().any(|warning| warning.contains("was on timeline")),
        "{:?}",
        later.warnings
    );
    let mut world = plain();
    world.backup(1, 500);
    let behind =
        RecoveryRequest { backup: Some(world.backups[1].id.clone()), ..request(RecoveryTarget::Xid(702)) };
    let refusal = world.plan(&behind).unwrap_err();
    assert!(refusal.message.contains("not behind this backup"), "{}", refusal.message);
    assert_eq!(refusal.nearest_after, None);
}

#[test]
fn behind_a_gap_nothing_is_said_to_be_counted() {
    let mut world = plain();
    world.lost.insert((1, 5));
    let before = plan(&world, RecoveryTarget::Xid(704)).unwrap();
    assert_eq!((before.stop.commits_left_out, before.stop.commits_left_out_exact), (0, false));
}

#[test]
fn the_window_shows_gaps_moments_and_how_far_each_backup_reaches() {
    let mut world = plain();
    world.lost.insert((1, 5));
    world.backup(1, 500);
    world.commit(1, 800, 510);
    let window = world.window();
    let only = &window.timelines[0];
    assert_eq!(only.first.and_then(|first| first.time), Some(at(100)));
    assert_eq!(only.last.and_then(|last| last.time), Some(at(510)));
    assert_eq!(window.rpo_seconds, Some(1_000_000 - 510));
    let ranges: Vec<_> = only.restorable.iter().map(|range| (range.first.time, range.last.time)).collect();
    assert_eq!(ranges, [(Some(at(100)), Some(at(140))), (Some(at(500)), Some(at(510)))]);
    assert_eq!((only.gaps[0].count, only.gaps[0].partial), (1, false));
}

#[test]
fn the_window_rests_on_objects_from_the_newest_backup_on() {
    let per_log = (1 << 32) / SEGMENT;
    let mut world = World::new();
    world.backup(1, 100);
    // The commit of second 1000 + n is in the segment behind n; a backup begins in the third directory.
    for number in 0..3 * per_log + 2 {
        let second = 1000 + i64::try_from(number).unwrap();
        if number == 2 * per_log {
            world.backup(1, second);
        }
        world.commit(1, 700, second);
        world.fill(1);
    }
    world.rolled_up.extend([(1, 1), (1, 2)]);
    let told = |world: &World| {
        let window = world.window();
        (window.newest.and_then(|newest| newest.time), window.by_rollup, window.timelines[0].gaps.len())
    };
    let second = |number: u64| Some(at(1000 + i64::try_from(number).unwrap()));
    assert_eq!(told(&world), (second(3 * per_log + 1), per_log, 0));
    // Lost behind the newest backup: the rollup still tells of it, and is not believed.
    world.lost.insert((1, 2 * per_log + 2));
    assert_eq!(told(&world), (second(2 * per_log), per_log, 1));
    // Lost before it: counts by the rollup's word, as the window says.
    world.lost = [(1, per_log + 2)].into();
    assert_eq!(told(&world), (second(3 * per_log + 1), per_log, 0));
}

#[test]
fn switch_points_that_fall_are_searched_newest_first() {
    let text = b"1\t0/1200000\ttest\n2\t0/111D980\ttest\n";
    let history = TimelineHistory::parse(timeline(3), text).unwrap();
    let path = TimelinePath::to(timeline(3), Some(&history));
    let steps: Vec<(u32, u64, Option<u64>)> =
        path.steps().iter().map(|s| (s.timeline.get(), s.start_lsn.get(), s.end_lsn.map(Lsn::get))).collect();
    assert_eq!(steps, [(1, 0, Some(0x11_1D980)), (3, 0x11_1D980, None)]);
}

proptest! {
    /// PostgreSQL's rule, spelled out: from the tip upwards the first entry that covers the position.
    #[test]
    fn paths_agree_with_a_plain_search(switches in proptest::collection::vec(1u64..2000, 0..6), lsn in 0u64..2200) {
        let lines: Vec<String> =
            switches.iter().enumerate().map(|(at, lsn)| format!("{}\t0/{lsn:X}\tx\n", at + 1)).collect();
        let text = lines.concat();
        let tip = timeline(u32::try_from(switches.len()).unwrap() + 1);
        let history = TimelineHistory::parse(tip, text.as_bytes()).unwrap();
        let path = TimelinePath::to(tip, Some(&history));
        let mut expected = None;
        for index in (0..=switches.len()).rev() {
            let begin = if index == 0 { 0 } else { switches[index - 1] };
            let end = switches.get(index).copied().unwrap_or(u64::MAX);
            if begin <= lsn && lsn < end {
                expected = Some(u32::try_from(index).unwrap() + 1);
                break;
            }
        }
        prop_assert_eq!(path.timeline_at(Lsn::new(lsn)).map(TimelineId::get), expected);
    }
}
