//! Plans over small archives, and against a model that tries every backup and every segment.

use jiff::Timestamp;
use proptest::prelude::*;
use walden_pg::{Lsn, SystemId, TimelineHistory, TimelineId, WalSegmentSize};

use super::path::TimelinePath;
use super::*;
use crate::layout::BackupId;
use crate::records::{
    BackupKind, BackupRecord, BackupSource, IncarnationRecord, ObjectReference, ServerSettings, Writer,
};
use crate::snapshot::CatalogSnapshot;

const MIB: u64 = 1 << 20;

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn archive() -> CatalogSnapshot {
    CatalogSnapshot::new(IncarnationRecord {
        server: "main".parse().unwrap(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7),
        major: walden_pg::PgMajor::new(17).unwrap(),
        segment_size: WalSegmentSize::new(16 * MIB).unwrap(),
        created_by: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
    })
}

fn add_segments(snapshot: &mut CatalogSnapshot, on: u32, numbers: impl IntoIterator<Item = u64>) {
    let size = snapshot.incarnation.segment_size;
    for number in numbers {
        let id = walden_pg::SegmentId::new(timeline(on), walden_pg::SegmentNumber::new(number));
        snapshot.add_segment(id.name(size), 1000);
    }
}

/// A backup on a timeline inside the segment of the given number, ended at a second.
fn backup(on: u32, segment: u64, second: i64) -> BackupRecord {
    BackupRecord {
        id: BackupId::new(at(second - 10), 0),
        kind: BackupKind::Full,
        parent: None,
        server: "main".parse().unwrap(),
        incarnation: "7-17".parse().unwrap(),
        source: BackupSource::Primary,
        label: "test".into(),
        timeline: timeline(on),
        stop_timeline: timeline(on),
        start_lsn: Lsn::new(segment * 16 * MIB + 0x28),
        checkpoint_lsn: Lsn::new(segment * 16 * MIB + 0x60),
        stop_lsn: Lsn::new(segment * 16 * MIB + 0x100),
        next_xid: 1000 + segment,
        oldest_xid: Some(1000 + segment),
        segment_size: WalSegmentSize::new(16 * MIB).unwrap(),
        started_at: at(second - 10),
        finished_at: at(second),
        bytes: 4000,
        stored_bytes: 2000,
        files: 10,
        packs: 1,
        manifest: ObjectReference { plain_bytes: 1, plain_sha256: "0".repeat(64), object_bytes: 1 },
        names: None,
        tablespaces: Vec::new(),
        settings: ServerSettings {
            server_version: "17.10".into(),
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            wal_level: "replica".into(),
            data_checksums: true,
        },
        checksum_failures: Vec::new(),
        requires: Vec::new(),
        writer: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
    }
}

fn request(target: RecoveryTarget) -> RecoveryRequest {
    RecoveryRequest {
        target,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: RecoveryAction::Pause,
        backup: None,
    }
}

fn plan(snapshot: &CatalogSnapshot, target: RecoveryTarget) -> Result<RecoveryPlan, Refusal> {
    plan_recovery(snapshot, &request(target), at(100_000))
}

/// Two backups, segments 2 to 9 on timeline 1.
fn plain_archive() -> CatalogSnapshot {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, 2..10);
    snapshot.backups = vec![backup(1, 2, 100), backup(1, 6, 500)];
    snapshot
}

#[test]
fn the_newest_backup_before_the_time_is_taken() {
    let snapshot = plain_archive();
    let early = plan(&snapshot, RecoveryTarget::Time(at(499))).unwrap();
    assert_eq!(early.backup.id, snapshot.backups[0].id);
    assert_eq!(early.rejected[0].reason, BackupRejection::EndsAfterTarget);
    let late = plan(&snapshot, RecoveryTarget::Time(at(500))).unwrap();
    assert_eq!(late.backup.id, snapshot.backups[1].id);
    assert_eq!((late.segments.count, late.segments.bytes), (4, 4000));
    assert_eq!(late.reach, Reach::WalPresent);
}

#[test]
fn the_same_request_gives_the_same_plan_whenever_it_is_asked() {
    let snapshot = plain_archive();
    let request = request(RecoveryTarget::Time(at(600)));
    let first = plan_recovery(&snapshot, &request, at(1000)).unwrap();
    let second = plan_recovery(&snapshot, &request, at(90_000)).unwrap();
    assert_eq!(RecoveryPlan { planned_at: at(1000), ..second }, first);
}

