//! Which backups are kept: every rule gives its reason, and one reason is enough.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use walden_pg::TimelineId;

use super::inventory::Inventory;
use super::life::{Hold, Judged, Life, last_known_end, missing_objects, unknown_feature, unknown_timeline};
use super::policy::{PromisedWindow, RetentionPolicy};
use super::reasons::{KeepReason, Tier};
use crate::layout::BackupId;
use crate::records::BackupKind;

/// The backup from whose start the WAL of a promised timeline is kept; `None` when all of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) timeline: TimelineId,
    pub(super) backup: Option<BackupId>,
}

/// Marks the backups that are kept, and says from where on each promised timeline's WAL is.
pub(super) fn mark(
    lives: &mut [Life<'_>],
    inventory: &Inventory,
    policy: &RetentionPolicy,
    hold: Option<&Hold>,
    now: Timestamp,
) -> Vec<Vec<Floor>> {
    let mut floors = Vec::new();
    for life in lives.iter_mut() {
        let tips: Vec<(TimelineId, Timestamp)> = life.tips.iter().map(|(t, from)| (*t, *from)).collect();
        let mut own = Vec::new();
        if !life.released {
            for (timeline, from) in tips {
                own.push(mark_timeline(life, policy, timeline, from));
            }
            mark_minimum(life, policy);
        }
        floors.push(own);
        mark_single(life, inventory, hold, now);
    }
    for (tier, count) in
        Tier::ALL.into_iter().zip([policy.daily, policy.weekly, policy.monthly, policy.yearly])
    {
        mark_tier(lives, tier, count, &policy.zone.zone());
    }
    for life in lives.iter_mut() {
        mark_last(life);
        mark_parents(life, inventory);
    }
    floors
}

fn keep(backup: &mut Judged<'_>, reason: KeepReason) {
    backup.reasons.insert(reason);
}

/// The rules of one promised timeline.
fn mark_timeline(
    life: &mut Life<'_>,
    policy: &RetentionPolicy,
    timeline: TimelineId,
    from: Timestamp,
) -> Floor {
    let on_way = |backup: &Judged<'_>| backup.on.contains(&timeline);
    let good = |backup: &Judged<'_>| backup.restorable_on.contains(&timeline) && !backup.is_future;
    let good_full = |backup: &Judged<'_>| good(backup) && backup.record.kind == BackupKind::Full;
    if policy.window == PromisedWindow::None {
        let fulls = life.backups.iter().enumerate().rev().filter(|(_, backup)| good_full(backup));
        let first = fulls.map(|(at, _)| at).nth(policy.counted_fulls() - 1);
        for backup in life.backups.iter_mut().skip(first.unwrap_or(0)).filter(|backup| on_way(backup)) {
            keep(backup, KeepReason::InWindow { timeline });
        }
        let id = first.and_then(|first| life.backups.get(first)).map(|backup| backup.record.id.clone());
        return Floor { timeline, backup: id };
    }
    let serves = |backup: &Judged<'_>| good_full(backup) && backup.ended <= from;
    let first = life.backups.iter().rposition(serves);
    for (at, backup) in life.backups.iter_mut().enumerate().filter(|(_, backup)| on_way(backup)) {
        if backup.ended > from {
            keep(backup, KeepReason::InWindow { timeline });
        } else if first == Some(at) {
            keep(backup, KeepReason::WindowStart { timeline });
        } else if first.is_some_and(|first| at > first) {
            keep(backup, KeepReason::AfterWindowStart { timeline });
        } else if first.is_none() {
            keep(backup, KeepReason::NoOlderBackup { timeline });
        }
    }
    let id = first.and_then(|first| life.backups.get(first)).map(|backup| backup.record.id.clone());
    Floor { timeline, backup: id }
}

/// The newest restorable full backups, those on the way to the newest timeline first.
fn mark_minimum(life: &mut Life<'_>, policy: &RetentionPolicy) {
    let wanted =
        if life.is_current { policy.minimum_fulls as usize } else { policy.minimum_fulls.min(1) as usize };
    let newest = life.newest;
    let followed = |backup: &Judged<'_>| newest.is_some_and(|newest| backup.restorable_on.contains(&newest));
    let mut fulls: Vec<&mut Judged<'_>> = life.backups.iter_mut().filter(|backup| backup.counts()).collect();
    fulls.sort_by_key(|backup| std::cmp::Reverse((followed(backup), backup.ended, backup.record.stop_lsn)));
    for backup in fulls.into_iter().take(wanted) {
        keep(backup, KeepReason::MinimumFulls);
    }
}

/// The rules that look at one backup alone.
fn mark_single(life: &mut Life<'_>, inventory: &Inventory, hold: Option<&Hold>, now: Timestamp) {
    let objects = &life.inventory.backups;
    let archive = life.inventory;
    for backup in &mut life.backups {
        let id = &backup.record.id;
        let pins: Vec<KeepReason> = inventory
            .pins
            .iter()
            .filter(|pin| pin.backup == *id && pin.holds(now))
            .map(|pin| KeepReason::Pinned { until: pin.until, reason: pin.reason.clone() })
            .collect();
        backup.reasons.extend(pins);
        if backup.is_future {
            keep(backup, KeepReason::FromTheFuture { finished_at: backup.record.finished_at });
        }
        if let Some(feature) = unknown_feature(backup.record) {
            keep(backup, KeepReason::NeedsNewerVersion { feature: feature.to_owned() });
        }
        if let Some(timeline) = unknown_timeline(&archive.catalog, backup.record) {
            keep(backup, KeepReason::UnknownHistory { timeline });
        }
        if let Some(what) = missing_objects(archive, backup.record) {
            keep(backup, KeepReason::Unreadable { what });
        }
        let newest = objects.get(&backup.record.id).and_then(|objects| objects.newest);
        let touched = last_known_end(archive, backup.record).max(newest.unwrap_or(Timestamp::MIN));
        if let Some(hold) = hold.filter(|hold| touched >= hold.since) {
            keep(backup, hold.reason());
        }
    }
}

/// The last full backup of each of the newest periods, over all incarnations.
fn mark_tier(lives: &mut [Life<'_>], tier: Tier, count: u32, zone: &TimeZone) {
    let mut periods: BTreeMap<String, Vec<(bool, Timestamp, usize, usize)>> = BTreeMap::new();
    for (of, life) in lives.iter().enumerate() {
        for (at, backup) in life.backups.iter().enumerate().filter(|(_, backup)| backup.counts()) {
            let followed = life.newest.is_some_and(|newest| backup.restorable_on.contains(&newest));
            let period = period(tier, backup.record.finished_at, zone);
            periods.entry(period).or_default().push((followed, backup.record.finished_at, of, at));
        }
    }
    for (period, candidates) in periods.into_iter().rev().take(count as usize) {
        let Some((_, _, of, at)) = candidates.into_iter().max() else { continue };
        if let Some(backup) = lives.get_mut(of).and_then(|life| life.backups.get_mut(at)) {
            keep(backup, KeepReason::Tier { tier, period });
        }
    }
}

/// The period of a moment; of two the later one sorts behind.
pub(super) fn period(tier: Tier, at: Timestamp, zone: &TimeZone) -> String {
    let date = at.to_zoned(zone.clone()).date();
    match tier {
        Tier::Daily => date.to_string(),
        Tier::Weekly => {
            let week = date.iso_week_date();
            format!("{:04}-W{:02}", week.year(), week.week())
        }
        Tier::Monthly => format!("{:04}-{:02}", date.year(), date.month()),
        Tier::Yearly => format!("{:04}", date.year()),
    }
}

/// Whatever the rules say, an incarnation that can be restored stays so.
fn mark_last(life: &mut Life<'_>) {
    if life.released || life.backups.iter().any(|backup| backup.restorable && backup.is_kept()) {
        return;
    }
    let good = life.backups.iter_mut().filter(|backup| backup.restorable);
    if let Some(newest) = good.max_by_key(|backup| (backup.ended, backup.record.stop_lsn)) {
        keep(newest, KeepReason::LastRestorable);
        return;
    }
    // Where nothing can be restored as things stand, people will want to rescue something.
    for backup in &mut life.backups {
        keep(backup, KeepReason::LastRestorable);
    }
}

/// What kept and running backups stand on.
fn mark_parents(life: &mut Life<'_>, inventory: &Inventory) {
    for running in inventory.running.iter().filter(|running| running.incarnation == life.incarnation) {
        let parent =
            life.backups.iter_mut().find(|backup| Some(&backup.record.id) == running.parent.as_ref());
        if let Some(parent) = parent {
            keep(parent, KeepReason::NeededByRunning { running: running.id.clone() });
        }
    }
    let places: BTreeMap<BackupId, usize> =
        life.backups.iter().enumerate().map(|(at, backup)| (backup.record.id.clone(), at)).collect();
    let mut work: Vec<usize> = (0..life.backups.len()).collect();
    let mut seen = BTreeSet::new();
    while let Some(at) = work.pop() {
        let Some(child) = life.backups.get(at).filter(|child| child.is_kept()) else { continue };
        if !seen.insert(at) {
            continue;
        }
        let reason = KeepReason::ParentOf { child: child.record.id.clone() };
        let parent = child.record.parent.as_ref().and_then(|parent| places.get(parent)).copied();
        if let Some(parent) = parent
            && let Some(backup) = life.backups.get_mut(parent)
        {
            keep(backup, reason);
            work.push(parent);
        }
    }
}
