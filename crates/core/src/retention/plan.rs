//! `plan_retention`: what stays, what goes, in which order, and what can't be restored any more.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::answer::{
    GroupKind, LogDirectory, ObjectGroup, Retaining, RetentionNeed, RetentionPlan, RetentionRefusal,
    RetentionRefusalReason, Totals, WindowChange,
};
use super::groups::Grouping;
use super::inventory::{IncarnationInventory, Inventory};
use super::keep::{Floor, mark};
use super::life::{Hold, Life};
use super::order::deletions;
use super::policy::RetentionPolicy;
use super::reasons::{Fate, KeepReason};
use super::removal::narrow;
use super::wal::kept_wal;
use super::warnings::warnings;
use super::windows::{catalog_after, changes, needs_after};
use crate::layout::{BackupId, Incarnation};
use crate::recovery::{RecoveryWindow, Windowing, recovery_window};
use crate::snapshot::{CatalogSnapshot, Listed};

/// Decides what a policy keeps of a server's archive. Nothing is read and nothing decided later: the same arguments
/// give the same plan.
///
/// Another policy, or a later `now`, simulates: what would go by it, if nothing new came. [`super::diff_plans`]
/// compares.
///
/// [`Retaining::Needs`] says what else must be known, as with [`plan_recovery`](crate::plan_recovery): which moments
/// can be restored is judged by the recovery planner's own rules, and they may hang on what segments hold.
#[must_use]
pub fn plan_retention(inventory: &Inventory, policy: &RetentionPolicy, now: Timestamp) -> Retaining {
    if let Err(refusal) = check_arguments(inventory, policy) {
        return Retaining::Refused(Box::new(refusal));
    }
    match decide(inventory, policy, &[], now) {
        Ok(plan) => Retaining::Plan(Box::new(plan)),
        Err(needs) => Retaining::Needs(needs),
    }
}

pub(super) fn check_arguments(
    inventory: &Inventory,
    policy: &RetentionPolicy,
) -> Result<(), RetentionRefusal> {
    let refuse = |reason, message| Err(RetentionRefusal { reason, message });
    if let Err(error) = policy.validate() {
        return refuse(RetentionRefusalReason::InvalidPolicy, error.to_string());
    }
    let mut seen = BTreeSet::new();
    for life in &inventory.incarnations {
        let incarnation = life.incarnation();
        if life.catalog.listed != Listed::All || !seen.insert(incarnation) {
            let message = format!("not everything was listed once incarnation={incarnation}");
            return refuse(RetentionRefusalReason::IncompleteListing, message);
        }
    }
    if !seen.contains(&inventory.current) {
        let message =
            format!("the current incarnation is not among those listed incarnation={}", inventory.current);
        return refuse(RetentionRefusalReason::UnknownIncarnation, message);
    }
    Ok(())
}

/// What can be restored of each catalog, or all that must be known for it.
fn windows_of<'c>(
    catalogs: impl Iterator<Item = (Incarnation, &'c CatalogSnapshot)>,
    now: Timestamp,
) -> Result<Vec<RecoveryWindow>, Vec<RetentionNeed>> {
    let (mut windows, mut needs) = (Vec::new(), Vec::new());
    for (incarnation, catalog) in catalogs {
        match recovery_window(catalog, now) {
            Windowing::Window(window) => windows.push(*window),
            Windowing::Needs(more) => {
                needs.extend(more.into_iter().map(|need| RetentionNeed { incarnation, need }));
            }
        }
    }
    if needs.is_empty() { Ok(windows) } else { Err(needs) }
}

