//! One rule at a time: backups.

use jiff::tz::TimeZone;
use walden_pg::PgMajor;

use super::model::{DAY, Model, fate, goes, gone, keeps, retain, warned};
use crate::layout::{BackupId, ObjectKey};
use crate::recovery::tests::world::at;
use crate::retention::keep::period;
use crate::retention::*;
use crate::snapshot::{Listed, Stray};

/// A commit at noon of every day up to one, in a segment each, and a full backup every so many days.
pub(super) fn archive(days: i64, every: i64) -> (Model, Vec<BackupId>) {
    let mut model = Model::new();
    let mut backups = Vec::new();
    for day in 0..days {
        if day % every == 0 {
            backups.push(model.full(1, day * DAY));
        }
        model.commit(1, day * DAY + DAY / 2);
    }
    (model, backups)
}

pub(super) fn days(window: u32) -> RetentionPolicy {
    let window = PromisedWindow::Last(HowLong::days(window));
    RetentionPolicy {
        window,
        minimum_fulls: 0,
        dead_timelines: HowLong::days(0),
        ..RetentionPolicy::default()
    }
}

fn counted(minimum_fulls: u32) -> RetentionPolicy {
    RetentionPolicy { window: PromisedWindow::None, minimum_fulls, ..days(1) }
}

fn fates(plan: &RetentionPlan, backups: &[BackupId]) -> String {
    backups.iter().map(|id| if goes(plan, id) { '-' } else { '+' }).collect()
}

#[test]
fn the_window_keeps_the_newest_full_backup_that_ended_before_it() {
    let (model, backups) = archive(30, 5);
    let plan = model.retain(&days(14), 30 * DAY);
    assert_eq!(fates(&plan, &backups), "---+++");
    assert_eq!(
        keeps(&plan, &backups[3]),
        [KeepReason::WindowStart { timeline: walden_pg::TimelineId::FIRST }]
    );
    assert_eq!(*fate(&plan, &backups[0]), Fate::Remove(vec![RemoveReason::BeforeWindow]));
    // On the day at whose midnight it ended exactly, it serves; a second before, the one before it does.
    assert_eq!(fates(&model.retain(&days(15), 30 * DAY), &backups), "---+++");
    assert_eq!(fates(&model.retain(&days(15), 30 * DAY - 1), &backups), "--++++");
    assert_eq!(plan.removed.bytes, 3 * 2000 + 18 * 1000 + 50);
}

#[test]
fn a_backup_whose_wal_is_missing_does_not_serve() {
    let (mut model, backups) = archive(30, 5);
    let number = model.record(&backups[3]).start_lsn.get() / crate::recovery::tests::world::SEGMENT;
    model.world.lost.insert((1, number));
    let plan = model.retain(&days(14), 30 * DAY);
    // The one without WAL stays until a newer one serves: it is newer than the one that does.
    assert_eq!(fates(&plan, &backups), "--++++");
    assert!(warned(&plan, RetentionWarningKind::NotRestorable));
    let later = model.retain(&days(14), 36 * DAY);
    assert_eq!(fates(&later, &backups), "----++");
    assert_eq!(*fate(&later, &backups[3]), Fate::Remove(vec![RemoveReason::NotRestorable]));
    let policy = RetentionPolicy { minimum_fulls: 3, ..days(14) };
    assert_eq!(fates(&model.retain(&policy, 60 * DAY), &backups), "--+-++");
    assert_eq!(fates(&model.retain(&counted(3), 60 * DAY), &backups), "--++++");
}

#[test]
fn without_a_window_the_count_holds_the_wal() {
    let (model, backups) = archive(30, 5);
    let plan = model.retain(&counted(2), 300 * DAY);
    assert_eq!(fates(&plan, &backups), "----++");
    assert_eq!(gone(&plan, 1), (1..=24).collect::<Vec<u64>>());
    let plan = model.retain(&counted(9), 300 * DAY);
    assert!(plan.is_empty() && warned(&plan, RetentionWarningKind::FewerFulls));
    assert!(warned(&plan, RetentionWarningKind::WindowNotReached));
}

