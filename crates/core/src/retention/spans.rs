//! Which segments of which timelines a way through the timelines reads, and sets of numbers of segments.

use std::collections::BTreeMap;

use walden_pg::{TimelineHistory, TimelineId, WalSegmentSize};

use super::reasons::KeepReason;
use crate::records::BackupRecord;
use crate::recovery::TimelinePath;
use crate::snapshot::SegmentRun;

/// Consecutive segments of one timeline, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) timeline: TimelineId,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The segments that a path reads, timeline by timeline, from the beginning on. The segment with a fork in it is the
/// child's.
pub(super) fn spans_of(path: &TimelinePath, size: WalSegmentSize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end: Option<u64> = Some(u64::MAX);
    for step in path.steps().iter().rev() {
        let first = size.segment_of(step.start_lsn).get();
        if let Some(last) = end.filter(|last| first <= *last) {
            spans.push(Span { timeline: step.timeline, first, last });
            end = first.checked_sub(1);
        }
    }
    spans.reverse();
    spans
}

/// The part of spans between two segments, both included.
pub(super) fn cut(spans: &[Span], first: u64, last: u64) -> Vec<Span> {
    let cut = spans.iter().map(|span| Span {
        first: span.first.max(first),
        last: span.last.min(last),
        timeline: span.timeline,
    });
    cut.filter(|span| span.first <= span.last).collect()
}

/// The segments that make a backup consistent: from the one it starts in to the one it stops in.
pub(super) fn consistency(backup: &BackupRecord, spans: &[Span], size: WalSegmentSize) -> Vec<Span> {
    cut(spans, start_of(backup, size), size.last_segment_before(backup.stop_lsn).get())
}

/// The segment in which a backup starts.
pub(super) fn start_of(backup: &BackupRecord, size: WalSegmentSize) -> u64 {
    size.segment_of(backup.start_lsn).get()
}

/// Whether a backup lies on a path: as recovery decides it.
pub(super) fn is_on(backup: &BackupRecord, path: &TimelinePath) -> bool {
    let last_byte = backup.stop_lsn.checked_sub(1).unwrap_or(backup.stop_lsn);
    path.timeline_at(backup.start_lsn) == Some(backup.timeline)
        && path.timeline_at(last_byte) == Some(backup.stop_timeline)
}

/// The path to a timeline whose history is known, or that has none because it is the first.
pub(super) fn path_to(
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    timeline: TimelineId,
) -> Option<TimelinePath> {
    let history = histories.get(&timeline);
    (history.is_some() || timeline == TimelineId::FIRST).then(|| TimelinePath::to(timeline, history))
}

/// Numbers of segments of one timeline that are kept, each for one reason: the first that claimed it.
#[derive(Debug, Clone, Default)]
pub(super) struct KeptRanges {
    /// By the first number: the last one and the reason. They do not overlap.
    ranges: BTreeMap<u64, (u64, KeepReason)>,
}

impl KeptRanges {
    /// Claims what nobody has claimed yet.
    pub(super) fn add(&mut self, first: u64, last: u64, reason: &KeepReason) {
        let mut from = Some(first);
        let mut free = Vec::new();
        let inside = self.ranges.range(..=last).rev().take_while(|(_, (end, _))| *end >= first);
        let mut taken: Vec<(u64, u64)> = inside.map(|(begin, (end, _))| (*begin, *end)).collect();
        taken.reverse();
        for (begin, end) in taken {
            if let Some(from) = from.filter(|from| *from < begin) {
                free.push((from, begin - 1));
            }
            from = end.checked_add(1);
        }
        if let Some(from) = from.filter(|from| *from <= last) {
            free.push((from, last));
        }
        for (first, last) in free {
            self.ranges.insert(first, (last, reason.clone()));
        }
    }

    /// Why a number is kept.
    pub(super) fn reason(&self, number: u64) -> Option<&KeepReason> {
        let (_, (last, reason)) = self.ranges.range(..=number).next_back()?;
        (*last >= number).then_some(reason)
    }

    /// Parts the numbers between two, both included, into stretches of one fate.
    pub(super) fn split(&self, first: u64, last: u64) -> Vec<(u64, u64, Option<&KeepReason>)> {
        let mut parts: Vec<(u64, u64, Option<&KeepReason>)> = Vec::new();
        let mut from = Some(first);
        let begin = self.ranges.range(..=first).next_back().map_or(first, |(begin, _)| *begin);
        for (begin, (end, reason)) in self.ranges.range(begin..=last).filter(|(_, (end, _))| *end >= first) {
            let (begin, end) = ((*begin).max(first), (*end).min(last));
            if let Some(from) = from.filter(|from| *from < begin) {
                parts.push((from, begin - 1, None));
            }
            match parts.last_mut() {
                Some(before) if before.2 == Some(reason) => before.1 = end,
                _ => parts.push((begin, end, Some(reason))),
            }
            from = end.checked_add(1);
        }
        if let Some(from) = from.filter(|from| *from <= last) {
            parts.push((from, last, None));
        }
        parts
    }
}

/// How many segments of runs lie between two numbers, both included.
pub(super) fn count_between(runs: &[SegmentRun], first: u64, last: u64) -> u64 {
    let from = runs.partition_point(|run| run.last().get() < first);
    let runs = runs.iter().skip(from).take_while(|run| run.first.get() <= last);
    runs.map(|run| run.last().get().min(last) - run.first.get().max(first) + 1).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walden_pg::{Lsn, SegmentNumber};

    use super::*;

    proptest! {
        #[test]
        fn ranges_say_the_same_as_numbers(adds in proptest::collection::vec((0u64..40, 0u64..12, 0u8..3), 0..12)) {
            let mut ranges = KeptRanges::default();
            let mut model: BTreeMap<u64, KeepReason> = BTreeMap::new();
            for (first, more, kind) in adds {
                let reason = match kind {
                    0 => KeepReason::Newest,
                    1 => KeepReason::Lease,
                    _ => KeepReason::Derived,
                };
                ranges.add(first, first + more, &reason);
                for number in first..=first + more {
                    model.entry(number).or_insert_with(|| reason.clone());
                }
            }
            for number in 0..60 {
                prop_assert_eq!(ranges.reason(number), model.get(&number));
            }
            let mut next = 5;
            for (first, last, reason) in ranges.split(5, 50) {
                prop_assert_eq!(first, next);
                for number in first..=last {
                    prop_assert_eq!(reason, model.get(&number));
                }
                next = last + 1;
            }
            prop_assert_eq!(next, 51);
        }

        #[test]
        fn spans_are_what_the_path_reads(forks in proptest::collection::vec((0u64..30, 1u32..6), 0..5), number in 0u64..40) {
            let size = WalSegmentSize::new(1 << 20).unwrap();
            let mut history = TimelineHistory::without_parents(TimelineId::FIRST);
            let mut child = 1;
            for (fork, step) in forks {
                child += step;
                let lsn = Lsn::new((fork << 20) + 40);
                history = history.fork(TimelineId::new(child).unwrap(), lsn, "test").unwrap_or(history);
            }
            let tip = TimelineId::new(child).unwrap();
            let history = (history.entries().last().is_some()).then_some(&history);
            let path = TimelinePath::to(tip, history);
            let spans = spans_of(&path, size);
            let found: Vec<TimelineId> =
                cut(&spans, number, number).iter().map(|span| span.timeline).collect();
            let read = path.segment(SegmentNumber::new(number), size).map(|id| id.timeline);
            prop_assert_eq!(found, read.into_iter().collect::<Vec<_>>());
        }
    }
}