#[test]
fn settings_leave_no_room_for_an_older_target() {
    let target = RecoveryTarget::Time("2026-11-20T14:31:58.204113Z".parse().unwrap());
    let mut snapshot = plain_archive();
    snapshot.backups.truncate(1);
    let planned = plan_recovery(&snapshot, &request(target), at(100_000_000)).unwrap();
    let settings: Vec<String> =
        planned.settings.iter().map(|s| format!("{} = '{}'", s.name, s.value)).collect();
    insta::assert_snapshot!(settings.join("\n"), @r"
    recovery_target = ''
    recovery_target_lsn = ''
    recovery_target_xid = ''
    recovery_target_name = ''
    recovery_target_time = '2026-11-20 14:31:58.204113+00'
    recovery_target_inclusive = 'on'
    recovery_target_timeline = '1'
    recovery_target_action = 'pause'
    ");
}

#[test]
fn a_gap_is_refused_with_what_is_missing_and_how_far_one_can_get() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, [2, 3, 4, 7, 8]);
    snapshot.backups = vec![backup(1, 2, 100)];
    let refusal = plan(&snapshot, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
    assert_eq!(refusal.nearest_before, Some(Lsn::new(5 * 16 * MIB)));
    insta::assert_snapshot!(refusal.message, @"backup 20261118T110810Z-0000: WAL is missing: 2 of 7 segments (000000010000000000000005, 000000010000000000000006)");
    let before = plan(&snapshot, RecoveryTarget::Lsn(Lsn::new(4 * 16 * MIB + 500))).unwrap();
    assert_eq!(before.segments.count, 3);
    let consistent = plan(&snapshot, RecoveryTarget::Immediate).unwrap();
    assert_eq!((consistent.segments.count, consistent.reach), (1, Reach::Proved));
}

#[test]
fn a_moment_before_a_gap_is_planned_with_a_warning() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, [2, 3, 4, 7, 8]);
    snapshot.backups = vec![backup(1, 2, 100), backup(1, 7, 900)];
    let planned = plan(&snapshot, RecoveryTarget::Time(at(500))).unwrap();
    assert_eq!(planned.backup.id, snapshot.backups[0].id);
    assert_eq!((planned.segments.count, planned.segments.missing_count), (3, 0));
    assert_eq!(planned.wal_end_lsn, Lsn::new(5 * 16 * MIB));
    assert!(planned.warnings[0].contains("the target must lie before 0/5000000"), "{:?}", planned.warnings);
    // The WAL that makes the backup consistent must be there in any case.
    snapshot.segments.clear();
    add_segments(&mut snapshot, 1, [3, 4]);
    let refusal = plan(&snapshot, RecoveryTarget::Time(at(500))).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
}

#[test]
fn a_timeline_of_which_nothing_has_arrived_is_not_passed_over() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, 2..6);
    let fork = Lsn::new(5 * 16 * MIB + 777);
    let history = TimelineHistory::without_parents(timeline(1)).fork(timeline(2), fork, "test").unwrap();
    snapshot.histories.insert(timeline(2), history);
    snapshot.backups = vec![backup(1, 2, 100)];
    let refusal = plan(&snapshot, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
    assert!(refusal.message.contains("000000020000000000000005"), "{}", refusal.message);
}

#[test]
fn latest_is_refused_while_a_newer_timeline_cannot_be_followed() {
    let mut snapshot = plain_archive();
    add_segments(&mut snapshot, 2, 9..11);
    let refusal = plan(&snapshot, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::UnknownTimeline);
    let window = recovery_window(&snapshot, at(1000));
    assert!(window.timelines[1].history_missing && window.timelines[1].restorable.is_empty());
    let chosen =
        RecoveryRequest { timeline: TargetTimeline::Id(timeline(1)), ..request(RecoveryTarget::Latest) };
    assert_eq!(plan_recovery(&snapshot, &chosen, at(100_000)).unwrap().target_timeline, timeline(1));
    snapshot.segments.remove(&timeline(2));
    snapshot.damaged_histories.insert(timeline(2), "torn".into());
    let refusal = plan(&snapshot, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::UnknownTimeline);
}

#[test]
fn a_backup_with_an_unreadable_record_is_told() {
    let mut snapshot = plain_archive();
    let id = BackupId::new(at(800), 1);
    snapshot.unreadable_backups.insert(id.clone(), "its hash differs".into());
    let planned = plan(&snapshot, RecoveryTarget::Latest).unwrap();
    assert!(planned.rejected.iter().any(|r| r.id == id && r.reason == BackupRejection::Unreadable));
    assert!(planned.warnings.iter().any(|warning| warning.contains(id.as_str())), "{:?}", planned.warnings);
}

