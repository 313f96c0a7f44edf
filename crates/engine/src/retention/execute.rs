//! Carrying a plan out: step by step in its order, in batches, each under the lease.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures::{FutureExt, TryStreamExt};
use walden_core::{
    BackupId, Deletion, ErrorKind, Incarnation, IncarnationInventory, Inventory, ObjectKey, OpenUpload,
    PinRecord, RecordKind, RetentionPlan, ServerLayout,
};
use walden_store::{KeptReason, Removal, StoreError};

use super::rollups::{AllGoing, forget_backups, going_of, look_again, prepare};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::lease::Lease;
use crate::server::read_record;

/// Objects that are removed between two looks at the lease.
const BATCH_OBJECTS: usize = 1000;
/// Keys of locked objects that are told.
const LOCKED_TOLD_MAX: usize = 100;

/// Ends when a signal asks to stop.
pub type RetentionStop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What was done so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) removed: u64,
    pub(super) locked: u64,
    pub(super) locked_keys: Vec<String>,
    pub(super) denied: u64,
    pub(super) denied_message: Option<String>,
    pub(super) aborted_uploads: u64,
    pub(super) rollups: u64,
    /// A removal was sent and its outcome is not known: it may still come to pass.
    pub(super) under_way: bool,
}

/// Why carrying a plan out ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything is done.
    Whole,
    /// The store keeps the commit records of these backups: what they need must stay with them.
    LockedBackups(BTreeSet<BackupId>),
    /// We have no right to remove.
    Denied,
    /// A signal asked to stop.
    Signal,
}

/// Which steps may share a batch: those between which no order is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Commits,
    Contents,
    Rollups,
    Files,
    Segments,
    Histories,
    Records,
}

pub(super) struct Executor<'a> {
    pub(super) ctx: &'a Context,
    pub(super) lease: &'a mut Lease,
    pub(super) stop: &'a mut Option<RetentionStop>,
    pub(super) counts: &'a mut Counts,
    layout: ServerLayout,
    plan: &'a RetentionPlan,
    inventory: &'a Inventory,
    going: AllGoing,
    batch: Vec<ObjectKey>,
    /// The backups whose commit records are in the batch.
    commits: Vec<(Incarnation, BackupId)>,
    phase: Phase,
    rollups_prepared: bool,
}

impl<'a> Executor<'a> {
    pub(super) fn new(
        ctx: &'a Context,
        lease: &'a mut Lease,
        stop: &'a mut Option<RetentionStop>,
        counts: &'a mut Counts,
        plan: &'a RetentionPlan,
        inventory: &'a Inventory,
    ) -> Self {
        Self {
            ctx,
            lease,
            stop,
            counts,
            layout: ctx.layout(),
            plan,
            inventory,
            going: going_of(plan),
            batch: Vec::new(),
            commits: Vec::new(),
            phase: Phase::Commits,
            rollups_prepared: false,
        }
    }

    /// Carries the plan out. What a run before has removed already counts as removed.
    ///
    /// # Errors
    /// Kind `busy` when the lease is lost, kind `must_stay` when something that goes is pinned or finished meanwhile; and
    /// what the store gives. What was removed by then is counted.
    pub(super) async fn run(&mut self) -> Result<Ended> {
        let plan = self.plan;
        for deletion in &plan.deletions {
            if let Some(ended) = self.step(deletion).await? {
                return Ok(ended);
            }
        }
        if let Some(ended) = self.flush().await? {
            return Ok(ended);
        }
        self.finish().await?;
        Ok(Ended::Whole)
    }

    async fn step(&mut self, deletion: &Deletion) -> Result<Option<Ended>> {
        let phase = match deletion {
            Deletion::BackupRollup { incarnation } => {
                self.lease.ensure().await?;
                let layout = self.layout.incarnation(*incarnation);
                self.counts.rollups +=
                    forget_backups(self.ctx, &layout, &self.going_backups(*incarnation)).await?;
                return Ok(None);
            }
            Deletion::CommitRecord { .. } => Phase::Commits,
            Deletion::BackupObjects { .. } => Phase::Contents,
            Deletion::Rollup { .. } => Phase::Rollups,
            Deletion::File { .. } => Phase::Files,
            Deletion::Segments { .. } => Phase::Segments,
            Deletion::History { .. } => Phase::Histories,
            Deletion::Record { .. } | Deletion::Upload { .. } => Phase::Records,
        };
        if phase != self.phase
            && let Some(ended) = self.flush().await?
        {
            return Ok(Some(ended));
        }
        self.phase = phase;
        if matches!(phase, Phase::Rollups | Phase::Files | Phase::Segments) && !self.rollups_prepared {
            self.prepare_rollups().await?;
        }
        match deletion {
            Deletion::CommitRecord { incarnation, backup } => self.commit(*incarnation, backup).await,
            Deletion::BackupObjects { incarnation, backup } => self.contents(*incarnation, backup).await,
            // One that tells of what stays was written anew.
            Deletion::Rollup { incarnation, timeline, log }
                if self.is_stale(*incarnation, *timeline, *log) =>
            {
                Ok(None)
            }
            Deletion::Upload { key, upload } => {
                let mut lives = self.inventory.incarnations.iter();
                let open = lives.find_map(|life| {
                    life.uploads.iter().find(|open| open.key == *key && open.upload == *upload)
                });
                match open {
                    Some(open) => self.abort(open).await,
                    None => Ok(None),
                }
            }
            deletion => {
                for key in deletion.keys(&self.layout.clone()) {
                    if let Some(ended) = self.add(key).await? {
                        return Ok(Some(ended));
                    }
                }
                Ok(None)
            }
        }
    }