#[test]
fn a_minimum_beside_a_window_keeps_backups_and_not_the_wal_between() {
    let (model, backups) = archive(30, 5);
    let policy = RetentionPolicy { minimum_fulls: 5, ..days(1) };
    let plan = model.retain(&policy, 30 * DAY);
    assert_eq!(fates(&plan, &backups), "-+++++");
    assert_eq!(keeps(&plan, &backups[1]), [KeepReason::MinimumFulls]);
    assert!(gone(&plan, 1).contains(&8) && !gone(&plan, 1).contains(&7), "{:?}", gone(&plan, 1));
}

#[test]
fn something_is_always_left() {
    let (model, backups) = archive(3, 9);
    for policy in
        [days(1), counted(1), RetentionPolicy { window: PromisedWindow::None, yearly: 1, ..days(1) }]
    {
        let plan = model.retain(&policy, 4000 * DAY);
        assert!(!goes(&plan, &backups[0]) && gone(&plan, 1).is_empty());
    }
    assert!(warned(&model.retain(&days(1), 4000 * DAY), RetentionWarningKind::NothingNew));
}

#[test]
fn tiers_keep_the_last_of_each_period() {
    let (model, backups) = archive(90, 3);
    let policy = RetentionPolicy { daily: 2, weekly: 3, monthly: 3, ..days(1) };
    let plan = model.retain(&policy, 90 * DAY);
    let kept = backups.iter().filter_map(|id| {
        let tiers = keeps(&plan, id).into_iter().filter_map(|reason| match reason {
            KeepReason::Tier { period, .. } => Some(period),
            _ => None,
        });
        let tiers: Vec<String> = tiers.collect();
        (!tiers.is_empty()).then(|| tiers.join(" "))
    });
    let kept: Vec<String> = kept.collect();
    assert_eq!(
        kept,
        ["2026-12", "2027-W04 2027-01", "2027-W05", "2027-02-10", "2027-02-13 2027-W06 2027-02"]
    );
}

#[test]
fn periods_are_those_of_the_zone() {
    let zone = |name| TimeZone::get(name).unwrap();
    let at = |text: &str| text.parse().unwrap();
    assert_eq!(period(Tier::Weekly, at("2027-01-03T12:00:00Z"), &TimeZone::UTC), "2026-W53");
    assert_eq!(period(Tier::Weekly, at("2027-01-04T00:00:00Z"), &TimeZone::UTC), "2027-W01");
    assert_eq!(period(Tier::Daily, at("2026-12-31T23:30:00Z"), &zone("Europe/Berlin")), "2027-01-01");
    assert_eq!(period(Tier::Monthly, at("2026-12-31T23:30:00Z"), &zone("Europe/Berlin")), "2027-01");
    assert_eq!(period(Tier::Yearly, at("2026-12-31T23:30:00Z"), &TimeZone::UTC), "2026");
}

#[test]
fn a_pin_holds_until_its_end() {
    let (mut model, backups) = archive(30, 5);
    let pin = |id: &BackupId, until| Pin { backup: id.clone(), until, reason: "audit".into() };
    model.pins = vec![pin(&backups[0], None), pin(&backups[1], Some(at(31 * DAY)))];
    assert_eq!(fates(&model.retain(&days(14), 30 * DAY), &backups), "++-+++");
    let plan = model.retain(&days(14), 31 * DAY);
    assert_eq!(fates(&plan, &backups), "+--+++");
    assert!(warned(&plan, RetentionWarningKind::Pin));
}

