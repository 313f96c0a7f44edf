//! Retention in a world: who removes, who pins, and what must still be there.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use walden_core::{BackupRecord, HowLong, PromisedWindow, RetentionPolicy, ServerLayout};
use walden_engine::retention::{Allowed, PinRequest, RetentionSurvey, apply_retention, pin};
use walden_engine::{Context, DataDirectory, find_incarnation};
use walden_pg::{Lsn, SegmentId, SegmentNumber, TimelineId};
use walden_testkit::simulation::ActorId;

use crate::wal::{Commit, FORK, SIZE, wal};
use crate::world::{Broken, Dice, Host, World};

/// The policy of a world.
pub(crate) fn policy(seed: u64) -> RetentionPolicy {
    let mut dice = Dice::new(seed, 5);
    // The WAL is a day old: windows begin before it, in the middle of it, and behind it.
    let window = match dice.below(4) {
        0 => PromisedWindow::None,
        1 => PromisedWindow::Last(HowLong::days(3)),
        2 => PromisedWindow::Last(HowLong::Seconds(3600)),
        _ => {
            let seconds = 86_400 + 3600 * i64::try_from(dice.below(4)).unwrap();
            PromisedWindow::Last(HowLong::Seconds(seconds - i64::try_from(dice.below(700)).unwrap()))
        }
    };
    RetentionPolicy {
        window,
        minimum_fulls: u32::try_from(1 + dice.below(2)).unwrap(),
        daily: u32::try_from(dice.below(2)).unwrap(),
        dead_timelines: if dice.percent(50) { HowLong::Seconds(0) } else { HowLong::days(2) },
        unfinished_backups: HowLong::Seconds(3600),
        uploads: HowLong::Seconds(3600),
        ..RetentionPolicy::default()
    }
}

/// Pauses are this long at most, in milliseconds: in every other world everybody is in each other's way.
fn span(world: &World) -> u64 {
    if world.seed.is_multiple_of(2) { 250 } else { 60_000 }
}

/// Plans and carries out, again and again.
pub(crate) async fn retain(world: &World, host: &Host, actor: ActorId) {
    world.removers.lock().unwrap().insert(actor);
    let mut dice = world.dice(actor);
    let ctx = world.context(host, actor);
    for _ in 0..3 {
        tokio::time::sleep(dice.millis(span(world))).await;
        match retain_once(world, &ctx, actor).await {
            Ok(what) => world.stage.note(actor, &what),
            Err(error) => world.stage.note(actor, &format!("retention: {error}")),
        }
    }
}

async fn retain_once(world: &World, ctx: &Context, actor: ActorId) -> walden_engine::Result<String> {
    let promised = policy(world.seed);
    let mut policy = promised.clone();
    if world.cast.broken == Some(Broken::ShorterWindow) {
        (policy.window, policy.minimum_fulls, policy.daily) = (PromisedWindow::None, 1, 0);
    }
    let at = ctx.clock.now();
    let mut survey = RetentionSurvey::take(ctx).await?;
    let plan = survey.plan(ctx, &policy, at).await?;
    if let PromisedWindow::Last(window) = promised.window {
        world.model.may_forget_before(window.before(at));
    }
    world.stage.note(actor, &format!("retention is about to remove {:?}", plan.deletions));
    if world.cast.broken == Some(Broken::ReversedRetention) {
        let layout = ServerLayout::new(ctx.server.clone());
        let keys: Vec<_> = plan.deletions.iter().rev().flat_map(|deletion| deletion.keys(&layout)).collect();
        // And is interrupted.
        for key in keys.iter().take(keys.len() / 2) {
            ctx.store.delete(key, &ctx.budget()).await?;
        }
        return Ok("removed the last first, in part".to_owned());
    }
    let allowed = Allowed { nothing_new: true, clock_behind: true };
    let report = apply_retention(ctx, &plan, allowed, None).await?;
    Ok(format!("retention {:?} {:?} removed {}", report.outcome, report.message, report.removed_objects))
}

/// Pins a backup that is there.
pub(crate) async fn pin_some(world: &World, host: &Host, actor: ActorId) {
    let mut dice = world.dice(actor);
    let ctx = world.context(host, actor);
    for _ in 0..3 {
        tokio::time::sleep(dice.millis(span(world))).await;
        let backups = world.model.backups();
        let data = DataDirectory::open(&host.data).unwrap();
        let (Ok(record), false) = (find_incarnation(&ctx, Some(&data)).await, backups.is_empty()) else {
            continue;
        };
        let backup = dice.of(&backups).id.clone();
        let request = PinRequest {
            backup: backup.clone(),
            pinned: true,
            until: None,
            reason: "of the campaign".into(),
        };
        match pin(&ctx, &record, &request).await {
            // With a warning it is no promise: the operator is told to look again.
            Ok(report) if report.warnings.is_empty() => {
                world.stage.note(actor, &format!("pinned {backup}"));
                world.model.pin(backup);
            }
            Ok(report) => {
                world.stage.note(actor, &format!("pinned {backup}, perhaps: {:?}", report.warnings));
            }
            Err(error) => world.stage.note(actor, &format!("pin: {error}")),
        }
    }
}