    fn is_stale(&self, incarnation: Incarnation, timeline: walden_pg::TimelineId, log: u32) -> bool {
        let stale = walden_core::LogDirectory { incarnation, timeline, log };
        self.plan.stale_directories.contains(&stale)
    }

    fn life(&self, incarnation: Incarnation) -> Option<&'a IncarnationInventory> {
        self.inventory.incarnations.iter().find(|life| life.incarnation() == incarnation)
    }

    fn going_backups(&self, incarnation: Incarnation) -> BTreeSet<BackupId> {
        let going = self.plan.deletions.iter().filter_map(|deletion| match deletion {
            Deletion::CommitRecord { incarnation: own, backup } if *own == incarnation => {
                Some(backup.clone())
            }
            _ => None,
        });
        going.collect()
    }

    async fn add(&mut self, key: ObjectKey) -> Result<Option<Ended>> {
        self.batch.push(key);
        if self.batch.len() >= BATCH_OBJECTS { self.flush().await } else { Ok(None) }
    }

    /// Within a batch there is no order: a backup and one that stands on it are never in the same one.
    async fn commit(&mut self, incarnation: Incarnation, backup: &BackupId) -> Result<Option<Ended>> {
        let catalog = self.life(incarnation).map(|life| &life.catalog);
        let stands_on_it = |child: &BackupId| {
            let record = catalog.and_then(|catalog| catalog.backup(child));
            record.is_some_and(|record| record.parent.as_ref() == Some(backup))
        };
        if self.commits.iter().any(|(_, child)| stands_on_it(child))
            && let Some(ended) = self.flush().await?
        {
            return Ok(Some(ended));
        }
        self.commits.push((incarnation, backup.clone()));
        let key = self.layout.incarnation(incarnation).backup(backup).commit();
        self.add(key).await
    }

    /// Everything else of a backup, as a listing shows it now. What is not a backup's stays.
    async fn contents(&mut self, incarnation: Incarnation, backup: &BackupId) -> Result<Option<Ended>> {
        let layout = self.layout.incarnation(incarnation).backup(backup);
        let listing = self.ctx.store.list(layout.prefix(), &self.ctx.listing_budget());
        let mut listing = std::pin::pin!(listing);
        let mut keys = Vec::new();
        while let Some(object) = listing.try_next().await? {
            if object.key == layout.commit().as_str() {
                let message = format!("backup {backup} has a commit record again, and stays");
                return Err(EngineError::failed(ErrorKind::MustStay, message)
                    .with_hint("look who writes it; then run it again"));
            }
            if layout.owns(&object.key) {
                keys.push(object.object_key()?);
            }
        }
        for key in keys {
            if let Some(ended) = self.add(key).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    async fn prepare_rollups(&mut self) -> Result<()> {
        self.rollups_prepared = true;
        for ((incarnation, timeline), going) in &self.going {
            let Some(life) = self.life(*incarnation) else { continue };
            self.lease.ensure().await?;
            let layout = self.layout.incarnation(*incarnation);
            self.counts.rollups += prepare(self.ctx, &layout, *timeline, going, life).await?;
        }
        Ok(())
    }

    /// Looks at the rollups once more: others may have written some meanwhile, from what they had read before.
    async fn finish(&mut self) -> Result<()> {
        for ((incarnation, timeline), going) in &self.going {
            let layout = self.layout.incarnation(*incarnation);
            self.counts.rollups += look_again(self.ctx, &layout, *timeline, going).await?;
        }
        let told: BTreeSet<Incarnation> = self
            .plan
            .deletions
            .iter()
            .filter_map(|deletion| match deletion {
                Deletion::CommitRecord { incarnation, .. } => Some(*incarnation),
                _ => None,
            })
            .collect();
        for incarnation in told {
            let layout = self.layout.incarnation(incarnation);
            self.counts.rollups +=
                forget_backups(self.ctx, &layout, &self.going_backups(incarnation)).await?;
        }
        Ok(())
    }

    async fn abort(&mut self, open: &OpenUpload) -> Result<Option<Ended>> {
        self.lease.ensure().await?;
        match super::uploads::abort(self.ctx, open).await {
            Ok(()) => self.counts.aborted_uploads += 1,
            Err(error) if error.kind() == ErrorKind::Denied => {
                self.counts.denied += 1;
                self.counts.denied_message = Some(error.to_string());
                return Ok(Some(Ended::Denied));
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn is_stopped(&mut self) -> bool {
        let stopped = self.stop.as_mut().is_some_and(|stop| stop.as_mut().now_or_never().is_some());
        if stopped {
            *self.stop = None;
        }
        stopped
    }

    /// Removes what is in the batch.
    async fn flush(&mut self) -> Result<Option<Ended>> {
        if self.is_stopped() {
            return Ok(Some(Ended::Signal));
        }
        if self.batch.is_empty() {
            return Ok(None);
        }
        let budget = self.lease.ensure().await?;
        if !self.commits.is_empty() {
            self.check_pins().await?;
        }
        let batch = std::mem::take(&mut self.batch);
        let commits = std::mem::take(&mut self.commits);
        self.counts.under_way = true;
        let removal = match self.ctx.store.delete_many(&batch, &budget).await {
            Ok(removal) => removal,
            Err(StoreError::RemovalStopped { so_far, source }) => {
                self.count(&so_far);
                if source.kind() == ErrorKind::Denied {
                    self.counts.under_way = false;
                    self.counts.denied += batch.len() as u64 - so_far.removed - so_far.kept.len() as u64;
                    self.counts.denied_message = Some(source.to_string());
                    return Ok(Some(Ended::Denied));
                }
                return Err(EngineError::from(*source));
            }
            Err(error) => return Err(error.into()),
        };
        self.counts.under_way = false;
        self.count(&removal);
        self.ctx.progress.advance(batch.len() as u64);
        if self.counts.denied > 0 {
            return Ok(Some(Ended::Denied));
        }
        let is_kept = |incarnation: Incarnation, backup: &BackupId| {
            let commit = self.layout.incarnation(incarnation).backup(backup).commit();
            removal.kept.iter().any(|kept| kept.key == commit)
        };
        let locked = commits.iter().filter(|(incarnation, backup)| is_kept(*incarnation, backup));
        let locked: BTreeSet<BackupId> = locked.map(|(_, backup)| backup.clone()).collect();
        Ok((!locked.is_empty()).then_some(Ended::LockedBackups(locked)))
    }

    fn count(&mut self, removal: &Removal) {
        self.counts.removed += removal.removed;
        for kept in &removal.kept {
            match kept.why {
                KeptReason::Locked => {
                    self.counts.locked += 1;
                    if self.counts.locked_keys.len() < LOCKED_TOLD_MAX {
                        self.counts.locked_keys.push(kept.key.to_string());
                    }
                }
                KeptReason::Denied => {
                    self.counts.denied += 1;
                    self.counts.denied_message = Some(format!("{}: {}", kept.key, kept.message));
                }
            }
        }
    }

    /// A pin that came since the listing stops the run: pins are looked at right before commit records go, and whoever
    /// sets one looks afterwards whether the record is still there.
    async fn check_pins(&self) -> Result<()> {
        let incarnations: BTreeSet<Incarnation> = self.commits.iter().map(|(of, _)| *of).collect();
        for incarnation in incarnations {
            let going: BTreeSet<&BackupId> =
                self.commits.iter().filter(|(of, _)| *of == incarnation).map(|(_, id)| id).collect();
            let layout = self.layout.incarnation(incarnation);
            for (backup, revision) in super::pins::newest_revisions(self.ctx, &layout).await? {
                if !going.contains(&backup) {
                    continue;
                }
                let key = layout.pin(&backup, revision);
                let pin: Option<PinRecord> = read_record(self.ctx, RecordKind::Pin, &key).await?;
                let now = self.plan.at;
                if pin.is_none_or(|pin| pin.pinned && pin.until.is_none_or(|until| until > now)) {
                    let message = format!("backup {backup} was pinned meanwhile, and stays");
                    return Err(EngineError::failed(ErrorKind::MustStay, message)
                        .with_hint("make a new plan: walden retention plan"));
                }
            }
        }
        Ok(())
    }
}
