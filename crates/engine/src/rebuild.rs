//! `walden catalog rebuild` and `walden wal index rebuild`: what is derived made again from the objects alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walden_core::index::{LogSummary, Rollup, RollupEntry};
use walden_core::{
    CatalogSnapshot, DerivedKey, Incarnation, IncarnationLayout, IncarnationRecord, Listed, ServerName,
};
use walden_pg::{SegmentId, TimelineId};

use crate::catalog::{Directory, Kept, SummaryReader, predecessor, read_all_histories};
use crate::context::Context;
use crate::error::Result;
use crate::progress::Unit;
use crate::rollup::{read_rollup, renew_backup_rollup, write_rollup};

/// So many differences are told.
const DIFFERENCES_MAX: usize = 100;

/// Which rollups to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Only those of this timeline; the backups' is left alone then.
    pub timeline: Option<TimelineId>,
    /// Also those that are there.
    pub all: bool,
}

/// How a derived object differed from what the objects tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// It was not there.
    Missing,
    /// It was there and could not be used.
    Unusable,
    /// It told something else, or less.
    Different,
}

/// A derived object that had to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// What was wrong with it.
    pub what: DifferenceKind,
}

/// What [`catalog_rebuild`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogRebuildReport {
    /// The derived objects in the store.
    #[serde(flatten)]
    pub derived: RebuildReport,
    /// Files that were taken out of the local cache.
    pub forgotten: u64,
}

/// Makes everything that is derived from an incarnation's objects again, from the objects alone: the rollups of its
/// segments, the copy of its backup records, and the local cache. What says the same already is not written.
///
/// Other writers may be at work, and retention may remove: a rollup that tells of more than there is when it has been
/// written is corrected at once.
///
/// # Errors
/// Of the store; what was written by then stays.
pub async fn catalog_rebuild(ctx: &Context, record: &IncarnationRecord) -> Result<CatalogRebuildReport> {
    let forgotten = Kept::of(ctx).clear();
    let derived = index_rebuild(ctx, record, RebuildRequest { timeline: None, all: true }).await?;
    Ok(CatalogRebuildReport { derived, forgotten })
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// LOG directories that there are.
    pub directories: u64,
    /// Of those, the ones without their last segment, newest on their timelines: they get their rollup when they have it.
    pub unfinished: u64,
    /// Rollups written.
    pub written: u64,
    /// Rollups that were made again and found to say the same as those that are there.
    pub same: u64,
    /// Why others were written, at most 100 of them.
    pub differences: Vec<Difference>,
    /// Segments that those tell of.
    pub segments: u64,
    /// Segments that were fetched and read for it, because they have no index.
    pub scanned: u64,
    /// Segments with damaged WAL among them.
    pub damaged: u64,
    /// Backups in the copy of their records; absent when that was left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<u64>,
}

/// Makes missing rollups, or all, from the segments in the archive.
///
/// # Errors
/// Of the store; what was written by then stays.
pub async fn index_rebuild(
    ctx: &Context,
    record: &IncarnationRecord,
    request: RebuildRequest,
) -> Result<RebuildReport> {
    let layout = ctx.layout().incarnation(record.incarnation());
    let mut base = CatalogSnapshot::new(record.clone());
    base.listed = Listed::Some(BTreeSet::new());
    base.histories = read_all_histories(ctx, &layout).await?;
    let timelines = match request.timeline {
        Some(timeline) => vec![timeline],
        None => {
            let level = ctx.store.list_level(&layout.wal_prefix(), &ctx.listing_budget()).await?;
            level.directories.iter().filter_map(|prefix| layout.parse_timeline_prefix(prefix)).collect()
        }
    };
    let report = RebuildReport {
        schema: 1,
        server: record.server.clone(),
        incarnation: record.incarnation(),
        directories: 0,
        unfinished: 0,
        written: 0,
        same: 0,
        differences: Vec::new(),
        segments: 0,
        scanned: 0,
        damaged: 0,
        backups: None,
    };
    let mut rebuild = Rebuild { ctx, layout, base, all: request.all, report };
    for timeline in timelines {
        rebuild.timeline(timeline).await?;
    }
    if request.timeline.is_none() {
        rebuild.backups().await?;
    }
    Ok(rebuild.report)
}

