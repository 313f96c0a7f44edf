//! An archive of any size in a few requests.
//!
//! A small archive is listed. Of a large one the LOG directories are listed, and of each timeline the newest is listed
//! object by object; the newest rollup tells of those before it, and the newest segment's index of the unfinished
//! directory. What no rollup tells of is listed. So nothing counts as there that was neither listed nor told by a
//! rollup whose directory is still there.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use walden_core::index::LogSummary;
use walden_core::{CatalogSnapshot, IncarnationLayout, IncarnationRecord, Listed, Stray};
use walden_pg::{TimelineId, WalSegmentSize};

use super::directory::Directory;
use super::needs::add_directory;
use super::records::{read_backups, read_histories};
use super::summaries::SummaryReader;
use super::{READS_AT_ONCE, add_listed, foreign};
use crate::context::Context;
use crate::error::Result;
use crate::rollup::read_rollup;

/// An archive with fewer objects below `wal/` is listed whole: that is one page of a listing.
const SMALL_ARCHIVE_OBJECTS: usize = 1000;
/// So many rollups of one timeline are tried, for directories that newer ones do not tell of.
const ROLLUP_READS_MAX: usize = 8;
/// So many directories of one timeline that have gaps by their rollup's word are listed: a late segment may have
/// closed the gap.
const DOUBTED_LISTINGS_MAX: usize = 8;

/// Reads what the archive of an incarnation holds, in as few requests as that can be known with. The snapshot tells of
/// every LOG directory that there is, by listing or by a rollup's word, and [`satisfy`](super::satisfy) adds what is
/// missing. The records of backups may come from their rollup: see
/// [`read_backup_record`](super::read_backup_record).
///
/// # Errors
/// Of the store. A listing that can't be finished is an error and never a shorter archive.
pub async fn load_overview(ctx: &Context, incarnation: &IncarnationRecord) -> Result<CatalogSnapshot> {
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let wal = async {
        let mut snapshot = CatalogSnapshot::new(incarnation.clone());
        let timelines = overview_of_wal(ctx, &layout, &mut snapshot).await?;
        Ok((snapshot, timelines))
    };
    let histories = read_histories(ctx, &layout);
    let backups = read_backups(ctx, &layout, true);
    let ((mut snapshot, timelines), histories, backups) = futures::try_join!(wal, histories, backups)?;
    histories.add_to(&mut snapshot);
    backups.add_to(&mut snapshot);
    let mut newest = Vec::new();
    for timeline in timelines {
        newest.extend(timeline.add_to(&mut snapshot));
    }
    read_newest(ctx, &mut snapshot, newest).await?;
    Ok(snapshot)
}

/// Lists a small archive into the snapshot; for a large one, tells of its timelines.
async fn overview_of_wal(
    ctx: &Context,
    layout: &IncarnationLayout,
    snapshot: &mut CatalogSnapshot,
) -> Result<Vec<Timeline>> {
    if list_if_small(ctx, layout, snapshot).await? {
        return Ok(Vec::new());
    }
    let level = ctx.store.list_level(&layout.wal_prefix(), &ctx.listing_budget()).await?;
    snapshot.listed = Listed::Some(BTreeSet::new());
    snapshot.strays.extend(level.objects.into_iter().map(|object| foreign(object.key)));
    let mut timelines = Vec::new();
    for prefix in level.directories {
        match layout.parse_timeline_prefix(&prefix) {
            Some(timeline) => timelines.push(timeline),
            None => snapshot.strays.push(foreign(prefix)),
        }
    }
    let size = snapshot.incarnation.segment_size;
    let reads =
        stream::iter(timelines).map(async |timeline| Timeline::read(ctx, layout, size, timeline).await);
    reads.buffer_unordered(READS_AT_ONCE).try_collect().await
}