#[test]
fn what_a_kept_backup_stands_on_stays_and_children_go_first() {
    let mut model = Model::new();
    let first = model.full(1, 0);
    let second = model.incremental(1, DAY, &first);
    let third = model.incremental(1, 2 * DAY, &second);
    let fourth = model.full(1, 10 * DAY);
    model.commit(1, 11 * DAY);
    model.pins = vec![Pin { backup: third.clone(), until: Some(at(30 * DAY)), reason: "test".into() }];
    let plan = model.retain(&days(1), 20 * DAY);
    assert_eq!(keeps(&plan, &first), [KeepReason::ParentOf { child: second.clone() }]);
    assert!(!goes(&plan, &second) && !goes(&plan, &fourth));
    let plan = model.retain(&days(1), 30 * DAY);
    let commits: Vec<&BackupId> = plan
        .deletions
        .iter()
        .filter_map(|step| match step {
            Deletion::CommitRecord { backup, .. } => Some(backup),
            _ => None,
        })
        .collect();
    assert_eq!(commits, [&third, &second, &first]);
    // One whose parent is lost can't be restored, and serves nothing.
    model.world.backups.retain(|backup| backup.id != first);
    let plan = model.retain(&counted(1), 30 * DAY);
    assert_eq!(*fate(&plan, &second), Fate::Remove(vec![RemoveReason::NotRestorable]));
}

#[test]
fn an_incremental_backup_is_no_beginning_of_a_window() {
    let mut model = Model::new();
    let full = model.full(1, 0);
    let child = model.incremental(1, 5 * DAY, &full);
    model.commit(1, 20 * DAY);
    let plan = model.retain(&days(1), 20 * DAY);
    assert!(!goes(&plan, &child) && gone(&plan, 1).is_empty());
    let newer = model.full(1, 21 * DAY);
    model.commit(1, 30 * DAY);
    let plan = model.retain(&days(1), 30 * DAY);
    assert!(goes(&plan, &full) && goes(&plan, &child) && !goes(&plan, &newer));
}

#[test]
fn a_backup_from_the_future_stays_and_serves_nothing() {
    let (mut model, backups) = archive(30, 5);
    model.record(&backups[1]).finished_at = at(400 * DAY);
    model.record(&backups[5]).finished_at = at(400 * DAY);
    let plan = model.retain(&days(1), 30 * DAY);
    assert_eq!(fates(&plan, &backups), "-+--++");
    assert!(keeps(&plan, &backups[1]).contains(&KeepReason::FromTheFuture { finished_at: at(400 * DAY) }));
    assert!(warned(&plan, RetentionWarningKind::FromTheFuture));
}

#[test]
fn a_clock_that_was_behind_does_not_make_a_backup_old() {
    let (mut model, backups) = archive(30, 5);
    model.record(&backups[4]).finished_at = at(-300 * DAY);
    let plan = model.retain(&days(14), 30 * DAY);
    assert_eq!(fates(&plan, &backups), "---+++");
    assert!(warned(&plan, RetentionWarningKind::LateInStore));
    // Without the store's word, those before it on its way tell.
    model.committed.clear();
    assert_eq!(fates(&model.retain(&days(14), 30 * DAY), &backups), "----++");
    model.record(&backups[4]).finished_at = at(20 * DAY);
    model.record(&backups[3]).finished_at = at(18 * DAY);
    model.record(&backups[2]).finished_at = at(-9 * DAY);
    assert_eq!(fates(&model.retain(&days(14), 30 * DAY), &backups), "--++++");
}

#[test]
fn nothing_younger_than_a_running_backup_goes() {
    let (mut model, backups) = archive(30, 5);
    model.running.push(RunningBackup {
        incarnation: "7-17".parse().unwrap(),
        id: BackupId::new(at(5 * DAY + 7200), 7),
        started_at: at(5 * DAY + 7200),
        start: None,
        parent: Some(backups[0].clone()),
    });
    let plan = model.retain(&days(1), 30 * DAY);
    assert_eq!(fates(&plan, &backups), "+-++++");
    assert!(gone(&plan, 1).iter().all(|number| *number <= 7), "{:?}", gone(&plan, 1));
    assert!(matches!(keeps(&plan, &backups[0])[..], [KeepReason::NeededByRunning { .. }]));
    model.running[0].start = Some((walden_pg::TimelineId::FIRST, walden_pg::Lsn::new(3 << 30)));
    model.running[0].started_at = at(29 * DAY);
    assert!(gone(&model.retain(&days(1), 30 * DAY), 1).iter().all(|number| *number < 3));
}

