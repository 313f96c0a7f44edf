//! The path through the timelines that recovery takes, and the segments along it.
//!
//! PostgreSQL searches a history newest entry first (`tliOfPointInHistory`, `XLogFileReadAnyTLI` in
//! `src/backend/access/transam/{timeline.c,xlogrecovery.c}`); switch points need not rise from line to line.

use serde::Serialize;
use walden_pg::{Lsn, SegmentId, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

use crate::snapshot::CatalogSnapshot;

/// One timeline of a path, with the WAL positions that are read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PathStep {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position on it: where it forked from its parent.
    pub start_lsn: Lsn,
    /// Where the next timeline of the path takes over; `None` on the last one.
    pub end_lsn: Option<Lsn>,
}

/// The whole path to a target timeline, oldest step first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimelinePath {
    steps: Vec<PathStep>,
}

impl TimelinePath {
    /// The path that ends on `timeline`. Timeline 1 has no history; for others the history file is needed.
    pub(crate) fn to(timeline: TimelineId, history: Option<&TimelineHistory>) -> Self {
        let mut begin = Lsn::INVALID;
        let mut entries: Vec<(TimelineId, Lsn, Option<Lsn>)> = Vec::new();
        for entry in history.map(TimelineHistory::entries).unwrap_or_default() {
            entries.push((entry.timeline, begin, Some(entry.switch_lsn)));
            begin = entry.switch_lsn;
        }
        entries.push((timeline, begin, None));
        // Newest first: an older entry counts only below everything that a newer one covers.
        let mut lowest: Option<Lsn> = None;
        let mut steps = Vec::new();
        for (timeline, begin, end) in entries.into_iter().rev() {
            let end_lsn = match (end, lowest) {
                (Some(end), Some(lowest)) => Some(end.min(lowest)),
                (end, lowest) => end.or(lowest),
            };
            if end_lsn.is_none_or(|end| begin < end) {
                steps.push(PathStep { timeline, start_lsn: begin, end_lsn });
            }
            lowest = Some(lowest.map_or(begin, |lowest| lowest.min(begin)));
        }
        steps.reverse();
        Self { steps }
    }

    pub(crate) fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// The timeline of a position.
    pub(crate) fn timeline_at(&self, lsn: Lsn) -> Option<TimelineId> {
        let covers = |step: &&PathStep| step.start_lsn <= lsn && step.end_lsn.is_none_or(|end| lsn < end);
        self.steps.iter().rev().find(covers).map(|step| step.timeline)
    }

    /// The steps from `start` on, cut to it.
    pub(super) fn from(&self, start: Lsn) -> Vec<PathStep> {
        let steps = self.steps.iter().filter(|step| step.end_lsn.is_none_or(|end| start < end));
        steps.map(|step| PathStep { start_lsn: step.start_lsn.max(start), ..*step }).collect()
    }

    /// The steps between two positions, cut to them.
    pub(super) fn between(&self, start: Lsn, end: Lsn) -> Vec<PathStep> {
        let mut steps = self.from(start);
        steps.retain(|step| step.start_lsn < end || step.start_lsn == start);
        steps
    }

    /// The segment that recovery must read at a number: of the newest timeline that has begun by then. The
    /// segment with a fork in it exists under both names, and only the child's leads on.
    pub(crate) fn segment(&self, number: SegmentNumber, size: WalSegmentSize) -> Option<SegmentId> {
        let begun = |step: &&PathStep| size.segment_of(step.start_lsn) <= number;
        let step = self.steps.iter().rev().find(begun)?;
        Some(SegmentId::new(step.timeline, number))
    }
}

/// The newest timeline that PostgreSQL finds for `recovery_target_timeline = 'latest'`: it asks for one history
/// after the other from the backup's timeline on, until the first that is missing (`findNewestTimeLine`).
pub(super) fn latest_timeline(snapshot: &CatalogSnapshot, from: TimelineId) -> TimelineId {
    let mut latest = from;
    while let Some(next) = latest.get().checked_add(1).and_then(|next| TimelineId::new(next).ok()) {
        if !snapshot.histories.contains_key(&next) {
            break;
        }
        latest = next;
    }
    latest
}
