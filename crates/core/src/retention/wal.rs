//! Which segments are kept, and for which backup or timeline.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use jiff::Timestamp;
use walden_pg::TimelineId;

use super::inventory::Inventory;
use super::keep::Floor;
use super::life::{Hold, Life};
use super::reasons::KeepReason;
use super::spans::{KeptRanges, consistency, cut, spans_of, start_of};
use crate::layout::BackupId;

/// The WAL of a backup whose record can't be read was written from so long before its start by its name on, because
/// a restart point of a standby may lie before it.
const UNREADABLE_BEFORE: SignedDuration = SignedDuration::from_hours(24);
/// And until so long after its commit record was.
const UNREADABLE_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// The kept numbers of each timeline.
pub(super) type KeptWal = BTreeMap<TimelineId, KeptRanges>;

/// The segments of one incarnation that are kept.
pub(super) fn kept_wal(
    life: &Life<'_>,
    floors: &[Floor],
    inventory: &Inventory,
    hold: Option<&Hold>,
) -> KeptWal {
    let mut kept = KeptWal::new();
    keep_unknown(life, &mut kept);
    if let Some(hold) = hold {
        keep_young(life, hold, &mut kept);
    }
    let size = life.inventory.catalog.incarnation.segment_size;
    // The newest timeline first: what it shares with others is told as its own.
    for floor in floors.iter().rev() {
        let Some(path) = life.path(floor.timeline) else { continue };
        let backup = floor.backup.as_ref().and_then(|id| life.backup(id));
        let (first, reason) = match backup {
            Some(backup) => {
                let from = backup.record.id.clone();
                (start_of(backup.record, size), KeepReason::WalOfWindow { timeline: floor.timeline, from })
            }
            None => (0, KeepReason::NoOlderBackup { timeline: floor.timeline }),
        };
        for span in cut(&spans_of(&path, size), first, u64::MAX) {
            kept.entry(span.timeline).or_default().add(span.first, span.last, &reason);
        }
    }
    for running in inventory.running.iter().filter(|running| running.incarnation == life.incarnation) {
        if let Some((timeline, start)) = running.start {
            let reason = KeepReason::YoungerThanRunning { running: running.id.clone() };
            kept.entry(timeline).or_default().add(size.segment_of(start).get(), u64::MAX, &reason);
        }
    }
    for backup in life.backups.iter().rev().filter(|backup| backup.is_kept()) {
        let reason = KeepReason::WalOfBackup { backup: backup.record.id.clone() };
        for timeline in ways_of(life, &backup.record.id) {
            let Some(path) = life.path(timeline) else { continue };
            for span in consistency(backup.record, &spans_of(&path, size), size) {
                kept.entry(span.timeline).or_default().add(span.first, span.last, &reason);
            }
        }
    }
    kept
}

/// On the ways to which timelines a kept backup stays consistent: its own, the newest, those that are promised; and
/// where it can be restored on none of them, wherever it can.
fn ways_of(life: &Life<'_>, id: &BackupId) -> BTreeSet<TimelineId> {
    let Some(backup) = life.backup(id) else { return BTreeSet::new() };
    let own = backup.record.stop_timeline;
    let meant = |timeline: &TimelineId| {
        *timeline == own || Some(*timeline) == life.newest || life.tips.contains_key(timeline)
    };
    let mut ways: BTreeSet<TimelineId> = backup.on.iter().copied().filter(meant).collect();
    if !ways.iter().any(|timeline| backup.restorable_on.contains(timeline)) {
        ways.extend(&backup.restorable_on);
    }
    ways.insert(own);
    ways
}

/// Timelines without a readable history, and the time of backups without a readable record.
fn keep_unknown(life: &Life<'_>, kept: &mut KeptWal) {
    let catalog = &life.inventory.catalog;
    let damaged = catalog.damaged_histories.keys().copied();
    for timeline in catalog.timelines().into_iter().chain(damaged) {
        if life.path(timeline).is_none() {
            let reason = KeepReason::UnknownHistory { timeline };
            kept.entry(timeline).or_default().add(0, u64::MAX, &reason);
        }
    }
    for id in catalog.unreadable_backups.keys() {
        let objects = life.inventory.backups.get(id);
        let from = id.started_at().and_then(|start| start.checked_sub(UNREADABLE_BEFORE).ok());
        let from = from.unwrap_or(Timestamp::MIN);
        let until = objects.and_then(|objects| objects.committed.or(objects.newest));
        let until = until.and_then(|until| until.checked_add(UNREADABLE_AFTER).ok());
        let until = until.unwrap_or(Timestamp::MAX);
        let reason = KeepReason::WalOfUnreadable { backup: id.clone() };
        keep_directories(life, kept, &reason, |oldest, newest| newest >= from && oldest <= until);
    }
}

/// What is not older than a backup that runs or may run.
fn keep_young(life: &Life<'_>, hold: &Hold, kept: &mut KeptWal) {
    keep_directories(life, kept, &hold.reason(), |_, newest| newest >= hold.since);
}

/// Keeps the LOG directories whose write times fit; one whose times are not known does.
fn keep_directories(
    life: &Life<'_>,
    kept: &mut KeptWal,
    reason: &KeepReason,
    fits: impl Fn(Timestamp, Timestamp) -> bool,
) {
    let catalog = &life.inventory.catalog;
    let each = catalog.incarnation.segment_size.segments_per_log();
    for (timeline, runs) in &catalog.segments {
        for run in runs {
            for log in run.first.get() / each..=run.last().get() / each {
                let written = u32::try_from(log).ok();
                let written = written.and_then(|log| life.inventory.wal_written.get(&(*timeline, log)));
                if written.is_none_or(|written| fits(written.oldest, written.newest)) {
                    let first = log * each;
                    kept.entry(*timeline).or_default().add(first, first + (each - 1), reason);
                }
            }
        }
    }
}
