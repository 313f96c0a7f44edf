//! The rollup of a LOG directory, written by the push that completes it.
//!
//! The segment is durable by then, and nothing depends on the rollup: whatever fails is logged and left to the next
//! backup or to `walden wal index rebuild`.

use std::collections::BTreeSet;
use std::time::Duration;

use walden_core::index::{LogSummary, Rollup, RollupEntry};
use walden_core::{CatalogSnapshot, IncarnationLayout, IncarnationRecord, Listed};
use walden_pg::{SegmentName, SegmentNumber, TimelineId};
use walden_store::RetryBudget;

use super::indexing::{remember_rollup, remembered_rollup};
use crate::catalog::{Directory, SummaryReader};
use crate::context::Context;
use crate::error::Result;
use crate::rollup::{read_rollup, write_rollup};

/// PostgreSQL waits for the push meanwhile.
const DEADLINE: Duration = Duration::from_secs(3);
/// More segments than these are not asked for while PostgreSQL waits.
const UNKNOWN_MAX: usize = 64;

/// Writes the rollup of the directory of `name` when that has its last segment, and again when a late one comes after
/// that; `known` is what the pushes so far remember of it, in rising order. Takes no longer than `time`, and a few
/// seconds.
pub(super) async fn roll_up_if_complete(
    ctx: &Context,
    record: &IncarnationRecord,
    name: SegmentName,
    mut known: Vec<RollupEntry>,
    time: Duration,
) {
    let per_log = record.segment_size.segments_per_log();
    let last = u64::from(name.log()) * per_log + (per_log - 1);
    let Some(newest) = known.last() else { return };
    if newest.number.get() != last {
        // Others of its directory may have come before it, and be forgotten since.
        let written = remembered_rollup(ctx, record.incarnation(), name.timeline());
        let Some(written) = written.filter(|written| written.log == name.log()) else { return };
        let is_known: BTreeSet<SegmentNumber> = known.iter().map(|entry| entry.number).collect();
        known.extend(written.segments.into_iter().filter(|entry| !is_known.contains(&entry.number)));
        known.sort_by_key(|entry| entry.number);
    }
    match tokio::time::timeout(DEADLINE.min(time), roll_up(ctx, record, name, known)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => tracing::debug!(segment = %name, "too little is known for a rollup"),
        Ok(Err(error)) => tracing::warn!(segment = %name, %error, "the rollup was not written"),
        Err(_) => tracing::warn!(segment = %name, "the rollup was not written in time"),
    }
}

async fn roll_up(
    ctx: &Context,
    record: &IncarnationRecord,
    name: SegmentName,
    known: Vec<RollupEntry>,
) -> Result<bool> {
    let layout = ctx.layout().incarnation(record.incarnation());
    let (timeline, log) = (name.timeline(), name.log());
    let budget = RetryBudget::new(DEADLINE);
    let whole = known.len() as u64 == record.segment_size.segments_per_log();
    let entries = if whole {
        known
    } else {
        let directory = Directory::list(ctx, &layout, record.segment_size, (timeline, log)).await?;
        let is_known = |number| known.iter().any(|entry| entry.number == number);
        if directory.segments.keys().filter(|number| !is_known(**number)).count() > UNKNOWN_MAX {
            return Ok(false);
        }
        let mut snapshot = CatalogSnapshot::new(record.clone());
        snapshot.listed = Listed::Some(BTreeSet::new());
        // PostgreSQL waits, and the memory that whole segments take is not ours to take here.
        let reader = SummaryReader::new(ctx, &snapshot).without_scans();
        let summaries = reader.read(&directory, None, &known).await?;
        if summaries.unknown > 0 {
            return Ok(false);
        }
        summaries.entries
    };
    let before = rollup_before(ctx, &layout, (timeline, log), &budget).await?;
    let rollup = Rollup::build(timeline, log, entries, before.map(earlier_with).unwrap_or_default());
    write_rollup(ctx, &layout, &rollup, &budget).await?;
    remember_rollup(ctx, record.incarnation(), &rollup);
    Ok(true)
}

/// The newest rollup up to a directory, as it stands in the store. What is remembered of it says where it is and no more:
/// retention takes what it removes out of the rollups in the store, and out of nobody's memory.
async fn rollup_before(
    ctx: &Context,
    layout: &IncarnationLayout,
    (timeline, log): (TimelineId, u32),
    budget: &RetryBudget,
) -> Result<Option<Rollup>> {
    let remembered = remembered_rollup(ctx, layout.incarnation(), timeline).map(|last| last.log);
    match remembered.filter(|last| *last <= log).or(log.checked_sub(1)) {
        Some(before) => read_rollup(ctx, layout, (timeline, before), budget).await,
        None => Ok(None),
    }
}

/// What a rollup tells of its own directory and of those before.
fn earlier_with(rollup: Rollup) -> Vec<LogSummary> {
    let own = LogSummary::of(rollup.log, &rollup.segments);
    let mut earlier = rollup.earlier;
    earlier.push(own);
    earlier
}

#[cfg(test)]
mod tests {
    use walden_core::index::NumberRange;

    use super::*;
    use crate::retention::tests::empty_archive;

    #[tokio::test]
    async fn what_the_store_tells_no_more_is_not_told_again_from_memory() {
        let state = tempfile::tempdir().unwrap();
        let (ctx, layout) = empty_archive();
        let ctx = Context { state_directory: Some(state.path().to_owned()), ..ctx };
        let rollup = |earlier| Rollup::build(TimelineId::FIRST, 7, Vec::new(), earlier);
        let mut told = LogSummary::of(3, &[]);
        told.present = vec![NumberRange { first: SegmentNumber::new(3 << 12), count: 4096 }];
        let all = rollup(vec![told]);
        let budget = RetryBudget::new(DEADLINE);
        let place = (TimelineId::FIRST, 8);
        write_rollup(&ctx, &layout, &all, &budget).await.unwrap();
        remember_rollup(&ctx, layout.incarnation(), &all);
        assert_eq!(rollup_before(&ctx, &layout, place, &budget).await.unwrap(), Some(all));
        // Retention was here.
        let left = rollup(Vec::new());
        write_rollup(&ctx, &layout, &left, &budget).await.unwrap();
        assert_eq!(rollup_before(&ctx, &layout, place, &budget).await.unwrap(), Some(left));
    }
}
