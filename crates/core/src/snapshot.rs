//! What is in the archive of one incarnation, as far as its objects' names and the backups' records tell.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walden_pg::{SegmentId, SegmentName, SegmentNumber, TimelineHistory, TimelineId};

use crate::index::{LogSummary, NumberRange, SegmentSummary};
use crate::layout::BackupId;
use crate::records::{BackupRecord, IncarnationRecord};
use crate::recovery::SegmentDetail;

/// Consecutive segments of one timeline that are all in the archive, with the size of each in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentRun {
    /// The first segment.
    pub first: SegmentNumber,
    /// Bytes of each object, from `first` on; four bytes each, so that a million segments stay small.
    pub stored_bytes: Vec<u32>,
}

impl SegmentRun {
    /// The last segment.
    #[must_use]
    pub fn last(&self) -> SegmentNumber {
        SegmentNumber::new(self.first.get() + (self.stored_bytes.len() as u64).saturating_sub(1))
    }

    /// The size in the store of one segment, when it is in this run.
    #[must_use]
    pub fn bytes_of(&self, number: SegmentNumber) -> Option<u32> {
        let index = number.get().checked_sub(self.first.get())?;
        self.stored_bytes.get(usize::try_from(index).ok()?).copied()
    }
}

/// An object under the incarnation's prefix that does not belong there, or can't be read. Reported, never touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stray {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which LOG directories of segments were listed object by object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// All of them.
    All,
    /// These; of the others only [`CatalogSnapshot::logs`] tells.
    Some(BTreeSet<(TimelineId, u32)>),
}

/// The archive of one incarnation at one moment: what planners decide over.
#[derive(Debug, Clone)]
pub struct CatalogSnapshot {
    /// Whose archive it is.
    pub incarnation: IncarnationRecord,
    /// The history files found.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// History files that are there and can't be read, with what is wrong.
    pub damaged_histories: BTreeMap<TimelineId, String>,
    /// Which directories [`Self::segments`] tells of.
    pub listed: Listed,
    /// The segments found: for each timeline, runs in rising order that neither touch nor overlap.
    pub segments: BTreeMap<TimelineId, Vec<SegmentRun>>,
    /// What rollups tell of LOG directories, by timeline and directory.
    pub logs: BTreeMap<(TimelineId, u32), LogSummary>,
    /// What segments hold, as far as it was asked for: all segments of a directory at once, see
    /// [`Self::summarized`].
    pub summaries: BTreeMap<SegmentId, SegmentSummary>,
    /// The directories whose summaries were read. A segment of one that has none was archived without an index.
    pub summarized: BTreeSet<(TimelineId, u32)>,
    /// The records of segments, as far as they were asked for.
    pub details: BTreeMap<SegmentId, SegmentDetail>,
    /// The partial segments found.
    pub partials: Vec<SegmentName>,
    /// The backups with a good commit record, oldest first.
    pub backups: Vec<BackupRecord>,
    /// Backups whose commit record is there and can't be read, with what is wrong.
    pub unreadable_backups: BTreeMap<BackupId, String>,
    /// Backups without a commit record: under way, or interrupted.
    pub unfinished_backups: Vec<BackupId>,
    /// What does not belong here.
    pub strays: Vec<Stray>,
}