#[test]
fn an_unfinished_backup_may_be_running_while_it_is_young() {
    let (mut model, backups) = archive(30, 5);
    let id = BackupId::new(at(12 * DAY), 0xf);
    model.unfinished.insert(id.clone(), 29 * DAY);
    let plan = model.retain(&days(1), 30 * DAY);
    assert_eq!(keeps(&plan, &id), [KeepReason::MayBeRunning]);
    // And holds everything since it began.
    assert_eq!(fates(&plan, &backups), "---+++");
    let plan = model.retain(&days(1), 31 * DAY);
    assert_eq!(*fate(&plan, &id), Fate::Remove(vec![RemoveReason::Unfinished]));
    assert_eq!(fates(&plan, &backups), "-----+");
}

#[test]
fn what_can_not_be_read_or_is_not_known_is_never_touched() {
    let (mut model, backups) = archive(30, 5);
    model.record(&backups[1]).requires = vec!["frobnication".into()];
    model.world.backups.retain(|backup| backup.id != backups[2]);
    model.unreadable.insert(backups[2].clone());
    let plan = model.retain(&days(1), 300 * DAY);
    assert!(matches!(keeps(&plan, &backups[1])[..], [KeepReason::NeedsNewerVersion { .. }]));
    assert!(matches!(keeps(&plan, &backups[2])[..], [KeepReason::Unreadable { .. }]));
    // The WAL of their time stays too: four segments a directory, whose times are known together.
    let stays: Vec<u64> = (1..=30).filter(|number| !gone(&plan, 1).contains(number)).collect();
    assert_eq!(stays, [7, 12, 13, 14, 15]);
    let mut inventory = model.inventory();
    let stray = Stray { key: "main/notes.txt".into(), reason: "not known".into() };
    inventory.strays.push(stray.clone());
    inventory.incarnations[0].catalog.strays.push(stray);
    let plan = retain(&mut inventory, &[&model], &days(1), 300 * DAY);
    let foreign = plan.groups.iter().filter(|group| matches!(group.kind, GroupKind::Foreign { .. }));
    assert_eq!(foreign.filter(|group| !group.fate.is_removal()).count(), 2);
    assert!(warned(&plan, RetentionWarningKind::Foreign) && warned(&plan, RetentionWarningKind::Unreadable));
}