/// Lists the archive unless it has too many objects; whether it did.
async fn list_if_small(
    ctx: &Context,
    layout: &IncarnationLayout,
    snapshot: &mut CatalogSnapshot,
) -> Result<bool> {
    let mut objects = Vec::new();
    let listing = ctx.store.list(&layout.wal_prefix(), &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    while let Some(object) = listing.try_next().await? {
        objects.push(object);
        if objects.len() == SMALL_ARCHIVE_OBJECTS {
            return Ok(false);
        }
    }
    for object in objects {
        add_listed(layout, snapshot, object);
    }
    Ok(true)
}

/// What is known of one timeline of a large archive.
struct Timeline {
    id: TimelineId,
    /// What rollups tell of directories that are there.
    told: BTreeMap<u32, LogSummary>,
    /// The directories that were listed.
    listed: BTreeMap<u32, Directory>,
    strays: Vec<Stray>,
}

impl Timeline {
    async fn read(
        ctx: &Context,
        layout: &IncarnationLayout,
        size: WalSegmentSize,
        timeline: TimelineId,
    ) -> Result<Self> {
        let level = ctx.store.list_level(&layout.timeline_prefix(timeline), &ctx.listing_budget()).await?;
        let strays = level.objects.into_iter().map(|object| foreign(object.key)).collect();
        let mut read = Self { id: timeline, told: BTreeMap::new(), listed: BTreeMap::new(), strays };
        let mut logs = BTreeSet::new();
        for prefix in level.directories {
            match layout.parse_log_prefix(timeline, &prefix) {
                Some(log) => {
                    logs.insert(log);
                }
                None => read.strays.push(foreign(prefix)),
            }
        }
        let Some(newest) = logs.last().copied() else { return Ok(read) };
        let directory = Directory::list(ctx, layout, size, (timeline, newest)).await?;
        let mut without_rollup = BTreeSet::new();
        if !directory.has_rollup {
            without_rollup.insert(newest);
        }
        read.listed.insert(newest, directory);
        read.read_rollups(ctx, layout, &logs, without_rollup).await?;
        let unknown = logs.iter().copied().filter(|log| !read.told.contains_key(log) && *log != newest);
        let unknown: Vec<u32> = unknown.collect();
        for range in consecutive(&logs, &unknown) {
            let (listed, strays) = Directory::list_range(ctx, layout, size, timeline, range).await?;
            read.listed.extend(listed);
            read.strays.extend(strays);
        }
        read.list_doubted(ctx, layout, size).await?;
        Ok(read)
    }

    /// Reads rollups, newest first, until all directories are told of.
    async fn read_rollups(
        &mut self,
        ctx: &Context,
        layout: &IncarnationLayout,
        logs: &BTreeSet<u32>,
        mut without: BTreeSet<u32>,
    ) -> Result<()> {
        for _ in 0..ROLLUP_READS_MAX {
            let mut untold = logs.iter().rev().filter(|log| !self.told.contains_key(log));
            let Some(log) = untold.find(|log| !without.contains(log)).copied() else { break };
            let place = (self.id, log);
            let Some(rollup) = read_rollup(ctx, layout, place, &ctx.listing_budget()).await? else {
                without.insert(log);
                continue;
            };
            let own = LogSummary::of(log, &rollup.segments);
            for summary in rollup.earlier.into_iter().chain([own]) {
                if logs.contains(&summary.log) {
                    self.told.entry(summary.log).or_insert(summary);
                }
            }
        }
        Ok(())
    }

    /// Lists directories in which segments are missing by their rollups' word.
    async fn list_doubted(
        &mut self,
        ctx: &Context,
        layout: &IncarnationLayout,
        size: WalSegmentSize,
    ) -> Result<()> {
        let whole = size.segments_per_log();
        let doubted: Vec<u32> = self
            .told
            .values()
            .rev()
            .filter(|summary| {
                let present: u64 = summary.present.iter().map(|range| u64::from(range.count)).sum();
                present != whole && !self.listed.contains_key(&summary.log)
            })
            .take(DOUBTED_LISTINGS_MAX)
            .map(|summary| summary.log)
            .collect();
        let timeline = self.id;
        let reads =
            stream::iter(doubted).map(async |log| Directory::list(ctx, layout, size, (timeline, log)).await);
        let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
        while let Some(directory) = reads.try_next().await? {
            self.listed.insert(directory.log, directory);
        }
        Ok(())
    }

    /// Tells the snapshot; returns the newest directory.
    fn add_to(self, snapshot: &mut CatalogSnapshot) -> Option<Directory> {
        for (log, summary) in self.told {
            snapshot.logs.insert((self.id, log), summary);
        }
        snapshot.strays.extend(self.strays);
        for directory in self.listed.values() {
            directory.add_to(snapshot);
        }
        self.listed.into_values().next_back()
    }
}

/// Parts a rising list of directories into stretches between which no other directory lies.
fn consecutive(all: &BTreeSet<u32>, some: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for log in some {
        match ranges.last_mut() {
            Some((_, last)) if all.range(*last..*log).count() == 1 => *last = *log,
            _ => ranges.push((*log, *log)),
        }
    }
    ranges
}

/// Reads what the segments of the newest directories hold: mostly one read each, of the newest segment's index.
async fn read_newest(ctx: &Context, snapshot: &mut CatalogSnapshot, newest: Vec<Directory>) -> Result<()> {
    let reader = SummaryReader::new(ctx, snapshot);
    let reader = &reader;
    let reads = stream::iter(newest).map(async |directory: Directory| {
        let summaries = reader.read(&directory, None, &[]).await?;
        Ok::<_, crate::EngineError>((directory, summaries))
    });
    let read: Vec<_> = reads.buffer_unordered(READS_AT_ONCE).try_collect().await?;
    for (directory, summaries) in read {
        add_directory(snapshot, &directory, &summaries);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_end_where_another_directory_lies_between() {
        let all: BTreeSet<u32> = [1, 2, 3, 5, 9, 10].into();
        assert_eq!(consecutive(&all, &[1, 2, 5, 9]), [(1, 2), (5, 9)]);
        assert_eq!(consecutive(&all, &[3, 5, 10]), [(3, 5), (10, 10)]);
        assert_eq!(consecutive(&all, &[]), []);
    }
}
