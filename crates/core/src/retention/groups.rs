//! Everything that is there, in groups, each with its fate.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use walden_pg::{SegmentId, SegmentNumber, TimelineId};

use super::answer::{GroupKind, ObjectGroup, Totals};
use super::inventory::{BackupObjects, Inventory, RecordRole};
use super::life::{Hold, Judged, Life, objects_told};
use super::policy::{HowLong, RetentionPolicy};
use super::reasons::{Fate, KeepReason, RemoveReason};
use super::wal::KeptWal;
use crate::layout::{BackupId, ObjectKey};
use crate::records::BackupRecord;
use crate::snapshot::SegmentRun;

/// What the groups of one incarnation are made from.
pub(super) struct Grouping<'g, 'a> {
    pub(super) life: &'g Life<'a>,
    pub(super) inventory: &'g Inventory,
    pub(super) policy: &'g RetentionPolicy,
    pub(super) hold: Option<&'g Hold>,
    pub(super) kept: &'g KeptWal,
    pub(super) now: Timestamp,
}

impl Grouping<'_, '_> {
    /// All groups of the incarnation.
    pub(super) fn all(&self) -> Vec<ObjectGroup> {
        let mut groups = Vec::new();
        self.backups(&mut groups);
        self.segments(&mut groups);
        self.files(&mut groups);
        self.rollups(&mut groups);
        self.histories(&mut groups);
        self.records(&mut groups);
        self.uploads(&mut groups);
        for stray in &self.life.inventory.catalog.strays {
            let fate = Fate::Keep(vec![KeepReason::Foreign { what: stray.reason.clone() }]);
            groups.push(self.group(GroupKind::Foreign { key: stray.key.clone() }, fate, 1, 0));
        }
        groups
    }

    fn group(&self, kind: GroupKind, fate: Fate, objects: u64, bytes: u64) -> ObjectGroup {
        ObjectGroup::new(Some(self.life.incarnation), kind, fate, Totals { objects, bytes })
    }

    /// Whether something written then is not older than a backup that runs or may run.
    fn is_young(&self, written: Option<Timestamp>) -> Option<KeepReason> {
        let hold = self.hold.filter(|hold| written.is_none_or(|written| written >= hold.since))?;
        Some(hold.reason())
    }

    /// Whether the policy's time for something has passed. What was written in the future, or at a time that is not
    /// known, stays.
    fn aged(&self, written: Option<Timestamp>, kept_for: HowLong) -> bool {
        written.is_some_and(|written| written <= kept_for.before(self.now))
    }

    fn backups(&self, groups: &mut Vec<ObjectGroup>) {
        for backup in &self.life.backups {
            let BackupObjects { objects, bytes, .. } = self.objects_of(backup.record);
            let fate = if backup.is_kept() {
                Fate::Keep(backup.reasons.iter().cloned().collect())
            } else {
                Fate::Remove(vec![self.why_backup_goes(backup)])
            };
            let kind = GroupKind::of_backup(backup.record, backup.restorable);
            groups.push(self.group(kind, fate, objects, bytes));
        }
        let catalog = &self.life.inventory.catalog;
        for (id, what) in &catalog.unreadable_backups {
            let fate = Fate::Keep(vec![KeepReason::Unreadable { what: what.clone() }]);
            groups.push(self.unfinished(id, fate));
        }
        for id in &catalog.unfinished_backups {
            groups.push(self.unfinished(id, self.fate_of_unfinished(id)));
        }
    }

    fn unfinished(&self, id: &BackupId, fate: Fate) -> ObjectGroup {
        let BackupObjects { objects, bytes, .. } =
            self.life.inventory.backups.get(id).copied().unwrap_or_default();
        self.group(GroupKind::UnfinishedBackup { id: id.clone() }, fate, objects, bytes)
    }

    fn fate_of_unfinished(&self, id: &BackupId) -> Fate {
        let newest = self.life.inventory.backups.get(id).and_then(|objects| objects.newest);
        let runs = self.inventory.running.iter().any(|running| running.id == *id);
        if self.life.inventory.leftovers.contains(id) && !runs {
            return Fate::Remove(vec![RemoveReason::Leftover]);
        }
        if runs || !self.aged(newest, self.policy.unfinished_backups) {
            return Fate::Keep(vec![KeepReason::MayBeRunning]);
        }
        match self.is_young(newest) {
            Some(young) => Fate::Keep(vec![young]),
            None => Fate::Remove(vec![RemoveReason::Unfinished]),
        }
    }