#[test]
fn records_and_uploads_have_their_times() {
    let (mut model, _) = archive(3, 9);
    let key = |text: &str| ObjectKey::parse(text).unwrap();
    let record = |role, name: &str, day: Option<i64>| RecordObject {
        role,
        key: key(name),
        bytes: 1,
        written: day.map(|day| at(day * DAY)),
    };
    model.records = vec![
        record(RecordRole::Evidence, "a", Some(1)),
        record(RecordRole::Evidence, "b", Some(2)),
        record(RecordRole::Evidence, "c", None),
        record(RecordRole::Evidence, "d", Some(9000)),
        record(RecordRole::Audit, "e", Some(1)),
        record(RecordRole::Lease, "f", Some(1)),
    ];
    let upload = |name: &str, started| OpenUpload { key: key(name), upload: "1".into(), started, bytes: 9 };
    model.uploads =
        vec![upload("x", Some(at(0))), upload("y", Some(at(900 * DAY - 3600))), upload("z", None)];
    let plan = model.retain(&days(1), 900 * DAY);
    let removed: Vec<String> = plan
        .deletions
        .iter()
        .filter_map(|step| match step {
            Deletion::Record { key } | Deletion::Upload { key, .. } => Some(key.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(removed, ["a", "b", "x"]);
    assert_eq!(check_plan(&plan, &model.inventory()), Ok(()));
}

#[test]
fn no_plan_over_half_a_listing_or_half_a_policy() {
    let (model, _) = archive(3, 9);
    let refused =
        |inventory: &Inventory, policy: &RetentionPolicy| match plan_retention(inventory, policy, at(0)) {
            Retaining::Refused(refusal) => refusal.reason,
            other => panic!("{other:?}"),
        };
    let good = model.inventory();
    let mut half = good.clone();
    half.incarnations[0].catalog.listed = Listed::Some([].into());
    assert_eq!(refused(&half, &days(1)), RetentionRefusalReason::IncompleteListing);
    let other = Inventory { current: "8-17".parse().unwrap(), ..good.clone() };
    assert_eq!(refused(&other, &days(1)), RetentionRefusalReason::UnknownIncarnation);
    assert_eq!(refused(&good, &counted(0)), RetentionRefusalReason::InvalidPolicy);
}

/// An incarnation of 16 that ended on day 30, and one of 17 from then on.
fn upgraded(current_backups: bool) -> (Model, Model, Inventory) {
    let (mut old, _) = archive(30, 5);
    old.world.major = PgMajor::new(16).unwrap();
    let mut new = Model::new();
    if current_backups {
        new.full(1, 31 * DAY);
    }
    new.commit(1, 32 * DAY);
    let mut inventory = new.inventory();
    inventory.incarnations.insert(0, old.life());
    (old, new, inventory)
}

#[test]
fn an_old_incarnation_goes_when_the_current_one_can_be_restored() {
    let policy = RetentionPolicy { old_incarnations: HowLong::days(60), ..days(14) };
    let (old, new, inventory) = upgraded(true);
    let plan = retain(&mut inventory.clone(), &[&old, &new], &policy, 90 * DAY);
    let old_id = old.life().incarnation();
    let stays = |plan: &RetentionPlan| {
        let own = plan.groups.iter().filter(|group| group.incarnation == Some(old_id));
        own.filter(|group| !group.fate.is_removal()).count()
    };
    assert_eq!(stays(&plan), 0);
    let plan = retain(&mut inventory.clone(), &[&old, &new], &policy, 80 * DAY);
    assert_eq!(stays(&plan), 2);
    let plan = retain(&mut inventory.clone(), &[&old, &new], &policy, 90 * DAY);
    assert_eq!(check_plan(&plan, &inventory), Ok(()));
    // Tiers count over all of them: a backup and its WAL.
    let yearly = RetentionPolicy { yearly: 2, monthly: 2, ..policy.clone() };
    let plan = retain(&mut inventory.clone(), &[&old, &new], &yearly, 90 * DAY);
    assert_eq!(stays(&plan), 2);
    assert_eq!(check_plan(&plan, &inventory), Ok(()));
    let (old, new, inventory) = upgraded(false);
    let plan = retain(&mut inventory.clone(), &[&old, &new], &policy, 90 * DAY);
    assert_eq!(stays(&plan), 2);
    assert!(warned(&plan, RetentionWarningKind::OldIncarnationHeld));
}

#[test]
fn a_later_day_or_another_policy_is_just_another_plan() {
    let (model, backups) = archive(30, 5);
    let today = model.retain(&days(14), 30 * DAY);
    let later = model.retain(&days(14), 40 * DAY);
    let diff = diff_plans(&today, &later);
    let changed = diff.changes.iter().filter_map(|change| match &change.kind {
        GroupKind::Backup { id, .. } => Some(id.clone()),
        _ => None,
    });
    assert_eq!(changed.collect::<Vec<_>>(), backups[3..5]);
    let segments = diff.changes.iter().filter_map(|change| match &change.kind {
        GroupKind::Segments { first, last, .. } => Some(format!("{first} {last}")),
        _ => None,
    });
    assert_eq!(segments.collect::<Vec<_>>(), ["000000010000000400000003 000000010000000700000002"]);
    assert_eq!((diff.removed_before, diff.removed_after), (today.removed, later.removed));
    assert_eq!(diff.windows.len(), 1);
    assert!(diff_plans(&today, &today).changes.is_empty());
}
