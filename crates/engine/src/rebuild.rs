//! `walden wal index rebuild`: rollups made again from what they are derived from.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walden_core::index::{LogSummary, Rollup};
use walden_core::{CatalogSnapshot, Incarnation, IncarnationLayout, IncarnationRecord, Listed, ServerName};
use walden_pg::{SegmentId, TimelineId};

use crate::catalog::{Directory, SummaryReader, predecessor, read_all_histories};
use crate::context::Context;
use crate::error::Result;
use crate::progress::Unit;
use crate::rollup::{read_rollup, refresh_backup_rollup, write_rollup};

/// Which rollups to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Only those of this timeline; the backups' is left alone then.
    pub timeline: Option<TimelineId>,
    /// Also those that are there.
    pub all: bool,
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
        let backups = refresh_backup_rollup(ctx, &rebuild.layout, None, request.all).await?;
        rebuild.report.backups = Some(backups as u64);
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
        let own = LogSummary::of(directory.log, &summaries.entries);
        let earlier = told.values().cloned().collect();
        self.report.segments += summaries.entries.len() as u64;
        self.report.scanned += summaries.scanned;
        self.report.damaged += summaries.damaged();
        let rollup = Rollup::build(directory.timeline, directory.log, summaries.entries, earlier);
        write_rollup(self.ctx, &self.layout, &rollup, &self.ctx.listing_budget()).await?;
        self.report.written += 1;
        told.insert(directory.log, own);
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
        write_rollup(self.ctx, &self.layout, &whole, &budget).await?;
        self.report.written += 1;
        Ok(())
    }
}