    /// By listing; else by the record.
    fn objects_of(&self, record: &BackupRecord) -> BackupObjects {
        let listed = self.life.inventory.backups.get(&record.id).copied();
        listed.unwrap_or_else(|| BackupObjects {
            objects: objects_told(record),
            bytes: record.stored_bytes,
            ..BackupObjects::default()
        })
    }

    fn why_backup_goes(&self, backup: &Judged<'_>) -> RemoveReason {
        if self.life.released {
            RemoveReason::OldIncarnation
        } else if !backup.restorable {
            RemoveReason::NotRestorable
        } else if !backup.on.iter().any(|timeline| self.life.tips.contains_key(timeline)) {
            RemoveReason::DeadTimeline { timeline: backup.record.stop_timeline }
        } else {
            RemoveReason::BeforeWindow
        }
    }

    fn segments(&self, groups: &mut Vec<ObjectGroup>) {
        for (timeline, runs) in &self.life.inventory.catalog.segments {
            for run in runs {
                self.segments_of(*timeline, run, groups);
            }
        }
    }

    fn segments_of(&self, timeline: TimelineId, run: &SegmentRun, groups: &mut Vec<ObjectGroup>) {
        let size = self.life.inventory.catalog.incarnation.segment_size;
        let nothing = super::spans::KeptRanges::default();
        let kept = self.kept.get(&timeline).unwrap_or(&nothing);
        for (first, last, reason) in kept.split(run.first.get(), run.last().get()) {
            let name = |number| SegmentId::new(timeline, SegmentNumber::new(number)).name(size);
            let fate = match reason {
                Some(reason) => Fate::Keep(vec![reason.clone()]),
                None => Fate::Remove(vec![self.why_wal_goes(timeline)]),
            };
            let skip = usize::try_from(first - run.first.get()).unwrap_or(usize::MAX);
            let take = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
            let bytes = run.stored_bytes.iter().skip(skip).take(take).map(|bytes| u64::from(*bytes)).sum();
            let count = last - first + 1;
            let (first, last) = (name(first), name(last));
            let kind = GroupKind::Segments { timeline, first, last, segment_size: size };
            groups.push(self.group(kind, fate, count, bytes));
        }
    }

    fn why_wal_goes(&self, timeline: TimelineId) -> RemoveReason {
        let is_followed = self.life.tips.keys().any(|tip| {
            let path = self.life.path(*tip);
            path.is_some_and(|path| path.steps().iter().any(|step| step.timeline == timeline))
        });
        match (self.life.released, is_followed) {
            (true, _) => RemoveReason::OldIncarnation,
            (false, true) => RemoveReason::NotNeeded,
            (false, false) => RemoveReason::DeadTimeline { timeline },
        }
    }

    fn files(&self, groups: &mut Vec<ObjectGroup>) {
        let size = self.life.inventory.catalog.incarnation.segment_size;
        for file in &self.life.inventory.files {
            let number = file.name.segment().and_then(|name| name.id(size).ok()).map(|id| id.number.get());
            let fate = match number {
                None => Fate::Keep(vec![KeepReason::Foreign { what: "not a file of a segment".to_owned() }]),
                Some(number) => {
                    let kept = self.kept.get(&file.name.timeline());
                    let kept = kept.and_then(|kept| kept.reason(number)).cloned();
                    match kept.or_else(|| self.is_young(file.written)) {
                        Some(reason) => Fate::Keep(vec![reason]),
                        None => Fate::Remove(vec![self.why_wal_goes(file.name.timeline())]),
                    }
                }
            };
            groups.push(self.group(GroupKind::File { name: file.name }, fate, 1, file.bytes));
        }
    }

    /// The directories of which segments go.
    fn touched(groups: &[ObjectGroup]) -> BTreeSet<(TimelineId, u32)> {
        let mut touched = BTreeSet::new();
        for group in groups.iter().filter(|group| group.fate.is_removal()) {
            if let GroupKind::Segments { timeline, first, last, .. } = group.kind {
                touched.extend((first.log()..=last.log()).map(|log| (timeline, log)));
            }
        }
        touched
    }

