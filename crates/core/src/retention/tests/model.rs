//! An archive that a plan can be carried out on, object by object, and that the recovery planner can be asked about.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use walden_pg::{ArchiveFileName, Lsn, SegmentId, SegmentName, SegmentNumber, WalSegmentSize};

use crate::layout::{BackupId, ServerLayout};
use crate::records::{BackupKind, BackupRecord};
use crate::recovery::tests::world::{SEGMENT, World, at, log_of, request, timeline};
use crate::recovery::*;
use crate::retention::*;
use crate::snapshot::{CatalogSnapshot, Listed};

pub(super) const DAY: i64 = 86_400;

pub(super) fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT).unwrap()
}

pub(super) fn name(on: u32, number: u64) -> SegmentName {
    SegmentId::new(timeline(on), SegmentNumber::new(number)).name(size())
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) world: World,
    /// When each segment was written.
    pub(super) written: BTreeMap<(u32, u64), i64>,
    /// When each backup's record was written.
    pub(super) committed: BTreeMap<BackupId, i64>,
    /// Backups without a record, and when their newest object was written.
    pub(super) unfinished: BTreeMap<BackupId, i64>,
    pub(super) unreadable: BTreeSet<BackupId>,
    pub(super) gone_histories: BTreeSet<u32>,
    pub(super) damaged_histories: BTreeSet<u32>,
    pub(super) partials: BTreeMap<ArchiveFileName, i64>,
    pub(super) pins: Vec<Pin>,
    pub(super) running: Vec<RunningBackup>,
    pub(super) records: Vec<RecordObject>,
    pub(super) uploads: Vec<OpenUpload>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self::of(World::new())
    }

    pub(super) fn of(world: World) -> Self {
        Self {
            world,
            written: BTreeMap::new(),
            committed: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            gone_histories: BTreeSet::new(),
            damaged_histories: BTreeSet::new(),
            partials: BTreeMap::new(),
            pins: Vec::new(),
            running: Vec::new(),
            records: Vec::new(),
            uploads: Vec::new(),
        }
    }

    /// Everything that is there and was not seen yet was written at this second.
    pub(super) fn settle(&mut self, second: i64) {
        for on in self.world.streams.keys().copied() {
            for number in self.world.written(on) {
                self.written.entry((on, number)).or_insert(second);
            }
        }
        for backup in &self.world.backups {
            self.committed.entry(backup.id.clone()).or_insert(second);
        }
    }

    /// A commit, and the end of its segment.
    pub(super) fn commit(&mut self, on: u32, second: i64) {
        let xid = 700 + u32::try_from(self.world.streams[&on].len()).unwrap();
        self.world.commit(on, xid, second);
        self.world.fill(on);
        self.settle(second);
    }

    /// A full backup in a segment of its own.
    pub(super) fn full(&mut self, on: u32, second: i64) -> BackupId {
        self.world.backup(on, second);
        self.world.fill(on);
        self.settle(second);
        self.world.backups.last().unwrap().id.clone()
    }

    /// An incremental backup.
    pub(super) fn incremental(&mut self, on: u32, second: i64, parent: &BackupId) -> BackupId {
        let id = self.full(on, second);
        let record = self.world.backups.last_mut().unwrap();
        (record.kind, record.parent) = (BackupKind::Incremental, Some(parent.clone()));
        id
    }

    pub(super) fn record(&mut self, id: &BackupId) -> &mut BackupRecord {
        self.world.backups.iter_mut().find(|backup| backup.id == *id).unwrap()
    }

    pub(super) fn has(&self, on: u32, number: u64) -> bool {
        self.world.is_there(on, number)
    }

    pub(super) fn has_backup(&self, id: &BackupId) -> bool {
        self.world.backups.iter().any(|backup| backup.id == *id)
    }

    pub(super) fn snapshot(&self) -> CatalogSnapshot {
        let mut snapshot = self.world.snapshot();
        let told: Vec<_> = snapshot.logs.keys().copied().collect();
        for (on, log) in told {
            self.world.list(&mut snapshot, on.get(), log);
        }
        snapshot.listed = Listed::All;
        snapshot.histories.retain(|on, _| {
            !self.gone_histories.contains(&on.get()) && !self.damaged_histories.contains(&on.get())
        });
        for on in &self.damaged_histories {
            snapshot.damaged_histories.insert(timeline(*on), "test".into());
        }
        snapshot.segments.retain(|_, runs| !runs.is_empty());
        snapshot.unfinished_backups = self.unfinished.keys().cloned().collect();
        snapshot.unreadable_backups = self.unreadable.iter().map(|id| (id.clone(), "test".into())).collect();
        snapshot
    }

    pub(super) fn life(&self) -> IncarnationInventory {
        let mut life = IncarnationInventory::new(self.snapshot());
        for ((on, number), second) in &self.written {
            if self.has(*on, *number) {
                life.note_written(timeline(*on), log_of(*number), at(*second));
            }
        }
        for (on, log) in &self.world.rolled_up {
            life.rollups.insert((timeline(*on), *log), 10);
        }
        life.backup_rollup = Some(50);
        for on in self.world.forks.keys().filter(|on| !self.gone_histories.contains(on)) {
            life.histories.insert(timeline(*on), 5);
        }
        for (name, second) in &self.partials {
            life.files.push(FileObject { name: *name, bytes: 7, written: Some(at(*second)) });
        }
        let records =
            self.committed.iter().filter(|(id, _)| self.has_backup(id) || self.unreadable.contains(id));
        for (id, second) in records {
            let (committed, newest) = (Some(at(*second)), Some(at(*second)));
            life.backups.insert(
                id.clone(),
                BackupObjects { objects: 4, bytes: 2000, committed, oldest: newest, newest },
            );
        }
        for (id, second) in &self.unfinished {
            let newest = Some(at(*second));
            life.backups.insert(
                id.clone(),
                BackupObjects { objects: 3, bytes: 1500, committed: None, oldest: newest, newest },
            );
        }
        life.records.clone_from(&self.records);
        life.uploads.clone_from(&self.uploads);
        life
    }

    pub(super) fn inventory(&self) -> Inventory {
        let life = self.life();
        Inventory {
            server: "main".parse().unwrap(),
            current: life.incarnation(),
            incarnations: vec![life],
            pins: self.pins.clone(),
            running: self.running.clone(),
            strays: Vec::new(),
        }
    }

    pub(super) fn retain(&self, policy: &RetentionPolicy, now: i64) -> RetentionPlan {
        retain(&mut self.inventory(), &[self], policy, now)
    }

    /// Asks the recovery planner.
    pub(super) fn plan(&self, request: &RecoveryRequest) -> Result<RecoveryPlan, Refusal> {
        let mut snapshot = self.snapshot();
        loop {
            match plan_recovery(&snapshot, request, Timestamp::MAX) {
                Planning::Plan(plan) => return Ok(*plan),
                Planning::Refused(refusal) => return Err(*refusal),
                Planning::Needs(needs) => {
                    for need in &needs {
                        self.world.satisfy(&mut snapshot, need);
                    }
                }
            }
        }
    }

    /// Whether a backup gets consistent on the way to a timeline.
    pub(super) fn is_consistent(&self, id: &BackupId, on: TargetTimeline) -> bool {
        let backup = Some(id.clone());
        self.plan(&RecoveryRequest { backup, timeline: on, ..request(RecoveryTarget::Immediate) }).is_ok()
    }

    /// What recovery to a target comes to: the stop, and the last commit kept.
    pub(super) fn comes_to(&self, target: RecoveryTarget, on: TargetTimeline) -> Option<(Lsn, Option<Lsn>)> {
        let plan = self.plan(&RecoveryRequest { timeline: on, ..request(target) }).ok()?;
        Some((plan.stop.lsn, plan.stop.last_kept.map(|commit| commit.lsn)))
    }

    /// Carries out one removal of one object.
    pub(super) fn remove(&mut self, effect: &Effect) {
        match effect {
            Effect::Commit(id) => {
                self.world.backups.retain(|backup| backup.id != *id);
                if let Some(second) = self.committed.get(id) {
                    self.unfinished.insert(id.clone(), *second);
                }
            }
            Effect::Objects(id) => {
                assert!(!self.has_backup(id), "{id} has a commit record");
                self.unfinished.remove(id);
            }
            Effect::Segment(on, number) => {
                self.world.lost.insert((*on, *number));
            }
            Effect::Rollup(on, log) => {
                self.world.rolled_up.remove(&(*on, *log));
            }
            Effect::File(name) => {
                self.partials.remove(name);
            }
            Effect::History(on) => {
                self.gone_histories.insert(*on);
            }
            Effect::Nothing => {}
        }
    }

    pub(super) fn carry_out(&mut self, plan: &RetentionPlan) {
        for effect in effects(plan) {
            self.remove(&effect);
        }
    }
}

