//! Random histories, backups, timelines and policies: whatever a plan removes, and wherever carrying it out is cut
//! short, what was promised is still plannable by the recovery planner.

use std::collections::BTreeSet;

use proptest::prelude::*;
use walden_pg::{ArchiveFileName, Lsn};

use super::model::{DAY, Effect, Model, effects, name};
use crate::layout::BackupId;
use crate::records::BackupKind;
use crate::recovery::tests::world::{SEGMENT, What, at, log_of, timeline};
use crate::recovery::{RecoveryTarget, TargetTimeline};
use crate::retention::*;

#[derive(Debug, Clone)]
enum Step {
    Commit { wait: u32, bytes: u64 },
    Fill,
    Backup { incremental: bool, slow: bool },
    Fork { back: u8 },
    Interrupted,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![4 => Just(64u64), 2 => Just(300u64 << 20), 1 => Just(SEGMENT + (400 << 20))];
    let step = prop_oneof![
        10 => (0u32..200_000, bytes).prop_map(|(wait, bytes)| Step::Commit { wait, bytes }),
        6 => Just(Step::Fill),
        6 => (any::<bool>(), any::<bool>()).prop_map(|(incremental, slow)| Step::Backup { incremental, slow }),
        2 => any::<u8>().prop_map(|back| Step::Fork { back }),
        1 => Just(Step::Interrupted),
    ];
    proptest::collection::vec(step, 5..70)
}

/// A model and the second at which it ends.
fn build(steps: &[Step]) -> (Model, i64) {
    let mut model = Model::new();
    let (mut on, mut newest, mut now, mut open) = (1, 1, 0i64, None);
    for (place, step) in steps.iter().enumerate() {
        match step {
            Step::Commit { wait, bytes } => {
                now += i64::from(*wait);
                let xid = 700 + u32::try_from(place).unwrap();
                model.world.add(on, *bytes, What::Commit { xid, second: now });
            }
            Step::Fill => model.world.fill(on),
            Step::Backup { incremental, slow } => {
                now += 60;
                let parent = model.world.backups.last().map(|backup| backup.id.clone());
                match open.take() {
                    Some((timeline, start)) if timeline == on => {
                        model.world.add(on, 64, What::BackupEnd(start));
                        model.world.record_backup(on, start, now);
                    }
                    _ if *slow => {
                        open = Some((on, model.world.add(on, 64, What::Other)));
                        continue;
                    }
                    _ => {
                        model.world.backup(on, now);
                    }
                }
                if let (true, Some(parent), Some(own)) =
                    (*incremental, parent, model.world.backups.last_mut())
                {
                    (own.kind, own.parent) = (BackupKind::Incremental, Some(parent));
                }
            }
            Step::Fork { back } => {
                let stream = &model.world.streams[&on];
                let place = stream.len().saturating_sub(usize::from(*back % 6));
                let lsn = stream.get(place).map_or(model.world.end(on), |rec| rec.start);
                let partial = ArchiveFileName::Partial(name(on, lsn / SEGMENT));
                model.partials.insert(partial, now);
                newest += 1;
                model.world.fork(on, newest, lsn);
                (on, open) = (newest, None);
                model.world.add(on, 64, What::Other);
            }
            Step::Interrupted => {
                let salt = 0x8000 + u16::try_from(place).unwrap();
                model.unfinished.insert(BackupId::new(at(now), salt), now + 30);
            }
        }
        model.settle(now);
    }
    (model, now)
}

