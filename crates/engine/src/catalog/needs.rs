//! Bringing into a snapshot what a planner misses in it.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use walden_core::{CatalogSnapshot, Listed, Need};
use walden_pg::{SegmentId, TimelineId};

use super::READS_AT_ONCE;
use super::details::DetailReader;
use super::directory::Directory;
use super::summaries::{DirectorySummaries, SummaryReader};
use crate::context::Context;
use crate::error::Result;

/// Brings what a planner needs into the snapshot.
///
/// The summaries of a directory cost its listing and one read, of its rollup or of its newest segment's index; more only
/// where segments were archived without an index, or by writers that did not know of each other. Details cost one read of
/// each segment.
///
/// # Errors
/// Of the store. An object that is damaged there becomes a damaged segment in the snapshot.
pub async fn satisfy(ctx: &Context, snapshot: &mut CatalogSnapshot, needs: &[Need]) -> Result<()> {
    let mut summaries = BTreeSet::new();
    for need in needs {
        match need {
            Need::Listing { timeline, first_log, last_log } => {
                list_directories(ctx, snapshot, *timeline, (*first_log, *last_log)).await?;
            }
            Need::Summaries { timeline, log } => {
                summaries.insert((*timeline, *log));
            }
            Need::Details { .. } => {}
        }
    }
    for (directory, summaries) in read_directories(ctx, snapshot, summaries).await? {
        add_directory(snapshot, &directory, &summaries);
    }
    let mut reader = DetailReader::new(ctx, snapshot);
    for need in needs {
        if let Need::Details { path } = need {
            reader.read(snapshot, path).await?;
        }
    }
    Ok(())
}

/// Lists consecutive directories into the snapshot. One that has no objects counts as listed, too.
async fn list_directories(
    ctx: &Context,
    snapshot: &mut CatalogSnapshot,
    timeline: TimelineId,
    (first, last): (u32, u32),
) -> Result<()> {
    let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
    let size = snapshot.incarnation.segment_size;
    let (directories, strays) = Directory::list_range(ctx, &layout, size, timeline, (first, last)).await?;
    for directory in directories.values() {
        directory.add_to(snapshot);
    }
    if let Listed::Some(listed) = &mut snapshot.listed {
        listed.extend((first..=last).map(|log| (timeline, log)));
    }
    for stray in strays {
        if !snapshot.strays.contains(&stray) {
            snapshot.strays.push(stray);
        }
    }
    Ok(())
}

async fn read_directories(
    ctx: &Context,
    snapshot: &CatalogSnapshot,
    wanted: BTreeSet<(TimelineId, u32)>,
) -> Result<Vec<(Directory, DirectorySummaries)>> {
    let reader = SummaryReader::new(ctx, snapshot);
    let reader = &reader;
    let reads = stream::iter(wanted).map(async |(timeline, log)| reader.list_and_read(timeline, log).await);
    let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
    let mut read = Vec::new();
    while let Some(one) = reads.next().await {
        read.push(one?);
    }
    Ok(read)
}

/// Tells the snapshot what a directory holds.
pub(super) fn add_directory(
    snapshot: &mut CatalogSnapshot,
    directory: &Directory,
    summaries: &DirectorySummaries,
) {
    directory.add_to(snapshot);
    for entry in &summaries.entries {
        if let Some(summary) = entry.summary {
            snapshot.summaries.insert(SegmentId::new(directory.timeline, entry.number), summary);
        }
    }
    snapshot.summarized.insert((directory.timeline, directory.log));
}
