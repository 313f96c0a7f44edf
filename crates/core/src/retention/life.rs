//! One incarnation as retention sees it: which backups can be restored, when they ended, which timelines are
//! promised.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use walden_pg::TimelineId;

use super::inventory::{IncarnationInventory, Inventory};
use super::policy::{PromisedWindow, RetentionPolicy};
use super::reasons::KeepReason;
use super::spans::path_to;
use crate::layout::{BackupId, Incarnation};
use crate::records::{BackupKind, BackupRecord};
use crate::recovery::{RecoveryWindow, TimelinePath};
use crate::snapshot::CatalogSnapshot;

/// Clocks of a server, of the store and of this machine may differ by so much without harm.
const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(1);

/// A moment from which on nothing may go, because a backup runs, or may run, since then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) since: Timestamp,
    pub(super) running: BackupId,
}

impl Hold {
    /// The earliest of what runs, and of what may: young backups without a commit record.
    pub(super) fn of(inventory: &Inventory, policy: &RetentionPolicy, now: Timestamp) -> Option<Self> {
        let running = inventory.running.iter().map(|running| (running.started_at, running.id.clone()));
        let unfinished = inventory.incarnations.iter().flat_map(|life| {
            let unfinished =
                life.catalog.unfinished_backups.iter().filter(|id| !life.leftovers.contains(*id));
            let young = unfinished.filter(|id| {
                let newest = life.backups.get(*id).and_then(|objects| objects.newest);
                newest.is_none_or(|newest| newest > policy.unfinished_backups.before(now))
            });
            young.map(|id| (began(life, id), id.clone()))
        });
        let (started, running) = running.chain(unfinished).min()?;
        let since = started.checked_sub(CLOCKS_APART).unwrap_or(Timestamp::MIN);
        Some(Self { since, running })
    }

    pub(super) fn reason(&self) -> KeepReason {
        KeepReason::YoungerThanRunning { running: self.running.clone() }
    }
}

/// When an unfinished backup began: by its name, or before its oldest object came to the store, if that is earlier. The
/// clock that the name was taken from may have been ahead.
pub(super) fn began(life: &IncarnationInventory, id: &BackupId) -> Timestamp {
    let named = id.started_at().unwrap_or(Timestamp::MIN);
    let oldest = life.backups.get(id).and_then(|objects| objects.oldest);
    oldest.map_or(named, |oldest| oldest.min(named))
}

/// What is wrong when the listing shows less of a backup than its record tells of.
pub(super) fn missing_objects(life: &IncarnationInventory, record: &BackupRecord) -> Option<String> {
    let listed = life.backups.get(&record.id)?.objects;
    let told = objects_told(record);
    (listed < told).then(|| format!("objects of it are missing: listed={listed} told={told}"))
}

/// How many objects a backup has by its record: the record itself, the manifest, the packs, the names.
pub(super) fn objects_told(record: &BackupRecord) -> u64 {
    2 + u64::from(record.packs) + u64::from(record.names.is_some())
}

/// A timeline of a backup whose history is missing or damaged: whether the backup can be restored is not known.
pub(super) fn unknown_timeline(catalog: &CatalogSnapshot, record: &BackupRecord) -> Option<TimelineId> {
    let of = [record.stop_timeline, record.timeline];
    of.into_iter().find(|timeline| path_to(&catalog.histories, *timeline).is_none())
}

/// A feature that this version does not know, and that is needed to restore a backup.
pub(super) fn unknown_feature(backup: &BackupRecord) -> Option<&str> {
    backup.requires.first().map(String::as_str)
}

/// A backup, and what is known of it.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) record: &'a BackupRecord,
    /// When it ended, at the latest: its source's clock, the store's, and the backups before it on its way.
    pub(super) ended: Timestamp,
    /// By its source's clock it ended in the future.
    pub(super) is_future: bool,
    /// Its WAL and everything it stands on are there and good.
    pub(super) restorable: bool,
    /// On the ways to these timelines it can be restored.
    pub(super) restorable_on: BTreeSet<TimelineId>,
    /// On the ways to these timelines it lies.
    pub(super) on: BTreeSet<TimelineId>,
    /// Why it is kept; none for what goes.
    pub(super) reasons: BTreeSet<KeepReason>,
}

impl Judged<'_> {
    pub(super) fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// Whether the counts of a policy count it.
    pub(super) fn counts(&self) -> bool {
        self.restorable && !self.is_future && self.record.kind == BackupKind::Full
    }
}

