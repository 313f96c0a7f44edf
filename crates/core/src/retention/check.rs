//! The promises that every plan keeps, checked by other means than the plan was made with.
//!
//! The planner asks what can be restored; here only names, positions and times count. The executor runs this again over
//! a fresh listing before it removes anything: what came or went since must not make the plan wrong.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use walden_pg::{Lsn, TimelineId};

use super::answer::{Deletion, RetentionPlan};
use super::inventory::{IncarnationInventory, Inventory, RecordRole};
use super::life::{
    ById, began, by_id, goes_on, has_chain, last_known_end, last_write, missing_objects, newest_followed,
    unknown_feature, unknown_timeline,
};
use super::policy::PromisedWindow;
use super::spans::{consistency, count_between, is_on, path_to, spans_of, start_of};
use crate::layout::{BackupId, Incarnation};
use crate::records::{BackupKind, BackupRecord};
use crate::snapshot::Listed;

/// What would break by carrying a plan out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The listing is not complete, or of another server.
    #[error("not everything was listed {what}")]
    Listing {
        /// What is missing.
        what: String,
    },
    /// A step comes too early.
    #[error("a step comes before what must be done first step={step}")]
    Order {
        /// The step's place, from 0.
        step: usize,
    },
    /// A backup that must stay would go.
    #[error("backup {backup} would go, and {why}")]
    Backup {
        /// The backup.
        backup: BackupId,
        /// Why it must stay.
        why: String,
    },
    /// WAL that must stay would go.
    #[error("WAL of timeline {timeline} would go, and {why} first={first} last={last}")]
    Wal {
        /// The timeline.
        timeline: TimelineId,
        /// Number of the first segment that would go.
        first: u64,
        /// Number of the last one.
        last: u64,
        /// Why it must stay.
        why: String,
    },
    /// A history that must stay would go.
    #[error("the history of timeline {timeline} would go, and {why}")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// Why it must stay.
        why: String,
    },
    /// Nothing could be restored any more.
    #[error("nothing could be restored any more incarnation={incarnation}")]
    NothingLeft {
        /// The incarnation.
        incarnation: Incarnation,
    },
    /// A record or upload that must stay would go.
    #[error("{key} would go, and {why}")]
    Other {
        /// Its key.
        key: String,
        /// Why it must stay.
        why: String,
    },
}

/// Checks a plan against what is there now.
///
/// Objects of the plan that are gone already are no fault: a run that was cut short can be taken up again.
///
/// # Errors
/// With the first promise that carrying the plan out would break.
pub fn check_plan(plan: &RetentionPlan, inventory: &Inventory) -> Result<(), Broken> {
    if inventory.server != plan.server {
        return Err(Broken::Listing { what: format!("server={}", inventory.server) });
    }
    check_order(&plan.deletions)?;
    let hold = held_since(plan, inventory);
    for life in &inventory.incarnations {
        let incarnation = life.incarnation();
        if life.catalog.listed != Listed::All {
            return Err(Broken::Listing { what: format!("incarnation={incarnation}") });
        }
        let check = Check::new(plan, inventory, life, hold);
        check.commits()?;
        check.contents()?;
        check.remaining()?;
        check.wal()?;
        check.histories()?;
        check.records()?;
    }
    let of = |deletion: &Deletion| incarnation_of(deletion);
    let known = |incarnation: Incarnation| {
        inventory.incarnations.iter().any(|life| life.incarnation() == incarnation)
    };
    match plan.deletions.iter().filter_map(of).find(|incarnation| !known(*incarnation)) {
        Some(incarnation) => Err(Broken::Listing { what: format!("incarnation={incarnation}") }),
        None => Ok(()),
    }
}

fn incarnation_of(deletion: &Deletion) -> Option<Incarnation> {
    match deletion {
        Deletion::BackupRollup { incarnation }
        | Deletion::CommitRecord { incarnation, .. }
        | Deletion::BackupObjects { incarnation, .. }
        | Deletion::Rollup { incarnation, .. }
        | Deletion::Segments { incarnation, .. }
        | Deletion::File { incarnation, .. }
        | Deletion::History { incarnation, .. } => Some(*incarnation),
        Deletion::Record { .. } | Deletion::Upload { .. } => None,
    }
}