/// What can be restored, by the model's own means.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restorable {
    /// The commits that can be reached, by the timeline that is followed.
    commits: BTreeSet<(TimelineId, Lsn, i64)>,
    /// How many backups are whole, and how many of these lead to the newest timeline.
    fulls: usize,
    followed: usize,
    has_second: bool,
}

fn path(target: TimelineId, number: SegmentNumber) -> SegmentId {
    let first = target > TimelineId::FIRST && number.get() < FORK;
    SegmentId::new(if first { TimelineId::FIRST } else { target }, number)
}

/// The commits in an archived segment.
pub(crate) fn commits_in(world: &World, segment: SegmentId) -> &'static [Commit] {
    let name = segment.name(SIZE);
    let Some(bytes) = world.model.acked(&name.to_string()) else { return &[] };
    let wal = wal();
    let author = [&wal.primary, &wal.promoted, &wal.clone]
        .into_iter()
        .find(|server| server.files.iter().any(|file| file.name == name.to_string() && file.bytes == bytes));
    author.and_then(|server| server.commits.get(&name)).map_or(&[], Vec::as_slice)
}

/// Looks at the objects that are there.
pub(crate) fn restorable(world: &World, backups: &[BackupRecord]) -> Restorable {
    let objects = world.stage.objects();
    let has = |name: &str| objects.keys().any(|key| key.ends_with(&format!("/{name}.zst")));
    let has_second = has("00000002.history");
    let mut found = Restorable { has_second, ..Restorable::default() };
    for backup in backups {
        let (mut whole, mut followed) = (false, false);
        let targets = [TimelineId::FIRST, TimelineId::new(2).unwrap()];
        for target in targets.into_iter().filter(|target| has_second || *target == TimelineId::FIRST) {
            let mut number = SIZE.segment_of(backup.start_lsn);
            let ends_on_path =
                path(target, SIZE.last_segment_before(backup.stop_lsn)).timeline == backup.timeline;
            let on_path = path(target, number).timeline == backup.timeline && ends_on_path;
            while on_path && has(&path(target, number).name(SIZE).to_string()) {
                let behind = commits_in(world, path(target, number)).iter();
                for commit in behind.filter(|commit| commit.lsn >= backup.stop_lsn) {
                    found.commits.insert((target, commit.lsn, commit.time.unix_micros()));
                }
                number = number.next();
            }
            let leads = on_path && number > SIZE.last_segment_before(backup.stop_lsn);
            whole |= leads;
            followed |= leads && has_second == (target > TimelineId::FIRST);
        }
        found.fulls += usize::from(whole);
        found.followed += usize::from(followed);
    }
    found
}

/// Compares what can be restored now with what could be restored before retention, by what was promised.
pub(crate) fn compare(world: &World, before: &Restorable, after: &Restorable) {
    let policy = policy(world.seed);
    if let (PromisedWindow::Last(_), Some(from)) = (policy.window, world.model.kept_from()) {
        for commit in before.commits.difference(&after.commits) {
            let time = Timestamp::from_microsecond(commit.2).unwrap();
            if time >= from {
                world.model.broken(format!(
                    "a moment inside the window can't be restored any more {commit:?} at {time} window from {from}"
                ));
            }
        }
    }
    let promised = policy.minimum_fulls.max(1) as usize;
    // Which ones is for the planner's own tests: it goes by more clocks than there are here.
    let fewer = |before: usize, after: usize| after < promised.min(before);
    // Another history may have made another timeline the newest one meanwhile.
    let same = before.has_second == after.has_second;
    if fewer(before.fulls, after.fulls) || (same && fewer(before.followed, after.followed)) {
        world
            .model
            .broken(format!("fewer backups than promised: {promised} before {before:?} after {after:?}"));
    }
}

/// Pinned backups are there, whoever removed what.
pub(crate) fn pinned_are_there(world: &World, backups: &[BackupRecord]) {
    for pinned in world.model.pinned() {
        if !backups.iter().any(|backup| backup.id == pinned) {
            world.model.broken(format!("a pinned backup is gone id={pinned}"));
        }
    }
}

/// Long enough for what is unfinished to be removed, or not.
pub(crate) async fn let_time_pass(world: &World) {
    let mut dice = Dice::new(world.seed, 6);
    let hours = [0, 0, 1, 2, 5][dice.below(5)];
    tokio::time::sleep(Duration::from_secs(3600 * hours) + dice.millis(60_000)).await;
}