/// One incarnation.
#[derive(Debug)]
pub(super) struct Life<'a> {
    pub(super) inventory: &'a IncarnationInventory,
    pub(super) incarnation: Incarnation,
    pub(super) is_current: bool,
    /// Old, and kept long enough: only tiers and pins hold.
    pub(super) released: bool,
    /// The newest timeline whose history is known.
    pub(super) newest: Option<TimelineId>,
    /// The promised timelines, and the moment from which on.
    pub(super) tips: BTreeMap<TimelineId, Timestamp>,
    /// In rising order of their positions.
    pub(super) backups: Vec<Judged<'a>>,
}

impl<'a> Life<'a> {
    /// Looks at an incarnation. Nothing is released yet.
    pub(super) fn new(
        inventory: &'a IncarnationInventory,
        current: Incarnation,
        window: &'a RecoveryWindow,
        policy: &RetentionPolicy,
        now: Timestamp,
    ) -> Self {
        let incarnation = inventory.incarnation();
        let newest = newest_followed(&inventory.catalog);
        let backups = judge(inventory, window, now);
        let mut life = Self {
            inventory,
            incarnation,
            is_current: incarnation == current,
            released: false,
            newest,
            tips: BTreeMap::new(),
            backups,
        };
        life.tips = life.promised(policy, now);
        life
    }

    pub(super) fn path(&self, timeline: TimelineId) -> Option<TimelinePath> {
        path_to(&self.inventory.catalog.histories, timeline)
    }

    pub(super) fn backup(&self, id: &BackupId) -> Option<&Judged<'a>> {
        self.backups.iter().find(|backup| backup.record.id == *id)
    }

    /// The timelines of which moments are promised: the newest, and others that were written to not long ago.
    fn promised(&self, policy: &RetentionPolicy, now: Timestamp) -> BTreeMap<TimelineId, Timestamp> {
        let mut tips = BTreeMap::new();
        let window = match policy.window {
            PromisedWindow::Last(window) => window.before(now),
            PromisedWindow::None => Timestamp::MIN,
        };
        if let Some(newest) = self.newest {
            tips.insert(newest, window);
        }
        let held = policy.hold(policy.dead_timelines).before(now);
        for timeline in self.inventory.catalog.timelines() {
            let catalog = &self.inventory.catalog;
            if Some(timeline) == self.newest || !goes_on(catalog, self.newest, timeline) {
                continue;
            }
            if self.last_write(timeline).is_none_or(|last| last > held) {
                tips.insert(timeline, held.min(window));
            }
        }
        tips
    }

    /// When a timeline was last written to; `None` when that is not known.
    fn last_write(&self, timeline: TimelineId) -> Option<Timestamp> {
        let ends = self.backups.iter().map(|backup| (backup.record, backup.ended));
        last_write(self.inventory, ends, timeline)
    }

    /// When the incarnation was last written to; `None` when that is not known.
    pub(super) fn last_write_of_all(&self) -> Option<Timestamp> {
        let mut newest = Timestamp::MIN;
        for timeline in self.inventory.catalog.timelines() {
            newest = newest.max(self.last_write(timeline)?);
        }
        Some(newest)
    }
}

/// The newest timeline whose history is known.
pub(super) fn newest_followed(catalog: &CatalogSnapshot) -> Option<TimelineId> {
    let timelines = catalog.timelines().into_iter().rev();
    timelines.into_iter().find(|timeline| path_to(&catalog.histories, *timeline).is_some())
}

/// Whether a timeline can be followed, and has moments that are not on the way to the newest one.
pub(super) fn goes_on(catalog: &CatalogSnapshot, newest: Option<TimelineId>, timeline: TimelineId) -> bool {
    if path_to(&catalog.histories, timeline).is_none() {
        return false;
    }
    let path = newest.and_then(|newest| path_to(&catalog.histories, newest));
    let steps = path.as_ref().map(TimelinePath::steps).unwrap_or_default();
    let left = steps.iter().find(|step| step.timeline == timeline).and_then(|step| step.end_lsn);
    let Some(left) = left else { return true };
    let beyond = catalog.backups.iter().any(|record| {
        (record.timeline == timeline || record.stop_timeline == timeline) && record.stop_lsn > left
    });
    let fork = catalog.incarnation.segment_size.segment_of(left);
    beyond || catalog.last_segment(timeline).is_some_and(|last| last >= fork)
}