/// Commit records before anything that backups are made of; histories behind all WAL.
fn check_order(deletions: &[Deletion]) -> Result<(), Broken> {
    let rank = |deletion: &Deletion| match deletion {
        Deletion::BackupRollup { .. } => 0,
        Deletion::CommitRecord { .. } => 1,
        Deletion::History { .. } => 3,
        Deletion::Record { .. } | Deletion::Upload { .. } => 4,
        _ => 2,
    };
    let mut highest = 0;
    for (step, deletion) in deletions.iter().enumerate() {
        if rank(deletion) < highest {
            return Err(Broken::Order { step });
        }
        highest = rank(deletion);
    }
    Ok(())
}

/// The moment from which on nothing may go: a backup runs since then, or may run. What this very plan has begun to
/// remove is none.
fn held_since(plan: &RetentionPlan, inventory: &Inventory) -> Option<Timestamp> {
    let young = plan.policy.unfinished_backups.before(plan.at);
    let own: BTreeSet<&BackupId> = plan
        .deletions
        .iter()
        .filter_map(|deletion| match deletion {
            Deletion::CommitRecord { backup, .. } => Some(backup),
            _ => None,
        })
        .collect();
    let mut since: Option<Timestamp> = inventory.running.iter().map(|running| running.started_at).min();
    for life in &inventory.incarnations {
        let begun = |id: &BackupId| own.contains(id) || life.leftovers.contains(id);
        for id in life.catalog.unfinished_backups.iter().filter(|id| !begun(id)) {
            let newest = life.backups.get(id).and_then(|objects| objects.newest);
            if newest.is_none_or(|newest| newest > young) {
                let started = began(life, id);
                since = Some(since.map_or(started, |since| since.min(started)));
            }
        }
    }
    since.map(|since| since.checked_sub(SignedDuration::from_hours(1)).unwrap_or(Timestamp::MIN))
}

/// The check of one incarnation.
struct Check<'c> {
    plan: &'c RetentionPlan,
    inventory: &'c Inventory,
    life: &'c IncarnationInventory,
    hold: Option<Timestamp>,
    by_id: ById<'c>,
    /// Backups whose commit record goes.
    going: BTreeSet<&'c BackupId>,
    /// Numbers of segments that go, in rising order.
    gone: BTreeMap<TimelineId, Vec<(u64, u64)>>,
}

impl<'c> Check<'c> {
    fn new(
        plan: &'c RetentionPlan,
        inventory: &'c Inventory,
        life: &'c IncarnationInventory,
        hold: Option<Timestamp>,
    ) -> Self {
        let mut going = BTreeSet::new();
        let mut gone: BTreeMap<TimelineId, Vec<(u64, u64)>> = BTreeMap::new();
        let own =
            plan.deletions.iter().filter(|deletion| incarnation_of(deletion) == Some(life.incarnation()));
        for deletion in own {
            match deletion {
                Deletion::CommitRecord { backup, .. } => {
                    going.insert(backup);
                }
                Deletion::Segments { timeline, first, count, .. } if *count > 0 => {
                    let last = first.get().saturating_add(count - 1);
                    gone.entry(*timeline).or_default().push((first.get(), last));
                }
                _ => {}
            }
        }
        for ranges in gone.values_mut() {
            ranges.sort_unstable();
        }
        Self { plan, inventory, life, hold, by_id: by_id(&life.catalog), going, gone }
    }