/// What is done to a world beforehand: what is lost, damaged, told by rollups, pinned, and by which clocks.
fn spoil(model: &mut Model, picks: &[(u8, u16)], now: i64) -> bool {
    let mut jumped = false;
    for (kind, pick) in picks {
        let place = usize::from(*pick);
        let timelines: Vec<u32> = model.world.streams.keys().copied().collect();
        let on = timelines[place % timelines.len()];
        let number = 1 + u64::from(pick / 7) % (model.world.end(on) / SEGMENT).max(1);
        let backups = model.world.backups.len().max(1);
        match kind {
            0 => {
                model.world.lost.insert((on, number));
            }
            1 => {
                let own = model.world.forks.get(&on).map_or(0, |(_, lsn)| *lsn);
                let inside = |rec: &&crate::recovery::tests::world::Rec| {
                    rec.start / SEGMENT == (rec.end - 1) / SEGMENT && rec.start >= own
                };
                let starts: Vec<u64> =
                    model.world.streams[&on].iter().filter(inside).map(|rec| rec.start).collect();
                if let Some(start) = starts.get(place % starts.len().max(1)) {
                    model.world.damaged.insert((on, *start));
                }
            }
            2 | 3 => {
                model.world.unjoined.insert((on, number));
            }
            4 => {
                model.world.without_summary.insert((on, number));
            }
            5 | 6 => {
                if let Some(backup) = model.world.backups.get(place % backups) {
                    let until = (pick % 3 > 0).then(|| at(now + i64::from(*pick % 5) * DAY - 2 * DAY));
                    model.pins.push(Pin { backup: backup.id.clone(), until, reason: "test".into() });
                }
            }
            7 => {
                if let Some(backup) = model.world.backups.get_mut(place % backups) {
                    let jump = (i64::from(*pick) % 80 - 40) * DAY;
                    let second = backup.finished_at.as_second() + jump;
                    backup.finished_at = jiff::Timestamp::from_second(second).unwrap();
                    jumped = true;
                }
            }
            8 => {
                if let Some(backup) = model.world.backups.get(place % backups).cloned() {
                    model.world.backups.retain(|other| other.id != backup.id);
                    model.unfinished.insert(backup.id.clone(), model.committed[&backup.id]);
                }
            }
            _ => {
                model.world.rolled_up.insert((on, log_of(number)));
            }
        }
    }
    jumped
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let window = prop_oneof![
        1 => Just(PromisedWindow::None),
        5 => (1i64..40).prop_map(|half| PromisedWindow::Last(HowLong::Seconds(half * DAY / 2))),
    ];
    (window, 0u32..4, 0u32..3, 0u32..3, 0i64..30, 1i64..4).prop_map(
        |(window, minimum, daily, weekly, dead, unfinished)| RetentionPolicy {
            window,
            minimum_fulls: if window == PromisedWindow::None { minimum.max(1) } else { minimum },
            daily,
            weekly,
            dead_timelines: HowLong::Seconds(dead * DAY),
            unfinished_backups: HowLong::Seconds(unfinished * DAY / 2),
            ..RetentionPolicy::default()
        },
    )
}

/// What was promised: a target, and what recovery to it came to before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Promise {
    target: RecoveryTarget,
    on: TargetTimeline,
    came_to: (Lsn, Option<Lsn>),
}

/// Everything that a policy promises of a model, by the policy's words alone.
fn promises(model: &Model, policy: &RetentionPolicy, now: i64, jumped: bool) -> Vec<Promise> {
    let newest = *model.world.streams.keys().next_back().unwrap();
    let seconds = |time: HowLong| match time {
        HowLong::Seconds(seconds) => seconds,
        HowLong::Forever => i64::MAX / 4,
    };
    let mut promised = Vec::new();
    let mut add = |target: RecoveryTarget, on: TargetTimeline| {
        if let Some(came_to) = model.comes_to(target.clone(), on) {
            promised.push(Promise { target, on, came_to });
        }
    };
    add(RecoveryTarget::Latest, TargetTimeline::Latest);
    for on in model.world.streams.keys().copied() {
        let way = TargetTimeline::Id(timeline(on));
        let window = match policy.window {
            PromisedWindow::Last(window) => Some(seconds(window)),
            PromisedWindow::None => None,
        };
        let held = seconds(policy.dead_timelines).max(window.unwrap_or(0));
        let own = model.written.iter().filter(|((own, number), _)| *own == on && model.has(on, *number));
        let last = own.map(|(_, second)| *second).max().unwrap_or(i64::MIN);
        if on != newest && last <= now - held {
            continue;
        }
        let from_second = window.map(|window| now - window);
        // What only a dead timeline has is kept with it.
        let own_from = if on == newest { u64::MAX } else { own_from(model, newest, on) };
        let is_held = |start: u64, second: i64| window.is_some() && start >= own_from && second >= now - held;
        let from_lsn = match window {
            Some(_) => Some(0),
            None => counted(model, policy, on, now),
        };
        let moments = model.world.streams[&on].iter().filter_map(|rec| match rec.what {
            What::Commit { second, .. } => Some((rec.start, second)),
            _ => None,
        });
        let in_window = moments.filter(|(start, second)| {
            (is_held(*start, *second) || from_second.is_none_or(|from| *second >= from))
                && from_lsn.is_none_or(|from| *start >= from)
                && (window.is_some() || on == newest || *start >= own_from)
        });
        let mut in_window: Vec<(u64, i64)> = in_window.collect();
        // The first ones are in danger; the others are looked at here and there.
        let few = in_window.len().div_ceil(4).max(1);
        let mut place = 0;
        in_window.retain(|_| {
            place += 1;
            place <= 4 || place % few == 0
        });
        for (start, second) in in_window {
            add(RecoveryTarget::Lsn(Lsn::new(start)), way);
            if !jumped {
                add(RecoveryTarget::Time(at(second)), way);
            }
        }
        if let Some(from) = from_second.filter(|_| !jumped && on == newest) {
            add(RecoveryTarget::Time(at(from)), way);
            add(RecoveryTarget::Time(at(from)), TargetTimeline::Latest);
        }
    }
    promised
}

