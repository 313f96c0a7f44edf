//! What a person should look at before a plan is carried out.

use jiff::{SignedDuration, Timestamp};

use super::answer::{RetentionWarning, RetentionWarningKind as Kind};
use super::inventory::Inventory;
use super::keep::Floor;
use super::life::Life;
use super::policy::{PromisedWindow, RetentionPolicy};
use crate::layout::Incarnation;
use crate::recovery::postgres_time;

/// A backup's record normally comes to the store so soon after the backup ended.
const LATE: SignedDuration = SignedDuration::from_hours(24);
/// Clocks of this machine and the store may differ by so much without harm.
const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn warnings(
    lives: &[Life<'_>],
    floors: &[Vec<Floor>],
    inventory: &Inventory,
    policy: &RetentionPolicy,
    held_back: &[Incarnation],
    now: Timestamp,
) -> Vec<RetentionWarning> {
    let mut warnings = Vec::new();
    let mut warn = |kind, message: String| warnings.push(RetentionWarning { kind, message });
    for (life, floors) in lives.iter().zip(floors) {
        of_promises(life, floors, policy, &mut warn);
        of_backups(life, &mut warn);
        of_unreadable(life, &mut warn);
    }
    of_clocks(lives, policy, now, &mut warn);
    for incarnation in held_back {
        warn(
            Kind::OldIncarnationHeld,
            format!(
                "incarnation {incarnation} is old enough to go, and stays: of the current one nothing can be restored"
            ),
        );
    }
    for pin in &inventory.pins {
        let there = lives.iter().any(|life| life.backup(&pin.backup).is_some());
        if !there && !pin.holds(now) {
            // It has ended, and so has the backup.
            continue;
        }
        if !there {
            warn(Kind::Pin, format!("backup {} is pinned, and is not in the archive", pin.backup));
        } else if !pin.holds(now) {
            warn(Kind::Pin, format!("the pin of backup {} has ended", pin.backup));
        }
    }
    let foreign: usize = lives.iter().map(|life| life.inventory.catalog.strays.len()).sum();
    let foreign = foreign + inventory.strays.len();
    if foreign > 0 {
        warn(Kind::Foreign, format!("objects that are not known here, and stay count={foreign}"));
    }
    warnings
}

fn of_promises(
    life: &Life<'_>,
    floors: &[Floor],
    policy: &RetentionPolicy,
    warn: &mut impl FnMut(Kind, String),
) {
    let incarnation = life.incarnation;
    if life.is_current && !life.backups.iter().any(|backup| backup.restorable) {
        warn(Kind::NothingRestorable, format!("nothing can be restored incarnation={incarnation}"));
        return;
    }
    let fulls = life.backups.iter().filter(|backup| backup.counts()).count();
    if life.is_current && fulls < policy.minimum_fulls as usize {
        let wanted = policy.minimum_fulls;
        warn(
            Kind::FewerFulls,
            format!(
                "fewer restorable full backups than the policy asks for have={fulls} minimum_fulls={wanted}"
            ),
        );
    }
    for floor in floors.iter().filter(|floor| floor.backup.is_none()) {
        let timeline = floor.timeline;
        let promise = match policy.window {
            PromisedWindow::Last(window) => format!("no full backup is older than the window of {window}"),
            PromisedWindow::None => "there are not enough full backups".to_owned(),
        };
        warn(
            Kind::WindowNotReached,
            format!("{promise}: all WAL on the way to timeline {timeline} stays incarnation={incarnation}"),
        );
    }
}

fn of_backups(life: &Life<'_>, warn: &mut impl FnMut(Kind, String)) {
    for backup in &life.backups {
        let (id, finished) = (&backup.record.id, backup.record.finished_at);
        if backup.is_future {
            let at = postgres_time(finished);
            warn(
                Kind::FromTheFuture,
                format!("backup {id} ended in the future by its server's clock, at {at}"),
            );
        }
        let committed = life.inventory.backups.get(id).and_then(|objects| objects.committed);
        if let Some(committed) = committed.filter(|committed| committed.duration_since(finished) > LATE) {
            warn(
                Kind::LateInStore,
                format!(
                    "backup {id} ended at {} by its server's clock and came to the store at {}: a copy, or a wrong \
                     clock; the later counts",
                    postgres_time(finished),
                    postgres_time(committed)
                ),
            );
        }
        if backup.is_kept() && !backup.restorable {
            warn(Kind::NotRestorable, format!("backup {id} is kept and can't be restored"));
        }
    }
}

fn of_unreadable(life: &Life<'_>, warn: &mut impl FnMut(Kind, String)) {
    let catalog = &life.inventory.catalog;
    for (id, what) in &catalog.unreadable_backups {
        warn(Kind::Unreadable, format!("the record of backup {id} can't be read: {what}"));
    }
    for (timeline, what) in &catalog.damaged_histories {
        warn(Kind::Unreadable, format!("the history of timeline {timeline} can't be read: {what}"));
    }
    let missing = catalog.timelines().into_iter().filter(|timeline| {
        life.path(*timeline).is_none() && !catalog.damaged_histories.contains_key(timeline)
    });
    for timeline in missing {
        warn(Kind::Unreadable, format!("the history of timeline {timeline} is missing: its WAL stays"));
    }
}

fn of_clocks(
    lives: &[Life<'_>],
    policy: &RetentionPolicy,
    now: Timestamp,
    warn: &mut impl FnMut(Kind, String),
) {
    let newest = lives.iter().flat_map(|life| {
        let segments = life.inventory.wal_written.values().map(|written| written.newest);
        segments.chain(life.inventory.backups.values().filter_map(|objects| objects.newest))
    });
    let Some(newest) = newest.max() else { return };
    let at = postgres_time(newest);
    if newest.duration_since(now) > CLOCKS_APART {
        warn(
            Kind::ClockBehind,
            format!("the newest object was written in the future, at {at}: a clock is wrong"),
        );
    }
    let PromisedWindow::Last(window) = policy.window else { return };
    if newest <= window.before(now) {
        warn(
            Kind::NothingNew,
            format!(
                "nothing was written since {at}, longer ago than the window of {window}: archiving stands still, or \
                 this clock is wrong"
            ),
        );
    }
}