/// The removal of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Commit(BackupId),
    Objects(BackupId),
    Segment(u32, u64),
    Rollup(u32, u32),
    File(ArchiveFileName),
    History(u32),
    Nothing,
}

/// A plan, object by object.
pub(super) fn effects(plan: &RetentionPlan) -> Vec<Effect> {
    let layout = ServerLayout::new(plan.server.clone());
    let mut effects = Vec::new();
    for deletion in &plan.deletions {
        let keys = deletion.keys(&layout).count();
        match deletion {
            Deletion::CommitRecord { backup, .. } => effects.push(Effect::Commit(backup.clone())),
            Deletion::BackupObjects { backup, .. } => effects.push(Effect::Objects(backup.clone())),
            Deletion::Segments { timeline, first, count, .. } => {
                assert_eq!(keys as u64, *count);
                let numbers = first.get()..first.get() + count;
                effects.extend(numbers.map(|number| Effect::Segment(timeline.get(), number)));
            }
            Deletion::Rollup { timeline, log, .. } => effects.push(Effect::Rollup(timeline.get(), *log)),
            Deletion::File { name, .. } => effects.push(Effect::File(*name)),
            Deletion::History { timeline, .. } => effects.push(Effect::History(timeline.get())),
            Deletion::BackupRollup { .. } | Deletion::Record { .. } | Deletion::Upload { .. } => {
                effects.push(Effect::Nothing);
            }
        }
    }
    effects
}