struct Rebuild<'a> {
    ctx: &'a Context,
    layout: IncarnationLayout,
    /// Histories, and nothing of the segments.
    base: CatalogSnapshot,
    all: bool,
    report: RebuildReport,
}

impl Rebuild<'_> {
    async fn timeline(&mut self, timeline: TimelineId) -> Result<()> {
        let size = self.base.incarnation.segment_size;
        let range = (0, u32::MAX);
        let listed = Directory::list_range(self.ctx, &self.layout, size, timeline, range).await?;
        let directories: Vec<Directory> = listed.0.into_values().collect();
        self.report.directories += directories.len() as u64;
        self.ctx.progress.begin("making rollups", Unit::Count, directories.len() as u64);
        let done = self.directories(timeline, &directories).await;
        self.ctx.progress.end();
        done
    }

    async fn directories(&mut self, timeline: TimelineId, directories: &[Directory]) -> Result<()> {
        // What is told of the directories so far; those that have a rollup of their own are read only when needed.
        let mut told: BTreeMap<u32, LogSummary> = BTreeMap::new();
        let mut before: Option<&Directory> = None;
        let mut last_kept = None;
        for (at, directory) in directories.iter().enumerate() {
            self.ctx.progress.advance(1);
            let newest = at + 1 == directories.len();
            if newest && !self.is_finished(directory) {
                self.report.unfinished += 1;
                break;
            }
            let so_far = directories.get(..at).unwrap_or_default();
            if directory.has_rollup && !self.all {
                last_kept = Some((directory, so_far));
            } else {
                self.tell_of_all(timeline, so_far, &mut told).await?;
                self.write(directory, before, &mut told).await?;
                last_kept = None;
            }
            before = Some(directory);
        }
        // The newest must tell of all before it.
        if let Some((newest, so_far)) = last_kept {
            self.complete(timeline, newest, so_far, &mut told).await?;
        }
        Ok(())
    }

    fn is_finished(&self, directory: &Directory) -> bool {
        let per_log = self.base.incarnation.segment_size.segments_per_log();
        let last = u64::from(directory.log) * per_log + (per_log - 1);
        directory.segments.keys().next_back().is_some_and(|number| number.get() == last)
    }

    /// Reads rollups that are there, newest first, until all the directories given are told of; those that can't be read
    /// are made anew.
    async fn tell_of_all(
        &mut self,
        timeline: TimelineId,
        directories: &[Directory],
        told: &mut BTreeMap<u32, LogSummary>,
    ) -> Result<()> {
        self.read_told(timeline, directories, told).await?;
        let mut before = None;
        for directory in directories {
            if !told.contains_key(&directory.log) {
                Box::pin(self.write(directory, before, told)).await?;
            }
            before = Some(directory);
        }
        Ok(())
    }

    async fn read_told(
        &self,
        timeline: TimelineId,
        directories: &[Directory],
        told: &mut BTreeMap<u32, LogSummary>,
    ) -> Result<()> {
        for directory in directories.iter().rev() {
            if told.contains_key(&directory.log) {
                continue;
            }
            let place = (timeline, directory.log);
            let budget = self.ctx.listing_budget();
            if let Some(rollup) = read_rollup(self.ctx, &self.layout, place, &budget).await? {
                let own = LogSummary::of(rollup.log, &rollup.segments);
                let is_there = |log| directories.iter().any(|directory| directory.log == log);
                for summary in rollup.earlier.into_iter().chain([own]) {
                    if is_there(summary.log) {
                        told.entry(summary.log).or_insert(summary);
                    }
                }
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        directory: &Directory,
        before: Option<&Directory>,
        told: &mut BTreeMap<u32, LogSummary>,
    ) -> Result<()> {
        let mut snapshot = self.base.clone();
        self.add_before(&mut snapshot, directory, before).await?;
        let summaries = SummaryReader::new(self.ctx, &snapshot).read(directory, None, &[]).await?;
        let earlier = told.values().cloned().collect();
        self.report.segments += summaries.entries.len() as u64;
        self.report.scanned += summaries.scanned;
        self.report.damaged += summaries.damaged();
        let rollup = Rollup::build(directory.timeline, directory.log, summaries.entries, earlier);
        match self.put(rollup, directory.has_rollup).await? {
            Some(kept) => told.insert(directory.log, LogSummary::of(directory.log, &kept)),
            None => told.remove(&directory.log),
        };
        Ok(())
    }

    /// Writes a rollup unless the one that is there says the same, and looks afterwards whether what it tells of is still
    /// there. Returns the segments that it tells of in the end; `None` when the directory has been emptied meanwhile.
    async fn put(&mut self, mut rollup: Rollup, is_there: bool) -> Result<Option<Vec<RollupEntry>>> {
        let (place, budget) = ((rollup.timeline, rollup.log), self.ctx.listing_budget());
        let what = if is_there {
            match read_rollup(self.ctx, &self.layout, place, &budget).await? {
                Some(old) if old == rollup => {
                    self.report.same += 1;
                    return Ok(Some(rollup.segments));
                }
                Some(_) => DifferenceKind::Different,
                None => DifferenceKind::Unusable,
            }
        } else {
            DifferenceKind::Missing
        };
        let key = self.layout.rollup(place.0, place.1);
        self.note(&key, what);
        self.report.written += 1;
        loop {
            write_rollup(self.ctx, &self.layout, &rollup, &budget).await?;
            // Retention may have removed segments since they were listed. If it did so before this listing, it shows here;
            // if after, retention itself looks for rollups again.
            let size = self.base.incarnation.segment_size;
            let there = Directory::list(self.ctx, &self.layout, size, place).await?;
            let before = rollup.segments.len();
            rollup.segments.retain(|entry| there.segments.contains_key(&entry.number));
            if rollup.segments.len() == before {
                return Ok(Some(rollup.segments));
            }
            if rollup.segments.is_empty() {
                self.ctx.store.delete(key.key(), &budget).await?;
                return Ok(None);
            }
        }
    }

    fn note(&mut self, key: &DerivedKey, what: DifferenceKind) {
        if self.report.differences.len() < DIFFERENCES_MAX {
            self.report.differences.push(Difference { key: key.to_string(), what });
        }
    }

    /// The copy of all backup records.
    async fn backups(&mut self) -> Result<()> {
        let (refreshed, what) = renew_backup_rollup(self.ctx, &self.layout, self.all).await?;
        self.report.backups = Some(refreshed as u64);
        if let Some(what) = what {
            self.note(&self.layout.backup_rollup(), what);
        }
        Ok(())
    }

    /// Tells the snapshot of the directory from which records reach into this one.
    async fn add_before(
        &self,
        snapshot: &mut CatalogSnapshot,
        directory: &Directory,
        before: Option<&Directory>,
    ) -> Result<()> {
        let size = snapshot.incarnation.segment_size;
        let Some(first) = directory.segments.keys().next() else { return Ok(()) };
        let first = SegmentId::new(directory.timeline, *first);
        let Some(previous) = predecessor(&snapshot.histories, size, first) else { return Ok(()) };
        let place = (previous.timeline, previous.name(size).log());
        match before.filter(|before| (before.timeline, before.log) == place) {
            Some(before) => before.add_to(snapshot),
            None if place.0 == directory.timeline => {}
            None => Directory::list(self.ctx, &self.layout, size, place).await?.add_to(snapshot),
        }
        Ok(())
    }

    /// Writes a rollup that is there anew if it does not tell of all directories before it.
    async fn complete(
        &mut self,
        timeline: TimelineId,
        newest: &Directory,
        so_far: &[Directory],
        told: &mut BTreeMap<u32, LogSummary>,
    ) -> Result<()> {
        let budget = self.ctx.listing_budget();
        let Some(rollup) = read_rollup(self.ctx, &self.layout, (timeline, newest.log), &budget).await? else {
            self.tell_of_all(timeline, so_far, told).await?;
            return self.write(newest, so_far.last(), told).await;
        };
        let tells = |log| rollup.earlier.iter().any(|summary| summary.log == log);
        if so_far.iter().all(|directory| tells(directory.log)) {
            return Ok(());
        }
        self.tell_of_all(timeline, so_far, told).await?;
        let earlier = told.values().cloned().collect();
        let whole = Rollup::build(timeline, newest.log, rollup.segments, earlier);
        self.put(whole, true).await?;
        Ok(())
    }
}
