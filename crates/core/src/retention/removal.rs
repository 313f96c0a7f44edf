//! `plan_removal`: the removal of backups that an operator names, and of nothing else.

use jiff::Timestamp;

use super::answer::{
    GroupKind, ObjectGroup, Retaining, RetentionPlan, RetentionRefusal, RetentionRefusalReason,
};
use super::inventory::{IncarnationInventory, Inventory};
use super::life::unknown_feature;
use super::plan::{check_arguments, decide};
use super::policy::RetentionPolicy;
use super::reasons::{Fate, KeepReason, RemoveReason};
use crate::layout::BackupId;

/// Decides whether the backups that an operator names can go, and what can't be restored without them. Their WAL stays:
/// the next plan by policy says what of it nothing needs any more.
///
/// The policy's window and counts do not hold them back; what always holds does: a pin, a backup that stands on
/// one of them, the last that can be restored of an incarnation, what may be under way, and what this version can't read.
#[must_use]
pub fn plan_removal(
    inventory: &Inventory,
    policy: &RetentionPolicy,
    asked: &[BackupId],
    now: Timestamp,
) -> Retaining {
    let checked = check_arguments(inventory, policy)
        .and_then(|()| asked.iter().try_for_each(|id| check_one(inventory, policy, asked, id, now)));
    if let Err(refusal) = checked {
        return Retaining::Refused(Box::new(refusal));
    }
    match decide(inventory, policy, asked, now) {
        Err(needs) => Retaining::Needs(needs),
        Ok(plan) => match last_restorable(&plan, asked) {
            Some(refusal) => Retaining::Refused(Box::new(refusal)),
            None => Retaining::Plan(Box::new(plan)),
        },
    }
}

fn must_stay(id: &BackupId, why: &str) -> RetentionRefusal {
    let message = format!("backup {id} can't be removed: {why}");
    RetentionRefusal { reason: RetentionRefusalReason::MustStay, message }
}

fn check_one(
    inventory: &Inventory,
    policy: &RetentionPolicy,
    asked: &[BackupId],
    id: &BackupId,
    now: Timestamp,
) -> Result<(), RetentionRefusal> {
    let holds = |life: &&IncarnationInventory| {
        let catalog = &life.catalog;
        catalog.backup(id).is_some()
            || catalog.unreadable_backups.contains_key(id)
            || catalog.unfinished_backups.contains(id)
    };
    let Some(life) = inventory.incarnations.iter().find(holds) else {
        let message = format!("no such backup id={id}");
        return Err(RetentionRefusal { reason: RetentionRefusalReason::UnknownBackup, message });
    };
    let refuse = |why: &str| Err(must_stay(id, why));
    if let Some(pin) = inventory.pins.iter().find(|pin| pin.backup == *id && pin.holds(now)) {
        return refuse(&format!("it is pinned: {}", pin.reason));
    }
    if let Some(what) = life.catalog.unreadable_backups.get(id) {
        return refuse(&format!("its record can't be read: {what}"));
    }
    if let Some(feature) = life.catalog.backup(id).and_then(unknown_feature) {
        return refuse(&format!("it needs a newer walden: feature {feature:?}"));
    }
    let mut others = life.catalog.backups.iter().filter(|other| !asked.contains(&other.id));
    if let Some(child) = others.find(|other| other.parent.as_ref() == Some(id)) {
        return refuse(&format!("backup {} stands on it", child.id));
    }
    let mut running = inventory.running.iter();
    if let Some(running) = running.find(|running| running.id == *id || running.parent.as_ref() == Some(id)) {
        return refuse(&format!("backup {} runs", running.id));
    }
    let newest = life.backups.get(id).and_then(|objects| objects.newest);
    let is_young = newest.is_none_or(|newest| newest > policy.unfinished_backups.before(now));
    if life.catalog.unfinished_backups.contains(id) && !life.leftovers.contains(id) && is_young {
        return refuse("it has no commit record yet: it may be under way");
    }
    Ok(())
}

/// The refusal, when nothing that can be restored would stay of an incarnation.
fn last_restorable(plan: &RetentionPlan, asked: &[BackupId]) -> Option<RetentionRefusal> {
    let restorable = |group: &ObjectGroup| matches!(group.kind, GroupKind::Backup { restorable: true, .. });
    let going = plan.groups.iter().find(|group| {
        let stays = |other: &&ObjectGroup| {
            other.incarnation == group.incarnation && restorable(other) && !other.fate.is_removal()
        };
        restorable(group) && group.fate.is_removal() && !plan.groups.iter().any(|other| stays(&other))
    })?;
    let named =
        asked.iter().find(|id| matches!(&going.kind, GroupKind::Backup { id: own, .. } if own == *id));
    Some(must_stay(named?, "it is the last that can be restored"))
}

/// Leaves only the removal of what was asked for, and of the copy that tells of it.
pub(super) fn narrow(groups: &mut [ObjectGroup], asked: &[BackupId]) {
    let is_asked = |group: &ObjectGroup| match &group.kind {
        GroupKind::Backup { id, .. } | GroupKind::UnfinishedBackup { id } => asked.contains(id),
        _ => false,
    };
    let told: Vec<_> = groups
        .iter()
        .filter(|group| is_asked(group) && matches!(group.kind, GroupKind::Backup { .. }))
        .map(|group| group.incarnation)
        .collect();
    for group in groups {
        let fate = match &group.kind {
            _ if is_asked(group) => Fate::Remove(vec![RemoveReason::Asked]),
            GroupKind::BackupRollup if told.contains(&group.incarnation) => {
                Fate::Remove(vec![RemoveReason::Stale])
            }
            _ if group.fate.is_removal() => Fate::Keep(vec![KeepReason::NotAsked]),
            _ => continue,
        };
        group.message = fate.words().join("; ");
        group.fate = fate;
    }
}