    fn own(&self) -> impl Iterator<Item = &'c Deletion> {
        let incarnation = self.life.incarnation();
        self.plan.deletions.iter().filter(move |deletion| incarnation_of(deletion) == Some(incarnation))
    }

    /// The backups that stay.
    fn staying(&self) -> impl Iterator<Item = &'c BackupRecord> {
        self.life.catalog.backups.iter().filter(|record| !self.going.contains(&record.id))
    }

    fn is_young(&self, written: Option<Timestamp>) -> bool {
        self.hold.is_some_and(|since| written.is_none_or(|written| written >= since))
    }

    fn commits(&self) -> Result<(), Broken> {
        let catalog = &self.life.catalog;
        for id in &self.going {
            let broken = |why: &str| Err(Broken::Backup { backup: (*id).clone(), why: why.to_owned() });
            if catalog.unreadable_backups.contains_key(*id) {
                return broken("its record can't be read");
            }
            let Some(record) = catalog.backup(id) else { continue };
            if self.inventory.pins.iter().any(|pin| pin.backup == **id && pin.holds(self.plan.at)) {
                return broken("it is pinned");
            }
            if unknown_feature(record).is_some() {
                return broken("it needs a newer version");
            }
            if record.finished_at > self.plan.at {
                return broken("it ended in the future");
            }
            // Who names such a backup knows what it is.
            if self.plan.asked.is_empty() {
                if unknown_timeline(catalog, record).is_some() {
                    return broken("the history of its timeline is not known");
                }
                if missing_objects(self.life, record).is_some() {
                    return broken("objects of it are missing");
                }
            }
            let newest = self.life.backups.get(*id).and_then(|objects| objects.newest);
            let touched = newest.map_or(record.finished_at, |newest| newest.max(record.finished_at));
            if self.is_young(Some(touched.max(last_known_end(self.life, record)))) {
                return broken("it is not older than a backup that runs or may run");
            }
            if self.inventory.running.iter().any(|running| running.parent.as_ref() == Some(*id)) {
                return broken("a running backup stands on it");
            }
            if self.staying().any(|child| child.parent.as_ref() == Some(*id)) {
                return broken("a backup that stays stands on it");
            }
        }
        Ok(())
    }

    fn contents(&self) -> Result<(), Broken> {
        let catalog = &self.life.catalog;
        for deletion in self.own() {
            let Deletion::BackupObjects { backup, .. } = deletion else { continue };
            let broken = |why: &str| Err(Broken::Backup { backup: backup.clone(), why: why.to_owned() });
            if catalog.unreadable_backups.contains_key(backup) {
                return broken("its record can't be read");
            }
            if self.going.contains(backup) {
                continue;
            }
            if catalog.backup(backup).is_some() {
                return broken("it has a commit record");
            }
            if self.inventory.running.iter().any(|running| running.id == *backup) {
                return broken("it runs");
            }
            let newest = self.life.backups.get(backup).and_then(|objects| objects.newest);
            let is_there =
                catalog.unfinished_backups.contains(backup) && !self.life.leftovers.contains(backup);
            let young = self.plan.policy.unfinished_backups.before(self.plan.at);
            if is_there && newest.is_none_or(|newest| newest > young) {
                return broken("it may be under way");
            }
        }
        Ok(())
    }

    /// Whether any segment of a stretch goes.
    fn touches(&self, timeline: TimelineId, first: u64, last: u64) -> Option<(u64, u64)> {
        let ranges = self.gone.get(&timeline)?;
        ranges.iter().copied().find(|(begin, end)| *begin <= last && *end >= first)
    }

    /// Whether all segments of a stretch go.
    fn goes_whole(&self, timeline: TimelineId, first: u64, last: u64) -> bool {
        let mut next = first;
        for (begin, end) in self.gone.get(&timeline).into_iter().flatten() {
            if *begin <= next && *end >= next {
                next = end.saturating_add(1);
            }
        }
        next > last
    }

    /// Backups that stay keep the WAL that makes them consistent; and something stays that can be restored.
    fn remaining(&self) -> Result<(), Broken> {
        let size = self.life.catalog.incarnation.segment_size;
        let newest = newest_followed(&self.life.catalog);
        for record in self.staying() {
            for timeline in [Some(record.stop_timeline), newest].into_iter().flatten() {
                let Some(path) = path_to(&self.life.catalog.histories, timeline) else { continue };
                if !is_on(record, &path) {
                    continue;
                }
                for span in consistency(record, &spans_of(&path, size), size) {
                    if let Some((first, last)) = self.touches(span.timeline, span.first, span.last) {
                        let why = format!("backup {} needs it to get consistent", record.id);
                        return Err(Broken::Wal { timeline: span.timeline, first, last, why });
                    }
                }
            }
        }
        let was = self.life.catalog.backups.iter().any(|record| self.is_whole(record, false));
        if was && !self.staying().any(|record| self.is_whole(record, true)) && !self.may_go_whole() {
            return Err(Broken::NothingLeft { incarnation: self.life.incarnation() });
        }
        Ok(())
    }

    /// Whether a backup, its chain and its WAL on its own timelines are there, and with `after` stay.
    fn is_whole(&self, record: &BackupRecord, after: bool) -> bool {
        self.is_whole_on(record, record.stop_timeline, after)
    }

    fn is_whole_on(&self, record: &BackupRecord, timeline: TimelineId, after: bool) -> bool {
        let catalog = &self.life.catalog;
        let size = catalog.incarnation.segment_size;
        let Some(path) = path_to(&catalog.histories, timeline) else { return false };
        if !is_on(record, &path) || !has_chain(self.life, &self.by_id, record) {
            return false;
        }
        consistency(record, &spans_of(&path, size), size).iter().all(|span| {
            let ends = (walden_pg::SegmentNumber::new(span.first), walden_pg::SegmentNumber::new(span.last));
            catalog.holds_all(span.timeline, ends.0, ends.1)
                && !(after && self.touches(span.timeline, span.first, span.last).is_some())
        })
    }

    /// An old incarnation may go whole when the current one can be restored.
    fn may_go_whole(&self) -> bool {
        let current =
            self.inventory.incarnations.iter().find(|life| life.incarnation() == self.inventory.current);
        let Some(current) = current.filter(|_| self.is_released()) else { return false };
        let check = Self::new(self.plan, self.inventory, current, self.hold);
        check.staying().any(|record| check.is_whole(record, true))
    }

    /// Whether the incarnation is old, and was kept long enough.
    fn is_released(&self) -> bool {
        if self.life.incarnation() == self.inventory.current {
            return false;
        }
        let until = self.plan.policy.hold(self.plan.policy.old_incarnations).before(self.plan.at);
        let timelines = self.life.catalog.timelines();
        timelines.into_iter().all(|timeline| self.last_write(timeline).is_some_and(|last| last <= until))
    }

    fn last_write(&self, timeline: TimelineId) -> Option<Timestamp> {
        let records = self.life.catalog.backups.iter();
        let ends = records.map(|record| (record, last_known_end(self.life, record)));
        last_write(self.life, ends, timeline)
    }

    /// Whether any segment of a stretch is there.
    fn holds_any(&self, timeline: TimelineId, first: u64, last: u64) -> bool {
        let runs = self.life.catalog.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        count_between(runs, first, last) > 0
    }

    /// A plan for backups that were named removes nothing else.
    fn asked(&self) -> Result<(), Broken> {
        let strange = self.own().find(|deletion| match deletion {
            Deletion::BackupRollup { .. } => false,
            Deletion::CommitRecord { backup, .. } | Deletion::BackupObjects { backup, .. } => {
                !self.plan.asked.contains(backup)
            }
            _ => true,
        });
        match strange {
            Some(deletion) => {
                Err(Broken::Other { key: format!("{deletion:?}"), why: "nobody asked for it".into() })
            }
            None => Ok(()),
        }
    }

    fn wal(&self) -> Result<(), Broken> {
        if !self.plan.asked.is_empty() {
            return self.asked();
        }
        let catalog = &self.life.catalog;
        let each = catalog.incarnation.segment_size.segments_per_log();
        for (timeline, ranges) in &self.gone {
            for (first, last) in ranges.iter().copied() {
                let broken = |why: String| Err(Broken::Wal { timeline: *timeline, first, last, why });
                let there = self.holds_any(*timeline, first, last);
                if there && path_to(&catalog.histories, *timeline).is_none() {
                    return broken("its history is not known".to_owned());
                }
                for log in (first / each..=last / each).filter(|_| self.hold.is_some()) {
                    let there =
                        self.holds_any(*timeline, first.max(log * each), last.min(log * each + (each - 1)));
                    let log = u32::try_from(log).unwrap_or(u32::MAX);
                    let written = self.life.wal_written.get(&(*timeline, log)).map(|written| written.newest);
                    if there && self.is_young(written) {
                        return broken("it is not older than a backup that runs or may run".to_owned());
                    }
                }
                for running in &self.inventory.running {
                    let size = catalog.incarnation.segment_size;
                    let own = running.incarnation == self.life.incarnation();
                    if let Some((on, start)) = running.start.filter(|_| own)
                        && on == *timeline
                        && last >= size.segment_of(start).get()
                    {
                        return broken(format!("the running backup {} needs it", running.id));
                    }
                }
            }
        }
        if self.is_released() && self.may_go_whole() {
            return Ok(());
        }
        self.window()
    }

    /// Of every promised timeline a full backup stays behind all WAL that goes, and it ended before the window (or
    /// there are as many of them as the policy counts).
    fn window(&self) -> Result<(), Broken> {
        let catalog = &self.life.catalog;
        let size = catalog.incarnation.segment_size;
        let (policy, at) = (&self.plan.policy, self.plan.at);
        let newest = newest_followed(catalog);
        let held = policy.hold(policy.dead_timelines).before(at);
        for tip in catalog.timelines() {
            let is_dead = Some(tip) != newest;
            let aged = || self.last_write(tip).is_some_and(|last| last <= held);
            if is_dead && (!goes_on(catalog, newest, tip) || aged()) {
                continue;
            }
            let Some(path) = path_to(&catalog.histories, tip) else { continue };
            let (from, wanted) = match policy.window {
                PromisedWindow::Last(window) if is_dead => (window.before(at).min(held), 1),
                PromisedWindow::Last(window) => (window.before(at), 1),
                PromisedWindow::None => (Timestamp::MAX, policy.counted_fulls()),
            };
            let serving: Vec<(u64, Lsn)> = self
                .staying()
                .filter(|record| record.kind == BackupKind::Full && last_known_end(self.life, record) <= from)
                .filter(|record| record.finished_at <= at && self.is_whole_on(record, tip, true))
                .map(|record| (start_of(record, size), record.stop_lsn))
                .collect();
            let going = catalog.backups.iter().filter(|record| self.going.contains(&record.id));
            for record in going.filter(|record| is_on(record, &path)) {
                let newer = serving.iter().filter(|(_, stop)| *stop >= record.stop_lsn).count();
                if newer < wanted || last_known_end(self.life, record) > from {
                    let why = format!("no newer one serves the beginning of timeline {tip}'s window");
                    return Err(Broken::Backup { backup: record.id.clone(), why });
                }
            }
            for span in spans_of(&path, size) {
                for (first, last) in self.gone.get(&span.timeline).into_iter().flatten().copied() {
                    let highest = last.min(span.last);
                    if first.max(span.first) > highest {
                        continue;
                    }
                    if serving.iter().filter(|(start, _)| *start > highest).count() < wanted {
                        let why =
                            format!("no backup behind it serves the beginning of timeline {tip}'s window");
                        return Err(Broken::Wal { timeline: span.timeline, first, last, why });
                    }
                }
            }
        }
        Ok(())
    }

    fn histories(&self) -> Result<(), Broken> {
        let catalog = &self.life.catalog;
        for deletion in self.own() {
            let Deletion::History { timeline, .. } = deletion else { continue };
            let broken = |why: &str| Err(Broken::History { timeline: *timeline, why: why.to_owned() });
            if catalog.damaged_histories.contains_key(timeline) || !catalog.unreadable_backups.is_empty() {
                return broken("something can't be read");
            }
            if self.staying().any(|record| record.timeline <= *timeline) {
                return broken("a backup of it or an earlier one stays");
            }
            let stays = catalog.segments.range(..=*timeline).any(|(on, runs)| {
                runs.iter().any(|run| !self.goes_whole(*on, run.first.get(), run.last().get()))
            });
            if stays {
                return broken("WAL of it or an earlier one stays");
            }
        }
        Ok(())
    }

    fn records(&self) -> Result<(), Broken> {
        for deletion in self.own() {
            let Deletion::File { name, .. } = deletion else { continue };
            let file = self.life.files.iter().find(|file| file.name == *name);
            if file.is_some_and(|file| self.is_young(file.written)) {
                let why = "it is not older than a backup that runs or may run".to_owned();
                return Err(Broken::Other { key: name.to_string(), why });
            }
        }
        let (policy, at) = (&self.plan.policy, self.plan.at);
        for deletion in &self.plan.deletions {
            match deletion {
                Deletion::Record { key } => {
                    let Some(record) = self.life.records.iter().find(|record| record.key == *key) else {
                        continue;
                    };
                    let kept_for = match record.role {
                        RecordRole::Evidence | RecordRole::Verification => Some(policy.evidence),
                        RecordRole::Audit | RecordRole::Pin => Some(policy.audit),
                        RecordRole::Lease => None,
                    };
                    let is_over = kept_for.is_some_and(|kept_for| {
                        record.written.is_some_and(|written| written <= kept_for.before(at))
                    });
                    if !is_over {
                        return Err(Broken::Other {
                            key: key.to_string(),
                            why: "its time has not passed".into(),
                        });
                    }
                }
                Deletion::Upload { key, upload } => {
                    let same =
                        self.life.uploads.iter().find(|open| open.key == *key && open.upload == *upload);
                    let Some(open) = same else { continue };
                    let is_over = open.started.is_some_and(|started| started <= policy.uploads.before(at));
                    if !is_over || self.is_young(open.started) {
                        return Err(Broken::Other {
                            key: key.to_string(),
                            why: "it may be under way".into(),
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