#[test]
fn a_transaction_that_was_open_over_the_backup_is_taken_when_asked_for() {
    let mut snapshot = plain_archive();
    snapshot.backups.remove(0);
    snapshot.backups[0].oldest_xid = Some(1000);
    let target = RecoveryTarget::Xid(1003);
    assert_eq!(plan(&snapshot, target.clone()).unwrap_err().reason, RefusalReason::TargetBeforeBackups);
    let backup = Some(snapshot.backups[0].id.clone());
    let asked = RecoveryRequest { backup: backup.clone(), ..request(target) };
    assert!(plan_recovery(&snapshot, &asked, at(100_000)).is_ok());
    let over = RecoveryRequest { backup, ..request(RecoveryTarget::Xid(999)) };
    assert!(plan_recovery(&snapshot, &over, at(100_000)).is_err());
}

#[test]
fn a_parent_that_goes_on_after_the_fork_is_told() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, 2..10);
    add_segments(&mut snapshot, 2, 4..6);
    let fork = Lsn::new(4 * 16 * MIB + 777);
    let history = TimelineHistory::without_parents(timeline(1)).fork(timeline(2), fork, "test").unwrap();
    snapshot.histories.insert(timeline(2), history);
    snapshot.backups = vec![backup(1, 2, 100)];
    let planned = plan(&snapshot, RecoveryTarget::Time(at(500))).unwrap();
    let told = |warning: &String| warning.contains("--target-timeline 1 only");
    assert!(planned.warnings.iter().any(told), "{:?}", planned.warnings);
}

#[test]
fn a_backup_after_the_gap_serves_the_end() {
    let mut snapshot = plain_archive();
    snapshot.segments.clear();
    add_segments(&mut snapshot, 1, [2, 3, 6, 7, 8]);
    let latest = plan(&snapshot, RecoveryTarget::Latest).unwrap();
    assert_eq!(latest.backup.id, snapshot.backups[1].id);
}

#[test]
fn targets_outside_the_archive_are_refused() {
    let snapshot = plain_archive();
    let reason = |target| plan(&snapshot, target).unwrap_err().reason;
    assert_eq!(reason(RecoveryTarget::Time(at(99))), RefusalReason::TargetBeforeBackups);
    assert_eq!(reason(RecoveryTarget::Lsn(Lsn::new(0x28))), RefusalReason::TargetBeforeBackups);
    assert_eq!(reason(RecoveryTarget::Xid(999)), RefusalReason::TargetBeforeBackups);
    assert_eq!(reason(RecoveryTarget::Time(at(100_001))), RefusalReason::TargetAfterArchive);
    assert_eq!(reason(RecoveryTarget::Lsn(Lsn::new(u64::MAX))), RefusalReason::TargetAfterArchive);
    assert_eq!(plan(&archive(), RecoveryTarget::Latest).unwrap_err().reason, RefusalReason::NoBackup);
}

#[test]
fn the_childs_fork_segment_must_be_there() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, 2..6);
    let fork = Lsn::new(4 * 16 * MIB + 777);
    let history = TimelineHistory::without_parents(timeline(1)).fork(timeline(2), fork, "test").unwrap();
    snapshot.histories.insert(timeline(2), history);
    snapshot.backups = vec![backup(1, 2, 100)];
    add_segments(&mut snapshot, 2, [5, 6]);
    // Segment 4 of timeline 1 is there and PostgreSQL would take it: the plan must not.
    let refusal = plan(&snapshot, RecoveryTarget::Latest).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::MissingSegments);
    assert!(refusal.message.contains("000000020000000000000004"), "{}", refusal.message);
    add_segments(&mut snapshot, 2, [4]);
    let latest = plan(&snapshot, RecoveryTarget::Latest).unwrap();
    assert_eq!(latest.target_timeline, timeline(2));
    assert_eq!(latest.timeline_path.len(), 2);
    assert_eq!(latest.segments.count, 5);
    let current = RecoveryRequest { timeline: TargetTimeline::Current, ..request(RecoveryTarget::Latest) };
    let current = plan_recovery(&snapshot, &current, at(100_000)).unwrap();
    assert_eq!((current.target_timeline, current.segments.count), (timeline(1), 4));
}