/// When a timeline was last written to, backups included that ended on it; `None` when that is not known. Partial
/// segments do not count: nothing is restored from them, and one that goes must not change the age of what stays.
pub(super) fn last_write<'r>(
    inventory: &IncarnationInventory,
    ends: impl Iterator<Item = (&'r BackupRecord, Timestamp)>,
    timeline: TimelineId,
) -> Option<Timestamp> {
    let catalog = &inventory.catalog;
    let each = catalog.incarnation.segment_size.segments_per_log();
    for run in catalog.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default() {
        for log in run.first.get() / each..=run.last().get() / each {
            let log = u32::try_from(log).ok()?;
            inventory.wal_written.get(&(timeline, log))?;
        }
    }
    let logs = inventory.wal_written.range((timeline, 0)..=(timeline, u32::MAX));
    let segments = logs.map(|(_, written)| written.newest);
    let backups = ends.filter(|(record, _)| record.stop_timeline == timeline).map(|(_, ended)| ended);
    Some(segments.chain(backups).max().unwrap_or(Timestamp::MIN))
}

fn judge<'a>(
    inventory: &'a IncarnationInventory,
    window: &RecoveryWindow,
    now: Timestamp,
) -> Vec<Judged<'a>> {
    let catalog = &inventory.catalog;
    let mut judged: BTreeMap<&BackupId, Judged<'a>> = BTreeMap::new();
    for record in &catalog.backups {
        let ended = last_known_end(inventory, record);
        judged.insert(
            &record.id,
            Judged {
                record,
                ended,
                is_future: record.finished_at > now,
                restorable: false,
                restorable_on: BTreeSet::new(),
                on: BTreeSet::new(),
                reasons: BTreeSet::new(),
            },
        );
    }
    let backups = by_id(catalog);
    let chains: BTreeMap<&BackupId, bool> =
        catalog.backups.iter().map(|record| (&record.id, has_chain(inventory, &backups, record))).collect();
    for timeline in &window.timelines {
        // In rising order of their ends.
        let mut latest = Timestamp::MIN;
        for listed in &timeline.backups {
            let Some(backup) = judged.get_mut(&listed.id) else { continue };
            let own = last_known_end(inventory, backup.record);
            if own <= now {
                latest = latest.max(own);
            }
            backup.ended = backup.ended.max(latest);
            backup.on.insert(timeline.timeline);
            if listed.last.is_some() && chains.get(&listed.id).is_some_and(|whole| *whole) {
                backup.restorable_on.insert(timeline.timeline);
                backup.restorable = true;
            }
        }
    }
    let mut judged: Vec<Judged<'a>> = judged.into_values().collect();
    judged.sort_by(|a, b| {
        let key = |backup: &Judged<'_>| (backup.record.stop_lsn, backup.record.start_lsn);
        key(a).cmp(&key(b)).then_with(|| a.record.id.cmp(&b.record.id))
    });
    judged
}

/// When a backup ended: by its source's clock, or when its commit record came to the store, if that is later.
pub(super) fn last_known_end(inventory: &IncarnationInventory, record: &BackupRecord) -> Timestamp {
    let committed = inventory.backups.get(&record.id).and_then(|objects| objects.committed);
    committed.map_or(record.finished_at, |committed| committed.max(record.finished_at))
}

/// The backups of a catalog by their names.
pub(super) type ById<'a> = BTreeMap<&'a BackupId, &'a BackupRecord>;

/// The backups of a catalog by their names.
pub(super) fn by_id(catalog: &CatalogSnapshot) -> ById<'_> {
    catalog.backups.iter().map(|record| (&record.id, record)).collect()
}

/// Whether a backup and everything that it stands on is there, down to a full one, and can be read by this version.
pub(super) fn has_chain(life: &IncarnationInventory, backups: &ById<'_>, record: &BackupRecord) -> bool {
    let mut at = record;
    // A ring of parents has no end, and no full backup in it.
    for _ in 0..=backups.len() {
        if unknown_feature(at).is_some() || missing_objects(life, at).is_some() {
            return false;
        }
        match (&at.parent, at.kind) {
            (None, BackupKind::Full) => return true,
            (Some(parent), BackupKind::Incremental) => match backups.get(parent) {
                Some(parent) => at = parent,
                None => return false,
            },
            _ => return false,
        }
    }
    false
}