/// From where on a timeline has moments that are not on the way to the newest one.
fn own_from(model: &Model, newest: u32, on: u32) -> u64 {
    let mut child = newest;
    while let Some((parent, lsn)) = model.world.forks.get(&child) {
        if *parent == on {
            return *lsn;
        }
        child = *parent;
    }
    model.world.forks.get(&on).map_or(0, |(_, lsn)| *lsn)
}

/// Where the oldest of the counted full backups on the way to a timeline ends; `None` when there are fewer.
fn counted(model: &Model, policy: &RetentionPolicy, on: u32, now: i64) -> Option<u64> {
    let wanted = usize::try_from(policy.minimum_fulls.max(1)).unwrap();
    let good = model.world.backups.iter().filter(|backup| {
        backup.kind == BackupKind::Full
            && backup.finished_at <= at(now)
            && model.is_consistent(&backup.id, TargetTimeline::Id(timeline(on)))
    });
    let mut ends: Vec<u64> = good.map(|backup| backup.stop_lsn.get()).collect();
    ends.sort_unstable();
    ends.len().checked_sub(wanted).map(|place| ends[place])
}

/// The backups that can be restored, and to which timelines.
fn consistent(model: &Model) -> BTreeSet<(BackupId, bool)> {
    let mut found = BTreeSet::new();
    for backup in &model.world.backups {
        if model.is_consistent(&backup.id, TargetTimeline::Id(backup.stop_timeline)) {
            found.insert((backup.id.clone(), false));
        }
        if model.is_consistent(&backup.id, TargetTimeline::Latest) {
            found.insert((backup.id.clone(), true));
        }
    }
    found
}