#[test]
fn a_backup_on_another_branch_is_not_taken() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, 2..10);
    add_segments(&mut snapshot, 2, 4..6);
    let fork = Lsn::new(4 * 16 * MIB + 777);
    let history = TimelineHistory::without_parents(timeline(1)).fork(timeline(2), fork, "test").unwrap();
    snapshot.histories.insert(timeline(2), history);
    // The newer backup was taken on timeline 1 after the fork.
    snapshot.backups = vec![backup(1, 2, 100), backup(1, 8, 500)];
    let latest = plan(&snapshot, RecoveryTarget::Latest).unwrap();
    assert_eq!(latest.backup.id, snapshot.backups[0].id);
    assert_eq!(latest.rejected[0].reason, BackupRejection::NotOnPath);
    let told = |warning: &String| warning.contains("--target-timeline 1");
    assert!(latest.warnings.iter().any(told), "{:?}", latest.warnings);
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

#[test]
fn thirty_two_bit_transactions_wrap() {
    let mut snapshot = plain_archive();
    snapshot.backups[0].next_xid = (3 << 32) + 50;
    snapshot.backups[1].next_xid = (3 << 32) + 4_000_000_000;
    assert_eq!(plan(&snapshot, RecoveryTarget::Xid(60)).unwrap().backup.id, snapshot.backups[1].id);
    assert_eq!(
        plan(&snapshot, RecoveryTarget::Xid((3 << 32) + 60)).unwrap().backup.id,
        snapshot.backups[0].id
    );
}

#[test]
fn contradictions_are_refused() {
    let exclusive = RecoveryRequest { exclusive: true, ..request(RecoveryTarget::Latest) };
    let refusal = plan_recovery(&plain_archive(), &exclusive, at(100_000)).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::InvalidRequest);
    let unknown =
        RecoveryRequest { backup: Some(BackupId::new(at(0), 9)), ..request(RecoveryTarget::Latest) };
    let refusal = plan_recovery(&plain_archive(), &unknown, at(100_000)).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::UnknownBackup);
}

#[test]
fn the_window_shows_gaps_and_how_far_each_backup_reaches() {
    let mut snapshot = archive();
    add_segments(&mut snapshot, 1, [2, 3, 6, 7]);
    snapshot.partials.push("000000010000000000000005".parse().unwrap());
    snapshot.backups = vec![backup(1, 2, 100), backup(1, 5, 300), backup(1, 6, 500)];
    let window = recovery_window(&snapshot, at(1000));
    let timeline = &window.timelines[0];
    assert_eq!(timeline.first, Some(snapshot.backups[0].stop_lsn));
    assert_eq!(timeline.last, Some(Lsn::new(8 * 16 * MIB)));
    let size = 16 * MIB;
    let ranges: Vec<(u64, u64)> =
        timeline.restorable.iter().map(|range| (range.first.get() / size, range.last.get() / size)).collect();
    assert_eq!(ranges, [(2, 4), (6, 8)], "what lies in the gap can't be restored");
    let gap = &timeline.gaps[0];
    assert_eq!((gap.count, gap.partial), (2, true));
    let reach: Vec<Option<u64>> =
        timeline.backups.iter().map(|b| b.last.map(|l| l.get() / (16 * MIB))).collect();
    assert_eq!(reach, [Some(4), None, Some(8)]);
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

    /// Whatever is missing: a plan has all that it needs, and a refusal is right that no backup has.
    #[test]
    fn a_plan_never_lacks_a_segment(
        present in proptest::collection::btree_set(1u64..12, 0..12),
        starts in proptest::collection::btree_set(1u64..10, 1..4),
        target in 0u64..14,
    ) {
        let mut snapshot = archive();
        add_segments(&mut snapshot, 1, present.iter().copied());
        let seconds = |start: u64| i64::try_from(start).unwrap() * 100;
        snapshot.backups = starts.iter().map(|start| backup(1, *start, seconds(*start))).collect();
        let lsn = Lsn::new(target * 16 * MIB + 0x200);
        let serves = |start: u64| start <= target && (start..=target).all(|number| present.contains(&number));
        let best = starts.iter().copied().filter(|start| serves(*start)).max();
        if let Ok(planned) = plan(&snapshot, RecoveryTarget::Lsn(lsn)) {
            prop_assert_eq!(Some(planned.backup.finished_at), best.map(|start| at(seconds(start))));
            prop_assert_eq!(planned.segments.count, target - best.unwrap() + 1);
        } else {
            prop_assert_eq!(best, None);
        }
    }
}