    fn rollups(&self, groups: &mut Vec<ObjectGroup>) {
        let touched = Self::touched(groups);
        let inventory = self.life.inventory;
        for ((timeline, log), bytes) in &inventory.rollups {
            let stale = touched.contains(&(*timeline, *log));
            let fate = if stale {
                Fate::Remove(vec![RemoveReason::Stale])
            } else {
                Fate::Keep(vec![KeepReason::Derived])
            };
            let kind = GroupKind::Rollup { timeline: *timeline, log: *log };
            groups.push(self.group(kind, fate, 1, *bytes));
        }
        if let Some(bytes) = inventory.backup_rollup {
            let stale = self.life.backups.iter().any(|backup| !backup.is_kept());
            let fate = if stale {
                Fate::Remove(vec![RemoveReason::Stale])
            } else {
                Fate::Keep(vec![KeepReason::Derived])
            };
            groups.push(self.group(GroupKind::BackupRollup, fate, 1, bytes));
        }
    }

    /// History files go when nothing is left of their timeline or an earlier one: PostgreSQL looks for the newest
    /// timeline by asking for one history after the other from a backup's on.
    fn histories(&self, groups: &mut Vec<ObjectGroup>) {
        let catalog = &self.life.inventory.catalog;
        let of_backups = self.life.backups.iter().filter(|backup| backup.is_kept());
        let of_backups = of_backups.map(|backup| backup.record.timeline).min();
        let lowest = lowest_kept_timeline(groups).into_iter().chain(of_backups).min();
        let unknown = !catalog.unreadable_backups.is_empty() || !catalog.damaged_histories.is_empty();
        let named = self.life.inventory.histories.keys().chain(catalog.histories.keys());
        let named: BTreeSet<TimelineId> = named.chain(catalog.damaged_histories.keys()).copied().collect();
        for timeline in named {
            let bytes = self.life.inventory.histories.get(&timeline).copied().unwrap_or(0);
            let gone = match lowest {
                Some(lowest) => timeline < lowest,
                None => self.life.released,
            };
            let running = self.hold.is_some() && self.life.is_current;
            let fate = if let Some(what) = catalog.damaged_histories.get(&timeline) {
                Fate::Keep(vec![KeepReason::Unreadable { what: what.clone() }])
            } else if gone && !unknown && !running {
                Fate::Remove(vec![RemoveReason::TimelineGone])
            } else {
                Fate::Keep(vec![KeepReason::TimelineInUse])
            };
            groups.push(self.group(GroupKind::History { timeline }, fate, 1, bytes));
        }
    }

    fn records(&self, groups: &mut Vec<ObjectGroup>) {
        let records = &self.life.inventory.records;
        let mut newest: BTreeMap<RecordRole, (Option<Timestamp>, &ObjectKey)> = BTreeMap::new();
        for record in records {
            let of = newest.entry(record.role).or_insert((record.written, &record.key));
            *of = (*of).max((record.written, &record.key));
        }
        for record in records {
            let kept_for = match record.role {
                RecordRole::Evidence | RecordRole::Verification => self.policy.evidence,
                RecordRole::Audit | RecordRole::Pin => self.policy.audit,
                RecordRole::Lease => HowLong::Forever,
            };
            let fate = if record.role == RecordRole::Lease {
                Fate::Keep(vec![KeepReason::Lease])
            } else if !self.aged(record.written, kept_for) {
                Fate::Keep(vec![KeepReason::Young { kept_for }])
            } else if newest.get(&record.role).is_some_and(|(_, key)| **key == record.key) {
                Fate::Keep(vec![KeepReason::Newest])
            } else {
                Fate::Remove(vec![RemoveReason::Aged { kept_for }])
            };
            let kind = GroupKind::Record { role: record.role, key: record.key.clone() };
            groups.push(self.group(kind, fate, 1, record.bytes));
        }
    }

    fn uploads(&self, groups: &mut Vec<ObjectGroup>) {
        let kept_for = self.policy.uploads;
        for upload in &self.life.inventory.uploads {
            let fate = if !self.aged(upload.started, kept_for) {
                Fate::Keep(vec![KeepReason::Young { kept_for }])
            } else if let Some(young) = self.is_young(upload.started) {
                Fate::Keep(vec![young])
            } else {
                Fate::Remove(vec![RemoveReason::Aged { kept_for }])
            };
            let kind = GroupKind::Upload { key: upload.key.clone(), upload: upload.upload.clone() };
            groups.push(self.group(kind, fate, 0, upload.bytes));
        }
    }
}

/// The lowest timeline of which a segment or another file stays.
fn lowest_kept_timeline(groups: &[ObjectGroup]) -> Option<TimelineId> {
    let kept = groups.iter().filter(|group| !group.fate.is_removal());
    kept.filter_map(|group| match &group.kind {
        GroupKind::Segments { timeline, .. } => Some(*timeline),
        GroupKind::File { name } => Some(name.timeline()),
        _ => None,
    })
    .min()
}