fn holds(
    model: &Model,
    promised: &[Promise],
    before: &BTreeSet<(BackupId, bool)>,
) -> Result<(), TestCaseError> {
    for promise in promised {
        let came_to = model.comes_to(promise.target.clone(), promise.on);
        prop_assert_eq!(came_to, Some(promise.came_to), "{:?}", promise);
    }
    for (id, latest) in before.iter().filter(|(id, _)| model.has_backup(id)) {
        let own = model.world.backups.iter().find(|backup| backup.id == *id).unwrap();
        let on = if *latest { TargetTimeline::Latest } else { TargetTimeline::Id(own.stop_timeline) };
        prop_assert!(model.is_consistent(id, on), "{} {:?}", id, on);
    }
    for backup in &model.world.backups {
        let parent = backup.parent.as_ref().is_none_or(|parent| model.has_backup(parent));
        let never = backup.parent.as_ref().is_some_and(|parent| !model.committed.contains_key(parent));
        let spoilt = backup.parent.as_ref().is_some_and(|parent| !before.iter().any(|(id, _)| id == parent));
        prop_assert!(parent || never || spoilt, "{} lost what it stands on", backup.id);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_promised_stays_plannable(
        steps in steps(),
        picks in proptest::collection::vec((0u8..14, any::<u16>()), 0..12),
        policy in policies(),
        later in prop_oneof![Just(0i64), 0i64..40],
        cut in any::<prop::sample::Index>(),
        running in proptest::option::of(0i64..20),
    ) {
        let (mut model, end) = build(&steps);
        let now = end + later * DAY / 2;
        let jumped = spoil(&mut model, &picks, now);
        if let Some(ago) = running {
            model.running.push(RunningBackup {
                incarnation: "7-17".parse().unwrap(),
                id: BackupId::new(at(now - ago * DAY / 4), 0xffff),
                started_at: at(now - ago * DAY / 4),
                start: None,
                parent: model.world.backups.last().map(|backup| backup.id.clone()),
            });
        }
        let promised = promises(&model, &policy, now, jumped);
        let before = consistent(&model);
        let plan = model.retain(&policy, now);
        prop_assert_eq!(&plan, &model.retain(&policy, now));
        prop_assert_eq!(check_plan(&plan, &model.inventory()), Ok(()));
        let totals = plan.groups.iter().map(|group| group.bytes).sum::<u64>();
        prop_assert_eq!(totals, plan.removed.bytes + plan.kept.bytes);

        let effects = effects(&plan);
        let cut = cut.index(effects.len() + 1);
        let mut after = model.clone();
        effects[..cut].iter().for_each(|effect| after.remove(effect));
        holds(&after, &promised, &before)?;
        prop_assert_eq!(check_plan(&plan, &after.inventory()), Ok(()));

        // Whoever plans anew after a crash promises the same.
        let mut anew = after.clone();
        anew.carry_out(&anew.retain(&policy, now));
        holds(&anew, &promised, &before)?;

        effects[cut..].iter().for_each(|effect| after.remove(effect));
        holds(&after, &promised, &before)?;
        for pin in model.pins.iter().filter(|pin| pin.holds(at(now))) {
            prop_assert_eq!(after.has_backup(&pin.backup), model.has_backup(&pin.backup));
        }
        let again = after.retain(&policy, now);
        prop_assert!(again.deletions.is_empty(), "{:?}", again.deletions);
        for (first, second) in plan.windows.iter().filter(|window| !window.after.is_empty()).zip(&again.windows) {
            prop_assert_eq!(&first.after, &second.before);
        }
    }

    #[test]
    fn the_check_finds_what_would_break(
        steps in steps(),
        picks in proptest::collection::vec((8u8..14, any::<u16>()), 0..8),
        policy in policies(),
        pick in any::<prop::sample::Index>(),
    ) {
        let (mut model, now) = build(&steps);
        spoil(&mut model, &picks, now);
        let promised = promises(&model, &policy, now, false);
        let before = consistent(&model);
        let mut plan = model.retain(&policy, now);
        let kept: Vec<ObjectGroup> = plan.groups.iter().filter(|group| !group.fate.is_removal()).cloned().collect();
        prop_assume!(!kept.is_empty());
        let flipped = kept[pick.index(kept.len())].clone();
        let incarnation = flipped.incarnation.unwrap();
        match &flipped.kind {
            GroupKind::Backup { id, .. } => {
                plan.deletions.insert(0, Deletion::CommitRecord { incarnation, backup: id.clone() });
            }
            GroupKind::Segments { timeline, first, last, segment_size } => {
                let (first, last) = (first.id(*segment_size).unwrap().number, last.id(*segment_size).unwrap().number);
                let count = last.get() - first.get() + 1;
                let place = plan.deletions.iter().position(|step| {
                    matches!(step, Deletion::History { .. } | Deletion::Record { .. } | Deletion::Upload { .. })
                });
                let (timeline, segment_size) = (*timeline, *segment_size);
                let step = Deletion::Segments { incarnation, timeline, first, count, segment_size };
                plan.deletions.insert(place.unwrap_or(plan.deletions.len()), step);
            }
            GroupKind::History { timeline } => {
                plan.deletions.push(Deletion::History { incarnation, timeline: *timeline });
            }
            _ => return Ok(()),
        }
        plan.deletions.retain(|step| !matches!(step, Deletion::BackupRollup { .. }));
        if check_plan(&plan, &model.inventory()).is_ok() {
            let mut after = model.clone();
            for effect in effects(&plan).iter().filter(|effect| !matches!(effect, Effect::Objects(_))) {
                after.remove(effect);
            }
            holds(&after, &promised, &before)?;
        }
    }
}
