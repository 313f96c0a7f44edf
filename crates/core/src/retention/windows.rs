//! What stops being restorable: the recovery window over what is there, and over what will be.

use std::collections::{BTreeMap, BTreeSet};

use walden_pg::TimelineId;

use super::answer::{GroupKind, LostMoments, ObjectGroup, WindowChange};
use super::spans::count_between;
use crate::layout::{BackupId, Incarnation};
use crate::recovery::{Moment, Need, RecoveryWindow, RestorableRange};
use crate::snapshot::{CatalogSnapshot, SegmentRun};

/// Numbers of segments that go, by timeline: both ends included.
type Gone = BTreeMap<TimelineId, Vec<(u64, u64)>>;

/// The catalog as it will be when the removals among the groups are carried out.
pub(super) fn catalog_after(
    catalog: &CatalogSnapshot,
    incarnation: Incarnation,
    groups: &[ObjectGroup],
) -> CatalogSnapshot {
    let own =
        || groups.iter().filter(|group| group.incarnation == Some(incarnation) && group.fate.is_removal());
    let gone = gone_of(catalog, own());
    let backups: BTreeSet<&BackupId> = own()
        .filter_map(|group| match &group.kind {
            GroupKind::Backup { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    let histories: BTreeSet<TimelineId> = own()
        .filter_map(|group| match group.kind {
            GroupKind::History { timeline } => Some(timeline),
            _ => None,
        })
        .collect();
    let is_gone = |timeline: TimelineId, number: u64| {
        gone.get(&timeline).is_some_and(|ranges| {
            let after = ranges.partition_point(|(first, _)| *first <= number);
            after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| *last >= number)
        })
    };
    let mut after = CatalogSnapshot::new(catalog.incarnation.clone());
    let stay = catalog.histories.iter().filter(|(timeline, _)| !histories.contains(timeline));
    after.histories = stay.map(|(timeline, history)| (*timeline, history.clone())).collect();
    after.damaged_histories.clone_from(&catalog.damaged_histories);
    after.listed.clone_from(&catalog.listed);
    for (timeline, runs) in &catalog.segments {
        let gone = gone.get(timeline).map(Vec::as_slice).unwrap_or_default();
        let left: Vec<SegmentRun> = runs.iter().flat_map(|run| without(run, gone)).collect();
        if !left.is_empty() {
            after.segments.insert(*timeline, left);
        }
    }
    let each = catalog.incarnation.segment_size.segments_per_log();
    let left = |timeline: TimelineId, log: u32| {
        let first = u64::from(log) * each;
        let runs = after.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        count_between(runs, first, first + (each - 1)) > 0
    };
    let logs = catalog.logs.iter().filter(|((timeline, log), _)| left(*timeline, *log));
    after.logs = logs.map(|(directory, log)| (*directory, log.clone())).collect();
    let summaries = catalog.summaries.iter().filter(|(id, _)| !is_gone(id.timeline, id.number.get()));
    after.summaries = summaries.map(|(id, summary)| (*id, *summary)).collect();
    after.summarized.clone_from(&catalog.summarized);
    let details = catalog.details.iter().filter(|(id, _)| !is_gone(id.timeline, id.number.get()));
    after.details = details.map(|(id, detail)| (*id, detail.clone())).collect();
    after.partials.clone_from(&catalog.partials);
    after.backups = catalog.backups.iter().filter(|backup| !backups.contains(&backup.id)).cloned().collect();
    after
}

fn gone_of<'g>(catalog: &CatalogSnapshot, groups: impl Iterator<Item = &'g ObjectGroup>) -> Gone {
    let size = catalog.incarnation.segment_size;
    let mut gone = Gone::new();
    for group in groups {
        if let GroupKind::Segments { timeline, first, last, .. } = &group.kind
            && let (Ok(first), Ok(last)) = (first.id(size), last.id(size))
        {
            gone.entry(*timeline).or_default().push((first.number.get(), last.number.get()));
        }
    }
    for ranges in gone.values_mut() {
        ranges.sort_unstable();
    }
    gone
}

/// What is left of a run.
fn without(run: &SegmentRun, gone: &[(u64, u64)]) -> Vec<SegmentRun> {
    let (begin, end) = (run.first.get(), run.last().get());
    let mut left = Vec::new();
    let mut from = begin;
    let part = |first: u64, until: u64| {
        let skip = usize::try_from(first - begin).unwrap_or(usize::MAX);
        let take = usize::try_from(until - first).unwrap_or(usize::MAX);
        let stored_bytes = run.stored_bytes.iter().skip(skip).take(take).copied().collect();
        SegmentRun { first: walden_pg::SegmentNumber::new(first), stored_bytes }
    };
    let skip = gone.partition_point(|(_, last)| *last < begin);
    for (first, last) in gone.iter().skip(skip).take_while(|(first, _)| *first <= end) {
        if from < *first {
            left.push(part(from, *first));
        }
        from = last + 1;
    }
    if from <= end {
        left.push(part(from, end + 1));
    }
    left
}

/// The summaries that the window over what will be is going to ask for, at once: those of directories of which a part
/// goes, because a rollup's word for the whole does not count for the rest.
pub(super) fn needs_after(catalog: &CatalogSnapshot, after: &CatalogSnapshot) -> Vec<Need> {
    let each = catalog.incarnation.segment_size.segments_per_log();
    let mut needs = BTreeSet::new();
    for (timeline, runs) in &after.segments {
        for run in runs {
            for number in [run.first.get(), run.last().get()] {
                let Ok(log) = u32::try_from(number / each) else { continue };
                let first = number - number % each;
                let count = |catalog: &CatalogSnapshot| {
                    let runs = catalog.segments.get(timeline).map(Vec::as_slice).unwrap_or_default();
                    count_between(runs, first, first + (each - 1))
                };
                let told = after.logs.contains_key(&(*timeline, log));
                if told && !after.summarized.contains(&(*timeline, log)) && count(catalog) != count(after) {
                    needs.insert(Need::Summaries { timeline: *timeline, log });
                }
            }
        }
    }
    needs.into_iter().collect()
}

/// What changes, timeline by timeline.
pub(crate) fn changes(before: &RecoveryWindow, after: &RecoveryWindow) -> Vec<WindowChange> {
    let changes = before.timelines.iter().filter(|timeline| !timeline.restorable.is_empty());
    changes
        .map(|timeline| {
            let same = after.timelines.iter().find(|other| other.timeline == timeline.timeline);
            let after = same.map(|same| same.restorable.clone()).unwrap_or_default();
            WindowChange {
                incarnation: before.incarnation,
                timeline: timeline.timeline,
                lost: lost(&timeline.restorable, &after),
                before: timeline.restorable.clone(),
                after,
            }
        })
        .collect()
}

/// The moments of some ranges that are in none of others.
fn lost(before: &[RestorableRange], after: &[RestorableRange]) -> Vec<LostMoments> {
    let mut lost = Vec::new();
    for range in before {
        let mut from: (Moment, bool) = (range.first, false);
        let mut reached = range.first.lsn;
        let inside = after
            .iter()
            .filter(|kept| kept.first.lsn <= range.wal_end_lsn && kept.wal_end_lsn >= range.first.lsn);
        for kept in inside {
            if reached < kept.first.lsn {
                let (from, from_stays) = from;
                lost.push(LostMoments { from, from_stays, to: kept.first, to_stays: true });
            }
            if kept.wal_end_lsn >= reached {
                reached = kept.wal_end_lsn;
                from = (kept.last, true);
            }
        }
        // What ends with the same commit ends alike: behind it there is nothing to restore to.
        if reached < range.wal_end_lsn && from.0.lsn < range.last.lsn {
            let (from, from_stays) = from;
            lost.push(LostMoments { from, from_stays, to: range.last, to_stays: false });
        } else if !from.1 {
            lost.push(LostMoments { from: from.0, from_stays: false, to: range.last, to_stays: false });
        }
    }
    lost
}