/// The plan; with `asked`, for the removal of those backups alone.
pub(super) fn decide(
    inventory: &Inventory,
    policy: &RetentionPolicy,
    asked: &[BackupId],
    now: Timestamp,
) -> Result<RetentionPlan, Vec<RetentionNeed>> {
    let mut of: Vec<&IncarnationInventory> = inventory.incarnations.iter().collect();
    of.sort_by_key(|life| life.incarnation());
    let before = windows_of(of.iter().map(|life| (life.incarnation(), &life.catalog)), now)?;
    let hold = Hold::of(inventory, policy, now);
    let lives = of.iter().zip(&before);
    let mut lives: Vec<Life<'_>> =
        lives.map(|(life, window)| Life::new(life, inventory.current, window, policy, now)).collect();
    let held_back = release(&mut lives, policy, now);
    let floors = mark(&mut lives, inventory, policy, hold.as_ref(), now);
    let mut groups = group(&lives, &floors, inventory, policy, hold.as_ref(), now);
    if !asked.is_empty() {
        narrow(&mut groups, asked);
    }
    let windows = windows_after(&lives, &groups, &before, now)?;
    let (mut removed, mut kept) = (Totals::default(), Totals::default());
    for group in &groups {
        if group.fate.is_removal() { removed.add(group) } else { kept.add(group) }
    }
    Ok(RetentionPlan {
        schema: 1,
        server: inventory.server.clone(),
        current: inventory.current,
        at: now,
        policy: policy.clone(),
        asked: asked.to_vec(),
        deletions: deletions(&groups, inventory),
        stale_directories: stale_directories(&groups),
        warnings: warnings(&lives, &floors, inventory, policy, &held_back, now),
        groups,
        removed,
        kept,
        windows,
    })
}

/// Old incarnations that were kept long enough are released, unless nothing else could be restored. Those that stay for
/// that reason alone are returned.
fn release(lives: &mut [Life<'_>], policy: &RetentionPolicy, now: Timestamp) -> Vec<Incarnation> {
    let current = lives.iter().find(|life| life.is_current);
    let usable = current.is_some_and(|life| life.backups.iter().any(|backup| backup.restorable));
    let mut held_back = Vec::new();
    let until = policy.hold(policy.old_incarnations).before(now);
    for life in lives.iter_mut().filter(|life| !life.is_current) {
        let is_over = life.last_write_of_all().is_some_and(|last| last <= until);
        if is_over && usable {
            life.released = true;
            life.tips.clear();
        } else if is_over {
            held_back.push(life.incarnation);
        }
    }
    held_back
}

fn group(
    lives: &[Life<'_>],
    floors: &[Vec<Floor>],
    inventory: &Inventory,
    policy: &RetentionPolicy,
    hold: Option<&Hold>,
    now: Timestamp,
) -> Vec<ObjectGroup> {
    let mut groups = Vec::new();
    for (life, floors) in lives.iter().zip(floors) {
        let kept = kept_wal(life, floors, inventory, hold);
        groups.extend(Grouping { life, inventory, policy, hold, kept: &kept, now }.all());
    }
    for stray in &inventory.strays {
        let fate = Fate::Keep(vec![KeepReason::Foreign { what: stray.reason.clone() }]);
        let kind = GroupKind::Foreign { key: stray.key.clone() };
        groups.push(ObjectGroup::new(None, kind, fate, Totals { objects: 1, bytes: 0 }));
    }
    groups
}

fn windows_after(
    lives: &[Life<'_>],
    groups: &[ObjectGroup],
    before: &[RecoveryWindow],
    now: Timestamp,
) -> Result<Vec<WindowChange>, Vec<RetentionNeed>> {
    let (mut catalogs, mut needs) = (Vec::new(), Vec::new());
    for life in lives {
        let after = catalog_after(&life.inventory.catalog, life.incarnation, groups);
        let incarnation = life.incarnation;
        let more = needs_after(&life.inventory.catalog, &after).into_iter();
        needs.extend(more.map(|need| RetentionNeed { incarnation, need }));
        catalogs.push((incarnation, after));
    }
    if !needs.is_empty() {
        return Err(needs);
    }
    let after = windows_of(catalogs.iter().map(|(incarnation, catalog)| (*incarnation, catalog)), now)?;
    Ok(before.iter().zip(&after).flat_map(|(before, after)| changes(before, after)).collect())
}

/// Directories of which some segments go and some stay.
fn stale_directories(groups: &[ObjectGroup]) -> Vec<LogDirectory> {
    let directories = |removal: bool| {
        let segments = groups.iter().filter(move |group| group.fate.is_removal() == removal);
        let logs = segments.filter_map(|group| match (&group.kind, group.incarnation) {
            (GroupKind::Segments { timeline, first, last, .. }, Some(incarnation)) => {
                Some((incarnation, *timeline, first.log(), last.log()))
            }
            _ => None,
        });
        let each = logs.flat_map(|(incarnation, timeline, first, last)| {
            (first..=last).map(move |log| LogDirectory { incarnation, timeline, log })
        });
        each.collect::<BTreeSet<LogDirectory>>()
    };
    directories(true).intersection(&directories(false)).copied().collect()
}