/// Asks the retention planner until it answers; the models are those of the incarnations.
pub(super) fn retain(
    inventory: &mut Inventory,
    models: &[&Model],
    policy: &RetentionPolicy,
    now: i64,
) -> RetentionPlan {
    let mut asked = BTreeSet::new();
    loop {
        match plan_retention(inventory, policy, at(now)) {
            Retaining::Plan(plan) => return *plan,
            Retaining::Refused(refusal) => panic!("{refusal}"),
            Retaining::Needs(needs) => {
                assert!(!needs.is_empty());
                for need in needs {
                    assert!(asked.insert(need.clone()), "asked again: {need:?}");
                    let places = inventory.incarnations.iter().map(IncarnationInventory::incarnation);
                    let place = places.into_iter().position(|own| own == need.incarnation).unwrap();
                    models[place].world.satisfy(&mut inventory.incarnations[place].catalog, &need.need);
                }
            }
        }
    }
}

/// Whether a backup goes, by its group.
pub(super) fn fate<'p>(plan: &'p RetentionPlan, id: &BackupId) -> &'p Fate {
    let is = |group: &&ObjectGroup| match &group.kind {
        GroupKind::Backup { id: own, .. } | GroupKind::UnfinishedBackup { id: own } => own == id,
        _ => false,
    };
    &plan.groups.iter().find(is).unwrap().fate
}

pub(super) fn keeps(plan: &RetentionPlan, id: &BackupId) -> Vec<KeepReason> {
    match fate(plan, id) {
        Fate::Keep(reasons) => reasons.clone(),
        Fate::Remove(_) => Vec::new(),
    }
}

pub(super) fn goes(plan: &RetentionPlan, id: &BackupId) -> bool {
    fate(plan, id).is_removal()
}

/// The segments of a timeline that go.
pub(super) fn gone(plan: &RetentionPlan, on: u32) -> Vec<u64> {
    let effects = effects(plan).into_iter();
    let of = effects.filter_map(|effect| match effect {
        Effect::Segment(own, number) if own == on => Some(number),
        _ => None,
    });
    of.collect()
}

pub(super) fn warned(plan: &RetentionPlan, kind: RetentionWarningKind) -> bool {
    plan.warnings.iter().any(|warning| warning.kind == kind)
}
