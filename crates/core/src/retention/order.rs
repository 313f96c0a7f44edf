//! The order of deletion: first what names things, then the things; what depends before what it depends on.

use std::collections::BTreeMap;

use super::answer::{Deletion, GroupKind, ObjectGroup};
use super::inventory::{IncarnationInventory, Inventory, RecordRole};
use crate::layout::{BackupId, Incarnation};

/// The steps that carry out the removals among the groups.
///
/// Commit records go first, and of a chain the newest first: from then on nobody plans with the backup, and what is
/// left of it is an unfinished backup to whoever looks. WAL goes only when no backup needs it any more, rollups before
/// the segments that they tell of, histories last.
pub(super) fn deletions(groups: &[ObjectGroup], inventory: &Inventory) -> Vec<Deletion> {
    let mut steps: Vec<(u8, u64, Deletion)> = Vec::new();
    for group in groups.iter().filter(|group| group.fate.is_removal()) {
        let Some(incarnation) = group.incarnation else { continue };
        let of = inventory.incarnations.iter().find(|life| life.incarnation() == incarnation);
        let Some(of) = of else { continue };
        add(&mut steps, group, incarnation, of);
    }
    steps.sort_by_key(|(phase, rank, _)| (*phase, *rank));
    steps.into_iter().map(|(_, _, step)| step).collect()
}

fn add(
    steps: &mut Vec<(u8, u64, Deletion)>,
    group: &ObjectGroup,
    incarnation: Incarnation,
    of: &IncarnationInventory,
) {
    let size = of.catalog.incarnation.segment_size;
    match &group.kind {
        GroupKind::BackupRollup => steps.push((0, 0, Deletion::BackupRollup { incarnation })),
        GroupKind::Backup { id, .. } => {
            let rank = u64::MAX - depth(of, id);
            steps.push((1, rank, Deletion::CommitRecord { incarnation, backup: id.clone() }));
            steps.push((2, rank, Deletion::BackupObjects { incarnation, backup: id.clone() }));
        }
        GroupKind::UnfinishedBackup { id } => {
            steps.push((3, 0, Deletion::BackupObjects { incarnation, backup: id.clone() }));
        }
        GroupKind::Rollup { timeline, log } => {
            steps.push((4, 0, Deletion::Rollup { incarnation, timeline: *timeline, log: *log }));
        }
        GroupKind::File { name } => steps.push((5, 0, Deletion::File { incarnation, name: *name })),
        GroupKind::Segments { timeline, first, .. } => {
            let Ok(id) = first.id(size) else { return };
            let (timeline, first, count) = (*timeline, id.number, group.objects);
            let step = Deletion::Segments { incarnation, timeline, first, count, segment_size: size };
            steps.push((6, 0, step));
        }
        GroupKind::History { timeline } => {
            let rank = u64::from(timeline.get());
            steps.push((7, rank, Deletion::History { incarnation, timeline: *timeline }));
        }
        GroupKind::Record { role, key } => {
            if *role != RecordRole::Lease {
                steps.push((8, 0, Deletion::Record { key: key.clone() }));
            }
        }
        GroupKind::Upload { key, upload } => {
            steps.push((9, 0, Deletion::Upload { key: key.clone(), upload: upload.clone() }));
        }
        GroupKind::Foreign { .. } => {}
    }
}

/// On how many backups a backup stands.
fn depth(of: &IncarnationInventory, id: &BackupId) -> u64 {
    let parents: BTreeMap<&BackupId, Option<&BackupId>> =
        of.catalog.backups.iter().map(|backup| (&backup.id, backup.parent.as_ref())).collect();
    let mut at = parents.get(id).copied().flatten();
    let mut depth = 0;
    while let Some(parent) = at.filter(|_| depth < parents.len() as u64) {
        depth += 1;
        at = parents.get(parent).copied().flatten();
    }
    depth
}
