//! Rollups while objects go: before a segment is removed, nothing derived tells of it any more.
//!
//! A rollup that tells of less than there is costs a listing; one that tells of more makes a plan that can't be carried
//! out. So they are written without what goes before it goes, and looked at again when it is gone, because an archiver
//! may have written the next one meanwhile from what it had read before.

use std::collections::{BTreeMap, BTreeSet};

use walden_core::index::{LogSummary, Rollup};
use walden_core::{BackupId, Deletion, Incarnation, IncarnationInventory, IncarnationLayout, RetentionPlan};
use walden_pg::TimelineId;

use crate::context::Context;
use crate::error::Result;
use crate::rollup::{read_backup_rollup, read_rollup, write_backup_rollup, write_rollup};

/// So many of a timeline's newest directories are tried for the newest rollup.
const NEWEST_TRIED_MAX: usize = 3;

/// What goes of one timeline.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// Numbers of segments, both ends included, in rising order.
    ranges: Vec<(u64, u64)>,
    /// Directories of which some segments stay.
    stale: BTreeSet<u32>,
    /// Directories of which none does.
    emptied: BTreeSet<u32>,
}

impl Going {
    fn has(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| *last >= number)
    }
}

/// What goes of every timeline that loses segments.
pub(super) type AllGoing = BTreeMap<(Incarnation, TimelineId), Going>;

/// What goes by a plan.
pub(super) fn going_of(plan: &RetentionPlan) -> AllGoing {
    let mut all = AllGoing::new();
    for deletion in &plan.deletions {
        let Deletion::Segments { incarnation, timeline, first, count, segment_size } = deletion else {
            continue;
        };
        let Some(more) = count.checked_sub(1) else { continue };
        let (first, last) = (first.get(), first.get().saturating_add(more));
        let going = all.entry((*incarnation, *timeline)).or_default();
        going.ranges.push((first, last));
        let per_log = segment_size.segments_per_log();
        let logs = first / per_log..=last / per_log;
        going.emptied.extend(logs.filter_map(|log| u32::try_from(log).ok()));
    }
    for stale in &plan.stale_directories {
        if let Some(going) = all.get_mut(&(stale.incarnation, stale.timeline)) {
            going.emptied.remove(&stale.log);
            going.stale.insert(stale.log);
        }
    }
    for going in all.values_mut() {
        going.ranges.sort_unstable();
    }
    all
}

/// Writes the rollups of a timeline without what goes: those of directories of which a part goes, and the newest,
/// which tells of all. Returns how many were written.
///
/// # Errors
/// Of the store.
pub(super) async fn prepare(
    ctx: &Context,
    layout: &IncarnationLayout,
    timeline: TimelineId,
    going: &Going,
    life: &IncarnationInventory,
) -> Result<u64> {
    let budget = ctx.listing_budget();
    let mut written = 0;
    let mut known: BTreeMap<u32, LogSummary> = BTreeMap::new();
    for log in going.stale.iter().filter(|log| life.rollups.contains_key(&(timeline, **log))) {
        let Some(rollup) = read_rollup(ctx, layout, (timeline, *log), &budget).await? else { continue };
        let without = without(rollup, going, &known);
        known.insert(*log, LogSummary::of(*log, &without.segments));
        write_rollup(ctx, layout, &without, &budget).await?;
        written += 1;
    }
    let own = life.rollups.range((timeline, 0)..=(timeline, u32::MAX));
    let newest = own.map(|((_, log), _)| *log).rfind(|log| !going.emptied.contains(log));
    if let Some(newest) = newest.filter(|newest| !going.stale.contains(newest)) {
        written += correct(ctx, layout, (timeline, newest), going, &known).await?;
    }
    Ok(written)
}

/// Looks at the newest rollups of a timeline again, and writes anew what still tells of what is gone.
///
/// # Errors
/// Of the store.
pub(super) async fn look_again(
    ctx: &Context,
    layout: &IncarnationLayout,
    timeline: TimelineId,
    going: &Going,
) -> Result<u64> {
    let level = ctx.store.list_level(&layout.timeline_prefix(timeline), &ctx.listing_budget()).await?;
    let logs = level.directories.iter().filter_map(|prefix| layout.parse_log_prefix(timeline, prefix));
    let mut logs: Vec<u32> = logs.collect();
    logs.sort_unstable();
    let mut written = 0;
    for log in logs.into_iter().rev().take(NEWEST_TRIED_MAX) {
        written += correct(ctx, layout, (timeline, log), going, &BTreeMap::new()).await?;
    }
    Ok(written)
}

/// Writes a rollup anew if it tells of what goes. What is known of stale directories is put in its place.
async fn correct(
    ctx: &Context,
    layout: &IncarnationLayout,
    (timeline, log): (TimelineId, u32),
    going: &Going,
    known: &BTreeMap<u32, LogSummary>,
) -> Result<u64> {
    let budget = ctx.listing_budget();
    let Some(rollup) = read_rollup(ctx, layout, (timeline, log), &budget).await? else { return Ok(0) };
    let corrected = without(rollup.clone(), going, known);
    if corrected == rollup {
        return Ok(0);
    }
    write_rollup(ctx, layout, &corrected, &budget).await?;
    Ok(1)
}

/// A rollup without what goes. An earlier directory of which a part goes is told of as it will be, where that is
/// known, and else not at all: then it is listed.
fn without(rollup: Rollup, going: &Going, known: &BTreeMap<u32, LogSummary>) -> Rollup {
    let segments = rollup.segments.into_iter().filter(|entry| !going.has(entry.number.get())).collect();
    let earlier = rollup.earlier.into_iter().filter_map(|told| {
        let touched =
            told.present.iter().any(|range| (range.first.get()..=range.last().get()).any(|n| going.has(n)));
        if touched { known.get(&told.log).cloned() } else { Some(told) }
    });
    Rollup::build(rollup.timeline, rollup.log, segments, earlier.collect())
}

/// Takes backups out of the copy of all commit records. Returns how many copies were written.
///
/// # Errors
/// Of the store.
pub(super) async fn forget_backups(
    ctx: &Context,
    layout: &IncarnationLayout,
    gone: &BTreeSet<BackupId>,
) -> Result<u64> {
    let budget = ctx.listing_budget();
    let mut copies = read_backup_rollup(ctx, layout, &budget).await?;
    let before = copies.len();
    copies.retain(|copy| !gone.contains(&copy.id));
    if copies.len() == before {
        return Ok(0);
    }
    write_backup_rollup(ctx, layout, &copies, &budget).await?;
    Ok(1)
}