impl CatalogSnapshot {
    /// An empty archive.
    #[must_use]
    pub fn new(incarnation: IncarnationRecord) -> Self {
        Self {
            incarnation,
            histories: BTreeMap::new(),
            damaged_histories: BTreeMap::new(),
            unreadable_backups: BTreeMap::new(),
            listed: Listed::All,
            segments: BTreeMap::new(),
            logs: BTreeMap::new(),
            summaries: BTreeMap::new(),
            summarized: BTreeSet::new(),
            details: BTreeMap::new(),
            partials: Vec::new(),
            backups: Vec::new(),
            unfinished_backups: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// Adds a segment; names come in any order, but rising order is the fast one (as listings give it). A name
    /// that can't exist with this incarnation's segment size becomes a stray.
    pub fn add_segment(&mut self, name: SegmentName, stored_bytes: u64) {
        let Ok(id) = name.id(self.incarnation.segment_size) else {
            let reason = "its name can't exist with this segment size".to_owned();
            self.strays.push(Stray { key: name.to_string(), reason });
            return;
        };
        let bytes = u32::try_from(stored_bytes).unwrap_or(u32::MAX);
        add_to_runs(self.segments.entry(id.timeline).or_default(), id.number, bytes);
    }

    /// Adds the records of a segment. Those that were read from further back are never replaced.
    pub fn add_detail(&mut self, detail: SegmentDetail) {
        let known = self.details.get(&detail.segment);
        if known.is_none_or(|known| detail.read_from <= known.read_from) {
            self.details.insert(detail.segment, detail);
        }
    }

    /// Whether the directory was listed object by object.
    #[must_use]
    pub fn is_listed(&self, timeline: TimelineId, log: u32) -> bool {
        match &self.listed {
            Listed::All => true,
            Listed::Some(listed) => listed.contains(&(timeline, log)),
        }
    }

    /// Whether a segment is in the archive: by the listing of its directory, else by the word of a rollup.
    #[must_use]
    pub fn has_segment(&self, id: SegmentId) -> bool {
        let log = id.name(self.incarnation.segment_size).log();
        if self.is_listed(id.timeline, log) {
            return self.segment_bytes(id).is_some();
        }
        let Some(summary) = self.logs.get(&(id.timeline, log)) else { return false };
        summary.present.iter().any(|range| range.contains(id.number))
    }

    /// Whether all segments from the first to the last were listed.
    #[must_use]
    pub fn holds_all(&self, timeline: TimelineId, first: SegmentNumber, last: SegmentNumber) -> bool {
        let runs = self.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        let after = runs.partition_point(|run| run.first <= first);
        after.checked_sub(1).and_then(|at| runs.get(at)).is_some_and(|run| run.last() >= last)
    }

    /// The newest segment of a timeline, by listing or by the word of a rollup.
    #[must_use]
    pub fn last_known_segment(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        let directories = self.logs.range((timeline, 0)..=(timeline, u32::MAX));
        let told = directories.rev().find_map(|((_, log), summary)| {
            let told = summary.present.last().filter(|_| !self.is_listed(timeline, *log));
            told.map(NumberRange::last)
        });
        self.last_segment(timeline).max(told)
    }

    /// The size in the store of a segment, when it is in the archive.
    #[must_use]
    pub fn segment_bytes(&self, id: SegmentId) -> Option<u32> {
        let runs = self.segments.get(&id.timeline)?;
        let after = runs.partition_point(|run| run.first <= id.number);
        runs.get(after.checked_sub(1)?)?.bytes_of(id.number)
    }

    /// The newest segment of a timeline.
    #[must_use]
    pub fn last_segment(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        Some(self.segments.get(&timeline)?.last()?.last())
    }

    /// The newest timeline of which anything is in the archive, a damaged history included.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let told = self.logs.keys().map(|(timeline, _)| timeline).next_back();
        let known = self.segments.keys().chain(self.histories.keys()).chain(self.damaged_histories.keys());
        known.chain(told).copied().max()
    }

    /// The segments of a timeline that are there, by listing and by the word of rollups: ranges in rising order
    /// that neither touch nor overlap.
    #[must_use]
    pub fn present(&self, timeline: TimelineId) -> Vec<(SegmentNumber, SegmentNumber)> {
        let runs = self.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        let mut ranges: Vec<(SegmentNumber, SegmentNumber)> =
            runs.iter().map(|run| (run.first, run.last())).collect();
        let logs = self.logs.range((timeline, 0)..=(timeline, u32::MAX));
        let told = logs.filter(|((_, log), _)| !self.is_listed(timeline, *log));
        ranges.extend(told.flat_map(|(_, log)| log.present.iter().map(|range| (range.first, range.last()))));
        ranges.sort_unstable();
        let mut joined: Vec<(SegmentNumber, SegmentNumber)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.next() => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        joined
    }

    /// A backup by its name.
    #[must_use]
    pub fn backup(&self, id: &BackupId) -> Option<&BackupRecord> {
        self.backups.iter().find(|backup| backup.id == *id)
    }

    /// Every timeline that has a segment, a history or a backup here.
    #[must_use]
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> =
            self.segments.keys().chain(self.histories.keys()).copied().collect();
        timelines.extend(self.logs.keys().map(|(timeline, _)| *timeline));
        timelines.extend(self.backups.iter().map(|backup| backup.timeline));
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// How many segments count as there by the word of rollups alone: their directories were not listed.
    #[must_use]
    pub fn told_segments(&self) -> u64 {
        let told = self.logs.iter().filter(|((timeline, log), _)| !self.is_listed(*timeline, *log));
        told.flat_map(|(_, log)| &log.present).map(|range| u64::from(range.count)).sum()
    }

    /// How many segments were listed, and their bytes in the store.
    #[must_use]
    pub fn segment_totals(&self) -> (u64, u64) {
        let runs = self.segments.values().flatten();
        runs.fold((0, 0), |(count, bytes), run| {
            let stored: u64 = run.stored_bytes.iter().map(|bytes| u64::from(*bytes)).sum();
            (count + run.stored_bytes.len() as u64, bytes + stored)
        })
    }
}

fn add_to_runs(runs: &mut Vec<SegmentRun>, number: SegmentNumber, bytes: u32) {
    let after = runs.partition_point(|run| run.first <= number);
    let previous = after.checked_sub(1);
    if let Some(run) = previous.and_then(|at| runs.get_mut(at)) {
        if run.bytes_of(number).is_some() {
            return;
        }
        if run.last().next() == number {
            run.stored_bytes.push(bytes);
            join_with_next(runs, after);
            return;
        }
    }
    runs.insert(after, SegmentRun { first: number, stored_bytes: vec![bytes] });
    join_with_next(runs, after + 1);
}

/// Joins the run before index `next` with the run at it when they touch.
fn join_with_next(runs: &mut Vec<SegmentRun>, next: usize) {
    let touches = next
        .checked_sub(1)
        .and_then(|before| Some((runs.get(before)?, runs.get(next)?)))
        .is_some_and(|(before, after)| before.last().next() == after.first);
    if touches {
        let after = runs.remove(next);
        if let Some(before) = runs.get_mut(next - 1) {
            before.stored_bytes.extend(after.stored_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_say_the_same_as_a_set_of_numbers(numbers in proptest::collection::vec(1u64..60, 0..80)) {
            let mut runs = Vec::new();
            for number in &numbers {
                add_to_runs(&mut runs, SegmentNumber::new(*number), u32::try_from(*number).unwrap());
            }
            let model: BTreeSet<u64> = numbers.iter().copied().collect();
            for number in 0..61 {
                let found = runs.iter().find_map(|run| run.bytes_of(SegmentNumber::new(number)));
                prop_assert_eq!(found.map(u64::from), model.contains(&number).then_some(number));
            }
            for pair in runs.windows(2) {
                prop_assert!(pair[0].last().next() < pair[1].first, "{:?}", runs);
            }
        }
    }
}
